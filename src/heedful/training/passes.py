"""Forward passes that several steps share: over rows of text, and over prompts with responses.

Shapes: N rows of text of T tokens, B sequences (prompt then response) in a flat row of T tokens,
M response tokens in all, R longest response.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from heedful.config import Optim
from heedful.data.text import TextRows
from heedful.errors import DataError
from heedful.losses.sft import sft_loss
from heedful.models.attention import Packed
from heedful.models.device import device_of, upload
from heedful.models.language_model import hidden_states, hidden_states_at
from heedful.models.output_head import LossOf, token_logprobs, token_loss
from heedful.models.scalar_model import scalars
from heedful.training.loop import Adam, Sums, Timer, learning_rate, microbatches, require_finite

# Rows of held-out text in one validation.
VALID_ROWS = 256


class Sequences(NamedTuple):
    """Prompts with their responses as one flat row, and where the response tokens are predicted.

    A prompt that several responses share stands in the row once. All of it is on the processor;
    whoever gives it to a model has what is needed uploaded.
    """

    layout: Packed
    tokens: Tensor  # (T,) all tokens that are computed
    predictors: Tensor  # (M,) index of the position that predicts each response token
    targets: Tensor  # (M,) the response tokens
    row_of: Tensor  # (M,) the sequence of each response token
    column_of: Tensor  # (M,) its place in the response
    last: Tensor  # (B,) index of each sequence's last token


def make_sequences(
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    *,
    share_prompts: bool = False,
) -> Sequences:
    """The packed form of B prompts and their responses.

    With ``share_prompts`` equal prompts are read once, and their responses go on from the same
    tokens: scores and gradients are those of each having the prompt for itself, for less work.
    (Dropout would fall on the prompt once for all of them.)
    """
    if not all(prompts):
        raise ValueError(
            "an empty prompt predicts no response token: each needs at least one token"
        )
    by_prompt: dict[tuple[int, ...] | int, list[int]] = {}
    for i, (prompt, _) in enumerate(zip(prompts, responses, strict=True)):
        by_prompt.setdefault(tuple(prompt) if share_prompts else i, []).append(i)
    flat: list[int] = []
    lengths: list[int] = []
    prefix_of: list[int | None] = []
    prompt_ends, starts = [0] * len(prompts), [0] * len(prompts)  # of the sequences, in ``flat``
    for members in by_prompt.values():
        first = len(lengths)
        prompt = prompts[members[0]]
        flat += prompt
        lengths.append(len(prompt))
        prefix_of.append(None)
        prompt_end = len(flat)
        for i in members:
            prompt_ends[i], starts[i] = prompt_end, len(flat)
            flat += responses[i]
            if len(members) == 1:  # nothing to share: prompt and response are one sequence
                lengths[first] += len(responses[i])
            elif responses[i]:
                lengths.append(len(responses[i]))
                prefix_of.append(first)
    tokens = torch.tensor(flat)
    counts = torch.tensor([len(response) for response in responses])
    start, before = torch.tensor(starts), torch.tensor(prompt_ends)
    row_of = torch.arange(len(counts)).repeat_interleave(counts)
    column_of = torch.arange(len(row_of)) - (counts.cumsum(0) - counts)[row_of]
    targets_at = start[row_of] + column_of
    return Sequences(
        Packed(lengths, prefix_of),
        tokens,
        torch.where(column_of == 0, before[row_of], targets_at) - 1,
        tokens[targets_at],
        row_of,
        column_of,
        torch.where(counts > 0, start + counts, before) - 1,
    )


def microbatches_by_prompt(
    prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], max_tokens: int
) -> list[list[int]]:
    """Groups of indices of at most ``max_tokens`` computed tokens, those of one prompt together.

    A prompt counts once for all its responses; one with more responses than fit is read again for
    the next group. A single sequence longer than that is a group of its own.
    """
    shares: list[list[int]] = []
    lengths: list[int] = []
    newest: dict[tuple[int, ...], int] = {}  # prompt -> the last share of its responses
    for i, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        key = tuple(prompt)
        if key not in newest or lengths[newest[key]] + len(response) > max_tokens:
            newest[key] = len(shares)
            shares.append([])
            lengths.append(len(prompt))
        shares[newest[key]].append(i)
        lengths[newest[key]] += len(response)
    groups = microbatches(lengths, max_tokens)
    return [[i for share in group for i in shares[share]] for group in groups]


@torch.no_grad()
def response_logprobs(model: Any, batch: Sequences, temperature: float = 1.0) -> Tensor:
    """(M,) log-probabilities of the response tokens, without a gradient."""
    hidden = hidden_states_at(model, batch.tokens, batch.layout, batch.predictors)
    return token_logprobs(model, hidden, batch.targets, temperature)


def response_loss(
    model: Any, batch: Sequences, loss_of: LossOf, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """(scalar, (M,)) a loss that is a sum over the response tokens, and their log-probabilities;
    ``loss_of`` as ``token_loss`` takes it."""
    hidden = hidden_states_at(model, batch.tokens, batch.layout, batch.predictors)
    return token_loss(model, hidden, batch.targets, loss_of, temperature)


def nll(weight: float) -> LossOf:
    """The loss of step 1 times a weight, such as one over the tokens of the whole batch."""

    def loss_of(logprobs: Tensor, _part: slice) -> Tensor:
        return weight * sft_loss(logprobs, torch.ones_like(logprobs, dtype=torch.bool))[0]

    return loss_of


def final_scores(model: Any, batch: Sequences) -> Tensor:
    """(B,) scalars at the last token of every sequence: the scores of a reward model."""
    return scalars(model, hidden_states_at(model, batch.tokens, batch.layout, batch.last))


def response_values(model: Any, batch: Sequences) -> Tensor:
    """(M,) scalars at the positions that predict the response tokens: values before each action."""
    return scalars(model, hidden_states_at(model, batch.tokens, batch.layout, batch.predictors))


def to_rows(values: Tensor, batch: Sequences, num_columns: int) -> Tensor:
    """(B, R) from values (M,) of the response tokens, where these are; 0 past a response's end."""
    rows = values.new_zeros(len(batch.last), num_columns)
    places = (upload(batch.row_of, values.device), upload(batch.column_of, values.device))
    return rows.index_put(places, values)


def make_optimizer(model: Any, optim: Optim) -> Adam:
    """The optimizer of a step from its settings."""
    return Adam(
        model,
        betas=optim.betas,
        eps=optim.eps,
        weight_decay=optim.weight_decay,
        max_grad_norm=optim.max_grad_norm,
    )


def lr_at(optim: Optim, step: int, num_steps: int) -> float:
    """The learning rate of update ``step`` (0-based) of ``num_steps`` from a step's settings."""
    return learning_rate(
        step,
        num_steps,
        optim.lr,
        schedule=optim.schedule,
        final_share=optim.final_lr_share,
        warmup=optim.warmup_steps,
    )


def accumulate_text(
    model: Any,
    rows: Tensor,
    max_tokens: int,
    run_dir: Path,
    where: str,
    weight: float = 1.0,
    timer: Timer | None = None,
) -> float:
    """The per-token mean loss of rows (N, T); adds ``weight`` times its gradient to the model's.

    Text goes through the model in micro-batches; the division by the global count makes their sum
    the gradient of the one big batch. ``timer`` gets laps.
    """
    timer = timer or Timer(device_of(model))
    count = rows.shape[0] * (rows.shape[1] - 1)
    total = Sums()
    step = max(1, max_tokens // rows.shape[1])
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        hidden, targets = _text_states(model, part)
        loss, logprobs = token_loss(model, hidden, targets, nll(weight / count))
        require_finite(loss, part, run_dir, where)
        timer.lap("forward")
        loss.backward()
        timer.lap("backward")
        total.add(loss=-logprobs.sum() / count)
    return total.values()["loss"]


def _text_states(model: Any, rows: Tensor) -> tuple[Tensor, Tensor]:
    """((M, D), (M,)) hidden states of all but the last tokens of rows, and what they predict."""
    layout = Packed([rows.shape[1] - 1] * len(rows))
    return hidden_states(model, rows[:, :-1].flatten(), layout), rows[:, 1:].flatten()


@torch.no_grad()
def text_loss(model: Any, rows: TextRows, max_tokens: int, num_rows: int = VALID_ROWS) -> float:
    """Mean next-token loss in nats on the first rows of held-out text."""
    model.eval()
    sample = rows.first(num_rows)
    if len(sample) == 0:
        raise DataError(
            "the held-out text is shorter than one row: give more, or a smaller row_tokens"
        )
    total = 0.0
    step = max(1, max_tokens // sample.shape[1])
    for start in range(0, len(sample), step):
        hidden, targets = _text_states(model, sample[start : start + step])
        total -= float(token_logprobs(model, hidden, targets).sum())
    return total / (sample.shape[0] * (sample.shape[1] - 1))
