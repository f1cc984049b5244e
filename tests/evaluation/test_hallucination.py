"""Rates and ratios of the labelers' hallucination flag, worked out by hand."""

import pytest

from heedful.errors import EvaluationError
from heedful.evaluation.hallucination import ALL, flag_rates, flag_ratio
from heedful.records import Judgement, Rating

MODELS = ("base", "ppo")


def judged(prompt_id, base, ppo, labeler="ann"):
    """A judgement that flags the base and the PPO output so; None: the question was not asked."""
    ratings = tuple(Rating(4, {"hallucination": flag, "violent": True}) for flag in (base, ppo))
    return Judgement(prompt_id, MODELS, (1, 2), labeler, "train", ratings)


JUDGED = [
    judged("q1", True, False),
    judged("q1", True, False, "bob"),
    judged("q2", True, True),
    judged("s1", False, True),
    judged("story", None, None),
    Judgement("q3", MODELS, (1, 2), "ann"),  # ranked and not rated
]
USE_CASES = {"q1": "closed_qa", "q2": "closed_qa", "s1": "summarization", "story": "generation"}


def test_flags_are_counted_by_use_case_and_over_all():
    found = flag_rates(JUDGED, USE_CASES)
    assert list(found) == [ALL, "closed_qa", "summarization"]
    shares = {name: [found[name][m].interval.value for m in MODELS] for name in found}
    assert shares["closed_qa"] == pytest.approx([1.0, 1 / 3])
    assert shares["summarization"] == [0.0, 1.0]
    assert shares[ALL] == pytest.approx([3 / 4, 2 / 4])
    assert found[ALL]["ppo"].num_answers == 4
    assert flag_rates(JUDGED[4:], USE_CASES) == {}


def test_the_ratio_is_over_judgements_that_answer_for_both():
    half = judged("q4", True, None)
    found = flag_ratio([*JUDGED, half], "ppo", "base")
    assert found.value == pytest.approx(2 / 3)  # 2 flags of 4 against 3 of 4
    assert found.low < 2 / 3 < found.high
    with pytest.raises(EvaluationError, match="no labeler said of both 'ppo' and 'base'"):
        flag_ratio([half, JUDGED[4]], "ppo", "base")


def test_several_outputs_of_a_model_share_one_judgement():
    ratings = tuple(Rating(4, {"hallucination": flag}) for flag in (True, False, True, True))
    models = ("base", "base", "ppo", "ppo")
    found = flag_ratio(
        [Judgement("q", models, (1, 2, 3, 4), "ann", "train", ratings)], "ppo", "base"
    )
    assert found.value == pytest.approx(1 / 0.5)
