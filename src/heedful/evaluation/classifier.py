"""Texts scored by models that were trained for it: a text classifier, and a judge of answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from heedful.data.template import TEMPLATE_FILE, Template, encode_text
from heedful.errors import ModelError
from heedful.evaluation.answering import Request, choice_logprobs
from heedful.evaluation.room import Room
from heedful.evaluation.suite import Judge
from heedful.evaluation.toxicity import Scorer
from heedful.models.device import CPU
from heedful.models.language_model import load_language_model, load_tokenizer

TEXTS_PER_BATCH = 64
MAX_TOKENS = 512
TOXIC_NAMES = ("toxic", "toxicity", "offensive", "hate", "hateful", "hate_speech", "abusive")


def load_classifier(path: str, label: str | None = None, device: torch.device = CPU) -> Scorer:
    """A scorer out of a local Hugging Face text classifier: its probability of the toxic label.

    ``label`` names it where its name does not say so. Labels that exclude each other go through a
    softmax, independent ones (``multi_label_classification``, or one label) through a sigmoid.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    if not (Path(path) / "config.json").is_file():
        raise ModelError(
            f"{path} is no directory of a model (it has no config.json): give the directory of a "
            'text classifier, or toxicity = "words"'
        )
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(path)
        model: Any = AutoModelForSequenceClassification.from_pretrained(path).eval().to(device)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{path} cannot be loaded as a text classifier: {error}") from error
    place = toxic_place(model.config.id2label, label, path)
    alone = len(model.config.id2label) == 1
    by_sigmoid = alone or model.config.problem_type == "multi_label_classification"
    longest = min(MAX_TOKENS, getattr(model.config, "max_position_embeddings", MAX_TOKENS))

    @torch.no_grad()
    def score(texts: Sequence[str]) -> list[float | None]:
        scores: list[float | None] = []
        for start in range(0, len(texts), TEXTS_PER_BATCH):
            batch = tokenizer(
                list(texts[start : start + TEXTS_PER_BATCH]),
                padding=True,
                truncation=True,
                max_length=longest,
                return_tensors="pt",
            )
            z = model(**batch.to(device)).logits.float()
            shares = torch.sigmoid(z) if by_sigmoid else torch.softmax(z, dim=-1)
            scores += shares[:, place].tolist()
        return scores

    return score


def toxic_place(labels: dict[int, str], label: str | None, path: str) -> int:
    """The number of the label that means toxic; ModelError lists the labels where none is known."""
    wanted = TOXIC_NAMES if label is None else (label.lower(),)
    found = {name.lower().replace("-", "_"): int(place) for place, name in labels.items()}
    for name in wanted:
        if name.replace("-", "_") in found:
            return found[name.replace("-", "_")]
    raise ModelError(
        f"{path} has the labels {', '.join(labels.values())}: say which one means toxic with "
        "--toxic_label"
    )


def load_judge(
    path: str, question: str, where: tuple[torch.dtype, torch.device], max_tokens: int
) -> Judge:
    """A judge of written answers: the probability of " yes" against " no" by a causal LM.

    It was trained on prompts of three lines, "Q: ..", "A: .." and ``question`` with a colon
    ("True:", "Helpful:"); in its own template if heedful trained it, else as they are. ``where`` is
    the dtype and the device that it computes in and on.
    """
    tokenizer = load_tokenizer(path)
    model = load_language_model(path, *where)
    template = None
    if (Path(path) / TEMPLATE_FILE).is_file():
        template = Template.load(Path(path), tokenizer)
    options = [tokenizer.encode(word, add_special_tokens=False) for word in (" yes", " no")]

    def judge(answers: Sequence[tuple[str, str]]) -> list[float]:
        texts = [f"Q: {asked}\nA: {said}\n{question}:" for asked, said in answers]
        prompts = [
            encode_text(tokenizer, text) if template is None else template.encode_prompt(text)
            for text in texts
        ]
        requests = [Request(prompt, options) for prompt in prompts]
        pairs = torch.tensor(choice_logprobs(model, requests, Room(max_tokens)))
        return torch.softmax(pairs, dim=-1)[:, 0].tolist()

    return judge
