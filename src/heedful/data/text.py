"""Pretraining text as rows of tokens, drawn at random by seed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from heedful.data.template import beginning
from heedful.errors import DataError

# Documents tokenized in one call: the fast tokenizers work on batches.
DOCUMENTS_PER_CALL = 1000


class TextRows:
    """A stream of tokens, documents separated by EOS, cut into rows of ``row_tokens``."""

    def __init__(self, tokens: np.ndarray, row_tokens: int):
        self.tokens = tokens
        self.row_tokens = row_tokens
        if len(tokens) < row_tokens:
            raise DataError(
                f"the text has {len(tokens)} tokens, fewer than one row of {row_tokens}: give more "
                "text or a smaller row_tokens"
            )

    def __len__(self) -> int:
        return len(self.tokens) // self.row_tokens

    def draw(self, num_rows: int, seed: int) -> Tensor:
        """(num_rows, row_tokens) rows that start anywhere in the stream."""
        starts = np.random.default_rng(seed).integers(
            0, len(self.tokens) - self.row_tokens + 1, size=num_rows
        )
        return self._rows(starts)

    def first(self, num_rows: int) -> Tensor:
        """(at most num_rows, row_tokens) rows evenly spread over the stream, always the same."""
        count = min(num_rows, len(self))
        starts = np.linspace(0, len(self.tokens) - self.row_tokens, count).astype(np.int64)
        return self._rows(starts)

    def _rows(self, starts: np.ndarray) -> Tensor:
        index = starts[:, None] + np.arange(self.row_tokens)
        return torch.from_numpy(self.tokens[index].astype(np.int64))


def tokenize_text(
    documents: Iterable[str], tokenizer: Any, cache: Path | None = None
) -> np.ndarray:
    """(num_tokens,) uint32 stream of all documents, each followed by EOS.

    Where the tokenizer begins texts with BOS every document does, as it did in pretraining.
    With ``cache`` (a .npy path) the stream is written there once and memory-mapped afterwards.
    """
    if cache is not None and cache.is_file():
        return np.load(cache, mmap_mode="r")
    parts: list[np.ndarray] = []
    batch: list[str] = []
    first = beginning(tokenizer)

    def flush() -> None:
        if batch:
            encoded = tokenizer(batch, add_special_tokens=False)["input_ids"]
            ends = [tokenizer.eos_token_id]
            parts.extend(np.array([*first, *ids, *ends], np.uint32) for ids in encoded)
            batch.clear()

    for document in documents:
        batch.append(document)
        if len(batch) == DOCUMENTS_PER_CALL:
            flush()
    flush()
    if not parts:
        raise DataError("no text was read: the files hold no documents")
    tokens = np.concatenate(parts)
    if cache is not None:
        partial = cache.with_suffix(".partial.npy")
        np.save(partial, tokens)
        partial.replace(cache)
        return np.load(cache, mmap_mode="r")
    return tokens
