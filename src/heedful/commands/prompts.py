"""heed prompts: files of prompts, cleaned and split the paper's way (1.2), or counted."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from heedful.data.bad_rows import BAD_ROWS_FILE, BadRows
from heedful.data.formats import GivenPrompt, read_given_prompts, read_prompts
from heedful.data.rows import DROPPED_SUFFIX, ROW_SUFFIXES, find_files, read_rows
from heedful.errors import ConfigError, DataError
from heedful.intake.cleaning import CleaningReport, clean, detect_language
from heedful.metrics import replacing
from heedful.records import USE_CASES, Prompt, Split, to_row

SPLITS = ("train", "valid", "test")


def run_import(options: argparse.Namespace) -> int:
    """Reads prompt files, cleans and splits them, writes ``options.out``; prints what was dropped.

    A prompt whose row names its split stays there, and the rest of its user's go with it; the
    others are split by user. Every prompt gets its language where py3langid is installed. Beside
    the prompts stands which rows were dropped and why, without their text: it may be personal.
    """
    _refuse_to_overwrite(options)
    console = Console()
    bad = BadRows(
        skip=options.skip_bad_rows,
        to=options.out.parent / BAD_ROWS_FILE,
        skip_with="give --skip-bad-rows",
    )
    given, splits = _read(options.files, bad)
    kept, report = clean(
        [one.prompt for one in given],
        max_per_user=options.cap,
        valid=options.valid,
        test=options.test,
        seed=options.seed,
        languages=options.languages,
        splits=splits,
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    dropped = _write_dropped(options.out, report, given)
    if not kept:
        raise DataError(
            f"none of {len(given):,} prompts is left ({_reasons(report)}; {dropped} says which): "
            "check the files, raise --cap, or name more --languages"
        )
    told = importlib.util.find_spec("py3langid") is not None
    if told:
        kept = _with_languages(kept, console)
    with replacing(options.out) as partial, partial.open("w", encoding="utf-8") as file:
        for prompt in kept:
            file.write(json.dumps(to_row(prompt), ensure_ascii=False) + "\n")
    console.print(_cleaning_table(report, bad.num_bad))
    if not told:
        console.print("languages were not told: pip install 'heedful\\[intake]'")
    if report.num_astray:
        print(_astray(report.num_astray), file=sys.stderr)
    for note in _unknown_use_cases(kept):
        print(f"warning: {note}", file=sys.stderr)
    if bad.num_bad:
        console.print(f"rows that could not be read, with reasons: {bad.to}", highlight=False)
    if report.drops:
        console.print(f"rows that were dropped, with reasons: {dropped}", highlight=False)
    console.print(f"wrote {len(kept):,} prompts to {options.out}", highlight=False)
    return 0


def _refuse_to_overwrite(options: argparse.Namespace) -> None:
    out: Path = options.out
    if out.exists() and not options.overwrite:
        raise ConfigError(
            f"{out} exists: give another --out, or --overwrite to write it again in its place"
        )


def _read(files: Sequence[str], bad: BadRows) -> tuple[list[GivenPrompt], dict[str, Split]]:
    """The prompts, and by id the splits of those whose rows name one; of equal ids the first."""
    given: list[GivenPrompt] = []
    splits: dict[str, Split] = {}
    for one in read_given_prompts(list(files), bad=bad):
        given.append(one)
        if one.split is not None:
            splits.setdefault(one.prompt.id, one.split)
    return given, splits


def _write_dropped(out: Path, report: CleaningReport, given: Sequence[GivenPrompt]) -> Path:
    """The file beside ``out`` of the rows that were dropped: file, line, id and reason."""
    path = out.with_name(out.name.removesuffix(".jsonl") + DROPPED_SUFFIX)
    with replacing(path) as partial, partial.open("w", encoding="utf-8") as file:
        for drop in report.drops:
            one = given[drop.place]
            reason = drop.rule if drop.what is None else f"{drop.rule}: {drop.what}"
            if drop.like is not None:
                reason += f" of {given[drop.like].file}, line {given[drop.like].line}"
            row = {"file": one.file, "line": one.line, "id": one.prompt.id, "reason": reason}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path


def run_stats(files: Sequence[str]) -> int:
    """Prints counts of prompt files by split and source, use case, language, user and length."""
    found = find_files(list(files), ROW_SUFFIXES, "prompts")
    prompts = list(read_prompts(found))
    console = Console()
    console.print(_split_table(prompts))
    if any(prompt.use_case is not None for prompt in prompts):
        console.print(_use_case_table(prompts))
    console.print(_length_table(prompts))
    console.print(_language_table(prompts))
    for note in [*_not_prompts(found), *_unknown_use_cases(prompts)]:
        print(f"warning: {note}", file=sys.stderr)
    counted = f"counted {_counted(len(prompts), 'prompt')} of {_counted(len(found), 'file')}"
    console.print(counted, highlight=False)
    return 0


def _not_prompts(files: Sequence[str]) -> Iterator[str]:
    """What is said of each file whose first row is more than a prompt."""
    for file in files:
        row = next(read_rows([file], BadRows(skip_with=None)), None)
        given = set() if row is None else {name for name in row.values if row.values[name]}
        if given & {"completions", "responses", "chosen", "rejected"}:
            yield f"{file} holds rankings or completions: the prompt of every row was counted"
        elif given & {"response", "output"}:
            yield f"{file} holds demonstrations: the prompt of every row was counted"


def _unknown_use_cases(prompts: Sequence[Prompt]) -> Iterator[str]:
    """What is said of each use case that is none of the paper's ten."""
    counts = Counter(p.use_case for p in prompts if p.use_case is not None)
    for name, count in counts.items():
        if name not in USE_CASES:
            near = get_close_matches(name.casefold(), USE_CASES, n=1, cutoff=0.6)
            hint = f"did you mean {near[0]!r}?" if near else f"they are {', '.join(USE_CASES)}"
            number = _counted(count, "prompt")
            yield f"use case {name!r} ({number}) is none of the paper's ten: {hint}"


def _astray(count: int) -> str:
    subject = "1 prompt is" if count == 1 else f"{count:,} prompts are"
    return (
        f"warning: {subject} in another split than the first of the same user, as the rows say: "
        "name one split for all prompts of a user, or none"
    )


def _reasons(report: CleaningReport) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in report.dropped.items() if count)


def _with_languages(prompts: list[Prompt], console: Console) -> list[Prompt]:
    """The prompts, each with the language that it names or that its text shows."""
    shown = track(prompts, description="telling languages", console=console, transient=True)
    return [replace(p, language=p.language or detect_language(p.text)) for p in shown]


def _cleaning_table(report: CleaningReport, num_bad: int) -> Table:
    table = _new_table("What was dropped, and why", "prompts", "share of read")
    total = report.num_in + num_bad
    rows = [("read", total)]
    if num_bad:
        rows.append(("  rows that cannot be read", -num_bad))
    rows += [(f"  {reason}", -count) for reason, count in report.dropped.items()]
    rows.append(("kept", report.num_kept))
    rows += [(f"  {split}", count) for split, count in report.num_by_split.items()]
    for name, count in rows:
        table.add_row(name, f"{count:,}", _share(count, total))
    return table


def _split_table(prompts: Sequence[Prompt]) -> Table:
    """Prompts by split and source, as in Table 6 of the paper."""
    table = _new_table("Prompts by split and source", "labeler", "api", "all", "users")
    for split in (*SPLITS, "all"):
        part = [p for p in prompts if split in (p.split, "all")]
        sources = Counter(prompt.source for prompt in part)
        users = {prompt.user for prompt in part if prompt.user is not None}
        counts = (sources["labeler"], sources["api"], len(part), len(users))
        table.add_row(split, *(f"{count:,}" for count in counts))
    return table


def _use_case_table(prompts: Sequence[Prompt]) -> Table:
    """Prompts by use case beside the shares of the paper's Table 1."""
    columns = ("prompts", "share", "paper")
    table = _new_table("Use cases (shares of the prompts that name one)", *columns)
    counts = Counter(prompt.use_case for prompt in prompts)
    named = len(prompts) - counts[None]
    for name in [*USE_CASES, *sorted({c for c in counts if c is not None} - set(USE_CASES))]:
        paper = f"{USE_CASES[name]} %" if name in USE_CASES else ""
        table.add_row(name, f"{counts[name]:,}", _share(counts[name], named), paper)
    table.add_row("not given", f"{counts[None]:,}", "", "")
    return table


def _length_table(prompts: Sequence[Prompt]) -> Table:
    """Lengths by split: the columns of the paper's Table 9, in characters for want of tokens."""
    table = _new_table(
        "Lengths in characters", "prompts", "mean", "min", "25 %", "50 %", "75 %", "max"
    )
    for split in SPLITS:
        lengths = sorted(len(p.text) for p in prompts if p.split == split)
        if lengths:
            at = [lengths[round(q * (len(lengths) - 1))] for q in (0, 0.25, 0.5, 0.75, 1)]
            mean = sum(lengths) / len(lengths)
            table.add_row(split, f"{len(lengths):,}", f"{mean:,.0f}", *(f"{n:,}" for n in at))
    return table


def _language_table(prompts: Sequence[Prompt]) -> Table:
    table = _new_table("Languages", "prompts", "share")
    for name, count in Counter(p.language or "not told" for p in prompts).most_common(12):
        table.add_row(name, f"{count:,}", _share(count, len(prompts)))
    return table


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _share(count: int, total: int) -> str:
    return f"{count / total:.1%}" if total else "-"


def _new_table(title: str, *columns: str) -> Table:
    """A table with a title, names on the left and numbers on the right."""
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right")
    return table
