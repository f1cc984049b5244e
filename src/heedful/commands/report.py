"""heed report: one self-contained HTML page for a loop run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from heedful.commands.progress import file_progress
from heedful.commands.run import RUN_FILE
from heedful.config import ReportConfig
from heedful.errors import DataError
from heedful.metrics import METRICS_FILE, read_metrics, replacing
from heedful.report import write_report
from heedful.run_files import has_results, step_dirs

SUMMARY_FILE = "summary.json"
# As heedful.training.checkpoint writes it, which needs torch: a report does not.
LINEAGE_FILE = "heedful.json"
# What says that a directory is a run, though nothing is trained or measured in it yet.
BEGUN = (RUN_FILE, SUMMARY_FILE, "claims.json")
# Phases that are logged by themselves and within another (docs/metrics.md).
PARTS = {
    *("data", "forward", "backward", "optimizer"),  # of an update
    *("reference", "values", "score", "logprobs"),  # of the experience
    "ptx",  # of the updates of PPO
}


def run_report(config: ReportConfig, resume: bool = False) -> None:
    """Adds costs and lineage to the run's summary and writes its page."""
    run = Path(config.run)
    if not run.is_dir():
        raise DataError(f"{run} does not exist: give the directory of a run")
    if not has_results(run, BEGUN):
        raise DataError(
            f"{run} has nothing to report: no stages, no {METRICS_FILE} of a training step in it "
            "or right below it, and no results of heed eval; give the directory of a run"
        )
    progress = file_progress(Path(config.run_dir))
    file = run / SUMMARY_FILE
    summary = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    summary |= {"costs": stage_costs(run), "lineage": lineage(run), "policies": policies(summary)}
    started = run / RUN_FILE
    if started.is_file():
        summary["command"] = json.loads(started.read_text(encoding="utf-8"))["command"]
    with replacing(file) as partial:
        partial.write_text(json.dumps(summary, indent=1), encoding="utf-8")
    write_report(run, run / config.out, png=config.png)
    progress(1, 1)


def stage_costs(run: Path) -> list[dict[str, Any]]:
    """Seconds, tokens and FLOPs of every finished stage, in the order in which they ended."""
    stages = sorted((run / "stages").glob("*/stage.json"), key=lambda path: path.stat().st_mtime)
    costs = []
    for path in stages:
        seconds = json.loads(path.read_text(encoding="utf-8"))["seconds"]
        rows = read_metrics(path.parent) if (path.parent / METRICS_FILE).is_file() else []
        costs.append(
            {
                "stage": path.parent.name,
                "seconds": seconds,
                "tokens": _total(rows, "speed/tokens_per_s"),
                "flops": _total(rows, "speed/flops_per_s"),
            }
        )
    return costs


def policies(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The coefficients that the models of a summary were trained with, of those that PPO made."""
    rows = []
    for row in summary.get("models", []):
        file = Path(row["path"]) / LINEAGE_FILE
        if not file.is_file():
            continue
        found = json.loads(file.read_text(encoding="utf-8"))
        if found["step"] == "ppo":
            settings = found["config"]["ppo"]
            coefficients = {key: settings[key] for key in ("kl_coef", "ptx_coef")}
            size = {"model": row["name"], "parameters": row.get("parameters")}
            rows.append(size | coefficients)
    return rows


def _total(rows: list[dict[str, Any]], rate: str) -> float | None:
    """The sum over steps of a rate times the step's seconds, or None where it was not logged."""
    parts = [
        row[rate] * sum(v for key, v in row.items() if _is_phase(key) and v is not None)
        for row in rows
        if row.get(rate) is not None
    ]
    return sum(parts) if parts else None


def _is_phase(key: str) -> bool:
    """Whether a key has seconds that are not a part of another's."""
    name = key.removeprefix("time/").removesuffix("_s")
    return key.startswith("time/") and key.endswith("_s") and name not in PARTS


def lineage(run: Path) -> list[dict[str, Any]]:
    """Every published model with its parents and the hash of its weights."""
    rows = []
    for place in step_dirs(run, f"model/{LINEAGE_FILE}"):
        path = place / "model" / LINEAGE_FILE
        values = json.loads(path.read_text(encoding="utf-8"))
        parents = [parent["path"] for parent in values["parents"].values()]
        rows.append(
            {
                "stage": place.resolve().name,
                "output": str(path.parent.relative_to(run)),
                "inputs": parents + list(values["data"]),
                "sha256": values["sha256"],
            }
        )
    return rows
