"""The ``heed`` command: every step of the loop from a terminal.

Exit codes: 0 done, 1 failed (the message says why), 2 bad usage, 130 and 143 stopped by Ctrl-C and
SIGTERM. Errors come without a traceback unless --debug is given.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from heedful import __version__
from heedful import config as configs
from heedful.commands.inputs import required_of
from heedful.commands.table import COMMANDS, TRAINING, Command
from heedful.errors import ConfigError, HeedfulError
from heedful.memory import memory_advice, out_of_memory, tune_allocator

RECIPES = Path(__file__).parent / "recipes"
PROFILED = (*TRAINING, "sample")
# The actions of heed label, the service for people; anything else after it is the old name of
# heed simulate-labels.
SERVICE = ("init", "serve", "invite", "reset", "export", "stats", "-h", "--help")
# The variables of the miniature recipe with which labelers come to the service's front door.
THROUGH_SERVICE = {
    "through": "service",
    "demonstrations": "{demonstrate}/demonstrations.jsonl",
}
DRY_RUN = "print stages, settings and numbers, name what is missing, and stop"
MAX_LINE = 80  # characters of a line of help, as argparse has them
# The words that take no value where settings are given as --section.key=value.
FLAGS = (
    *("dry-run", "resume", "restart", "overwrite", "rescore"),
    *("profile", "debug", "help", "version"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    tune_allocator()
    # Read when torch is imported. Threads that spin for long while they wait for each other take
    # the cores from those they wait for: beside a busy program, training was up to a hundred times
    # slower. A short spin costs an idle machine nothing; with none small steps take 3 times longer.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    words = _spelt(list(sys.argv[1:] if arguments is None else arguments))
    options, rest = _parse(words)
    if "--debug" in rest:  # wherever it stands
        rest.remove("--debug")
        options.debug = True
    try:
        return int(options.handler(options, rest) or 0)
    except ConfigError as error:
        return _fail(error, options.debug, 2)
    except HeedfulError as error:
        return _fail(error, options.debug, 1)
    except KeyboardInterrupt as stop:
        print(str(stop) or "stopped", file=sys.stderr)
        return 128 + getattr(stop, "number", signal.SIGINT)
    except BrokenPipeError:  # whoever read the output has seen enough: heed ... | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if options.debug:
            raise
        print(f"error: {_unforeseen(error)}", file=sys.stderr)
        return 1


def _unforeseen(error: Exception) -> str:
    """What is said of an error that nothing raised on purpose, and what to do about it."""
    if out_of_memory(error):
        return memory_advice(error)
    return (
        f"{type(error).__name__}: {error}\nThis was not foreseen: run again with "
        "`heed --debug ...` to see where it happened."
    )


def _spelt(words: list[str]) -> list[str]:
    """The words with hyphens and underscores as the parser has them; ``--key value`` as one word.

    People write --run_dir and --run-dir; both are right everywhere.
    """
    at = next((i for i, word in enumerate(words) if not word.startswith("-")), len(words))
    is_service = words[at + 1 : at + 2] and words[at + 1] in SERVICE
    has_settings = words[at : at + 1] and words[at] in COMMANDS and not is_service
    spelt: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        name, equals, value = word[2:].partition("=")
        if not word.startswith("--") or not name:
            spelt.append(word)
            continue
        hyphens = name.replace("_", "-")
        if not has_settings or hyphens in FLAGS:
            spelt.append(f"--{hyphens}{equals}{value}")
            continue
        if not equals and left and not left[0].startswith("--"):
            equals, value = "=", left.pop(0)
        spelt.append(f"--{name}{equals}{value}")  # load_config knows which hyphens are meant
    return spelt


def _parse(words: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options of a command line, and the words that are not among them."""
    at = next((i for i, word in enumerate(words) if not word.startswith("-")), 0)
    if words[at : at + 1] == ["label"]:
        rest = [word for word in words[at + 1 :] if word != "--debug"]
        if not rest or rest[0] in SERVICE:  # it has arguments of its own
            is_debug = "--debug" in words
            return argparse.Namespace(command="label", debug=is_debug, handler=_service), rest
        print("heed label with settings is now heed simulate-labels", file=sys.stderr)
        words = [*words[:at], "simulate-labels", *words[at + 1 :]]
    return _parser().parse_known_args(words)


def _fail(error: Exception, debug: bool, code: int) -> int:
    if debug:
        raise error
    print(f"error: {error}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="heed",
        description="Align a language model with people: InstructGPT's whole loop.",
        epilog="Start with: heed demo",
    )
    parser.add_argument("--version", action="version", version=f"heedful {__version__}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_demo(commands)
    _add_run(commands)
    for name, command in COMMANDS.items():
        _add_step(commands, name, command)
    commands.add_parser("label", help="the service where people write, rate and rank")
    _add_prompts(commands)
    doctor = commands.add_parser("doctor", help="what this machine can do, measured")
    doctor.set_defaults(handler=_doctor)
    return parser


def _add_demo(commands: Any) -> None:
    demo = commands.add_parser(
        "demo",
        help="the whole loop on the miniature world, in minutes",
        description="Pretraining, SFT, reward model, PPO and PPO-ptx on a small invented world, "
        "and a report of checks made after the paper's claims. Needs no network.",
    )
    demo.add_argument(
        "--run-dir", type=Path, default=Path("runs/demo"), help="default: %(default)s"
    )
    demo.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    demo.add_argument("--jobs", type=int, help="stages at a time (default: as in the recipe)")
    demo.add_argument(
        "--service",
        action="store_true",
        help="simulated labelers log in to a labeling service, are screened, write and rank there",
    )
    demo.add_argument("--dry-run", action="store_true", help=DRY_RUN)
    demo.set_defaults(handler=_demo, allowed="--run-dir, --seed, --jobs, --service, --dry-run")


def _add_run(commands: Any) -> None:
    run = commands.add_parser(
        "run",
        help="every stage of a recipe",
        description="Runs the stages of a recipe, side by side where they can. Stages whose inputs "
        "have not changed are kept; a killed run goes on where it was. Any variable of the recipe "
        "can be given as --NAME VALUE (such as --data, --base, --seed).",
    )
    run.add_argument("recipe", help="a TOML file, or the name of one that heedful brings")
    run.add_argument(
        "--run-dir", type=Path, help="directory of the run (default: as in the recipe)"
    )
    run.add_argument("--jobs", type=int, help="stages at a time (default: as in the recipe)")
    run.add_argument("--dry-run", action="store_true", help=DRY_RUN)
    run.set_defaults(handler=_run)


def _add_step(commands: Any, name: str, command: Command) -> None:
    needed = required_of(getattr(configs, command.config))
    step = commands.add_parser(
        name,
        help=command.help,
        description=textwrap.fill(
            f"{command.help}. Settings come from a TOML file and --section.key=value overrides; "
            f"docs/config.md lists them all under 'heed {name}'.",
            MAX_LINE,
        ),
        epilog="\n".join(["settings that are required:", *needed]).replace("%", "%%"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = {
        "eval": "suites (bias,toxicity), preference, tax RUN..., or a TOML file",
        "report": "run directories, or a TOML file of settings",
    }
    help = what.get(name, "TOML file of settings")
    step.add_argument("config", nargs="?", help=help)
    step.add_argument("--dry-run", action="store_true", help="print settings and derived numbers")
    step.add_argument("--resume", action="store_true", help="go on from the newest training state")
    step.add_argument(
        "--overwrite",
        "--restart",
        dest="restart",
        action="store_true",
        help="start over: drop the training state, replace what a finished run has made",
    )
    if name in PROFILED:
        step.add_argument(
            "--profile",
            action="store_true",
            help="profile some updates: where the time goes, beside what the machine can do",
        )
    step.set_defaults(handler=_step, profile=False)


def _add_prompts(commands: Any) -> None:
    prompts = commands.add_parser("prompts", help="clean, split and count prompts")
    actions = prompts.add_subparsers(dest="action", required=True, metavar="ACTION")
    load = actions.add_parser(
        "import", help="read prompt files, clean and split them, write prompts.jsonl"
    )
    load.add_argument("files", nargs="+", help="prompt files, folders or globs")
    load.add_argument("--out", type=Path, required=True, help="prompts.jsonl to write")
    load.add_argument("--seed", type=int, default=0, help="seed of the split by user")
    load.add_argument("--cap", type=int, default=200, help="prompts per user (paper: 200)")
    load.add_argument(
        "--valid", type=float, default=0.1, help="share of users held out for validation"
    )
    load.add_argument("--test", type=float, default=0.1, help="share of users held out for tests")
    load.add_argument(
        "--languages", nargs="+", metavar="CODE", help="keep these languages, such as en"
    )
    load.add_argument(
        "--skip-bad-rows", action="store_true", help="leave out rows that cannot be read"
    )
    load.add_argument(
        "--overwrite", action="store_true", help="write --out again in the place of what is there"
    )
    allowed = "import FILES, --out, --seed, --cap, --valid, --test, --languages, --skip-bad-rows"
    load.set_defaults(handler=_prompts, allowed=f"{allowed}, --overwrite")
    stats = actions.add_parser("stats", help="counts of prompt files by split, source and use case")
    stats.add_argument("files", nargs="+", help="prompt files, folders or globs")
    stats.set_defaults(handler=_prompts, allowed="stats FILES, and no options")


def _demo(options: argparse.Namespace, rest: list[str]) -> int:
    _no_more(options, rest)
    variables = {"seed": options.seed} | (THROUGH_SERVICE if options.service else {})
    path = RECIPES / "miniature.toml"
    return _run_recipe(path, options.run_dir, options.jobs, variables, options.dry_run)


def _run(options: argparse.Namespace, rest: list[str]) -> int:
    path = _recipe_file(options.recipe)
    return _run_recipe(path, options.run_dir, options.jobs, _variables(rest), options.dry_run)


def _recipe_file(given: str) -> Path:
    """The file of a recipe: a path, else the name of one that heedful brings.

    recipes/NAME.toml, as the documents write it, is such a name where there is no such file.
    """
    path = Path(given)
    if path.is_file():
        return path
    is_name = path.parent in (Path("."), Path("recipes"))
    ours = RECIPES / f"{path.name.removesuffix('.toml')}.toml"
    if is_name and ours.is_file():
        return ours
    names = ", ".join(sorted(file.stem for file in RECIPES.glob("*.toml")))
    raise ConfigError(
        f"{given} does not exist: give the path of a TOML file, or the name of a recipe that "
        f"heedful brings ({names})"
    )


def _run_recipe(
    path: Path, run_dir: Path | None, jobs: int | None, variables: dict[str, Any], dry: bool
) -> int:
    from heedful.commands import overview
    from heedful.commands import run as runner
    from heedful.training.stopping import stoppable

    recipe = runner.load_recipe(path, run_dir, variables)
    if dry:
        print(overview.describe(recipe), flush=True)
        overview.require_inputs(recipe)
        return 0
    overview.require_inputs(recipe)
    start = time.monotonic()
    with stoppable():
        runner.run(recipe, jobs=jobs)
        return overview.conclude(recipe, time.monotonic() - start)


def _variables(rest: list[str]) -> dict[str, Any]:
    """{name: value} from --name value and --name=value; whole numbers become numbers."""
    values: dict[str, Any] = {}
    words = list(rest)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            raise ConfigError(f"unexpected argument {word!r}: variables are given as --name VALUE")
        name, separator, value = word[2:].partition("=")
        if not separator:
            if not words:
                raise ConfigError(f"--{name} needs a value")
            value = words.pop(0)
        values[name.replace("-", "_")] = int(value) if value.lstrip("-").isdigit() else value
    return values


def _step(options: argparse.Namespace, rest: list[str]) -> int:
    from heedful.commands.step import run_step

    if options.command == "eval" and options.config in ("preference", "tax"):
        options.command, options.config = options.config, None
        rest = _run_words(rest, "tax") if options.command == "tax" else rest
    elif options.command == "eval":
        options.config, rest = _eval_words(options.config, rest)
    elif options.command == "report" and not (options.config or "").endswith(".toml"):
        options, rest = _report_words(options, rest)
    return run_step(options, *_settings(options.config, rest))


def _report_words(
    options: argparse.Namespace, rest: list[str]
) -> tuple[argparse.Namespace, list[str]]:
    """The command and overrides of heed report RUN..., which compares where runs are several."""
    words = [] if options.config is None else [options.config]
    words += [word for word in rest if not word.startswith("--")]
    overrides = [word for word in rest if word.startswith("--")]
    name = "compare" if len(words) > 1 else "report"
    given = _run_words([*words, *overrides], name)
    if len(words) == 1:
        given = [word for word in given if not word.startswith("--runs=")]
        given.append(f"--run={json.dumps(words[0])}")
    return argparse.Namespace(**{**vars(options), "command": name, "config": None}), given


def _eval_words(first: str | None, rest: list[str]) -> tuple[str | None, list[str]]:
    """(file of settings, overrides) of heed eval, whose suites and models have words of their own.

    "heed eval bias,toxicity --model SFT=DIR": without a name a model is called after its directory,
    and after the run that it is of where the directory is called model.
    """
    words: list[str] = []
    if first is not None and not first.endswith(".toml"):
        words, first = [f"--suites={json.dumps(first.split(','))}"], None
    models: dict[str, str] = {}
    for word in rest:
        key, _, value = word.partition("=")
        if key == "--model":
            name, _, path = value.rpartition("=")
            place = Path(path)
            name = name or (place.parent.name if place.name == "model" else place.name)
            if name in models:
                raise ConfigError(f"two models are called {name!r}: give --model NAME=DIR")
            models[name] = path
        else:
            words.append("--rescore=true" if word == "--rescore" else word)
    if models:
        pairs = (f"{json.dumps(name)} = {json.dumps(path)}" for name, path in models.items())
        words.append(f"--models={{ {', '.join(pairs)} }}")
    return first, words


def _run_words(rest: list[str], stage: str) -> list[str]:
    """The overrides of a command over RUN...: without a run_dir it is a stage of the first run."""
    runs = [word for word in rest if not word.startswith("--") and not word.endswith(".toml")]
    others = [word for word in rest if word not in runs]
    for run in runs:  # the results go into the first: it is not made by a slip of the keys
        if not Path(run).is_dir():
            raise ConfigError(f"{run} does not exist: give the directory of a run")
    if runs:
        others.append(f"--runs={json.dumps(runs)}")
        if not any(re.match("--run[-_]dir=", word) for word in others):
            others.append(f"--run_dir={Path(runs[0]) / 'stages' / stage}")
    return others


def _settings(path: str | None, rest: list[str]) -> tuple[str | None, list[str]]:
    """(file of settings, overrides): argparse takes an override with a space in it for the file."""
    words = rest if path is None else [path, *rest]
    overrides = [word[2:] for word in words if word.startswith("--") and "=" in word]
    others = [word for word in words if not (word.startswith("--") and "=" in word)]
    if len(others) > 1 or (others and others[0].startswith("-")):
        wrong = next((word for word in others if word.startswith("-")), others[-1])
        raise ConfigError(
            f"unexpected argument {wrong!r}: settings are given as --section.key=value"
        )
    return others[0] if others else None, overrides


def _prompts(options: argparse.Namespace, rest: list[str]) -> int:
    _no_more(options, rest)
    from heedful.commands.prompts import run_import, run_stats

    if options.action == "stats":
        return run_stats(options.files)
    return run_import(options)


def _service(options: argparse.Namespace, rest: list[str]) -> int:
    from heedful.commands.label import run_label

    return run_label(rest)


def _doctor(options: argparse.Namespace, rest: list[str]) -> int:
    _no_more(options, rest)
    from heedful.commands.doctor import run_doctor

    return run_doctor()


def _no_more(options: argparse.Namespace, rest: list[str]) -> None:
    if rest:
        allowed = getattr(options, "allowed", "")
        hint = f"takes {allowed}" if allowed else "takes no arguments"
        raise ConfigError(f"unexpected argument {rest[0]!r}: heed {options.command} {hint}")


if __name__ == "__main__":
    sys.exit(main())
