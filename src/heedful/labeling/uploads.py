"""Uploaded files into a project: all of a file is checked before any of it is kept."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from heedful.errors import DataError
from heedful.labeling.service import Readers
from heedful.records import Completion, Prompt
from heedful.store import pools, projects
from heedful.store.answers import MAX_TEXT_CHARS
from heedful.store.database import Database

# Rows of one transaction: other people's saves wait for no more than that.
PIECE_ROWS = 200
MAX_K = 9  # outputs that a labeler can rank (paper: 4 to 9)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import has added; prompts that were there already are among ``num_prompts``."""

    num_prompts: int
    num_tasks: int


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that somebody sends: its content, and a name that only its suffix is taken from."""

    name: str
    content: BinaryIO

    def read(self, read_path: Any, suffixes: Sequence[str]) -> list[Any]:
        """The records of the file, all of them; DataError names the lines that are no good."""
        suffix = Path(self.name).suffix.lower()
        if suffix not in suffixes:
            raise DataError(f"the file ends in {suffix!r}: send one of {', '.join(suffixes)}")
        with tempfile.TemporaryDirectory(prefix="heedful-") as folder:
            path = Path(folder) / f"upload{suffix}"
            with path.open("wb") as target:
                shutil.copyfileobj(self.content, target)
            try:
                found = list(read_path(path))
            except UnicodeDecodeError as error:
                raise DataError("the file is not UTF-8: save it as UTF-8") from error
            except DataError as error:
                raise DataError(str(error).replace(f"{folder}/", "")) from error
        if not found:
            raise DataError("the file has no rows")
        return found


def import_prompts(
    database: Database,
    project: projects.Project,
    upload: Upload,
    readers: Readers,
    *,
    make_tasks: bool,
    actor: int,
    now: float,
) -> Imported:
    """Adds the prompts of a file, and for each (if asked) a task to write a demonstration."""
    found: list[Prompt] = upload.read(readers.prompts, readers.suffixes)
    for prompt in found:
        _check(prompt, ())
    for piece in _pieces(found):

        def add(connection: Any, piece: Sequence[Prompt] = piece) -> None:
            numbers = projects.add_prompts(connection, project.id, piece, actor=actor, now=now)
            for number in numbers.values() if make_tasks else ():
                pools.add_demonstration_task(connection, project, number)

        database.write(add)
    num_different = len({prompt.id for prompt in found})
    return Imported(num_different, num_different if make_tasks else 0)


def import_completions(
    database: Database,
    project: projects.Project,
    upload: Upload,
    readers: Readers,
    *,
    pool: pools.Pool = "work",
    actor: int,
    now: float,
) -> Imported:
    """Adds prompts with their completions, and for each a task to rate and rank them.

    With the pool "drift" everybody is given them now and then: constant pairs of a baseline and a
    reference, say, on which a labeler's answers should stay the same.
    """
    rows: list[tuple[Prompt, tuple[Completion, ...]]]
    rows = upload.read(readers.completions, readers.suffixes)
    merged: dict[str, tuple[Prompt, dict[str, Completion]]] = {}
    for prompt, given in rows:
        kept = merged.setdefault(prompt.id, (prompt, {}))[1]
        kept |= {completion.id: completion for completion in given}
    for prompt, completions in merged.values():
        _check(prompt, tuple(completions.values()))
        if not 2 <= len(completions) <= MAX_K:
            raise DataError(
                f"prompt {prompt.id} has {len(completions)} completions: people rank 2 to {MAX_K}"
            )
    for piece in _pieces(list(merged.values())):

        def add(connection: Any, piece: Any = piece) -> None:
            given = [prompt for prompt, _ in piece]
            numbers = projects.add_prompts(connection, project.id, given, actor=actor, now=now)
            for prompt, completions in piece:
                number = numbers[prompt.id]
                outputs = list(completions.values())
                made = projects.add_completions(connection, number, outputs)
                pools.add_ranking_task(connection, project, number, made, pool=pool)

        database.write(add)
    return Imported(len(merged), len(merged))


def _check(prompt: Prompt, completions: Sequence[Completion]) -> None:
    """What the store would refuse, said before anything is written."""
    named = [(f"prompt {prompt.id}", prompt.id, prompt.text)]
    named += [
        (f"completion {one.id} of prompt {prompt.id}", one.id, one.text) for one in completions
    ]
    for what, name, text in named:
        if not 0 < len(name) <= 200:
            raise DataError(f"{what[:100]}: its id has {len(name)} characters, 200 are the most")
        if len(text) > MAX_TEXT_CHARS:
            raise DataError(f"{what} has {len(text):,} characters, {MAX_TEXT_CHARS:,} are the most")
        if "\x00" in text + name:
            raise DataError(f"{what} has a NUL character in it: take it out")


def _pieces(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(rows), PIECE_ROWS):
        yield rows[start : start + PIECE_ROWS]
