"""How settings are read and written: a TOML file, overrides by ``section.key=value``, and back.

An unknown key is an error that names the nearest known one.
"""

from __future__ import annotations

import difflib
import tomllib
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from heedful.errors import ConfigError

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0.0)]


class Section(BaseModel):
    """A frozen group of settings that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


C = TypeVar("C", bound=Section)


def load_config(cls: type[C], path: Path | str | None, overrides: list[str] | None = None) -> C:
    """The settings of a command: defaults, then the TOML file, then ``a.b=value`` overrides.

    Raises ConfigError naming the file, the key and, for an unknown key, the nearest known one.
    """
    values: dict[str, Any] = {}
    if path is not None:
        values = read_toml(path)
    for override in overrides or []:
        _set_dotted(values, override)
    return make_config(cls, values, str(path or "the command line"))


def make_config(cls: type[C], values: dict[str, Any], where: str) -> C:
    """Validated settings from plain values; ``where`` is named in errors."""
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(cls, error, where)) from None


def read_toml(path: Path | str) -> dict[str, Any]:
    """The values of a TOML file; ConfigError where it is missing or broken."""
    file = Path(path)
    if not file.is_file():
        raise ConfigError(
            f"{path} does not exist: give the path of a TOML file (recipes/ has examples)"
        )
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error


def dump_toml(config: Section) -> str:
    """The resolved settings as TOML; loading it gives the same settings again."""
    return tomli_w.dumps(_without_none(config.model_dump(mode="json")))


def deciding_settings(config: Section) -> dict[str, Any]:
    """The settings that change a run's result, as JSON values.

    Where a run stands, what it logs, and how much it computes at a time do not: a run that met the
    end of memory goes on with smaller micro-batches.
    """
    values = config.model_dump(mode="json", exclude={"run_dir", "log"})
    for name in ("threads", "tokens_per_microbatch"):
        values.get("compute", {}).pop(name, None)
    return values


def changed_settings(before: Section, now: Section) -> dict[str, tuple[Any, Any]]:
    """{"optim.lr": (before, now)} of the deciding settings that differ."""
    old, new = (dict(_dotted(deciding_settings(config))) for config in (before, now))
    keys = sorted(old.keys() | new.keys())
    return {key: (old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)}


def _dotted(values: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _dotted(cast(dict[str, Any], value), f"{above}{key}.")
        else:
            yield above + key, value


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        table = cast(dict[str, Any], value)
        return {key: _without_none(item) for key, item in table.items() if item is not None}
    if isinstance(value, list):
        return [_without_none(item) for item in cast(list[Any], value)]
    return value


def _set_dotted(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"override {override!r} is not of the form section.key=value")
    *sections, last = key.split(".")
    target = values
    for section in sections:
        inner: Any = target.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"override {override!r}: {section} is a value, not a section")
        target = cast(dict[str, Any], inner)
    target[last] = _parse_value(text)


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _explain(cls: type[Section], error: ValidationError, where: str) -> str:
    lines: list[str] = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            known = _known_keys(cls, item["loc"][:-1])
            near = difflib.get_close_matches(str(item["loc"][-1]), known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
            lines.append(f"unknown key {key!r}: {hint}")
        elif item["type"] == "missing":
            lines.append(f"missing key {key!r}")
        else:
            lines.append(f"{key} = {item['input']!r}: {item['msg']}")
    return f"{where}: " + "; ".join(lines)


def _known_keys(cls: type[Section], location: tuple[int | str, ...]) -> list[str]:
    fields: dict[str, Any] = dict(cls.model_fields)
    for part in location:
        if isinstance(part, int):
            continue
        annotation = fields[part].annotation
        candidates = [annotation, *typing.get_args(annotation)]
        section = next(c for c in candidates if isinstance(c, type) and issubclass(c, Section))
        fields = dict(section.model_fields)
    return sorted(fields)
