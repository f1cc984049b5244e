"""The fields of a row: each function returns a value of the type it should have, or raises what is
wrong with it. ``None`` counts as absent, because Parquet has every column in every row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

from heedful.data.bad_rows import RowProblem, shown
from heedful.records import USE_CASES

Fields = Mapping[str, Any]

# Every field that is read, and what others call some of them.
FIELDS = frozenset({
    "id", "prompt_id", "text", "prompt", "response", "completions", "ranks", "ratings",
    "responses", "ranking", "models", "chosen", "rejected", "instruction", "input", "output",
    "messages", "source", "kind", "user", "user_id", "use_case", "use", "split", "language",
    "labeler", "cohort", "model", "finished", "overall",
})  # fmt: skip
SYNONYMS = {
    "question": "prompt",
    "query": "prompt",
    "answer": "response",
    "completion": "response",
    "reply": "response",
    "rank": "ranks",
    "annotator": "labeler",
    "lang": "language",
}

# What others call the use cases of records.USE_CASES, as ``plain`` writes it.
USE_CASE_NAMES = {
    **dict.fromkeys(("generate", "text_generation", "writing", "creative_writing"), "generation"),
    **dict.fromkeys(("openqa", "open_q&a", "open_question_answering"), "open_qa"),
    **dict.fromkeys(("closedqa", "closed_q&a", "closed_question_answering"), "closed_qa"),
    **dict.fromkeys(("brainstorm", "ideas"), "brainstorming"),
    **dict.fromkeys(("rewriting", "paraphrase"), "rewrite"),
    **dict.fromkeys(("summarize", "summarise", "summarisation", "summary"), "summarization"),
    **dict.fromkeys(("classify",), "classification"),
    **dict.fromkeys(("extraction", "information_extraction"), "extract"),
    **dict.fromkeys(("chatting", "conversation", "dialogue"), "chat"),
}


def synonyms() -> str:
    """The names of others under which our fields are read, for a message."""
    return ", ".join(f"{name!r} for {ours}" for name, ours in SYNONYMS.items())


def use_case_of(row: Fields) -> str | None:
    """The use case of a row, or None: one of the paper's ten where it is plainly meant."""
    name = name_of(row, "use_case")
    if name is None:
        return None
    written = plain(name)
    known = USE_CASE_NAMES.get(written, written)
    return known if known in USE_CASES else name


def has(row: Fields, field: str) -> bool:
    """Whether the row has a value in this field."""
    return row.get(field) is not None


def plain(name: str) -> str:
    """A field's name as we would write it: "Use case" is use_case."""
    return "_".join(name.replace("-", " ").casefold().split())


def meant_by(names: Iterable[str], field: str) -> str | None:
    """The one of these names that was probably meant to be ``field``: by case, synonym, spelling.

    A name that is a field of its own is none of them.
    """
    others = {plain(name): name for name in names if name not in FIELDS and name != field}
    for name in others:
        if name == field or SYNONYMS.get(name) == field:
            return others[name]
    close = get_close_matches(field, others, n=1, cutoff=0.75)
    return others[close[0]] if close else None


@contextmanager
def inside(where: str) -> Iterator[None]:
    """Names the part of a row in which a problem was found: "completions[1]" counts from 0."""
    try:
        yield
    except RowProblem as problem:
        field = where if problem.field is None else f"{where}.{problem.field}"
        raise RowProblem(field, problem.found, problem.needed, problem.mend) from None


def text_of(row: Fields, field: str, required: str | None = None) -> str:
    """A text; it may be empty unless ``required`` says what it has to be."""
    value = row.get(field)
    if not isinstance(value, str):
        raise _not_a(row, field, "text", 'Write the value as text in "quotes".')
    if required and not value.strip():
        raise RowProblem(field, "empty text", required, "Fill it in, or drop the row.")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise RowProblem(
            field,
            "half of a surrogate pair (such as \\ud83d alone)",
            "text that can be written as UTF-8",
            "The text was cut inside a character: cut it again, by characters.",
        ) from None
    return value


def prompt_of(row: Fields, field: str) -> str:
    """A text that is not empty."""
    return text_of(row, field, required="a prompt")


def list_of(row: Fields, field: str) -> list[Any]:
    """A list of anything."""
    value = row.get(field)
    if not isinstance(value, list):
        raise _not_a(row, field, "a list", "Write it as a JSON list: [..., ...].")
    return value


def _not_a(row: Fields, field: str, needed: str, mend: str) -> RowProblem:
    """The problem of a value of another type, or of none, under this name or one like it."""
    if has(row, field):
        found = f"{type(row[field]).__name__} {shown(row[field])}"
        return RowProblem(field, found, needed, mend)
    meant = meant_by(row, field)
    if meant is not None:
        return RowProblem(field, f"{meant!r} instead", needed, f"Rename {meant!r} to {field!r}.")
    found = "null" if field in row else f"nothing (the fields are {', '.join(sorted(row))})"
    return RowProblem(field, found, needed, mend)


def name_of(row: Fields, field: str) -> str | None:
    """An id or a label, or None; whole numbers become text."""
    value = row.get(field)
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise RowProblem(
            field,
            f"{type(value).__name__} {shown(value)}",
            "text or a whole number",
            "Write it as text.",
        )
    return str(value)


def flag_of(row: Fields, field: str) -> bool | None:
    """True or false, or None where the row has neither."""
    value = row.get(field)
    if value is not None and not isinstance(value, bool):
        raise RowProblem(field, shown(value), "true, false or null", "Write it without quotes.")
    return value


def choice_of(row: Fields, field: str, values: dict[str, str]) -> Any:
    """What one of the known words stands for, or None where the row has none."""
    if not has(row, field):
        return None
    if isinstance(row[field], str) and row[field] in values:
        return values[row[field]]
    needed = f"one of {', '.join(values)}, or null"
    raise RowProblem(field, shown(row[field]), needed, "Correct the spelling, or drop the field.")
