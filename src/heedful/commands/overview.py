"""What heed run says before a recipe begins and when it has ended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from heedful.commands.inputs import problems, refuse
from heedful.commands.lengths import context_problems
from heedful.commands.plan import derived_numbers
from heedful.commands.run import RUN_FILE, Recipe, Stage
from heedful.commands.table import TRAINING
from heedful.commands.worker import STAGE_FILE
from heedful.config import dump_toml


def require_inputs(recipe: Recipe) -> None:
    """Raises DataError that lists every input from outside the run which cannot be used."""
    inside = recipe.run_dir.resolve()

    def is_made(path: str) -> bool:
        return Path(path).resolve().is_relative_to(inside)

    stages: dict[str, list[str]] = {}  # a file that several stages read is named once
    like = _like(recipe)
    for stage in recipe.stages.values():
        found = problems(stage.config, is_made)
        for problem in [*found, *context_problems(stage.config, like, count=False)]:
            stages.setdefault(problem, []).append(f"stage.{stage.name}")
    refuse(_each_once(stages), recipe.about_inputs)


def _each_once(stages: dict[str, list[str]]) -> list[str]:
    """A line for each thing that is wrong, however many settings and stages it is wrong in."""
    places: dict[str, tuple[list[str], list[str]]] = {}
    for problem, names in stages.items():
        key, colon, what = problem.partition(": ")
        if not colon or " " in key:  # not about the value of one setting
            key, what = "", problem
        in_stages, in_keys = places.setdefault(what, ([], []))
        in_stages += [name for name in names if name not in in_stages]
        in_keys += [key] if key and key not in in_keys else []
    return [
        f"[{', '.join(names)}] {', '.join(keys)}{': ' if keys else ''}{what}"
        for what, (names, keys) in places.items()
    ]


def describe(recipe: Recipe) -> str:
    """The stages in order with their needs, then settings and numbers of those that train."""
    lines = [
        f"{recipe.path} -> {recipe.run_dir} ({len(recipe.stages)} stages, {recipe.jobs} at a time)"
    ]
    for stage in recipe.stages.values():
        needs = f"  after {', '.join(stage.needs)}" if stage.needs else ""
        lines.append(f"  {stage.name:<20} heed {stage.command}{needs}")
    like = _like(recipe)
    for stage in recipe.stages.values():
        if stage.command in TRAINING:
            head = f"[stage.{stage.name}] heed {stage.command}"
            lines += ["", head, "-" * len(head), dump_toml(stage.config)]
            lines.append(derived_numbers(stage.config, like))
    return "\n".join(lines)


def _like(recipe: Recipe) -> dict[str, str]:
    """{directory: another} of models still to be made: each has the size of where it starts."""
    like: dict[str, str] = {}
    for stage in recipe.stages.values():
        base: str | None = getattr(stage.config, "base", getattr(stage.config, "policy", None))
        if base is not None:
            like[str(stage.directory / "model")] = like.get(base, base)
    return like


def conclude(recipe: Recipe, seconds: float) -> int:
    """Prints what the run made; returns 1 where the score rose while the gold utility fell."""
    console = Console(width=110)
    claims_file = recipe.run_dir / "claims.json"
    code = 0
    if claims_file.is_file():
        rows = json.loads(claims_file.read_text(encoding="utf-8"))
        console.print(_claims_table(rows))
        holding = sum(row["holds"] for row in rows)
        console.print(f"{holding} of {len(rows)} checks hold")
        code = _gold_alarm(console, rows)
    jobs = json.loads((recipe.run_dir / RUN_FILE).read_text(encoding="utf-8"))["jobs"]
    peaks = sorted((_peak_gib(stage) for stage in recipe.stages.values()), reverse=True)
    console.print(f"memory: at most {sum(peaks[:jobs]):.1f} GiB ({jobs} largest stages together)")
    report = recipe.run_dir / "report.html"
    where = report if report.is_file() else recipe.run_dir
    console.print(f"done in {seconds / 60:.1f} minutes: {where}", highlight=False)
    return code


def _peak_gib(stage: Stage) -> float:
    file = stage.directory / STAGE_FILE
    return json.loads(file.read_text(encoding="utf-8")).get("peak_gib", 0.0)


def _claims_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="Checks of the paper's claims, measured here", title_justify="left")
    for name in ("", "claim", "here (95 % interval)", "paper"):
        table.add_column(name, overflow="fold")
    for row in rows:
        mark = "[green]holds[/]" if row["holds"] else "[red]fails[/]"
        numbers = [row["value"], row["low"], row["high"]]
        value, low, high = ("-" if n is None else f"{n:.3g}" for n in numbers)
        text = f"{row['id']}. {row['claim']}"
        table.add_row(mark, text, f"{value} ({low} to {high})", row["paper"])
    return table


def _gold_alarm(console: Console, rows: list[dict[str, Any]]) -> int:
    """The demo fails loudly where PPO gained score and lost what the labelers want."""
    by_id = {row["id"]: row for row in rows}
    score, gold = by_id.get("k1"), by_id.get("k2")
    if score is None or gold is None or not score["holds"] or gold["value"] >= 0:
        return 0
    console.print(
        "[bold red]The score rose while the true utility fell: the policy exploits the reward "
        "model. Raise ppo.kl_coef, take more rankings, or stop earlier.[/]"
    )
    return 1
