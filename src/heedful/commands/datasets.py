"""The files of a command's data settings as tokenized rows."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from heedful.config import SnapshotData
from heedful.data.bad_rows import BadRows, RowProblem
from heedful.data.examples import Example, PromptTokens, RankedPrompt
from heedful.data.fields import has, name_of
from heedful.data.formats import (
    VALID_SHARE,
    prompt_id,
    read_comparisons,
    read_demonstrations,
    read_prompts,
)
from heedful.data.rows import ROW_SUFFIXES, find_files, read_rows
from heedful.data.template import PromptLimit, Template
from heedful.errors import DataError
from heedful.records import Demonstration, Prompt, Ranking, Split

# Settings that bound a prompt and the response that comes after it: in data, sampled for prompts of
# the data settings, and sampled by a command that only samples.
DATA_LIMITS = ("data.max_prompt_tokens", "data.max_response_tokens")
ROLLOUT_LIMITS = ("data.max_prompt_tokens", "sampling.max_new_tokens")
SAMPLE_LIMITS = ("max_prompt_tokens", "sampling.max_new_tokens")


def demonstrations_of(data: SnapshotData, bad: BadRows) -> Iterator[Demonstration]:
    """The demonstrations of all splits; one that names none has that of its prompt in
    data.prompts, so that what is held out there is held out here."""
    if not data.demonstrations:
        return
    share, splits = data.valid_share, _splits(data, bad)
    for path in data.demonstrations:
        yield from read_demonstrations(path, valid_share=share, bad=bad, splits=splits)


def rankings_of(data: SnapshotData, bad: BadRows) -> Iterator[Ranking]:
    """The rankings of all splits, which they have as demonstrations have theirs."""
    if not data.comparisons:
        return
    share, splits = data.valid_share, _splits(data, bad)
    for path in data.comparisons:
        yield from read_comparisons(path, valid_share=share, bad=bad, splits=splits)


def _splits(data: SnapshotData, bad: BadRows) -> dict[str, Split]:
    """The splits of the prompts of data.prompts, by their ids and by the hashes of their texts.

    Where two prompts of one name differ, the one that is held out counts.
    """
    splits: dict[str, Split] = {}
    for path in data.prompts:
        for prompt in read_prompts(path, valid_share=data.valid_share, bad=bad):
            for name in (prompt.id, prompt_id(prompt.text)):
                if splits.get(name, "train") == "train":
                    splits[name] = prompt.split
    return splits


def load_demonstrations(
    data: SnapshotData, template: Template, split: str, bad: BadRows
) -> list[Example]:
    """The tokenized demonstrations of a split; responses over the limit are cut without EOS."""
    examples, limit, num_cut = [], _limit(data), 0
    for row in demonstrations_of(data, bad):
        if row.split == split:
            prompt = limit.fit(template, row.prompt, row.prompt_id)
            if prompt is not None:
                response = template.encode_response(row.response)
                num_cut += len(response) > data.max_response_tokens
                examples.append(Example(prompt, response[: data.max_response_tokens]))
    _say_left_out(limit, len(examples), split, data.demonstrations)
    _say_cut(num_cut, len(examples), data.max_response_tokens, split)
    return examples


def load_rankings(
    data: SnapshotData, template: Template, split: str, bad: BadRows
) -> list[RankedPrompt]:
    """The tokenized rankings of a split, one for every labeler's ranking of a prompt.

    A completion that was cut has no EOS. The training split leaves out held-out labelers: they make
    no training data (paper 3.4).
    """
    found, limit, num_cut = [], _limit(data), 0
    for row in rankings_of(data, bad):
        if row.split != split or (split == "train" and row.cohort == "heldout"):
            continue
        prompt = limit.fit(template, row.prompt, row.prompt_id)
        if prompt is None:
            continue
        whole = [template.encode_response(c.text, c.finished) for c in row.completions]
        num_cut += sum(len(response) > data.max_response_tokens for response in whole)
        responses = [response[: data.max_response_tokens] for response in whole]
        ranks = list(row.ranks)
        found.append(RankedPrompt(row.prompt_id, prompt, responses, ranks, row.labeler, row.cohort))
    _say_left_out(limit, len(found), split, data.comparisons)
    num_responses = sum(len(row.responses) for row in found)
    _say_cut(num_cut, num_responses, data.max_response_tokens, split)
    return found


def load_prompts(
    data: SnapshotData, template: Template, split: str, bad: BadRows
) -> list[PromptTokens]:
    """The tokenized prompts of a split; ``data.use`` chooses among those to train on alone."""
    found, limit = [], _limit(data)
    use = data.use if split == "train" else None
    for row in select_prompts(data.prompts, split, use, data.valid_share, bad):
        tokens = limit.fit(template, row.text, row.id)
        if tokens is not None:
            found.append(PromptTokens(row.id, row.text, tokens))
    _say_left_out(limit, len(found), split, data.prompts)
    return found


def select_prompts(
    paths: Sequence[str],
    split: str | None,
    use: str | None,
    valid_share: float = VALID_SHARE,
    bad: BadRows | None = None,
) -> list[Prompt]:
    """The prompts of files, by split and by their ``use`` field.

    Raises DataError where no row has that field, or a row that is to be used has no id.
    """
    wanted = None if use is None else _ids_for(paths, use, bad or BadRows())
    return [
        prompt
        for path in paths
        for prompt in read_prompts(path, valid_share=valid_share, bad=bad)
        if (split is None or prompt.split == split) and (wanted is None or prompt.id in wanted)
    ]


def _ids_for(paths: Sequence[str], use: str, bad: BadRows) -> set[str]:
    """The ids of the rows whose ``use`` is this one, out of any files that hold prompts."""
    ids: set[str] = set()
    uses: set[str] = set()
    for row in read_rows(find_files(paths, ROW_SUFFIXES, "prompts"), bad):
        if not has(row.values, "use"):
            continue
        uses.add(str(row.values["use"]))
        if row.values["use"] != use:
            continue
        try:
            name = name_of(row.values, "id") or name_of(row.values, "prompt_id")
            if name is None:
                raise RowProblem("id", "nothing", "a name", "Rows chosen by their use need one.")
        except RowProblem as problem:
            bad.add(problem.at(row), row.values)
        else:
            ids.add(name)
    bad.raise_pending()
    if use not in uses:
        known = ", ".join(sorted(uses)) or "the rows have none"
        raise DataError(
            f"{', '.join(map(str, paths))}: no row has use = {use!r} in its field 'use' ({known}): "
            "correct the setting, or leave it out to take all prompts"
        )
    return ids


def require_context(
    lengths: Iterable[int], config: Any, path: str, limits: tuple[str, str]
) -> None:
    """Raises DataError where the longest sequence does not fit the context of the model.

    Some architectures fail there, others go on at positions that they were never trained on.
    ``limits`` are the settings of the command that bound the prompt and the response.
    """
    longest = max(lengths, default=0)
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    if context is not None and longest > context:
        raise DataError(too_long(longest, context, path, limits))


def too_long(longest: int, context: int, path: str, limits: tuple[str, str]) -> str:
    """What is said where a sequence does not fit the context of the model in ``path``."""
    return (
        f"the longest prompt and response have {longest:,} tokens, the context of {path} is "
        f"{context:,}: lower {limits[0]} and {limits[1]} to {context:,} together"
    )


def _limit(data: SnapshotData) -> PromptLimit:
    return PromptLimit(data.max_prompt_tokens, data.long_prompts)


def say_bad_rows(bad: BadRows) -> None:
    """Says on stderr, when the data has been read, what of it is not used and where it stands."""
    if bad.num_bad:
        where = "" if bad.to is None else f", with the reasons in {bad.to}"
        rows = "row" if bad.num_bad == 1 else "rows"
        print(f"{bad.num_bad:,} {rows} of data left out{where}", file=sys.stderr)
    if bad.num_unranked:
        rows = "row" if bad.num_unranked == 1 else "rows"
        print(f"{bad.num_unranked:,} {rows} without a ranking left out", file=sys.stderr)


def _say_cut(num_cut: int, num_responses: int, max_tokens: int, split: str) -> None:
    """Says on stderr how many responses were too long: a model cannot learn how they end."""
    if num_cut:
        print(
            f"{split}: {num_cut:,} of {num_responses:,} responses have more than {max_tokens:,} "
            "tokens and are cut there, without EOS",
            file=sys.stderr,
        )


def _say_left_out(limit: PromptLimit, num_kept: int, split: str, paths: Sequence[str]) -> None:
    """Says on stderr how many prompts were too long: what is missing should not surprise anyone.

    Raises DataError where nothing is left to train on.
    """
    if split == "train" and limit.num_skipped and not num_kept:
        raise DataError(
            f"{', '.join(paths)}: all {limit.num_skipped:,} rows of the train split have prompts "
            f"of more than {limit.max_tokens:,} tokens and are left out: raise "
            'data.max_prompt_tokens, or set data.long_prompts = "left" to keep the ends of prompts'
        )
    for count, what in ((limit.num_skipped, "left out"), (limit.num_cut, "cut at their beginning")):
        if count:
            print(
                f"{split}: {count:,} prompts of more than {limit.max_tokens:,} tokens {what}; "
                f"{num_kept:,} rows in all",
                file=sys.stderr,
            )
