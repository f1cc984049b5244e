"""Models with random weights, and data, in files that both sides of a benchmark read.

    python benchmarks/workload.py '{"shape": "tiny", "prompts": 512}' runs/workload

Words are drawn evenly from the vocabulary, so there is nothing to learn; time does not depend on
it. Responses end at random: EOS has the chance ``end_chance`` at every token of the data, and the
models are made so that theirs are as long on average. A directory holds ``policy`` and
``reward_model`` (plain Hugging Face directories with one tokenizer), ``demonstrations.jsonl``,
``comparisons.jsonl``, ``prompts.jsonl`` and ``workload.json``, the settings and counts.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

PAD, EOS, UNKNOWN = 0, 1, 2
FIRST_WORD = 3
WORKLOAD_FILE = "workload.json"
# Rows on which the chance of EOS is fitted, and the prompts that they begin with.
FIT_ROWS, FIT_PROMPT = 128, 32


@dataclass(frozen=True)
class Shape:
    """The size of a transformer; the names are those of heedful's settings."""

    hidden_size: int
    num_layers: int
    num_heads: int
    mlp_size: int
    vocab_size: int
    context: int = 1024

    @property
    def num_weights(self) -> int:
        """Of the Llama with this shape, its head apart from its embedding."""
        layer = 4 * self.hidden_size**2 + 3 * self.hidden_size * self.mlp_size
        layer += 2 * self.hidden_size  # norms
        both = 2 * self.vocab_size * self.hidden_size
        return both + self.num_layers * layer + self.hidden_size


SHAPES = {
    "tiny": Shape(256, 6, 4, 704, 8192),
    "small": Shape(512, 8, 8, 1408, 32000),
    # for memory: 134 and 271 million weights
    "base": Shape(768, 12, 12, 2048, 32000),
    "medium": Shape(1024, 16, 16, 2816, 32000),
    # for accelerators: 134, 488 and 1,467 million weights
    "0.1b": Shape(768, 12, 12, 2048, 32000, 2048),
    "0.5b": Shape(1280, 20, 10, 3584, 32000, 2048),
    "1.5b": Shape(2048, 26, 16, 5632, 32000, 2048),
    "quick": Shape(32, 2, 2, 64, 128),
}
ACCELERATOR_MODELS = ("0.1b", "0.5b", "1.5b")
# Their data, and their files: of half the size, which both sides load into the dtypes they compute
# and keep their weights in.
ACCELERATOR_SETTINGS = {
    "prompt_tokens": (64, 256),
    "response_tokens": 256,
    "end_chance": 1 / 128,
    "weights": "bfloat16",
}
ARCHITECTURES = ("llama", "gpt2", "qwen3", "gemma3")


@dataclass(frozen=True)
class Workload:
    """What is made: a model's shape, and how many rows of which lengths."""

    shape: Shape
    architecture: str = "llama"
    demonstrations: int = 512
    comparisons: int = 32
    completions: int = 9  # K of every comparison
    prompts: int = 512
    prompt_tokens: tuple[int, int] = (16, 64)  # shortest and longest
    response_tokens: int = 64  # longest, EOS included
    end_chance: float = 1 / 28  # of EOS at every token; 0 makes every response the longest
    weights: str = "float32"  # dtype of the models' files
    seed: int = 0


def settings_for(shape: str) -> dict[str, Any]:
    """What the workloads of a shape are given beside its name and their rows."""
    return dict(ACCELERATOR_SETTINGS) if shape in ACCELERATOR_MODELS else {}


def workload_of(settings: dict[str, Any]) -> Workload:
    """A workload from plain settings, as JSON has them; the shape is a name or its numbers."""
    shape = settings["shape"]
    shape = SHAPES[shape] if isinstance(shape, str) else Shape(**shape)
    lengths = tuple(settings.get("prompt_tokens", Workload.prompt_tokens))
    return replace(Workload(shape), **(settings | {"shape": shape, "prompt_tokens": lengths}))


def make_workload(workload: Workload, directory: Path) -> dict[str, Any]:
    """The counts of the workload in a directory: made there, or kept where it is the same."""
    settings = json.loads(json.dumps(asdict(workload)))
    file = directory / WORKLOAD_FILE
    if file.is_file():
        found = json.loads(file.read_text(encoding="utf-8"))
        if found["settings"] == settings:
            return found["counts"]
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    counts = write_data(workload, directory) | write_models(workload, directory)
    text = json.dumps({"settings": settings, "counts": counts}, indent=2)
    file.write_text(text, encoding="utf-8")
    return counts


def write_data(workload: Workload, directory: Path) -> dict[str, float]:
    """The three data files; returns mean tokens of their rows, EOS included.

    Of a comparison they are those of its sequences: the prompt counts with every completion.
    """
    chooser = random.Random(workload.seed)
    demonstrations, num_tokens = [], 0
    for i in range(workload.demonstrations):
        prompt, response = _prompt(workload, chooser), _response(workload, chooser)
        num_tokens += len(prompt) + len(response) + 1
        demonstrations.append(
            {"prompt_id": f"d{i}", "prompt": _text(prompt), "response": _text(response)}
        )
    comparisons, num_compared = [], 0
    for i in range(workload.comparisons):
        completions = [
            {"id": f"c{i}/{k}", "text": _text(_response(workload, chooser)), "model": None}
            for k in range(workload.completions)
        ]
        ranks = list(range(1, workload.completions + 1))
        row = {"prompt_id": f"c{i}", "prompt": _text(_prompt(workload, chooser))}
        words = [row["prompt"], *(completion["text"] for completion in completions)]
        prompt_length, *lengths = (len(text.split()) for text in words)
        num_compared += sum(prompt_length + length + 1 for length in lengths)
        comparisons.append(row | {"completions": completions, "ranks": ranks})
    prompts = [
        {"id": f"p{i}", "text": _text(_prompt(workload, chooser))} for i in range(workload.prompts)
    ]
    for name, rows in (
        ("demonstrations", demonstrations),
        ("comparisons", comparisons),
        ("prompts", prompts),
    ):
        lines = (json.dumps(row | {"split": "train"}) + "\n" for row in rows)
        (directory / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    num_prompted = sum(len(row["text"].split()) for row in prompts)
    return {
        "tokens_per_demonstration": num_tokens / max(1, len(demonstrations)),
        "tokens_per_comparison": num_compared / max(1, len(comparisons)),
        "tokens_per_prompt": num_prompted / max(1, len(prompts)),
    }


def _prompt(workload: Workload, chooser: random.Random) -> list[int]:
    return _words(workload, chooser, chooser.randint(*workload.prompt_tokens))


def _response(workload: Workload, chooser: random.Random) -> list[int]:
    """At least one word and at most response_tokens - 1, which leaves EOS its place."""
    length = 1
    while length < workload.response_tokens - 1 and chooser.random() >= workload.end_chance:
        length += 1
    return _words(workload, chooser, length)


def _words(workload: Workload, chooser: random.Random, count: int) -> list[int]:
    return [chooser.randrange(FIRST_WORD, workload.shape.vocab_size) for _ in range(count)]


def _text(words: list[int]) -> str:
    return " ".join(f"t{word}" for word in words)


def write_models(workload: Workload, directory: Path) -> dict[str, int]:
    """The policy and a reward model of the same shape, with a tokenizer of one token a word.

    Made on a CUDA device where there is one. Returns the policy's weights that are multiplied by:
    all but those of an embedding that is only looked up.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    config = architecture_config(workload.architecture, workload.shape)
    tokenizer = make_tokenizer(workload.shape.vocab_size)
    torch.manual_seed(workload.seed)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        policy = AutoModelForCausalLM.from_config(config).eval()
        if workload.end_chance > 0:
            set_end_chance(policy, workload.end_chance, workload.response_tokens)
        config.num_labels = 1
        reward_model = AutoModelForSequenceClassification.from_config(config)
    words, head = policy.get_input_embeddings().weight, policy.get_output_embeddings().weight
    count = policy.num_parameters() - (0 if words is head else words.numel())
    for name, model in (("policy", policy), ("reward_model", reward_model)):
        model.to(getattr(torch, workload.weights)).save_pretrained(directory / name)
        tokenizer.save_pretrained(directory / name)
    return {"matmul_weights": count}


def make_tokenizer(vocab_size: int) -> Any:
    """A tokenizer whose words are t3, t4, ... and whose special tokens are the first three."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<pad>": PAD, "<eos>": EOS, "<unk>": UNKNOWN}
    vocabulary |= {f"t{i}": i for i in range(FIRST_WORD, vocab_size)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )


def architecture_config(architecture: str, shape: Shape) -> Any:
    """The transformers configuration of a shape; output heads are tied where the family's are."""
    from transformers import Gemma3TextConfig, GPT2Config, LlamaConfig, Qwen3Config

    tokens = {"bos_token_id": EOS, "eos_token_id": EOS, "pad_token_id": PAD}
    if architecture == "gpt2":
        return GPT2Config(
            vocab_size=shape.vocab_size,
            n_positions=shape.context,
            n_embd=shape.hidden_size,
            n_layer=shape.num_layers,
            n_head=shape.num_heads,
            n_inner=shape.mlp_size,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            **tokens,
        )
    common = {
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_heads,
        "intermediate_size": shape.mlp_size,
        "head_dim": shape.hidden_size // shape.num_heads,
        "max_position_embeddings": shape.context,
        **tokens,
    }
    if architecture == "llama":
        return LlamaConfig(tie_word_embeddings=False, **common)
    if architecture == "qwen3":
        return Qwen3Config(tie_word_embeddings=True, **common)
    if architecture == "gemma3":
        width = shape.hidden_size // shape.num_heads
        return Gemma3TextConfig(sliding_window=64, query_pre_attn_scalar=width, **common)
    raise ValueError(f"architecture {architecture!r} is none of {', '.join(ARCHITECTURES)}")


def set_end_chance(model: Any, chance: float, longest: int) -> None:
    """Makes the responses of a model with random weights end, in place.

    Their mean length, of at most ``longest`` tokens, becomes that of a ``chance`` of EOS at every
    token. (The mean chance would not do: it differs so much between texts that most would not end.)

    The first value of every embedding becomes the same number, so that a part of every hidden state
    is constant. The output row of EOS is then moved along it as far as is needed. Where the output
    head is the input embedding, the number adds the same to all logits and changes nothing else.
    """
    import torch

    size, words = model.config.hidden_size, model.get_input_embeddings().weight
    head = model.get_output_embeddings().weight
    wanted = sum((1 - chance) ** t for t in range(longest))
    with torch.no_grad():
        words[:, 0] = words.std() * size**0.5
        generator = torch.Generator().manual_seed(0)
        shape = (FIT_ROWS, FIT_PROMPT + longest - 1)  # what it writes is as random as this
        rows = torch.randint(FIRST_WORD, len(words), shape, generator=generator, device="cpu")
        rows = rows.to(words.device)
        parts = []
        for part in rows.split(8):  # the logits of all would be gigabytes
            hidden = model.base_model(part).last_hidden_state[:, FIT_PROMPT - 1 :]
            logits = hidden @ head.T
            own = logits[..., EOS].clone()
            logits[..., EOS] = -torch.inf
            parts.append(torch.stack((own - logits.logsumexp(-1), hidden[..., 0])))
        odds, constant = torch.cat(parts, dim=1)  # (rows, positions) each
        low, high = 0.0, 100.0
        for _ in range(60):
            middle = (low + high) / 2
            goes_on = 1 - torch.sigmoid(odds + middle * constant)[:, :-1]
            length = 1 + goes_on.cumprod(1).sum(1).mean()
            low, high = (middle, high) if length > wanted else (low, middle)
        head[EOS, 0] += low


def main() -> int:
    if len(sys.argv) != 3:
        print(__doc__)
        return 2
    make_workload(workload_of(json.loads(sys.argv[1])), Path(sys.argv[2]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
