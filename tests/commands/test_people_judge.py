"""People as judges through a running service: tasks in, labelers over HTTP, answers out."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from contextlib import closing, contextmanager

import httpx
import pytest

from heedful.cli import main
from heedful.simulation.labelers import draw_candidates
from heedful.simulation.service_labelers import Account, Knowledge, Page, Person
from heedful.simulation.tasks import Task
from heedful.simulation.world import World

WORLD = World(0)
NAMES = WORLD.train_names[:4]
PASSWORD = "seven quiet herons"
NUM_LABELERS = 2
HOME = {"attribute": "home"}
# What the form of a new project holds, to the numbers; two labelers do every task.
FORM = {
    **{"guideline": "Be kind.", "mode": "fast", "overlap_percent": "100", "overlap_n": "2"},
    **{"heldout_n": "0", "gold_percent": "0", "drift_percent": "0", "undo_s": "0"},
}


def home_of(name):
    return f"{name} lives in the {WORLD.facts[name]['home']}."


@pytest.fixture
def samples(tmp_path):
    """PPO knows where four characters live, SFT does not; to the last prompt both say the same."""
    rows = []
    for number, name in enumerate(NAMES):
        texts = {"SFT": "I do not know.", "PPO": home_of(name)}
        if number == 3:
            texts["PPO"] = texts["SFT"]
        given = [{"id": f"{m}{number}", "text": t, "model": m} for m, t in texts.items()]
        prompt = {"prompt_id": f"p{number}", "prompt": f"Where does {name} live?"}
        rows.append(prompt | {"completions": given})
    path = tmp_path / "completions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@contextmanager
def serving(store, port):
    """The address of heed label serve on a store, in a process of its own."""
    words = ["label", "serve", "--database", store, "--port", port, "--second-factor", "none"]
    command = [sys.executable, "-c", "import sys; from heedful.cli import main; sys.exit(main())"]
    process = subprocess.Popen([*command, *map(str, words)], cwd=store.parent)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(1200):
            try:
                if httpx.get(f"{url}/health", trust_env=False).text == "ok":
                    break
            except httpx.TransportError:
                assert process.poll() is None
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(60)


class Researcher:
    """Whoever runs the project, with a browser."""

    def __init__(self, url):
        headers = {"Origin": url, "Accept": "text/html"}
        self.browser = httpx.Client(
            base_url=url, headers=headers, follow_redirects=True, timeout=120, trust_env=False
        )
        self.send("/login", "/login", email="ada@example.org", password=PASSWORD)

    def send(self, page, action, files=None, **fields):
        """The page that comes back after a form of a page was filled in and sent."""
        hidden = Page(self.browser.get(page)).form(action)[1]
        response = self.browser.post(action, data=hidden | fields, files=files)
        assert response.status_code == 200, Page(response).alert
        return response

    def project(self, name, tasks, **fields):
        """The number of a new project with the tasks of a file."""
        made = self.send("/admin", "/admin/projects", name=name, **FORM | fields)
        path = made.url.path
        sent = {"file": (tasks.name, tasks.read_bytes())}
        self.send(path, f"{path}/import", files=sent, what="completions")
        return int(path.rpartition("/")[2])

    def invite(self, project, email):
        """The token of an invitation."""
        path = f"/admin/projects/{project}"
        page = self.send(f"{path}/labelers", f"{path}/invitations", email=email, role="labeler")
        return re.search(r"/invitation/([\w-]+)", page.text)[1]


def label_all(url, project, researcher):
    """How many tasks simulated labelers have done; they come in by invitations."""
    tasks = {
        f"Where does {name} live?": (f"p{n}", Task("open_qa", "fact", {"name": name} | HOME))
        for n, name in enumerate(NAMES)
    }
    knowledge = Knowledge(WORLD, tasks, noise_scale=0.0)
    done = 0
    for number, labeler in enumerate(draw_candidates(0, NUM_LABELERS)):
        email = f"{project}-{number}@example.org"
        token = researcher.invite(project, email)
        account = Account(f"labeler-{number}", email, token, f"{PASSWORD} {number}")
        with closing(Person(url, account, labeler, knowledge)) as person:
            person.enter()
            done += person.label(project, "ranking", lambda: None)
    return done


@pytest.fixture
def store(tmp_path):
    """A database with an admin."""
    path, secret = tmp_path / "labels.db", tmp_path / "secret"
    secret.write_text(PASSWORD + "\n", encoding="utf-8")
    words = ["--database", str(path), "--email", "ada@example.org", "--password-file", str(secret)]
    assert main(["label", "init", *words]) == 0
    return path


def grade(self, page):
    """Of the answers to a question those are true that say Yes, those informative with a digit."""
    fields = {}
    for place, output in enumerate(page.outputs):
        flags = {"true": "Yes" in output, "informative": any(map(str.isdigit, output))}
        fields |= {f"ranks.{place}": "1", f"ratings.{place}": "4"}
        fields |= {f"ratings.{place}.{name}": "yes" if v else "no" for name, v in flags.items()}
    return fields


@pytest.fixture
def answers(tmp_path):
    """Two models' answers to two questions, as heed eval truthfulness has written them."""
    said = {"A": ["Yes 1.", "No."], "B": ["Yes.", "No 2."]}
    rows = [
        {
            **{"model": model, "task": "truthfulqa", "variant": "qa", "id": str(number)},
            **{"cluster": str(number), "prompt": "Q", "response": text, "finished": True},
            "facts": {"question": f"Why {number}?", "best": "Because", "correct": ["Because"]},
            **{"seed": 0, "scores": {}},
        }
        for model, texts in said.items()
        for number, text in enumerate(texts)
    ]
    folder = tmp_path / "asked" / "eval"
    folder.mkdir(parents=True)
    file = folder / "truthfulness.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def test_people_judge_models_and_grade_answers(
    samples, answers, store, tmp_path, monkeypatch, free_port
):
    """Two projects of one service: which model is preferred, and which answers are true."""
    asked, graded = tmp_path / "tasks", tmp_path / "grading"
    by = "--by=people"
    assert main(["judge", by, f"--samples={samples}", f"--run_dir={asked}"]) == 0
    assert main(["judge", by, f"--truthfulqa={answers}", f"--run_dir={graded}"]) == 0
    with serving(store, free_port()) as url:
        researcher = Researcher(url)
        models = researcher.project("models", asked / "tasks.jsonl")
        truth = researcher.project("truth", graded / "tasks.jsonl", asked="truth")
        assert label_all(url, models, researcher) == 3 * NUM_LABELERS
        monkeypatch.setattr(Person, "_ranked", grade)
        assert label_all(url, truth, researcher) == 2 * NUM_LABELERS
        researcher.browser.close()
    for project in ("models", "truth"):
        words = ["--database", str(store), "--project", project, "--out", str(tmp_path / project)]
        assert main(["label", "export", *words]) == 0

    words = [f"--comparisons={tmp_path / 'models/comparisons.jsonl'}"]
    words += [f"--key={asked / 'key.jsonl'}", f"--run_dir={tmp_path / 'eval'}"]
    assert main(["eval", "preference", *words]) == 0
    found = json.loads((tmp_path / "eval/eval/preference.json").read_text(encoding="utf-8"))
    (rate,) = found["win_rates"]
    # two labelers on each of three prompts prefer what is true, and a tie that nobody was asked of
    assert (rate["model"], rate["judgements"], rate["prompts"]) == ("PPO", 7, 4)
    assert rate["value"] == pytest.approx(6.5 / 7)
    assert rate["labelers"] == NUM_LABELERS + 1

    run = answers.parents[1]
    words = ["--tasks=truthfulqa", "--rescore", f"--data={tmp_path}", f"--run-dir={run}"]
    words.append(f"--grades={tmp_path / 'truth/comparisons.jsonl'}")
    assert main(["eval", "truthfulness", *words]) == 0
    found = json.loads((run / "eval/truthfulness.json").read_text(encoding="utf-8"))
    assert found["scored_by"]["truth"] == "people (2 graders)"
    values = {(m["model"], m["metric"]): m["interval"]["value"] for m in found["measures"]}
    assert values["A", "true"] == values["B", "true"] == 0.5
    assert (values["A", "true and informative"], values["B", "true and informative"]) == (0.5, 0)
