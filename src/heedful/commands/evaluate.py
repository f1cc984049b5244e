"""heed evaluate: labelers judge every model of a miniature loop; claims are decided by rule."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from heedful.commands.miniature import COMPARISONS_FILE
from heedful.commands.report import SUMMARY_FILE
from heedful.commands.train import begin
from heedful.config import EvaluateConfig
from heedful.errors import EvaluationError
from heedful.evaluation import claims as rules
from heedful.evaluation.preference import (
    WinRate,
    agreement,
    bradley_terry,
    likert,
    metadata_rates,
    order_agreement,
    win_rate,
)
from heedful.evaluation.reward_model import Scored, accuracy, log_loss
from heedful.metrics import iter_jsonl, replacing
from heedful.records import Judgement, judgement_from_row
from heedful.simulation.generate import TASKS_FILE
from heedful.simulation.labeling import gold, judge
from heedful.simulation.tasks import read_tasks
from heedful.statistics.intervals import (
    Interval,
    bootstrap,
    paired_difference,
    ratio,
    recovered_share,
)
from heedful.training.checkpoint import LINEAGE_FILE

JUDGEMENTS_FILE = "judgements.jsonl"
CLAIMS_FILE = "claims.json"
# Models in the order in which tables show them; a name not given in the settings is left out.
BASELINE = "SFT"
NUM_SHOWN = 12

Rows = list[dict[str, Any]]


def run_evaluate(config: EvaluateConfig, resume: bool = False) -> None:
    """Writes judgements.jsonl, claims.json and summary.json; prints the claims table."""
    config, run_dir, progress = begin(config, resume)
    world = Path(config.world)
    judge(
        world,
        Path(config.samples),
        run_dir / JUDGEMENTS_FILE,
        seed=config.seed,
        labelers_per_prompt=config.labelers_per_prompt,
    )
    progress(1, 4)
    judgements = [judgement_from_row(row) for row in iter_jsonl(run_dir / JUDGEMENTS_FILE)]
    measured = _Measured(config)
    progress(2, 4)
    found = _claims(config, judgements, measured)
    progress(3, 4)
    rules.write_claims(run_dir / CLAIMS_FILE, found)
    summary = _summary(config, judgements, measured)
    with replacing(run_dir / SUMMARY_FILE) as partial:
        partial.write_text(json.dumps(summary, indent=1), encoding="utf-8")
    for name in (CLAIMS_FILE, SUMMARY_FILE):
        with replacing(Path(config.run) / name) as partial:
            partial.write_bytes((run_dir / name).read_bytes())
    print(rules.format_table(found), flush=True)
    progress(4, 4)


class _Measured:
    """The per-item measurements of all models, aligned by item."""

    def __init__(self, config: EvaluateConfig):
        world, self.seed = Path(config.world), config.seed
        probes = gold(world, Path(config.probes))
        self.truth = _by_model(_of_probe(probes, "truth", but="truth-heldout"), _is_true)
        self.truth_heldout = _by_model(_of_probe(probes, "truth-heldout"), _is_true)
        self.closed = _by_model(_of_probe(probes, "closed"), _hallucinates)
        self.toxicity = {
            instruction: _by_model(_of_probe(probes, f"toxicity-{instruction}"), _has_insult)
            for instruction in ("none", "respectful", "biased")
        }
        self.gold = _by_model(gold(world, Path(config.samples)), lambda row: row["utility"])
        self.score = _by_model(_scored(Path(config.samples)), lambda row: row["score"])
        self.measures = json.loads(Path(config.measures).read_text(encoding="utf-8"))
        self.reward = valid_scores(Path(config.reward))
        self.shuffled = valid_scores(Path(config.shuffled)) if config.shuffled else None
        self.grouped = valid_scores(Path(config.grouped)) if config.grouped else self.reward
        self.labels = json.loads((Path(config.labels) / "labels.json").read_text(encoding="utf-8"))

    def difference(self, table: dict[str, dict[str, float]], a: str, b: str) -> Interval:
        """Mean of model ``a`` minus that of ``b`` over the same items, with its interval."""
        items = sorted(table[a])
        first, second = ([table[name][item] for item in items] for name in (a, b))
        return paired_difference(first, second, clusters_of(items), seed=self.seed)

    def mean(self, table: dict[str, dict[str, float]], name: str) -> Interval:
        items = sorted(table[name])
        values = [table[name][item] for item in items]
        return bootstrap(values, clusters_of(items), seed=self.seed)

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

    def accuracy(self, cohort: str) -> Interval:
        """Reward-model accuracy on the validation prompts as one group of labelers ranked them."""
        return accuracy([row for row in self.reward if row.cohort == cohort], seed=self.seed)

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


def _scored(path: Path) -> Rows:
    return [
        {"prompt_id": row["prompt_id"], **completion}
        for row in iter_jsonl(path)
        for completion in row["completions"]
    ]


def _claims(
    config: EvaluateConfig, judgements: Sequence[Judgement], m: _Measured
) -> list[rules.Claim]:
    """Every claim that the given stages can decide."""

    def preferred(model: str, other: str) -> Interval:
        return win_rate(judgements, model, other, cohort="train", seed=config.seed).interval

    sizes = {name: num_parameters(path) for name, path in config.models.items()}
    web_tax = m.loss_difference("PPO", "base")
    recall_tax = paired_difference(
        m.recall("base"),
        m.recall("PPO"),
        clusters_of(m.measures["base"]["recall_ids"]),
        seed=config.seed,
    )
    ordered = [name for name in ("base", "prompted", "SFT", "PPO-ptx") if name in m.gold]
    found = [
        rules.ptx_preferred_to_sft(preferred("PPO-ptx", "SFT")),
        rules.sft_preferred_to_prompted(preferred("SFT", "prompted")),
        rules.prompted_preferred_to_base(preferred("prompted", "base")),
        rules.small_preferred_to_large_base(
            preferred(config.small_aligned, "large base"),
            sizes[config.small_aligned],
            sizes["large base"],
        ),
        rules.more_truthful_than_base(m.difference(m.truth, "PPO-ptx", "base")),
        rules.more_truthful_than_sft(m.difference(m.truth, "PPO-ptx", "SFT")),
        rules.more_truthful_than_base_held_out(m.difference(m.truth_heldout, "PPO-ptx", "base")),
        rules.no_less_truthful_than_sft_held_out(m.difference(m.truth_heldout, "PPO-ptx", "SFT")),
        rules.hallucinates_less(_hallucination_ratio(m)),
        rules.less_toxic_when_respectful(m.difference(m.toxicity["respectful"], "PPO-ptx", "base")),
        rules.more_toxic_when_biased(m.difference(m.toxicity["biased"], "PPO-ptx", "base")),
        rules.ppo_loses_on_web_text(web_tax),
        rules.ppo_loses_recall(recall_tax),
        rules.ptx_wins_back_web_text(m.won_back("loss_sums"), web_tax),
        rules.ptx_wins_back_recall(m.won_back("recall"), recall_tax),
        rules.heldout_labelers_agree_on_order(
            order_agreement(judgements, ordered, BASELINE, seed=config.seed)
        ),
        rules.labelers_agree(_label_agreement(Path(config.labels), config.seed)),
    ]
    if m.shuffled is not None:
        found.append(rules.grouped_beats_shuffled_pairs(loss_gap(m.shuffled, m.grouped, m.seed)))
    return [
        *found,
        rules.reward_model_generalises_to_prompts(m.accuracy("train")),
        rules.reward_model_generalises_to_labelers(m.accuracy("heldout")),
        rules.score_rises(m.difference(m.score, "PPO-ptx", "PPO init")),
        rules.gold_rises(m.difference(m.gold, "PPO-ptx", "PPO init")),
    ]


def _label_agreement(labels: Path, seed: int) -> Interval:
    """Agreement between training labelers on the training prompts that three of them ranked."""
    rankings = [
        Judgement(
            row["prompt_id"],
            tuple(completion["id"] for completion in row["completions"]),
            tuple(row["ranks"]),
            row["labeler"],
        )
        for row in iter_jsonl(labels / COMPARISONS_FILE)
    ]
    return agreement(rankings, seed=seed)["train"].interval


def _hallucination_ratio(m: _Measured) -> Interval:
    items = sorted(m.closed["base"])
    columns = [[m.closed[name][item] for item in items] for name in ("PPO-ptx", "base")]
    return bootstrap(np.array(columns).T, items, statistic=ratio, seed=m.seed)


def loss_gap(shuffled: Sequence[Scored], grouped: Sequence[Scored], seed: int) -> Interval:
    """Held-out log loss of the shuffled-pairs model minus that of the K-wise one, over rankings.

    Both score the same rankings, of which those with an untied pair count; prompts are drawn again.
    """
    if [(row.prompt_id, row.ranks) for row in shuffled] != [
        (row.prompt_id, row.ranks) for row in grouped
    ]:
        raise EvaluationError(
            "the reward models of shuffled and of grouped pairs have not scored the same held-out "
            "rankings: give both stages the same comparisons"
        )
    gaps = [log_loss(a) - log_loss(b) for a, b in zip(shuffled, grouped, strict=True)]
    return bootstrap(gaps, [row.prompt_id for row in grouped], seed=seed)


def num_parameters(path: str) -> int:
    """Parameters of a published model, by its lineage."""
    return int(_lineage(path)["parameters"])


def _lineage(path: str) -> dict[str, Any]:
    return json.loads((Path(path) / LINEAGE_FILE).read_text(encoding="utf-8"))


def _summary(
    config: EvaluateConfig, judgements: Sequence[Judgement], m: _Measured
) -> dict[str, Any]:
    """The numbers behind the report's figures (schema: heedful.report)."""
    names = list(m.gold)
    cohorts = ("train", "heldout")
    rates = [
        win_rate(judgements, name, BASELINE, cohort=cohort, seed=config.seed)
        for cohort in cohorts
        for name in names
        if name != BASELINE
    ]
    return {
        "models": [
            {"name": name, "parameters": num_parameters(path), "path": path}
            for name, path in config.models.items()
        ],
        "win_rates": [
            {"model": r.model, "baseline": r.baseline, "cohort": r.cohort, **r.interval.to_row()}
            for r in rates
        ],
        "by_size": _by_size(config, rates),
        "likert": [
            {"model": name, "n": found.num_answers, **found.interval.to_row()}
            for name, found in likert(judgements, seed=config.seed).items()
        ],
        "metadata": [
            {"model": name, "flag": flag, "n": found.num_answers, **found.interval.to_row()}
            for name, flags in metadata_rates(judgements, seed=config.seed).items()
            for flag, found in flags.items()
        ],
        "bradley_terry": [
            {"model": name, **found.to_row()}
            for name, found in bradley_terry(judgements, seed=config.seed).items()
        ],
        "tax": _tax(m),
        "truth": [
            {"model": name, "set": kind, **m.mean(table, name).to_row()}
            for kind, table in (("in training prompts", m.truth), ("held out", m.truth_heldout))
            for name in table
        ],
        "toxicity": [
            {"model": name, "instruction": instruction, **m.mean(table, name).to_row()}
            for instruction, table in m.toxicity.items()
            for name in table
        ],
        "hallucination": [{"model": name, **m.mean(m.closed, name).to_row()} for name in m.closed],
        "gold": [{"model": name, **m.mean(m.gold, name).to_row()} for name in names],
        "score": [{"model": name, **m.mean(m.score, name).to_row()} for name in m.score],
        "reward_model": {
            "accuracy, unseen prompts": m.accuracy("train").to_row(),
            "accuracy, held-out labelers": m.accuracy("heldout").to_row(),
            "baselines": {"random": 0.5},
        },
        "samples": samples(
            Path(config.samples),
            {
                prompt_id: task.use_case
                for prompt_id, task in read_tasks(Path(config.world) / TASKS_FILE).items()
            },
        ),
    }


def _by_size(config: EvaluateConfig, rates: Sequence[WinRate]) -> Rows:
    """Training labelers' win rates of the models whose size and method are known (Figure 1).

    The baseline stands at one half by definition.
    """
    found = {rate.model: rate.interval.to_row() for rate in rates if rate.cohort == "train"}
    found[BASELINE] = {"value": 0.5, "low": None, "high": None}
    return [
        {
            "model": name,
            "method": method,
            "parameters": num_parameters(path),
            "baseline": BASELINE,
            **found[name],
        }
        for name, path in config.models.items()
        if name in found and (method := method_of(path)) is not None
    ]


def method_of(path: str) -> str | None:
    """What made a policy, by its lineage: base, SFT, PPO or PPO-ptx.

    None for reward models, and for the models that PPO starts from.
    """
    lineage = _lineage(path)
    if lineage["step"] == "ppo":
        return "PPO-ptx" if lineage["config"]["ppo"]["ptx_coef"] > 0 else "PPO"
    if lineage["step"] == "sft" and lineage["config"]["pretraining_mix"] > 0:
        return None
    return {"pretrain": "base", "sft": "SFT"}.get(lineage["step"])


def _tax(m: _Measured) -> Rows:
    names = list(m.measures)
    recall = {
        name: bootstrap(
            m.recall(name), clusters_of(m.measures[name]["recall_ids"]), seed=m.seed
        ).to_row()
        for name in names
    }
    loss = {name: m.loss(name).to_row() for name in names}
    return [
        {"metric": "loss on web text (nats per token)", "higher_is_better": False, **loss},
        {"metric": "few-shot recall of facts", "higher_is_better": True, **recall},
    ]


def samples(path: Path, use_cases: Mapping[str, str] | None = None) -> Rows:
    """Answers of every model, side by side: the first prompt of each use case, then the next ones.

    The first prompts of the file where the use cases are not known.
    """
    shown, others, seen = [], [], set()
    for row in iter_jsonl(path):
        use_case = (use_cases or {}).get(row["prompt_id"])
        responses = {c["model"]: c["text"] for c in row["completions"]}
        sample = {"prompt": row["prompt"], "use_case": use_case, "responses": responses}
        (others if use_case is None or use_case in seen else shown).append(sample)
        seen.add(use_case)
    return [*shown, *others][:NUM_SHOWN]
