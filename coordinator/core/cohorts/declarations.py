"""What a population declares that its devices may say of themselves, and rules held against it.

Nothing else that a device says is kept. Texts come from a list and integers from a range, so that an operator reads in
one place what can be known of a device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, TypeAlias, cast

from coordinator.core.cohorts.rule import (
    MOST_VALUES,
    Attribute,
    AttributeIn,
    AttributeIs,
    AttributeRange,
    Rule,
    attributes_of,
)
from edge_runtime.protocol.checkin import (
    ATTRIBUTE_INTEGER_LIMIT,
    MOST_ATTRIBUTES,
    AttributeValue,
    is_attribute_name,
    is_attribute_value,
)
from edge_runtime.protocol.errors import Malformed

_QUOTED: Final = 64


class Kind(StrEnum):
    TEXT = "text"
    INTEGER = "integer"
    BOOLEAN = "boolean"


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """One attribute: a text of `values`, an integer from `at_least` to `at_most`, or a boolean."""

    kind: Kind
    values: tuple[str, ...] = ()
    at_least: int = 0
    at_most: int = 0

    def fits(self, value: AttributeValue) -> bool:
        """Whether a device may say this; true is not 1, and 1 is not "1"."""
        if self.kind is Kind.BOOLEAN:
            return type(value) is bool
        if self.kind is Kind.TEXT:
            return value in self.values
        return type(value) is int and self.at_least <= value <= self.at_most


Declared: TypeAlias = Mapping[str, Declaration]

_COMPARED: Final[Mapping[type[Attribute], tuple[Kind, str]]] = {
    AttributeIn: (Kind.TEXT, "`in`"),
    AttributeIs: (Kind.BOOLEAN, "`is`"),
    AttributeRange: (Kind.INTEGER, "bounds"),
}
_KEYS: Final[Mapping[Kind, frozenset[str]]] = {
    Kind.TEXT: frozenset({"type", "values"}),
    Kind.INTEGER: frozenset({"type", "at_least", "at_most"}),
    Kind.BOOLEAN: frozenset({"type"}),
}


def check_rule(rule: Rule, declared: Declared) -> None:
    """Return if a rule asks for nothing but what a population declares.

    Raises:
        Malformed: It does; the sentence names the place in the rule, and the fix.
    """
    for path, condition in attributes_of(rule.where):
        declaration = declared.get(condition.name)
        if declaration is None:
            names = ", ".join(sorted(declared)) or "none"
            raise Malformed(
                f"{path}.name: the population declares no attribute {condition.name!r}; declare it, or write one of "
                f"those that are: {names}"
            )
        kind, way = _COMPARED[type(condition)]
        if declaration.kind is not kind:
            right = next(way for kind, way in _COMPARED.values() if kind is declaration.kind)
            raise Malformed(f"{path}: {condition.name} is declared as {declaration.kind}; write {right}, not {way}")
        if isinstance(condition, AttributeIn):
            for value in condition.values:
                if not declaration.fits(value):
                    raise Malformed(
                        f"{path}.in: {value!r} is not declared for {condition.name}; declare it, or write one of "
                        f"{_listed(declaration.values)}"
                    )


def read_declared(tree: object) -> dict[str, Declaration]:
    """Read what a population declares from a tree of JSON; null declares nothing.

    Raises:
        Malformed: It is not a declaration; the sentence names the place and the fix.
    """
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise Malformed("attributes: this is no object; write one with a declaration by name")
    if len(tree) > MOST_ATTRIBUTES:
        raise Malformed(f"attributes: {len(tree)} are declared; leave at most {MOST_ATTRIBUTES}")
    return {name: _declaration(name, one) for name, one in tree.items()}


def declared_tree(declared: Declared) -> dict[str, Any]:
    """Declarations as JSON has them."""
    return {name: _declaration_tree(one) for name, one in declared.items()}


def _declaration_tree(one: Declaration) -> dict[str, Any]:
    if one.kind is Kind.TEXT:
        return {"type": "text", "values": list(one.values)}
    if one.kind is Kind.INTEGER:
        return {"type": "integer", "at_least": one.at_least, "at_most": one.at_most}
    return {"type": "boolean"}


def _declaration(name: str, tree: object) -> Declaration:
    path = f"attributes.{name[:_QUOTED]}"
    if not is_attribute_name(name):
        raise Malformed(f"{path}: this is no name of an attribute; write 1 to 32 of a-z 0-9 _, a letter first")
    if not isinstance(tree, dict) or tree.get("type") not in list(Kind):
        raise Malformed(f'{path}.type: write {{"type": "text"}}, "integer" or "boolean"')
    kind = Kind(tree["type"])
    if set(tree) != _KEYS[kind]:
        raise Malformed(f"{path}: a declaration of type {kind} has the keys {', '.join(sorted(_KEYS[kind]))}")
    if kind is Kind.TEXT:
        return Declaration(kind=kind, values=_values(tree["values"], f"{path}.values"))
    if kind is Kind.BOOLEAN:
        return Declaration(kind=kind)
    low, high = tree["at_least"], tree["at_most"]
    for bound in (low, high):
        if type(bound) is not int or abs(bound) >= ATTRIBUTE_INTEGER_LIMIT:
            raise Malformed(f"{path}: at_least and at_most are whole numbers below 2^53 in size; write both")
    if low > high:
        raise Malformed(f"{path}: at_least {low} is above at_most {high}; swap them")
    return Declaration(kind=kind, at_least=low, at_most=high)


def _values(tree: object, path: str) -> tuple[str, ...]:
    if not isinstance(tree, list) or not 1 <= len(tree) <= MOST_VALUES:
        raise Malformed(f"{path}: this is no list of 1 to {MOST_VALUES} texts; write all that a device may say")
    for index, text in enumerate(tree):
        if not isinstance(text, str) or not is_attribute_value(text):
            raise Malformed(f"{path}[{index}]: this is no text of 1 to 64 printable characters; change it")
    return tuple(sorted(set(cast("list[str]", tree))))


def _listed(values: tuple[str, ...]) -> str:
    shown = ", ".join(map(repr, values[:8]))
    return shown if len(values) <= 8 else f"{shown} and {len(values) - 8} more"
