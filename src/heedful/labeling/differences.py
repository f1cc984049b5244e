"""What has changed between two versions of a text, in pieces that a page can mark."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

CONTEXT_LINES = 2  # unchanged lines that are kept around a change
# Within a changed passage words are compared, unless it is so long that this would take a while.
MAX_WORDS = 2000


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of text; ``skipped`` stands for unchanged lines that are left out."""

    kind: Literal["same", "added", "removed", "skipped"]
    text: str


def differences(old: str, new: str) -> list[Piece]:
    """The changes from one text to another in order, with some lines around each; [] if equal."""
    before, after = old.splitlines(keepends=True), new.splitlines(keepends=True)
    changes = SequenceMatcher(None, before, after).get_opcodes()
    if all(change[0] == "equal" for change in changes):
        return []
    found: list[Piece] = []
    for place, (tag, start, end, start_new, end_new) in enumerate(changes):
        if tag == "equal":
            is_last = place == len(changes) - 1
            found += _unchanged(before[start:end], is_first=place == 0, is_last=is_last)
        else:
            found += _changed("".join(before[start:end]), "".join(after[start_new:end_new]))
    return found


def _unchanged(lines: Sequence[str], *, is_first: bool, is_last: bool) -> list[Piece]:
    head = 0 if is_first else CONTEXT_LINES
    tail = 0 if is_last else CONTEXT_LINES
    left_out = len(lines) - head - tail
    if left_out <= 1:
        return [Piece("same", "".join(lines))]
    parts = [
        Piece("same", "".join(lines[:head])),
        Piece("skipped", f"{left_out} lines are as they were"),
        Piece("same", "".join(lines[len(lines) - tail :])),
    ]
    return [part for part in parts if part.text]


def _changed(old: str, new: str) -> list[Piece]:
    before, after = (re.findall(r"\s+|[^\s]+", text) for text in (old, new))
    if len(before) + len(after) > MAX_WORDS:
        pieces = [Piece("removed", old), Piece("added", new)]
        return [piece for piece in pieces if piece.text]
    found = []
    matcher = SequenceMatcher(None, before, after, autojunk=False)
    for _, start, end, start_new, end_new in matcher.get_opcodes():
        gone, come = "".join(before[start:end]), "".join(after[start_new:end_new])
        if gone == come:
            found.append(Piece("same", gone))
            continue
        found += [Piece("removed", gone)] if gone else []
        found += [Piece("added", come)] if come else []
    return found
