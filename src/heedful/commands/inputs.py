"""Whether what a command's settings name is there, and is what it should be, before it begins.

Nothing is loaded: files are looked for, and of models config.json is read. A dry run lists all that
is wrong; a run refuses to begin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from heedful.config import PPOConfig, Section
from heedful.config_file import input_of, required_settings
from heedful.data.rows import HUB, ROW_SUFFIXES, TEXT_SUFFIXES, find_files
from heedful.errors import DataError, HeedfulError
from heedful.models.kind import require_language_model, require_scalar_model, require_tokenizer


def require_inputs(config: Section) -> None:
    """Raises DataError that lists every input of a command which cannot be used."""
    refuse(problems(config))


def refuse(found: list[str], about: str = "") -> None:
    """Raises DataError with what is wrong, if anything is; ``about`` says more of the inputs."""
    more = [about] if about else []
    if len(found) == 1:
        raise DataError("\n  ".join([found[0], *more]))
    if found:
        raise DataError("\n  ".join([f"{len(found)} settings cannot be used:", *found, *more]))


def problems(config: Section, is_made: Callable[[str], bool] = lambda path: False) -> list[str]:
    """What is wrong with the inputs that the settings name, each with its full key.

    ``is_made`` says of a path that an earlier stage will make it: it is not looked for.
    """
    found = [f"{key} is empty: {why}" for key, why in _needed(config) if not _at(config, key)]
    for key, kind, path in _inputs(config):
        if path.startswith(HUB) or is_made(path):
            continue
        try:
            _require(kind, path)
        except HeedfulError as error:
            found.append(f"{key}: {error}")
    if isinstance(config, PPOConfig) and not (config.eval.data and is_made(config.eval.data)):
        from heedful.commands.asked import suite_problems

        found += suite_problems(config)
    return found


def required_of(cls: type[Section]) -> list[str]:
    """What a command cannot do without, a line each: how it is written, and what it means."""
    lines, defaults = required_settings(cls), cls.model_construct()
    required = {key for key, field in cls.model_fields.items() if field.is_required()}
    return lines + [f"  {key}: {why}" for key, why in _needed(defaults) if key not in required]


def _inputs(config: Section, above: str = "") -> Iterator[tuple[str, str, str]]:
    """(full key, kind, path) of everything that the settings name and the command reads."""
    for key, field in type(config).model_fields.items():
        value: Any = getattr(config, key)
        kind = input_of(field)
        if isinstance(value, Section):
            yield from _inputs(value, f"{above}{key}.")
        elif isinstance(value, tuple) and value and isinstance(value[0], Section):
            for number, section in enumerate(value):
                yield from _inputs(section, f"{above}{key}.{number}.")
        elif kind is not None and value is not None:
            if isinstance(value, dict):  # directories by name
                yield from ((f"{above}{key}.{name}", kind, path) for name, path in value.items())
            else:
                for path in value if isinstance(value, tuple) else (value,):
                    yield above + key, kind, path


def _require(kind: str, path: str) -> None:
    if kind == "text":
        find_files(path, (*TEXT_SUFFIXES, *ROW_SUFFIXES))
    elif kind in ("demonstrations", "comparisons", "prompts"):
        find_files(path, ROW_SUFFIXES, kind)
    elif kind == "tokenizer":
        require_tokenizer(path)
    elif kind == "language model":
        require_language_model(path)
        require_tokenizer(path)
    elif kind == "reward model":
        require_scalar_model(path)
        require_tokenizer(path)
    elif not (Path(path).is_file() if kind == "file" else Path(path).is_dir()):
        state = f"is not a {kind}" if Path(path).exists() else "does not exist"
        raise DataError(f"{path} {state}: give the path of a {kind}")


def _needed(config: Any) -> Iterator[tuple[str, str]]:
    """(key, what to write) of the lists that a command cannot do without."""
    name = type(config).__name__
    if name in ("TokenizerConfig", "PretrainConfig"):
        yield "data.train", "give files of text, such as --data.train=FILE"
    if name == "SFTConfig":
        yield "data.demonstrations", "step 1 imitates them: give --data.demonstrations=FILE"
    if name == "RewardConfig":
        yield "data.comparisons", "step 2 learns from rankings: give --data.comparisons=FILE"
    if name == "PPOConfig":
        yield "data.prompts", "step 3 answers prompts: give --data.prompts=FILE"
    if name in ("SampleConfig", "PrefixConfig"):
        yield "prompts", "give --prompts=FILE"
    if name in ("SampleConfig", "MeasureConfig"):
        yield "models", """give --models='[{ name = "NAME", path = "DIR" }]'"""
    if name == "JudgeConfig" and config.truthfulqa is None:
        yield "samples", "give completions.jsonl of heed sample, as --samples=FILE"
    if name == "PrefixConfig" and not config.demonstrations:
        yield "prefixes", "give a file of candidates, or --demonstrations=FILE to draw them from"
    if name == "EvalConfig" and not config.rescore:
        yield "models", "give --model DIR, or --model NAME=DIR for each of several"
    if name == "MeasureConfig":
        yield "text", "give files of held-out text, such as --text=FILE"
    if name == "SFTConfig" and config.pretraining_mix > 0:
        yield "data.text", "pretraining_mix is above 0: give files of text, or set it to 0"
    if name == "PPOConfig" and config.ppo.ptx_coef > 0:
        yield "data.text", "ppo.ptx_coef is above 0: give files of text, or set it to 0"
    if name == "PPOConfig" and config.eval.suites:
        yield "eval.data", "eval.suites are asked out of files: give --eval.data=DIR"
    if name == "SFTConfig" and config.select == "score":
        yield "reward_model", 'select = "score" asks it: give --reward_model=DIR'
        yield "data.prompts", 'select = "score" answers those of the valid split: give files'


def _at(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = getattr(config, part)
    return config
