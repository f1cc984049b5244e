"""What the peer's scripts share. They run in the peer's own environment, without heedful.

A script is given one JSON file, its task: ``directory`` (a workload), ``variant`` (words),
``device``, sizes, ``parts`` (the micro-batches of an update), and ``out``, the file to write:
``{"steps_s": [...], "units": [...], "phases_s": [{...}, ...]}``, one value a step; units are what
the work is counted in (tokens, pairs). On CUDA it has ``device_peak_gib`` too.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoTokenizer, TrainerCallback


def read_task() -> dict[str, Any]:
    """The task that the command line names."""
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    task = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    if task["device"] == "cuda" and not torch.cuda.is_available():  # trainers would go on without
        raise SystemExit(f"the peer's torch {torch.__version__} finds no CUDA device here")
    return task


def synchronize() -> None:
    """Waits until the CUDA device, where one is in use, has done all that it was given."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def clock() -> float:
    """The time at which all until now is done."""
    synchronize()
    return time.perf_counter()


def write_result(task: dict[str, Any], **values: Any) -> None:
    if task["device"] == "cuda":
        values["device_peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    Path(task["out"]).write_text(json.dumps(values), encoding="utf-8")


def weights_dtype(task: dict[str, Any]) -> torch.dtype:
    """bf16 where the variant is pure bf16; fp32 where it is fp32 or autocast."""
    return torch.bfloat16 if "bf16" in task["variant"] else torch.float32


def trainer_settings(task: dict[str, Any]) -> dict[str, Any]:
    """What every trainer of the peer is told: the device, autocast or not, and no extras."""
    return {
        "output_dir": str(Path(task["out"]).parent / "trainer"),
        "use_cpu": task["device"] == "cpu",
        "bf16": "autocast" in task["variant"],
        "gradient_checkpointing": False,
        "adam_beta2": 0.95,
        "max_grad_norm": 1.0,
        "report_to": [],
        "save_strategy": "no",
        "logging_steps": 100_000,
        "disable_tqdm": True,
    }


def load_tokenizer(task: dict[str, Any]) -> Any:
    return AutoTokenizer.from_pretrained(Path(task["directory"]) / "policy")


def load(auto_class: Any, task: dict[str, Any], name: str, **settings: Any) -> Any:
    """A model of the workload in the variant's dtype; attention is transformers' own choice, or
    flash_attn where the variant says so."""
    path = Path(task["directory"]) / name
    if "flash" in task["variant"]:
        settings["attn_implementation"] = "flash_attention_2"
    return auto_class.from_pretrained(path, dtype=weights_dtype(task), **settings)


def rows(task: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """The rows of one data file of the workload."""
    path = Path(task["directory"]) / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class StepTimes(TrainerCallback):
    """Seconds of every update: forward, backward, clipping and optimizer, not the data loading."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._start = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._start = clock()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds.append(clock() - self._start)
