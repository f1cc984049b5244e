"""Step 0 on a tiny model: it learns, it resumes exactly, and micro-batches change nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from heedful.config import PretrainConfig
from heedful.data.text import TextRows
from heedful.errors import CheckpointError, TrainingError
from heedful.models.attention import Packed
from heedful.models.language_model import hidden_states
from heedful.models.output_head import token_logprobs
from heedful.training.checkpoint import load_state
from heedful.training.passes import accumulate_text, text_loss
from heedful.training.step0_pretrain import train


def settings(run_dir, **changes):
    values = {
        "run_dir": str(run_dir),
        "tokenizer": "unused",
        "data": {},
        "num_tokens": 8 * 16 * 12,
        "row_tokens": 16,
        "optim": {"lr": 1e-2, "batch_size": 8},
        "compute": {"dtype": "float32"},
        "log": {"save_every": 5},
    }
    return PretrainConfig.model_validate(values | changes)


def counting(num_tokens=600) -> np.ndarray:
    """Text in which every token is followed by the next one: 2, 3, ... 21, 2, 3, ..."""
    return (np.arange(num_tokens) % 20 + 2).astype(np.uint32)


ROWS = TextRows(counting(), 16)


def test_it_learns_the_text(tiny_model, tmp_path, results_of):
    model = tiny_model("llama")
    last = train(settings(tmp_path, num_tokens=8 * 16 * 40), model, ROWS, ROWS)
    losses = [row["pretrain/loss"] for row in results_of(tmp_path)]
    assert len(losses) == 40
    assert losses[0] > 4.0  # near log 100 = 4.6, with large random weights
    assert last["pretrain/loss"] == losses[-1] < 0.3
    assert last["valid/text_loss"] < 0.3
    assert not model.training
    tokens = torch.arange(2, 12)
    with torch.no_grad():
        logprobs = token_logprobs(
            model, hidden_states(model, tokens, Packed([10])), torch.arange(3, 13)
        )
    assert float(logprobs.mean()) > -0.3


def test_a_resumed_run_is_the_uninterrupted_one(tiny_model, tmp_path, results_of, interrupt_at):
    whole = tiny_model("llama")
    train(settings(tmp_path / "whole"), whole, ROWS, ROWS)
    with pytest.raises(KeyboardInterrupt):
        train(settings(tmp_path / "cut"), tiny_model("llama"), ROWS, ROWS, interrupt_at(8))
    assert len(results_of(tmp_path / "cut")) == 8
    resumed = tiny_model("llama", seed=5)  # what it starts from no longer matters
    train(settings(tmp_path / "cut"), resumed, ROWS, ROWS)
    assert results_of(tmp_path / "cut") == results_of(tmp_path / "whole")
    for (name, mine), other in zip(resumed.named_parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, other), name


def test_a_run_with_only_its_model_left_to_publish(tiny_model, tmp_path, results_of):
    config = settings(tmp_path, num_tokens=8 * 16 * 5)
    first = tiny_model("llama")
    train(config, first, ROWS, None)
    again = tiny_model("llama", seed=5)
    last = train(config, again, ROWS, None)
    assert last["pretrain/loss"] == results_of(tmp_path)[-1]["pretrain/loss"]
    for mine, other in zip(again.parameters(), first.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_other_settings_or_data_do_not_resume(tiny_model, tmp_path, interrupt_at):
    with pytest.raises(KeyboardInterrupt):
        train(settings(tmp_path), tiny_model(), ROWS, None, interrupt_at(6))
    with pytest.raises(CheckpointError, match="other settings or data"):
        train(settings(tmp_path, seed=1), tiny_model(), ROWS, None)
    with pytest.raises(CheckpointError, match="other settings or data"):
        train(settings(tmp_path), tiny_model(), TextRows(counting(500), 16), None)
    smaller = {"dtype": "float32", "tokens_per_microbatch": 32}
    train(settings(tmp_path, compute=smaller), tiny_model(), ROWS, None)


def test_micro_batches_change_nothing(tiny_model, tmp_path, results_of):
    for name, tokens in (("one", 8192), ("eight", 16)):
        compute = {"dtype": "float32", "tokens_per_microbatch": tokens}
        config = settings(tmp_path / name, num_tokens=8 * 16 * 3, compute=compute)
        train(config, tiny_model("llama"), ROWS, None)
    pairs = zip(results_of(tmp_path / "one"), results_of(tmp_path / "eight"), strict=True)
    for one, eight in pairs:
        assert one["pretrain/loss"] == pytest.approx(eight["pretrain/loss"], abs=1e-5)
        assert one["optim/grad_norm"] == pytest.approx(eight["optim/grad_norm"], rel=1e-5)


def test_the_gradient_is_that_of_the_librarys_loss(tiny_model, tmp_path):
    """Over 5 rows in micro-batches of 2: the library's own mean loss over the whole batch."""
    ours, theirs = tiny_model("qwen3"), tiny_model("qwen3", attention="eager")
    rows = ROWS.draw(5, seed=3)
    loss = accumulate_text(ours, rows, 32, tmp_path, "here", weight=0.5)
    expected = theirs(input_ids=rows, labels=rows).loss
    (0.5 * expected).backward()
    assert loss == pytest.approx(float(expected.detach()), rel=1e-5)
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_held_out_loss_is_the_librarys(tiny_model):
    ours, theirs = tiny_model("llama"), tiny_model("llama", attention="eager")
    rows = ROWS.first(6)
    with torch.no_grad():
        expected = float(theirs(input_ids=rows, labels=rows).loss)
    assert text_loss(ours, ROWS, 32, num_rows=6) == pytest.approx(expected, rel=1e-5)


def test_a_loss_that_is_not_finite_changes_nothing(tiny_model, tmp_path):
    model = tiny_model("llama")
    model.lm_head.weight.data[3, 0] = math.inf
    before = model.model.layers[0].mlp.up_proj.weight.clone()
    with pytest.raises(TrainingError, match="step 1: the loss is nan"):
        train(settings(tmp_path), model, ROWS, None)
    assert torch.equal(model.model.layers[0].mlp.up_proj.weight, before)
    assert torch.load(tmp_path / "non_finite_batch.pt").shape == (8, 16)
    assert load_state(tmp_path, "any") is None


def test_bf16_learns_too(tiny_model, tmp_path, results_of):
    model = tiny_model("llama")
    config = settings(tmp_path, num_tokens=8 * 16 * 30, compute={"dtype": "bfloat16"})
    train(config, model, ROWS, None)
    assert results_of(tmp_path)[-1]["pretrain/loss"] < 0.6
    assert model.dtype == torch.float32
