"""The rules of who may import whom, what stays free of torch, and how long a file may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "heedful"
FILES = sorted(SOURCE.rglob("*.py"))
MAX_FILE_LINES, MAX_FUNCTION_LINES = 450, 70

# Part of the package -> the other parts it may import. ``errors`` is open to all but losses.
MAY_IMPORT = {
    "__init__": "",
    "errors": "",
    "losses": "",
    "records": "errors",
    "config_file": "errors",
    "config_loop": "config_file errors",
    "config_evaluation": "config_file errors",
    "config_sampling": "config_file errors",
    "config": "config_file config_loop config_evaluation config_sampling errors",
    "metrics": "errors",
    "statistics": "errors",
    "models": "memory errors",
    "distributed": "errors",
    "memory": "errors",
    "shown": "",
    "points": "shown",
    "plots": "points shown errors",
    "figures": "plots shown errors",
    "figure_parts": "figures plots shown errors",
    "coefficients": "figure_parts figures plots shown errors",
    "paper_figures": "coefficients figure_parts figures plots shown errors",
    "png": "errors",
    "data": "records errors",
    "store": "records errors",
    "rollout": "memory models losses distributed errors",
    "training": "config metrics memory records data models losses rollout distributed errors",
    "evaluation": "statistics shown records metrics memory data models rollout errors",
    "intake": "store records errors",
    "simulation": "store records errors",
    "labeling": "statistics store records config plots errors",
    "serving": "config records data models rollout errors",
    "run_files": "figures metrics errors",
    "comparison": (
        "report run_files coefficients figure_parts paper_figures figures plots png shown metrics "
        "errors"
    ),
    "report": "metrics run_files plots shown figures figure_parts paper_figures png errors",
    "planning": "config errors",
    "commands": "*",
    "cli": "*",
}
TORCH_FREE = (
    "records config config_file config_loop config_evaluation config_sampling errors metrics "
    "report data.formats intake simulation statistics store labeling cli"
)
TORCH = ("torch", "transformers", "tokenizers", "safetensors", "peft")
DATABASES = ("sqlalchemy", "psycopg", "sqlite3")
TENSORBOARD = ("metrics", "torch.utils.tensorboard")  # imported where it was asked for


def module_of(path: Path) -> str:
    """The dotted name of a file below heedful: ``training.loop``."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> set[str]:
    """Every name that a file imports, anywhere in it: ``heedful.losses.sft``, ``torch.nn``."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = "." * node.level + (node.module or "")
            # ``from heedful import x`` imports the part x; elsewhere the module is enough.
            found |= (
                {f"heedful.{a.name}" for a in node.names} if package == "heedful" else {package}
            )
    return found


def torch_free_files() -> list[Path]:
    prefixes = tuple(f"{part}." for part in TORCH_FREE.split())
    return [path for path in FILES if f"{module_of(path)}.".startswith(prefixes)]


def test_imports_follow_the_table():
    wrong = set()
    for path in FILES:
        part = module_of(path).split(".")[0]
        assert part in MAY_IMPORT, f"{part} is new: say in MAY_IMPORT what it may import"
        allowed = set(MAY_IMPORT) - {"cli"} if MAY_IMPORT[part] == "*" else {part}
        allowed |= {*MAY_IMPORT[part].split(), "__version__"}
        ours = {name for name in imports_of(path) if name.startswith(("heedful.", "."))}
        wrong |= {(module_of(path), name) for name in ours if name.split(".")[1] not in allowed}
    assert not wrong


def test_the_steps_never_import_each_other():
    for path in SOURCE.glob("training/step*.py"):
        others = {name for name in imports_of(path) if name.startswith("heedful.training.step")}
        assert not others, f"{path.name} imports {others}: steps exchange checkpoint directories"


def test_only_the_training_side_names_torch():
    names = {(module_of(path), name) for path in torch_free_files() for name in imports_of(path)}
    assert not {pair for pair in names if pair[1].split(".")[0] in TORCH} - {TENSORBOARD}


def test_the_other_side_starts_without_torch():
    lines = [f"import heedful.{module_of(path)}" for path in torch_free_files()]
    code = "\n".join([*lines, "import sys", f"print(*({{*{TORCH}}} & {{*sys.modules}}))"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_only_the_store_speaks_to_databases():
    """Others call its named functions; the training side may not even import it (MAY_IMPORT)."""
    names = {(module_of(path), name) for path in FILES for name in imports_of(path)}
    spoken = {module for module, name in names if name.split(".")[0] in DATABASES}
    assert not {module for module in spoken if module.split(".")[0] != "store"}


def test_files_and_functions_stay_small():
    large = []
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        sizes = [(path.name, text.count("\n"), MAX_FILE_LINES)]
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                sizes.append((f"{path.name}: {node.name}", length, MAX_FUNCTION_LINES))
        large += [size for size in sizes if size[1] > size[2]]
    assert not large


def test_files_are_named_after_what_they_hold():
    assert not [path for path in FILES if path.name in ("utils.py", "helpers.py", "common.py")]
