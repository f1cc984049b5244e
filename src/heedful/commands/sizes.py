"""How large models are and what made them: win rates over size (the paper's Figure 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from heedful.commands.measured import lineage_of
from heedful.commands.report import LINEAGE_FILE
from heedful.errors import DataError
from heedful.evaluation.preference import WinRate


def num_parameters(path: str) -> int:
    """Parameters of a published model, by its lineage."""
    return int(lineage_of(path)["parameters"])


def method_of(path: str) -> str | None:
    """What made a policy, by its lineage: base, SFT, PPO or PPO-ptx.

    None for reward models, and for the models that PPO starts from.
    """
    lineage = lineage_of(path)
    if lineage["step"] == "ppo":
        return "PPO-ptx" if lineage["config"]["ppo"]["ptx_coef"] > 0 else "PPO"
    if lineage["step"] == "sft" and lineage["config"]["pretraining_mix"] > 0:
        return None
    return {"pretrain": "base", "sft": "SFT"}.get(lineage["step"])


def win_rates_by_size(
    models: Mapping[str, str], rates: Sequence[WinRate], baseline: str
) -> list[dict[str, Any]]:
    """The win rates of the models whose size and method are known; ``models`` has their paths.

    The baseline stands at one half by definition, for whoever judged the others.
    """
    for name, path in models.items():
        if not (Path(path) / LINEAGE_FILE).is_file():
            raise DataError(
                f"models.{name}: {path} has no {LINEAGE_FILE}, which says how large a model is and "
                "what made it: give a model that heedful has trained, or leave it out"
            )
    cohorts = {rate.cohort for rate in rates}
    cohort = cohorts.pop() if len(cohorts) == 1 else None
    found = {rate.model: {"cohort": rate.cohort, **rate.interval.to_row()} for rate in rates}
    found[baseline] = {"cohort": cohort, "value": 0.5, "low": None, "high": None}
    return [
        {
            "model": name,
            "method": method,
            "parameters": num_parameters(path),
            "baseline": baseline,
            **found[name],
        }
        for name, path in models.items()
        if name in found and (method := method_of(path)) is not None
    ]
