"""Which files a model names as its data: what an erasure goes by."""

from __future__ import annotations

import gzip
import json
from hashlib import sha256

from heedful.commands.finish import data_hashes
from heedful.config import SnapshotData, TextData
from heedful.store import erasure, snapshot


class Settings:
    """Settings of a command, as far as its data goes."""

    def __init__(self, data):
        self.data = data


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return sha256(content).hexdigest()


def test_folders_and_globs_are_named_by_the_files_that_training_reads(tmp_path):
    made = tmp_path / "snapshot"
    comparisons = write(made / "comparisons.jsonl", b'{"a": 1}\n')
    prompts = write(made / "prompts.jsonl", b'{"b": 2}\n')
    write(made / "manifest.json", b"{}")
    texts = [write(tmp_path / f"text/{n}.txt", n.encode()) for n in ("one", "train")]
    more = write(tmp_path / "text/train.jsonl", b'{"text": "d"}')
    packed = write(tmp_path / "d.jsonl.gz", gzip.compress(b'{"c": 3}\n'))
    data = SnapshotData(
        comparisons=(str(made),),
        prompts=(str(made / "prompts.jsonl"),),
        demonstrations=(str(tmp_path / "d.jsonl.gz"), str(tmp_path / "gone.jsonl")),
        text=(str(tmp_path / "text/*.txt"), "hf:owner/name"),
    )
    assert data_hashes(Settings(data)) == {
        str(made / "comparisons.jsonl"): comparisons,
        str(made / "prompts.jsonl"): prompts,
        str(tmp_path / "d.jsonl.gz"): packed,
        str(tmp_path / "gone.jsonl"): "missing",
        str(tmp_path / "text/one.txt"): texts[0],
        str(tmp_path / "text/train.txt"): texts[1],
    }
    whole = data_hashes(Settings(TextData(train=(str(tmp_path / "text"),))))
    assert sorted(whole.values()) == sorted([*texts, more])
    assert data_hashes(object()) == {}


def test_a_model_trained_on_a_snapshot_directory_is_found_by_an_erasure(tmp_path):
    digest = write(tmp_path / "snapshot/comparisons.jsonl", b'{"a": 1}\n')
    hashes = data_hashes(Settings(SnapshotData(comparisons=(str(tmp_path / "snapshot"),))))
    write(
        tmp_path / "runs/reward/model/heedful.json",
        json.dumps({"sha256": "w", "parents": {}, "data": hashes}).encode(),
    )
    made = snapshot.Snapshot(
        1, 1, "m", {"comparisons.jsonl": {"sha256": digest}}, snapshot.Query(), None, 0.0
    )
    found = erasure.checkpoints_with([made], [tmp_path / "runs"])
    assert found == [tmp_path / "runs/reward/model"]
