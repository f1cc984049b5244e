"""Step 2: a reward model from rankings (paper 3.5, C.2).

All completions of a prompt are one batch element, with the rankings of all its labelers: the prompt
is read once, each of its K completions once, and their scores give all pairs; no completion comes
back within an epoch. The ablation ("shuffled_pairs") trains on the same pairs one by one, as the
paper found to overfit.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from heedful.config import RewardConfig
from heedful.data.examples import Example, RankedPrompt
from heedful.errors import DataError
from heedful.losses.reward import ranking_loss
from heedful.metrics import MetricsLog
from heedful.models.device import device_of, placement, upload
from heedful.models.language_model import hidden_states_at, num_parameters, place
from heedful.models.scalar_model import center
from heedful.training.budget import Budget
from heedful.training.checkpoint import config_fingerprint, load_state, save_state
from heedful.training.loop import (
    Adam,
    Sums,
    Timer,
    epoch_batches,
    microbatches,
    peak_memory,
    require_finite,
)
from heedful.training.passes import (
    Sequences,
    final_scores,
    lr_at,
    make_optimizer,
    make_sequences,
    microbatches_by_prompt,
)
from heedful.training.stopping import Saves

# Under this accuracy on held-out pairs a reward model gives PPO little to follow.
LOW_ACCURACY = 0.6


class Element(NamedTuple):
    """What is trained on at once: a prompt, its distinct responses, and the rankings of them."""

    prompt_id: str
    prompt: list[int]
    responses: list[list[int]]
    places: list[list[int]]  # per ranking: which responses it ranks
    ranks: list[list[int]]  # per ranking: their ranks, 1 is best


class PairCounts(NamedTuple):
    """What a reward model gets right on held-out pairs."""

    loss: float  # mean -log sigmoid of the untied pairs, averaged over rankings
    accuracy: float  # share of untied pairs in the right order
    num_pairs: int
    num_rankings: int


def train(
    config: RewardConfig,
    model: Any,
    rankings: Sequence[RankedPrompt],
    valid: Sequence[RankedPrompt],
    demonstrations: Sequence[Example] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, float]:
    """The last metrics, after training ``model`` in place and centering it on demonstrations.

    The loss of a batch is the mean over its rankings of the mean over a ranking's untied pairs
    (equation 1; the paper has one ranking for most prompts). Afterwards labeler demonstrations
    score 0 on average.
    """
    elements = _elements(rankings, config.batching)
    if not elements:
        raise DataError(
            "no untied pair of the train split was found: the reward model has nothing to learn"
        )
    run_dir = Path(config.run_dir)
    num_steps = max(1, math.ceil(config.epochs * len(elements) / _batch_size(config, elements)))
    num_tokens = sum(map(_num_tokens, elements))
    num_ranked = sum(len(ranks) for element in elements for ranks in element.ranks)
    fingerprint = config_fingerprint(
        config, len(elements), num_tokens, num_ranked, len(demonstrations)
    )
    place(model, *placement(config.compute))
    optimizer, budget = make_optimizer(model, config.optim), Budget.of_tokens(config.compute)
    first_step = 0
    if (state := load_state(run_dir, fingerprint)) is not None:
        optimizer.load_state_dict(state["optimizer"])
        first_step = state["step"]
    log = MetricsLog(
        run_dir, resume_step=first_step, sinks=config.log.sinks, print_every=config.log.print_every
    )
    batches = epoch_batches(
        len(elements), _batch_size(config, elements), num_steps, config.seed, first_step
    )
    saves = Saves(config.log.save_every, config.log.save_every_s, num_steps, first_step)
    last: dict[str, float] = {}
    for step, indices in enumerate(batches, start=first_step):
        batch = [elements[i] for i in indices]
        update = partial(_update, config, model, optimizer, batch, step, num_steps, run_dir)
        last = budget.run(update, optimizer)
        every = config.log.valid_every
        if step + 1 == num_steps and demonstrations:
            last |= budget.run(partial(_center, model, optimizer, demonstrations))
        if valid and (step + 1 == num_steps or (every and (step + 1) % every == 0)):
            counts = budget.run(partial(evaluate, model, valid))
            last |= {"valid/loss": counts.loss, "valid/accuracy": counts.accuracy}
        log.log(step, last, of=num_steps)
        progress(step + 1, num_steps)
        if saves.is_due(step + 1) and step + 1 < num_steps:
            state = {"optimizer": optimizer.state_dict(), "fingerprint": fingerprint}
            save_state(run_dir, step + 1, state)
            saves.saved(step + 1)
    log.close()
    if 0 < last.get("valid/accuracy", 1.0) < LOW_ACCURACY:
        print(
            f"warning: the reward model orders {last['valid/accuracy']:.0%} of held-out pairs "
            f"right, under {LOW_ACCURACY:.0%}: PPO would follow noise. More rankings help most",
            file=sys.stderr,
        )
    optimizer.release()
    model.eval()
    return last


def _elements(rankings: Sequence[RankedPrompt], batching: str) -> list[Element]:
    """Batch elements: prompts with all their rankings, or every untied pair as one of its own."""
    untied = [ranking for ranking in rankings if len(set(ranking.ranks)) > 1]
    if batching == "k_wise":
        return _by_prompt(untied)
    return [
        Element(r.prompt_id, r.prompt, [r.responses[i], r.responses[j]], [[0, 1]], [ranks])
        for r in untied
        for i, j in combinations(range(len(r.ranks)), 2)
        if len(set(ranks := [r.ranks[i], r.ranks[j]])) > 1
    ]


def _by_prompt(rankings: Sequence[RankedPrompt]) -> list[Element]:
    """One element per prompt, in order of appearance: a response that several labelers ranked, or
    that a model gave twice, stands in it once."""
    found: dict[tuple[str, tuple[int, ...]], list[RankedPrompt]] = {}
    for row in rankings:
        found.setdefault((row.prompt_id, tuple(row.prompt)), []).append(row)
    elements = []
    for rows in found.values():
        place: dict[tuple[int, ...], int] = {}  # of every distinct response
        places = [[place.setdefault(tuple(r), len(place)) for r in row.responses] for row in rows]
        ranks = [row.ranks for row in rows]
        first = rows[0]
        elements.append(
            Element(first.prompt_id, first.prompt, list(map(list, place)), places, ranks)
        )
    return elements


def _pieces(element: Element, max_tokens: int) -> list[Element]:
    """The element, or parts of at most ``max_tokens`` of it, for each of which the prompt is read.

    A part holds whole rankings, so the losses of the parts add up to the element's; one ranking
    longer than that is a part of its own.
    """
    if _num_tokens(element) <= max_tokens:
        return [element]
    pieces: list[Element] = []
    kept: dict[int, int] = {}  # place in the element -> place in the newest piece
    for places, ranks in zip(element.places, element.ranks, strict=True):
        new = sum(len(element.responses[place]) for place in {*places} - {*kept})
        if not pieces or _num_tokens(pieces[-1]) + new > max_tokens:
            kept = {}
            pieces.append(Element(element.prompt_id, element.prompt, [], [], []))
        own = [kept.setdefault(place, len(kept)) for place in places]
        pieces[-1].responses[:] = [element.responses[place] for place in kept]
        pieces[-1].places.append(own)
        pieces[-1].ranks.append(ranks)
    return pieces


def _batch_size(config: RewardConfig, elements: Sequence[Element]) -> int:
    """Elements per update; shuffled pairs take as many pairs as the prompts of a batch have."""
    if config.batching == "k_wise":
        return config.optim.batch_size
    num_prompts = len({element.prompt_id for element in elements})
    return max(1, round(config.optim.batch_size * len(elements) / num_prompts))


def _update(
    config: RewardConfig,
    model: Any,
    optimizer: Adam,
    batch: Sequence[Element],
    step: int,
    num_steps: int,
    run_dir: Path,
    max_tokens: int,
) -> dict[str, float]:
    timer = Timer(device_of(model))
    where = f"step {step + 1}"
    num_rankings = sum(len(element.ranks) for element in batch)
    sums, num_tokens = Sums(), 0
    for part in _microbatches(batch, max_tokens):
        loss_sum, stats, num_computed = _ranking_pass(model, part)
        loss = loss_sum / num_rankings
        require_finite(loss, part, run_dir, where)
        timer.lap("forward")
        loss.backward()
        timer.lap("backward")
        sums.add(loss=loss, num_correct=stats["num_correct"], num_pairs=stats["num_pairs"])
        num_tokens += num_computed
    totals = sums.values()
    lr = lr_at(config.optim, step, num_steps)
    grad_norm = optimizer.step(lr, batch, run_dir, where)
    timer.lap("optimizer")
    seconds = timer.total()
    return (
        timer.metrics()
        | peak_memory(device_of(model))
        | {
            "reward/loss": totals["loss"],
            "reward/accuracy": totals["num_correct"] / max(1.0, totals["num_pairs"]),
            "reward/num_pairs": totals["num_pairs"],
            "optim/lr": lr,
            "optim/grad_norm": grad_norm,
            "speed/tokens_per_s": num_tokens / seconds,
            "speed/pairs_per_s": totals["num_pairs"] / seconds,
            "speed/flops_per_s": 6 * num_parameters(model) * num_tokens / seconds,
            "time/update_s": seconds,
        }
    )


def _microbatches(elements: Sequence[Element], max_tokens: int) -> Iterator[list[Element]]:
    pieces = [piece for element in elements for piece in _pieces(element, max_tokens)]
    for group in microbatches([_num_tokens(piece) for piece in pieces], max_tokens):
        yield [pieces[i] for i in group]


def _num_tokens(element: Element) -> int:
    """The tokens that are computed: the prompt once, and its responses."""
    return len(element.prompt) + sum(map(len, element.responses))


def _ranking_pass(model: Any, batch: Sequence[Element]) -> tuple[Tensor, dict[str, Tensor], int]:
    """(loss sum over rankings, stats, computed tokens) of one pass over all prompts and their
    responses."""
    rows = [(element.prompt, response) for element in batch for response in element.responses]
    prompts, responses = zip(*rows, strict=True)
    sequences = make_sequences(prompts, responses, share_prompts=True)
    scores = final_scores(model, sequences)
    start, places, ranks, group = 0, [], [], []  # of every ranked response of every ranking
    for element in batch:
        for own_places, own_ranks in zip(element.places, element.ranks, strict=True):
            group += [group[-1] + 1 if group else 0] * len(own_ranks)
            places += [start + place for place in own_places]
            ranks += own_ranks
        start += len(element.responses)
    chosen, ranked, groups = (
        upload(torch.tensor(numbers, dtype=torch.long), scores.device)
        for numbers in (places, ranks, group)
    )
    return *ranking_loss(scores[chosen], ranked, groups), len(sequences.tokens)


@torch.no_grad()
def evaluate(model: Any, rankings: Sequence[RankedPrompt], max_tokens: int) -> PairCounts:
    """Log loss and accuracy on held-out rankings."""
    model.eval()
    elements = _elements(rankings, "k_wise")
    num_rankings = sum(len(element.ranks) for element in elements)
    sums = Sums()
    for part in _microbatches(elements, max_tokens):
        loss, stats, _ = _ranking_pass(model, part)
        sums.add(loss=loss, num_correct=stats["num_correct"], num_pairs=stats["num_pairs"])
    found = {"loss": 0.0, "num_correct": 0.0, "num_pairs": 0.0} | sums.values()
    return PairCounts(
        found["loss"] / max(1, num_rankings),
        found["num_correct"] / max(1.0, found["num_pairs"]),
        int(found["num_pairs"]),
        num_rankings,
    )


@torch.no_grad()
def score_all(model: Any, examples: Sequence[Example], max_tokens: int) -> Tensor:
    """(N,) scores of prompts with responses, in their order.

    A prompt is read once for all its responses, and equal responses of it once, so that they tie:
    read twice, rounding would put one above the other.
    """
    model.eval()
    place: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {}
    places = [place.setdefault((tuple(e.prompt), tuple(e.response)), len(place)) for e in examples]
    distinct = [Example(list(prompt), list(response)) for prompt, response in place]
    scores = torch.empty(len(distinct))
    for indices, batch in _batches(distinct, max_tokens):
        scores[indices] = final_scores(model, batch).cpu()
    return scores[places]


def _batches(examples: Sequence[Example], max_tokens: int) -> Iterator[tuple[list[int], Sequences]]:
    """Micro-batches of examples with the indices of theirs, those of one prompt together."""
    prompts, responses = [e.prompt for e in examples], [e.response for e in examples]
    for indices in microbatches_by_prompt(prompts, responses, max_tokens):
        part = ([prompts[i] for i in indices], [responses[i] for i in indices])
        yield indices, make_sequences(*part, share_prompts=True)


@torch.no_grad()
def _center(
    model: Any, optimizer: Adam, demonstrations: Sequence[Example], max_tokens: int
) -> dict[str, float]:
    """Folds the bias with which demonstrations score 0 on average into the head."""
    model.eval()
    hidden = []
    for _, batch in _batches(demonstrations, max_tokens):
        states = hidden_states_at(model, batch.tokens, batch.layout, batch.last)
        hidden.append(states.float())
    folded = center(model, torch.cat(hidden), optimizer.master_of)
    optimizer.sync()
    return {"reward/bias": folded["bias"], "reward/bias_spread": folded["spread"]}
