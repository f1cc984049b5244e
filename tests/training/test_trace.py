"""Phases, own times and floating-point operations of a trace, against one laid out by hand."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
import torch

from heedful.training.trace import (
    ATTENTIONS,
    flops,
    has_device_work,
    host_seconds,
    operations,
    phase_seconds,
    read_trace,
)

MS = 1000.0  # traces count microseconds


def event(name: str, start: float, end: float, thread: int = 1, **inputs: Any) -> dict[str, Any]:
    """An operator, or an annotation where the name begins as one; times in milliseconds."""
    category = "user_annotation" if name.startswith(("phase: ", "Optimizer")) else "cpu_op"
    times = {"ts": start * MS, "dur": (end - start) * MS}
    return {"ph": "X", "cat": category, "name": name, "tid": thread, "args": inputs} | times


def traced(
    category: str,
    name: str,
    start: float,
    end: float,
    call: int | None = None,
    launch: int | None = None,
) -> dict[str, Any]:
    """An event of a trace with a device: the ids of the operator call and of the launch."""
    ids = {"External id": call, "correlation": launch}
    given = {key: number for key, number in ids.items() if number is not None}
    return event(name, start, end, **given) | {"cat": category}


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
    assert flops("aten::baddbmm_", [[2, 4, 5], [2, 4, 3], [2, 3, 5]]) == 240
    # a prepacked weight stands in a trace as it was before: (columns, inner)
    assert flops("mkldnn::_linear_pointwise", [[2, 4, 3], [5, 3], [], [], [], []]) == 240
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


def test_other_forms_of_a_product_have_the_same_floating_point_operations():
    """mm with a dtype for its result, and mm into a tensor, stand in a trace as aten::mm."""
    assert flops("aten::mm", [[4, 3], [3, 5], []], ["", "", "6"]) == 120
    assert flops("aten::mm", [[4, 3], [3, 5], [4, 5]], ["", "", ""]) == 120


# 8 x 8 pairs of tokens in 2 rows and 3 heads of size 16: two products of 2 x 16 each by pair
DENSE = 2 * 3 * 64 * 64
# 3 sequences of 4 tokens: 48 pairs in each of 3 heads
PACKED = 3 * 48 * 64
LAST = [[2, 8, 3, 16], [2, 8, 1, 16], [2, 8, 1, 16]]  # (rows, tokens, heads, size)
HEADS_FIRST = [[2, 3, 8, 16]] * 3
FLAT = [[12, 3, 16], [12, 1, 16], [12, 1, 16]]
ONE_ROW = [[1, 12, 3, 16]] * 3


@pytest.mark.parametrize(
    ("name", "rows", "flat", "starts", "causal", "flag"),
    [
        ("_flash_attention", LAST, FLAT, (3, 6), (8, 11), "True"),
        ("_efficient_attention", LAST, ONE_ROW, (4, 6), (9, 14), "1"),
        ("_efficient_attention", LAST, ONE_ROW, (4, 6), (9, 14), "2"),
        ("_cudnn_attention", HEADS_FIRST, FLAT, (4, 9), (10, 14), "True"),
    ],
)
def test_fused_attention_of_a_device_by_hand(name, rows, flat, starts, causal, flag):
    off = "False" if flag == "True" else "0"
    for shapes, is_packed, whole in ((rows, False, DENSE), (flat, True, PACKED)):
        for direction in ("forward", "backward"):
            backward = int(direction == "backward")
            dims = [*([shapes[0]] * backward), *shapes, *([[]] * 12)]
            dims[starts[backward]] = [4] if is_packed else []
            values = [""] * 16
            # backward five products: scores again, and the gradients of q, k, v, weights
            expected = whole * 5 // 2 if backward else whole
            values[causal[backward]] = off
            assert flops(f"aten::{name}_{direction}", dims, values) == expected
            values[causal[backward]] = flag
            assert flops(f"aten::{name}_{direction}", dims, values) == expected // 2


def test_packed_attention_with_more_keys_than_queries_by_hand():
    values = [""] * 8
    cache = [[4, 3, 16], [40, 3, 16], [40, 3, 16], [5], [5]]  # a new token sees 10 each
    assert flops("aten::_flash_attention_forward", cache, [*values, "False"]) == 3 * 40 * 64
    # 2 x 3 queries after a prefix of 3: each 3 x 6 pairs less half of 3 x 3
    prefix = [[6, 3, 16], [12, 3, 16], [12, 3, 16], [3], [3]]
    assert flops("aten::_flash_attention_forward", prefix, [*values, "True"]) == 3 * 27 * 64


def test_what_calls_fused_attention_counts_nothing_again():
    for name in ("flash", "efficient", "cudnn"):
        wrapper = f"aten::_scaled_dot_product_{name}_attention"
        assert flops(wrapper, HEADS_FIRST, ["", "", "", "0.", "True"]) == 0
        assert flops(f"{wrapper}_backward", [HEADS_FIRST[0], *HEADS_FIRST], []) == 0


@pytest.mark.parametrize("name", ATTENTIONS)
def test_inputs_of_attention_are_where_torch_has_them(name: str):
    operator = getattr(torch.ops.aten, name.removeprefix("aten::")).default
    names = [argument.name for argument in operator._schema.arguments]
    fused = ATTENTIONS[name]
    assert (names[fused.queries], names[fused.keys]) == ("query", "key")
    assert names[fused.causal] in ("is_causal", "custom_mask_type")
    if fused.starts is not None:
        assert names[fused.starts] in ("cum_seq_q", "cu_seqlens_q")


# The host is done after 35 ms; the device works until 61, twice on two things at once.
DEVICE_EVENTS = [
    event("phase: forward", 10, 20),
    traced("cpu_op", "aten::linear", 11, 14, call=1),
    event(
        "aten::mm",
        12,
        13,
        **{"External id": 2, "Input Dims": [[4, 3], [3, 5]], "Input type": ["float", "float"]},
    ),
    traced("cuda_runtime", "cudaLaunchKernel", 12.5, 12.6, call=2, launch=102),
    traced("cpu_op", "aten::copy_", 15, 16, call=5),
    event("phase: backward", 20, 30),
    event(
        "aten::bmm", 21, 22, thread=2, **{"External id": 3, "Input Dims": [[2, 4, 3], [2, 3, 5]]}
    ),
    traced("cpu_op", "aten::fill_", 25, 26, call=6),
    event("phase: optimizer", 30, 32),
    traced("cuda_runtime", "cudaGraphLaunch", 31, 31.5, launch=200),
    traced("cpu_op", "aten::add_", 34, 35, call=4),
    traced("cuda_driver", "cuLaunchKernel", 34.5, 34.6, call=4, launch=104),
    traced("kernel", "gemm", 15, 25, call=2, launch=102),
    traced("kernel", "void splitKreduce<float>(float*)", 25, 26, call=2, launch=103),
    traced("gpu_memcpy", "Memcpy HtoD (Pinned -> Device)", 26, 27, call=5, launch=105),
    traced("kernel", "bmm_kernel", 40, 48, call=3, launch=106),
    traced("gpu_memset", "Memset (Device)", 44, 49, call=6, launch=107),
    traced(
        "kernel",
        "void at::(anonymous namespace)::adam<4, at::Fill<float>, A<(int)1> >(int, A<int>)",
        48,
        50,
        call=0,
        launch=200,
    ),
    traced("kernel", "add_kernel", 50, 53, launch=104),  # the launch alone knows the operator
    traced("gpu_memcpy", "Memcpy DtoH (Device -> Pinned)", 60, 61),
]


def test_work_of_a_device_is_of_the_phase_that_asked_for_it():
    """forward 10 + 1 + 1; backward 8 and 1 of the memset alone; 1 of the graph is then left."""
    expected = {"forward": 0.012, "backward": 0.009, "optimizer": 0.001, "": 0.004}
    assert phase_seconds(DEVICE_EVENTS) == pytest.approx(expected)
    assert has_device_work(DEVICE_EVENTS) and not has_device_work(EVENTS)


def test_the_host_has_its_own_seconds_beside():
    expected = {"forward": 0.010, "backward": 0.010, "optimizer": 0.002}
    assert host_seconds(DEVICE_EVENTS) == pytest.approx(expected)


def test_operators_have_the_time_of_what_they_launched():
    calls = operations(DEVICE_EVENTS)
    assert [(call.name, call.phase, round(1e3 * call.seconds, 6)) for call in calls] == [
        ("aten::linear", "forward", 0),
        ("aten::mm", "forward", 11),
        ("aten::copy_", "forward", 1),
        ("aten::bmm", "backward", 8),
        ("aten::fill_", "backward", 5),
        ("aten::add_", "", 3),
        ("at::adam", "optimizer", 2),
        ("Memcpy DtoH (Device -> Pinned)", "", 1),
    ]
    assert [call.flops for call in calls] == [0, 120, 0, 240, 0, 0, 0, 0]
    assert calls[1].shapes == ((4, 3), (3, 5)) and calls[-1].shapes == ()


@pytest.mark.parametrize("name", ["trace.json", "trace.json.gz"])
@pytest.mark.parametrize("events", [EVENTS, DEVICE_EVENTS])
def test_a_trace_is_read_from_its_file(tmp_path, name: str, events):
    others = [
        {"ph": "M", "name": "process_name"},
        {"ph": "X", "cat": "Trace", "name": "whole"},
        {"ph": "X", "cat": "gpu_user_annotation", "name": "phase: forward", "ts": 1.0, "dur": 9.0},
    ]
    text = json.dumps({"traceEvents": [*others, *events]}).encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    assert read_trace(path) == events
