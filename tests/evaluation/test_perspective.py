"""The Perspective client against a local server that speaks its protocol and misbehaves."""

import threading

import pytest

from heedful.commands import graders
from heedful.config import EvalConfig
from heedful.errors import ConfigError, EvaluationError
from heedful.evaluation.perspective import (
    KEY_VARIABLE,
    MAX_BYTES,
    perspective,
    read_score,
    toxicity,
)
from heedful.evaluation.toxicity import TOXICITY_TASKS


def answer_of(score):
    value = {"value": score, "type": "PROBABILITY"}
    return {"attributeScores": {"TOXICITY": {"summaryScore": value}}, "languages": ["en"]}


def local(service, **settings):
    chosen = {"requests_per_s": 200.0, "backoff_s": 0.01, "timeout_s": 60.0} | settings
    return perspective("a-key", url=service.url, **chosen)


def test_scores_stand_beside_their_texts_and_empty_ones_are_not_sent(service, tmp_path):
    service.respond = lambda q, n: service.answer(answer_of(len(q["comment"]["text"]) / 100))
    texts = ["four", "", "seventeen letters", " \n", "four", "x" * 90]
    found = toxicity(texts, local(service), file=tmp_path / "a.jsonl")
    assert found.scores == (0.04, 0.0, 0.17, 0.0, 0.04, 0.9)
    assert found.num_missing == 0
    assert len(service.requests) == 3
    _, question, headers = service.requests[0]
    assert headers["X-Goog-Api-Key"] == "a-key"
    assert question["requestedAttributes"] == {"TOXICITY": {}}
    assert question["languages"] == ["en"] and question["doNotStore"] is True


def test_it_goes_on_through_misbehaviour_and_names_what_has_no_score(service, tmp_path):
    asked_again = threading.Event()

    def respond(question, n):
        text = question["comment"]["text"]
        if text == "slow" and n == 1:
            asked_again.wait(60)  # no answer until whoever asked has given up
        elif text == "slow":
            asked_again.set()
        if text == "in tongues":
            return service.answer({"error": {"message": "language not supported"}}, 400)
        if text == "odd":
            return service.answer({"attributeScores": {"SPAM": {}}})
        first = {
            "busy": service.answer({}, 429, {"Retry-After": "0.05"}),
            "down": service.answer({}, 500),
            "slow": service.answer(answer_of(0.1)),
            "cut": service.answer(b'{"attributeScores": {"TOX'),
        }
        return first[text] if n == 1 else service.answer(answer_of(0.5))

    service.respond, file = respond, tmp_path / "a.jsonl"
    texts = ["busy", "down", "in tongues", "slow", "cut", "odd"]
    found = toxicity(texts, local(service, timeout_s=3.0), file=file)
    assert found.scores == (0.5, 0.5, None, 0.5, 0.5, None)
    assert found.num_missing == 2
    assert found.answers.failed.keys() == {"2", "5"}
    assert "language not supported" in found.answers.failed["2"]
    assert "no attributeScores.TOXICITY" in found.answers.failed["5"]
    again = toxicity(texts, local(service), file=file)
    assert again.answers.num_from_file == 4


def test_long_texts_are_cut_to_the_limit_between_characters(service, tmp_path):
    service.respond = lambda q, n: service.answer(answer_of(0.0))
    toxicity(["é" * 30_000], local(service), file=tmp_path / "a.jsonl")
    sent = service.requests[0][1]["comment"]["text"]
    assert sent == "é" * (MAX_BYTES // 2)


def test_the_key_is_needed_and_never_shown(service, tmp_path, monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with pytest.raises(ConfigError, match=f"set {KEY_VARIABLE}"):
        perspective()
    monkeypatch.setenv(KEY_VARIABLE, "from-the-environment")
    assert perspective().headers["X-Goog-Api-Key"] == "from-the-environment"
    assert perspective().requests_per_s == 1.0
    assert "from-the-environment" not in repr(perspective())
    service.respond = lambda q, n: service.answer({"error": "bad key"}, 403)
    with pytest.raises(EvaluationError, match="the key may not use this service") as error:
        toxicity(["a"], local(service), file=tmp_path / "a.jsonl")
    assert "a-key" not in str(error.value)


def test_scores_outside_their_range_are_not_scores():
    assert read_score(answer_of(1)) == 1.0
    for wrong in (answer_of(1.5), answer_of("0.5"), answer_of(True), {}, [], answer_of(None)):
        with pytest.raises(ValueError, match=r"not between 0 and 1|it has no"):
            read_score(wrong)


def test_heed_eval_scores_by_it_and_tells_what_has_no_score(service, tmp_path, monkeypatch, capsys):
    def respond(question, n):
        if question["comment"]["text"] == "refused":
            return service.answer({"error": "no"}, 400)
        return service.answer(answer_of(0.25))

    service.respond = respond
    monkeypatch.setattr(graders, "perspective", lambda: local(service))
    config = EvalConfig(run_dir=str(tmp_path), data=str(tmp_path), toxicity="perspective")
    found, said = graders.load_graders(config, TOXICITY_TASKS)
    assert found.toxicity(["kind", "refused", ""]) == [0.25, None, 0.0]
    assert said == {"toxicity": "Google's Perspective API"}
    assert "failed 1 times: refused with 400" in capsys.readouterr().err
    assert found.toxicity(["kind"]) == [0.25] and len(service.requests) == 2
