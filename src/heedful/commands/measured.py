"""What heed evaluate measures: every model on every item, aligned, before any rule is asked."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from heedful.config import EvaluateConfig
from heedful.data.formats import read_comparisons
from heedful.errors import MissingExtraError
from heedful.evaluation.hallucination import flag_rates, flag_ratio
from heedful.evaluation.reward_model import Scored, accuracy, baselines
from heedful.metrics import iter_jsonl
from heedful.records import Judgement
from heedful.simulation.generate import TASKS_FILE
from heedful.simulation.labeling import gold
from heedful.simulation.tasks import read_tasks
from heedful.statistics.intervals import (
    Interval,
    bootstrap,
    paired_difference,
    ratio,
    recovered_share,
)
from heedful.training.checkpoint import LINEAGE_FILE

Rows = list[dict[str, Any]]


class Measured:
    """The per-item measurements of all models, aligned by item."""

    def __init__(self, config: EvaluateConfig, judgements: Sequence[Judgement]):
        world, self.seed = Path(config.world), config.seed
        self.judgements = judgements
        self.tasks = read_tasks(world / TASKS_FILE)
        self.use_cases = {prompt_id: task.use_case for prompt_id, task in self.tasks.items()}
        probes = gold(world, Path(config.probes))
        self.truth = _by_model(_of_probe(probes, "truth", but="truth-heldout"), _is_true)
        self.truth_heldout = _by_model(_of_probe(probes, "truth-heldout"), _is_true)
        answers = _completions(Path(config.probes))
        self.named_heldout = _by_model(
            _of_probe(answers, "truth-heldout"), self._names_who_is_asked
        )
        self.closed = _by_model(_of_probe(probes, "closed"), _hallucinates)
        self.toxicity = {
            instruction: _by_model(_of_probe(probes, f"toxicity-{instruction}"), _has_insult)
            for instruction in ("none", "respectful", "biased")
        }
        self.gold = _by_model(gold(world, Path(config.samples)), lambda row: row["utility"])
        scored = _completions(Path(config.samples))
        self.score = _by_model(scored, lambda row: row["score"])
        self.measures = json.loads(Path(config.measures).read_text(encoding="utf-8"))
        self.reward = valid_scores(Path(config.reward))
        self.shuffled = valid_scores(Path(config.shuffled)) if config.shuffled else None
        self.grouped = valid_scores(Path(config.grouped)) if config.grouped else self.reward
        self.flagged = flag_rates(judgements, self.use_cases, seed=self.seed)
        self.baselines = _baselines(Path(config.reward), self.seed)

    def _names_who_is_asked(self, row: dict[str, Any]) -> bool:
        """Whether an answer names the character of its question at all."""
        return self.tasks[row["prompt_id"]].args["name"] in row["text"]

    def difference(self, table: dict[str, dict[str, float]], a: str, b: str) -> Interval:
        """Mean of model ``a`` minus that of ``b`` over the same items, with its interval."""
        items = sorted(table[a])
        first, second = ([table[name][item] for item in items] for name in (a, b))
        return paired_difference(first, second, clusters_of(items), seed=self.seed)

    def mean(self, table: dict[str, dict[str, float]], name: str) -> Interval:
        items = sorted(table[name])
        values = [table[name][item] for item in items]
        return bootstrap(values, clusters_of(items), seed=self.seed)

    def hallucination_ratio(self, a: str, b: str) -> Interval:
        """Hallucinations of ``a`` over those of ``b`` on the probes, by the hidden truth."""
        items = sorted(self.closed[b])
        columns = [[self.closed[name][item] for item in items] for name in (a, b)]
        return bootstrap(np.array(columns).T, items, statistic=ratio, seed=self.seed)

    def flag_ratio(self, a: str, b: str) -> Interval:
        """Labelers' hallucination flags of ``a`` over those of ``b`` on the test prompts."""
        return flag_ratio(self.judgements, a, b, seed=self.seed)

    def loss_difference(self, a: str, b: str) -> Interval:
        """Loss per token of ``a`` minus that of ``b`` on the same documents."""
        sums = [np.array(self.measures[name]["loss_sums"]) for name in (a, b)]
        counts = np.array(self.measures[a]["num_tokens"])
        columns = np.stack([sums[0] - sums[1], counts], axis=1)
        return bootstrap(columns, np.arange(len(counts)), statistic=ratio, seed=self.seed)

    def loss(self, name: str) -> Interval:
        return loss_per_token(self.measures[name], self.seed)

    def recall(self, name: str) -> list[float]:
        return [float(right) for right in self.measures[name]["recall"]]

    def accuracy(self, cohort: str | None = None) -> Interval:
        """Reward-model accuracy on the validation prompts as one group of labelers (None: both)
        ranked them."""
        rows = [row for row in self.reward if cohort in (None, row.cohort)]
        return accuracy(rows, seed=self.seed)

    def won_back(self, key: str) -> Interval:
        """Share of PPO's loss against the base that PPO-ptx wins back."""
        columns = np.stack(
            [np.array(self.measures[name][key], float) for name in ("base", "PPO", "PPO-ptx")],
            axis=1,
        )
        clusters = list(range(len(columns)))
        if key == "recall":
            clusters = clusters_of(self.measures["base"]["recall_ids"])
        return bootstrap(columns, clusters, statistic=recovered_share, seed=self.seed)


def loss_per_token(values: dict[str, Any], seed: int) -> Interval:
    """Next-token loss of one model of measures.json, clustered by document."""
    columns = np.stack([values["loss_sums"], values["num_tokens"]], axis=1)
    return bootstrap(columns, np.arange(len(columns)), statistic=ratio, seed=seed)


def clusters_of(items: Sequence[str]) -> list[str]:
    """What every item belongs to: questions about one character are not independent of each other.

    Ids of truth and toxicity probes and of recall quizzes are <probe>-<character>-<what is asked>.
    """
    about_characters = ("truth-", "toxicity-", "recall-")
    return [
        item.rpartition("-")[0] if item.startswith(about_characters) else item for item in items
    ]


def valid_scores(reward_dir: Path) -> list[Scored]:
    """The held-out rankings with their scores that heed reward wrote."""
    rows = iter_jsonl(reward_dir / "valid_scores.jsonl")
    return [
        Scored(r["prompt_id"], r["ranks"], r["scores"], r["cohort"], r["labeler"]) for r in rows
    ]


def lineage_of(model: str | Path) -> dict[str, Any]:
    """What a published model was made from, and how."""
    return json.loads((Path(model) / LINEAGE_FILE).read_text(encoding="utf-8"))


def _baselines(reward_dir: Path, seed: int) -> dict[str, Any]:
    """Accuracies of what knows nothing of language, on the rankings that the reward model was
    given: fitted on those it was trained on, measured on the held-out ones of both groups."""
    files = lineage_of(reward_dir / "model")["config"]["data"]["comparisons"]
    rankings = list(read_comparisons(files))
    train = [row for row in rankings if row.split == "train" and row.cohort == "train"]
    valid = [row for row in rankings if row.split == "valid"]
    try:
        return baselines(train, valid, seed=seed)
    except MissingExtraError as error:
        print(f"baselines of the reward model are left out: {error}", file=sys.stderr)
        return {"random": 0.5}


def _of_probe(rows: Rows, name: str, but: str = "-") -> Rows:
    """The rows whose prompt id starts with a probe's name (and not with ``but``)."""
    return [
        row
        for row in rows
        if row["prompt_id"].startswith(f"{name}-") and not row["prompt_id"].startswith(f"{but}-")
    ]


def _by_model(
    rows: Rows, measure: Callable[[dict[str, Any]], float]
) -> dict[str, dict[str, float]]:
    """{model: {prompt_id: mean measure over its completions}}."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        value = float(measure(row))
        found.setdefault(row["model"], {}).setdefault(row["prompt_id"], []).append(value)
    return {
        model: {item: sum(values) / len(values) for item, values in items.items()}
        for model, items in found.items()
    }


def _is_true(row: dict[str, Any]) -> bool:
    """True and informative: commits itself to an answer, and the answer is right."""
    return bool(row["truthful"] and row["informative"])


def _hallucinates(row: dict[str, Any]) -> bool:
    return bool(row["flags"]["hallucination"])


def _has_insult(row: dict[str, Any]) -> bool:
    return row["insults"] > 0


def _completions(path: Path) -> Rows:
    """Every completion of a file of samples as a row of its own."""
    return [
        {"prompt_id": row["prompt_id"], **completion}
        for row in iter_jsonl(path)
        for completion in row["completions"]
    ]
