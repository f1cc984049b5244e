"""Settings of the commands that sample from models: completions, few-shot prefixes, measures."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from heedful.config_file import (
    Compute,
    Demonstrations,
    File,
    LanguageModel,
    Positive,
    Prompts,
    RewardModel,
    Section,
    Share,
    TextFiles,
    Texts,
)


class Sampling(Section):
    max_new_tokens: Positive = 1024
    """Longest response in tokens (paper C: 1k)."""
    temperature: Annotated[float, Field(ge=0.0)] = 1.0
    """Sampling temperature; 0 is greedy (paper C.4: 1 in rollouts)."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Nucleus sampling; 1 samples from the whole distribution."""
    max_rows: Positive = 256
    """Sequences decoded at a time; bounds memory, never changes the distribution."""


class SampledModel(Section):
    name: str
    """Name of the model in the output."""
    path: LanguageModel
    """Its directory."""
    prefix: File | None = None
    """File with the few-shot prefix to put before every prompt (written by heed prefix)."""
    num_samples: Positive = 1
    """Completions per prompt."""
    best_of: Positive = 1
    """Samples of which the reward model chooses each completion: best-of-n."""
    stop: Texts = ()
    """Text at which a completion ends, besides EOS."""


class SampleConfig(Section):
    """heed sample: completions of one or more models for every prompt."""

    run_dir: str
    """Directory to write; completions.jsonl in it."""
    seed: int = 0
    """Seed of the samples."""
    models: tuple[SampledModel, ...]
    """The models, one section each."""
    prompts: Prompts
    """Prompt files."""
    split: Literal["train", "valid", "test"] | None = None
    """Only prompts of this split."""
    use: str | None = None
    """Only prompts whose `use` field has this value."""
    valid_share: Share = 0.05
    """Share of prompts without a split that counts as valid."""
    limit: Positive | None = None
    """Prompts at most."""
    reward_model: RewardModel | None = None
    """Reward model directory; adds its score to every completion."""
    max_prompt_tokens: Positive = 1024
    """Longest prompt, prefix included; longer ones keep their end."""
    sampling: Sampling = Sampling()
    compute: Compute = Compute()


class PrefixConfig(Section):
    """heed prefix: the few-shot prefix under which a base model scores best (paper 5.6)."""

    run_dir: str
    """Directory to write; prefix.json in it."""
    seed: int = 0
    """Seed of the samples."""
    model: LanguageModel
    """Directory of the base model."""
    reward_model: RewardModel
    """Directory of the reward model that chooses."""
    prefixes: File | None = None
    """JSONL file of candidates that people wrote: {"id", "text"}; a prompt follows as
    "Task: {prompt}\\nAnswer:"."""
    demonstrations: Demonstrations = ()
    """Demonstration files out of whose train split further candidates are drawn."""
    num_drawn: Positive = 16
    """Candidates drawn from them."""
    shots: Positive = 4
    """Demonstrations in a drawn candidate."""
    prompts: Prompts
    """Validation prompt files."""
    use: str | None = None
    """Only prompts whose `use` field has this value."""
    num_prompts: Positive = 100
    """Prompts answered per candidate."""
    stop: Texts = ("\n\n", "\nTask:")
    """Text at which a completion ends."""
    max_prompt_tokens: Positive = 1024
    """Longest prompt, prefix included."""
    sampling: Sampling = Sampling()
    compute: Compute = Compute()


class MeasureConfig(Section):
    """heed measure: next-token loss on held-out text and few-shot recall of one or more models."""

    run_dir: str
    """Directory to write; measures.json in it."""
    models: tuple[SampledModel, ...]
    """The models, one section each."""
    text: TextFiles
    """Held-out text."""
    num_documents: Positive = 400
    """Documents scored at most."""
    max_document_tokens: Positive = 1_000_000
    """Tokens of a document that are scored at most: its beginning."""
    recall: File | None = None
    """JSONL file of few-shot quizzes: {"id", "text", "answer"}."""
    compute: Compute = Compute()
