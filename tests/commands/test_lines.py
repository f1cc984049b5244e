"""What is said on the way of a command that prints nothing itself, and its last line."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from heedful.commands import lines
from heedful.commands.lines import WRITES, _Lines, last_line, progress_lines
from heedful.commands.table import COMMANDS
from heedful.training.profiling import watched


def followed(name: str) -> tuple[_Lines, lines.Progress]:
    found = _Lines(name)
    found.start_s = found.said_s = 100.0
    return found, found.follow(lambda done, total: None, Path("unused"), "", "cpu")


def test_a_line_comes_with_every_tenth_and_every_half_minute(capsys):
    found, report = followed("heed sample")
    said = []
    for second, done in [(1, 0), (2, 50), (3, 120), (4, 210), (5, 230), (34, 240), (35, 240)]:
        report(done, 1000)
        found.look(100.0 + second)
        said.append(capsys.readouterr().err)
    assert said == [
        "",
        "",  # 5 %
        "heed sample: 120 of 1,000, 3s, about 22s left\n",
        "",  # 9 % more
        "heed sample: 230 of 1,000, 5s, about 17s left\n",
        "",  # 29 s
        "heed sample: 240 of 1,000, 35s, about 1m51s left\n",
    ]


def test_before_the_first_report_a_command_is_loading(capsys):
    found, _ = followed("heed sample")
    found.look(129.0)
    assert capsys.readouterr().err == ""
    found.look(130.0)
    assert capsys.readouterr().err == "heed sample: 30s, loading\n"


def test_a_terminal_has_one_line_that_is_written_over(capsys):
    found, report = followed("heed sample")
    found.is_terminal = True
    report(5, 10)
    found.look(110.0)
    found.close()
    assert capsys.readouterr().err == "\r\x1b[Kheed sample: 5 of 10, 10s, about 10s left\r\x1b[K"


def test_lines_follow_a_command_and_end_with_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(lines, "POLL_S", 0.001)
    passed_on: list[tuple[int, int]] = []
    spoken = threading.Event()
    text = _Lines.text

    def speaking(self: _Lines, now: float) -> str:
        spoken.set()
        return text(self, now)

    monkeypatch.setattr(_Lines, "text", speaking)
    monkeypatch.setattr(lines, "time", SimpleNamespace(monotonic=lambda: 100.0))
    before = set(threading.enumerate())
    with progress_lines("heed sample"):
        report = watched(lambda done, total: passed_on.append((done, total)), tmp_path, "")
        report(3, 4)
        assert spoken.wait(10)
    assert set(threading.enumerate()) <= before
    assert passed_on == [(3, 4)]
    assert capsys.readouterr().err.startswith("heed sample: 3 of 4, 0s")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_last_line(command):
    config = SimpleNamespace(run_dir="runs/a", run="runs/b", out="page.html")
    assert last_line(command, config, 187).endswith(" in 3m07s")
    assert (command in WRITES) == (command != "report")
    assert last_line("report", config, 1) == "wrote the page to runs/b/page.html in 1s"
