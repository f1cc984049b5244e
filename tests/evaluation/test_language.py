"""Loss on documents and few-shot recall against the library's own forward pass and generation."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from heedful.evaluation.language import ANSWER_TOKENS, document_losses, recall_answers

EOS, PAD, BOS = 0, 1, 2
DOCUMENTS = ["w5 w9 w30", "w7", "w8 w8 w60 w61 w62 w63"]


def make_tokenizer(bos: bool) -> PreTrainedTokenizerFast:
    """Word level; with ``bos`` it begins every text with BOS, as Llama's does."""
    words = ["<eos>", "<pad>", "<s>", *(f"w{i}" for i in range(3, 100))]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="w3"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", BOS)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="<eos>", pad_token="<pad>"
    )


def ids(text: str) -> list[int]:
    return [int(word[1:]) for word in text.split()]


@pytest.mark.parametrize(("bos", "first"), [(True, BOS), (False, EOS)])
@torch.no_grad()
def test_a_document_is_read_after_the_token_that_begins_texts(tiny_model, bos, first):
    losses, counts = document_losses(tiny_model(), make_tokenizer(bos), DOCUMENTS, 8, 6)
    theirs = tiny_model(attention="eager")
    for text, loss, count in zip(DOCUMENTS, losses, counts, strict=True):
        row = torch.tensor([[first, *ids(text), EOS][:6]])
        assert count == row.shape[1] - 1
        assert loss == pytest.approx(float(theirs(row, labels=row).loss) * count, rel=1e-4)


@pytest.mark.parametrize("bos", [True, False])
@torch.no_grad()
def test_recall_continues_what_the_model_was_trained_to_continue(tiny_model, bos):
    """And stops at every token of the model's generation config."""
    ours, theirs, tokenizer = tiny_model(), tiny_model(attention="eager"), make_tokenizer(bos)
    ends, lengths = [EOS], []
    for _ in range(2):
        ours.generation_config.eos_token_id = ends
        expected = []
        for text in DOCUMENTS:
            prompt = [BOS, *ids(text)] if bos else ids(text)
            answer = theirs.generate(
                torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                max_new_tokens=ANSWER_TOKENS,
                do_sample=False,
                eos_token_id=ends,
                pad_token_id=PAD,
            )[0, len(prompt) :].tolist()
            expected.append(answer[:-1] if answer[-1] in ends else answer)
        answers = recall_answers(ours, tokenizer, DOCUMENTS)
        assert answers == [
            tokenizer.decode(answer, skip_special_tokens=True).strip() for answer in expected
        ]
        ends = [EOS, max(expected, key=len)[1]]  # the second time one more answer ends early
        lengths.append(sum(len(answer) for answer in expected))
    assert lengths[1] < lengths[0]


def test_nothing_is_asked(tiny_model):
    assert recall_answers(tiny_model(), make_tokenizer(True), []) == []
