"""heed tokenizer, pretrain, sft, reward, ppo: from files to a published model."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import LlamaConfig, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from heedful.commands.datasets import (
    DATA_LIMITS,
    ROLLOUT_LIMITS,
    load_demonstrations,
    load_prompts,
    load_rankings,
    require_context,
    say_bad_rows,
)
from heedful.commands.finish import finish
from heedful.commands.progress import file_progress
from heedful.commands.while_training import answers, evaluators_of
from heedful.config import (
    Compute,
    Lora,
    PPOConfig,
    PretrainConfig,
    RewardConfig,
    Section,
    SFTConfig,
    TokenizerConfig,
    read_toml,
)
from heedful.data.bad_rows import BAD_ROWS_FILE, BadRows
from heedful.data.examples import Example, RankedPrompt
from heedful.data.formats import read_demonstrations, read_text
from heedful.data.rows import ROW_SUFFIXES, TEXT_SUFFIXES, find_files
from heedful.data.template import Template, beginning
from heedful.data.text import TextRows, tokenize_text
from heedful.errors import ConfigError
from heedful.metrics import replacing
from heedful.models.device import described, pick_device, pick_dtype, placement
from heedful.models.language_model import (
    PAD_TOKEN,
    fit_vocabulary,
    load_language_model,
    load_tokenizer,
    new_language_model,
    place,
    require_same_tokenizer,
)
from heedful.models.lora import add_adapters, has_adapters, merge_adapters_into
from heedful.models.matmul import tune_matmul
from heedful.models.scalar_model import load_scalar_model, scalar_model_from
from heedful.rollout.engine import end_tokens
from heedful.rollout.experience import MISSING_EOS_SCORE, penalize_cut
from heedful.training import step0_pretrain, step1_sft, step2_reward, step3_ppo
from heedful.training.budget import Budget
from heedful.training.checkpoint import start_run
from heedful.training.profiling import watched

EOS_TOKEN = "<|endoftext|>"
VALID_SCORES_FILE = "valid_scores.jsonl"

C = TypeVar("C", bound=Section)


def begin(config: C, resume: bool) -> tuple[C, Path, Callable[[int, int], None]]:
    """What ``ready`` returns, after the settings and the environment are written down there."""
    config, run_dir, progress = ready(config, resume)
    start_run(config, run_dir)
    return config, run_dir, progress


def ready(config: C, resume: bool) -> tuple[C, Path, Callable[[int, int], None]]:
    """The settings with their dtype decided, the run directory, ready, and its progress.

    Also sets the threads of this process and the library that multiplies fp32. A dtype of "auto" is
    measured once for a run directory: a resumed run computes as it began.
    """
    run_dir = Path(str(config.model_dump()["run_dir"]))
    if not resume and list((run_dir / "state").glob("step-*.pt")):
        raise ConfigError(
            f"{run_dir} holds the training state of a run that has not ended: go on with --resume, "
            "start over with --overwrite, or give another run_dir"
        )
    compute, where = getattr(config, "compute", None), ("", "cpu")
    if isinstance(compute, Compute):
        if compute.threads:
            torch.set_num_threads(compute.threads)
        tune_matmul()
        device = pick_device(compute.device)
        compute = compute.model_copy(
            update={"dtype": _decided_dtype(compute.dtype, device, run_dir)}
        )
        config = config.model_copy(update={"compute": compute})
        where = (compute.dtype, str(device))
        print(f"computing in {compute.dtype} on {described(device)}", file=sys.stderr, flush=True)
    disable_progress_bar()  # transformers' bars; ours is the one to look at
    return config, run_dir, watched(file_progress(run_dir), run_dir, *where)


def _decided_dtype(name: str, device: torch.device, run_dir: Path) -> str:
    """ "float32" or "bfloat16"; the one that a state in the run directory was made with, if any."""
    file = run_dir / "config.toml"
    if name == "auto" and list((run_dir / "state").glob("step-*.pt")) and file.is_file():
        name = read_toml(file).get("compute", {}).get("dtype", name)
    return str(pick_dtype(name, device)).removeprefix("torch.")


def run_tokenizer(config: TokenizerConfig, resume: bool = False) -> None:
    """Trains a byte-level BPE tokenizer; its directory is the run directory itself."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    config, run_dir, progress = begin(config, resume)
    bad = bad_rows(config.data, run_dir)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        special_tokens=[EOS_TOKEN, PAD_TOKEN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )

    def documents() -> Any:
        for count, text in enumerate(read_text(config.data.train, bad=bad)):
            if count == config.max_documents:
                break
            progress(count, config.max_documents)
            yield text
        for path in config.extra_text:
            for row in read_demonstrations(path, bad=bad):
                yield f"{row.prompt}\n{row.response}"

    tokenizer.train_from_iterator(documents(), trainer)
    say_bad_rows(bad)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS_TOKEN,
        bos_token=EOS_TOKEN,
        pad_token=PAD_TOKEN,
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(run_dir)
    progress(1, 1)


def run_pretrain(config: PretrainConfig, resume: bool = False) -> None:
    """Step 0: a Llama-architecture base model from text."""
    config, run_dir, progress = begin(config, resume)
    tokenizer = load_tokenizer(config.tokenizer)
    shape = config.shape
    architecture = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_heads,
        intermediate_size=shape.mlp_size,
        max_position_embeddings=shape.context,
        tie_word_embeddings=shape.tie_embeddings,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=shape.hidden_size**-0.5 * 0.5,
    )
    model = new_language_model(architecture, config.seed)
    fit_vocabulary(model, tokenizer)
    bad = bad_rows(config.data, run_dir)
    rows = text_rows(config.data.train, tokenizer, config.row_tokens, run_dir, "train", bad)
    valid = None
    if config.data.valid:
        valid = text_rows(config.data.valid, tokenizer, config.row_tokens, run_dir, "valid", bad)
    say_bad_rows(bad)
    metrics = step0_pretrain.train(config, model, rows, valid, progress)
    finish(config, model, tokenizer, "pretrain", {}, metrics, None)


def run_sft(config: SFTConfig, resume: bool = False) -> None:
    """Step 1: a supervised policy."""
    config, run_dir, progress = begin(config, resume)
    tokenizer = load_tokenizer(config.base)
    model = load_language_model(config.base)
    fit(model, tokenizer)
    template = Template.of_model(Path(config.base), tokenizer)
    bad = bad_rows(config.data, run_dir)
    examples = load_demonstrations(config.data, template, "train", bad)
    valid = load_demonstrations(config.data, template, "valid", bad)
    lengths = (len(row.prompt) + len(row.response) for row in [*examples, *valid])
    require_context(lengths, model.config, config.base, DATA_LIMITS)
    text = None
    if config.pretraining_mix > 0:
        text = text_rows(config.data.text, tokenizer, config.row_tokens, run_dir, "text", bad)
    score = None
    if config.reward_model is not None:
        reward_model = load_scalar_model(config.reward_model, *placement(config.compute))
        require_same_tokenizer(
            tokenizer, load_tokenizer(config.reward_model), (config.base, config.reward_model)
        )
        score = _score_on_validation(config, model, reward_model, tokenizer, template, bad)
    use_lora(model, config.lora, config.seed)
    say_bad_rows(bad)
    metrics = step1_sft.train(config, model, examples, valid, text, score, progress)
    model = merged(model, lambda: load_language_model(config.base), tokenizer)
    finish(config, model, tokenizer, "sft", {"base": config.base}, metrics, template)


def _score_on_validation(
    config: SFTConfig,
    policy: Any,
    reward_model: Any,
    tokenizer: Any,
    template: Template,
    bad: BadRows,
) -> step1_sft.ScoreModel:
    """The mean reward-model score of a model's samples on validation prompts (paper C.1).

    A sample that was cut scores -1. Always with the same random numbers, so that the models of a
    run differ by themselves alone. Raises DataError where prompt and sample may not fit the context
    of the policy or of the reward model.
    """
    prompts = load_prompts(config.data, template, "valid", bad)
    if not prompts:
        raise ConfigError('select = "score" needs data.prompts with prompts of the valid split')
    for reader, name in ((policy, config.base), (reward_model, config.reward_model)):
        lengths = (len(prompt.tokens) + config.sampling.max_new_tokens for prompt in prompts)
        require_context(lengths, reader.config, str(name), ROLLOUT_LIMITS)

    rows, tokens = Budget.of_rows(config.sampling), Budget.of_tokens(config.compute)

    def score(model: Any) -> float:
        rollout = answers(model, prompts, config.sampling, config.seed, rows, tokenizer)
        pairs = zip(prompts, rollout.rows(), strict=True)
        examples = [Example(prompt.tokens, response) for prompt, response in pairs]
        scores = tokens.run(lambda most: step2_reward.score_all(reward_model, examples, most))
        return float(penalize_cut(scores, rollout.finished, MISSING_EOS_SCORE).mean())

    return score


def run_reward(config: RewardConfig, resume: bool = False) -> None:
    """Step 2: a reward model."""
    config, run_dir, progress = begin(config, resume)
    tokenizer = load_tokenizer(config.base)
    model = scalar_model_from(config.base, config.seed)
    fit(model, tokenizer)
    template = Template.of_model(Path(config.base), tokenizer)
    bad = bad_rows(config.data, run_dir)
    prompts = load_rankings(config.data, template, "train", bad)
    valid = load_rankings(config.data, template, "valid", bad)
    demonstrations = load_demonstrations(config.data, template, "train", bad)
    ranked = (len(row.prompt) + len(r) for row in [*prompts, *valid] for r in row.responses)
    require_context(ranked, model.config, config.base, DATA_LIMITS)
    use_lora(model, config.lora, config.seed)
    say_bad_rows(bad)
    metrics = step2_reward.train(config, model, prompts, valid, demonstrations, progress)
    model = merged(model, lambda: scalar_model_from(config.base, config.seed), tokenizer)
    _write_valid_scores(config, model, valid, run_dir)
    finish(config, model, tokenizer, "reward", {"base": config.base}, metrics, template)


def _write_valid_scores(
    config: RewardConfig, model: Any, valid: list[RankedPrompt], run_dir: Path
) -> None:
    """valid_scores.jsonl: ranks and scores of held-out rankings, for the accuracy intervals."""
    examples = [Example(row.prompt, response) for row in valid for response in row.responses]
    if not examples:
        return
    tokens = Budget.of_tokens(config.compute)
    scores = tokens.run(lambda most: step2_reward.score_all(model, examples, most)).tolist()
    path = run_dir / VALID_SCORES_FILE
    with replacing(path) as partial, partial.open("w", encoding="utf-8") as file:
        for row in valid:
            given, scores = scores[: len(row.ranks)], scores[len(row.ranks) :]
            values = {"prompt_id": row.prompt_id, "labeler": row.labeler, "cohort": row.cohort}
            file.write(json.dumps(values | {"ranks": row.ranks, "scores": given}) + "\n")


def run_ppo(config: PPOConfig, resume: bool = False) -> None:
    """Step 3: PPO, or PPO-ptx where ptx_coef is above 0."""
    config, run_dir, progress = begin(config, resume)
    tokenizer = load_tokenizer(config.policy)
    require_same_tokenizer(
        tokenizer, load_tokenizer(config.reward_model), (config.policy, config.reward_model)
    )
    where = placement(config.compute)
    shared = config.lora.rank > 0  # the reference is the policy with its adapters off
    models = step3_ppo.Models(
        policy=load_language_model(config.policy),
        reference=None if shared else load_language_model(config.policy, *where),
        reward_model=load_scalar_model(config.reward_model, *where),
        value_function=load_scalar_model(config.reward_model),
    )
    for model in (models.policy, models.value_function):
        use_lora(model, config.lora, config.seed)
        place(model, *where)
    for model in (models.policy, models.reference, models.reward_model, models.value_function):
        if model is not None:
            fit(model, tokenizer)
    template = Template.of_model(Path(config.policy), tokenizer)
    bad = bad_rows(config.data, run_dir)
    prompts = load_prompts(config.data, template, "train", bad)
    for scored, path in (
        (models.policy, config.policy),
        (models.reward_model, config.reward_model),
    ):
        lengths = (len(row.tokens) + config.sampling.max_new_tokens for row in prompts)
        require_context(lengths, scored.config, path, ROLLOUT_LIMITS)
    text = None
    if config.ppo.ptx_coef > 0:
        text = text_rows(config.data.text, tokenizer, config.row_tokens, run_dir, "text", bad)
    evaluators = evaluators_of(config, models, tokenizer, template, bad)
    say_bad_rows(bad)
    metrics = step3_ppo.train(
        config,
        models,
        prompts,
        text,
        eos=end_tokens(models.policy, tokenizer.eos_token_id),
        pad=tokenizer.pad_token_id,
        evaluators=evaluators,
        observers=[] if config.gold is None else [_gold_observer(config.gold, template)],
        decode=template.decode_response,
        generate=step3_ppo.sample,  # looked up now, where a profile has labelled it
        progress=progress,
    )
    models.policy = merged(models.policy, lambda: load_language_model(config.policy), tokenizer)
    parents = {"policy": config.policy, "reward_model": config.reward_model}
    finish(config, models.policy, tokenizer, "ppo", parents, metrics, template)


def _gold_observer(world_dir: str, template: Template) -> step3_ppo.Observer:
    """Mean hidden utility of an iteration's episodes in the miniature world (never trained on)."""
    from heedful.simulation.generate import TASKS_FILE
    from heedful.simulation.tasks import read_tasks
    from heedful.simulation.utility import assess
    from heedful.simulation.world import World

    world = World.load(Path(world_dir))
    tasks = read_tasks(Path(world_dir) / TASKS_FILE)

    def gold(batch: Any, experience: Any) -> dict[str, float]:
        rows = zip(batch, experience.responses, experience.finished.tolist(), strict=True)
        utilities = [
            assess(world, tasks[prompt.prompt_id], template.decode_response(response), done).utility
            for prompt, response, done in rows
        ]
        return {"ppo/gold": sum(utilities) / len(utilities)}

    return gold


def fit(model: Any, tokenizer: Any) -> None:
    """Makes a model fit its tokenizer; it keeps every token that ends its responses."""
    ends = end_tokens(model, tokenizer.eos_token_id)
    fit_vocabulary(model, tokenizer)
    if len(ends) > 1:
        model.generation_config.eos_token_id = list(ends)


def use_lora(model: Any, lora: Lora, seed: int) -> None:
    """Gives the model adapters where the settings ask for them."""
    if lora.rank > 0:
        add_adapters(model, lora.rank, lora.alpha, lora.targets, seed)


def merged(model: Any, load: Callable[[], Any], tokenizer: Any) -> Any:
    """The trained model without adapters: they are added to fp32 weights, read anew by ``load``.

    The weights that training computed with may be bf16: it would round the adapters' change away.
    """
    if not has_adapters(model):
        return model
    plain = load()
    fit(plain, tokenizer)
    merge_adapters_into(plain, model)
    return plain


def text_rows(
    paths: tuple[str, ...],
    tokenizer: Any,
    row_tokens: int,
    run_dir: Path,
    name: str,
    bad: BadRows,
) -> TextRows:
    """Rows of pretraining text, tokenized once into the run directory."""
    if not paths:
        raise ConfigError(f"data.{name} is empty: give files of text, as in --data.{name}=FILE")
    cache = run_dir / f"{name}.{_text_mark(paths, tokenizer)}.npy"
    return TextRows(tokenize_text(read_text(paths, bad=bad), tokenizer, cache), row_tokens)


def _text_mark(paths: tuple[str, ...], tokenizer: Any) -> str:
    """A hash of the files (name, size, time) and the tokenizer: other text is another cache."""
    found = [Path(path) for path in find_files(paths, (*TEXT_SUFFIXES, *ROW_SUFFIXES))]
    stats = [(str(path), path.stat() if path.exists() else None) for path in found]
    files = [[path, stat and [stat.st_size, stat.st_mtime_ns]] for path, stat in stats]
    text = json.dumps([files, sorted(tokenizer.get_vocab().items()), beginning(tokenizer)])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def bad_rows(data: Any, run_dir: Path) -> BadRows:
    """What to do with rows that cannot be read, by the data settings."""
    return BadRows(skip=data.skip_bad_rows, to=run_dir / BAD_ROWS_FILE)
