"""Simulated labelers through a real service: invited, screened, at work, and read out as files."""

from __future__ import annotations

import json
import random

import pytest

from heedful.cli import main
from heedful.commands.table import stage_config
from heedful.data.formats import read_comparisons, read_demonstrations
from heedful.simulation import service_projects
from heedful.simulation.generate import PROMPTS_FILE, TASKS_FILE, write_world
from heedful.simulation.responses import Slips, compose
from heedful.simulation.rows import read_rows, write_rows
from heedful.simulation.tasks import read_tasks
from heedful.simulation.world import World
from heedful.store import audit, people
from heedful.store.database import open_database

NUM_PROMPTS, NUM_VALID, NUM_CANDIDATES, NUM_HIRED = 4, 2, 4, 3


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A tiny world with completions for some of its prompts, one of them cut, two the same."""
    folder = tmp_path_factory.mktemp("world")
    write_world(
        folder,
        num_documents=2,
        num_valid_documents=1,
        num_sft_prompts=4,
        num_rm_prompts=NUM_PROMPTS,
        num_ppo_prompts=1,
        num_valid_prompts=NUM_VALID,
        num_test_prompts=1,
        num_candidates=NUM_CANDIDATES,
        num_train_labelers=NUM_HIRED,
        num_heldout_labelers=2,
        num_probe_prompts=1,
    )
    rng, truth = random.Random(0), World.load(folder)
    tasks = read_tasks(folder / TASKS_FILE)
    for name, use in (("train", "rm"), ("valid", "eval")):
        prompts = list(read_rows(folder / PROMPTS_FILE))
        prompts = [row for row in prompts if (row["split"], row["use"]) == (name, use)]
        rows = []
        for row in prompts:
            task = tasks[row["id"]]
            texts = [
                compose(truth, task, rng, Slips(*(n == k for k in range(4)))) for n in range(4)
            ]
            texts = [f"{text} <{n}>" for n, text in enumerate(texts)]
            texts.append(texts[0])
            outputs = [
                {"id": f"{row['id']}/{n}", "text": text, "model": f"m{n}", "finished": n != 2}
                for n, text in enumerate(texts)
            ]
            rows.append({"prompt_id": row["id"], "prompt": row["text"], "completions": outputs})
        write_rows(folder / f"completions_{name}.jsonl", rows)
    return folder


@pytest.fixture
def short_test(monkeypatch):
    """A screening test of one item of each kind."""
    for name in ("NUM_FLAGS", "NUM_RANKINGS", "NUM_DEMONSTRATIONS"):
        monkeypatch.setattr(service_projects, name, 1)


def test_labelers_are_screened_and_rank_over_http(world, tmp_path, short_test, capsys):
    out = tmp_path / "labels"
    words = [
        f"--run_dir={out}",
        f"--world={world}",
        f"--completions={world}/completions_train.jsonl",
        f"--completions_valid={world}/completions_valid.jsonl",
        "--labels_per_prompt=2",
        "--through=service",
    ]
    assert main(["simulate-labels", *words]) == 0, capsys.readouterr().err
    train, valid, heldout = (
        list(read_comparisons(str(out / f"comparisons{name}.jsonl")))
        for name in ("", "_valid", "_heldout")
    )
    assert len(train) == 2 * NUM_PROMPTS
    assert len(valid) == len(heldout) == 2 * NUM_VALID
    assert {one.cohort for one in train + valid} == {"train"}
    assert {one.cohort for one in heldout} == {"heldout"}
    assert all(len(one.completions) == len(one.ranks) == 4 for one in train)  # not the same twice
    assert {one.split for one in train} == {"train"} and {one.split for one in valid} == {"valid"}
    for part in (train, valid):  # pseudonyms are of a project
        assert len({one.labeler for one in part}) <= NUM_HIRED
    counts = json.loads((out / "labels.json").read_text(encoding="utf-8"))
    assert counts["train"]["num_rankings"] == 2 * NUM_PROMPTS
    assert counts["train"]["num_duplicates"] == NUM_PROMPTS
    # The files are those of the snapshots, whose hashes the store knows.
    kept = (out / "state/snapshots/training/comparisons.jsonl").read_bytes()
    assert (out / "comparisons.jsonl").read_bytes() == kept
    database = open_database(out / "state/labels.db", now=1.0)
    with database.read() as connection:
        states = [one.state for one in people.members(connection, 1)]
        assert sorted(states) == ["active"] * NUM_HIRED + ["rejected"]
        assert audit.verify(connection) is None
        actions = {one.action for one in audit.entries(connection, limit=1000)}
    database.close()
    assert {"accept_invitation", "grade", "claim", "submit", "snapshot"} <= actions


def test_labelers_write_demonstrations_over_http(world, tmp_path, short_test):
    out = tmp_path / "demonstrations"
    words = [f"--run_dir={out}", f"--world={world}", "--limit=2"]
    assert main(["simulate-demonstrations", *words]) == 0
    found = list(read_demonstrations(str(out / "demonstrations.jsonl")))
    assert sorted(one.split for one in found) == ["train", "train", "valid", "valid"]
    wanted = {r["id"]: r["text"] for r in read_rows(world / PROMPTS_FILE)}
    assert all(wanted[one.prompt_id] == one.prompt and one.response.strip() for one in found)


def test_the_name_of_before_still_works_and_says_the_new_one(capsys):
    words = ["--run_dir=r", "--world=w", "--completions=c", "--completions_valid=v"]
    assert main(["label", *words, "--dry-run"]) == 0
    said = capsys.readouterr()
    assert "is now heed simulate-labels" in said.err and 'through = "memory"' in said.out
    with pytest.raises(SystemExit) as ended:
        main(["label", "--help"])
    assert ended.value.code == 0 and "serve" in capsys.readouterr().out
    settings = dict(word[2:].split("=") for word in words)
    assert stage_config("label", settings, "old recipe") == stage_config(
        "simulate-labels", settings, "new recipe"
    )
