"""heed run: the stages of a recipe, side by side where they can, each skipped when nothing changed.

A recipe is a TOML file:

    goals = ["report"]                      # what to make; only the stages it needs are run
    jobs = 2                                # stages at a time
    about_inputs = "..."                    # said where the files of --data are missing
    [variables]                             # {name} in any value; --name VALUE overrides
    base = "{pretrain}/model"
    [stage.pretrain]
    command = "pretrain"                    # a heed command; the rest are its settings
    tokenizer = "{tokenizer}"               # {stage} is that stage's directory, and makes it a need

Every stage runs in a process of its own in ``run_dir/stages/<name>``. ``stage.json`` there says
with which fingerprint (settings, fingerprints of its needs, sizes and times of outside files) it
ended; the same fingerprint means it is not run again. A killed run goes on where it was: finished
stages are skipped, the others resume from their own training state.
"""

from __future__ import annotations

import difflib
import fcntl
import glob
import hashlib
import json
import multiprocessing
import os
import re
import shlex
import string
import sys
import time
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from rich.console import Console

from heedful import __version__
from heedful.commands.progress import bars, read_progress
from heedful.commands.recipe_tables import read_recipe
from heedful.commands.table import stage_config
from heedful.commands.worker import STAGE_FILE, hold, num_cores, prepare, run_stage
from heedful.config import Section, without_means
from heedful.errors import ConfigError, TrainingError
from heedful.metrics import duration, replacing
from heedful.training.stopping import Stopped

RUN_FILE = "run.json"
LOG_FILE = "log.txt"
POLL_S = 0.2
MAX_PATH = 1024
PRELOAD = ["torch", "transformers", "heedful.commands.train", "heedful.commands.sample"]


@dataclass(frozen=True)
class Stage:
    """One command of a recipe, with every placeholder resolved."""

    name: str
    command: str
    settings: dict[str, Any]
    needs: tuple[str, ...]
    directory: Path
    config: Section


@dataclass
class Recipe:
    """A recipe file with its variables resolved; ``stages`` in an order that respects needs."""

    path: Path
    run_dir: Path
    jobs: int
    goals: tuple[str, ...]
    about_inputs: str = ""  # said where inputs from outside cannot be used
    stages: dict[str, Stage] = field(default_factory=dict)


def load_recipe(
    path: Path | str, run_dir: Path | None = None, variables: dict[str, str] | None = None
) -> Recipe:
    """The stages that the recipe's goals need, in order.

    Raises ConfigError on an unknown placeholder, variable, command or key, on a setting that is
    impossible, and on a circle of needs.
    """
    values = read_recipe(path)
    unknown = set(values) - {"goals", "jobs", "run_dir", "about_inputs", "variables", "stage"}
    if unknown:
        raise ConfigError(
            f"{path}: unknown key {sorted(unknown)[0]!r}: a recipe has goals, jobs, run_dir, "
            "about_inputs, [variables] and [stage.*]"
        )
    tables = values.get("stage", {})
    _refuse_unused(str(path), values, variables or {})
    given = dict(values.get("variables", {})) | (variables or {})
    directory = run_dir or Path(values.get("run_dir", f"runs/{Path(path).stem}"))
    goals, about = tuple(values.get("goals", tables)), values.get("about_inputs", "")
    recipe = Recipe(Path(path), directory, int(values.get("jobs", 1)), goals, about)
    resolver = _Resolver(str(path), given, tables, directory)
    for goal in recipe.goals:
        _add_stage(recipe, goal, resolver, ())
    return recipe


def _refuse_unused(path: str, values: dict[str, Any], variables: dict[str, str]) -> None:
    """Raises ConfigError on a given variable that the recipe does not know: it would do nothing."""
    named = set(re.findall(r"\{(\w+)\}", json.dumps(values)))
    known = sorted((named - {*values.get("stage", {}), "run"}) | set(values.get("variables", {})))
    for name in variables:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean --{near[0]}?" if near else f"its variables are {', '.join(known)}"
            raise ConfigError(f"{path} has no variable {name!r}: {hint}")


def _add_stage(recipe: Recipe, name: str, resolver: _Resolver, above: tuple[str, ...]) -> None:
    if name in recipe.stages:
        return
    if name in above:
        raise ConfigError(
            f"{recipe.path}: the stages {' -> '.join([*above, name])} need each other"
        )
    if name not in resolver.tables:
        raise ConfigError(
            f"{recipe.path}: there is no [stage.{name}] (needed by {above or 'goals'})"
        )
    table = dict(resolver.tables[name])
    command = table.pop("command", None)
    if not isinstance(command, str):
        raise ConfigError(f"{recipe.path}: [stage.{name}] has no command")
    after = table.pop("after", [])
    needs: set[str] = set(after)
    settings = resolver.resolve(table, needs, name)
    for need in sorted(needs):
        _add_stage(recipe, need, resolver, (*above, name))
    directory = recipe.run_dir / "stages" / name
    settings["run_dir"] = str(directory)
    config = stage_config(command, settings, f"{recipe.path}: [stage.{name}]")
    recipe.stages[name] = Stage(name, command, settings, tuple(sorted(needs)), directory, config)


class _Resolver:
    """Replaces {placeholders} by variables and stage directories, noting which stages are named."""

    def __init__(self, path: str, variables: dict[str, Any], tables: dict[str, Any], run_dir: Path):
        self.path = path
        self.variables = variables
        self.tables = tables
        self.run_dir = run_dir

    def resolve(self, value: Any, needs: set[str], where: str) -> Any:
        if isinstance(value, dict):
            return {key: self.resolve(item, needs, where) for key, item in value.items()}
        if isinstance(value, list):
            return [self.resolve(item, needs, where) for item in value]
        if not isinstance(value, str):
            return value
        whole = re.fullmatch(r"\{(\w+)\}", value)
        if whole and whole[1] in self.variables and not isinstance(self.variables[whole[1]], str):
            return self.variables[whole[1]]  # a number stays a number
        return "".join(self._parts(value, needs, where))

    def _parts(self, value: str, needs: set[str], where: str) -> list[str]:
        parts = []
        for text, name, _, _ in string.Formatter().parse(value):
            parts.append(text)
            if name is None:
                continue
            if name in self.variables:
                parts.append(str(self.resolve(self.variables[name], needs, where)))
            elif name in self.tables:
                needs.add(name)
                parts.append(str(self.run_dir / "stages" / name))
            elif name == "run":
                parts.append(str(self.run_dir))
            else:
                known = ", ".join([*self.variables, *self.tables])
                raise ConfigError(
                    f"{self.path}: [stage.{where}] names {{{name}}}, which is neither a variable "
                    f"nor a stage ({known}); give --{name} VALUE or write it under [variables]"
                )
        return parts


def fingerprint(stage: Stage, fingerprints: dict[str, str]) -> str:
    """A hash of all settings but ``without_means``, of the needs' fingerprints, outside files, and
    our version."""
    needs = {need: fingerprints[need] for need in stage.needs}
    settings = without_means(stage.config.model_dump(mode="json"))
    parts = [__version__, stage.command, settings, needs, _outside_files(stage)]
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _outside_files(stage: Stage) -> list[list[Any]]:
    """[path, size, time] of every existing file that the settings name outside the run."""
    found: list[list[Any]] = []
    run_dir = stage.directory.parent.parent.resolve()

    def visit(value: Any) -> None:
        if isinstance(value, dict):
            value = list(value.values())
        if isinstance(value, list):
            for item in value:
                visit(item)
        elif isinstance(value, str) and value and len(value) < MAX_PATH and "\n" not in value:
            if Path(value).exists():
                add(Path(value))
            elif glob.has_magic(value):
                for match in sorted(glob.glob(value, recursive=True)):
                    add(Path(match))

    def add(path: Path) -> None:
        # what is inside the run changes while it goes on: there, stages name each other
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and not file.resolve().is_relative_to(run_dir):
                stat = file.stat()
                found.append([str(file), stat.st_size, stat.st_mtime_ns])

    visit({key: value for key, value in stage.settings.items() if key != "run_dir"})
    return found


def run(
    recipe: Recipe, *, jobs: int | None = None, console: Console | None = None
) -> dict[str, float]:
    """Runs every stage that is not done; returns the seconds of those that ran.

    Raises TrainingError naming the stage and the end of its log where one fails; stages that run
    beside it are stopped (their state stays, so the next run goes on from it).
    """
    console = console or Console(stderr=True)
    recipe.run_dir.mkdir(parents=True, exist_ok=True)
    started = {"command": shlex.join(["heed", *sys.argv[1:]]), "jobs": jobs or recipe.jobs}
    with (recipe.run_dir / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"another heed run is at work in {recipe.run_dir}: wait for it, or give --run-dir"
            ) from None
        with replacing(recipe.run_dir / RUN_FILE) as partial:
            partial.write_text(json.dumps(started), encoding="utf-8")
        return _Scheduler(recipe, jobs or recipe.jobs, console).run()


class _Scheduler:
    def __init__(self, recipe: Recipe, jobs: int, console: Console):
        self.recipe = recipe
        self.jobs = max(1, jobs)
        self.console = console
        self.fingerprints: dict[str, str] = {}
        self.waiting = dict(recipe.stages)
        self.running: dict[str, tuple[BaseProcess, float]] = {}
        self.seconds: dict[str, float] = {}
        self.tasks: dict[str, Any] = {}
        # libraries imported by the fork server make locks that it cannot give back; not a leak
        sys.warnoptions.append("ignore:resource_tracker:UserWarning")
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PRELOAD)

    def run(self) -> dict[str, float]:
        self.display = bars(self.console)
        with self.display:
            try:
                while self.waiting or self.running:
                    self._start_ready()
                    self._watch()
                    time.sleep(POLL_S)
            except KeyboardInterrupt as stop:
                self._end_running()
                number = stop.number if isinstance(stop, Stopped) else Stopped().number
                raise Stopped("stopped; the same command goes on from here", number) from None
            finally:
                self._end_running()
        return self.seconds

    def _end_running(self) -> None:
        """Ends the stages at work: those that train save their state, until a second signal."""
        if self.running:
            names = ", ".join(self.running)
            self._say(f"ending {names} (training saves its state); Ctrl-C again ends them at once")
        processes = [process for process, _ in self.running.values()]
        try:
            for process in processes:
                process.terminate()
            for process in processes:
                process.join()
        except KeyboardInterrupt:
            for process in processes:
                process.kill()
                process.join()
        self.running = {}

    def _say(self, text: str) -> None:
        self.display.console.print(text, highlight=False)

    def _start_ready(self) -> None:
        for name in list(self.waiting):
            stage = self.waiting[name]
            if not all(need in self.fingerprints for need in stage.needs):
                continue
            mark = fingerprint(stage, self.fingerprints)
            if _is_done(stage, mark):
                del self.waiting[name]
                self.fingerprints[name] = mark
                self._say(f"{name:<18} unchanged, kept")
            elif len(self.running) < self.jobs:
                del self.waiting[name]
                self._start(stage, mark)

    def _threads(self) -> int:
        """Threads of a stage that starts now: all cores, shared among the stages that can run."""
        can_run = (
            1
            + len(self.running)
            + sum(
                all(need in self.fingerprints for need in stage.needs)
                for stage in self.waiting.values()
            )
        )
        return max(1, num_cores() // min(self.jobs, can_run))

    def _start(self, stage: Stage, mark: str) -> None:
        # the process of a killed runner goes on for a moment
        with hold(stage.directory, say=self.display.console.print):
            prepare(stage.directory, mark)
        process = self.context.Process(
            target=run_stage,
            args=(
                stage.command,
                stage.settings,
                str(stage.directory / LOG_FILE),
                mark,
                self._threads(),
                os.getpid(),
            ),
            name=stage.name,
        )
        process.start()
        self.running[stage.name] = (process, time.monotonic())
        self.tasks[stage.name] = self.display.add_task(stage.name, total=None)
        if not self.console.is_terminal:  # elsewhere its bar is in sight
            self._say(f"{stage.name:<18} started")

    def _watch(self) -> None:
        for name, (process, started) in list(self.running.items()):
            stage = self.recipe.stages[name]
            progress = read_progress(stage.directory)
            if progress is not None:
                self.display.update(self.tasks[name], completed=progress[0], total=progress[1])
            if process.is_alive():
                continue
            del self.running[name]
            elapsed = time.monotonic() - started
            if process.exitcode != 0:
                self._fail(stage, process.exitcode)
            done = json.loads((stage.directory / STAGE_FILE).read_text(encoding="utf-8"))
            self.fingerprints[name] = done["fingerprint"]
            self.seconds[name] = elapsed
            self.display.remove_task(self.tasks[name])
            self._say(f"{name:<18} done in {duration(elapsed)}")

    def _fail(self, stage: Stage, exitcode: int | None) -> None:
        log = stage.directory / LOG_FILE
        tail = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-6:]
        raise TrainingError(
            f"stage {stage.name} failed (exit code {exitcode}); the end of {log}:\n  "
            + "\n  ".join(tail)
            + f"\nmend it and run again: what is done is kept ({self.recipe.run_dir})"
        )


def _is_done(stage: Stage, mark: str) -> bool:
    """Whether the stage ended with this fingerprint and what it wrote is still there."""
    file = stage.directory / STAGE_FILE
    try:
        done = json.loads(file.read_text(encoding="utf-8"))
        return done["fingerprint"] == mark and all(
            (stage.directory / name).exists() for name in done["outputs"]
        )
    except (OSError, json.JSONDecodeError, KeyError):
        return False
