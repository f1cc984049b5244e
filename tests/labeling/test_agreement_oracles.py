"""Agreement beside statsmodels, which has none of the code in common."""

import numpy as np
import pytest
from statsmodels.stats.inter_rater import cohens_kappa, fleiss_kappa
from statsmodels.stats.proportion import proportion_confint

from heedful.labeling.agreement import Answer
from heedful.labeling.quality import screening
from heedful.labeling.rating_agreement import flag_agreement, rating_agreement
from heedful.records import Rating


def answers_of(ratings, flags):
    """Answers from tables (labelers, outputs), five outputs to a prompt."""
    found = []
    for labeler, (own, said) in enumerate(zip(ratings, flags, strict=True)):
        for start in range(0, len(own), 5):
            given = tuple(
                Rating(int(rating), {"inappropriate": bool(flag)})
                for rating, flag in zip(
                    own[start : start + 5], said[start : start + 5], strict=True
                )
            )
            outputs = tuple(f"{start}/{place}" for place in range(5))
            args = (outputs, (1, 2, 3, 4, 5), (1,) * 5, given, None, 0.0)
            found.append(Answer(f"p{start}", f"l{labeler}", *args))
    return found


def drawn(num_labelers, num_outputs):
    rng = np.random.default_rng(8)
    seen = rng.normal(size=num_outputs) + rng.normal(size=(num_labelers, num_outputs))
    return np.clip(np.round(4 + 1.5 * seen), 1, 7).astype(int), (seen > 1).astype(int)


def test_weighted_kappa():
    ratings, flags = drawn(2, 200)
    table = np.zeros((7, 7))
    np.add.at(table, (ratings[0] - 1, ratings[1] - 1), 1)
    expected = cohens_kappa(table, wt="quadratic", return_results=False)
    (found,) = rating_agreement(answers_of(ratings, flags)).kappas
    assert found.value == pytest.approx(expected)


def test_nominal_alpha_is_fleiss_kappa_with_its_small_sample_term():
    # alpha = kappa + (1 - kappa) / (all answers), where every output has as many answers.
    ratings, flags = drawn(4, 150)
    yes = flags.sum(axis=0)
    kappa = fleiss_kappa(np.stack([4 - yes, yes], axis=1))
    (found,) = flag_agreement(answers_of(ratings, flags))
    assert found.alpha.value == pytest.approx(kappa + (1 - kappa) / 600)


def test_screening_interval_is_wilsons_for_many_items():
    found = screening([(True, True)] * 730 + [(True, False)] * 270, [], {}, [])["sensitive_speech"]
    low, high = proportion_confint(730, 1000, method="wilson")
    assert found.interval.low == pytest.approx(low, abs=3e-4)
    assert found.interval.high == pytest.approx(high, abs=3e-4)
