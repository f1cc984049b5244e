"""What a model still knows of ordinary text: loss per document, and few-shot recall of facts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from heedful.data.template import beginning, encode_text
from heedful.models.attention import Packed
from heedful.models.language_model import hidden_states
from heedful.models.output_head import token_logprobs
from heedful.rollout.engine import end_tokens, sample

# Tokens of an answer at most: answers are single phrases.
ANSWER_TOKENS = 12


@torch.no_grad()
def document_losses(
    model: Any,
    tokenizer: Any,
    documents: Sequence[str],
    max_tokens: int,
    max_document_tokens: int = 1_000_000,
) -> tuple[list[float], list[int]]:
    """(sum of next-token losses in nats, number of predicted tokens) of every document.

    A document is scored as it stood in pretraining, its own EOS included: after BOS where the
    tokenizer begins texts with it, else after the EOS of another; of a longer one its first
    ``max_document_tokens``.
    """
    eos = tokenizer.eos_token_id
    first = beginning(tokenizer) or [eos]
    encoded = tokenizer(list(documents), add_special_tokens=False)["input_ids"]
    rows = [[*first, *tokens, eos][:max_document_tokens] for tokens in encoded]
    losses = [0.0] * len(rows)
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    start = 0
    while start < len(order):
        step = max(1, max_tokens // len(rows[order[start]]))
        part = order[start : start + step]
        start += step
        layout = Packed([len(rows[i]) - 1 for i in part])
        tokens = torch.tensor([token for i in part for token in rows[i][:-1]])
        targets = torch.tensor([token for i in part for token in rows[i][1:]])
        logprobs = token_logprobs(model, hidden_states(model, tokens, layout), targets)
        sums = logprobs.new_zeros(len(part)).index_add_(0, layout.row_of, logprobs)
        for i, value in zip(part, sums.tolist(), strict=True):
            losses[i] = -value
    return losses, [len(row) - 1 for row in rows]


def recall_answers(model: Any, tokenizer: Any, questions: Sequence[str]) -> list[str]:
    """The greedy continuation of every few-shot text, up to its first line break."""
    if not questions:
        return []
    rollout = sample(
        model,
        [encode_text(tokenizer, question) for question in questions],
        max_new_tokens=ANSWER_TOKENS,
        temperature=0.0,
        eos=end_tokens(model, tokenizer.eos_token_id),
        pad=tokenizer.pad_token_id,
    )
    texts = tokenizer.batch_decode(rollout.contents(), skip_special_tokens=True)
    return [text.strip().split("\n")[0].strip() for text in texts]
