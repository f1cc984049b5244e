"""People as judges of models: tasks for the labeling service, and what people said of them.

The file of tasks tells nobody which model wrote what: an output's id is a hash, and which models it
is of stands in a second file, the key, which stays with whoever evaluates. Outputs of one text are
shown once and stand for all models that wrote it. Every task has the baseline's output, so that win
rates against it rest on every prompt. A task has the split of its prompt: without one the service
would draw it, and what models are tested on would become training data.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any, NamedTuple

from heedful.errors import DataError
from heedful.records import Completion, Judgement, Prompt, Ranking

# What the one "labeler" of prompts is called to which all models gave the same answer.
ONE_TEXT = "one text"

Key = Mapping[tuple[str, str], Sequence[str]]  # (prompt id, output id) -> models


class Tasks(NamedTuple):
    """Rows of the two files, and how many prompts need nobody: all their outputs are one text."""

    tasks: list[dict[str, Any]]
    key: list[dict[str, Any]]
    num_one_text: int


def ranking_tasks(
    rows: Iterable[tuple[Prompt, Sequence[Completion]]],
    models: Sequence[str],
    baseline: str,
    *,
    most: int,
    seed: int,
) -> Tasks:
    """Tasks of at most ``most`` different outputs each, the baseline's among them.

    Where there are more, which models are left out is drawn for each prompt; so is the order.
    """
    tasks, key, num_one_text = [], [], 0
    for prompt, completions in rows:
        texts: dict[str, str] = {}
        for one in completions:  # the first output of each model
            if one.model is not None and one.model in (baseline, *models):
                texts.setdefault(one.model, one.text)
        if baseline not in texts or len(texts) < 2:
            continue
        draw = random.Random(f"{seed}/{prompt.id}")
        others = sorted(set(texts) - {baseline})
        draw.shuffle(others)
        by_text: dict[str, list[str]] = {texts[baseline]: [baseline]}
        for model in others:
            if texts[model] in by_text or len(by_text) < most:
                by_text.setdefault(texts[model], []).append(model)
        outputs = list(by_text.items())
        draw.shuffle(outputs)
        shown = [(_id(seed, prompt.id, text), text, names) for text, names in outputs]
        key.append({"prompt_id": prompt.id, "outputs": {name: models for name, _, models in shown}})
        if len(shown) == 1:
            num_one_text += 1
            continue
        parts = [{"id": name, "text": text} for name, text, _ in shown]
        row = {"prompt_id": prompt.id, "prompt": prompt.text, "split": prompt.split}
        row |= {"source": prompt.source, "use_case": prompt.use_case}
        tasks.append(row | {"completions": parts})
    return Tasks(tasks, key, num_one_text)


def read_key(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], list[str]]:
    """The key that ``ranking_tasks`` made, from its rows."""
    return {
        (row["prompt_id"], name): list(models)
        for row in rows
        for name, models in row["outputs"].items()
    }


def judgements_of(rankings: Iterable[Ranking], key: Key | None = None) -> list[Judgement]:
    """What people said, by model: an output of several models has its rank for each of them.

    Without a ``key`` the models are those that the rankings name. Prompts of the key that have one
    output alone are ties that nobody was asked about, once each.
    """
    found = [_judgement(ranking, key) for ranking in rankings]
    num_outputs: dict[str, int] = {}
    for prompt_id, _ in key or {}:
        num_outputs[prompt_id] = num_outputs.get(prompt_id, 0) + 1
    for (prompt_id, _), models in (key or {}).items():
        if num_outputs[prompt_id] == 1 and found:
            found.append(Judgement(prompt_id, tuple(models), (1,) * len(models), ONE_TEXT))
    return found


def _judgement(ranking: Ranking, key: Key | None) -> Judgement:
    models, ranks, ratings = [], [], []
    for place, completion in enumerate(ranking.completions):
        named = [completion.model] if completion.model is not None else None
        if key is not None:
            named = key.get((ranking.prompt_id, completion.id), named)
        if named is None:
            raise DataError(
                f"prompt {ranking.prompt_id}: nobody says which model wrote the output "
                f"{completion.id!r}: give the key.jsonl that was written beside the tasks"
            )
        for model in named:
            models.append(model)
            ranks.append(ranking.ranks[place])
            ratings.append(None if ranking.ratings is None else ranking.ratings[place])
    return Judgement(
        ranking.prompt_id,
        tuple(models),
        tuple(ranks),
        ranking.labeler or "unknown",
        ranking.cohort,
        tuple(ratings) if ranking.ratings is not None else None,
    )


def _id(seed: int, prompt_id: str, text: str) -> str:
    whole = f"{seed}/{prompt_id}/{text}".encode("utf-8", "surrogatepass")
    return sha256(whole).hexdigest()[:16]
