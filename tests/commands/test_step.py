"""Commands by hand: what is kept and refused, what a stop leaves, and the last line."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from heedful.cli import main

DEMONSTRATION = {"prompt": "w2 w3", "response": "w4 w5", "split": "train"}


@pytest.fixture(scope="module")
def model(tmp_path_factory, tiny_model, tokenizer) -> Path:
    from heedful.training.checkpoint import publish

    return publish(tiny_model(), tokenizer, tmp_path_factory.mktemp("lm") / "model", {})


def write_jsonl(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def sft(tmp_path: Path, model: Path, demonstrations: Path, *more: str) -> list[str]:
    """The words of a tiny SFT run of one update per epoch."""
    return [
        "sft",
        f"--run_dir={tmp_path / 'run'}",
        f"--base={model}",
        f"--data.demonstrations={demonstrations}",
        *("--optim.lr=1e-3", "--optim.batch_size=2", "--epochs=1", "--compute.dtype=float32"),
        *more,
    ]


def sampling(tmp_path: Path, model: Path) -> list[str]:
    """The words of a tiny run of heed sample."""
    prompts = write_jsonl(tmp_path / "p.jsonl", {"text": "w2 w3", "split": "train"})
    return [
        "sample",
        f"--run_dir={tmp_path / 'run'}",
        f'--prompts=["{prompts}"]',
        f'--models=[{{ name = "a", path = "{model}" }}]',
        "--compute.dtype=float32",
        "--sampling.max_new_tokens=4",
    ]


# Runs


def test_a_run_that_has_not_ended_is_not_overwritten_unasked(tmp_path, model, heed):
    (tmp_path / "run" / "state").mkdir(parents=True)
    (tmp_path / "run" / "state" / "step-00000001.pt").touch()
    rows = write_jsonl(tmp_path / "d.jsonl", DEMONSTRATION, DEMONSTRATION)
    code, said = heed(*sft(tmp_path, model, rows))
    assert code == 2
    assert "--resume" in said
    assert "--overwrite" in said and "--restart" not in said
    assert heed(*sft(tmp_path, model, rows), "--restart")[0] == 0


def test_a_finished_run_is_not_done_again_unasked(tmp_path, model, heed):
    rows = write_jsonl(tmp_path / "d.jsonl", DEMONSTRATION, DEMONSTRATION)
    assert heed(*sft(tmp_path, model, rows))[0] == 0
    weights = tmp_path / "run" / "model" / "model.safetensors"
    before = weights.read_bytes(), weights.stat().st_mtime_ns
    code, said = heed(*sft(tmp_path, model, rows, "--seed=1"))
    assert code == 2
    assert "holds a finished run (model): give another run_dir, or --overwrite" in said
    code, said = heed(*sft(tmp_path, model, rows), "--resume")
    assert code == 0
    assert "is finished: nothing is left to do" in said
    assert (weights.read_bytes(), weights.stat().st_mtime_ns) == before
    assert heed(*sft(tmp_path, model, rows, "--seed=1"), "--overwrite")[0] == 0
    assert weights.read_bytes() != before[0]


def test_a_run_over_a_finished_one_that_was_cut_short_goes_on(tmp_path, model, heed):
    rows = write_jsonl(tmp_path / "d.jsonl", DEMONSTRATION, DEMONSTRATION)
    assert heed(*sft(tmp_path, model, rows))[0] == 0
    (tmp_path / "run" / "state").mkdir()
    (tmp_path / "run" / "state" / "step-00000001.pt").touch()
    code, said = heed(*sft(tmp_path, model, rows), "--resume")
    assert (code, "step-00000001.pt cannot be read" in said) == (1, True)


def test_a_run_over_a_finished_one_that_saved_nothing_yet_is_not_finished(
    tmp_path, model, heed, monkeypatch, interrupt_at
):
    rows = write_jsonl(tmp_path / "d.jsonl", DEMONSTRATION, DEMONSTRATION)
    other = [*sft(tmp_path / "a", model, rows), "--seed=1"]
    assert heed(*sft(tmp_path / "a", model, rows))[0] == 0
    weights = tmp_path / "a" / "run" / "model" / "model.safetensors"
    before = weights.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("heedful.commands.train.file_progress", lambda _: interrupt_at(1))
        assert heed(*other, "--overwrite")[0] == 130
    assert weights.read_bytes() == before
    assert not (tmp_path / "a" / "run" / "state").exists()
    code, said = heed(*other)
    assert code == 2
    assert "holds a run that has not ended and the model of one before it: go on with --r" in said
    assert heed(*other, "--resume")[0] == 0
    assert heed(*sft(tmp_path / "b", model, rows, "--seed=1"))[0] == 0
    straight = tmp_path / "b" / "run" / "model" / "model.safetensors"
    assert weights.read_bytes() == straight.read_bytes() != before
    code, said = heed(*other, "--resume")
    assert (code, "is finished: nothing is left to do" in said) == (0, True)


def test_a_finished_run_is_not_resumed_with_other_settings(tmp_path, model, heed):
    rows = write_jsonl(tmp_path / "d.jsonl", DEMONSTRATION, DEMONSTRATION)
    words = [*sft(tmp_path, model, rows), "--resume"]
    code, said = heed(*words, "--compute.threads=1")
    assert (code, "computing in float32 on cpu, 1 thread\n" in said) == (0, True)
    code, said = heed(*words, "--seed=1", "--optim.lr=0.5")
    assert code == 2
    assert "other settings (optim.lr is 0.001 there, 0.5 here; seed is 0 there, 1 here)" in said
    assert "--overwrite" in said and "--restart" not in said
    code, said = heed(*words, "--compute.threads=1", "--log.save_every=7", "--compute.dtype=auto")
    assert (code, "is finished: nothing is left to do" in said) == (0, True)


def test_a_run_that_has_not_ended_is_not_resumed_with_other_settings(
    tmp_path, model, heed, monkeypatch, interrupt_at
):
    rows = write_jsonl(tmp_path / "d.jsonl", DEMONSTRATION, DEMONSTRATION)
    words = [*sft(tmp_path, model, rows), "--epochs=3", "--log.save_every=1"]
    with monkeypatch.context() as patch:
        patch.setattr("heedful.commands.train.file_progress", lambda _: interrupt_at(2))
        assert heed(*words)[0] == 130
    settings = (tmp_path / "run" / "config.toml").read_text(encoding="utf-8")
    code, said = heed(*words, "--resume", "--seed=1")
    assert (code, "other settings (seed is 0 there, 1 here)" in said) == (2, True)
    assert (tmp_path / "run" / "config.toml").read_text(encoding="utf-8") == settings
    assert heed(*words, "--resume")[0] == 0


def test_completions_of_a_run_that_was_stopped_are_those_before(
    tmp_path, model, heed, monkeypatch, interrupt_at
):
    words = sampling(tmp_path, model)
    assert heed(*words)[0] == 0
    completions = tmp_path / "run" / "completions.jsonl"
    before = completions.read_bytes()
    (tmp_path / "run" / "model").mkdir()  # as of a finished training run in the same place
    with monkeypatch.context() as patch:
        patch.setattr("heedful.commands.train.file_progress", lambda _: interrupt_at(1))
        assert heed(*words, "--seed=1", "--overwrite")[0] == 130
    assert completions.read_bytes() == before
    code, said = heed(*sft(tmp_path, model, tmp_path / "no.jsonl"))
    assert (code, "holds a finished run (model)" in said) == (2, True)
    assert heed(*words, "--seed=1", "--resume")[0] == 0
    assert completions.read_bytes() != before


def test_measures_of_a_trained_run_leave_its_settings_as_they_are(tmp_path, model, heed):
    rows = write_jsonl(tmp_path / "d.jsonl", DEMONSTRATION, DEMONSTRATION)
    assert heed(*sft(tmp_path, model, rows))[0] == 0
    run, text = tmp_path / "run", write_jsonl(tmp_path / "t.jsonl", {"text": "w2 w3 w4"})
    before = (run / "config.toml").read_bytes(), (run / "env.json").stat().st_mtime_ns
    words = ["measure", f"--text={text}", f'--models=[{{ name = "a", path = "{model}" }}]']
    (run / "state").mkdir()
    (run / "state" / "step-00000001.pt").write_text("training goes on from here")
    for flags in ([], ["--overwrite"], ["--resume"]):  # the others find the first's
        assert heed(*words, f"--run_dir={run}", *flags)[0] == 0
        assert ((run / "config.toml").read_bytes(), (run / "env.json").stat().st_mtime_ns) == before
        assert (run / "state" / "step-00000001.pt").read_text() == "training goes on from here"
    assert set(json.loads((run / "measures.json").read_text())) == {"a"}
    assert "t.jsonl" in (run / "measure" / "config.toml").read_text()
    assert heed(*words, f"--run_dir={tmp_path / 'own'}")[0] == 0
    assert "t.jsonl" in (tmp_path / "own" / "config.toml").read_text()
    assert not (tmp_path / "own" / "measure").exists()
    assert heed(*words, f"--run_dir={tmp_path / 'own'}", "--num_documents=1")[0] == 0
    assert "num_documents = 1\n" in (tmp_path / "own" / "config.toml").read_text()


def test_measures_are_said(tmp_path, model, capsys):
    text = write_jsonl(tmp_path / "t.jsonl", {"text": "w2 w3 w4"}, {"text": "w5"})
    quiz = write_jsonl(tmp_path / "q.jsonl", {"id": "a", "text": "w2", "answer": "no such answer"})
    words = ["measure", f"--text={text}", f'--models=[{{ name = "a", path = "{model}" }}]']
    run = f"--run_dir={tmp_path / 'run'}"
    expected = {"": "(6 tokens of 2 documents)", "4": "(5 tokens of 2 documents, of 1 the first 3"}
    for most, counted in expected.items():
        own = [f"--max_document_tokens={most}"] if most else [f"--recall={quiz}"]
        assert main([*words, run, *own]) == 0
        found = json.loads((tmp_path / "run" / "measures.json").read_text())["a"]
        loss = sum(found["loss_sums"]) / sum(found["num_tokens"])
        said = capsys.readouterr().out
        assert f"a: loss {loss:.4f} nats a token {counted}" in said
        assert ("recall 0 of 1" in said) == (most == "")


def test_completions_are_not_sampled_over_those_that_are_there(tmp_path, model, heed):
    """People may be ranking them."""
    words = sampling(tmp_path, model)
    assert heed(*words)[0] == 0
    code, said = heed(*words)
    assert code == 2
    assert "holds a finished run (completions.jsonl)" in said


def test_two_commands_do_not_write_to_one_directory(tmp_path, model, heed, monkeypatch):
    from heedful.commands import worker

    monkeypatch.setattr(worker, "LOCK_WAIT_S", 0.0)
    rows = write_jsonl(tmp_path / "d.jsonl", DEMONSTRATION, DEMONSTRATION)
    with worker.hold(tmp_path / "run"):
        code, said = heed(*sft(tmp_path, model, rows))
    assert code == 2
    assert f"is being written to by process {os.getpid()}" in said


# Signals and last lines


def signals_at(last: int, number: int, times: int = 1) -> Callable[[Path], Any]:
    """In place of a progress file: the signal is sent when so many updates are done."""

    def progress(done: int, total: int) -> None:
        for _ in range(times if done == last else 0):
            os.kill(os.getpid(), number)

    return lambda _run_dir: progress


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_says_what_is_saved_and_goes_on_exactly(
    tmp_path, model, heed, monkeypatch, number, code
):
    rows = write_jsonl(tmp_path / "d.jsonl", DEMONSTRATION, DEMONSTRATION)
    words = [*sft(tmp_path / "a", model, rows), "--epochs=4"]
    with monkeypatch.context() as patch:
        patch.setattr("heedful.commands.train.file_progress", signals_at(2, number))
        ended, said = heed(*words)
    assert ended == code
    assert "stopped after step 2 of 4; its state is saved: run again with --resume to go" in said
    assert heed(*words, "--resume")[0] == 0
    assert heed(*sft(tmp_path / "b", model, rows), "--epochs=4")[0] == 0
    first, second = (tmp_path / name / "run" / "model" / "model.safetensors" for name in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_a_run_that_is_stopped_at_once_says_what_was_kept(tmp_path, model, heed, monkeypatch):
    rows = write_jsonl(tmp_path / "d.jsonl", DEMONSTRATION, DEMONSTRATION)
    words = [*sft(tmp_path, model, rows), "--epochs=9"]
    twice = signals_at(5, signal.SIGINT, times=2)
    with monkeypatch.context() as patch:
        patch.setattr("heedful.commands.train.file_progress", twice)
        code, said = heed(*words)
        assert code == 130
        assert "stopped; no training state was saved yet: the same command begins anew" in said
        assert "--resume" not in said
        code, said = heed(*words, "--log.save_every=2")
    assert code == 130
    assert "stopped at once; the training state after step 4 is kept: run again with --res" in said


def test_a_command_that_saves_nothing_on_the_way_begins_anew(tmp_path, model, heed, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("heedful.commands.train.file_progress", signals_at(1, signal.SIGTERM))
        code, said = heed(*sampling(tmp_path, model))
    assert (code, said.splitlines()[1:]) == (143, ["stopped; the same command begins anew"])
    assert heed(*sampling(tmp_path, model))[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr("heedful.commands.train.file_progress", signals_at(1, signal.SIGTERM))
        said = heed(*sampling(tmp_path, model), "--restart")[1].splitlines()
    assert said[1:] == ["stopped; --overwrite begins anew (completions.jsonl is of an earlier run)"]


def test_the_last_line_says_what_was_written_where_and_in_what_time(tmp_path, model, heed):
    rows = write_jsonl(tmp_path / "d.jsonl", DEMONSTRATION, DEMONSTRATION)
    for words, what in (
        (sft(tmp_path / "a", model, rows), f"the policy to {tmp_path}/a/run/model"),
        (sampling(tmp_path, model), f"the completions to {tmp_path}/run/completions.jsonl"),
    ):
        code, said = heed(*words)
        assert code == 0
        assert re.fullmatch(rf"wrote {re.escape(what)} in \d+s", said.splitlines()[-1])
