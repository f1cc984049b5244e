"""JSONL files of the simulation: rows out, rows in, with errors that name the line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from heedful.errors import DataError


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """The number of rows written, one JSON object a line."""
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")
            count += 1
    return count


def read_rows(path: Path, needed: Iterable[str] = (), hint: str = "") -> Iterator[dict[str, Any]]:
    """The rows of a JSONL file; DataError where it is missing, broken, or lacks a needed field.

    ``hint`` tells how such a file comes to be.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist; {hint or 'write the world there first'}")
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                message = f"{path}, line {number}: not JSON ({error.msg}); write the file again"
                raise DataError(message) from error
            missing = [name for name in needed if name not in row]
            if missing:
                raise DataError(
                    f"{path}, line {number}: field {missing[0]!r} is missing; a row needs the "
                    f"fields {', '.join(needed)}"
                )
            yield row
