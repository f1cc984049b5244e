"""When a state is saved, and what a first and a second signal do to a step."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest
import torch

from heedful.config import PretrainConfig
from heedful.data.text import TextRows
from heedful.training import step0_pretrain, stopping
from heedful.training.stopping import Saves, Stopped, stoppable

STEPS = 6
ROWS = TextRows((torch.arange(400) % 20 + 2).numpy().astype("uint32"), 16)
SIGNALS = [signal.SIGINT, signal.SIGTERM]


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def signal_at(last: int, number: int, times: int = 1):
    """A progress callback that sends the signal when so many updates are done."""

    def progress(done: int, total: int) -> None:
        for _ in range(times if done == last else 0):
            send(number)

    return progress


def settings(run_dir, **log):
    values = {
        "run_dir": str(run_dir),
        "tokenizer": "unused",
        "data": {},
        "num_tokens": 8 * 16 * STEPS,
        "row_tokens": 16,
        "optim": {"lr": 1e-2, "batch_size": 8},
        "compute": {"dtype": "float32"},
        "log": {"save_every": 0, "save_every_s": 0} | log,
    }
    return PretrainConfig.model_validate(values)


def states(run_dir) -> list[str]:
    return sorted(path.name for path in (run_dir / "state").glob("*"))


def train(run_dir, model, progress=lambda done, total: None, **log):
    step0_pretrain.train(settings(run_dir, **log), model, ROWS, None, progress)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_stopped_step_saves_its_state_and_goes_on_exactly(
    tiny_model, tmp_path, results_of, capfd, number
):
    with stoppable(), pytest.raises(Stopped) as stopped:
        train(tmp_path / "cut", tiny_model(), signal_at(4, number))
    assert stopped.value.number == number
    assert str(stopped.value).startswith("stopped after step 4 of 6; its state is saved")
    assert "stopping after this step, to save its state" in capfd.readouterr().err
    assert states(tmp_path / "cut") == ["step-00000004.pt"]
    resumed, whole = tiny_model(seed=5), tiny_model()
    train(tmp_path / "cut", resumed)
    train(tmp_path / "whole", whole)
    assert results_of(tmp_path / "cut") == results_of(tmp_path / "whole")
    for (name, mine), other in zip(resumed.named_parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, other), name


def test_a_second_signal_stops_at_once(tiny_model, tmp_path):
    with stoppable(), pytest.raises(Stopped) as stopped:
        train(tmp_path, tiny_model(), signal_at(4, signal.SIGINT, times=2))
    assert str(stopped.value) == ""
    assert states(tmp_path) == []


def test_a_signal_in_the_last_update_lets_the_run_end(tiny_model, tmp_path):
    with stoppable():
        train(tmp_path, tiny_model(), signal_at(STEPS, signal.SIGTERM))
    assert states(tmp_path) == []


def test_a_signal_after_the_last_update_says_what_goes_on(capfd):
    with stoppable():
        saves = Saves(0, 0, total=3)
        assert not saves.is_due(3)
        send(signal.SIGINT)
        assert "the result is being written" in capfd.readouterr().err
        with pytest.raises(Stopped):
            send(signal.SIGINT)


@pytest.mark.parametrize("number", SIGNALS)
def test_before_a_step_is_at_work_a_signal_ends_the_run(number):
    with stoppable(), pytest.raises(Stopped) as stopped:
        send(number)
    assert stopped.value.number == number


def test_while_modules_are_imported_a_signal_ends_the_process():
    """Raised there, an exception would pass through C++ that cannot bear it."""
    lines = ["import os", "from heedful.training.stopping import importing, stoppable"]
    lines += ["with stoppable(), importing():", "    os.kill(os.getpid(), 15)", "    print('on')"]
    code = "\n".join(lines)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (143, "")
    assert done.stderr == "stopped before anything had begun\n"


def test_handlers_are_given_back_and_ignored_signals_stay_ignored():
    before = [signal.getsignal(number) for number in SIGNALS]
    kept = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with stoppable():
            send(signal.SIGTERM)
            assert signal.getsignal(signal.SIGINT) is not before[0]
    finally:
        signal.signal(signal.SIGTERM, kept)
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_in_another_thread_nothing_changes():
    found = []

    def work() -> None:
        with stoppable():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGINT)]


def due(saves: Saves, done: int) -> bool:
    """Whether a state is saved after that update; it is, where it is due."""
    is_due = saves.is_due(done)
    if is_due:
        saves.saved(done)
    return is_due


def test_a_state_is_due_by_count_and_by_time(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(stopping.time, "monotonic", lambda: now[0])
    saves = Saves(every=4, every_s=60, total=20)
    found = []
    for done in range(1, 13):
        now[0] += 25
        found += [done] if due(saves, done) else []
    # every fourth, and the third after one (75 s); the count saves at 4 and starts the time anew
    assert found == [3, 4, 7, 8, 11, 12]
    assert due(Saves(every=5, every_s=0, total=5), 5)  # a run with only its model left to publish
    assert not due(Saves(every=0, every_s=0, total=9), 4)
    late = Saves(every=0, every_s=60, total=5)
    now[0] += 100
    assert not due(late, 5)
    assert due(late, 4)


def test_by_the_clock_saves_wait_longer_where_they_take_long(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(stopping.time, "monotonic", lambda: now[0])
    saves = stopping.Saves(0, 10.0, 1000)
    now[0] = 10.0
    assert saves.is_due(1)
    now[0] = 12.0  # two seconds for a save: the next after forty
    saves.saved(1)
    now[0] = 51.9
    assert not saves.is_due(2)
    now[0] = 52.0
    assert saves.is_due(3)


def test_a_run_with_no_update_left_says_that_its_result_is_written(capfd):
    with stopping.stoppable():
        stopping.Saves(1, 0, 5, first=5)
        signal.raise_signal(signal.SIGINT)
    assert "all updates are done" in capfd.readouterr().err
