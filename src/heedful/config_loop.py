"""Settings of the commands around the training: miniature world, labels, figures, report."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from heedful.config_file import (
    Comparisons,
    Compute,
    File,
    Folder,
    Input,
    LanguageModel,
    Positive,
    Section,
    Share,
    Texts,
)


class SimulateConfig(Section):
    """heed simulate: the miniature world's text, prompts, demonstrations and probes."""

    run_dir: str
    """Directory to write."""
    seed: int = 0
    """Seed of everything in the world."""
    num_characters: Positive = 64
    """Named characters."""
    num_heldout: Positive = 16
    """Characters that no training prompt names."""
    num_documents: Positive = 40_000
    """Documents of web text for pretraining."""
    num_valid_documents: Positive = 400
    """Documents held out."""
    num_sft_prompts: Positive = 1000
    """Prompts with a demonstration."""
    num_rm_prompts: Positive = 2500
    """Prompts whose completions are ranked."""
    num_ppo_prompts: Positive = 3000
    """Prompts for step 3."""
    num_valid_prompts: Positive = 300
    """Held-out prompts for model selection and reward-model accuracy."""
    num_test_prompts: Positive = 500
    """Prompts for the final evaluation."""


class LabelConfig(Section):
    """heed simulate-labels: screened simulated labelers rate and rank completions."""

    run_dir: str
    """Directory to write: comparisons.jsonl, comparisons_valid.jsonl, comparisons_heldout.jsonl."""
    world: Folder
    """Directory of the world."""
    completions: File
    """Completions of training prompts (a file of heed sample)."""
    completions_valid: File
    """Completions of validation prompts; held-out labelers rank these too."""
    seed: int = 0
    """Seed of the labelers."""
    labels_per_prompt: Positive = 1
    """Labelers per prompt (paper 5.3: most comparisons have one)."""
    overlap: Share = 0.1
    """Share of prompts that three labelers rank, to measure agreement."""
    through: Literal["memory", "service"] = "memory"
    """service: they log in to a labeling service of this run, are screened there, and label over
    HTTP. With it a prompt has labels_per_prompt labelers where that is more than one."""


class DemonstrateConfig(Section):
    """heed simulate-demonstrations: simulated labelers write demonstrations through the service."""

    run_dir: str
    """Directory to write: demonstrations.jsonl, and the snapshot that it is from."""
    world: str
    """Directory of the world."""
    seed: int = 0
    """Seed of the labelers."""
    limit: Positive | None = None
    """The first so many prompts of either split; all if not given."""


class SnapshotConfig(Section):
    """heed snapshot: what people have answered, as prompts, demonstrations and comparisons."""

    run_dir: str
    """Directory to write; the same data give the same files, byte for byte."""
    database: str = "heedful.db"
    """The store: a SQLite file that no service has open, or postgresql+psycopg://user@host/name."""
    project: str
    """Name of the project."""
    heldout: bool = False
    """Answers of held-out labelers too, marked as such; training leaves them out."""
    shared: bool = False
    """Answers to gold and drift tasks too, which everybody is given."""
    extra: bool = True
    """Answers beyond a task's target, which came after their lease had ended."""
    pairs: bool = False
    """Also pairs/comparisons.jsonl: {"prompt", "chosen", "rejected"} for other tools."""
    consensus: bool = False
    """Also pairs/consensus.jsonl: pairs that most of their labelers order alike, with counts."""
    parquet: bool = False
    """Also parquet/: the files as Parquet."""


class EvaluateConfig(Section):
    """heed evaluate (miniature): labelers judge all models; the demo's claims by rule."""

    run_dir: str
    """Directory to write; claims.json and summary.json in it and in the run."""
    run: Folder
    """Loop run directory."""
    world: Folder
    """Directory of the world."""
    samples: File
    """completions.jsonl of all models on the test prompts, with scores."""
    probes: File
    """completions.jsonl on all probes: truth, held-out truth, closed domain, toxicity."""
    measures: File
    """measures.json of heed measure."""
    labels: Folder
    """Directory of heed simulate-labels."""
    reward: Folder
    """Directory of heed reward."""
    shuffled: Folder | None = None
    """Directory of heed reward with shuffled pairs, for the ablation."""
    grouped: Folder | None = None
    """Directory of heed reward that the ablation is compared with: the same rankings and epochs,
    all pairs of a prompt in one batch element. Default: reward."""
    models: dict[str, str]
    """Model directories by name, for sizes and lineage."""
    small_aligned: str = "PPO-ptx"
    """The aligned model that is compared with the "large base"."""
    labelers_per_prompt: Positive = 3
    """Labelers of each cohort per prompt."""
    seed: int = 0
    """Seed of the judges and of the bootstrap."""


class EvalConfig(Section):
    """heed eval: the paper's automatic evaluations, on published files, without a network."""

    run_dir: str = "runs/eval"
    """Directory to write; eval/<suite>.jsonl and eval/<suite>.json in it. What is there is kept:
    the same command goes on where it stopped, and more models, tasks or items are added."""
    suites: Texts = ("all",)
    """truthfulness, toxicity, bias, nlp or all."""
    tasks: Texts = ()
    """Only these tasks of the suites; empty takes all. "lm_eval:NAME" is a task, group or tag of
    lm-evaluation-harness, part of the suite nlp (extra harness)."""
    task_files: Folder | None = None
    """Directory of further task files for lm-evaluation-harness."""
    run_code: bool = False
    """Let tasks of lm-evaluation-harness run the code that a model writes (HumanEval). It runs on
    this machine with your rights: use a machine that may be lost."""
    models: dict[str, LanguageModel] = Field(default={})
    """Model directories by name; differences are to the first."""
    data: Folder
    """Directory of the published files; docs/evaluation.md names them."""
    limit: Positive | None = None
    """Items per task, chosen by a hash of their ids; else all (5,000 prompts for toxicity)."""
    shots: Annotated[int, Field(ge=0)] = 0
    """Examples before each item, where a task takes them (paper appendix D: 2 to 15, by task). For
    tasks of lm-evaluation-harness 0 leaves their number to the task."""
    template: Literal["raw", "model"] = "raw"
    """Prompts as they are (paper appendix D), or in the template that a model was trained with."""
    temperature: Annotated[float, Field(ge=0.0)] = 0.0
    """Sampling temperature of written answers; 0 is greedy (paper appendix D: 0)."""
    seed: int = 0
    """Seed of samples and of the bootstrap."""
    toxicity: str = "words"
    """Scorer of toxicity: "words" (a word list, which says little), "perspective" (needs a key), or
    the directory of a Hugging Face text classifier."""
    toxic_label: str | None = None
    """Label of the classifier that means toxic, if its name does not say so."""
    truth_judge: LanguageModel | None = None
    """Directory of a judge model that says whether an answer is true (TruthfulQA's GPT-judge)."""
    info_judge: LanguageModel | None = None
    """Directory of a judge model that says whether an answer is informative."""
    grades: Annotated[Texts, Input("file")] = ()
    """Grades of TruthfulQA's answers: comparisons.jsonl of people who ranked the tasks of heed
    judge, or grades.jsonl of heed judge by a model. Use it with rescore."""
    rescore: bool = False
    """Score the rows that are there again, with the settings of now; no model is asked."""
    compute: Compute = Compute()


class SummarizeConfig(Section):
    """heed summarize: the figures of a loop on real data."""

    run_dir: str
    """Directory to write; summary.json in it and in the run."""
    run: Folder
    """Loop run directory."""
    comparisons: Comparisons
    """Comparison files of the reward model, for its baselines."""
    valid_share: Share = 0.05
    """As in the reward model's settings."""
    reward: Folder
    """Directory of heed reward."""
    samples: File
    """completions.jsonl of all models, with scores."""
    measures: File
    """measures.json of heed measure."""
    models: dict[str, str]
    """Model directories by name."""
    seed: int = 0
    """Seed of the bootstrap."""


class ReportConfig(Section):
    """heed report: one self-contained HTML page for a run."""

    run_dir: str
    """Directory of this stage."""
    run: Folder
    """Loop run directory to report on."""
    out: str = "report.html"
    """File to write, relative to the run. figures/ beside it gets a table of each figure."""
    png: bool = True
    """Write each figure as a picture, too (extra figures)."""
