"""What the free memory holds; batches that are halved where it runs out, with the same results."""

from __future__ import annotations

import pytest
import torch

from heedful.errors import EvaluationError
from heedful.evaluation import answering
from heedful.evaluation.answering import Request, choice_logprobs, responses
from heedful.evaluation.room import (
    MAX_ROWS,
    Room,
    free_bytes,
    rows_that_fit,
    tokens_that_fit,
)
from heedful.memory import out_of_memory

REQUESTS = [Request([5 + i, 6, 7 + i], [[8, 9, 10 + i], [20, 21]]) for i in range(12)]


def allocation_error() -> Exception:
    """What torch itself says of more memory than any machine has."""
    with pytest.raises(RuntimeError) as found:
        torch.empty(2**55, dtype=torch.uint8)
    return found.value


class Tokens:
    """A tokenizer of words without line breaks."""

    eos_token_id, pad_token_id = 0, 1

    def get_vocab(self):
        return {f"w{i}": i for i in range(100)}

    def batch_decode(self, rows, skip_special_tokens=False):
        return [" ".join(f"w{token}" for token in row) for row in rows]


@pytest.fixture
def free(monkeypatch):
    """Sets the memory that is free, in bytes."""

    def set_to(value):
        monkeypatch.setattr("heedful.evaluation.room.free_bytes", lambda device: value)

    return set_to


@pytest.fixture
def memory(monkeypatch):
    """Lets a pass fail as torch does where it reads more tokens than a limit; their numbers."""
    sizes, limit = [], [10**9]
    error, plain = allocation_error(), answering.hidden_states_at

    def limited(model, tokens, layout, positions):
        sizes.append(len(tokens))
        if len(tokens) > limit[0]:
            raise error
        return plain(model, tokens, layout, positions)

    monkeypatch.setattr(answering, "hidden_states_at", limited)
    monkeypatch.setattr("heedful.rollout.engine.hidden_states_at", limited)
    return limit, sizes


def test_only_a_lack_of_memory_is_one():
    assert out_of_memory(allocation_error())
    assert out_of_memory(MemoryError())
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert out_of_memory(RuntimeError("CUDA error: out of memory"))
    assert out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"))
    assert not out_of_memory(RuntimeError("shape '[2]' is invalid for input of size 3"))


def test_choices_are_scored_in_smaller_batches_from_there_on(tiny_model, memory):
    limit, sizes = memory
    model = tiny_model()
    room = Room(1000)
    whole = choice_logprobs(model, REQUESTS, room)
    assert len(sizes) == 1 and room.tokens == 1000
    total, limit[0] = sizes.pop(), 20
    halved = choice_logprobs(model, REQUESTS, room)
    for one, other in zip(whole, halved, strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    done = [size for size in sizes if size <= 20]
    assert sum(done) == total  # every token once
    assert room.tokens <= 20 < 2 * room.tokens + 20
    failed = len(sizes) - len(done)
    choice_logprobs(model, REQUESTS, room)
    assert len([size for size in sizes if size > 20]) == failed  # it is not tried again


def test_responses_are_written_in_fewer_rows(tiny_model, memory):
    limit, _ = memory
    prompts = [[5 + i, 6] for i in range(8)]
    room = Room(1000)
    whole = responses(tiny_model(), Tokens(), prompts, 4, room)
    limit[0] = 5
    halved = responses(tiny_model(), Tokens(), prompts, 4, room)
    assert halved == whole
    assert room.rows == 2  # 8 rows read 16 tokens, 4 read 8, 2 read 4
    generator = torch.Generator().manual_seed(3)
    drawn = responses(tiny_model(), Tokens(), prompts, 4, Room(1000, 2), 1.0, generator)
    generator.manual_seed(3)
    assert responses(tiny_model(), Tokens(), prompts, 4, Room(1000), 1.0, generator) == drawn


def test_what_does_not_fit_alone_is_said(tiny_model, memory):
    memory[0][0] = 1
    with pytest.raises(EvaluationError, match=r"memory ran out on a single item \(.*fewer shots"):
        choice_logprobs(tiny_model(), [Request([5, 6], [[7]])], Room(1000))
    with pytest.raises(EvaluationError, match="memory ran out on a single item"):
        responses(tiny_model(), Tokens(), [[5, 6]], 4, Room(1000))


def test_other_errors_are_not_taken_for_it(tiny_model, monkeypatch):
    def broken(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr(answering, "hidden_states_at", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        choice_logprobs(tiny_model(), REQUESTS, Room(1000))


def test_batches_follow_from_the_memory_that_is_free(tiny_model, free):
    model = tiny_model()
    # 4 bytes: 8 rows of hidden size, 3 of the MLP, 2 of scores by head and slot; a quarter is used
    per_token = 4 * (8 * 32 + 3 * 64 + 2 * 4 * 10)
    free(4 * per_token * 7 + 100)
    assert tokens_that_fit(model, 10) == 7
    free(0)
    assert tokens_that_fit(model, 10) == 1
    # the cache: 2 layers, keys and values, 2 groups of 8, 4 bytes: 256 bytes a slot
    free(4 * (15 * 256 + 10 * per_token) * 7 + 100)
    assert rows_that_fit(model, 10, 5) == 7
    free(2**40)
    assert rows_that_fit(model, 10, 5) == MAX_ROWS
    free(4 * per_token * 7)
    # to draw, what else the machine is doing does not count: 2 GiB
    assert rows_that_fit(model, 10, 5, is_drawn=True) == MAX_ROWS
    # 1005 slots and 1000 tokens of 4 * (8 * 32 + 3 * 64 + 2 * 4 * 1000): 34,049,280 bytes a row
    assert rows_that_fit(model, 1000, 5, is_drawn=True) == 63


def test_a_device_can_give_what_it_has_free_and_what_torch_keeps_unused(monkeypatch, tiny_model):
    """100 bytes of 1000 are free; torch holds 70, of which tensors have 40."""
    given = {"mem_get_info": (100, 1000), "memory_reserved": 70, "memory_allocated": 40}
    asked = []
    for name, value in given.items():
        monkeypatch.setattr(
            torch.cuda, name, lambda device, value=value: asked.append(str(device)) or value
        )
    assert free_bytes(torch.device("cuda:1")) == 100 + 70 - 40
    assert set(asked) == {"cuda:1"}
    asked.clear()
    assert tokens_that_fit(tiny_model(), 10) > 1 and not asked  # its weights are not on a device


def test_the_room_is_that_of_the_device_of_the_model(monkeypatch, tiny_model):
    model = tiny_model().to("meta")
    asked = []
    monkeypatch.setattr(
        "heedful.evaluation.room.free_bytes", lambda device: asked.append(device.type) or 2**40
    )
    tokens_that_fit(model, 10)
    rows_that_fit(model, 10, 5)
    assert asked == ["meta", "meta"]


def test_a_batch_that_was_small_for_lack_of_memory_does_not_stay_small(tiny_model, free, memory):
    _, sizes = memory
    room = Room(1000)
    free(0)
    choice_logprobs(tiny_model(), REQUESTS[:3], room)
    assert sizes == [5, 5, 5, 4, 4, 4]  # a prompt with a choice at a time
    responses(tiny_model(), Tokens(), [[5, 6], [7, 8]], 1, room)
    assert sizes[-2:] == [2, 2]
    assert room == Room(1000)
    sizes.clear()
    free(2**40)
    choice_logprobs(tiny_model(), REQUESTS[:3], room)
    responses(tiny_model(), Tokens(), [[5, 6], [7, 8]], 1, room)
    assert len(sizes) == 2


def test_drawn_responses_do_not_depend_on_the_memory_that_is_free(tiny_model, free):
    prompts = [[5 + i, 6] for i in range(8)]
    drawn = []
    for value in (0, 2**40):
        free(value)
        generator = torch.Generator().manual_seed(3)
        drawn.append(responses(tiny_model(), Tokens(), prompts, 4, Room(1000), 1.0, generator))
    assert drawn[0] == drawn[1]
