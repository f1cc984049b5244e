"""Which settings and which function belong to a command name."""

from __future__ import annotations

import difflib
import importlib
from typing import Any, NamedTuple

from heedful.config import Section, make_config
from heedful.errors import ConfigError


class Command(NamedTuple):
    """Where a command's settings model and its function live (imported only when used)."""

    module: str
    function: str
    config: str
    help: str


COMMANDS = {
    "tokenizer": Command("train", "run_tokenizer", "TokenizerConfig", "a BPE tokenizer from text"),
    "pretrain": Command(
        "train", "run_pretrain", "PretrainConfig", "step 0: a base model from text"
    ),
    "sft": Command("train", "run_sft", "SFTConfig", "step 1: a policy from demonstrations"),
    "reward": Command(
        "train", "run_reward", "RewardConfig", "step 2: a reward model from rankings"
    ),
    "ppo": Command("train", "run_ppo", "PPOConfig", "step 3: PPO or PPO-ptx"),
    "sample": Command("sample", "run_sample", "SampleConfig", "completions of models for prompts"),
    "prefix": Command(
        "prefix", "run_prefix", "PrefixConfig", "the best few-shot prefix for a base"
    ),
    "simulate": Command("miniature", "run_simulate", "SimulateConfig", "write the miniature world"),
    "simulate-labels": Command(
        "miniature", "run_label", "LabelConfig", "simulated labelers rank completions"
    ),
    "simulate-demonstrations": Command(
        "miniature", "run_demonstrate", "DemonstrateConfig", "simulated labelers write, over HTTP"
    ),
    "snapshot": Command(
        "snapshot", "run_snapshot", "SnapshotConfig", "what people have answered, as files"
    ),
    "eval": Command(
        "eval", "run_eval", "EvalConfig", "truthfulness, toxicity, bias and NLP suites, offline"
    ),
    "judge": Command(
        "judge", "run_judge", "JudgeConfig", "a model or people compare answers with a baseline's"
    ),
    "preference": Command(
        "preference",
        "run_preference",
        "PreferenceConfig",
        "win rates and strengths (heed eval preference)",
    ),
    "tax": Command("tax", "run_tax", "TaxConfig", "what aligning changed (heed eval tax RUN)"),
    "evaluate": Command("evaluate", "run_evaluate", "EvaluateConfig", "measure the demo's claims"),
    "measure": Command("measure", "run_measure", "MeasureConfig", "text loss and few-shot recall"),
    "summarize": Command(
        "summarize", "run_summarize", "SummarizeConfig", "figures of a loop on real data"
    ),
    "report": Command(
        "report", "run_report", "ReportConfig", "one HTML page for a run, or for several"
    ),
    "compare": Command(
        "compare", "run_compare", "CompareConfig", "several runs on a page (heed report RUN RUN)"
    ),
}


# Names of before, which recipes may still have.
OLD_NAMES = {"label": "simulate-labels"}
# Commands that train a model; a dry run shows their settings and numbers.
TRAINING = ("pretrain", "sft", "reward", "ppo")


def stage_config(name: str, settings: dict[str, Any], where: str) -> Section:
    """The validated settings of a command; ``where`` (file and stage) is named in errors."""
    name = OLD_NAMES.get(name, name)
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(COMMANDS)}"
        raise ConfigError(f"{where}: unknown command {name!r}: {hint}")
    configs = importlib.import_module("heedful.config")
    return make_config(getattr(configs, COMMANDS[name].config), settings, where)


def run_command(name: str, settings: dict[str, Any], *, threads: int = 0) -> None:
    """Runs a command with plain settings, from where it was; ``threads`` 0 keeps the setting."""
    config: Any = stage_config(name, settings, f"stage {name}")
    command = COMMANDS[OLD_NAMES.get(name, name)]
    if threads and hasattr(config, "compute") and config.compute.threads == 0:
        compute = config.compute.model_copy(update={"threads": threads})
        config = config.model_copy(update={"compute": compute})
    module = importlib.import_module(f"heedful.commands.{command.module}")
    getattr(module, command.function)(config, resume=True)
