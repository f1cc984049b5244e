"""The alignment tax: what each step of aligning changed, measure by measure, against the base.

The paper (section 4.2, Figures 29 and 34) compares GPT-3, SFT, PPO and PPO-ptx on the same tasks.
Here every difference is taken over the same items, which are drawn together, so that how hard an
item is does not widen the interval. To put measures of different units below each other, a change
is also given as a share of the base model's value, positive where it is for the better.

Legend: ``N`` items, ``D`` score columns of a measure, ``S`` bootstrap samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from heedful.shown import interval_text, side_of
from heedful.statistics.intervals import Floats, Interval, Statistic, bootstrap_all, recovered_share


@dataclass(frozen=True, slots=True)
class Scores:
    """What one model made of a measure's items."""

    ids: Sequence[str]
    clusters: Sequence[str]  # items that resemble each other are drawn together
    values: Floats  # (N, D), NaN where there is no score


@dataclass(frozen=True, slots=True)
class Measured:
    """One measure of several models: the statistic of the mean of its columns."""

    name: str
    scores: Mapping[str, Scores]  # by model
    statistic: Statistic = "mean"
    higher_is_better: bool | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """How ``model`` differs from ``base`` in a measure, over the items that both have.

    ``better`` is the difference as a share of the base's value, above 0 where it is for the better;
    None where neither direction is better. ``won_back``, of PPO-ptx alone, is the part of PPO's
    loss that it does not have: 1 is none of the loss left.
    """

    measure: str
    model: str
    base: str
    num_items: int
    of_base: Interval
    of_model: Interval
    difference: Interval
    better: Interval | None
    won_back: Interval | None = None
    higher_is_better: bool | None = None

    def to_row(self) -> dict[str, Any]:
        """The JSON form (a row of ``tax_changes`` in summary.json)."""
        intervals = {
            "of_base": self.of_base,
            "of_model": self.of_model,
            "difference": self.difference,
            "better": self.better,
            "won_back": self.won_back,
        }
        return {
            "measure": self.measure,
            "model": self.model,
            "base": self.base,
            "n": self.num_items,
            "higher_is_better": self.higher_is_better,
            **{
                name: None if found is None else found.to_row() for name, found in intervals.items()
            },
        }


def changes(measured: Sequence[Measured], models: Sequence[str], *, seed: int = 0) -> list[Change]:
    """The change of every model after the first, the base, in every measure that both have.

    Where the models include "PPO" and "PPO-ptx", in any spelling, and PPO has lost, the part that
    PPO-ptx wins back is given as well.
    """
    base, *others = models
    ppo = next((name for name in models if plain(name) == "ppo"), None)
    found = []
    for measure in measured:
        for model in others:
            if base not in measure.scores or model not in measure.scores:
                continue
            change = _change(measure, base, model, seed)
            is_ptx = plain(model) == "ppo-ptx" and ppo != base
            if is_ptx and ppo is not None and ppo in measure.scores:
                change = _with_won_back(change, measure, (base, ppo, model), seed)
            found.append(change)
    return found


def plain(name: str) -> str:
    """A model's name for comparing: "PPO_ptx" is "ppo-ptx"."""
    return name.strip().lower().replace("_", "-")


def _change(measure: Measured, base: str, model: str, seed: int) -> Change:
    values, clusters, of = _aligned(measure, (base, model))
    first, second = of
    sign = -1.0 if measure.higher_is_better is False else 1.0

    def better(means: Floats) -> Floats:
        before = first(means)
        return sign * (second(means) - before) / np.abs(before)

    statistics: dict[str, Statistic] = {
        "of_base": first,
        "of_model": second,
        "difference": lambda means: second(means) - first(means),
    }
    if measure.higher_is_better is not None:
        statistics["better"] = better
    found = bootstrap_all(values, [clusters], statistics, seed=seed)
    return Change(
        measure.name,
        model,
        base,
        len(values),
        found["of_base"],
        found["of_model"],
        found["difference"],
        found.get("better"),
        higher_is_better=measure.higher_is_better,
    )


def _with_won_back(
    change: Change, measure: Measured, models: tuple[str, str, str], seed: int
) -> Change:
    """The change with what PPO-ptx wins back, where PPO has surely lost (else it means nothing)."""
    if side(_change(measure, models[0], models[1], seed)) != "worse":
        return change
    values, clusters, of = _aligned(measure, models)

    def share(means: Floats) -> Floats:
        return recovered_share(np.stack([one(means) for one in of], axis=1))

    won_back = bootstrap_all(values, [clusters], {"": share}, seed=seed)[""]
    return replace(change, won_back=won_back)


def _aligned(
    measure: Measured, models: Sequence[str]
) -> tuple[Floats, list[str], list[Callable[[Floats], Floats]]]:
    """The models' columns side by side over the items that all have (N, D * models), their
    clusters, and for each model its statistic of the means of these columns.
    """
    places = [{name: i for i, name in enumerate(measure.scores[m].ids)} for m in models]
    shared = [name for name in places[0] if all(name in place for place in places)]
    rows = [[place[name] for name in shared] for place in places]
    parts = [measure.scores[m].values[row] for m, row in zip(models, rows, strict=True)]
    width = parts[0].shape[1]

    def of(place: int) -> Callable[[Floats], Floats]:
        columns = slice(place * width, (place + 1) * width)
        statistic = measure.statistic
        if callable(statistic):
            return lambda means: statistic(means[:, columns])
        return lambda means: means[:, columns][:, 0]

    clusters = [measure.scores[models[0]].clusters[i] for i in rows[0]]
    return np.hstack(parts), clusters, [of(place) for place in range(len(models))]


def format_table(found: Sequence[Change]) -> str:
    """The changes as lines for a terminal."""
    lines = [("measure", "model", "base", "value", "difference (95 %)", "won back", "n")]
    for change in found:
        gap, back = change.difference, change.won_back
        lines.append(
            (
                change.measure,
                change.model,
                f"{change.of_base.value:.3f}",
                f"{change.of_model.value:.3f}",
                f"{difference_text(gap)} {side(change)}",
                "" if back is None else interval_of(back, "{:.0%}".format),
                f"{change.num_items:,}",
            )
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(f"{text:<{width}}" for text, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def difference_text(gap: Interval) -> str:
    """A difference with its sign and its interval."""
    return interval_of(gap, "{:+.3f}".format)


def interval_of(found: Interval, format: Callable[[float], str]) -> str:
    """A value with its interval behind it, "-" where there is none."""
    return f"{format(found.value)} ({interval_text(found.low, found.high, format)})"


def side(change: Change) -> str:
    """ "better" or "worse" where the whole interval of the difference says so, else "".

    Not by the share of the base's value, which has no sense where the base may be 0.
    """
    return side_of(change.difference.low, change.difference.high, change.higher_is_better)
