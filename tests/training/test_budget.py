"""Where memory runs out an update is done again with smaller micro-batches, and is the same."""

from __future__ import annotations

import pytest
import torch

from heedful.config import Compute, Sampling, SFTConfig
from heedful.data.examples import Example
from heedful.errors import TrainingError
from heedful.training import step1_sft
from heedful.training.budget import Budget
from heedful.training.loop import Adam

EXAMPLES = [Example([2 + i % 7] * 60, [3 + i % 5] * 60 + [0]) for i in range(16)]


def run(run_dir, model, **compute):
    values = {
        "run_dir": str(run_dir),
        "base": "unused",
        "data": {},
        "epochs": 1,
        "dropout": 0.1,
        "optim": {"lr": 1e-3, "batch_size": 8},
        "compute": {"dtype": "float32"} | compute,
    }
    config = SFTConfig.model_validate(values)
    step1_sft.train(config, model, EXAMPLES, [])


@pytest.fixture
def little_memory(monkeypatch):
    """More than 600 tokens at a time are too many, in the backward pass; tokens that were tried."""
    tried: list[int] = []
    whole = step1_sft.response_loss

    class TooMuch(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, num_tokens):
            ctx.num_tokens = num_tokens
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            tried.append(ctx.num_tokens)
            if ctx.num_tokens > 600:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
            return grad, None

    def limited(model, batch, *settings):
        loss, logprobs = whole(model, batch, *settings)
        return TooMuch.apply(loss, len(batch.tokens)), logprobs

    monkeypatch.setattr(step1_sft, "response_loss", limited)
    return tried


def weights_of(model) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_result_is_that_of_micro_batches_that_fit(
    tiny_model, tmp_path, little_memory, capsys, results_of, dtype
):
    size = {"max_position_embeddings": 256}
    fits, halved = tiny_model(**size), tiny_model(**size)
    run(tmp_path / "fits", fits, dtype=dtype, tokens_per_microbatch=512)
    assert max(little_memory) == 484 and "memory" not in capsys.readouterr().err
    little_memory.clear()
    run(tmp_path / "halved", halved, dtype=dtype, tokens_per_microbatch=1024)
    # 8 sequences of 121 tokens: all at once, which is too many; from then on 4 at a time
    assert little_memory == [968, 484, 484, 484, 484]
    assert torch.equal(weights_of(fits), weights_of(halved))
    assert results_of(tmp_path / "fits") == results_of(tmp_path / "halved")
    said = capsys.readouterr().err
    assert "memory ran out (CUDA out of memory): 512 tokens at a time from here on" in said
    assert said.count("memory ran out") == 1


def test_where_few_tokens_are_too_many_the_mend_is_named():
    def never(tokens: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    tried = Budget.of_tokens(Compute(device="cpu", tokens_per_microbatch=1500))
    with pytest.raises(TrainingError, match=r"with 375 tokens at a time.*lora\.rank"):
        tried.run(never)


def test_another_error_is_not_one_of_memory():
    def wrong(tokens: int) -> None:
        raise RuntimeError("shape '[2]' is invalid")

    budget = Budget.of_tokens(Compute(device="cpu"))
    with pytest.raises(RuntimeError, match="shape"):
        budget.run(wrong)
    assert budget.amount == 8192


def test_the_moments_are_there_before_the_first_update(tiny_model):
    """What does not fit fails at the start, and not halfway into an update."""
    model = tiny_model()
    before = weights_of(model)
    optimizer = Adam(model, weight_decay=0.1)
    (state,) = optimizer.state_dict()["adam"]["state"].values()
    assert {name: float(state[name].abs().sum()) for name in state} == {
        "step": 0.0,
        "exp_avg": 0.0,
        "exp_avg_sq": 0.0,
    }
    assert len(state["exp_avg"]) == len(state["exp_avg_sq"]) == len(before)
    assert torch.equal(weights_of(model), before)


def test_gradients_that_were_begun_are_dropped(tiny_model):
    model = tiny_model()
    for dtype in (torch.float32, torch.bfloat16):
        optimizer = Adam(model.to(dtype))
        model.get_input_embeddings().weight.square().sum().backward()
        assert float(optimizer.collected.abs().sum()) > 0
        optimizer.drop_gradients()
        assert float(optimizer.collected.abs().sum()) == 0


def test_a_rollout_that_does_not_fit_is_begun_again_with_fewer_rows(capsys):
    asked = []

    def generate(max_rows: int) -> str:
        asked.append(max_rows)
        if max_rows > 60:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return "responses"

    rows = Budget.of_rows(Sampling(max_rows=200))
    assert [rows.run(generate), rows.run(generate)] == ["responses"] * 2
    assert asked == [200, 100, 50, 50]  # for good
    assert "50 responses at a time from here on" in capsys.readouterr().err
