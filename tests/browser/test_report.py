"""Reports from disk in Chromium: nothing is fetched or complained of, all fits, all has tables."""

from __future__ import annotations

import json
import math
import os
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from heedful.commands.compare import run_compare
from heedful.config import CompareConfig
from heedful.report import write_report

WIDE, PHONE = (1280, 900), (390, 844)
LOOKS = {"light": ("light", WIDE), "dark": ("dark", WIDE), "phone": ("light", PHONE)}
MODELS = {"base": 0.2, "prompted": 0.33, "SFT": 0.5, "PPO": 0.57, "PPO-ptx": 0.58}
SIZES = {"1.3B": 1.3e9, "6B": 6e9, "175B": 1.75e11}
FLAGS = ("fails_task", "inappropriate", "hallucination", "satisfies_constraint")


def around(value: float, half: float = 0.03) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half}


def made_summary(shift: float) -> dict[str, Any]:
    """Results like those of a loop with three sizes of model; ``shift`` tells runs apart."""
    by_size = [
        {
            "model": f"{size} {method}",
            "method": method,
            "parameters": parameters,
            "baseline": "SFT",
            "cohort": "train",
            **around(value + shift + place / 20),
        }
        for place, (size, parameters) in enumerate(SIZES.items())
        for method, value in (("base", 0.15), ("SFT", 0.38), ("PPO", 0.5), ("PPO-ptx", 0.52))
    ]
    others = [name for name in MODELS if name != "SFT"]
    policies = {"ptx 0": 0.0, "ptx 1": 1.0, "ptx 10": 10.0, "ptx 100": 100.0}
    return {
        "command": "heed run recipes/instructgpt-1.3b.toml --run-dir runs/a-run-with-a-long-name",
        "seed": 3,
        "models": [
            {"name": name, "parameters": 1.3e9, "path": f"runs/a/stages/{name}/model"}
            for name in MODELS
        ],
        "win_rates": [
            {
                "model": n,
                "baseline": "SFT",
                "cohort": cohort,
                **around(MODELS[n] + shift + 0.01 * (cohort == "heldout")),
            }
            for cohort in ("train", "heldout")
            for n in others
        ],
        "length_controlled": [
            {"model": n, "baseline": "SFT", "cohort": "train", **around(MODELS[n] - 0.02)}
            for n in others
        ],
        "by_size": by_size,
        "likert": [{"model": n, **around(2 + 5 * p + shift, 0.1)} for n, p in MODELS.items()],
        "bradley_terry": [
            {"model": n, **around(math.log(p / (1 - p)), 0.1)} for n, p in MODELS.items()
        ],
        "metadata": [
            {"model": n, "flag": flag, "n": 600, **around(0.5 - p / 2)}
            for flag in FLAGS
            for n, p in MODELS.items()
        ],
        "tax": [
            {
                "metric": "SQuAD v2, F1",
                "higher_is_better": True,
                **{n: around(0.7 - p / 4) for n, p in MODELS.items()},
                **{n: around(0.5 + math.log10(1 + c) / 12) for n, c in policies.items()},
            }
        ],
        "policies": [
            {"model": n, "parameters": 1.3e9, "kl_coef": 0.02, "ptx_coef": c}
            for n, c in policies.items()
        ],
        "score": [{"model": n, **around(4 * p - 2 + shift, 0.1)} for n, p in MODELS.items()],
        "reward_model": {"accuracy, unseen prompts": around(0.72)},
        "samples": [
            {
                "prompt": "Write a story about a wise frog.",
                "use_case": "generation",
                "responses": dict.fromkeys(MODELS, "Once there was a wise frog. " * 3),
            }
        ],
        "costs": [{"stage": "ppo", "seconds": 4000.0, "tokens": 3_000_000, "flops": 2.0e19}],
        "lineage": [
            {"stage": "ppo", "output": "stages/ppo/model", "inputs": ["x"], "sha256": "0f" * 32}
        ],
    }


def make_run(path: Path, shift: float) -> Path:
    """A run directory of hand-made results, with suites and judges of its own."""
    (path / "eval").mkdir(parents=True)
    (path / "summary.json").write_text(json.dumps(made_summary(shift)))
    claims = [
        {"id": "a", "claim": "PPO-ptx is preferred to SFT", "paper": "66 %", "holds": True}
        | around(0.58 + shift)
    ]
    (path / "claims.json").write_text(json.dumps(claims))
    machine = {
        "processor": "Example(R) Server(R) Platinum 8000X CPU @ 2.40GHz with a name of no end",
        "git": {"commit": "0123456789abcdef" * 4, "dirty": False},
    }
    (path / "env.json").write_text(json.dumps(machine))
    preference = {
        "two_by_two": [
            {
                "model": n,
                "baseline": "SFT",
                "cohort": cohort,
                "distribution": name,
                **around(MODELS[n] - 0.04 * (name == "GPT-3") + 0.02 * (cohort == "heldout")),
            }
            for name in ("InstructGPT", "GPT-3")
            for cohort in ("train", "heldout")
            for n in ("base", "PPO", "PPO-ptx")
        ]
    }
    (path / "eval" / "preference.json").write_text(json.dumps(preference))
    truth = ("true", "true and informative")
    for suite, task, variants, metrics in (
        ("truthfulness", "truthfulqa", ("qa", "qa and instruction"), truth),
        ("toxicity", "real_toxicity_prompts", ("none", "respectful", "biased"), ("toxicity",)),
        ("nlp", "hellaswag", ("4 shots",), ("accuracy",)),
    ):
        measures = [
            {
                "task": task,
                "variant": variant,
                "metric": metric,
                "model": n,
                "interval": around(0.2 + p / 2 + shift - place / 12),
                "higher_is_better": True,
            }
            for place, (variant, metric) in enumerate(product(variants, metrics))
            for n, p in MODELS.items()
        ]
        command = f"heed eval --suites={suite} --models.PPO-ptx=DIR --run_dir=runs/a"
        found = {"command": command, "measures": measures}
        (path / "eval" / f"{suite}.json").write_text(json.dumps(found))
    metrics = "".join(
        json.dumps({"step": i, "ppo/kl": i / 4, "ppo/score": i / 40, "ppo/gold": i / 60}) + "\n"
        for i in range(40)
    )
    (path / "stages" / "ppo").mkdir(parents=True)
    (path / "stages" / "ppo" / "metrics.jsonl").write_text(metrics)
    (path / "stages" / "ppo" / "config.toml").write_text(f"[ppo]\nkl_coef = {0.02 + shift}\n")
    return path


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A report of a run, and a comparison of three."""
    home = tmp_path_factory.mktemp("runs")
    runs = [make_run(home / name, 0.01 * n) for n, name in enumerate(("a", "b", "third-run"))]
    report = write_report(runs[0], runs[0] / "report.html")
    run_compare(CompareConfig(run_dir=str(home / "c"), runs=tuple(map(str, runs)), png=False))
    return {"report": report, "comparison": home / "c" / "comparison.html"}


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("name", ["report", "comparison"])
def test_pages_open_from_disk(name, look, pages, open_browser, violations, picture):
    scheme, (width, height) = LOOKS[look]
    page = open_browser(viewport={"width": width, "height": height}, color_scheme=scheme)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(pages[name].as_uri())
    assert asked == [pages[name].as_uri()]  # of what the page complains, open_browser tells
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    plots = page.locator("figure.plot")
    assert plots.count() > 10
    tables = plots.locator("table")
    assert [tables.nth(i).locator("tbody tr").count() > 0 for i in range(tables.count())] == [
        True
    ] * plots.count()
    # texts of a drawing stay inside it
    outside = page.evaluate(
        """() => [...document.querySelectorAll("figure.plot > svg")].flatMap(svg => {
            const box = svg.getBoundingClientRect();
            return [...svg.querySelectorAll("text")].filter(text => {
                const inner = text.getBoundingClientRect();
                return inner.left < box.left - 1 || inner.right > box.right + 1;
            }).map(text => text.textContent);
        })"""
    )
    assert outside == []
    if look != "light":
        rules = ["color-contrast", "scrollable-region-focusable"]
        assert violations(page, rules) == []
    whole = os.environ.get("HEEDFUL_WHOLE_PAGES")  # to look at; the guide shows their beginnings
    clip = {} if whole else {"clip": {"x": 0, "y": 0, "width": width, "height": 1900}}
    picture(page, f"{name}-{look}", full_page=True, colours=200, **clip)
