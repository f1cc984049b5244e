"""What every page of the service has at hand, and who is asking."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import FormData
from starlette.requests import Request

from heedful.errors import HeedfulError
from heedful.records import Completion, Prompt
from heedful.store.database import Database, storable
from heedful.store.people import User
from heedful.store.sessions import Session

MAX_NOTE_CHARS = 2000


class Refused(HeedfulError):
    """A request that is not answered as asked; ``status`` is the HTTP status of the page.

    ``instead`` is the page of ours that comes first; a browser that asked for a page is sent there.
    """

    def __init__(self, status: int, message: str, instead: str = ""):
        super().__init__(message)
        self.status, self.instead = status, instead


@dataclass(frozen=True, slots=True)
class Readers:
    """How uploaded files become records; handed in, since this package knows no file formats."""

    prompts: Callable[[Path], Iterable[Prompt]]
    completions: Callable[[Path], Iterable[tuple[Prompt, tuple[Completion, ...]]]]
    suffixes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Service:
    """The parts of a running service. ``url`` is where people reach it, without a slash at its end.

    ``clock`` gives seconds since 1970; ``snapshots`` is the folder that exports are written to.
    ``second_factor`` are the roles that need one; the others may have one.
    ``runs`` is where an erasure looks for models that were trained on a snapshot.
    """

    database: Database
    url: str
    readers: Readers
    snapshots: Path
    clock: Callable[[], float]
    second_factor: frozenset[str] = frozenset({"admin", "researcher"})
    runs: Path = Path("runs")

    @property
    def is_secure(self) -> bool:
        """Whether people come over TLS, be it by a proxy in front."""
        return urlsplit(self.url).scheme == "https"


def service_of(request: Request) -> Service:
    """The service that a request is for."""
    return request.app.state.service


def read(request: Request, function: Callable[..., Any], *given: Any, **named: Any) -> Any:
    """What a function of the store finds, in a view of its own."""
    with service_of(request).database.read() as connection:
        return function(connection, *given, **named)


def write(request: Request, function: Callable[..., Any], *given: Any, **named: Any) -> Any:
    """What a function of the store does, in one transaction that is on disk when this returns."""
    return service_of(request).database.write(lambda c: function(c, *given, **named))


def now_of(request: Request) -> float:
    """The time of the service, seconds since 1970."""
    return service_of(request).clock()


def user_of(request: Request) -> User:
    """Who is logged in; pages that everybody may see have nobody."""
    user = getattr(request.state, "user", None)
    if user is None:
        raise Refused(401, "Log in first.")
    return user


def session_of(request: Request) -> Session | None:
    """The session of the request, or None."""
    return getattr(request.state, "session", None)


def form_of(request: Request) -> FormData:
    """The form that was sent; the guard has read it."""
    return request.state.form


def texts_of(request: Request) -> dict[str, str]:
    """The text fields of the form, with the line ends of the store (a browser sends CR LF)."""
    return clean_texts(form_of(request))


def note_of(request: Request, name: str = "note") -> str:
    """A text of the form that colleagues read, as a database can hold it."""
    return storable(texts_of(request).get(name, ""))[:MAX_NOTE_CHARS]


def clean_texts(fields: Mapping[str, Any]) -> dict[str, str]:
    """The text fields by name, with line feeds alone as line ends, and no half characters."""
    return {
        str(name): value.replace("\r\n", "\n").encode("utf-8", "replace").decode()
        for name, value in fields.items()
        if isinstance(value, str)
    }
