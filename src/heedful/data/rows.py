"""Rows and documents out of files: JSONL, JSON, CSV, Parquet, text, each also .gz, and the hub.

Everything streams, one row at a time; only a JSON list (one value) is read whole.
"""

from __future__ import annotations

import csv
import glob
import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from heedful.data.bad_rows import BadRow, BadRows, Row, shown
from heedful.data.fields import FIELDS, SYNONYMS, plain
from heedful.errors import DataError, MissingExtraError

Source = str | Path | Sequence[str | Path]

ROW_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
TEXT_SUFFIXES = (".txt",)
# Beside the data in a directory, but not data.
DROPPED_SUFFIX = ".dropped.jsonl"
NOT_DATA = ("manifest.json", "bad_rows.jsonl")
DOCUMENT_SEPARATOR = "<|endoftext|>"
HUB = "hf:"
PLAIN_TEXT = 'One prompt a line of plain text is not read: write {"text": "..."} for each.'

# Cells of a CSV that hold JSON, and cells where empty means the empty text (elsewhere: no value).
_JSON_CELLS = {"completions", "ranks", "ratings", "responses", "ranking", "models", "messages"}
_TEXT_CELLS = {"prompt", "text", "response", "chosen", "rejected", "instruction", "input", "output"}
# Cells may be as long as a document; the module's default is 128 KiB.
_MAX_CELL_CHARS = 1 << 30
_PARQUET_ROWS = 1024


def find_files(source: Source, suffixes: Sequence[str], kind: str | None = None) -> list[str]:
    """The files of a path, a glob, a directory, ``hf:owner/name``, or several of these, in order.

    A directory gives its own files with a known suffix, sorted (not those of its folders: name
    these with a glob); a snapshot directory gives the file named after ``kind``.
    """
    if not isinstance(source, str | Path):
        return [file for part in source for file in find_files(part, suffixes, kind)]
    text = str(source)
    if text.startswith(HUB):
        return [text]
    path = Path(text)
    if path.is_dir():
        return [str(file) for file in _files_in(path, suffixes, kind)]
    if path.exists():
        if not _suffix(path).endswith(tuple(suffixes)):
            raise DataError(
                f"{path}: the format is not known by its name; needed one of "
                f"{', '.join(suffixes)}, each also with .gz. {_mend_of_name(path)}"
            )
        return [text]
    matches = sorted(glob.glob(text, recursive=True))
    files = [m for m in matches if Path(m).is_file() and _suffix(m).endswith(tuple(suffixes))]
    if not files:
        relative = "" if path.is_absolute() else f"; it is relative to {Path.cwd()}"
        if glob.has_magic(text):
            raise DataError(
                f"{path} matches no file ending in {', '.join(suffixes)}: check the path{relative}."
            )
        raise DataError(f"{path} does not exist: check the path{relative}.")
    return files


def _mend_of_name(path: Path) -> str:
    if _suffix(path) in TEXT_SUFFIXES:
        return f"{PLAIN_TEXT} Name the file .jsonl."
    return "Rename the file."


def _files_in(directory: Path, suffixes: Sequence[str], kind: str | None) -> list[Path]:
    for name in (f"{kind}.jsonl", f"{kind}.jsonl.gz"):
        if kind is not None and (directory / name).is_file():
            return [directory / name]
    files = sorted(
        file
        for file in directory.iterdir()
        if file.is_file()
        and _suffix(file).endswith(tuple(suffixes))
        and file.name not in NOT_DATA
        and not file.name.endswith(DROPPED_SUFFIX)
        and not file.name.startswith((".", "_"))
    )
    if not files:
        raise DataError(
            f"{directory} holds no file ending in {', '.join(suffixes)} (each also .gz); files in "
            "folders inside it are read when a glob such as 'data/**/*.jsonl' names them."
        )
    return files


def _suffix(path: str | Path) -> str:
    """The last suffix of a file's name in lower case, without .gz."""
    return Path(str(path).lower().removesuffix(".gz")).suffix


def read_rows(files: Iterable[str], bad: BadRows) -> Iterator[Row]:
    """Every row of the files that is an object; what cannot be read goes to ``bad``.

    Raises what ``bad`` has collected when the files end.
    """
    for file in files:
        num_rows, num_bad = 0, bad.num_bad
        for row in _rows_of(file, bad):
            num_rows += 1
            if isinstance(row.values, dict):
                yield row
                continue
            kind = type(row.values).__name__
            found = f"{kind} {shown(row.values)}"
            mend = 'Write each row as {"field": value, ...}.'
            bad.add(
                BadRow(file, row.line, None, found, "an object", mend, unit=row.unit), row.values
            )
        if num_rows == 0 and bad.num_bad == num_bad:
            mend = "Take it out of the data, or write it again if it was cut."
            bad.add(BadRow(file, None, None, "an empty file", "at least one row", mend))
    bad.raise_pending()


def _rows_of(file: str, bad: BadRows) -> Iterator[Row]:
    if file.startswith(HUB):
        return _hub_rows(file)
    suffix = _suffix(file)
    if suffix == ".parquet":
        return _parquet_rows(file)
    if suffix in (".csv", ".tsv"):
        return _csv_rows(file, bad, "\t" if suffix == ".tsv" else ",")
    # Much that is called .json holds one object a line, so the first character decides.
    if suffix == ".json" and _first_character(file) == "[":
        return _json_list_rows(file)
    return _jsonl_rows(file, bad)


def _jsonl_rows(file: str, bad: BadRows) -> Iterator[Row]:
    for line, text in enumerate(_lines(file), start=1):
        text = text.rstrip()  # an end of line would count as a second line in the error's column
        if not text:
            continue
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            found, mend = _what_is_wrong(error)
            bad.add(BadRow(file, line, None, found, "one JSON object", mend), text)
            continue
        yield Row(file, line, values)


def _what_is_wrong(error: json.JSONDecodeError) -> tuple[str, str]:
    """(what was found, what to do) of a line that is not JSON."""
    if error.pos >= len(error.doc):
        found = f"a line that ends too early, at column {error.colno} ({error.msg})"
        return found, 'Close what is open: a ", ] or } is missing, or the line was cut in two.'
    if error.msg.startswith("Unterminated string"):
        found = f"a line that ends inside the text that begins at column {error.colno}"
        return found, 'Close it with ", or write the line again: it may have been cut in two.'
    found = f"text that is not JSON ({error.msg} at column {error.colno})"
    if error.pos == 0:  # not even the beginning is JSON: somebody's list of prompts
        return found, PLAIN_TEXT
    return found, "Write one whole JSON object on the line."


def _json_list_rows(file: str) -> Iterator[Row]:
    try:
        values = json.loads("".join(_lines(file)))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{file}, line {error.lineno}: not JSON ({error.msg}, column {error.colno}). Write one "
            "JSON list of objects, or one object a line and name the file .jsonl."
        ) from error
    for number, value in enumerate(values, start=1):
        yield Row(file, number, value, unit="item")


def _csv_rows(file: str, bad: BadRows, delimiter: str) -> Iterator[Row]:
    csv.field_size_limit(_MAX_CELL_CHARS)
    reader = csv.DictReader(_lines(file, newline=""), delimiter=delimiter)
    line = 2
    try:
        if reader.fieldnames:
            _require_columns(file, reader.fieldnames, delimiter)
            reader.fieldnames = _headers(reader.fieldnames)
        for cells in reader:
            start, line = line, reader.line_num + 1
            if None in cells:
                found = f"{len(cells[None])} more cells than the header names"
                mend = 'Put cells that hold the delimiter or a line break in "quotes".'
                needed = f"{len(cells) - 1} cells"
                bad.add(BadRow(file, start, None, found, needed, mend), list(cells.values()))
                continue
            values = {name: _cell(name, cell) for name, cell in cells.items()}
            yield Row(file, start, values, has_header=True)
    except csv.Error as error:
        raise DataError(f"{file}, line {line}: not CSV ({error}). Write the file again.") from error


def _require_columns(file: str, names: Sequence[str], delimiter: str) -> None:
    """Raises DataError where the one header holds what separates the columns of other tables."""
    other = next(
        (mark for mark in (";", "\t", "|", ",") if len(names) == 1 and mark in names[0]), ""
    )
    if other:
        suffix = "; or name it .tsv" if other == "\t" else ""
        raise DataError(
            f"{file}, line 1: the columns seem to be separated by {other!r}; needed {delimiter!r}. "
            f"Save the table again with {delimiter!r} as its separator{suffix}."
        )


def _headers(names: Sequence[str]) -> list[str]:
    """The headers of a table under our names: "Prompt" and "question" are prompt, unless another
    column has that name."""
    found = list(names)
    for to in (plain, _synonym):
        for place, name in enumerate(found):
            ours = to(name)
            if name not in FIELDS and ours in FIELDS and ours not in found:
                found[place] = ours
    return found


def _synonym(name: str) -> str:
    return SYNONYMS.get(plain(name), name)


def _cell(name: str, cell: str | None) -> Any:
    if not cell:
        return cell if name in _TEXT_CELLS else None
    if name in _JSON_CELLS or (name in ("chosen", "rejected") and cell.startswith("[{")):
        try:
            return json.loads(cell)
        except json.JSONDecodeError:
            return cell  # refused where the list is needed, with the cell in the message
    return cell


def _parquet_rows(file: str) -> Iterator[Row]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise MissingExtraError(
            f"{file} is Parquet, and pyarrow is not installed: pip install 'heedful[parquet]'"
        ) from error
    try:
        # Parquet is read from its end, so a compressed one has to be unpacked first.
        source = io.BytesIO(gzip.decompress(Path(file).read_bytes())) if _is_gz(file) else file
        number = 0
        for batch in ParquetFile(source).iter_batches(batch_size=_PARQUET_ROWS):
            for values in batch.to_pylist():
                number += 1
                yield Row(file, number, values, unit="row")
    except (ArrowException, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{file}: not a whole Parquet file ({error}). Fetch it again.") from error


def _hub_rows(source: str) -> Iterator[Row]:
    """Rows of ``hf:owner/name``, ``hf:owner/name@split`` or ``hf:owner/name:config@split``.

    Without a split it is the one called train; our own split is then a hash of the prompt.
    """
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise MissingExtraError(
            f"{source} is on the Hugging Face hub: pip install 'heedful[hub]'"
        ) from error
    name, _, split = source.removeprefix(HUB).partition("@")
    name, _, config = name.partition(":")
    try:
        rows = load_dataset(name, config or None, split=split or "train", streaming=True)
    except (ValueError, OSError) as error:
        raise DataError(
            f"{source} cannot be loaded ({error}): check the name, the split after @, the network "
            "and, for a private one, that you are logged in."
        ) from error
    for number, values in enumerate(rows, start=1):
        yield Row(source, number, dict(values), unit="row")


def read_documents(file: str) -> Iterator[str]:
    """The documents of a text file: what stands between lines that hold only ``<|endoftext|>``.

    A file without such a line is one document. Documents of white space alone are left out.
    """
    lines: list[str] = []
    for line in _lines(file):
        if line.rstrip("\n") == DOCUMENT_SEPARATOR:
            yield from _document(lines)
            lines = []
        else:
            lines.append(line)
    yield from _document(lines)


def _document(lines: list[str]) -> Iterator[str]:
    text = "".join(lines).strip("\n")
    if text and not text.isspace():
        yield text


def is_text(file: str) -> bool:
    """Whether a file holds documents (text) instead of rows."""
    return not file.startswith(HUB) and _suffix(file) in TEXT_SUFFIXES


def _lines(file: str, newline: str | None = None) -> Iterator[str]:
    """The lines of a text file, unpacked where the name ends in .gz, without a byte-order mark."""
    try:
        with _open(file, newline) as text:
            yield from text
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{file}: not a whole gzip file ({error}). Fetch it again.") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file}: not UTF-8 ({error.reason}, byte {error.object[error.start]:#x}). Convert it: "
            "iconv -f <its encoding> -t UTF-8."
        ) from error


def _open(file: str, newline: str | None) -> TextIO:
    if _is_gz(file):
        return gzip.open(file, "rt", encoding="utf-8-sig", newline=newline)
    return open(file, encoding="utf-8-sig", newline=newline)


def _is_gz(file: str) -> bool:
    return file.lower().endswith(".gz")


def _first_character(file: str) -> str:
    return next((line.lstrip()[0] for line in _lines(file) if line.strip()), "")
