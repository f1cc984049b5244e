"""What the store knows, as the statistics read it: how well labelers agree, one line for each.

Computed when rankings have changed, and for large projects beside the pages.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from heedful.labeling.agreement import (
    Answer,
    Concordance,
    FlagAgreement,
    RankingAgreement,
    RatingAgreement,
    concordance,
    flag_agreement,
    ranking_agreement,
    rating_agreement,
)
from heedful.labeling.quality import Drift, LabelerQuality, drift, labeler_quality
from heedful.records import Rating
from heedful.store import history, labels
from heedful.store.database import Database
from heedful.store.labels import RankingRow, Version

# Rankings whose figures a page waits for (about a tenth of a second); those of more are computed
# beside it, and take a twentieth of the time at most.
AT_ONCE = 1_000
REST = 20.0
_log = logging.getLogger("heedful.labeling")


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of a project: ``quality`` and ``drifts`` by user number.

    ``agreement`` and ``concordance`` are None without tasks that several have ranked.
    """

    agreement: RankingAgreement | None
    concordance: Concordance | None
    ratings: RatingAgreement
    flags: tuple[FlagAgreement, ...]
    quality: dict[int, LabelerQuality]
    drifts: dict[int, Drift]


@dataclass(frozen=True, slots=True)
class Shown:
    """Figures for a page; ``as_of`` is None where they are those of now.

    ``figures`` is None while the first ones are being computed.
    """

    figures: Figures | None
    as_of: float | None


def figures(connection: Any, project_id: int) -> Figures:
    """Agreement over shared work (neither gold nor drift tasks), and quality of each labeler."""
    num_answers = labels.rankings_by_task(connection, project_id)
    shared_tasks = {task for task, number in num_answers.items() if number > 1}
    special = labels.special_tasks(connection, project_id)
    outputs: dict[int, tuple[int, ...]] = {}  # of gold tasks

    def rows() -> Iterator[RankingRow]:
        for row in labels.ranking_rows(connection, project_id):
            if special.get(row.task_id) == "gold":
                outputs[row.task_id] = row.outputs
            yield row

    lengths = labels.output_lengths(connection, project_id)
    answers = list(answers_of(rows(), lengths, shared_tasks))
    gold = {
        str(task): dict(zip(map(str, outputs[task]), answer["ranks"], strict=True))
        for task, answer in history.reference_answers(connection, project_id).items()
        if task in outputs
    }
    constant = {str(task) for task, pool in special.items() if pool == "drift"}
    # What one labeler alone has answered says nothing of agreement: most tasks are left out here.
    work = {str(task) for task in shared_tasks - special.keys()}
    shared = [answer for answer in answers if answer.prompt in work]
    quality = labeler_quality(answers, gold=gold, constant=constant)
    fixed = [answer for answer in answers if answer.prompt in constant]
    drifts = {name: drift(fixed, constant, labeler=name) for name in quality if fixed}
    return Figures(
        agreement=ranking_agreement(shared),
        concordance=concordance(shared),
        ratings=rating_agreement(shared),
        flags=flag_agreement(shared),
        quality={int(name): one for name, one in quality.items()},
        drifts={int(name): one for name, one in drifts.items() if one is not None},
    )


# A million ratings fit into memory without their flags, which only shared tasks need.
_OVERALL = {overall: Rating(overall) for overall in range(1, 8)}


def answers_of(
    rows: Iterable[RankingRow], lengths: dict[int, int], shared: Container[int]
) -> Iterator[Answer]:
    """The rankings in the order in which their labelers saw the outputs; a task is a prompt.

    Ratings are without their flags but for the ``shared`` tasks.
    """
    for row in rows:
        shown, ratings = row.display_order, row.ratings
        if row.task_id not in shared:
            ratings = tuple(None if one is None else _OVERALL[one.overall] for one in ratings)
        yield Answer(
            prompt=sys.intern(str(row.task_id)),
            labeler=sys.intern(str(row.labeler_id)),
            outputs=tuple(str(row.outputs[place]) for place in shown),
            ranks=tuple(row.ranks[place] for place in shown),
            lengths=tuple(lengths[row.outputs[place]] for place in shown),
            ratings=tuple(ratings[place] for place in shown),
            active_s=row.active_s,
            submitted_s=row.at,
        )


@dataclass(frozen=True, slots=True)
class _Kept:
    version: Version
    figures: Figures
    at: float
    took_s: float  # of a processor


class FigureCache:
    """The figures of each project, computed again only when its rankings have changed."""

    def __init__(
        self,
        database: Database,
        clock: Callable[[], float],
        *,
        compute: Callable[[Any, int], Figures] = figures,
        at_once: int = AT_ONCE,
    ):
        self._database, self._clock = database, clock
        self._compute, self._at_once = compute, at_once
        self._kept: dict[int, _Kept] = {}
        self._under_way: set[int] = set()
        self._gate = threading.Lock()
        self._one_at_a_time = threading.Lock()

    def get(self, project_id: int) -> Shown:
        """The figures of now where they are quick to have, else the last ones with their time."""
        with self._database.read() as connection:
            version = labels.version(connection, project_id)
        with self._gate:
            kept = self._kept.get(project_id)
            if kept is not None and kept.version == version:
                return Shown(kept.figures, None)
            is_small = version.num_rankings <= self._at_once
            rests = kept is not None and self._clock() < kept.at + REST * kept.took_s
            if not is_small and not rests and project_id not in self._under_way:
                self._under_way.add(project_id)
                # A daemon: the service stops without waiting for figures.
                threading.Thread(target=self._update, args=(project_id,), daemon=True).start()
        if is_small:
            return Shown(self._fresh(project_id).figures, None)
        return Shown(None, None) if kept is None else Shown(kept.figures, kept.at)

    def _update(self, project_id: int) -> None:
        try:
            with self._one_at_a_time:
                self._fresh(project_id)
        except Exception:  # the next page tries again; this one has what it had
            _log.exception("the figures of project %d could not be computed", project_id)
        finally:
            with self._gate:
                self._under_way.discard(project_id)

    def _fresh(self, project_id: int) -> _Kept:
        """New figures, computed in one view of the store, and kept."""
        begun, at = time.thread_time(), self._clock()
        with self._database.read() as connection:
            version = labels.version(connection, project_id)
            found = self._compute(connection, project_id)
        kept = _Kept(version, found, at, time.thread_time() - begun)
        with self._gate:
            self._kept[project_id] = kept
        return kept
