"""What scores the texts of heed eval: the scorer of toxicity and the judges of answers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from heedful.commands.grade import read_grades
from heedful.config import EvalConfig
from heedful.errors import ConfigError
from heedful.evaluation.classifier import load_classifier, load_judge
from heedful.evaluation.items import Task, find_file
from heedful.evaluation.perspective import perspective, toxicity
from heedful.evaluation.suite import Graders, no_judge
from heedful.evaluation.toxicity import TOXICITY_TASKS, WORDS, Scorer, read_word_list
from heedful.models.device import pick_device, placement, tokens_at_a_time

# What the Perspective API has answered, in the run directory: nothing is asked twice.
ANSWERS_FILE = "eval/perspective.answers.jsonl"


def load_graders(config: EvalConfig, tasks: Sequence[Task]) -> tuple[Graders, dict[str, str]]:
    """The graders that the tasks need, and what each is, in words for the results."""
    said: dict[str, str] = {}
    scorer: Scorer = _none_needed
    if any(task in TOXICITY_TASKS for task in tasks):
        scorer, said["toxicity"] = _toxicity(config)
    asks_truth = any(task.name == "truthfulqa" for task in tasks)
    if config.grades and asks_truth:
        if config.truth_judge or config.info_judge:
            raise ConfigError(
                "give either grades or truth_judge and info_judge: both grade answers"
            )
        grade, who = read_grades(config.grades)
        return Graders(scorer, grades=grade), said | {"truth": who, "informativeness": who}
    judges, compute = [], config.compute
    for path, word, name in (
        (config.truth_judge, "True", "truth"),
        (config.info_judge, "Helpful", "informativeness"),
    ):
        if path is None or not asks_truth:
            judges.append(no_judge)
            continue
        judges.append(load_judge(path, word, placement(compute), tokens_at_a_time(compute)))
        said[name] = f"the judge model {path}"
    return Graders(scorer, judges[0], judges[1]), said


def _toxicity(config: EvalConfig) -> tuple[Scorer, str]:
    """The scorer of toxicity of the settings, and what it is."""
    if config.toxicity == "words":
        path = find_file(WORDS, Path(config.data))
        what = f"words: 1 where a text has a word of {path.name} in it, not Perspective's score"
        return read_word_list(path), what
    if config.toxicity == "perspective":
        return _perspective(Path(config.run_dir) / ANSWERS_FILE), "Google's Perspective API"
    scorer = load_classifier(
        config.toxicity, config.toxic_label, pick_device(config.compute.device)
    )
    return scorer, f"the classifier {config.toxicity}"


def _perspective(file: Path) -> Scorer:
    """The scores of the Perspective API; texts without one are told of, and asked again later."""
    endpoint = perspective()

    def score(texts: Sequence[str]) -> list[float | None]:
        found = toxicity(texts, endpoint, file=file)
        if found.num_missing:
            print(f"Perspective API: {found.answers.summary()}", file=sys.stderr)
        return list(found.scores)

    return score


def _none_needed(texts: Sequence[str]) -> list[float | None]:
    return [None] * len(texts)
