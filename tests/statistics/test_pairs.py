"""The five counts of an observation and the rates made of them: by hand and beside scipy."""

import math
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from heedful.statistics.pairs import (
    Ranked,
    against_reference,
    chance_corrected,
    exact_rate,
    observe,
    stacked,
    strict_rate,
    tau_b,
    tie_discounted_rate,
    tie_rate,
)


def ranked(prompt, labeler, ranks):
    return Ranked(prompt, labeler, dict(enumerate(ranks)))


def random_rankings(seed, num_prompts=12):
    """Two to five labelers a prompt, four to six outputs, some of them not ranked by all."""
    rng = np.random.default_rng(seed)
    found = []
    for prompt in range(num_prompts):
        size = int(rng.integers(4, 7))
        for labeler in rng.permutation(8)[: rng.integers(2, 6)]:
            ranks = dict(enumerate(rng.integers(1, 5, size=size).tolist()))
            if rng.random() < 0.3:
                del ranks[int(rng.integers(size))]
            found.append(Ranked(f"p{prompt}", f"l{labeler}", ranks))
    return found


def counted(one, other):
    """The five counts by the definition, pair by pair."""
    counts = [0] * 5
    for a, b in combinations(sorted(set(one) & set(other)), 2):
        x = (one[a] > one[b]) - (one[a] < one[b])
        y = (other[a] > other[b]) - (other[a] < other[b])
        if x and y:
            counts[0 if x == y else 1] += 1
        elif x or y:
            counts[3 if x else 2] += 1
        else:
            counts[4] += 1
    return counts


def test_counts_by_hand():
    # Pairs ab, ac, ad, bc, bd, cd. One: < < < = < <   Other: = < < < < >
    found = observe([ranked("p", "x", [1, 2, 2, 3]), ranked("p", "y", [1, 1, 7, 4])])
    assert found.counts.tolist() == [[3, 1, 1, 1, 0]]
    assert found.prompts.tolist() == ["p"] and found.labelers.tolist() == [["x", "y"]]
    assert strict_rate(found.counts)[0] == 3 / 4
    assert exact_rate(found.counts)[0] == 3 / 6
    assert tie_discounted_rate(found.counts)[0] == 4 / 6
    assert tie_rate(found.counts)[0] == 1 / 6
    # chance (5/6)^2 / 2 + (1/6)^2 = 27/72, so (36/72 - 27/72) / (45/72)
    assert chance_corrected(found.counts)[0] == pytest.approx(9 / 45)


@pytest.mark.parametrize("seed", range(4))
def test_counts_match_the_definition_pair_by_pair(seed):
    rankings = random_rankings(seed)
    found = observe(rankings)
    expected = {}
    for (i, one), (j, other) in combinations(enumerate(rankings), 2):
        if one.prompt == other.prompt:
            expected[i, j] = counted(one.ranks, other.ranks)
    rows = zip(found.places.tolist(), found.counts.tolist(), strict=True)
    got = {tuple(place): row for place, row in rows}
    assert got == {key: row for key, row in expected.items() if sum(row)}
    for (i, j), prompt, pair in zip(got, found.prompts, found.labelers, strict=True):
        assert prompt == rankings[i].prompt
        assert tuple(pair) == (rankings[i].labeler, rankings[j].labeler)


@pytest.mark.parametrize("seed", range(3))
def test_tau_b_matches_scipy(seed):
    rankings = random_rankings(seed)
    found = observe(rankings)
    for (i, j), tau in zip(found.places, tau_b(found.counts), strict=True):
        one, other = rankings[i].ranks, rankings[j].ranks
        shared = [key for key in one if key in other]
        expected = stats.kendalltau([one[k] for k in shared], [other[k] for k in shared]).statistic
        assert tau == pytest.approx(expected, nan_ok=True)


def test_tau_b_of_a_labeler_who_ties_everything_is_undefined():
    found = observe([ranked("p", "x", [1, 1, 1]), ranked("p", "y", [1, 2, 3])])
    assert math.isnan(tau_b(found.counts)[0])


def test_rates_do_not_depend_on_names_order_gaps_or_which_output_comes_first():
    rankings = random_rankings(7)
    plain = observe(rankings).counts.sum(axis=0)[None]
    other = [
        Ranked(
            r.prompt,
            r.labeler[::-1],
            {f"o{key}": 10 * rank - 3 for key, rank in reversed(r.ranks.items())},
        )
        for r in reversed(rankings)
    ]
    changed = observe(other).counts.sum(axis=0)[None]
    for rate in (strict_rate, exact_rate, tie_discounted_rate, tie_rate, chance_corrected):
        assert rate(changed)[0] == pytest.approx(rate(plain)[0])


def test_twins_agree_wholly_and_mirrors_not_at_all():
    strict = [ranked(f"p{k}", "x", [1, 2, 3, 4]) for k in range(3)]
    twins = observe(strict + [r._replace(labeler="y") for r in strict]).counts
    mirrors = observe(strict + [ranked(f"p{k}", "y", [4, 3, 2, 1]) for k in range(3)]).counts
    for rate in (strict_rate, exact_rate, tie_discounted_rate, chance_corrected):
        assert rate(twins).tolist() == [1.0] * 3
    assert strict_rate(mirrors).tolist() == [0.0] * 3
    assert chance_corrected(mirrors).tolist() == [-1.0] * 3
    assert tau_b(mirrors).tolist() == [-1.0] * 3


def test_guessing_is_chance_whatever_the_tie_rate():
    rng = np.random.default_rng(0)
    ranks = rng.choice([1, 2], p=[0.5, 0.5], size=(20_000, 2, 2))
    found = observe([ranked(str(p), str(w), ranks[p, w]) for p in range(20_000) for w in (0, 1)])
    means = found.counts.mean(axis=0)[None]
    assert tie_rate(means)[0] == pytest.approx(0.5, abs=0.01)
    assert chance_corrected(means)[0] == pytest.approx(0.0, abs=0.02)


def test_what_is_no_observation():
    assert len(observe([]).prompts) == 0
    alone = ranked("p", "x", [1, 2])
    assert len(observe([alone, ranked("q", "y", [1, 2])]).prompts) == 0  # no prompt in common
    assert len(observe([alone, ranked("p", "x", [2, 1])]).prompts) == 0  # one labeler
    nothing = Ranked("p", "y", {7: 1, 0: 2})  # one output in common: no pair
    assert len(observe([alone, nothing]).prompts) == 0


def test_chunks_do_not_change_the_counts(monkeypatch):
    rankings = random_rankings(1)
    whole = observe(rankings)
    monkeypatch.setattr("heedful.statistics.pairs._CHUNK_ENTRIES", 1)
    assert (observe(rankings).counts == whole.counts).all()


def test_against_a_reference():
    rankings = [ranked("p", "x", [1, 1, 2]), ranked("q", "x", [1, 2]), ranked("r", "y", [1, 2])]
    reference = {"p": {0: 1, 1: 2, 2: 3}, "q": {0: 2, 1: 1}}
    found = against_reference(rankings, reference)
    assert found.tolist() == [[2, 0, 1, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]]


def test_stacked_marks_what_was_not_ranked():
    rankings = [ranked("p", "x", [1, 2]), Ranked("p", "y", {1: 5, 2: 6}), ranked("q", "x", [1])]
    ((members, ranks),) = stacked(rankings)
    assert members.tolist() == [[0, 1]]
    assert np.array_equal(ranks[0], [[1, 2, math.nan], [math.nan, 5, 6]], equal_nan=True)
