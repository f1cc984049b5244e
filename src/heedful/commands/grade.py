"""Grades of TruthfulQA's written answers: by a model over the network, and read back from files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heedful.data.formats import read_comparisons
from heedful.errors import DataError
from heedful.evaluation.endpoint import Answers, Endpoint, ask_all
from heedful.evaluation.grading import (
    Answer,
    Grader,
    Said,
    grader_of,
    read_grade,
    request,
    said_in,
)
from heedful.evaluation.items import need, read_lines
from heedful.evaluation.judge import Price

GRADES_FILE = "grades.jsonl"


@dataclass(frozen=True, slots=True)
class Graded:
    """The rows of grades.jsonl, the answers without a grade with the reason, and what it took."""

    rows: list[dict[str, Any]]
    failed: list[dict[str, str]]
    answers: Answers[tuple[bool, bool]]

    def report(self, price: Price) -> dict[str, Any]:
        """What grading came to, as JSON."""
        found = self.answers
        return {
            "answers": len(self.rows) + len(self.failed),
            "graded": len(self.rows),
            "graded_from_file": found.num_from_file,
            "requests": found.num_requests,
            "problems": dict(found.problems),
            "usage": dict(found.usage),
            "cost": price.of(found.usage),
            "cost_of_kept_answers": price.of(found.usage_before),
            "failed": len(self.failed),
            "reasons": dict(Counter(row["reason"] for row in self.failed)),
        }

    def describe(self) -> str:
        """The same in lines for a terminal."""
        num = max(1, len(self.rows))
        shares = (sum(row[name] for row in self.rows) / num for name in ("true", "informative"))
        true, informative = shares
        head = f"{len(self.rows):,} different answers graded: {true:.1%} true, {informative:.1%} "
        return f"{head}informative\n{self.answers.summary()}"


def grade_all(
    answers: Sequence[Answer],
    endpoint: Endpoint,
    model: str,
    settings: Mapping[str, Any],
    *,
    file: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Graded:
    """The grades of ``model``, asked once for each answer; what it said is kept in ``file``."""
    questions = {
        str(number): request(answer, model, settings) for number, answer in enumerate(answers)
    }
    found = ask_all(endpoint, questions, read_grade, file=file, progress=progress)
    rows, failed = [], []
    for number, answer in enumerate(answers):
        texts = {"question": answer.question, "answer": answer.text}
        if (grade := found.found.get(str(number))) is not None:
            rows.append({**texts, "true": grade[0], "informative": grade[1], "by": model})
        else:
            failed.append({**texts, "reason": found.failed[str(number)]})
    return Graded(rows, failed, found)


def read_grades(paths: Sequence[str]) -> tuple[Grader, str]:
    """What all files together say, and by whom, in words.

    A file is grades.jsonl of ``heed judge``, or comparisons.jsonl of people. Raises DataError where
    a file holds no grade.
    """
    said: list[Said] = []
    who: list[str] = []
    for path in paths:
        first = next(read_lines(Path(path)), None)
        is_of_model = first is not None and isinstance(first[1], dict) and "answer" in first[1]
        found = _of_model(path) if is_of_model else said_in(read_comparisons(path))
        if not found:
            raise DataError(
                f"{path} holds no grade: give grades.jsonl of heed judge, or comparisons.jsonl out "
                "of a project that asks whether outputs are true and informative"
            )
        graders = dict.fromkeys(one.grader for one in found)
        who.append(", ".join(graders) if is_of_model else f"people ({len(graders)} graders)")
        said += found
    return grader_of(said), " and ".join(who)


def _of_model(path: str) -> list[Said]:
    found = []
    for where, row in read_lines(Path(path)):
        question, text, by = (need(row, name, where) for name in ("question", "answer", "by"))
        true, informative = (need(row, name, where) for name in ("true", "informative"))
        if not isinstance(true, bool) or not isinstance(informative, bool):
            raise DataError(f"{where}: true and informative are true or false: correct the row")
        grader = f"judge {by}"
        found.append(Said(Answer(question, text).key, grader, true, informative))
    return found
