"""heed judge: by a model on a local server, and by people through the store of the service."""

import json
import re
import time
from http.server import BaseHTTPRequestHandler
from io import BytesIO

import pytest

from heedful.cli import main
from heedful.commands.plan import derived_numbers
from heedful.config import RewardConfig
from heedful.data.formats import read_completions, read_prompts
from heedful.labeling.service import Readers
from heedful.labeling.uploads import Upload, import_completions
from heedful.records import Rating
from heedful.store import people, projects, tasks
from heedful.store.answers import LabelSchema, RankingAnswer
from heedful.store.database import open_database

NOW = 1_000_000.0


@pytest.fixture
def samples(tmp_path):
    """Answers of SFT and PPO to six prompts; PPO's are the longer ones, the last are alike."""
    path = tmp_path / "completions.jsonl"
    rows = []
    for n in range(6):
        texts = {"SFT": f"short {n}", "PPO": f"a longer answer {n}" if n < 5 else f"short {n}"}
        given = [
            {"id": f"{model}{n}", "text": text, "model": model} for model, text in texts.items()
        ]
        about = {"split": "test", "source": "labeler", "use_case": "chat"}
        rows.append({"prompt_id": f"p{n}", "prompt": f"Prompt {n}?", **about, "completions": given})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def judge_service(serve):
    """A judge that prefers the longer answer, fails each question once, and prompt 2 always."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            text = self.rfile.read(int(self.headers["Content-Length"]))
            user = json.loads(text)["messages"][1]["content"]
            seen.append((self.path, self.headers.get("Authorization"), text))
            first, second = (
                user.split(f" answer {n} begins]\n")[1].split("\n[")[0] for n in (1, 2)
            )
            better = "1" if len(first) > len(second) else "2"
            said = {"rating_1": 4, "rating_2": 4, "better": better, "reason": ""}
            body = json.dumps(
                {
                    "choices": [{"message": {"content": json.dumps(said)}}],
                    "usage": {"prompt_tokens": 50, "completion_tokens": 10},
                }
            ).encode()
            if sum(one[2] == text for one in seen) == 1 or "Prompt 2?" in user:
                self.send_response(429)
                self.send_header("Retry-After", "0.01")
                body = b"{}"
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    return f"{serve(Handler)}/v1", seen


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_model_judges_and_what_failed_is_told(
    samples, judge_service, tmp_path, capsys, monkeypatch
):
    url, seen = judge_service
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    out = tmp_path / "judged"
    words = [f"--samples={samples}", f"--url={url}", "--model=judge-1", f"--run_dir={out}"]
    words += ["--tries=3", "--price_prompt=1", "--price_completion=10"]
    assert main(["judge", *words]) == 1  # one of five pairs, more than max_failed
    told = capsys.readouterr()
    assert "1 of 5 pairs have no verdict in both orders" in told.err and "failed.jsonl" in told.err
    assert "4 of 5 pairs judged in both orders; 1 more are of one text" in told.out
    assert "50.0%" in told.out and "both orders agree on 100.0% of pairs" in told.out
    assert "failed 2 times: answered 429: {}, 3 times" in told.out
    assert {(row["prompt_id"], row["order"]) for row in read(out / "failed.jsonl")} == {
        ("p2", "forward"),
        ("p2", "backward"),
    }
    report = json.loads((out / "judge.json").read_text(encoding="utf-8"))
    assert report["cost"] == pytest.approx(8 * (50 * 1 + 10 * 10) / 1e6)
    assert report["problems"]["429"] == 8 + 6
    assert {path for path, *_ in seen} == {"/v1/chat/completions"}
    assert {key for _, key, _ in seen} == {"Bearer secret-key"}
    assert not any("secret-key" in p.read_text(encoding="utf-8") for p in out.iterdir())

    asked = len(seen)
    assert main(["judge", *words, "--max_failed=0.5"]) == 0
    assert len(seen) - asked == 2 * 3  # only what had failed
    words = [f"--judgements={out / 'judgements.jsonl'}", f"--samples={samples}"]
    assert main(["eval", "preference", *words, f"--run_dir={tmp_path / 'eval'}"]) == 0
    assert "PPO" in capsys.readouterr().out
    found = json.loads((tmp_path / "eval/eval/preference.json").read_text(encoding="utf-8"))
    # four pairs won in both orders and one tie: 8.5 of 9 judgements
    assert found["win_rates"][0]["value"] == pytest.approx(8.5 / 9)
    assert found["win_rates"][0]["prompts"] == 5
    assert found["length_controlled"][0]["characters_longer"] == pytest.approx(8 * 10 / 9)
    assert found["judges"] == ["judge judge-1"]
    assert found["command"].startswith("heed eval preference --run_dir=")


def test_people_judge_through_the_labeling_service(samples, tmp_path, capsys):
    out, store = tmp_path / "tasks", tmp_path / "labels.db"
    assert main(["judge", "--by=people", f"--samples={samples}", f"--run_dir={out}"]) == 0
    said = capsys.readouterr().err
    export = out / "export"
    (words,) = (line for line in said.splitlines() if line.startswith("  heed eval preference"))
    assert words.split()[3:] == [
        f"--comparisons={export / 'comparisons.jsonl'}",
        f"--key={out / 'key.jsonl'}",
        f"--samples={samples}",
        "--baseline=SFT",
        f"--run-dir={out}",
    ]
    assert "5 tasks" in said
    about = [(row["split"], row["source"], row["use_case"]) for row in read(out / "tasks.jsonl")]
    assert about == [("test", "labeler", "chat")] * 5

    database = open_database(store, now=NOW)
    try:
        rank_all(database, out / "tasks.jsonl")
    finally:
        database.close()
    (line,) = (line for line in said.splitlines() if line.startswith("  heed label export"))
    line = line.replace("DATABASE", str(store)).replace("NAME", "models")
    assert main(line.split()[1:]) == 0
    assert main(words.split()[1:]) == 0  # the command as it was printed
    found = json.loads((out / "eval/preference.json").read_text(encoding="utf-8"))
    (rate,) = found["win_rates"]
    assert (rate["model"], rate["baseline"]) == ("PPO", "SFT")
    # five prompts won by the longer answer, and the prompt of one text as a tie
    assert rate["value"] == pytest.approx(5.5 / 6) and rate["judgements"] == 6
    assert {row["model"]: row["value"] for row in found["likert"]} == {"PPO": 6, "SFT": 2}

    # what models were tested on trains no reward model: of six rankings counts the one added here
    rows = read(export / "comparisons.jsonl")
    assert [row["split"] for row in rows] == ["test"] * 5
    more = [{"id": "a", "text": "x"}, {"id": "b", "text": "y"}]
    row = {"prompt": "Another?", "split": "train", "completions": more, "ranks": [1, 2]}
    with (export / "comparisons.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    data = {"comparisons": str(export / "comparisons.jsonl")}
    config = {
        "run_dir": "x",
        "base": "no/model",
        "data": data,
        "optim": {"lr": 1e-5, "batch_size": 1},
    }
    numbers = derived_numbers(RewardConfig.model_validate(config)).splitlines()
    assert re.split(" {2,}", numbers[0])[:2] == ["rankings to train on", "1"]


def test_answers_of_a_benchmark_are_of_its_test_split(tmp_path, capsys):
    facts = {"question": "Why?", "best": "Because", "correct": [], "incorrect": []}
    row = {"task": "truthfulqa", "response": "No reason.", "facts": facts}
    file = tmp_path / "run/eval/truthfulness.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(row) + "\n", encoding="utf-8")
    out = tmp_path / "grading"
    assert main(["judge", "--by=people", f"--truthfulqa={file}", f"--run_dir={out}"]) == 0
    assert [task["split"] for task in read(out / "tasks.jsonl")] == ["test"]
    ((prompt, _),) = read_completions(str(out / "tasks.jsonl"))  # as the service imports it
    assert (prompt.split, prompt.use_case) == ("test", "open_qa")
    said = capsys.readouterr().err
    (words,) = (line for line in said.splitlines() if line.startswith("  heed eval truthfulness"))
    assert words.split()[3:] == [
        "--rescore",
        "--tasks=truthfulqa",
        f"--grades={out / 'export/comparisons.jsonl'}",
        "--data=DIR",
        f"--run-dir={tmp_path / 'run'}",
    ]


def rank_all(database, file):
    """A labeler who ranks every task: the longer output first."""

    def begin(c):
        admin = people.add_user(c, "a@b.org", "Ada", "admin", None, actor=None, now=NOW).id
        plain = projects.Settings(overlap_fraction=0.0, gold_fraction=0.0, drift_fraction=0.0)
        project = projects.create(
            c, "models", seed="s", settings=plain, guideline="Be kind.", actor=admin, now=NOW
        )
        fast = LabelSchema(mode="fast")
        projects.publish_schema(c, project.id, fast, actor=admin, now=NOW)
        labeler = people.add_user(c, "l@b.org", "Lea", "labeler", None, actor=admin, now=NOW).id
        people.join(c, project.id, labeler, "train", actor=admin, now=NOW)
        return admin, project, labeler

    admin, project, labeler = database.write(begin)
    readers = Readers(lambda path: read_prompts(str(path)), read_completions, (".jsonl",))
    upload = Upload("tasks.jsonl", BytesIO(file.read_bytes()))
    import_completions(database, project, upload, readers, actor=admin, now=NOW)
    for number in range(5):
        work = database.write(lambda c: tasks.claim(c, project.id, labeler, "ranking", now=NOW))
        longest = max(map(len, work.outputs))
        ranks = tuple(1 if len(text) == longest else 2 for text in work.outputs)
        answer = RankingAnswer(ranks, tuple(Rating(6 if r == 1 else 2) for r in ranks))
        database.write(
            lambda c, w=work, a=answer, n=number: tasks.submit(
                c, w.id, labeler, a, key=f"k{n}", now=NOW
            )
        )


def test_bad_input_is_named(samples, tmp_path, capsys):
    run = f"--run_dir={tmp_path / 'out'}"
    assert main(["judge", f"--samples={samples}", run]) == 2
    assert "--model=NAME" in capsys.readouterr().err
    assert main(["judge", f"--samples={samples}", run, "--model=m", "--baseline=GPT"]) == 1
    assert "no answers of GPT; its models: SFT, PPO" in capsys.readouterr().err
    assert main(["eval", "preference", run]) == 2
    assert "give --judgements=FILE" in capsys.readouterr().err
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt_id": "p"}\n', encoding="utf-8")
    assert main(["eval", "preference", f"--judgements={bad}", run]) == 1
    assert "bad.jsonl, line 1: no judgement" in capsys.readouterr().err
    start = time.monotonic()
    words = [f"--samples={samples}", run, "--model=m", "--url=http://127.0.0.1:9/v1", "--tries=1"]
    assert main(["judge", *words]) == 1  # nobody listens there
    assert "5 of 5 pairs have no verdict" in capsys.readouterr().err
    assert time.monotonic() - start < 20
