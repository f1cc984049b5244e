"""What to know beside a claim of the miniature loop: the figures that make it strong or weak."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from heedful.commands.measured import Measured
from heedful.evaluation.hallucination import ALL

ALIGNED, SFT, BASE = "PPO-ptx", "SFT", "base"


def notes(m: Measured) -> dict[str, str]:
    """{claim id: what stands beside it in the report}, from the measurements of this run."""
    found = {"c4": _beside_c4(m), "d": _beside_d(m)}
    beside = _beside_reward_model(m)
    return found | ({"j1": beside, "j2": beside} if beside else {})


def _beside_c4(m: Measured) -> str:
    return (
        f"True answers: {_shares(m.truth_heldout, ALIGNED, SFT, BASE)}. Answers that name the "
        f"character of the question at all: {_shares(m.named_heldout, ALIGNED, SFT, BASE)}. Where "
        "SFT has unlearned the names that no demonstration held, it is easy to be no worse than "
        "it: c3 says more."
    )


def _beside_d(m: Measured) -> str:
    probes = (
        f"{_shares(m.closed, ALIGNED, BASE)}, checked against notes of a few invented facts, half "
        "of them without the answer, in a form in which the base answers too."
    )
    cases = [
        f"{name.replace('_', ' ').replace('qa', 'QA')} {_share(models[ALIGNED].interval.value)} "
        f"against {_share(models[BASE].interval.value)}"
        for name, models in m.flagged.items()
        if name != ALL and {ALIGNED, BASE} <= models.keys()
    ]
    if not cases:
        return probes
    flagged = m.flag_ratio(ALIGNED, BASE)
    return (
        f"{probes} The paper counted what labelers flagged, on all closed-domain prompts; so "
        f"counted, the ratio is {flagged.value:.2f} ({flagged.low:.2f} to {flagged.high:.2f}). "
        f"{ALIGNED} against the base: {', '.join(cases)}. Who does not attempt a task invents "
        "nothing in it."
    )


def _beside_reward_model(m: Measured) -> str:
    simple = {name: _value(found) for name, found in m.baselines.items() if name != "random"}
    if not simple:
        return ""
    shown = ", ".join(f"{name} {_share(value)}" for name, value in simple.items())
    return f"On the rankings of both groups: reward model {_share(m.accuracy().value)}, {shown}."


def _shares(table: Mapping[str, Mapping[str, float]], *names: str) -> str:
    return ", ".join(f"{name} {_share(fmean(table[name].values()))}" for name in names)


def _value(found: Any) -> float:
    return found["value"] if isinstance(found, dict) else found


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"
