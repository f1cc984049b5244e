"""What labelers agree on, as pairs: by hand, and as files of a snapshot directory."""

from __future__ import annotations

import json

import pytest

from heedful.data.formats import read_comparisons
from heedful.store import exports
from heedful.store.problems import NotFound


def row(ranks, *, prompt="p", cohort="train", ids="abc"):
    return {
        "prompt_id": prompt,
        "prompt": f"Prompt {prompt}",
        "completions": [{"id": one, "text": f"text {one}", "model": None} for one in ids],
        "ranks": ranks,
        "labeler": "x",
        "cohort": cohort,
        "split": "train",
    }


def counts(rows):
    return [
        (r["chosen"][-1] + r["rejected"][-1], r["num_chosen"], r["num_rejected"], r["num_tied"])
        for r in exports.consensus_pairs(rows)
    ]


def test_the_order_that_most_have_is_kept_with_its_counts():
    # ab: a, tie, a; ac: a, c, c; bc: b, c, c.
    assert counts([row([1, 2, 3]), row([2, 2, 1]), row([2, 3, 1])]) == [
        ("ab", 2, 0, 1),
        ("ca", 2, 1, 0),
        ("cb", 2, 1, 0),
    ]
    assert counts([row([1, 1, 1])]) == []
    assert counts([row([1, 2], ids="ab"), row([2, 1], ids="ab")]) == []
    # As many ties as preferences are no order.
    assert counts([row([1, 2], ids="ab"), row([1, 1], ids="ab")]) == []


def test_other_completions_prompts_and_cohorts_are_counted_apart():
    rows = [row([1, 2], ids="ab"), row([2, 1], ids="ab", cohort="heldout")]
    rows += [row([2, 1], ids="ac"), row([2, 1], ids="ab", prompt="q")]
    assert counts(rows) == [("ab", 1, 0, 0), ("ba", 1, 0, 0), ("ca", 1, 0, 0), ("ba", 1, 0, 0)]


@pytest.fixture
def snapshot(tmp_path):
    """The directory of a snapshot with three rankings."""
    folder = tmp_path / "snapshot"
    folder.mkdir()
    rows = [row([1, 2, 3]), row([1, 2, 3]), row([2, 1, 3])]
    text = "".join(json.dumps(one) + "\n" for one in rows)
    (folder / "comparisons.jsonl").write_text(text, encoding="utf-8")
    for name in ("prompts", "demonstrations"):
        (folder / f"{name}.jsonl").write_text("", encoding="utf-8")
    (folder / "manifest.json").write_text("{}", encoding="utf-8")
    return folder


def test_a_file_is_made_once_when_it_is_asked_for(snapshot):
    import pyarrow.parquet as pq

    consensus = exports.derived(snapshot, "consensus.jsonl")
    assert len(list(read_comparisons(consensus))) == 3
    found = [json.loads(line) for line in consensus.read_text(encoding="utf-8").splitlines()]
    assert pq.read_table(exports.derived(snapshot, "consensus.parquet")).to_pylist() == found
    assert pq.read_table(exports.derived(snapshot, "prompts.parquet")).num_rows == 0
    assert len(list(read_comparisons(exports.derived(snapshot, "pairs.jsonl")))) == 9
    before = consensus.stat().st_mtime_ns
    assert exports.derived(snapshot, "consensus.jsonl").stat().st_mtime_ns == before
    assert not list(snapshot.rglob("*.partial"))
    with pytest.raises(NotFound):
        exports.derived(snapshot, "../manifest.json")
