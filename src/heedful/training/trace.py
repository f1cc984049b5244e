"""What a Chrome trace of torch.profiler says: seconds and matmul FLOPs by phase and by operator.

Phases are the annotations that ``profiling.labelled`` puts into the trace. All of this reads the
file that the user can open too (chrome://tracing, Perfetto), and nothing else.
"""

from __future__ import annotations

import gzip
import json
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

PHASE_PREFIX = "phase: "
OUTSIDE = ""  # the phase of what runs outside every label
# Operators that multiply matrices, and where among their inputs the two factors are.
MATMULS = {"aten::mm": (0, 1), "aten::bmm": (0, 1), "aten::addmm": (1, 2), "aten::baddbmm": (1, 2)}
# Fused attention: where queries, keys and the causal flag are, and how many matmuls it does.
ATTENTIONS = {
    "aten::_scaled_dot_product_flash_attention_for_cpu": (0, 1, 4, 2),
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward": (1, 2, 7, 5),
}
DTYPES = {"float": "float32", "c10::BFloat16": "bfloat16", "c10::Half": "float16"}


class Operation(NamedTuple):
    """One call of an operator."""

    name: str
    phase: str
    shapes: tuple[tuple[int, ...], ...]  # of its tensor inputs
    dtype: str  # of its first tensor input
    seconds: float  # without the operators that it calls
    flops: int  # 0 where it is no matrix product


def read_trace(path: Path) -> list[dict[str, Any]]:
    """The events of a trace file (.json or .json.gz) that last: operators and annotations."""
    data = path.read_bytes()
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    return [
        event
        for event in json.loads(data)["traceEvents"]
        if event.get("ph") == "X" and event.get("cat") in ("cpu_op", "user_annotation")
    ]


def phase_seconds(events: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Seconds by phase; a moment inside several labels belongs to the innermost."""
    seconds: dict[str, float] = {}
    marks = _phase_marks(events)
    for (start, phase), (end, _) in pairwise(marks):
        if phase != OUTSIDE:
            seconds[phase] = seconds.get(phase, 0.0) + (end - start) / 1e6
    return seconds


def operations(events: Sequence[dict[str, Any]]) -> list[Operation]:
    """Every operator call with its own time; its phase is the one it began in.

    An operator is looked up by time, not by thread: autograd may run the backward pass in another.
    """
    marks = _phase_marks(events)
    starts = [start for start, _ in marks]
    found = []
    for event, own_us in _own_times([event for event in events if event["cat"] == "cpu_op"]):
        at = bisect_right(starts, event["ts"]) - 1
        arguments = event.get("args", {})
        dims, types = arguments.get("Input Dims", []), arguments.get("Input type", [])
        shapes = tuple(tuple(shape) for shape in dims if _is_shape(shape))
        given = (kind for kind, shape in zip(types, dims, strict=False) if _is_shape(shape))
        dtype = next(given, "")
        found.append(
            Operation(
                event["name"],
                marks[at][1] if at >= 0 else OUTSIDE,
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

    Causal attention is counted as half the square.
    """
    if name in MATMULS:
        left, right = (dims[i] for i in MATMULS[name])
        return 2 * prod(left) * right[-1]
    if name in ATTENTIONS:
        queries, keys, causal, matmuls = ATTENTIONS[name]
        whole = 2 * matmuls * prod(dims[queries]) * dims[keys][-2]
        is_causal = causal < len(values) and values[causal] == "True"
        return whole // 2 if is_causal else whole
    return 0


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
