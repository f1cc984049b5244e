"""How settings are read and written: a TOML file, overrides by ``section.key=value``, and back.

An unknown key is an error that names the nearest known one.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, cast

import tomli_w
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from heedful.errors import ConfigError


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


# A single text where a list of them is wanted is a list of one.
ONE_OR_MORE = BeforeValidator(_as_list)
Texts = Annotated[tuple[str, ...], ONE_OR_MORE]


class Input(NamedTuple):
    """What a setting names that a command reads: checked before the command begins."""

    kind: Literal[
        "demonstrations",
        "comparisons",
        "prompts",
        "text",
        "file",
        "folder",
        "tokenizer",
        "language model",
        "reward model",
    ]


Demonstrations = Annotated[Texts, Input("demonstrations")]
Comparisons = Annotated[Texts, Input("comparisons")]
Prompts = Annotated[Texts, Input("prompts")]
TextFiles = Annotated[Texts, Input("text")]
File = Annotated[str, Input("file")]
Folder = Annotated[str, Input("folder")]
TokenizerFolder = Annotated[str, Input("tokenizer")]
LanguageModel = Annotated[str, Input("language model")]
RewardModel = Annotated[str, Input("reward model")]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0.0)]


def input_of(field: FieldInfo) -> str | None:
    """The kind of what a setting names, where a command reads it; else None."""
    within = (getattr(part, "__metadata__", ()) for part in typing.get_args(field.annotation))
    parts = [*field.metadata, *(item for items in within for item in items)]
    return next((part.kind for part in parts if isinstance(part, Input)), None)


class Section(BaseModel):
    """A frozen group of settings that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Compute(Section):
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    """Where models compute: "cpu", "cuda" or, of several, "cuda:1"; "auto" takes CUDA where torch
    finds it."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Compute dtype of the model; weights keep an fp32 master copy in training (paper section 3:
    fp16 with fp32 masters). "auto" takes bfloat16 where the device is fast at it."""
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads; 0 uses all cores."""
    tokens_per_microbatch: Annotated[int, Field(ge=0)] = 0
    """Real tokens in one forward and backward pass; a batch is cut into as many as it needs. Bounds
    memory, changes nothing but where dropout falls; halved where memory runs out. 0 takes 8,192 on
    a processor and 32,768 on an accelerator."""


C = TypeVar("C", bound=Section)
Location = tuple[int | str, ...]
# Where settings come from, as errors name it, if no file gives any.
COMMAND_LINE = "the command line"
# A key shorter than this is not looked for in what the known keys mean: too much would be found.
MIN_WORD = 4
# What a setting of a type needs, by pydantic's names of the errors.
NEEDS = {
    **dict.fromkeys(("float_parsing", "float_type"), "a number"),
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float"), "a whole number"),
    **dict.fromkeys(("bool_parsing", "bool_type"), "true or false"),
    "string_type": "a text",
    # the one setting with a pattern is compute.device
    "string_pattern_mismatch": 'one of "auto", "cpu", "cuda" and, of several, "cuda:1"',
    "tuple_type": "a list",
}


def load_config(cls: type[C], path: Path | str | None, overrides: list[str] | None = None) -> C:
    """The settings of a command: defaults, then the TOML file, then ``a.b=value`` overrides.

    Raises ConfigError naming the file, or the command line for what was given there, the key and,
    for an unknown key, the nearest known one.
    """
    values: dict[str, Any] = {}
    if path is not None:
        values = read_toml(path)
    where = str(path or COMMAND_LINE)
    typed = [_set_dotted(cls, values, override) for override in overrides or []]
    return make_config(cls, values, where, typed)


def make_config(
    cls: type[C], values: dict[str, Any], where: str, typed: Sequence[Location] = ()
) -> C:
    """Validated settings from plain values; ``where`` is named in errors.

    ``typed`` are the keys that stood on the command line: of these errors say so.
    """
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(cls, error, where, typed)) from None


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

    Where a run stands, what it logs and evaluates on the way, and how much it computes at a time do
    not: a run that met the end of memory goes on with smaller micro-batches.
    """
    values = config.model_dump(mode="json", exclude={"run_dir", "log", "eval", "eval_every"})
    return without_means(values)


def without_means(values: dict[str, Any]) -> dict[str, Any]:
    """Settings of a command, as JSON values, but where and how much at a time it computes."""
    compute = values.get("compute")
    if isinstance(compute, dict):
        means = ("device", "threads", "tokens_per_microbatch")
        table = cast(dict[str, Any], compute)
        own = {name: value for name, value in table.items() if name not in means}
        values = values | {"compute": own}
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


def _set_dotted(cls: type[Section], values: dict[str, Any], override: str) -> Location:
    """Sets a value by an override; returns its key in parts."""
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"override {override!r} is not of the form section.key=value")
    *sections, last = _field_names(cls, key.split("."))
    target = values
    for section in sections:
        inner: Any = target.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"override {override!r}: {section} is a value, not a section")
        target = cast(dict[str, Any], inner)
    target[last] = _parse_value(text)
    return (*sections, last)


def _field_names(cls: type[Section], parts: list[str]) -> list[str]:
    """The parts of a key, with underscores for hyphens: but not in names that users choose."""
    names: list[str] = []
    section: Any = cls
    for part in parts:
        if section is None:
            names.append(part)
            continue
        name = part.replace("-", "_")
        names.append(name)
        field = section.model_fields.get(name)
        kind = field.annotation if field is not None else None
        section = kind if isinstance(kind, type) and issubclass(kind, Section) else None
    return names


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _explain(
    cls: type[Section], error: ValidationError, where: str, typed: Sequence[Location]
) -> str:
    """All that is wrong, after the place where it stands: the command line or ``where``."""
    lines: dict[str, list[str]] = {COMMAND_LINE: [], where: []}
    for item in error.errors():
        location = item["loc"]
        place = _place(location, where, typed)
        if item["type"] == "extra_forbidden":
            for key, line in _unknown(cls, location, item["input"]):
                lines[_place(key, where, typed)].append(line)
        elif item["type"] == "missing":
            lines[place] += _missing(cls, location, place)
        else:
            lines[place].append(_wrong_value(cls, location, item, place))
    return "; ".join(f"{place}: {'; '.join(said)}" for place, said in lines.items() if said)


def _place(location: Location, where: str, typed: Sequence[Location]) -> str:
    """Where a key stands: on the command line if it, or what it is part of, was typed there."""
    return COMMAND_LINE if any(location[: len(key)] == key for key in typed) else where


def _wrong_value(cls: type[Section], location: Location, item: ErrorDetails, where: str) -> str:
    """What is said of a value that cannot be: what is needed, what it means, and one to write."""
    needs = NEEDS.get(item["type"]) or item["msg"].replace("Input should be", "to be")
    says = f"{_joined(location)} = {item['input']!r}: it needs {needs}"
    known = next(
        (location[:end] for end in range(len(location), 0, -1) if _field_at(cls, location[:end])),
        None,
    )
    if known is None:
        return says
    field = cast(FieldInfo, _field_at(cls, known))
    default = field.default
    is_shown = isinstance(default, str | int | float) and default != item["input"]
    value = json.dumps(default) if is_shown else _example(_joined(known), field)
    means = _meaning(field)
    return f"{says}{f' ({means})' if means else ''}, such as {_to_write(known, value, where)}"


def _meaning(field: FieldInfo) -> str:
    """The first sentence of what a setting means."""
    return " ".join((field.description or "").split()).partition(". ")[0].rstrip(".")


def _to_write(location: Location, value: str, where: str) -> str:
    """How a setting is written there where it is missing or wrong; ``value`` is TOML."""
    key = _joined(location)
    if any(isinstance(part, int) for part in location):
        return f"{location[-1]} = {value}"
    if where != COMMAND_LINE:
        return f"{key} = {value}"
    plain = value.strip('"')
    is_plain = re.fullmatch(r"[\w.+-]+", plain) is not None
    return f"--{key}={plain if is_plain else repr(value)}"


def _joined(location: Location) -> str:
    return ".".join(str(part) for part in location)


def _unknown(cls: type[Section], location: Location, value: Any) -> list[tuple[Location, str]]:
    """(key, what is said of it) of a key that there is not; of a group of settings, of each key."""
    if isinstance(value, dict) and value:
        inner = cast(dict[str, Any], value)
        return [one for key in inner for one in _unknown(cls, (*location, key), inner[key])]
    section = _section_at(cls, location[:-1]) or cls
    near = _beginning_with(section, location) or _nearest(cls, location)
    hint = f"did you mean {' or '.join(map(repr, near))}?"
    if not near:
        hint = f"known keys: {', '.join(sorted(section.model_fields))}"
    return [(location, f"unknown key {_joined(location)!r}: {hint}")]


def _beginning_with(section: type[Section], location: Location) -> list[str]:
    """The keys of the same group whose first word is the unknown key: "kl" is kl_coef and more."""
    first = f"{location[-1]}_"
    return [_joined((*location[:-1], k)) for k in section.model_fields if k.startswith(first)]


def _nearest(cls: type[Section], location: Location) -> list[str]:
    """The known key that was probably meant: spelt alike, elsewhere, or meaning what it says."""
    above, name = location[:-1], str(location[-1])
    section = _section_at(cls, above)
    own: dict[str, FieldInfo] = {}
    if section is not None:
        own = {_joined((*above, key)): field for key, field in section.model_fields.items()}
    everywhere = own | dict(_leaves(cls))
    written = {key.rpartition(".")[2]: key for key in own}
    for alike in difflib.get_close_matches(name, written, n=1, cutoff=0.75):
        return [written[alike]]
    if section is None:  # the group is unknown too: its name may be what is misspelt
        for alike in difflib.get_close_matches(_joined(location), everywhere, n=1, cutoff=0.75):
            return [alike]
    meant = re.compile(rf"\b{re.escape(name.replace('_', ' '))}\b", re.IGNORECASE)
    for key in everywhere:
        if key.rpartition(".")[2] == name:
            return [key]
    for key, field in everywhere.items():
        if len(name) >= MIN_WORD and meant.search(" ".join((field.description or "").split())):
            return [key]
    for alike in difflib.get_close_matches(name, written, n=1, cutoff=0.5):
        return [written[alike]]
    return []


def _missing(cls: type[Section], location: Location, where: str) -> list[str]:
    """What is said of a key that is needed; of a group of settings, of each that it needs."""
    section = _section_at(cls, location[:-1]) or cls
    field = section.model_fields[str(location[-1])]
    group = _group_of(field.annotation)
    found = {_joined(location): field}
    if group is not None and _is_group(field.annotation):
        needed = {key: inner for key, inner in _leaves(group) if inner.is_required()}
        found = {_joined((*location, key)): inner for key, inner in needed.items()} or found
    lines: list[str] = []
    for key, inner in found.items():
        means = _meaning(inner)
        place = location if key == _joined(location) else tuple(key.split("."))
        write = _to_write(place, _example(key, inner), where)
        lines.append(f"missing key {key!r}{f' ({means})' if means else ''}: write {write}")
    return lines


def _example(key: str, field: FieldInfo) -> str:
    """A value of a setting in TOML, in capitals where it is the user's to choose."""
    kind = input_of(field)
    group = _group_of(field.annotation)
    if group is not None:
        needed = [(key, inner) for key, inner in _leaves(group) if inner.is_required()]
        table = "{ " + ", ".join(f"{key} = {_example(key, inner)}" for key, inner in needed) + " }"
        return table if _is_group(field.annotation) else f"[{table}]"
    types = list(_plain_types(field.annotation))
    if any(one is int or one is float for one in types):
        return "NUMBER"
    if bool in types:
        return "true"
    choices = [typing.get_args(one) for one in types if typing.get_origin(one) is Literal]
    if choices:
        return json.dumps(choices[0][0])
    if typing.get_origin(field.annotation) is dict:
        return '{ NAME = "TEXT" }'
    if kind in ("demonstrations", "comparisons", "prompts", "text", "file"):
        return '"FILE"'
    return '"DIR"' if kind or key == "run_dir" else '"TEXT"'


def _plain_types(annotation: Any) -> Iterator[Any]:
    """The types that a value may have: those within "| None" and without what bounds them."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        yield from _plain_types(typing.get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for one in typing.get_args(annotation):
            yield from _plain_types(one)
    else:
        yield annotation


def required_settings(cls: type[Section]) -> list[str]:
    """A line for each setting that has no default: how it is written, and what it means."""
    lines: list[str] = []
    for key, field in _leaves(cls):
        if field.is_required():
            write = _to_write(tuple(key.split(".")), _example(key, field), COMMAND_LINE)
            lines.append(f"  {write}  {_meaning(field)}")
    return lines


def _leaves(cls: type[Section], above: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every setting with its full key, those of its groups too; what is a list is one setting."""
    for key, field in cls.model_fields.items():
        group = _group_of(field.annotation)
        if group is not None and _is_group(field.annotation):
            yield from _leaves(group, f"{above}{key}.")
        else:
            yield above + key, field


def _is_group(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def _group_of(annotation: Any) -> type[Section] | None:
    """The group of settings that a field is, or that it is a list of."""
    candidates = [annotation, *typing.get_args(annotation)]
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, Section)), None)


def _field_at(cls: type[Section], location: Location) -> FieldInfo | None:
    """The setting at a place; None where there is none."""
    section = _section_at(cls, location[:-1])
    return None if section is None else section.model_fields.get(str(location[-1]))


def _section_at(cls: type[Section], location: Location) -> type[Section] | None:
    """The group of settings at a place; None where there is none."""
    section: type[Section] | None = cls
    for part in location:
        if isinstance(part, int):
            continue
        if section is None or part not in section.model_fields:
            return None
        section = _group_of(section.model_fields[part].annotation)
    return section
