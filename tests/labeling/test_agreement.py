"""Agreement between labelers: by hand, beside scipy, scikit-learn and krippendorff."""

import math
import time

import krippendorff
import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from heedful.errors import DataError
from heedful.labeling.agreement import (
    RATES,
    Answer,
    concordance,
    newest,
    ranking_agreement,
)
from heedful.labeling.rating_agreement import (
    flag_agreement,
    krippendorff_alpha,
    rating_agreement,
)
from heedful.records import Rating


def answer(prompt, labeler, ranks, *, ratings=None, flags=None, at_s=0.0):
    outputs = tuple(f"{prompt}/{place}" for place in range(len(ranks)))
    given = [None] * len(ranks)
    if ratings is not None:
        given = [None if overall is None else Rating(overall) for overall in ratings]
    if flags is not None:
        given = [Rating(4, {"violent": flag}) for flag in flags]
    return Answer(
        str(prompt), labeler, outputs, tuple(ranks), (1,) * len(ranks), tuple(given), None, at_s
    )


def study(num_labelers=8, num_prompts=60, seed=0, raters=3):
    rng = np.random.default_rng(seed)
    found = []
    for prompt in range(num_prompts):
        quality = rng.normal(size=5)
        for labeler in rng.permutation(num_labelers)[:raters]:
            seen = np.round(quality + rng.normal(size=5))
            ranks = (seen[None] > seen[:, None]).sum(axis=1) + 1
            ratings = np.clip(np.round(4 + seen), 1, 7).astype(int)
            found.append(answer(prompt, f"l{labeler}", ranks.tolist(), ratings=ratings.tolist()))
    return found


def test_rates_and_counts_by_hand():
    # p: x 1223, y 1174 and z 1111 -> xy (3,1,1,1,0); xz: 5 strict, 1 tied; yz: 5 strict, 1 tied.
    found = ranking_agreement(
        [
            answer("p", "x", [1, 2, 2, 3]),
            answer("p", "y", [1, 1, 7, 4]),
            answer("p", "z", [1, 1, 1, 1]),
            answer("q", "x", [1, 2, 3, 4]),
        ]
    )
    assert found.rates["strict"].value == 3 / 4
    assert found.rates["exact"].value == pytest.approx((3 + 1 + 1) / 18)
    assert found.rates["tie_discounted"].value == pytest.approx((3 + 2 + 0.5 * 12) / 18)
    assert found.tie_rate == pytest.approx((2 + 10 + 2 * 2) / 36)
    tau = stats.kendalltau([1, 2, 2, 3], [1, 1, 7, 4]).statistic
    assert found.rates["tau_b"].value == pytest.approx(tau)
    assert (found.num_observations, found.num_tau_undefined) == (3, 2)
    assert (found.num_prompts, found.num_labelers) == (1, 3)
    assert (found.num_output_pairs, found.num_strict_pairs) == (18, 4)


def test_every_rate_is_named_and_says_how_it_is_made():
    found = ranking_agreement(study())
    assert list(found.rates) == list(RATES)
    for name, rate in found.rates.items():
        assert rate.name == name and rate.definition == RATES[name].words
        for interval in (rate.by_labeler, rate.by_prompt, rate.two_way):
            assert interval.value == rate.value
            assert interval.low < rate.value < interval.high
    assert found.suppressed == ()


def test_two_way_is_the_widest_interval():
    strict = ranking_agreement(study(num_prompts=200)).rates["strict"]
    widths = [i.high - i.low for i in (strict.by_labeler, strict.by_prompt, strict.two_way)]
    assert widths[2] > max(widths[:2])


def test_too_few_prompts_or_labelers_leave_the_value_without_bounds():
    few_prompts = ranking_agreement(study(num_prompts=29))
    for interval in (few_prompts.rates["exact"].by_prompt, few_prompts.rates["exact"].two_way):
        assert interval.value > 0 and math.isnan(interval.low) and math.isnan(interval.high)
    assert few_prompts.suppressed == ("29 shared prompts: an interval needs 30",)
    few_labelers = ranking_agreement(study(num_labelers=4))
    rate = few_labelers.rates["strict"]
    assert math.isnan(rate.by_labeler.low) and math.isnan(rate.two_way.high)
    assert rate.by_prompt.low < rate.value  # this team of four, on other prompts
    assert few_labelers.suppressed == ("4 labelers: an interval for other labelers needs 5",)
    assert few_labelers.num_labelers == 4


def test_no_prompt_in_common_is_no_agreement():
    assert ranking_agreement([]) is None
    assert ranking_agreement([answer("p", "x", [1, 2]), answer("q", "y", [1, 2])]) is None


def test_the_newest_answer_of_a_labeler_counts():
    old, new = answer("p", "x", [1, 2], at_s=1.0), answer("p", "x", [2, 1], at_s=2.0)
    other = answer("p", "y", [2, 1], at_s=0.0)
    assert newest([new, old]) == [new]
    assert ranking_agreement([new, other, old]).rates["strict"].value == 1.0


def test_all_intervals_of_1800_observations_take_no_longer_than_drawing_and_weighing_each():
    answers = study(num_labelers=40, num_prompts=600)
    seconds, weighing = [], []
    for _ in range(3):  # the best of them: other work on the machine slows the memory
        start = time.process_time()
        weights = np.random.default_rng(0).multinomial(1800, np.full(1800, 1 / 1800), size=2000)
        weights @ np.ones((1800, 6))
        weighing.append(time.process_time() - start)
        start = time.process_time()
        found = ranking_agreement(answers, num_samples=2000)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 1.5 * min(weighing)  # half of it where this was written
    assert found.num_observations == 1800


def test_concordance_without_ties_follows_from_spearman():
    # W = (1 + (m - 1) r) / m with r the mean rank correlation of all pairs of m labelers.
    rng = np.random.default_rng(3)
    answers, expected = [], []
    for prompt in range(40):
        ranks = [rng.permutation(5) + 1 for _ in range(4)]
        answers += [answer(prompt, f"l{i}", own.tolist()) for i, own in enumerate(ranks)]
        matrix = stats.spearmanr(np.array(ranks).T).statistic
        mean = (matrix.sum() - 4) / 12
        expected.append((1 + 3 * mean) / 4)
    found = concordance(answers)
    assert found.interval.value == pytest.approx(np.mean(expected))
    assert found.interval.low < found.interval.value < found.interval.high
    assert (found.num_prompts, found.num_undefined) == (40, 0)


def test_concordance_with_ties_is_friedmans_statistic_over_its_largest():
    # chi^2 = m (U - 1) W, ties corrected in both.
    ranks = [[1, 2, 2, 4], [1, 1, 3, 4], [2, 1, 3, 3]]
    answers = [answer("p", f"l{i}", own) for i, own in enumerate(ranks)]
    chi2 = stats.friedmanchisquare(*np.array(ranks).T).statistic
    found = concordance(answers)
    assert found.interval.value == pytest.approx(chi2 / (3 * 3))
    assert math.isnan(found.interval.low)  # one prompt


def test_concordance_where_undefined():
    tied = [answer("p", name, [1, 1, 1]) for name in "xyz"]
    assert concordance(tied) is None
    found = concordance(tied + [answer("q", name, [1, 2, 3]) for name in "xyz"])
    assert (found.interval.value, found.num_prompts, found.num_undefined) == (1.0, 1, 1)
    assert concordance([answer("p", name, [1, 2]) for name in "xy"]) is None  # two labelers


def test_rating_alpha_matches_krippendorff_on_the_table_of_labelers():
    answers = study(num_prompts=40)
    names = sorted({one.labeler for one in answers})
    outputs = sorted({output for one in answers for output in one.outputs})
    table = np.full((len(names), len(outputs)), np.nan)
    for one in answers:
        for output, rating in zip(one.outputs, one.ratings, strict=True):
            table[names.index(one.labeler), outputs.index(output)] = rating.overall
    found = rating_agreement(answers)
    expected = krippendorff.alpha(table, level_of_measurement="ordinal")
    assert found.alpha.value == pytest.approx(expected)
    assert (found.alpha.num_items, found.alpha.num_answers) == (200, 600)


def test_alpha_by_hand():
    # Two labelers, four outputs: 00 11 01 11. Coincidences o01 = 1, n0 = 3, n1 = 5:
    # alpha = 1 - (n - 1) o01 / (n0 n1) = 1 - 7 / 15.
    counts = np.array([[2, 0], [0, 2], [1, 1], [0, 2.0]])
    assert krippendorff_alpha(counts, "nominal").value == pytest.approx(8 / 15)


def test_alpha_says_why_it_is_undefined():
    same = krippendorff_alpha(np.array([[0, 3.0], [0, 2.0], [1, 0]]), "nominal")
    assert math.isnan(same.value) and same.undefined == "all answers equal"
    assert (same.num_items, same.num_answers) == (2, 5)
    alone = krippendorff_alpha(np.array([[0, 1.0], [1, 0]]), "ordinal")
    assert alone.undefined == "no output has two answers" and alone.num_items == 0
    unanimous = [answer("p", name, [1, 2], ratings=[6, 6]) for name in "xyz"]
    found = rating_agreement(unanimous)
    assert found.alpha.undefined == "all answers equal"
    assert [math.isnan(kappa.value) for kappa in found.kappas] == [True] * 3
    assert rating_agreement([]).alpha.undefined == "no output has two answers"
    assert rating_agreement([]).kappas == ()


def test_weighted_kappas_match_scikit_learn():
    answers = study(num_labelers=5, num_prompts=80)
    found = rating_agreement(answers).kappas
    assert len(found) == 10
    by_labeler = {}
    for one in answers:
        rated = zip(one.outputs, one.ratings, strict=True)
        by_labeler.setdefault(one.labeler, {}).update({o: r.overall for o, r in rated})
    for kappa in found:
        one, other = (by_labeler[name] for name in kappa.labelers)
        shared = [output for output in one if output in other]
        expected = cohen_kappa_score(
            [one[o] for o in shared], [other[o] for o in shared], weights="quadratic"
        )
        assert kappa.value == pytest.approx(expected)
        assert kappa.num_outputs == len(shared)
    assert [kappa.num_outputs for kappa in found] == sorted(
        (kappa.num_outputs for kappa in found), reverse=True
    )


def test_outputs_without_a_rating_are_left_out():
    answers = [
        answer("p", "x", [1, 2, 3], ratings=[7, None, 1]),
        answer("p", "y", [1, 2, 3], ratings=[6, 4, 2]),
        answer("p", "z", [1, 2, 3], ratings=[None, 4, None]),
    ]
    found = rating_agreement(answers)
    assert (found.alpha.num_items, found.alpha.num_answers) == (3, 6)
    (best, *rest) = found.kappas
    assert best.labelers == ("x", "y") and best.num_outputs == 2
    assert [kappa.labelers for kappa in rest] == [("y", "z")]


def test_flags_by_hand():
    # Output 0: yes yes no; output 1: no no no; output 2: yes, not answered, yes.
    answers = [
        answer("p", "x", [1, 2, 3], flags=[True, False, True]),
        answer("p", "y", [1, 2, 3], flags=[True, False, None]),
        answer("p", "z", [1, 2, 3], flags=[False, False, True]),
    ]
    (found,) = flag_agreement(answers)
    # Pairs of labelers: 1 yes-yes and 2 mixed; 3 no-no; 1 yes-yes.
    assert found.flag == "violent"
    assert found.raw.interval.value == pytest.approx(5 / 7)
    assert found.positive.interval.value == pytest.approx(2 * 2 / (2 * 2 + 2))
    assert found.num_yes == 4
    table = [[1, 0, 1], [1, 0, np.nan], [0, 0, 1]]
    expected = krippendorff.alpha(np.array(table, float), level_of_measurement="nominal")
    assert found.alpha.value == pytest.approx(expected)


def test_a_rare_flag_agrees_raw_and_not_on_its_yeses():
    answers = []
    for prompt in range(50):
        flags = [[False, False], [False, False]]
        if prompt < 2:
            flags[prompt][0] = True  # each labeler alone said yes once
        answers += [answer(prompt, name, [1, 2], flags=flags[i]) for i, name in enumerate("xy")]
    (found,) = flag_agreement(answers)
    assert found.raw.interval.value == 0.98 and found.raw.interval.low > 0.9
    assert found.positive.interval.value == 0.0
    assert found.alpha.value < 0.0


def test_a_flag_that_nobody_raised_has_no_positive_agreement():
    answers = [answer("p", name, [1, 2], flags=[False, False]) for name in "xy"]
    (found,) = flag_agreement(answers)
    assert found.positive is None and found.alpha.undefined == "all answers equal"
    assert found.raw.interval.value == 1.0
    assert flag_agreement([answer("p", "x", [1, 2], flags=[True, None])]) == ()


def test_an_answer_that_does_not_fit_is_refused():
    with pytest.raises(DataError, match=r"2 ranks.*each of 3 different outputs"):
        Answer("p", "x", ("a", "b", "c"), (1, 2), (1, 1, 1), (None,) * 3, None, 0.0)
    with pytest.raises(DataError, match="2 outputs"):
        Answer("p", "x", ("a", "b", "b"), (1, 2, 3), (1, 1, 1), (None,) * 3, None, 0.0)
    with pytest.raises(DataError, match="rating 8 is not"):
        answer("p", "x", [1, 2], ratings=[8, 1])
