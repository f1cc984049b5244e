"""How good a reward model is on held-out rankings, beside baselines that know nothing of language.

Accuracy is the share of untied pairs in the labeler's order, equal scores as half. Pairs of one
prompt are not independent, nor are those of one labeler: intervals draw both again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from heedful.errors import EvaluationError, MissingExtraError
from heedful.records import Ranking
from heedful.statistics.intervals import Interval, ratio, two_way_if_enough

# Strength of the L2 penalty of the bag-of-words baseline (scikit-learn's C).
BAG_OF_WORDS_C = 0.1


class Scored(NamedTuple):
    """One ranking with the scores that a model or a baseline gives its completions."""

    prompt_id: str
    ranks: Sequence[int]
    scores: Sequence[float]
    cohort: str | None = None
    labeler: str | None = None


def accuracy(rows: Sequence[Scored], *, seed: int = 0) -> Interval:
    """Share of untied pairs that the scores order as the labeler did.

    The interval is two-way, over prompts and labelers, from five labelers on, else by prompt.
    Rankings of unknown labelers count as those of one.
    """
    values, prompts, labelers = [], [], []
    for row in rows:
        right, count = count_pairs(row.ranks, row.scores)
        if count:
            values.append([right, count])
            prompts.append(row.prompt_id)
            labelers.append(row.labeler or "")
    if not values:
        raise EvaluationError(
            "there is no untied held-out pair: rank more prompts of the valid split"
        )
    return two_way_if_enough(values, prompts, labelers, statistic=ratio, seed=seed)


def log_loss(row: Scored) -> float:
    """Mean -log sigmoid of the score differences of a ranking's untied pairs; NaN without one."""
    ranks, scores = np.array(row.ranks), np.array(row.scores)
    margins = (scores[:, None] - scores)[ranks[:, None] < ranks]
    return float(np.logaddexp(0.0, -margins).mean()) if len(margins) else float("nan")


def count_pairs(ranks: Sequence[int], scores: Sequence[float]) -> tuple[float, int]:
    """(pairs in the right order with equal scores as half, untied pairs) of one ranking."""
    right, count = 0.0, 0
    for i in range(len(ranks)):
        for j in range(len(ranks)):
            if ranks[i] < ranks[j]:
                count += 1
                right += 1.0 if scores[i] > scores[j] else 0.5 * (scores[i] == scores[j])
    return right, count


def baselines(
    train: Sequence[Ranking], valid: Sequence[Ranking], *, seed: int = 0
) -> dict[str, Any]:
    """Accuracies on ``valid``: random, longer-is-better, and logistic regression on words."""
    lengths = [[len(c.text) for c in row.completions] for row in valid]
    longer = [_scored(row, scores) for row, scores in zip(valid, lengths, strict=True)]
    return {
        "random": 0.5,
        "longer is better": accuracy(longer, seed=seed).to_row(),
        "bag of words": accuracy(_bag_of_words(train, valid), seed=seed).to_row(),
    }


def _bag_of_words(train: Sequence[Ranking], valid: Sequence[Ranking]) -> list[Scored]:
    """Scores of a linear model of word counts, fitted on the differences of the training pairs."""
    try:
        from sklearn.feature_extraction.text import CountVectorizer
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise MissingExtraError(
            "scikit-learn is needed for the bag-of-words baseline: pip install scikit-learn"
        ) from error
    vectorizer = CountVectorizer(min_df=2, binary=True)
    counts: Any = vectorizer.fit_transform([c.text for row in train for c in row.completions])
    better, worse = [], []  # rows of the counts
    start = 0
    for row in train:
        for i, first in enumerate(row.ranks):
            for j, second in enumerate(row.ranks):
                if first < second:
                    better.append(start + i)
                    worse.append(start + j)
        start += len(row.completions)
    difference = counts[better] - counts[worse]
    flip = np.arange(len(better)) % 2 == 1  # both labels must occur; the model has no intercept
    signs = np.where(flip, -1, 1)
    model = LogisticRegression(C=BAG_OF_WORDS_C, fit_intercept=False, max_iter=1000)
    model.fit(difference.multiply(signs[:, None]).tocsr(), signs)
    words = vectorizer.transform([c.text for row in valid for c in row.completions])
    ends = np.cumsum([len(row.completions) for row in valid])
    scores = np.split(words @ model.coef_[0], ends[:-1])
    return [_scored(row, some) for row, some in zip(valid, scores, strict=True)]


def _scored(row: Ranking, scores: Iterable[float]) -> Scored:
    return Scored(row.prompt_id, row.ranks, list(map(float, scores)), row.cohort, row.labeler)
