"""What the evaluation of the miniature loop takes for independent."""

import json
import math

import pytest

from heedful.commands.evaluate import clusters_of, loss_gap, samples
from heedful.commands.sizes import method_of
from heedful.errors import EvaluationError
from heedful.evaluation.reward_model import Scored


def test_questions_about_one_character_are_one_cluster():
    items = ["truth-mira-home", "truth-mira-job", "truth-heldout-dopi-hat", "recall-mira-food"]
    assert clusters_of(items) == ["truth-mira", "truth-mira", "truth-heldout-dopi", "recall-mira"]
    items = ["toxicity-none-mira-0", "toxicity-none-mira-3", "toxicity-none-dopi-0"]
    assert clusters_of(items) == ["toxicity-none-mira", "toxicity-none-mira", "toxicity-none-dopi"]


def test_other_items_stand_for_themselves():
    assert clusters_of(["closed-0001", "test-api-00002"]) == ["closed-0001", "test-api-00002"]


def test_samples_show_every_use_case_first(tmp_path):
    path = tmp_path / "completions.jsonl"
    rows = [
        {"prompt_id": f"p{i}", "prompt": f"{i}", "completions": [{"model": "m", "text": f"t{i}"}]}
        for i in range(20)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    use_cases = {f"p{i}": "chat" if i == 15 else "generation" for i in range(20)}
    found = samples(path, use_cases)
    assert [row["prompt"] for row in found] == ["0", "15", *map(str, range(1, 11))]
    assert found[1] == {"prompt": "15", "use_case": "chat", "responses": {"m": "t15"}}
    assert [row["prompt"] for row in samples(path)] == list(map(str, range(12)))


def test_the_ablation_is_compared_ranking_by_ranking():
    ranks = [[1, 2], [1, 1], [2, 1]]  # the tied ranking has no loss
    shuffled = [Scored(str(i), r, [0.0, 0.0]) for i, r in enumerate(ranks)]
    scores = [[1, 0], [5, 0], [0, 3]]
    grouped = [Scored(str(i), ranks[i], scores[i]) for i in range(3)]
    expected = math.log(2) - (math.log1p(math.exp(-1)) + math.log1p(math.exp(-3))) / 2
    assert loss_gap(shuffled, grouped, 0).value == pytest.approx(expected)
    with pytest.raises(EvaluationError, match="same held-out rankings"):
        loss_gap(shuffled[1:], grouped, 0)


@pytest.mark.parametrize(
    "lineage, method",
    [
        ({"step": "pretrain"}, "base"),
        ({"step": "sft", "config": {"pretraining_mix": 0.0}}, "SFT"),
        ({"step": "sft", "config": {"pretraining_mix": 0.1}}, None),
        ({"step": "reward"}, None),
        ({"step": "ppo", "config": {"ppo": {"ptx_coef": 0.0}}}, "PPO"),
        ({"step": "ppo", "config": {"ppo": {"ptx_coef": 0.3}}}, "PPO-ptx"),
    ],
)
def test_a_policy_is_named_by_what_made_it(tmp_path, lineage, method):
    (tmp_path / "heedful.json").write_text(json.dumps(lineage))
    assert method_of(str(tmp_path)) == method
