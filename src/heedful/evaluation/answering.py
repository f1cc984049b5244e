"""What a model says to the items of a suite: log-probabilities of choices, greedy responses.

Nothing is computed twice: a prompt is read once for all its choices, with the tokens that they all
begin with, or an instruction once for all items, whichever is less; the last token of a choice is
predicted and never read.

Legend: T tokens of a packed batch, M scored tokens in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import torch

from heedful.data.template import Template, beginning
from heedful.evaluation.items import Item, Row
from heedful.evaluation.room import Room, rows_that_fit, tokens_that_fit
from heedful.memory import out_of_memory
from heedful.models.attention import Packed
from heedful.models.language_model import hidden_states_at
from heedful.models.output_head import token_logprobs
from heedful.rollout.engine import end_tokens, sample


class Request(NamedTuple):
    """The tokens of an item: what the model reads, and each choice that it may go on with."""

    prompt: list[int]
    choices: list[list[int]]


class _Family(NamedTuple):
    """Choices that go on from the same tokens.

    The last ``num_common`` tokens of the prefix are the beginning of all of them.
    """

    prefix: list[int]
    num_common: int
    members: list[tuple[int, list[int]]]  # (number of the choice, its tokens after the prefix)

    @property
    def cost(self) -> int:
        """Tokens that are computed."""
        return len(self.prefix) + sum(len(tail) - 1 for _, tail in self.members)


def encode_items(items: Sequence[Item], tokenizer: Any, template: Template | None) -> list[Request]:
    """The tokens of items: prompts raw (``template`` None, the paper's way) or in a template.

    An empty prompt is BOS, or EOS where the tokenizer has none: a text begins there.
    """
    first = beginning(tokenizer)
    start = first or [_first_token(tokenizer)]
    if template is None:
        prompts = _encode_all(tokenizer, [item.prompt for item in items])
        prompts = [[*first, *tokens] if tokens else start for tokens in prompts]
    else:
        prompts = [template.encode_prompt(i.prompt) if i.prompt else start for i in items]
    texts = [choice for item in items for choice in item.choices]
    if template is not None:  # what follows a template begins a line
        texts = [text.lstrip() for text in texts]
    choices = iter(_encode_all(tokenizer, texts))
    return [
        Request(prompt, [next(choices) for _ in item.choices])
        for item, prompt in zip(items, prompts, strict=True)
    ]


def _encode_all(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    if not texts:
        return []
    return tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def _first_token(tokenizer: Any) -> int:
    bos = getattr(tokenizer, "bos_token_id", None)
    return tokenizer.eos_token_id if bos is None else bos


def num_tokens(item: Item, request: Request) -> int:
    """Tokens of context that an item takes: its prompt and its longest answer."""
    longest = max(map(len, request.choices), default=item.max_new_tokens)
    return len(request.prompt) + longest


def context_of(config: Any) -> int | None:
    """Tokens that a model can read at a time, if its configuration says so."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def answers(
    model: Any,
    tokenizer: Any,
    items: Sequence[Item],
    requests: Sequence[Request],
    *,
    room: Room,
    temperature: float = 0.0,
    generator: Any = None,
) -> list[Row]:
    """What the model says to each item: ``logprobs`` and ``num_tokens``, or a ``response``."""
    found: list[Row] = [{} for _ in items]
    scored = [i for i, item in enumerate(items) if item.choices]
    sums = choice_logprobs(model, [requests[i] for i in scored], room)
    for i, values in zip(scored, sums, strict=True):
        counts = [len(choice) for choice in requests[i].choices]
        found[i] = {"logprobs": [round(value, 6) for value in values], "num_tokens": counts}
    for limit in sorted({item.max_new_tokens for item in items if not item.choices}):
        part = [i for i, item in enumerate(items) if not item.choices]
        part = [i for i in part if items[i].max_new_tokens == limit]
        prompts = [requests[i].prompt for i in part]
        texts = responses(model, tokenizer, prompts, limit, room, temperature, generator)
        for i, (text, finished) in zip(part, texts, strict=True):
            found[i] = {"response": text, "finished": finished}
    return found


@torch.no_grad()
def choice_logprobs(model: Any, requests: Sequence[Request], room: Room) -> list[list[float]]:
    """The log-probability in nats of every choice of every request, summed over its tokens.

    As many tokens are computed at a time as ``room`` has and the free memory holds, or one prompt
    with a choice. Where memory runs out the batch is halved, and ``room`` with it.
    """
    empty = [i for i, request in enumerate(requests) if not all(request.choices)]
    if empty:
        raise ValueError(f"a choice needs at least one token (requests {empty[:5]})")
    offsets = [0]
    for request in requests:
        offsets.append(offsets[-1] + len(request.choices))
    totals = torch.zeros(offsets[-1], dtype=torch.float64)
    longest = max((len(r.prompt) + len(c) for r in requests for c in r.choices), default=1)
    max_tokens = min(room.tokens, tokens_that_fit(model, longest))
    waiting = _cut(_plan(requests), max_tokens)
    while waiting:
        count = _num_fitting(waiting, max_tokens)
        batch, waiting = waiting[:count], waiting[count:]
        try:
            _add(model, batch, totals)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            num_choices = sum(len(family.members) for family in batch)
            room.halve_tokens(error, num_choices, max_tokens)
            max_tokens = room.tokens
            waiting = _cut([*batch, *waiting], max_tokens)
    values = totals.tolist()
    return [values[start:end] for start, end in pairwise(offsets)]


def _cut(families: Iterable[_Family], max_tokens: int) -> list[_Family]:
    """The families in parts that fit, the longest first: those of one batch are much alike."""
    parts = [part for family in families for part in _split(family, max_tokens)]
    return sorted(parts, key=lambda family: -family.cost)


def _num_fitting(families: Sequence[_Family], max_tokens: int) -> int:
    """How many of the first families make a batch: one at least."""
    size = 0
    for number, family in enumerate(families):
        size += family.cost
        if number and size > max_tokens:
            return number
    return len(families)


def _plan(requests: Sequence[Request]) -> list[_Family]:
    """The families in which the choices cost least: by item, or all items of one prompt at once."""
    by_prompt: dict[tuple[int, ...], list[_Family]] = {}
    number = 0
    for request in requests:
        members = [(number + i, choice) for i, choice in enumerate(request.choices)]
        number += len(members)
        common = _num_common(request.choices)
        prefix = [*request.prompt, *request.choices[0][:common]]
        family = _Family(prefix, common, [(at, tokens[common:]) for at, tokens in members])
        by_prompt.setdefault(tuple(request.prompt), []).append(family)
    planned = []
    for prompt, families in by_prompt.items():
        members = [
            (at, family.prefix[len(prompt) :] + tail)
            for family in families
            for at, tail in family.members
        ]
        together = _Family(list(prompt), 0, members)
        apart = sum(family.cost for family in families)
        planned += [together] if together.cost < apart else families
    return planned


def _num_common(choices: Sequence[Sequence[int]]) -> int:
    """How many first tokens all choices share, at least one token left to each."""
    if len(choices) == 1:
        return 0
    shortest = min(map(len, choices)) - 1
    columns = zip(*(choice[:shortest] for choice in choices), strict=True)
    return next((i for i, column in enumerate(columns) if len(set(column)) > 1), shortest)


def _split(family: _Family, max_tokens: int) -> Iterable[_Family]:
    """The family in parts that fit; each reads the prefix again, the first alone scores it."""
    members: list[tuple[int, list[int]]] = []
    if family.cost <= max_tokens or family.num_common:
        yield family
        return
    size = len(family.prefix)
    for at, tail in family.members:
        if members and size + len(tail) - 1 > max_tokens:
            yield family._replace(members=members)
            members, size = [], len(family.prefix)
        members.append((at, tail))
        size += len(tail) - 1
    yield family._replace(members=members)


def _add(model: Any, families: Sequence[_Family], totals: torch.Tensor) -> None:
    """Adds the log-probabilities of the families' choices to ``totals`` at their numbers."""
    flat: list[int] = []
    lengths: list[int] = []
    prefix_of: list[int | None] = []
    predictors: list[int] = []  # (M,) index of the token that predicts
    targets: list[int] = []  # (M,)
    owners: list[int] = []  # (M,) the choice; of shared tokens a number after all choices
    for number, family in enumerate(families):
        row, end = len(lengths), len(flat) + len(family.prefix)
        flat += family.prefix
        lengths.append(len(family.prefix))
        prefix_of.append(None)
        predictors += range(end - 1 - family.num_common, end - 1)
        targets += family.prefix[len(family.prefix) - family.num_common :]
        owners += [len(totals) + number] * family.num_common
        for at, tail in family.members:
            predictors += [end - 1, *range(len(flat), len(flat) + len(tail) - 1)]
            targets += tail
            owners += [at] * len(tail)
            flat += tail[:-1]
            if len(family.members) == 1:
                lengths[row] += len(tail) - 1
            elif len(tail) > 1:
                lengths.append(len(tail) - 1)
                prefix_of.append(row)
    layout = Packed(lengths, prefix_of=prefix_of)
    hidden = hidden_states_at(model, torch.tensor(flat), layout, torch.tensor(predictors))
    logprobs = token_logprobs(model, hidden, torch.tensor(targets)).cpu().double()
    sums = torch.zeros(len(totals) + len(families), dtype=torch.float64)
    sums.index_add_(0, torch.tensor(owners), logprobs)
    totals += sums[: len(totals)]
    for number, family in enumerate(families):
        for at, _ in family.members:
            totals[at] += sums[len(totals) + number]


def responses(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[list[int]],
    max_new_tokens: int,
    room: Room,
    temperature: float = 0.0,
    generator: Any = None,
) -> list[tuple[str, bool]]:
    """(text, whether it ended by itself) for every prompt: up to the first line break (App. D).

    As many are written at a time as ``room`` has rows and the free memory holds, or at temperatures
    above 0 a fixed memory, so that the generator alone decides. Where memory runs out all are begun
    again, half as many at a time.
    """
    longest = max(map(len, prompts))
    max_rows = min(room.rows, rows_that_fit(model, longest, max_new_tokens, temperature > 0))
    rollout = None
    while rollout is None:
        state = None if generator is None else generator.get_state()
        try:
            rollout = sample(
                model,
                list(prompts),
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                eos=(*end_tokens(model, tokenizer.eos_token_id), *_line_breaks(tokenizer)),
                pad=tokenizer.pad_token_id,
                generator=generator,
                max_rows=max_rows,
            )
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            room.halve_rows(error, min(max_rows, len(prompts)))
            max_rows = room.rows
            if generator is not None:
                generator.set_state(state)
    # the token with the line break may hold text before it
    texts = tokenizer.batch_decode(rollout.rows(), skip_special_tokens=True)
    finished = rollout.finished.tolist()
    return [(text.split("\n")[0].strip(), done) for text, done in zip(texts, finished, strict=True)]


@lru_cache(maxsize=4)
def _line_breaks(tokenizer: Any) -> tuple[int, ...]:
    """The tokens whose text has a line break in it."""
    ids = sorted(tokenizer.get_vocab().values())
    texts = tokenizer.batch_decode([[token] for token in ids])
    return tuple(token for token, text in zip(ids, texts, strict=True) if "\n" in text)
