"""heed simulate, simulate-labels, simulate-demonstrations: the miniature world, its labelers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from heedful.commands.label import require_service
from heedful.commands.train import begin
from heedful.config import DemonstrateConfig, LabelConfig, SimulateConfig
from heedful.metrics import replacing
from heedful.records import Prompt
from heedful.simulation.generate import PROMPTS_FILE, TASKS_FILE, write_world
from heedful.simulation.labeling import fitted_pool, label, load_pool, ranking_figures, to_label
from heedful.simulation.rows import read_rows
from heedful.simulation.tasks import read_tasks
from heedful.simulation.world import World

COMPARISONS_FILE = "comparisons.jsonl"
VALID_FILE = "comparisons_valid.jsonl"
HELDOUT_FILE = "comparisons_heldout.jsonl"
DEMONSTRATIONS_FILE = "demonstrations.jsonl"
LABELS_FILE = "labels.json"
Counts = dict[str, dict[str, float]]


def run_simulate(config: SimulateConfig, resume: bool = False) -> None:
    """Writes a world: text, prompts, hidden tasks, demonstrations, probes."""
    config, run_dir, progress = begin(config, resume)
    write_world(run_dir, **config.model_dump(exclude={"run_dir"}))
    progress(1, 1)


def run_label(config: LabelConfig, resume: bool = False) -> None:
    """Writes comparisons.jsonl (training labelers) and comparisons_heldout.jsonl (validation)."""
    config, run_dir, progress = begin(config, resume)
    ways = {"memory": _in_memory, "service": _over_http}
    counts = ways[config.through](config, run_dir, progress)
    with replacing(run_dir / LABELS_FILE) as partial:
        partial.write_text(json.dumps(counts, indent=2), encoding="utf-8")


def _in_memory(config: LabelConfig, run_dir: Path, progress: Callable[[int, int], None]) -> Counts:
    """Counts of the rankings that labelers in this process have written."""
    counts: Counts = {}
    parts = [
        ("train", config.completions, COMPARISONS_FILE, "train"),
        ("valid", config.completions_valid, VALID_FILE, "train"),
        ("heldout", config.completions_valid, HELDOUT_FILE, "heldout"),
    ]
    for number, (name, completions, out, cohort) in enumerate(parts):
        with replacing(run_dir / out) as partial:
            counts[name] = label(
                Path(config.world),
                Path(completions),
                partial,
                seed=config.seed,
                labels_per_prompt=config.labels_per_prompt,
                overlap=config.overlap,
                cohort=cohort,  # type: ignore[arg-type]
            )
        progress(number + 1, len(parts))
    return counts


def _over_http(config: LabelConfig, run_dir: Path, progress: Callable[[int, int], None]) -> Counts:
    """Counts of the rankings that labelers have sent to a service, out of its snapshots."""
    require_service("httpx")
    from heedful.commands.front_door import House, through_service
    from heedful.simulation.service_labelers import Knowledge
    from heedful.simulation.service_projects import Job

    world = Path(config.world)
    pool = fitted_pool(world, Path(config.completions))
    train = to_label(world, Path(config.completions))
    valid = to_label(world, Path(config.completions_valid))
    wanted = config.labels_per_prompt
    jobs = (
        Job("training", "ranking", train.items, wanted, config.overlap),
        Job("validation", "ranking", valid.items, wanted, has_heldout=True),
    )
    knowledge = Knowledge(
        World.load(world),
        train.tasks | valid.tasks,
        train.is_cut | valid.is_cut,
        pool.noise_scale,
        config.seed,
    )
    found = through_service(House(run_dir / "state", pool, knowledge, jobs), progress)
    rows = {name: list(read_rows(path / COMPARISONS_FILE)) for name, path in found.items()}
    counts: Counts = {}
    for name, given, part, file in (
        ("train", train, rows["training"], COMPARISONS_FILE),
        ("valid", valid, _of_cohort(rows["validation"], "train"), VALID_FILE),
        ("heldout", valid, _of_cohort(rows["validation"], "heldout"), HELDOUT_FILE),
    ):
        _write(run_dir / file, part)
        by_prompt: dict[str, list[list[int]]] = {}
        for row in part:
            by_prompt.setdefault(row["prompt_id"], []).append(row["ranks"])
        counts[name] = ranking_figures(by_prompt.values()) | {
            "num_duplicates": given.num_duplicates,
            "num_skipped": given.num_skipped,
            "noise_scale": pool.noise_scale,
        }
    return counts


def run_demonstrate(config: DemonstrateConfig, resume: bool = False) -> None:
    """Writes demonstrations.jsonl: what labelers have written for the prompts of step 1."""
    config, run_dir, progress = begin(config, resume)
    require_service("httpx")
    from heedful.commands.front_door import House, through_service
    from heedful.simulation.service_labelers import Knowledge
    from heedful.simulation.service_projects import Job

    world = Path(config.world)
    tasks = read_tasks(world / TASKS_FILE)
    rows = list(read_rows(world / PROMPTS_FILE, ("id", "text", "split", "use")))
    chosen = []
    for split, use in (("train", "sft"), ("valid", "eval")):
        found = [row for row in rows if (row["split"], row["use"]) == (split, use)]
        chosen += found[: config.limit]
    prompts = [Prompt(**{k: v for k, v in row.items() if k != "use"}) for row in chosen]
    jobs = (Job("demonstrations", "demonstration", [(one, ()) for one in prompts]),)
    known = {one.text: (one.id, tasks[one.id]) for one in prompts}
    pool = load_pool(world)
    knowledge = Knowledge(World.load(world), known, frozenset(), pool.noise_scale, config.seed)
    snapshots = through_service(House(run_dir / "state", pool, knowledge, jobs), progress)
    _write(run_dir / DEMONSTRATIONS_FILE, read_rows(snapshots[jobs[0].name] / DEMONSTRATIONS_FILE))


def _of_cohort(rows: Iterable[dict[str, Any]], cohort: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["cohort"] == cohort]


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """The rows as the snapshot has them: a whole file of it stays the same, byte for byte."""
    with replacing(path) as partial, partial.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
