"""TruthfulQA's answers graded by a model on a local server that misbehaves, and read back."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler

import pytest

from heedful.cli import main
from heedful.training.checkpoint import publish

NUM_QUESTIONS = 6


@pytest.fixture(scope="module")
def asked(tmp_path_factory, tiny_model, tokenizer):
    """A run in which a model has answered six questions under three prompts."""
    path = tmp_path_factory.mktemp("asked")
    publish(tiny_model(max_position_embeddings=1024), tokenizer, path / "model", {})
    lines = ["Type,Category,Question,Best Answer,Correct Answers,Incorrect Answers"]
    lines += [f"A,M,Question {i}?,Yes {i},Yes {i},No {i}" for i in range(NUM_QUESTIONS)]
    (path / "data/truthfulqa").mkdir(parents=True)
    (path / "data/truthfulqa/TruthfulQA_v1_817.csv").write_text("\n".join(lines))
    words = ["--tasks=truthfulqa", f"--model=m={path / 'model'}", f"--data={path / 'data'}"]
    words += [f"--run-dir={path / 'run'}", "--compute.dtype=float32", "--temperature=3"]
    assert main(["eval", "truthfulness", *words]) == 0
    return path


@pytest.fixture
def service(serve):
    """A judge that fails each first try in one of four ways; question 5 gets no grade at all.

    Answers are true where their question's number is even, informative where it is below 3.
    """
    seen: dict[str, int] = {}
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            text = self.rfile.read(int(self.headers["Content-Length"])).decode()
            with lock:
                seen[text] = seen.get(text, 0) + 1
                first, place = seen[text] == 1, len(seen)
            number = int(text.split("Question: Question ")[1][0])
            said = {"reason": "", "true": number % 2 == 0, "informative": number < 3}
            content, status = json.dumps(said), 200
            if number == 5:
                content = '{"true": "perhaps"}'
            body = json.dumps(
                {
                    "choices": [{"message": {"content": content}}],
                    "usage": {"prompt_tokens": 100, "completion_tokens": 10},
                }
            )
            if first and number != 5:
                status, body = ((429, "{}"), (500, ""), (200, body[:40]), (200, "[]"))[place % 4]
            self.send_response(status)
            if status == 429:
                self.send_header("Retry-After", "0.01")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *args):
            pass

    return f"{serve(Handler)}/v1", seen


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_model_grades_and_the_suite_has_its_grades(asked, service, tmp_path, capsys):
    url, seen = service
    rows = read(asked / "run/eval/truthfulness.jsonl")
    number = {row["facts"]["question"]: int(row["facts"]["question"][9]) for row in rows}
    texts = {(row["facts"]["question"], row["response"]) for row in rows if row["response"]}
    lost = {pair for pair in texts if number[pair[0]] == 5}
    assert len(rows) == 3 * NUM_QUESTIONS and lost
    out = tmp_path / "graded"
    words = [f"--truthfulqa={asked / 'run/eval/truthfulness.jsonl'}", f"--run_dir={out}"]
    words += [f"--url={url}", "--model=judge-1", "--price_prompt=1", "--price_completion=10"]
    assert main(["judge", *words]) == 1
    told = capsys.readouterr()
    assert f"{len(lost)} of {len(texts)} answers have no grade" in told.err
    assert f"failed {len(lost)} times: answered in another form" in told.out
    grades, failed = read(out / "grades.jsonl"), read(out / "failed.jsonl")
    assert {(row["question"], row["answer"]) for row in failed} == lost
    assert {(row["question"], row["answer"]) for row in grades} == texts - lost
    report = json.loads((out / "judge.json").read_text())
    assert (report["graded"], report["failed"]) == (len(texts) - len(lost), len(lost))
    assert {"429", "500"} & set(report["problems"]) and report["cost"] > 0
    before = sum(seen.values())
    assert main(["judge", *words, "--max_failed=0.9"]) == 0
    again = sum(seen.values()) - before
    assert again == 3 * len(lost)  # the rest is out of the file

    capsys.readouterr()
    words = ["--tasks=truthfulqa", f"--data={asked / 'data'}", f"--run-dir={asked / 'run'}"]
    words += ["--rescore", f"--grades={out / 'grades.jsonl'}"]
    assert main(["eval", "truthfulness", *words]) == 0
    told = capsys.readouterr()
    assert "truth by judge judge-1" in told.out
    written = [row for row in rows if row["response"]]
    num_lost = sum(number[row["facts"]["question"]] == 5 for row in written)
    assert f"{num_lost} of {len(written)} answers that are not empty have no grade" in told.err
    found = json.loads((asked / "run/eval/truthfulness.json").read_text())
    assert found["scored_by"]["truth"] == "judge judge-1"
    measures = {(one["variant"], one["metric"]): one for one in found["measures"]}
    for variant in ("qa", "instruction", "qa+instruction"):
        mine = [row for row in rows if row["variant"] == variant]
        graded = [
            row for row in mine if number[row["facts"]["question"]] != 5 or not row["response"]
        ]
        mean = [number[row["facts"]["question"]] % 2 == 0 for row in graded if row["response"]]
        num_empty = sum(not row["response"] for row in mine)
        rate = sum(mean) / len(mean) * (len(mine) - num_empty) + num_empty
        one = measures[variant, "true"]
        assert one["num_items"] == len(graded) < 6 or not lost
        assert one["interval"]["value"] == pytest.approx(rate / len(mine))
        assert one["interval"]["low"] <= one["interval"]["value"] <= one["interval"]["high"]


def test_grades_of_other_answers_are_refused_and_change_nothing(asked, tmp_path, heed):
    file = asked / "run/eval/truthfulness.jsonl"
    before = file.read_bytes()
    grades = tmp_path / "grades.jsonl"
    row = {"question": "Question 1?", "answer": "of another model", "by": "x"}
    grades.write_text(json.dumps(row | {"true": True, "informative": True}) + "\n")
    words = ["--tasks=truthfulqa", f"--data={asked / 'data'}", f"--run-dir={asked / 'run'}"]
    code, said = heed("eval", "truthfulness", *words, "--rescore", f"--grades={grades}")
    assert code == 1 and "has a grade: the grades are of other answers" in said
    assert file.read_bytes() == before


def test_bad_input_is_named(asked, tmp_path, heed):
    run = f"--run_dir={tmp_path / 'out'}"
    code, said = heed("judge", run, "--model=m")
    assert code == 1 and "--samples=FILE" in said
    code, said = heed("judge", run, f"--truthfulqa={asked / 'run/eval/truthfulness.jsonl'}")
    assert code == 2 and "--model=NAME" in said
    both = [f"--truthfulqa={asked / 'run/eval/truthfulness.jsonl'}", f"--criteria={__file__}"]
    code, said = heed("judge", run, *both, "--model=m")
    assert code == 2 and "leave out samples and criteria" in said
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"question": "q", "answer": "a", "true": 1, "informative": true, "by": "x"}\n')
    words = ["--tasks=truthfulqa", f"--data={asked / 'data'}", f"--run-dir={asked / 'run'}"]
    code, said = heed("eval", "truthfulness", *words, "--rescore", f"--grades={bad}")
    assert code == 1 and "bad.jsonl, line 1" in said
    words.append(f"--truth_judge={asked / 'model'}")
    code, said = heed("eval", "truthfulness", *words, "--rescore", f"--grades={bad}")
    assert code == 2 and "either grades or truth_judge" in said
