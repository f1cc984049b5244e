"""Step 0: a base model from text, for those who do not bring one (and for the miniature world)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from heedful.config import PretrainConfig
from heedful.data.text import TextRows
from heedful.metrics import MetricsLog, last_values
from heedful.models.device import device_of, placement
from heedful.models.language_model import num_parameters, place
from heedful.training.budget import Budget
from heedful.training.checkpoint import config_fingerprint, load_state, save_state
from heedful.training.loop import Timer, derive_seed, peak_memory
from heedful.training.passes import accumulate_text, lr_at, make_optimizer, text_loss
from heedful.training.stopping import Saves


def train(
    config: PretrainConfig,
    model: Any,
    rows: TextRows,
    valid_rows: TextRows | None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, float]:
    """The last metrics, after training ``model`` in place on ``config.num_tokens`` tokens.

    Next-token loss on every token, fp32 masters. Goes on from the newest state in ``run_dir``.
    """
    run_dir = Path(config.run_dir)
    optim, log_config = config.optim, config.log
    tokens_per_step = optim.batch_size * rows.row_tokens
    num_steps = max(1, math.ceil(config.num_tokens / tokens_per_step))
    fingerprint = config_fingerprint(config, len(rows.tokens))
    place(model, *placement(config.compute))
    optimizer, budget = make_optimizer(model, optim), Budget.of_tokens(config.compute)
    first_step = 0
    if (state := load_state(run_dir, fingerprint)) is not None:
        optimizer.load_state_dict(state["optimizer"])
        first_step = state["step"]
    sinks, print_every = log_config.sinks, log_config.print_every
    log = MetricsLog(run_dir, resume_step=first_step, sinks=sinks, print_every=print_every)
    saves = Saves(log_config.save_every, log_config.save_every_s, num_steps, first_step)
    flops_per_step = 6 * num_parameters(model) * tokens_per_step
    last = last_values(run_dir)  # of a run that only has its model left to publish
    for step in range(first_step, num_steps):
        timer = Timer(device_of(model))
        batch = rows.draw(optim.batch_size, derive_seed(config.seed, "text", step))
        timer.lap("data")
        where = f"step {step + 1}"
        model.train()
        accumulate = partial(
            accumulate_text, model, batch, run_dir=run_dir, where=where, timer=timer
        )
        loss = budget.run(accumulate, optimizer)
        lr = lr_at(optim, step, num_steps)
        last = {"pretrain/loss": loss, "optim/lr": lr}
        last["optim/grad_norm"] = optimizer.step(lr, batch, run_dir, where)
        timer.lap("optimizer")
        last |= {
            "speed/tokens_per_s": tokens_per_step / timer.total(),
            "speed/flops_per_s": flops_per_step / timer.total(),
            "time/update_s": timer.total(),
            "data/tokens": float((step + 1) * tokens_per_step),
        }
        every = log_config.valid_every
        if valid_rows is not None and (
            step + 1 == num_steps or (every and (step + 1) % every == 0)
        ):
            last["valid/text_loss"] = budget.run(partial(text_loss, model, valid_rows))
        measured = timer.metrics() | peak_memory(device_of(model))
        log.log(step, last | measured, of=num_steps)
        progress(step + 1, num_steps)
        if saves.is_due(step + 1):
            state = {"optimizer": optimizer.state_dict(), "fingerprint": fingerprint}
            save_state(run_dir, step + 1, state)
            saves.saved(step + 1)
    log.close()
    optimizer.release()
    model.eval()
    return last
