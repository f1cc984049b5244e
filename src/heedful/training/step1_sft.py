"""Step 1: a supervised policy from demonstrations (paper 3.5, C.1, C.3).

The same code makes the SFT baseline (16 epochs) and the PPO init model (2 epochs with 10 %
pretraining text), which is also the KL reference of step 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from heedful.config import SFTConfig
from heedful.data.examples import Example
from heedful.data.text import TextRows
from heedful.errors import DataError
from heedful.metrics import MetricsLog, last_values
from heedful.models.device import device_of, placement
from heedful.models.language_model import num_parameters, place, set_residual_dropout
from heedful.training.budget import Budget
from heedful.training.checkpoint import config_fingerprint, load_state, save_state
from heedful.training.loop import (
    Adam,
    Sums,
    Timer,
    derive_seed,
    epoch_batches,
    microbatches,
    peak_memory,
    require_finite,
)
from heedful.training.passes import (
    accumulate_text,
    lr_at,
    make_optimizer,
    make_sequences,
    nll,
    response_logprobs,
    response_loss,
)
from heedful.training.stopping import Saves

# Mean reward-model score of a model's responses on validation prompts: the paper's selection.
ScoreModel = Callable[[Any], float]


def num_updates(config: SFTConfig, num_examples: int) -> tuple[int, int]:
    """(updates in all, updates per epoch) for a number of demonstrations."""
    per_epoch = math.ceil(num_examples / config.optim.batch_size)
    return max(1, math.ceil(config.epochs * num_examples / config.optim.batch_size)), per_epoch


def train(
    config: SFTConfig,
    model: Any,
    examples: Sequence[Example],
    valid: Sequence[Example],
    text: TextRows | None = None,
    score_model: ScoreModel | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, float]:
    """The last metrics, after training ``model`` in place; it holds the selected epoch's weights.

    The loss is the mean over response tokens of the batch (prompt tokens too, where the settings
    say so); with a pretraining mix m it is (1 - m) of that and m of the mean over the text's
    tokens.
    """
    if not examples:
        raise DataError("no demonstration of the train split was found")
    run_dir = Path(config.run_dir)
    num_steps, per_epoch = num_updates(config, len(examples))
    fingerprint = config_fingerprint(config, len(examples), sum(map(_num_tokens, examples)))
    place(model, *placement(config.compute))
    set_residual_dropout(model, config.dropout)
    optimizer = make_optimizer(model, config.optim)
    best, budget = _Best(config.select), Budget.of_tokens(config.compute)
    first_step = 0
    if (state := load_state(run_dir, fingerprint)) is not None:
        optimizer.load_state_dict(state["optimizer"])
        best.load_state_dict(state["best"])
        first_step = state["step"]
    log = MetricsLog(
        run_dir,
        resume_step=first_step,
        sinks=config.log.sinks,
        print_every=config.log.print_every,
    )
    batches = epoch_batches(
        len(examples), config.optim.batch_size, num_steps, config.seed, first_step
    )
    every = config.log.valid_every or per_epoch
    saves = Saves(config.log.save_every, config.log.save_every_s, num_steps, first_step)
    last = last_values(run_dir)  # of a run that only has its model left to publish
    for step, indices in enumerate(batches, start=first_step):
        batch = [examples[i] for i in indices]
        update = partial(_update, config, model, optimizer, batch, text, step, num_steps, run_dir)
        last = budget.run(update, optimizer)
        if step + 1 == num_steps or (step + 1) % every == 0:
            last |= budget.run(partial(_validate, model, valid, score_model))
            best.offer(optimizer, last)
        last["data/epoch"] = (step + 1) / per_epoch
        log.log(step, last, of=num_steps)
        progress(step + 1, num_steps)
        if saves.is_due(step + 1):
            state = {"optimizer": optimizer.state_dict(), "best": best.state_dict()}
            save_state(run_dir, step + 1, state | {"fingerprint": fingerprint})
            saves.saved(step + 1)
    log.close()
    best.restore(optimizer)
    optimizer.release()
    model.eval()
    return last


def _update(
    config: SFTConfig,
    model: Any,
    optimizer: Adam,
    batch: Sequence[Example],
    text: TextRows | None,
    step: int,
    num_steps: int,
    run_dir: Path,
    max_tokens: int,
) -> dict[str, float]:
    """One update from a batch of demonstrations and its share of pretraining text."""
    timer = Timer(device_of(model))
    where = f"step {step + 1}"
    mix = config.pretraining_mix if text is not None else 0.0
    model.train()
    torch.manual_seed(derive_seed(config.seed, "dropout", step))
    if config.loss_on_prompt:
        # the first token has no predictor; every later one is a target
        batch = [Example(e.prompt[:1], e.prompt[1:] + e.response) for e in batch]
    num_targets = sum(len(example.response) for example in batch)
    lengths = [_num_tokens(example) for example in batch]
    losses = Sums()
    for group in microbatches(lengths, max_tokens):
        part = [batch[i] for i in group]
        sequences = make_sequences([e.prompt for e in part], [e.response for e in part])
        timer.lap("data")
        loss, logprobs = response_loss(model, sequences, nll((1 - mix) / num_targets))
        require_finite(loss, part, run_dir, where)
        timer.lap("forward")
        loss.backward()
        timer.lap("backward")
        losses.add(**{"sft/loss": -logprobs.sum() / num_targets})
    stats = losses.values()
    num_tokens = sum(lengths)
    if mix > 0 and text is not None:
        num_rows = max(1, round(len(batch) * mix / (1 - mix)))
        rows = text.draw(num_rows, derive_seed(config.seed, "text", step))
        timer.lap("data")
        stats["sft/text_loss"] = accumulate_text(
            model,
            rows,
            max_tokens,
            run_dir,
            where,
            weight=mix,
            timer=timer,
        )
        num_tokens += rows.numel()
    lr = lr_at(config.optim, step, num_steps)
    stats |= {"optim/lr": lr, "optim/grad_norm": optimizer.step(lr, batch, run_dir, where)}
    timer.lap("optimizer")
    seconds = timer.total()
    stats |= {
        "speed/tokens_per_s": num_tokens / seconds,
        "speed/flops_per_s": 6 * num_parameters(model) * num_tokens / seconds,
        "time/update_s": seconds,
    }
    return stats | timer.metrics() | peak_memory(device_of(model))


def _num_tokens(example: Example) -> int:
    return len(example.prompt) + len(example.response)


def _validate(
    model: Any, valid: Sequence[Example], score_model: ScoreModel | None, max_tokens: int
) -> dict[str, float]:
    """Loss on held-out demonstrations and mean score of samples, whichever can be measured."""
    metrics = {"valid/loss": valid_loss(model, valid, max_tokens)} if valid else {}
    if score_model is not None:
        metrics["valid/score"] = score_model(model)
    return metrics


@torch.no_grad()
def valid_loss(model: Any, examples: Sequence[Example], max_tokens: int) -> float:
    """Mean loss in nats per response token on held-out demonstrations."""
    model.eval()
    lengths = [_num_tokens(example) for example in examples]
    total, count = Sums(), 0
    for group in microbatches(lengths, max_tokens):
        part = [examples[i] for i in group]
        sequences = make_sequences([e.prompt for e in part], [e.response for e in part])
        logprobs = response_logprobs(model, sequences)
        total.add(loss=-logprobs.sum())
        count += len(logprobs)
    return total.values()["loss"] / count


class _Best:
    """The weights of the best validation so far, by the setting ``select``."""

    def __init__(self, select: str):
        self.select = select
        self.value: float | None = None
        self.weights: torch.Tensor | None = None

    def offer(self, optimizer: Adam, metrics: dict[str, float]) -> None:
        if self.select == "last":
            return
        key = {"valid_loss": "valid/loss", "score": "valid/score"}[self.select]
        if key not in metrics:
            raise DataError(
                f'select = "{self.select}" needs {key}: give validation demonstrations or, for '
                '"score", a reward_model and validation prompts'
            )
        value = -metrics[key] if self.select == "valid_loss" else metrics[key]
        if self.value is None or value > self.value:
            self.value = value
            self.weights = optimizer.master.data.to("cpu", copy=True)

    def restore(self, optimizer: Adam) -> None:
        if self.weights is not None:
            optimizer.set_weights(self.weights)

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value, self.weights = state["value"], state["weights"]
