"""Tokenized rows, as the steps take them."""

from __future__ import annotations

from typing import NamedTuple


class Example(NamedTuple):
    """A prompt with one response."""

    prompt: list[int]
    response: list[int]


class RankedPrompt(NamedTuple):
    """A prompt with K responses and their ranks (1 is best, equal is a tie)."""

    prompt_id: str
    prompt: list[int]
    responses: list[list[int]]
    ranks: list[int]
    labeler: str | None
    cohort: str


class PromptTokens(NamedTuple):
    """A prompt to be answered."""

    prompt_id: str
    text: str
    tokens: list[int]
