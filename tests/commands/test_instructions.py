"""The baseline on public instruction data: its recipe, run on a file in the shape of P3."""

from __future__ import annotations

import gzip
import json

import pytest
import torch

from heedful.metrics import read_metrics
from heedful.models.language_model import load_language_model, read_lineage
from heedful.models.scalar_model import scalar_model_from
from heedful.training.checkpoint import publish


@pytest.fixture
def place(tmp_path, tiny_model, tokenizer):
    """A base that reads 64 tokens, a reward model, rows of P3's shape and prompts."""
    publish(tiny_model(), tokenizer, tmp_path / "base", {})
    publish(scalar_model_from(tmp_path / "base", 3), tokenizer, tmp_path / "reward", {})
    rows = [
        {
            "id": f"p3/some_template/{i}",
            "prompt": f"w{i} w{i + 1}",
            "response": f"w{i + 2}",
            "source": "P3/some_template",
            "licence": "CC-BY-4.0",
        }
        for i in range(10, 42)
    ]
    rows.append({"id": "p3/long", "prompt": "w5 " * 60, "response": "w6", "source": "P3"})
    with gzip.open(tmp_path / "p3.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))
    prompts = [{"text": f"w{i}", "split": "valid"} for i in range(70, 76)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    return tmp_path


def test_a_base_is_tuned_on_a_users_file_and_chosen_by_the_score(place, heed):
    words = ["--base", place / "base", "--data", place / "p3.jsonl.gz", "--jobs", "1"]
    words += ["--reward-model", place / "reward", "--prompts", place / "prompts.jsonl"]
    words += ["--run-dir", place / "run", "--batch-size", "8", "--select-every", "2"]
    words += ["--max-prompt-tokens", "30", "--max-response-tokens", "10", "--max-new-tokens", "5"]
    code, said = heed("run", "instructions", *words, "--dtype", "float32")
    assert code == 0, said
    rows = read_metrics(place / "run/stages/instructions")
    # of 32 rows that fit some are held out: each of the others once, 8 to an update
    lineage = read_lineage(str(place / "run/stages/instructions/model"))
    assert len(rows) in (3, 4) and rows[-1]["data/epoch"] <= 1.34
    assert [row["step"] for row in rows if "valid/score" in row] == sorted({1, len(rows) - 1})
    assert lineage["config"]["select"] == "score"
    assert str(place / "p3.jsonl.gz") in lineage["data"]
    models = [place / "base", place / "run/stages/instructions/model"]
    before, after = (load_language_model(str(path)).state_dict() for path in models)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    again, said = heed("run", "instructions", *words, "--dtype", "float32")
    assert again == 0 and "instructions" in said
