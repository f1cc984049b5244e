"""heed snapshot: from a store to files, and what it says when it cannot."""

from __future__ import annotations

import hashlib
import json

import pytest

from heedful.cli import main
from heedful.records import Prompt
from heedful.store import people, pools, projects, snapshot, tasks
from heedful.store.answers import DemonstrationAnswer
from heedful.store.database import open_database

NOW = 1000.0


@pytest.fixture
def store(tmp_path):
    """A SQLite store with one demonstration in the project "first"."""
    path = tmp_path / "labels.db"
    database = open_database(path, now=NOW)

    def fill(c):
        admin = people.add_user(c, "a@x", "A", "admin", None, actor=None, now=NOW).id
        project = projects.create(c, "first", seed="s", actor=admin, now=NOW)
        people.join(c, project.id, admin, actor=admin, now=NOW)
        given = [Prompt(id="p", text="Say hello", split="train")]
        number = projects.add_prompts(c, project.id, given, actor=admin, now=NOW)["p"]
        pools.add_demonstration_task(c, project, number)
        work = tasks.claim(c, project.id, admin, "demonstration", now=NOW)
        assert work is not None
        answer = DemonstrationAnswer("Hello")
        tasks.submit(c, work.id, admin, answer, key="k", now=NOW)

    database.write(fill)
    database.close()
    return path


def run(store, out, *more):
    return main(["snapshot", f"--run_dir={out}", f"--database={store}", *more])


def test_a_snapshot_is_written_and_entered_in_the_store(store, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(store, out, "--project=first", "--pairs=true", "--parquet=true") == 0
    said = capsys.readouterr().out
    assert "1 rows" in said and "demonstrations.jsonl" in said
    (line,) = (out / "demonstrations.jsonl").read_text(encoding="utf-8").splitlines()
    row = json.loads(line)
    assert (row["prompt"], row["response"]) == ("Say hello", "Hello")
    assert (out / "pairs" / "comparisons.jsonl").read_text(encoding="utf-8") == ""
    assert (out / "parquet" / "demonstrations.parquet").is_file()
    database = open_database(store, now=NOW)
    with database.read() as connection:
        (made,) = snapshot.all_snapshots(connection, 1)
    database.close()
    assert made.manifest_sha256 in said
    exported = {name: digest for digest, name in made.exports.items()}
    parquet = (out / "parquet" / "demonstrations.parquet").read_bytes()
    assert exported["parquet/demonstrations.parquet"] == hashlib.sha256(parquet).hexdigest()
    assert "pairs/comparisons.jsonl" in exported
    assert run(store, out, "--project=first") == 2  # it is there already
    before = (out / "manifest.json").read_bytes()
    assert run(store, out, "--project=first", "--overwrite") == 0
    assert (out / "manifest.json").read_bytes() == before


def test_what_cannot_be_is_said_with_the_mend(store, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(store, out, "--project=other") == 1
    assert "no project 'other'; there are first" in capsys.readouterr().err
    assert run(tmp_path / "none.db", out, "--project=first") == 2
    assert "none.db does not exist" in capsys.readouterr().err
    assert not (tmp_path / "none.db").exists()
    database = open_database(store, now=NOW)  # a service is at work
    assert run(store, out, "--project=first") == 1
    assert "one process at a time" in capsys.readouterr().err
    database.close()
