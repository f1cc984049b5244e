"""heed eval tax: from the files of a run to its summary and report, and runs beside each other."""

import csv
import json

import pytest

from heedful.cli import main


def write_run(run, ppo_loss=3.0):
    """Losses of 1, ``ppo_loss`` and 1.5 a token, and a suite that heed eval has left."""
    measures = run / "stages" / "measures"
    measures.mkdir(parents=True)
    tokens = [10, 20, 30]
    losses = {"base": 1.0, "PPO": ppo_loss, "PPO-ptx": 1.5}
    recall = {"base": [True] * 4, "PPO": [False] * 4, "PPO-ptx": [True, True, True, False]}
    values = {
        name: {
            "loss_sums": [loss * n for n in tokens],
            "num_tokens": tokens,
            "recall": recall[name],
            "recall_ids": [f"recall-{c}-{q}" for c in "ab" for q in "12"],
        }
        for name, loss in losses.items()
    }
    (measures / "measures.json").write_text(json.dumps(values), encoding="utf-8")
    (run / "eval").mkdir()
    rows = [
        {
            "model": model,
            "task": "real_toxicity_prompts",
            "variant": variant,
            "id": f"i{n}",
            "cluster": f"i{n}",
            "scores": {"toxicity": toxic * (n + 1) / 10},
        }
        for model, toxic in (("base", 1.0), ("ppo", 2.0), ("ppo_ptx", 1.0))
        for variant in ("none", "biased")
        for n in range(3)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (run / "eval" / "toxicity.jsonl").write_text(text, encoding="utf-8")
    (run / "report.html").write_text("old", encoding="utf-8")
    (run / "summary.json").write_text(json.dumps({"seed": 7}), encoding="utf-8")
    return run


def test_the_tax_of_a_run_is_in_its_summary_its_report_and_a_table(tmp_path, capsys):
    run = write_run(tmp_path / "demo")
    assert main(["eval", "tax", str(run)]) == 0
    told = capsys.readouterr()
    assert "loss on held-out text" in told.out and "75% (75% to 75%)" in told.out
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    assert summary["seed"] == 7
    found = {(row["measure"], row["model"]): row for row in summary["tax_changes"]}
    loss = found["loss on held-out text", "PPO-ptx"]
    assert loss["difference"] == {"value": 0.5, "low": 0.5, "high": 0.5}
    assert loss["won_back"]["value"] == 0.75
    assert found["few-shot recall", "PPO"]["difference"]["value"] == -1.0
    toxic = [row for (measure, _), row in found.items() if "toxicity" in measure]
    # models are found under other spellings: PPO is twice as toxic, PPO-ptx as toxic as the base
    assert {(row["model"], row["better"]["value"]) for row in toxic} >= {("PPO", -1.0)}
    assert {row["difference"]["value"] for row in toxic if row["model"] == "PPO-ptx"} == {0.0}
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "PPO-ptx against base" in page and "All changes, over the same items" in page
    with (run / "stages/tax/tax.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == len(summary["tax_changes"])
    assert table[0]["run"] == "demo" and float(table[0]["difference_value"]) == 2.0


def test_several_runs_stand_beside_each_other(tmp_path, capsys):
    runs = [write_run(tmp_path / name / "run", loss) for name, loss in (("a", 3.0), ("b", 2.0))]
    assert main(["eval", "tax", *map(str, runs), f"--run_dir={tmp_path / 'out'}"]) == 0
    out = capsys.readouterr().out
    lines = out[out.rindex("measure  ") :].splitlines()
    assert lines[0].split() == ["measure", "model", "a/run", "b/run"]
    line = next(line for line in lines if line.startswith("loss on held-out text"))
    assert "+2.000 (+2.000 to +2.000)" in line and "+1.000 (+1.000 to +1.000)" in line
    rows = json.loads((tmp_path / "out/tax.json").read_text(encoding="utf-8"))
    assert {row["run"] for row in rows} == {"a/run", "b/run"}


def test_what_is_missing_is_named(tmp_path, capsys):
    run = write_run(tmp_path / "demo")
    assert main(["eval", "tax", str(run), "--models=['gpt', 'sft']"]) == 1
    told = capsys.readouterr().err
    assert "nothing was measured of both gpt and another of sft" in told
    assert "PPO, PPO-ptx, base, ppo, ppo_ptx" in told
    assert main(["eval", "tax", str(tmp_path / "none")]) == 2
    assert "none does not exist" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    assert main(["eval", "tax"]) == 2
    with pytest.raises(SystemExit):
        main(["eval", "--help"])
