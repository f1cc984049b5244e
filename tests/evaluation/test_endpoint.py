"""Asking a web service that misbehaves, over a real socket: nothing lost, all failures said."""

import threading
import time
from email.utils import formatdate

import pytest

from heedful.errors import DataError, EvaluationError
from heedful.evaluation import endpoint as module
from heedful.evaluation.endpoint import Endpoint, ask_all


def quick(service, **settings):
    chosen = {"tries": 4, "timeout_s": 5.0, "backoff_s": 0.01, "workers": 4} | settings
    return Endpoint(service.url, {"Authorization": "Bearer secret-key"}, **chosen)


def read(body):
    """The number of an answer; anything else has the wrong form."""
    if not isinstance(body, dict) or not isinstance(body.get("number"), int):
        raise ValueError("it has no number")
    return body["number"]


def questions(num):
    return {f"q{i}": {"ask": i} for i in range(num)}


def good(service, question):
    usage = {"prompt_tokens": 3, "completion_tokens": 1, "details": {"cached": 0}}
    return service.answer({"number": 2 * question["ask"], "usage": usage})


def test_answers_come_back_under_their_names_and_equal_questions_are_asked_once(service, tmp_path):
    service.respond = lambda question, n: good(service, question)
    asked = questions(20) | {"again": {"ask": 7}}
    done = []
    found = ask_all(
        quick(service), asked, read, file=tmp_path / "a.jsonl", progress=lambda *x: done.append(x)
    )
    assert found.found == {f"q{i}": 2 * i for i in range(20)} | {"again": 14}
    assert (found.failed, found.num_requests, len(service.requests)) == ({}, 20, 20)
    assert found.usage == {"prompt_tokens": 60, "completion_tokens": 20}
    assert done[-1] == (21, 21)
    assert {headers["Authorization"] for *_, headers in service.requests} == {"Bearer secret-key"}


def test_every_kind_of_misbehaviour_is_mended_by_asking_again(service, tmp_path):
    asked_again = threading.Event()

    def respond(question, n):
        answer = service.answer
        if n > 1:
            if question["ask"] == 3:
                asked_again.set()
            return good(service, question)
        if question["ask"] == 3:
            asked_again.wait(60)  # no answer until whoever asked has given up
        return [
            answer({"error": "busy"}, 429, {"Retry-After": "0.05"}),
            answer({"error": "busy"}, 503, {"Retry-After": formatdate(time.time() - 5)}),
            answer({"error": "oops"}, 500),
            answer({"number": 0}),  # over the time limit
            answer(b'{"number": 8, "us'),  # truncated JSON
            answer(b'{"number": 10}', cut=40),  # the connection ends early
            answer({"numbers": [12]}),  # wrong schema
            answer(b"<html>bad gateway</html>", 502),
            answer([1, 2]),
            answer(b"\xff\xfe"),
        ][question["ask"]]

    service.respond = respond
    asked = questions(10)
    found = ask_all(quick(service, timeout_s=3.0), asked, read, file=tmp_path / "a.jsonl")
    assert found.found == {f"q{i}": 2 * i for i in range(10)}
    assert found.failed == {}
    expected = {"429": 1, "503": 1, "500": 1, "timeout": 1, "no JSON": 2, "connection": 1}
    assert found.problems == expected | {"wrong form": 2, "502": 1}
    assert found.num_requests == 20
    assert "20 requests" in found.summary() and "no JSON: 2" in found.summary()


def test_everybody_waits_as_long_as_a_busy_service_asks(service, tmp_path):
    def respond(question, n):
        if question["ask"] == 0 and n == 1:
            return service.answer({}, 429, {"Retry-After": "0.4"})
        return good(service, question)

    service.respond = respond
    found = ask_all(quick(service, workers=1), questions(3), read, file=tmp_path / "a.jsonl")
    assert len(found.found) == 3
    first, second = (at for at, *_ in service.requests[:2])
    assert second - first >= 0.39


def test_what_failed_is_told_and_alone_is_asked_again(service, tmp_path):
    def respond(question, n):
        if question["ask"] == 1:
            return service.answer({"error": {"message": "the text is too long"}}, 400)
        if question["ask"] == 2:
            return service.answer({"error": "oops"}, 500)
        if question["ask"] == 3:
            return service.answer({"wrong": True, "usage": {"prompt_tokens": 5}})
        if question["ask"] == 4:
            return service.answer({}, 429, {"Retry-After": "86400"})
        return good(service, question)

    service.respond, file = respond, tmp_path / "a.jsonl"
    found = ask_all(quick(service), questions(6), read, file=file)
    assert set(found.found) == {"q0", "q5"}
    assert found.failed["q1"].startswith("refused with 400: ")
    assert "the text is too long" in found.failed["q1"]
    assert found.failed["q2"] == 'answered 500: {"error": "oops"}, 4 times'
    assert found.failed["q3"] == "answered in another form: it has no number, 3 times"
    assert "wants 86,400 s (max_wait_s is 120)" in found.failed["q4"]
    tries = {i: service.tries_of({"ask": i}) for i in range(6)}
    assert tries == {0: 1, 1: 1, 2: 4, 3: 3, 4: 1, 5: 1}
    assert found.usage["prompt_tokens"] == 3 + 3 + 3 * 5  # wrong answers cost as well
    assert "2 answered (0 of them before), 4 failed" in found.summary()
    assert "secret-key" not in found.summary() + file.read_text() + repr(quick(service))

    service.respond = lambda question, n: good(service, question)
    before = len(service.requests)
    again = ask_all(quick(service), questions(6), read, file=file)
    assert again.found == {f"q{i}": 2 * i for i in range(6)}
    assert (again.num_from_file, len(service.requests) - before) == (2, 4)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_or_address_ends_it_at_once(service, tmp_path, status):
    service.respond = lambda question, n: service.answer({"error": "no"}, status)
    with pytest.raises(EvaluationError, match=f"answered {status}, .*: give|: correct") as error:
        ask_all(quick(service, workers=2), questions(200), read, file=tmp_path / "a.jsonl")
    assert len(service.requests) < 20
    assert "secret-key" not in str(error.value)


def test_a_service_that_is_down_is_not_asked_for_ever(service, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_FAILED_IN_A_ROW", 3)
    service.respond = lambda question, n: service.answer({}, 500)
    asked = questions(60)
    found = ask_all(quick(service, tries=2), asked, read, file=tmp_path / "a.jsonl")
    assert found.found == {} and set(found.failed) == set(asked)
    assert len(service.requests) < 40
    assert sum("not asked" in why or "given up" in why for why in found.failed.values()) > 20


def test_the_rate_is_kept(service, tmp_path):
    service.respond = lambda question, n: good(service, question)
    endpoint = quick(service, requests_per_s=20.0)
    begun = time.monotonic()  # the first may arrive late, but no sooner than this
    ask_all(endpoint, questions(6), read, file=tmp_path / "a.jsonl")
    assert max(at for at, *_ in service.requests) - begun >= 5 / 20


def test_a_kill_in_the_middle_of_a_line_costs_that_answer_alone(service, tmp_path):
    service.respond, file = lambda question, n: good(service, question), tmp_path / "a.jsonl"
    ask_all(quick(service), questions(3), read, file=file)
    file.write_bytes(file.read_bytes()[:-9])
    found = ask_all(quick(service), questions(3), read, file=file)
    assert (len(found.found), found.num_from_file, len(service.requests)) == (3, 2, 4)
    assert ask_all(quick(service), questions(3), read, file=file).num_from_file == 3
    file.write_text('{"no": "key"}\n')
    with pytest.raises(DataError, match=r"a\.jsonl, line 1: not an answer that was kept"):
        ask_all(quick(service), questions(3), read, file=file)


def test_half_a_character_can_be_sent(service, tmp_path):
    service.respond = lambda question, n: service.answer({"number": len(question["text"])})
    found = ask_all(quick(service), {"q": {"text": "a\ud83d"}}, read, file=tmp_path / "a.jsonl")
    assert found.found == {"q": 2}
