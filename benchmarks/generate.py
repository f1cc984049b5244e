"""Our sampler: tokens per second by batch size, samples per prompt and dtype.

    python benchmarks/generate.py                       # tables for the tiny and the small model
    python benchmarks/generate.py --models tiny --batches 16,64,256 --samples 1,4
    python benchmarks/generate.py --device cuda         # for the models of 0.1b, 0.5b and 1.5b
    python benchmarks/generate.py --quick

Every setting runs in a process of its own, so that its peak memory is its own. Settings that are
done are kept: the same command goes on where it was stopped; those of another commit, device or
number of threads are left out. With --workload it measures in this process, which is how vs_trl.py
calls it. Rates count response tokens, with EOS; the first call warms up and is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

import accelerator
import measure
from workload import ACCELERATOR_MODELS, SHAPES, settings_for

DTYPES = {"bf16": "bfloat16", "fp32": "float32"}
ROOT = measure.HERE.parent
RUNS_FILE = "runs.jsonl"
# What is measured where nothing is said: models, responses at a time, their longest.
DEFAULTS = {
    "cpu": (["tiny", "small"], [1, 16, 64, 128], 64),
    "cuda": (list(ACCELERATOR_MODELS), [1, 16, 64, 256], 256),
}
POINT = ("model", "dtype", "batch", "samples")  # a process: the names of what ``points`` has


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    if options.workload is not None:
        settings = list(product(options.dtypes, options.batches, options.samples))
        results = [one_setting(options, *values) for values in settings]
        text = json.dumps(results)
        if options.json is None:
            print(text)
        else:
            options.json.write_text(text, encoding="utf-8")
        return 0
    if options.dry_run:
        print("\n".join(" ".join(map(str, point)) for point in points(options)))
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    same = conditions(options)
    rows = every_row(options, same)
    text = json.dumps({"machine": measure.machine() | same, "runs": rows}, indent=2)
    (options.out / "results.json").write_text(text + "\n", encoding="utf-8")
    report = table(rows)
    (options.out / "results.md").write_text(report + "\n", encoding="utf-8")
    print(report)
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    def words(text: str) -> list[str]:
        return text.split(",")

    def numbers(text: str) -> list[int]:
        return [int(word) for word in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=accelerator.DEVICES, default="cpu")
    parser.add_argument("--models", type=words, help="default: tiny,small; on CUDA 0.1b,0.5b,1.5b")
    parser.add_argument("--batches", type=numbers, help="responses (default: 1 to 128, or 256)")
    parser.add_argument("--samples", type=numbers, default=[1, 4], help="per prompt")
    parser.add_argument("--dtypes", type=words, default=list(DTYPES))
    parser.add_argument("--max-new-tokens", type=int, help="default: 64, on CUDA 256")
    parser.add_argument("--calls", type=int, default=4, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--quick", action="store_true", help="a tiny model and two settings")
    parser.add_argument("--dry-run", action="store_true", help="print the settings and stop")
    parser.add_argument("--out", type=Path, help="default: runs/generate")
    parser.add_argument("--workload", type=Path, help="measure in this process, on this workload")
    parser.add_argument("--json", type=Path, help="with --workload: the file of results")
    options = parser.parse_args(arguments)
    models, batches, longest = DEFAULTS[options.device]
    options.models, options.batches = options.models or models, options.batches or batches
    options.max_new_tokens = options.max_new_tokens or longest
    if options.quick:
        options.models, options.batches, options.samples = ["quick"], [4], [1, 2]
        options.dtypes, options.max_new_tokens, options.calls = ["bf16"], 8, 2
    for name, known in (("models", SHAPES), ("dtypes", DTYPES)):
        if unknown := [word for word in getattr(options, name) if word not in known]:
            parser.error(f"--{name}: {unknown[0]!r} is none of {', '.join(known)}")
    kind = "generate" if options.device == "cpu" else f"generate-{options.device}"
    kind += "-quick" if options.quick else ""
    options.out = (options.out or ROOT / "runs" / kind).resolve()
    return options


def conditions(options: argparse.Namespace) -> dict[str, Any]:
    """What the rows of one table must have in common."""
    keys = ("threads", "max_new_tokens", "calls")
    own = {key: getattr(options, key) for key in keys}
    return {"commit": measure.commit()} | own | accelerator.about(options.device, options.out)


def every_row(options: argparse.Namespace, same: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of all settings, in their order; those in the file of rows are not run again."""
    file = options.out / RUNS_FILE
    found = {tuple(row[key] for key in POINT): row for row in measure.kept_rows(file, same)}
    for point in points(options):
        if point not in found:
            found[point] = same | measured(options, *point)
            measure.append_row(file, found[point])
    return [found[point] for point in points(options)]


def points(options: argparse.Namespace) -> list[tuple[str, str, int, int]]:
    """(model, dtype, responses at a time, samples per prompt) of every process."""
    settings = product(options.models, options.dtypes, options.batches, options.samples)
    return [point for point in settings if point[2] % point[3] == 0]


def measured(
    options: argparse.Namespace, model: str, dtype: str, batch: int, samples: int
) -> dict[str, Any]:
    """One setting in a process of its own."""
    directory = options.out / "workloads" / model
    none = {"demonstrations": 0, "comparisons": 0}
    settings = {"shape": model, "prompts": max(options.batches)} | settings_for(model) | none
    settings["response_tokens"] = options.max_new_tokens
    measure.make_workload(settings, directory)
    place = options.out / "runs" / f"{model}-{dtype}-{batch}-{samples}"
    command = [sys.executable, measure.HERE / "generate.py", "--workload", directory]
    command += ["--json", place / "result.json", "--dtypes", dtype, "--calls", options.calls]
    command += ["--batches", batch, "--samples", samples, "--threads", options.threads]
    command += ["--max-new-tokens", options.max_new_tokens, "--device", options.device]
    child = measure.run_child(command, place / "log.txt", options.threads)
    (result,) = json.loads((place / "result.json").read_text(encoding="utf-8"))
    seconds, units = sum(result["steps_s"][1:]), sum(result["units"][1:])
    print(f"{model} {dtype} {batch} {samples}: {units / seconds:.0f} tokens/s", flush=True)
    return {
        "model": model,
        "dtype": dtype,
        "batch": batch,
        "samples": samples,
        "tokens_per_s": units / seconds,
        "peak_gib": child.peak_gib,
        "others": child.others,
        **result,
    }


def one_setting(
    options: argparse.Namespace, dtype: str, batch: int, samples: int
) -> dict[str, Any]:
    """Seconds and response tokens of every call, in this process; a CUDA device's peak memory."""
    import torch

    from heedful.memory import device_peak_gib, tune_allocator
    from heedful.models.device import pick_device, synchronize
    from heedful.models.language_model import load_language_model, load_tokenizer
    from heedful.models.matmul import tune_matmul
    from heedful.rollout.engine import sample

    tune_allocator()
    torch.set_num_threads(options.threads)
    tune_matmul()
    tokenizer = load_tokenizer(options.workload / "policy")
    dtype_of_model, device = getattr(torch, DTYPES[dtype]), pick_device(options.device)
    model = load_language_model(options.workload / "policy", dtype_of_model, device)
    texts = [row["text"] for row in measure.rows_of(options.workload / "prompts.jsonl")]
    prompts = [tokenizer.encode(text) for text in texts[: batch // samples]]
    steps_s, units = [], []
    for call in range(options.calls):
        synchronize(device)
        start = time.perf_counter()
        rollout = sample(
            model,
            prompts,
            max_new_tokens=options.max_new_tokens,
            eos=tokenizer.eos_token_id,
            pad=tokenizer.pad_token_id,
            n=samples,
            generator=torch.Generator().manual_seed(call),
            max_rows=batch,
        )
        synchronize(device)
        steps_s.append(time.perf_counter() - start)
        units.append(int(rollout.lengths.sum()))
    peak_gib = device_peak_gib(str(device))
    own = {} if peak_gib is None else {"device_peak_gib": peak_gib}
    return {"steps_s": steps_s, "units": units} | own


def table(rows: list[dict[str, Any]]) -> str:
    """One line a setting."""
    head = ["model", "dtype", "responses", "samples per prompt", "tokens/s", "peak GiB"]
    keys = ["model", "dtype", "batch", "samples", "tokens_per_s", "peak_gib"]
    if any("device_peak_gib" in row for row in rows):
        head.append("device peak GiB")
        keys.append("device_peak_gib")
    head.append("others")
    lines = [[*(row[key] for key in keys), f"{row['others']:.0%}"] for row in rows]
    return measure.markdown_table(head, lines)


if __name__ == "__main__":
    sys.exit(main())
