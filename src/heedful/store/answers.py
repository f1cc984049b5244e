"""What labelers answer, checked before it is kept. Outputs are named by their place on the page.

A labeler's page never carries the id of a completion: ``ranks[i]`` and ``ratings[i]`` belong to the
output shown in place ``i`` of this labeler's own order, which the assignment determines.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from heedful.records import METADATA_FIELDS, USE_CASES, Rating
from heedful.store.database import canonical_json
from heedful.store.problems import AnswerProblem

TaskKind = Literal["demonstration", "ranking", "prompt"]
Mode = Literal["strict", "fast"]
MAX_TEXT_CHARS = 100_000
MAX_NOTE_CHARS = 10_000
# Table 7 of the paper, and the two that take a prompt out of circulation at once.
QUARANTINE_FLAGS = ("pii", "unsafe")
PROMPT_FLAGS: tuple[str, ...] = (
    *QUARANTINE_FLAGS,
    "ambiguous",
    "sensitive",
    "identity_dependent",
    "closed_domain",
    "continuation",
    "requests_opinion",
    "requests_advice",
    "requests_moral_judgment",
    "safety_constraints",
    "other_constraints",
    "intent_unclear",
)


@dataclass(frozen=True, slots=True)
class LabelSchema:
    """The questions asked. strict: every output rated, every flag answered; fast: what is given."""

    mode: Mode = "strict"
    rating_flags: tuple[str, ...] = METADATA_FIELDS
    prompt_flags: tuple[str, ...] = PROMPT_FLAGS
    number: int = 0


@dataclass(frozen=True, slots=True)
class PromptLabels:
    """What a labeler says about a prompt; a flag that is absent or None was not answered."""

    use_case: str | None = None
    flags: dict[str, bool | None] = field(default_factory=dict[str, bool | None])


@dataclass(frozen=True, slots=True)
class DemonstrationAnswer:
    """A response that the labeler wrote."""

    response: str
    labels: PromptLabels = field(default_factory=PromptLabels)


@dataclass(frozen=True, slots=True)
class RankingAnswer:
    """A rank (1 is best, equal is a tie, gaps are fine) and a rating for every output shown.

    ``checks`` names the soft checks that the labeler has overridden; "prefilled" says that the
    ranks were first put in the order of the ratings.
    """

    ranks: tuple[int, ...]
    ratings: tuple[Rating | None, ...]
    labels: PromptLabels = field(default_factory=PromptLabels)
    rating_notes: tuple[str, ...] = ()
    notes: str = ""
    checks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PromptAnswer:
    """A prompt that the labeler wrote: ``text`` with ``response`` (or none, for others to write).

    Few-shot: ``text`` is the instruction and ``pairs`` has several (input, output).
    """

    text: str
    response: str = ""
    pairs: tuple[tuple[str, str], ...] = ()
    use_case: str | None = None


Answer = DemonstrationAnswer | RankingAnswer | PromptAnswer
KIND_OF: dict[type, TaskKind] = {
    DemonstrationAnswer: "demonstration",
    RankingAnswer: "ranking",
    PromptAnswer: "prompt",
}


def payload_of(answer: Answer) -> dict[str, Any]:
    """The answer as JSON values, whole."""
    return asdict(answer)


def payload_hash(payload: Mapping[str, Any]) -> str:
    """The sha256 of an answer: the same content has the same hash."""
    return hashlib.sha256(canonical_json(payload).encode()).hexdigest()


def check(answer: Answer, schema: LabelSchema, num_outputs: int, prompt_kind: str | None) -> None:
    """Raises AnswerProblem at the first field that is incomplete or impossible."""
    if isinstance(answer, DemonstrationAnswer):
        check_text(answer.response, "response")
        _check_labels(answer.labels, schema)
    elif isinstance(answer, RankingAnswer):
        _check_ranking(answer, schema, num_outputs)
        _check_labels(answer.labels, schema)
    else:
        _check_prompt(answer, prompt_kind)


def check_text(text: str, name: str, *, limit: int = MAX_TEXT_CHARS, blank: bool = False) -> str:
    """The text itself; AnswerProblem where it cannot be kept or is empty."""
    if not blank and not text.strip():
        raise AnswerProblem(name, "is empty")
    if len(text) > limit:
        raise AnswerProblem(name, f"has {len(text):,} characters; {limit:,} are the most")
    if "\x00" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise AnswerProblem(name, "has a character that is no text (NUL or half a character)")
    return text


def _check_ranking(answer: RankingAnswer, schema: LabelSchema, num_outputs: int) -> None:
    for name, values in (("ranks", answer.ranks), ("ratings", answer.ratings)):
        if len(values) != num_outputs:
            raise AnswerProblem(name, f"has {len(values)} for {num_outputs} outputs")
    for place, rank in enumerate(answer.ranks):
        if not 1 <= rank <= num_outputs:
            raise AnswerProblem(f"ranks.{place}", f"is {rank}; ranks go from 1 to {num_outputs}")
    for place, rating in enumerate(answer.ratings):
        where = f"ratings.{place}"
        if rating is None:
            if schema.mode == "strict":
                raise AnswerProblem(where, "is missing: rate every output from 1 to 7")
            continue
        if not 1 <= rating.overall <= 7:
            raise AnswerProblem(where, f"is {rating.overall}; ratings go from 1 to 7")
        _check_flags(rating.flags, schema.rating_flags, where, strict=schema.mode == "strict")
    if answer.rating_notes and len(answer.rating_notes) != num_outputs:
        raise AnswerProblem("rating_notes", f"has {len(answer.rating_notes)} for {num_outputs}")
    for note in (answer.notes, *answer.rating_notes):
        check_text(note, "notes", limit=MAX_NOTE_CHARS, blank=True)


def _check_labels(labels: PromptLabels, schema: LabelSchema) -> None:
    _check_use_case(labels.use_case)
    _check_flags(labels.flags, schema.prompt_flags, "labels", strict=False)


def _check_use_case(use_case: str | None) -> None:
    if use_case is not None and use_case not in USE_CASES:
        raise AnswerProblem("use_case", f"{use_case!r} is none of {', '.join(USE_CASES)}")


def _check_flags(
    flags: Mapping[str, bool | None], known: Sequence[str], where: str, *, strict: bool
) -> None:
    for name in flags:
        if name not in known:
            raise AnswerProblem(f"{where}.{name}", "is not asked here")
    for name in known:
        if strict and flags.get(name) is None:
            raise AnswerProblem(f"{where}.{name}", "needs a yes or a no")


def _check_prompt(answer: PromptAnswer, prompt_kind: str | None) -> None:
    check_text(answer.text, "text")
    _check_use_case(answer.use_case)
    check_text(answer.response, "response", blank=True)
    if prompt_kind == "few_shot" and len(answer.pairs) < 2:
        raise AnswerProblem("pairs", "few-shot needs an instruction and at least two pairs")
    if prompt_kind != "few_shot" and answer.pairs:
        raise AnswerProblem("pairs", "are for few-shot prompts alone")
    for number, (query, response) in enumerate(answer.pairs):
        check_text(query, f"pairs.{number}.input")
        check_text(response, f"pairs.{number}.output")
