"""The numbers that follow from a step's settings, before anything is trained: --dry-run.

Every batch number is derived here once, the way the steps derive it, beside the number that the
paper's run had (sections 3 to 5 and Table 6). Data is counted where it is there and small.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from heedful.commands.asked import evaluation_rows
from heedful.commands.datasets import (
    demonstrations_of,
    load_demonstrations,
    load_prompts,
    load_rankings,
    rankings_of,
    select_prompts,
)
from heedful.commands.footprint import (
    AVERAGE_BYTES,
    STATE_BYTES,
    Part,
    cache_bytes,
    llama_parameters,
    num_parameters,
    vocabulary_size,
    weigh,
)
from heedful.commands.lengths import are_small, context_notes, template_for
from heedful.config import (
    Compute,
    Optim,
    PPOConfig,
    PretrainConfig,
    RewardConfig,
    SampleConfig,
    Section,
    SFTConfig,
    SnapshotData,
)
from heedful.data.bad_rows import BadRows
from heedful.data.template import Template
from heedful.memory import TOKENS, TOKENS_ON_ACCELERATORS

UNKNOWN = "unknown until the data is read"
# K completions of a prompt at most in the paper (section 3.5), where the data does not say.
PAPER_MAX_COMPLETIONS = 9
# Directories of models that are still to be made, and of ones of their size.
Like = Mapping[str, str]
MEMORY_NOTE = "weights, gradients, masters, Adam; activations come on top"


class Row(NamedTuple):
    """A line of the table: what it is, its value, and what to compare it with."""

    name: str
    value: str
    note: str = ""


class _Rankings(NamedTuple):
    """What a reward model's training files hold."""

    num_prompts: int  # rankings of training labelers with an untied pair
    num_pairs: int  # their untied pairs
    most: int  # completions of the longest ranking


def derived_numbers(config: Section, like: Mapping[str, str] | None = None) -> str:
    """The table of every number that follows from the settings; data is read only where small.

    ``like`` maps the directory of a model that is still to be made to one of its size.
    Raises DataError where the data is there and cannot be read.
    """
    derive = _STEPS.get(type(config).__name__)
    if derive is None:
        return "no batch numbers follow from these settings"
    like = like or {}
    rows = derive(config, like) + _memory_rows(config, like)
    rows += [Row("longest sequence, at most", *note) for note in context_notes(config, like)]
    names, values = (max(len(row[i]) for row in rows) for i in (0, 1))
    return "\n".join(
        f"{row.name:<{names}}  {row.value:>{values}}  {row.note}".rstrip() for row in rows
    )


def _sft_rows(config: SFTConfig, like: Like) -> list[Row]:
    optim, data = config.optim, config.data
    template = template_for(like.get(config.base, config.base), data, "demonstrations")
    count = _count_demonstrations(data, template)
    uncounted = "" if count is None else _uncounted(data, template)
    rows_of_text = text_rows_per_update(config)
    sequence = data.max_prompt_tokens + data.max_response_tokens
    rows = [
        Row("demonstrations to train on", _number(count), f"paper: 12,725{uncounted}"),
        Row("demonstrations per update", _number(optim.batch_size), "paper: 32, and 8 for 175B"),
    ]
    if count is None:
        rows += [Row("updates per epoch", UNKNOWN), Row("updates in all", UNKNOWN)]
    else:
        updates = max(1, math.ceil(config.epochs * count / optim.batch_size))
        rows += [
            Row(
                "updates per epoch",
                _number(math.ceil(count / optim.batch_size)),
                _few(count, optim),
            ),
            Row(
                "updates in all",
                _number(updates),
                f"{config.epochs:g} epochs; paper: 6,363 (16 epochs), 796 for the PPO init model",
            ),
        ]
    if rows_of_text:
        share = rows_of_text / (rows_of_text + optim.batch_size)
        note = f"{share:.1%} of the examples; paper: 10 % for the PPO init model"
        rows.append(Row("pretraining rows per update", _number(rows_of_text), note))
    most = optim.batch_size * sequence + rows_of_text * config.row_tokens
    rows += _pass_rows(most, _tokens_at_a_time(config.compute))
    return rows


def _few(count: int, optim: Optim) -> str:
    if count >= optim.batch_size:
        return "paper: 398"
    return (
        f"an update of {optim.batch_size:,} passes over all {count:,} more than once: lower "
        "optim.batch_size"
    )


def _warmup_note(warmup: int, iterations: int) -> str:
    if warmup < iterations:
        return f"{warmup} iterations; paper: 80 updates, 10 iterations"
    return (
        f"warning: there are only {iterations} iterations, and the learning rate rises for "
        f"{warmup}: lower ppo.warmup_iterations or raise ppo.episodes"
    )


def text_rows_per_update(config: SFTConfig) -> int:
    """Rows of pretraining text beside a full batch of demonstrations."""
    mix = config.pretraining_mix
    if mix == 0:
        return 0
    return max(1, round(config.optim.batch_size * mix / (1 - mix)))


def _reward_rows(config: RewardConfig, like: Like) -> list[Row]:
    optim, data = config.optim, config.data
    template = template_for(like.get(config.base, config.base), data, "comparisons")
    found = _count_rankings(data, template)
    uncounted = "" if found is None else _uncounted(data, template)
    most = PAPER_MAX_COMPLETIONS if found is None else found.most
    pairs = optim.batch_size * math.comb(most, 2)
    num_prompts = None if found is None else found.num_prompts
    rows = [
        Row("rankings to train on", _number(num_prompts), f"paper: 33,207 prompts{uncounted}"),
        Row("prompts per update", _number(optim.batch_size), "paper: 64"),
        Row(
            "pairs per update, at most",
            _number(pairs),
            f"{optim.batch_size} x C({most},2); paper: 2,304 = 64 x C(9,2)",
        ),
    ]
    if found is None:
        rows.append(Row("updates in all", UNKNOWN))
    else:
        rows += _reward_updates(config, found)
    sequence = data.max_prompt_tokens + data.max_response_tokens
    tokens = optim.batch_size * most * sequence
    rows += _pass_rows(tokens, _tokens_at_a_time(config.compute))
    return rows


def _reward_updates(config: RewardConfig, found: _Rankings) -> list[Row]:
    """Updates of either batching: a batch of shuffled pairs has as many pairs as one of prompts."""
    note = f"{config.epochs:g} epoch; paper: 519"
    elements, batch = found.num_prompts, config.optim.batch_size
    rows = [Row("untied pairs", _number(found.num_pairs), "paper: 199,000 to 1,200,000 with ties")]
    if config.batching == "shuffled_pairs" and found.num_prompts:
        batch = max(1, round(batch * found.num_pairs / found.num_prompts))
        elements = found.num_pairs
        rows.append(Row("shuffled pairs per update", _number(batch), "the paper's ablation"))
    updates = max(1, math.ceil(config.epochs * elements / batch))
    return [*rows, Row("updates in all", _number(updates), note)]


def _ppo_rows(config: PPOConfig, like: Like) -> list[Row]:
    ppo, data = config.ppo, config.data
    iterations = math.ceil(ppo.episodes / ppo.batch_size)
    per_iteration = ppo.epochs * math.ceil(ppo.batch_size / ppo.minibatch_size)
    per_update = min(ppo.minibatch_size, ppo.batch_size)
    template = template_for(like.get(config.policy, config.policy), data, "prompts")
    prompts = _count_prompts(data, "train", template)
    uncounted = "" if prompts is None else _uncounted(data, template)
    passes = UNKNOWN if not prompts else f"{ppo.episodes / prompts:.1f}"
    rows = [
        Row("prompts to train on", _number(prompts), f"paper: 31,144{uncounted}"),
        Row("episodes", _number(ppo.episodes), "paper: 256,000"),
        Row("passes over the prompts", passes, "paper: 8.2"),
        Row(
            "iterations", _number(iterations), f"of {ppo.batch_size:,} episodes; paper: 500 of 512"
        ),
        Row(
            "updates per iteration",
            _number(per_iteration),
            f"of {per_update:,} episodes; paper: 8 of 64",
        ),
        Row("updates in all", _number(iterations * per_iteration), "paper: 4,000"),
        Row(
            "warm-up updates",
            _number(min(ppo.warmup_iterations, iterations) * per_iteration),
            _warmup_note(ppo.warmup_iterations, iterations),
        ),
    ]
    rows += [Row(*row) for row in evaluation_rows(config, iterations)]
    if ppo.ptx_coef > 0:
        rows += _ptx_rows(config, iterations)
    sequence = data.max_prompt_tokens + config.sampling.max_new_tokens
    rows += [
        Row(
            "tokens per iteration, at most",
            _number(ppo.batch_size * sequence),
            "prompts + responses",
        ),
        Row(
            "response tokens, at most",
            _number(iterations * ppo.batch_size * config.sampling.max_new_tokens),
            f"{config.sampling.max_new_tokens:,} per response; paper: 1,024",
        ),
    ]
    rows += _pass_rows(per_update * sequence, _tokens_at_a_time(config.compute))
    return rows


def _ptx_rows(config: PPOConfig, iterations: int) -> list[Row]:
    """Rows of pretraining text of PPO-ptx; a last, smaller minibatch takes its share."""
    ppo = config.ppo
    whole, rest = divmod(ppo.batch_size, ppo.minibatch_size)
    share = ppo.ptx_rows_per_episode
    per_minibatch = max(1, round(min(ppo.minibatch_size, ppo.batch_size) * share))
    per_epoch = whole * per_minibatch + (max(1, round(rest * share)) if rest else 0)
    in_all = iterations * ppo.epochs * per_epoch
    return [
        Row("pretraining rows per minibatch", _number(per_minibatch), "paper: 512 = 8 x 64"),
        Row("pretraining rows in all", _number(in_all), "paper: 2,048,000 of about 2,048 tokens"),
        Row("pretraining tokens in all", _number(in_all * config.row_tokens), "paper: 4.2e9"),
    ]


def _pretrain_rows(config: PretrainConfig, like: Like) -> list[Row]:
    per_update = config.optim.batch_size * config.row_tokens
    updates = max(1, math.ceil(config.num_tokens / per_update))
    vocabulary = vocabulary_size(config.tokenizer)
    rows = [
        Row("tokens per update", _number(per_update), f"rows of {config.row_tokens:,} tokens"),
        Row("updates", _number(updates)),
        Row("tokens in all", _number(updates * per_update), "paper: 300,000,000,000 for GPT-3"),
        Row("warm-up updates", _number(min(updates, config.optim.warmup_steps))),
    ]
    if vocabulary is None:
        return [*rows, Row("parameters", "unknown until the tokenizer is there")]
    parameters = llama_parameters(config.shape, vocabulary)
    flops = 6 * parameters * updates * per_update
    rows += [
        Row("parameters", _number(parameters), f"{vocabulary:,} tokens in the vocabulary"),
        Row("training compute", f"{flops:.2e} FLOP", "6 x parameters x tokens"),
    ]
    model = Part("model", config.tokenizer, True)
    found = weigh(model, parameters, config.compute.dtype)
    return [*rows, Row("memory", _span(found.least, found.most), MEMORY_NOTE)]


def _sample_rows(config: SampleConfig, like: Like) -> list[Row]:
    data = SnapshotData(prompts=config.prompts, use=config.use, valid_share=config.valid_share)
    prompts = _count_prompts(data, config.split)
    if prompts is not None and config.limit is not None:
        prompts = min(prompts, config.limit)
    per_prompt = sum(model.num_samples for model in config.models)
    in_all = None if prompts is None else prompts * per_prompt
    drawn = sum(model.num_samples * model.best_of for model in config.models)
    most = None if prompts is None else prompts * drawn * config.sampling.max_new_tokens
    return [
        Row("prompts", _number(prompts)),
        Row("completions per prompt", _number(per_prompt), "paper: 4 to 9 for rankings"),
        Row("completions in all", _number(in_all)),
        Row("tokens sampled, at most", _number(most)),
    ]


def _tokens_at_a_time(compute: Compute) -> int:
    """The tokens of a micro-batch; of a device that is still to be found, a processor's."""
    on_accelerator = compute.device.startswith("cuda")
    return compute.tokens_per_microbatch or (TOKENS_ON_ACCELERATORS if on_accelerator else TOKENS)


def _pass_rows(tokens: int, per_pass: int) -> list[Row]:
    """The most tokens of one update, and in how many passes they are worked on."""
    passes = math.ceil(tokens / per_pass)
    return [
        Row(
            "tokens per update, at most",
            _number(tokens),
            "with every prompt and response at its limit",
        ),
        Row(
            "passes per update, at most",
            f"about {passes:,}",
            f"of {per_pass:,} tokens; memory only",
        ),
    ]


# Memory


def _parts(config: Section) -> list[Part]:
    """The networks that a step holds."""
    if isinstance(config, SFTConfig):
        return [Part("policy", config.base, True)]
    if isinstance(config, RewardConfig):
        return [Part("reward model", config.base, True)]
    if not isinstance(config, PPOConfig):
        return []
    parts = [
        Part("policy", config.policy, True, average=True),
        Part("reference", config.policy, False),
        Part("value function", config.reward_model, True),
        Part("reward model", config.reward_model, False),
    ]
    if config.lora.rank:  # the reference is the policy with its adapters off
        del parts[1]
    return parts


def _memory_rows(config: Any, like: Mapping[str, str]) -> list[Row]:
    """Parameters and memory of every network, their sum, the training state, and the cache."""
    parts = _parts(config)
    if not parts:
        return []
    lora, dtype = config.lora.rank, config.compute.dtype
    rows, least, most, state = [], 0, 0, 0
    for part in parts:
        path = like.get(part.path, part.path)
        count = num_parameters(path)
        if count is None:
            rows.append(Row(f"{part.name}: memory", "unknown until the model is there", path))
            continue
        found = weigh(part, count, dtype, lora)
        least, most = least + found.least, most + found.most
        if part.is_trained and not lora:
            state += count * (STATE_BYTES + (AVERAGE_BYTES if part.average else 0))
        note = f"{count:,} parameters" + ("" if part.is_trained else ", not trained")
        rows.append(Row(f"{part.name}: memory", _span(found.least, found.most), note))
    if most:
        rows.append(Row("memory of all that is known", _span(least, most), MEMORY_NOTE))
    if state:
        rows.append(Row("training state on disk", _size(state), "twice that while it is written"))
    if isinstance(config, PPOConfig):
        rows += _cache_rows(config, like.get(config.policy, config.policy))
    return rows


def _cache_rows(config: PPOConfig, path: str) -> list[Row]:
    held = min(config.sampling.max_rows, config.ppo.batch_size)
    tokens = config.data.max_prompt_tokens + config.sampling.max_new_tokens
    found = cache_bytes(path, held, tokens, config.compute.dtype)
    if found is None:
        return []
    note = f"{held:,} rows of {tokens:,} tokens"
    return [Row("cache of the rollout, at most", _size(found), note)]


def _span(least: int, most: int) -> str:
    """A size, or a range where "auto" leaves the dtype open: bf16 to fp32."""
    return _size(least) if least == most else f"{_size(least)} to {_size(most)}"


def _size(num_bytes: int) -> str:
    if num_bytes < 2**30:
        return f"{num_bytes / 2**20:,.1f} MiB"
    return f"{num_bytes / 2**30:,.1f} GiB"


def _number(value: int | None, unknown: str = UNKNOWN) -> str:
    return unknown if value is None else f"{value:,}"


# Counting


def _count_demonstrations(data: SnapshotData, template: Template | None) -> int | None:
    if not are_small(data, "demonstrations"):
        return None
    bad = BadRows(skip=data.skip_bad_rows)
    if template is not None:
        return len(load_demonstrations(data, template, "train", bad))
    return sum(row.split == "train" for row in demonstrations_of(data, bad))


def _count_prompts(
    data: SnapshotData, split: str | None, template: Template | None = None
) -> int | None:
    if not are_small(data, "prompts"):
        return None
    bad = BadRows(skip=data.skip_bad_rows)
    if template is not None and split is not None:
        return len(load_prompts(data, template, split, bad))
    return len(select_prompts(data.prompts, split, data.use, data.valid_share, bad))


def _count_rankings(data: SnapshotData, template: Template | None) -> _Rankings | None:
    if not are_small(data, "comparisons"):
        return None
    bad = BadRows(skip=data.skip_bad_rows)
    if template is not None:
        found = [row.ranks for row in load_rankings(data, template, "train", bad)]
    else:
        rows = rankings_of(data, bad)
        found = [r.ranks for r in rows if r.split == "train" and r.cohort != "heldout"]
    num_prompts = num_pairs = most = 0
    for ranks in found:
        if len(set(ranks)) == 1:
            continue
        same = sum(math.comb(ranks.count(rank), 2) for rank in set(ranks))
        num_prompts += 1
        num_pairs += math.comb(len(ranks), 2) - same
        most = max(most, len(ranks))
    return _Rankings(num_prompts, num_pairs, most)


def _uncounted(data: SnapshotData, template: Template | None) -> str:
    """What stands beside a count of rows whose tokens were not counted."""
    if template is not None or data.long_prompts != "skip":
        return ""
    return f"; tokens are not counted: prompts over {data.max_prompt_tokens:,} will be left out"


_STEPS: dict[str, Callable[[Any, Like], list[Row]]] = {
    "PretrainConfig": _pretrain_rows,
    "SFTConfig": _sft_rows,
    "RewardConfig": _reward_rows,
    "PPOConfig": _ppo_rows,
    "SampleConfig": _sample_rows,
}
