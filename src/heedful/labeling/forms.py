"""Forms of labelers as answers, and back. Field names are those that the store's errors name.

ranks.0         rank of the output in place 0 of the page
ratings.0       its overall rating, 1 to 7        ratings.0.violent   yes | no
rating_notes.0  a note on it                      notes               a note on all of them
labels.pii      on, or absent: not answered       use_case            one of Table 1, or empty
response        the text of a demonstration
"""

from __future__ import annotations

from collections.abc import Mapping

from heedful.records import Rating
from heedful.store.answers import DemonstrationAnswer, LabelSchema, PromptLabels, RankingAnswer
from heedful.store.assignments import Work
from heedful.store.problems import AnswerProblem

Fields = Mapping[str, str]
# What belongs to the page and not to the answer.
PAGE_FIELDS = ("token", "key", "revision", "active_s", "checks", "reason")
MAX_ACTIVE_S = 24 * 3600.0
CHECKS = {
    "contradiction": "a lower rated output has the better rank",
    "all_tied": "all outputs have the same rank",
    "good_but_fails": "an output that fails the task is rated 6 or 7",
}
_YES_NO = {"yes": True, "no": False}


def draft_of(fields: Fields) -> dict[str, str]:
    """What is kept of a form as a draft: every field that was filled in."""
    return {name: value for name, value in fields.items() if value and name not in PAGE_FIELDS}


def answer_of(fields: Fields, work: Work) -> RankingAnswer | DemonstrationAnswer:
    """The answer that a form holds; AnswerProblem names the field that needs a change."""
    labels = _labels(fields, work.schema)
    if work.kind == "demonstration":
        return DemonstrationAnswer(fields.get("response", ""), labels)
    places = range(len(work.outputs))
    return RankingAnswer(
        ranks=tuple(_number(fields, f"ranks.{place}") for place in places),
        ratings=tuple(_rating(fields, place, work.schema) for place in places),
        labels=labels,
        rating_notes=tuple(fields.get(f"rating_notes.{place}", "") for place in places),
        notes=fields.get("notes", ""),
        checks=tuple(sorted(set(fields.get("checks", "").split()) & CHECKS.keys())),
    )


def doubts(answer: RankingAnswer | DemonstrationAnswer) -> list[str]:
    """The soft checks that an answer does not pass: worth a second look, the labeler decides."""
    if not isinstance(answer, RankingAnswer):
        return []
    found = []
    rated = [
        (rank, rating)
        for rank, rating in zip(answer.ranks, answer.ratings, strict=True)
        if rating is not None
    ]
    if any(a < b and one.overall < two.overall for a, one in rated for b, two in rated):
        found.append("contradiction")
    if len(set(answer.ranks)) == 1:
        found.append("all_tied")
    if any(rating.overall >= 6 and rating.flags.get("fails_task") for _, rating in rated):
        found.append("good_but_fails")
    return found


def active_s_of(fields: Fields) -> float | None:
    """The seconds of work that the page has counted; None where it could not."""
    try:
        seconds = float(fields.get("active_s", ""))
    except ValueError:
        return None
    return seconds if 0 < seconds <= MAX_ACTIVE_S else None


def revision_of(fields: Fields) -> int:
    """The revision of the draft that the page has seen; -1, which is none, if it says nothing."""
    text = fields.get("revision", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1


def _number(fields: Fields, name: str) -> int:
    text = fields.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) < 4):
        raise AnswerProblem(name, "is missing: choose a number")
    return int(text)


def _rating(fields: Fields, place: int, schema: LabelSchema) -> Rating | None:
    name = f"ratings.{place}"
    given = {flag: fields.get(f"{name}.{flag}", "") for flag in schema.rating_flags}
    flags = {flag: _YES_NO[value] for flag, value in given.items() if value in _YES_NO}
    if not fields.get(name):
        if flags or schema.mode == "strict":
            raise AnswerProblem(name, "is missing: rate this output from 1 to 7")
        return None
    return Rating(_number(fields, name), {**flags})


def _labels(fields: Fields, schema: LabelSchema) -> PromptLabels:
    flags: dict[str, bool | None] = {
        flag: True for flag in schema.prompt_flags if fields.get(f"labels.{flag}")
    }
    return PromptLabels(fields.get("use_case") or None, flags)
