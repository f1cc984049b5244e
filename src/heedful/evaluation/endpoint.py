"""Questions to a web service, which may be slow, busy or broken: what it answered, and what not.

Every question is asked until its answer can be used, at most ``tries`` times. A busy service (429,
503) is given the time that it asks for; other failures wait twice as long after each try. Answers
are written to a file as they come, so a run that was stopped, or in which something failed, asks
only for what is missing when it is started again. What failed is returned with its reason.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Generic, TypeVar

from heedful.errors import DataError, EvaluationError, MissingExtraError

# The settings are wrong, for every question alike: asking on would only cost time.
_FATAL = {
    401: "the key was not accepted: give a valid one",
    403: "the key may not use this service: give one that may",
    404: "there is nothing at this address, or no such model: correct the address or the model",
    405: "this address does not take questions: correct it",
}
# The question is wrong: it would be refused again.
_REFUSED = (400, 413, 422)
# So many questions given up in a row, without one answered between, and the rest are not asked.
MAX_FAILED_IN_A_ROW = 20
# Answers in a wrong form cost as much as good ones, and mostly come back the same.
MAX_WRONG_FORM = 3
WRONG_FORM = "wrong form"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to ask, and how patiently."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # has the key: not shown
    tries: int = 6
    timeout_s: float = 60.0
    backoff_s: float = 1.0
    max_wait_s: float = 120.0  # a service that wants longer is taken to be out of order
    requests_per_s: float | None = None
    workers: int = 8


@dataclass(slots=True)
class Answers(Generic[T]):
    """What came back: ``found`` and ``failed`` together hold every question that was handed in."""

    found: dict[str, T] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)  # why, for people to read
    num_from_file: int = 0
    num_requests: int = 0
    problems: Counter[str] = field(default_factory=Counter)  # of single tries, mended ones too
    usage: Counter[str] = field(default_factory=Counter)  # tokens as the service counts them
    usage_before: Counter[str] = field(default_factory=Counter)  # of the answers out of the file

    def summary(self) -> str:
        """What happened, in one or a few lines."""
        lines = [
            f"{len(self.found):,} answered ({self.num_from_file:,} of them before), "
            f"{len(self.failed):,} failed, {self.num_requests:,} requests"
        ]
        if self.problems:
            tries = ", ".join(f"{name}: {n:,}" for name, n in self.problems.most_common())
            lines.append(f"tries that came to nothing: {tries}")
        for why, num in Counter(self.failed.values()).most_common(5):
            lines.append(f"failed {num:,} times: {why}")
        if self.failed:
            lines.append("what was answered is kept: start again to ask for the rest alone")
        return "\n".join(lines)


def ask_all(
    endpoint: Endpoint,
    questions: Mapping[str, Mapping[str, Any]],
    read: Callable[[Any], T],
    *,
    file: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Answers[T]:
    """The answers to JSON ``questions`` by name, read by ``read``, kept in ``file``.

    ``read`` raises ValueError where an answer is not what was asked for; the question is then asked
    again. Raises EvaluationError where the service refuses them all (a wrong key or address).
    """
    answers: Answers[T] = Answers()
    kept = _KeptAnswers(file)
    waiting: dict[str, list[str]] = {}  # equal questions are asked once
    for name, question in questions.items():
        key = _key(endpoint.url, question)
        try:
            if key in kept.bodies:
                answers.found[name] = read(kept.bodies[key])
                answers.num_from_file += 1
                answers.usage_before.update(_usage(kept.bodies[key]))
                continue
        except ValueError:  # read otherwise than when it was kept
            pass
        waiting.setdefault(key, []).append(name)
    if not waiting:
        progress(1, 1)
        return answers
    asked = {key: questions[names[0]] for key, names in waiting.items()}
    for key, outcome in _outcomes(endpoint, asked, read, answers, kept):
        for name in waiting[key]:
            if isinstance(outcome, _Failure):
                answers.failed[name] = outcome.why
            else:
                answers.found[name] = outcome
        progress(len(answers.found) + len(answers.failed), len(questions))
    return answers


def _outcomes(
    endpoint: Endpoint,
    asked: Mapping[str, Mapping[str, Any]],
    read: Callable[[Any], T],
    answers: Answers[T],
    kept: _KeptAnswers,
) -> Iterator[tuple[str, T | _Failure]]:
    """(key, answer or failure) of each question, as they come; several are asked at once."""
    httpx = _httpx()
    in_a_row, last = 0, ""
    with (
        httpx.Client(
            headers={"Content-Type": "application/json", **endpoint.headers},
            timeout=endpoint.timeout_s,
        ) as client,
        ThreadPoolExecutor(endpoint.workers) as pool,
    ):
        asker = _Asker(endpoint, client, _Pace(endpoint.requests_per_s), read, answers, kept)
        futures = {pool.submit(asker.ask, key, question): key for key, question in asked.items()}
        try:
            for future in as_completed(futures):
                if asker.is_stopped and future.cancelled():
                    yield futures[future], _Failure(f"not asked: the service is failing ({last})")
                    continue
                outcome = future.result()
                yield futures[future], outcome
                in_a_row = in_a_row + 1 if isinstance(outcome, _Failure) else 0
                last = outcome.why if isinstance(outcome, _Failure) else last
                if in_a_row >= MAX_FAILED_IN_A_ROW and not asker.is_stopped:
                    asker.stop(last)
                    for waiting in futures:
                        waiting.cancel()
        except BaseException:  # a wrong key, Ctrl-C: nothing more is asked
            asker.stop("stopped")
            for waiting in futures:
                waiting.cancel()
            raise


@dataclass(frozen=True, slots=True)
class _Failure:
    why: str


class _Again(Exception):
    """One try came to nothing: ``kind`` is counted, ``wait_s`` is what the service asked for."""

    def __init__(self, kind: str, why: str, wait_s: float | None = None):
        super().__init__(why)
        self.kind, self.wait_s = kind, wait_s


class _Asker(Generic[T]):
    """Asks one question at a time in each of several threads."""

    def __init__(
        self,
        endpoint: Endpoint,
        client: Any,
        pace: _Pace,
        read: Callable[[Any], T],
        answers: Answers[T],
        kept: _KeptAnswers,
    ):
        self.endpoint, self.client, self.pace, self.read = endpoint, client, pace, read
        self.answers, self.kept = answers, kept
        self.lock = threading.Lock()
        self.is_stopped, self.why_stopped = False, ""

    def stop(self, why: str) -> None:
        """Ends the questions that are being asked after their next try."""
        self.is_stopped, self.why_stopped = True, why
        self.pace.stop()

    def ask(self, key: str, question: Mapping[str, Any]) -> T | _Failure:
        """The answer, or why there is none after all tries."""
        why, num_wrong_form = "", 0
        for number in range(self.endpoint.tries):
            self.pace.wait()
            if self.is_stopped:
                return _Failure(f"given up: the service is failing ({why or self.why_stopped})")
            try:
                body = self._post(question)
                with self.lock:
                    self.answers.usage.update(_usage(body))
                found = self._read(body)
            except _Again as problem:
                why = str(problem)
                with self.lock:
                    self.answers.problems[problem.kind] += 1
                num_wrong_form += problem.kind == WRONG_FORM
                if num_wrong_form == MAX_WRONG_FORM:
                    return _Failure(f"{why}, {num_wrong_form} times")
                wait_s = problem.wait_s
                if wait_s is not None and wait_s > self.endpoint.max_wait_s:
                    return _Failure(
                        f"{why}, which wants {wait_s:,.0f} s (max_wait_s is "
                        f"{self.endpoint.max_wait_s:g})"
                    )
                if wait_s is not None:  # busy for everybody, not for this question alone
                    self.pace.pause(wait_s)
                elif number + 1 < self.endpoint.tries:
                    backoff_s = self.endpoint.backoff_s * 2**number * random.uniform(0.5, 1.0)
                    self.pace.sleep(min(backoff_s, self.endpoint.max_wait_s))
                continue
            except _Refused as refusal:
                with self.lock:
                    self.answers.problems[refusal.kind] += 1
                return _Failure(str(refusal))
            self.kept.add(key, body)
            return found
        return _Failure(f"{why}, {self.endpoint.tries} times")

    def _post(self, question: Mapping[str, Any]) -> Any:
        """The JSON of an answer whose status is 200."""
        httpx = _httpx()
        with self.lock:
            self.answers.num_requests += 1
        try:
            # escaped here, so that half a character (a lone surrogate) can be sent as well
            text = json.dumps(question)
            response = self.client.post(self.endpoint.url, content=text)
        except httpx.TimeoutException as error:
            why = f"no answer within {self.endpoint.timeout_s:g} s"
            raise _Again("timeout", why) from error
        except httpx.TransportError as error:
            why = f"the connection broke ({type(error).__name__})"
            raise _Again("connection", why) from error
        status = response.status_code
        if status in _FATAL:
            raise EvaluationError(
                f"{self.endpoint.url} answered {status}, {_FATAL[status]}{_said(response)}"
            )
        if status in _REFUSED:
            raise _Refused(str(status), f"refused with {status}{_said(response)}")
        if status != 200:
            wait_s = _retry_after_s(response.headers.get("retry-after"))
            raise _Again(str(status), f"answered {status}{_said(response)}", wait_s)
        try:
            return response.json()
        except ValueError as error:
            raise _Again("no JSON", "answered with what is not JSON, or only part of it") from error

    def _read(self, body: Any) -> T:
        try:
            return self.read(body)
        except ValueError as error:
            raise _Again(WRONG_FORM, f"answered in another form: {error}") from error


class _Refused(Exception):
    """The service will not have this question, however often it is asked."""

    def __init__(self, kind: str, why: str):
        super().__init__(why)
        self.kind = kind


class _Pace:
    """When the next question may be asked, for all threads together."""

    def __init__(self, per_s: float | None):
        self.gap_s = 1 / per_s if per_s else 0.0
        self.lock = threading.Lock()
        self.next_at = 0.0
        self.stopped = threading.Event()

    def wait(self) -> None:
        """Returns when it is this thread's turn."""
        while not self.stopped.is_set():
            with self.lock:
                now = time.monotonic()
                left_s = self.next_at - now
                if left_s <= 0:
                    self.next_at = now + self.gap_s
                    return
            self.stopped.wait(left_s)

    def pause(self, seconds: float) -> None:
        """Nobody asks for so long."""
        with self.lock:
            self.next_at = max(self.next_at, time.monotonic() + seconds)

    def sleep(self, seconds: float) -> None:
        """This thread alone waits."""
        self.stopped.wait(seconds)

    def stop(self) -> None:
        """Wakes all that wait."""
        self.stopped.set()


class _KeptAnswers:
    """Bodies by key in a JSONL file that grows by a line with each answer."""

    def __init__(self, path: Path):
        self.path = path
        self.lock = threading.Lock()
        self.bodies: dict[str, Any] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_bytes() if path.is_file() else b""
        whole = text[: text.rfind(b"\n") + 1]
        if len(whole) < len(text):  # a kill cut the last line: the next one begins in its place
            os.truncate(path, len(whole))
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                row = json.loads(line)
                self.bodies[row["key"]] = row["body"]
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f"{path}, line {number}: not an answer that was kept: take the line out, or "
                    "move the file away to ask everything again"
                ) from error

    def add(self, key: str, body: Any) -> None:
        """Keeps an answer; it is in the file when this returns."""
        line = json.dumps({"key": key, "body": body}) + "\n"
        with self.lock, self.path.open("a", encoding="utf-8") as file:
            file.write(line)


def _key(url: str, question: Mapping[str, Any]) -> str:
    text = json.dumps([url, question], sort_keys=True, ensure_ascii=False)
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _usage(body: Any) -> dict[str, int]:
    """The tokens that an OpenAI-compatible service says an answer took; empty where it does not."""
    found = body.get("usage") if isinstance(body, dict) else None
    return {
        name: count
        for name, count in (found.items() if isinstance(found, dict) else ())
        if isinstance(count, int) and not isinstance(count, bool) and count >= 0
    }


def _said(response: Any) -> str:
    """What the service says of its refusal, in a few words."""
    text = " ".join(response.text.split())
    return f": {text[:200]}" if text else ""


def _retry_after_s(value: str | None) -> float | None:
    """Seconds of a Retry-After header, which has seconds or a date; None where it has neither."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


def _httpx() -> Any:
    try:
        import httpx
    except ImportError as error:
        raise MissingExtraError("httpx is not installed: pip install 'heedful[judge]'") from error
    return httpx
