"""The rows of a run: appended, resumed, read back, printed, sent to sinks."""

from __future__ import annotations

import json
import math
import os
import sys
import types

import pytest

from heedful.errors import DataError, MissingExtraError
from heedful.metrics import (
    MetricsLog,
    duration,
    iter_jsonl,
    keep_rows_before,
    last_values,
    read_metrics,
    replacing,
)


def write(run_dir, steps, **settings):
    log = MetricsLog(run_dir, quiet=True, **settings)
    for step in steps:
        log.log(step, {"loss": 1.0 / (step + 1)})
    log.close()


def test_rows_are_read_back_in_order(tmp_path):
    write(tmp_path / "deep" / "run", range(3))
    assert read_metrics(tmp_path / "deep" / "run") == [
        {"step": 0, "loss": 1.0},
        {"step": 1, "loss": 0.5},
        {"step": 2, "loss": 1 / 3},
    ]
    assert last_values(tmp_path / "deep" / "run") == {"loss": 1 / 3}


def test_each_row_is_on_disk_at_once(tmp_path):
    log = MetricsLog(tmp_path, quiet=True)
    assert last_values(tmp_path) == {}
    log.log(0, {"loss": 1.0})
    assert len(read_metrics(tmp_path)) == 1


def test_a_resumed_run_has_one_row_per_step(tmp_path):
    write(tmp_path, range(5))
    write(tmp_path, range(3, 6), resume_step=3)
    assert [row["step"] for row in read_metrics(tmp_path)] == [0, 1, 2, 3, 4, 5]


def test_a_run_from_the_start_forgets_the_one_before(tmp_path):
    write(tmp_path, range(5))
    write(tmp_path, range(2))
    assert [row["step"] for row in read_metrics(tmp_path)] == [0, 1]


def test_a_last_line_that_a_kill_cut_is_left_out(tmp_path):
    write(tmp_path, range(3))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')
    assert [row["step"] for row in read_metrics(tmp_path)] == [0, 1, 2]
    write(tmp_path, [3], resume_step=3)
    assert [row["step"] for row in read_metrics(tmp_path)] == [0, 1, 2, 3]


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n{broken\n{"step": 2}\n')
    with pytest.raises(DataError, match=r"metrics.jsonl, line 2: not JSON"):
        read_metrics(tmp_path)


def test_a_directory_without_metrics_is_named(tmp_path):
    with pytest.raises(DataError, match=r"is \S+ a run directory"):
        read_metrics(tmp_path)


def test_what_is_not_finite_becomes_null(tmp_path):
    log = MetricsLog(tmp_path, quiet=True)
    log.log(0, {"a": math.nan, "b": math.inf, "c": 2})
    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {"step": 0, "a": None, "b": None, "c": 2}


def test_a_line_is_printed_now_and_then_and_at_the_end(tmp_path, capsys):
    log = MetricsLog(tmp_path, print_every=4)
    for step in range(7):
        log.log(step, {"loss": 0.12345678, "lr": 1e-6}, of=7)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["step 1/7", "step 5/7", "step 7/7"]
    assert lines[0] == "step 1/7  loss 0.123  lr 1.00e-06"


def test_the_line_of_an_iteration_shows_what_matters_in_one_line(tmp_path, capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    log = MetricsLog(tmp_path, print_every=1)
    row = {
        "time/rollout_s": 9.5,
        "ppo/kl": 12.345,
        "ppo/score": -0.5134,
        "ppo/entropy": 1.2345,
        "ppo/length": 512.34,
        "ppo/finished": 0.98,
        "ppo/ptx_loss": 2.3456,
        "ppo/clipfrac": 0.0123,
        "speed/episodes_per_s": 3.21,
        "optim/lr": 1e-6,
    }
    for step in range(2):
        now[0] += 600 / 498 * (step == 1) * 2  # so that 498 more take ten minutes
        log.log(step, row, of=500)
    expected = "score -0.513  kl 12.3  entropy 1.23  length 512  eos 0.98  ptx 2.35  clip 0.0123"
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        f"step 1/500  {expected}  ep/s 3.21",
        f"step 2/500  {expected}  ep/s 3.21  10m00s left",
    ]
    # no line is wider than a terminal: the last ones are left out
    log.log(2, row | {"valid/score": 0.512, "ppo/gold": 0.513}, of=500)
    (line,) = capsys.readouterr().err.splitlines()
    assert len(line) <= 120
    assert "valid 0.512  gold 0.513  kl" in line
    assert "ep/s" not in line


def test_whole_numbers_stand_there_in_full_and_other_steps_show_their_updates(tmp_path, capsys):
    log = MetricsLog(tmp_path, print_every=1)
    row = {"speed/tokens_per_s": 12345.6, "sft/loss": 2.0, "optim/lr": 0.0, "time/data_s": 1.0}
    log.log(0, row)
    assert capsys.readouterr().err == "step 1  loss 2  lr 0  tokens/s 12,346\n"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0s"), (59.6, "1m00s"), (187, "3m07s"), (7500, "2h05m")]
)
def test_seconds_as_people_say_them(seconds, text):
    assert duration(seconds) == text


def test_the_time_left_counts_this_process_only(tmp_path, capsys, monkeypatch):
    """Resumed at 90 of 100, two updates in 20 s: eight more take 80 s, not 2 s."""
    write(tmp_path, range(90))
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    log = MetricsLog(tmp_path, resume_step=90, print_every=1)
    for step in (90, 91):
        now[0] += 10
        log.log(step, {"loss": 1.0}, of=100)
    assert capsys.readouterr().err.splitlines()[1].endswith("1m20s left")


def test_a_sink_gets_every_row_and_is_closed(tmp_path, monkeypatch):
    seen = []

    class Writer:
        def __init__(self, directory):
            seen.append(("open", directory))

        def add_scalar(self, key, value, step):
            seen.append((key, value, step))

        def close(self):
            seen.append(("close",))

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    write(tmp_path, range(2), sinks=["tensorboard"])
    expected = [("open", str(tmp_path / "tensorboard")), ("loss", 1.0, 0), ("loss", 0.5, 1)]
    assert seen == [*expected, ("close",)]


@pytest.mark.parametrize(
    ("sink", "module"), [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb")]
)
def test_a_sink_that_is_not_installed_names_its_extra(tmp_path, monkeypatch, sink, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'heedful\[{sink}\]'"):
        MetricsLog(tmp_path, sinks=[sink])


def test_an_unknown_sink_is_named(tmp_path):
    with pytest.raises(DataError, match="unknown metrics sink 'paper'"):
        MetricsLog(tmp_path, sinks=["paper"])


def test_jsonl_of_our_own_is_read_lazily(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n\n{"a": 2}\n')
    rows = iter_jsonl(tmp_path / "rows.jsonl")
    assert next(rows) == {"a": 1}
    assert list(rows) == [{"a": 2}]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.json"
    with replacing(path) as partial:
        partial.write_text("first")
        assert not path.exists()
    assert path.read_text() == "first"
    with pytest.raises(KeyboardInterrupt), replacing(path) as partial:
        partial.write_text("half of the sec")
        raise KeyboardInterrupt
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a.json", "first")]


@pytest.mark.parametrize("durable", [True, False])
def test_a_file_is_on_the_disk_before_it_takes_its_place(tmp_path, monkeypatch, durable):
    done = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr("os.fsync", lambda fd: (done.append("fsync"), fsync(fd)))
    monkeypatch.setattr("os.replace", lambda a, b: (done.append("replace"), replace(a, b)))
    with replacing(tmp_path / "a.json", durable=durable) as partial:
        partial.write_text("text")
    assert done == (["fsync", "replace"] if durable else ["replace"])


def test_rows_are_cut_by_the_key_that_counts_them(tmp_path):
    path = tmp_path / "samples.jsonl"
    keep_rows_before(path, 3, "iteration")
    assert not path.exists()
    path.write_text("".join(f'{{"iteration": {i // 2}}}\n' for i in range(8)) + '{"itera')
    keep_rows_before(path, 3, "iteration")
    assert [row["iteration"] for row in iter_jsonl(path)] == [0, 0, 1, 1, 2, 2]
