"""heed measure: loss on held-out text and few-shot recall, where the alignment tax shows."""

from __future__ import annotations

import json
from pathlib import Path

from heedful.commands.train import ready
from heedful.config import MeasureConfig
from heedful.config_file import load_config as load_settings
from heedful.data.formats import read_text
from heedful.errors import ConfigError
from heedful.evaluation.language import document_losses, recall_answers
from heedful.metrics import iter_jsonl, replacing
from heedful.models.device import placement
from heedful.models.language_model import (
    load_config,
    load_language_model,
    load_tokenizer,
)
from heedful.training.budget import Budget
from heedful.training.checkpoint import start_run

MEASURES_FILE = "measures.json"
OWN_DIR = "measure"


def run_measure(config: MeasureConfig, resume: bool = False) -> None:
    """Writes measures.json: per model each document's loss and whether each recall is right.

    In the directory of a run of another command, whose settings stay as they are, its own settings
    go to measure/config.toml.
    """
    config, run_dir, progress = ready(config, True)  # a training state there is another command's
    start_run(config, run_dir / OWN_DIR if _is_of_another(run_dir) else run_dir)
    documents = []
    for text in read_text(config.text):
        documents.append(text)
        if len(documents) == config.num_documents:
            break
    quiz = list(iter_jsonl(Path(config.recall))) if config.recall else []
    max_tokens = _fitting(config)
    measures, lines, budget = {}, [], Budget.of_tokens(config.compute)
    for number, spec in enumerate(config.models):
        tokenizer = load_tokenizer(spec.path)
        model = None  # the one before makes room
        model = load_language_model(spec.path, *placement(config.compute))
        losses, counts = budget.run(
            lambda most, model=model, tokenizer=tokenizer: document_losses(
                model, tokenizer, documents, most, max_tokens
            )
        )
        answers = recall_answers(model, tokenizer, [row["text"] for row in quiz])
        right = [given == row["answer"].strip() for given, row in zip(answers, quiz, strict=True)]
        measures[spec.name] = {
            "loss_sums": losses,
            "num_tokens": counts,
            "recall": right,
            "recall_ids": [row["id"] for row in quiz],
        }
        lines.append(f"{spec.name}: {_summary(losses, counts, right, max_tokens)}")
        progress(number + 1, len(config.models))
    with replacing(run_dir / MEASURES_FILE) as partial:
        partial.write_text(json.dumps(measures), encoding="utf-8")
    print("\n".join(lines), flush=True)


def _summary(losses: list[float], counts: list[int], right: list[bool], longest: int) -> str:
    """What was found of one model, and how many documents are as long as is read, or longer."""
    parts = []
    if sum(counts):
        num_cut = sum(count >= longest - 1 for count in counts)
        cut = f", of {num_cut:,} the first {longest - 1:,} tokens alone" if num_cut else ""
        loss = sum(losses) / sum(counts)
        parts.append(
            f"loss {loss:.4f} nats a token ({sum(counts):,} tokens of {len(counts):,} "
            f"document{'s' if len(counts) > 1 else ''}{cut})"
        )
    if right:
        parts.append(f"recall {sum(right):,} of {len(right):,}")
    return "; ".join(parts) or "nothing was asked of it"


def _is_of_another(run_dir: Path) -> bool:
    """Whether the settings that stand in a run directory are those of another command."""
    file = run_dir / "config.toml"
    if not file.is_file():
        return False
    try:
        load_settings(MeasureConfig, file)
    except ConfigError:
        return True
    return False


def _fitting(config: MeasureConfig) -> int:
    """Tokens of a document that are scored: no more than every model's context holds.

    At positions on which a model was never trained its loss would say nothing of what it knows.
    """
    contexts = (
        getattr(load_config(spec.path).get_text_config(), "max_position_embeddings", None)
        for spec in config.models
    )
    # the last token is predicted and not read
    return min([config.max_document_tokens, *(context + 1 for context in contexts if context)])
