"""Tasks of lm-evaluation-harness by name, their samples as rows of the suites (extra ``harness``).

The harness asks and scores; what it scored becomes rows with bootstrap intervals beside our own.
Rows are of the single task, never of the group that was asked for: scores of different data sets
have no common mean but where the harness defines one (``harness_groups``).
Its tasks take their data from the Hugging Face hub, or from files of the same rows: a folder of the
task's name with a file for each split. Task files of the paper's data sets are in
``lm_eval_tasks``.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from heedful.errors import ConfigError, DataError, EvaluationError, MissingExtraError
from heedful.evaluation.harness_groups import PREFIX, GroupMean, as_they_are
from heedful.evaluation.items import Metric, Row, Scores, Task
from heedful.evaluation.room import Room
from heedful.evaluation.scorers import BLEU_COLUMNS, bleu, bleu_counts
from heedful.memory import out_of_memory
from heedful.metrics import replacing

OWN_TASKS = Path(__file__).parent / "lm_eval_tasks"
LOCAL = "lm_eval"  # folder of the data directory
# Rows that are asked at a time at most; the harness pads them to the longest.
MAX_BATCH = 64
# How files of rows end.
ROW_FILES = ("jsonl", "json", "jsonl.gz", "json.gz")
BLEU = "bleu"


class Part(NamedTuple):
    """A single task of what is asked."""

    num_documents: int
    means: Mapping[str, bool]  # {measure: whether it is the mean of the documents' scores}
    cluster: str = ""  # the field that documents share which belong together

    def keeps(self, measure: str) -> bool:
        """Whether the mean over documents is this measure.

        The harness gives what a task does not list the mean, or what it does with the listed one
        that it came from.
        """
        return self.means.get(measure, all(self.means.values()))


class Asked(NamedTuple):
    """What the harness is asked: a task, a group or a tag of it."""

    name: str  # with the prefix
    parts: Mapping[str, Part]  # by task
    groups: Mapping[str, Sequence[GroupMean]]

    def row_keys(self) -> set[tuple[str, str]]:
        """The (task, id) of its rows."""
        return {
            (PREFIX + task, str(number))
            for task, part in self.parts.items()
            for number in range(part.num_documents)
        }


def require_harness() -> Any:
    """The harness; MissingExtraError where it is not installed."""
    try:
        import datasets
        import lm_eval
    except ImportError as error:
        raise MissingExtraError(
            "tasks of lm-evaluation-harness need lm-eval: pip install 'heedful[harness]'"
        ) from error
    # what it would say of replaced task files and of cut prompts is said by heed eval
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    return lm_eval


def task_manager(data: Path, task_files: Path | None, scratch: Path, names: Sequence[str]) -> Any:
    """The harness's index of its tasks, of ours and of ``task_files``.

    Tasks whose rows are in files below ``data`` read them: task files that say so are written to
    ``scratch``. ``names`` are those that are asked for.
    """
    require_harness()
    from lm_eval.tasks import TaskManager

    own: list[str | Path] = [OWN_TASKS, *([task_files] if task_files else [])]
    manager = TaskManager(include_path=own)
    local = write_local_tasks(manager.task_index, data, scratch, names)
    if local:  # a whole index takes seconds
        read = TaskManager(include_path=scratch, include_defaults=False).task_index
        manager.task_index.update({name: read[name] for name in local})
    return manager


def write_local_tasks(
    index: Mapping[str, Any], data: Path, scratch: Path, names: Sequence[str]
) -> list[str]:
    """The names of tasks with files of rows; a task file for each is in ``scratch``.

    What else stands beside their folders is left aside; a folder without a task of its name is
    said, as that may be a slip. DataError where the folder of one of ``names`` has no rows.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    for file in scratch.glob("*.yaml"):
        file.unlink()
    places = [place for root in (data, data / "eval") for place in sorted(root.glob(f"{LOCAL}/*"))]
    found = []
    for folder in places:
        if not folder.is_dir() or folder.name.startswith("."):
            continue
        if folder.name not in index:
            print(f"left out: {folder}: {_unknown(folder.name, index)}", file=sys.stderr)
            continue
        files = {split: path for path in sorted(folder.iterdir()) if (split := _split_of(path))}
        if not files:
            if PREFIX + folder.name in names:
                raise DataError(
                    f"{folder} has no rows: a file for each split is needed, such as test.jsonl"
                )
            continue
        settings = {
            "include": str(index[folder.name].yaml_path),
            "task": folder.name,
            "tag": [],  # it is in its tags already
            "dataset_path": "json",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": {split: str(path) for split, path in files.items()}},
        }
        # JSON is YAML
        with replacing(scratch / f"{folder.name}.yaml") as partial:
            partial.write_text(json.dumps(settings, indent=1), encoding="utf-8")
        found.append(folder.name)
    return found


def _split_of(path: Path) -> str:
    """The split whose rows a file has, empty where it is no file of rows."""
    split, _, ending = path.name.partition(".")
    return split if ending in ROW_FILES and path.is_file() else ""


def find(manager: Any, names: Sequence[str], limit: int | None) -> list[Asked]:
    """What is asked under these names (with the prefix); ConfigError names the near ones.

    ConfigError too where a task has no measure that is a mean over documents, before it is asked.
    """
    found = []
    for name in names:
        bare = name.removeprefix(PREFIX)
        if bare not in manager.all_tasks:
            raise ConfigError(_unknown(bare, manager.all_tasks))
        with _data_of(name):
            loaded = manager.load([bare])
            parts = {key: _part(task, limit) for key, task in loaded["tasks"].items()}
        for key, task in loaded["tasks"].items():
            _require_rows(name, key, task, parts[key])
        groups = {
            PREFIX + key: [
                GroupMean(mean.metric, mean.filter_list, mean.weight_by_size, _tasks_in(group))
                for mean in group.aggregate_metric_list
            ]
            for key, group in loaded.get("groups", {}).items()
            if group.aggregate_metric_list
        }
        found.append(Asked(name, parts, groups))
    return found


def _tasks_in(group: Any) -> list[str]:
    return [PREFIX + task.task_name for task in group.get_all_tasks()]


def _part(task: Any, limit: int | None) -> Part:
    number = len(task.eval_docs)
    means = {name: _is_mean(name, how) for name, how in task.aggregation().items()}
    described = getattr(task.config, "metadata", None) or {}
    number = number if limit is None else min(number, limit)
    return Part(number, means, described.get("cluster", ""))


def _is_mean(measure: str, how: Any) -> bool:
    """Whether the harness makes this measure of the documents' scores by their mean.

    BLEU counts too: it is made anew of what each document adds to it.
    """
    if getattr(how, "__module__", "") != "lm_eval.api.metrics":  # a task's own
        return False
    return how.__name__ == "mean" or how.__name__ == measure == BLEU


def _require_rows(name: str, key: str, task: Any, part: Part) -> None:
    where = name if name == PREFIX + key else f"{name}, task {key}"
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        raise ConfigError(
            f"{where} measures the probability of whole texts, which makes no rows here: leave it "
            "out, or run lm_eval itself"
        )
    if part.means and not any(part.means.values()):
        raise ConfigError(
            f"{where} has no measure that is a mean over its documents (it has "
            f"{', '.join(part.means)}): leave it out, or run lm_eval itself"
        )
    if part.cluster and part.num_documents and part.cluster not in task.eval_docs[0]:
        raise ConfigError(
            f"{where}: metadata.cluster of its task file is {part.cluster!r}; its rows have "
            f"{', '.join(task.eval_docs[0])}"
        )


def _unknown(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    hint = f": did you mean {' or '.join(map(repr, near))}?" if near else ""
    return f"lm-evaluation-harness has no task {name!r}{hint}"


@contextmanager
def _data_of(name: str) -> Iterator[None]:
    """Says which files would do where a task's data cannot be had."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        if out_of_memory(error):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        bare = name.removeprefix(PREFIX)
        raise DataError(
            f"{name}: its data could not be loaded ({type(error).__name__}: {reason}): it comes "
            f"from the Hugging Face hub, under the licence that stands there, or from files of its "
            f"rows {LOCAL}/{bare}/<split>.jsonl in the data directory"
        ) from error


def load_model(path: str, dtype: str, device: str, context: int, max_tokens: int) -> Any:
    """The harness's own model of a directory."""
    from lm_eval.models import huggingface

    new_model: Any = huggingface.HFLM  # its settings stand in no signature
    return new_model(
        pretrained=path,
        dtype=dtype,
        device=device,
        batch_size=max(1, min(MAX_BATCH, max_tokens // context)),
    )


def ask(
    manager: Any,
    asked: Asked,
    model: Any,
    *,
    shots: int,
    limit: int | None,
    seed: int,
    run_code: bool = False,
) -> list[Row]:
    """What a model says to a task, in the form of the suites' rows, without the model's name.

    ``shots`` 0 leaves their number to the task. Where memory runs out the batch is halved. Code
    that a model writes is run where ``run_code`` allows it: else the harness refuses such tasks.
    """
    lm_eval = require_harness()
    if run_code:
        os.environ["HF_ALLOW_CODE_EVAL"] = "1"
    room = Room(tokens=1, rows=model.batch_size)
    results = None
    while results is None:
        try:
            with _data_of(asked.name):
                results = lm_eval.simple_evaluate(
                    model=model,
                    tasks=[asked.name.removeprefix(PREFIX)],
                    task_manager=manager,
                    num_fewshot=shots or None,
                    limit=limit,
                    bootstrap_iters=0,
                    log_samples=True,
                    confirm_run_unsafe_code=run_code,
                    random_seed=seed,
                    numpy_random_seed=seed,
                    torch_random_seed=seed,
                    fewshot_random_seed=seed,
                )
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            room.halve_rows(error, room.rows)
            model.batch_size_per_gpu = room.rows
        except AssertionError as error:  # how the harness refuses what a model cannot do
            raise EvaluationError(f"{asked.name}: lm-evaluation-harness says: {error}") from error
    return rows_of(results, asked, seed, model)


def rows_of(results: Mapping[str, Any], asked: Asked, seed: int, model: Any) -> list[Row]:
    """The harness's samples as rows: one for each document, of all its filters."""
    rows: dict[tuple[str, str], Row] = {}
    for task, samples in results["samples"].items():
        shots = results["n-shot"].get(task, 0)
        for sample in samples:
            key = task, str(sample["doc_id"])
            row = rows.get(key)
            if row is None:
                row = rows[key] = _row(*key, asked.parts[task], sample, f"{shots} shots", seed)
                row["facts"]["cut"] = _is_cut(sample, model)
            higher_is_better = results["higher_is_better"].get(task, {})
            scores, better = _scores(sample, asked.parts[task], higher_is_better)
            row["scores"] |= scores
            row["facts"]["higher_is_better"] |= better
    return list(rows.values())


def _row(task: str, name: str, part: Part, sample: Row, variant: str, seed: int) -> Row:
    requests = arguments(sample)
    said = sample["filtered_resps"]
    row: Row = {
        "task": PREFIX + task,
        "variant": variant,
        "id": name,
        "cluster": _cluster(sample["doc"][part.cluster]) if part.cluster else name,
        "prompt": requests[0][0],
    }
    if all(isinstance(answer, list | tuple) for answer in said):
        row["choices"] = [request[1] for request in requests]
        row["logprobs"] = [answer[0] for answer in said]
    else:
        row["response"] = str(said[0])
    facts = {"target": str(sample.get("target")), "higher_is_better": {}}
    return row | {"facts": facts, "seed": seed, "scores": {}}


def _cluster(shared: Any) -> str:
    """A short name for what documents share."""
    return hashlib.sha256(str(shared).encode()).hexdigest()[:16]


def arguments(sample: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """What a logged sample asked: (prompt, choice) or (prompt, how to generate), in order."""
    given = sample["arguments"]
    parts = given.values() if isinstance(given, dict) else given
    return [tuple(part.values()) if isinstance(part, dict) else tuple(part) for part in parts]


def _scores(
    sample: Row, part: Part, higher_is_better: Mapping[str, Any]
) -> tuple[Scores, dict[str, Any]]:
    """({measure: score}, {measure: whether higher is better}) of a sample under its filter."""
    suffix = "" if sample["filter"] == "none" else f" ({sample['filter']})"
    scores: Scores = {}
    better: dict[str, Any] = {}
    for name in filter(part.keeps, sample["metrics"]):
        value = sample.get(name)
        if name == BLEU and isinstance(value, list | tuple):
            reference, said = value
            first = reference if isinstance(reference, str) else reference[0]
            scores |= bleu_counts(said if isinstance(said, str) else said[0], first)
        elif isinstance(value, bool | int | float):
            scores[name + suffix] = float(value)
        else:
            continue
        better[BLEU if name == BLEU else name + suffix] = higher_is_better.get(name)
    return scores, better


def _is_cut(sample: Row, model: Any) -> bool:
    """Whether the harness had to cut the beginning of a prompt to fit the model's context."""
    for request in arguments(sample):
        prompt, more = request[0], request[1]
        if isinstance(more, dict):
            length = len(model.tok_encode(prompt)) + int(
                more.get("max_gen_toks", model.max_gen_toks)
            )
        else:
            length = len(model.tok_encode(prompt + more))
        if length > model.max_length:
            return True
    return False


def tasks_of(rows: Iterable[Row]) -> list[Task]:
    """The harness's tasks that rows are of, with the measures that their rows have."""
    better: dict[str, dict[str, bool | None]] = {}
    for row in rows:
        if row["task"].startswith(PREFIX):
            better.setdefault(row["task"], {}).update(row["facts"]["higher_is_better"])
    return [
        Task(name, (), lambda paths, shots: iter(()), as_they_are, _metrics(measures))
        for name, measures in better.items()
    ]


def _metrics(better: Mapping[str, bool | None]) -> dict[str, Metric]:
    return {
        name: Metric(BLEU_COLUMNS, bleu, True) if name == "bleu" else Metric((name,), "mean", up)
        for name, up in better.items()
    }
