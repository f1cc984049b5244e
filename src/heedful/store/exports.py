"""The comparisons of a snapshot in two other shapes: chosen and rejected pairs, and Parquet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

from heedful.errors import MissingExtraError
from heedful.store.problems import StoreError
from heedful.store.snapshot import MANIFEST, replace_file

FILES = ("prompts", "demonstrations", "comparisons")


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


def write_parquet(snapshot: Path, target: Path) -> list[Path]:
    """The Parquet files written, one for each file of the snapshot that has rows."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtraError("Parquet needs pyarrow: pip install 'heedful[parquet]'") from error
    target.mkdir(parents=True, exist_ok=True)
    written = []
    for kind in FILES:
        rows = list(_rows(snapshot, kind))
        if rows:
            path = target / f"{kind}.parquet"
            pq.write_table(pa.Table.from_pylist(rows), path)
            written.append(path)
    return written


def _rows(snapshot: Path, kind: str) -> Iterator[dict[str, Any]]:
    if not (snapshot / MANIFEST).is_file():
        raise StoreError(f"{snapshot} is no whole snapshot (no {MANIFEST}): write it again")
    with (snapshot / f"{kind}.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)
