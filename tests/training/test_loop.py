"""The optimizer, the learning rate, seeds, the order of the data, micro-batches."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from heedful.errors import TrainingError
from heedful.training.loop import (
    NON_FINITE_FILE,
    Adam,
    Timer,
    derive_seed,
    epoch_batches,
    learning_rate,
    make_generator,
    microbatches,
    require_finite,
)


def network(dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)


def data(rows=8, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 6, generator=generator), torch.randn(rows, 3, generator=generator)


def test_equals_the_librarys_adamw(tmp_path):
    ours, theirs = network(), network()
    settings = {"betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
    adam = Adam(ours, max_grad_norm=0.5, **settings)
    reference = torch.optim.AdamW(theirs.parameters(), lr=1.0, **settings)
    clipped = 0
    for step in range(20):
        x, y = data(seed=step)
        lr = 0.05 / (step + 1)
        (ours(x) - y).square().mean().backward()
        norm = adam.step(lr, None, tmp_path, "step")

        reference.zero_grad()
        (theirs(x) - y).square().mean().backward()
        expected = nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        clipped += float(expected) > 0.5
        reference.param_groups[0]["lr"] = lr
        reference.step()
        assert norm == pytest.approx(float(expected), rel=1e-5)
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert_close(mine, other, rtol=1e-5, atol=1e-6)
    assert 0 < clipped < 20


def test_small_updates_survive_in_the_masters(tmp_path):
    """200 steps of 1e-5 move a weight of 1 by 2e-3; in bf16 alone each would round away."""
    model = nn.Linear(4, 1, bias=False).to(torch.bfloat16)
    model.weight.data.fill_(1.0)
    adam = Adam(model)
    for _ in range(200):
        model(torch.ones(1, 4, dtype=torch.bfloat16)).sum().backward()
        adam.step(1e-5, None, tmp_path, "step")
    assert_close(adam.master.data, torch.full((4,), 1 - 2e-3), rtol=0, atol=2e-5)
    adam.release()
    assert model.weight.dtype == torch.float32
    assert_close(model.weight.data, torch.full((1, 4), 1 - 2e-3), rtol=0, atol=2e-5)


def test_micro_batches_lose_nothing_to_bf16():
    """1 + 256 times 2^-9: a bf16 sum stays at 1, the fp32 sum comes to 1.5."""
    model = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    adam = Adam(model)
    for value in [1.0] + [2.0**-9] * 256:
        model(torch.full((1, 1), value, dtype=torch.bfloat16)).sum().backward()
    assert float(adam.master.grad) == 1.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_eight_micro_batches_equal_one_batch(dtype, tmp_path):
    x, y = (part.to(dtype) for part in data())
    results = []
    for size in (8, 1):
        model = network(dtype)
        adam = Adam(model)
        for start in range(0, 8, size):
            part = slice(start, start + size)
            ((model(x[part]) - y[part]).square().sum() / 24).backward()
        results.append(adam.master.grad.clone())
    tolerance = 1e-6 if dtype == torch.float32 else 1e-2
    assert_close(results[0], results[1], rtol=tolerance, atol=tolerance)


def test_a_gradient_that_is_not_finite_stops_before_any_change(tmp_path):
    model = network()
    adam = Adam(model)
    before = [parameter.clone() for parameter in model.parameters()]
    x, y = data()
    (model(x) - y).square().mean().backward()
    model[2].weight.grad[0, 0] = math.nan
    message = r"step 7: the gradient of 2\.weight is not finite; nothing was updated"
    with pytest.raises(TrainingError, match=message):
        adam.step(0.1, {"rows": [1, 2]}, tmp_path, "step 7")
    for parameter, old in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, old)
    assert torch.load(tmp_path / NON_FINITE_FILE) == {"rows": [1, 2]}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_with_the_batch_saved(value, tmp_path):
    require_finite(torch.tensor(1.0), None, tmp_path, "step 1")
    assert not (tmp_path / NON_FINITE_FILE).exists()
    with pytest.raises(TrainingError, match=f"step 2: the loss is {value}; nothing was updated"):
        require_finite(torch.tensor(value), torch.arange(3), tmp_path, "step 2")
    assert torch.load(tmp_path / NON_FINITE_FILE).tolist() == [0, 1, 2]


def test_masters_are_views_that_sync_copies(tmp_path):
    model = network(torch.bfloat16)
    adam = Adam(model)
    adam.master_of(model[2].bias).copy_(torch.tensor([1.0, 2.0, 3.0]))
    adam.sync()
    assert model[2].bias.tolist() == [1.0, 2.0, 3.0]
    adam.set_weights(torch.zeros_like(adam.master))
    assert not any(bool(parameter.any()) for parameter in model.parameters())


def test_frozen_weights_stay(tmp_path):
    model = network()
    model[0].requires_grad_(False)
    adam = Adam(model)
    before = model[0].weight.clone()
    x, y = data()
    (model(x) - y).square().mean().backward()
    adam.step(0.1, None, tmp_path, "step")
    assert adam.names == ["2.weight", "2.bias"]
    assert torch.equal(model[0].weight, before)


def test_the_state_goes_on_exactly(tmp_path):
    def run(adam, model, steps):
        for step in steps:
            x, y = data(seed=step)
            (model(x) - y).square().mean().backward()
            adam.step(0.01, None, tmp_path, "step")

    whole = network()
    run(Adam(whole), whole, range(6))

    first = network()
    adam = Adam(first)
    run(adam, first, range(3))
    torch.save(adam.state_dict(), tmp_path / "state.pt")
    second = network(seed=9)
    resumed = Adam(second)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    run(resumed, second, range(3, 6))
    for mine, other in zip(second.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_cosine_falls_from_the_peak_to_its_share_at_the_last_update():
    rates = [learning_rate(step, 11, 2.0) for step in range(11)]
    assert rates[0] == 2.0
    assert rates[5] == pytest.approx(1.1)  # half way between 2 and 0.2
    assert rates[10] == pytest.approx(0.2)
    assert rates == sorted(rates, reverse=True)
    assert learning_rate(0, 1, 2.0) == 2.0


def test_warm_up_is_linear_from_its_share():
    def rate(step, warmup_from):
        return learning_rate(
            step, 100, 1.0, schedule="constant", warmup=10, warmup_from=warmup_from
        )

    assert [rate(step, 0.1) for step in (0, 5, 10, 99)] == pytest.approx([0.1, 0.55, 1.0, 1.0])
    assert [rate(step, 0.0) for step in (0, 4, 9, 10)] == pytest.approx([0.1, 0.5, 1.0, 1.0])


def test_cosine_starts_after_the_warm_up():
    rates = [learning_rate(step, 9, 1.0, warmup=4, final_share=0.0) for step in range(9)]
    assert rates[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert rates[6] == pytest.approx(0.5)
    assert rates[8] == pytest.approx(0.0)


def test_every_item_comes_once_a_pass():
    batches = list(epoch_batches(7, 3, 14, seed=0))
    flat = [item for batch in batches for item in batch]
    assert [len(batch) for batch in batches] == [3] * 14
    passes = [flat[start : start + 7] for start in range(0, 42, 7)]
    assert all(sorted(order) == list(range(7)) for order in passes)
    assert len({tuple(order) for order in passes}) > 1


def test_any_step_is_reached_directly():
    whole = list(epoch_batches(7, 3, 14, seed=0))
    for first in range(14):
        assert list(epoch_batches(7, 3, 14, seed=0, first_step=first)) == whole[first:]
    assert list(epoch_batches(7, 3, 14, seed=1)) != whole


def test_a_batch_may_be_larger_than_the_data():
    (batch,) = epoch_batches(2, 5, 1, seed=0)
    assert sorted(batch) in ([0, 0, 0, 1, 1], [0, 0, 1, 1, 1])


def test_seeds_of_different_uses_are_unrelated():
    """2,000 seeds differ, and their top bits are even: 1,000 ones of 2,000, 4 standard errors."""
    keys = [(seed, purpose, step) for seed in (0, 1) for purpose in "ab" for step in range(500)]
    seeds = [derive_seed(*key) for key in keys]
    assert len(set(seeds)) == 2000
    assert seeds == [derive_seed(*key) for key in keys]
    assert abs(sum(seed >> 55 for seed in seeds) - 1000) < 90
    assert derive_seed(1, "a", 23) != derive_seed(1, "a", 2, 3)
    draws = [torch.rand(3, generator=make_generator(0, "a", step)).tolist() for step in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_micro_batches_keep_to_the_budget():
    lengths = [5, 30, 2, 9, 9, 1, 12]
    groups = microbatches(lengths, 16)
    assert sorted(i for group in groups for i in group) == list(range(7))
    assert groups[0] == [1]  # longer than the budget: alone
    assert all(sum(lengths[i] for i in group) <= 16 for group in groups[1:])
    assert microbatches([], 16) == []


def test_a_timer_sums_its_phases(monkeypatch):
    times = iter([0.0, 2.0, 5.0, 9.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(times))
    timer = Timer()
    for name in ("a", "b", "a"):
        timer.lap(name)
    assert timer.metrics() == {"time/a_s": 6.0, "time/b_s": 3.0}


def test_a_frozen_parameter_has_no_master(tiny_model):
    model = tiny_model("gpt2")
    frozen = model.base_model.ln_f.bias
    frozen.requires_grad_(False)
    optimizer = Adam(model)
    with pytest.raises(ValueError, match="frozen"):
        optimizer.master_of(frozen)
    first = next(p for p in model.parameters() if p.requires_grad)
    assert optimizer.master_of(first).shape == first.shape
