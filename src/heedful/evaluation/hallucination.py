"""How often labelers flag a hallucination where the prompt brings all that may be said.

The paper's measure (sections 1 and 4.1): the question of Table 3, asked on closed-domain prompts
alone, such as questions about a text and summaries. Who does not attempt the task invents nothing,
so a rate says little of a model that fails it: the use cases are also given one by one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from heedful.errors import EvaluationError
from heedful.evaluation.preference import Estimate, metadata_rates
from heedful.records import Judgement, Rating
from heedful.statistics.intervals import Interval, ratio, two_way_if_enough

FLAG = "hallucination"
ALL = "all closed-domain prompts"


def flag_rates(
    judgements: Sequence[Judgement], use_cases: Mapping[str, str], *, seed: int = 0
) -> dict[str, dict[str, Estimate]]:
    """{use case: {model: share of its outputs that are flagged}}, ``ALL`` first.

    ``use_cases`` is by prompt id. Use cases of which the question was never asked have no entry.
    """
    asked = list(_asked(judgements))
    groups: dict[str, list[Judgement]] = {ALL: asked} if asked else {}
    for judgement in asked:
        groups.setdefault(use_cases[judgement.prompt_id], []).append(judgement)
    return {
        name: {model: flags[FLAG] for model, flags in metadata_rates(chosen, seed=seed).items()}
        for name, chosen in groups.items()
    }


def flag_ratio(
    judgements: Sequence[Judgement], model: str, baseline: str, *, seed: int = 0
) -> Interval:
    """The flagged share of ``model``'s outputs over that of ``baseline``'s, on the same prompts.

    Over judgements that answer the question for both; the interval is over prompts and labelers.
    """
    values, prompts, labelers = [], [], []
    for judgement in _asked(judgements):
        pair = [_share(judgement, name) for name in (model, baseline)]
        if not any(map(math.isnan, pair)):
            values.append(pair)
            prompts.append(judgement.prompt_id)
            labelers.append(judgement.labeler)
    if not values:
        raise EvaluationError(
            f"no labeler said of both {model!r} and {baseline!r} whether they hallucinate: judge "
            "closed-domain prompts that both have answered"
        )
    return two_way_if_enough(values, prompts, labelers, statistic=ratio, seed=seed)


def _asked(judgements: Iterable[Judgement]) -> Iterable[Judgement]:
    """The judgements that answer the question at all, with this flag alone."""
    for judgement in judgements:
        ratings = tuple(
            None if rating is None else Rating(rating.overall, {FLAG: rating.flags.get(FLAG)})
            for rating in judgement.ratings or ()
        )
        if any(rating is not None and rating.flags[FLAG] is not None for rating in ratings):
            yield replace(judgement, ratings=ratings)


def _share(judgement: Judgement, model: str) -> float:
    """The flagged share of one model's outputs in a judgement; NaN where none has an answer."""
    flags = [
        rating.flags[FLAG]
        for name, rating in zip(judgement.models, judgement.ratings or (), strict=True)
        if name == model and rating is not None and rating.flags[FLAG] is not None
    ]
    return sum(map(bool, flags)) / len(flags) if flags else math.nan
