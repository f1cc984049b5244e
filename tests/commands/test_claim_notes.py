"""What stands beside a claim: figures of the run, never figures of another."""

from types import SimpleNamespace

from heedful.commands.claim_notes import notes
from heedful.evaluation.hallucination import ALL
from heedful.evaluation.preference import Estimate
from heedful.statistics.intervals import Interval


def measured(**changes):
    """The parts of a ``Measured`` that notes read, in shares that are easy to find again."""

    def table(aligned, sft, base):
        return {"PPO-ptx": {"a": aligned, "b": aligned}, "SFT": {"a": sft}, "base": {"a": base}}

    def flags(aligned, base):
        shares = {"PPO-ptx": aligned, "base": base}
        return {name: Estimate(Interval(v, v, v), 10) for name, v in shares.items()}

    parts = {
        "truth_heldout": table(0.55, 0.025, 0.31),
        "named_heldout": table(0.87, 0.0, 0.52),
        "closed": table(0.15, 0.39, 0.95),
        "flag_ratio": lambda a, b: Interval(0.74, 0.6, 0.92),
        "flagged": {ALL: flags(0.42, 0.4), "closed_qa": flags(0.09, 0.39)},
        "baselines": {"random": 0.5, "bag of words": {"value": 0.59, "low": 0.5, "high": 0.7}},
        "accuracy": lambda: Interval(0.636, 0.6, 0.67),
    }
    return SimpleNamespace(**parts | changes)


def test_notes_hold_the_figures_of_the_run():
    found = notes(measured())
    assert "PPO-ptx 55.0 %, SFT 2.5 %, base 31.0 %" in found["c4"]
    assert "at all: PPO-ptx 87.0 %, SFT 0.0 %, base 52.0 %" in found["c4"]
    assert found["d"].startswith("PPO-ptx 15.0 %, base 95.0 %,")
    assert "closed QA 9.0 % against 39.0 %" in found["d"] and f"{ALL} 42" not in found["d"]
    assert "the ratio is 0.74 (0.60 to 0.92)" in found["d"]
    assert found["j1"] == found["j2"]
    assert "reward model 63.6 %, bag of words 59.0 %" in found["j1"]


def test_where_no_labeler_was_asked_the_probes_stand_alone():
    found = notes(measured(flagged={}, flag_ratio=None))
    assert found["d"].startswith("PPO-ptx 15.0 %, base 95.0 %,") and "flagged" not in found["d"]


def test_without_baselines_the_reward_model_stands_alone():
    assert notes(measured(baselines={"random": 0.5})).keys() == {"c4", "d"}
