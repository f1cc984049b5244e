"""heed summarize: the figures of a loop on real data, for its report: losses, accuracy, samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from heedful.commands.datasets import say_bad_rows
from heedful.commands.evaluate import samples
from heedful.commands.measured import loss_per_token, valid_scores
from heedful.commands.report import SUMMARY_FILE
from heedful.commands.train import begin
from heedful.config import SummarizeConfig
from heedful.data.bad_rows import BAD_ROWS_FILE, BadRows
from heedful.data.formats import read_comparisons
from heedful.errors import DataError
from heedful.evaluation.reward_model import accuracy, baselines
from heedful.metrics import iter_jsonl, replacing
from heedful.models.language_model import (
    load_config,
    new_language_model,
    num_parameters,
    read_lineage,
)
from heedful.statistics.intervals import bootstrap, paired_difference


def run_summarize(config: SummarizeConfig, resume: bool = False) -> None:
    """Writes summary.json in its own directory and in the run's."""
    config, run_dir, progress = begin(config, resume)
    bad = BadRows(skip=True, to=run_dir / BAD_ROWS_FILE)
    rankings = [
        row
        for path in config.comparisons
        for row in read_comparisons(path, valid_share=config.valid_share, bad=bad)
    ]
    say_bad_rows(bad)
    train = [row for row in rankings if row.split == "train"]
    valid = [row for row in rankings if row.split == "valid"]
    summary = {
        "models": [
            {"name": name, "parameters": _parameters_of(path), "path": path}
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
    for directory in (run_dir, Path(config.run)):
        with replacing(directory / SUMMARY_FILE) as partial:
            partial.write_text(text, encoding="utf-8")
    progress(1, 1)


def _parameters_of(path: str) -> int:
    """The parameters of a model: from its lineage, or counted where it is not one of ours."""
    if (known := read_lineage(path).get("parameters")) is not None:
        return int(known)
    with torch.device("meta"):  # shapes without weights
        return num_parameters(new_language_model(load_config(path), seed=0))


def _losses(measures: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    """Next-token loss of every model on held-out text, clustered by document."""
    rows = {name: loss_per_token(values, seed).to_row() for name, values in measures.items()}
    metric = "loss on held-out text (nats per token)"
    return [{"metric": metric, "higher_is_better": False, **rows}]


def _scores(path: Path, seed: int) -> list[dict[str, Any]]:
    """Mean reward-model score of every model, and its difference to the first, by prompt."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in iter_jsonl(path):
        for completion in row["completions"]:
            if "score" not in completion:
                raise DataError(
                    f"{path}: the completions have no score: give heed sample a reward_model"
                )
            by_prompt = found.setdefault(completion["model"], {})
            by_prompt.setdefault(row["prompt_id"], []).append(completion["score"])
    first = next(iter(found))
    items = sorted(found[first])
    means = {
        name: [sum(scores[item]) / len(scores[item]) for item in items]
        for name, scores in found.items()
    }
    return [
        {
            "model": name,
            **bootstrap(values, items, seed=seed).to_row(),
            f"minus {first}": paired_difference(values, means[first], items, seed=seed).to_row(),
        }
        for name, values in means.items()
    ]
