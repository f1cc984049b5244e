"""When evaluations are due, and what of the run they have cost."""

from __future__ import annotations

import json

import pytest

from heedful.training.evaluations import Evaluations
from heedful.training.loop import Timer


def test_the_share_counts_what_earlier_processes_spent(tmp_path):
    """9 s of training and 1 of evaluating before, 7 and 3 now: 4 of 20 seconds."""
    rows = [{"time/rollout_s": 4.0, "time/optimize_s": 5.0, "time/evaluate_s": 1.0}]
    kept = tmp_path / "state" / "evaluations.jsonl"
    kept.parent.mkdir()
    kept.write_text(json.dumps({"iteration": 1, "seconds": 3.0, "values": {"a": 0.5}}) + "\n{cut")
    evaluations = Evaluations([lambda policy: {"a": 0.0}], tmp_path, 1, 2, 1, rows)
    timer = Timer()
    timer.seconds |= {"rollout": 2.0, "experience": 1.0, "optimize": 3.5, "observe": 0.5}
    found = evaluations.look(None, 1, timer)
    assert found == {"a": 0.5, "time/evaluate_share": pytest.approx(0.2)}
    assert timer.seconds["evaluate"] == 3.0


@pytest.mark.parametrize(("every", "due"), [(0, []), (2, [1, 3, 4]), (9, [4])])
def test_every_so_many_and_at_the_end(tmp_path, every, due):
    evaluations = Evaluations([lambda policy: {}], tmp_path, every, 5)
    assert [i for i in range(5) if evaluations.is_due(i)] == due
    assert not Evaluations([], tmp_path, 1, 5).is_due(0)
