"""Reward model and value function: head, loading, and the bias folded into the head."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from heedful.errors import ModelError
from heedful.models.attention import Packed
from heedful.models.language_model import hidden_states, load_language_model
from heedful.models.scalar_model import (
    center,
    head_of,
    load_scalar_model,
    scalar_model_from,
    scalars,
)

ARCHITECTURES = ["llama", "gpt2", "qwen3", "gemma3"]


@pytest.fixture
def base(tiny_model, tokenizer, tmp_path):
    """Saves a tiny language model and returns its directory."""

    def save(architecture):
        directory = tmp_path / architecture
        tiny_model(architecture).save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        return directory

    return save


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_the_body_is_the_language_models_and_the_head_is_new(tiny_model, base, architecture):
    model = scalar_model_from(base(architecture), seed=5)
    tokens, layout = torch.arange(2, 22), Packed([12, 8])
    hidden = hidden_states(model, tokens, layout)
    assert torch.equal(hidden, hidden_states(tiny_model(architecture), tokens, layout))
    weight = head_of(model).weight
    assert weight.shape == (1, 32)
    assert head_of(model).bias is None
    assert_close(scalars(model, hidden), hidden @ weight[0], rtol=1e-5, atol=1e-5)


def test_the_head_is_normal_with_variance_one_over_width_plus_one(tiny_model, tokenizer, tmp_path):
    tiny_model("llama", hidden_size=1024, num_hidden_layers=1).save_pretrained(tmp_path)
    first, again, other = (head_of(scalar_model_from(tmp_path, seed)).weight for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    # standard error of a standard deviation of 1024 draws is 2.2 %
    assert float(first.detach().std()) == pytest.approx(1025**-0.5, rel=0.09)


def test_a_language_model_is_not_a_reward_model(base, tmp_path):
    with pytest.raises(ModelError, match=r"not a reward model.*LlamaForCausalLM"):
        load_scalar_model(base("llama"))
    with pytest.raises(ModelError, match="missing does not exist"):
        scalar_model_from(tmp_path / "missing", seed=0)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_reward_model_is_neither_a_language_model_nor_a_base(base, tmp_path, architecture):
    """Tied embeddings would give it an output head, and a new scalar head would take its own."""
    scalar_model_from(base(architecture), seed=5).save_pretrained(tmp_path / "reward")
    for load in (load_language_model, lambda path: scalar_model_from(path, seed=0)):
        with pytest.raises(ModelError, match=r"is a reward model: .*ForSequenceClassification; ne"):
            load(tmp_path / "reward")


def test_a_saved_scalar_model_keeps_its_head(base, tmp_path):
    model = scalar_model_from(base("llama"), seed=5)
    model.save_pretrained(tmp_path / "reward")
    assert torch.equal(
        head_of(load_scalar_model(tmp_path / "reward")).weight, head_of(model).weight
    )


def test_three_labels_are_not_a_score(base, tmp_path):
    model = scalar_model_from(base("llama"), seed=5)
    model.config.num_labels = 3
    model.score = nn.Linear(32, 3, bias=False)
    model.save_pretrained(tmp_path / "three")
    with pytest.raises(ModelError, match="3 labels"):
        load_scalar_model(tmp_path / "three")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_demonstrations_score_zero_after_centering(base, architecture):
    model = scalar_model_from(base(architecture), seed=5)
    tokens, layout = torch.arange(2, 98), Packed([4] * 24)
    last = layout.starts[1:] - 1

    def scores():
        return scalars(model, hidden_states(model, tokens, layout)[last])

    before = scores()
    folded = center(model, hidden_states(model, tokens, layout)[last])
    after = scores()
    assert folded["bias"] == pytest.approx(-float(before.mean()), abs=1e-5)
    assert abs(float(after.mean())) < 1e-4
    # the shift is the same for every text up to the spread that is returned
    shift = after - before
    assert float(shift.std()) == pytest.approx(
        abs(folded["bias"]) * folded["spread"], rel=1e-2, abs=1e-5
    )
    assert (folded["spread"] < 1e-6) == (architecture == "gpt2")


@torch.no_grad()
def test_centering_changes_the_master_it_is_given(base):
    model = scalar_model_from(base("llama"), seed=5)
    before = head_of(model).weight.clone()
    master = head_of(model).weight.clone()
    hidden = torch.randn(50, 32, generator=torch.Generator().manual_seed(0)) + 1.0
    center(model, hidden, lambda parameter: master)
    assert torch.equal(head_of(model).weight, before)
    assert abs(float((hidden @ master[0]).mean())) < 1e-5
