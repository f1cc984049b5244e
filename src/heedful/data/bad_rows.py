"""What happens to rows that cannot be used: listed in one error, or skipped and written down."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from heedful.errors import DataError

# Beside what was made of the data: the rows that were left out, with the reasons.
BAD_ROWS_FILE = "bad_rows.jsonl"
# Bad rows listed in one error: enough to see the pattern, few enough to read.
MAX_LISTED = 20
# Characters of a value shown in a message.
MAX_SHOWN_CHARS = 60


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file as it stands there; ``line`` counts from 1.

    ``values`` is any JSON value at first; the rows that ``read_rows`` gives are objects (dicts).
    """

    file: str
    line: int
    values: Any
    unit: str = "line"
    has_header: bool = False  # its fields are named in line 1, once for all rows


@dataclass(frozen=True, slots=True)
class BadRow:
    """Why a row cannot be used; ``line`` is None where the file itself is at fault."""

    file: str
    line: int | None
    field: str | None
    found: str
    needed: str
    mend: str
    unit: str = "line"

    @property
    def reason(self) -> str:
        field = "" if self.field is None else f"field {self.field!r}: "
        return f"{field}found {self.found}; needed {self.needed}. {self.mend}"


class RowProblem(Exception):
    """A row cannot be used; turned into a BadRow where the file and the line are known.

    ``of_fields``: it lacks fields, so in a table all rows have the problem that its header has.
    """

    def __init__(
        self, field: str | None, found: str, needed: str, mend: str, of_fields: bool = False
    ):
        super().__init__(found)
        self.field, self.found, self.needed, self.mend = field, found, needed, mend
        self.of_fields = of_fields

    def at(self, row: Row) -> BadRow:
        return BadRow(
            row.file, row.line, self.field, self.found, self.needed, self.mend, unit=row.unit
        )


class BadRows:
    """The policy for bad rows, and the counts of what was left out.

    By default bad rows are collected and raised together: at the end of the data, or as soon as
    there are twenty. With ``skip`` reading goes on, and each one is written to ``to`` (JSONL: the
    reason and the row). ``num_unranked`` counts rows that are sound but carry no ranking.
    ``skip_with`` is what the user does to skip them, None where nothing can be skipped.
    """

    def __init__(
        self,
        *,
        skip: bool = False,
        to: Path | None = None,
        limit: int = MAX_LISTED,
        skip_with: str | None = "set data.skip_bad_rows = true",
    ):
        self.skip = skip
        self.skip_with = skip_with
        self.to = to
        self.limit = limit
        self.num_bad = 0
        self.num_unranked = 0
        # A file that is read twice (once per split) has what it lacks counted once.
        self._seen: set[tuple[str, int | None]] = set()
        self._pending: list[BadRow] = []

    def add(self, bad: BadRow, raw: Any = None) -> None:
        """Notes one bad row; raises DataError when the limit is reached and nothing is skipped."""
        if self.skip:
            if not self._is_new(bad.file, bad.line):
                return
            self.num_bad += 1
            if self.to is not None:
                self._write(bad, raw)
            return
        self.num_bad += 1
        self._pending.append(bad)
        if len(self._pending) >= self.limit:
            self.raise_pending()

    def add_unranked(self, row: Row) -> None:
        """Notes one row that is sound but carries no ranking."""
        self.num_unranked += self._is_new(row.file, row.line)

    def raise_pending(self) -> None:
        """Raises one DataError that lists every bad row noted so far, if there are any."""
        if not self._pending:
            return
        found, self._pending = self._pending, []
        head = "1 row cannot be used" if len(found) == 1 else f"{len(found)} rows cannot be used"
        if len(found) >= self.limit:
            head = f"the first {len(found)} rows that cannot be used"
        mend = "Mend them, or take them out."
        if self.skip_with is not None:
            mend = (
                f"Mend them, or {self.skip_with} to go on without them: they are then written to a "
                "file with the reasons."
            )
        raise DataError("\n  ".join([f"{head}:", *_grouped(found)]) + f"\n{mend}")

    def _is_new(self, file: str, line: int | None) -> bool:
        is_new = (file, line) not in self._seen
        self._seen.add((file, line))
        return is_new

    def _write(self, bad: BadRow, raw: Any) -> None:
        assert self.to is not None
        self.to.parent.mkdir(parents=True, exist_ok=True)
        # The first bad row of this object begins the file anew: a second run does not add to it.
        with self.to.open("w" if self.num_bad == 1 else "a", encoding="utf-8") as out:
            row = {**asdict(bad), "row": raw}
            out.write(json.dumps(row, ensure_ascii=False, default=repr) + "\n")


def _grouped(found: list[BadRow]) -> list[str]:
    """One line per reason, with all the places where it was met."""
    places: dict[tuple[str, str, str], list[str]] = {}
    for bad in found:
        numbers = places.setdefault((bad.file, bad.reason, bad.unit), [])
        if bad.line is not None:
            numbers.append(str(bad.line))
    lines = []
    for (file, reason, unit), numbers in places.items():
        plural = "s" if len(numbers) > 1 else ""
        where = f"{file}, {unit}{plural} {', '.join(numbers)}" if numbers else file
        lines.append(f"{where}: {reason}")
    return lines


def shown(value: Any) -> str:
    """A value as it is quoted in a message: its JSON, cut to a readable length."""
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= MAX_SHOWN_CHARS else text[: MAX_SHOWN_CHARS - 3] + "..."
