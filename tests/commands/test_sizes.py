"""Win rates over model size: who judged them stands in the rows and on the figure's axis."""

from __future__ import annotations

import json

import pytest

from heedful.cli import main
from heedful.commands.sizes import win_rates_by_size
from heedful.evaluation.preference import win_rate
from heedful.paper_figures import paper_figures
from heedful.records import Judgement

LINEAGES = {
    "SFT": {"step": "sft", "config": {"pretraining_mix": 0.0}, "parameters": 1000},
    "PPO": {"step": "ppo", "config": {"ppo": {"ptx_coef": 0.0}}, "parameters": 1500},
}


@pytest.fixture
def models(tmp_path):
    paths = {name: tmp_path / name for name in LINEAGES}
    for name, path in paths.items():
        path.mkdir()
        (path / "heedful.json").write_text(json.dumps(LINEAGES[name]))
    return {name: str(path) for name, path in paths.items()}


def y_label_of(summary, evaluations=None):
    """Who judged, on the axis of the curves of Figure 1."""
    first = paper_figures(summary, evaluations or {})[0]
    plot = next(plot for plot in first.plots if "by size" in plot)
    return plot.split('class="label"')[1].split(">")[1].split("<")[0]


@pytest.mark.parametrize("labelers", [("a model",), ("lea", "held out")])
def test_heed_eval_preference_counts_all_judges_and_says_so(models, tmp_path, labelers):
    """PPO of 1,500 parameters wins 3 of 4; SFT of 1,000 is the baseline."""
    rows = [
        {"prompt_id": f"p{n}", "models": ["PPO", "SFT"], "ranks": [1 + (n == 3), 2 - (n == 3)]}
        | {"labeler": name, "cohort": "heldout" if name == "held out" else "train"}
        for n in range(4)
        for name in labelers
    ]
    file = tmp_path / "judgements.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [f"--judgements={file}", f"--run-dir={tmp_path / 'run'}", "--num_samples=50"]
    words += [f"--models.{name}={path}" for name, path in models.items()]
    assert main(["eval", "preference", *words]) == 0
    found = json.loads((tmp_path / "run" / "eval" / "preference.json").read_text())
    values = {row["model"]: (row["cohort"], row["value"]) for row in found["by_size"]}
    assert values == {"SFT": (None, 0.5), "PPO": (None, 0.75)}
    assert y_label_of({}, {"eval/preference.json": found}) == "win rate, all judges"


@pytest.mark.parametrize(
    ("cohort", "who"), [("train", "training labelers"), ("heldout", "held-out labelers")]
)
def test_rates_of_one_cohort_are_called_after_it(models, cohort, who):
    judged = [Judgement(f"p{n}", ("PPO", "SFT"), (1, 2), "lea", cohort) for n in range(3)]
    judged.append(Judgement("p0", ("PPO", "SFT"), (2, 1), "max", "train"))
    rates = [win_rate(judged, "PPO", "SFT", cohort=cohort, num_samples=50)]
    rows = win_rates_by_size(models, rates, "SFT")
    assert [row["cohort"] for row in rows] == [cohort, cohort]
    assert y_label_of({"by_size": rows}) == f"win rate, {who}"


def test_rows_that_do_not_say_who_judged_are_of_all_judges():
    rows = [
        {"model": name, "method": "PPO", "parameters": size, "baseline": "SFT", "value": 0.6}
        for name, size in (("small", 10), ("large", 1000))
    ]
    assert y_label_of({"by_size": rows}) == "win rate, all judges"
    mixed = [row | {"cohort": c} for row, c in zip(rows, ("train", "heldout"), strict=True)]
    assert y_label_of({"by_size": mixed}) == "win rate, all judges"
    train = [row | {"cohort": "train"} for row in rows]
    assert y_label_of({"by_size": [*train, rows[0]]}) == "win rate, all judges"
