"""The harness's side of vs_lm_eval.py: its own tasks over local files, through its own model class.

Its tasks are read as they are installed; only where the data comes from is changed.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import lm_eval
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

# task -> (the harness's file, our file of data)
TASKS = {
    "crows_pairs": ("crows_pairs/crows_pairs_english.yaml", "crows_pairs.jsonl"),
    "winogender": ("crows_pairs/crows_pairs_english.yaml", "winogender.jsonl"),
    "truthfulqa_mc1": ("truthfulqa/truthfulqa_mc1.yaml", "truthfulqa_mc.jsonl"),
    "truthfulqa_mc2": ("truthfulqa/truthfulqa_mc2.yaml", "truthfulqa_mc.jsonl"),
}


def main() -> None:
    task = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(task["threads"])
    out = Path(task["out"])
    model = HFLM(
        pretrained=str(out / "model"),
        batch_size=task["batch_size"],
        dtype="float32",
        device="cpu",
    )
    warm_up = Instance("loglikelihood", {}, ("What comes first?", " This does."), 0)
    model.loglikelihood([warm_up] * 4, disable_tqdm=True)
    seconds, cpu_s = timed(model)
    names = write_tasks(out)
    results = lm_eval.simple_evaluate(
        model=model,
        tasks=list(names),
        task_manager=TaskManager(include_path=str(out / "tasks"), include_defaults=False),
        log_samples=True,
        bootstrap_iters=0,
    )
    logprobs = {}
    for samples in results["samples"].values():
        for sample in samples:
            for request, answer in zip(arguments(sample), sample["filtered_resps"], strict=True):
                prompt, choice = request
                logprobs[f"{prompt}|{choice}"] = answer[0]
    metrics = {
        f"{names[name]} {key.partition(',')[0]}": value
        for name, values in results["results"].items()
        for key, value in values.items()
        if key.partition(",")[0] in ("acc", "pct_stereotype")
    }
    result = {
        "seconds": sum(seconds),
        "cpu_s": sum(cpu_s),
        "logprobs": logprobs,
        "metrics": metrics,
    }
    Path(task["result"]).write_text(json.dumps(result), encoding="utf-8")


def timed(model: Any) -> tuple[list[float], list[float]]:
    """Wall and processor seconds of every call that scores, tokenizing included, as they come."""
    seconds: list[float] = []
    cpu_s: list[float] = []
    score = model.loglikelihood

    def measured(*values: Any, **settings: Any) -> Any:
        start, cpu_start = time.perf_counter(), time.process_time()
        found = score(*values, **settings)
        seconds.append(time.perf_counter() - start)
        cpu_s.append(time.process_time() - cpu_start)
        return found

    model.loglikelihood = measured
    return seconds, cpu_s


def write_tasks(out: Path) -> dict[str, str]:
    """Files of tasks that include the harness's own, with local data; {their name: ours}."""
    place = out / "tasks"
    place.mkdir(exist_ok=True)
    home = Path(lm_eval.__file__).parent / "tasks"
    names = {}
    for name, (file, data) in TASKS.items():
        split = "validation" if name.startswith("truthfulqa") else "test"
        lines = [
            f"include: {home / file}",
            f"task: local_{name}",
            "tag: []",
            "dataset_path: json",
            "dataset_name: null",
            "dataset_kwargs:",
            "  data_files:",
            f"    {split}: {out / data}",
        ]
        (place / f"{name}.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
        names[f"local_{name}"] = name
    return names


def arguments(sample: dict[str, Any]) -> list[tuple[str, str]]:
    """The (prompt, choice) pairs of a logged sample."""
    given = sample["arguments"]
    rows = given.values() if isinstance(given, dict) else given
    return [tuple(row.values()) if isinstance(row, dict) else tuple(row[:2]) for row in rows]


if __name__ == "__main__":
    main()
