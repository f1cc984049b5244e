"""What is in the wheel: all of the package, the pages and recipes that are no Python included."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUILD = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"


def test_the_wheel_has_every_page_style_script_and_recipe(tmp_path):
    built = subprocess.run(
        [sys.executable, "-c", BUILD, str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"SOURCE_DATE_EPOCH": "1700000000"},
        capture_output=True,
        text=True,
        check=True,
    )
    with zipfile.ZipFile(tmp_path / built.stdout.split()[-1]) as wheel:
        names = {name for name in wheel.namelist() if not name.endswith("/")}
        texts = {name: wheel.read(name) for name in names}
    package = ROOT / "src" / "heedful"
    files = [path for path in package.rglob("*") if path.is_file()]
    wanted = {
        str(path.relative_to(package.parent)): path.read_bytes()
        for path in files
        if "__pycache__" not in path.parts
    }
    wanted |= {f"heedful/recipes/{one.name}": one.read_bytes() for one in ROOT.glob("recipes/*")}
    assert {name: texts.get(name) for name in wanted} == wanted
    kinds = {Path(name).suffix for name in wanted if name.startswith("heedful/labeling/")}
    assert kinds == {".py", ".html", ".css", ".js"}
    assert {name for name in names if ".dist-info/" not in name} == set(wanted)
