"""Settings: one frozen model per command, read from TOML, overridden by ``--section.key=value``.

Every field says its meaning, its unit and where its default comes from; ``docs/config.md`` is made
from them. This module is where every other part imports settings from: it also hands on the
commands around the training (``config_loop``) and how settings are read and written
(``config_file``).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from heedful.config_evaluation import (
    CompareConfig,
    Evaluation,
    JudgeConfig,
    PreferenceConfig,
    TaxConfig,
)
from heedful.config_file import (
    ONE_OR_MORE,
    Comparisons,
    Compute,
    Demonstrations,
    Folder,
    LanguageModel,
    Positive,
    PositiveFloat,
    Prompts,
    RewardModel,
    Section,
    Share,
    TextFiles,
    Texts,
    TokenizerFolder,
    changed_settings,
    deciding_settings,
    dump_toml,
    load_config,
    make_config,
    read_toml,
    without_means,
)
from heedful.config_loop import (
    DemonstrateConfig,
    EvalConfig,
    EvaluateConfig,
    LabelConfig,
    ReportConfig,
    SimulateConfig,
    SnapshotConfig,
    SummarizeConfig,
)
from heedful.config_sampling import (
    MeasureConfig,
    PrefixConfig,
    SampleConfig,
    SampledModel,
    Sampling,
)

__all__ = [
    "PPO",
    "CompareConfig",
    "Compute",
    "DemonstrateConfig",
    "EvalConfig",
    "EvaluateConfig",
    "JudgeConfig",
    "LabelConfig",
    "Log",
    "Lora",
    "MeasureConfig",
    "Optim",
    "PPOConfig",
    "PreferenceConfig",
    "PrefixConfig",
    "PretrainConfig",
    "ReportConfig",
    "RewardConfig",
    "SFTConfig",
    "SampleConfig",
    "SampledModel",
    "Sampling",
    "Section",
    "Shape",
    "SimulateConfig",
    "SnapshotConfig",
    "SnapshotData",
    "SummarizeConfig",
    "TaxConfig",
    "TextData",
    "TokenizerConfig",
    "changed_settings",
    "deciding_settings",
    "dump_toml",
    "load_config",
    "make_config",
    "read_toml",
    "without_means",
]


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
    """Steps between training states from which --resume goes on; 0 saves none by count."""
    save_every_s: Annotated[float, Field(ge=0.0)] = 300.0
    """Seconds after which a step saves its state in any case; 0 saves none by time. Ctrl-C and
    SIGTERM save one too."""
    valid_every: Annotated[int, Field(ge=0)] = 0
    """Steps between validations; 0 validates at the end of every epoch, or at the end of the
    run."""
    sinks: Annotated[tuple[Literal["tensorboard", "wandb"], ...], ONE_OR_MORE] = ()
    """Metric sinks besides metrics.jsonl."""


class Lora(Section):
    rank: Annotated[int, Field(ge=0)] = 0
    """Rank of LoRA adapters; 0 trains all weights."""
    alpha: PositiveFloat = 16.0
    """LoRA scale; the adapter's output is multiplied by alpha / rank."""
    targets: Texts = ()
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
    train: TextFiles = ()
    """Files, folders or globs of pretraining text."""
    valid: TextFiles = ()
    """Files, folders or globs of held-out text."""
    skip_bad_rows: bool = False
    """Go on past rows that cannot be read, and write them to bad_rows.jsonl in the run
    directory."""


class SnapshotData(Section):
    demonstrations: Demonstrations = ()
    """Files of demonstrations (step 1; step 2 centers the scores on them)."""
    comparisons: Comparisons = ()
    """Files of ranked completions (step 2)."""
    prompts: Prompts = ()
    """Files of prompts (step 3, sampling, model selection). Steps 1 and 2 take the split of a row
    that names none from them, by the prompt's text or id."""
    use: str | None = None
    """Train only on prompts whose `use` field has this value."""
    text: TextFiles = ()
    """Files of pretraining text (the pretraining mix of steps 1 and 3)."""
    valid_share: Share = 0.05
    """Share of rows without a split that is held out, by a hash of the prompt, where data.prompts
    does not hold their prompt."""
    max_prompt_tokens: Positive = 1024
    """Longest prompt (paper C: prompts over 1k tokens are filtered)."""
    max_response_tokens: Positive = 1024
    """Longest response (paper C: 1k tokens)."""
    long_prompts: Literal["error", "skip", "left"] = "skip"
    """A prompt that is too long: stop, leave it out (the paper's way), or keep its end."""
    skip_bad_rows: bool = False
    """Go on past rows that cannot be read, and write them to bad_rows.jsonl in the run
    directory."""


class TokenizerConfig(Section):
    """heed tokenizer: a byte-level BPE tokenizer from text."""

    run_dir: str
    """Directory to write."""
    data: TextData = TextData()
    vocab_size: Positive = 8192
    """Tokens in all, the special ones included."""
    max_documents: Positive = 100_000
    """Documents read at most."""
    extra_text: Demonstrations = ()
    """Prompt or demonstration files whose prompts and responses are read as well."""


class PretrainConfig(Section):
    """heed pretrain: step 0, a base model from text."""

    run_dir: str
    """Directory to write."""
    seed: int = 0
    """Seed of weights and data order."""
    tokenizer: TokenizerFolder
    """Directory of the tokenizer."""
    shape: Shape = Shape()
    data: TextData = TextData()
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
    base: LanguageModel
    """Directory of the model to start from."""
    seed: int = 0
    """Seed of data order and dropout."""
    data: SnapshotData = SnapshotData()
    epochs: PositiveFloat = 16
    """Passes over the demonstrations (paper: 16 for the SFT baseline, 2 for the PPO init model)."""
    pretraining_mix: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of examples that are rows of pretraining text, and weight of their loss (paper C.3: 0.1
    for the PPO init model)."""
    row_tokens: Positive = 128
    """Tokens per row of pretraining text."""
    dropout: Share = 0.2
    """Residual dropout (paper C.1: 0.2)."""
    loss_on_prompt: bool = False
    """Train on prompt tokens as well."""
    select: Literal["last", "valid_loss", "score"] = "last"
    """Which epoch's weights to publish; "score" is the mean reward-model score on validation
    prompts (paper C.1: more predictive of human preference than the loss)."""
    reward_model: RewardModel | None = None
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
    base: LanguageModel
    """Directory of the language model whose body it starts from (paper: an SFT model)."""
    seed: int = 0
    """Seed of the head and of data order."""
    data: SnapshotData = SnapshotData()
    epochs: PositiveFloat = 1
    """Passes over the prompts (paper C.2: 1; more overfit)."""
    batching: Literal["k_wise", "shuffled_pairs"] = "k_wise"
    """All pairs of a prompt in one batch element (the paper), or pairs shuffled one by one (its
    ablation: overfits within an epoch)."""
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
    lr: PositiveFloat = 4.5e-6
    """Policy's peak learning rate (a gap in the paper; E.9 sweeps 2.55e-6 to 2.55e-5, and without
    pretraining text every run above 8.05e-6 diverged)."""
    value_lr: PositiveFloat = 9e-6
    """Value function's learning rate, constant (paper C.4: 9e-6; 5e-6 for 175B)."""
    warmup_iterations: Annotated[int, Field(ge=0)] = 10
    """Iterations of linear warm-up from 0.1 of the peak, then constant (paper C.4: 10)."""
    kl_coef: Annotated[float, Field(ge=0.0)] = 0.02
    """Weight of the per-token KL penalty: the paper's beta (C.4: 0.02)."""
    kl_target: Annotated[float, Field(ge=0.0)] = 0.0
    """Target KL in nats per response for an adaptive kl_coef; 0 keeps it fixed, as the paper
    does."""
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
    ema_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.992
    """Decay per iteration of the averaged weights that are published (paper C.4: 0.992)."""
    recompute_logprobs: bool | Literal["auto"] = "auto"
    """Recompute the rollout's log-probabilities with the training pass, so that the first ratio is
    exactly 1; false reuses those of the sampler, a pass less but off by its rounding. "auto"
    measures that in the first iteration and reuses them where they differ by rounding alone."""


class PPOConfig(Section):
    """heed ppo: step 3, PPO or PPO-ptx against the reward model (paper 3.5, C.4)."""

    run_dir: str
    """Directory to write."""
    policy: LanguageModel
    """Directory of the PPO init model (2 epochs of SFT with pretraining mix); the KL reference
    too."""
    reward_model: RewardModel
    """Directory of the reward model; the value function starts as a copy of it."""
    seed: int = 0
    """Seed of data order and rollouts."""
    data: SnapshotData = SnapshotData()
    row_tokens: Positive = 128
    """Tokens per row of pretraining text."""
    ppo: PPO = PPO()
    sampling: Sampling = Sampling()
    gold: Folder | None = None
    """Directory of a miniature world: logs its hidden utility as ppo/gold. Never trained on."""
    optim_eps: PositiveFloat = 1e-5
    """Adam's epsilon (openai/lm-human-preferences: 1e-5)."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradient norm at which gradients are clipped."""
    eval_every: Annotated[int, Field(ge=0)] = 0
    """Iterations between evaluations of the policy, as the group eval says; 0 never."""
    eval: Evaluation = Evaluation()
    log_samples_every: Annotated[int, Field(ge=0)] = 20
    """Iterations between printed sample responses; 0 never."""
    lora: Lora = Lora()
    compute: Compute = Compute()
    log: Log = Log()
