"""What the answers of a project come to, task by task, kept in memory and brought up to date.

Of every answer and of every two answers to one task a short row is kept, in arrays: figures are
sums over these rows, exact and quick to have. Bringing them up to date reads the tasks whose
rankings have changed and no others, so its cost is that of what is new.

Legend: ``A`` answers, ``N`` observations (task, two labelers).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from heedful.labeling.agreement import RATINGS, Answer, concordances
from heedful.labeling.quality import HABITS, Work, work_of
from heedful.labeling.rating_agreement import flag_counts, rated_items, rating_counts
from heedful.statistics.pairs import Floats, Observations, observe
from heedful.store import labels
from heedful.store.labels import RankingRow
from heedful.store.pools import Pool

# Tasks read at once: few enough that nobody waits for long while they are added up.
TASKS_AT_ONCE = 200
Table = NDArray[Any]
_ANSWER = [
    ("task", "i8"),
    ("submission", "i8"),
    ("labeler", "i8"),
    ("num_outputs", "f8"),
    ("active_s", "f8"),
    ("habits", "f8", (len(HABITS), 2)),
]
_OBSERVED = [("task", "i8"), ("labelers", "i8", 2), ("counts", "f4", 5)]
_CONCORDANT = [("task", "i8"), ("w", "f8")]
_RATED = [("task", "i8"), ("counts", "i2", len(RATINGS))]
_FLAGGED = [("task", "i8"), ("flag", "i2"), ("counts", "i2", 2)]


class Rows(NamedTuple):
    """One table for each kind of row, each with the task of every row.

    Gold and drift tasks are among the answers and in none of the others: they were chosen, and
    everybody answers them.
    """

    answers: Table
    observed: Table
    concordant: Table
    rated: Table
    flagged: Table


EMPTY = Rows(*(np.zeros(0, kind) for kind in (_ANSWER, _OBSERVED, _CONCORDANT, _RATED, _FLAGGED)))


def _table(kind: Any, **columns: Any) -> Table:
    made: Any = np.zeros(len(columns["task"]), kind)
    for name, values in columns.items():
        made[name] = values
    return made


def answers_of(rows: Iterable[RankingRow], lengths: dict[int, int]) -> Iterator[Answer]:
    """The rankings in the order in which their labelers saw the outputs; a task is a prompt."""
    for row in rows:
        shown = row.display_order
        yield Answer(
            prompt=sys.intern(str(row.task_id)),
            labeler=sys.intern(str(row.labeler_id)),
            outputs=tuple(str(row.outputs[place]) for place in shown),
            ranks=tuple(row.ranks[place] for place in shown),
            lengths=tuple(lengths[row.outputs[place]] for place in shown),
            ratings=tuple(row.ratings[place] for place in shown),
            active_s=row.active_s,
            submitted_s=row.at,
        )


class Tally:
    """The rows of one project. ``special`` are its gold and drift tasks, with their answers."""

    def __init__(self) -> None:
        self.rows = EMPTY
        self.flags: list[str] = []  # the names of the flags, by their numbers
        self.special: dict[int, Pool] = {}
        self.special_answers: dict[int, list[Answer]] = {}

    def update(
        self, connection: Any, project_id: int, rest: Callable[[float], None] = lambda _: None
    ) -> int:
        """How many tasks were read, because their rankings or their pool have changed.

        ``rest`` is called with the seconds that some of them took, for others to come in between.
        """
        special = labels.special_tasks(connection, project_id)
        changed = _changed_tasks(self.rows.answers, connection, project_id)
        for task in special.keys() | self.special.keys():
            if special.get(task) != self.special.get(task):
                changed.add(task)
        self.special = special
        for task in changed:
            self.special_answers.pop(task, None)
        is_new = [np.isin(table["task"], list(changed), invert=True) for table in self.rows]
        parts = [Rows(*(t[kept] for t, kept in zip(self.rows, is_new, strict=True)))]
        in_order = sorted(changed)
        for start in range(0, len(in_order), TASKS_AT_ONCE):
            begun = time.thread_time()
            parts.append(
                self._read(connection, project_id, in_order[start : start + TASKS_AT_ONCE])
            )
            rest(time.thread_time() - begun)
        self.rows = Rows(*(np.concatenate(tables) for tables in zip(*parts, strict=True)))
        return len(changed)

    def _read(self, connection: Any, project_id: int, some: Collection[int]) -> Rows:
        """The rows of some tasks, as their rankings stand."""
        lengths = labels.output_lengths(connection, project_id, some)
        found = list(labels.ranking_rows(connection, project_id, of_tasks=some))
        answers = list(answers_of(found, lengths))
        for row, answer in zip(found, answers, strict=True):
            if row.task_id in self.special:
                self.special_answers.setdefault(row.task_id, []).append(answer)
        shared = [answer for answer in answers if int(answer.prompt) not in self.special]
        work = work_of(answers)
        return Rows(
            _table(
                _ANSWER,
                task=[row.task_id for row in found],
                submission=[row.submission_id for row in found],
                labeler=[row.labeler_id for row in found],
                num_outputs=work.num_outputs,
                active_s=work.active_s,
                habits=work.habits,
            ),
            *self._shared_rows(shared),
        )

    def _shared_rows(self, answers: Sequence[Answer]) -> tuple[Table, Table, Table, Table]:
        """The rows of tasks that measure agreement; an answer that stands alone gives none."""
        tasks = np.array([int(answer.prompt) for answer in answers], dtype=np.int64)
        rankings = [answer.ranked() for answer in answers]
        observed = observe(rankings)
        whole, w = concordances(rankings)
        rated = rated_items(answers, lambda rating: rating.overall)
        first, counts = rating_counts(rated)
        flagged = [np.zeros(0, _FLAGGED)]
        asked = {f for a in answers for rating in a.ratings if rating for f in rating.flags}
        for flag in sorted(asked):
            items = rated_items(answers, lambda rating, f=flag: rating.flags.get(f))
            places, said = flag_counts(items)
            if flag not in self.flags:
                self.flags.append(flag)
            of_task = [int(items[place].prompt) for place in places]
            number = self.flags.index(flag)
            flagged.append(_table(_FLAGGED, task=of_task, flag=number, counts=said))
        return (
            _table(
                _OBSERVED,
                task=observed.prompts.astype(np.int64),
                labelers=observed.labelers.astype(np.int64),
                counts=observed.counts,
            ),
            _table(_CONCORDANT, task=tasks[whole], w=w),
            _table(_RATED, task=[int(rated[place].prompt) for place in first], counts=counts),
            np.concatenate(flagged),
        )

    def work(self) -> Work:
        """The habits of every answer."""
        table = self.rows.answers
        columns = (table[name] for name in ("task", "labeler", "num_outputs", "active_s", "habits"))
        return Work(*columns)

    def observations(self) -> Observations:
        """Every two labelers on one task."""
        table = self.rows.observed
        nowhere = np.zeros((len(table), 2), dtype=np.intp)  # the rankings are not at hand
        counts: Floats = table["counts"].astype(float)
        return Observations(table["task"], table["labelers"], nowhere, counts)


def _changed_tasks(known: Table, connection: Any, project_id: int) -> set[int]:
    """The tasks of which another set of rankings stands than is known."""
    held = known["submission"]
    new = labels.standing(connection, project_id, after=int(held.max(initial=0)))
    there = labels.standing_sum(connection, project_id)
    here = (len(held) + len(new), int(held.sum()) + sum(submission for submission, _ in new))
    if here == there:
        return {task for _, task in new}
    # Something was withdrawn or erased; or came in late, with a number from before.
    before = set(zip(held.tolist(), known["task"].tolist(), strict=True))
    return {task for _, task in before ^ set(labels.standing(connection, project_id))}
