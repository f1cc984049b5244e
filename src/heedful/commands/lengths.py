"""What a dry run knows of lengths: rows as their tokens have them, and whether models hold them.

Tokens are counted where the tokenizer is there and the files are small.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any, NamedTuple

from heedful.commands.datasets import (
    DATA_LIMITS,
    ROLLOUT_LIMITS,
    SAMPLE_LIMITS,
    load_demonstrations,
    load_prompts,
    load_rankings,
    too_long,
)
from heedful.config import PPOConfig, RewardConfig, SampleConfig, Section, SFTConfig, SnapshotData
from heedful.data.bad_rows import BadRows
from heedful.data.rows import ROW_SUFFIXES, find_files
from heedful.data.template import Template
from heedful.errors import DataError, ModelError
from heedful.models.kind import read_config, require_tokenizer

# Up to this size rows are counted in a dry run, about a second of reading, and up to this size
# their tokens, a few seconds.
MAX_COUNTED_BYTES = 32 * 2**20
MAX_TOKENIZED_BYTES = 4 * 2**20


class Reader(NamedTuple):
    """A model of a step, and the settings that bound what it reads: prompt, then response."""

    path: str
    limits: tuple[str, str]
    max_prompt: int
    max_response: int
    is_sampled: bool  # a response is as long as its limit, for what a run reserves


def are_small(data: SnapshotData, kind: str, most: int = MAX_COUNTED_BYTES) -> bool:
    """Whether the files of a kind, and the prompts that give them splits, are all here and can be
    read in a dry run."""
    paths: Sequence[str] = getattr(data, kind)
    if not paths:
        return False
    total = 0
    for name, path in [(kind, path) for path in paths] + [("prompts", p) for p in data.prompts]:
        if path.startswith("hf:"):
            return False
        try:
            total += sum(map(_bytes_of, find_files(path, ROW_SUFFIXES, name)))
        except DataError:
            return False
    return total <= most


def _bytes_of(file: str) -> int:
    # text shrinks to about a third
    return Path(file).stat().st_size * (3 if file.endswith(".gz") else 1)


def template_for(path: str, data: SnapshotData, kind: str) -> Template | None:
    """The template of a model where the tokens of this data can be counted, else None."""
    if not are_small(data, kind, MAX_TOKENIZED_BYTES):
        return None
    try:
        require_tokenizer(path)
        from heedful.models.language_model import load_tokenizer

        return Template.of_model(Path(path), load_tokenizer(path))
    except ModelError:  # said where the inputs are looked for
        return None


def context_problems(
    config: Section, like: Mapping[str, str] | None = None, *, count: bool = True
) -> list[str]:
    """What a run would refuse because a model's context does not hold it, as far as it is known.

    ``like`` maps the directory of a model that is still to be made to one of its size. Without
    ``count`` no data is read: it may be of another run.
    """
    found = []
    for reader in _readers(config):
        path = (like or {}).get(reader.path, reader.path)
        context = context_of(path)
        if context is None or reader.max_prompt + reader.max_response <= context:
            continue
        with redirect_stderr(io.StringIO()):  # what is left out is said where rows are counted
            longest = _longest(config, reader, path, context, count)
        if longest > context:
            found.append(too_long(longest, context, reader.path, reader.limits))
    return found


def context_notes(config: Section, like: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """(tokens, remark) of limits that allow more than a model's context holds."""
    for reader in _readers(config):
        context = context_of(like.get(reader.path, reader.path))
        most = reader.max_prompt + reader.max_response
        if context is not None and most > context:
            remark = f"the context of {reader.path} is {context:,}: a run refuses what is longer"
            yield f"{most:,}", remark


def context_of(path: str) -> int | None:
    """Most tokens that a model reads at a time, by its config.json; None where it does not say."""
    try:
        config = read_config(path)
    except ModelError:
        return None
    config = config.get("text_config") or config
    found = config.get("max_position_embeddings", config.get("n_positions"))
    return found if isinstance(found, int) else None


def _readers(config: Section) -> Iterator[Reader]:
    if isinstance(config, SFTConfig | RewardConfig):
        data = config.data
        most = data.max_prompt_tokens, data.max_response_tokens
        yield Reader(config.base, DATA_LIMITS, *most, False)
    elif isinstance(config, PPOConfig):
        most = config.data.max_prompt_tokens, config.sampling.max_new_tokens
        for path in (config.policy, config.reward_model):
            yield Reader(path, ROLLOUT_LIMITS, *most, True)
    elif isinstance(config, SampleConfig):
        most = config.max_prompt_tokens, config.sampling.max_new_tokens
        for spec in config.models:
            yield Reader(spec.path, SAMPLE_LIMITS, *most, True)


def _longest(config: Any, reader: Reader, path: str, context: int, count: bool) -> int:
    """Tokens of the longest prompt and response that a run would have; 0 where it is not known."""
    least = reader.max_response + 1 if reader.is_sampled else 0
    if not count or least > context or isinstance(config, SampleConfig):
        return least  # with the shortest prompt
    kind = {SFTConfig: "demonstrations", RewardConfig: "comparisons", PPOConfig: "prompts"}
    template = template_for(path, config.data, kind[type(config)])
    if template is None:
        return least
    try:
        return max(_lengths(config, template), default=0)
    except DataError:  # said where rows are counted
        return least


def _lengths(config: Any, template: Template) -> Iterator[int]:
    data, bad = config.data, BadRows(skip=config.data.skip_bad_rows)
    if isinstance(config, PPOConfig):
        for prompt in load_prompts(data, template, "train", bad):
            yield len(prompt.tokens) + config.sampling.max_new_tokens
        return
    for split in ("train", "valid"):
        if isinstance(config, SFTConfig):
            for row in load_demonstrations(data, template, split, bad):
                yield len(row.prompt) + len(row.response)
        else:
            for ranked in load_rankings(data, template, split, bad):
                yield from (len(ranked.prompt) + len(r) for r in ranked.responses)
