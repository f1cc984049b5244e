"""heed run: what is kept, what is run again, what is refused, and a kill in mid-training."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from heedful.cli import main
from heedful.commands import worker
from heedful.commands.run import fingerprint, load_recipe
from heedful.commands.worker import LOCK_FILE, SECONDS_FILE, STAGE_FILE, hold
from heedful.errors import ConfigError
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
STEPS = 240
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
    assert not list(recipe.parent.rglob(".begun*"))
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


def test_where_and_how_much_at_a_time_a_stage_computes_is_no_other_stage(tmp_path):
    """Or less at a time, after memory ran out, would begin it anew."""
    marks = []
    means = 'device = "cpu"\nthreads = 1\ntokens_per_microbatch = 64'
    for compute in ("", means, 'dtype = "float32"'):
        stage = '[stage.first]\ncommand = "measure"\nmodels = []\ntext = []\n'
        text = f'goals = ["first"]\n{stage}[stage.first.compute]\n{compute}\n'
        recipe = load_recipe(write(tmp_path, text), tmp_path / "run")
        marks.append(fingerprint(recipe.stages["first"], {}))
    assert marks[0] == marks[1] != marks[2]


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


@pytest.mark.parametrize("words", [[], ["--dry-run"]])
def test_inputs_from_outside_are_looked_at_before_anything_runs(tmp_path, heed, words):
    path = write(tmp_path, TOY.replace('run = "{run}"', 'run = "no/where"'))
    code, said = heed(path, *words)
    assert code == 1
    assert "error: [stage.first, stage.second] run: no/where does not exist" in said
    assert not (tmp_path / "run").exists()


def test_a_pipe_is_told_when_a_stage_starts_and_ends(recipe: Path, heed):
    said = heed(recipe)[1]
    stages = r"first started .*first done in [\dm]+s .*second started .*second done in [\dm]+s"
    assert re.search(stages, said)


def test_a_failing_stage_shows_the_end_of_its_log(tmp_path, heed):
    missing = tmp_path / "run" / "not made"
    path = write(tmp_path, TOY.replace('run = "{run}"', f'run = "{missing}"', 1))
    code, said = heed(path)
    assert code == 1
    assert "stage first failed (exit code 1)" in said
    assert "stages/first/log.txt" in said
    assert "not made does not exist: give the directory of a run" in said
    assert not (tmp_path / "run" / "stages" / "second").exists()
    # by hand, nothing of it would be taken for finished
    assert [mark.name for mark in tmp_path.rglob(".begun*")] == [".begun-report"]


# Who may write to a stage

HOLDER = """
import sys, time
from pathlib import Path
from heedful.commands.worker import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_stage_that_another_process_still_writes_is_waited_for(recipe: Path, heed, monkeypatch):
    """As a killed run leaves one: it is named, waited for, and gone with its process."""
    stage = recipe.parent / "run" / "stages" / "first"
    command = [sys.executable, "-c", HOLDER, str(stage)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == b"held\n"
            (stage / STAGE_FILE).write_text("of the process that still writes", encoding="utf-8")
            monkeypatch.setattr(worker, "LOCK_WAIT_S", 0.2)
            code, said = heed(recipe)
            assert code == 2
            assert f"waiting for process {process.pid}" in said
            assert f"stages/first is being written to by process {process.pid}" in said
            assert (stage / STAGE_FILE).is_file()  # not touched

            monkeypatch.setattr(worker, "LOCK_WAIT_S", 30.0)
            lock = worker._lock

            def end_the_other(file):  # as soon as it is waited for
                is_free = lock(file)
                if not is_free:
                    process.kill()
                return is_free

            monkeypatch.setattr(worker, "_lock", end_the_other)
            code, said = heed(recipe)
            assert (code, kept(said)) == (0, set())
            assert f"waiting for process {process.pid}" in said
        finally:
            process.kill()


def test_the_process_of_a_stage_holds_it_itself(tmp_path):
    code = "\n".join(
        (
            "import os, sys",
            "from heedful.commands import worker",
            "worker.LOCK_WAIT_S = 0.1",
            "settings = {'run': sys.argv[1], 'run_dir': sys.argv[1]}",
            "worker.run_stage('report', settings, sys.argv[2], 'mark', 1, os.getpid())",
        )
    )
    log = tmp_path / "log.txt"
    with hold(tmp_path / "stage"):
        done = subprocess.run([sys.executable, "-c", code, tmp_path / "stage", log], check=False)
    assert done.returncode == 1
    assert f"is being written to by process {os.getpid()}" in log.read_text(encoding="utf-8")
    assert not (tmp_path / "stage" / STAGE_FILE).exists()


def test_the_lock_is_given_back_at_the_end_and_after_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "LOCK_WAIT_S", 0.0)
    with pytest.raises(ValueError, match="in between"), hold(tmp_path):
        with pytest.raises(ConfigError, match=f"process {os.getpid()}: wait"), hold(tmp_path):
            pass
        raise ValueError("in between")
    with hold(tmp_path):
        assert (tmp_path / LOCK_FILE).read_text() == str(os.getpid())


def test_a_process_that_has_not_yet_said_its_number(tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "LOCK_WAIT_S", 0.05)
    said: list[str] = []
    with (tmp_path / LOCK_FILE).open("w", encoding="utf-8") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ConfigError) as refused, hold(tmp_path, say=said.append):
            pass
    assert said == [f"waiting for another process, which still writes to {tmp_path}"]
    assert str(refused.value) == (
        f"{tmp_path} is being written to by another process: wait for it, or give another run_dir"
    )


# What a stage has cost


def seconds_of(stage: Path) -> float:
    return json.loads((stage / STAGE_FILE).read_text(encoding="utf-8"))["seconds"]


def test_the_seconds_of_a_stage_are_those_of_all_its_attempts(recipe: Path, heed):
    assert heed(recipe)[0] == 0
    stage = recipe.parent / "run" / "stages" / "second"
    assert seconds_of(stage) < 100
    # an attempt of 1000 s that did not end
    (stage / STAGE_FILE).unlink()
    (stage / SECONDS_FILE).write_text("1000", encoding="utf-8")
    assert heed(recipe)[0] == 0
    assert 1000 < seconds_of(stage) < 1100
    # one that ended, whose result is missing: nothing is gone on with
    (stage / "log.txt").unlink()
    assert heed(recipe)[0] == 0
    assert seconds_of(stage) < 100
    # other settings: the attempt was not at this stage
    (stage / STAGE_FILE).unlink()
    (stage / SECONDS_FILE).write_text("1000", encoding="utf-8")
    write(recipe.parent, TOY.replace("second.html", "other.html"))
    assert heed(recipe)[0] == 0
    assert seconds_of(stage) < 100


# A stop and a kill


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_saves_the_state_of_its_stages(tmp_path, number, expected):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"{i} times {i} is {i * i}." for i in range(300)), encoding="utf-8")
    steps = 100 * STEPS  # it is stopped long before
    training = TRAINING.replace("save_every = 1", "save_every = 0")
    path = write(tmp_path, training.replace(f"= {STEPS * 4 * 16}", f"= {steps * 4 * 16}"))
    process, stage = started(path, text)
    wait_for(process, stage, lambda: len(read_metrics(stage)) > 2)
    # as in a terminal: every process of the group gets it
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == expected
    assert "ending base (training saves its state)" in said
    assert "stopped; the same command goes on from here" in said
    assert "Traceback" not in said
    (state,) = (stage / "state").glob("step-*.pt")
    done = int(state.stem.removeprefix("step-"))
    assert done == len(read_metrics(stage))
    log = (stage / "log.txt").read_text(encoding="utf-8")
    assert f"stopped after step {done} of {steps}; its state is saved" in log
    assert "Traceback" not in log


def test_a_killed_run_goes_on_and_ends_as_an_uninterrupted_one(tmp_path, heed):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"{i} times {i} is {i * i}." for i in range(300)), encoding="utf-8")
    path = write(tmp_path, TRAINING)
    kill_in_the_middle(path, text)
    stage = tmp_path / "run" / "stages" / "base"
    assert not (stage / STAGE_FILE).exists()
    assert 0 < len(read_metrics(stage)) < STEPS
    before_s = float((stage / SECONDS_FILE).read_text(encoding="utf-8"))
    (stage / SECONDS_FILE).write_text(str(before_s + 1000), encoding="utf-8")

    code, said = heed(path, "--text", text)
    assert (code, kept(said)) == (0, {"tokenizer"})
    assert before_s < seconds_of(stage) - 1000 < 100
    # the same once more without a kill, from the same file
    whole = tmp_path / "whole"
    assert main(["run", str(path), "--run-dir", str(whole), "--text", str(text)]) == 0
    assert result(stage) == result(whole / "stages" / "base")
    assert not (stage / "state").exists()


def kill_in_the_middle(path: Path, text: Path) -> None:
    """Starts the recipe and ends all its processes as soon as training has saved a state."""
    process, stage = started(path, text)
    wait_for(process, stage, lambda: list((stage / "state").glob("step-*.pt")))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def started(path: Path, text: Path) -> tuple[subprocess.Popen[str], Path]:
    """The recipe at work in a process group of its own, and the directory of its training stage."""
    command = [sys.executable, "-m", "heedful.cli", "run", str(path), "--text", str(text)]
    out = path.parent / "run"
    process = subprocess.Popen(
        [*command, "--run-dir", str(out)], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    return process, out / "stages" / "base"


def wait_for(process: subprocess.Popen[str], stage: Path, is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not ((stage / "metrics.jsonl").is_file() and is_so()):
        assert process.poll() is None, (stage / "log.txt").read_text(encoding="utf-8")
        assert time.monotonic() < deadline
        time.sleep(0.01)


def result(stage: Path) -> tuple[str, list[dict[str, float]]]:
    """The hash of the published weights, and every metric but those of speed, time and memory."""
    lineage = json.loads((stage / "model" / "heedful.json").read_text(encoding="utf-8"))
    rows = [
        {key: row[key] for key in row if not key.startswith(("speed/", "time/", "memory/"))}
        for row in read_metrics(stage)
    ]
    assert len(rows) == STEPS
    return lineage["sha256"], rows
