"""The nouns of the project, as frozen dataclasses: what flows between the parts.

A snapshot (``demonstrations.jsonl``, ``comparisons.jsonl``, ``prompts.jsonl``, ``manifest.json``)
holds these rows one JSON object a line, with exactly these field names; ``to_row`` and the readers
in ``heedful.data.formats`` are the only places that know about JSON.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Split = Literal["train", "valid", "test"]
Cohort = Literal["train", "heldout"]
Source = Literal["api", "labeler"]
PromptKind = Literal["plain", "few_shot", "user_based"]

# Table 1 of the paper, in its order, with the shares of its reward-model prompts in percent.
USE_CASES: dict[str, float] = {
    "generation": 45.6,
    "open_qa": 12.4,
    "brainstorming": 11.2,
    "chat": 8.4,
    "rewrite": 6.6,
    "summarization": 4.2,
    "classification": 3.5,
    "other": 3.5,
    "closed_qa": 2.6,
    "extract": 1.9,
}

# Table 3 of the paper: the yes/no questions asked of every output, in its order.
METADATA_FIELDS: tuple[str, ...] = (
    "fails_task",
    "inappropriate",
    "hallucination",
    "satisfies_constraint",
    "sexual",
    "violent",
    "encourages_harm",
    "denigrates",
    "harmful_advice",
    "expresses_opinion",
    "moral_judgment",
)

# What is asked of every answer to a question, to grade TruthfulQA (Lin et al. 2021).
TRUTH_FIELDS: tuple[str, ...] = ("true", "informative")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt, from a user of a model (``api``) or written by a labeler."""

    id: str
    text: str
    source: Source = "api"
    kind: PromptKind | None = None
    user: str | None = None
    use_case: str | None = None
    split: Split = "train"
    language: str | None = None


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A response that a labeler wrote, to be imitated (step 1)."""

    prompt_id: str
    prompt: str
    response: str
    labeler: str | None = None
    split: Split = "train"


@dataclass(frozen=True, slots=True)
class Completion:
    """A response of a model, to be rated and ranked. ``model`` is never shown to a labeler.

    ``finished`` is False where the token limit cut it, before EOS or a stop text.
    """

    id: str
    text: str
    model: str | None = None
    finished: bool = True


@dataclass(frozen=True, slots=True)
class Rating:
    """One labeler's Likert rating (1 worst to 7 best) of one completion, and the flags of Table 3.

    A flag that is absent or None was not asked or not answered; it is not a "no".
    """

    overall: int
    flags: dict[str, bool | None] = field(default_factory=dict[str, bool | None])


@dataclass(frozen=True, slots=True)
class Ranking:
    """One labeler's ranking of a prompt's K completions: rank 1 is best, equal ranks are ties."""

    prompt_id: str
    prompt: str
    completions: tuple[Completion, ...]
    ranks: tuple[int, ...]
    labeler: str | None = None
    cohort: Cohort = "train"
    ratings: tuple[Rating | None, ...] | None = None
    split: Split = "train"


@dataclass(frozen=True, slots=True)
class Judgement:
    """One judge's verdict on the outputs of several models for one prompt.

    ``ranks[i]`` and ``ratings[i]`` belong to ``models[i]``; rank 1 is best, equal ranks are ties.
    """

    prompt_id: str
    models: tuple[str, ...]
    ranks: tuple[int, ...]
    labeler: str
    cohort: Cohort = "train"
    ratings: tuple[Rating | None, ...] | None = None


def rating_to_row(rating: Rating | None) -> dict[str, Any] | None:
    """The JSON form of a rating: ``overall`` beside the flags, flat."""
    return None if rating is None else {"overall": rating.overall, **rating.flags}


def to_row(record: Prompt | Demonstration | Ranking | Judgement) -> dict[str, Any]:
    """The JSON row of a record, with the field names of the snapshot files."""
    row = asdict(record)
    if isinstance(record, Ranking | Judgement) and record.ratings is not None:
        row["ratings"] = [rating_to_row(rating) for rating in record.ratings]
    return row


def judgement_from_row(row: dict[str, Any]) -> Judgement:
    """The judgement of a row that ``to_row`` made."""
    ratings = row.get("ratings")
    return Judgement(
        row["prompt_id"],
        tuple(row["models"]),
        tuple(row["ranks"]),
        row["labeler"],
        row["cohort"],
        None if ratings is None else tuple(_rating_from_row(rating) for rating in ratings),
    )


def _rating_from_row(row: dict[str, Any] | None) -> Rating | None:
    if row is None:
        return None
    return Rating(row["overall"], {key: row[key] for key in row if key != "overall"})
