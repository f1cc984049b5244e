"""The demo over several seeds: in how many of them does each claim hold?

    python benchmarks/seeds.py --seeds 0 1 2 3 4 --out runs/seeds

Runs ``heed demo`` once per seed (a finished run is kept) and writes a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, default=Path("runs/seeds"))
    options = parser.parse_args()
    found: dict[int, list[dict]] = {}
    minutes: dict[int, float] = {}
    for seed in options.seeds:
        run_dir = options.out / f"seed-{seed}"
        start = time.monotonic()
        command = [sys.executable, "-m", "heedful.cli", "demo", "--seed", str(seed)]
        subprocess.run([*command, "--run-dir", str(run_dir)], check=False)
        minutes[seed] = (time.monotonic() - start) / 60
        claims = run_dir / "claims.json"
        if claims.is_file():
            found[seed] = json.loads(claims.read_text(encoding="utf-8"))
    table = make_table(found)
    (options.out / "seeds.md").write_text(table, encoding="utf-8")
    print(table)
    print("minutes:", ", ".join(f"seed {seed} {value:.1f}" for seed, value in minutes.items()))
    return 0 if len(found) == len(options.seeds) else 1


def _cell(row: dict | None) -> str:
    """A value, and whether its check fails; a run made before the check was there has none."""
    if row is None:
        return "-"
    return f"{row['value']:.3f}" + ("" if row["holds"] else " (not shown)")


def make_table(found: dict[int, list[dict]]) -> str:
    """A Markdown table: a row per claim, its value in every seed, and how often it holds."""
    seeds = list(found)
    lines = [
        "| claim | " + " | ".join(f"seed {seed}" for seed in seeds) + " | holds |",
        "|---|" + "---|" * (len(seeds) + 1),
    ]
    by_id = {seed: {row["id"]: row for row in rows} for seed, rows in found.items()}
    for first in found[seeds[0]]:
        rows = [by_id[seed].get(first["id"]) for seed in seeds]
        cells = [_cell(row) for row in rows]
        rows = [row for row in rows if row is not None]
        holds = sum(row["holds"] for row in rows)
        name = f"{first['id']} {first['claim']}"
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {holds} of {len(rows)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
