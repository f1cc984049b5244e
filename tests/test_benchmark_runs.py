"""The benchmarks as runs: what they keep and leave out, and when a run with kills has passed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


class Stopped(Exception):
    """What a test stops a benchmark with."""


def calls_of(benchmark, monkeypatch, row, *, stop_at=None):
    """The list of what a benchmark measures from now on; it is stopped at the call of that number.

    ``measured`` gives the row that ``row`` makes of the number of the call.
    """
    calls = []

    def measured(*arguments):
        if len(calls) == stop_at:
            raise Stopped
        calls.append(arguments)
        return row(len(calls))

    monkeypatch.setattr(benchmark, "measured", measured)
    return calls


CHILD = {"process_peak_gib": 1.0, "process_others": 0.0}


def vs_trl_row(number):
    side = ("heedful", "peer", "heedful")[number - 1]
    variant = ("bf16", "autocast", "fp32")[number - 1]
    about = {"name": f"reward-quick-{side}-{variant}-0", "work": "reward", "unit": "pairs/s"}
    values = {"side": side, "variant": [variant], "rate": 9.0, "step_s": 1.0, "phases_s": {}}
    return about | {"model": "quick", "repeat": 0} | values | CHILD


def scaling_row(number):
    # two points of the axis of the model
    return {"name": f"sft-{(128, 256)[number - 1]}-2-128-16-8-4-1", "step_s": 1.0} | CHILD


def generate_row(number):
    setting = {"model": "quick", "dtype": "bf16", "batch": 4, "samples": number}
    return setting | {"tokens_per_s": 5.0, "peak_gib": 1.0, "others": 0.0}


def roofline_row(number):
    if number == 1:
        return {"rates": [{"what": "copy", "threads": 1, "bytes_per_s": 1e9}]}
    rates = {"seconds": 1.0, "matmul_flops_per_s": 1e9, "share_of_peak": 0.5}
    about = {"model": "quick", "command": "sft", "dtype": "bf16", "threads": 1}
    speeds = {"tokens_per_s": 1.0, "flops_per_s": 1.0, "peak_gib": 1.0}
    return about | rates | speeds | CHILD | {"phases": []}


GO_ON = [
    ("vs_trl", ["--only", "reward", "--match", "heedful,autocast"], vs_trl_row, 3),
    ("scaling", ["--only", "sft", "--axes", "model"], scaling_row, 2),
    ("generate", [], generate_row, 2),
    ("roofline", ["--commands", "sft", "pretrain"], roofline_row, 3),
]


@pytest.mark.parametrize(("name", "words", "row_of", "num_runs"), GO_ON)
def test_a_benchmark_goes_on_and_leaves_rows_of_another_commit_out(
    load, tmp_path, monkeypatch, capsys, name, words, row_of, num_runs
):
    benchmark, measure = load(name), load("measure")
    monkeypatch.setattr(measure, "commit", lambda: "aaaaaaa")
    monkeypatch.setattr(load("peers"), "install", lambda *_: None)
    monkeypatch.setattr(benchmark, "idle_memory_gib", lambda *_: 0.1, raising=False)
    call = [*words, "--quick", "--out", str(tmp_path)]
    calls_of(benchmark, monkeypatch, row_of, stop_at=1)
    with pytest.raises(Stopped):
        benchmark.main(call)
    rest = calls_of(benchmark, monkeypatch, lambda number: row_of(number + 1))
    assert benchmark.main(call) == 0
    assert benchmark.main(call) == 0
    assert len(rest) == num_runs - 1
    assert "left out" not in capsys.readouterr().err
    assert {row["commit"] for row in read_rows(tmp_path / "runs.jsonl")} == {"aaaaaaa"}
    monkeypatch.setattr(measure, "commit", lambda: "bbbbbbb")
    again = calls_of(benchmark, monkeypatch, row_of)
    assert benchmark.main(call) == 0
    assert len(again) == num_runs
    assert f"{num_runs} of {num_runs} rows are not of commit bbbbbbb" in capsys.readouterr().err
    results = json.loads((tmp_path / "results.json").read_text())
    assert {row["commit"] for row in [results["machine"], *results["runs"]]} == {"bbbbbbb"}
    assert len(results["runs"]) == num_runs


@pytest.mark.parametrize("name", ["vs_trl", "generate"])
def test_rows_of_another_number_of_threads_are_left_out(load, name):
    benchmark = load(name)
    options = [benchmark.parse(["--threads", threads]) for threads in ("1", "2")]
    one, two = map(benchmark.conditions, options)
    assert {key for key in one if one[key] != two[key]} == {"threads"}


def test_kept_rows_have_the_settings_and_the_others_are_counted(load, tmp_path, capsys):
    measure, file = load("measure"), tmp_path / "runs.jsonl"
    assert measure.kept_rows(file, {"commit": "a"}) == []
    rows = [{"commit": "a", "threads": 2}, {"commit": "b", "threads": 2}, {"threads": 2}]
    for row in rows:
        measure.append_row(file, row)
    assert measure.kept_rows(file, {"threads": 2}) == rows
    assert capsys.readouterr().err == ""
    assert measure.kept_rows(file, {"commit": "a", "threads": 2}) == rows[:1]
    assert "2 of 3 rows are not of commit a, threads 2: left out" in capsys.readouterr().err


def test_a_commit_with_changes_has_a_mark_of_them(load, tmp_path, monkeypatch):
    measure = load("measure")

    def git(*words):
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *who, "-C", str(tmp_path), *words], check=True, capture_output=True)

    code = tmp_path / "src" / "code.py"
    for folder in (code.parent, tmp_path / "benchmarks"):
        folder.mkdir()
    monkeypatch.setattr(measure, "HERE", tmp_path / "benchmarks")
    assert measure.commit() is None
    code.write_text("one")
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "one")
    clean = measure.commit()
    head = (tmp_path / ".git" / "refs" / "heads").glob("*")
    assert next(head).read_text().startswith(clean)
    found = []
    for text in ("two", "three", "one"):
        code.write_text(text)
        found.append(measure.commit())
    assert found[0] != found[1]
    assert all(mark.startswith(f"{clean}+") for mark in found[:2])
    assert found[2] == clean


# A runner of one stage. What is to be killed does not end the first time, however late the kill is.
RUNNER = """
stage=$0/stages/sft; mkdir -p $stage
if [ "${0##*/}" = killed ] && [ ! -f $stage/started.txt ]; then
    touch $stage/started.txt; exec sleep 600
fi
touch $stage/started.txt
if [ ! -f $stage/stage.json ]; then
    echo answers > $stage/samples.jsonl; echo '{"seconds": 0.5}' > $stage/stage.json
fi
"""


def test_kills_kills_compares_and_takes_no_finished_run_for_an_answer(
    load, tmp_path, capsys, monkeypatch
):
    kills = load("kills")

    def start(recipe, run_dir):
        return subprocess.Popen(["sh", "-c", RUNNER, run_dir], start_new_session=True)

    monkeypatch.setattr(kills, "start", start)
    call = ["recipe.toml", "--out", str(tmp_path)]
    assert kills.main(call) == 0
    said = capsys.readouterr().out
    assert "1 kills, 0 missed" in said
    assert "1 files compared, 0 differ" in said
    with pytest.raises(SystemExit, match="2"):
        kills.main(call)
    assert "killed is there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("killed_stages", "files", "answer"),
    [
        (["sft", "ppo"], ["claims.json"], 0),
        (["ppo"], ["claims.json"], 0),  # the short one ended before its kill
        (["sft"], ["claims.json"], 1),  # the long one did
        ([], ["claims.json"], 1),
        (["sft", "ppo"], ["stages/sft/metrics.jsonl"], 1),  # nothing to compare
        (["sft", "ppo"], ["claims.json", "stages/sft/samples.jsonl"], 1),  # the second differs
    ],
)
def test_kills_says_yes_only_after_kills_and_comparisons(
    load, tmp_path, monkeypatch, killed_stages, files, answer
):
    kills = load("kills")
    for run in ("whole", "killed"):
        for stage, seconds in (("sft", 2.0), ("ppo", 20.0)):
            place = tmp_path / run / "stages" / stage
            place.mkdir(parents=True)
            (place / "stage.json").write_text(json.dumps({"seconds": seconds}))
        for number, name in enumerate(files):
            (tmp_path / run / name).write_text(run if number else "the same")
    (tmp_path / "killed").rename(tmp_path / "later")

    def run_with_kills(recipe, run_dir, seconds, chooser):
        (tmp_path / "later").rename(run_dir)
        return [(stage, 1.0, "the runner") for stage in killed_stages]

    monkeypatch.setattr(kills, "start", lambda *_: SimpleNamespace(wait=lambda: 0))
    monkeypatch.setattr(kills, "run_with_kills", run_with_kills)
    assert kills.main(["recipe.toml", "--out", str(tmp_path)]) == answer
