"""The survey of labelers (paper, Table 13): what is asked, and what the answers say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

STATEMENTS = {
    "instructions": "The instructions made clear what I was to do.",
    "enjoyable": "The work was enjoyable and engaging.",
    "repetitive": "The work was repetitive.",
    "pay": "The pay was fair.",
    "glad": "All in all I am glad that I did this work.",
}
SCALE = {
    "strongly_agree": "strongly agree",
    "agree": "agree",
    "neither": "neither",
    "disagree": "disagree",
    "strongly_disagree": "strongly disagree",
}
MAX_COMMENT_CHARS = 5000
# Below this many answers a researcher could tell who said what.
MIN_ANSWERS = 5


@dataclass(frozen=True, slots=True)
class Result:
    """The answers to one statement: the share of each point of the scale, and how many answered."""

    statement: str
    shares: dict[str, float]
    num_answers: int


def results(answers: Sequence[dict[str, Any]]) -> list[Result]:
    """The results of a survey, statement by statement; [] while fewer than MIN_ANSWERS took part.

    Shares are of those who answered the statement; one that fewer have answered is left out.
    """
    found = []
    for name, statement in STATEMENTS.items():
        counts = Counter(answer[name] for answer in answers if name in answer)
        total = counts.total()
        if total >= MIN_ANSWERS:
            shares = {point: counts[point] / total for point in SCALE}
            found.append(Result(statement, shares, total))
    return found


def comments(answers: Sequence[dict[str, Any]]) -> list[str]:
    """The comments in alphabetical order, which tells nothing of who wrote when."""
    if len(answers) < MIN_ANSWERS:
        return []
    return sorted(answer["comment"] for answer in answers if answer.get("comment"))
