"""The pretend device computes what the processor does, and refuses what a GPU would refuse."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from torch.testing import assert_close
from transformers import LlamaForSequenceClassification

from heedful.models.attention import Packed
from heedful.models.language_model import hidden_states
from heedful.models.output_head import token_loss
from heedful.rollout.engine import sample
from heedful.training.loop import Adam

from .pretend_cuda import PretendTensor, cuda, pretend_cuda

__all__ = ["cuda"]  # a fixture is used by its name alone

CAPTURING = "not permitted when stream is capturing"
MIXED = "Expected all tensors to be on the same device"
IDS = torch.arange(2, 16).view(2, 7)


def both(model) -> list[tuple[nn.Module, str]]:
    """Two copies of a model, one on each device."""
    return [(copy.deepcopy(model).to(device), device) for device in ("cpu", "cuda")]


def gradients(model) -> list[Tensor]:
    return [p.grad.cpu() for p in model.parameters()]


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen3", "gemma3", "classifier"])
def test_a_model_gives_the_bits_of_the_processor(tiny_model, tiny_config, architecture, cuda):
    if architecture == "classifier":
        config = tiny_config(num_labels=1, attn_implementation="eager")
        model = LlamaForSequenceClassification(config)
    else:
        model = tiny_model(architecture, attention="eager")
    values = []
    for own, device in both(model.eval()):
        ids = IDS.to(device)
        assert {p.device.type for p in own.parameters()} == {device} == {ids.device.type}
        labels = {} if architecture == "classifier" else {"labels": ids}
        out = own(ids, **labels)
        loss = out.loss if labels else out.logits.square().mean()
        loss.backward()
        values.append([loss.item(), gradients(own)])
    (loss, own), (pretend_loss, pretend) = values
    assert loss == pretend_loss and math.isfinite(loss)
    assert all(torch.equal(a, b) for a, b in zip(own, pretend, strict=True))
    assert any(gradient.any() for gradient in own)


def test_moving_a_model_keeps_its_parameters(tiny_model, cuda):
    model = tiny_model("llama", tie_word_embeddings=True)
    before = list(model.parameters())
    values = [p.detach().clone() for p in before]
    assert model.to("cuda") is model
    assert all(a is b for a, b in zip(before, model.parameters(), strict=True))
    assert all(isinstance(p, nn.Parameter) and isinstance(p, PretendTensor) for p in before)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    model.cpu()
    assert all(type(p) is nn.Parameter for p in model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(values, before, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_projects_adam(tiny_model, dtype, tmp_path, cuda):
    model = tiny_model("llama", attention="eager").to(dtype)
    masters, norms = [], []
    for own, device in both(model):
        adam = Adam(own)
        start = adam.master.detach().clone()
        first = next(own.parameters())
        assert first.untyped_storage().data_ptr() == adam.weights.untyped_storage().data_ptr()
        for _ in range(3):
            own(IDS.to(device), labels=IDS.to(device)).loss.backward()
            norms.append(adam.step(1e-2, None, tmp_path, "here"))
        assert torch.equal(first.flatten(), adam.weights[: first.numel()])
        assert adam.master.device.type == device and not torch.equal(start, adam.master)
        masters.append(adam.master.detach().cpu())
        saved = adam.state_dict()
        adam.load_state_dict(saved)
        adam.release()
        assert {p.dtype for p in own.parameters()} == {torch.float32}
    assert norms[:3] == norms[3:] and torch.equal(*masters)


def test_the_projects_own_functions(tiny_model, cuda):
    """Packed attention, chunked log-probabilities, and sampling from graphs."""
    values = []
    for own, device in both(tiny_model("llama")):
        hidden = hidden_states(own, IDS.flatten().to(device), Packed([5, 9]))
        loss, logprobs = token_loss(own, hidden, IDS.flatten().to(device), lambda p, _: p.sum())
        loss.backward()
        prompts = [[3, 4, 5], [6, 7], [8]]
        drawn = sample(own, prompts, max_new_tokens=20, temperature=0.0, eos=0, pad=1)
        values.append((logprobs.detach().cpu(), gradients(own), drawn))
    (logprobs, grads, drawn), (pretend_logprobs, pretend_grads, pretend_drawn) = values
    assert_close(logprobs, pretend_logprobs)
    assert_close(grads, pretend_grads, atol=1e-4, rtol=1e-4)
    assert torch.equal(drawn.tokens, pretend_drawn.tokens) and drawn.tokens.shape[1] > 8
    assert "torch.cuda.graph" in cuda.waited_for


def test_views_share_memory_and_data_is_replaced(cuda):
    flat = torch.zeros(6, device="cuda")
    parameter = nn.Parameter(torch.ones(2, 3, device="cuda"))
    parameter.data = flat.view(2, 3)
    flat[4] = 7.0
    assert parameter[1, 1].item() == 7.0
    got = []
    parameter.register_post_accumulate_grad_hook(lambda p: got.append(p.grad.sum().item()))
    (parameter * 2).sum().backward()
    assert got == [12.0]
    turned = flat.view(2, 3).t_()
    assert turned.shape == (3, 2) and turned[1, 1].item() == 7.0


MISTAKES = {
    "add": lambda here, there: here + there,
    "into the processor": lambda here, there: there.add_(here),
    "matmul": lambda here, there: F.linear(here, there),
    "cat": lambda here, there: torch.cat([here, there]),
    "embedding": lambda here, there: F.embedding(torch.tensor([0]), here),
    "index of the processor": lambda here, there: there[torch.tensor([0], device="cuda")],
    "put values": lambda here, there: there.index_put_((torch.tensor([0]),), here[:1]),
    "put into": lambda here, there: here.index_put_((torch.tensor([0]),), there[:1]),
    "gather": lambda here, there: here.gather(1, torch.zeros(3, 1, dtype=torch.long)),
    "a sum into a number": lambda here, there: torch.tensor(1.0).add_(here.sum()),
    "a number that is an index": lambda here, there: here.index_select(0, torch.tensor(0)),
    "loss": lambda here, there: F.mse_loss(here, there),
    "stepwise": lambda here, there: torch._foreach_add([here], [there]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_devices_do_not_mix(mistake, cuda):
    with pytest.raises(RuntimeError, match=MIXED):
        MISTAKES[mistake](torch.ones(3, 3, device="cuda"), torch.ones(3, 3))


def test_what_cuda_lets_pass(cuda):
    host = torch.arange(12.0).view(3, 4)
    x = host.to("cuda")
    assert torch.equal((x * torch.tensor(2.0)).cpu(), host * 2)
    assert torch.equal(x[torch.tensor([0, 2])].cpu(), host[[0, 2]])
    assert torch.equal(x[[0, 2], None].cpu(), host[[0, 2], None])
    assert torch.equal(x[host > 3].cpu(), host[host > 3])
    for y in (x, host):
        y[y > 5] = 1.5
        y[1] = torch.tensor([4.0, 3.0, 2.0, 1.0])
        y[0, 1] = 9.0
        y[torch.tensor([2, 2])] = 8.0
    assert torch.equal(x.cpu(), host) and host[2].tolist() == [8.0] * 4
    assert x.to("cuda") is x and x.to(x.device, x.dtype) is x and x.cpu().device.type == "cpu"
    assert x.to(host).device.type == "cpu" and host.to(x).device == x.device
    assert torch.from_numpy(np.ones(2)).device.type == "cpu"
    assert torch.zeros_like(host, device="cuda").is_cuda and x.new_zeros(2).is_cuda
    assert f"{x.max():.1f} {int(x.argmax())}" == "9.0 1" and bool(x.any())
    assert torch.searchsorted(x[1].flip(0), x.new_full((1,), 2.5)).tolist() == [2]
    assert torch.isin(x[1], x[1, :2]).tolist() == [True, True, False, False]


def test_what_only_the_processor_has(cuda):
    x = torch.ones(2, 2, device="cuda")
    with pytest.raises(TypeError, match="can't convert cuda:0"):
        x.numpy()
    with pytest.raises(TypeError, match="can't convert cuda:0"):
        np.asarray(x)
    with pytest.raises(NotImplementedError, match="mm_cuda"):
        x.long() @ x.long()
    with pytest.raises(RuntimeError, match="invalid device ordinal"):
        torch.zeros(1, device="cuda:1")


WAITING = {
    "add": (lambda x: x + 1, 0),
    "numbers": (lambda x: x.mul_(2.0)[0].fill_(1.0), 0),
    "fill by a mask": (lambda x: x.__setitem__(x > 0, 1.0), 0),
    "masked_fill": (lambda x: x.masked_fill(x > 0, 1.0), 0),
    "cast": (lambda x: x.to("cuda", torch.bfloat16), 0),
    "made there": (lambda x: torch.arange(3, device="cuda"), 0),
    "item": (lambda x: x.sum().item(), 1),
    "float": (lambda x: float(x[0, 0]), 1),
    "if": (lambda x: bool(x.any()), 1),
    "tolist": (lambda x: x.tolist(), 1),
    "cpu": (lambda x: x.cpu(), 1),
    "copy_ from": (lambda x: torch.ones(3, 3).copy_(x), 1),
    "copy_ to": (lambda x: x.copy_(torch.ones(3, 3)), 1),
    "tensor": (lambda x: torch.tensor([1, 2], device="cuda"), 1),
    "not pinned": (lambda x: torch.ones(1).to("cuda", non_blocking=True), 1),
    "not let go": (lambda x: torch.ones(1).pin_memory().to("cuda"), 1),
    "pinned": (lambda x: torch.ones(1).pin_memory().to("cuda", non_blocking=True), 0),
    "nonzero": (lambda x: x.nonzero(), 1),
    "mask": (lambda x: x[x > 0], 1),
    "index of the host": (lambda x: x[torch.tensor([0])], 1),
    "index": (lambda x: x[torch.arange(2, device="cuda")], 0),
    "equal": (lambda x: torch.equal(x, x), 1),
    "unknown length": (lambda x: x[0].repeat_interleave(torch.arange(3, device="cuda")), 1),
    "synchronize": (lambda x: torch.cuda.synchronize(), 1),
}


@pytest.mark.parametrize("what", WAITING)
def test_waits_are_counted_and_refused_in_a_capture(what, cuda):
    x = torch.ones(3, 3, device="cuda")
    run, expected = WAITING[what]
    before = cuda.syncs
    run(x)
    assert cuda.syncs - before == expected == len(cuda.waited_for) - before
    before = x.cpu()
    if expected:
        graph = torch.cuda.CUDAGraph()
        with pytest.raises(RuntimeError, match=CAPTURING), torch.cuda.graph(graph):
            run(x)
        assert torch.equal(x.cpu(), before)
        with pytest.raises(RuntimeError, match="without a preceding"):
            graph.replay()


def test_a_copy_under_way_is_not_there_yet(cuda):
    x = torch.arange(3, device="cuda")
    before = cuda.syncs
    host, pinned = x.to("cpu", non_blocking=True), torch.zeros(3).pin_memory()
    pinned.copy_(x, non_blocking=True)
    assert pinned.is_pinned() and not host.is_pinned() and cuda.syncs == before
    assert host.tolist() != [0, 1, 2] and pinned.isnan().all()
    torch.cuda.synchronize()
    assert host.tolist() == [0, 1, 2] == pinned.tolist()


def test_generators_are_of_one_device(cuda):
    own = torch.Generator(device="cuda").manual_seed(5)
    assert own.device.type == "cuda" and own.initial_seed() == 5
    assert isinstance(own, torch.Generator) and isinstance(torch.Generator(), torch.Generator)
    drawn = torch.rand(4, generator=own, device="cuda").tolist()
    again = torch.empty(4, device="cuda").uniform_(generator=own.manual_seed(5)).tolist()
    assert drawn == again == torch.rand(4, generator=torch.Generator().manual_seed(5)).tolist()
    host = torch.Generator()
    with pytest.raises(RuntimeError, match="Expected a 'cuda' device type for generator"):
        torch.rand(4, generator=host, device="cuda")
    with pytest.raises(RuntimeError, match="Expected a 'cuda' device type for generator"):
        torch.ones(4, device="cuda").uniform_(generator=host)
    with pytest.raises(RuntimeError, match="Expected a 'cpu' device type for generator"):
        torch.rand(4, generator=own)
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    drawn = F.dropout(torch.ones(100, device="cuda"))  # the processor's numbers stay
    assert torch.equal(torch.rand(2), expected) and 0 < int((drawn > 0).sum()) < 100


def test_products_kept_in_fp32(cuda):
    a, b = torch.randn(3, 4).bfloat16(), torch.randn(4, 5).bfloat16()
    there = a.to("cuda"), b.to("cuda")
    wide = torch.mm(*there, out_dtype=torch.float32)
    assert torch.equal(wide.cpu(), a.float() @ b.float()) and wide.dtype == torch.float32
    out = torch.empty(3, 5, device="cuda")
    assert torch.mm(*there, out_dtype=torch.float32, out=out) is out and torch.equal(out, wide)
    with pytest.raises(RuntimeError, match="out_dtype"):
        torch.mm(*(x.float() for x in there), out_dtype=torch.float64)


STARTS, KEY_STARTS = [0, 4, 4, 9, 12], [0, 6, 8, 17, 18]  # the last: more queries than keys


def packed_qkv(dtype=torch.bfloat16, device="cuda") -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((12, 4, 16), (18, 2, 16), (18, 2, 16))
    made = [torch.randn(shape, generator=generator).to(dtype).to(device) for shape in shapes]
    return [x.requires_grad_() for x in made]


def attended(q, k, v, starts=STARTS, key_starts=KEY_STARTS, longest=(5, 9), window=(-1, 0)):
    cu = [torch.tensor(x, dtype=torch.int32, device="cuda") for x in (starts, key_starts)]
    return varlen_attn(q, k, v, *cu, *longest, scale=0.3, window_size=window, enable_gqa=True)


def by_hand(q: np.ndarray, k: np.ndarray, v: np.ndarray, left: int, right: int) -> np.ndarray:
    """One query and one head after another."""
    out = np.zeros(q.shape)
    for (a, b), (c, d) in zip(pairwise(STARTS), pairwise(KEY_STARTS), strict=True):
        for i, h in np.ndindex(b - a, q.shape[1]):
            at = i + (d - c) - (b - a)
            first = 0 if left < 0 else max(0, at - left)
            last = d - c if right < 0 else min(d - c, at + right + 1)
            if last > first:
                keys, values = (x[c:d, h // 2][first:last] for x in (k, v))
                weights = np.exp(0.3 * keys @ q[a + i, h])
                out[a + i, h] = weights / weights.sum() @ values
    return out


@pytest.mark.parametrize("window", [(-1, -1), (-1, 0), (2, 0), (1, 2)])
def test_attention_of_packed_sequences(window, cuda):
    q, k, v = packed_qkv()
    out = attended(q, k, v, window=window)
    arrays = [x.detach().cpu().double().numpy() for x in (q, k, v)]
    assert out.dtype == torch.bfloat16
    expected = torch.from_numpy(by_hand(*arrays, *window)).float()
    assert_close(out.detach().cpu().float(), expected, atol=4e-3, rtol=8e-3)
    if window[1] == 0:
        assert not out[9].any() and out[11].any()  # two queries stand before the only key


def plain_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention of packed sequences in one piece: every query against every key."""
    rows, keys = torch.arange(12), torch.arange(18)
    row_of, key_row_of = (
        torch.bucketize(x, torch.tensor(starts[1:]), right=True)
        for x, starts in ((rows, STARTS), (keys, KEY_STARTS))
    )
    ends, key_ends = torch.tensor(STARTS[1:]), torch.tensor(KEY_STARTS[1:])
    to_end, key_to_end = ends[row_of] - rows, key_ends[key_row_of] - keys
    seen = (row_of[:, None] == key_row_of) & (key_to_end >= to_end[:, None])
    k, v = (x.repeat_interleave(2, 1) for x in (k, v))
    scores = 0.3 * (q.transpose(0, 1) @ k.permute(1, 2, 0))
    weights = scores.masked_fill(~seen, -1e30).softmax(-1) * seen
    return (weights @ v.transpose(0, 1)).transpose(0, 1)


def test_gradients_of_attention(cuda):
    there = packed_qkv()
    here = [x.detach().cpu().float().requires_grad_() for x in there]
    slopes = torch.randn(12, 4, 16, generator=torch.Generator().manual_seed(1)).bfloat16()
    attended(*there).backward(slopes.to("cuda"))
    plain_attention(*here).backward(slopes.float())
    for a, b in zip(there, here, strict=True):
        assert a.grad.dtype == torch.bfloat16 and b.grad.abs().max() > 0.1
        assert_close(a.grad.cpu().float(), b.grad, atol=1e-2, rtol=1e-2)


def test_what_flash_attention_refuses(cuda):
    q, k, v = packed_qkv()
    with pytest.raises(RuntimeError, match="fp16 and bf16"):
        attended(*packed_qkv(torch.float32))
    for longest in ((4, 9), (5, 8)):
        with pytest.raises(RuntimeError, match="longer than the longest"):
            attended(q, k, v, longest=longest)
    for starts in ([0, 4, 4, 9, 11], [1, 4, 4, 9, 12], [0, 4, 3, 9, 12]):
        with pytest.raises(RuntimeError, match="from 0 to the number of tokens"):
            attended(q, k, v, starts)
    with pytest.raises(RuntimeError, match="int32"):
        cu = torch.tensor(STARTS, device="cuda")
        varlen_attn(q, q, q, cu, cu, 5, 5)
    with pytest.raises(RuntimeError, match=MIXED):
        varlen_attn(q, q, q, *[torch.tensor(STARTS, dtype=torch.int32)] * 2, 5, 5)
    with pytest.raises(RuntimeError, match="head size"):
        wide = torch.zeros(12, 1, 264, dtype=torch.bfloat16, device="cuda")
        attended(wide, wide, wide, key_starts=STARTS)


def test_a_graph_plays_in_the_same_memory(cuda):
    x, state = torch.zeros(3, device="cuda"), torch.ones(3, device="cuda")
    graph, number = torch.cuda.CUDAGraph(), torch.tensor(2.0)
    with torch.cuda.graph(graph, pool=torch.cuda.graph_pool_handle()):
        assert torch.cuda.is_current_stream_capturing()
        first = state[0] + number * x[1:].sum()  # reads a view of what changes below
        state.add_(1.0)
        state[2:] += x[2:]
        out = torch.arange(3, device="cuda") + first
    assert state.tolist() == [1.0, 1.0, 1.0] and all(map(math.isnan, out.tolist()))
    x.copy_(torch.tensor([1.0, 2.0, 3.0]))
    number.fill_(9.0)  # a graph keeps the number that it was given
    graph.replay()
    kept = out
    assert out.tolist() == [11.0, 12.0, 13.0] and state.tolist() == [2.0, 2.0, 5.0]
    state.fill_(0.0)
    graph.replay()
    assert kept.tolist() == [10.0, 11.0, 12.0] and state.tolist() == [1.0, 1.0, 4.0]


def test_a_graph_of_a_training_step(cuda):
    weight, x = nn.Parameter(torch.ones(3, device="cuda")), torch.zeros(3, device="cuda")
    weight.grad = torch.zeros_like(weight)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = (weight * x).square().sum()
        loss.backward()
    assert not weight.grad.any()
    x.copy_(torch.tensor([1.0, 2.0, 3.0]))
    graph.replay()
    graph.replay()
    assert loss.item() == 14.0 and weight.grad.tolist() == [4.0, 16.0, 36.0]


def test_no_random_numbers_in_a_capture(cuda):
    x = torch.ones(3, device="cuda")
    for draw in (lambda: torch.rand(3, device="cuda"), x.uniform_, lambda: F.dropout(x)):
        with pytest.raises(RuntimeError, match=CAPTURING), torch.cuda.graph(torch.cuda.CUDAGraph()):
            draw()
    assert x.tolist() == [1.0] * 3


def test_events_take_the_time(cuda):
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    with pytest.raises(ValueError, match="recorded"):
        first.elapsed_time(last)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        first.record()
        last.record()
    last.synchronize()
    assert 0 < first.elapsed_time(last) < 1000 and cuda.waited_for == ["Event.synchronize"]


def test_saving(tiny_model, tmp_path, cuda):
    model = tiny_model("llama", tie_word_embeddings=True)
    expected = {name: x.clone() for name, x in model.state_dict().items()}
    model.to("cuda")
    torch.save(model.state_dict(), tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", map_location="cpu", weights_only=True)
    assert expected.keys() == loaded.keys()
    assert all(torch.equal(loaded[name], x) and not x.is_cuda for name, x in expected.items())
    model.save_pretrained(tmp_path / "model")
    again = type(model).from_pretrained(tmp_path / "model")
    assert all(torch.equal(again.state_dict()[name], x) for name, x in expected.items())
    assert {p.device.type for p in copy.deepcopy(model).parameters()} == {"cuda"}


def test_everything_is_as_it_was_afterwards():
    places = [torch.cuda, torch, torch.Tensor]
    before = [dict(vars(place)) for place in places]
    with pretend_cuda() as device:
        assert torch.cuda.is_available() and torch.cuda.device_count() == 1
        assert torch.cuda.get_device_properties(0).total_memory > 2**30
        assert [dict(vars(place)) for place in places] != before
        x = torch.ones(2, device="cuda")
        assert device.syncs == 0
    after = [dict(vars(place)) for place in places]
    for old, new in zip(before, after, strict=True):
        assert old.keys() == new.keys() and all(old[name] is new[name] for name in old)
    assert not torch.cuda.is_available()
    with pytest.raises((RuntimeError, AssertionError)):
        torch.zeros(2, device="cuda")
    with pytest.raises(RuntimeError, match="the pretend device is gone"):
        x + 1
