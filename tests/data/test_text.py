"""Rows of pretraining text: the stream, its file, random and even rows."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from heedful.data.text import TextRows, tokenize_text
from heedful.errors import DataError


def test_every_document_ends_with_eos(tokenizer):
    tokens = tokenize_text(["w5 w6", "", "w7"], tokenizer)
    assert tokens.dtype == np.uint32
    assert tokens.tolist() == [5, 6, 0, 0, 7, 0]


def test_every_document_begins_with_bos_where_the_tokenizer_says_so():
    words = Tokenizer(models.WordLevel({"<eos>": 0, "<s>": 1, "w2": 2}, unk_token="w2"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="<eos>")
    assert tokenize_text(["w2 w2", "w2"], tokenizer).tolist() == [1, 2, 2, 0, 1, 2, 0]


def test_many_documents_are_tokenized_in_order(tokenizer, monkeypatch):
    monkeypatch.setattr("heedful.data.text.DOCUMENTS_PER_CALL", 3)
    documents = (f"w{i}" for i in range(2, 12))
    expected = [token for i in range(2, 12) for token in (i, 0)]
    assert tokenize_text(documents, tokenizer).tolist() == expected


def test_the_stream_is_written_once_and_mapped(tokenizer, tmp_path):
    cache = tmp_path / "text.npy"
    first = tokenize_text(["w5 w6"], tokenizer, cache)
    assert isinstance(first, np.memmap)
    again = tokenize_text(iter(()), tokenizer, cache)
    assert again.tolist() == [5, 6, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["text.npy"]


def test_no_document_is_an_error(tokenizer):
    with pytest.raises(DataError, match="no documents"):
        tokenize_text([], tokenizer)


def test_text_shorter_than_a_row_is_an_error():
    with pytest.raises(DataError, match=r"3 tokens, fewer than one row of 4"):
        TextRows(np.arange(3, dtype=np.uint32), 4)


def test_drawn_rows_are_pieces_of_the_stream():
    rows = TextRows(np.arange(40, dtype=np.uint32), 5)
    drawn = rows.draw(500, seed=1)
    assert drawn.shape == (500, 5)
    assert (drawn - drawn[:, :1]).eq(drawn.new_tensor(range(5))).all()
    assert set(drawn[:, 0].tolist()) == set(range(36))  # every start, the last one included
    assert drawn.equal(rows.draw(500, seed=1))
    assert not drawn.equal(rows.draw(500, seed=2))


def test_first_rows_are_spread_evenly_and_never_more_than_there_are():
    rows = TextRows(np.arange(41, dtype=np.uint32), 5)
    assert len(rows) == 8
    assert rows.first(3)[:, 0].tolist() == [0, 18, 36]
    assert len(rows.first(100)) == 8
