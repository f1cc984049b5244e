"""The report of vs_trl.py: a table of medians for every work and model, and the ratios."""

from __future__ import annotations

import statistics
from typing import Any

import accelerator
import measure

BUSY_SHARE = 0.05


def report(rows: list[dict[str, Any]], about: dict[str, Any], peak: float | None = None) -> str:
    """The Markdown of results; ``peak`` is the device's, in FLOP per second, where it has one."""
    lines = ["# heedful against TRL and transformers", ""]
    lines += [" · ".join(f"{key} {value}" for key, value in about.items() if value), ""]
    for work, model in dict.fromkeys((row["work"], row["model"]) for row in rows):
        group = [row for row in rows if (row["work"], row["model"]) == (work, model)]
        lines += [f"## {work}, {model}", "", table(group, peak), "", *ratios(group), ""]
    return "\n".join(lines)


def table(group: list[dict[str, Any]], peak: float | None = None) -> str:
    """One line a variant, the fastest of either side first; with a peak, shares of it as MFU."""
    phases = list(dict.fromkeys(phase for row in group for phase in row["phases_s"]))
    found = []
    for (side, *variant), runs in by_variant(group).items():
        rates = [row["rate"] for row in runs]
        values = [
            " ".join([side, *variant]),
            statistics.median(rates),
            f"{measure.shown(min(rates))} to {measure.shown(max(rates))}",
            len(runs),
            statistics.median(row["step_s"] for row in runs),
            *(statistics.median(row["phases_s"][phase] for row in runs) for phase in phases),
            *(shares(runs, phases, peak) if peak else []),
            max(row["process_peak_gib"] for row in runs),
            *([max(row["device_peak_gib"] for row in runs)] if peak else []),
            f"{max(row['process_others'] for row in runs):.0%}",
        ]
        found.append((side, -statistics.median(rates), values))
    head = ["", f"{group[0]['unit']} (median)", "range", "runs", "s/step"]
    head += [f"{phase} s" for phase in phases]
    head += ["MFU", *(f"{phase} MFU" for phase in phases)] if peak else []
    head += ["peak GiB", *(["device peak GiB"] if peak else []), "others"]
    ordered = sorted(found, key=lambda item: item[:2])
    return measure.markdown_table(head, [values for _, _, values in ordered])


def shares(runs: list[dict[str, Any]], phases: list[str], peak: float) -> list[str]:
    """MFU of the whole step and of its phases: medians over the runs."""
    found = []
    for phase in ("", *phases):
        values = [
            accelerator.share(row["flops"][phase], row["phases_s"][phase], peak)
            if phase
            else accelerator.share(sum(row["flops"].values()), row["step_s"], peak)
            for row in runs
        ]
        found.append(f"{statistics.median(values):.1%}")
    return found


def has_masters(variant: tuple[str, ...] | list[str], side: str) -> bool:
    """Whether the weights are kept in fp32: ours always, the peer's unless it is pure bf16."""
    return side == "heedful" or "bf16" not in variant


def by_variant(group: list[dict[str, Any]]) -> dict[tuple[str, ...], list[dict[str, Any]]]:
    found: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in group:
        found.setdefault((row["side"], *row["variant"]), []).append(row)
    return found


def ratios(group: list[dict[str, Any]]) -> list[str]:
    """Ours over the peer's best: at fp32 compute, at fp32 weights, and at anything."""
    medians = {
        key: statistics.median(row["rate"] for row in runs)
        for key, runs in by_variant(group).items()
    }
    trained = group[0]["work"] != "generate"
    comparisons = [("fp32 on both sides", "fp32", lambda key: "fp32" in key)]
    if trained:
        comparisons.append(
            ("bf16, fp32 weights on both sides", "bf16", lambda key: has_masters(key, "peer"))
        )
    comparisons.append(("bf16, the peer's best of all", "bf16", lambda key: True))
    lines = []
    for what, dtype, allowed in comparisons:
        ours = {key: rate for key, rate in medians.items() if key[0] == "heedful" and dtype in key}
        theirs = {key: rate for key, rate in medians.items() if key[0] == "peer" and allowed(key)}
        if ours and theirs:
            best, other = max(ours, key=ours.__getitem__), max(theirs, key=theirs.__getitem__)
            value = measure.shown(medians[best] / medians[other])
            lines.append(f"- {what}: **{value}** ({' '.join(best)} over {' '.join(other)})")
    if any(row["process_others"] > BUSY_SHARE for row in group):
        lines.append(f"- other processes had over {BUSY_SHARE:.0%} of the machine: run again")
    return lines
