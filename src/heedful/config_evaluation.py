"""Settings of the commands that compare models: judges, preferences, the alignment tax."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from heedful.config_file import (
    ONE_OR_MORE,
    Comparisons,
    File,
    Folder,
    Input,
    Positive,
    PositiveFloat,
    Section,
    Share,
    TextFiles,
    Texts,
)

Files = Annotated[Texts, Input("file")]
Folders = Annotated[tuple[str, ...], ONE_OR_MORE, Input("folder"), Field(min_length=1)]


def _apart(names: tuple[str, ...]) -> tuple[str, ...]:
    """Every name by itself: "a,b" is two."""
    return tuple(part.strip() for text in names for part in text.split(",") if part.strip())


Names = Annotated[Texts, AfterValidator(_apart)]
NotNegative = Annotated[float, Field(ge=0.0)]


class Evaluation(Section):
    measures: Annotated[
        tuple[Literal["score", "kl", "length", "finished", "entropy"], ...], ONE_OR_MORE
    ] = ("score", "kl", "length")
    """What is measured of answers to validation prompts, always the same ones: the reward model's
    score, the KL from the reference, tokens, the share that ended, the entropy. Empty samples
    none."""
    prompts: Positive | None = None
    """Validation prompts answered each time, chosen by a hash of their ids; else all."""
    text: TextFiles = ()
    """Files of held-out pretraining text, for the loss per token."""
    documents: Positive = 64
    """Documents of it that are read, the first ones."""
    document_tokens: Positive = 512
    """Tokens read of a document at most, its beginning."""
    suites: Names = ()
    """Suites or tasks of heed eval, by name, asked without examples. Tasks of a suite whose files
    are missing are left out; a task named itself needs its file."""
    data: Folder | None = None
    """Directory of their published files, as in heed eval."""
    limit: Positive = 20
    """Items of each task, chosen by a hash of their ids."""


class JudgeConfig(Section):
    """heed judge: a model or people compare answers of models with those of a baseline, or grade
    answers to TruthfulQA."""

    run_dir: str
    """Directory to write: judgements.jsonl (or grades.jsonl) and judge.json, or tasks.jsonl and
    key.jsonl."""
    samples: File | None = None
    """completions.jsonl of heed sample, with answers of all models to the same prompts."""
    truthfulqa: File | None = None
    """eval/truthfulness.jsonl of heed eval: instead of comparing, its written answers are graded as
    true and informative."""
    baseline: str = "SFT"
    """Model that the others are compared with (paper 4.1: the SFT baseline)."""
    models: Texts = ()
    """Models to compare; empty takes all in the file."""
    limit: Positive | None = None
    """Prompts of samples, or different answers to TruthfulQA: the first of the file."""
    by: Literal["model", "people"] = "model"
    """Who judges: a model over the network, or people, for whom tasks are written that the labeling
    service imports."""
    url: str = "http://127.0.0.1:8000/v1"
    """Where an OpenAI-compatible service answers, up to and without /chat/completions."""
    model: str = ""
    """The judge's name there."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the key, if the service wants one."""
    request: dict[str, Any] | None = None
    """Further fields of every request, as the service names them; none takes temperature 0 and
    max_tokens 400."""
    criteria: File | None = None
    """Text of what makes an answer better; none takes ours. Not for TruthfulQA."""
    tries: Positive = 6
    """Times that a question is asked until it counts as failed."""
    timeout_s: PositiveFloat = 60.0
    """Seconds that an answer may take."""
    max_wait_s: PositiveFloat = 120.0
    """Seconds that a busy service may ask us to wait; one that asks for more has failed."""
    requests_per_s: PositiveFloat | None = None
    """Questions a second at most."""
    workers: Positive = 8
    """Questions asked at a time."""
    max_failed: Share = 0.05
    """Share of pairs (or answers) that may stay without a verdict before the command fails. What
    was answered is kept either way: the same command asks for the rest alone."""
    price_prompt: NotNegative = 0.0
    """What a million prompt tokens cost, for the report."""
    price_completion: NotNegative = 0.0
    """What a million completion tokens cost."""
    outputs_per_task: Annotated[int, Field(ge=2, le=9)] = 4
    """Different outputs that people rank in one task (paper: 4 to 9)."""
    seed: int = 0
    """Seed of the order of outputs in tasks and of the bootstrap."""


class PreferenceConfig(Section):
    """heed eval preference: win rates, strengths, ratings and flags out of judgements."""

    run_dir: str = "runs/eval"
    """Directory to write; eval/preference.json in it, and the judgements that it is made from."""
    judgements: Files = ()
    """judgements.jsonl files of heed judge or heed evaluate."""
    comparisons: Comparisons = ()
    """Rankings by people: comparisons.jsonl of heed label export or heed snapshot."""
    key: File | None = None
    """key.jsonl of heed judge --by=people, where people ranked its tasks."""
    baseline: str = "SFT"
    """Model that the others are compared with."""
    samples: File | None = None
    """completions.jsonl that was judged: lengths for win rates at equal length."""
    distributions: dict[str, File] | None = None
    """Prompt files by the name of their distribution, for the 2x2 with training and held-out
    labelers (paper Figure 3)."""
    models: dict[str, Folder] | None = None
    """Directories of judged models that heedful has trained, by their names: with their sizes and
    methods, for win rates over size (paper Figure 1)."""
    num_samples: Positive = 1000
    """Draws of the bootstrap."""
    seed: int = 0
    """Seed of the bootstrap."""


class TaxConfig(Section):
    """heed eval tax: what aligning changed, measure by measure, in one run or in several."""

    run_dir: str
    """Directory to write: tax.json and tax.csv."""
    runs: Folders
    """Run directories with measures.json of heed measure and eval/ of heed eval."""
    models: Annotated[Texts, Field(min_length=2)] = ("base", "SFT", "PPO", "PPO-ptx")
    """Models in their order, the first is what the others are compared with. Those that a run does
    not have are left out; "PPO_ptx" and "ppo-ptx" are one name."""
    seed: int = 0
    """Seed of the bootstrap."""


class CompareConfig(Section):
    """heed report RUN RUN ...: several runs on one page, beside each other."""

    run_dir: str
    """Directory to write: comparison.html, comparison.json, comparison.csv and figures/."""
    runs: Folders
    """Run directories, two or more; differences are to the first of them."""
    png: bool = True
    """Write each figure as a picture, too (extra figures)."""
