"""What a model directory holds, read from config.json alone: a language model or a scalar model.

Nothing of torch is needed, so that a command can refuse a wrong directory before it loads anything.
Without these checks a reward model would pass for a language model wherever the output head is
tied to the embeddings, and a language model for a reward model with a random head.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from heedful.errors import ModelError

# Parts of the names of classes whose head gives the next token; GPT2Model and the like have no
# head of their own and are left to the check of their weights.
LANGUAGE_HEADS = ("CausalLM", "LMHead", "ConditionalGeneration", "DoubleHeads")
SCALAR_HEAD = "ForSequenceClassification"
# At least one of these is what a tokenizer is read from; without them the library looks for more,
# and then says that some other package is missing.
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model"),
    *("spiece.model", "vocab.json", "vocab.txt"),
)
# Files of a directory that a message lists.
MAX_LISTED = 5


def read_config(path: Path | str) -> dict[str, Any]:
    """The values of a directory's config.json; ModelError says what is there instead."""
    directory = Path(path)
    if not directory.exists():
        raise ModelError(f"{path} does not exist: give a local Hugging Face model directory")
    if not directory.is_dir():
        raise ModelError(f"{path} is not a directory: give a local Hugging Face model directory")
    file = directory / "config.json"
    if not file.is_file():
        raise ModelError(f"{path} is not a model: no config.json in it ({held(directory)})")
    try:
        values: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ModelError(f"{file} cannot be read: it holds no object of settings")
    return cast(dict[str, Any], values)


def held(directory: Path) -> str:
    """What a directory holds, and where a model is that was probably meant."""
    names = sorted(p.name for p in directory.iterdir() if not p.name.startswith("."))
    listed = ", ".join(names[:MAX_LISTED]) or "nothing"
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    meant = directory / "model"  # of a run directory
    hint = f"; did you mean {meant}?" if (meant / "config.json").is_file() else ""
    return f"it holds {listed}{more}{hint}"


def classes_of(config: dict[str, Any]) -> list[str]:
    """The names of the classes that a model was saved from; none where it does not say."""
    return [str(name) for name in config.get("architectures") or []]


def require_language_model(path: Path | str) -> None:
    """Raises ModelError where a directory does not hold a language model, saying what it holds."""
    names = classes_of(read_config(path))
    foreign = [name for name in names if "For" in name and not _has(name, LANGUAGE_HEADS)]
    if not foreign:
        return
    what = "a reward model" if SCALAR_HEAD in foreign[0] else "no language model"
    raise ModelError(
        f"{path} is {what}: config.json names {foreign[0]}; needed is a language model "
        "(...ForCausalLM): give the model that heed pretrain, sft or ppo made, or another causal LM"
    )


def require_scalar_model(path: Path | str) -> None:
    """Raises ModelError where a directory does not hold a reward model, saying what it holds."""
    config = read_config(path)
    names = classes_of(config)
    mend = f"needed is a ...{SCALAR_HEAD} with one label: give the model that heed reward made"
    if not any(SCALAR_HEAD in name for name in names):
        what = ", ".join(names) or "no class"
        is_language = any(_has(name, LANGUAGE_HEADS) for name in names)
        rest = ", a language model" if is_language else ""
        raise ModelError(f"{path} is not a reward model: config.json names {what}{rest}; {mend}")
    # transformers leaves both out where there are two labels
    num_labels = config.get("num_labels") or len(config.get("id2label") or ()) or 2
    if num_labels != 1:
        raise ModelError(
            f"{path} is not a reward model: {names[0]} with {num_labels} labels; {mend}"
        )


def require_tokenizer(path: Path | str) -> None:
    """Raises ModelError where a directory holds nothing that a tokenizer is read from."""
    directory = Path(path)
    if not directory.is_dir():
        raise ModelError(f"{path} is not a directory: give a local Hugging Face model directory")
    if not any((directory / name).is_file() for name in TOKENIZER_FILES):
        raise ModelError(
            f"{path} has no tokenizer: no {TOKENIZER_FILES[0]} in it ({held(directory)})"
        )


def _has(name: str, parts: tuple[str, ...]) -> bool:
    return any(part in name for part in parts)
