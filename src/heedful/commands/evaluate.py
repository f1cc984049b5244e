"""heed evaluate: labelers judge every model of a miniature loop; claims are decided by rule."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from heedful.commands.claim_notes import notes
from heedful.commands.measured import Measured, Rows, clusters_of
from heedful.commands.miniature import COMPARISONS_FILE
from heedful.commands.preference import equal_length_row, lengths_of
from heedful.commands.report import SUMMARY_FILE
from heedful.commands.sizes import num_parameters, win_rates_by_size
from heedful.commands.train import begin
from heedful.config import EvaluateConfig
from heedful.errors import EvaluationError
from heedful.evaluation import claims as rules
from heedful.evaluation.bradley_terry import bradley_terry
from heedful.evaluation.length_control import length_controlled
from heedful.evaluation.preference import (
    agreement,
    likert,
    metadata_rates,
    order_agreement,
    win_rate,
)
from heedful.evaluation.reward_model import Scored, log_loss
from heedful.metrics import iter_jsonl, replacing
from heedful.records import Judgement, judgement_from_row
from heedful.simulation.labeling import judge
from heedful.statistics.intervals import Interval, bootstrap, paired_difference

JUDGEMENTS_FILE = "judgements.jsonl"
CLAIMS_FILE = "claims.json"
# Models in the order in which tables show them; a name not given in the settings is left out.
BASELINE = "SFT"
NUM_SHOWN = 12


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
    measured = Measured(config, judgements)
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


def _claims(
    config: EvaluateConfig, judgements: Sequence[Judgement], m: Measured
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
        rules.hallucinates_less(m.hallucination_ratio("PPO-ptx", "base")),
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
    found += [
        rules.reward_model_generalises_to_prompts(m.accuracy("train")),
        rules.reward_model_generalises_to_labelers(m.accuracy("heldout")),
        rules.score_rises(m.difference(m.score, "PPO-ptx", "PPO init")),
        rules.gold_rises(m.difference(m.gold, "PPO-ptx", "PPO init")),
    ]
    beside = notes(m)
    return [replace(claim, note=beside.get(claim.id, "")) for claim in found]


def _label_agreement(labels: Path, seed: int) -> Interval:
    """Agreement between training labelers on the training prompts that at least three ranked."""
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


def _summary(
    config: EvaluateConfig, judgements: Sequence[Judgement], m: Measured
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
        "world": "the miniature world",
        "seed": config.seed,
        "models": [
            {"name": name, "parameters": num_parameters(path), "path": path}
            for name, path in config.models.items()
        ],
        "win_rates": [
            {"model": r.model, "baseline": r.baseline, "cohort": r.cohort, **r.interval.to_row()}
            for r in rates
        ],
        "length_controlled": _at_equal_length(config, judgements, names),
        "by_size": win_rates_by_size(
            config.models, [rate for rate in rates if rate.cohort == "train"], BASELINE
        ),
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
        "named": [
            {"model": name, "set": "held out", **m.mean(m.named_heldout, name).to_row()}
            for name in m.named_heldout
        ],
        "toxicity": [
            {"model": name, "instruction": instruction, **m.mean(table, name).to_row()}
            for instruction, table in m.toxicity.items()
            for name in table
        ],
        "hallucination": [{"model": name, **m.mean(m.closed, name).to_row()} for name in m.closed],
        "flagged": [
            {"model": name, "prompts": use_case, "n": found.num_answers, **found.interval.to_row()}
            for use_case, models in m.flagged.items()
            for name, found in models.items()
        ],
        "gold": [{"model": name, **m.mean(m.gold, name).to_row()} for name in names],
        "score": [{"model": name, **m.mean(m.score, name).to_row()} for name in m.score],
        "reward_model": {
            "accuracy, unseen prompts": m.accuracy("train").to_row(),
            "accuracy, held-out labelers": m.accuracy("heldout").to_row(),
            "baselines": m.baselines,
        },
        "samples": samples(Path(config.samples), m.use_cases),
    }


def _at_equal_length(
    config: EvaluateConfig, judgements: Sequence[Judgement], names: Sequence[str]
) -> Rows:
    """Training labelers' win rates when longer answers get no credit."""
    lengths = lengths_of(config.samples)
    found = [
        length_controlled(judgements, lengths, name, BASELINE, cohort="train", seed=config.seed)
        for name in names
        if name != BASELINE
    ]
    return [{**equal_length_row(one), "cohort": "train"} for one in found]


def _tax(m: Measured) -> Rows:
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
