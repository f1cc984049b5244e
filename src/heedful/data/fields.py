"""The fields of a row: each function returns a value of the type it should have, or raises what is
wrong with it. ``None`` counts as absent, because Parquet has every column in every row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from heedful.data.bad_rows import RowProblem, shown

Fields = Mapping[str, Any]


def has(row: Fields, field: str) -> bool:
    """Whether the row has a value in this field."""
    return row.get(field) is not None


def text_of(row: Fields, field: str, required: str | None = None) -> str:
    """A text; it may be empty unless ``required`` says what it has to be."""
    value = row.get(field)
    if not isinstance(value, str):
        found = "nothing" if field not in row else f"{type(value).__name__} {shown(value)}"
        raise RowProblem(field, found, "text", 'Write the value as text in "quotes".')
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
        found = "nothing" if field not in row else f"{type(value).__name__} {shown(value)}"
        raise RowProblem(field, found, "a list", "Write it as a JSON list: [..., ...].")
    return value


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
