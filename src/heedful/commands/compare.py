"""heed report RUN RUN ...: several runs on one page, beside each other."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from heedful.commands.preference import EVAL_DIR
from heedful.commands.progress import file_progress
from heedful.commands.report import policies
from heedful.commands.tax import named
from heedful.comparison import COHORTS, write_comparison
from heedful.config import CompareConfig
from heedful.config_file import read_toml
from heedful.errors import ConfigError, DataError
from heedful.metrics import replacing
from heedful.run_files import Run, read_run
from heedful.statistics.intervals import Interval, difference_of_independent

COMPARISON_FILE = "comparison.json"
TABLE_FILE = "comparison.csv"
PAGE_FILE = "comparison.html"
# Settings that say where something stands, not how it was made.
_PLACES = ("run_dir", "run", "log")
# What judgements add up to, in summary.json and in files of heed eval preference alike.
_PREFERENCES = ("win_rates", "length_controlled", "two_by_two", "likert")
Row = dict[str, Any]


def run_compare(config: CompareConfig, resume: bool = False) -> None:
    """Writes comparison.html, comparison.json, comparison.csv and figures/."""
    if len(config.runs) < 2:
        raise ConfigError("runs has one run, two or more are compared: heed report RUN shows one")
    run_dir = Path(config.run_dir)
    progress = file_progress(run_dir)
    runs = {name: read_run(path) for name, path in named(config.runs).items()}
    progress(1, 3)
    found = {
        "runs": [_head(name, run) for name, run in runs.items()],
        "problems": [f"{name}: {one}" for name, run in runs.items() for one in run.problems],
        "claims": _claims(runs),
        "measures": _measures(runs),
        "settings": differing_settings({name: run.path for name, run in runs.items()}),
        "policies": [
            {**row, "run": name}
            for name, run in runs.items()
            for row in run.summary.get("policies") or policies(run.summary)
        ],
    }
    if not found["measures"]:
        raise DataError(
            f"none of {', '.join(runs)} has measures: a finished run has summary.json, or eval/ of "
            "heed eval"
        )
    progress(2, 3)
    with replacing(run_dir / COMPARISON_FILE) as partial:
        partial.write_text(json.dumps(found, indent=1, ensure_ascii=False), encoding="utf-8")
    _write_csv(run_dir / TABLE_FILE, found["measures"])
    write_comparison(found, runs, run_dir / PAGE_FILE, png=config.png)
    progress(3, 3)


def _head(name: str, run: Run) -> Row:
    """What a run is: its seed, how it was started, checks that hold, seconds and FLOPs."""
    costs = run.summary.get("costs") or []
    flops = [row["flops"] for row in costs if row.get("flops") is not None]
    git = run.env.get("git") if isinstance(run.env, dict) else None
    return {
        "name": name,
        "seed": run.summary.get("seed"),
        "command": run.summary.get("command"),
        "checks": len(run.claims),
        "checks_that_hold": sum(bool(claim.get("holds")) for claim in run.claims),
        "seconds": sum(row["seconds"] for row in costs) if costs else None,
        "flops": sum(flops) if flops else None,
        "git": git,
    }


def _claims(runs: Mapping[str, Run]) -> list[Row]:
    """Every check with what each run has found."""
    rows: dict[str, Row] = {}
    for name, run in runs.items():
        for claim in run.claims:
            key = str(claim.get("id"))
            row = rows.setdefault(key, {"id": key, "claim": claim.get("claim"), "runs": {}})
            row["runs"][name] = {k: claim.get(k) for k in ("holds", "value", "low", "high")}
    return list(rows.values())


def _measures(runs: Mapping[str, Run]) -> list[Row]:
    """Every measure of every model that any run has, and the differences to the first run.

    Runs are taken as independent, so that intervals are enough: where they share prompts, people or
    models the interval of a difference is wider than need be.
    """
    rows: dict[tuple[str, str, str], Row] = {}
    of_loops = {key for key in _PREFERENCES if any(run.summary.get(key) for run in runs.values())}
    for name, run in runs.items():
        for section, measure, model, interval in _intervals(run, of_loops):
            row = rows.setdefault(
                (section, measure, model),
                {"section": section, "measure": measure, "model": model, "runs": {}},
            )
            row["runs"][name] = {k: interval.get(k) for k in ("value", "low", "high")}
    first, *others = runs
    for row in rows.values():
        found = {name: _interval(interval) for name, interval in row["runs"].items()}
        row["differences"] = {
            name: difference_of_independent(found[name], found[first]).to_row()
            for name in others
            if name in found and first in found
        }
    order = list(dict.fromkeys(section for section, _, _ in rows))
    return sorted(rows.values(), key=lambda row: order.index(row["section"]))


def _interval(row: Row) -> Interval:
    value, low, high = (math.nan if row[k] is None else row[k] for k in ("value", "low", "high"))
    return Interval(value, low, high)


def _intervals(run: Run, of_loops: Collection[str]) -> Iterator[tuple[str, str, str, Row]]:
    """(section, measure, model, interval) of all that was measured in a run.

    ``of_loops`` are the fields that any of the runs has in its summary: the same field of
    eval/preference.json, which other judges may have filled, is then another measure.
    """
    summary = run.summary
    for key in _PREFERENCES:
        for row in summary.get(key) or ():
            yield "Preference", _preference(key, row), row["model"], row
        for place, found in _results(run, "preference", is_told=key in of_loops):
            for row in found.get(key) or ():
                yield "Preference", _preference(key, row) + place, row["model"], row
    for key, title, by in (
        ("truth", "True answers", "set"),
        ("hallucination", "Hallucinations (probes)", ""),
        ("toxicity", "Insults, instruction", "instruction"),
    ):
        for row in summary.get(key) or ():
            yield "Truth and harm", f"{title}: {row[by]}" if by else title, row["model"], row
    for suite in ("truthfulness", "toxicity", "bias"):
        for place, found in _results(run, suite):
            yield from _of_suite("Truth and harm", place, found)
    for row in summary.get("tax") or ():
        models = {key: value for key, value in row.items() if isinstance(value, dict)}
        for model, interval in models.items():
            yield "Alignment tax", row["metric"], model.replace("_", "-"), interval
    for place, found in _results(run, "nlp"):
        yield from _of_suite("Alignment tax", place, found)
    for row in summary.get("tax_changes") or ():
        yield (
            "Alignment tax",
            f"{row['measure']}, minus {row['base']}",
            row["model"],
            row["difference"],
        )
    for key, title in (("score", "Score by the run's reward model"), ("gold", "Gold utility")):
        for row in summary.get(key) or ():
            yield "Rewards", title, row["model"], row
    for name, interval in (summary.get("reward_model") or {}).items():
        if isinstance(interval, dict) and "value" in interval:
            title = "Reward model: share of pairs in the right order"
            yield "Rewards", title, name.removeprefix("accuracy, "), interval


def _preference(key: str, row: Mapping[str, Any]) -> str:
    """What a row of judgements' sums is called."""
    if key == "likert":
        return "Overall rating, 1 to 7"
    who = COHORTS.get(str(row.get("cohort")), "all judges")
    more = {"length_controlled": ", at equal length"}.get(key, "")
    more = f", {row['distribution']} prompts" if key == "two_by_two" else more
    return f"Preferred to {row['baseline']}, {who}{more}"


def _results(run: Run, suite: str, *, is_told: bool = False) -> list[tuple[str, Mapping[str, Any]]]:
    """(what tells its measures from others of the same name, results) of a suite's files.

    That is the place of the file, of the run's own file only with ``is_told``.
    """
    own = f"{EVAL_DIR}/{suite}.json"
    return [
        ("" if place == own and not is_told else f" ({place})", found)
        for place, found in run.evaluations.items()
        if place.endswith(f"/{suite}.json")
    ]


def _of_suite(
    section: str, place: str, found: Mapping[str, Any]
) -> Iterator[tuple[str, str, str, Row]]:
    for row in found.get("measures") or ():
        parts = (row["task"], row["variant"], row["metric"])
        measure = ", ".join(part for part in parts if part and part != "none")
        yield section, f"{measure}{place}", row["model"], row["interval"]


def differing_settings(runs: Mapping[str, Path]) -> list[Row]:
    """Settings of stages that are not the same in all runs: {"setting", "stages", "runs"}.

    Stages in which a setting differs in the same way share a row. Paths within a run are compared
    as such.
    """
    stages = {name: _stage_settings(path) for name, path in runs.items()}
    rows: dict[tuple[str, ...], Row] = {}
    for stage in dict.fromkeys(stage for found in stages.values() for stage in found):
        given = {name: found.get(stage) for name, found in stages.items()}
        if any(one is None for one in given.values()):
            missing = {name: "-" if one is None else "there" for name, one in given.items()}
            _add_setting(rows, "(the stage itself)", stage, missing)
            continue
        for key in dict.fromkeys(key for one in given.values() if one for key in one):
            values = {name: (one or {}).get(key, "-") for name, one in given.items()}
            if len(set(values.values())) > 1:
                _add_setting(rows, key, stage, values)
    return list(rows.values())


def _add_setting(
    rows: dict[tuple[str, ...], Row], key: str, stage: str, values: dict[str, str]
) -> None:
    row = {"setting": key, "stages": [], "runs": values}
    rows.setdefault((key, *values.values()), row)["stages"].append(stage)


def _stage_settings(run: Path) -> dict[str, dict[str, str]]:
    """{stage: {setting: its value as text}} of a run."""
    found = {}
    for file in sorted(run.glob("stages/*/config.toml")):
        values = read_toml(file)
        # The run may have been moved since: its own directory is what it was told then.
        root = str(values.get("run_dir", "")).removesuffix(f"/stages/{file.parent.name}")
        found[file.parent.name] = {
            key: text.replace(root, "{run}") if root else text
            for key, text in _flat(values)
            if key.partition(".")[0] not in _PLACES
        }
    return found


def _flat(values: Row, above: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{key}.")
        elif isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
            named = {str(one.get("name", number)): one for number, one in enumerate(value)}
            yield from _flat(named, f"{above}{key}.")
        else:
            yield above + key, value if isinstance(value, str) else json.dumps(value, default=str)


def _write_csv(path: Path, measures: Sequence[Row]) -> None:
    """A row for each measure, model and run."""
    parts = ("value", "low", "high")
    heads = ["section", "measure", "model", "run", *parts, *(f"difference_{p}" for p in parts)]
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, heads)
        table.writeheader()
        for row in measures:
            for run, interval in row["runs"].items():
                gap = row["differences"].get(run, {})
                differences = {f"difference_{part}": gap.get(part) for part in parts}
                names = {key: row[key] for key in ("section", "measure", "model")}
                table.writerow({**names, "run": run, **interval, **differences})
