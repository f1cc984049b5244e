"""The benchmarks of the labeling service, at a size that says only that they run and count."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from heedful.store import people, projects, tasks
from heedful.store.answers import RankingAnswer
from heedful.store.database import open_database
from heedful.store.tables import rankings


def result(benchmark, capsys, address):
    """The figures that a quick run prints, and its exit code."""
    code = benchmark.main([address, "--quick"])
    return json.loads(capsys.readouterr().out.splitlines()[-1]), code


def test_labelers_at_work_are_measured(load, capsys, address):
    found, code = result(load("label_load"), capsys, address)
    assert code == 0 and found["errors"] == {} and found["lost"] == 0
    done = found["requests"]
    assert done["claim"] == done["page"] == done["submit"] == found["submitted"] == 5
    assert 0 <= done["save"] <= 15
    assert 0 < found["page"]["p50_ms"] <= found["page"]["p95_ms"] <= found["page"]["max_ms"]
    assert found["memory_mib"] > 20


def test_a_kill_under_load_loses_nothing(load, capsys, address):
    found, code = result(load("label_kills"), capsys, address)
    assert code == 0 and found["kills"] == 1 and found["acknowledged"] > 3
    assert found["lost"] == found["twice"] == found["half_written"] == found["extra"] == 0


def test_a_large_store_is_filled_once_and_measured(load, capsys, address):
    found, code = result(load("label_scale"), capsys, address)
    assert code == 0 and found["errors"] == {}
    assert (found["prompts"], found["rankings"], found["ratings"]) == (600, 600, 2400)
    assert found["figures_s"] is not None and found["first"]["queue"]["p50_ms"] > 0
    assert 0 < found["first"]["labelers"]["p50_ms"] <= found["first"]["labelers"]["p99_ms"]
    again, code = result(load("label_scale"), capsys, address)
    assert code == 0 and again["prompts"] == 600
    assert again["rankings"] == 600 + found["submitted"] > 600


def test_percentiles_of_a_hundred_times(load):
    times = [number / 1000 for number in range(1, 101)]  # 1 to 100 ms
    found = load("label_service").percentiles(times)
    assert found == {"p50_ms": 51.0, "p95_ms": 96.0, "p99_ms": 100.0, "max_ms": 100.0}


@pytest.fixture
def answered(load, tmp_path):
    """A store with one task that somebody has answered, and what was heard of it."""
    service, kills = load("label_service"), load("label_kills")
    path = str(tmp_path / "labels.db")
    with service.opened(path) as database:
        service.furnish(database, 1, 1, 1)
        project = database.write(lambda c: projects.by_name(c, "load"))
        labeler = database.write(lambda c: people.members(c, project.id))[0].user_id
        answer = RankingAnswer((1, 1, 2, 3), (None,) * 4, notes="mine")

        def work(connection):
            found = tasks.claim(connection, project.id, labeler, "ranking", now=1.0)
            tasks.submit(connection, found.id, labeler, answer, key="k", now=2.0)

        database.write(work)
    return kills, path, kills.Known({"mine"}, {"mine"}, Counter())


def test_what_must_not_be_is_seen(answered):
    kills, path, known = answered
    wrong = dict.fromkeys(kills.MUST_BE_ZERO, 0)
    found = kills.look(path, known)
    assert found == wrong | {"committed_unheard": 0, "submissions": 1}
    unheard = kills.look(path, kills.Known(set(), {"mine"}, Counter()))
    assert unheard == wrong | {"committed_unheard": 1, "submissions": 1}
    lost = kills.look(path, kills.Known({"mine", "gone"}, {"mine", "gone"}, Counter()))
    assert lost == wrong | {"lost": 1, "committed_unheard": 0, "submissions": 1}
    assert kills.is_whole(path)
    database = open_database(path, now=3.0)
    database.write(lambda c: c.execute(rankings.delete()))
    database.close()
    found = kills.look(path, known)
    assert (found["lost"], found["half_written"]) == (1, 1)
