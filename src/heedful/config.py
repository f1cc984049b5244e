"""Settings: one frozen model per command, read from TOML, overridden by ``--section.key=value``.

Every field says its meaning, its unit and where its default comes from; ``docs/config.md`` is made
from them. An unknown key is an error that names the nearest known one.
"""

from __future__ import annotations

import difflib
import tomllib
import typing
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from heedful.errors import ConfigError

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0.0)]


class Section(BaseModel):
    """A frozen group of settings that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Compute(Section):
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Compute dtype of the model; weights keep an fp32 master copy in training (paper section 3: fp16
    with fp32 masters). "auto" takes bfloat16 where this processor is fast at it."""
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads; 0 uses all cores."""
    tokens_per_microbatch: Positive = 8192
    """Real tokens in one forward and backward pass; a batch is cut into as many as it needs. Bounds
    memory, never changes the result."""


class Optim(Section):
    lr: PositiveFloat
    """Peak learning rate."""
    batch_size: Positive
    """Examples (SFT), prompts (reward model) or rows of text (pretraining) per update."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate after the warm-up. Cosine falls to final_lr_share (paper C.1, C.2)."""
    final_lr_share: Share = 0.1
    """Share of the peak at which the cosine ends (paper C.1: 10 %)."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Updates of linear warm-up (paper C.1: none)."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Adam's betas (paper appendix C)."""
    eps: PositiveFloat = 1e-8
    """Adam's epsilon (not in the paper)."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    """Decoupled weight decay (not in the paper)."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradient norm at which gradients are clipped (not in the paper)."""


class Log(Section):
    print_every: Positive = 10
    """Steps between log lines."""
    save_every: Annotated[int, Field(ge=0)] = 100
    """Steps between training states from which --resume goes on; 0 saves none."""
    valid_every: Annotated[int, Field(ge=0)] = 0
    """Steps between validations; 0 validates at the end of every epoch, or at the end of the run."""
    sinks: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Metric sinks besides metrics.jsonl."""


class Lora(Section):
    rank: Annotated[int, Field(ge=0)] = 0
    """Rank of LoRA adapters; 0 trains all weights."""
    alpha: PositiveFloat = 16.0
    """LoRA scale; the adapter's output is multiplied by alpha / rank."""
    targets: tuple[str, ...] = ()
    """Names of the linear modules that get adapters; empty takes peft's default for the model."""


class Shape(Section):
    hidden_size: Positive = 128
    """Width of the residual stream."""
    num_layers: Positive = 4
    """Transformer blocks."""
    num_heads: Positive = 2
    """Attention heads; few wide heads are fastest on a CPU."""
    mlp_size: Positive = 384
    """Width of the gated MLP."""
    context: Positive = 256
    """Most tokens of a prompt and response together."""
    tie_embeddings: bool = True
    """Use the input embedding as output head."""


class TextData(Section):
    train: tuple[str, ...] = ()
    """Files, folders or globs of pretraining text."""
    valid: tuple[str, ...] = ()
    """Files, folders or globs of held-out text."""
    skip_bad_rows: bool = False
    """Go on past rows that cannot be read, and write them to bad_rows.jsonl in the run directory."""


class SnapshotData(Section):
    demonstrations: tuple[str, ...] = ()
    """Files of demonstrations (step 1; step 2 centers the scores on them)."""
    comparisons: tuple[str, ...] = ()
    """Files of ranked completions (step 2)."""
    prompts: tuple[str, ...] = ()
    """Files of prompts (step 3, sampling, model selection)."""
    use: str | None = None
    """Only prompts whose `use` field has this value."""
    text: tuple[str, ...] = ()
    """Files of pretraining text (the pretraining mix of steps 1 and 3)."""
    valid_share: Share = 0.05
    """Share of rows without a split that is held out, by a hash of the prompt."""
    max_prompt_tokens: Positive = 1024
    """Longest prompt (paper C: prompts over 1k tokens are filtered)."""
    max_response_tokens: Positive = 1024
    """Longest response (paper C: 1k tokens)."""
    long_prompts: Literal["error", "skip", "left"] = "skip"
    """A prompt that is too long: stop, leave it out (the paper's way), or keep its end."""
    skip_bad_rows: bool = False
    """Go on past rows that cannot be read, and write them to bad_rows.jsonl in the run directory."""


class Sampling(Section):
    max_new_tokens: Positive = 1024
    """Longest response in tokens (paper C: 1k)."""
    temperature: Annotated[float, Field(ge=0.0)] = 1.0
    """Sampling temperature; 0 is greedy (paper C.4: 1 in rollouts)."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Nucleus sampling; 1 samples from the whole distribution."""
    max_rows: Positive = 256
    """Sequences decoded at a time; bounds memory, never changes the distribution."""


class TokenizerConfig(Section):
    """heed tokenizer: a byte-level BPE tokenizer from text."""

    run_dir: str
    """Directory to write."""
    data: TextData
    vocab_size: Positive = 8192
    """Tokens in all, the special ones included."""
    max_documents: Positive = 100_000
    """Documents read at most."""
    extra_text: tuple[str, ...] = ()
    """Prompt or demonstration files whose prompts and responses are read as well."""


class PretrainConfig(Section):
    """heed pretrain: step 0, a base model from text."""

    run_dir: str
    """Directory to write."""
    seed: int = 0
    """Seed of weights and data order."""
    tokenizer: str
    """Directory of the tokenizer."""
    shape: Shape = Shape()
    data: TextData
    num_tokens: Positive = 1_000_000
    """Tokens to train on; text is repeated as needed."""
    row_tokens: Positive = 128
    """Tokens per row of text."""
    optim: Optim
    compute: Compute = Compute()
    log: Log = Log()


class SFTConfig(Section):
    """heed sft: step 1, a supervised policy from demonstrations (paper C.1, C.3)."""

    run_dir: str
    """Directory to write."""
    base: str
    """Directory of the model to start from."""
    seed: int = 0
    """Seed of data order and dropout."""
    data: SnapshotData
    epochs: PositiveFloat = 16
    """Passes over the demonstrations (paper: 16 for the SFT baseline, 2 for the PPO init model)."""
    pretraining_mix: Share = 0.0
    """Share of examples that are rows of pretraining text, and weight of their loss (paper C.3: 0.1
    for the PPO init model)."""
    row_tokens: Positive = 128
    """Tokens per row of pretraining text."""
    dropout: Share = 0.2
    """Residual dropout (paper C.1: 0.2)."""
    loss_on_prompt: bool = False
    """Train on prompt tokens as well."""
    select: Literal["last", "valid_loss", "score"] = "last"
    """Which epoch's weights to publish; "score" is the mean reward-model score on validation prompts
    (paper C.1: more predictive of human preference than the loss)."""
    reward_model: str | None = None
    """Reward model directory for select = "score"."""
    sampling: Sampling = Sampling()
    optim: Optim
    lora: Lora = Lora()
    compute: Compute = Compute()
    log: Log = Log()


class RewardConfig(Section):
    """heed reward: step 2, a reward model from rankings (paper 3.5, C.2)."""

    run_dir: str
    """Directory to write."""
    base: str
    """Directory of the language model whose body it starts from (paper: an SFT model)."""
    seed: int = 0
    """Seed of the head and of data order."""
    data: SnapshotData
    epochs: PositiveFloat = 1
    """Passes over the prompts (paper C.2: 1; more overfit)."""
    batching: Literal["k_wise", "shuffled_pairs"] = "k_wise"
    """All pairs of a prompt in one batch element (the paper), or pairs shuffled one by one (its
    ablation: overfits within an epoch)."""
    num_batches_valid: Positive = 1000
    """Validation batches at most."""
    optim: Optim
    lora: Lora = Lora()
    compute: Compute = Compute()
    log: Log = Log()


class PPO(Section):
    episodes: Positive = 256_000
    """Prompts answered in all (paper C.4: 256k)."""
    batch_size: Positive = 512
    """Episodes per iteration (paper C.4: 512)."""
    minibatch_size: Positive = 64
    """Episodes per update (paper C.4: 64)."""
    epochs: Positive = 1
    """Passes over an iteration's episodes (paper C.4: 1)."""
    lr: PositiveFloat = 9e-6
    """Policy's peak learning rate (a gap in the paper; E.9 sweeps 2.55e-6 to 2.55e-5)."""
    value_lr: PositiveFloat = 9e-6
    """Value function's learning rate, constant (paper C.4: 9e-6; 5e-6 for 175B)."""
    warmup_iterations: Annotated[int, Field(ge=0)] = 10
    """Iterations of linear warm-up from 0.1 of the peak, then constant (paper C.4: 10)."""
    kl_coef: Annotated[float, Field(ge=0.0)] = 0.02
    """Weight of the per-token KL penalty: the paper's beta (C.4: 0.02)."""
    kl_target: Annotated[float, Field(ge=0.0)] = 0.0
    """Target KL in nats per response for an adaptive kl_coef; 0 keeps it fixed, as the paper does."""
    kl_horizon: Positive = 10_000
    """Horizon of the adaptive kl_coef in episodes (openai/lm-human-preferences)."""
    ptx_coef: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of the per-token mean loss on pretraining text: the paper's gamma (27.8 there, with a
    normalisation that is not published); 0 is plain PPO."""
    ptx_rows_per_episode: PositiveFloat = 8
    """Rows of pretraining text per episode (paper C.4: 8)."""
    clip: PositiveFloat = 0.2
    """Clip of the probability ratio and of the value step (paper C.4: 0.2)."""
    discount: Share = 1.0
    """Discount of rewards (paper C.4: none)."""
    lam: Share = 0.95
    """Lambda of generalised advantage estimation (a gap; Stiennon et al. B.1: 0.95)."""
    vf_coef: PositiveFloat = 1.0
    """Weight of the value loss (its network and optimizer are its own)."""
    missing_eos_score: float | Literal["none"] = -1.0
    """Score of a response cut before EOS, where the reward model is undefined; "none" keeps the
    model's (openai/lm-human-preferences: -1)."""
    ema_decay: Share = 0.992
    """Decay per iteration of the averaged weights that are published (paper C.4: 0.992)."""
    recompute_logprobs: bool = True
    """Recompute the rollout's log-probabilities with the training pass, so that the first ratio is
    exactly 1; else reuse those of the sampler (faster, off by its rounding)."""


class PPOConfig(Section):
    """heed ppo: step 3, PPO or PPO-ptx against the reward model (paper 3.5, C.4)."""

    run_dir: str
    """Directory to write."""
    policy: str
    """Directory of the PPO init model (2 epochs of SFT with pretraining mix); the KL reference too."""
    reward_model: str
    """Directory of the reward model; the value function starts as a copy of it."""
    seed: int = 0
    """Seed of data order and rollouts."""
    data: SnapshotData
    row_tokens: Positive = 128
    """Tokens per row of pretraining text."""
    ppo: PPO = PPO()
    sampling: Sampling = Sampling()
    gold: str | None = None
    """Directory of a miniature world: logs its hidden utility as ppo/gold. Never trained on."""
    optim_eps: PositiveFloat = 1e-5
    """Adam's epsilon (openai/lm-human-preferences: 1e-5)."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradient norm at which gradients are clipped."""
    eval_every: Annotated[int, Field(ge=0)] = 0
    """Iterations between calls of the evaluators; 0 never."""
    eval_prompts: Positive = 64
    """Held-out prompts answered at each evaluation."""
    log_samples_every: Annotated[int, Field(ge=0)] = 20
    """Iterations between printed sample responses; 0 never."""
    lora: Lora = Lora()
    compute: Compute = Compute()
    log: Log = Log()


class SampledModel(Section):
    name: str
    """Name of the model in the output."""
    path: str
    """Its directory."""
    prefix: str | None = None
    """File with the few-shot prefix to put before every prompt (written by heed prefix)."""
    num_samples: Positive = 1
    """Completions per prompt."""
    stop: tuple[str, ...] = ()
    """Text at which a completion ends, besides EOS."""


class SampleConfig(Section):
    """heed sample: completions of one or more models for every prompt."""

    run_dir: str
    """Directory to write; completions.jsonl in it."""
    seed: int = 0
    """Seed of the samples."""
    models: tuple[SampledModel, ...]
    """The models, one section each."""
    prompts: tuple[str, ...]
    """Prompt files."""
    split: Literal["train", "valid", "test"] | None = None
    """Only prompts of this split."""
    use: str | None = None
    """Only prompts whose `use` field has this value."""
    valid_share: Share = 0.05
    """Share of prompts without a split that counts as valid."""
    limit: Positive | None = None
    """Prompts at most."""
    reward_model: str | None = None
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
    model: str
    """Directory of the base model."""
    reward_model: str
    """Directory of the reward model that chooses."""
    prefixes: str
    """JSONL file of candidates: {"id", "text"}; a prompt follows as "Task: {prompt}\\nAnswer:"."""
    prompts: tuple[str, ...]
    """Validation prompt files."""
    use: str | None = None
    """Only prompts whose `use` field has this value."""
    num_prompts: Positive = 100
    """Prompts answered per candidate."""
    stop: tuple[str, ...] = ("\n\n", "\nTask:")
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
    text: tuple[str, ...]
    """Held-out text."""
    num_documents: Positive = 400
    """Documents scored at most."""
    max_document_tokens: Positive = 1_000_000
    """Tokens of a document that are scored at most: its beginning."""
    recall: str | None = None
    """JSONL file of few-shot quizzes: {"id", "text", "answer"}."""
    compute: Compute = Compute()


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
    """heed label (simulated): screened labelers rate and rank completions."""

    run_dir: str
    """Directory to write: comparisons.jsonl, comparisons_valid.jsonl, comparisons_heldout.jsonl."""
    world: str
    """Directory of the world."""
    completions: str
    """Completions of training prompts (a file of heed sample)."""
    completions_valid: str
    """Completions of validation prompts; held-out labelers rank these too."""
    seed: int = 0
    """Seed of the labelers."""
    labels_per_prompt: Positive = 1
    """Labelers per prompt (paper 5.3: most comparisons have one)."""
    overlap: Share = 0.1
    """Share of prompts that three labelers rank, to measure agreement."""


class EvaluateConfig(Section):
    """heed evaluate (miniature): labelers judge all models; the demo's claims by rule."""

    run_dir: str
    """Directory to write; claims.json and summary.json in it and in the run."""
    run: str
    """Loop run directory."""
    world: str
    """Directory of the world."""
    samples: str
    """completions.jsonl of all models on the test prompts, with scores."""
    probes: str
    """completions.jsonl on all probes: truth, held-out truth, closed domain, toxicity."""
    measures: str
    """measures.json of heed measure."""
    labels: str
    """Directory of heed label."""
    reward: str
    """Directory of heed reward."""
    shuffled: str | None = None
    """Directory of heed reward with shuffled pairs, for the ablation."""
    models: dict[str, str]
    """Model directories by name, for sizes and lineage."""
    labelers_per_prompt: Positive = 3
    """Labelers of each cohort per prompt."""
    seed: int = 0
    """Seed of the judges and of the bootstrap."""


class SummarizeConfig(Section):
    """heed summarize: the figures of a loop on real data."""

    run_dir: str
    """Directory to write; summary.json in it and in the run."""
    run: str
    """Loop run directory."""
    comparisons: tuple[str, ...]
    """Comparison files of the reward model, for its baselines."""
    valid_share: Share = 0.05
    """As in the reward model's settings."""
    reward: str
    """Directory of heed reward."""
    samples: str
    """completions.jsonl of all models, with scores."""
    measures: str
    """measures.json of heed measure."""
    models: dict[str, str]
    """Model directories by name."""
    seed: int = 0
    """Seed of the bootstrap."""


class ReportConfig(Section):
    """heed report: one self-contained HTML page for a run."""

    run_dir: str
    """Directory of this stage."""
    run: str
    """Loop run directory to report on."""
    out: str = "report.html"
    """File to write, relative to the run."""


C = TypeVar("C", bound=Section)


def load_config(cls: type[C], path: Path | str | None, overrides: list[str] | None = None) -> C:
    """The settings of a command: defaults, then the TOML file, then ``a.b=value`` overrides.

    Raises ConfigError naming the file, the key and, for an unknown key, the nearest known one.
    """
    values: dict[str, Any] = {}
    if path is not None:
        values = read_toml(path)
    for override in overrides or []:
        _set_dotted(values, override)
    return make_config(cls, values, str(path or "the command line"))


def make_config(cls: type[C], values: dict[str, Any], where: str) -> C:
    """Validated settings from plain values; ``where`` is named in errors."""
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(cls, error, where)) from None


def read_toml(path: Path | str) -> dict[str, Any]:
    """The values of a TOML file; ConfigError where it is missing or broken."""
    file = Path(path)
    if not file.is_file():
        raise ConfigError(
            f"{path} does not exist: give the path of a TOML file (recipes/ has examples)"
        )
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error


def dump_toml(config: Section) -> str:
    """The resolved settings as TOML; loading it gives the same settings again."""
    return tomli_w.dumps(_without_none(config.model_dump(mode="json")))


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_none(item) for item in value]
    return value


def _set_dotted(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"override {override!r} is not of the form section.key=value")
    *sections, last = key.split(".")
    target = values
    for section in sections:
        target = target.setdefault(section, {})
        if not isinstance(target, dict):
            raise ConfigError(f"override {override!r}: {section} is a value, not a section")
    target[last] = _parse_value(text)


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _explain(cls: type[Section], error: ValidationError, where: str) -> str:
    lines = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            known = _known_keys(cls, item["loc"][:-1])
            near = difflib.get_close_matches(str(item["loc"][-1]), known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
            lines.append(f"unknown key {key!r}: {hint}")
        elif item["type"] == "missing":
            lines.append(f"missing key {key!r}")
        else:
            lines.append(f"{key} = {item['input']!r}: {item['msg']}")
    return f"{where}: " + "; ".join(lines)


def _known_keys(cls: type[Section], location: tuple[int | str, ...]) -> list[str]:
    fields: dict[str, Any] = dict(cls.model_fields)
    for part in location:
        if isinstance(part, int):
            continue
        annotation = fields[part].annotation
        candidates = [annotation, *typing.get_args(annotation)]
        section = next(c for c in candidates if isinstance(c, type) and issubclass(c, Section))
        fields = dict(section.model_fields)
    return sorted(fields)
