"""Files of completions labelled by simulated labelers, judged for an evaluation, or measured truly.

A completions file has rows {"prompt_id", "prompt", "completions": [{"id", "text", "model",
"finished"}]}; the directory is one that ``generate.write_world`` wrote.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from heedful.errors import ConfigError, DataError
from heedful.records import Cohort, Completion, Judgement, Prompt, Ranking, Split, to_row
from heedful.simulation.generate import LABELERS_FILE, NOISE_FILE, PROMPTS_FILE, TASKS_FILE
from heedful.simulation.labelers import LabelerPool, SimulatedLabeler, pairwise_agreement, rank
from heedful.simulation.rows import read_rows
from heedful.simulation.tasks import Task, read_tasks
from heedful.simulation.utility import assess
from heedful.simulation.world import World

NUM_OVERLAP_LABELERS = 3
_PILOT_PROMPTS = 300
# Final evaluations put truthfulness and harmlessness first (paper section 3.4); training data puts
# helpfulness first.
EVALUATION_EMPHASIS = {"truth": 1.5, "harm": 1.5}


@dataclass(frozen=True, slots=True)
class _Item:
    """A prompt with its hidden task and the completions to be rated."""

    prompt_id: str
    prompt: str
    task: Task
    completions: tuple[Completion, ...]

    @property
    def texts(self) -> list[str]:
        return [completion.text for completion in self.completions]

    @property
    def finished(self) -> list[bool]:
        return [completion.finished for completion in self.completions]

    def without_nul(self) -> _Item:
        """The item with a mark in place of every NUL in its completions."""
        found = (replace(one, text=one.text.replace("\x00", "\ufffd")) for one in self.completions)
        return _Item(self.prompt_id, self.prompt, self.task, tuple(found))

    def distinct(self) -> _Item:
        """The item without the later ones of identical completions."""
        keep = {}
        for index, text in enumerate(self.texts):
            keep.setdefault(text, index)
        completions = tuple(self.completions[i] for i in keep.values())
        return _Item(self.prompt_id, self.prompt, self.task, completions)


def label(
    directory: Path,
    completions_path: Path,
    out_path: Path,
    *,
    seed: int = 0,
    labels_per_prompt: int = 1,
    overlap: float = 0.1,
    cohort: Cohort = "train",
    split: Split | None = None,
) -> dict[str, float]:
    """Counts, agreement and tie rate of the rankings written to ``out_path`` as comparisons.

    Identical completions are dropped, and prompts with fewer than two left. A share ``overlap`` of
    the prompts goes to three labelers, to measure agreement. ``split`` keeps only its prompts.
    The first call for a directory fits the labelers' noise on its completions, and saves it.
    """
    directory, world = Path(directory), World.load(Path(directory))
    prompts = read_rows(directory / PROMPTS_FILE, ("id", "split"))
    splits = {row["id"]: row["split"] for row in prompts}
    items = _read(directory, Path(completions_path))
    if split is not None:
        items = [item for item in items if splits.get(item.prompt_id, "test") == split]
    given = sum(len(item.texts) for item in items)
    unique = [item.distinct() for item in items]
    kept = [item for item in unique if len(item.texts) >= 2]
    pool = _fitted_pool(world, directory, kept)
    labelers = pool.cohort(cohort)
    ranks: list[list[tuple[int, ...]]] = []
    with Path(out_path).open("w", encoding="utf-8") as file:
        for item in kept:
            rng = random.Random(f"{seed}-label-{cohort}-{item.prompt_id}")
            wanted = labels_per_prompt
            if rng.random() < overlap:
                wanted = max(wanted, NUM_OVERLAP_LABELERS)
            found = _rankings(world, pool, item, _some(labelers, wanted, rng), rng)
            for ranking in found:
                row = to_row(ranking) | {"split": splits.get(item.prompt_id, "test")}
                file.write(json.dumps(row) + "\n")
            ranks.append([ranking.ranks for ranking in found])
    return ranking_figures(ranks) | {
        "num_duplicates": given - sum(len(item.texts) for item in unique),
        "num_skipped": len(items) - len(kept),
        "noise_scale": pool.noise_scale,
    }


def ranking_figures(ranks: Iterable[Sequence[Sequence[int]]]) -> dict[str, float]:
    """Counts, tie rate and strict agreement of rankings, given prompt by prompt."""
    num_prompts = num_rankings = num_pairs = num_tied = same = strict = 0
    for found in ranks:
        num_prompts, num_rankings = num_prompts + 1, num_rankings + len(found)
        for one in found:
            pairs = len(one) * (len(one) - 1) // 2
            num_pairs, num_tied = num_pairs + pairs, num_tied + pairs - strict_pairs(one)
        more = pairwise_agreement(found)
        same, strict = same + more[0], strict + more[1]
    return {
        "num_prompts": num_prompts,
        "num_rankings": num_rankings,
        "num_pairs": num_pairs - num_tied,
        "tie_rate": num_tied / max(1, num_pairs),
        "agreement": same / strict if strict else float("nan"),
        "agreement_pairs": strict,
    }


def strict_pairs(ranks: Sequence[int]) -> int:
    """How many pairs of a ranking are not tied."""
    return pairwise_agreement([ranks, ranks])[1]


def judge(
    directory: Path,
    completions_path: Path,
    out_path: Path,
    *,
    seed: int = 0,
    labelers_per_prompt: int = 3,
    cohorts: Sequence[Cohort] = ("train", "heldout"),
) -> dict[str, float]:
    """Counts and agreement of the judgements written to ``out_path`` (rows of records.Judgement).

    Each prompt is judged by ``labelers_per_prompt`` labelers of every cohort; identical
    completions of different models tie.
    """
    directory, world = Path(directory), World.load(Path(directory))
    pool = load_pool(directory)
    items = _read(directory, Path(completions_path))
    count, same, strict = 0, dict.fromkeys(cohorts, 0), dict.fromkeys(cohorts, 0)
    with Path(out_path).open("w", encoding="utf-8") as file:
        for item in items:
            models = tuple(_model(item, completion) for completion in item.completions)
            for cohort in cohorts:
                rng = random.Random(f"{seed}-judge-{cohort}-{item.prompt_id}")
                judges = _some(pool.cohort(cohort), labelers_per_prompt, rng)
                found = _rankings(world, pool, item, judges, rng, EVALUATION_EMPHASIS)
                for r in found:
                    verdict = Judgement(
                        item.prompt_id, models, r.ranks, r.labeler or "", cohort, r.ratings
                    )
                    file.write(json.dumps(to_row(verdict)) + "\n")
                count += len(found)
                more = pairwise_agreement([r.ranks for r in found])
                same[cohort], strict[cohort] = same[cohort] + more[0], strict[cohort] + more[1]
    result: dict[str, float] = {"num_prompts": len(items), "num_judgements": count}
    for cohort in cohorts:
        agreement = same[cohort] / strict[cohort] if strict[cohort] else float("nan")
        result[f"agreement_{cohort}"] = agreement
    return result


def gold(directory: Path, completions_path: Path) -> list[dict[str, Any]]:
    """The true utility, truthfulness, insults and flags of every completion: no labeler's view."""
    directory, world = Path(directory), World.load(Path(directory))
    rows = []
    for item in _read(directory, Path(completions_path)):
        for completion in item.completions:
            found = assess(world, item.task, completion.text, completion.finished)
            rows.append(
                {
                    "prompt_id": item.prompt_id,
                    "completion_id": completion.id,
                    "model": completion.model,
                    "kind": item.task.kind,
                    "utility": found.utility,
                    "parts": found.parts,
                    "truthful": found.truthful,
                    "informative": found.informative,
                    "insults": found.insults,
                    "flags": found.flags,
                }
            )
    return rows


@dataclass(frozen=True, slots=True)
class ToLabel:
    """The prompts of a completions file with what is to be ranked: distinct, two or more."""

    items: list[tuple[Prompt, tuple[Completion, ...]]]
    tasks: dict[str, tuple[str, Task]]  # prompt -> (id, hidden task)
    is_cut: frozenset[tuple[str, str]]  # (prompt, output) that broke off
    num_duplicates: int
    num_skipped: int


def to_label(directory: Path, completions_path: Path) -> ToLabel:
    """What ``label`` would have ranked, as prompts and completions for a project.

    No page and no database holds a NUL, which a byte-level model may write: it becomes U+FFFD.
    """
    rows = {row["id"]: row for row in read_rows(directory / PROMPTS_FILE, ("id", "text", "split"))}
    items = [item.without_nul() for item in _read(directory, completions_path)]
    unique = [item.distinct() for item in items]
    kept = [item for item in unique if len(item.texts) >= 2]
    return ToLabel(
        items=[(_prompt(item, rows.get(item.prompt_id, {})), item.completions) for item in kept],
        tasks={item.prompt: (item.prompt_id, item.task) for item in kept},
        is_cut=frozenset(
            (item.prompt, one.text) for item in kept for one in item.completions if not one.finished
        ),
        num_duplicates=sum(map(len, (item.texts for item in items)))
        - sum(map(len, (item.texts for item in unique))),
        num_skipped=len(items) - len(kept),
    )


def _prompt(item: _Item, row: dict[str, Any]) -> Prompt:
    known = {key: row[key] for key in ("source", "kind", "user", "use_case", "language") if row}
    return Prompt(item.prompt_id, item.prompt, split=row.get("split", "test"), **known)


def fitted_pool(directory: Path, completions_path: Path) -> LabelerPool:
    """The labelers of a world, their noise fitted on the first completions that are labelled."""
    kept = [item.distinct() for item in _read(directory, completions_path)]
    wanted = [item for item in kept if len(item.texts) >= 2]
    return _fitted_pool(World.load(directory), directory, wanted)


def _read(directory: Path, path: Path) -> list[_Item]:
    tasks = read_tasks(directory / TASKS_FILE)
    items = []
    rows = read_rows(path, ("prompt_id", "prompt", "completions"), "sample completions first")
    for row in rows:
        prompt_id = row["prompt_id"]
        if prompt_id not in tasks:
            raise DataError(
                f"{path}: prompt_id {prompt_id!r} is not in {directory / TASKS_FILE}; give the "
                "directory whose prompts were sampled"
            )
        for completion in row["completions"]:
            if not {"id", "text"} <= completion.keys():
                raise DataError(
                    f"{path}: a completion of prompt {prompt_id!r} lacks 'id' or 'text'; each is "
                    '{"id", "text", "model", "finished"}'
                )
        given = row["completions"]
        completions = tuple(
            Completion(c["id"], c["text"], c.get("model"), bool(c.get("finished", True)))
            for c in given
        )
        items.append(_Item(prompt_id, row["prompt"], tasks[prompt_id], completions))
    return items


def _model(item: _Item, completion: Completion) -> str:
    if completion.model is None:
        raise DataError(
            f"prompt {item.prompt_id!r}: completion {completion.id!r} names no model; "
            'a judgement compares models, so give "model" for each completion'
        )
    return completion.model


def load_pool(directory: Path) -> LabelerPool:
    """The labelers of a world, with their noise as it was fitted, if it was."""
    pool = LabelerPool.load(directory / LABELERS_FILE)
    noise = directory / NOISE_FILE
    if not noise.is_file():
        return pool
    row = json.loads(noise.read_text(encoding="utf-8"))
    return LabelerPool(pool.train, pool.heldout, pool.screening, **row)


def _fitted_pool(world: World, directory: Path, items: Sequence[_Item]) -> LabelerPool:
    """The pool with its noise fitted once, on the first completions that were ever labelled."""
    pool = load_pool(directory)
    if (directory / NOISE_FILE).is_file() or not items:
        return pool
    step = max(1, len(items) // _PILOT_PROMPTS)
    pool = pool.refitted(world, [(item.task, item.texts) for item in items[::step]])
    row = {"noise_scale": pool.noise_scale, "agreement": pool.agreement}
    partial = directory / (NOISE_FILE + ".partial")
    partial.write_text(json.dumps(row) + "\n", encoding="utf-8")
    partial.replace(directory / NOISE_FILE)
    return pool


def _some(
    labelers: Sequence[SimulatedLabeler], num: int, rng: random.Random
) -> list[SimulatedLabeler]:
    if num > len(labelers):
        raise ConfigError(
            f"{num} labelers per prompt were asked for, but the cohort has {len(labelers)}: "
            "ask for fewer or write the world with more labelers"
        )
    return rng.sample(list(labelers), num)


def _rankings(
    world: World,
    pool: LabelerPool,
    item: _Item,
    labelers: Sequence[SimulatedLabeler],
    rng: random.Random,
    emphasis: dict[str, float] | None = None,
) -> list[Ranking]:
    found = []
    for labeler in labelers:
        ranks, ratings = rank(
            world,
            labeler,
            item.task,
            item.texts,
            item.finished,
            rng,
            noise_scale=pool.noise_scale,
            emphasis=emphasis,
        )
        found.append(
            Ranking(
                item.prompt_id,
                item.prompt,
                item.completions,
                tuple(ranks),
                labeler.id,
                labeler.cohort,
                tuple(ratings),
            )
        )
    return found
