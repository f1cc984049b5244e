"""The one text format of a prompt and a response, and its tokens.

    plain   prompt, newline, response, EOS: what the paper's models were trained on
    chat    the chat template that a model brought along, one user turn; response, EOS

Prompt and response are tokenized apart and never re-merged across the seam, so that
``encode_prompt(p) + encode_response(r)`` is exactly what a sampler makes that continues
``encode_prompt(p)``. The text of people is text: a special token that is spelled out in it
("<|endoftext|>") stays letters, except in prompts that go through a model's own chat template.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from heedful.errors import DataError, ModelError

TEMPLATE_FILE = "heedful_template.json"

Kind = Literal["plain", "chat"]
LongPrompts = Literal["error", "skip", "left"]


class Tokenizer(Protocol):
    """What is used of a Hugging Face tokenizer."""

    eos_token_id: int | None
    chat_template: Any

    def encode(self, text: str, **settings: Any) -> list[int]: ...
    def decode(self, token_ids: Sequence[int], **settings: Any) -> str: ...
    def apply_chat_template(self, conversation: list[dict[str, str]], **settings: Any) -> Any: ...


@dataclass(frozen=True)
class Template:
    """Text to tokens and back, for one tokenizer."""

    tokenizer: Any = field(repr=False)  # a Tokenizer; each library's stubs spell it differently
    kind: Kind = "plain"
    separator: str = "\n"

    def __post_init__(self) -> None:
        if self.tokenizer.eos_token_id is None:
            raise ModelError(
                "the tokenizer has no EOS token, so a response cannot end: set tokenizer.eos_token "
                "and save the tokenizer again"
            )
        if self.kind not in get_args(Kind):
            raise ModelError(f"the template kind is {self.kind!r}; needed 'plain' or 'chat'")
        if self.kind == "chat" and not self.tokenizer.chat_template:
            raise ModelError(
                "the tokenizer has no chat template: use the plain template, or save the tokenizer "
                "with the chat_template that the model was trained with"
            )

    @classmethod
    def default(cls, tokenizer: Any) -> Template:
        """The template of a model that comes without ours: its chat template if any, else plain."""
        return cls(tokenizer, "chat" if tokenizer.chat_template else "plain")

    @property
    def eos(self) -> int:
        """The token that ends every response."""
        return self.tokenizer.eos_token_id

    def encode_prompt(self, text: str) -> list[int]:
        """The tokens that a response continues."""
        if self.kind == "chat":
            turns = [{"role": "user", "content": text}]
            tokens = self.tokenizer.apply_chat_template(
                turns, add_generation_prompt=True, tokenize=True, return_dict=False
            )
            return list(tokens)
        return encode_text(self.tokenizer, text + self.separator)

    def encode_response(self, text: str, finished: bool = True) -> list[int]:
        """The tokens of a response, EOS at the end unless it was cut (an empty one is EOS)."""
        tokens = _encode(self.tokenizer, text)
        return [*tokens, self.eos] if finished or not tokens else tokens

    def decode_response(self, tokens: Sequence[int]) -> str:
        """The text of a response up to its EOS, if it has one."""
        tokens = list(tokens)
        if self.eos in tokens:
            tokens = tokens[: tokens.index(self.eos)]
        return self.tokenizer.decode(tokens, skip_special_tokens=True)

    def save(self, directory: Path) -> None:
        """Writes heedful_template.json beside a model."""
        settings = {"kind": self.kind, "separator": self.separator}
        if self.kind == "chat":
            settings["chat_template_sha256"] = _fingerprint(self.tokenizer)
        directory.mkdir(parents=True, exist_ok=True)
        text = json.dumps(settings, indent=2, ensure_ascii=False)
        (directory / TEMPLATE_FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, directory: Path, tokenizer: Any) -> Template:
        """The template saved beside a model; raises ModelError if none or another was used."""
        path = directory / TEMPLATE_FILE
        if not path.is_file():
            raise ModelError(
                f"{path} does not exist: {directory} was not trained by heedful; use the default "
                "template of its tokenizer"
            )
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
            template = cls(tokenizer, saved["kind"], saved["separator"])
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ModelError(
                f"{path} is not a template ({error}): take it from the model's training run again"
            ) from error
        if template.kind == "chat" and saved.get("chat_template_sha256") != _fingerprint(tokenizer):
            raise ModelError(
                f"the tokenizer in {directory} has another chat template than the one the model "
                "was trained with: restore the tokenizer's files from the training run"
            )
        return template

    @classmethod
    def of_model(cls, directory: Path, tokenizer: Any) -> Template:
        """The template saved beside a model, or the default of its tokenizer where none is."""
        if (directory / TEMPLATE_FILE).is_file():
            return cls.load(directory, tokenizer)
        return cls.default(tokenizer)

    def keep_end(self, text: str, max_tokens: int) -> list[int]:
        """The tokens of the longest end of a prompt that fits, with what the template adds."""
        if self.kind == "plain":
            return encode_text(self.tokenizer, text + self.separator, max_tokens)
        tokens = _encode(self.tokenizer, text)
        excess = len(self.encode_prompt(text)) - max_tokens
        while tokens := tokens[max(0, excess) :]:
            # a cut inside a character leaves the replacement character
            end = self.tokenizer.decode(tokens).lstrip("\ufffd")
            prompt = self.encode_prompt(end)
            if len(prompt) <= max_tokens:
                return prompt
            excess = len(prompt) - max_tokens
        raise DataError(
            f"the chat template alone takes more than the {max_tokens} tokens of a prompt: raise "
            "max_prompt_tokens"
        )


def beginning(tokenizer: Any) -> list[int]:
    """[BOS] for models whose tokenizer begins every text with it (Llama, Gemma, OPT), else []."""
    bos = getattr(tokenizer, "bos_token_id", None)
    if bos is None or tokenizer.encode("a", add_special_tokens=True)[:1] != [bos]:
        return []
    return [bos]


def encode_text(tokenizer: Any, text: str, max_tokens: int | None = None) -> list[int]:
    """The tokens of a text that begins a sequence, BOS first where the model knows one.

    Of a text over ``max_tokens`` the end is kept, and BOS.
    """
    first, tokens = beginning(tokenizer), _encode(tokenizer, text)
    excess = 0 if max_tokens is None else max(0, len(first) + len(tokens) - max_tokens)
    return first + tokens[excess:]


def _encode(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))


@dataclass
class PromptLimit:
    """The longest prompt, and what happens to longer ones; counts what it left out or cut.

    "error" stops, "skip" leaves the prompt out (paper C: prompts over 1k tokens are filtered),
    "left" cuts its beginning, because in few-shot prompts and dialogues the task stands at the end.
    """

    max_tokens: int
    long_prompts: LongPrompts = "error"
    num_skipped: int = 0
    num_cut: int = 0

    def fit(self, template: Template, text: str, name: str) -> list[int] | None:
        """The prompt's tokens, at most ``max_tokens`` of them; None where it is left out."""
        tokens = template.encode_prompt(text)
        if len(tokens) <= self.max_tokens:
            return tokens
        if self.long_prompts == "skip":
            self.num_skipped += 1
            return None
        if self.long_prompts == "left":
            self.num_cut += 1
            return template.keep_end(text, self.max_tokens)
        raise DataError(
            f"prompt {name!r} ({text[:40]!r}...) has {len(tokens)} tokens, the limit is "
            f'{self.max_tokens}: raise max_prompt_tokens, or set long_prompts to "skip" (leave '
            'such prompts out) or "left" (keep their end)'
        )


def _fingerprint(tokenizer: Any) -> str:
    return sha256(json.dumps(tokenizer.chat_template, sort_keys=True).encode()).hexdigest()
