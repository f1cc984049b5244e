"""Our side of the benchmarks: ``heed sft``, ``heed reward`` and ``heed ppo`` as a user runs them.

Seconds come from the run's metrics.jsonl; the first step, which warms up, is among them.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import tomli_w
from measure import Child, rows_of, run_child

DTYPES = {"bf16": "bfloat16", "fp32": "float32"}
LR = 1e-5
# Random rewards teach a policy to end its responses sooner or never, each side its own way: no more
# than that lets both keep the same lengths.
PPO_LR = 1e-7
# What step 3 calls its phases, and what the benchmarks call them.
PHASES = {"rollout": "generate", "experience": "score", "optimize": "optimize"}


@dataclass(frozen=True)
class Work:
    """One training command on a workload: ``steps`` updates (iterations of PPO)."""

    name: str  # sft, reward or ppo
    dtype: str  # bf16 or fp32
    threads: int
    batch_size: int  # demonstrations, comparisons or episodes of a step
    steps: int
    minibatch_size: int = 0  # episodes; PPO alone
    response_tokens: int = 64  # longest; PPO alone
    recompute: bool = False  # the rollout's log-probabilities, even if exact; PPO alone
    device: str = "cpu"  # or cuda


class Steps(NamedTuple):
    """What a run's metrics say, one value a step."""

    seconds: list[float]
    phases_s: list[dict[str, float]]  # empty but for PPO
    response_tokens: list[float]  # the same
    device_peak_gib: float | None = None  # memory of tensors on a CUDA device at their most


def common_settings(dtype: str, threads: int, run_dir: Path, device: str = "cpu") -> dict[str, Any]:
    """The settings that every command has."""
    return {
        "run_dir": str(run_dir),
        "compute": {"device": device, "dtype": DTYPES[dtype], "threads": threads},
        "log": {"save_every": 0},
    }


def settings_of(work: Work, workload: Path, run_dir: Path) -> dict[str, Any]:
    """The settings of the command, as its TOML file has them."""
    common = common_settings(work.dtype, work.threads, run_dir, work.device)
    policy, reward_model = str(workload / "policy"), str(workload / "reward_model")
    if work.name == "ppo":
        return common | {
            "policy": policy,
            "reward_model": reward_model,
            "data": {"prompts": [str(workload / "prompts.jsonl")]},
            "ppo": {
                "episodes": work.batch_size * work.steps,
                "batch_size": work.batch_size,
                "minibatch_size": work.minibatch_size,
                "lr": PPO_LR,
                "value_lr": PPO_LR,
                "recompute_logprobs": work.recompute or "auto",
            },
            "sampling": {"max_new_tokens": work.response_tokens},
            "log_samples_every": 0,
        }
    name = {"sft": "demonstrations", "reward": "comparisons"}[work.name]
    settings = common | {
        "base": policy,
        "data": {name: [str(workload / f"{name}.jsonl")]},
        "epochs": 1,
        "optim": {"lr": LR, "batch_size": work.batch_size, "schedule": "constant"},
    }
    return settings | ({"dropout": 0.0} if work.name == "sft" else {})


def run(work: Work, workload: Path, run_dir: Path) -> tuple[Child, Steps]:
    """Runs the command and reads its metrics."""
    child = run_command(work.name, settings_of(work, workload, run_dir))
    return child, steps_of(work, rows_of(run_dir / "metrics.jsonl"))


def run_command(name: str, settings: dict[str, Any], *flags: str) -> Child:
    """Runs ``heed <name>`` in a process of its own, anew where it has run before."""
    run_dir = Path(settings["run_dir"])
    run_dir.mkdir(parents=True, exist_ok=True)
    file = run_dir / "settings.toml"
    file.write_text(tomli_w.dumps(settings), encoding="utf-8")
    line = [sys.executable, "-m", "heedful.cli", name, file, "--overwrite", *flags]
    return run_child(line, run_dir / "log.txt", settings["compute"]["threads"])


def steps_of(work: Work, rows: list[dict[str, Any]]) -> Steps:
    """Seconds, PPO's phases and response tokens, a device's peak; from metrics.jsonl's rows."""
    if len(rows) != work.steps:
        raise SystemExit(f"{work.name}: {len(rows)} steps were logged, {work.steps} were asked for")
    # on the processor the metric is the process's
    device_peak_gib = None if work.device == "cpu" else rows[-1]["memory/peak_gib"]
    if work.name != "ppo":
        return Steps([row["time/update_s"] for row in rows], [], [], device_peak_gib)
    phases = [{to: row[f"time/{name}_s"] for name, to in PHASES.items()} for row in rows]
    tokens = [row["ppo/length"] * work.batch_size for row in rows]
    return Steps([sum(step.values()) for step in phases], phases, tokens, device_peak_gib)
