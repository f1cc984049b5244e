"""What the machine can do, and what every phase of training reaches of it.

    python benchmarks/roofline.py --out runs/roofline
    python benchmarks/roofline.py --models tiny --threads 2 --dtypes bfloat16 --commands sft
    python benchmarks/roofline.py --quick --out runs/roofline-quick

First bare matrix products and copies, by shape, dtype and number of threads. Then ``heed
pretrain``, ``sft``, ``reward`` and ``ppo`` with ``--profile`` on models with random weights:
seconds, matmul FLOP/s and the share of the peak by phase. Writes roofline.json and roofline.md
after every run, so that one ended early leaves what it has measured. Models: tiny (9 M parameters),
small (58 M), large (219 M: hidden 1024, 12 layers, sequences of 512 tokens). All of it takes hours;
PPO of the large model needs about 14 GiB.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

HERE = Path(__file__).resolve().parent
COMMANDS = ("pretrain", "sft", "reward", "ppo")
DTYPES = ("float32", "bfloat16")
COPY_MIB = (1, 8, 64, 256)
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
    sequences: int  # of a batch; the reward model takes an eighth of it as prompts of 9 responses

    @property
    def shape(self) -> dict[str, int]:
        names = ("hidden_size", "num_layers", "num_heads", "mlp_size", "vocab_size")
        return {name: getattr(self, name) for name in names} | {"context": 1024}


MODELS = {
    "tiny": Model(256, 6, 4, 704, 8192, (16, 64), 64, 1 / 28, 128, 64),
    "small": Model(512, 8, 8, 1408, 32000, (16, 64), 64, 1 / 28, 128, 64),
    "large": Model(1024, 12, 8, 2816, 32000, (256, 256), 256, 0.0, 512, 8),
}
QUICK = {"quick": Model(32, 2, 2, 64, 128, (4, 8), 8, 1 / 8, 16, 8)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/roofline"))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--quick", action="store_true", help="a toy model: does it work?")
    parser.add_argument("--measure", metavar="SHAPES", help=argparse.SUPPRESS)  # what a child does
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(json.loads(options.measure), options.threads[0], options.dtypes)))
        return 0
    models = QUICK if options.quick else {name: MODELS[name] for name in options.models}
    if options.quick:
        options.threads, options.dtypes = options.threads[:1], options.dtypes[:1]
    found: dict[str, Any] = {"machine": [], "runs": []}
    for count in options.threads:
        found["machine"] += measured_in_a_child(shapes_of(models), count, options.dtypes)
        save(found, options.out)
    for name, model in models.items():
        work = prepare(model, options.out / "work" / name)
        for command in options.commands:
            for count in options.threads:
                for dtype in options.dtypes:
                    report = profiled(command, model, work, count, dtype)
                    found["runs"].append({"model": name, **report})
                    save(found, options.out)
        shutil.rmtree(work)
    print((options.out / "roofline.md").read_text(encoding="utf-8"))
    return 0


def shapes_of(models: dict[str, Model]) -> list[dict[str, Any]]:
    """The matrix products that models are made of: (rows, inner, columns), with their names."""
    shapes = []
    for name, model in models.items():
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


def measured_in_a_child(
    shapes: list[dict[str, Any]], threads: int, dtypes: list[str]
) -> list[dict[str, Any]]:
    """Rates of the machine. In a process of its own: a child's memory begins at its parent's."""
    command = [sys.executable, str(Path(__file__)), "--measure", json.dumps(shapes)]
    command += ["--threads", str(threads), "--dtypes", *dtypes]
    done = subprocess.run(command, env=environment(threads), capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"the machine could not be measured:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout)


def measure(shapes: list[dict[str, Any]], threads: int, dtypes: list[str]) -> list[dict[str, Any]]:
    """Matrix products in FLOP/s and copies in bytes per second (read and written)."""
    import torch

    from heedful.memory import tune_allocator
    from heedful.training.profiling import matmul_rate

    tune_allocator()
    torch.set_num_threads(threads)
    rows = [
        entry
        | {"dtype": name, "threads": threads}
        | {"flops_per_s": matmul_rate(entry["shape"], getattr(torch, name), RATE_S)}
        for entry in shapes
        for name in dtypes
    ]
    for mib in COPY_MIB:
        source = torch.ones(mib * 2**18)
        target, times = torch.empty_like(source), []
        while len(times) < 3 or sum(times) < COPY_S:
            start = time.perf_counter()
            target.copy_(source)
            times.append(time.perf_counter() - start)
        rate = 2 * mib * 2**20 / min(times)
        rows.append({"what": f"copy of {mib} MiB", "threads": threads, "bytes_per_s": rate})
    return rows


def environment(threads: int) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}


def prepare(model: Model, directory: Path) -> Path:
    """A directory with models, demonstrations, comparisons, prompts and text; made by a child."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    settings = {
        "shape": model.shape,
        "prompt_tokens": model.prompt_tokens,
        "response_tokens": model.response_tokens,
        "end_chance": model.end_chance,
        "demonstrations": 6 * model.sequences,
        "comparisons": 6 * max(1, model.sequences // 8),
        "prompts": 4 * model.sequences,
    }
    words = [sys.executable, HERE / "workload.py", json.dumps(settings), directory]
    subprocess.run(words, env=environment(1), check=True)
    chooser = random.Random(0)
    count = 4 * model.sequences * model.row_tokens
    text = " ".join(f"t{chooser.randrange(3, model.vocab_size)}" for _ in range(count))
    (directory / "text.txt").write_text(text + "\n", encoding="utf-8")
    return directory


def profiled(command: str, model: Model, work: Path, threads: int, dtype: str) -> dict[str, Any]:
    """profile.json of six updates of a command, or of three iterations of PPO."""
    run_dir = work / "run"
    shutil.rmtree(run_dir, ignore_errors=True)
    settings = {
        "run_dir": str(run_dir),
        "compute": {"dtype": dtype, "threads": threads},
        "log": {"save_every": 0},
    }
    toml = work / "run.toml"
    own = settings_of(command, model, work)
    toml.write_text(tomli_w.dumps(settings | own), encoding="utf-8")
    print(f"{work.name}: heed {command}, {dtype}, threads: {threads}", file=sys.stderr, flush=True)
    words = [sys.executable, "-m", "heedful.cli", command, str(toml), "--profile"]
    done = subprocess.run(words, env=environment(threads), capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"heed {command} failed:\n{done.stderr[-2000:]}")
    return json.loads((run_dir / "profile.json").read_text(encoding="utf-8"))


def settings_of(command: str, model: Model, work: Path) -> dict[str, Any]:
    """The settings of a command that are its own."""
    policy, reward_model = str(work / "policy"), str(work / "reward_model")
    data = {
        kind: [str(work / f"{kind}.jsonl")] for kind in ("demonstrations", "comparisons", "prompts")
    }
    text = [str(work / "text.txt")]
    count = model.sequences
    if command == "pretrain":
        shape = {key: value for key, value in model.shape.items() if key != "vocab_size"}
        return {
            "tokenizer": policy,
            "shape": shape | {"tie_embeddings": False},
            "data": {"train": text},
            "row_tokens": model.row_tokens,
            "num_tokens": 6 * count * model.row_tokens,
            "optim": {"lr": 1e-5, "batch_size": count},
        }
    if command == "sft":
        return {
            "base": policy,
            "epochs": 1,
            "data": {"demonstrations": data["demonstrations"]},
            "optim": {"lr": 1e-5, "batch_size": count},
        }
    if command == "reward":
        return {
            "base": policy,
            "data": {"comparisons": data["comparisons"]},
            "optim": {"lr": 1e-5, "batch_size": max(1, count // 8)},
        }
    return {
        "policy": policy,
        "reward_model": reward_model,
        "data": {"prompts": data["prompts"], "text": text},
        "row_tokens": model.row_tokens,
        "sampling": {"max_new_tokens": model.response_tokens},
        "ppo": {
            "episodes": 3 * count,
            "batch_size": count,
            "minibatch_size": max(1, count // 2),
            "ptx_coef": 1.0,
            "ptx_rows_per_episode": 1.0,
        },
    }


def save(found: dict[str, Any], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "roofline.json").write_text(json.dumps(found, indent=2), encoding="utf-8")
    (out / "roofline.md").write_text(page_of(found), encoding="utf-8")


def page_of(found: dict[str, Any]) -> str:
    """The machine's rates, then a row for every phase of every run."""
    products = [row for row in found["machine"] if "shape" in row]
    copies = [row for row in found["machine"] if "bytes_per_s" in row]
    lines = ["# Roofline", "", "## Bare matrix products", ""]
    lines += table(
        ("what", "shape", "dtype", "threads", "GFLOP/s"),
        [
            (
                row["what"],
                " x ".join(map(str, row["shape"])),
                row["dtype"],
                row["threads"],
                f"{row['flops_per_s'] / 1e9:,.0f}",
            )
            for row in products
        ],
    )
    lines += ["## Copies", "", "Bytes read and written.", ""]
    lines += table(
        ("what", "threads", "GB/s"),
        [(row["what"], row["threads"], f"{row['bytes_per_s'] / 1e9:.1f}") for row in copies],
    )
    lines += ["## Training", "", PEAK_NOTE, ""]
    head = ("model", "command", "dtype", "threads", "phase", "s", "share", "GFLOP/s", "of peak")
    cells = [
        (
            *(run["model"], run["command"], run["dtype"], run["threads"]),
            *(phase["phase"], f"{phase['seconds']:.2f}", f"{phase['share']:.0%}"),
            f"{phase['matmul_flops_per_s'] / 1e9:,.1f}",
            f"{phase['share_of_peak']:.1%}",
        )
        for run in found["runs"]
        for phase in [{"phase": "all", "share": 1.0, **rates_of(run)}, *run["phases"]]
    ]
    lines += table(head, cells)
    lines += ["## Rates and memory", ""]
    rates = [
        (
            *(run["model"], run["command"], run["dtype"], run["threads"]),
            f"{run.get('tokens_per_s_before', run['tokens_per_s']):,.0f}",
            f"{run['tokens_per_s']:,.0f}",
            f"{run['flops_per_s'] / 1e9:,.1f}",
            f"{run['peak_gib']:.2f}",
        )
        for run in found["runs"]
    ]
    lines += table(
        (*head[:4], "tokens/s", "while profiled", "model GFLOP/s", "peak GiB"),
        rates,
    )
    return "\n".join(lines)


def rates_of(run: dict[str, Any]) -> dict[str, float]:
    return {key: run[key] for key in ("seconds", "matmul_flops_per_s", "share_of_peak")}


def table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> list[str]:
    """The lines of a Markdown table, and an empty one."""
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    lines += [f"| {' | '.join(map(str, row))} |" for row in rows]
    return [*lines, ""]


if __name__ == "__main__":
    sys.exit(main())
