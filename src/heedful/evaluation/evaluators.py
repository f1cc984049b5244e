"""What can be measured of a model while it trains: callables from the model to metrics.

``step3_ppo.train`` takes them as its ``evaluators``. Every call asks the same things and draws the
same, so that what they return at different times of a run can be compared.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from typing import Any

from heedful.errors import DataError
from heedful.evaluation.answering import answers, context_of, encode_items, num_tokens
from heedful.evaluation.items import Item, Task
from heedful.evaluation.language import document_losses
from heedful.evaluation.room import Room
from heedful.evaluation.suite import Graders, columns_of, make_row, score_rows
from heedful.statistics.intervals import bootstrap

Evaluator = Callable[[Any], dict[str, float]]


def text_loss(
    documents: Sequence[str], tokenizer: Any, *, max_tokens: int, document_tokens: int
) -> Evaluator:
    """Measures ``valid/text_loss``: nats per token of the documents' beginnings."""

    def measure(model: Any) -> dict[str, float]:
        losses, counts = document_losses(model, tokenizer, documents, max_tokens, document_tokens)
        return {"valid/text_loss": sum(losses) / sum(counts)}

    return measure


def suite_measures(
    tasks: Sequence[tuple[Task, Sequence[Item]]],
    config: Any,
    tokenizer: Any,
    graders: Graders,
    *,
    max_tokens: int,
    needed: Collection[str] | None = None,
    say: Callable[[str], None] = print,
) -> Evaluator:
    """Measures ``eval/<task>.<measure>.<variant>`` of every task, greedy, prompts as they are.

    ``config`` is the model's, for its context: items that do not fit it are left out. A task of
    which none fits is left out and said; DataError where it is among the ``needed``, which are all
    unless given, or where none is left.
    """
    prepared, dropped = [], []
    for task, items in tasks:
        requests = encode_items(items, tokenizer, None)
        context = context_of(config)
        kept = [
            (item, request)
            for item, request in zip(items, requests, strict=True)
            if context is None or num_tokens(item, request) <= context
        ]
        if kept:
            prepared.append((task, kept))
            continue
        why = f"no item of {task.name} fits the {context:,} tokens that the policy reads at a time"
        if needed is None or task.name in needed:
            raise DataError(f"{why}: leave the task out of eval.suites")
        dropped.append(why)
    if dropped and not prepared:
        raise DataError("\n  ".join(["no task of eval.suites can be asked:", *dropped]))
    for why in dropped:
        say(why)

    def measure(model: Any) -> dict[str, float]:
        found = {}
        for task, kept in prepared:
            items, requests = [item for item, _ in kept], [request for _, request in kept]
            said = answers(model, tokenizer, items, requests, room=Room(max_tokens))
            rows = [
                make_row(item, "policy", task.name, row, 0)
                for item, row in zip(items, said, strict=True)
            ]
            found |= _values(task, score_rows(task, rows, graders))
        return found

    return measure


def _values(task: Task, rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Every metric of a task by variant; those that no row has a score for are left out."""
    found = {}
    for variant in dict.fromkeys(row["variant"] for row in rows):
        by_id = {row["id"]: row for row in rows if row["variant"] == variant}
        for name, metric in task.metrics.items():
            columns = columns_of(by_id, metric)
            if columns.values.size:
                one = ["all"] * len(columns.ids)  # a single cluster: the value alone, no draws
                value = bootstrap(columns.values, one, statistic=metric.statistic, seed=0).value
                found[f"eval/{task.name}.{_word(name)}.{_word(variant)}"] = value
    return found


def _word(text: str) -> str:
    """A name as a metric's key has it: letters, digits and underscores."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
