"""Whether 95 % means 95 %: 1,000 simulated studies of win rates and of differences.

Each study draws prompts with a taste of their own, several judgements of every prompt, and asks
whether the interval holds the true value. Whole studies are simulated at once; only the interval
itself is the code under test.
"""

import numpy as np
import pytest

from heedful.statistics.intervals import bootstrap, paired_difference, two_way_bootstrap

NUM_STUDIES, NUM_PROMPTS, NUM_JUDGED = 1000, 120, 3


def share_covered(intervals, truth):
    return np.mean([found.low <= truth <= found.high for found in intervals])


def verdicts(rng, chance):
    """Wins (1), ties (1/2) and losses (0): a tenth are ties, the mean is ``chance``."""
    drawn = rng.random(chance.shape)
    return np.where(drawn < chance * 0.9, 1.0, np.where(drawn < chance * 0.9 + 0.1, 0.5, 0.0))


@pytest.fixture(scope="module")
def chances():
    """Each study's prompts have win rates of their own, 0.3 or 0.9: 0.6 on average."""
    rng = np.random.default_rng(5)
    return rng.choice([0.3, 0.9], size=(NUM_STUDIES, NUM_PROMPTS, 1))


def test_win_rates_clustered_by_prompt(chances):
    rng = np.random.default_rng(6)
    wins = verdicts(rng, np.repeat(chances, NUM_JUDGED, axis=2)).reshape(NUM_STUDIES, -1)
    # a tie is half a win: 0.9 * chance + 0.05
    truth, prompts = 0.9 * 0.6 + 0.05, np.repeat(np.arange(NUM_PROMPTS), NUM_JUDGED)
    found = [bootstrap(row, prompts, num_samples=400, seed=study) for study, row in enumerate(wins)]
    assert 0.93 <= share_covered(found, truth) <= 0.97
    naive = 1.96 * wins.std(axis=1) / np.sqrt(wins.shape[1])
    covered = np.mean(np.abs(wins.mean(axis=1) - truth) <= naive)
    assert covered < 0.92  # judgements of one prompt are not independent of each other


def test_differences_paired_by_prompt(chances):
    """Two models judged on the same prompts: pairing takes out how hard a prompt is."""
    rng = np.random.default_rng(7)
    first = verdicts(rng, np.repeat(chances, NUM_JUDGED, axis=2)).mean(axis=2)
    second = verdicts(rng, np.repeat(chances - 0.2, NUM_JUDGED, axis=2)).mean(axis=2)
    truth, prompts = 0.9 * 0.2, np.arange(NUM_PROMPTS)
    found = [
        paired_difference(a, b, prompts, num_samples=400, seed=study)
        for study, (a, b) in enumerate(zip(first, second, strict=True))
    ]
    assert 0.93 <= share_covered(found, truth) <= 0.97
    unpaired = np.sqrt((first.var(axis=1) + second.var(axis=1)) / NUM_PROMPTS)
    paired = np.array([found.high - found.low for found in found]) / (2 * 1.96)
    assert paired.mean() < 0.85 * unpaired.mean()


def test_win_rates_over_prompts_and_labelers():
    """The two-way interval is too wide by design: it may cover more, never less."""
    rng = np.random.default_rng(8)
    num_studies, num_prompts, num_labelers = 300, 60, 15
    labeler = rng.permuted(np.tile(np.arange(num_labelers), (num_studies, 12)), axis=1)
    prompt = np.repeat(np.arange(num_prompts), 3)
    taste = rng.choice([-0.15, 0.15], size=(num_studies, num_labelers))
    of_prompt = rng.choice([0.4, 0.8], size=(num_studies, num_prompts))
    chance = of_prompt[:, prompt] + np.take_along_axis(taste, labeler, axis=1)
    wins = verdicts(rng, chance)
    found = [
        two_way_bootstrap(wins[n], prompt, labeler[n], num_samples=300, seed=n)
        for n in range(num_studies)
    ]
    assert share_covered(found, 0.9 * 0.6 + 0.05) >= 0.93
