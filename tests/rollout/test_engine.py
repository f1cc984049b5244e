"""The sampler against the library's own generation, and against exact probabilities."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch.testing import assert_close

from heedful.models import prepacked
from heedful.models.language_model import cast_weights
from heedful.rollout import steps
from heedful.rollout.engine import end_tokens, sample
from heedful.rollout.picking import pick

ARCHITECTURES = ["llama", "gpt2", "qwen3", "gemma2", "gemma3"]
NEVER, PAD = 0, 1  # a random model seldom says token 0: the tests choose an EOS that it does say


def prompts_of(lengths: list[int], seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(2, 100, (n,), generator=generator).tolist() for n in lengths]


PROMPTS = prompts_of([5, 1, 9, 3, 9, 2, 17])


def greedy(model, prompts, eos, new=12, **settings):
    return sample(model, prompts, max_new_tokens=new, temperature=0.0, eos=eos, pad=PAD, **settings)


def spoken(model) -> int:
    """A token that ends some greedy responses early, some late, and some not at all."""
    tokens = greedy(model, PROMPTS, NEVER).tokens
    counts = {t: int((tokens == t).any(1).sum()) for t in tokens.flatten().tolist()}
    return min((t for t in counts if counts[t] >= 2), key=lambda t: counts[t])


def full_logprobs(model, prompt, response, temperature=1.0) -> torch.Tensor:
    """(R,) by the library's whole forward pass, no cache, one sequence."""
    z = model(input_ids=torch.tensor([[*prompt, *response]]), use_cache=False).logits[0]
    z = torch.log_softmax(z[len(prompt) - 1 : -1] / temperature, -1)
    return z.gather(1, torch.tensor(response)[:, None])[:, 0]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_greedy_is_the_librarys_generate_and_a_slow_loop(tiny_model, architecture):
    ours, theirs = tiny_model(architecture), tiny_model(architecture, attention="eager")
    eos = spoken(ours)
    rollout = greedy(ours, PROMPTS, eos)
    assert 0 < int(rollout.finished.sum()) < len(PROMPTS)
    for i, (prompt, response) in enumerate(zip(PROMPTS, rollout.rows(), strict=True)):
        generated = theirs.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=eos,
            pad_token_id=PAD,
        )[0, len(prompt) :]
        assert response == generated.tolist(), prompt

        slow: list[int] = []
        while len(slow) < 12 and eos not in slow:
            z = theirs(input_ids=torch.tensor([prompt + slow]), use_cache=False).logits[0, -1]
            slow.append(int(z.argmax()))
        assert response == slow

        assert bool(rollout.finished[i]) == (response[-1] == eos)
        found = rollout.logprobs[i, : len(response)]
        assert_close(found, full_logprobs(theirs, prompt, response), rtol=0, atol=1e-4)


def test_the_end_of_a_row(tiny_model):
    model = tiny_model("llama")
    rollout = greedy(model, PROMPTS, spoken(model))
    for i, row in enumerate(rollout.rows()):
        length = int(rollout.lengths[i])
        assert len(row) == length  # EOS included
        assert rollout.tokens[i, length:].eq(PAD).all()
        assert rollout.logprobs[i, length:].eq(0).all()
        assert rollout.response_mask[i].tolist() == [j < length for j in range(12)]
    cut = ~rollout.finished
    assert rollout.lengths[cut].eq(12).all()


def test_tokens_reach_no_further_than_the_longest_row(tiny_model):
    model = tiny_model("llama")
    first = int(greedy(model, PROMPTS[:1], NEVER).tokens[0, 0])
    rollout = greedy(model, PROMPTS[:1], first)
    assert rollout.tokens.tolist() == [[first]]
    assert (rollout.lengths.tolist(), rollout.finished.tolist()) == ([1], [True])


@pytest.mark.parametrize("share", [0.0, 0.5, 1.1])
@pytest.mark.parametrize(("max_rows", "n"), [(1, 1), (3, 1), (256, 1), (2, 3), (7, 3)])
def test_leaving_rows_and_chunks_change_nothing(tiny_model, monkeypatch, share, max_rows, n):
    """Waiting prompts take the places of finished rows, n at a time."""
    model = tiny_model("qwen3")
    eos = spoken(model)
    expected = greedy(model, [prompt for prompt in PROMPTS for _ in range(n)], eos)
    monkeypatch.setattr(steps, "COMPACT_SHARE", share)
    found = greedy(model, PROMPTS, eos, max_rows=max_rows, n=n)
    assert torch.equal(found.tokens, expected.tokens)
    assert_close(found.logprobs, expected.logprobs, rtol=0, atol=1e-4)
    assert torch.equal(found.lengths, expected.lengths)
    assert torch.equal(found.finished, expected.finished)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.6, 1.0), (1.0, 0.7)])
@torch.no_grad()
def test_sampled_logprobs_are_those_of_a_full_pass(tiny_model, temperature, top_p):
    """With top_p the logprobs stay those of the whole distribution, which PPO is about."""
    ours, theirs = tiny_model("llama"), tiny_model("llama", attention="eager")
    rollout = sample(
        ours,
        PROMPTS,
        max_new_tokens=8,
        temperature=temperature,
        top_p=top_p,
        eos=spoken(ours),
        pad=PAD,
        n=2,
        generator=torch.Generator().manual_seed(0),
    )
    assert rollout.tokens.shape[0] == 2 * len(PROMPTS)
    for i, response in enumerate(rollout.rows()):
        expected = full_logprobs(theirs, PROMPTS[i // 2], response, temperature)
        found = rollout.logprobs[i, : len(response)]
        assert_close(found, expected, rtol=0, atol=1e-4)


def test_a_generator_makes_it_reproducible(tiny_model):
    model = tiny_model("llama")

    def run(seed):
        generator = torch.Generator().manual_seed(seed)
        settings = {"max_new_tokens": 6, "eos": NEVER, "pad": PAD, "generator": generator}
        return sample(model, PROMPTS, **settings).tokens.tolist()

    assert run(1) == run(1)
    assert run(1) != run(2)


@pytest.mark.parametrize(("n", "max_rows"), [(2000, 4000), (1, 700)])
@torch.no_grad()
def test_samples_follow_the_models_distribution(tiny_model, n, max_rows):
    """Two tokens of a vocabulary of 5, EOS among them: every outcome by its exact probability.

    Once as 2000 samples of a prompt that share its prefill, once as 2000 equal prompts in chunks.
    """
    changes = {"vocab_size": 5, "num_hidden_layers": 1}
    ours = tiny_model("llama", **changes)
    theirs = tiny_model("llama", attention="eager", **changes)
    prompts = [[2, 3, 4], [4]]
    rollout = sample(
        ours,
        [prompt for prompt in prompts for _ in range(2000 // n)],
        max_new_tokens=2,
        temperature=1.5,
        eos=0,
        pad=1,
        n=n,
        generator=torch.Generator().manual_seed(0),
        max_rows=max_rows,
    )
    for p, prompt in enumerate(prompts):
        first = torch.softmax(theirs(torch.tensor([prompt])).logits[0, -1].double() / 1.5, 0)
        expected = {(0,): float(first[0])}
        for token in range(1, 5):
            z = theirs(torch.tensor([[*prompt, token]])).logits[0, -1].double() / 1.5
            second = torch.softmax(z, 0)
            expected |= {(token, t): float(first[token] * second[t]) for t in range(5)}
        rows = rollout.rows()[2000 * p : 2000 * (p + 1)]
        found = dict.fromkeys(expected, 0)
        for row in rows:
            found[tuple(row)] += 1
        assert p_value(found, expected) > 0.001


def p_value(found: dict, expected: dict) -> float:
    """Chi-square of counts; outcomes expected less than 5 times are taken together."""
    total = sum(found.values())
    assert sum(expected.values()) == pytest.approx(1.0)
    often = [o for o in expected if expected[o] * total >= 5]
    counts = np.array([found[o] for o in often] + [0.0])
    wanted = np.array([expected[o] * total for o in often] + [0.0])
    counts[-1], wanted[-1] = total - counts.sum(), total - wanted.sum()
    if wanted[-1] < 5:
        counts[-2:], wanted[-2:] = [0, counts[-2:].sum()], [0, wanted[-2:].sum()]
        counts, wanted = np.delete(counts, -2), np.delete(wanted, -2)
    return float(chisquare(counts, wanted).pvalue)


def uniform(num_rows: int) -> torch.Tensor:
    return torch.rand(num_rows, 1, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("temperature", "top_p", "kept"),
    [(1.0, 1.0, 6), (0.5, 1.0, 6), (2.0, 1.0, 6), (1.0, 0.75, 3), (1.0, 0.1, 1)],
)
def test_picks_follow_the_softmax(temperature, top_p, kept):
    """30,000 draws against the softmax, cut to the fewest tokens that reach top_p.

    At temperature 1 the probabilities in order are .40 .25 .15 .10 .06 .04.
    """
    probabilities = np.array([0.06, 0.40, 0.10, 0.04, 0.25, 0.15])
    z = torch.tensor(np.log(probabilities) + 3.0, dtype=torch.float32).repeat(30_000, 1)
    tokens, logprobs = pick(z, temperature, top_p, uniform(30_000))

    powered = probabilities ** (1 / temperature)
    whole = powered / powered.sum()
    wanted = whole.copy()
    wanted[np.argsort(-whole)[kept:]] = 0.0
    wanted /= wanted.sum()
    counts = np.bincount(tokens.numpy(), minlength=6)
    assert (counts[wanted == 0] == 0).all()
    if kept > 1:
        seen = wanted > 0
        assert chisquare(counts[seen], 30_000 * wanted[seen]).pvalue > 0.001
    expected = torch.tensor(np.log(whole), dtype=torch.float32)[tokens]
    assert_close(logprobs, expected, rtol=0, atol=1e-5)


def test_a_token_of_probability_zero_is_never_drawn():
    """At both ends of the uniform numbers: 0, and the largest fp32 below 1."""
    z = torch.log(torch.tensor([[0.0, 0.3, 0.0, 0.7, 0.0]])).repeat(2, 1)
    ends = torch.tensor([[0.0], [1.0 - 2.0**-24]])
    assert pick(z.clone(), 1.0, 1.0, ends)[0].tolist() == [1, 3]
    assert pick(z, 1.0, 0.9, ends)[0].tolist() == [3, 1]


@pytest.mark.parametrize("size", [1, 2, 3, 16, 131, 1000])
def test_a_pick_is_where_the_running_sum_passes_the_uniform_number(size):
    """Against a plain search in numpy, over vocabularies that are squares, primes and neither."""
    chance = np.random.default_rng(size)
    weights = chance.exponential(size=(50, size)) * (chance.random((50, size)) < 0.3)
    weights[np.arange(50), chance.integers(size, size=50)] = 1.0  # something can be drawn
    z = torch.tensor(np.where(weights > 0, np.log(np.maximum(weights, 1e-30)), -np.inf)).float()
    tokens, _ = pick(z, 1.0, 1.0, uniform(50))
    points = uniform(50).double().numpy()
    ends = weights.cumsum(1) / weights.sum(1, keepdims=True)
    expected = (ends <= points).sum(1)
    edges = np.abs(ends - points).min(1) < 1e-5  # where fp32 may round to the other side
    assert edges.sum() < 5
    assert tokens.numpy()[~edges].tolist() == expected[~edges].tolist()
    assert (weights[np.arange(50), tokens.numpy()] > 0).all()


def test_the_largest_uniform_number_draws_the_last_token_that_can_be():
    largest = torch.full((40, 1), 1.0 - 2.0**-24)
    z = torch.randn(40, 1000, generator=torch.Generator().manual_seed(0))
    z[:, 990:] = -math.inf
    tokens, _ = pick(z, 1.0, 1.0, largest)
    assert ((tokens >= 985) & (tokens < 990)).all()


@pytest.mark.parametrize("top_p", [1.0, 0.9])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_no_numbers_show_in_the_logprobs(top_p, bad):
    z = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    z[1, 20] = bad
    tokens, logprobs = pick(z, 1.0, top_p, uniform(3))
    assert ((tokens >= 0) & (tokens < 50)).all()
    assert torch.isfinite(logprobs).tolist() == [True, False, True]


@torch.no_grad()
def test_bf16_layers_multiply_by_prepacked_weights_while_it_samples(tiny_model, monkeypatch):
    model = tiny_model("llama")
    cast_weights(model, torch.bfloat16)
    calls = []
    plain = prepacked.product

    def product(hidden, weight, bias=None):
        calls.append(weight)
        return plain(hidden, weight, bias)

    monkeypatch.setattr(prepacked, "product", product)
    sample(model, [[5, 6]], max_new_tokens=3, eos=NEVER, pad=PAD)
    assert len(calls) > 3  # those of the layers; the head has its own name for it


@torch.no_grad()
def test_any_of_several_eos_tokens_ends_a_response(tiny_model):
    ours, theirs = tiny_model(), tiny_model(attention="eager")
    spoken_often = greedy(ours, PROMPTS, NEVER).tokens.flatten().mode().values
    ends = [NEVER, spoken(ours), int(spoken_often)]
    rollout = greedy(ours, PROMPTS, ends)
    for i, (prompt, response) in enumerate(zip(PROMPTS, rollout.rows(), strict=True)):
        generated = theirs.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=ends,
            pad_token_id=PAD,
        )[0, len(prompt) :].tolist()
        assert response == generated
        ended = response[-1] in ends
        assert bool(rollout.finished[i]) == ended
        assert rollout.contents()[i] == (response[:-1] if ended else response)
    assert {response[-1] for response in rollout.rows()} >= set(ends[1:])


def test_end_tokens_are_the_tokenizers_and_those_of_the_generation_config(tiny_model):
    model = tiny_model()
    for listed, expected in ((None, (5,)), (5, (5,)), (7, (5, 7)), ([7, 5, 9], (5, 7, 9))):
        model.generation_config.eos_token_id = listed
        assert end_tokens(model, 5) == expected
    assert end_tokens(torch.nn.Linear(1, 1), 5) == (5,)


def test_pad_may_be_a_later_eos_but_not_the_first(tiny_model):
    """Qwen's chat models pad with the token that ended the texts of the base model."""
    rollout = sample(tiny_model(), [[2]], max_new_tokens=2, eos=[NEVER, PAD], pad=PAD)
    assert rollout.tokens.shape[0] == 1
    with pytest.raises(ValueError, match="pad token must differ"):
        sample(tiny_model(), [[2]], max_new_tokens=2, eos=[PAD, NEVER], pad=PAD)


@pytest.mark.parametrize(
    ("prompts", "settings", "message"),
    [
        ([], {}, "at least one token"),
        ([[2], []], {}, r"empty: \[1\]"),
        ([[2]], {"max_new_tokens": 0}, "max_new_tokens >= 1"),
        ([[2]], {"n": 0}, "n >= 1"),
        ([[2]], {"temperature": -1.0}, "temperature >= 0"),
        ([[2]], {"top_p": 0.0}, "top_p"),
        ([[2]], {"eos": 1}, "pad token must differ"),
    ],
)
def test_impossible_settings_are_refused(tiny_model, prompts, settings, message):
    with pytest.raises(ValueError, match=message):
        sample(tiny_model(), prompts, **{"max_new_tokens": 2, "eos": 0, "pad": 1} | settings)


@torch.no_grad()
def test_bf16_samples_and_its_logprobs_agree_with_a_full_pass(tiny_model):
    model, exact = tiny_model("llama"), tiny_model("llama", attention="eager")
    cast_weights(model, torch.bfloat16)
    rollout = sample(
        model,
        PROMPTS,
        max_new_tokens=8,
        eos=NEVER,
        pad=PAD,
        generator=torch.Generator().manual_seed(0),
    )
    errors = [
        (rollout.logprobs[i, : len(row)] - full_logprobs(exact, PROMPTS[i], row)).abs()
        for i, row in enumerate(rollout.rows())
    ]
    assert float(torch.cat(errors).mean()) < 0.05
