"""Step 3: the policy against the reward model by PPO, or PPO-ptx (paper 3.5, equation 2, C.4).

Each iteration: sample a response to every prompt of a batch; score it; penalise the policy's drift
from the reference per token; estimate advantages; update policy and value function minibatch by
minibatch. In PPO-ptx every minibatch also adds the gradient of the next-token loss on pretraining
text into the same buffers before the one update.

Departures where the paper is silent: docs/decisions.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from heedful.config import PPO, PPOConfig
from heedful.data.examples import PromptTokens
from heedful.data.text import TextRows
from heedful.errors import ConfigError, DataError
from heedful.losses.ppo import adaptive_kl, policy_loss, value_loss
from heedful.metrics import MetricsLog, keep_rows_before, last_values, read_metrics
from heedful.models.device import device_of, upload
from heedful.models.lora import adapters_off
from heedful.rollout.engine import Generator, Rollout, sample
from heedful.rollout.experience import Experience, make_experience, penalize_cut
from heedful.training.checkpoint import config_fingerprint, save_state
from heedful.training.evaluations import Evaluations, Evaluator, mark_of
from heedful.training.loop import (
    Sums,
    Timer,
    derive_seed,
    epoch_batches,
    learning_rate,
    make_generator,
    microbatches,
    peak_memory,
    require_finite,
)
from heedful.training.monitoring import (
    SAMPLES_FILE,
    Watch,
    check_start,
    describe,
    speed,
    write_samples,
)
from heedful.training.passes import (
    Sequences,
    accumulate_text,
    final_scores,
    make_sequences,
    response_logprobs,
    response_loss,
    response_values,
    to_rows,
)
from heedful.training.ppo_state import PPOState
from heedful.training.stopping import Saves

# Observers look at what was sampled and return metrics; the policy never learns from them.
Observer = Callable[[Sequence[PromptTokens], Experience], dict[str, float]]


@dataclass
class Models:
    """The four networks of step 3. The reference and the reward model are never trained.

    ``reference`` is None where the policy has LoRA adapters: it is then the policy with them off.
    """

    policy: Any
    reference: Any | None
    reward_model: Any
    value_function: Any


def num_iterations(ppo: PPO) -> int:
    """Iterations in all: episodes over batch size, rounded up."""
    return math.ceil(ppo.episodes / ppo.batch_size)


def train(
    config: PPOConfig,
    models: Models,
    prompts: Sequence[PromptTokens],
    text: TextRows | None,
    *,
    eos: int | Sequence[int],
    pad: int,
    evaluators: Sequence[Evaluator] = (),
    observers: Sequence[Observer] = (),
    decode: Callable[[list[int]], str] = str,
    generate: Generator = sample,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, float]:
    """The last metrics; ``models.policy`` then holds the averaged (EMA) weights to be published."""
    ppo, run_dir = config.ppo, Path(config.run_dir)
    _check(config, prompts, text)
    fingerprint = config_fingerprint(config, len(prompts), sum(len(p.tokens) for p in prompts))
    state = PPOState.build(config, models, fingerprint)
    total, first = num_iterations(ppo), state.resume(run_dir)
    log = _open_log(config, first)
    batches = epoch_batches(len(prompts), ppo.batch_size, total, config.seed, first)
    watch, saves = Watch(), Saves(config.log.save_every, config.log.save_every_s, total, first)
    done, asked = read_metrics(run_dir), mark_of(config.eval)
    evaluations = Evaluations(evaluators, run_dir, config.eval_every, total, first, done, asked)
    last = last_values(run_dir)  # of a run that only has its model left to publish
    for iteration, indices in enumerate(batches, start=first):
        timer, parts = (Timer(device_of(models.policy)) for _ in range(2))
        batch = [prompts[i] for i in indices]
        sampler = partial(generate, models.policy, [p.tokens for p in batch], eos=eos, pad=pad)
        generator = partial(make_generator, config.seed, "rollout", iteration)
        rollout = state.rows.rollout(sampler, config.sampling, generator)
        timer.lap("rollout")
        recomputes = state.trust.recomputes
        passes = partial(collect, config, models, batch, rollout, state.kl_coef)
        experience = state.tokens.run(partial(passes, parts=parts, recompute=recomputes))
        timer.lap("experience")
        if iteration == 0:
            check_start(experience)
        stats, num_text_tokens = _optimize(
            config, models, state, experience, text, iteration, run_dir, parts
        )
        state.average(ppo.ema_decay, iteration)
        timer.lap("optimize")
        state.kl_coef = _next_kl_coef(ppo, state.kl_coef, float(experience.kl.mean()))
        last = describe(experience) | stats | {"ppo/kl_coef": state.kl_coef}
        state.trust.look(rollout, experience, last)
        for observer in observers:
            last |= observer(batch, experience)
        timer.lap("observe")
        last |= evaluations.look(models.policy, iteration, timer)
        last |= speed(ppo, models, experience, num_text_tokens, timer.seconds, recomputes)
        last |= timer.metrics() | parts.metrics() | peak_memory(device_of(models.policy))
        log.log(iteration, last, of=total)
        watch.look(last, iteration)
        if config.log_samples_every and iteration % config.log_samples_every == 0:
            write_samples(run_dir, iteration, batch, experience, decode)
        progress(iteration + 1, total)
        if saves.is_due(iteration + 1):
            save_state(run_dir, iteration + 1, state.state_dict())
            saves.saved(iteration + 1)
    log.close()
    state.publish_weights()
    models.policy.eval()
    return last


def _open_log(config: PPOConfig, first: int) -> MetricsLog:
    """The metrics from iteration ``first`` on; what a run that ended early wrote of it is dropped,
    from the samples too."""
    run_dir = Path(config.run_dir)
    keep_rows_before(run_dir / SAMPLES_FILE, first, "iteration")
    return MetricsLog(
        run_dir, resume_step=first, sinks=config.log.sinks, print_every=config.log.print_every
    )


def _check(config: PPOConfig, prompts: Sequence[PromptTokens], text: TextRows | None) -> None:
    if not prompts:
        raise DataError("no prompt of the train split was found: step 3 needs prompts to answer")
    if config.ppo.ptx_coef > 0 and text is None:
        raise DataError(
            "ptx_coef is above 0 but data.text is empty: PPO-ptx needs pretraining text"
        )
    if config.sampling.temperature == 0:
        raise ConfigError(
            "sampling.temperature is 0: step 3 learns from differences between samples, and greedy "
            "responses have none; the paper samples at 1"
        )


@torch.no_grad()
def collect(
    config: PPOConfig,
    models: Models,
    batch: Sequence[PromptTokens],
    rollout: Rollout,
    kl_coef: float,
    max_tokens: int,
    parts: Timer | None = None,
    recompute: bool = True,
) -> Experience:
    """The experience of one rollout, on the processor: one packed pass each of reference, reward
    and value.

    With ``recompute`` one of the policy too, else its log-probabilities are the sampler's.
    ``parts`` gets the seconds of each.
    """
    parts = parts or Timer(device_of(models.policy))
    temperature = config.sampling.temperature
    prompts = [prompt.tokens for prompt in batch]
    responses = rollout.rows()
    columns = rollout.tokens.shape[1]
    mask = rollout.response_mask
    logprobs = rollout.logprobs.clone()
    ref_logprobs, values = torch.zeros_like(logprobs), torch.zeros_like(logprobs)
    scores = torch.zeros(len(batch))
    lengths = [len(p) + len(r) for p, r in zip(prompts, responses, strict=True)]
    for model in (models.policy, models.reference, models.reward_model, models.value_function):
        if model is not None:
            model.eval()
    for group in microbatches(lengths, max_tokens):
        sequences = make_sequences([prompts[i] for i in group], [responses[i] for i in group])
        parts.restart()
        reference = _reference_logprobs(models, sequences, temperature)
        ref_logprobs[group] = to_rows(reference, sequences, columns).cpu()
        parts.lap("reference")
        value = response_values(models.value_function, sequences)
        values[group] = to_rows(value, sequences, columns).cpu()
        parts.lap("values")
        scores[group] = final_scores(models.reward_model, sequences).cpu()
        parts.lap("score")
        if recompute:
            current = response_logprobs(models.policy, sequences, temperature)
            logprobs[group] = to_rows(current, sequences, columns).cpu()
            parts.lap("logprobs")
    scores = penalize_cut(scores, rollout.finished, config.ppo.missing_eos_score)
    return make_experience(
        prompts,
        responses,
        rollout.finished,
        mask,
        logprobs=logprobs,
        ref_logprobs=ref_logprobs,
        values=values,
        scores=scores,
        kl_coef=kl_coef,
        discount=config.ppo.discount,
        lam=config.ppo.lam,
    )


def _reference_logprobs(models: Models, sequences: Sequences, temperature: float) -> Tensor:
    if models.reference is not None:
        return response_logprobs(models.reference, sequences, temperature)
    with adapters_off(models.policy):
        return response_logprobs(models.policy, sequences, temperature)


def _optimize(
    config: PPOConfig,
    models: Models,
    state: PPOState,
    experience: Experience,
    text: TextRows | None,
    iteration: int,
    run_dir: Path,
    parts: Timer,
) -> tuple[dict[str, float], int]:
    """(means over the updates, tokens of text): policy and value function learn from one
    iteration's experience, minibatch by minibatch."""
    ppo = config.ppo
    totals: dict[str, float] = {}
    first: dict[str, float] = {}
    num_updates, num_text_tokens = 0, 0
    lr = learning_rate(
        iteration,
        num_iterations(ppo),
        ppo.lr,
        schedule="constant",
        warmup=ppo.warmup_iterations,
        warmup_from=0.1,
    )
    for epoch in range(ppo.epochs):
        generator = make_generator(config.seed, "minibatches", iteration, epoch)
        order = torch.randperm(len(experience.scores), generator=generator)
        for minibatch in order.split(ppo.minibatch_size):
            where = f"iteration {iteration + 1}, update {num_updates + 1}"
            rows = None
            if ppo.ptx_coef > 0 and text is not None:
                count = max(1, round(len(minibatch) * ppo.ptx_rows_per_episode))
                rows = text.draw(count, derive_seed(config.seed, "ptx", iteration, num_updates))
                num_text_tokens += rows.numel()
            gradients = partial(
                _gradients, config, models, experience, minibatch, rows, run_dir, where, parts
            )
            stats = state.tokens.run(gradients, state.policy, state.value)
            if num_updates == 0:
                # approx_kl is half of the mean square of the ratio's logarithm
                spread = math.sqrt(2 * stats["ppo/approx_kl"])
                first = {"ppo/first_ratio": stats["ppo/ratio"], "ppo/first_spread": spread}
            batch = _rows_of(experience, minibatch.tolist())
            # both gradients are looked at before either network changes
            state.value.grad_norm(batch, run_dir, f"{where}, value function")
            stats["optim/grad_norm"] = state.policy.step(lr, batch, run_dir, f"{where}, policy")
            stats["optim/value_grad_norm"] = state.value.step(
                ppo.value_lr, batch, run_dir, f"{where}, value function"
            )
            num_updates += 1
            for key, value in stats.items():
                totals[key] = totals.get(key, 0.0) + value
    means = {key: value / num_updates for key, value in totals.items()}
    return means | first | {"optim/lr": lr}, num_text_tokens


def _gradients(
    config: PPOConfig,
    models: Models,
    experience: Experience,
    minibatch: Tensor,
    rows: Tensor | None,
    run_dir: Path,
    where: str,
    parts: Timer,
    max_tokens: int,
) -> dict[str, float]:
    """Adds the gradients of one minibatch, and of rows of pretraining text if there are any."""
    stats = _accumulate(config, models, experience, minibatch, run_dir, where, max_tokens)
    if rows is not None:
        parts.restart()
        stats["ppo/ptx_loss"] = accumulate_text(
            models.policy, rows, max_tokens, run_dir, where, weight=config.ppo.ptx_coef
        )
        parts.lap("ptx")
    return stats


def _accumulate(
    config: PPOConfig,
    models: Models,
    experience: Experience,
    minibatch: Tensor,
    run_dir: Path,
    where: str,
    max_tokens: int,
) -> dict[str, float]:
    """Adds the gradients of one minibatch (mean over its response tokens) to both networks."""
    ppo, device = config.ppo, device_of(models.policy)
    indices = minibatch.tolist()
    num_tokens = float(experience.response_mask[minibatch].sum())
    lengths = [len(experience.prompts[i]) + len(experience.responses[i]) for i in indices]
    sums = Sums()
    for group in microbatches(lengths, max_tokens):
        rows = minibatch[group]
        chosen = [indices[i] for i in group]
        batch = make_sequences(
            [experience.prompts[i] for i in chosen], [experience.responses[i] for i in chosen]
        )
        tokens = (batch.row_of, batch.column_of)
        mask, old_logprobs, advantages, old_values, returns = (
            upload(of_all[rows][tokens], device)[None]  # (1, M)
            for of_all in (
                experience.response_mask,
                experience.logprobs,
                experience.advantages,
                experience.values,
                experience.returns,
            )
        )
        of_policy = partial(_policy_loss, old_logprobs, advantages, mask, ppo.clip, num_tokens)
        loss, logprobs = response_loss(models.policy, batch, of_policy, config.sampling.temperature)
        saved = _rows_of(experience, chosen)
        require_finite(loss, saved, run_dir, f"{where}, policy")
        loss.backward()
        loss_sum, policy_stats = policy_loss(
            logprobs[None], old_logprobs, advantages, mask, ppo.clip
        )
        values = response_values(models.value_function, batch)
        value_sum, value_stats = value_loss(values[None], old_values, returns, mask, ppo.clip)
        require_finite(value_sum, saved, run_dir, f"{where}, value function")
        (ppo.vf_coef * value_sum / num_tokens).backward()
        parts = {
            "ppo/policy_loss": loss_sum,
            "ppo/value_loss": value_sum,
            "ppo/ratio": policy_stats["ratio_sum"],
            "ppo/clipfrac": policy_stats["num_clipped"],
            "ppo/approx_kl": policy_stats["approx_kl_sum"],
            "ppo/value_clipfrac": value_stats["num_clipped"],
        }
        sums.add(**parts)
    return {key: value / num_tokens for key, value in sums.values().items()}


def _policy_loss(
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip: float,
    num_tokens: float,
    logprobs: Tensor,
    part: slice,
) -> Tensor:
    """What some tokens of (1, M) add to the policy's mean loss, given their log-probabilities."""
    of_part = (old_logprobs[:, part], advantages[:, part], mask[:, part])
    return policy_loss(logprobs[None], *of_part, clip)[0] / num_tokens


def _rows_of(experience: Experience, rows: list[int]) -> dict[str, Any]:
    """The chosen episodes by field name: what is saved when a minibatch is not finite."""
    return {
        name: values[rows] if isinstance(values, Tensor) else [values[row] for row in rows]
        for name, values in experience._asdict().items()
    }


def _next_kl_coef(ppo: PPO, kl_coef: float, kl: float) -> float:
    if ppo.kl_target == 0:
        return kl_coef
    return adaptive_kl(kl_coef, kl, ppo.kl_target, ppo.kl_horizon, ppo.batch_size)
