"""What models weigh: parameters, memory in training, the cache of sampling; no model is loaded.

Counted from the headers of the weight files, else from config.json, so that a dry run answers at
once. Activations come on top; they are bounded by compute.tokens_per_microbatch.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from heedful.config import Shape

# fp32 master, fp32 gradient sum, and Adam's two moments, per trained parameter.
OPTIMIZER_BYTES = 16
# The training state on disk: master and moments.
STATE_BYTES = 12
AVERAGE_BYTES = 4
BYTES_OF = {"float32": (4, 4), "bfloat16": (2, 2), "auto": (2, 4)}


class Part(NamedTuple):
    """One network of a step; ``average`` adds the moving average of its weights."""

    name: str
    path: str
    is_trained: bool
    average: bool = False


class Bytes(NamedTuple):
    """Bytes that a network takes: least and most, where the setting leaves the dtype open."""

    least: int
    most: int


def weigh(part: Part, parameters: int, dtype: str, lora_rank: int = 0) -> Bytes:
    """The memory that a network's weights and optimizer take.

    A trained weight has itself and its gradient in the compute dtype, and 16 bytes of fp32; the
    moving average has 4. With LoRA the weights alone: adapters are small.
    """
    least, most = BYTES_OF[dtype]
    if part.is_trained and not lora_rank:
        fixed = OPTIMIZER_BYTES + (AVERAGE_BYTES if part.average else 0)
        least, most = 2 * least + fixed, 2 * most + fixed
    return Bytes(parameters * least, parameters * most)


def num_parameters(path: str) -> int | None:
    """Parameters of a model directory by its .safetensors files, else by config.json, else None."""
    directory = Path(path)
    files = sorted(directory.glob("*.safetensors"))
    try:
        if files:
            return sum(_tensor_sizes(file) for file in files)
        if (directory / "config.json").is_file():
            return _parameters_of_config(directory)
    except (OSError, ValueError, KeyError):
        return None  # a dry run says that it does not know; the step itself says what is broken
    return None


def _tensor_sizes(file: Path) -> int:
    """Numbers in a .safetensors file: its header is a length of 8 bytes and that much JSON."""
    with file.open("rb") as data:
        header = json.loads(data.read(int.from_bytes(data.read(8), "little")))
    return sum(math.prod(t["shape"]) for name, t in header.items() if name != "__metadata__")


def _parameters_of_config(directory: Path) -> int | None:
    """Parameters of the architecture of config.json, laid out without memory for its weights."""
    try:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM
    except ImportError:
        return None
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(str(directory)))
    return sum(parameter.numel() for parameter in model.parameters())


def llama_parameters(shape: Shape, vocabulary: int) -> int:
    """Parameters of the base model that heed pretrain makes of a shape."""
    embeddings = vocabulary * shape.hidden_size * (1 if shape.tie_embeddings else 2)
    attention = 4 * shape.hidden_size**2
    mlp = 3 * shape.hidden_size * shape.mlp_size
    norms = 2 * shape.hidden_size
    return embeddings + shape.num_layers * (attention + mlp + norms) + shape.hidden_size


def vocabulary_size(path: str) -> int | None:
    """Tokens of the tokenizer in a directory, or None where there is no tokenizer.json."""
    values = _json(Path(path) / "tokenizer.json")
    if values is None or "vocab" not in values.get("model", {}):
        return None
    vocabulary = values["model"]["vocab"]
    added = {token["content"] for token in values.get("added_tokens", [])}
    return len(vocabulary) + len(added - set(vocabulary))


def cache_bytes(path: str, num_rows: int, num_tokens: int, dtype: str) -> int | None:
    """Bytes of the keys and values of rows of tokens, in the wider dtype, or None if unknown."""
    config = _json(Path(path) / "config.json")
    if config is None:
        return None
    layers = config.get("num_hidden_layers", config.get("n_layer"))
    heads = config.get("num_attention_heads", config.get("n_head"))
    width = config.get("hidden_size", config.get("n_embd"))
    if not layers or not heads or not width:
        return None
    head = config.get("head_dim") or width // heads
    groups = config.get("num_key_value_heads") or heads
    return 2 * layers * groups * head * BYTES_OF[dtype][1] * num_rows * num_tokens


def _json(file: Path) -> dict[str, Any] | None:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return None
