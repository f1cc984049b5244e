"""Log-probabilities of choices against the library's own pass; responses up to a line break."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from heedful.data.template import Template
from heedful.evaluation.answering import (
    Request,
    answers,
    choice_logprobs,
    encode_items,
    num_tokens,
    responses,
)
from heedful.evaluation.items import Item
from heedful.evaluation.room import Room

EOS = 0


def alone(model, prompt, choice):
    """The choice's log-probability by a plain forward pass over prompt and choice."""
    with torch.no_grad():
        z = model(torch.tensor([prompt + choice])).logits[0].double().numpy()
    z = z - z.max(axis=-1, keepdims=True)
    logprobs = z - np.log(np.exp(z).sum(axis=-1, keepdims=True))
    return sum(logprobs[len(prompt) - 1 + i, token] for i, token in enumerate(choice))


REQUESTS = [
    Request([5, 6, 7], [[8, 9, 10], [8, 9, 11, 12], [8, 13]]),  # share their first token
    Request([5, 6, 7], [[20], [21]]),  # one token each: nothing of them is read
    Request([0], [[30, 31, 32, 33, 34, 35], [30, 31, 32, 40, 34, 35]]),
    Request([0], [[41, 42]]),  # a single choice
    Request(list(range(2, 30)), [[50, 51], [52, 53], [50, 51]]),  # one of them twice
]


@pytest.mark.parametrize("max_tokens", [10_000, 12, 1])
@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_choices_have_the_log_probability_that_they_have_alone(
    tiny_model, architecture, max_tokens
):
    ours = choice_logprobs(tiny_model(architecture), REQUESTS, Room(max_tokens))
    theirs = tiny_model(architecture, attention="eager")
    for request, values in zip(REQUESTS, ours, strict=True):
        expected = [alone(theirs, request.prompt, choice) for choice in request.choices]
        assert values == pytest.approx(expected, abs=1e-4)


def test_an_instruction_before_many_choices_is_read_once(tiny_model):
    """Many items of one long prompt, few shared tokens: the other way to share."""
    requests = [Request(list(range(2, 32)), [[40 + i, 41], [60 + i, 42, 43]]) for i in range(9)]
    ours = choice_logprobs(tiny_model(), requests, Room(60))
    theirs = tiny_model(attention="eager")
    expected = [[alone(theirs, r.prompt, choice) for choice in r.choices] for r in requests]
    np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_a_choice_without_a_token_is_refused(tiny_model):
    with pytest.raises(ValueError, match="at least one token"):
        choice_logprobs(tiny_model(), [Request([3], [[]])], Room(100))


def test_prompts_are_raw_and_an_empty_one_begins_a_text(tokenizer):
    items = [
        Item("a", "a", "none", "w5 w6", (" w7", " w8 w9")),
        Item("b", "b", "none", "", ("w7",)),
        Item("c", "c", "none", "w5", max_new_tokens=4),
    ]
    found = encode_items(items, tokenizer, None)
    assert found == [([5, 6], [[7], [8, 9]]), ([EOS], [[7]]), ([5], [])]
    assert [num_tokens(item, request) for item, request in zip(items, found, strict=True)] == [
        4,
        2,
        5,
    ]


def test_prompts_go_through_a_template_where_it_is_asked_for(tokenizer):
    template = Template(tokenizer, separator=" w2")
    items = [Item("a", "a", "none", "w5", (" w7",)), Item("b", "b", "none", "", ("w7",))]
    assert encode_items(items, tokenizer, template) == [([5, 2], [[7]]), ([EOS], [[7]])]


class Lines:
    """A tokenizer whose token 9 is a word with a line break behind it."""

    eos_token_id, pad_token_id = 0, 1

    def get_vocab(self):
        return {f"w{i}": i for i in range(100)}

    def batch_decode(self, rows, skip_special_tokens=False):
        words = {0: "", 1: "", 9: " end\n"}
        return ["".join(words.get(token, f" w{token}") for token in row) for row in rows]


def test_a_response_ends_at_the_first_line_break(tiny_model):
    """The bias of the head makes every next token the 9, after which nothing is sampled."""
    model = tiny_model(tie_word_embeddings=False)
    model.lm_head.bias = torch.nn.Parameter(torch.zeros(100))
    model.lm_head.bias.data[9] = 1e3
    assert responses(model, Lines(), [[5, 6], [7]], 8, Room(100)) == [("end", True), ("end", True)]
    model.lm_head.bias.data[9], model.lm_head.bias.data[12] = 0, 1e3
    assert responses(model, Lines(), [[5]], 3, Room(100)) == [("w12 w12 w12", False)]


def test_items_are_answered_each_in_its_way(tiny_model):
    model = tiny_model(tie_word_embeddings=False)
    model.lm_head.bias = torch.nn.Parameter(torch.zeros(100))
    model.lm_head.bias.data[12] = 1e3
    items = [
        Item("a", "a", "none", "x", max_new_tokens=2),
        Item("b", "b", "none", "x", ("c", "d")),
        Item("c", "c", "none", "x", max_new_tokens=1),
    ]
    requests = [Request([5], []), Request([5], [[12], [12, 12]]), Request([5], [])]
    first, second, third = answers(model, Lines(), items, requests, room=Room(100))
    assert first == {"response": "w12 w12", "finished": False}
    assert second == {"logprobs": [0.0, 0.0], "num_tokens": [1, 2]}
    assert third == {"response": "w12", "finished": False}
