"""heed judge: a model over the network, or people, compare answers or grade those to TruthfulQA."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from heedful.commands.grade import GRADES_FILE, grade_all
from heedful.commands.progress import file_progress
from heedful.config import JudgeConfig, dump_toml
from heedful.data.formats import read_completions
from heedful.errors import ConfigError, DataError, EvaluationError
from heedful.evaluation.endpoint import Endpoint
from heedful.evaluation.grading import answers_in, grading_tasks
from heedful.evaluation.judge import CRITERIA, Judged, Pair, Price, judge_pairs, report
from heedful.evaluation.people import ranking_tasks
from heedful.evaluation.suite import read_results
from heedful.metrics import replacing
from heedful.records import Completion, Prompt, to_row

JUDGEMENTS_FILE = "judgements.jsonl"
REPORT_FILE = "judge.json"
FAILED_FILE = "failed.jsonl"
ANSWERS_FILE = "answers.jsonl"
TASKS_FILE = "tasks.jsonl"
KEY_FILE = "key.jsonl"
EXPORT_FOLDER = "export"  # where the commands that are printed put people's answers
CONFIG_FILE = "config.toml"
# What the tasks of TruthfulQA are to the service: questions of a benchmark train nothing.
BENCHMARK = {"split": "test", "source": "api", "use_case": "open_qa"}
# The same verdict each time, and room for a sentence of reasons.
REQUEST: dict[str, Any] = {"temperature": 0.0, "max_tokens": 400}

Rows = list[tuple[Prompt, tuple[Completion, ...]]]


def run_judge(config: JudgeConfig, resume: bool = False) -> None:
    """Writes the judgements of a model and what they cost, or tasks for people and their key."""
    run_dir = Path(config.run_dir)
    progress = file_progress(run_dir)
    (run_dir / CONFIG_FILE).write_text(dump_toml(config), encoding="utf-8")
    if config.truthfulqa is not None:
        _grade(config, run_dir, progress)
        return
    if config.samples is None:
        raise ConfigError("there is nothing to judge: give --samples=FILE, or --truthfulqa=FILE")
    rows = list(read_completions(config.samples))[: config.limit]
    models = _models(config, rows)
    if config.by == "people":
        _write_tasks(config, rows, models, run_dir)
        return
    _require_model(config)
    pairs = [pair for model in models for pair in _pairs(rows, model, config.baseline)]
    criteria = CRITERIA
    if config.criteria is not None:
        criteria = " ".join(Path(config.criteria).read_text(encoding="utf-8").split())
    judged = judge_pairs(
        pairs,
        _endpoint(config),
        config.model,
        file=run_dir / ANSWERS_FILE,
        criteria=criteria,
        settings=_request(config),
        progress=progress,
        seed=config.seed,
    )
    _write(run_dir / JUDGEMENTS_FILE, (to_row(judgement) for judgement in judged.judgements))
    _write(run_dir / FAILED_FILE, judged.failed)
    found = report(judged, Price(config.price_prompt, config.price_completion))
    with replacing(run_dir / REPORT_FILE) as partial:
        partial.write_text(json.dumps(found, indent=1), encoding="utf-8")
    print(describe(judged, found), flush=True)
    _require_enough(config, judged)


def _require_model(config: JudgeConfig) -> None:
    if not config.model:
        raise ConfigError("model is empty: give the name of the judge, as --model=NAME")


def _request(config: JudgeConfig) -> dict[str, Any]:
    return REQUEST if config.request is None else config.request


def _grade(config: JudgeConfig, run_dir: Path, progress: Callable[[int, int], None]) -> None:
    """Writes grades of the written answers to TruthfulQA, or tasks for people who grade them."""
    if config.samples is not None or config.criteria is not None:
        raise ConfigError(
            "truthfulqa grades answers by the benchmark's criteria: leave out samples and criteria"
        )
    answers = answers_in(read_results(Path(str(config.truthfulqa))))[: config.limit]
    if config.by == "people":
        tasks = grading_tasks(answers, most=config.outputs_per_task)
        _write(run_dir / TASKS_FILE, ({**task, **BENCHMARK} for task in tasks))
        print(
            f"{len(answers):,} different answers in {len(tasks):,} tasks in "
            f"{run_dir / TASKS_FILE}: import them into a project of heed label serve that asks "
            "whether outputs are true and informative. Then (NAME, DATABASE and DIR, the folder of "
            f"the benchmarks, are yours to put in):\n{_grading_commands(config, run_dir)}",
            file=sys.stderr,
        )
        return
    _require_model(config)
    found = grade_all(
        answers,
        _endpoint(config),
        config.model,
        _request(config),
        file=run_dir / ANSWERS_FILE,
        progress=progress,
    )
    _write(run_dir / GRADES_FILE, found.rows)
    _write(run_dir / FAILED_FILE, found.failed)
    price = Price(config.price_prompt, config.price_completion)
    with replacing(run_dir / REPORT_FILE) as partial:
        partial.write_text(json.dumps(found.report(price), indent=1), encoding="utf-8")
    print(found.describe(), flush=True)
    if len(found.failed) > config.max_failed * len(answers):
        raise EvaluationError(
            f"{len(found.failed):,} of {len(answers):,} answers have no grade; "
            f"{run_dir / FAILED_FILE} says why. What was graded is kept: the same command asks for "
            "the rest alone"
        )


def describe(judged: Judged, found: Mapping[str, Any]) -> str:
    """What judging came to, in lines for a terminal."""
    lines = [
        f"{judged.num_judged:,} of {judged.num_pairs - judged.num_equal:,} pairs judged in both "
        f"orders; {judged.num_equal:,} more are of one text: ties"
    ]
    if judged.first_place is not None and judged.consistent is not None:
        first, alike = judged.first_place, judged.consistent
        lines.append(
            f"the first place was preferred {first.value:.1%} of the time ({first.low:.1%} to "
            f"{first.high:.1%}; 50 % is no bias); both orders agree on {alike.value:.1%} of pairs"
        )
    tokens = judged.answers.usage.get("total_tokens") or sum(
        judged.answers.usage.get(name, 0) for name in ("prompt_tokens", "completion_tokens")
    )
    cost = f"{tokens:,} tokens"
    if found["cost"]:
        cost += f", which cost {found['cost']:.4g}"
    return "\n".join([*lines, cost, judged.answers.summary()])


def _require_enough(config: JudgeConfig, judged: Judged) -> None:
    """Raises EvaluationError where more pairs than allowed have no verdict."""
    asked = judged.num_pairs - judged.num_equal
    missing = asked - judged.num_judged
    if missing > config.max_failed * asked:
        raise EvaluationError(
            f"{missing:,} of {asked:,} pairs have no verdict in both orders; "
            f"{Path(config.run_dir) / FAILED_FILE} says why. What was answered is kept: the same "
            "command asks for the rest alone"
        )


def _models(config: JudgeConfig, rows: Rows) -> list[str]:
    """The models to compare, checked to be in the file with the baseline."""
    seen = dict.fromkeys(one.model for _, given in rows for one in given if one.model is not None)
    models = list(config.models) or [name for name in seen if name != config.baseline]
    unknown = [name for name in (config.baseline, *models) if name not in seen]
    if unknown or not models:
        raise DataError(
            f"{config.samples} has no answers of {', '.join(unknown) or 'two models'}; its models: "
            f"{', '.join(seen) or 'none'}"
        )
    return models


def _pairs(rows: Rows, model: str, baseline: str) -> Iterator[Pair]:
    """The answers of a model beside those of the baseline: the first with the first, and so on."""
    for prompt, given in rows:
        ours = [one.text for one in given if one.model == model]
        theirs = [one.text for one in given if one.model == baseline]
        for text, other in zip(ours, theirs, strict=False):
            yield Pair(prompt.id, prompt.text, model, text, baseline, other)


def _endpoint(config: JudgeConfig) -> Endpoint:
    key = os.environ.get(config.key_variable, "")
    return Endpoint(
        f"{config.url.rstrip('/')}/chat/completions",
        {"Authorization": f"Bearer {key}"} if key else {},
        tries=config.tries,
        timeout_s=config.timeout_s,
        max_wait_s=config.max_wait_s,
        requests_per_s=config.requests_per_s,
        workers=config.workers,
    )


def _write_tasks(config: JudgeConfig, rows: Rows, models: Sequence[str], run_dir: Path) -> None:
    made = ranking_tasks(
        rows, models, config.baseline, most=config.outputs_per_task, seed=config.seed
    )
    if not made.tasks:
        raise DataError(
            f"{config.samples}: no prompt has different answers of {config.baseline} and of "
            "another model: there is nothing to rank"
        )
    _write(run_dir / TASKS_FILE, made.tasks)
    _write(run_dir / KEY_FILE, made.key)
    print(
        f"{len(made.tasks):,} tasks in {run_dir / TASKS_FILE}: import them into a project of heed "
        f"label serve. {made.num_one_text:,} prompts have one answer from all models and count as "
        "ties. Then (NAME and DATABASE are yours to put in):\n"
        f"{_preference_commands(config, run_dir)}",
        file=sys.stderr,
    )


def _preference_commands(config: JudgeConfig, run_dir: Path) -> str:
    """The commands that count what people have ranked, with the paths that were given here."""
    return "\n".join(
        [
            _export_command(run_dir),
            _command(
                "heed eval preference",
                comparisons=run_dir / EXPORT_FOLDER / "comparisons.jsonl",
                key=run_dir / KEY_FILE,
                samples=config.samples,
                baseline=config.baseline,
                run_dir=run_dir,
            ),
        ]
    )


def _grading_commands(config: JudgeConfig, run_dir: Path) -> str:
    """The commands that score with people's grades the run whose answers they have graded."""
    answers = Path(str(config.truthfulqa))
    is_of_run = answers.parent.name == "eval"
    return "\n".join(
        [
            _export_command(run_dir),
            _command(
                "heed eval truthfulness --rescore",
                tasks="truthfulqa",
                grades=run_dir / EXPORT_FOLDER / "comparisons.jsonl",
                data="DIR",
                run_dir=answers.parent.parent if is_of_run else "RUN",
            ),
        ]
    )


def _export_command(run_dir: Path) -> str:
    out = run_dir / EXPORT_FOLDER
    return _command("heed label export", database="DATABASE", project="NAME", out=out)


def _command(words: str, **settings: Any) -> str:
    given = (f"--{name.replace('_', '-')}={value}" for name, value in settings.items())
    return f"  {shlex.join([*words.split(), *given])}"


def _write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    with replacing(path) as partial, partial.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
