"""What is in a run directory, read: results, training stages, the environment they were made in.

A run may be a loop with its stages in ``stages/``, one step made by hand, or a folder of such
steps. What cannot be read is noted among the problems and left out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heedful.errors import DataError
from heedful.figures import Row, rows_of
from heedful.metrics import METRICS_FILE, read_metrics

# Of the environment of heed eval, which stands among its results.
ENVIRONMENT_FILE = "env.json"


@dataclass(frozen=True, slots=True)
class Run:
    """What is in a run directory; what could not be read is among the problems."""

    path: Path
    summary: Row
    claims: list[Row]
    evaluations: dict[str, Row]  # results of heed eval by their places in the run
    env: Any
    problems: list[str]

    def results(self, suite: str) -> list[Row]:
        """The results of a suite of heed eval, "preference" among them."""
        ending = f"/{suite}.json"
        return [found for place, found in self.evaluations.items() if place.endswith(ending)]


def read_run(path: Path) -> Run:
    """The run; DataError where there is no such directory."""
    if not path.is_dir():
        raise DataError(f"{path} is not a directory: name the run directory of a loop")
    problems: list[str] = []
    found = read_json(path / "summary.json", problems)
    return Run(
        path,
        found if isinstance(found, dict) else {},
        rows_of(read_json(path / "claims.json", problems)),
        _read_evaluations(path, problems),
        _environment(path, problems),
        problems,
    )


def step_dirs(run_dir: Path, file: str = METRICS_FILE) -> list[Path]:
    """The directories of a run's steps that have the file: in ``stages/``, the run itself where it
    is one step, and those right below it where it is a folder of steps; no name twice.
    """
    places = [*sorted(run_dir.glob("stages/*")), run_dir, *sorted(run_dir.glob("*"))]
    found: dict[str, Path] = {}
    for place in places:
        if (place / file).is_file():
            found.setdefault(place.resolve().name, place)
    return list(found.values())


def read_stages(run_dir: Path, problems: list[str]) -> dict[str, list[Row]]:
    """The metrics of every step by its name."""
    found = {}
    for place in step_dirs(run_dir):
        try:
            found[place.resolve().name] = rows_of(read_metrics(place))
        except (DataError, OSError, UnicodeDecodeError) as error:
            file = (place / METRICS_FILE).relative_to(run_dir)
            problems.append(f"{file} could not be read: {error}")
    return found


def has_results(run_dir: Path, own: Sequence[str]) -> bool:
    """Whether a report of the directory would show anything; ``own`` are files that say so."""
    is_begun = any((run_dir / name).exists() for name in own)
    return is_begun or bool(step_dirs(run_dir) or _evaluation_files(run_dir))


def read_text(path: Path, problems: list[str]) -> str | None:
    """A file's text; None where it is missing or unreadable, the latter added to ``problems``."""
    if not path.exists():
        return None
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{path.name} could not be read: {error}")
        return None


def read_json(path: Path, problems: list[str]) -> Any:
    """A file's JSON value; None where it is missing or unreadable, the latter a problem."""
    text = read_text(path, problems)
    if text is None:
        return None
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        problems.append(f"{path.name}, line {error.lineno}: not JSON ({error.msg})")
        return None


def _evaluation_files(run_dir: Path) -> list[Path]:
    paths = [*sorted(run_dir.glob("eval/*.json")), *sorted(run_dir.glob("stages/*/eval/*.json"))]
    return [path for path in paths if path.name != ENVIRONMENT_FILE]


def _read_evaluations(run_dir: Path, problems: list[str]) -> dict[str, Row]:
    """The results of heed eval in a run, by their places in it."""
    found = {
        path.relative_to(run_dir).as_posix(): read_json(path, problems)
        for path in _evaluation_files(run_dir)
    }
    return {place: one for place, one in found.items() if isinstance(one, dict)}


def _environment(run_dir: Path, problems: list[str]) -> Any:
    """The env.json of the step that was trained last, else the run's, else the last of a stage.

    Steps of one run share a machine, but code may change between them: the last is nearest. What
    only measured may have run long after, with other code.
    """
    trained = [place / ENVIRONMENT_FILE for place in step_dirs(run_dir)]
    own = [run_dir / ENVIRONMENT_FILE]
    others = list(run_dir.glob(f"stages/*/{ENVIRONMENT_FILE}"))
    for files in (trained, own, others):
        there = [file for file in files if file.is_file()]
        if there:
            return read_json(max(there, key=lambda file: file.stat().st_mtime), problems)
    return None
