"""A real HTTP server on this machine that answers, or misbehaves, as a test wants."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest


class Answer(NamedTuple):
    """What the server sends back. ``cut`` bytes are announced and never sent."""

    body: Any
    status: int = 200
    headers: Mapping[str, str] = MappingProxyType({})
    cut: int = 0


class Service:
    """The server: ``respond(question, n)`` says what the n-th try of a question is answered."""

    answer = Answer

    def __init__(self) -> None:
        self.respond: Callable[[Any, int], Answer] = lambda question, n: Answer({})
        self.requests: list[tuple[float, Any, dict[str, str]]] = []
        self.lock = threading.Lock()
        self.url = ""

    def tries_of(self, question: Any) -> int:
        return sum(asked == question for _, asked, _ in self.requests)


def handler_of(service: Service) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            text = self.rfile.read(int(self.headers["Content-Length"]))
            question = json.loads(text)
            with service.lock:
                service.requests.append((time.monotonic(), question, dict(self.headers)))
                number = service.tries_of(question)
            answer = service.respond(question, number)
            body = answer.body
            sent = body if isinstance(body, bytes) else json.dumps(body).encode()
            try:
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(sent) + answer.cut))
                self.end_headers()
                self.wfile.write(sent)
            except (BrokenPipeError, ConnectionResetError):  # whoever asked has gone
                self.close_connection = True
            if answer.cut:
                self.close_connection = True

        def log_message(self, *args: Any) -> None:
            pass

    return Handler


@pytest.fixture
def service(serve: Callable[[type[BaseHTTPRequestHandler]], str]) -> Service:
    """A server that runs for one test."""
    found = Service()
    found.url = f"{serve(handler_of(found))}/ask"
    return found
