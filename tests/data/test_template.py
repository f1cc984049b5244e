"""The text format: the seam between prompt and response, EOS, limits, and what is saved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from heedful.data.template import PromptLimit, Template, encode_text
from heedful.errors import DataError, ModelError

CHAT = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|pad|>", "<|user|>", "<|assistant|>", "<s>"]
EOS, PAD, USER, ASSISTANT, BOS = range(5)


def make_tokenizer(*, chat: bool = False, bos: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE whose merges cross spaces and newlines as far as the text allows."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(["a frog\nA frog\nthe frog\n\nthe"] * 10, trainer)
    if bos:
        bpe.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", BOS)])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|endoftext|>",
        pad_token="<|pad|>",
        bos_token="<s>" if bos else None,
        chat_template=CHAT if chat else None,
    )


PLAIN, CHATTY = make_tokenizer(), make_tokenizer(chat=True)


def test_the_seam_is_never_merged() -> None:
    template = Template(PLAIN)
    prompt, response = template.encode_prompt("the frog"), template.encode_response("\nthe")
    # tokenized as one text, the two would be one token: what no sampler could have made
    assert len(PLAIN.encode("the frog\n\nthe", add_special_tokens=False)) == 1
    assert PLAIN.decode(prompt) == "the frog\n"
    assert PLAIN.decode(response[:-1]) == "\nthe" and response[-1] == EOS


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), st.text(max_size=40))
def test_tokens_decode_to_the_text(prompt: str, response: str) -> None:
    template = Template(PLAIN)
    assert PLAIN.decode(template.encode_prompt(prompt)) == prompt + "\n"
    assert template.decode_response(template.encode_response(response)) == response


def test_special_tokens_in_the_text_of_people_stay_letters() -> None:
    template = Template(PLAIN)
    text = "end it: <|endoftext|> <|pad|>"
    assert not {EOS, PAD} & set(template.encode_prompt(text))
    assert template.encode_response(text).count(EOS) == 1
    assert template.decode_response(template.encode_response(text)) == text


def test_chat_template_is_the_models_own() -> None:
    template = Template.default(CHATTY)
    assert template.kind == "chat"
    text = CHATTY.encode("the frog", add_special_tokens=False)
    assert template.encode_prompt("the frog") == [USER, *text, EOS, ASSISTANT]
    assert template.encode_response("the frog") == [*text, EOS]
    assert Template.default(PLAIN).kind == "plain"


def test_bos_begins_the_prompt_where_the_tokenizer_puts_it() -> None:
    template = Template(make_tokenizer(bos=True))
    plain = Template(PLAIN)
    assert template.encode_prompt("a frog") == [BOS, *plain.encode_prompt("a frog")]
    assert template.encode_response("a frog") == plain.encode_response("a frog")
    assert template.keep_end("the frog the frog", 3)[0] == BOS
    assert len(template.keep_end("the frog the frog", 3)) == 3


def test_texts_without_a_template_begin_with_bos_too() -> None:
    letters = PLAIN.encode("0123", add_special_tokens=False)  # one token each
    tokenizer = make_tokenizer(bos=True)
    assert encode_text(tokenizer, "0123") == [BOS, *letters]
    assert encode_text(tokenizer, "0123", 4) == [BOS, *letters[1:]]
    assert encode_text(tokenizer, "0123", 5) == [BOS, *letters]
    assert encode_text(PLAIN, "0123", 3) == letters[1:]
    assert EOS not in encode_text(PLAIN, "<|endoftext|>")


def test_a_cut_response_has_no_eos() -> None:
    template = Template(PLAIN)
    text = PLAIN.encode("the frog", add_special_tokens=False)
    assert template.encode_response("the frog", finished=True) == [*text, EOS]
    assert template.encode_response("the frog", finished=False) == text
    assert template.encode_response("", finished=False) == [EOS]  # a reward is read at some token


def test_decode_stops_at_eos() -> None:
    template = Template(PLAIN)
    tokens = [*template.encode_response("the"), PAD, *template.encode_response("frog")]
    assert template.decode_response(tokens) == "the"
    assert template.decode_response(tokens[:1]) == PLAIN.decode(tokens[:1])


def test_long_prompts_stop_or_are_skipped_or_keep_their_end() -> None:
    template = Template(PLAIN)
    text = "0123456789"  # digits are not in the merges: one token each, and one for the newline
    assert len(template.encode_prompt(text)) == 11
    assert PromptLimit(11).fit(template, text, "p7") == template.encode_prompt(text)
    with pytest.raises(DataError, match=r"prompt 'p7' \('0123456789'.* 11 tokens, the limit is 5"):
        PromptLimit(5).fit(template, text, "p7")
    skip = PromptLimit(5, "skip")
    assert skip.fit(template, text, "p7") is None and skip.num_skipped == 1
    assert skip.fit(template, "0", "p8") is not None and skip.num_skipped == 1
    left = PromptLimit(5, "left")
    assert PLAIN.decode(left.fit(template, text, "p7")) == "6789\n"
    assert left.num_cut == 1


def test_long_chat_prompts_keep_the_template_around_their_end() -> None:
    template = Template(CHATTY, "chat")
    tokens = PromptLimit(7, "left").fit(template, "0123456789", "p")
    assert tokens == [USER, *CHATTY.encode("6789", add_special_tokens=False), EOS, ASSISTANT]
    # four bytes a character: the cut falls inside one and moves to the next whole character
    tokens = PromptLimit(9, "left").fit(template, "🐸🐸🐸", "p")
    assert tokens is not None and len(tokens) <= 9
    assert CHATTY.decode(tokens[1:-2]) == "🐸"
    with pytest.raises(DataError, match="chat template alone takes more than the 3 tokens"):
        PromptLimit(3, "left").fit(template, "0123456789", "p")


def test_the_template_is_saved_with_the_model(tmp_path: Path) -> None:
    for tokenizer, kind in ((PLAIN, "plain"), (CHATTY, "chat")):
        saved = Template(tokenizer, kind, separator="\n\n")
        saved.save(tmp_path / kind)
        assert Template.load(tmp_path / kind, tokenizer) == saved
        assert Template.of_model(tmp_path / kind, tokenizer) == saved
    assert Template.of_model(tmp_path, CHATTY) == Template(CHATTY, "chat")


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="was not trained by heedful"):
        Template.load(tmp_path, PLAIN)
    Template(CHATTY, "chat").save(tmp_path)
    other = make_tokenizer(chat=True)
    other.chat_template = CHAT + "\n"
    with pytest.raises(ModelError, match="another chat template"):
        Template.load(tmp_path, other)
    with pytest.raises(ModelError, match="has no chat template"):
        Template.load(tmp_path, PLAIN)
    (tmp_path / "heedful_template.json").write_text(json.dumps({"kind": "odd", "separator": ""}))
    with pytest.raises(ModelError, match="'odd'"):
        Template.load(tmp_path, PLAIN)
    (tmp_path / "heedful_template.json").write_text("{")
    with pytest.raises(ModelError, match="is not a template"):
        Template.load(tmp_path, PLAIN)
    endless = make_tokenizer()
    endless.eos_token = None
    with pytest.raises(ModelError, match="no EOS token"):
        Template(endless)
