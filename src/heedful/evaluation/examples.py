"""Rows of a data set as items, behind an instruction and examples (paper App. D).

Shots are rows of the same file that are not asked: one of each text, by a hash of their ids.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from heedful.errors import DataError
from heedful.evaluation.items import Item


class Example(NamedTuple):
    """One row of a data set: an item without its instruction and shots, and its right answer.

    A row whose ``answer`` is empty is asked and never shown.
    """

    id: str
    cluster: str
    text: str
    answer: str
    facts: dict[str, Any]
    choices: tuple[str, ...] = ()


def with_shots(
    examples: Iterable[Example], instruction: str, shots: int, max_new_tokens: int
) -> Iterator[Item]:
    """The items of a data set behind an instruction and so many examples of other texts."""
    rows = list(examples)
    shown: dict[str, Example] = {}  # by cluster
    for row in sorted(rows, key=lambda row: hashlib.sha256(f"shot {row.id}".encode()).digest()):
        if len(shown) < shots and row.answer:
            shown.setdefault(row.cluster, row)
    if len(shown) < shots:
        raise DataError(f"{shots} shots are asked for; the data has texts for {len(shown)}")
    before = "".join(f"{row.text} {row.answer}\n\n" for row in shown.values())
    for row in rows:
        if row.cluster not in shown:
            prompt = instruction + before + row.text
            variant = f"{shots} shots"
            yield Item(row.id, row.cluster, variant, prompt, row.choices, row.facts, max_new_tokens)
