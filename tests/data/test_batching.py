"""Batches: counts that divide, groups within their budget, an order that resumes exactly."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heedful.data.batching import BatchPlan, PackedText, ResumableSampler, token_budget_batches
from heedful.errors import CheckpointError, ConfigError, DataError


def test_plan_derives_the_rest() -> None:
    plan = BatchPlan(512, 16, 4)
    assert (plan.accumulation, plan.rank_size) == (8, 128)
    table = plan.table(num_items=31_144, num_updates=500).splitlines()
    assert [line.split()[:2] for line in table] == [
        ["batch", "512"],
        ["ranks", "4"],
        ["micro-batch", "16"],
        ["accumulation", "8"],
        ["examples", "31,144"],
        ["updates", "500"],
    ]
    assert "60.83 updates a pass" in table[4] and "256,000 examples seen" in table[5]


def test_plan_names_the_nearest_numbers_that_divide() -> None:
    # 60 = 2 ranks x 30: micro-batches of 5 and 6 divide 30 and are nearest to 7 (10 is farther)
    with pytest.raises(ConfigError, match=r"batch_size of 56 or 70, or a micro_size of 5 or 6$"):
        BatchPlan(60, 7, 2)
    with pytest.raises(ConfigError, match=r"on 4 ranks: use a batch_size of 8$"):
        BatchPlan(6, 2, 4)
    with pytest.raises(ConfigError, match="num_ranks is 0"):
        BatchPlan(8, 2, 0)


@given(st.integers(1, 400), st.integers(1, 40), st.integers(1, 8))
def test_plan_either_divides_or_refuses(batch: int, micro: int, ranks: int) -> None:
    if batch % (micro * ranks):
        with pytest.raises(ConfigError, match="does not divide"):
            BatchPlan(batch, micro, ranks)
    else:
        assert BatchPlan(batch, micro, ranks).accumulation * micro * ranks == batch


def test_budget_by_hand() -> None:
    assert token_budget_batches([3, 9, 1, 4, 4], 10) == [[1], [3, 4], [0, 2]]
    assert token_budget_batches([1, 1, 1, 1, 1], 10, max_rows=2) == [[0, 1], [2, 3], [4]]
    assert token_budget_batches([], 10) == []
    with pytest.raises(ConfigError, match="example 1 has 11 tokens, more than the 10"):
        token_budget_batches([3, 11], 10)


@given(st.lists(st.integers(0, 50)), st.integers(50, 200), st.none() | st.integers(1, 7))
def test_budget_holds_and_nothing_is_lost(
    lengths: list[int], max_tokens: int, max_rows: int | None
) -> None:
    groups = token_budget_batches(lengths, max_tokens, max_rows)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        assert 0 < len(group) <= (max_rows or len(lengths))
        assert sum(lengths[index] for index in group) <= max_tokens
    ends = [(max(lengths[i] for i in g), min(lengths[i] for i in g)) for g in groups]
    assert all(low >= high for (_, low), (high, _) in pairwise(ends))


@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 2**40), st.integers(0, 12))
def test_sampler_resumes_anywhere(num_items: int, batch_size: int, seed: int, stop: int) -> None:
    sampler = ResumableSampler(num_items, batch_size, seed)
    whole = [next(sampler) for _ in range(stop + 9)]
    first = ResumableSampler(num_items, batch_size, seed)
    for _ in range(stop):
        next(first)
    saved = json.loads(json.dumps(first.state_dict()))
    second = ResumableSampler(num_items, batch_size, seed)
    next(second)
    second.load_state_dict(saved)
    assert [next(second) for _ in range(9)] == whole[stop:]


def test_each_item_once_an_epoch_in_another_order() -> None:
    sampler = ResumableSampler(23, 5, seed=3)
    epochs = []
    for _ in range(3):
        batches = [next(sampler) for _ in range(sampler.batches_per_epoch)]
        assert [len(batch) for batch in batches] == [5, 5, 5, 5, 3]
        epochs.append([index for batch in batches for index in batch])
        assert sorted(epochs[-1]) == list(range(23))
    assert epochs[0] != epochs[1] != epochs[2]
    assert next(ResumableSampler(23, 5, seed=4)) != epochs[0][:5]


def test_drop_last_leaves_only_whole_batches() -> None:
    sampler = ResumableSampler(23, 5, seed=3, drop_last=True)
    assert sampler.batches_per_epoch == 4
    batches = [next(sampler) for _ in range(12)]
    for start in (0, 4, 8):
        epoch = [index for batch in batches[start : start + 4] for index in batch]
        assert len(set(epoch)) == 20


def test_sampler_refuses_what_cannot_be() -> None:
    with pytest.raises(ConfigError, match="4 items do not fill one batch of 5"):
        ResumableSampler(4, 5, seed=0, drop_last=True)
    with pytest.raises(ConfigError, match="at least 1"):
        ResumableSampler(0, 5, seed=0)
    with pytest.raises(CheckpointError, match="num_items = 10, this run has 11"):
        ResumableSampler(11, 5, 0).load_state_dict(ResumableSampler(10, 5, 0).state_dict())


def test_packed_text_cuts_the_stream(tmp_path: Path) -> None:
    documents = [[1, 2, 3], [4], [5, 6, 7, 8]]
    text = PackedText.of_documents(documents, eos=9, context=3, path=tmp_path / "t.bin")
    # 1 2 3 | 9 4 9 | 5 6 7 | 8 9 left out
    expected = [[1, 2, 3], [9, 4, 9], [5, 6, 7]]
    assert [text.row(k).tolist() for k in range(len(text))] == expected
    assert PackedText.open(tmp_path / "t.bin", 3).row(2).tolist() == [5, 6, 7]
    with pytest.raises(IndexError):
        text.row(3)
    with pytest.raises(DataError, match="has 11 tokens, fewer than one row of 12"):
        PackedText.open(tmp_path / "t.bin", 12)
    with pytest.raises(DataError, match="holds no tokens"):
        PackedText.of_documents([], eos=9, context=3, path=tmp_path / "empty.bin")


def test_packed_rows_depend_on_seed_and_step_alone() -> None:
    text = PackedText(np.arange(1000, dtype=np.uint16), 7)
    rows = text.rows(64, seed=5, step=2)
    assert rows.shape == (64, 7) and rows.dtype == np.int64
    assert (rows[:, 0] % 7 == 0).all() and (np.diff(rows, axis=1) == 1).all()
    assert rows.max() < 142 * 7  # 1000 = 142 rows of 7, and 6 tokens left out
    assert (rows == text.rows(64, seed=5, step=2)).all()
    for other in (text.rows(64, seed=6, step=2), text.rows(64, seed=5, step=3)):
        assert (rows != other).any()
    drawn = np.concatenate([text.rows(64, seed=0, step=step) for step in range(40)])[:, 0] // 7
    # 2560 draws of 142 rows: all are met, with the variance of a fair draw
    counts = np.bincount(drawn, minlength=142)
    assert counts.min() > 0 and 0.6 < counts.var() / counts.mean() < 1.5
