"""What commands, evaluation and the report write takes its place only when it is whole."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from heedful.commands import miniature
from heedful.config import LabelConfig

SOURCE = Path(miniature.__file__).parents[1]
WRITERS = [*SOURCE.glob("commands/*.py"), *SOURCE.glob("evaluation/*.py"), SOURCE / "report.py"]


def places_written(path: Path) -> list[str]:
    """What stands before every .write_text(...), .write_bytes(...) and .open("w") of a file."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        mode = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else ""
        is_opened = node.func.attr == "open" and str(mode).startswith(("w", "x"))
        if is_opened or node.func.attr in ("write_text", "write_bytes"):
            found.append(ast.unparse(node.func.value))
    return found


def test_writers_write_beside_the_place():
    written = {path.name: places_written(path) for path in WRITERS}
    assert not {name: places for name, places in written.items() if set(places) - {"partial"}}
    assert sum(map(len, written.values())) > 10
    assert written["report.py"] and written["claims.py"]


def test_the_name_beside_the_place_is_made_in_one_function():
    """``metrics.replacing``: what may import it makes none by hand."""
    assert not [path for path in WRITERS if ".partial" in path.read_text(encoding="utf-8")]


def test_rankings_cut_by_a_kill_leave_those_before(tmp_path, monkeypatch):
    old = {name: f"old {name}" for name in (miniature.COMPARISONS_FILE, miniature.LABELS_FILE)}
    for name, text in old.items():
        (tmp_path / name).write_text(text, encoding="utf-8")

    def killed(world: Path, completions: Path, out: Path, **settings: object) -> None:
        out.write_text("half of a r", encoding="utf-8")
        raise KeyboardInterrupt

    monkeypatch.setattr(miniature, "label", killed)
    values = {"world": "w", "completions": "c", "completions_valid": "v", "run_dir": str(tmp_path)}
    with pytest.raises(KeyboardInterrupt):
        miniature.run_label(LabelConfig.model_validate(values))
    assert {name: (tmp_path / name).read_text(encoding="utf-8") for name in old} == old
    assert not list(tmp_path.glob("*.partial"))
