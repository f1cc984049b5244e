"""docs/config.md from the settings models.

python -m heedful.commands.document_config > docs/config.md
"""

from __future__ import annotations

import importlib
import json
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from heedful.commands.table import COMMANDS
from heedful.config import Section

HEAD = """\
# Settings

<!-- Made from config.py: python -m heedful.commands.document_config > docs/config.md -->

Every command takes a TOML file of the settings below, and `--section.key=value` for any of them,
which wins over the file. An unknown key is an error that names the nearest known one. `--dry-run`
prints the resolved settings, the numbers that follow from them, and stops; a run keeps its resolved
settings in `run_dir/config.toml` (`heed eval` in `run_dir/eval/`, and `heed measure` in
`run_dir/measure/` where the directory is another command's). A stage of a recipe (`heed run`) has
the same settings, except `run_dir`, which the recipe gives. Where a default comes from the paper
(Ouyang et al. 2022), the section or appendix stands behind it.
"""


def document() -> str:
    """The whole page: a table per command, then one per group of settings that commands share."""
    configs = importlib.import_module("heedful.config")
    commands = [getattr(configs, command.config) for command in COMMANDS.values()]
    parts = [HEAD]
    parts += [_page(model, _text(model)) for model in commands]
    parts.append("# Groups\n")
    groups: dict[str, type[Section]] = {}
    for model in commands:
        groups |= {group.__name__: group for group in _groups(model)}
    for name, model in groups.items():
        users = sorted(_command_name(other) for other in commands if model in [*_groups(other)])
        parts.append(_page(model, f"In {', '.join(f'`{user}`' for user in users)}.", name))
    return "\n".join(parts).rstrip() + "\n"


def _command_name(model: type[Section]) -> str:
    names = [name for name, command in COMMANDS.items() if command.config == model.__name__]
    return f"heed {names[0]}"


def _text(model: type[Section]) -> str:
    """What a command does: its docstring after "heed <name>:"."""
    text = " ".join((model.__doc__ or "").split())
    says = text.partition(": ")[2]
    return says[:1].upper() + says[1:]


def _page(model: type[Section], text: str, name: str | None = None) -> str:
    lines = [f"## {name or _command_name(model)}", "", text, ""]
    lines += ["| setting | value | default | meaning |", "|---|---|---|---|"]
    for key, field in model.model_fields.items():
        meaning = " ".join((field.description or "").split()).replace("|", "\\|")
        group = _group_of(field.annotation)
        if group is not None and not meaning:
            meaning = f"See [{group.__name__}](#{group.__name__.lower()})."
        lines.append(f"| `{key}` | {_kind(field)} | {_default(field)} | {meaning} |")
    return "\n".join([*lines, ""])


def _groups(model: type[Section]) -> Iterator[type[Section]]:
    """The groups that a model holds, in their order."""
    for field in model.model_fields.values():
        group = _group_of(field.annotation)
        if group is not None:
            yield group


def _group_of(annotation: Any) -> type[Section] | None:
    """The group that a field holds, or that it is a list of."""
    for part in (annotation, *get_args(annotation)):
        if isinstance(part, type) and issubclass(part, Section):
            return part
    return None


def _kind(field: FieldInfo) -> str:
    """What may be written: a type in words, with its bounds, or the choices."""
    bounds = {}
    for item in field.metadata:
        bounds |= {n: getattr(item, n) for n in ("ge", "gt", "le", "lt") if hasattr(item, n)}
    return _name(field.annotation) + _bounds(bounds)


def _name(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    group = _group_of(annotation)
    if origin is typing.Annotated:
        return _name(arguments[0])
    if origin is Literal:
        return ", ".join(f"`{json.dumps(choice)}`" for choice in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_name(part) for part in arguments if part is not type(None))
    if origin is tuple:
        many = arguments[-1] is Ellipsis
        if group is not None:
            return f"list of [{group.__name__}](#{group.__name__.lower()})"
        return f"list of {_name(arguments[0])}" if many else f"{len(arguments)} numbers"
    if origin is dict:
        return "table of names and texts"
    if group is not None:
        return "group"
    return {int: "whole number", float: "number", str: "text", bool: "`true`, `false`"}[annotation]


def _bounds(bounds: dict[str, Any]) -> str:
    if "ge" in bounds and "le" in bounds:
        return f", {bounds['ge']:g} to {bounds['le']:g}"
    signs = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    return "".join(f", {signs[name]} {value:g}" for name, value in bounds.items())


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.default
    if value is None or isinstance(value, Section):
        return ""
    return f"`{json.dumps(value)}`"


if __name__ == "__main__":
    print(document(), end="")
