"""Phases, own times and floating-point operations of a trace, against one laid out by hand."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from heedful.training.trace import flops, operations, phase_seconds, read_trace

MS = 1000.0  # traces count microseconds


def event(name: str, start: float, end: float, thread: int = 1, **inputs: Any) -> dict[str, Any]:
    """An operator, or an annotation where the name begins as one; times in milliseconds."""
    category = "user_annotation" if name.startswith(("phase: ", "Optimizer")) else "cpu_op"
    times = {"ts": start * MS, "dur": (end - start) * MS}
    return {"ph": "X", "cat": category, "name": name, "tid": thread, "args": inputs} | times


# An update of 100 ms: forward 10..60 with data 20..25 and backward 40..55 in it, optimizer 70..90.
EVENTS = [
    event("phase: forward", 10, 60),
    event("phase: data", 20, 25),
    event("phase: backward", 40, 55),
    event("phase: optimizer", 70, 90),
    event("Optimizer.step#AdamW.step", 72, 85),
    event(
        "aten::linear",
        12,
        19,
        **{
            "Input Dims": [[4, 3], [5, 3], []],
            "Input type": ["c10::BFloat16", "c10::BFloat16", ""],
        },
    ),
    event(
        "aten::mm",
        13,
        18,
        **{"Input Dims": [[4, 3], [3, 5]], "Input type": ["c10::BFloat16", "c10::BFloat16"]},
    ),
    event("aten::copy_", 14, 15, **{"Input Dims": [[3, 5]], "Input type": ["c10::BFloat16"]}),
    event(
        "aten::bmm",
        41,
        50,
        thread=2,
        **{"Input Dims": [[2, 4, 3], [2, 3, 5]], "Input type": ["float", "float"]},
    ),
    event("aten::add_", 75, 80, **{"Input Dims": [[7], [7], []], "Input type": ["float", "float"]}),
    event("aten::stack", 95, 96, **{"Input Dims": [[[2], [2]], []], "Input type": ["TensorList"]}),
]


def test_a_moment_belongs_to_the_innermost_phase():
    assert phase_seconds(EVENTS) == pytest.approx(
        {"forward": 0.030, "data": 0.005, "backward": 0.015, "optimizer": 0.020}
    )


def test_labels_that_touch_and_labels_at_one_moment():
    events = [
        event("phase: a", 0, 10),
        event("phase: b", 0, 4),
        event("phase: c", 4, 10),
        event("phase: a", 10, 12),
    ]
    assert phase_seconds(events) == pytest.approx({"a": 0.002, "b": 0.004, "c": 0.006})


def test_operations_have_their_own_time_and_the_phase_they_began_in():
    found = {call.name: call for call in operations(EVENTS)}
    own = {name: call.seconds for name, call in found.items()}
    assert own == pytest.approx(
        {
            "aten::linear": 0.002,
            "aten::mm": 0.004,
            "aten::copy_": 0.001,
            "aten::bmm": 0.009,
            "aten::add_": 0.005,
            "aten::stack": 0.001,
        }
    )
    phases = [found[f"aten::{name}"].phase for name in ("mm", "bmm", "add_", "stack")]
    assert phases == ["forward", "backward", "optimizer", ""]  # bmm ran in another thread
    assert found["aten::mm"].dtype == "bfloat16"
    assert found["aten::bmm"].dtype == "float32"
    assert found["aten::add_"].shapes == ((7,), (7,))
    assert found["aten::stack"].shapes == ()


def test_only_products_have_floating_point_operations():
    """2 x 4 x 3 x 5 of one product, twice that of two; what calls it counts nothing again."""
    found = {call.name: call.flops for call in operations(EVENTS) if call.flops}
    assert found == {"aten::mm": 120, "aten::bmm": 240}


def test_floating_point_operations_by_hand():
    assert flops("aten::addmm", [[5], [4, 3], [3, 5], [], []]) == 120
    assert flops("aten::baddbmm", [[4, 5], [2, 4, 3], [2, 3, 5]]) == 240
    assert flops("aten::add", [[4, 3], [4, 3]]) == 0
    # 2 rows, 3 heads, 1 query, 7 keys of size 5: scores and mix of 2 x 5 each, per pair
    name = "aten::_scaled_dot_product_flash_attention_for_cpu"
    decode = [[2, 3, 1, 5], [2, 1, 7, 5], [2, 1, 7, 5]]
    assert flops(name, decode, ["", "", "", "0.", "False"]) == 2 * 3 * 7 * 20
    square = [[2, 3, 8, 5]] * 3
    assert flops(name, square, ["", "", "", "0.", "True"]) == 2 * 3 * 64 * 20 // 2
    # five products in the backward pass: scores again, and the gradients of q, k, v, weights
    values = [""] * 7 + ["True"]
    assert flops(f"{name}_backward", [square[0], *square], values) == 2 * 3 * 64 * 50 // 2


@pytest.mark.parametrize("name", ["trace.json", "trace.json.gz"])
def test_a_trace_is_read_from_its_file(tmp_path, name: str):
    others = [{"ph": "M", "name": "process_name"}, {"ph": "X", "cat": "Trace", "name": "whole"}]
    text = json.dumps({"traceEvents": [*others, *EVENTS]}).encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    assert read_trace(path) == EVENTS
