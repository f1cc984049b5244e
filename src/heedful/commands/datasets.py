"""The files of a command's data settings as tokenized rows."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from heedful.config import SnapshotData
from heedful.data.bad_rows import BadRows
from heedful.data.examples import Example, PromptTokens, RankedPrompt
from heedful.data.formats import (
    VALID_SHARE,
    read_comparisons,
    read_demonstrations,
    read_prompts,
)
from heedful.data.template import PromptLimit, Template
from heedful.errors import DataError
from heedful.metrics import iter_jsonl
from heedful.records import Prompt


def load_demonstrations(
    data: SnapshotData, template: Template, split: str, bad: BadRows
) -> list[Example]:
    """The tokenized demonstrations of a split; responses over the limit are cut without EOS."""
    examples, limit = [], _limit(data)
    for path in data.demonstrations:
        for row in read_demonstrations(path, valid_share=data.valid_share, bad=bad):
            if row.split != split:
                continue
            prompt = limit.fit(template, row.prompt, row.prompt_id)
            if prompt is not None:
                response = template.encode_response(row.response)
                examples.append(Example(prompt, response[: data.max_response_tokens]))
    _say_left_out(limit, len(examples), split)
    return examples


def load_rankings(
    data: SnapshotData, template: Template, split: str, bad: BadRows
) -> list[RankedPrompt]:
    """The tokenized rankings of a split, one for every labeler's ranking of a prompt.

    The training split leaves out held-out labelers: they make no training data (paper 3.4).
    """
    found, limit = [], _limit(data)
    for path in data.comparisons:
        for row in read_comparisons(path, valid_share=data.valid_share, bad=bad):
            if row.split != split or (split == "train" and row.cohort == "heldout"):
                continue
            prompt = limit.fit(template, row.prompt, row.prompt_id)
            if prompt is None:
                continue
            responses = [
                template.encode_response(completion.text)[: data.max_response_tokens]
                for completion in row.completions
            ]
            found.append(
                RankedPrompt(
                    row.prompt_id, prompt, responses, list(row.ranks), row.labeler, row.cohort
                )
            )
    _say_left_out(limit, len(found), split)
    return found


def load_prompts(
    data: SnapshotData, template: Template, split: str, bad: BadRows
) -> list[PromptTokens]:
    """The tokenized prompts of a split."""
    found, limit = [], _limit(data)
    for row in select_prompts(data.prompts, split, data.use, data.valid_share, bad):
        tokens = limit.fit(template, row.text, row.id)
        if tokens is not None:
            found.append(PromptTokens(row.id, row.text, tokens))
    _say_left_out(limit, len(found), split)
    return found


def select_prompts(
    paths: Sequence[str],
    split: str | None,
    use: str | None,
    valid_share: float = VALID_SHARE,
    bad: BadRows | None = None,
) -> list[Prompt]:
    """The prompts of files, by split and by their ``use`` field (JSONL only)."""
    wanted = None
    if use is not None:
        rows = (row for path in paths for row in iter_jsonl(Path(path)))
        wanted = {row["id"] for row in rows if row.get("use") == use}
    return [
        prompt
        for path in paths
        for prompt in read_prompts(path, valid_share=valid_share, bad=bad)
        if (split is None or prompt.split == split) and (wanted is None or prompt.id in wanted)
    ]


def require_context(lengths: Iterable[int], config: Any, path: str) -> None:
    """Raises DataError where the longest sequence does not fit the context of the model.

    Some architectures fail there, others go on at positions that they were never trained on.
    """
    longest = max(lengths, default=0)
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    if context is not None and longest > context:
        raise DataError(
            f"the longest prompt and response have {longest:,} tokens, the context of {path} is "
            f"{context:,}: lower data.max_prompt_tokens and data.max_response_tokens (in PPO "
            f"sampling.max_new_tokens) to {context:,} together"
        )


def _limit(data: SnapshotData) -> PromptLimit:
    return PromptLimit(data.max_prompt_tokens, data.long_prompts)


def _say_left_out(limit: PromptLimit, num_kept: int, split: str) -> None:
    """Says on stderr how many prompts were too long: what is missing should not surprise anyone."""
    for count, what in ((limit.num_skipped, "left out"), (limit.num_cut, "cut at their beginning")):
        if count:
            print(
                f"{split}: {count:,} prompts of more than {limit.max_tokens:,} tokens {what}; "
                f"{num_kept:,} rows in all",
                file=sys.stderr,
            )
