"""heed eval tax: what aligning changed in a run, measure by measure, or in several runs."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from heedful.commands.measure import MEASURES_FILE
from heedful.commands.measured import clusters_of
from heedful.commands.progress import file_progress
from heedful.commands.report import SUMMARY_FILE
from heedful.config import TaxConfig
from heedful.errors import DataError
from heedful.evaluation.items import Row
from heedful.evaluation.suite import SUITES, columns_of, read_results
from heedful.evaluation.tax import (
    Change,
    Measured,
    Scores,
    changes,
    difference_text,
    format_table,
    plain,
)
from heedful.metrics import replacing
from heedful.report import write_report
from heedful.statistics.intervals import ratio

TAX_FILE = "tax.json"
TABLE_FILE = "tax.csv"
REPORT_FILE = "report.html"


def run_tax(config: TaxConfig, resume: bool = False) -> None:
    """Writes tax.json and tax.csv, adds the changes to each run's summary and report."""
    run_dir = Path(config.run_dir)
    progress = file_progress(run_dir)
    found: dict[str, list[Change]] = {}
    for number, (name, path) in enumerate(named(config.runs).items()):
        found[name] = changes_of(path, config.models, config.seed)
        add_to_summary(path, found[name])
        progress(number + 1, len(config.runs))
    rows = [{"run": name, **change.to_row()} for name, given in found.items() for change in given]
    with replacing(run_dir / TAX_FILE) as partial:
        partial.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    _write_csv(run_dir / TABLE_FILE, rows)
    for name, given in found.items():
        title = f"{name}\n" if len(found) > 1 else ""
        print(f"{title}{format_table(given)}\n", flush=True)
    if len(found) > 1:
        print(compare(found), flush=True)


def named(runs: Sequence[str]) -> dict[str, Path]:
    """The run directories by the shortest names that tell them apart."""
    paths = [Path(run).resolve() for run in runs]
    if len(set(paths)) < len(paths):
        raise DataError(f"a run is named twice: {', '.join(runs)}")
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return dict(zip(names, (Path(run) for run in runs), strict=True))


def changes_of(run: Path, models: Sequence[str], seed: int) -> list[Change]:
    """The changes of a run in all that was measured; DataError where that is nothing."""
    measured = [*text_measures(run), *suite_measures(run)]
    renamed = [_renamed(one, models) for one in measured]
    found = changes(renamed, models, seed=seed)
    if not found:
        seen = sorted({name for one in measured for name in one.scores})
        raise DataError(
            f"{run}: nothing was measured of both {models[0]} and another of "
            f"{', '.join(models[1:])}; models with measures: {', '.join(seen) or 'none'}. Run heed "
            f"measure or heed eval with --run_dir={run}, or name the models with --models"
        )
    return found


def text_measures(run: Path) -> Iterator[Measured]:
    """Loss on held-out text and few-shot recall, of every measures.json in a run."""
    for path in [run / MEASURES_FILE, *sorted(run.glob(f"stages/*/{MEASURES_FILE}"))]:
        if not path.is_file():
            continue
        given = json.loads(path.read_text(encoding="utf-8"))
        losses, recalls = {}, {}
        for name, values in given.items():
            columns = np.stack([values["loss_sums"], values["num_tokens"]], axis=1).astype(float)
            documents = [str(number) for number in range(len(columns))]
            losses[name] = Scores(documents, documents, columns)
            if values.get("recall"):
                ids = values["recall_ids"]
                right = np.array(values["recall"], dtype=float)[:, None]
                recalls[name] = Scores(ids, clusters_of(ids), right)
        yield Measured("loss on held-out text", losses, ratio, higher_is_better=False)
        if recalls:
            yield Measured("few-shot recall", recalls, higher_is_better=True)


def suite_measures(run: Path) -> Iterator[Measured]:
    """Every metric of every suite that heed eval has run in a run directory."""
    for path in [*sorted(run.glob("eval/*.jsonl")), *sorted(run.glob("stages/*/eval/*.jsonl"))]:
        suite = SUITES.get(path.stem)
        if suite is None:
            continue
        groups: dict[tuple[str, str], dict[str, dict[str, Row]]] = {}
        for row in read_results(path):
            group = groups.setdefault((row["task"], row["variant"]), {})
            group.setdefault(row["model"], {})[row["id"]] = row
        for task in suite.tasks:
            for (_, variant), by_model in _of_task(groups, task.name):
                for name, metric in task.metrics.items():
                    found = {m: columns_of(rows, metric) for m, rows in by_model.items()}
                    scores = {
                        m: Scores(part.ids, part.clusters, part.values)
                        for m, part in found.items()
                        if part.values.size
                    }
                    parts = [task.name, variant, name]
                    title = " ".join(part for part in parts if part and part != "none")
                    yield Measured(title, scores, metric.statistic, metric.higher_is_better)


def _of_task(groups: dict[tuple[str, str], Any], task: str) -> list[tuple[tuple[str, str], Any]]:
    return [(name, found) for name, found in groups.items() if name[0] == task]


def _renamed(measured: Measured, models: Sequence[str]) -> Measured:
    """The measure with models called as in the settings: "ppo_ptx" is "PPO-ptx"."""
    names = {plain(name): name for name in models}
    scores = {names.get(plain(name), name): found for name, found in measured.scores.items()}
    return Measured(measured.name, scores, measured.statistic, measured.higher_is_better)


def add_to_summary(run: Path, found: Sequence[Change]) -> None:
    """Puts the changes into the run's summary, and writes its report anew if it has one."""
    file = run / SUMMARY_FILE
    summary = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    summary["tax_changes"] = [change.to_row() for change in found]
    with replacing(file) as partial:
        partial.write_text(json.dumps(summary, indent=1), encoding="utf-8")
    if (run / REPORT_FILE).is_file():
        write_report(run, run / REPORT_FILE)


def compare(found: dict[str, list[Change]]) -> str:
    """The runs beside each other: the change of each measure and model in each of them."""
    keys = dict.fromkeys((one.measure, one.model) for given in found.values() for one in given)
    lines = [("measure", "model", *found)]
    for measure, model in keys:
        cells = []
        for given in found.values():
            gaps = [one.difference for one in given if (one.measure, one.model) == (measure, model)]
            cells.append(difference_text(gaps[0]) if gaps else "-")
        lines.append((measure, model, *cells))
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(f"{text:<{width}}" for text, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    intervals = ("of_base", "of_model", "difference", "better", "won_back")
    heads = ["run", "measure", "model", "base", "n", "higher_is_better"]
    heads += [f"{name}_{part}" for name in intervals for part in ("value", "low", "high")]
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, heads, extrasaction="ignore")
        table.writeheader()
        for row in rows:
            flat = {
                f"{name}_{part}": value
                for name in intervals
                for part, value in (row[name] or {}).items()
            }
            table.writerow(row | flat)
