"""When evaluations are due, and what of the run they have cost."""

from __future__ import annotations

import json

import pytest
import torch

from heedful.config_evaluation import Evaluation
from heedful.training.evaluations import Evaluations, mark_of
from heedful.training.loop import Timer


def test_the_share_counts_what_earlier_processes_spent(tmp_path):
    """9 s of training and 1 of evaluating before, 7 and 3 now: 4 of 20 seconds."""
    rows = [{"time/rollout_s": 4.0, "time/optimize_s": 5.0, "time/evaluate_s": 1.0}]
    kept = tmp_path / "state" / "evaluations.jsonl"
    kept.parent.mkdir()
    kept.write_text(json.dumps({"iteration": 1, "seconds": 3.0, "values": {"a": 0.5}}) + "\n{cut")
    evaluations = Evaluations([lambda policy: {"a": 0.0}], tmp_path, 1, 2, 1, rows)
    timer = Timer()
    timer.seconds.update({"rollout": 2.0, "experience": 1.0, "optimize": 3.5, "observe": 0.5})
    found = evaluations.look(None, 1, timer)
    assert found == {"a": 0.5, "time/evaluate_share": pytest.approx(0.2)}
    assert timer.seconds["evaluate"] == 3.0


def test_what_was_found_with_other_questions_is_not_taken_for_an_answer(tmp_path):
    few, more = (mark_of(Evaluation(limit=limit)) for limit in (10, 20))
    asked = []

    def look(name, mark):
        def evaluator(policy):
            asked.append(name)
            return {"a": 0.5}

        run = Evaluations([evaluator], tmp_path, 1, 3, 1, asked=mark)
        run.look(torch.nn.Identity(), 1, Timer())

    look("few", few)
    look("few again", few)
    look("more", more)
    look("more again", more)
    look("few at last", few)
    assert asked == ["few", "more"] and few != more


def test_a_line_shows_as_many_values_as_fit(tmp_path, capsys):
    kept = {f"eval/task.{i}": 0.125 for i in range(20)}
    (tmp_path / "state").mkdir()
    row = {"iteration": 1, "seconds": 2.5, "values": kept}
    (tmp_path / "state" / "evaluations.jsonl").write_text(json.dumps(row))
    evaluations = Evaluations([lambda policy: {}], tmp_path, 1, 2, 1)
    timer = Timer()
    timer.seconds["rollout"] = 7.5
    evaluations.look(None, 1, timer)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("step 2/2  evaluated (2.5 s, 25.0% of the run so far):  task.0 0.125  t")
    num_shown = line.count("task.")
    assert line.endswith(f"0.125  and {20 - num_shown} more") and 2 <= num_shown < 20
    assert 100 < len(line) <= 120
    first = dict(list(kept.items())[: num_shown + 1])  # the last one needs no room for a count
    row["values"] = first
    (tmp_path / "state" / "evaluations.jsonl").write_text(json.dumps(row))
    Evaluations([lambda policy: {}], tmp_path, 1, 2, 1).look(None, 1, timer)
    assert "more" not in capsys.readouterr().err


@pytest.mark.parametrize(("every", "due"), [(0, []), (2, [1, 3, 4]), (9, [4])])
def test_every_so_many_and_at_the_end(tmp_path, every, due):
    evaluations = Evaluations([lambda policy: {}], tmp_path, every, 5)
    assert [i for i in range(5) if evaluations.is_due(i)] == due
    assert not Evaluations([], tmp_path, 1, 5).is_due(0)
