"""What a Chrome trace of torch.profiler says: seconds and matmul FLOPs by phase and by operator.

Phases are the annotations that ``profiling.labelled`` puts into the trace. All of this reads the
file that the user can open too (chrome://tracing, Perfetto), and nothing else.

A CUDA device works while the host has long gone on: where a trace has its events, seconds are
those that the device worked, and count for the operator and the phase that asked for the work.
"""

from __future__ import annotations

import gzip
import json
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

PHASE_PREFIX = "phase: "
OUTSIDE = ""  # the phase of what runs outside every label
# Operators that multiply matrices, and where among their inputs the two factors are.
MATMULS = {"aten::mm": (0, 1), "aten::bmm": (0, 1)}
MATMULS |= dict.fromkeys(("aten::addmm", "aten::baddbmm", "aten::addmm_", "aten::baddbmm_"), (1, 2))
# The product by a prepacked weight, (columns, inner).
PREPACKED = "mkldnn::_linear_pointwise"
DTYPES = {"float": "float32", "c10::BFloat16": "bfloat16", "c10::Half": "float16"}
# Categories of what a device did, and of the host's calls that launched it.
DEVICE_WORK = ("kernel", "gpu_memcpy", "gpu_memset")
LAUNCHES = ("cuda_runtime", "cuda_driver")


class Fused(NamedTuple):
    """Where fused attention has its inputs, and how many matrix products it does."""

    queries: int
    keys: int
    causal: int
    products: int
    length: int = -2  # the axis of a row's tokens
    starts: int | None = None  # (sequences + 1,) where sequences begin, if they are packed


# On CUDA _scaled_dot_product_* calls one of these, which then has the kernels: that one counts.
ATTENTIONS = {
    "aten::_scaled_dot_product_flash_attention_for_cpu": Fused(0, 1, 4, 2),
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward": Fused(1, 2, 7, 5),
    "aten::_flash_attention_forward": Fused(0, 1, 8, 2, length=-3, starts=3),
    "aten::_flash_attention_backward": Fused(1, 2, 11, 5, length=-3, starts=6),
    "aten::_efficient_attention_forward": Fused(0, 1, 9, 2, length=-3, starts=4),
    "aten::_efficient_attention_backward": Fused(1, 2, 14, 5, length=-3, starts=6),
    "aten::_cudnn_attention_forward": Fused(0, 1, 10, 2, starts=4),
    "aten::_cudnn_attention_backward": Fused(1, 2, 14, 5, starts=9),
}
# The causal flag as it stands there; _efficient_attention_* says at which corner it is aligned.
CAUSAL = ("True", "1", "2")


class Operation(NamedTuple):
    """One call of an operator, or a kernel that no known operator launched."""

    name: str
    phase: str
    shapes: tuple[tuple[int, ...], ...]  # of its tensor inputs
    dtype: str  # of its first tensor input
    seconds: float  # without the operators that it calls
    flops: int  # 0 where it is no matrix product


class _Work(NamedTuple):
    """What a device did at a time."""

    event: dict[str, Any]
    operator: dict[str, Any] | None  # the call that launched it, if the trace has it
    asked_us: float  # when that call began


def read_trace(path: Path) -> list[dict[str, Any]]:
    """The events of a trace file (.json or .json.gz) that last and that this module reads."""
    data = path.read_bytes()
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    return [
        event
        for event in json.loads(data)["traceEvents"]
        if event.get("ph") == "X"
        and event.get("cat") in ("cpu_op", "user_annotation", *DEVICE_WORK, *LAUNCHES)
    ]


def has_device_work(events: Iterable[dict[str, Any]]) -> bool:
    """Whether the seconds of a trace are a device's."""
    return any(event["cat"] in DEVICE_WORK for event in events)


def phase_seconds(events: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Seconds by phase: the device's where it has any, those of OUTSIDE too, else the host's.

    Work is of the phase in which it was asked for. While a device does several things at once, the
    moment counts for the one that began first: the sum is what the device was busy.
    """
    if not has_device_work(events):
        return host_seconds(events)
    phase_at = _phase_at(events)
    seconds: dict[str, float] = {}
    busy_until = 0.0
    for work in _device_work(events):
        start, end = work.event["ts"], work.event["ts"] + work.event["dur"]
        phase = phase_at(work.asked_us)
        seconds[phase] = seconds.get(phase, 0.0) + max(0.0, end - max(start, busy_until)) / 1e6
        busy_until = max(busy_until, end)
    return seconds


def host_seconds(events: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Seconds of the host by phase; a moment inside several labels belongs to the innermost."""
    seconds: dict[str, float] = {}
    marks = _phase_marks(events)
    for (start, phase), (end, _) in pairwise(marks):
        if phase != OUTSIDE:
            seconds[phase] = seconds.get(phase, 0.0) + (end - start) / 1e6
    return seconds


def operations(events: Sequence[dict[str, Any]]) -> list[Operation]:
    """Every operator call with its own time; its phase is the one it began in.

    An operator is looked up by time, not by thread: autograd may run the backward pass in another.
    On a device its time is that of the kernels, copies and fills that this very call launched.
    Those that no call in the trace launched come last, by their own names.
    """
    phase_at = _phase_at(events)
    calls = [event for event in events if event["cat"] == "cpu_op"]
    work = _device_work(events)
    found = []
    for event, own_us in _device_times(calls, work) if work else _own_times(calls):
        arguments = event.get("args", {})
        dims, types = arguments.get("Input Dims", []), arguments.get("Input type", [])
        shapes = tuple(tuple(shape) for shape in dims if _is_shape(shape))
        given = (kind for kind, shape in zip(types, dims, strict=False) if _is_shape(shape))
        dtype = next(given, "")
        found.append(
            Operation(
                event["name"],
                phase_at(event["ts"]),
                shapes,
                DTYPES.get(dtype, dtype),
                own_us / 1e6,
                flops(event["name"], dims, arguments.get("Concrete Inputs", [])),
            )
        )
    return found


def _is_shape(dims: Any) -> bool:
    """Whether an input is one tensor: numbers have [] as dims, and lists of tensors a list each."""
    return bool(dims) and all(isinstance(size, int) for size in dims)


def flops(name: str, dims: Sequence[Any], values: Sequence[Any] = ()) -> int:
    """Floating-point operations of a matrix product (2 m k n, times the batch); else 0.

    Causal attention is counted as half the square, whatever its window. Of packed sequences a trace
    knows the number and not the lengths: they are counted as if all were equally long. Attention
    within sequences of different lengths takes more.
    """
    if shape := product_shape(name, dims):
        return 2 * prod(shape)
    if name in ATTENTIONS:
        return _attention_flops(ATTENTIONS[name], dims, values)
    return 0


def product_shape(name: str, dims: Sequence[Any]) -> tuple[int, ...] | None:
    """(rows, inner, columns) of a matrix product, (batch, ...) of several; None for all else."""
    if name == PREPACKED:
        hidden, weight = dims[:2]
        return prod(hidden[:-1]), hidden[-1], weight[0]
    if name not in MATMULS:
        return None
    left, right = (dims[i] for i in MATMULS[name])
    return *left, right[-1]


def _attention_flops(fused: Fused, dims: Sequence[Any], values: Sequence[Any]) -> int:
    queries, keys = dims[fused.queries], dims[fused.keys]
    is_causal = fused.causal < len(values) and values[fused.causal] in CAUSAL
    starts = dims[fused.starts] if fused.starts is not None else []
    num_sequences = starts[0] - 1 if starts else 0
    if num_sequences < 1:
        whole = 2 * fused.products * prod(queries) * keys[fused.length]
        return whole // 2 if is_causal else whole
    *_, num_queries, heads, size = queries
    # causal: the last query sees all keys, more than there are queries where there is a prefix
    pairs = 2 * num_queries * keys[-3] - (num_queries**2 if is_causal else 0)
    return fused.products * heads * size * pairs // num_sequences


def _phase_marks(events: Iterable[dict[str, Any]]) -> list[tuple[float, str]]:
    """(microseconds, phase from then on), in order of time."""
    labels = [
        (event["ts"], event["ts"] + event["dur"], event["name"].removeprefix(PHASE_PREFIX))
        for event in events
        if event["cat"] == "user_annotation" and event["name"].startswith(PHASE_PREFIX)
    ]
    marks: list[tuple[float, str]] = []
    is_open: list[tuple[float, str]] = []  # (end, phase), the innermost last

    def close_until(moment: float) -> None:
        while is_open and is_open[-1][0] <= moment:
            end, _ = is_open.pop()
            marks.append((end, is_open[-1][1] if is_open else OUTSIDE))

    for start, end, phase in sorted(labels, key=lambda label: (label[0], -label[1])):
        close_until(start)
        marks.append((start, phase))
        is_open.append((end, phase))
    close_until(float("inf"))
    return marks


def _phase_at(events: Iterable[dict[str, Any]]) -> Callable[[float], str]:
    """The phase of a moment in microseconds."""
    marks = _phase_marks(events)
    starts = [start for start, _ in marks]

    def phase_at(moment: float) -> str:
        at = bisect_right(starts, moment) - 1
        return marks[at][1] if at >= 0 else OUTSIDE

    return phase_at


def _device_work(events: Iterable[dict[str, Any]]) -> list[_Work]:
    """What the device did, in order of time.

    It has the id of the operator that launched it, or the host's call of the driver has; work of
    neither (a replayed graph) is asked for when the driver was called.
    """
    operators: dict[Any, dict[str, Any]] = {}
    launches: dict[Any, dict[str, Any]] = {}
    done: list[dict[str, Any]] = []
    for event in events:
        if event["cat"] == "cpu_op":
            operators[_argument(event, "External id")] = event
        elif event["cat"] in LAUNCHES:
            launches[_argument(event, "correlation")] = event
        elif event["cat"] in DEVICE_WORK:
            done.append(event)
    operators.pop(None, None)
    launches.pop(None, None)
    found = []
    for event in sorted(done, key=lambda event: event["ts"]):
        launch = launches.get(_argument(event, "correlation"))
        ids = [_argument(each, "External id") for each in (event, launch) if each is not None]
        operator = next((operators[each] for each in ids if each in operators), None)
        asked = operator or launch or event
        found.append(_Work(event, operator, asked["ts"]))
    return found


def _argument(event: dict[str, Any], name: str) -> Any:
    return event.get("args", {}).get(name)


def _device_times(
    calls: Iterable[dict[str, Any]], done: Iterable[_Work]
) -> list[tuple[dict[str, Any], float]]:
    """Operators with the microseconds of what they launched, then all that none of them did."""
    own_us: dict[int, float] = {}
    others = []
    for work in done:
        duration = work.event["dur"]
        if work.operator is None:
            others.append(({"name": _plain_name(work.event), "ts": work.asked_us}, duration))
        else:
            key = id(work.operator)
            own_us[key] = own_us.get(key, 0.0) + duration
    in_order = sorted(calls, key=lambda event: event["ts"])
    return [(event, own_us.get(id(event), 0.0)) for event in in_order] + others


def _plain_name(event: dict[str, Any]) -> str:
    """A kernel's name without its return type, template arguments and parameters."""
    name = event["name"]
    if event["cat"] != "kernel":
        return name
    plain, before = name, ""
    while plain != before:
        before, plain = plain, re.sub(r"<[^<>]*>|\([^()]*\)", "", plain)  # the innermost first
    return plain.replace("::::", "::").removeprefix("void ").strip() or name


def _own_times(events: Iterable[dict[str, Any]]) -> list[tuple[dict[str, Any], float]]:
    """Operators with their microseconds less those of the operators that they called."""
    own: list[list[Any]] = []  # [event, microseconds]
    callers: dict[Any, list[list[Any]]] = {}  # by thread, the innermost last
    for event in sorted(events, key=lambda event: (event["ts"], -event["dur"])):
        stack = callers.setdefault(event["tid"], [])
        while stack and stack[-1][0]["ts"] + stack[-1][0]["dur"] <= event["ts"]:
            stack.pop()
        if stack:
            stack[-1][1] -= event["dur"]
        stack.append([event, event["dur"]])
        own.append(stack[-1])
    return [(event, max(0.0, own_us)) for event, own_us in own]
