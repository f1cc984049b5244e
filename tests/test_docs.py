"""The documents say what the code does: settings, metrics, commands and the list of files."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import heedful.config
from heedful.cli import _parser, _settings, _variables
from heedful.commands.document_config import document
from heedful.commands.run import load_recipe
from heedful.commands.table import COMMANDS
from heedful.config import load_config

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "heedful"
README = (ROOT / "README.md").read_text(encoding="utf-8")
# Files that write metrics: the steps, and what the commands add to their rows.
WRITERS = [
    *SOURCE.glob("training/*.py"),
    *(SOURCE / "commands" / name for name in ("train.py", "while_training.py")),
    SOURCE / "evaluation" / "evaluators.py",
]
METRIC = re.compile(r"(pretrain|sft|reward|ppo|optim|data|valid|speed|memory|time)/[a-z_]+")


def test_the_page_of_settings_is_current():
    page = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
    assert page == document(), "python -m heedful.commands.document_config > docs/config.md"


def test_the_page_of_settings_has_every_key_with_its_meaning():
    rows = re.findall(r"(?m)^\| `(\w+)` \|.*\| (.*) \|$", document())
    assert {"kl_coef", "ptx_coef", "batch_size", "max_prompt_tokens", "run_dir"} <= dict(
        rows
    ).keys()
    assert not [key for key, meaning in rows if not meaning]


def written_metrics() -> set[str]:
    """Every metrics key in the source: texts such as "ppo/kl", and the names of a timer's laps."""
    found = set()
    for path in WRITERS:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= {node.value} if METRIC.fullmatch(node.value) else set()
            is_lap = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
            if is_lap and node.func.attr == "lap":
                found.add(f"time/{node.args[0].value}_s")
    return found


def test_every_metric_has_a_row_and_no_row_is_without_its_metric():
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    documented = re.findall(r"(?m)^\| `([a-z]+/[a-z_]+)` \|", page)
    assert len(documented) == len(set(documented))
    assert set(documented) == written_metrics()


def commands_of(text: str) -> list[list[str]]:
    """The words of every heed command in the code blocks of a page."""
    blocks = re.findall(r"(?ms)^```\n(.*?)^```", text)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("heed ")]


def test_the_commands_of_the_readme_parse_and_their_settings_are_known():
    commands = commands_of(README)
    assert {words[0] for words in commands} >= {"prompts", "sft", "sample", "reward", "ppo", "run"}
    for words in commands:
        options, rest = _parser().parse_known_args(words)
        if options.command == "run":
            load_recipe(ROOT / options.recipe, None, _variables(rest))
        elif options.command in COMMANDS:
            model = getattr(heedful.config, COMMANDS[options.command].config)
            load_config(model, *_settings(options.config, rest))
        else:
            assert not rest


def test_the_make_targets_of_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"(?m)^make (\w+)", README):
        assert re.search(rf"(?m)^{target}:", makefile)


def files_of_the_tree() -> set[str]:
    """The paths that the README's tree names; a folder's lines are indented below it."""
    tree = re.search(r"(?ms)^## What is where\n+```\n(.*?)^```", README)
    assert tree is not None
    found, folders = set(), []
    for line in tree[1].splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        folders = [*folders[:depth], name]
        if not name.endswith("/"):
            found.add("".join(folders))
            assert len(line.split()) > 2, f"{name} has no words beside it"
    return found


def test_the_tree_of_the_readme_is_complete():
    globs = ("recipes/*.toml", "docs/*.md", "benchmarks/*.py")
    paths = [*SOURCE.rglob("*.py"), *(path for glob in globs for path in ROOT.glob(glob))]
    files = {str(path.relative_to(ROOT)) for path in paths if path.name != "__init__.py"}
    files = {file for file in files if "/heedful/recipes/" not in file}
    assert files_of_the_tree() == files


def test_the_documents_speak_of_the_project_alone():
    for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")]:
        text = path.read_text(encoding="utf-8")
        assert "/work/" not in text and "../shared" not in text, path


def test_links_between_documents_lead_somewhere():
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")]:
        for link in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8")):
            assert (path.parent / link).exists(), f"{path.name} links to {link}"
