"""Packed and cached attention against the library's own padded eager attention."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from heedful.errors import ModelError
from heedful.models import attention, buckets
from heedful.models.attention import Cached, Packed
from heedful.models.cache import KeyValueCache
from heedful.models.language_model import cast_weights, hidden_states, hidden_states_at
from heedful.models.output_head import (
    logits,
    output_head,
    prepacked_head,
    token_logprobs,
    token_loss,
)

ARCHITECTURES = ["llama", "gpt2", "qwen3", "gemma2", "gemma3"]
LENGTHS = [7, 1, 12, 3, 12, 2, 5, 9, 1, 4]


def sequences_of(lengths: list[int], seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(2, 100, (n,), generator=generator).tolist() for n in lengths]


def flat(sequences: list[list[int]]) -> torch.Tensor:
    return torch.tensor([token for sequence in sequences for token in sequence])


def padded_hidden(model, sequences: list[list[int]]) -> torch.Tensor:
    """(T, D) final hidden states of the real tokens, by the library on right-padded rows."""
    longest = max(map(len, sequences))
    rows = torch.tensor([s + [1] * (longest - len(s)) for s in sequences])
    real = torch.tensor([[1] * len(s) + [0] * (longest - len(s)) for s in sequences])
    output = model.base_model(input_ids=rows, attention_mask=real, use_cache=False)
    return output.last_hidden_state[real.bool()]


@pytest.fixture(params=["buckets", "weights made again", "sdpa"])
def path(request, monkeypatch):
    """The ways on the CPU: batched matmuls over buckets, and scaled_dot_product_attention."""
    monkeypatch.setattr(buckets, "MIN_BUCKET_ROWS", 3)  # several buckets
    if request.param == "sdpa":
        monkeypatch.setattr(attention, "MAX_MATMUL_LENGTH", 0)
    if request.param == "weights made again":
        monkeypatch.setattr(buckets, "MAX_KEPT_LENGTH", 0)
    return request.param


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_packed_equals_padded(tiny_model, architecture, path):
    ours, theirs = tiny_model(architecture), tiny_model(architecture, attention="eager")
    sequences = sequences_of(LENGTHS)
    tokens, layout = flat(sequences), Packed(LENGTHS)
    assert len(layout.buckets) > 1

    hidden = hidden_states(ours, tokens, layout)
    expected = padded_hidden(theirs, sequences)
    assert_close(hidden, expected, rtol=1e-4, atol=1e-5)

    targets = torch.randint(2, 100, tokens.shape, generator=torch.Generator().manual_seed(1))
    weights = torch.randn(tokens.shape, generator=torch.Generator().manual_seed(2))
    loss, logprobs = token_loss(ours, hidden, targets, lambda p, part: (weights[part] * p).sum())
    config = theirs.config
    z = theirs.lm_head(expected)
    if cap := getattr(config, "final_logit_softcapping", None):
        z = cap * torch.tanh(z / cap)
    oracle = torch.log_softmax(z, -1).gather(1, targets[:, None])[:, 0]
    assert_close(logprobs, oracle, rtol=1e-4, atol=1e-4)

    loss.backward()
    (weights * oracle).sum().backward()
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        message = f"gradient of {name}"
        scale = float(other.grad.abs().max())
        assert_close(mine.grad / scale, other.grad / scale, rtol=0, atol=2e-5, msg=message)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_states_at_chosen_positions(tiny_model, architecture):
    """Fewer rows in the last MLP; the states and gradients of the library's whole pass."""
    ours, theirs = tiny_model(architecture), tiny_model(architecture, attention="eager")
    sequences = sequences_of(LENGTHS)
    positions = torch.tensor([6, 7, 19, 19, 3, 55])  # one of them twice
    seen = []
    blocks = [module for name, module in ours.named_modules() if name.endswith(".mlp")]
    for block in blocks:
        block.register_forward_hook(lambda _block, _inputs, output: seen.append(output.shape[1]))

    hidden = hidden_states_at(ours, flat(sequences), Packed(LENGTHS), positions)
    assert seen == [sum(LENGTHS)] * (len(blocks) - 1) + [5]
    expected = padded_hidden(theirs, sequences)[positions]
    assert_close(hidden, expected, rtol=1e-4, atol=1e-5)

    weights = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(2))
    (weights * hidden).sum().backward()
    (weights * expected).sum().backward()
    bodies = ours.base_model.named_parameters(), theirs.base_model.parameters()
    for (name, mine), other in zip(*bodies, strict=True):
        message = f"gradient of {name}"
        scale = float(other.grad.abs().max())
        assert_close(mine.grad / scale, other.grad / scale, rtol=0, atol=2e-5, msg=message)

    seen.clear()  # nothing of the choice is left on the model
    hidden_states(ours, flat(sequences), Packed(LENGTHS))
    assert seen == [sum(LENGTHS)] * len(blocks)


def test_each_sequence_is_alone(tiny_model):
    model = tiny_model("qwen3")
    sequences = sequences_of([6, 9, 6])
    together = hidden_states(model, flat(sequences), Packed([6, 9, 6]))
    alone = [hidden_states(model, torch.tensor(s), Packed([len(s)])) for s in sequences]
    assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_bf16_stays_near_fp32(tiny_model, path):
    """bf16 keeps 8 bits: hidden states of 2 layers within 5 percent of their scale."""
    exact, coarse = tiny_model("llama"), tiny_model("llama")
    cast_weights(coarse, torch.bfloat16)
    tokens = flat(sequences_of(LENGTHS))
    expected = hidden_states(exact, tokens, Packed(LENGTHS))
    found = hidden_states(coarse, tokens, Packed(LENGTHS))
    assert found.dtype == torch.bfloat16
    error = (found.float() - expected).abs().mean() / expected.abs().mean()
    assert float(error) < 0.05
    targets = tokens.flip(0)
    difference = token_logprobs(coarse, found, targets) - token_logprobs(exact, expected, targets)
    assert float(difference.abs().mean()) < 0.05


# (prompt, lengths of its responses): longer and shorter than the window of 4
TREES = [(7, [3, 9, 1]), (1, [2, 2]), (9, [5, 6, 1, 3]), (3, [8])]


def shared(trees: list[tuple[int, list[int]]]) -> tuple[list[list[int]], Packed, list[list[int]]]:
    """Random sequences, each response on its own; their layout; and the indices of the tokens that
    every prompt with a response has in the flat row."""
    lengths, prefix_of, whole = [], [], []
    for prompt, responses in trees:
        start, first = sum(lengths), len(lengths)
        lengths += [prompt, *responses]
        prefix_of += [None, *[first] * len(responses)]
        for i in range(first + 1, len(lengths)):
            begin = sum(lengths[:i])
            whole.append([*range(start, start + prompt), *range(begin, begin + lengths[i])])
    return sequences_of(lengths), Packed(lengths, prefix_of), whole


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_responses_that_share_a_prompt_equal_whole_sequences(tiny_model, architecture, path):
    ours, theirs = tiny_model(architecture), tiny_model(architecture, attention="eager")
    sequences, layout, whole = shared(TREES)
    tokens = flat(sequences)
    assert len(layout.buckets) > 2

    states = hidden_states(ours, tokens, layout)
    hidden = torch.cat([states[indices] for indices in whole])
    expected = padded_hidden(theirs, [tokens[indices].tolist() for indices in whole])
    assert_close(hidden, expected, rtol=1e-4, atol=1e-5)

    weights = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(2))
    (weights * hidden).sum().backward()
    (weights * expected).sum().backward()
    for (name, mine), other in zip(
        ours.base_model.named_parameters(), theirs.base_model.parameters(), strict=True
    ):
        scale = float(other.grad.abs().max())
        message = f"gradient of {name}"
        assert_close(mine.grad / scale, other.grad / scale, rtol=0, atol=2e-5, msg=message)


def test_shared_prompts_in_bf16_stay_near_fp32(tiny_model, path):
    """Hidden states as in the test above; the gradient's direction within a cosine of 0.99."""
    exact, coarse = tiny_model("llama"), tiny_model("llama")
    cast_weights(coarse, torch.bfloat16)
    sequences, layout, _ = shared(TREES)
    expected, found = (hidden_states(m, flat(sequences), layout) for m in (exact, coarse))
    assert found.dtype == torch.bfloat16
    error = (found.float() - expected).abs().mean() / expected.abs().mean()
    assert float(error.detach()) < 0.05
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(2))
    grads = []
    for model, hidden in ((exact, expected), (coarse, found)):
        (weights * hidden).sum().backward()
        parameters = model.base_model.parameters()
        grads.append(torch.cat([p.grad.flatten().float() for p in parameters]))
    assert float(torch.cosine_similarity(*grads, dim=0)) > 0.99


def test_attention_dropout_is_applied_in_training_only(tiny_model):
    model = tiny_model("llama", attention_dropout=0.5)
    tokens, layout = flat(sequences_of([8, 8])), Packed([8, 8])
    still = hidden_states(model, tokens, layout)
    assert_close(hidden_states(model, tokens, layout), still)
    model.train()
    torch.manual_seed(0)
    first, second = (hidden_states(model, tokens, layout) for _ in range(2))
    assert not torch.allclose(first, second)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_cached_decoding_equals_a_full_pass(tiny_model, architecture):
    model = tiny_model(architecture)
    prompts, rest = sequences_of([5, 1, 11]), sequences_of([6, 6, 6], seed=1)
    cache = KeyValueCache(model.config, rows=3, slots=20, dtype=torch.float32)
    prefill = Packed([5, 1, 11])
    prefill.cache, prefill.cache_rows = cache, torch.arange(3)
    hidden_states(model, flat(prompts), prefill)
    slots = torch.tensor([5, 1, 11])
    steps = []
    for column in range(6):
        tokens = torch.tensor([row[column] for row in rest])
        cache.reserve(int(slots.max()) + 1)
        steps.append(hidden_states(model, tokens, Cached(cache, slots)))
        slots = slots + 1
    for i in range(3):
        whole = prompts[i] + rest[i]
        expected = hidden_states(model, torch.tensor(whole), Packed([len(whole)]))[-6:]
        assert_close(torch.stack([s[i] for s in steps]), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_moved_rows_of_a_cache_go_on_as_before(tiny_model):
    model = tiny_model("llama")
    prompts = sequences_of([4, 6])
    cache = KeyValueCache(model.config, rows=2, slots=8, dtype=torch.float32)
    prefill = Packed([4, 6])
    prefill.cache, prefill.cache_rows = cache, torch.arange(2)
    hidden_states(model, flat(prompts), prefill)
    cache.move_rows(torch.tensor([1]), torch.tensor([0]), 6)
    moved = hidden_states(model, torch.tensor([9]), Cached(cache, torch.tensor([6])))
    whole = hidden_states(model, torch.tensor([*prompts[1], 9]), Packed([7]))
    assert_close(moved[0], whole[-1], rtol=1e-4, atol=1e-5)


def test_positions_restart():
    layout = Packed([2, 1, 3])
    assert layout.position_ids.tolist() == [[0, 1, 0, 0, 1, 2]]
    assert layout.starts.tolist() == [0, 2, 3, 6]
    assert layout.row_of.tolist() == [0, 0, 1, 2, 2, 2]


def test_positions_go_on_from_the_prefix():
    layout = Packed([3, 2, 4, 1, 2], [None, 0, None, 0, 2])
    assert layout.position_ids.tolist() == [[0, 1, 2, 3, 4, 0, 1, 2, 3, 3, 4, 5]]
    assert layout.prefix_lengths == [0, 3, 0, 3, 4]
    assert layout.longest == 6


def test_a_bias_shows_prefix_and_past():
    layout = Packed([3, 1, 2, 2], [None, None, 0, 1])
    bucket = layout.buckets[-1]
    assert (bucket.num_rows, bucket.length) == (2, 2)
    # keys: three cells of prefix (the second row has one token there), then the row's own
    everything = [[[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]], [[1, 0, 0, 1, 0], [1, 0, 0, 1, 1]]]
    window_of_two = [[[0, 0, 1, 1, 0], [0, 0, 0, 1, 1]], [[1, 0, 0, 1, 0], [0, 0, 0, 1, 1]]]
    for window, seen in ((None, everything), (2, window_of_two)):
        bias = bucket.bias(window, torch.float32)
        assert bias[:, 0].exp().tolist() == seen


def test_a_prefix_of_a_prefix_is_refused():
    with pytest.raises(ValueError, match="prefix of its own"):
        Packed([2, 2, 2], [None, 0, 1])


@pytest.mark.parametrize("lengths", [[], [3, 0]])
def test_an_empty_sequence_is_refused(lengths):
    with pytest.raises(ValueError, match="at least one token"):
        Packed(lengths)


def test_a_call_without_layout_names_the_cause(tiny_model):
    with pytest.raises(ModelError, match="layout="):
        tiny_model("llama")(input_ids=torch.tensor([[2, 3]]))


def test_buckets_hold_every_row_once_and_similar_lengths(monkeypatch):
    monkeypatch.setattr(buckets, "MIN_BUCKET_ROWS", 2)
    layout = Packed([10, 2, 9, 3, 10, 2])
    rows = [(bucket.num_rows, bucket.length) for bucket in layout.buckets]
    assert rows == [(3, 10), (2, 3), (1, 2)]
    covered = torch.cat([bucket.tokens for bucket in layout.buckets])
    assert sorted(covered.tolist()) == list(range(36))


def test_logits_are_fp32_even_in_bf16(tiny_model):
    model = tiny_model("llama")
    cast_weights(model, torch.bfloat16)
    hidden = torch.randn(3, 32).to(torch.bfloat16)
    exact = hidden.float() @ model.lm_head.weight.float().T
    for head in (output_head(model), prepacked_head(model)):
        found = logits(head, hidden)
        assert found.dtype == torch.float32
        assert_close(found, exact, rtol=1e-5, atol=1e-5)
