"""The report page: complete, partial and hostile run directories, and the drawings in it."""

import json
import math
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from heedful.cli import main
from heedful.errors import DataError
from heedful.plots import Dot, Line, bar_chart, dot_plot, line_chart, size_chart
from heedful.report import write_report
from heedful.shown import change_text, count_text, number_text, percent_text

HOSTILE = "<script>alert('x')</script>&\"'><img src=x onerror=alert(1)>"
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """A strict reading of a page: every tag closed in order, attributes and texts collected."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.texts, self._open = [], [], [], []
        self.sections = {}
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag == "section":
            self._section = dict(attrs)["id"]
            self.sections[self._section] = ""
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
        if "section" in self._open:
            self.sections[self._section] += data


def interval(value, half=0.04):
    return {"value": value, "low": value - half, "high": value + half}


def made_summary():
    models = {"base": 0.14, "prompted": 0.28, "sft": 0.5, "ppo": 0.62, "ppo-ptx": 0.66}
    aligned = [name for name in models if name != "sft"]
    return {
        "command": "heed demo --seed 3",
        "world": "the miniature world",
        "seed": 3,
        "models": [{"name": n, "parameters": 3_200_000, "path": f"models/{n}"} for n in models],
        "win_rates": [
            {"model": n, "baseline": "sft", "cohort": cohort, **interval(models[n])}
            for cohort in ("train", "heldout", None)
            for n in aligned
        ],
        "likert": [{"model": n, "n": 300, **interval(2 + 5 * p, 0.1)} for n, p in models.items()],
        "bradley_terry": [
            {"model": n, **interval(math.log(p / (1 - p)), 0.2)} for n, p in models.items()
        ],
        "metadata": [
            {"model": n, "flag": flag, "n": 120, **interval(0.3 * (1 - p))}
            for n, p in models.items()
            for flag in ("hallucination", "fails_task")
        ],
        "truth": [
            {"model": n, "set": where, **interval(0.2 + p / 2)}
            for where in ("seen characters", "held-out characters")
            for n, p in models.items()
        ],
        "toxicity": [
            {"model": n, "instruction": kind, **interval(0.05 + 0.1 * len(kind) * models[n] / 6)}
            for kind in ("none", "respectful", "biased")
            for n in models
        ],
        "hallucination": [{"model": n, **interval(0.4 * (1 - p))} for n, p in models.items()],
        "flagged": [
            {"model": "base", "prompts": case, "n": 60, **interval(0.25)}
            for case in ("all closed-domain prompts", "closed_qa")
        ],
        "named": [{"model": "sft", "set": "held out", **interval(0.5)}],
        "tax": [
            {
                "metric": "web text loss",
                "higher_is_better": False,
                "base": interval(0.66),
                "sft": interval(1.22),
                "ppo": interval(1.34),
                "ppo_ptx": interval(0.69),
            },
            {
                "metric": "few-shot recall",
                "higher_is_better": True,
                "base": interval(0.8),
                "ppo": interval(0.5),
                "ppo_ptx": interval(0.76),
            },
        ],
        "tax_changes": [
            {
                "measure": "few-shot recall",
                "model": "ppo",
                "base": "base",
                "n": 40,
                "higher_is_better": True,
                "of_base": interval(0.8),
                "of_model": interval(0.5),
                "difference": interval(-0.3),
                "better": interval(-0.375),
                "won_back": None,
            }
        ],
        "reward_model": {
            "accuracy": interval(0.71),
            "heldout_labelers": interval(0.69),
            "baselines": {"longer is better": 0.55, "gold": interval(0.77)},
        },
        "score": [
            {"model": n, **interval(4 * (p - 0.5)), "minus sft": interval(4 * p - 2, 0.5)}
            for n, p in models.items()
        ],
        "gold": [{"model": "base", **interval(-2.0)}, {"model": "ppo", **interval(0.7)}],
        "samples": [
            {
                "prompt": f"Write a story about a wise frog. ({i})",
                "use_case": "open_qa",
                "responses": {
                    "base": "Write a story about a sad newt.\nWrite a story about a king.",
                    "sft": "Once there was a frog. She knew the pond.",
                    "ppo": HOSTILE,
                    "ppo-ptx": "Once a wise frog told the heron the truth, and was thanked.",
                },
            }
            for i in range(8)
        ],
        "costs": [
            {"stage": "pretrain", "seconds": 410.5, "tokens": 5_500_000, "flops": 2.4e14},
            {"stage": "sft", "seconds": 40.0, "tokens": 300_000, "flops": 1.3e13},
            {"stage": "ppo", "seconds": 280.0, "tokens": None, "flops": 6e13},
        ],
        "lineage": [
            {
                "stage": "sft",
                "output": "models/sft",
                "inputs": ["models/base", "snapshots/1"],
                "sha256": "0123456789abcdef" * 4,
            },
            {"stage": "ppo", "output": "models/ppo", "inputs": "models/sft", "sha256": None},
        ],
    }


def make_run(path: Path) -> Path:
    path.mkdir()
    claims = [
        {
            "id": "a1",
            "claim": "PPO-ptx is preferred to SFT",
            "paper": "66 % (Fig 1)",
            **interval(0.61),
            "holds": True,
            "note": "SFT itself is weak <here>",
        },
        {
            "id": "g",
            "claim": "Held-out labelers agree",
            "paper": "alike",
            "value": 0.8,
            "low": None,
            "high": None,
            "holds": False,
        },
    ]
    (path / "claims.json").write_text(json.dumps(claims))
    (path / "summary.json").write_text(json.dumps(made_summary()))
    (path / "config.toml").write_text("seed = 3\n[ppo]\nkl_coef = 0.02\n")
    (path / "env.json").write_text(json.dumps({"python": "3.11", "git_commit": "abc123"}))
    rows = {
        "sft": [
            {"step": i, "sft/loss": 3 / (1 + i / 40)} | ({"valid/loss": 1.1} if i % 50 == 0 else {})
            for i in range(300)
        ],
        "reward": [
            {"step": i, "reward/loss": 0.69 - i / 500, "reward/accuracy": 0.5 + i / 250}
            for i in range(60)
        ],
    }
    for name, top in (("ppo", 1.4), ("ppo_ptx", 1.2)):
        rows[name] = [
            {
                "step": i,
                "ppo/kl": top * i / 10,
                "ppo/score": top * i / 60 - (i / 80) ** 2,
                "ppo/gold": i / 60 - (i / 65) ** 2 if i % 5 == 0 else None,
                "ppo/reward": i / 90,
                "time/total_s": 1.5,
            }
            for i in range(60)
        ]
    for name, lines in rows.items():
        (path / "stages" / name).mkdir(parents=True)
        text = "".join(json.dumps(row) + "\n" for row in lines)
        (path / "stages" / name / "metrics.jsonl").write_text(text)
    return path


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("report") / "demo")
    html = write_report(run, run / "report.html").read_text(encoding="utf-8")
    return html, Page(html)


def test_page_is_well_formed_and_self_contained(page):
    html, parsed = page
    assert html.startswith("<!doctype html>")
    assert not {"script", "link", "img", "iframe", "object"} & set(parsed.tags)
    assert not any(
        name in ("src", "srcset") or name.startswith("on") for _, name, _ in parsed.attributes
    )
    assert all(value.startswith("#") for _, name, value in parsed.attributes if name == "href")
    for remote in ("http://", "https://", "url(", "@import"):
        assert remote not in html
    assert "prefers-color-scheme: dark" in html and "@media print" in html


def test_text_of_models_is_shown_and_never_run(page):
    html, parsed = page
    assert "<script" not in html.lower() and "<img" not in html.lower()
    assert parsed.texts.count(HOSTILE) == 8


def test_summary_and_claims(page):
    _, parsed = page
    text = " ".join(" ".join(parsed.texts).split())
    made = "checks, made after the claims of the InstructGPT paper, hold on the miniature world"
    assert f"1 of 2 {made} (seed 3). Not shown here: g." in text
    assert "the recipe was tuned on seed 0" in text
    claims = parsed.sections["claims"]
    assert "SFT itself is weak <here>" in claims
    assert "✓ holds" in claims and "✗ not shown" in claims
    assert "0.610 (0.570 to 0.650)" in claims and "66 % (Fig 1)" in claims
    assert "0.800 (? to ?)" in claims


def test_checks_of_an_unnamed_world_are_of_this_run(tmp_path):
    run = make_run(tmp_path / "unnamed")
    (run / "summary.json").write_text("{}")
    text = " ".join(Page(write_report(run, run / "report.html").read_text("utf-8")).texts)
    assert "hold in this run." in " ".join(text.split()) and "seed 0" not in text


def test_the_probes_stand_beside_what_labelers_flag(page):
    _, parsed = page
    text = " ".join(parsed.sections["behaviour"].split())
    assert "Hallucinations: asked about notes (probes)" in text
    _, _, flagged = text.partition("Hallucinations flagged by labelers: closed QA")
    assert "share of responses. base: 25 %, 95 % interval 21 % to 29 %." in flagged
    assert "Answers that name who is asked about: held out" in text


def test_every_section_is_filled(page):
    _, parsed = page
    assert list(parsed.sections) == [
        "claims",
        "preference",
        "behaviour",
        "score",
        "kl",
        "tax",
        "reward-model",
        "curves",
        "samples",
        "costs",
        "lineage",
        "reproduce",
    ]
    for name, text in parsed.sections.items():
        # one run has no sweeps over a coefficient
        assert text.count("Not measured") == (2 if name == "tax" else 0), name
    shown = " ".join(parsed.sections["preference"].split())
    assert "Preferred to sft, training labelers" in shown  # Figure 1
    # Figure 3: both groups of labelers in one panel
    assert "base, held-out labelers: 14 %, 95 % interval 10 % to 18 %." in shown
    assert "fails task" in parsed.sections["preference"]
    assert "Score against KL" not in parsed.sections["curves"]
    assert "Gold utility against KL" in parsed.sections["kl"]
    assert "730" in parsed.sections["costs"]  # 410.5 + 40 + 280 seconds, rounded to three digits
    assert "3.13e14" in parsed.sections["costs"]  # 2.4e14 + 0.13e14 + 0.6e14
    assert "heed demo --seed 3" in parsed.sections["reproduce"]
    assert "kl_coef = 0.02" in parsed.sections["reproduce"]
    assert "0123456789ab" in parsed.sections["lineage"]


def test_scores_stand_beside_their_differences_to_the_first_model(page):
    _, parsed = page
    score = " ".join(parsed.sections["score"].split())
    assert "ppo-ptx: 0.64, 95 % interval 0.6 to 0.68." in score  # 4 (0.66 - 0.5), and 0.04 around
    _, _, differences = score.partition("Score minus that of sft")
    assert "ppo-ptx: 0.64, 95 % interval 0.14 to 1.14." in differences
    assert "sft:" not in differences  # of a model to itself there is none
    assert "Score minus" not in parsed.sections["reward-model"]


def test_stages_have_names_and_rounds_come_in_order(tmp_path):
    run = make_run(tmp_path / "rounds")
    for name in ("ppo_1", "base_large", "warm_up"):
        (run / "stages" / name).mkdir()
        (run / "stages" / name / "metrics.jsonl").write_text(
            '{"step": 0, "ppo/score": 1, "ppo/kl": 1}\n'
        )
    html = write_report(run, run / "report.html").read_text("utf-8")
    curves = html.partition('<section id="curves">')[2].partition("</section>")[0]
    names = [part.partition("</h3>")[0] for part in curves.split("<h3>")[1:]]
    assert names == [
        "Large base",
        "SFT",
        "Reward model",
        "PPO, round 1",
        "PPO",
        "PPO-ptx",
        "warm up",
    ]
    assert "PPO-ptx: from" in Page(html).sections["kl"]


def test_paths_within_the_run_are_relative_to_it(tmp_path):
    run = make_run(tmp_path / "paths")
    summary = made_summary()
    summary["models"][0]["path"] = str(run.resolve() / "stages" / "base" / "model")
    summary["lineage"][0]["inputs"] = [str(run.resolve() / "stages" / "world"), "elsewhere/data"]
    (run / "summary.json").write_text(json.dumps(summary))
    html = write_report(run, run / "report.html").read_text("utf-8")
    assert str(run.resolve()) not in html
    assert "stages/base/model" in Page(html).sections["preference"]
    assert "stages/world, elsewhere/data" in Page(html).sections["lineage"]


def test_responses_of_the_main_models_come_first(tmp_path):
    run = make_run(tmp_path / "order")
    names = ["large base", "PPO-ptx", "prompted", "PPO", "SFT", "base"]
    sample = {"prompt": "p", "responses": {name: f"by {name}!" for name in names}}
    (run / "summary.json").write_text(json.dumps({"samples": [sample]}))
    page = Page(write_report(run, run / "report.html").read_text("utf-8"))
    shown = sorted(names, key=lambda name: page.sections["samples"].index(f"by {name}!"))
    assert shown == ["base", "SFT", "PPO", "PPO-ptx", "large base", "prompted"]


def test_a_share_stands_beside_its_number_of_answers(page):
    _, parsed = page
    text = " ".join(parsed.sections["preference"].split())
    assert "hallucination120 25.8 % 21.8 to 29.8" in text  # 0.3 (1 - 0.14), and 0.04 around


def test_the_true_utility_stands_beside_the_score(page):
    _, parsed = page
    shown = "mean true utility of an answer. base: -2, 95 % interval -2.04 to -1.96."
    assert shown in parsed.sections["score"]


def test_every_figure_has_title_description_and_table(page):
    _, parsed = page
    num_figures = parsed.tags.count("figure")
    assert num_figures > 20
    assert parsed.tags.count("desc") == num_figures
    assert parsed.tags.count("title") == num_figures + 1  # and the page's own
    assert parsed.tags.count("figcaption") == num_figures
    assert parsed.tags.count("table") >= num_figures


def test_an_empty_run_directory_says_what_was_not_measured(tmp_path):
    parsed = Page(write_report(tmp_path, tmp_path / "out" / "report.html").read_text("utf-8"))
    assert "No check has been decided yet" in " ".join(parsed.texts)
    for name, text in parsed.sections.items():
        assert "Not measured in this run" in text, name


def test_without_an_environment_of_its_own_the_run_shows_that_of_its_last_stage(tmp_path):
    run = make_run(tmp_path / "stages-only")
    (run / "env.json").unlink()
    for age, name in enumerate(("ppo", "sft", "reward")):
        file = run / "stages" / name / "env.json"
        file.write_text(json.dumps({"python": f"of {name}", "git": {"commit": name, "dirty": 0}}))
        os.utime(file, (1e9 - age, 1e9 - age))
    page = Page(write_report(run, run / "report.html").read_text("utf-8"))
    reproduce = page.sections["reproduce"]
    assert "of ppo" in reproduce and "commit ppo, dirty 0" in reproduce
    assert "of sft" not in reproduce and "of reward" not in reproduce


def test_a_command_that_is_not_known_is_not_made_up(tmp_path):
    run = make_run(tmp_path / "unnamed")
    (run / "summary.json").write_text("{}")
    page = Page(write_report(run, run / "report.html").read_text("utf-8"))
    assert "Not measured in this run: the command" in page.sections["reproduce"]
    assert "heed run" not in page.sections["reproduce"]


def test_cut_and_odd_files_are_named_not_fatal(tmp_path):
    run = make_run(tmp_path / "cut")
    (run / "claims.json").write_text('[{"id": "a1",')
    (run / "stages" / "sft" / "metrics.jsonl").write_text('{"step": 0}\nbroken\n{"step": 2}\n')
    odd = {
        "win_rates": [{"model": "x"}, 7],
        "tax": {"no": "list"},
        "samples": [{"prompt": "p"}],
        "lineage": [{"inputs": 3}],
        "reward_model": {"accuracy": None},
        "score": [{"model": "x", "minus y": 3}, {"minus x": None}, 5],
        "costs": [{}],
    }
    (run / "summary.json").write_text(json.dumps(odd))
    text = " ".join(Page(write_report(run, run / "report.html").read_text("utf-8")).texts)
    assert "claims.json, line 1: not JSON" in text
    assert "metrics.jsonl, line 2: not JSON" in text
    with pytest.raises(DataError, match="not a directory"):
        write_report(tmp_path / "absent", tmp_path / "report.html")


def attributes(html, tag, name):
    return [float(value) for t, n, value in Page(html).attributes if (t, n) == (tag, name)]


def test_dots_stand_where_their_values_are():
    html = dot_plot("t", [Dot("a", 0.0), Dot("b", 0.5, 0.25, 0.75), Dot("c", 1.0)], x_label="x")
    first, middle, last = attributes(html, "circle", "cx")
    assert middle == pytest.approx((first + last) / 2, abs=0.1)
    quarter = first + 0.25 * (last - first)
    assert any(x == pytest.approx(quarter, abs=0.2) for x in attributes(html, "line", "x1"))
    assert "95 % interval 0.25 to 0.75" in html


def test_bars_are_proportional_and_start_at_zero():
    html = bar_chart("t", [("a", 10.0), ("b", 40.0), ("bad", math.nan)], x_label="s")
    short, long = attributes(html, "rect", "width")
    assert long == pytest.approx(4 * short, abs=0.3)


def test_lines_rise_upwards_within_the_drawing():
    html = line_chart("t", [Line("up", [0, 1, 2], [0.0, 5.0, 10.0])], x_label="x", y_label="y")
    points = next(v for t, n, v in Page(html).attributes if (t, n) == ("polyline", "points"))
    xy = [tuple(map(float, point.split(","))) for point in points.split()]
    assert xy[0][0] < xy[1][0] < xy[2][0] <= 360
    assert 230 >= xy[0][1] > xy[1][1] > xy[2][1] >= 0
    assert xy[1][1] == pytest.approx((xy[0][1] + xy[2][1]) / 2, abs=0.1)


def test_sizes_stand_on_a_log_scale_and_seeds_above_each_other():
    """Curves go through the mean of the seeds; every model has its dot and interval."""
    methods = {
        "base": [(1e5, Dot("small base", 0.1, 0.05, 0.15)), (1e7, Dot("large base", 0.3))],
        "SFT": [
            (1e5, Dot("a", 0.4, 0.35, 0.45)),
            (1e5, Dot("b", 0.6, 0.55, 0.65)),
            (1e6, Dot("c", 0.5)),
        ],
    }
    drawn = size_chart("By size", methods, y_label="rate", reference=0.5)
    Page(drawn)
    dots = [(float(x), float(y)) for x, y in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', drawn)]
    lines = re.findall(r'class="line c\d" points="([^"]+ [^"]+)"', drawn)
    small, large, a, b, middle = dots
    assert small[0] == a[0] == b[0]
    assert middle[0] - small[0] == pytest.approx(large[0] - middle[0], abs=0.2)
    assert small[1] > large[1] > a[1] > b[1]  # upwards is less
    ends = [tuple(map(float, point.split(","))) for point in lines[1].split()]
    assert ends[0][1] == pytest.approx((a[1] + b[1]) / 2, abs=0.1)
    assert ends[1] == pytest.approx(middle, abs=0.1)
    assert drawn.count('class="interval') == 3
    assert all(text in drawn for text in ("100k", "1M", "10M", "40 %, 95 % interval 35 % to 45 %"))
    marks = re.findall(r"<li>.*?</li>", drawn)
    assert all("polyline" in mark and "circle" not in mark for mark in marks)
    lone = size_chart(
        "Lone", methods | {"PPO": [(1e6, Dot("d", 0.6))]}, y_label="rate", reference=0.5
    )
    assert lone.count("<polyline") == 2 + 2  # two curves and their marks: a lone dot has neither
    mark = re.findall(r"<li>.*?</li>", lone)[-1]
    assert "PPO" in mark and "circle" in mark and "polyline" not in mark
    assert size_chart("One", {"base": methods["base"][:1]}, y_label="", reference=0.5) == ""


def test_large_counts_are_short():
    assert [count_text(x) for x in (12, 188_000, 885_888, 1.69e7, 1.3e9)] == [
        "12", "188k", "886k", "16.9M", "1.3B"
    ]  # fmt: skip


def test_nothing_to_draw_gives_nothing_and_one_value_is_drawn():
    assert line_chart("t", [], x_label="x", y_label="y") == ""
    assert dot_plot("t", [Dot("a", math.nan)], x_label="x") == ""
    assert bar_chart("t", [], x_label="x") == ""
    alone = line_chart("t", [Line("a", [3], [0.0])], x_label="x", y_label="y")
    assert "circle" in alone and "polyline" not in alone
    both = [Line("a", [3], [0.0]), Line("b", [1, 2], [0.0, 1.0])]
    drawn = line_chart("t", both, x_label="x", y_label="y")
    assert drawn.count("circle") == drawn.count("polyline") == 2  # each with its mark in the legend


def test_plot_text_is_escaped():
    for html in (
        line_chart(HOSTILE, [Line(HOSTILE, [0, 1], [0, 1])] * 2, x_label=HOSTILE, y_label=HOSTILE),
        dot_plot(HOSTILE, [Dot(HOSTILE, 1.0)], x_label=HOSTILE),
        bar_chart(HOSTILE, [(HOSTILE, 1.0)], x_label=HOSTILE),
    ):
        assert not {"script", "img"} & set(Page(html).tags)


def test_numbers_are_short():
    assert [number_text(x) for x in (0, 0.12345, 12.5, 3640, 2.4e14, 0.00002, -1.5)] == [
        "0",
        "0.123",
        "12.5",
        "3,640",
        "2.4e14",
        "2e-5",
        "-1.5",
    ]
    assert percent_text(0.734) == "73.4 %"


def test_evaluations_of_a_training_have_their_curves(tmp_path):
    """In the panel of their kind; a suite's variants share one; the cost has its own."""
    run = make_run(tmp_path / "looked")
    rows = [
        {
            **{"step": step, "ppo/score": 0.1 * step, "valid/score": 0.2 * step},
            **{f"eval/crows_pairs.entropy_bits.{v}": step / 9 for v in ("none", "biased")},
            "time/evaluate_share": 0.03,
        }
        for step in range(3)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (run / "stages" / "ppo" / "metrics.jsonl").write_text(text)
    out = write_report(run, run / "report.html")
    curves = Page(out.read_text(encoding="utf-8")).sections["curves"]
    assert "ppo/score" in curves and "valid/score" in curves
    assert curves.count("crows pairs: entropy bits") >= 1
    assert "biased" in curves and "Evaluation's share of the run's time" in curves


def test_changes_as_text():
    found = [change_text(x) for x in (0.0, -0.0, -1e-17, 0.123456, -0.3, 1.4, 53.1, 5123.2)]
    assert found == ["0", "0", "0", "12.3", "-30", "140", "5,310", "512,320"]


def test_an_axis_ends_at_its_limits_and_arrows_say_what_is_beyond():
    dots = [Dot("far", 53.0, -2.0, 90.0), Dot("below", -4.0), Dot("within", 0.5, 0.4, 0.6)]
    limits = (-1.5, 1.5)
    html = dot_plot("t", dots, x_label="x", include=[0.0], limits=limits, format=change_text)
    assert html.count("<circle") == 1  # of what is within
    places = {float(x) for x in re.findall(r'x[12]?="([0-9.]+)"', html)}
    assert max(places) <= 360
    ticks = re.findall(r'class="tick"[^>]*>([^<]*)<', html)
    assert ticks == ["-100", "0", "100"]
    values = re.findall(r'class="value"[^>]*>([^<]*)<', html)
    assert values == ["5,300", "-400", "50"]


def test_rows_of_long_names_differ():
    """Names that begin alike stand whole, in lines of at most 26 letters."""
    ends = ("toxicity", "toxic share of all the continuations")
    names = [f"real_toxicity_prompts respectful {end}" for end in ends]
    html = dot_plot("t", [Dot(name, 0.5) for name in names], x_label="x")
    lines = re.findall(r'class="name"[^>]*>([^<]*)<', html)
    assert " ".join(lines) == " ".join(names) and max(map(len, lines)) <= 26


def change(number, low, high, better):
    zero = {"value": 0.0, "low": 0.0, "high": 0.0}
    return {
        **{"measure": f"m{number}", "model": "PPO", "base": "base", "n": 9},
        **{"higher_is_better": True, "of_base": zero, "of_model": interval(0.1)},
        "difference": {"value": 0.1, "low": low, "high": high},
        **{"better": better, "won_back": None},
    }


@pytest.mark.parametrize(("num", "opened"), [(20, True), (21, False)])
def test_the_table_of_changes_is_marked_by_differences_and_closed_where_long(tmp_path, num, opened):
    """A base of 0 makes an endless share for the better: here it is told as one that is sure."""
    sure = {"value": 3.0, "low": 2.0, "high": 4.0}
    rows = [change(0, 0.05, 0.2, sure), change(1, None, None, sure)]
    rows += [change(n, -0.1, 0.2, sure) for n in range(2, num)]
    (tmp_path / "summary.json").write_text(json.dumps({"tax_changes": rows}))
    html = write_report(tmp_path, tmp_path / "report.html", png=False).read_text("utf-8")
    part = html[html.index('id="tax"') :]
    assert part.count('class="value holds"') == 1 and 'class="value fails"' not in part
    assert "(-)" in part
    assert ("<details open><summary>All changes" in part) == opened


def write_step(path, step, env):
    path.mkdir(parents=True)
    rows = [{"step": n, f"{step}/loss": 2.0 - n} for n in range(3)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (path / "env.json").write_text(json.dumps({"python": env}))
    (path / "model").mkdir()
    lineage = {"parents": {}, "data": {"d.jsonl": "00"}, "sha256": step * 8}
    (path / "model" / "heedful.json").write_text(json.dumps(lineage))
    return path


def test_a_step_made_by_hand_has_a_page_and_so_has_a_folder_of_steps(tmp_path, capsys):
    runs = tmp_path / "runs"
    for name in ("sft", "ppo"):
        write_step(runs / name, name, f"of {name}")
    os.utime(runs / "sft" / "env.json", (1e9, 1e9))
    assert main(["report", str(runs / "sft"), "--png=false"]) == 0
    page = Page((runs / "sft" / "report.html").read_text("utf-8"))
    assert "sft/loss" in page.sections["curves"] and "of sft" in page.sections["reproduce"]
    assert "sftsftsftsft" in page.sections["lineage"] and "d.jsonl" in page.sections["lineage"]
    assert main(["report", str(runs), "--png=false"]) == 0
    page = Page((runs / "report.html").read_text("utf-8"))
    curves = page.sections["curves"]
    assert curves.index("sft/loss") < curves.index("ppo/loss")
    assert "of ppo" in page.sections["reproduce"]  # the last of them
    capsys.readouterr()
    (tmp_path / "none" / "deep" / "er").mkdir(parents=True)
    assert main(["report", str(tmp_path / "none")]) == 1
    assert "none has nothing to report: no stages, no metrics.jsonl" in capsys.readouterr().err
    assert not (tmp_path / "none" / "report.html").exists()
    assert not (tmp_path / "none" / "summary.json").exists()


def test_the_code_shown_is_that_of_training_not_of_a_later_evaluation(tmp_path):
    run = tmp_path / "run"
    write_step(run / "stages" / "ppo", "ppo", "of training")
    (run / "env.json").write_text('{"python": "of an evaluation"}')
    (run / "eval").mkdir()
    (run / "eval" / "env.json").write_text('{"python": "of another", "measures": 3}')
    (run / "stages" / "report").mkdir()
    (run / "stages" / "report" / "env.json").write_text('{"python": "of a report"}')
    for place in (run, run / "eval", run / "stages" / "report"):
        os.utime(place / "env.json", (2e9, 2e9))
    page = Page(write_report(run, run / "report.html", png=False).read_text("utf-8"))
    assert "of training" in page.sections["reproduce"]
    assert not re.search("of an evaluation|of another|of a report", " ".join(page.texts))
