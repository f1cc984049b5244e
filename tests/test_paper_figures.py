"""The paper's figures of a run: from hand-made results to panels, tables and pictures."""

import csv
import json
import re
import sys
from itertools import pairwise

import pytest

from heedful.errors import MissingExtraError
from heedful.paper_figures import paper_figures
from heedful.plots import Dot, dot_plot, size_chart
from heedful.report import write_report
from heedful.shown import percent_text


def rate(value, **names):
    return {**names, "value": value, "low": value - 0.1, "high": value + 0.1}


def measure(model, value, **names):
    interval = {"value": value, "low": value - 0.1, "high": value + 0.1}
    return {"model": model, "interval": interval, "higher_is_better": True, **names}


SUMMARY = {
    "command": "heed demo",
    "win_rates": [
        rate(0.2, model="base", baseline="SFT", cohort="train"),
        rate(0.6, model="PPO", baseline="SFT", cohort="train"),
        rate(0.7, model="PPO", baseline="SFT", cohort="heldout"),
    ],
    "length_controlled": [rate(0.5, model="PPO", baseline="SFT", cohort="train")],
    "metadata": [
        rate(0.3, model="base", flag="fails_task"),
        rate(0.4, model="base", flag="hallucination"),
    ],
    "likert": [rate(4.5, model="PPO")],
    "truth": [rate(0.25, model="PPO", set="held out")],
    "toxicity": [
        rate(0.4, model="PPO", instruction="none"),
        rate(0.2, model="PPO", instruction="respectful"),
    ],
    "tax": [{"metric": "recall", "higher_is_better": True, "base": rate(1.0), "ppo_1": rate(0.5)}],
}
EVALUATIONS = {
    "eval/preference.json": {
        "command": "heed eval preference --judgements=j.jsonl",
        "win_rates": [rate(0.9, model="PPO", baseline="SFT", cohort=None)],
        "two_by_two": [
            rate(value, model="PPO", baseline="SFT", cohort=cohort, distribution=name)
            for value, cohort, name in (
                (0.61, "train", "InstructGPT"),
                (0.62, "heldout", "InstructGPT"),
                (0.63, "train", "GPT-3"),
                (0.64, "heldout", "GPT-3"),
            )
        ],
    },
    "eval/truthfulness.json": {
        "command": "heed eval --suites=truthfulness",
        "measures": [
            measure("PPO", 0.8, task="truthfulqa", variant="qa", metric="true"),
            measure("PPO", 0.35, task="truthfulqa", variant="qa", metric="true and informative"),
            measure("PPO", 0.3, task="truthfulqa_mc", variant="qa", metric="MC1"),
        ],
    },
    "eval/toxicity.json": {
        "scored_by": {"toxicity": "words: 1 where a text has one"},
        "measures": [
            measure("PPO", 0.1, task="rtp", variant="none", metric="toxicity"),
            measure("PPO", 0.2, task="rtp", variant="biased", metric="toxicity"),
            measure("PPO", 0.9, task="rtp", variant="none", metric="toxic"),
        ],
    },
    "eval/nlp.json": {
        "measures": [
            measure("base", 0.6, task="squad_v2", variant="4 shots", metric="F1"),
            measure("PPO", 0.4, task="squad_v2", variant="4 shots", metric="F1"),
            measure("PPO", 0.1, task="squad_v2", variant="4 shots", metric="exact match"),
        ]
    },
}


def table_of(figure):
    """{(panel, name, series): value} of a figure's rows."""
    return {
        (row["panel"], row["name"], row["series"]): pytest.approx(row["value"])
        for row in figure.rows
    }


@pytest.fixture(scope="module")
def figures():
    return {figure.number: figure for figure in paper_figures(SUMMARY, EVALUATIONS)}


def test_every_figure_is_there_and_says_what_made_it(figures):
    assert list(figures) == [1, 3, 4, 5, 6, 7, 29, 33, 34]
    assert figures[4].command == "heed demo"
    assert figures[6].command == "heed demo\nheed eval --suites=truthfulness"
    assert figures[29].command == "heed demo\nheed eval nlp --run-dir RUN"  # of older results


def test_raw_win_rates_stand_beside_those_at_equal_length(figures):
    assert table_of(figures[1]) == {
        ("Preferred to SFT, training labelers", "base", "raw"): 0.2,
        ("Preferred to SFT, training labelers", "PPO", "raw"): 0.6,
        ("Preferred to SFT, training labelers", "PPO", "at equal length"): 0.5,
        ("Preferred to SFT, all judges (eval/preference.json)", "PPO", ""): 0.9,
    }
    (legend,) = re.findall(r'<ul class="legend">.*?</ul>', figures[1].plots[0])
    assert "raw" in legend and "at equal length" in legend


def test_the_two_by_two_has_a_panel_for_each_distribution(figures):
    given = table_of(figures[3])
    train, heldout = "training labelers", "held-out labelers"
    assert given[("Preferred to SFT", "base", train)] == 0.2
    assert given[("Preferred to SFT", "PPO", heldout)] == 0.7
    panels = ("Preferred to SFT, InstructGPT prompts", "Preferred to SFT, GPT-3 prompts")
    values = [given[(panel, "PPO", who)] for panel in panels for who in (train, heldout)]
    assert values == [0.61, 0.62, 0.63, 0.64]
    assert len(figures[3].plots) == 3


def test_questions_that_the_paper_asks_the_other_way_round(figures):
    attempts, hallucinates = figures[4].rows
    assert (attempts["panel"], attempts["value"]) == ("Attempts the correct task", 0.7)
    assert (attempts["low"], attempts["high"]) == (pytest.approx(0.6), pytest.approx(0.8))
    assert (hallucinates["panel"], hallucinates["value"]) == ("Hallucinates", 0.4)


def test_truth_and_toxicity_by_prompt(figures):
    assert table_of(figures[6]) == {
        ("True answers: held out", "PPO", ""): 0.25,
        ("truthfulqa: qa", "PPO", "true"): 0.8,
        ("truthfulqa: qa", "PPO", "true and informative"): 0.35,
        ("truthfulqa_mc: qa", "PPO", "MC1"): 0.3,
    }
    assert table_of(figures[7]) == {
        ("Insults", "PPO", "no instruction"): 0.4,
        ("Insults", "PPO", "respectful instruction"): 0.2,
        ("rtp, scored by words", "PPO", "no instruction"): 0.1,
        ("rtp, scored by words", "PPO", "biased instruction"): 0.2,
    }


def test_tasks_have_the_papers_metric_and_a_line_at_the_base(figures):
    assert table_of(figures[29]) == {
        ("recall", "base", ""): 1.0,
        ("recall", "ppo-1", ""): 0.5,
        ("squad_v2, F1, 4 shots", "base", ""): 0.6,
        ("squad_v2, F1, 4 shots", "PPO", ""): 0.4,
    }
    assert all('class="reference"' in plot for plot in figures[29].plots)
    assert "dashed: the base, higher is better" in figures[29].plots[0]


def policy(model, kl, ptx):
    return {"model": model, "parameters": 1000, "kl_coef": kl, "ptx_coef": ptx}


def test_coefficients_are_drawn_where_two_above_zero_are_measured():
    tax = {"metric": "recall", "base": rate(0.9)}
    given = {"PPO": 0.3, "low": 0.5, "high": 0.8, "strict": 0.4, "stricter": 0.45}
    tax |= {model: rate(value) for model, value in given.items()}
    policies = [
        policy("PPO", 0.02, 0.0),
        policy("low", 0.02, 1.0),
        policy("high", 0.02, 10.0),
        policy("strict", 0.2, 0.0),
        policy("stricter", 2.0, 0.0),
    ]
    found = {f.number: f for f in paper_figures({"tax": [tax], "policies": policies}, {})}
    curve = [(row["ptx_coef"], row["value"]) for row in found[33].rows]
    assert curve == [(0.0, 0.3), (1.0, 0.5), (10.0, 0.8)]  # those of kl_coef 0.02 alone
    assert {row["series"] for row in found[33].rows} == {"1k parameters, kl_coef 0.02"}
    without = [(row["kl_coef"], row["value"]) for row in found[34].rows]
    assert without == [(0.02, 0.3), (0.2, 0.4), (2.0, 0.45)]
    few = {"tax": [tax], "policies": policies[:2]}
    assert [f.plots for f in paper_figures(few, {}) if f.number in (33, 34)] == [[], []]


def test_zero_stands_left_of_a_log_axis_and_reference_may_be_missing():
    models = {"a": [(x, Dot(str(x), 0.5)) for x in (0, 1.0, 10.0)]}
    drawn = size_chart("t", models, y_label="y", reference=None, x_label="ptx_coef")
    places = [float(x) for x in re.findall(r'cx="([\d.]+)"', drawn)][:3]
    assert places[0] < places[1] < places[2] and 'class="reference"' not in drawn
    assert places[2] - places[1] > places[1] - places[0] > 20
    assert size_chart("t", {"a": models["a"][:1]}, y_label="y", reference=None) == ""


def test_an_axis_of_zeros_goes_up():
    drawn = dot_plot("t", [Dot("a", 0.0)], x_label="x")
    ticks = re.findall(r'class="tick" [^>]*>([^<]+)<', drawn)
    assert ticks[0] == "0" and ticks[-1] == "1"


def test_dots_of_one_name_share_a_row_and_ticks_keep_apart():
    dots = [Dot("m", 0.2, series="raw"), Dot("n", 0.4, series="raw"), Dot("m", 0.3, series="equal")]
    drawn = dot_plot("t", dots, x_label="x")
    assert drawn.count('class="name"') == 2
    heights = [
        float(y) for y in re.findall(r'<circle class="dot c\d" cx="[\d.]+" cy="([\d.]+)"', drawn)
    ]
    assert heights[1] - heights[0] == pytest.approx(15, abs=0.2) and heights[2] > heights[1]
    long = [Dot("a name of twenty-five ones", 0.5)]
    wide = dot_plot("t", long, x_label="x", include=(0, 1), format=percent_text)
    ticks = [float(x) for x in re.findall(r'class="tick" x="([\d.]+)"', wide)]
    assert len(ticks) > 1 and min(b - a for a, b in pairwise(ticks)) > 35


def test_tables_and_pictures_lie_beside_the_page(tmp_path):
    (tmp_path / "summary.json").write_text(json.dumps(SUMMARY))
    (tmp_path / "eval").mkdir()
    for place, found in EVALUATIONS.items():
        name = tmp_path.resolve()
        found = found | {"command": f"heed eval --data={name}-2/x --run_dir={name}"}
        (tmp_path / place).write_text(json.dumps(found))
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "figure-33.csv").write_text("of an earlier report")
    page = write_report(tmp_path, tmp_path / "report.html").read_text("utf-8")
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    drawn = (1, 3, 4, 5, 6, 7, 29)
    assert names == {f"figure-{n}.{ending}" for n in drawn for ending in ("csv", "png")}
    with (tmp_path / "figures" / "figure-5.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [
            {
                "panel": "Overall rating",
                "name": "PPO",
                "series": "",
                "value": "4.5",
                "low": "4.4",
                "high": "4.6",
            }
        ]
    assert f"heed eval --data={tmp_path.resolve()}-2/x --run_dir=RUN" in page
    assert page.count("Not measured in this run. What makes it:") == 3  # 33, 34 and the tax
    assert "heed ppo PPO.toml --ppo.kl_coef=NUMBER" in page


def test_without_pillow_the_extra_is_named(tmp_path, monkeypatch):
    for name in ("PIL", "PIL.ImageDraw"):
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "summary.json").write_text(json.dumps(SUMMARY))
    with pytest.raises(MissingExtraError, match=r"heedful\[figures\].*--png=false"):
        write_report(tmp_path, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
    write_report(tmp_path, tmp_path / "report.html", png=False)
    assert {path.suffix for path in (tmp_path / "figures").iterdir()} == {".csv"}
