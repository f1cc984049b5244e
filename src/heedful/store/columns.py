"""What tables are made of: columns of few kinds, and names for all constraints."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Integer,
    MetaData,
    Table,
    Text,
)

# Names for all constraints, so that a migration can name the one that it drops.
metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)
Id = BigInteger().with_variant(Integer, "sqlite")


def table(name: str, *parts: Any) -> Table:
    """A table with a key of its own choice."""
    return Table(name, metadata, *parts)


def numbered(name: str, *parts: Any) -> Table:
    """A table with a number as its key; SQLite would else use a deleted row's number again."""
    key = Column("id", Id, primary_key=True)
    return Table(name, metadata, key, *parts, sqlite_autoincrement=True)


def to(
    target: str, *, key: bool = False, optional: bool = False, index: bool = False
) -> Column[int]:
    """A column that points to another table: ``prompts`` gives ``prompt_id``."""
    name, key_of = f"{target.removesuffix('s')}_id", ForeignKey(f"{target}.id")
    return Column(name, Id, key_of, primary_key=key, nullable=optional, index=index)


def one_of(column: str, *values: str) -> CheckConstraint:
    """The rule that a column holds one of these texts."""
    return CheckConstraint(f"{column} IN ({', '.join(repr(value) for value in values)})", column)


def text(name: str, *, optional: bool = False, **options: Any) -> Column[str]:
    """A text."""
    return Column(name, Text, nullable=optional, **options)


def at(name: str, *, optional: bool = False) -> Column[float]:
    """A time, in seconds since 1970 (UTC)."""
    return Column(name, Double, nullable=optional)


def json(name: str, *, optional: bool = False) -> Column[Any]:
    """An object or a list; None is NULL, not JSON's null."""
    return Column(name, JSON(none_as_null=True), nullable=optional)


def number(name: str, **options: Any) -> Column[int]:
    """A count or a place."""
    return Column(name, Integer, nullable=False, **options)


def flag(name: str) -> Column[bool]:
    """A yes or a no."""
    return Column(name, Boolean, nullable=False)
