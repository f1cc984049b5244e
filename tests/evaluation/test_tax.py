"""Changes against the base: hand numbers, pairing, what is won back."""

import numpy as np
import pytest

from heedful.evaluation.tax import Measured, Scores, changes, format_table, plain
from heedful.statistics.intervals import ratio

MODELS = ("base", "SFT", "PPO", "PPO-ptx")


def scores(values, ids=None):
    columns = np.asarray(values, dtype=float)
    columns = columns[:, None] if columns.ndim == 1 else columns
    ids = ids or [f"i{n}" for n in range(len(columns))]
    return Scores(ids, ids, columns)


def test_differences_by_hand_and_the_side_that_is_better():
    accuracy = {"base": [1, 1, 0, 1], "SFT": [1, 0, 0, 0], "PPO": [1, 1, 1, 1]}
    right = Measured("accuracy", {m: scores(v) for m, v in accuracy.items()}, "mean", True)
    wrong = Measured("errors", {m: scores(v) for m, v in accuracy.items()}, "mean", False)
    neither = Measured("entropy", {m: scores(v) for m, v in accuracy.items()})
    found = {(c.measure, c.model): c for c in changes([right, wrong, neither], MODELS)}
    assert set(found) == {(m, x) for m in ("accuracy", "errors", "entropy") for x in ("SFT", "PPO")}
    sft = found["accuracy", "SFT"]
    assert (sft.of_base.value, sft.of_model.value, sft.difference.value) == (0.75, 0.25, -0.5)
    assert (sft.base, sft.num_items) == ("base", 4)
    # two thirds of the base's value are gone; where fewer is better they are won
    assert sft.better.value == pytest.approx(-2 / 3)
    assert found["errors", "SFT"].better.value == pytest.approx(2 / 3)
    assert found["entropy", "SFT"].better is None
    assert found["entropy", "SFT"].difference.value == -0.5


def test_items_are_paired_and_only_those_that_both_have_count():
    rng = np.random.default_rng(0)
    hard = rng.normal(0, 10, 300)  # how hard an item is, the same for all models
    ids = [f"i{n}" for n in range(300)]
    base = scores(hard, ids)
    sft = scores(np.r_[hard[:200] - 1 + rng.normal(0, 0.1, 200), 999.0], [*ids[:200], "other"])
    (found,) = changes([Measured("m", {"base": base, "SFT": sft}, "mean", True)], ("base", "SFT"))
    assert found.num_items == 200
    assert found.difference.value == pytest.approx(-1, abs=0.03)
    assert found.difference.high - found.difference.low < 0.05


def test_a_ratio_over_documents_and_what_is_won_back():
    tokens = np.array([10.0, 30.0])
    sums = {"base": [10, 30], "PPO": [30, 90], "PPO-ptx": [15, 45]}  # 1, 3 and 1.5 a token
    losses = {
        name: scores(np.stack([np.array(total, dtype=float), tokens], axis=1))
        for name, total in sums.items()
    }
    found = changes([Measured("loss", losses, ratio, False)], MODELS)
    ppo, ptx = found
    assert (ppo.model, ppo.difference.value, ppo.better.value) == ("PPO", 2.0, -2.0)
    assert ppo.won_back is None
    assert ptx.difference.value == 0.5 and ptx.won_back.value == 0.75
    assert (ptx.won_back.low, ptx.won_back.high) == (0.75, 0.75)
    assert "+2.000 (+2.000 to +2.000) worse" in format_table(found)
    assert "75% (75% to 75%)" in format_table(found)


def test_nothing_is_won_back_where_nothing_was_lost():
    rng = np.random.default_rng(1)
    values = {name: scores(rng.random(50)) for name in MODELS}
    values["PPO"] = scores(values["base"].values[:, 0] + rng.normal(0, 0.01, 50))
    found = changes([Measured("m", values, "mean", True)], MODELS)
    assert [c.model for c in found] == ["SFT", "PPO", "PPO-ptx"]
    assert all(c.won_back is None for c in found)


def test_missing_scores_are_left_out_and_rows_are_json():
    values = {"base": scores([1.0, np.nan, 0.0]), "SFT": scores([1.0, 1.0, 1.0])}
    (found,) = changes([Measured("m", values, "mean", True)], ("base", "SFT"))
    assert found.of_base.value == 0.5 and found.difference.value == 0.5
    row = found.to_row()
    assert row["difference"]["value"] == 0.5 and row["won_back"] is None and row["n"] == 3
    zero = {"base": scores([0.0, 0.0]), "SFT": scores([1.0, 1.0])}
    (found,) = changes([Measured("m", zero, "mean", True)], ("base", "SFT"))
    assert found.to_row()["better"]["value"] is None  # a share of nothing


def test_spellings_of_one_model():
    assert plain("PPO_ptx") == plain("ppo-ptx ") == plain("PPO-ptx")


def test_a_mark_is_of_the_difference_not_of_its_share_of_a_base_of_0():
    """The base never does it: the share is endless, the difference may still be nothing."""
    never, once, often = [0] * 6, [0, 0, 0, 0, 0, 1], [1, 1, 1, 1, 1, 1]
    given = {"base": scores(never), "SFT": scores(once), "PPO": scores(often)}
    found = changes([Measured("said", given, "mean", True)], MODELS)
    sft = found[0]
    assert sft.better.value == np.inf and sft.difference.low == 0.0
    lines = format_table(found).splitlines()
    assert lines[1].split()[1] == "SFT" and "better" not in lines[1]
    assert lines[2].split()[1] == "PPO" and lines[2].split()[-2] == "better"
    fewer = format_table(changes([Measured("said", given, "mean", False)], MODELS)).splitlines()
    assert "worse" not in fewer[1] and fewer[2].split()[-2] == "worse"
    neither = format_table(changes([Measured("said", given)], MODELS))
    assert "worse" not in neither and "better" not in neither


def test_a_single_item_has_no_interval():
    found = changes(
        [Measured("m", {"base": scores([1]), "SFT": scores([3])}, "mean", True)], MODELS
    )
    (line,) = format_table(found).splitlines()[1:]
    assert line.split() == ["m", "SFT", "1.000", "3.000", "+2.000", "(-)", "1"]
