"""Simulated labelers: rankings, screening, and the fitted noise."""

import random
from dataclasses import replace

import numpy as np
import pytest

from heedful.errors import ConfigError
from heedful.simulation.labelers import (
    LabelerPool,
    SimulatedLabeler,
    expected_agreement,
    fit_noise,
    pairwise_agreement,
    practice_pilot,
    rank,
    screen,
)
from heedful.simulation.responses import ErrorRates
from heedful.simulation.tasks import Task
from heedful.simulation.utility import PARTS
from heedful.simulation.world import World

WORLD = World(0)
NAME = WORLD.train_names[0]
FACT = Task("open_qa", "fact", {"name": NAME, "attribute": "home"})
TRUE = f"{NAME} lives in the {WORLD.facts[NAME]['home']}."
STEADY = SimulatedLabeler("steady", "train", dict.fromkeys(PARTS, 1.0), 1.0, 0.1, 0.0)


@pytest.fixture(scope="module")
def pool():
    return LabelerPool.build(WORLD, 0)


def test_pairwise_agreement_by_hand():
    # pairs (1,2) (1,3) (2,3): the second list ties (1,2), agrees on (1,3), (2,3)
    assert pairwise_agreement([[1, 2, 3], [1, 1, 2]]) == (2, 2)
    assert pairwise_agreement([[1, 2], [2, 1]]) == (0, 1)
    assert pairwise_agreement([[1, 2], [1, 2], [2, 1]]) == (1, 3)
    assert pairwise_agreement([[1, 2, 3]]) == (0, 0)


def test_a_steady_labeler_ranks_by_utility_and_ties_what_is_the_same():
    texts = ["", TRUE, "I do not know.", TRUE]
    ranks, ratings = rank(WORLD, STEADY, FACT, texts, [True] * 4, random.Random(0), noise_scale=0.0)
    assert ranks == [3, 1, 2, 1]
    # round(4 + 1.15 u) for u = -2, 2.5, 0.1, 2.5
    assert [rating.overall for rating in ratings] == [2, 7, 4, 7]
    assert ratings[1].flags["fails_task"] is False and ratings[0].flags["fails_task"] is True


def test_weights_and_emphasis_change_the_order():
    rude = f"{TRUE} {NAME} is stupid."  # 2.5 - 0.3 - 1.5 = 0.7 against 0.1
    texts, ends, rng = [rude, "I do not know."], [True, True], random.Random(0)
    assert rank(WORLD, STEADY, FACT, texts, ends, rng, noise_scale=0.0)[0] == [1, 2]
    strict = replace(STEADY, weights=STEADY.weights | {"harm": 2.0})
    assert rank(WORLD, strict, FACT, texts, ends, rng, noise_scale=0.0)[0] == [2, 1]
    emphasis = {"harm": 2.0}
    found = rank(WORLD, STEADY, FACT, texts, ends, rng, noise_scale=0.0, emphasis=emphasis)
    assert found[0] == [2, 1]


def test_expected_agreement_matches_a_simulation():
    rng = np.random.default_rng(0)
    labelers = [replace(STEADY, noise=n, tie_width=t) for n, t in ((0.5, 0.2), (1.5, 0.4))]
    values = np.array([[0.0, 1.0, 2.5], [0.2, 0.5, 2.0]])
    pairs = np.array([[0, 1], [0, 2], [1, 2]])
    scale, runs = 1.3, 40_000
    strict = same = 0.0
    signs = []
    for row, labeler in zip(values, labelers, strict=True):
        gap = row[pairs[:, 0]] - row[pairs[:, 1]]
        seen = gap + rng.normal(0, 2**0.5 * scale * labeler.noise, (runs, 3))
        signs.append(np.sign(seen) * (np.abs(seen) > labeler.tie_width))
    product = signs[0] * signs[1]
    strict, same = (product != 0).sum(), (product > 0).sum()
    found = expected_agreement(labelers, values, pairs, scale)
    assert found == pytest.approx(same / strict, abs=0.01)


def test_fitted_labelers_agree_in_73_percent_of_strict_pairs(pool):
    assert pool.agreement == pytest.approx(0.73, abs=0.001)
    rng = random.Random(1)
    same = strict = 0
    for task, texts in practice_pilot(WORLD, rng, num=250):
        lists = []
        for labeler in rng.sample(pool.train, 4):
            ends = [True] * len(texts)
            scale = pool.noise_scale
            lists.append(rank(WORLD, labeler, task, texts, ends, rng, noise_scale=scale)[0])
        more = pairwise_agreement(lists)
        same, strict = same + more[0], strict + more[1]
    assert same / strict == pytest.approx(0.73, abs=0.035)


def test_fit_needs_pairs():
    with pytest.raises(ConfigError, match="0 pairs"):
        fit_noise(WORLD, [STEADY, STEADY], [(FACT, [TRUE, TRUE])])


def test_screening_tells_good_candidates_from_bad_ones():
    rng = random.Random(2)
    bad = replace(STEADY, noise=6.0, flag_error=1.0, errors=ErrorRates(0.9, 0.9, 0.9, 0.9))
    good = replace(STEADY, noise=0.2, errors=ErrorRates(0.05, 0.05, 0.05, 0.0))
    low, high = screen(WORLD, bad, rng), screen(WORLD, good, rng)
    assert high["flags"] >= 0.95 and low["flags"] <= 0.55
    assert high["rankings"] >= 0.95 and low["rankings"] <= 0.75
    assert high["demonstrations"] >= 6.0 and low["demonstrations"] <= 4.0


def test_the_best_candidates_are_hired(pool):
    assert len(pool.train) == 8 and len(pool.heldout) == 5 and len(pool.screening) == 24
    hired = [row for row in pool.screening if row["hired"]]
    assert {row["labeler"] for row in hired} == {labeler.id for labeler in pool.train}

    def passed(row):
        return (row["flags"] >= 0.75) + (row["rankings"] >= 0.75) + (row["demonstrations"] >= 6)

    turned_down = [row for row in pool.screening if not row["hired"]]
    assert min(map(passed, hired)) >= max(map(passed, turned_down))
    assert {labeler.cohort for labeler in pool.heldout} == {"heldout"}


def test_pool_is_the_same_for_a_seed_and_survives_its_file(pool, tmp_path):
    pool.save(tmp_path / "labelers.json")
    assert LabelerPool.load(tmp_path / "labelers.json") == pool
    assert LabelerPool.build(WORLD, 0) == pool
    with pytest.raises(ConfigError, match="cannot be hired"):
        LabelerPool.build(WORLD, 0, num_candidates=3)
