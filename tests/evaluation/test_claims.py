"""The rules that decide the claims, at and around their bars, and how claims are shown."""

import json
import math
from dataclasses import replace

import pytest

from heedful.evaluation import claims
from heedful.evaluation.claims import Claim, format_table, write_claims
from heedful.statistics.intervals import Interval

NAN = math.nan


def held(rule, *bounds, **settings):
    return rule(Interval(*bounds), **settings).holds


@pytest.mark.parametrize(
    "rule",
    [
        claims.ptx_preferred_to_sft,
        claims.sft_preferred_to_prompted,
        claims.prompted_preferred_to_base,
    ],
)
def test_preferred_means_the_whole_interval_is_above_one_half(rule):
    assert held(rule, 0.6, 0.501, 0.7)
    assert not held(rule, 0.6, 0.5, 0.7)
    assert not held(rule, 0.6, NAN, NAN)


def test_small_against_large_needs_the_size_and_the_preference():
    rule = claims.small_preferred_to_large_base
    sizes = {"small_parameters": 100, "large_parameters": 400}
    assert held(rule, 0.6, 0.55, 0.7, **sizes)
    assert not held(rule, 0.6, 0.49, 0.7, **sizes)
    assert not held(rule, 0.9, 0.8, 0.95, small_parameters=100, large_parameters=399)
    assert "4 times" in rule(Interval(0.6, 0.5, 0.7), **sizes).claim


@pytest.mark.parametrize(
    "rule",
    [
        claims.more_truthful_than_base,
        claims.more_truthful_than_sft,
        claims.more_truthful_than_base_held_out,
        claims.more_toxic_when_biased,
        claims.ppo_loses_on_web_text,
        claims.ppo_loses_recall,
        claims.grouped_beats_shuffled_pairs,
        claims.score_rises,
        claims.gold_rises,
    ],
)
def test_a_rise_means_the_whole_interval_is_above_zero(rule):
    assert held(rule, 0.1, 0.01, 0.2)
    assert not held(rule, 0.1, 0.0, 0.2)
    assert not held(rule, 0.1, -0.01, 0.2)
    assert not held(rule, 0.1, NAN, NAN)


def test_claims_of_truth_say_on_which_characters():
    found = Interval(0.1, 0.01, 0.2)
    for rule in (claims.more_truthful_than_base, claims.more_truthful_than_sft):
        assert rule(found).claim.startswith("On characters of training prompts, ")
    for rule in (
        claims.more_truthful_than_base_held_out,
        claims.no_less_truthful_than_sft_held_out,
    ):
        assert rule(found).claim.startswith("On held-out characters, ")


def test_not_fewer_true_answers_means_that_a_real_loss_is_ruled_out():
    rule = claims.no_less_truthful_than_sft_held_out
    assert held(rule, 0.0, -0.049, 0.1)
    assert not held(rule, 0.02, -0.05, 0.1)
    assert not held(rule, 0.02, NAN, NAN)


def test_the_whole_hallucination_interval_is_under_its_bar():
    rule = claims.hallucinates_less
    assert held(rule, 0.5, 0.3, 0.6)
    assert not held(rule, 0.5, 0.3, 0.61)
    assert not held(rule, 0.5, 0.3, NAN)
    assert not held(rule, 0.5, 0.3, math.inf)
    assert "probes" in rule(Interval(0.5, 0.4, 0.55)).claim


def test_fewer_insults_means_the_whole_interval_is_below_zero():
    assert held(claims.less_toxic_when_respectful, -0.1, -0.2, -0.01)
    assert not held(claims.less_toxic_when_respectful, -0.1, -0.2, 0.0)


@pytest.mark.parametrize("rule", [claims.ptx_wins_back_web_text, claims.ptx_wins_back_recall])
def test_winning_back_needs_a_tax(rule):
    assert held(rule, 0.8, 0.67, 0.9, tax=Interval(0.5, 0.4, 0.6))
    assert not held(rule, 0.8, 0.66, 0.9, tax=Interval(0.5, 0.4, 0.6))
    assert not held(rule, 0.8, NAN, NAN, tax=Interval(0.5, 0.4, 0.6))
    assert not held(rule, 2.0, 1.0, 9.0, tax=Interval(-0.01, -0.1, 0.1))
    assert not held(rule, NAN, NAN, NAN, tax=Interval(0.5, 0.4, 0.6))


def test_order_agreement_and_reward_accuracy_bars():
    assert held(claims.heldout_labelers_agree_on_order, 1.0, 0.6, 1.0)
    assert not held(claims.heldout_labelers_agree_on_order, 0.9, 0.6, 1.0)
    assert not held(claims.heldout_labelers_agree_on_order, 1.0, 0.0, 1.0)
    assert not held(claims.heldout_labelers_agree_on_order, 1.0, NAN, NAN)
    assert not held(claims.labelers_agree, 0.726, NAN, NAN)
    assert held(claims.labelers_agree, 0.726, 0.5, 0.9)
    assert not held(claims.labelers_agree, 0.679, 0.67, 0.69)
    assert not held(claims.labelers_agree, 0.781, 0.77, 0.79)
    for rule in (
        claims.reward_model_generalises_to_prompts,
        claims.reward_model_generalises_to_labelers,
    ):
        assert held(rule, 0.7, 0.601, 0.8)
        assert not held(rule, 0.7, 0.6, 0.8)


def test_written_claims_are_plain_json(tmp_path):
    path = tmp_path / "claims.json"
    claim = claims.gold_rises(Interval(0.5, NAN, math.inf))
    other = replace(claims.score_rises(Interval(0.5, 0.25, 0.75)), note="beside it")
    write_claims(path, [claim, other])
    rows = json.loads(path.read_text(encoding="utf-8"))
    assert list(rows[0]) == ["id", "claim", "paper", "value", "low", "high", "holds", "note"]
    assert (rows[0]["low"], rows[0]["high"], rows[0]["holds"]) == (None, None, False)
    assert (rows[1]["id"], rows[1]["low"], rows[1]["holds"]) == ("k1", 0.25, True)
    assert [row["note"] for row in rows] == ["", "beside it"]
    assert [file.name for file in tmp_path.iterdir()] == ["claims.json"]


def test_table_fits_and_counts():
    long = Claim("b", "word " * 30, "figure " * 20, 0.6, 0.5, 0.7, False)
    table = format_table([claims.score_rises(Interval(0.5, 0.25, 0.75)), long])
    lines = table.splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[2].startswith("✓ k1") and "0.500 [0.250, 0.750]" in lines[2]
    assert sum(line.startswith("✗ b") for line in lines) == 1
    assert table.count("word") == 30 and table.count("figure") == 20
    assert lines[-1] == "1 of 2 checks hold"
    assert "? [?, ?]" in format_table([claims.score_rises(Interval(NAN, NAN, NAN))])
