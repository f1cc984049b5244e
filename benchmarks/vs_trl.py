"""heedful against TRL and transformers on the same weights, data and processor.

    python benchmarks/vs_trl.py                 # all of it: hours on two cores
    python benchmarks/vs_trl.py --only sft,reward --models tiny --repeats 5
    python benchmarks/vs_trl.py --quick         # does everything run? some minutes

Installs the peer into environments of its own (build/peers), makes weights and data once, then runs
each side in a process of its own, in turn, and writes results.json and results.md. Runs that are
done are kept: the same command goes on where it was stopped. Those of another commit or number of
threads are left out. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import measure
import ours
from workload import ARCHITECTURES

ROOT = measure.HERE.parent
RUNS_FILE, RESULTS_FILE, REPORT_FILE = "runs.jsonl", "results.json", "results.md"
# SFT and reward: the newest release line. PPO: the last one that has it (trl.experimental.ppo).
PEERS = {"trl-1.16": "trl>=1.16,<2", "trl-1.12": "trl>=1.12,<1.13"}
PEER_OF = {"sft": "trl-1.16", "reward": "trl-1.16", "generate": "trl-1.16", "ppo": "trl-1.12"}
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
# After the first repeat the peer keeps the variants that reach this share of its best.
KEEP_SHARE = 0.8
BUSY_SHARE = 0.05


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
    runs = plan(options.only, options.models, options.repeats)
    runs = [run for run in runs if any(text in run.name for text in options.match.split(","))]
    if options.dry_run:
        print("\n".join(run.name for run in runs))
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    for name in sorted({PEER_OF[work] for work in options.only}):
        install(name, options)
    file = options.out / RUNS_FILE
    same = conditions(options)
    done = measure.kept_rows(file, same)
    known = {row["name"] for row in done}
    for number, run in enumerate(runs, start=1):
        if run.name in known or is_behind(run, done):
            continue
        print(f"{number}/{len(runs)} {run.name}", end=" ", flush=True)
        row = same | measured(run, options)
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
    parser.add_argument("--models", default="tiny,small", help="default: %(default)s")
    parser.add_argument("--architecture", choices=ARCHITECTURES, default="llama")
    parser.add_argument("--repeats", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: all cores")
    parser.add_argument("--match", default="", help="only runs with one of these in their name")
    parser.add_argument("--quick", action="store_true", help="a tiny model, one run of a few steps")
    parser.add_argument("--dry-run", action="store_true", help="print the runs and stop")
    parser.add_argument("--out", type=Path, help="default: runs/vs_trl/<architecture>")
    parser.add_argument("--peers", type=Path, default=ROOT / "build" / "peers")
    parser.add_argument("--torch-index", help="package index to take torch alone from")
    options = parser.parse_args(arguments)
    if options.quick:
        options.models, options.repeats = "quick", 1
    for name, known in (("only", UNITS), ("models", SIZES)):
        words = getattr(options, name).split(",")
        setattr(options, name, words)
        if unknown := [word for word in words if word not in known]:
            parser.error(f"--{name}: {unknown[0]!r} is none of {', '.join(known)}")
    kind = f"{options.architecture}-quick" if options.quick else options.architecture
    options.out = (options.out or ROOT / "runs" / "vs_trl" / kind).resolve()
    return options


def conditions(options: argparse.Namespace) -> dict[str, Any]:
    """What the rows of one table must have in common, which their names do not say."""
    return {
        "commit": measure.commit(),
        "threads": options.threads,
        "architecture": options.architecture,
    }


def plan(works: list[str], models: list[str], repeats: int) -> list[Run]:
    """Every run, in order: the two sides take turns within a repeat."""
    runs = []
    for model, work, repeat in product(models, works, range(repeats)):
        ours = [Run(work, model, "heedful", v, repeat) for v in VARIANTS[work, "heedful"]]
        theirs = [Run(work, model, "peer", v, repeat) for v in VARIANTS[work, "peer"]]
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


def has_masters(variant: tuple[str, ...] | list[str], side: str) -> bool:
    """Whether the weights are kept in fp32: ours always, the peer's unless it is pure bf16."""
    return side == "heedful" or "bf16" not in variant


def install(name: str, options: argparse.Namespace) -> None:
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


def measured(run: Run, options: argparse.Namespace) -> dict[str, Any]:
    """One run's row of results; its rate leaves out the first step, which warms up."""
    sizes = SIZES[run.model]
    directory = options.out / "workloads" / f"{run.model}-{run.work}"
    counts = measure.make_workload(workload_settings(run, options), directory)
    place = options.out / "runs" / run.name
    place.mkdir(parents=True, exist_ok=True)
    if run.side == "peer":
        child, result = run_peer(run, sizes, directory, place, options)
    elif run.work == "generate":
        child, result = run_engine(run, sizes, directory, place, options.threads)
    else:
        child, result = run_training(run, sizes, directory, place, counts, options.threads)
    seconds, units = result["steps_s"][1:], result["units"][1:]
    phases = result.get("phases_s", [])[1:]
    return {
        "name": run.name,
        **run._asdict(),
        "unit": UNITS[run.work],
        "rate": sum(units) / sum(seconds),
        "step_s": statistics.mean(seconds),
        "units_per_step": statistics.mean(units),
        "phases_s": {
            phase: statistics.mean(step[phase] for step in phases) for phase in (phases or [{}])[0]
        },
        "steps_s": result["steps_s"],
        **{f"process_{key}": value for key, value in child._asdict().items()},
    }


def workload_settings(run: Run, options: argparse.Namespace) -> dict[str, Any]:
    """The rows that one work needs of a workload: one pass over them is one run."""
    sizes, steps = SIZES[run.model], SIZES[run.model].steps[run.work]
    own = {
        "sft": {"demonstrations": sizes.demonstrations * steps},
        "reward": {"comparisons": sizes.comparisons * steps, "completions": sizes.completions},
        "ppo": {"prompts": sizes.episodes * steps},
        "generate": {"prompts": sizes.generated},
    }[run.work]
    none = {"demonstrations": 0, "comparisons": 0, "prompts": 0}
    settings = {"shape": run.model, "architecture": options.architecture}
    if run.model == "quick":
        settings["prompt_tokens"] = [2, 8]
    return settings | {"response_tokens": sizes.response_tokens} | none | own


def run_training(
    run: Run, sizes: Sizes, directory: Path, place: Path, counts: dict[str, Any], threads: int
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
        threads,
        batch_size,
        sizes.steps[run.work],
        minibatch_size=sizes.episodes // sizes.minibatches,
        response_tokens=sizes.response_tokens,
        recompute="recompute" in run.variant,
    )
    child, steps = ours.run(work, directory, place)
    # batches differ a little in their tokens; a run is one pass over the rows, so the mean is right
    units = {
        "sft": [counts["tokens_per_demonstration"] * sizes.demonstrations] * work.steps,
        "reward": [sizes.pairs * sizes.comparisons] * work.steps,
        "ppo": steps.response_tokens,
    }[run.work]
    return child, {"steps_s": steps.seconds, "units": units, "phases_s": steps.phases_s}


def run_engine(
    run: Run, sizes: Sizes, directory: Path, place: Path, threads: int
) -> tuple[measure.Child, dict[str, Any]]:
    """Our sampler in a process of its own (generate.py measures one setting with --json)."""
    command = [sys.executable, measure.HERE / "generate.py", "--json", place / "result.json"]
    command += ["--workload", directory, "--batches", sizes.generated, "--samples", 1]
    command += ["--dtypes", run.variant[0], "--max-new-tokens", sizes.response_tokens]
    command += ["--calls", sizes.steps["generate"], "--threads", threads]
    child = measure.run_child(command, place / "log.txt", threads)
    (result,) = json.loads((place / "result.json").read_text(encoding="utf-8"))
    return child, result


def run_peer(
    run: Run, sizes: Sizes, directory: Path, place: Path, options: argparse.Namespace
) -> tuple[measure.Child, dict[str, Any]]:
    """One of the peer's scripts in the peer's environment."""
    out = place / "result.json"
    task = {
        "directory": str(directory),
        "out": str(out),
        "variant": run.variant,
        "steps": sizes.steps[run.work],
        "lr": ours.PPO_LR if run.work == "ppo" else ours.LR,
        "batch_size": sizes.generated if run.work == "generate" else sizes.demonstrations,
        "pairs_per_prompt": sizes.pairs,
        "prompts_per_update": sizes.comparisons,
        "episodes": sizes.episodes,
        "minibatches": sizes.minibatches,
        "max_new_tokens": sizes.response_tokens,
    }
    file = place / "task.json"
    file.write_text(json.dumps(task, indent=2), encoding="utf-8")
    python = options.peers / PEER_OF[run.work] / "bin" / "python"
    script = measure.HERE / f"peer_{run.work}.py"
    child = measure.run_child([python, script, file], place / "log.txt", options.threads)
    return child, json.loads(out.read_text(encoding="utf-8"))


def write_results(
    rows: list[dict[str, Any]], options: argparse.Namespace, same: dict[str, Any]
) -> None:
    """results.json (every run, and the sizes) and results.md (medians and ratios)."""
    sizes = {model: asdict(SIZES[model]) for model in options.models}
    about = measure.machine() | same
    if options.quick:
        about["note"] = "a check that everything runs, not a measurement"
    text = json.dumps({"machine": about, "sizes": sizes, "runs": rows}, indent=2)
    (options.out / RESULTS_FILE).write_text(text + "\n", encoding="utf-8")
    (options.out / REPORT_FILE).write_text(report(rows, about), encoding="utf-8")


def report(rows: list[dict[str, Any]], about: dict[str, Any]) -> str:
    """The Markdown of results: a table of medians for every work and model, and the ratios."""
    lines = ["# heedful against TRL and transformers", ""]
    lines += [" · ".join(f"{key} {value}" for key, value in about.items() if value), ""]
    for work, model in dict.fromkeys((row["work"], row["model"]) for row in rows):
        group = [row for row in rows if (row["work"], row["model"]) == (work, model)]
        lines += [f"## {work}, {model}", "", table(group), "", *ratios(group), ""]
    return "\n".join(lines)


def table(group: list[dict[str, Any]]) -> str:
    """One line a variant, the fastest of either side first."""
    phases = list(dict.fromkeys(phase for row in group for phase in row["phases_s"]))
    found = []
    for (side, *variant), runs in by_variant(group).items():
        rates = [row["rate"] for row in runs]
        values = [
            " ".join([side, *variant]),
            statistics.median(rates),
            f"{measure.shown(min(rates))} to {measure.shown(max(rates))}",
            len(runs),
            statistics.median(row["step_s"] for row in runs),
            *(statistics.median(row["phases_s"][phase] for row in runs) for phase in phases),
            max(row["process_peak_gib"] for row in runs),
            f"{max(row['process_others'] for row in runs):.0%}",
        ]
        found.append((side, -statistics.median(rates), values))
    head = ["", f"{group[0]['unit']} (median)", "range", "runs", "s/step"]
    head += [*(f"{phase} s" for phase in phases), "peak GiB", "others"]
    ordered = sorted(found, key=lambda item: item[:2])
    return measure.markdown_table(head, [values for _, _, values in ordered])


def by_variant(group: list[dict[str, Any]]) -> dict[tuple[str, ...], list[dict[str, Any]]]:
    found: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in group:
        found.setdefault((row["side"], *row["variant"]), []).append(row)
    return found


def ratios(group: list[dict[str, Any]]) -> list[str]:
    """Ours over the peer's best: at fp32 compute, at fp32 weights, and at anything."""
    medians = {
        key: statistics.median(row["rate"] for row in runs)
        for key, runs in by_variant(group).items()
    }
    trained = group[0]["work"] != "generate"
    comparisons = [("fp32 on both sides", "fp32", lambda key: "fp32" in key)]
    if trained:
        comparisons.append(
            ("bf16, fp32 weights on both sides", "bf16", lambda key: has_masters(key, "peer"))
        )
    comparisons.append(("bf16, the peer's best of all", "bf16", lambda key: True))
    lines = []
    for what, dtype, allowed in comparisons:
        ours = {key: rate for key, rate in medians.items() if key[0] == "heedful" and dtype in key}
        theirs = {key: rate for key, rate in medians.items() if key[0] == "peer" and allowed(key)}
        if ours and theirs:
            best, other = max(ours, key=ours.__getitem__), max(theirs, key=theirs.__getitem__)
            value = measure.shown(medians[best] / medians[other])
            lines.append(f"- {what}: **{value}** ({' '.join(best)} over {' '.join(other)})")
    if any(row["process_others"] > BUSY_SHARE for row in group):
        lines.append(f"- other processes had over {BUSY_SHARE:.0%} of the machine: run again")
    return lines


if __name__ == "__main__":
    sys.exit(main())
