"""One command by hand: what it refuses, what a dry run says, its end, and what a stop leaves."""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from heedful.commands.lines import last_line, progress_lines
from heedful.commands.table import COMMANDS, TRAINING
from heedful.config import changed_settings, dump_toml, load_config
from heedful.errors import ConfigError, DataError
from heedful.training.stopping import Stopped, importing, stoppable

# What a command has left in its run_dir when it has ended; the others are quick, or only measure.
RESULTS = {
    "tokenizer": "tokenizer.json",
    **dict.fromkeys(TRAINING, "model"),
    "sample": "completions.jsonl",
    "snapshot": "manifest.json",
}
# They write beside what a run of another command has left, whose training state is not theirs.
BESIDE = ("eval", "measure")
# Commands that read for long and print no lines of their own.
SILENT = ("tokenizer", "sample", "prefix", "measure", "label", "eval", "judge")


def run_step(options: argparse.Namespace, path: str | None, overrides: list[str]) -> int:
    """Runs a command with settings from a file and overrides; returns its exit code."""
    command = COMMANDS[options.command]
    model = getattr(importlib.import_module("heedful.config"), command.config)
    config = load_config(model, path, overrides)
    if options.dry_run:
        return _dry_run(config)
    from heedful.commands.worker import hold

    run_dir = Path(config.run_dir)
    with hold(run_dir, say=lambda text: print(text, file=sys.stderr)):
        if not options.restart and _is_finished(options.command, config, options.resume):
            print(f"{run_dir} is finished: nothing is left to do", file=sys.stderr)
            return 0
        if options.profile:  # read by torch when it is imported: no notes of start and stop
            os.environ.setdefault("KINETO_LOG_LEVEL", "99")
        start = time.monotonic()
        try:
            with stoppable():
                _run(options, config)
        except KeyboardInterrupt as stop:
            number = stop.number if isinstance(stop, Stopped) else Stopped().number
            raise Stopped(str(stop) or _kept(options.command, run_dir), number) from None
    print(last_line(options.command, config, time.monotonic() - start), file=sys.stderr)
    return 0


def _run(options: argparse.Namespace, config: Any) -> None:
    """The command itself, in a run directory that is held."""
    from heedful.commands.inputs import require_inputs
    from heedful.commands.worker import begun

    require_inputs(config)
    name, run_dir = options.command, Path(config.run_dir)
    with importing():
        module = importlib.import_module(f"heedful.commands.{COMMANDS[name].module}")
    function: Callable[..., None] = getattr(module, COMMANDS[name].function)

    def run() -> None:
        with begun(run_dir, name):
            if options.restart:
                if name not in BESIDE:
                    shutil.rmtree(run_dir / "state", ignore_errors=True)
                if name == "eval":  # results of other suites may be in the same directory
                    module.forget(config)
            function(config, resume=options.resume)

    if options.profile:
        from heedful.commands.profile import run_profiled

        run_profiled(name, run)
    else:
        with progress_lines(f"heed {name}") if name in SILENT else nullcontext():
            run()


def _dry_run(config: Any) -> int:
    """Prints settings and derived numbers; returns 1 where an input cannot be used, naming all."""
    from heedful.commands.inputs import problems, refuse
    from heedful.commands.lengths import context_problems
    from heedful.commands.plan import derived_numbers

    print(dump_toml(config))
    wrong = problems(config)
    try:
        print(derived_numbers(config), flush=True)
    except DataError as error:  # rows that cannot be read; a missing file is named already
        wrong.append(str(error))
    refuse([*wrong, *context_problems(config)])
    return 0


def _kept(command: str, run_dir: Path) -> str:
    """What a command that was stopped at once has left to go on from."""
    states = sorted((run_dir / "state").glob("step-*.pt"))
    if states:
        step = int(states[-1].stem.removeprefix("step-"))
        return (
            f"stopped at once; the training state after step {step} is kept: run again with "
            "--resume to go on from there"
        )
    if command == "eval":
        return "stopped; what was answered is kept: the same command goes on from there"
    result = RESULTS.get(command)
    is_older = result is not None and (run_dir / result).exists()
    again = "the same command begins anew"
    if is_older:
        again = f"--overwrite begins anew ({result} is of an earlier run)"
    if command in TRAINING:
        return f"stopped; no training state was saved yet: {again}"
    return f"stopped; {again}"


def _is_finished(command: str, config: Any, resume: bool) -> bool:
    """Whether the result is there, and not from before a run that has not ended.

    Raises ConfigError where the result would be replaced without ``resume``, and where there is
    something to resume that was made with other settings.
    """
    from heedful.commands.worker import mark_of

    run_dir, result = Path(config.run_dir), RESULTS.get(command)
    has_state = command not in BESIDE and any((run_dir / "state").glob("step-*.pt"))
    has_result = result is not None and (run_dir / result).exists()
    is_cut_short = mark_of(run_dir, command).exists()
    if has_result and not has_state and not resume:
        if is_cut_short:
            raise ConfigError(
                f"{run_dir} holds a run that has not ended and the {result} of one before it: go "
                "on with --resume, start over with --overwrite, or give another run_dir"
            )
        raise ConfigError(
            f"{run_dir} holds a finished run ({result}): give another run_dir, or --overwrite to "
            "do it again in its place"
        )
    is_finished = has_result and not has_state and not is_cut_short
    if resume and (is_finished or has_state):
        _require_same_settings(config, run_dir)
    return is_finished


def _require_same_settings(config: Any, run_dir: Path) -> None:
    """Raises ConfigError naming the settings that differ from those that a run was made with."""
    file = run_dir / "config.toml"
    if not file.is_file():
        return
    changes = changed_settings(load_config(type(config), file), config)
    if changes.get("compute.dtype", ("", ""))[1] == "auto":  # decided when the run began
        del changes["compute.dtype"]
    if changes:
        pairs = (f"{key} is {old!r} there, {new!r} here" for key, (old, new) in changes.items())
        raise ConfigError(
            f"{run_dir} was made with other settings ({'; '.join(pairs)}): give the old ones, or "
            "another run_dir, or --overwrite to do it again in its place"
        )
