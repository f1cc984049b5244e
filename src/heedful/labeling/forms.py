"""Forms of labelers as answers, and back. Field names are those that the store's errors name.

ranks.0         rank of the output in place 0 of the page
ratings.0       its overall rating, 1 to 7        ratings.0.violent   yes | no
rating_notes.0  a note on it                      notes               a note on all of them
labels.pii      on, or absent: not answered       use_case            one of Table 1, or empty
prefilled       on: the ranks were first put in the order of the ratings
response        the text of a demonstration, or of a written prompt (may be empty there)
text            a written prompt; for few-shot the instruction
pairs.0.input   the first pair of few-shot          pairs.0.output  (num_pairs: shown on the page)
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from heedful.records import Rating
from heedful.store.answers import (
    Answer,
    DemonstrationAnswer,
    LabelSchema,
    PromptAnswer,
    PromptLabels,
    RankingAnswer,
)
from heedful.store.assignments import Work
from heedful.store.problems import AnswerProblem

Fields = Mapping[str, str]
# What belongs to the page and not to the answer.
PAGE_FIELDS = ("token", "key", "revision", "active_s", "checks", "reason")
MAX_ACTIVE_S = 24 * 3600.0
MIN_PAIRS, MAX_PAIRS = 3, 12  # of few-shot prompts on the page
READ_CHARS_PER_S = 100.0  # nobody reads faster: three times a fast reader
CHECKS = {
    "contradiction": "a lower rated output has the better rank",
    "all_tied": "all outputs have the same rank",
    "good_but_fails": "an output that fails the task is rated 6 or 7",
    "too_fast": "the texts can hardly be read in the time that you took",
    "repeats_prompt": "the response holds the whole prompt; it should only answer it",
    "goes_on": "the response goes on with another Input: or Output:, and should end before",
    "same_input": "two pairs have the same input",
}
PREFILLED = "prefilled"  # kept among the checks of a ranking that began with the ratings' order
_YES_NO = {"yes": True, "no": False}
_PAIR_MARK = re.compile(r"^(Input|Output):", re.MULTILINE)


def draft_of(fields: Fields) -> dict[str, str]:
    """What is kept of a form as a draft: every field that was filled in."""
    return {name: value for name, value in fields.items() if value and name not in PAGE_FIELDS}


def answer_of(fields: Fields, work: Work) -> Answer:
    """The answer that a form holds; AnswerProblem names the field that needs a change."""
    if work.kind == "prompt":
        return _prompt(fields, work)
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
        checks=_checks(fields),
    )


def _checks(fields: Fields) -> tuple[str, ...]:
    """The soft checks that were overridden, and whether the ranks began with the ratings."""
    found = set(fields.get("checks", "").split()) & CHECKS.keys()
    return tuple(sorted(found | ({PREFILLED} if fields.get(PREFILLED) else set())))


def doubts(answer: Answer, work: Work, active_s: float | None) -> list[str]:
    """The soft checks that an answer does not pass: worth a second look, the labeler decides."""
    if isinstance(answer, RankingAnswer):
        found = _doubts_of_ranking(answer)
    elif isinstance(answer, DemonstrationAnswer):
        found = _doubts_of_response(answer.response, work.prompt or "")
    else:
        inputs = [query.strip() for query, _ in answer.pairs]
        found = ["same_input"] if len(set(inputs)) < len(inputs) else []
        if not answer.pairs:
            found += _doubts_of_response(answer.response, answer.text)
    to_read = len(work.prompt or "") + sum(map(len, work.outputs))
    if active_s is not None and active_s < to_read / READ_CHARS_PER_S:
        found.append("too_fast")
    return found


def _doubts_of_ranking(answer: RankingAnswer) -> list[str]:
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


def _doubts_of_response(response: str, prompt: str) -> list[str]:
    found = []
    if prompt.strip() and prompt.strip() in response:
        found.append("repeats_prompt")
    if _PAIR_MARK.search(prompt) and _PAIR_MARK.search(response):
        found.append("goes_on")
    return found


def active_s_of(fields: Fields) -> float | None:
    """The seconds of work that the page has counted; None where it could not."""
    try:
        seconds = float(fields.get("active_s", ""))
    except ValueError:
        return None
    return seconds if 0 < seconds <= MAX_ACTIVE_S else None


def num_pairs_of(fields: Fields) -> int:
    """How many pairs the page of a few-shot prompt shows: those filled in, and those asked for."""
    text = fields.get("num_pairs", "")
    asked = int(text) if text.isascii() and text.isdigit() and len(text) < 3 else MIN_PAIRS
    filled = (place for place in range(MAX_PAIRS) if any(_pair(fields, place)))
    return min(max(asked, MIN_PAIRS, *(place + 1 for place in filled)), MAX_PAIRS)


def revision_of(fields: Fields) -> int:
    """The revision of the draft that the page has seen; -1, which is none, if it says nothing."""
    text = fields.get("revision", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1


def _prompt(fields: Fields, work: Work) -> PromptAnswer:
    pairs = []
    for place in range(MAX_PAIRS) if work.prompt_kind == "few_shot" else ():
        given = _pair(fields, place)
        for name, text in zip(("input", "output"), given, strict=True):
            if any(given) and not text:
                raise AnswerProblem(
                    f"pairs.{place}.{name}", "is missing: fill in or clear the pair"
                )
        if any(given):
            pairs.append(given)
    return PromptAnswer(
        text=fields.get("text", ""),
        response="" if work.prompt_kind == "few_shot" else fields.get("response", ""),
        pairs=tuple(pairs),
        use_case=fields.get("use_case") or None,
    )


def _pair(fields: Fields, place: int) -> tuple[str, str]:
    """The texts of a pair as they stand; what is blank is empty."""
    query, response = (fields.get(f"pairs.{place}.{name}", "") for name in ("input", "output"))
    return query if query.strip() else "", response if response.strip() else ""


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
