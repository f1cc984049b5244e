"""What can go wrong with the store, each said so that a labeler or an operator knows what to do.

HeedfulError
└── StoreError        the database cannot be opened, is in use, or is from a newer heedful
    ├── NotFound      no such thing, or it is another person's: the two are not told apart
    ├── AnswerProblem an answer is incomplete or impossible; ``field`` names the place
    └── Conflict      what was asked for does not fit what has happened meanwhile
        └── DraftConflict   another tab has saved; carries what it saved
"""

from __future__ import annotations

from typing import Any

from heedful.errors import HeedfulError


class StoreError(HeedfulError, RuntimeError):
    """The database cannot be used as asked; the message says why and what to do."""


class NotFound(StoreError):
    """There is no such thing for this person."""


class AnswerProblem(StoreError):
    """An answer is incomplete or impossible; ``field`` is the form field that needs a change."""

    def __init__(self, field: str, message: str):
        super().__init__(f"{field}: {message}")
        self.field = field


class Conflict(StoreError):
    """The state has moved on: already submitted, too late to undo, a key used twice."""


class DraftConflict(Conflict):
    """A newer draft was saved from elsewhere; ``payload`` and ``revision`` are the stored ones."""

    def __init__(self, payload: Any, revision: int):
        super().__init__("this was edited in another tab: compare the two versions, keep one")
        self.payload = payload
        self.revision = revision
