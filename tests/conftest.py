"""A test that skips itself fails the run, unless it is listed here with the reason."""

from __future__ import annotations

import pytest

# Node id (or its beginning) -> what the test needs that a machine may lack.
ALLOWED_SKIPS: dict[str, str] = {}

_skipped: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _note(report.nodeid, report.skipped and not hasattr(report, "wasxfail"))


def pytest_collectreport(report: pytest.CollectReport) -> None:
    _note(report.nodeid, report.skipped)


def _note(nodeid: str, skipped: bool) -> None:
    if skipped and not nodeid.startswith(tuple(ALLOWED_SKIPS)):
        _skipped.append(nodeid)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if _skipped and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for nodeid in _skipped:
        terminalreporter.line(f"not allowed to skip: {nodeid} (see tests/conftest.py)", red=True)
