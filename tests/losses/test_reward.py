"""The ranking loss of the reward model, against a loop over pairs and hand numbers."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heedful.losses.reward import ranking_loss

LOSS_OF_EQUAL_SCORES = math.log(2)


def loop_over_pairs(scores: list[float], ranks: list[int], group: list[int]) -> dict[str, float]:
    """Loss and counts by the text of the paper: one prompt, one pair at a time."""
    loss, num_correct, num_pairs, num_prompts = 0.0, 0.0, 0, 0
    for prompt in set(group):
        members = [i for i in range(len(group)) if group[i] == prompt]
        losses = []
        for i, j in combinations(members, 2):
            if ranks[i] == ranks[j]:
                continue
            best, worst = (i, j) if ranks[i] < ranks[j] else (j, i)
            margin = scores[best] - scores[worst]
            losses.append(np.log1p(np.exp(-margin)))
            num_correct += 1.0 if margin > 0 else 0.5 if margin == 0 else 0.0
        if losses:
            loss += sum(losses) / len(losses)
            num_pairs += len(losses)
            num_prompts += 1
    return {"loss": loss, "correct": num_correct, "pairs": num_pairs, "prompts": num_prompts}


def test_two_completions_give_minus_log_sigmoid_of_the_difference():
    loss, stats = ranking_loss(torch.tensor([0.5, 2.0]), torch.tensor([2, 1]), torch.tensor([0, 0]))
    assert loss.item() == pytest.approx(-math.log(1 / (1 + math.exp(-1.5))))
    assert stats["accuracy"].item() == 1.0


def test_three_completions_by_hand():
    # The pairs are 2-0, 2-1 and 0-1 in differences of score: ln(1 + e^-2) and twice ln(1 + e^-1).
    loss, stats = ranking_loss(
        torch.tensor([0.0, 1.0, 2.0]), torch.tensor([3, 2, 1]), torch.tensor([4, 4, 4])
    )
    expected = (math.log1p(math.exp(-2)) + 2 * math.log1p(math.exp(-1))) / 3
    assert loss.item() == pytest.approx(expected)
    assert (stats["num_pairs"].item(), stats["num_prompts"].item()) == (3, 1)


def test_a_prompt_weighs_one_however_many_pairs_it_has():
    group = torch.tensor([0] * 9 + [1] * 2)
    ranks = torch.tensor([*range(9), 0, 1])
    loss, _ = ranking_loss(torch.zeros(11), ranks, group)
    assert loss.item() == pytest.approx(2 * LOSS_OF_EQUAL_SCORES)


def test_ties_make_no_pair():
    scores = torch.tensor([1.0, 3.0, -2.0])
    loss, stats = ranking_loss(scores, torch.tensor([1, 1, 2]), torch.tensor([0, 0, 0]))
    expected = (math.log1p(math.exp(-3)) + math.log1p(math.exp(-5))) / 2
    assert loss.item() == pytest.approx(expected)
    assert stats["num_pairs"].item() == 2


def test_a_prompt_of_ties_adds_nothing_even_where_its_scores_are_not_numbers():
    scores = torch.tensor([float("nan"), float("nan"), 1.0, 0.0], requires_grad=True)
    loss, stats = ranking_loss(scores, torch.tensor([1, 1, 1, 2]), torch.tensor([0, 0, 1, 1]))
    loss.backward()
    assert loss.item() == pytest.approx(math.log1p(math.exp(-1)))
    assert (stats["num_pairs"].item(), stats["num_prompts"].item()) == (1, 1)
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()


def test_nothing_but_ties_is_zero():
    scores = torch.tensor([1.0, 2.0], requires_grad=True)
    loss, stats = ranking_loss(scores, torch.tensor([1, 1]), torch.tensor([0, 0]))
    loss.backward()
    assert loss.item() == 0.0
    assert stats["accuracy"].item() == 0.0
    assert stats["num_prompts"].item() == 0
    assert scores.grad is not None
    assert scores.grad.tolist() == [0.0, 0.0]


def test_equal_scores_are_half_correct():
    _, stats = ranking_loss(
        torch.tensor([1.0, 1.0, 0.0]), torch.tensor([1, 2, 3]), torch.tensor([0, 0, 0])
    )
    assert stats["num_correct"].item() == 2.5
    assert stats["accuracy"].item() == pytest.approx(2.5 / 3)


COMPLETIONS = st.lists(
    st.tuples(st.integers(-4, 4), st.integers(1, 4), st.integers(0, 3)), min_size=1, max_size=14
)


@settings(max_examples=80, deadline=None)
@given(rows=COMPLETIONS, seed=st.integers(0, 1000), shift=st.integers(-3, 3))
def test_any_batch_agrees_with_the_loop_in_any_order_and_at_any_shift(
    rows: list[tuple[int, int, int]], seed: int, shift: int
):
    table = torch.tensor(rows, dtype=torch.float64)
    scores, ranks, group = table[:, 0] / 2, table[:, 1].long(), table[:, 2].long()
    expected = loop_over_pairs(scores.tolist(), ranks.tolist(), group.tolist())
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    for index in (torch.arange(len(rows)), order):
        loss, stats = ranking_loss(scores[index] + shift, ranks[index], group[index])
        assert loss.item() == pytest.approx(expected["loss"], abs=1e-9)
        assert stats["num_correct"].item() == expected["correct"]
        assert stats["num_pairs"].item() == expected["pairs"]
        assert stats["num_prompts"].item() == expected["prompts"]


def test_one_prompt_at_a_time_gives_the_gradient_of_the_batch():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(40, 6, generator=generator)
    ranks = torch.randint(1, 4, (40,), generator=generator)
    group = torch.arange(40) // 5
    head = torch.randn(6, generator=generator).requires_grad_()

    def gradient(batches: list[torch.Tensor]) -> torch.Tensor:
        head.grad = None
        for rows in batches:
            loss, _ = ranking_loss(features[rows] @ head, ranks[rows], group[rows])
            (loss / 8).backward()
        assert head.grad is not None
        return head.grad

    whole = gradient([torch.arange(40)])
    torch.testing.assert_close(gradient(list(torch.arange(40).split(5))), whole)


def test_scores_far_apart_do_not_overflow():
    scores = torch.tensor([-500.0, 500.0], requires_grad=True)
    loss, _ = ranking_loss(scores, torch.tensor([1, 2]), torch.tensor([0, 0]))
    loss.backward()
    assert loss.item() == pytest.approx(1000.0)
    assert scores.grad is not None
    assert scores.grad.tolist() == [-1.0, 1.0]


def test_other_shapes_are_refused():
    three = torch.zeros(3)
    with pytest.raises(ValueError, match=r"scores \(3,\), ranks \(2,\)"):
        ranking_loss(three, torch.zeros(2), three)
    with pytest.raises(ValueError, match=r"scores \(3, 1\)"):
        ranking_loss(three.unsqueeze(1), three, three)
