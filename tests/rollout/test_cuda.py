"""Sampling on a CUDA device, pretended: graphs, few waits, and the tokens of the processor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch.testing import assert_close

from heedful.models import cache, varlen
from heedful.models.attention import Packed
from heedful.models.cache import KeyValueCache
from heedful.models.language_model import hidden_states, place
from heedful.models.output_head import token_logprobs
from heedful.rollout import engine, steps
from heedful.rollout.engine import sample

CUDA = torch.device("cuda")
NEVER, PAD = 0, 1


def prompts_of(count: int, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 12, (count,), generator=generator).tolist()
    return [torch.randint(2, 100, (n,), generator=generator).tolist() for n in lengths]


PROMPTS = prompts_of(13)


@pytest.fixture
def graphs(monkeypatch):
    """How many steps were captured, and how many were played back."""
    counts = {"captured": 0, "replayed": 0}

    class Counted(torch.cuda.CUDAGraph):
        def __init__(self):
            super().__init__()
            counts["captured"] += 1

        def replay(self):
            counts["replayed"] += 1
            super().replay()

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Counted)
    return counts


def common_token(model) -> int:
    """One that ends some greedy responses of PROMPTS early, some late and some not at all."""
    rollout = greedy(model, NEVER)
    tokens = rollout.tokens
    said = set(tokens.flatten().tolist()) - {PAD}
    counts = {t: int((tokens == t).any(1).sum()) for t in said}
    return min((t for t in counts if counts[t] < len(PROMPTS)), key=lambda t: abs(counts[t] - 5))


def greedy(model, eos, max_rows=256, n=1):
    settings = {"max_new_tokens": 20, "temperature": 0.0, "max_rows": max_rows, "n": n}
    return sample(model, PROMPTS, eos=eos, pad=PAD, **settings)


@pytest.mark.parametrize(
    ("architecture", "max_rows", "n"),
    [(name, 256, 1) for name in ("llama", "gpt2", "qwen3", "gemma2", "gemma3")]
    + [("llama", 5, 1), ("gemma3", 6, 2)],
)
def test_the_tokens_are_those_of_the_processor(tiny_model, cuda, graphs, architecture, max_rows, n):
    """Rows leave, others take their places, the cache grows; every step from a graph but a few."""
    model = tiny_model(architecture)
    eos = common_token(model)
    here = greedy(model, eos, max_rows, n)
    assert 0 < int(here.finished.sum()) < len(here.finished)
    model.to(CUDA)
    there = greedy(model, eos, max_rows, n)
    assert {x.device.type for x in there} == {"cpu"}
    assert there.rows() == here.rows()
    assert there.finished.tolist() == here.finished.tolist()
    assert_close(there.logprobs, here.logprobs, rtol=0, atol=1e-4)
    assert 0 < graphs["captured"] < graphs["replayed"] / 2


def test_rows_shrink_and_the_cache_grows(tiny_model, cuda, graphs, monkeypatch):
    """A graph for every number of rows and slots; 4 slots at a time, and rows to a quarter."""
    monkeypatch.setattr(cache, "SLOTS_ON_ACCELERATORS", 4)
    monkeypatch.setattr(steps, "STEPS_ON_ACCELERATORS", 2)
    sizes: list[int] = []
    decoded = steps.Steps.num_decoded
    monkeypatch.setattr(
        steps.Steps, "num_decoded", lambda *given: sizes.append(decoded(*given)) or sizes[-1]
    )
    model = tiny_model("llama")
    settings = {"max_new_tokens": 20, "temperature": 0.0, "pad": PAD}
    twelve, one = sample(model, PROMPTS[:2], eos=1000, **settings).rows()
    prompts = [PROMPTS[0]] * 12 + [PROMPTS[1]]
    eos = next(t for t in twelve[8:] if t not in (*one, *twelve[:8], PAD))
    here = sample(model, prompts, eos=eos, **settings)
    assert here.finished.tolist() == [True] * 12 + [False]
    model.to(CUDA)
    sizes.clear()
    assert sample(model, prompts, eos=eos, **settings).rows() == here.rows()
    assert (sizes[0], sizes[-1]) == (13, 3) and graphs["captured"] >= 3


def test_the_host_waits_once_for_several_steps(tiny_model, cuda):
    model = tiny_model("llama")
    model.to(CUDA)
    waits = []
    for new in (41, 81):
        cuda.syncs = 0
        settings = {"eos": 1000, "pad": PAD, "generator": torch.Generator().manual_seed(0)}
        rollout = sample(model, PROMPTS, max_new_tokens=new, **settings)
        assert not rollout.finished.any()
        waits.append(cuda.syncs)
    # 40 steps more: a look for every eight, and what a larger cache needs
    assert 0 < waits[1] - waits[0] <= 40 / steps.STEPS_ON_ACCELERATORS + 2, cuda.waited_for


@pytest.mark.parametrize(
    ("architecture", "known"),
    [(name, True) for name in ("llama", "gpt2", "gemma2", "gemma3")] + [("llama", False)],
)
def test_bf16_log_probabilities_are_those_of_training(
    tiny_model, cuda, graphs, monkeypatch, architecture, known
):
    """Against a packed pass over whole sequences in fp32 of the same bf16 weights: decoding by the
    kernel that reads what is used of a row, and by products with all of it."""
    monkeypatch.setattr(varlen, "TAKES_USED", known)
    monkeypatch.setattr(cache, "SLOTS_ON_ACCELERATORS", 4)
    if known:
        monkeypatch.setattr(cache, "free_bytes_of", lambda _: 0)  # the cache has to grow
    exact, model = tiny_model(architecture), tiny_model(architecture)
    for each in (model, exact):
        place(each, torch.bfloat16, torch.device("cpu"))
    exact.float()
    model.to(CUDA)
    settings = {"max_new_tokens": 20, "eos": 1000, "pad": PAD, "max_rows": 5}
    generator = torch.Generator().manual_seed(0)
    rollout = sample(model, PROMPTS, generator=generator, **settings)
    assert graphs["replayed"] > graphs["captured"] > 0
    for i, (prompt, response) in enumerate(zip(PROMPTS, rollout.rows(), strict=True)):
        tokens = torch.tensor([*prompt, *response[:-1]])
        with torch.no_grad():
            hidden = hidden_states(exact, tokens, layout(len(tokens)))[len(prompt) - 1 :]
            expected = token_logprobs(exact, hidden, torch.tensor(response))
        assert len(response) == 20
        assert_close(rollout.logprobs[i], expected, rtol=0.03, atol=0.1)
    by_slot = KeyValueCache(model.config, 1, 1, torch.bfloat16, CUDA).is_by_slot
    assert by_slot == (known and architecture != "gemma2")  # which has soft caps


def test_a_cache_that_fits_is_there_from_the_start(tiny_model, cuda, graphs, monkeypatch):
    """So that no graph is made again for more slots; one that does not fit grows."""
    model = tiny_model("llama")
    place(model, torch.bfloat16, CUDA)
    monkeypatch.setattr(cache, "SLOTS_ON_ACCELERATORS", 4)
    settings = {"max_new_tokens": 30, "eos": 1000, "pad": PAD, "temperature": 0.0}
    counts, rows = [], []
    for free in (2**40, 0):
        monkeypatch.setattr(cache, "free_bytes_of", lambda _, free=free: free)
        graphs["captured"] = 0
        rows.append(sample(model, PROMPTS, **settings).rows())
        counts.append(graphs["captured"])
    assert counts[0] == 1 < 3 < counts[1]
    assert rows[0] == rows[1]


def test_many_long_prompts_are_read_in_parts(tiny_model, monkeypatch):
    model = tiny_model("llama")
    whole = greedy(model, 1000)
    read: list[int] = []
    prefill = engine._prefill

    def counted(decoder, prompts, *rest):
        read.append(sum(map(len, prompts)))
        return prefill(decoder, prompts, *rest)

    monkeypatch.setattr(engine, "_prefill", counted)
    monkeypatch.setattr(engine, "PREFILL_TOKENS", 20)
    assert greedy(model, 1000, n=2).rows()[::2] == whole.rows()
    assert max(read) <= 20 and len(read) > 2 and sum(read) == sum(map(len, PROMPTS))


def test_the_generator_decides(tiny_model, cuda):
    model = tiny_model("llama")
    place(model, torch.bfloat16, CUDA)

    def drawn(seed):
        generator = torch.Generator().manual_seed(seed)
        settings = {"max_new_tokens": 9, "eos": NEVER, "pad": PAD, "generator": generator}
        return [sample(model, PROMPTS, **settings).rows() for _ in range(2)]

    first, again, other = drawn(1), drawn(1), drawn(2)
    assert first == again != other
    assert first[0] != first[1]  # a generator goes on


@pytest.mark.parametrize("top_p", [1.0, 0.6])
@torch.no_grad()
def test_second_tokens_follow_the_softmax(tiny_model, cuda, top_p):
    """Those of graphs: 4,000 draws after one first token, which top_p 1e-6 of the first decides."""
    model = tiny_model("llama", vocab_size=12)
    prompt, count = [3, 5, 7], 4000
    z = model(input_ids=torch.tensor([prompt]), use_cache=False, layout=layout(3)).logits[0, -1]
    wanted = torch.softmax(z, -1).double().numpy()
    order = np.argsort(-wanted)
    kept = order[np.cumsum(wanted[order]) - wanted[order] < top_p]
    model.to(CUDA)
    settings = {"max_new_tokens": 3, "eos": 100, "pad": PAD, "top_p": top_p, "max_rows": 500}
    generator = torch.Generator().manual_seed(0)
    rollout = sample(model, [prompt] * count, generator=generator, **settings)
    counts = np.bincount(rollout.tokens[:, 0].numpy(), minlength=12)
    assert counts.sum() == counts[kept].sum() == count
    expected = wanted[kept] / wanted[kept].sum() * count
    assert chisquare(counts[kept], expected).pvalue > 0.001
    # the third token, drawn in a graph, against the softmax after each of the pairs before it
    pairs = {tuple(row[:2]) for row in rollout.rows()}
    first = max(pairs, key=lambda pair: (rollout.tokens[:, :2] == torch.tensor(pair)).all(1).sum())
    rows = (rollout.tokens[:, :2] == torch.tensor(first)).all(1)
    model.to("cpu")
    whole = torch.tensor([[*prompt, *first]])
    z = model(input_ids=whole, use_cache=False, layout=layout(5)).logits[0, -1]
    wanted = torch.softmax(z, -1).double().numpy()
    order = np.argsort(-wanted)
    kept = order[np.cumsum(wanted[order]) - wanted[order] < top_p]
    counts = np.bincount(rollout.tokens[rows, 2].numpy(), minlength=12)
    assert counts.sum() == counts[kept].sum() > 50
    expected = wanted[kept] / wanted[kept].sum() * counts.sum()
    assert chisquare(counts[kept], expected).pvalue > 0.001


def layout(length: int):
    return Packed([length])


def test_a_model_that_cannot_be_captured_is_decoded_all_the_same(tiny_model, cuda, graphs, capsys):
    """One that asks for a number in its forward pass, as some position codes do."""
    model = tiny_model("llama")
    eos = common_token(model)
    here = greedy(model, eos)
    model.to(CUDA)

    def ask(_module, _inputs, settings):
        assert settings["position_ids"].max().item() >= 0

    model.model.rotary_emb.register_forward_pre_hook(ask, with_kwargs=True)
    there = greedy(model, eos)
    assert there.rows() == here.rows()
    assert graphs == {"captured": 1, "replayed": 0}
    assert greedy(model, eos).rows() == here.rows()
    assert graphs["captured"] == 1  # nobody tries again
    said = capsys.readouterr().err
    assert said.count("LlamaForCausalLM cannot be decoded from a graph") == 1
