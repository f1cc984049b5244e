"""A world written to files, and completions labelled, judged and measured from files."""

import hashlib
import json
import random

import pytest

from heedful.errors import DataError
from heedful.records import METADATA_FIELDS
from heedful.simulation.generate import write_world
from heedful.simulation.labelers import pairwise_agreement
from heedful.simulation.labeling import gold, judge, label
from heedful.simulation.responses import ErrorRates, write_demonstration
from heedful.simulation.tasks import read_tasks
from heedful.simulation.world import World

SIZES = {
    "num_documents": 60,
    "num_valid_documents": 10,
    "num_sft_prompts": 50,
    "num_rm_prompts": 150,
    "num_ppo_prompts": 40,
    "num_valid_prompts": 30,
    "num_test_prompts": 20,
    "num_probe_prompts": 12,
}


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    directory = tmp_path_factory.mktemp("world")
    return directory, write_world(directory, seed=5, **SIZES)


@pytest.fixture(scope="module")
def completions(written):
    """Four sloppy completions of each reward-model and valid prompt, the last like the first."""
    directory, _ = written
    world, rng = World.load(directory), random.Random(0)
    tasks = read_tasks(directory / "tasks.jsonl")
    path = directory / "completions.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for prompt in rows(directory / "prompts.jsonl"):
            if prompt["use"] != "rm" and prompt["split"] != "valid":
                continue
            task, rates = tasks[prompt["id"]], ErrorRates(0.5, 0.3, 0.3, 0.2)
            texts = [write_demonstration(world, task, rng, rates) for _ in range(3)]
            given = [
                {"id": f"{prompt['id']}-{i}", "text": t, "model": f"m{i}", "finished": True}
                for i, t in enumerate([*texts, texts[0]])
            ]
            row = {"prompt_id": prompt["id"], "prompt": prompt["text"], "completions": given}
            file.write(json.dumps(row) + "\n")
    return path


def test_files_counts_and_manifest_agree(written):
    directory, counts = written
    assert len(rows(directory / "text.jsonl")) == counts["text"] == 60
    assert len(rows(directory / "prompts.jsonl")) == counts["prompts"] == 290
    assert len(rows(directory / "demonstrations.jsonl")) == 50 + 30
    assert len(rows(directory / "fewshot_prefixes.jsonl")) == 8
    manifest = json.loads((directory / "manifest.json").read_text())
    for name, entry in manifest["files"].items():
        assert hashlib.sha256((directory / name).read_bytes()).hexdigest() == entry["sha256"]
    assert manifest["files"]["probes/truth.jsonl"]["rows"] == 48 * 5


def test_every_prompt_and_probe_has_a_task_and_a_unique_id(written):
    directory, _ = written
    tasks = read_tasks(directory / "tasks.jsonl")
    prompts = rows(directory / "prompts.jsonl")
    probes = [
        row
        for path in sorted((directory / "probes").glob("*.jsonl"))
        if path.stem != "recall"
        for row in rows(path)
    ]
    ids = [row["id"] for row in prompts + probes]
    assert len(ids) == len(set(ids)) == len(tasks)
    assert set(ids) == set(tasks)
    uses = {(row["use"], row["split"]) for row in prompts}
    assert uses == {
        ("sft", "train"),
        ("rm", "train"),
        ("ppo", "train"),
        ("eval", "valid"),
        ("eval", "test"),
    }
    sft = [row for row in prompts if row["use"] == "sft"]
    assert sum(row["source"] == "labeler" for row in sft) == 44  # 89 % of 50, paper Table 6


def test_demonstrations_belong_to_their_prompts(written):
    directory, _ = written
    prompts = {row["id"]: row for row in rows(directory / "prompts.jsonl")}
    for row in rows(directory / "demonstrations.jsonl"):
        prompt = prompts[row["prompt_id"]]
        assert row["prompt"] == prompt["text"] and row["split"] == prompt["split"]
        assert row["response"] and row["labeler"].startswith("labeler-")
        assert prompt["split"] in ("train", "valid")


def test_the_same_seed_writes_the_same_bytes(written, tmp_path):
    directory, _ = written
    write_world(tmp_path, seed=5, **SIZES)
    again = (tmp_path / "manifest.json").read_text()
    assert again == (directory / "manifest.json").read_text()


def test_labels_say_which_completions_were_cut(written, completions, tmp_path):
    directory, _ = written
    given = rows(completions)
    for row in given:
        row["completions"][1]["finished"] = False
    path, out = tmp_path / "completions.jsonl", tmp_path / "comparisons.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in given))
    label(directory, path, out, seed=1, overlap=0.0, split="train")
    ids = {row["completions"][1]["id"] for row in given}
    found = [completion for row in rows(out) for completion in row["completions"]]
    assert {completion["finished"] for completion in found} == {True, False}
    assert all(completion["finished"] != (completion["id"] in ids) for completion in found)


def test_label_writes_comparisons_without_duplicates(written, completions, tmp_path):
    directory, _ = written
    out = tmp_path / "comparisons.jsonl"
    counts = label(directory, completions, out, seed=1, overlap=1.0, split="train")
    found = rows(out)
    assert len(found) == counts["num_rankings"] == 3 * counts["num_prompts"]
    assert counts["num_prompts"] + counts["num_skipped"] == 150
    assert counts["num_duplicates"] >= 150
    assert counts["agreement"] == pytest.approx(0.73, abs=0.09)
    untied = 0
    for row in found:
        texts = [c["text"] for c in row["completions"]]
        assert len(set(texts)) == len(texts) == len(row["ranks"]) == len(row["ratings"]) >= 2
        assert sorted(set(row["ranks"])) == list(range(1, max(row["ranks"]) + 1))
        assert row["split"] == "train" and row["cohort"] == "train"
        assert set(row["ratings"][0]) == {"overall", *METADATA_FIELDS}
        assert all(1 <= rating["overall"] <= 7 for rating in row["ratings"])
        untied += pairwise_agreement([row["ranks"]] * 2)[1]
    assert untied == counts["num_pairs"]
    again = tmp_path / "again.jsonl"
    label(directory, completions, again, seed=1, overlap=1.0, split="train")
    assert again.read_bytes() == out.read_bytes()


def test_label_by_heldout_labelers_on_valid_prompts(written, completions, tmp_path):
    directory, _ = written
    out = tmp_path / "heldout.jsonl"
    label(directory, completions, out, cohort="heldout", split="valid", labels_per_prompt=2)
    found = rows(out)
    assert found and all(row["split"] == "valid" for row in found)
    assert all(row["labeler"].startswith("heldout-") for row in found)


def test_judge_and_gold(written, completions, tmp_path):
    directory, _ = written
    out = tmp_path / "judgements.jsonl"
    counts = judge(directory, completions, out, labelers_per_prompt=2)
    found = rows(out)
    assert len(found) == counts["num_judgements"] == 180 * 2 * 2
    for row in found:
        assert row["models"] == ["m0", "m1", "m2", "m3"]
        assert row["ranks"][0] == row["ranks"][3]  # identical completions tie
    measured = gold(directory, completions)
    assert len(measured) == 180 * 4
    assert all(-3 <= row["utility"] <= 3 for row in measured)


def test_completions_of_unknown_prompts_are_refused(written, tmp_path):
    directory, _ = written
    path = tmp_path / "completions.jsonl"
    path.write_text('{"prompt_id": "nobody", "prompt": "x", "completions": []}\n')
    with pytest.raises(DataError, match="'nobody' is not in"):
        label(directory, path, tmp_path / "out.jsonl")
    path.write_text('{"prompt_id": "nobody"}\n')
    with pytest.raises(DataError, match="line 1: field 'prompt' is missing"):
        gold(directory, path)
