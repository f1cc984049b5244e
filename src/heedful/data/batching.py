"""Batches: the arithmetic of a batch, groups of similar lengths, and the order of the data.

Everything here is about indices and counts; nothing knows what a token means.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from heedful.errors import CheckpointError, ConfigError, DataError

# Purposes of derived random generators: one number each, so that no two draw the same stream.
_ORDER, _TEXT = 1, 2


@dataclass(frozen=True)
class BatchPlan:
    """How one batch is made: batch_size = micro_size x accumulation x num_ranks."""

    batch_size: int
    micro_size: int
    num_ranks: int = 1

    def __post_init__(self) -> None:
        for name in ("batch_size", "micro_size", "num_ranks"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it has to be at least 1")
        at_once = self.micro_size * self.num_ranks
        if self.batch_size % at_once == 0:
            return
        below, above = (
            self.batch_size // at_once * at_once,
            -(-self.batch_size // at_once) * at_once,
        )
        batches = " or ".join(str(size) for size in (below, above) if size > 0)
        advice = f"use a batch_size of {batches}"
        if self.batch_size % self.num_ranks == 0:
            share = self.batch_size // self.num_ranks
            sizes = [size for size in range(1, share + 1) if share % size == 0]
            near = sorted(sorted(sizes, key=lambda size: abs(size - self.micro_size))[:2])
            advice += f", or a micro_size of {' or '.join(map(str, near))}"
        raise ConfigError(
            f"a batch of {self.batch_size} does not divide into micro-batches of {self.micro_size} "
            f"on {self.num_ranks} rank{'s' if self.num_ranks > 1 else ''}: {advice}"
        )

    @property
    def accumulation(self) -> int:
        """Forward and backward passes of each rank before one update."""
        return self.batch_size // (self.micro_size * self.num_ranks)

    @property
    def rank_size(self) -> int:
        """Examples of the batch that one rank works on."""
        return self.batch_size // self.num_ranks

    def table(self, num_items: int | None = None, num_updates: int | None = None) -> str:
        """The plan as one table, with the size of the data and the length of the run if given."""
        rows = [
            ("batch", self.batch_size, "examples per update"),
            ("ranks", self.num_ranks, f"each {self.rank_size} examples"),
            ("micro-batch", self.micro_size, "examples per forward and backward pass"),
            ("accumulation", self.accumulation, "passes per update on each rank"),
        ]
        if num_items is not None:
            rows.append(
                ("examples", num_items, f"{num_items / self.batch_size:.4g} updates a pass")
            )
        if num_updates is not None:
            rows.append(
                ("updates", num_updates, f"{num_updates * self.batch_size:,} examples seen")
            )
        return "\n".join(f"{name:<12}  {number:>9,}  {note}" for name, number, note in rows)


def token_budget_batches(
    lengths: Sequence[int], max_tokens: int, max_rows: int | None = None
) -> list[list[int]]:
    """Groups of indices, similar lengths together, each of at most ``max_tokens`` real tokens.

    Longest first, so that a group that does not fit into memory is met at once.
    """
    groups: list[list[int]] = []
    room = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if lengths[index] > max_tokens:
            raise ConfigError(
                f"example {index} has {lengths[index]} tokens, more than the {max_tokens} of one "
                "pass: raise tokens_per_microbatch, or lower the longest prompt and response"
            )
        if lengths[index] > room or not groups or len(groups[-1]) == max_rows:
            groups.append([])
            room = max_tokens
        groups[-1].append(index)
        room -= lengths[index]
    return groups


class ResumableSampler:
    """Endless batches of indices: every epoch is a permutation drawn from (seed, epoch).

    Each item comes exactly once an epoch; the last batch of an epoch may be short, or is dropped
    with ``drop_last`` (another epoch has its items elsewhere). The state is two numbers, and a
    sampler that loads it goes on exactly where the other stopped.
    """

    def __init__(self, num_items: int, batch_size: int, seed: int, drop_last: bool = False):
        if num_items < 1 or batch_size < 1:
            raise ConfigError(
                f"{num_items} items in batches of {batch_size}: both have to be at least 1"
            )
        if drop_last and num_items < batch_size:
            raise ConfigError(
                f"{num_items} items do not fill one batch of {batch_size}, and the unfilled batch "
                "is dropped: use a smaller batch_size or more data"
            )
        self.num_items = num_items
        self.batch_size = batch_size
        self.seed = seed
        self.drop_last = drop_last
        self.epoch = 0
        self.batch = 0
        self._order = self._permutation()

    @property
    def batches_per_epoch(self) -> int:
        """Batches in one pass over the items."""
        whole, rest = divmod(self.num_items, self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[list[int]]:
        return self

    def __next__(self) -> list[int]:
        if self.batch == self.batches_per_epoch:
            self.epoch, self.batch = self.epoch + 1, 0
            self._order = self._permutation()
        start = self.batch * self.batch_size
        self.batch += 1
        return self._order[start : start + self.batch_size].tolist()

    def state_dict(self) -> dict[str, Any]:
        """The position, and what has to be the same for it to mean anything."""
        return {"epoch": self.epoch, "batch": self.batch, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a saved position; raises CheckpointError if the data is not the same."""
        for name, value in self._identity().items():
            if state.get(name) != value:
                raise CheckpointError(
                    f"the saved data position is for {name} = {state.get(name)}, this run has "
                    f"{value}: resume with the same data and settings, or start a new run"
                )
        self.epoch, self.batch = state["epoch"], state["batch"]
        self._order = self._permutation()

    def _identity(self) -> dict[str, Any]:
        return {
            "num_items": self.num_items,
            "batch_size": self.batch_size,
            "seed": self.seed,
            "drop_last": self.drop_last,
        }

    def _permutation(self) -> np.ndarray:
        return np.random.default_rng((self.seed, _ORDER, self.epoch)).permutation(self.num_items)


class PackedText:
    """A stream of tokens cut into rows of ``context`` tokens; the rest at the end is left out.

    ``tokens`` may be a memory map: only the rows that are drawn are read.
    """

    def __init__(self, tokens: np.ndarray, context: int):
        if context < 1 or len(tokens) < context:
            raise DataError(
                f"the text has {len(tokens)} tokens, fewer than one row of {context}: give more "
                "text or a smaller row_tokens"
            )
        self.tokens = tokens
        self.context = context

    @classmethod
    def of_documents(
        cls, documents: Iterable[Sequence[int]], eos: int, context: int, path: Path
    ) -> PackedText:
        """Rows of tokenized documents, EOS after each, which are written to ``path`` as they come.

        The file is raw int32; the stream never stands in memory, and ``open`` reads it again.
        """
        partial = path.with_suffix(".partial")
        with partial.open("wb") as out:
            for document in documents:
                out.write(np.asarray([*document, eos], np.int32).tobytes())
        partial.replace(path)
        return cls.open(path, context)

    @classmethod
    def open(cls, path: Path, context: int) -> PackedText:
        """Rows of a file that ``of_documents`` wrote."""
        if not path.is_file() or path.stat().st_size == 0:
            raise DataError(f"{path} holds no tokens: tokenize the text again")
        return cls(np.memmap(path, np.int32, mode="r"), context)

    def __len__(self) -> int:
        return len(self.tokens) // self.context

    def row(self, index: int) -> np.ndarray:
        """(context,) tokens of one row, int64."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        start = index * self.context
        return self.tokens[start : start + self.context].astype(np.int64)

    def rows(self, num_rows: int, seed: int, step: int) -> np.ndarray:
        """(num_rows, context) random rows of a step, int64: the same for the same seed and step."""
        indices = np.random.default_rng((seed, _TEXT, step)).integers(len(self), size=num_rows)
        return np.stack([self.row(index) for index in indices.tolist()])
