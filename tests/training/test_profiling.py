"""The window of a profile: which updates it has, what its labels do, and that nothing stays."""

from __future__ import annotations

import types
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity

from heedful.models.prepacked import prepacked, product
from heedful.training import profiling
from heedful.training.profiling import (
    Label,
    Recorder,
    Window,
    labelled,
    matmul_rate,
    watched,
    watching,
)
from heedful.training.trace import PREPACKED, operations, phase_seconds, read_trace


def window_of(tmp_path: Path, window: Window, total: int, first: int = 0):
    """(updates in the trace, what advance gave): update i adds i one-row matrices, i + 1 wide."""
    recorder = Recorder(tmp_path / "trace.json.gz", window)
    recorder.start()
    given = []
    for update in range(first + 1, total + 1):
        torch.mm(torch.zeros(1, update), torch.zeros(update, 1))
        given.append(recorder.advance(update, total))
    recorder.abandon()
    calls = operations(read_trace(recorder.trace))
    updates = [call.shapes[0][1] for call in calls if call.name == "aten::mm"]
    return updates, [recorded for recorded in given if recorded is not None]


@pytest.mark.parametrize(
    ("total", "updates", "num_before"),
    [(9, [4, 5], 1), (5, [4, 5], 1), (4, [4], 1), (3, [3], 0), (2, [2], 0), (1, [1], 0)],
)
def test_the_window_is_after_the_warm_up_or_at_the_end_of_a_short_run(
    tmp_path, total: int, updates: list[int], num_before: int
):
    found, recorded = window_of(tmp_path, Window(3, 2), total)
    assert found == updates
    (only,) = recorded
    assert (only.last, only.num_updates) == (updates[-1], len(updates))
    assert only.num_before == num_before  # warm and without the profiler: the second
    assert only.seconds > 0
    assert only.peak_gib > 0


def test_the_update_before_the_window_is_recorded_and_thrown_away(tmp_path, monkeypatch):
    begun, abandoned = [], []
    start, abandon = Recorder.start, Recorder.abandon

    def starting(self):
        start(self)
        begun.append(self._began)

    def abandoning(self):
        if self._profiler is not None:
            abandoned.append(self._began)
        abandon(self)

    monkeypatch.setattr(Recorder, "start", starting)
    monkeypatch.setattr(Recorder, "abandon", abandoning)
    assert window_of(tmp_path, Window(4, 2), 9)[0] == [5, 6]
    assert begun == [0, 3, 4] and abandoned == [0, 3]  # in updates that are done


def test_products_by_prepacked_weights_stand_in_a_trace_as_they_are_counted(tmp_path):
    weight = prepacked(torch.ones(5, 3, dtype=torch.bfloat16))
    recorder = Recorder(tmp_path / "trace.json.gz", Window(1, 1))
    recorder.start()
    product(torch.ones(2, 4, 3, dtype=torch.bfloat16), weight)
    assert recorder.advance(1, 1) is not None
    counted = [call for call in operations(read_trace(recorder.trace)) if call.flops]
    assert [(call.name, call.flops) for call in counted] == [(PREPACKED, 2 * 8 * 3 * 5)]


def test_a_resumed_run_warms_up_again(tmp_path):
    found, (recorded,) = window_of(tmp_path, Window(2, 2), 20, first=10)
    assert found == [13, 14]
    assert (recorded.last, recorded.num_before) == (14, 0)


def test_labels_make_phases_and_leave_no_trace(tmp_path):
    """score is sealed: the product inside it stays there; collect is open around both."""
    tokens_of = [3, 4]
    step = types.SimpleNamespace()
    step.product = lambda: torch.mm(torch.ones(2, 2), torch.ones(2, 2))
    step.score = lambda: step.product()
    step.sample = lambda: tokens_of.pop(0)
    step.collect = lambda: [step.score(), step.product(), step.sample()]
    before = vars(step).copy()
    labels = [
        Label(step, "collect", "experience", is_open=True),
        Label(step, "score", "score"),
        Label(step, "product", "values"),
        Label(step, "sample", "generate", count=lambda number: number),
    ]
    with labelled(labels) as tokens:
        step.collect()
        recorder = Recorder(tmp_path / "trace.json.gz", Window(0, 1), tokens)
        recorder.start()
        result = step.collect()
        recorded = recorder.advance(1, 1)
    assert torch.equal(result[0], torch.full((2, 2), 2.0))
    assert vars(step) == before
    assert recorded is not None
    assert (tokens.num, recorded.num_tokens) == (7, 4)
    events = read_trace(recorder.trace)
    assert phase_seconds(events).keys() == {"experience", "score", "values", "generate"}
    phases = [call.phase for call in operations(events) if call.name == "aten::mm"]
    assert phases == ["score", "values"]


def test_labels_come_off_after_an_error_and_name_what_is_missing():
    step = types.SimpleNamespace(collect=lambda: 1 / 0)
    before = step.collect
    with pytest.raises(ZeroDivisionError), labelled([Label(step, "collect", "experience")]):
        step.collect()
    assert step.collect is before
    with pytest.raises(KeyError, match="gone"), labelled([Label(step, "gone", "forward")]):
        pass


def test_a_callback_is_watched_only_while_asked_for(tmp_path):
    def progress(done: int, total: int) -> None: ...

    def other(done: int, total: int) -> None: ...

    asked = []

    def watcher(*arguments):
        asked.append(arguments)
        return other

    assert watched(progress, tmp_path, "float32", "cuda:1") is progress
    with watching(watcher):
        assert watched(progress, tmp_path, "float32", "cuda:1") is other
    assert asked == [(progress, tmp_path, "float32", "cuda:1")]
    assert watched(progress, tmp_path, "float32", "cuda:1") is progress


@pytest.fixture
def happened(monkeypatch) -> list[str]:
    """What a run on a CUDA device does, in its order: waits for it, and a second by the clock."""
    happened: list[str] = []

    def clock() -> float:
        happened.append("clock")
        return float(happened.count("clock"))

    def synchronize(device: torch.device) -> None:
        happened.append(f"wait for {device}")

    monkeypatch.setattr(profiling, "time", types.SimpleNamespace(perf_counter=clock))
    monkeypatch.setattr(profiling, "synchronize", synchronize)
    return happened


def test_a_window_on_a_device_has_the_work_that_was_given_in_it(tmp_path, monkeypatch, happened):
    activities = []

    class Profiler:
        def __init__(self, **options):
            activities.extend(options["activities"])

        def start(self):
            happened.append("start")

        def stop(self):
            happened.append("stop")

        def export_chrome_trace(self, path): ...

    monkeypatch.setattr(profiling, "profile", Profiler)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", {"cuda:1": 3 * 2**30}.get)
    recorder = Recorder(tmp_path / "trace.json.gz", Window(0, 2), device="cuda:1")
    recorder.start()
    assert recorder.advance(1, 9) is None
    assert happened == ["wait for cuda:1", "start", "clock"]  # nobody waits within a window
    happened.append("update")
    recorded = recorder.advance(2, 9)
    assert happened[4:] == ["wait for cuda:1", "clock", "stop"]
    assert recorded is not None
    assert (recorded.seconds, recorded.device, recorded.device_peak_gib) == (1.0, "cuda:1", 3.0)
    assert ProfilerActivity.CUDA in activities


def test_a_run_on_the_processor_asks_no_device(tmp_path, monkeypatch):
    def asked(*_):
        raise AssertionError("a CUDA device was asked")

    for name in ("synchronize", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, asked)
    _, (recorded,) = window_of(tmp_path, Window(0, 1), 1)
    assert (recorded.device, recorded.device_peak_gib) == ("cpu", None)


def test_a_rate_of_a_device_is_that_of_many_products_given_at_once(monkeypatch, happened):
    """The second call lasts 1 ms: five are given at a time; then 2 s for 5 x 240 FLOP at best."""
    seconds = [0.5, 0.001, 4.0, 2.0, 3.0]
    instants = iter([i + part * s for i, s in enumerate(seconds) for part in (0, 1)])

    def clock() -> float:
        happened.append("clock")
        return next(instants)

    def on_processor(function):
        return lambda *sizes, device, **options: function(*sizes, **options)

    def product(a, b, out):
        happened.append("give")

    monkeypatch.setattr(profiling, "time", types.SimpleNamespace(perf_counter=clock))
    monkeypatch.setattr(torch, "matmul", product)
    generator = torch.Generator()
    monkeypatch.setattr(torch, "Generator", lambda device: generator)
    for name in ("randn", "empty"):
        monkeypatch.setattr(torch, name, on_processor(getattr(torch, name)))
    assert matmul_rate((4, 5, 6), torch.float32, 9.0, device="cuda") == pytest.approx(600)

    def timed(num: int) -> list[str]:
        return ["wait for cuda", "clock", *["give"] * num, "wait for cuda", "clock"]

    assert happened == [*timed(1), *timed(1), *timed(5), *timed(5), *timed(5)]


@pytest.mark.parametrize(
    ("shape", "seconds", "repeats_s", "rate"),
    [
        # 4 * 6 results of 5 products and 5 sums each: 240 FLOP, in 0.25 s at best
        ((4, 5, 6), 0.1, [0.5, 0.25, 0.5], 960.0),
        # three of them at once, and repeats until the seconds are over: 720 FLOP in 0.125 s
        ((3, 4, 5, 6), 2.0, [1.0, 0.5, 0.25, 0.125, 0.25], 5760.0),
    ],
)
def test_a_rate_is_that_of_the_best_repeat(monkeypatch, shape, seconds, repeats_s, rate):
    instants = []
    for repeat, repeat_s in enumerate(repeats_s):
        instants += [10.0 * repeat, 10.0 * repeat + repeat_s]
    clock = iter(instants)
    timer = types.SimpleNamespace(perf_counter=lambda: next(clock))
    monkeypatch.setattr(profiling, "time", timer)
    assert matmul_rate(shape, torch.float32, seconds) == rate
    assert next(clock, None) is None


def test_a_rate_takes_no_random_numbers():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    matmul_rate((8, 8, 8), torch.float32, 0.0)
    assert torch.equal(torch.rand(3), expected)
