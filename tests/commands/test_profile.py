"""heed ... --profile: what it writes, and that training is the same with it."""

from __future__ import annotations

import gzip
import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from heedful.cli import main
from heedful.commands.profile import (
    JSON_FILE,
    PAGE_FILE,
    PEAK_SHAPES,
    TRACE_FILE,
    labels_of,
    make_report,
    measure_peaks,
    page_of,
    print_report,
)
from heedful.metrics import read_metrics
from heedful.models.scalar_model import scalar_model_from
from heedful.training.checkpoint import publish
from heedful.training.profiling import Recorded, labelled, matmul_rate
from heedful.training.trace import Operation

UPDATE = {"forward", "data", "backward", "optimizer", "validate", "other"}
EPISODE = {"generate", "experience", "reference", "values", "score", "logprobs", "optimize", "ptx"}
LR = "--optim.lr=1e-3"
UPDATES = ["--optim.batch_size=2", "--log.save_every=0"]
PHASES = {
    "pretrain": UPDATE - {"validate"},
    "sft": UPDATE,  # the last update ends an epoch
    "reward": UPDATE - {"validate"},
    "ppo": EPISODE | {"other"},
    "sample": {"generate", "score", "other"},
}


@pytest.fixture(autouse=True)
def short_measurement(monkeypatch):
    """Three repeats of every matrix product, no more."""
    monkeypatch.setattr("heedful.commands.profile.matmul_rate", partial(matmul_rate, seconds=0))


@pytest.fixture(scope="module")
def files(tmp_path_factory, tiny_model, tokenizer) -> Path:
    """A model, a reward model, and a file of each kind of data."""
    directory = tmp_path_factory.mktemp("files")
    policy = publish(tiny_model(), tokenizer, directory / "policy", {})
    publish(scalar_model_from(policy, 3), tokenizer, directory / "reward", {})
    text = " ".join(f"w{i % 90 + 2}" for i in range(400))
    (directory / "text.txt").write_text(text + "\n\n")
    rows = [{"prompt": f"w{i} w{i + 1}", "split": "train"} for i in range(2, 14)]
    kinds: dict[str, list[dict[str, Any]]] = {
        "demonstrations": [row | {"response": "w5 w6 w7"} for row in rows],
        "rankings": [row | {"responses": ["w5 w6", "w7"], "ranking": [1, 2]} for row in rows],
        "prompts": [{"text": f"w{i} w{i + 2}", "split": "train"} for i in range(2, 66)],
    }
    for name, lines in kinds.items():
        path = directory / f"{name}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return directory


def words(command: str, files: Path, run_dir: Path) -> list[str]:
    """A command line of six updates (PPO: four, sample: one batch of prompts)."""
    policy, reward = f"--policy={files}/policy", f"--reward_model={files}/reward"
    text = f'["{files}/text.txt"]'
    prompts = f'["{files}/prompts.jsonl"]'
    own = {
        "pretrain": [
            f"--tokenizer={files}/policy",
            f"--data.train={text}",
            *("--row_tokens=16", "--num_tokens=192", "--shape.hidden_size=16"),
            *("--shape.num_layers=1", "--shape.mlp_size=16", "--shape.context=16", LR, *UPDATES),
        ],
        "sft": [
            f"--base={files}/policy",
            f'--data.demonstrations=["{files}/demonstrations.jsonl"]',
            *("--epochs=1", "--pretraining_mix=0.3", f"--data.text={text}", "--row_tokens=16"),
            *(LR, *UPDATES),
        ],
        "reward": [
            f"--base={files}/policy",
            f'--data.comparisons=["{files}/rankings.jsonl"]',
            *(LR, *UPDATES),
        ],
        "ppo": [
            *(policy, reward, f"--data.prompts={prompts}", f"--data.text={text}"),
            *(
                "--row_tokens=16",
                "--ppo.ptx_coef=1",
                "--ppo.recompute_logprobs=true",
                "--ppo.episodes=32",
                "--ppo.batch_size=8",
            ),
            *("--ppo.minibatch_size=4", "--sampling.max_new_tokens=4", "--log.save_every=0"),
        ],
        "sample": [
            f"--prompts={prompts}",
            f'--models=[{{name="a",path="{files}/policy"}}]',
            *(reward, "--sampling.max_new_tokens=4"),
        ],
    }
    return [command, *own[command], f"--run_dir={run_dir}", "--compute.dtype=float32"]


@pytest.fixture(scope="module")
def plain_sft(tmp_path_factory, files) -> Path:
    """A run that was neither profiled nor ended early."""
    run_dir = tmp_path_factory.mktemp("plain") / "run"
    assert main(words("sft", files, run_dir)) == 0
    assert not (run_dir / TRACE_FILE).exists()
    return run_dir


@pytest.mark.parametrize("command", PHASES)
def test_every_label_names_a_function(command: str):
    with labelled(labels_of(command)):
        pass


def test_every_phase_stands_in_the_document():
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    listed = page[page.index("\nPhases are ") :]
    phases = {label.phase for command in PHASES for label in labels_of(command)} | {"other", "idle"}
    assert set(re.findall(r"`(\w+)`", listed)) == phases


@pytest.mark.parametrize("command", PHASES)
def test_a_profile_of_every_command(command, tmp_path, files, plain_sft, capsys, results_of):
    assert main([*words(command, files, tmp_path / "a"), "--profile"]) == 0
    assert "Phases" in capsys.readouterr().out
    report = json.loads((tmp_path / "a" / JSON_FILE).read_text())
    assert {row["phase"] for row in report["phases"]} - {"load", "save"} == PHASES[command]
    shares = [row["share"] for row in report["phases"]]
    assert sum(shares) == pytest.approx(1, abs=0.01)
    assert 0 < sum(row["share"] for row in report["operators"]) <= 1
    assert report["operators"][0]["calls"] > 0
    assert report["tokens_per_s"] > 0
    assert report["matmul_flops_per_s"] > 0
    page = (tmp_path / "a" / PAGE_FILE).read_text()
    assert all(f"| {row['phase']} |" in page for row in report["phases"])
    assert (tmp_path / "a" / TRACE_FILE).stat().st_size > 0
    if command == "sample":
        return
    assert report["updates"] == ([4, 4] if command == "ppo" else [5, 6])
    rows = read_metrics(tmp_path / "a")[report["updates"][0] - 1 : report["updates"][1]]
    mean = sum(row["speed/tokens_per_s"] for row in rows) / len(rows)
    assert report["tokens_per_s"] == pytest.approx(mean)
    if command == "ppo":
        assert main(words(command, files, tmp_path / "plain")) == 0
        assert results_of(tmp_path / "a") == results_of(tmp_path / "plain")
    if command == "sft":
        assert results_of(tmp_path / "a") == results_of(plain_sft)


def test_a_resumed_run_is_profiled_and_ends_as_it_would_have(
    tmp_path, files, plain_sft, results_of, interrupt_at, monkeypatch
):
    """Ended at the second of six updates: four are left, and the last is profiled."""
    arguments = [word for word in words("sft", files, tmp_path / "run") if "save_every" not in word]
    with monkeypatch.context() as patch:
        patch.setattr("heedful.commands.train.file_progress", lambda _: interrupt_at(2))
        assert main([*arguments, "--log.save_every=1", "--profile"]) == 130
    assert main([*arguments, "--log.save_every=1", "--profile", "--resume"]) == 0
    report = json.loads((tmp_path / "run" / JSON_FILE).read_text())
    assert report["updates"][1] == 6
    assert results_of(tmp_path / "run") == results_of(plain_sft)


def test_a_command_without_training_has_no_profile(tmp_path, capsys):
    assert main(["tokenizer", "--profile", f"--run_dir={tmp_path}"]) == 2
    assert "--profile" in capsys.readouterr().err


def call(name: str, *shapes: tuple[int, ...], flops: int, seconds: float = 1.0) -> Operation:
    return Operation(name, "", shapes, "float32", seconds, flops)


def test_peaks_are_measured_at_the_shapes_that_did_most_work():
    small = [call("aten::mm", (i, 2), (2, 3), flops=12 * i) for i in range(1, 9)]
    batched = call("aten::baddbmm", (4, 5), (2, 4, 6), (2, 6, 5), flops=480)
    prepacked = call("mkldnn::_linear_pointwise", (1, 7, 6), (5, 6), flops=420)
    peaks = measure_peaks([*small, batched, prepacked, call("aten::add", (9, 9), flops=0)])
    shapes = [entry["shape"] for entry in peaks if entry["dtype"] == "float32"]
    assert shapes == [(2, 4, 6, 5), (7, 6, 5), *((i, 2, 3) for i in (8, 7, 6, 5))]
    assert len(peaks) == 2 * PEAK_SHAPES
    assert all(entry["flops_per_s"] > 0 for entry in peaks)


def test_shares_by_hand(tmp_path, monkeypatch):
    """A window of 10 ms: mm of 2 x 100 x 50 x 40 in 4 of them, against a peak of 1 GFLOP/s."""
    inputs = {"Input Dims": [[100, 50], [50, 40]], "Input type": ["float", "float"]}
    events = [
        {"cat": "user_annotation", "name": "phase: forward", "ts": 0.0, "dur": 8000.0, "args": {}},
        {"cat": "cpu_op", "name": "aten::mm", "ts": 1000.0, "dur": 4000.0, "args": inputs},
        {"cat": "cpu_op", "name": "aten::add", "ts": 8500.0, "dur": 1000.0, "args": {}},
    ]
    events = [event | {"ph": "X", "tid": 1} for event in events]
    trace = {"traceEvents": events}
    (tmp_path / TRACE_FILE).write_bytes(gzip.compress(json.dumps(trace).encode()))
    monkeypatch.setattr("heedful.commands.profile.matmul_rate", lambda *_, device: 1e9)
    recorded = Recorded(0.010, 5, 2, 3, num_tokens=20, peak_gib=1.5)
    report = make_report("sample", tmp_path, "float32", recorded)
    forward, other = report["phases"]
    assert (forward["phase"], other["phase"]) == ("forward", "other")
    assert forward["share"] == pytest.approx(0.8)
    assert forward["matmul_flops_per_s"] == pytest.approx(400_000 / 0.008)
    assert forward["share_of_peak"] == pytest.approx(0.05)
    assert other["seconds"] == pytest.approx(0.002)
    assert report["share_of_peak"] == pytest.approx(0.04)
    assert report["share_outside_operators"] == pytest.approx(0.5)
    assert report["tokens_per_s"] == pytest.approx(2000)
    mm, add = report["operators"]
    assert (mm["operator"], mm["calls"], mm["share"]) == ("aten::mm", 1, pytest.approx(0.4))
    assert mm["shapes"][0]["shapes"] == [[100, 50], [50, 40]]
    assert mm["share_of_peak"] == pytest.approx(0.1)
    assert add["matmul_flops_per_s"] == 0
    assert (report["device"], report["device_name"], report["seconds_of"]) == ("cpu", None, "host")
    assert report["device_peak_gib"] is None
    page = page_of(report)
    assert "| mm | 40.0% | 1 | 0.1 | 10.0% | 100x50, 50x40 float32 |" in page
    assert "| phase | s | share | matmul GFLOP/s | of peak |" in page
    assert "float32 on cpu, threads" in page
    assert "peak memory of the process 1.50 GiB\n" in page


# A window of 10 ms on a device. Host: forward in 6 of them, in it mm, which asks for 2 ms of work.
HOST_EVENTS = [
    {"cat": "user_annotation", "name": "phase: forward", "ts": 0.0, "dur": 6000.0, "args": {}},
    {"cat": "user_annotation", "name": "phase: data", "ts": 7000.0, "dur": 1000.0, "args": {}},
    {
        "cat": "cpu_op",
        "name": "aten::mm",
        "ts": 1000.0,
        "dur": 10.0,
        "args": {
            "External id": 7,
            "Input Dims": [[10_000, 500], [500, 1000]],
            "Input type": ["c10::BFloat16", "c10::BFloat16"],
        },
    },
]
KERNELS = [
    {"cat": "kernel", "name": "gemm", "ts": 5000.0, "dur": 2000.0, "args": {"External id": 7}},
    {"cat": "kernel", "name": "void own<int>(int*)", "ts": 9000.0, "dur": 500.0, "args": {}},
]


@pytest.fixture
def report_of(tmp_path, monkeypatch):
    """The report of a trace of a window of 10 ms on "cuda", whose peak is 20 TFLOP/s."""

    def rate(shape, dtype, device):
        assert device == "cuda"
        return 20e12

    monkeypatch.setattr("heedful.commands.profile.matmul_rate", rate)
    monkeypatch.setattr("torch.cuda.get_device_name", {"cuda": "Large"}.get)

    def report(events: list[dict[str, Any]]) -> dict[str, Any]:
        trace = {"traceEvents": [event | {"ph": "X", "tid": 1} for event in events]}
        (tmp_path / TRACE_FILE).write_bytes(gzip.compress(json.dumps(trace).encode()))
        recorded = Recorded(0.010, 5, 2, 3, 20, 1.5, device="cuda", device_peak_gib=2.25)
        return make_report("sample", tmp_path, "bfloat16", recorded)

    return report


def test_shares_of_a_device_by_hand(report_of, capsys):
    """mm of 2 x 10,000 x 500 x 1000 = 10 GFLOP in 2 ms: 5 TFLOP/s."""
    report = report_of([*HOST_EVENTS, *KERNELS])
    phases = {row["phase"]: row for row in report["phases"]}
    assert list(phases) == ["idle", "forward", "other", "data"]
    shares = {name: row["share"] for name, row in phases.items()}
    assert shares == pytest.approx({"idle": 0.75, "forward": 0.2, "other": 0.05, "data": 0})
    host = {name: row["host_seconds"] for name, row in phases.items() if "host_seconds" in row}
    assert host == pytest.approx({"forward": 0.006, "other": 0.003, "data": 0.001})
    assert phases["forward"]["share_of_peak"] == pytest.approx(0.25)
    assert report["share_of_peak"] == pytest.approx(0.05)
    assert report["share_outside_operators"] == pytest.approx(0.75)
    assert (report["device"], report["device_peak_gib"]) == ("cuda", 2.25)
    page = page_of(report)
    for line in (
        "| phase | device s | share | host s | matmul TFLOP/s | of peak |",
        "| idle | 0.007 | 75.0% |  |  |  |",
        "| forward | 0.002 | 20.0% | 0.006 | 5.0 | 25.0% |",
        "| mm | 20.0% | 1 | 5.0 | 25.0% | 10000x500, 500x1000 bfloat16 |",
        "| own | 5.0% | 1 |  |  |  |",
        "| 10000 x 500 x 1000 | bfloat16 | 20.0 |",
        "bfloat16 on cuda (Large), threads",
        "of the peak of 20.0 TFLOP/s",
        "peak memory of the process 1.50 GiB, of the device 2.25 GiB\n",
    ):
        assert line in page
    assert "administrators" not in page
    print_report(report)
    printed = capsys.readouterr().out
    assert "idle" in printed and "device s" in printed


def test_a_device_whose_times_are_kept_back_is_said(report_of):
    report = report_of(HOST_EVENTS)
    assert report["seconds_of"] == "host"
    assert "idle" not in {row["phase"] for row in report["phases"]}
    page = page_of(report)
    assert "the trace has no times of the device" in page
    assert "| phase | s | share | matmul TFLOP/s | of peak |" in page
