"""heed summarize: the figures of a loop on real data, for its report: losses, accuracy, samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from heedful.commands.evaluate import SUMMARY_FILE, num_parameters, samples, valid_scores
from heedful.commands.train import begin
from heedful.config import SummarizeConfig
from heedful.data.bad_rows import BadRows
from heedful.data.formats import read_comparisons
from heedful.evaluation.intervals import bootstrap, paired_difference, ratio
from heedful.evaluation.reward_model import accuracy, baselines
from heedful.metrics import iter_jsonl


def run_summarize(config: SummarizeConfig, resume: bool = False) -> None:
    """Writes summary.json in its own directory and in the run's."""
    config, run_dir, progress = begin(config, resume)
    bad = BadRows(skip=True)
    rankings = [
        row
        for path in config.comparisons
        for row in read_comparisons(path, valid_share=config.valid_share, bad=bad)
    ]
    train = [row for row in rankings if row.split == "train"]
    valid = [row for row in rankings if row.split == "valid"]
    summary = {
        "models": [
            {"name": name, "parameters": num_parameters(path), "path": path}
            for name, path in config.models.items()
        ],
        "reward_model": {
            "accuracy, held-out pairs": accuracy(
                valid_scores(Path(config.reward)), seed=config.seed
            ).to_row(),
            "baselines": baselines(train, valid, seed=config.seed),
        },
        "tax": _losses(json.loads(Path(config.measures).read_text(encoding="utf-8")), config.seed),
        "score": _scores(Path(config.samples), config.seed),
        "samples": samples(Path(config.samples)),
    }
    text = json.dumps(summary, indent=1)
    (run_dir / SUMMARY_FILE).write_text(text, encoding="utf-8")
    (Path(config.run) / SUMMARY_FILE).write_text(text, encoding="utf-8")
    progress(1, 1)


def _losses(measures: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    """Next-token loss of every model on held-out text, clustered by document."""
    rows = {}
    for name, values in measures.items():
        columns = np.stack([values["loss_sums"], values["num_tokens"]], axis=1)
        found = bootstrap(columns, np.arange(len(columns)), statistic=ratio, seed=seed)
        rows[name] = found.to_row()
    metric = "loss on held-out text (nats per token)"
    return [{"metric": metric, "higher_is_better": False, **rows}]


def _scores(path: Path, seed: int) -> list[dict[str, Any]]:
    """Mean reward-model score of every model, and its difference to the first, by prompt."""
    found: dict[str, dict[str, float]] = {}
    for row in iter_jsonl(path):
        for completion in row["completions"]:
            found.setdefault(completion["model"], {})[row["prompt_id"]] = completion["score"]
    first = next(iter(found))
    items = sorted(found[first])
    rows = []
    for name, scores in found.items():
        values = [scores[item] for item in items]
        interval = bootstrap(values, items, seed=seed)
        difference = paired_difference(values, [found[first][i] for i in items], items, seed=seed)
        rows.append({"model": name, **interval.to_row(), f"minus {first}": difference.to_row()})
    return rows
