"""heed demo --service, small: labelers come in, are screened, write and rank; models train."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from heedful.cli import THROUGH_SERVICE, main
from heedful.commands.run import load_recipe
from heedful.commands.table import run_command, stage_config
from heedful.data.formats import read_comparisons, read_demonstrations, read_prompts
from heedful.simulation import service_projects
from heedful.simulation.labeling import to_label
from heedful.simulation.rows import read_rows, write_rows
from heedful.store import audit, people, snapshot
from heedful.store.database import open_database

RECIPES = Path(__file__).parents[2] / "recipes"
NUM_HIRED, NUM_CANDIDATES = 8, 24
SMALL = f"""
extends = "{RECIPES / "miniature.toml"}"
goals = ["reward_1"]
[stage.world]
num_documents = 300
num_valid_documents = 5
num_sft_prompts = 6
num_rm_prompts = 6
num_ppo_prompts = 1
num_valid_prompts = 3
num_test_prompts = 1
[stage.tokenizer]
vocab_size = 300
[stage.base]
num_tokens = 4000
row_tokens = 64
shape = {{ hidden_size = 16, num_layers = 1, num_heads = 1, mlp_size = 16, context = 1024 }}
[stage.sft]
epochs = 1
[stage.ppo_init]
epochs = 1
[stage.completions_1]
sampling = {{ max_new_tokens = 8 }}
[stage.reward_1]
epochs = 1
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The directory of a small run of the recipe, its stages run in this process."""
    folder = tmp_path_factory.mktemp("service")
    file = folder / "small.toml"
    file.write_text(SMALL, encoding="utf-8")
    recipe = load_recipe(file, folder / "run", THROUGH_SERVICE)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("NUM_FLAGS", "NUM_RANKINGS", "NUM_DEMONSTRATIONS"):
            patch.setattr(service_projects, name, 1)  # a short test
        for stage in recipe.stages.values():
            run_command(stage.command, stage.settings, threads=1)
    return folder / "run" / "stages"


def test_labelers_write_the_demonstrations_that_step_1_trains_on(run):
    found = list(read_demonstrations(str(run / "demonstrate/demonstrations.jsonl")))
    wanted = {one.id: one for one in read_prompts(str(run / "world/prompts.jsonl"))}
    assert len(found) == 6 + 3 and len({one.prompt_id for one in found}) == 9
    assert all(wanted[one.prompt_id].text == one.prompt and one.response for one in found)
    assert {(one.split, wanted[one.prompt_id].split) for one in found} == {
        ("train", "train"),
        ("valid", "valid"),
    }
    assert (run / "sft/model/model.safetensors").is_file()


def test_screened_labelers_rank_what_step_2_trains_on(run):
    labels = run / "label_1"
    train, valid, heldout = (
        list(read_comparisons(str(labels / f"comparisons{name}.jsonl")))
        for name in ("", "_valid", "_heldout")
    )
    counts = json.loads((labels / "labels.json").read_text(encoding="utf-8"))
    assert [len(part) for part in (train, valid, heldout)] == [
        counts[name]["num_rankings"] for name in ("train", "valid", "heldout")
    ]
    wanted = to_label(run / "world", run / "completions_1/completions.jsonl")
    assert len(train) == 5 * len(wanted.items) > 0  # labels_per_prompt of the recipe
    assert counts["train"]["num_duplicates"] == wanted.num_duplicates
    assert {one.cohort for one in train + valid} == {"train"}
    assert {one.cohort for one in heldout} == {"heldout"} and len(heldout) == len(valid)
    assert {one.split for one in train} == {"train"} and {one.split for one in valid} == {"valid"}
    for part in (train, valid):  # pseudonyms are of a project
        assert len({one.labeler for one in part}) <= NUM_HIRED
    assert (run / "reward_1/model/model.safetensors").is_file()


def test_the_store_knows_who_was_hired_and_what_has_left_it(run):
    labels = run / "label_1"
    database = open_database(labels / "state/labels.db", now=1.0)
    with database.read() as connection:
        states = sorted(one.state for one in people.members(connection, 1))
        assert states == ["active"] * NUM_HIRED + ["rejected"] * (NUM_CANDIDATES - NUM_HIRED)
        assert audit.verify(connection) is None
        actions = {one.action for one in audit.entries(connection, limit=10_000)}
        (made,) = snapshot.all_snapshots(connection, 1)
    database.close()
    assert {"accept_invitation", "grade", "claim", "submit", "snapshot"} <= actions
    # The file that training read is the snapshot's, byte for byte: an erasure finds the model.
    lineage = json.loads((run / "reward_1/model/heedful.json").read_text(encoding="utf-8"))
    assert made.files["comparisons.jsonl"]["sha256"] in lineage["data"].values()


def test_what_is_the_same_or_cut_is_known_before_it_is_shown(run, tmp_path):
    row = next(read_rows(run / "world/prompts.jsonl"))
    outputs = [("a", "Yes.", True), ("b", "Yes.", True), ("c", "Yes, \x00but", False)]
    given = [{"id": i, "text": text, "finished": ends} for i, text, ends in outputs]
    same = [one for one in given if one["text"] == "Yes."]
    file = tmp_path / "completions.jsonl"
    base = {"prompt_id": row["id"], "prompt": row["text"]}
    write_rows(file, [base | {"completions": given}, base | {"completions": same}])
    found = to_label(run / "world", file)
    ((prompt, completions),) = found.items
    assert (prompt.id, prompt.split, [one.id for one in completions]) == (
        row["id"],
        row["split"],
        ["a", "c"],
    )
    assert found.is_cut == {(row["text"], "Yes, \ufffdbut")}
    assert (found.num_duplicates, found.num_skipped) == (2, 1)


def test_the_name_of_before_still_works_and_says_the_new_one(tmp_path, capsys):
    values = {
        "run_dir": "r",
        "world": "w",
        "completions": "c.jsonl",
        "completions_valid": "v.jsonl",
    }
    (tmp_path / "w").mkdir()
    for name in ("c.jsonl", "v.jsonl"):
        (tmp_path / name).write_text("{}\n", encoding="utf-8")
    words = [f"--{name}={tmp_path / value}" for name, value in values.items()]
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


def test_a_stage_that_is_done_again_asks_nobody_again(run, capsys):
    file = run / "demonstrate/demonstrations.jsonl"
    before = file.read_bytes()
    file.unlink()
    settings = {"run_dir": str(run / "demonstrate"), "world": str(run / "world")}
    run_command("simulate-demonstrations", settings, threads=1)
    assert file.read_bytes() == before
    assert "hired" not in capsys.readouterr().out
