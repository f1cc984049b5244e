"""What the machine can do, and what every phase of training reaches of it.

    python benchmarks/roofline.py                     # all of it: hours
    python benchmarks/roofline.py --models tiny --threads 2 --dtypes bf16 --commands sft
    python benchmarks/roofline.py --device cuda       # the models for accelerators
    python benchmarks/roofline.py --quick             # does everything run? a minute or two

First bare matrix products and copies, by shape, dtype and number of threads. Then ``heed
pretrain``, ``sft``, ``reward`` and ``ppo`` with ``--profile`` on models with random weights:
seconds, matmul FLOP/s and the share of the peak by phase. Writes results.json and results.md after
every run. Runs that are done are kept: the same command goes on where it was stopped; those of
another commit or device are left out. Models: tiny (9 M parameters), small (58 M), large (219 M:
hidden 1024, 12 layers, sequences of 512 tokens), and for accelerators 0.1b, 0.5b and 1.5b. PPO of
the large model needs about 14 GiB.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import accelerator
import measure
import ours
from workload import ACCELERATOR_MODELS, ACCELERATOR_SETTINGS, SHAPES

ROOT = measure.HERE.parent
RUNS_FILE = "runs.jsonl"
MACHINE = "machine"  # what is measured before the commands
COMMANDS = ("pretrain", "sft", "reward", "ppo")
UPDATES, ITERATIONS = 7, 4  # of a command, of PPO: enough for the window that is profiled
LR = ours.LR
COPY_MIB = (1, 8, 64, 256)
# Copies that are timed together: waiting for a device costs as much as a small one.
COPIES = {"cpu": 1, "cuda": 20}
# Rows of a matrix product: a decoding step, a chunk of the output head, a micro-batch of tokens.
ROWS = {"decode": 64, "chunk": 512, "batch": 8192}
PEAK_NOTE = (
    "Shares of the peak are of the largest rate of bare matrix products at the run's own shapes, "
    "measured in the run."
)
COPY_S = 0.3
RATE_S = 0.3


@dataclass(frozen=True)
class Model:
    """A model with random weights, and the batches that it is measured with."""

    hidden_size: int
    num_layers: int
    num_heads: int
    mlp_size: int
    vocab_size: int
    prompt_tokens: tuple[int, int]  # shortest and longest
    response_tokens: int
    end_chance: float  # of EOS at every token
    row_tokens: int  # of pretraining text
    sequences: int  # of a batch
    context: int = 1024
    weights: str = "float32"  # dtype of its files

    @property
    def shape(self) -> dict[str, int]:
        names = ("hidden_size", "num_layers", "num_heads", "mlp_size", "vocab_size", "context")
        return {name: getattr(self, name) for name in names}

    @property
    def comparisons(self) -> int:
        """Prompts of 9 responses in a batch of the reward model."""
        return max(1, self.sequences // 8)


MODELS = {
    "tiny": Model(256, 6, 4, 704, 8192, (16, 64), 64, 1 / 28, 128, 64),
    "small": Model(512, 8, 8, 1408, 32000, (16, 64), 64, 1 / 28, 128, 64),
    "large": Model(1024, 12, 8, 2816, 32000, (256, 256), 256, 0.0, 512, 8),
    "quick": Model(32, 2, 2, 64, 128, (4, 8), 8, 1 / 8, 16, 8),
    **{
        name: Model(**asdict(SHAPES[name]), **ACCELERATOR_SETTINGS, row_tokens=512, sequences=128)
        for name in ACCELERATOR_MODELS
    },
}
# Models and threads where nothing is said.
DEFAULTS = {
    "cpu": (["tiny", "small", "large"], [1, 2]),
    "cuda": (list(ACCELERATOR_MODELS), [os.cpu_count() or 1]),
}


@dataclass(frozen=True)
class Point:
    """One process to be measured: the machine at the shapes of models, or a command."""

    what: str
    models: tuple[str, ...]  # of a command one
    threads: int
    dtypes: tuple[str, ...]  # the same
    device: str = "cpu"

    @property
    def name(self) -> str:
        words = (self.what, "+".join(self.models), str(self.threads), "+".join(self.dtypes))
        return "-".join(words)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    if options.shapes:
        rates = machine_rates(
            json.loads(options.shapes), options.threads[0], options.dtypes, options.device
        )
        options.json.write_text(json.dumps(rates), encoding="utf-8")
        return 0
    points = plan(options)
    if options.dry_run:
        print("\n".join(point.name for point in points))
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    same, file = conditions(options), options.out / RUNS_FILE
    found = {row["name"]: row for row in measure.kept_rows(file, same)}
    for number, point in enumerate(points, start=1):
        if point.name not in found:
            print(f"{number}/{len(points)} {point.name}", file=sys.stderr, flush=True)
            found[point.name] = {"name": point.name} | same | measured(point, options.out)
            measure.append_row(file, found[point.name])
        save([found[p.name] for p in points if p.name in found], same, options.out)
    shutil.rmtree(options.out / "work", ignore_errors=True)
    print((options.out / "results.md").read_text(encoding="utf-8"))
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    models = [name for name in MODELS if name != "quick"]
    parser.add_argument("--device", choices=accelerator.DEVICES, default="cpu")
    parser.add_argument("--models", nargs="+", choices=models)
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    parser.add_argument("--threads", type=int, nargs="+", help="default: 1 2; on CUDA all cores")
    parser.add_argument("--dtypes", nargs="+", choices=ours.DTYPES, default=list(ours.DTYPES))
    parser.add_argument("--quick", action="store_true", help="a toy model: does it work?")
    parser.add_argument("--dry-run", action="store_true", help="print the runs and stop")
    parser.add_argument("--out", type=Path, help="default: runs/roofline")
    parser.add_argument("--shapes", help=argparse.SUPPRESS)  # what a child measures
    parser.add_argument("--json", type=Path, help=argparse.SUPPRESS)  # where it writes that
    options = parser.parse_args(arguments)
    models, threads = DEFAULTS[options.device]
    options.models, options.threads = options.models or models, options.threads or threads
    if options.quick:
        options.models = ["quick"]
        options.threads, options.dtypes = options.threads[:1], options.dtypes[:1]
    kind = "roofline" if options.device == "cpu" else f"roofline-{options.device}"
    kind += "-quick" if options.quick else ""
    options.out = (options.out or ROOT / "runs" / kind).resolve()
    return options


def conditions(options: argparse.Namespace) -> dict[str, Any]:
    """What the rows of one table must have in common, which their names do not say."""
    return {"commit": measure.commit()} | accelerator.about(options.device, options.out)


def plan(options: argparse.Namespace) -> list[Point]:
    """The machine first, then every command of a model before the next model."""
    models, dtypes = tuple(options.models), tuple(options.dtypes)
    settings, device = product(models, options.commands, options.threads, dtypes), options.device
    return [
        *(Point(MACHINE, models, threads, dtypes, device) for threads in options.threads),
        *(
            Point(what, (model,), threads, (dtype,), device)
            for model, what, threads, dtype in settings
        ),
    ]


def measured(point: Point, out: Path) -> dict[str, Any]:
    """What a point's row says beside its name."""
    if point.what != MACHINE:
        (model,), (dtype,) = point.models, point.dtypes
        report = profiled(point, prepare(MODELS[model], out / "work" / model))
        return {"model": model} | report | {"dtype": dtype}
    file = out / "machine.json"
    command = [sys.executable, Path(__file__), "--shapes", json.dumps(shapes_of(point.models))]
    command += ["--json", file, "--threads", point.threads, "--dtypes", *point.dtypes]
    command += ["--device", point.device]
    measure.run_child(command, out / "machine.log", point.threads)
    return {"rates": json.loads(file.read_text(encoding="utf-8"))}


def shapes_of(models: Sequence[str]) -> list[dict[str, Any]]:
    """The matrix products that models are made of: (rows, inner, columns), with their names."""
    shapes = []
    for name in models:
        model = MODELS[name]
        width = model.hidden_size
        factors = {
            "attention": (ROWS["batch"], width, width),
            "MLP": (ROWS["batch"], width, model.mlp_size),
            "output head": (ROWS["chunk"], width, model.vocab_size),
            "decoding, MLP": (ROWS["decode"], width, model.mlp_size),
            "decoding, head": (ROWS["decode"], width, model.vocab_size),
        }
        shapes += [{"what": f"{name}, {part}", "shape": s} for part, s in factors.items()]
    return shapes


def machine_rates(
    shapes: list[dict[str, Any]], threads: int, dtypes: list[str], device: str = "cpu"
) -> list[dict[str, Any]]:
    """Matrix products in FLOP/s and copies in bytes per second (read and written)."""
    import torch

    from heedful.memory import tune_allocator
    from heedful.models.device import pick_device, synchronize
    from heedful.models.matmul import tune_matmul
    from heedful.training.profiling import matmul_rate

    tune_allocator()
    torch.set_num_threads(threads)
    tune_matmul()
    place, rows = pick_device(device), []
    for entry, name in product(shapes, dtypes):
        dtype = getattr(torch, ours.DTYPES[name])
        rate = matmul_rate(entry["shape"], dtype, RATE_S, device)
        rows.append(entry | {"dtype": name, "threads": threads, "flops_per_s": rate})
    at_once = COPIES[device]
    for mib in COPY_MIB:
        source = torch.ones(mib * 2**18, device=place)
        target, times = torch.empty_like(source), []
        while len(times) < 3 or sum(times) < COPY_S:
            synchronize(place)
            start = time.perf_counter()
            for _ in range(at_once):
                target.copy_(source)
            synchronize(place)
            times.append((time.perf_counter() - start) / at_once)
        rate = 2 * mib * 2**20 / min(times)
        rows.append({"what": f"copy of {mib} MiB", "threads": threads, "bytes_per_s": rate})
    return rows


def prepare(model: Model, directory: Path) -> Path:
    """A directory with models, demonstrations, comparisons, prompts and text, made or kept."""
    settings = {
        "shape": model.shape,
        "prompt_tokens": model.prompt_tokens,
        "response_tokens": model.response_tokens,
        "end_chance": model.end_chance,
        "weights": model.weights,
        "demonstrations": UPDATES * model.sequences,
        "comparisons": UPDATES * model.comparisons,
        "prompts": ITERATIONS * model.sequences,
    }
    measure.make_workload(settings, directory)
    chooser = random.Random(0)
    count = 4 * model.sequences * model.row_tokens
    text = " ".join(f"t{chooser.randrange(3, model.vocab_size)}" for _ in range(count))
    (directory / "text.txt").write_text(text + "\n", encoding="utf-8")
    return directory


def profiled(point: Point, workload: Path) -> dict[str, Any]:
    """profile.json of a command, and what the system says of its process."""
    run_dir = workload / "run"
    shutil.rmtree(run_dir, ignore_errors=True)
    child = ours.run_command(point.what, settings_of(point, workload, run_dir), "--profile")
    report = json.loads((run_dir / "profile.json").read_text(encoding="utf-8"))
    return report | {f"process_{key}": value for key, value in child._asdict().items()}


def settings_of(point: Point, workload: Path, run_dir: Path) -> dict[str, Any]:
    """The settings of a command; PPO's with pretraining text."""
    (name,), (dtype,) = point.models, point.dtypes
    model, text = MODELS[name], [str(workload / "text.txt")]
    count = model.sequences
    if point.what == "pretrain":
        shape = {key: value for key, value in model.shape.items() if key != "vocab_size"}
        return ours.common_settings(dtype, point.threads, run_dir, point.device) | {
            "tokenizer": str(workload / "policy"),
            "shape": shape | {"tie_embeddings": False},
            "data": {"train": text},
            "row_tokens": model.row_tokens,
            "num_tokens": UPDATES * count * model.row_tokens,
            "optim": {"lr": LR, "batch_size": count},
        }
    work = ours.Work(
        point.what,
        dtype,
        point.threads,
        batch_size=model.comparisons if point.what == "reward" else count,
        steps=ITERATIONS if point.what == "ppo" else UPDATES,
        minibatch_size=max(1, count // 2),
        response_tokens=model.response_tokens,
        device=point.device,
    )
    settings = ours.settings_of(work, workload, run_dir)
    if point.what == "ppo":
        settings["row_tokens"] = model.row_tokens
        settings["data"]["text"] = text
        settings["ppo"] |= {"ptx_coef": 1.0, "ptx_rows_per_episode": 1.0}
    return settings


def save(rows: list[dict[str, Any]], same: dict[str, Any], out: Path) -> None:
    """results.json and results.md."""
    about = measure.machine() | same
    text = json.dumps({"machine": about, "runs": rows}, indent=2)
    (out / "results.json").write_text(text + "\n", encoding="utf-8")
    (out / "results.md").write_text(page_of(rows, about), encoding="utf-8")


def page_of(rows: list[dict[str, Any]], about: dict[str, Any]) -> str:
    """The machine's rates, then a line for every phase of every run."""
    on_device = about.get("device", "cpu") != "cpu"
    unit, flops = ("TFLOP/s", 1e12) if on_device else ("GFLOP/s", 1e9)
    rates = [rate for row in rows for rate in row.get("rates", [])]
    runs = [row for row in rows if "rates" not in row]
    products = [
        (
            rate["what"],
            " x ".join(map(str, rate["shape"])),
            rate["dtype"],
            rate["threads"],
            f"{rate['flops_per_s'] / flops:,.{1 if on_device else 0}f}",
        )
        for rate in rates
        if "shape" in rate
    ]
    copies = [
        (rate["what"], rate["threads"], f"{rate['bytes_per_s'] / 1e9:.1f}")
        for rate in rates
        if "bytes_per_s" in rate
    ]
    first = ("model", "command", "dtype", "threads")
    phases = [
        (
            *(run[key] for key in first),
            phase["phase"],
            f"{phase['seconds']:.{3 if on_device else 2}f}",
            f"{phase['share']:.0%}",
            f"{phase['matmul_flops_per_s'] / flops:,.1f}",
            f"{phase['share_of_peak']:.1%}",
        )
        for run in runs
        for phase in [run | {"phase": "all", "share": 1.0}, *run["phases"]]
    ]
    totals = [
        (
            *(run[key] for key in first),
            f"{run.get('tokens_per_s_before', run['tokens_per_s']):,.0f}",
            f"{run['tokens_per_s']:,.0f}",
            f"{run['flops_per_s'] / flops:,.1f}",
            f"{run['peak_gib']:.2f}",
            *([f"{run['device_peak_gib']:.2f}"] if on_device else []),
            f"{run['process_others']:.0%}",
        )
        for run in runs
    ]
    device_peak = ("device peak GiB",) if on_device else ()
    speeds = ("tokens/s", "while profiled", f"model {unit}", "peak GiB", *device_peak, "others")
    parts = [
        "# Roofline",
        " · ".join(f"{key} {value}" for key, value in about.items() if value),
        "## Bare matrix products",
        measure.markdown_table(("what", "shape", "dtype", "threads", unit), products),
        "## Copies",
        "Bytes read and written.",
        measure.markdown_table(("what", "threads", "GB/s"), copies),
        "## Training",
        PEAK_NOTE,
        measure.markdown_table((*first, "phase", "s", "share", unit, "of peak"), phases),
        "## Rates and memory",
        measure.markdown_table((*first, *speeds), totals),
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    sys.exit(main())
