"""Counts of large projects: those of a moment ago with their time, and never for long."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest

from heedful.labeling.counts import FRESH_S, Counts


@pytest.fixture
def counted(house):
    """Counts whose counting is always long, by a clock that the test moves; and how often."""
    calls = []

    def count(connection, project_id):
        calls.append(project_id)
        return len(calls)

    counts = Counts(house.database, lambda: house.clock.now, count, quick_s=-1.0)

    def wait_for_end():
        while counts._under_way:
            time.sleep(0.001)

    return SimpleNamespace(counts=counts, calls=calls, clock=house.clock, wait=wait_for_end)


def test_what_is_quick_is_counted_for_every_page(house):
    calls = []
    counts = Counts(
        house.database, lambda: house.clock.now, lambda c, p: calls.append(p), quick_s=100.0
    )
    assert [counts.get(1).as_of for _ in range(3)] == [None] * 3 and calls == [1, 1, 1]


def test_a_page_has_the_last_counts_with_their_time_and_new_ones_are_made(counted):
    begun = counted.clock.now
    first = counted.counts.get(1)
    assert (first.value, first.as_of) == (1, None)
    again = counted.counts.get(1)  # at the same time: it rests
    assert (again.value, again.as_of) == (1, begun) and counted.calls == [1]
    assert not again.is_under_way
    counted.clock.now += FRESH_S
    late = counted.counts.get(1)
    assert (late.value, late.as_of) == (1, begun) and late.is_under_way
    counted.wait()
    assert counted.calls == [1, 1]
    now = counted.counts.get(1)
    assert (now.value, now.as_of) == (2, counted.clock.now)


def test_what_is_old_is_counted_before_the_page_and_so_is_what_was_just_done(counted):
    counted.counts.get(1)
    counted.clock.now += FRESH_S + 1.0
    assert (counted.counts.get(1).value, counted.counts.get(1, fresh=True).value) == (2, 3)
    assert counted.counts.get(1).as_of == counted.clock.now
    assert counted.counts.get(2).value == 4 and counted.calls == [1, 1, 1, 2]


def test_a_count_that_began_earlier_and_ended_later_is_not_kept(house):
    go, begun, numbers = threading.Event(), threading.Event(), iter((1, 2, 3))

    def count(connection, project_id):
        number = next(numbers)
        if number == 2:
            begun.set()
            assert go.wait(30)
        return number

    counts = Counts(house.database, lambda: house.clock.now, count, quick_s=-1.0)
    counts.get(1)
    house.clock.now += FRESH_S
    assert counts.get(1).is_under_way and begun.wait(30)
    house.clock.now += 1.0
    assert counts.get(1, fresh=True).value == 3
    go.set()
    while counts._under_way:
        time.sleep(0.001)
    kept = counts.get(1)
    assert (kept.value, kept.as_of) == (3, house.clock.now)


def test_pages_say_of_when_their_counts_are(house, completions_file):
    for name in ("queues", "totals"):
        getattr(house.app.state, name)._quick_s = -1.0
    ada, project = house.browser("ada"), "/admin/projects/1"
    assert "2 tasks were made" in house.load(completions_file).text
    text = ada.get(project).text
    assert "Counted at 2023-11-14T22:13:20Z." in text  # it rests: nothing is under way
    assert "Counted at" not in house.load(completions_file).text  # counted for this page
    ada.get(f"{project}/labelers")
    assert "as counted at 2023-11-14T22:13:20Z." in ada.get(f"{project}/labelers").text
    house.app.state.queues._under_way.add(1)
    house.app.state.totals._under_way.add(1)
    assert "22:13:20Z, and being counted again." in ada.get(project).text
    assert "22:13:20Z; being counted again." in ada.get(f"{project}/labelers").text
