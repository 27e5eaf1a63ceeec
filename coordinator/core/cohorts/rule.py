"""A cohort's rule as a value, and its one encoding."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias

MOST_DEPTH: Final = 8
"""Conditions within conditions."""
MOST_CONDITIONS: Final = 256
MOST_VALUES: Final = 256
"""Of one list of texts."""
MOST_DEVICES: Final = 10_000
"""To include, and to exclude."""
BUCKETS: Final = 100_000
"""Parts of a hundred thousand: 1,000 of them are one percent."""


class Field(StrEnum):
    """What a device says of itself as text."""

    PLATFORM = "platform"
    APP = "app"
    REGION = "region"
    HARDWARE_CLASS = "hardware_class"


@dataclass(frozen=True, slots=True, kw_only=True)
class OneOf:
    """The field is one of these texts, character by character."""

    field: Field
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AppVersion:
    """The app's version lies between these, in the order of `versions`; None is no bound."""

    at_least: str | None = None
    above: str | None = None
    at_most: str | None = None
    below: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributeIn:
    """The attribute is a text, and one of these."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributeIs:
    """The attribute is a boolean, and this one."""

    name: str
    value: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributeRange:
    """The attribute is an integer, and lies between these; None is no bound."""

    name: str
    at_least: int | None = None
    above: int | None = None
    at_most: int | None = None
    below: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """The device's bucket under this salt is one of `start` up to, and without, `end`."""

    salt: str
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class And:
    """Every part holds; of no parts, always."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Or:
    """A part holds; of no parts, never."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Not:
    part: Condition


Attribute: TypeAlias = AttributeIn | AttributeIs | AttributeRange
Condition: TypeAlias = OneOf | AppVersion | Attribute | Bucket | And | Or | Not

EVERYONE: Final = And(parts=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Who is in a cohort: nobody of `exclude`; of all others, who is in `include`, and who fits `where`."""

    where: Condition = EVERYONE
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


BOUNDS: Final = ("at_least", "above", "at_most", "below")


def attributes_of(condition: Condition, path: str = "rule.where") -> Iterator[tuple[str, Attribute]]:
    """Every condition on an attribute, with where it stands."""
    match condition:
        case AttributeIn() | AttributeIs() | AttributeRange():
            yield f"{path}.attribute", condition
        case And(parts=parts) | Or(parts=parts):
            name = "and" if isinstance(condition, And) else "or"
            for index, part in enumerate(parts):
                yield from attributes_of(part, f"{path}.{name}[{index}]")
        case Not(part=part):
            yield from attributes_of(part, f"{path}.not")


def rule_tree(rule: Rule) -> dict[str, object]:
    """A rule as JSON has it."""
    return {
        "version": 1,
        "where": _tree(rule.where),
        "include": list(rule.include),
        "exclude": list(rule.exclude),
    }


def encode_rule(rule: Rule) -> bytes:
    """A rule as canonical JSON: equal rules have equal bytes."""
    return json.dumps(rule_tree(rule), sort_keys=True, separators=(",", ":")).encode()


def _tree(condition: Condition) -> dict[str, object]:
    match condition:
        case OneOf(field=field, values=values):
            return {field.value: list(values)}
        case AppVersion():
            return {"app_version": _bounds(condition)}
        case AttributeIn(name=name, values=values):
            return {"attribute": {"name": name, "in": list(values)}}
        case AttributeIs(name=name, value=value):
            return {"attribute": {"name": name, "is": value}}
        case AttributeRange(name=name):
            return {"attribute": {"name": name, **_bounds(condition)}}
        case Bucket(salt=salt, start=start, end=end):
            return {"bucket": {"salt": salt, "from": start, "to": end}}
        case And(parts=parts):
            return {"and": [_tree(part) for part in parts]}
        case Or(parts=parts):
            return {"or": [_tree(part) for part in parts]}
        case Not(part=part):
            return {"not": _tree(part)}


def _bounds(condition: AppVersion | AttributeRange) -> dict[str, object]:
    return {name: getattr(condition, name) for name in BOUNDS if getattr(condition, name) is not None}
