"""Published models (plain Hugging Face directories with a heedful.json) and training state.

Both are written beside their place and renamed into it, so a full disk or a kill leaves the last
complete one as it was.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import platform
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel

from heedful.config import Section, deciding_settings, dump_toml
from heedful.errors import CheckpointError
from heedful.metrics import replacing

LINEAGE_FILE = "heedful.json"
STATE_DIR = "state"
FINAL_MODEL = "model"


def publish(
    model: PreTrainedModel,
    tokenizer: Any,
    directory: Path,
    lineage: dict[str, Any],
    write_extra: Callable[[Path], None] = lambda directory: None,
) -> Path:
    """Writes a model directory that transformers loads as it stands; returns it.

    ``lineage`` (step, parents, data, config, metrics) goes into heedful.json; ``write_extra`` adds
    files of the caller's. Raises CheckpointError where it cannot be written; an older directory is
    untouched then.
    """
    partial = directory.with_name(directory.name + ".partial")
    implementation = model.config._attn_implementation
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        # our attention is a matter of this process: the published config names none
        model.config._attn_implementation = None
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        write_extra(partial)
        (partial / LINEAGE_FILE).write_text(json.dumps(lineage, indent=2), encoding="utf-8")
        _replace_directory(partial, directory)
    except (OSError, RuntimeError, SafetensorError) as error:  # safetensors has its own I/O error
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(
            f"{directory} could not be written ({error}): free some space and run "
            "again with --resume; what was there before is untouched"
        ) from error
    finally:
        model.config._attn_implementation = implementation
    return directory


def recover(directory: Path) -> None:
    """Mends what a kill during ``publish`` left: the model that was there before is back.

    Between the two renames it stands beside its place as ``.old``; after them it is of no use.
    """
    old = directory.with_name(directory.name + ".old")
    if not old.exists():
        return
    if directory.exists():
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.replace(old, directory)


def _replace_directory(source: Path, target: Path) -> None:
    recover(target)
    old = target.with_name(target.name + ".old")
    if target.exists():
        os.replace(target, old)
    os.replace(source, target)
    shutil.rmtree(old, ignore_errors=True)


def save_state(run_dir: Path, step: int, state: dict[str, Any]) -> None:
    """Writes the training state after ``step`` updates, then drops the one before it.

    Raises CheckpointError on a full disk; the state before is untouched then.
    """
    directory = run_dir / STATE_DIR
    path = directory / f"step-{step:08d}.pt"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial, partial.open("wb") as file:
            torch.save(state | {"step": step}, file)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"the training state of step {step} could not be written to {directory} ({error}): "
            "free some space and run again with --resume; the state before it is untouched"
        ) from error
    for other in directory.glob("step-*.pt"):
        if other != path:
            other.unlink()


def load_state(run_dir: Path, fingerprint: str) -> dict[str, Any] | None:
    """The newest training state of a run, or None; CheckpointError if it is of other settings."""
    states = sorted((run_dir / STATE_DIR).glob("step-*.pt"))
    if not states:
        return None
    try:
        state = torch.load(states[-1], map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"{states[-1]} cannot be read ({error}): delete it to start again"
        ) from error
    if state.get("fingerprint") != fingerprint:
        raise CheckpointError(
            f"{states[-1]} was made with other settings or data: run with the old settings, or "
            "give another run_dir, or delete its state/ folder to start again"
        )
    return state


def drop_state(run_dir: Path) -> None:
    """Removes the training state of a run that has ended."""
    shutil.rmtree(run_dir / STATE_DIR, ignore_errors=True)


def config_fingerprint(config: Section, *data_sizes: int) -> str:
    """A hash of the size of the data and of the settings that change the result."""
    values = deciding_settings(config) | {"data_sizes": data_sizes}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def start_run(config: Section, run_dir: Path) -> None:
    """Writes config.toml and env.json (versions, processor, git state) into the run directory.

    A model that a kill left beside its place is put back.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    recover(run_dir / FINAL_MODEL)
    with replacing(run_dir / "config.toml") as partial:
        partial.write_text(dump_toml(config), encoding="utf-8")
    with replacing(run_dir / "env.json") as partial:
        partial.write_text(json.dumps(environment(), indent=2), encoding="utf-8")


def environment() -> dict[str, Any]:
    """Versions, processor and git state of this process."""
    import transformers

    import heedful

    return {
        "heedful": heedful.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "machine": platform.machine(),
        "processor": _processor_name(),
        "cores": os.cpu_count(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "git": git_state(),
    }


def git_state() -> dict[str, Any] | None:
    """Commit of the installed source tree and whether it has changes; None outside a checkout."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *arguments],
                cwd=here,
                capture_output=True,
                text=True,
                timeout=10,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    commit = git("rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "changed": bool(git("status", "--porcelain", "--", "."))}


def _processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
