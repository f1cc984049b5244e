"""heed eval preference: what judgements of models add up to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from heedful.commands.again import command_of
from heedful.commands.progress import file_progress
from heedful.config import PreferenceConfig
from heedful.data.formats import read_comparisons, read_completions, read_prompts
from heedful.errors import ConfigError, DataError
from heedful.evaluation.bradley_terry import Strengths, fit
from heedful.evaluation.length_control import EqualLength, Lengths, length_controlled
from heedful.evaluation.people import judgements_of, read_key
from heedful.evaluation.preference import (
    WinRate,
    agreement,
    likert,
    metadata_rates,
    two_by_two,
    win_rate,
)
from heedful.metrics import iter_jsonl, replacing
from heedful.records import Judgement, judgement_from_row, to_row

EVAL_DIR = "eval"
RESULT = "preference.json"
ROWS = "preference.jsonl"


def run_preference(config: PreferenceConfig, resume: bool = False) -> None:
    """Writes eval/preference.json and the judgements behind it; prints the main table."""
    run_dir = Path(config.run_dir)
    progress = file_progress(run_dir)
    judgements = read_judgements(config)
    lengths = None if config.samples is None else lengths_of(config.samples)
    progress(1, 3)
    found = preferences(config, judgements, lengths)
    progress(2, 3)
    folder = run_dir / EVAL_DIR
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / ROWS) as partial, partial.open("w", encoding="utf-8") as file:
        for judgement in judgements:
            file.write(json.dumps(to_row(judgement), ensure_ascii=False) + "\n")
    with replacing(folder / RESULT) as partial:
        partial.write_text(json.dumps(found, indent=1), encoding="utf-8")
    print(format_table(found), flush=True)
    progress(3, 3)


def read_judgements(config: PreferenceConfig) -> list[Judgement]:
    """All judgements that the settings name, those of people by model."""
    if not config.judgements and not config.comparisons:
        raise ConfigError(
            "there is nothing to count: give --judgements=FILE (heed judge) or --comparisons=FILE "
            "(heed label export)"
        )
    found = [one for path in config.judgements for one in _read(path)]
    if config.comparisons:
        key = None if config.key is None else read_key(iter_jsonl(Path(config.key)))
        rankings = [row for path in config.comparisons for row in read_comparisons(path)]
        if key is not None:  # other rankings of the same project are not of this comparison
            prompts = {prompt_id for prompt_id, _ in key}
            rankings = [row for row in rankings if row.prompt_id in prompts]
        found += judgements_of(rankings, key)
    if not found:
        raise DataError("the files hold no judgement: has anybody judged yet?")
    return found


def _read(path: str) -> Iterator[Judgement]:
    """The judgements of a file, checked row by row."""
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = judgement_from_row(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}, line {number}: no judgement ({type(error).__name__}: {error}): give a "
                "judgements.jsonl of heed judge or heed evaluate"
            ) from error
        if len(row.models) != len(row.ranks):
            raise DataError(
                f"{path}, line {number}: {len(row.models)} models and {len(row.ranks)} ranks: "
                "write one rank for each model"
            )
        yield row


def lengths_of(path: str) -> Lengths:
    """Mean characters of each model's answers to each prompt."""
    texts: dict[tuple[str, str], list[int]] = {}
    for prompt, completions in read_completions(path):
        for one in completions:
            if one.model is not None:
                texts.setdefault((prompt.id, one.model), []).append(len(one.text))
    return {name: sum(found) / len(found) for name, found in texts.items()}


def preferences(
    config: PreferenceConfig, judgements: Sequence[Judgement], lengths: Lengths | None
) -> dict[str, Any]:
    """Everything that is measured, as JSON; fields are as in summary.json where it has them."""
    drawn: dict[str, Any] = {"num_samples": config.num_samples, "seed": config.seed}
    baseline = config.baseline
    names = list(dict.fromkeys(name for one in judgements for name in one.models))
    if baseline not in names:
        raise DataError(
            f"nobody judged the baseline {baseline!r}; judged were {', '.join(names)}: give one of "
            "them as --baseline"
        )
    others = [
        name
        for name in names
        if name != baseline and any({name, baseline} <= set(one.models) for one in judgements)
    ]
    rates = [win_rate(judgements, name, baseline, **drawn) for name in others]
    strengths = fit(judgements, **drawn)
    found: dict[str, Any] = {
        "baseline": baseline,
        "command": command_of("eval preference", config),
        "made_from": config.model_dump(exclude={"run_dir"}),
        "judges": sorted({one.labeler for one in judgements}),
        "win_rates": [_rate(rate) for rate in rates],
        "bradley_terry": [
            {"model": name, **strength.to_row()} for name, strength in strengths.ranked().items()
        ],
        "implied_win_rates": _implied(strengths),
        "likert": [
            {"model": name, "n": mean.num_answers, **mean.interval.to_row()}
            for name, mean in likert(judgements, **drawn).items()
        ],
        "metadata": [
            {"model": name, "flag": flag, "n": share.num_answers, **share.interval.to_row()}
            for name, flags in metadata_rates(judgements, **drawn).items()
            for flag, share in flags.items()
        ],
        "agreement": {
            cohort: {"n": one.num_pairs, **one.interval.to_row()}
            for cohort, one in agreement(judgements, **drawn).items()
        },
    }
    if lengths is not None:
        found["length_controlled"] = [
            equal_length_row(length_controlled(judgements, lengths, name, baseline, **drawn))
            for name in others
        ]
    if config.models:
        from heedful.commands.sizes import win_rates_by_size  # reads lineages: needs torch

        found["by_size"] = win_rates_by_size(config.models, rates, baseline)
    if config.distributions:
        sources = {
            prompt.id: name
            for name, path in config.distributions.items()
            for prompt in read_prompts(path)
        }
        cells = two_by_two(judgements, sources, others, baseline, **drawn)
        found["two_by_two"] = [
            {"distribution": name, **_rate(rate)}
            for (_, name), rates in cells.items()
            for rate in rates
        ]
    return found


def _rate(rate: WinRate) -> dict[str, Any]:
    return {
        "model": rate.model,
        "baseline": rate.baseline,
        "cohort": rate.cohort,
        **rate.interval.to_row(),
        "judgements": rate.num_judgements,
        "prompts": rate.num_prompts,
        "labelers": rate.num_labelers,
    }


def _implied(strengths: Strengths) -> list[dict[str, Any]]:
    """The win rate of every model over every other that the strengths imply, stronger first."""
    order = list(strengths.ranked())
    return [
        {"model": model, "baseline": other, **strengths.win_rate(model, other).to_row()}
        for place, model in enumerate(order)
        for other in order[place + 1 :]
    ]


def equal_length_row(found: EqualLength) -> dict[str, Any]:
    """The JSON form of a win rate at equal length."""
    return {
        "model": found.model,
        "baseline": found.baseline,
        **found.interval.to_row(),
        "length_effect": found.length_effect.to_row(),
        "characters_longer": found.mean_difference,
    }


def format_table(found: dict[str, Any]) -> str:
    """Win rates, raw and at equal length, and strengths, as lines for a terminal."""
    strengths = {row["model"]: row for row in found["bradley_terry"]}
    equal = {row["model"]: row for row in found.get("length_controlled", [])}
    lines = [("model", f"over {found['baseline']}", "at equal length", "strength", "judgements")]
    for row in found["win_rates"]:
        name = row["model"]
        lines.append(
            (
                name,
                _text(row, "{:.1%}"),
                _text(equal[name], "{:.1%}") if name in equal else "-",
                _text(strengths[name], "{:+.2f}"),
                f"{row['judgements']:,}",
            )
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(f"{text:<{width}}" for text, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _text(row: dict[str, Any], form: str) -> str:
    value, low, high = row["value"], row["low"], row["high"]
    if low is None or high is None:
        return form.format(value)
    return f"{form.format(value)} ({form.format(low)} to {form.format(high)})"
