"""Models on a CUDA device, pretended: attention by lengths, the output head, where things are."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from heedful.errors import ConfigError
from heedful.models import attention, output_head, varlen
from heedful.models.attention import Packed
from heedful.models.device import pick_device, pick_dtype, tokens_at_a_time
from heedful.models.language_model import (
    hidden_states,
    hidden_states_at,
    load_language_model,
    place,
)
from heedful.models.output_head import logits, token_logprobs, token_loss
from heedful.training.checkpoint import publish

ARCHITECTURES = ["llama", "gpt2", "qwen3", "gemma2", "gemma3"]
LENGTHS = [7, 1, 12, 3, 12, 2]
SHARED = ([5, 3, 1, 4, 9, 2, 2], [None, 0, 0, None, 3, 3, None])  # two prompts with responses
CUDA = torch.device("cuda")


def tokens_of(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(2, 100, (count,), generator=torch.Generator().manual_seed(seed))


def gradient_of(model) -> torch.Tensor:
    parts = [p.grad.cpu().float().flatten() for p in model.base_model.parameters()]
    return torch.cat(parts)


@pytest.fixture
def calls(monkeypatch):
    """The window and the key heads of every call of the kernel for lengths."""
    found: list[tuple[int, int]] = []
    kernel = varlen.varlen_attn

    def spy(q, k, *rest, window_size, **settings):
        found.append((window_size[0], k.shape[1]))
        return kernel(q, k, *rest, window_size=window_size, **settings)

    monkeypatch.setattr(varlen, "varlen_attn", spy)
    return found


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("layout", [(LENGTHS, None), SHARED], ids=["alone", "shared"])
def test_bf16_is_as_near_to_fp32_as_on_the_processor(tiny_model, cuda, calls, architecture, layout):
    """Hidden states and gradients of fp32 on the processor, within what bf16 loses there too."""
    tokens, weights = tokens_of(sum(layout[0])), tokens_of(sum(layout[0]), seed=1).float()
    found = {}
    for name, dtype, device in (
        ("exact", torch.float32, "cpu"),
        ("processor", torch.bfloat16, "cpu"),
        ("device", torch.bfloat16, "cuda"),
    ):
        model = tiny_model(architecture)
        place(model, dtype, torch.device(device))
        hidden = hidden_states(model, tokens, Packed(*layout))
        (hidden.float().sum(1) * weights.to(hidden.device)).sum().backward()
        found[name] = (hidden.detach().cpu().float(), gradient_of(model))
    if architecture == "gemma2":
        assert calls == []  # the kernel knows no soft cap
    elif architecture == "gemma3":
        assert calls == [(3, 2), (-1, 2)]  # a window of 4 tokens, its own among them
    else:
        assert calls == [(-1, 4 if architecture == "gpt2" else 2)] * 2
    for exact, processor, device in zip(*found.values(), strict=True):
        lost = float((processor - exact).norm() / exact.norm())
        assert 0 < float((device - exact).norm() / exact.norm()) < max(2 * lost, 0.01)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_fp32_is_that_of_the_processor(tiny_model, cuda, calls, architecture, monkeypatch):
    """By the library's attention over buckets, on both sides."""
    monkeypatch.setattr(attention, "MAX_MATMUL_LENGTH", 0)
    lengths, prefix_of = SHARED
    found = []
    for device in ("cpu", "cuda"):
        model = tiny_model(architecture)
        model.to(device)
        hidden = hidden_states(model, tokens_of(sum(lengths)), Packed(lengths, prefix_of))
        assert hidden.device.type == device
        hidden.square().sum().backward()
        found.append((hidden.detach().cpu(), gradient_of(model)))
    assert calls == []  # the kernel is for 16 bits
    for here, there in zip(*found, strict=True):
        assert_close(there, here, rtol=1e-4, atol=1e-4)


def test_older_kernels_get_the_shared_keys_repeated(tiny_model, cuda, calls, monkeypatch):
    model = tiny_model("llama")
    place(model, torch.bfloat16, CUDA)
    tokens = tokens_of(sum(LENGTHS))
    shared = hidden_states(model, tokens, Packed(LENGTHS)).cpu()
    monkeypatch.setattr(varlen, "TAKES_GROUPS", False)
    repeated = hidden_states(model, tokens, Packed(LENGTHS)).cpu()
    assert calls == [(-1, 2), (-1, 2), (-1, 4), (-1, 4)]
    assert_close(repeated, shared, rtol=0, atol=0)


def test_a_device_without_the_kernel_goes_without(tiny_model, cuda, calls, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (7, 5))
    varlen._has_kernel.cache_clear()
    try:
        model = tiny_model("llama")
        place(model, torch.bfloat16, CUDA)
        hidden = hidden_states(model, tokens_of(sum(LENGTHS)), Packed(LENGTHS))
    finally:
        varlen._has_kernel.cache_clear()
    assert calls == [] and hidden.isfinite().all()


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
@pytest.mark.parametrize("vocabulary", [100, 128])  # odd for matrix units, and even
def test_log_probabilities_and_gradients_are_those_of_bf16_factors_in_fp32(
    tiny_model, cuda, monkeypatch, architecture, vocabulary
):
    """Against a plain log-softmax of the same bf16 numbers in float64; in chunks of few rows."""
    monkeypatch.setattr(output_head, "LOGIT_CELLS_ON_ACCELERATORS", 100 * 5)
    model = tiny_model(architecture, vocab_size=vocabulary)
    place(model, torch.bfloat16, CUDA)
    states = torch.randn(13, 32, generator=torch.Generator().manual_seed(0)).bfloat16()
    targets = tokens_of(13)
    hidden = states.to(CUDA).requires_grad_()
    loss, found = token_loss(model, hidden, targets, lambda some, _: some.sum(), 0.7)
    assert found.dtype == torch.float32 and found.device.type == "cuda"
    assert torch.equal(found, token_logprobs(model, hidden, targets, 0.7))
    loss.backward()

    weight = model.get_output_embeddings().weight.detach().cpu().double().requires_grad_()
    exact = states.double().requires_grad_()
    z = exact @ weight.T
    if architecture == "gemma2":
        z = 3.0 * torch.tanh(z / 3.0)
    expected = (z / 0.7).log_softmax(-1).gather(1, targets[:, None])[:, 0]
    expected.sum().backward()
    assert_close(found.detach().cpu().double(), expected.detach(), rtol=0, atol=1e-5)
    for ours, theirs in (
        (hidden.grad, exact.grad),
        (model.get_output_embeddings().weight.grad, weight.grad),
    ):
        error = (ours.cpu().double() - theirs).norm() / theirs.norm()
        assert float(error) < 0.01  # the factors of its products are rounded to bf16


def test_the_head_of_bf16_is_not_copied(tiny_model, cuda):
    model = tiny_model("llama")
    place(model, torch.bfloat16, CUDA)
    head = output_head.output_head(model)
    assert head.parts[0] is model.get_output_embeddings().weight
    assert logits(head, torch.ones(2, 32, dtype=torch.bfloat16, device=CUDA)).dtype == torch.float32


def test_a_pass_makes_the_host_wait_for_nothing(tiny_model, cuda):
    """Or an accelerator would idle at every wait: what is uploaded stands in pinned memory."""
    model = tiny_model("llama")
    place(model, torch.bfloat16, CUDA)
    lengths, prefix_of = SHARED
    cuda.syncs = 0
    positions = torch.tensor([2, 7, 7, 11])
    hidden = hidden_states_at(model, tokens_of(sum(lengths)), Packed(lengths, prefix_of), positions)
    targets = torch.tensor([4, 5, 6, 7])
    loss, _ = token_loss(model, hidden, targets, lambda some, _: -some.sum())
    loss.backward()
    assert cuda.syncs == 0, cuda.waited_for
    assert loss.item() > 0 and cuda.syncs == 1


def test_a_model_is_loaded_onto_a_device(tiny_model, tokenizer, tmp_path, cuda):
    publish(tiny_model("llama"), tokenizer, tmp_path / "model", {})
    model = load_language_model(tmp_path / "model", torch.bfloat16, CUDA)
    kinds = {(p.device.type, p.dtype) for p in model.parameters()}
    assert kinds == {("cuda", torch.bfloat16)}
    frequencies = next(buffer for name, buffer in model.named_buffers() if "inv_freq" in name)
    assert frequencies.device.type == "cuda" and frequencies.dtype == torch.float32


class Compute:
    def __init__(self, device: str, tokens_per_microbatch: int = 0):
        self.device, self.dtype = device, "auto"
        self.tokens_per_microbatch = tokens_per_microbatch


def test_auto_takes_the_device_that_is_there(cuda):
    assert pick_device("auto").type == "cuda"
    assert pick_device("cpu").type == "cpu"
    assert pick_device("cuda:0") == torch.device("cuda", 0)
    assert pick_dtype("auto", CUDA) == torch.bfloat16
    assert pick_dtype("float32", CUDA) == torch.float32
    assert tokens_at_a_time(Compute("auto")) == 32768
    assert tokens_at_a_time(Compute("cpu")) == 8192
    assert tokens_at_a_time(Compute("auto", 100)) == 100
    with pytest.raises(ConfigError, match=r"cuda:3.*1 CUDA device: the last one is cuda:0"):
        pick_device("cuda:3")


def test_a_device_without_bf16_computes_in_fp32(cuda, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    assert pick_dtype("auto", CUDA) == torch.float32


def test_without_a_device_auto_is_the_processor_and_cuda_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto").type == "cpu"
    with pytest.raises(ConfigError, match=r'finds no CUDA device.*set compute.device to "cpu"'):
        pick_device("cuda")
