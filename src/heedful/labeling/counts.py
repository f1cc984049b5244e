"""Counts for pages: those of now, or where counting is long those of a moment ago with its time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from heedful.store.database import Database

QUICK_S = 0.02  # counting that is no longer than this is done for every page
FRESH_S = 60.0  # what is older is counted again before the page is shown
REST = 20.0  # times as long as counting takes: until then nothing is counted again
_log = logging.getLogger("heedful.labeling")


@dataclass(frozen=True, slots=True)
class Counted:
    """What was counted; ``as_of`` is None where it is of now. ``took_s`` is by the clock.

    ``begun`` is by a clock of its own that is never set back. ``is_under_way`` says whether newer
    counts are on their way.
    """

    value: Any
    at: float
    begun: float
    took_s: float
    as_of: float | None = None
    is_under_way: bool = False


class Counts:
    """What a function of the store counts, by project."""

    def __init__(
        self,
        database: Database,
        clock: Callable[[], float],
        count: Callable[[Any, int], Any],
        *,
        quick_s: float = QUICK_S,
    ):
        self._database, self._clock, self._count = database, clock, count
        self._quick_s = quick_s
        self._kept: dict[int, Counted] = {}
        self._under_way: set[int] = set()
        self._gate = threading.Lock()

    def get(self, project_id: int, *, fresh: bool = False) -> Counted:
        """The counts of a project; with ``fresh`` those of now."""
        now = self._clock()
        with self._gate:
            kept = self._kept.get(project_id)
            if (
                fresh
                or kept is None
                or kept.took_s <= self._quick_s
                or not 0.0 <= now - kept.at <= FRESH_S
            ):
                kept = None
            elif now - kept.at > REST * kept.took_s and project_id not in self._under_way:
                self._under_way.add(project_id)
                threading.Thread(target=self._again, args=(project_id,), daemon=True).start()
            is_under_way = project_id in self._under_way
        if kept is None:
            return self._fresh(project_id)
        return replace(kept, as_of=kept.at, is_under_way=is_under_way)

    def _again(self, project_id: int) -> None:
        try:
            self._fresh(project_id)
        except Exception:  # the next page tries again; this one has what it had
            _log.exception("project %d could not be counted", project_id)
        finally:
            with self._gate:
                self._under_way.discard(project_id)

    def _fresh(self, project_id: int) -> Counted:
        at, begun = self._clock(), time.monotonic()
        with self._database.read() as connection:
            value = self._count(connection, project_id)
        counted = Counted(value, at, begun, time.monotonic() - begun)
        with self._gate:
            kept = self._kept.get(project_id)
            if kept is None or kept.begun <= begun:  # a later count may have ended before this one
                self._kept[project_id] = counted
        return counted
