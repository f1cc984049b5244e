"""What vs_lm_eval.py makes of two sides' results."""

from __future__ import annotations

import json

import pytest


def side(name, variant, seconds, logprobs, value):
    return {
        "side": name,
        "variant": variant,
        "seconds": seconds,
        "cpu_s": seconds / 2,
        "logprobs": logprobs,
        "metrics": {"crows_pairs pct_stereotype": value},
        "process_others": 0.02,
    }


def test_sides_are_compared_choice_by_choice_and_at_the_peers_best(load):
    vs = load("vs_lm_eval")
    ours = {"a|x": -1.0, "a|y": -2.0, "b|z": -3.0}
    rows = [
        side("heedful", "packed", 2.0, ours, 0.5),
        side("heedful", "packed", 3.0, ours, 0.5),
        side("heedful", "packed", 9.0, ours, 0.5),
        side("lm-eval", "batches of 16", 7.0, {"a|x": -1.00002, "a|y": -2.0}, 0.5),
        side("lm-eval", "batches of 64", 6.0, {"a|x": -1.0, "a|y": -2.00005}, 0.5),
    ]
    found = vs.compared(rows)
    assert found["largest_difference"] == pytest.approx(5e-5)
    assert found["num_choices"] == 2
    assert found["medians"]["heedful, packed"] == {"seconds": 3.0, "cpu_s": 1.5}
    assert found["times_as_fast"] == {"seconds": 2.0, "cpu_s": 2.0}
    options = vs.parse(["--data", "d", "--limit", "5", "--threads", "1"])
    report = vs.written(found, options)
    assert "| crows_pairs pct_stereotype | 0.500000 | 0.500000 |" in report
    assert "2.00 times as fast" in report
    json.dumps(found)


def test_a_choice_that_we_did_not_score_is_an_error(load):
    vs = load("vs_lm_eval")
    rows = [
        side("heedful", "packed", 2.0, {}, 0.5),
        side("lm-eval", "batches of 16", 7.0, {"a|x": -1.0}, 0.5),
    ]
    with pytest.raises(KeyError):
        vs.compared(rows)
