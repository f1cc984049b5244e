"""What scores the texts of heed eval: the scorer of toxicity and the judges of answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from heedful.config import EvalConfig
from heedful.evaluation.classifier import load_classifier, load_judge
from heedful.evaluation.items import Task, find_file
from heedful.evaluation.suite import Graders, no_judge
from heedful.evaluation.toxicity import TOXICITY_TASKS, WORDS, Scorer, read_word_list
from heedful.models.language_model import pick_dtype


def load_graders(config: EvalConfig, tasks: Sequence[Task]) -> tuple[Graders, dict[str, str]]:
    """The graders that the tasks need, and what each is, in words for the results."""
    said: dict[str, str] = {}
    toxicity: Scorer = _none_needed
    if any(task in TOXICITY_TASKS for task in tasks):
        toxicity, said["toxicity"] = _toxicity(config)
    judges = []
    for path, word, name in (
        (config.truth_judge, "True", "truth"),
        (config.info_judge, "Helpful", "informativeness"),
    ):
        wanted = path is not None and any(task.name == "truthfulqa" for task in tasks)
        if path is None or not wanted:
            judges.append(no_judge)
            continue
        dtype = pick_dtype(config.compute.dtype)
        judges.append(load_judge(path, word, dtype, config.compute.tokens_per_microbatch))
        said[name] = f"the judge model {path}"
    return Graders(toxicity, judges[0], judges[1]), said


def _toxicity(config: EvalConfig) -> tuple[Scorer, str]:
    """The scorer of toxicity of the settings, and what it is."""
    if config.toxicity == "words":
        path = find_file(WORDS, Path(config.data))
        what = f"words: 1 where a text has a word of {path.name} in it, not Perspective's score"
        return read_word_list(path), what
    scorer = load_classifier(config.toxicity, config.toxic_label)
    return scorer, f"the classifier {config.toxicity}"


def _none_needed(texts: Sequence[str]) -> list[float | None]:
    return [None] * len(texts)
