"""LoRA adapters: off they are the model, merged they are its change."""

import torch

from heedful.models.attention import Packed
from heedful.models.language_model import hidden_states, new_language_model
from heedful.models.lora import adapters_off, add_adapters, has_adapters, merge_adapters_into

LAYOUT = [5, 3]
TOKENS = torch.arange(8) + 5


def states(model: object) -> torch.Tensor:
    return hidden_states(model, TOKENS, Packed(LAYOUT)).detach()


def test_adapters_start_at_nothing_and_only_they_are_trained(tiny_config) -> None:
    model = new_language_model(tiny_config("llama"), 0)
    before = states(model)
    add_adapters(model, 4, 16.0, (), seed=0)
    assert torch.equal(states(model), before)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained and all("lora" in name for name in trained)


def test_adapters_off_is_the_model_before_and_merging_is_the_model_with_them(tiny_config) -> None:
    for kind in ("llama", "gpt2"):
        model = new_language_model(tiny_config(kind), 0)
        before = states(model)
        add_adapters(model, 4, 16.0, (), seed=0)
        generator = torch.Generator().manual_seed(1)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data = torch.randn(parameter.shape, generator=generator)
        changed = states(model)
        assert (changed - before).abs().max() > 1e-2
        with adapters_off(model):
            assert torch.equal(states(model), before)
        assert torch.equal(states(model), changed)
        plain = new_language_model(tiny_config(kind), 0)
        merge_adapters_into(plain, model)
        assert not has_adapters(plain)
        torch.testing.assert_close(states(plain), changed, rtol=1e-4, atol=1e-4)
