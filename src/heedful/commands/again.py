"""The command line that does again what settings say: written beside results, shown in reports."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from typing import Any

from heedful.config import Section

_BARE = re.compile(r"[\w-]+")


def command_of(name: str, config: Section) -> str:
    """``heed <name>`` with every setting that is not at its default, quoted for a shell."""
    given = config.model_dump(mode="json", exclude_defaults=True)
    words = [f"--{key}={value}" for key, value in _settings(given)]
    return shlex.join(["heed", *name.split(), *words])


def _settings(values: dict[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """("a.b", value as TOML) of every setting; names that are no bare keys stand in a table."""
    for key, value in values.items():
        if isinstance(value, dict) and value and all(map(_BARE.fullmatch, value)):
            yield from _settings(value, f"{above}{key}.")
        elif value is not None:
            yield above + key, value if isinstance(value, str) else _toml(value)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        pairs = (f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items())
        return f"{{ {', '.join(pairs)} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False)
