"""heedful against TRL and transformers on the same weights, data and processor.

    python benchmarks/vs_trl.py                 # all of it: hours on two cores
    python benchmarks/vs_trl.py --only sft,reward --models tiny --repeats 5
    python benchmarks/vs_trl.py --quick         # does everything run? some minutes
    python benchmarks/vs_trl.py --device cuda   # models of 0.1, 0.5 and 1.5 billion parameters

Installs the peer into environments of its own (build/peers), makes weights and data once, then runs
each side in a process of its own, in turn, and writes results.json and results.md. Runs that are
done are kept: the same command goes on where it was stopped. Those of another commit, device or
number of threads are left out. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import accelerator
import measure
import ours
import peers
from trl_report import has_masters, report
from workload import ACCELERATOR_MODELS, ARCHITECTURES, settings_for

ROOT = measure.HERE.parent
RUNS_FILE, RESULTS_FILE, REPORT_FILE = "runs.jsonl", "results.json", "results.md"
UNITS = {
    "sft": "tokens/s",
    "reward": "pairs/s",
    "generate": "tokens/s",
    "ppo": "response tokens/s",
}
VARIANTS = {
    ("sft", "heedful"): [("bf16",), ("fp32",)],
    ("reward", "heedful"): [("bf16",), ("fp32",)],
    ("generate", "heedful"): [("bf16",), ("fp32",)],
    ("ppo", "heedful"): [("bf16",), ("bf16", "recompute"), ("fp32",)],
    ("sft", "peer"): list(product(("autocast", "fp32", "bf16"), ("unpacked", "wrapped", "bfd"))),
    ("reward", "peer"): [("autocast",), ("fp32",), ("bf16",)],
    ("generate", "peer"): list(product(("bf16", "fp32"), ("dynamic", "static", "continuous"))),
    ("ppo", "peer"): [("autocast",), ("fp32",), ("bf16",)],
}
# The same where the peer has flash_attn and the device is CUDA. (Its PPO pads whatever it is given,
# and its continuous batching takes flash_attn by itself.)
FLASH_VARIANTS = {
    "sft": [("autocast", "bfd", "flash"), ("bf16", "bfd", "flash")],
    "reward": [("autocast", "flash"), ("bf16", "flash")],
}
MODELS = {"cpu": ("tiny", "small"), "cuda": ACCELERATOR_MODELS}
# After the first repeat the peer keeps the variants that reach this share of its best.
KEEP_SHARE = 0.8
# Most micro-batches that an update of the peer's is cut into where the device's memory runs out.
MOST_PARTS = 16


@dataclass(frozen=True)
class Sizes:
    """How much is done in one run of each work; the first step of a run warms up."""

    steps: dict[str, int]
    demonstrations: int = 64  # per update
    comparisons: int = 4  # per update
    completions: int = 9
    episodes: int = 128  # per update
    minibatches: int = 4
    generated: int = 64  # responses at a time
    response_tokens: int = 64
    peer_parts: int = 1  # micro-batches of the peer's updates on CUDA, or more if memory runs out

    @property
    def pairs(self) -> int:
        """Pairs of one comparison."""
        return self.completions * (self.completions - 1) // 2


SIZES = {
    "tiny": Sizes({"sft": 9, "reward": 7, "ppo": 4, "generate": 4}),
    "small": Sizes({"sft": 5, "reward": 4, "ppo": 3, "generate": 3}),
    # few sequences: what counts there is the memory of weights and optimizer (largest.py)
    **dict.fromkeys(
        ("base", "medium"),
        Sizes({"sft": 2, "reward": 2, "ppo": 2, "generate": 2}, 8, 1, 9, 8, 1, 8, 64),
    ),
    # for accelerators
    **{
        model: Sizes(
            {"sft": 8, "reward": 6, "ppo": 4, "generate": 4}, 128, 16, 9, 256, 4, 256, 256, parts
        )
        for model, parts in zip(ACCELERATOR_MODELS, (1, 2, 4), strict=True)
    },
    "quick": Sizes({"sft": 2, "reward": 2, "ppo": 2, "generate": 2}, 8, 2, 4, 8, 2, 4, 8),
}


class Run(NamedTuple):
    """One process to be measured."""

    work: str
    model: str
    side: str  # heedful or peer
    variant: tuple[str, ...]
    repeat: int

    @property
    def name(self) -> str:
        return "-".join([self.work, self.model, self.side, *self.variant, str(self.repeat)])


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    peer = peers.find(options)
    runs = plan(options.only, options.models, options.repeats, peer)
    runs = [run for run in runs if any(text in run.name for text in options.match.split(","))]
    if not runs:
        raise SystemExit(
            f"no run has {options.match!r} in its name: --dry-run without --match prints them all"
        )
    if options.dry_run:
        print("\n".join(run.name for run in runs))
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / RUNS_FILE
    same = conditions(options) | ({"peer": peer.versions} if peer.versions else {})
    done = measure.kept_rows(file, same)
    known = {row["name"] for row in done}
    for number, run in enumerate(runs, start=1):
        if run.name in known or is_behind(run, done):
            continue
        print(f"{number}/{len(runs)} {run.name}", end=" ", flush=True)
        row = same | measured(run, options, done)
        print(f"{measure.shown(row['rate'])} {UNITS[run.work]}", flush=True)
        done.append(row)
        measure.append_row(file, row)
        write_results(done, options, same)
    write_results(done, options, same)
    print((options.out / REPORT_FILE).read_text(encoding="utf-8"))
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(UNITS), help="works (default: %(default)s)")
    parser.add_argument("--device", choices=accelerator.DEVICES, default="cpu")
    parser.add_argument("--models", help="default: tiny,small; on CUDA 0.1b,0.5b,1.5b")
    parser.add_argument("--architecture", choices=ARCHITECTURES, default="llama")
    parser.add_argument("--repeats", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: all cores")
    parser.add_argument("--match", default="", help="only runs with one of these in their name")
    parser.add_argument("--quick", action="store_true", help="a tiny model, one run of a few steps")
    parser.add_argument("--dry-run", action="store_true", help="print the runs and stop")
    parser.add_argument("--out", type=Path, help="default: runs/vs_trl/<architecture>")
    parser.add_argument("--peers", type=Path, default=ROOT / "build" / "peers")
    parser.add_argument("--peer-python", type=Path, help="the peer's interpreter: install nothing")
    parser.add_argument("--torch-index", help="package index to take torch alone from")
    options = parser.parse_args(arguments)
    options.models = options.models or ",".join(MODELS[options.device])
    if options.quick:
        options.models, options.repeats = "quick", 1
    for name, known in (("only", UNITS), ("models", SIZES)):
        words = getattr(options, name).split(",")
        setattr(options, name, words)
        if unknown := [word for word in words if word not in known]:
            parser.error(f"--{name}: {unknown[0]!r} is none of {', '.join(known)}")
    kind = options.architecture + ("" if options.device == "cpu" else f"-{options.device}")
    kind += "-quick" if options.quick else ""
    options.out = (options.out or ROOT / "runs" / "vs_trl" / kind).resolve()
    return options


def conditions(options: argparse.Namespace) -> dict[str, Any]:
    """What the rows of one table must have in common, which their names do not say."""
    return {
        "commit": measure.commit(),
        "threads": options.threads,
        "architecture": options.architecture,
        **accelerator.about(options.device, options.out),
    }


def plan(works: list[str], models: list[str], repeats: int, peer: peers.Peer) -> list[Run]:
    """Every run, in order: the two sides take turns within a repeat."""
    runs = []
    for model, work, repeat in product(models, works, range(repeats)):
        variants = VARIANTS[work, "peer"] if work in peer.works else []
        variants = variants + (FLASH_VARIANTS.get(work, []) if work in peer.flash else [])
        ours = [Run(work, model, "heedful", v, repeat) for v in VARIANTS[work, "heedful"]]
        theirs = [Run(work, model, "peer", v, repeat) for v in variants]
        while ours or theirs:
            runs += [side.pop(0) for side in (ours, theirs) if side]
    return runs


def is_behind(run: Run, done: list[dict[str, Any]]) -> bool:
    """Whether a variant of the peer was so slow in the first repeat that it cannot be its best.

    The best of fp32 weights and the best of bf16 weights are looked for apart.
    """
    if run.side == "heedful" or run.repeat == 0:
        return False
    first = {
        tuple(row["variant"]): row["rate"]
        for row in done
        if (row["work"], row["model"], row["side"]) == (run.work, run.model, run.side)
        and row["repeat"] == 0
        and has_masters(row["variant"], run.side) == has_masters(run.variant, run.side)
    }
    return first.get(run.variant, 0.0) < KEEP_SHARE * max(first.values())


def measured(run: Run, options: argparse.Namespace, done: list[dict[str, Any]]) -> dict[str, Any]:
    """One run's row of results; its rate leaves out the first step, which warms up."""
    sizes = SIZES[run.model]
    directory = options.out / "workloads" / workload_name(run)
    counts = measure.make_workload(workload_settings(run, options), directory)
    place = options.out / "runs" / run.name
    place.mkdir(parents=True, exist_ok=True)
    if run.side == "peer":
        child, result = run_peer(run, sizes, directory, place, options, first_parts(run, done))
    elif run.work == "generate":
        child, result = run_engine(run, sizes, directory, place, options)
    else:
        child, result = run_training(run, sizes, directory, place, counts, options)
    seconds, units = result["steps_s"][1:], result["units"][1:]
    phases = result.get("phases_s", [])[1:]
    mean_units = statistics.mean(units)
    row = {
        "name": run.name,
        **run._asdict(),
        "unit": UNITS[run.work],
        "rate": sum(units) / sum(seconds),
        "step_s": statistics.mean(seconds),
        "units_per_step": mean_units,
        "phases_s": {
            phase: statistics.mean(step[phase] for step in phases) for phase in (phases or [{}])[0]
        },
        "steps_s": result["steps_s"],
        **{f"process_{key}": value for key, value in child._asdict().items()},
    }
    if options.device == "cpu":
        return row
    tokens = step_tokens(run.work, sizes, counts, mean_units)
    flops = accelerator.flops_of(run.work, counts["matmul_weights"], tokens)
    own = {key: result[key] for key in ("device_peak_gib", "parts") if key in result}
    return row | {"flops": flops} | own


def first_parts(run: Run, done: list[dict[str, Any]]) -> int:
    """The micro-batches that a run of the peer's begins with: as many as it needed last time."""
    found = [
        row["parts"]
        for row in done
        if "parts" in row and run._replace(repeat=row["repeat"]).name == row["name"]
    ]
    return max(found, default=SIZES[run.model].peer_parts)


def step_tokens(work: str, sizes: Sizes, counts: dict[str, Any], units: float) -> float:
    """Tokens of a step's sequences, prompts counted with every response, from what is counted."""
    if work == "reward":
        return counts["tokens_per_comparison"] * sizes.comparisons
    prompts = {"generate": sizes.generated, "ppo": sizes.episodes}.get(work, 0)
    return units + counts["tokens_per_prompt"] * prompts


def workload_name(run: Run) -> str:
    """Large models are made once for all works."""
    return run.model if run.model in ACCELERATOR_MODELS else f"{run.model}-{run.work}"


def workload_settings(run: Run, options: argparse.Namespace) -> dict[str, Any]:
    """The rows that works need of a workload: one pass over them is one run."""
    sizes, steps = SIZES[run.model], SIZES[run.model].steps
    completions = {"completions": sizes.completions}
    rows = {
        "sft": {"demonstrations": sizes.demonstrations * steps["sft"]},
        "reward": {"comparisons": sizes.comparisons * steps["reward"]} | completions,
        "generate": {"prompts": sizes.generated},
        "ppo": {"prompts": sizes.episodes * steps["ppo"]},
    }
    if run.model in ACCELERATOR_MODELS:
        own = {name: number for work in rows.values() for name, number in work.items()}
    else:
        own = {"demonstrations": 0, "comparisons": 0, "prompts": 0} | rows[run.work]
    settings = {"shape": run.model, "architecture": options.architecture}
    if run.model == "quick":
        settings["prompt_tokens"] = [2, 8]
    settings |= settings_for(run.model)
    return settings | {"response_tokens": sizes.response_tokens} | own


def run_training(
    run: Run,
    sizes: Sizes,
    directory: Path,
    place: Path,
    counts: dict[str, Any],
    options: argparse.Namespace,
) -> tuple[measure.Child, dict[str, Any]]:
    """Our training command, and what its steps are counted in."""
    batch_size = {
        "sft": sizes.demonstrations,
        "reward": sizes.comparisons,
        "ppo": sizes.episodes,
    }[run.work]
    work = ours.Work(
        run.work,
        run.variant[0],
        options.threads,
        batch_size,
        sizes.steps[run.work],
        minibatch_size=sizes.episodes // sizes.minibatches,
        response_tokens=sizes.response_tokens,
        recompute="recompute" in run.variant,
        device=options.device,
    )
    child, steps = ours.run(work, directory, place)
    # batches differ a little in their tokens; a run is one pass over the rows, so the mean is right
    units = {
        "sft": [counts["tokens_per_demonstration"] * sizes.demonstrations] * work.steps,
        "reward": [sizes.pairs * sizes.comparisons] * work.steps,
        "ppo": steps.response_tokens,
    }[run.work]
    result = {"steps_s": steps.seconds, "units": units, "phases_s": steps.phases_s}
    if options.device == "cpu":
        return child, result
    for model in {file.parent for file in place.rglob("*.safetensors")}:
        shutil.rmtree(model)  # gigabytes that nobody reads
    return child, result | {"device_peak_gib": steps.device_peak_gib}


def run_engine(
    run: Run, sizes: Sizes, directory: Path, place: Path, options: argparse.Namespace
) -> tuple[measure.Child, dict[str, Any]]:
    """Our sampler in a process of its own (generate.py measures one setting with --json)."""
    command = [sys.executable, measure.HERE / "generate.py", "--json", place / "result.json"]
    command += ["--workload", directory, "--batches", sizes.generated, "--samples", 1]
    command += ["--dtypes", run.variant[0], "--max-new-tokens", sizes.response_tokens]
    command += ["--calls", sizes.steps["generate"], "--threads", options.threads]
    command += ["--device", options.device]
    child = measure.run_child(command, place / "log.txt", options.threads)
    (result,) = json.loads((place / "result.json").read_text(encoding="utf-8"))
    return child, result


def run_peer(
    run: Run,
    sizes: Sizes,
    directory: Path,
    place: Path,
    options: argparse.Namespace,
    parts: int,
) -> tuple[measure.Child, dict[str, Any]]:
    """One of the peer's scripts in the peer's environment.

    On CUDA its updates are cut into twice as many micro-batches as long as memory runs out.
    """
    out, log = place / "result.json", place / "log.txt"
    file, script = place / "task.json", measure.HERE / f"peer_{run.work}.py"
    while True:
        task = task_of(run, sizes, directory, out, options.device, parts)
        file.write_text(json.dumps(task, indent=2), encoding="utf-8")
        try:
            command = [peers.python_of(run.work, options), script, file]
            child = measure.run_child(command, log, options.threads)
        except SystemExit:
            ran_out = "out of memory" in log.read_text(encoding="utf-8", errors="replace")
            if not ran_out or run.work == "generate" or task["parts"] * 2 > MOST_PARTS:
                raise
            parts = task["parts"] * 2
            print(f"(out of memory: again in {parts} parts)", end=" ", flush=True)
            continue
        own = {} if options.device == "cpu" or run.work == "generate" else {"parts": parts}
        return child, json.loads(out.read_text(encoding="utf-8")) | own


def task_of(
    run: Run, sizes: Sizes, directory: Path, out: Path, device: str, parts: int
) -> dict[str, Any]:
    """What a script of the peer's is given."""
    return {
        "directory": str(directory),
        "out": str(out),
        "variant": run.variant,
        "device": device,
        "parts": 1 if device == "cpu" else parts,
        "steps": sizes.steps[run.work],
        "lr": ours.PPO_LR if run.work == "ppo" else ours.LR,
        "batch_size": sizes.generated if run.work == "generate" else sizes.demonstrations,
        "pairs_per_prompt": sizes.pairs,
        "prompts_per_update": sizes.comparisons,
        "episodes": sizes.episodes,
        "minibatches": sizes.minibatches,
        "max_new_tokens": sizes.response_tokens,
    }


def write_results(
    rows: list[dict[str, Any]], options: argparse.Namespace, same: dict[str, Any]
) -> None:
    """results.json (every run, and the sizes) and results.md (medians and ratios)."""
    sizes = {model: asdict(SIZES[model]) for model in options.models}
    about, peak = measure.machine() | same, accelerator.peak_of(same, options.out)
    if peak is not None:
        about["bf16_matmul_tflops"] = round(peak / 1e12, 1)
    if options.quick:
        about["note"] = "a check that everything runs, not a measurement"
    text = json.dumps({"machine": about, "sizes": sizes, "runs": rows}, indent=2)
    (options.out / RESULTS_FILE).write_text(text + "\n", encoding="utf-8")
    (options.out / REPORT_FILE).write_text(report(rows, about, peak), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
