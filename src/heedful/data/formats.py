"""Prompts, demonstrations, rankings and text out of every file shape that is in use.

The shape of a row is known by its fields, not by the name of its file:

    prompts          our snapshot rows; {"text"}; {"prompt"}; {"instruction","input"}; {"messages"}
    demonstrations   our snapshot rows; {"prompt","response"}; {"instruction","input","output"};
                     {"messages"}: the last assistant turn is the response
    comparisons      our snapshot rows; {"prompt","responses","ranking"} (ranking null: unranked);
                     {"prompt","chosen","rejected"}; {"chosen","rejected"} as whole dialogues

A prompt without an id is named by a hash of its text, so that the same prompt has the same id in
every file. A row without a split has that of its prompt, where the files of prompts are at hand
(``splits``), else one from the same kind of hash: a prompt is never both trained on and held
out. Fields that are not ours are ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple, TypeVar, get_args

from heedful.data.bad_rows import BadRows, Row, RowProblem, shown
from heedful.data.dialogues import (
    USER_TURNS,
    last_exchange,
    last_turn,
    pair_of,
    render_dialogue,
    turns_of,
)
from heedful.data.fields import (
    Fields,
    choice_of,
    flag_of,
    has,
    inside,
    list_of,
    meant_by,
    name_of,
    prompt_of,
    synonyms,
    text_of,
    use_case_of,
)
from heedful.data.rows import (
    ROW_SUFFIXES,
    TEXT_SUFFIXES,
    Source,
    find_files,
    is_text,
    read_documents,
    read_rows,
)
from heedful.errors import DataError
from heedful.records import (
    Cohort,
    Completion,
    Demonstration,
    Prompt,
    PromptKind,
    Ranking,
    Rating,
    Split,
)
from heedful.records import Source as PromptSource

VALID_SHARE = 0.05

_SPLITS = {name: name for name in get_args(Split)} | {"validation": "valid", "dev": "valid"}

Splits = Mapping[str, Split]

T = TypeVar("T")


def read_prompts(
    source: Source, *, valid_share: float = VALID_SHARE, bad: BadRows | None = None
) -> Iterator[Prompt]:
    """The prompts of files, folders, globs or ``hf:owner/name``, one at a time, in file order."""
    return _read(source, "prompts", lambda row: _prompt(row, valid_share), bad)


class GivenPrompt(NamedTuple):
    """A prompt, the split that its row names (or None), and where the row stands."""

    prompt: Prompt
    split: Split | None
    file: str
    line: int


def read_given_prompts(source: Source, *, bad: BadRows | None = None) -> Iterator[GivenPrompt]:
    """The prompts as ``read_prompts`` gives them, each with what else is known of its row.

    A prompt whose row names no split has the split "train", for whoever splits such prompts later.
    """
    bad = bad if bad is not None else BadRows(skip_with=None)
    for row in read_rows(find_files(source, ROW_SUFFIXES, "prompts"), bad):
        parsed = _parsed(row, lambda fields: (_prompt(fields, 0.0), _named_split(fields)), bad)
        if parsed is not None:
            yield GivenPrompt(*parsed, row.file, row.line)
    bad.raise_pending()


def read_demonstrations(
    source: Source,
    *,
    valid_share: float = VALID_SHARE,
    bad: BadRows | None = None,
    splits: Splits | None = None,
) -> Iterator[Demonstration]:
    """The demonstrations of files, folders, globs or ``hf:owner/name``, one at a time.

    ``splits`` are those of known prompts, for rows that name none.
    """
    return _read(
        source, "demonstrations", lambda row: _demonstration(row, valid_share, splits or {}), bad
    )


def read_comparisons(
    source: Source,
    *,
    valid_share: float = VALID_SHARE,
    bad: BadRows | None = None,
    splits: Splits | None = None,
) -> Iterator[Ranking]:
    """The rankings of files, folders, globs or ``hf:owner/name``, one at a time.

    Rows whose ranking is null are left out and counted in ``bad.num_unranked``; ``splits`` are
    those of known prompts, for rows that name none.
    """
    return _read(source, "comparisons", lambda row: _ranking(row, valid_share, splits or {}), bad)


def read_completions(
    source: Source, *, valid_share: float = VALID_SHARE, bad: BadRows | None = None
) -> Iterator[tuple[Prompt, tuple[Completion, ...]]]:
    """Prompts with completions that people are to rank: rows of heed sample, of rankings (which are
    not looked at), or with "responses".

    A row without a ``prompt_id`` is about a prompt of its own, named by the row's ``id``.
    """
    return _read(source, "completions", lambda row: _to_rank(row, valid_share), bad)


def read_text(source: Source, *, bad: BadRows | None = None) -> Iterator[str]:
    """The documents of text files and of rows with a "text", one at a time."""
    bad = bad if bad is not None else BadRows(skip_with=None)
    for file in find_files(source, (*TEXT_SUFFIXES, *ROW_SUFFIXES)):
        if is_text(file):
            yield from read_documents(file)
            continue
        for row in read_rows([file], bad):
            try:
                yield text_of(row.values, "text", required="a document")
            except RowProblem as problem:
                bad.add(problem.at(row), row.values)
    bad.raise_pending()


def assign_split(prompt: str, valid_share: float = VALID_SHARE) -> Split:
    """The split of a prompt without one: this share is "valid", by a hash of the text alone."""
    number = int.from_bytes(blake2b(prompt.encode(), digest_size=8, person=b"split").digest())
    return "valid" if number < valid_share * 2**64 else "train"


def prompt_id(prompt: str) -> str:
    """The id of a prompt that came without one: 16 hexadecimal digits of a hash of its text."""
    return blake2b(prompt.encode(), digest_size=8, person=b"prompt").hexdigest()


def _read(
    source: Source, kind: str, parse: Callable[[Fields], T | None], bad: BadRows | None
) -> Iterator[T]:
    bad = bad if bad is not None else BadRows(skip_with=None)
    for row in read_rows(find_files(source, ROW_SUFFIXES, kind), bad):
        record = _parsed(row, parse, bad)
        if record is not None:
            yield record
    bad.raise_pending()


def _parsed(row: Row, parse: Callable[[Fields], T | None], bad: BadRows) -> T | None:
    try:
        record = parse(row.values)
    except RowProblem as problem:
        if row.has_header and problem.of_fields:
            raise DataError(
                f"{row.file}, line 1: found {problem.found}; needed {problem.needed}. "
                f"{problem.mend} Others' names that are read too: {synonyms()}."
            ) from None
        bad.add(problem.at(row), row.values)
        return None
    if record is None:
        bad.add_unranked(row)
    return record


# Shapes: one function per record. ``None`` counts as absent, because Parquet has every column.


def _prompt(row: Fields, valid_share: float) -> Prompt:
    if has(row, "text"):
        text = prompt_of(row, "text")
    elif has(row, "prompt"):
        text = prompt_of(row, "prompt")
    elif has(row, "instruction"):
        text = _alpaca_prompt(row)
    elif has(row, "messages"):
        turns = turns_of(row, "messages")
        last = last_turn(turns, USER_TURNS, "messages")
        text = render_dialogue(turns[: last + 1])
    else:
        raise _unknown(row, "text", "prompt", "instruction", "messages")
    return Prompt(
        id=name_of(row, "id") or name_of(row, "prompt_id") or prompt_id(text),
        text=text,
        source=_source(row),
        kind=choice_of(row, "kind", {name: name for name in get_args(PromptKind)}),
        user=name_of(row, "user") or name_of(row, "user_id"),
        use_case=use_case_of(row),
        split=_split(row, text, valid_share),
        language=name_of(row, "language"),
    )


def _demonstration(row: Fields, valid_share: float, splits: Splits) -> Demonstration:
    if has(row, "prompt") and has(row, "response"):
        prompt, field, response = prompt_of(row, "prompt"), "response", text_of(row, "response")
    elif has(row, "instruction") and has(row, "output"):
        prompt, field, response = _alpaca_prompt(row), "output", text_of(row, "output")
    elif has(row, "messages"):
        prompt, response = last_exchange(row, "messages")
        field = "messages"
    else:
        raise _unknown(row, "prompt + response", "instruction + output", "messages")
    if not response.strip():  # imitated, it would teach to say nothing: EOS at once
        raise RowProblem(
            field, "an empty response", "a response to imitate", "Write one, or drop the row."
        )
    return Demonstration(
        prompt_id=name_of(row, "prompt_id") or prompt_id(prompt),
        prompt=prompt,
        response=response,
        labeler=name_of(row, "labeler"),
        split=_split(row, prompt, valid_share, splits),
    )


def _ranking(row: Fields, valid_share: float, splits: Splits) -> Ranking | None:
    ratings = None
    if has(row, "completions"):
        prompt = prompt_of(row, "prompt")
        completions = _enough(_completions(row, prompt), "completions")
        ranks = _ranks(row, "ranks", len(completions))
        ratings = _ratings(row, len(completions))
    elif has(row, "responses"):
        prompt = prompt_of(row, "prompt")
        completions = _enough(_responses(row, prompt), "responses")
        ranks = _ranks(row, "ranking", len(completions))
    elif has(row, "chosen") and has(row, "rejected"):
        prompt, texts = pair_of(row)
        completions, ranks = _named(row, prompt, texts), (1, 2)
    else:
        raise _unknown(row, "completions + ranks", "responses + ranking", "chosen + rejected")
    if ranks is None:
        return None
    cohort: Cohort = choice_of(row, "cohort", {n: n for n in get_args(Cohort)}) or "train"
    return Ranking(
        prompt_id=name_of(row, "prompt_id") or prompt_id(prompt),
        prompt=prompt,
        completions=completions,
        ranks=ranks,
        labeler=name_of(row, "labeler"),
        cohort=cohort,
        ratings=ratings,
        split=_split(row, prompt, valid_share, splits),
    )


def _to_rank(row: Fields, valid_share: float) -> tuple[Prompt, tuple[Completion, ...]]:
    text = prompt_of(row, "prompt")
    read = _completions if has(row, "completions") else _responses
    prompt = Prompt(
        id=name_of(row, "prompt_id") or name_of(row, "id") or prompt_id(text),
        text=text,
        source=_source(row),
        user=name_of(row, "user"),
        use_case=use_case_of(row),
        split=_split(row, text, valid_share),
    )
    return prompt, read(row, text)


def _source(row: Fields) -> PromptSource:
    """A source that is not ours names a data set; its prompts are as if a user had sent them."""
    return "labeler" if row.get("source") == "labeler" else "api"


def _alpaca_prompt(row: Fields) -> str:
    """Instruction, blank line, input: the wrapper text of Alpaca belongs to its model, not here."""
    instruction = prompt_of(row, "instruction")
    given = text_of(row, "input") if has(row, "input") else ""
    return f"{instruction}\n\n{given}" if given.strip() else instruction


def _completions(row: Fields, prompt: str) -> tuple[Completion, ...]:
    found = []
    for number, completion in enumerate(list_of(row, "completions")):
        if not isinstance(completion, Mapping):
            raise RowProblem(
                f"completions[{number}]",
                f"{type(completion).__name__} {shown(completion)}",
                'an object {"id", "text", "model"}',
                'Texts alone go into a field named "responses".',
            )
        with inside(f"completions[{number}]"):
            name = name_of(completion, "id") or _completion_id(row, prompt, number)
            model, finished = name_of(completion, "model"), flag_of(completion, "finished")
            text = text_of(completion, "text")
        found.append(Completion(name, text, model, finished is not False))
    return tuple(found)


def _responses(row: Fields, prompt: str) -> tuple[Completion, ...]:
    """The completions of a list of texts, with the models' names where the row has them."""
    texts = []
    for number, text in enumerate(list_of(row, "responses")):
        field = f"responses[{number}]"
        texts.append(text_of({field: text}, field))
    return _named(row, prompt, texts)


def _named(row: Fields, prompt: str, texts: Sequence[str]) -> tuple[Completion, ...]:
    """Completions of texts, with ids of their own and the models' names where the row has them."""
    models = row.get("models")
    if not isinstance(models, list) or len(models) != len(texts):
        models = [None] * len(texts)
    return tuple(
        Completion(_completion_id(row, prompt, k), text, None if model is None else str(model))
        for k, (text, model) in enumerate(zip(texts, models, strict=True))
    )


def _completion_id(row: Fields, prompt: str, number: int) -> str:
    name = name_of(row, "id") or name_of(row, "prompt_id") or prompt_id(prompt)
    return f"{name}/{number}"


def _enough(found: Sequence[Completion], field: str) -> tuple[Completion, ...]:
    if len(found) < 2:
        raise RowProblem(
            field,
            f"{len(found)} completion" + ("" if len(found) == 1 else "s"),
            "at least 2 to compare",
            "Drop the row: nothing can be learned from it.",
        )
    return tuple(found)


def _ranks(row: Fields, field: str, num: int) -> tuple[int, ...] | None:
    """The ranks, or None where the row says that there are none."""
    if field in row and row[field] is None:
        return None
    if field not in row and meant_by(row, field) is None:
        raise RowProblem(
            field,
            "completions without ranks",
            "one rank per completion, 1 for the best",
            "People rank completions with heed label serve, and heed label export writes what they "
            "said; null stands for a row that nobody has ranked.",
        )
    ranks = list_of(row, field)
    if not all(isinstance(r, int) and not isinstance(r, bool) and r >= 1 for r in ranks):
        raise RowProblem(
            field,
            shown(ranks),
            "whole numbers from 1 (best) up, equal numbers for ties",
            "Write ranks, not scores: 1 for the best.",
        )
    if len(ranks) != num:
        raise RowProblem(
            field,
            f"{len(ranks)} ranks for {num} completions",
            "one rank per completion, in their order",
            "Rank every completion, or take out those without a rank.",
        )
    return tuple(ranks)


def _ratings(row: Fields, num: int) -> tuple[Rating | None, ...] | None:
    if not has(row, "ratings"):
        return None
    given = list_of(row, "ratings")
    if len(given) != num:
        raise RowProblem(
            "ratings",
            f"{len(given)} ratings for {num} completions",
            "one per completion, null where there is none",
            "Add null for completions that were not rated.",
        )
    return tuple(
        None if rating is None else _rating(rating, f"ratings[{number}]")
        for number, rating in enumerate(given)
    )


def _rating(value: Any, field: str) -> Rating:
    flags = dict(value) if isinstance(value, Mapping) else {}
    overall = flags.pop("overall", None)
    sound = isinstance(overall, int) and not isinstance(overall, bool) and 1 <= overall <= 7
    if not sound or not all(flag is None or isinstance(flag, bool) for flag in flags.values()):
        raise RowProblem(
            field,
            shown(value),
            '{"overall": 1 to 7} and flags that are true, false or null',
            "Give the rating its overall number, or write null for it.",
        )
    return Rating(overall, flags)


def _split(row: Fields, prompt: str, valid_share: float, splits: Splits | None = None) -> Split:
    """The split that the row names, else that of its prompt, by text or by id, else by a hash."""
    named = _named_split(row)
    if named is None and splits:
        named = splits.get(prompt_id(prompt)) or splits.get(name_of(row, "prompt_id") or "")
    return named or assign_split(prompt, valid_share)


def _named_split(row: Fields) -> Split | None:
    return choice_of(row, "split", _SPLITS)


def _unknown(row: Fields, *shapes: str) -> RowProblem:
    """The problem of a row that has none of these shapes ("prompt + response")."""
    names = [name for name in row if has(row, name)]
    mend = "Is this the right file? Else rename its fields."
    for shape in shapes:
        lacking = [field for field in shape.split(" + ") if field not in names]
        meant = {field: meant_by(names, field) for field in lacking}
        if None not in meant.values():
            renamed = [f"{name!r} to {field!r}" for field, name in meant.items()]
            mend = f"Rename {' and '.join(renamed)}."
            break
    found = f"the fields {', '.join(sorted(names))}" if names else "no fields"
    is_lacking = not any(set(shape.split(" + ")) <= row.keys() for shape in shapes)
    return RowProblem(None, found, " or ".join(shapes), mend, of_fields=is_lacking)
