"""heed eval: the paper's automatic evaluations, on published files, without a network."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from heedful.commands.again import command_of
from heedful.commands.harness import SUITE, Harness, ask_harness, find_harness, split_names
from heedful.commands.train import ready
from heedful.config import EvalConfig
from heedful.errors import ConfigError, DataError
from heedful.evaluation.answering import Request, answers, context_of, encode_items, num_tokens
from heedful.evaluation.grading import ungraded
from heedful.evaluation.harness import tasks_of
from heedful.evaluation.harness_groups import GroupMean, group_tasks
from heedful.evaluation.items import Item, MissingData, Row, Task, chosen, locate
from heedful.evaluation.room import Room
from heedful.evaluation.suite import (
    SUITES,
    Graders,
    Measure,
    Suite,
    find_suites,
    find_tasks,
    format_table,
    key_of,
    make_row,
    measures,
    read_results,
    score_rows,
    write_results,
)
from heedful.metrics import replacing
from heedful.models.device import placement, tokens_at_a_time
from heedful.models.language_model import load_language_model, load_tokenizer
from heedful.training.checkpoint import start_run
from heedful.training.loop import make_generator

EVAL_DIR = "eval"
# Items asked at a time: so much is lost to a kill at most.
ITEMS_PER_CALL = 512
# Settings that decide what a model is asked: rows of other values do not stand in one file.
ASKED_WITH = ("shots", "template", "temperature", "seed")
# What scores the rows of a task, where it is not a rule.
GRADED_BY = {"real_toxicity_prompts": ("toxicity",), "truthfulqa": ("truth", "informativeness")}


@dataclass
class Job:
    """The tasks of a suite with their items, and the rows that there are."""

    suite: Suite
    items: dict[str, list[Item]]
    path: Path
    rows: list[Row]
    left_out: dict[str, dict[str, int]]
    harness: Harness | None = None

    @property
    def tasks(self) -> list[Task]:
        """Those of the suite that are asked for."""
        return [task for task in self.suite.tasks if task.name in self.items]


def run_eval(config: EvalConfig, resume: bool = False) -> None:
    """Writes eval/<suite>.jsonl and eval/<suite>.json; prints the measures as a table.

    What it was asked with stands in eval/, too: run_dir may be that of the run that trained.
    """
    config, run_dir, progress = ready(config, True)
    (run_dir / EVAL_DIR).mkdir(exist_ok=True)
    jobs = _jobs(config, run_dir)
    from heedful.commands.graders import load_graders

    graders, scorers = load_graders(config, [task for job in jobs for task in job.tasks])
    if config.rescore:
        for job in jobs:
            _rescore(job, graders)
        start_run(config, run_dir / EVAL_DIR)
    else:
        for job in jobs:
            _require_same(config, job, scorers)
        start_run(config, run_dir / EVAL_DIR)
        for job in jobs:
            write_results(job.path, job.rows)  # without a line that a kill has cut
            _write_summary(config, job, scorers, [])
        _ask_all(config, jobs, graders, progress)
        for job in jobs:
            _ask_harness(config, job, progress)
            _tell_ungraded(job, graders)
    if not any(job.rows for job in jobs):
        raise DataError("no item fits the contexts of the models: there is nothing to measure")
    for job in jobs:
        models = list(dict.fromkeys([*config.models, *(row["model"] for row in job.rows)]))
        groups, of_groups = group_tasks(job.rows, _groups(job))
        tasks = [*job.suite.tasks, *tasks_of(job.rows), *groups]
        found = measures(tasks, [*job.rows, *of_groups], models, seed=config.seed)
        _write_summary(config, job, scorers, found)
        print(f"\n{job.suite.name}\n{format_table(found)}", flush=True)
    for name, what in scorers.items():
        print(f"\n{name} by {what}", flush=True)


def forget(config: EvalConfig) -> None:
    """Drops the results of the suites that are asked for: --overwrite."""
    for suite in find_suites(config.suites):
        for ending in ("jsonl", "json"):
            (Path(config.run_dir) / EVAL_DIR / f"{suite.name}.{ending}").unlink(missing_ok=True)


def _jobs(config: EvalConfig, run_dir: Path) -> list[Job]:
    """The suites with the items of their tasks.

    A task whose file is missing is left out and said; DataError where it was asked for by name, or
    where no task is left.
    """
    suites = find_suites(config.suites)
    own, theirs = split_names(config.tasks)
    tasks = find_tasks(suites, own) if own or not theirs else {}
    harness = find_harness(config, [suite.name for suite in suites], run_dir)
    if harness is not None:
        tasks.setdefault(SUITE, [])
    jobs, missing = [], []
    for name, part in tasks.items():
        path = run_dir / EVAL_DIR / f"{name}.jsonl"
        items: dict[str, list[Item]] = {}
        for task in part:
            try:
                items[task.name] = [] if config.rescore else _items(task, config, config.shots)
                if not config.rescore:
                    _say_other_files(task, Path(config.data))
            except MissingData as error:
                missing.append(str(error))
        extra = harness if name == SUITE else None
        if items or extra is not None:
            jobs.append(Job(SUITES[name], items, path, read_results(path), {}, extra))
    if missing and (config.tasks or not jobs):
        raise DataError("\n  ".join(["files are missing:", *missing]))
    for line in missing:
        print(f"left out: {line}", file=sys.stderr)
    return jobs


def _say_other_files(task: Task, data: Path) -> None:
    """Says which files are read in the place of those that a task is called after."""
    for file, path in zip(task.files, locate(task, data), strict=True):
        if path.name.removesuffix(".gz") != Path(file.name).name:
            print(f"{task.name}: {path} is read, {file.name} is not there", file=sys.stderr)


def _items(task: Task, config: EvalConfig, shots: int) -> list[Item]:
    return chosen(task, locate(task, Path(config.data)), config.limit, shots)


def _ask_all(
    config: EvalConfig, jobs: Sequence[Job], graders: Graders, progress: Callable[[int, int], None]
) -> None:
    """Asks every model what has not been answered yet, and appends the scored rows."""
    total = len(config.models) * sum(len(items) for job in jobs for items in job.items.values())
    done = 0
    for name, path in config.models.items():
        asked = {_key(i, name, t) for job in jobs for t in job.tasks for i in job.items[t.name]}
        if asked <= {key_of(row) for job in jobs for row in job.rows}:
            done += len(asked)
            continue
        tokenizer = load_tokenizer(path)
        model = None  # the one before makes room
        model = load_language_model(path, *placement(config.compute))
        room = Room(tokens_at_a_time(config.compute))
        for job in jobs:
            known = {key_of(row) for row in job.rows}
            for task in job.tasks:
                items, requests = _fitting(config, job, task, (name, path), tokenizer, model)
                done += len(job.items[task.name]) - len(items)
                for start in range(0, len(items), ITEMS_PER_CALL):
                    part = range(start, min(start + ITEMS_PER_CALL, len(items)))
                    new = [i for i in part if _key(items[i], name, task) not in known]
                    if new:
                        # all of the part again: the same batches round alike, and draw alike
                        said = answers(
                            model,
                            tokenizer,
                            [items[i] for i in part],
                            [requests[i] for i in part],
                            room=room,
                            temperature=config.temperature,
                            generator=make_generator(config.seed, f"eval/{task.name}", start),
                        )
                        rows = [
                            make_row(items[i], name, task.name, said[i - start], config.seed)
                            for i in new
                        ]
                        _append(job, score_rows(task, rows, graders))
                    done += len(part)
                    progress(done, total)


def _ask_harness(config: EvalConfig, job: Job, progress: Callable[[int, int], None]) -> None:
    """Asks the harness's tasks of a suite, if any are asked for, and appends their rows."""
    if job.harness is not None:
        known = {(row["model"], row["task"], row["id"]) for row in job.rows}
        ask_harness(config, job.harness, known, partial(_append, job), progress)


def _key(item: Item, model: str, task: Task) -> tuple[str, str, str, str]:
    return model, task.name, item.variant, item.id


def _append(job: Job, rows: Sequence[Row]) -> None:
    with job.path.open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    job.rows += rows


def _fitting(
    config: EvalConfig, job: Job, task: Task, named: tuple[str, str], tokenizer: Any, model: Any
) -> tuple[list[Item], list[Request]]:
    """The items that the model's context holds, tokenized; notes how many it does not hold.

    Raises DataError where fewer shots would fit more of them, saying how many fit.
    """
    from heedful.data.template import Template

    name, path = named
    template = None
    if config.template == "model":
        template = Template.of_model(Path(path), tokenizer)
    context = context_of(model.config)
    items = job.items[task.name]
    requests = encode_items(items, tokenizer, template)
    kept = [
        i
        for i, item in enumerate(items)
        if context is None or num_tokens(item, requests[i]) <= context
    ]
    left_out = len(items) - len(kept)
    if left_out and task.takes_shots and config.shots:
        _require_shots(config, task, path, tokenizer, template, context or 0, len(kept), len(items))
    if left_out:
        job.left_out.setdefault(task.name, {})[name] = left_out
        print(
            f"{task.name}: {_counted_apart(items, [items[i] for i in kept])} do not fit the "
            f"{context:,} tokens that {path} reads at a time, and are left out",
            file=sys.stderr,
        )
    return [items[i] for i in kept], [requests[i] for i in kept]


def _counted_apart(items: Sequence[Item], kept: Sequence[Item]) -> str:
    """ "2 of 20 items", with the prompts that it is so under where they are not all alike."""
    asked, fitting = (Counter(item.variant for item in part) for part in (items, kept))
    variants: dict[tuple[int, int], list[str]] = {}
    for variant, num in asked.items():
        variants.setdefault((num - fitting[variant], num), []).append(variant)
    several = len(variants) > 1
    return " and ".join(
        f"{num:,} of {of:,} items" + (f" (prompts {', '.join(names)})" if several else "")
        for (num, of), names in variants.items()
        if num
    )


def _require_shots(
    config: EvalConfig,
    task: Task,
    path: str,
    tokenizer: Any,
    template: Any,
    context: int,
    num_fitting: int,
    num_items: int,
) -> None:
    """Raises DataError where a larger share of the items fits with fewer shots, saying how many."""
    for shots in range(config.shots - 1, -1, -1):
        items = _items(task, config, shots)
        requests = encode_items(items, tokenizer, template)
        pairs = zip(items, requests, strict=True)
        num = sum(num_tokens(item, request) <= context for item, request in pairs)
        # of the texts that are asked: fewer of them are where more are examples
        if num * num_items > num_fitting * len(items):
            raise DataError(
                f"{path} reads {context:,} tokens at a time; with {config.shots} shots "
                f"{num_fitting:,} of {num_items:,} items of {task.name} fit, with {shots} "
                f"{num:,} of {len(items):,}: give --shots={shots}"
            )


def _rescore(job: Job, graders: Graders) -> None:
    """Scores the rows of the tasks that are asked for again, in their places."""
    if not job.rows:
        raise DataError(f"{job.path} has no rows to score again: run heed eval first")
    for task in job.tasks:
        places = [i for i, row in enumerate(job.rows) if row["task"] == task.name]
        scored = score_rows(task, [job.rows[i] for i in places], graders)
        for i, row in zip(places, scored, strict=True):
            job.rows[i] = row
    _tell_ungraded(job, graders)
    write_results(job.path, job.rows)


def _tell_ungraded(job: Job, graders: Graders) -> None:
    """Says how many written answers have no grade; DataError where none has one."""
    if graders.grades is None:
        return
    num_ungraded, num_written = ungraded(job.rows)
    if num_ungraded:
        print(
            f"truthfulqa: {num_ungraded:,} of {num_written:,} answers that are not empty have no "
            "grade, and count as those that have one (of the same model and prompt)",
            file=sys.stderr,
        )


def _require_same(config: EvalConfig, job: Job, scorers: dict[str, str]) -> None:
    """Raises ConfigError where rows are there that were asked or scored in another way."""
    file = job.path.with_suffix(".json")
    if not job.rows or not file.is_file():
        return
    before, now = json.loads(file.read_text(encoding="utf-8")), _made_with(config, job)
    changes = [
        f"{key} is {before['made_with'].get(key)!r} there, {value!r} here"
        for key, value in now.items()
        if before["made_with"].get(key) != value
    ]
    for name, path in config.models.items():
        old = before["models"].get(name)
        if (
            old is not None
            and old != _model_mark(path)
            and any(r["model"] == name for r in job.rows)
        ):
            changes.append(f"the model {name!r} was another one")
    if changes:
        raise ConfigError(
            f"{job.path} was made in another way ({'; '.join(changes)}): give another run_dir, or "
            "--overwrite to do it again in its place"
        )
    for key, now in _scored_by(job, scorers).items():
        old = before["scored_by"].get(key, now)
        if old != now:
            raise ConfigError(
                f"{job.path} has rows whose {key} was scored by {old or 'nothing'}, now it is by "
                f"{now or 'nothing'}: score them again with --rescore first"
            )


def _scored_by(job: Job, scorers: dict[str, str]) -> dict[str, str | None]:
    keys = [key for name in job.items for key in GRADED_BY.get(name, ())]
    return {key: scorers.get(key) for key in keys}


def _made_with(config: EvalConfig, job: Job) -> dict[str, Any]:
    return {"version": job.suite.version, **{key: getattr(config, key) for key in ASKED_WITH}}


def _groups(job: Job) -> dict[str, Sequence[GroupMean]]:
    """The means over groups of lm-evaluation-harness that were asked for, now and before."""
    file = job.path.with_suffix(".json")
    before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    kept = {
        name: [GroupMean(**mean) for mean in means]
        for name, means in before.get("groups", {}).items()
    }
    return kept | ({} if job.harness is None else job.harness.groups())


def _model_mark(path: str) -> str:
    """What tells one model's files from another's: names, sizes and times, not their content."""
    files = sorted([*Path(path).glob("*.safetensors"), Path(path) / "config.json"])
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr(stats).encode()).hexdigest()[:16]


def _write_summary(
    config: EvalConfig, job: Job, scorers: dict[str, str], found: Sequence[Measure]
) -> None:
    """eval/<suite>.json: how the suite was asked, of which models, and its measures."""
    file = job.path.with_suffix(".json")
    before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    marks = {name: _model_mark(path) for name, path in config.models.items()}
    made_with = before.get("made_with") if config.rescore else None
    left_out = before.get("left_out", {})
    for task, by_model in job.left_out.items():
        left_out[task] = left_out.get(task, {}) | by_model
    summary = {
        "suite": job.suite.name,
        "command": command_of("eval", config),
        "made_with": made_with or _made_with(config, job),
        "models": before.get("models", {}) | marks,
        "scored_by": before.get("scored_by", {}) | _scored_by(job, scorers),
        "left_out": left_out,
        "lm_eval": before.get("lm_eval") if job.harness is None else job.harness.version,
        "groups": {name: [m._asdict() for m in means] for name, means in _groups(job).items()},
        "measures": [measure.to_row() for measure in found],
    }
    with replacing(file) as partial:
        partial.write_text(json.dumps(summary, indent=1, ensure_ascii=False), encoding="utf-8")
