"""heed run: what is kept, what is run again, what is refused, and a kill in mid-training."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from heedful.cli import main
from heedful.commands.run import STAGE_FILE, fingerprint, load_recipe
from heedful.metrics import read_metrics

# Two stages that need no torch: pages of the run itself, one after the other.
TOY = """
goals = ["second"]
[stage.first]
command = "report"
run = "{run}"
out = "first.html"
[stage.second]
command = "report"
after = ["first"]
run = "{run}"
out = "second.html"
"""
STEPS = 60
TRAINING = f"""
goals = ["base"]
[stage.tokenizer]
command = "tokenizer"
vocab_size = 280
[stage.tokenizer.data]
train = ["{{text}}"]
[stage.base]
command = "pretrain"
tokenizer = "{{tokenizer}}"
num_tokens = {STEPS * 4 * 16}
row_tokens = 16
shape = {{ hidden_size = 16, num_layers = 1, num_heads = 1, mlp_size = 16, context = 32 }}
optim = {{ lr = 1e-2, batch_size = 4 }}
log = {{ save_every = 1 }}
compute = {{ dtype = "float32", threads = 1 }}
data = {{ train = ["{{text}}"] }}
"""


@pytest.fixture
def recipe(tmp_path) -> Path:
    return write(tmp_path, TOY)


@pytest.fixture
def heed(capsys) -> Callable[..., tuple[int, str]]:
    """heed run: its exit code, and what it said with line breaks of the terminal taken out."""

    def run(path: Path, *words: str | Path) -> tuple[int, str]:
        out = path.parent / "run"
        code = main(["run", str(path), "--run-dir", str(out), *(str(word) for word in words)])
        said = capsys.readouterr().err
        assert "Traceback" not in said
        return code, " ".join(said.split())

    return run


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


def kept(said: str) -> set[str]:
    """The stages that a run said it kept."""
    words = said.split()
    return {words[i - 1] for i in range(1, len(words)) if words[i] == "unchanged,"}


# What is run


def test_what_has_not_changed_is_kept(recipe: Path, heed):
    code, said = heed(recipe)
    assert (code, kept(said)) == (0, set())
    page = recipe.parent / "run" / "second.html"
    written = page.stat().st_mtime_ns
    code, said = heed(recipe)
    assert (code, kept(said)) == (0, {"first", "second"})
    assert page.stat().st_mtime_ns == written


def test_a_changed_setting_runs_its_stage_again_and_those_after_it(recipe: Path, heed):
    assert heed(recipe)[0] == 0
    write(recipe.parent, TOY.replace("second.html", "other.html"))
    assert kept(heed(recipe)[1]) == {"first"}
    assert (recipe.parent / "run" / "other.html").is_file()
    write(recipe.parent, TOY.replace("first.html", "changed.html"))
    assert kept(heed(recipe)[1]) == set()


def test_only_what_the_goals_need_is_run(tmp_path, heed):
    path = write(tmp_path, TOY.replace('goals = ["second"]', 'goals = ["first"]'))
    assert heed(path)[0] == 0
    assert [stage.name for stage in (tmp_path / "run" / "stages").iterdir()] == ["first"]


def test_a_stage_is_stale_when_an_outside_file_changes_and_not_when_the_run_does(tmp_path):
    outside = tmp_path / "data"
    outside.mkdir()
    (outside / "a.jsonl").write_text("{}\n", encoding="utf-8")
    text = TOY.replace('run = "{run}"', f'run = "{outside}/*.jsonl"', 1)
    recipe = load_recipe(write(tmp_path, text), tmp_path / "run")
    first, second = recipe.stages["first"], recipe.stages["second"]
    marks = {"first": "x"}
    before = fingerprint(first, {}), fingerprint(second, marks)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "summary.json").write_text("{}", encoding="utf-8")
    assert (fingerprint(first, {}), fingerprint(second, marks)) == before
    (outside / "a.jsonl").write_text("{ }\n", encoding="utf-8")
    assert fingerprint(first, {}) != before[0]
    assert fingerprint(second, marks) == before[1]
    assert fingerprint(second, {"first": "y"}) != before[1]


# What is refused


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('after = ["first"]', 'after = ["{thrid}"]', "there is no [stage.{thrid}]"),
        ('out = "first.html"', 'out = "{thrid}"', "[stage.first] names {thrid}, which is neither"),
        ('out = "first.html"', 'after = ["second"]', "second -> first -> second need each other"),
        (
            'out = "first.html"',
            'uot = "a"',
            "[stage.first]: unknown key 'uot': did you mean 'out'?",
        ),
        (
            'command = "report"',
            'command = "raport"',
            "unknown command 'raport': did you mean 'report'?",
        ),
        ('command = "report"\n', "", "[stage.first] has no command"),
        ('goals = ["second"]', 'goals = ["third"]', "there is no [stage.third] (needed by goals)"),
        ('goals = ["second"]', 'gaols = ["second"]', "unknown key 'gaols'"),
    ],
)
def test_a_recipe_with_a_mistake_is_refused_before_anything_runs(
    tmp_path, heed, old: str, new: str, says: str
):
    path = write(tmp_path, TOY.replace(old, new, 1))
    code, said = heed(path)
    assert code == 2
    assert says in said
    assert str(path) in said
    assert not (tmp_path / "run").exists()


def test_a_variable_that_the_recipe_does_not_have_names_the_nearest(tmp_path, heed):
    path = write(tmp_path, TOY + "[variables]\nseed = 0\n")
    code, said = heed(path, "--sede", "1")
    assert code == 2
    assert "has no variable 'sede': did you mean --seed?" in said


def test_a_second_run_in_the_same_directory_is_refused(recipe: Path, heed):
    (recipe.parent / "run").mkdir()
    with (recipe.parent / "run" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, said = heed(recipe)
    assert code == 2
    assert "another heed run is at work" in said


def test_a_failing_stage_shows_the_end_of_its_log(tmp_path, heed):
    path = write(tmp_path, TOY.replace('run = "{run}"', 'run = "no/where"', 1))
    code, said = heed(path)
    assert code == 1
    assert "stage first failed (exit code 1)" in said
    assert "stages/first/log.txt" in said
    assert "error: no/where does not exist: give the directory of a run" in said
    assert not (tmp_path / "run" / "stages" / "second").exists()


# A kill


def test_a_killed_run_goes_on_and_ends_as_an_uninterrupted_one(tmp_path, heed):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"{i} times {i} is {i * i}." for i in range(300)), encoding="utf-8")
    path = write(tmp_path, TRAINING)
    kill_in_the_middle(path, text)
    stage = tmp_path / "run" / "stages" / "base"
    assert not (stage / STAGE_FILE).exists()
    assert 0 < len(read_metrics(stage)) < STEPS

    code, said = heed(path, "--text", text)
    assert (code, kept(said)) == (0, {"tokenizer"})
    # the same once more without a kill, from the same file
    whole = tmp_path / "whole"
    assert main(["run", str(path), "--run-dir", str(whole), "--text", str(text)]) == 0
    assert result(stage) == result(whole / "stages" / "base")
    assert not (stage / "state").exists()


def kill_in_the_middle(path: Path, text: Path) -> None:
    """Starts the recipe and ends all its processes as soon as training has saved a state."""
    command = [sys.executable, "-m", "heedful.cli", "run", str(path), "--text", str(text)]
    out = path.parent / "run"
    process = subprocess.Popen(
        [*command, "--run-dir", str(out)], stderr=subprocess.DEVNULL, start_new_session=True
    )
    stage = out / "stages" / "base"
    deadline = time.monotonic() + 120
    while not list((stage / "state").glob("step-*.pt")):
        assert process.poll() is None, (stage / "log.txt").read_text(encoding="utf-8")
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def result(stage: Path) -> tuple[str, list[dict[str, float]]]:
    """The hash of the published weights, and every metric but those of speed and time."""
    lineage = json.loads((stage / "model" / "heedful.json").read_text(encoding="utf-8"))
    rows = [
        {key: row[key] for key in row if not key.startswith(("speed/", "time/"))}
        for row in read_metrics(stage)
    ]
    assert len(rows) == STEPS
    return lineage["sha256"], rows
