"""The CUDA device that a benchmark runs on: its name, its matmul peak, and the share of that peak.

    python benchmarks/accelerator.py device.json      # in a process of its own: it imports torch

Model FLOPs go by the rule: 2 for every weight and token of a forward pass, 4 of a backward pass.
Weights are all but those of an input embedding that is only looked up; attention is left out; so
are padding and whatever else a side computes beyond the work that was asked for.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import measure

DEVICES = ("cpu", "cuda")
DEVICE_FILE = "device.json"
PEAK_SHAPE = (8192, 8192, 8192)
# Passes of PPO over its episodes by phase, in FLOPs for a weight and token: the policy writes; the
# reference, the values and the reward are computed; policy and value function are updated once.
PPO_FLOPS = {"generate": 2, "score": 3 * 2, "optimize": 2 * 6}
# The same of the other works; their steps have no phases.
FLOPS = {"sft": 6, "reward": 6, "generate": 2}


def about(device: str, out: Path) -> dict[str, Any]:
    """What rows must have in common of the device: its kind and, of an accelerator, its name."""
    if device == "cpu":
        return {"device": device}
    return {"device": device, "device_name": measured(out)["device_name"]}


def peak_of(same: dict[str, Any], out: Path) -> float | None:
    """The bf16 matmul peak, in FLOP per second, of a device that ``about`` has found."""
    return None if same["device"] == "cpu" else measured(out)["matmul_flops_per_s"]


def measured(out: Path) -> dict[str, Any]:
    """The device's name and peak; the peak is measured once for a device and directory."""
    file = out / DEVICE_FILE
    if file not in _known:
        command = [sys.executable, Path(__file__), file]
        measure.run_child(command, out / "device.log", 1)
        _known[file] = json.loads(file.read_text(encoding="utf-8"))
    return _known[file]


_known: dict[Path, dict[str, Any]] = {}


def flops_of(work: str, weights: float, tokens: float) -> dict[str, float]:
    """Model FLOPs of a step by phase, from the tokens of its sequences, prompts included."""
    if work == "ppo":
        return {phase: number * weights * tokens for phase, number in PPO_FLOPS.items()}
    return {"all": FLOPS[work] * weights * tokens}


def share(flops: float, seconds: float, peak: float) -> float:
    """Of what the device could have computed in this time: the model FLOPs' utilization."""
    return flops / seconds / peak


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__)
        return 2
    import torch

    from heedful.training.profiling import matmul_rate

    if not torch.cuda.is_available():
        print(f"torch {torch.__version__} finds no CUDA device here")
        return 1
    file, name = Path(sys.argv[1]), torch.cuda.get_device_name()
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if found.get("device_name") != name:
        rate = matmul_rate(PEAK_SHAPE, torch.bfloat16, device="cuda")
        found = {"device_name": name, "matmul_flops_per_s": rate}
        file.write_text(json.dumps(found), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
