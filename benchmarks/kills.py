"""Is a run that is killed in every stage the same as one that is not?

    python benchmarks/kills.py RECIPE.toml --out runs/kills

Runs the recipe once undisturbed (a finished run is kept). Then again, with ``kill -9`` once in the
middle of every stage: of the runner alone, whose stages must end by themselves, and of all its
processes, in turn. The killed run must end, with the same weights, answers and claims. A stage that
runs long enough to be killed and was not makes the answer no, and so does a run without a kill.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

# What a run is for. Logs and seconds differ between any two runs.
COMPARED = ("claims.json", "stages/*/model/*.safetensors", "stages/*/*.jsonl")
NOT_COMPARED = ("metrics.jsonl",)  # has times in it
POLL_S = 0.05
# A stage of fewer seconds may end between two looks, or before its moment where it runs faster.
SHORT_S = 5.0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/kills"))
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    options = parser.parse_args(arguments)
    whole, killed = options.out / "whole", options.out / "killed"
    if killed.exists():
        parser.error(
            f"{killed} is there: what is finished is not killed; remove it, or change --out"
        )
    if start(options.recipe, whole).wait() != 0:
        return 1
    seconds = seconds_of(whole)
    kills = run_with_kills(options.recipe, killed, seconds, random.Random(options.seed))
    for stage, second, what in kills:
        print(f"{stage:20} killed after {second:6.1f} s: {what}")
    missed = sorted(set(seconds) - {stage for stage, _, _ in kills})
    for stage in missed:
        print(f"{stage:20} ended before its kill: it runs {seconds[stage]:.1f} s")
    compared = compared_files(whole, killed)
    different = [path for path in compared if digest(whole / path) != digest(killed / path)]
    for path in different:
        print("differs:", path)
    long = [stage for stage in missed if seconds[stage] > SHORT_S]
    print(
        f"{len(kills)} kills, {len(missed)} missed, {len(long)} of them in stages over {SHORT_S} s"
    )
    print(f"{len(compared)} files compared, {len(different)} differ")
    return 0 if kills and compared and not long and not different else 1


def start(recipe: Path, run_dir: Path) -> subprocess.Popen:
    """The recipe's runner, in a process group of its own."""
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    with (run_dir.parent / f"{run_dir.name}.log").open("a") as log:
        command = [sys.executable, "-m", "heedful.cli", "run", str(recipe)]
        return subprocess.Popen(
            [*command, "--run-dir", str(run_dir)],
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def seconds_of(run_dir: Path) -> dict[str, float]:
    """{stage: its seconds} of the stages that have ended."""
    return {
        path.parent.name: json.loads(path.read_text(encoding="utf-8"))["seconds"]
        for path in run_dir.glob("stages/*/stage.json")
    }


def run_with_kills(
    recipe: Path, run_dir: Path, seconds: dict[str, float], chooser: random.Random
) -> list[tuple[str, float, str]]:
    """(stage, seconds it had run, what was killed) of every kill, after the run has ended."""
    kills: list[tuple[str, float, str]] = []
    due = {stage: chooser.uniform(0.2, 0.8) * length for stage, length in seconds.items()}
    runner, begun = start(recipe, run_dir), {}
    while runner.poll() is None:
        time.sleep(POLL_S)
        running = [
            path.parent.name
            for path in run_dir.glob("stages/*/started.txt")
            if not (path.parent / "stage.json").exists()
        ]
        for stage in running:
            begun.setdefault(stage, time.monotonic())
        ripe = [s for s in running if s in due and time.monotonic() - begun[s] >= due[s]]
        if ripe:
            everything = len(kills) % 2 == 1
            (os.killpg if everything else os.kill)(runner.pid, signal.SIGKILL)
            runner.wait()
            what = "all processes" if everything else "the runner"
            for stage in ripe:
                kills.append((stage, time.monotonic() - begun[stage], what))
                del due[stage]
            runner, begun = start(recipe, run_dir), {}
    if runner.returncode != 0:
        raise SystemExit(f"the run did not end: see {run_dir.parent / run_dir.name}.log")
    return kills


def compared_files(whole: Path, killed: Path) -> list[Path]:
    """The files that must be the same in both runs, byte for byte: those that either has."""
    return [
        path
        for pattern in COMPARED
        for path in sorted({p.relative_to(d) for d in (whole, killed) for p in d.glob(pattern)})
        if path.name not in NOT_COMPARED
    ]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"


if __name__ == "__main__":
    sys.exit(main())
