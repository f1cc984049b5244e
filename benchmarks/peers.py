"""The peer's environments of vs_trl.py: installed here, or an interpreter that is given.

An interpreter that is given (``--peer-python``) is asked what it has, and does what it can.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import measure

ROOT = measure.HERE.parent
# SFT and reward: the newest release line. PPO: the last one that has it (trl.experimental.ppo).
PEERS = {"trl-1.16": "trl>=1.16,<2", "trl-1.12": "trl>=1.12,<1.13"}
PEER_OF = {"sft": "trl-1.16", "reward": "trl-1.16", "generate": "trl-1.16", "ppo": "trl-1.12"}
# What every work needs of an interpreter.
NEEDS = {
    "sft": ("trl.SFTTrainer", "datasets"),
    "reward": ("trl.RewardTrainer", "datasets"),
    "generate": ("transformers",),
    "ppo": ("trl.experimental.ppo", "datasets"),
}
FLASH = "flash_attn"
ASK = """
import importlib, importlib.metadata, json, sys
packages, parts = json.loads(sys.argv[1])
def version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
def is_there(name):
    module, _, last = name.rpartition(".")
    try:
        if last[0].isupper():
            getattr(importlib.import_module(module), last)
        else:
            importlib.import_module(name)
    except Exception:
        return False
    return True
answer = {name: version(name) for name in packages}, {name: is_there(name) for name in parts}
print(json.dumps(answer))
"""


class Peer(NamedTuple):
    """What the peer's side can do; without settings, all that the environments of PEERS can."""

    works: tuple[str, ...] = tuple(PEER_OF)
    flash: tuple[str, ...] = ()  # works whose environment has flash_attn
    versions: str = ""  # of an interpreter that is given


def find(options: argparse.Namespace) -> Peer:
    """The peer of a call of vs_trl.py, installed where it has to be and the call is no dry run."""
    if options.peer_python is not None:
        return given(options.peer_python, options.only)
    names = sorted({PEER_OF[work] for work in options.only})
    if not options.dry_run:
        for name in names:
            install(name, options)
    flash: list[str] = []
    if options.device == "cuda":
        for name in names:
            python = options.peers / name / "bin" / "python"
            if python.exists() and ask(python, (), (FLASH,))[1][FLASH]:
                flash += [work for work in options.only if PEER_OF[work] == name]
    return Peer(flash=tuple(flash))


def given(python: Path, works: Sequence[str]) -> Peer:
    """What an interpreter can do of some works; says which of them it cannot, and why."""
    parts = dict.fromkeys((*(part for work in works for part in NEEDS[work]), FLASH))
    found, has = ask(python, ("trl", "transformers", "torch"), tuple(parts))
    versions = ", ".join(f"{name} {version}" for name, version in found.items() if version)
    able = []
    for work in works:
        missing = [part for part in NEEDS[work] if not has[part]]
        if missing:
            what = f"the peer's side of {work} is left out: {python} ({versions or 'no trl'})"
            print(f"{what} has no {missing[0]}", file=sys.stderr)
        else:
            able.append(work)
    return Peer(tuple(able), tuple(able) if has[FLASH] else (), versions or "nothing")


def ask(
    python: Path, packages: Sequence[str], parts: Sequence[str]
) -> tuple[dict[str, str | None], dict[str, bool]]:
    """Versions of packages that an interpreter has, and whether parts of them can be imported."""
    question = json.dumps([list(packages), list(parts)])
    words = [python, "-c", ASK, question]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError as error:
        raise SystemExit(f"{python} is no interpreter that runs: {error.strerror}") from error
    if done.returncode != 0:
        raise SystemExit(f"{python}: exit code {done.returncode}\n{done.stderr}")
    versions, has = json.loads(done.stdout.splitlines()[-1])
    return versions, has


def python_of(work: str, options: argparse.Namespace) -> Path:
    """The interpreter of a work's peer."""
    if options.peer_python is not None:
        return options.peer_python
    return options.peers / PEER_OF[work] / "bin" / "python"


def install(name: str, options: Any) -> None:
    """Makes the peer's environment unless it is there, under our constraints.txt."""
    place, ready = options.peers / name, options.peers / name / ".ready"
    if ready.is_file() and ready.read_text(encoding="utf-8") == PEERS[name]:
        return
    print(f"installing {PEERS[name]} into {place}", flush=True)
    constraints = ROOT / "constraints.txt"
    lines = constraints.read_text(encoding="utf-8").splitlines()
    torch = next(line for line in lines if line.startswith("torch=="))
    index = ["--index-url", options.torch_index] if options.torch_index else []
    pip = [place / "bin" / "python", "-m", "pip", "install", "--quiet", "-c", constraints]
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    subprocess.run([*pip, *index, torch], check=True)
    subprocess.run([*pip, PEERS[name]], check=True)
    ready.write_text(PEERS[name], encoding="utf-8")
