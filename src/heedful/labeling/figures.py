"""The figures of a project: how well labelers agree, and one line for each of them.

Brought up to date when rankings have changed, and for large projects beside the pages.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from heedful.labeling.agreement import (
    Concordance,
    RankingAgreement,
    agreement_of,
    concordance_of,
)
from heedful.labeling.quality import (
    Drift,
    LabelerQuality,
    drift,
    drifts,
    gold_accuracy,
    quality_of,
)
from heedful.labeling.rating_agreement import (
    Alpha,
    FlagAgreement,
    flag_agreement_of,
    in_table_order,
    krippendorff_alpha,
)
from heedful.labeling.tally import Tally
from heedful.store import history, labels
from heedful.store.database import Database

# Rankings whose figures a page waits for (about a tenth of a second); those of more are computed
# beside it, and take a twentieth of the time at most.
AT_ONCE = 1_000
REST = 20.0
# While tasks are read beside the pages, two thirds of the time are left to them.
PAUSE = 2.0
NUM_SAMPLES = 2000
# Shared tasks from which on an interval over tasks is computed with normal sums.
NORMAL_FROM = 2_000
_log = logging.getLogger("heedful.labeling")


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of a project: ``quality`` and ``drifts`` by user number.

    ``agreement`` and ``concordance`` are None without tasks that several have ranked, ``drift`` is
    that of all labelers together, None without constant tasks.
    """

    num_rankings: int
    agreement: RankingAgreement | None
    concordance: Concordance | None
    ratings: Alpha
    flags: tuple[FlagAgreement, ...]
    quality: dict[int, LabelerQuality]
    drifts: dict[int, Drift]
    drift: Drift | None


@dataclass(frozen=True, slots=True)
class Shown:
    """Figures for a page, as a cache computes them; ``as_of`` is None where they are those of now.

    ``figures`` is None while the first ones are being computed.
    """

    figures: Any
    as_of: float | None


def figures(connection: Any, project_id: int) -> Figures:
    """The figures of a project as it stands."""
    tally = Tally()
    tally.update(connection, project_id)
    return figures_of(tally, connection, project_id)


def figures_of(tally: Tally, connection: Any, project_id: int) -> Figures:
    """Agreement over shared work (neither gold nor drift tasks), and quality of each labeler."""
    rows, options = tally.rows, {"num_samples": NUM_SAMPLES, "normal_from": NORMAL_FROM}
    observed = tally.observations()
    gold = {
        str(task): dict(
            zip(map(str, labels.completions_of(connection, task)), answer["ranks"], strict=True)
        )
        for task, answer in history.reference_answers(connection, project_id).items()
        if task in tally.special_answers
    }
    special = [answer for answers in tally.special_answers.values() for answer in answers]
    constant = {str(task) for task, pool in tally.special.items() if pool == "drift"}
    quality = quality_of(tally.work(), observed, gold_accuracy(special, gold))
    fixed = [answer for answer in special if answer.prompt in constant]
    flags = {flag: rows.flagged[rows.flagged["flag"] == n] for n, flag in enumerate(tally.flags)}
    flag_figures = [
        flag_agreement_of(flag, flags[flag]["task"], flags[flag]["counts"].astype(float))
        for flag in in_table_order(flags)
    ]
    return Figures(
        num_rankings=len(rows.answers),
        agreement=agreement_of(observed, two_way=False, **options),
        concordance=concordance_of(rows.concordant["w"], **options),
        ratings=krippendorff_alpha(rows.rated["counts"].astype(float), "ordinal"),
        flags=tuple(one for one in flag_figures if one is not None),
        quality={int(name): one for name, one in quality.items()},
        drifts={int(name): one for name, one in drifts(fixed, constant).items()},
        drift=drift(fixed, constant),
    )


@dataclass(frozen=True, slots=True)
class _Kept:
    version: tuple[Any, ...]
    figures: Any
    at: float
    took_s: float  # of a processor


class FigureCache:
    """Figures of each project, brought up to date only when what they rest on has changed."""

    def __init__(
        self,
        database: Database,
        clock: Callable[[], float],
        *,
        compute: Callable[[Any, int], Any] | None = None,
        version_of: Callable[[Any, int], tuple[Any, ...]] = labels.version,
        at_once: int = AT_ONCE,
    ):
        """``version_of`` is cheap and changes when figures do; it begins with their size."""
        self._database, self._clock, self._version_of = database, clock, version_of
        self._compute, self._at_once = compute or self._brought_up_to_date, at_once
        self._kept: dict[int, _Kept] = {}
        self._tallies: dict[int, Tally] = {}
        self._under_way: set[int] = set()
        self._gate = threading.Lock()
        # Large projects are computed one after another; a small one waits for none of them.
        self._beside_pages = threading.Lock()
        self._of_project: dict[int, threading.Lock] = {}

    def get(self, project_id: int) -> Shown:
        """The figures of now where they are quick to have, else the last ones with their time."""
        with self._gate:
            if project_id in self._under_way:  # there is nothing newer yet, whatever has changed
                kept = self._kept.get(project_id)
                return Shown(None, None) if kept is None else Shown(kept.figures, kept.at)
        with self._database.read() as connection:
            version = self._version_of(connection, project_id)
        with self._gate:
            kept = self._kept.get(project_id)
            if kept is not None and kept.version == version:
                return Shown(kept.figures, None)
            is_small = version[0] <= self._at_once
            rests = kept is not None and self._clock() < kept.at + REST * kept.took_s
            if not is_small and not rests and project_id not in self._under_way:
                self._under_way.add(project_id)
                # A daemon: the service stops without waiting for figures.
                threading.Thread(target=self._update, args=(project_id,), daemon=True).start()
        if is_small:
            with self._lock_of(project_id):
                return Shown(self._fresh(project_id).figures, None)
        return Shown(None, None) if kept is None else Shown(kept.figures, kept.at)

    def _update(self, project_id: int) -> None:
        try:
            with self._beside_pages, self._lock_of(project_id):
                self._fresh(project_id)
        except Exception:  # the next page tries again; this one has what it had
            _log.exception("the figures of project %d could not be computed", project_id)
        finally:
            with self._gate:
                self._under_way.discard(project_id)

    def _lock_of(self, project_id: int) -> threading.Lock:
        """What the project's figures are computed under: its tally is changed on the way."""
        with self._gate:
            return self._of_project.setdefault(project_id, threading.Lock())

    def _fresh(self, project_id: int) -> _Kept:
        """New figures, computed in one view of the store, and kept. One at a time of a project."""
        begun, at = time.thread_time(), self._clock()
        with self._database.read() as connection:
            version = self._version_of(connection, project_id)
            found = self._compute(connection, project_id)
        kept = _Kept(version, found, at, time.thread_time() - begun)
        with self._gate:
            self._kept[project_id] = kept
        return kept

    def _brought_up_to_date(self, connection: Any, project_id: int) -> Figures:
        """The figures from a tally that is kept, so that only what is new has to be read."""
        # Where something goes wrong on the way the next one begins anew.
        tally = self._tallies.pop(project_id, None) or Tally()
        tally.update(connection, project_id, self._rest)
        found = figures_of(tally, connection, project_id)
        self._tallies[project_id] = tally
        return found

    def _rest(self, seconds: float) -> None:
        """Lets the pages have the processor, where figures are computed beside them."""
        if threading.current_thread().daemon:
            time.sleep(PAUSE * seconds)
