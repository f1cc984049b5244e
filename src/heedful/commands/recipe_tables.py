"""The tables of a recipe file, after ``extends`` (another recipe's) and ``like`` (another stage's).

extends = "miniature.toml"        # beside this file; tables here are merged over its tables
[stage.ppo_seed1]
like = "ppo"                      # the settings of [stage.ppo], with these merged over them
seed = 1
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from heedful.config_file import read_toml
from heedful.errors import ConfigError


def read_recipe(path: Path | str) -> dict[str, Any]:
    """The merged tables of a recipe; ConfigError on a missing file, stage, or circle."""
    values = _extended(Path(path), ())
    stages = values.get("stage", {})
    values["stage"] = {name: _like(stages, name, str(path), ()) for name in stages}
    return values


def _extended(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    if path in above:
        raise ConfigError(f"{path} extends itself by way of {above[-1]}")
    values = read_toml(path)
    other = values.pop("extends", None)
    if other is None:
        return values
    return _merge(_extended(path.parent / other, (*above, path)), values)


def _like(stages: dict[str, Any], name: str, path: str, above: tuple[str, ...]) -> dict[str, Any]:
    if name not in stages:
        raise ConfigError(f"{path}: [stage.{above[-1]}] is like {name!r}, which does not exist")
    if name in above:
        raise ConfigError(f"{path}: the stages {', '.join(above)} are like each other in a circle")
    table = dict(stages[name])
    other = table.pop("like", None)
    if other is None:
        return table
    return _merge(_like(stages, other, path, (*above, name)), table)


def _merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """``over`` laid on ``under``: tables are merged key by key, everything else is replaced."""
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(value, dict) and isinstance(below, dict):
            value = _merge(below, value)
        merged[key] = value
    return merged
