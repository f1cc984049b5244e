"""A snapshot in other shapes: chosen and rejected pairs, what labelers agree on, and Parquet."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

from heedful.errors import MissingExtraError
from heedful.store.problems import NotFound, StoreError
from heedful.store.snapshot import MANIFEST, replace_file

FILES = ("prompts", "demonstrations", "comparisons", "prompt_labels")
_making = threading.Lock()  # two who ask at once get one file
# What can be had of a snapshot beside its own files, and what it is.
DERIVED = {
    "pairs.jsonl": "chosen and rejected, for each pair that a labeler ordered",
    "consensus.jsonl": "chosen and rejected, for each pair that most of its labelers ordered alike",
    "consensus.parquet": "the same as Parquet",
    **{f"{kind}.parquet": f"{kind} as Parquet" for kind in FILES},
}


def write_pairs(snapshot: Path, target: Path) -> int:
    """The number of pairs written: one JSON line for each two completions that are not tied.

    Rows have prompt_id, prompt, chosen, rejected, labeler, cohort and split. Pairs of one ranking
    belong together: train on them as one batch element, or use the snapshot as it is.
    """
    num_pairs = 0

    def lines() -> Iterator[str]:
        nonlocal num_pairs
        for row in _rows(snapshot, "comparisons"):
            for pair in pairs_of(row):
                num_pairs += 1
                yield json.dumps(pair, ensure_ascii=False) + "\n"

    replace_file(target, lines())
    return num_pairs


def pairs_of(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The untied pairs of a row of comparisons.jsonl, in the order of its completions."""
    shared = {key: row[key] for key in ("prompt_id", "prompt")}
    about = {key: row[key] for key in ("labeler", "cohort", "split")}
    ranked = zip(row["completions"], row["ranks"], strict=True)
    for (first, its_rank), (second, other_rank) in combinations(ranked, 2):
        if its_rank != other_rank:
            better, worse = (first, second) if its_rank < other_rank else (second, first)
            yield {**shared, "chosen": better["text"], "rejected": worse["text"], **about}


def write_consensus(snapshot: Path, target: Path) -> int:
    """The number of pairs written: one JSON line for each on which most of its labelers agree.

    Rows have prompt_id, prompt, chosen, rejected, the counts of labelers who preferred the one and
    the other and of those who tied them, cohort and split. A pair that as many prefer the one way
    as the other, or that at least as many tie, is left out. Cohorts are counted apart.
    """
    num_pairs = 0

    def lines() -> Iterator[str]:
        nonlocal num_pairs
        for pair in consensus_pairs(_rows(snapshot, "comparisons")):
            num_pairs += 1
            yield json.dumps(pair, ensure_ascii=False) + "\n"

    replace_file(target, lines())
    return num_pairs


def consensus_pairs(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The modal order of every pair of completions, over all rankings of the same completions."""
    found: dict[tuple[Any, ...], tuple[dict[str, Any], list[list[int]]]] = {}
    for row in rows:
        ids = tuple(one["id"] for one in row["completions"])
        found.setdefault((row["prompt_id"], row["cohort"], ids), (row, []))[1].append(row["ranks"])
    for row, rankings in found.values():
        for (i, first), (j, second) in combinations(enumerate(row["completions"]), 2):
            signs = [(ranks[i] > ranks[j]) - (ranks[i] < ranks[j]) for ranks in rankings]
            for_first, tied, for_second = (signs.count(sign) for sign in (-1, 0, 1))
            if max(for_first, for_second) <= max(tied, min(for_first, for_second)):
                continue
            better, worse = (first, second) if for_first > for_second else (second, first)
            yield {
                "prompt_id": row["prompt_id"],
                "prompt": row["prompt"],
                "chosen": better["text"],
                "rejected": worse["text"],
                "num_chosen": max(for_first, for_second),
                "num_rejected": min(for_first, for_second),
                "num_tied": tied,
                "cohort": row["cohort"],
                "split": row["split"],
            }


def write_parquet(snapshot: Path, target: Path) -> list[Path]:
    """The Parquet files written, one for each file of the snapshot that has rows."""
    target.mkdir(parents=True, exist_ok=True)
    written = []
    for kind in FILES:
        rows = list(_rows(snapshot, kind))
        if rows:
            written.append(target / f"{kind}.parquet")
            _write_table(rows, written[-1])
    return written


def file_sha256(path: Path) -> str:
    """The hash by which a model's lineage names a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_table(rows: list[dict[str, Any]], target: Path) -> None:
    """Writes rows as Parquet beside the place, and moves the file there when it is whole."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtraError("Parquet needs pyarrow: pip install 'heedful[parquet]'") from error
    partial = target.with_name(target.name + ".partial")
    try:
        pq.write_table(pa.Table.from_pylist(rows), partial)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def derived(snapshot: Path, name: str) -> Path:
    """A file made of a snapshot, by its name in DERIVED; made when it is asked for first."""
    if name not in DERIVED:
        raise NotFound(f"a snapshot has no {name}")
    target = snapshot / "derived" / name
    with _making:
        if target.is_file():
            return target
        target.parent.mkdir(exist_ok=True)
        if name == "pairs.jsonl":
            write_pairs(snapshot, target)
        elif name == "consensus.jsonl":
            write_consensus(snapshot, target)
        else:
            _write_table(list(_rows(snapshot, name.removesuffix(".parquet"))), target)
    return target


def _rows(snapshot: Path, kind: str) -> Iterator[dict[str, Any]]:
    if not (snapshot / MANIFEST).is_file():
        raise StoreError(f"{snapshot} is no whole snapshot (no {MANIFEST}): write it again")
    if kind == "consensus":
        yield from consensus_pairs(_rows(snapshot, "comparisons"))
        return
    path = snapshot / f"{kind}.jsonl"
    if kind == "prompt_labels" and not path.exists():
        return  # a snapshot from before labels on prompts were part of it
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)
