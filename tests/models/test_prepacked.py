"""Prepacked weights give the products that the plain ones give."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch.testing import assert_close

from heedful.models import prepacked
from heedful.models.language_model import cast_weights


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(1, 32), (7, 32), (2, 5, 32)])
def test_products_are_those_of_the_plain_weight(dtype, shape):
    weight, bias, hidden = torch.randn(48, 32), torch.randn(48), torch.randn(shape)
    weight, bias, hidden = (one.to(dtype) for one in (weight, bias, hidden))
    exact = torch.einsum("...i,oi->...o", hidden.double(), weight.double())
    rtol, atol = (1e-2, 2e-2) if dtype == torch.bfloat16 else (1e-5, 1e-5)
    mine = prepacked.prepacked(weight)
    for given, wanted in ((None, exact), (bias, exact + bias.double())):
        found = prepacked.product(hidden, mine, given)
        assert found.dtype == dtype and found.shape == wanted.shape
        assert_close(found.double(), wanted, rtol=rtol, atol=atol)


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma3", "gpt2"])
def test_layers_are_prepacked_for_as_long_as_asked_and_give_the_same(tiny_model, architecture):
    model = tiny_model(architecture)
    cast_weights(model, torch.bfloat16)
    tokens = torch.tensor([[3, 5, 7, 2]])
    model.set_attn_implementation("eager")
    with torch.no_grad():
        plain = model(tokens).logits
        with prepacked.prepacked_layers(model):
            assert_close(model(tokens).logits, plain, rtol=0.05, atol=0.02)
            changed = [name for name, one in model.named_modules() if "forward" in vars(one)]
            for parameter in model.parameters():
                parameter.zero_()  # copies do not follow
            assert torch.isfinite(model(tokens).logits).all()
        assert not any("forward" in vars(one) for one in model.modules())
        assert (model(tokens).logits == 0).all()
    assert "lm_head" not in changed
    assert (len(changed) > 0) == (architecture != "gpt2")  # whose layers are no linear modules


def test_layers_stay_as_they_are_where_copies_would_take_too_much(tiny_model, monkeypatch):
    model = tiny_model("llama")
    with prepacked.prepacked_layers(model):  # fp32
        assert not any("forward" in vars(one) for one in model.modules())
    cast_weights(model, torch.bfloat16)
    monkeypatch.setattr(prepacked, "MAX_LAYER_BYTES", 100)
    with prepacked.prepacked_layers(model):
        assert not any("forward" in vars(one) for one in model.modules())


def test_an_error_leaves_no_copies_behind(tiny_model):
    model = tiny_model("llama")
    cast_weights(model, torch.bfloat16)
    with pytest.raises(KeyError), prepacked.prepacked_layers(model):
        raise KeyError
    assert not any("forward" in vars(one) for one in model.modules())


def test_an_error_while_they_are_made_leaves_no_copies_behind(tiny_model, monkeypatch):
    model = tiny_model("llama")
    cast_weights(model, torch.bfloat16)
    made = []

    def prepack(weight):
        made.append(weight)
        if len(made) == 3:
            raise MemoryError
        return weight

    monkeypatch.setattr(prepacked, "prepacked", prepack)
    with pytest.raises(MemoryError), prepacked.prepacked_layers(model):
        pytest.fail("nothing should run without its layers")
    assert len(made) == 3 and not any("forward" in vars(one) for one in model.modules())


def test_a_forward_that_somebody_has_put_in_stays(tiny_model):
    model = tiny_model("llama")
    cast_weights(model, torch.bfloat16)
    layer = model.base_model.layers[0].self_attn.q_proj
    layer.forward = forward = lambda hidden: torch.zeros_like(hidden)
    with prepacked.prepacked_layers(model):
        assert layer.forward is forward
        assert "forward" in vars(model.base_model.layers[0].self_attn.k_proj)
    assert layer.forward is forward


def test_a_processor_without_bf16_samples_as_before(tmp_path):
    """In a process of its own: oneDNN looks at its processor once."""
    code = """
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from heedful.models.prepacked import can_prepack
from heedful.rollout.engine import sample
config = LlamaConfig(vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                     num_attention_heads=2, attn_implementation="heedful")
model = LlamaForCausalLM(config).to(torch.bfloat16)
print(can_prepack(model.lm_head.weight), sample(model, [[3, 4]], max_new_tokens=3, eos=1, pad=0))
"""
    settings = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=settings, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("False Rollout")
