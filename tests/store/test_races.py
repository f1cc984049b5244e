"""Labelers at once, on threads and on processes: nothing twice, nothing over its target, nothing
lost. ``benchmarks/store_races.py`` does the same at any size."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from heedful.store import tasks
from heedful.store.answers import DemonstrationAnswer

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "store_races.py"


def race(address, *arguments):
    small = ("--labelers", "9", "--tasks", "4", "--forget", "7", "--repeat", "3")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), address, *small, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def expect(found):
    wrong = ("tasks_over_target", "answers_twice", "slots_lost", "half_written", "audit_broken")
    assert {name: found[name] for name in wrong} == dict.fromkeys(wrong, 0)
    assert 20 <= found["submissions"] <= 36  # 9 labelers, 4 tasks each, some given back


def test_threads_on_one_sqlite_file(tmp_path):
    expect(race(str(tmp_path / "labels.db"), "--threads", "9"))


def test_processes_on_one_postgresql(postgresql_store):
    expect(race(postgresql_store, "--processes", "2"))


def at_once(function, number=6):
    """What so many calls at the same time return."""
    with ThreadPoolExecutor(number) as pool:
        return [f.result() for f in [pool.submit(function) for _ in range(number)]]


def test_one_labeler_in_many_tabs_gets_one_task_and_submits_once(house):
    who, project = house.labelers[0], house.project.id

    def claim():
        return house.write(tasks.claim, project, who, "demonstration", now=house.now).id

    (work,) = set(at_once(claim))

    def submit():
        answer = DemonstrationAnswer("text")
        return house.write(tasks.submit, work, who, answer, key="key", now=house.now)

    receipts = at_once(submit)
    assert len({receipt.submission_id for receipt in receipts}) == 1
    assert sorted(receipt.is_replay for receipt in receipts) == [False] + 5 * [True]


def test_the_last_task_goes_to_one_of_those_who_ask(house):
    names = iter(house.labelers[:3])

    def claim():
        who = next(names)
        return house.write(tasks.claim, house.project.id, who, "demonstration", now=house.now)

    assert sorted(work is None for work in at_once(claim, 3)) == [False, True, True]
