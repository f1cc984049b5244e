"""heed report RUN...: one run's page, and several runs beside each other."""

import csv
import json

import pytest

from heedful.cli import main


def interval(value, low, high):
    return {"value": value, "low": low, "high": high}


def write_run(run, seed, rate, score, kl=0.02, ptx=0.5):
    """A run with a win rate, a score, a check and two stages, as if it had been made elsewhere."""
    for stage, settings in (
        (
            "sft",
            f"run_dir = '/old/{run.name}/stages/sft'\nbase = '/old/{run.name}/base'\nepochs = 2\n",
        ),
        ("ppo", f"seed = {seed}\n[ppo]\nkl_coef = {kl}\n[[models]]\nname = 'SFT'\nseed = {seed}\n"),
    ):
        (run / "stages" / stage / "model").mkdir(parents=True)
        (run / "stages" / stage / "config.toml").write_text(settings)
    (run / "stages" / "ppo" / "stage.json").write_text('{"seconds": 60}')
    lineage = {"step": "ppo", "config": {"ppo": {"kl_coef": kl, "ptx_coef": ptx}}}
    lineage |= {"parents": {}, "data": {}, "sha256": "0" * 64, "parameters": 1000}
    model = run / "stages" / "ppo" / "model"
    (model / "heedful.json").write_text(json.dumps(lineage))
    summary = {
        "seed": seed,
        "models": [{"name": "PPO", "parameters": 1000, "path": str(model)}],
        "win_rates": [{"model": "PPO", "baseline": "SFT", "cohort": "train", **rate}],
        "tax": [{"metric": "recall", "base": interval(1.0, 0.9, 1.0), "PPO": score}],
        "score": [{"model": "PPO", **score}],
    }
    (run / "summary.json").write_text(json.dumps(summary))
    claims = [{"id": "a1", "claim": "PPO is preferred", "holds": seed == 0, **rate}]
    (run / "claims.json").write_text(json.dumps(claims))
    return run


@pytest.fixture
def runs(tmp_path):
    return [
        write_run(tmp_path / "a", 0, interval(0.6, 0.5, 0.7), interval(1.0, 0.8, 1.3)),
        write_run(tmp_path / "b", 1, interval(0.7, 0.67, 0.74), interval(0.5, 0.1, 0.8), kl=0.2),
    ]


def test_runs_stand_beside_each_other_with_their_differences(runs, tmp_path, capsys):
    assert main(["report", *map(str, runs), f"--run-dir={tmp_path / 'out'}"]) == 0
    assert "wrote the page to" in capsys.readouterr().err
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    rates = next(row for row in found["measures"] if row["measure"].startswith("Preferred"))
    assert rates["runs"]["b"] == interval(0.7, 0.67, 0.74)
    # 0.7 - 0.6; below: 0.03 and 0.1, above: 0.04 and 0.1, at right angles
    gap = rates["differences"]["b"]
    assert gap["value"] == pytest.approx(0.1)
    assert gap["low"] == pytest.approx(0.1 - 0.0109**0.5)
    assert gap["high"] == pytest.approx(0.1 + 0.0116**0.5)
    page = (tmp_path / "out" / "comparison.html").read_text("utf-8")
    assert "Preferred to SFT, training labelers" in page and "1 of 1" in page and "0 of 1" in page
    assert "<script" not in page and "http:" not in page and "https:" not in page
    files = {path.name for path in (tmp_path / "out" / "figures").iterdir()}
    names = ("preference", "alignment-tax", "rewards")
    assert files == {f"{name}.{ending}" for name in names for ending in ("csv", "png")}
    with (tmp_path / "out" / "comparison.csv").open(newline="") as file:
        table = {(row["measure"], row["model"], row["run"]): row for row in csv.DictReader(file)}
    row = table["Score by the run's reward model", "PPO", "b"]
    assert (row["value"], row["difference_value"]) == ("0.5", "-0.5")
    assert table["recall", "base", "a"]["difference_value"] == ""


def test_results_of_several_files_are_told_apart(runs, tmp_path):
    measure = {"task": "drop", "variant": "4 shots", "metric": "F1", "model": "PPO"}
    for place, value in (("eval", 0.4), ("stages/more/eval", 0.3)):
        folder = runs[0] / place
        folder.mkdir(parents=True)
        row = measure | {"interval": interval(value, value - 0.1, value + 0.1)}
        (folder / "nlp.json").write_text(json.dumps({"measures": [row]}))
    found = {"win_rates": [{"model": "PPO", "baseline": "SFT", "cohort": None, "value": 0.9}]}
    (runs[0] / "eval" / "preference.json").write_text(json.dumps(found))
    assert main(["report", *map(str, runs), f"--run-dir={tmp_path / 'out'}", "--png=false"]) == 0
    rows = json.loads((tmp_path / "out" / "comparison.json").read_text())["measures"]
    values = {row["measure"]: row["runs"]["a"]["value"] for row in rows}
    assert values["drop, 4 shots, F1"] == 0.4
    assert values["drop, 4 shots, F1 (stages/more/eval/nlp.json)"] == 0.3
    assert values["Preferred to SFT, training labelers"] == 0.6
    assert values["Preferred to SFT, all judges (eval/preference.json)"] == 0.9


def preferences(run, value, **names):
    rate = {"model": "PPO", "baseline": "SFT", "cohort": None, **names, "value": value}
    (run / "eval").mkdir(exist_ok=True)
    (run / "eval" / "preference.json").write_text(json.dumps({"win_rates": [rate]}))


def all_judges(runs, tmp_path):
    """{measure: {run: value}} and {measure: {run: difference}} of the comparison's win rates."""
    assert main(["report", *map(str, runs), f"--run-dir={tmp_path / 'out'}", "--png=false"]) == 0
    rows = json.loads((tmp_path / "out" / "comparison.json").read_text())["measures"]
    rows = [row for row in rows if "all judges" in row["measure"]]
    values = {row["measure"]: {run: x["value"] for run, x in row["runs"].items()} for row in rows}
    return values, {row["measure"]: [*row["differences"]] for row in rows}


@pytest.mark.parametrize("first_has_loop", [True, False])
def test_a_source_has_its_name_by_where_it_is_and_not_by_what_else_a_run_has(
    runs, tmp_path, first_has_loop
):
    """People's 0.80 in one run's summary, a model's 0.60 and 0.61 in both runs' eval/."""
    with_loop, without = runs if first_has_loop else runs[::-1]
    for run in runs:
        summary = json.loads((run / "summary.json").read_text())
        people = [{"model": "PPO", "baseline": "SFT", "cohort": None, "value": 0.8}]
        summary["win_rates"] = people if run == with_loop else []
        (run / "summary.json").write_text(json.dumps(summary))
    preferences(with_loop, 0.6)
    preferences(without, 0.61)
    values, differences = all_judges(runs, tmp_path)
    people, model = (f"Preferred to SFT, all judges{p}" for p in ("", " (eval/preference.json)"))
    assert values == {
        people: {with_loop.name: 0.8},
        model: {with_loop.name: 0.6, without.name: 0.61},
    }
    assert differences == {people: [], model: ["b"]}
    page = (tmp_path / "out" / "comparison.html").read_text("utf-8")
    # the plot of one run has no legend: its title says which
    assert f"<figcaption>{people}: {with_loop.name}</figcaption>" in page
    assert f"<figcaption>{model}</figcaption>" in page


def test_a_file_is_not_named_where_no_run_has_other_win_rates(runs, tmp_path):
    for run, value in zip(runs, (0.6, 0.61), strict=True):
        summary = json.loads((run / "summary.json").read_text())
        (run / "summary.json").write_text(json.dumps(summary | {"win_rates": []}))
        preferences(run, value)
    values, _ = all_judges(runs, tmp_path)
    assert values == {"Preferred to SFT, all judges": {"a": 0.6, "b": 0.61}}


def test_settings_that_differ_are_named_once(runs, tmp_path):
    assert main(["report", *map(str, runs), f"--run-dir={tmp_path / 'out'}", "--png=false"]) == 0
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    rows = {row["setting"]: (row["stages"], row["runs"]) for row in found["settings"]}
    assert rows == {
        "seed": (["ppo"], {"a": "0", "b": "1"}),
        "ppo.kl_coef": (["ppo"], {"a": "0.02", "b": "0.2"}),
        "models.SFT.seed": (["ppo"], {"a": "0", "b": "1"}),
    }  # and not the base, which each has in its own directory
    kl = {row["run"]: row["kl_coef"] for row in found["policies"]}
    assert kl == {"a": 0.02, "b": 0.2}


def test_policies_of_several_runs_make_one_curve(runs, tmp_path):
    third = write_run(tmp_path / "c", 2, interval(0.6, 0.5, 0.7), interval(0.25, 0.2, 0.3), ptx=5.0)
    words = [str(runs[0]), str(third), f"--run-dir={tmp_path / 'out'}", "--png=false"]
    assert main(["report", *words]) == 0
    with (tmp_path / "out" / "figures" / "comparison-33.csv").open(newline="") as file:
        keys = ("panel", "name", "ptx_coef", "value")
        rows = [tuple(row[key] for key in keys) for row in csv.DictReader(file)]
    assert rows[:2] == [("recall", "a: PPO", "0.5", "1.0"), ("recall", "c: PPO", "5.0", "0.25")]
    page = (tmp_path / "out" / "comparison.html").read_text("utf-8")
    assert "Figure 33" in page and "Files: comparison-33.csv in figures/" in page
    assert not (tmp_path / "out" / "figures" / "comparison-34.csv").exists()


def test_a_page_in_the_directory_of_a_run_leaves_its_figures_alone(runs, tmp_path):
    third = write_run(tmp_path / "c", 2, interval(0.6, 0.5, 0.7), interval(0.25, 0.2, 0.3), ptx=5.0)
    folder = third / "figures"
    folder.mkdir()
    own = {f"figure-{number}.{ending}" for number in (33, 34) for ending in ("csv", "png")}
    for name in own:
        (folder / name).write_text(f"{name} of the run")
    assert main(["report", str(runs[0]), str(third), f"--run-dir={third}"]) == 0
    assert {name: (folder / name).read_text() for name in own} == {
        name: f"{name} of the run" for name in own
    }
    assert (folder / "comparison-33.csv").is_file() and (folder / "comparison-33.png").is_file()


def test_one_run_gets_its_own_page(runs, capsys):
    (run, _) = runs
    assert main(["report", str(run)]) == 0
    assert f"wrote the page to {run / 'report.html'}" in capsys.readouterr().err
    summary = json.loads((run / "summary.json").read_text())
    assert summary["policies"] == [
        {"model": "PPO", "parameters": 1000, "kl_coef": 0.02, "ptx_coef": 0.5}
    ]
    assert (run / "figures" / "figure-1.png").is_file()
    assert not (run / "stages" / "compare").exists()


def test_what_cannot_be_compared_is_said(runs, tmp_path, capsys):
    assert main(["report", str(runs[0]), str(tmp_path / "none")]) == 2
    assert "none does not exist" in capsys.readouterr().err
    assert main(["report", str(runs[0]), str(runs[0])]) == 1
    assert "named twice" in capsys.readouterr().err
    one = [f"--runs={runs[0]}", f"--run_dir={tmp_path / 'out'}"]
    assert main(["compare", *one]) == 2
    assert "two or more are compared" in capsys.readouterr().err
    for name in ("c", "d"):
        (tmp_path / name).mkdir()
    assert main(["report", str(tmp_path / "c"), str(tmp_path / "d")]) == 1
    assert "none of c, d has measures" in capsys.readouterr().err
