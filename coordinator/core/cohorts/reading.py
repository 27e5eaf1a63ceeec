"""A cohort's rule from JSON. Every mistake is one sentence that names the place in the rule, and the fix."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeVar, cast

from coordinator.core.cohorts.rule import (
    BOUNDS,
    BUCKETS,
    MOST_CONDITIONS,
    MOST_DEPTH,
    MOST_DEVICES,
    MOST_VALUES,
    And,
    AppVersion,
    AttributeIn,
    AttributeIs,
    AttributeRange,
    Bucket,
    Condition,
    Field,
    Not,
    OneOf,
    Or,
    Rule,
)
from coordinator.core.cohorts.versions import version_key
from edge_runtime.protocol import wire
from edge_runtime.protocol.checkin import ATTRIBUTE_INTEGER_LIMIT, is_attribute_name
from edge_runtime.protocol.enrolment import is_label
from edge_runtime.protocol.errors import Malformed
from edge_runtime.protocol.keys import is_id

Bound = TypeVar("Bound", int, str)

_QUOTED: Final = 64
_LOWER, _UPPER = BOUNDS[:2], BOUNDS[2:]


def read_rule(raw: bytes) -> Rule:
    """Read a rule from JSON.

    Raises:
        Malformed: It is not one; the sentence names the place and the fix.
    """
    return rule_of(wire.json_tree(raw))


def rule_of(tree: object) -> Rule:
    """Read a rule from a tree of JSON; lists come out sorted and without repetitions.

    Raises:
        Malformed: As `read_rule`.
    """
    top = _object(tree, "rule", ("version", "where"), ("include", "exclude"))
    if type(top["version"]) is not int or top["version"] != 1:
        raise Malformed(f"rule.version: {_quoted(top['version'])} is not spoken here; write 1")
    return Rule(
        where=_Reader().condition(top["where"], "rule.where", 1),
        include=_devices(top.get("include", []), "rule.include"),
        exclude=_devices(top.get("exclude", []), "rule.exclude"),
    )


class _Reader:
    """Reads conditions, and counts them."""

    def __init__(self) -> None:
        self._left = MOST_CONDITIONS

    def condition(self, tree: object, path: str, depth: int) -> Condition:
        self._left -= 1
        if self._left < 0:
            raise Malformed(f"{path}: a rule has at most {MOST_CONDITIONS} conditions; join texts in one list")
        if depth > MOST_DEPTH:
            raise Malformed(f"{path}: conditions lie at most {MOST_DEPTH} deep; make the rule flatter")
        if not isinstance(tree, dict) or len(tree) != 1:
            raise Malformed(f"{path}: a condition is an object with one key; write one of {_KEYS}")
        ((key, value),) = tree.items()
        below = f"{path}.{key[:_QUOTED]}"
        if key in ("and", "or"):
            parts = self._parts(value, below, depth)
            return And(parts=parts) if key == "and" else Or(parts=parts)
        if key == "not":
            return Not(part=self.condition(value, below, depth + 1))
        if key not in _LEAVES:
            raise Malformed(f"{path}: {_quoted(key)} is no condition; write one of {_KEYS}")
        return _LEAVES[key](value, below)

    def _parts(self, tree: object, path: str, depth: int) -> tuple[Condition, ...]:
        if not isinstance(tree, list):
            raise Malformed(f"{path}: {_quoted(tree)} is no list; write a list of conditions")
        return tuple(self.condition(part, f"{path}[{index}]", depth + 1) for index, part in enumerate(tree))


def _app_version(tree: object, path: str) -> AppVersion:
    bounds = _bounds(_object(tree, path, (), BOUNDS), path, str)
    for name, text in bounds.items():
        if not version_key(text):
            raise Malformed(f"{path}.{name}: {_quoted(text)} is not a version; write it like 2.4 or 2.5.0-beta.1")
    _not_empty(bounds, path, version_key)
    return AppVersion(**bounds)


def _attribute(tree: object, path: str) -> AttributeIn | AttributeIs | AttributeRange:
    found = _object(tree, path, ("name",), ("in", "is", *BOUNDS))
    name, rest = found["name"], {key: value for key, value in found.items() if key != "name"}
    if not isinstance(name, str) or not is_attribute_name(name):
        raise Malformed(f"{path}.name: {_quoted(name)} names no attribute; write 1 to 32 of a-z 0-9 _, a letter first")
    if set(rest) == {"in"}:
        return AttributeIn(name=name, values=_texts(rest["in"], f"{path}.in"))
    if set(rest) == {"is"}:
        if type(rest["is"]) is not bool:
            raise Malformed(f"{path}.is: {_quoted(rest['is'])} is no boolean; write true or false, or `in` for texts")
        return AttributeIs(name=name, value=rest["is"])
    if "in" in rest or "is" in rest:
        raise Malformed(f"{path}: compared in two ways; write `in`, `is` or bounds, and join conditions with `and`")
    bounds = _bounds(rest, path, int)
    for bound, number in bounds.items():
        if abs(number) >= ATTRIBUTE_INTEGER_LIMIT:
            raise Malformed(f"{path}.{bound}: {_quoted(number)} is too large; write a number below 2^53 in size")
    _not_empty(bounds, path, int)
    return AttributeRange(name=name, **bounds)


def _bucket(tree: object, path: str) -> Bucket:
    found = _object(tree, path, ("salt", "from", "to"), ())
    salt, start, end = found["salt"], found["from"], found["to"]
    if not isinstance(salt, str) or not is_label(salt):
        raise Malformed(f"{path}.salt: {_quoted(salt)} is no salt; write 1 to 128 printable characters")
    for name, number in (("from", start), ("to", end)):
        if type(number) is not int or not 0 <= number <= BUCKETS:
            raise Malformed(f"{path}.{name}: {_quoted(number)} is no bucket; write 0 to {BUCKETS}, 1000 a percent")
    if not cast(int, start) < cast(int, end):
        raise Malformed(f"{path}: from {start} to {end} holds nobody; write a `to` above `from`, which it leaves out")
    return Bucket(salt=salt, start=cast(int, start), end=cast(int, end))


def _one_of(field: Field) -> Callable[[object, str], OneOf]:
    return lambda tree, path: OneOf(field=field, values=_texts(tree, path))


_LEAVES: Final[Mapping[str, Callable[[object, str], Condition]]] = {
    **{field.value: _one_of(field) for field in Field},
    "app_version": _app_version,
    "attribute": _attribute,
    "bucket": _bucket,
}
_KEYS: Final = ", ".join(sorted((*_LEAVES, "and", "or", "not")))


def _object(tree: object, path: str, wanted: tuple[str, ...], allowed: tuple[str, ...]) -> dict[str, object]:
    if not isinstance(tree, dict):
        raise Malformed(f"{path}: {_quoted(tree)} is no object; write {{…}} with {', '.join((*wanted, *allowed))}")
    for key in tree:
        if key not in wanted and key not in allowed:
            raise Malformed(f"{path}: {_quoted(key)} is not known here; write {', '.join((*wanted, *allowed))}")
    for key in wanted:
        if key not in tree:
            raise Malformed(f"{path}: {key} is missing; add it")
    return cast("dict[str, object]", tree)


def _bounds(found: Mapping[str, object], path: str, kind: type[Bound]) -> dict[str, Bound]:
    for name, value in found.items():
        if type(value) is not kind:
            what = "a whole number" if kind is int else "text"
            raise Malformed(f"{path}.{name}: {_quoted(value)} is not {what}; write {what}")
    for pair in (_LOWER, _UPPER):
        if all(name in found for name in pair):
            raise Malformed(f"{path}: both {pair[0]} and {pair[1]} bound the same side; leave one out")
    if not found:
        raise Malformed(
            f"{path}: nothing is compared; write one of {', '.join(BOUNDS)} (or of an attribute `in`, `is`)"
        )
    return cast("dict[str, Bound]", dict(found))


def _not_empty(bounds: Mapping[str, Bound], path: str, key: Callable[[Bound], object]) -> None:
    lower = next((name for name in _LOWER if name in bounds), None)
    upper = next((name for name in _UPPER if name in bounds), None)
    if lower is None or upper is None:
        return
    low, high = cast(int, key(bounds[lower])), cast(int, key(bounds[upper]))
    if low > high or (low == high and (lower, upper) != ("at_least", "at_most")):
        raise Malformed(f"{path}: nothing is {lower} {bounds[lower]} and {upper} {bounds[upper]}; swap or change them")


def _texts(tree: object, path: str) -> tuple[str, ...]:
    if not isinstance(tree, list) or not 1 <= len(tree) <= MOST_VALUES:
        raise Malformed(f'{path}: {_quoted(tree)} is no list of 1 to {MOST_VALUES} texts; write ["…"]')
    for index, text in enumerate(tree):
        if not isinstance(text, str) or not is_label(text):
            raise Malformed(f"{path}[{index}]: {_quoted(text)} is no text of 1 to 128 printable characters; change it")
    return tuple(sorted(set(tree)))


def _devices(tree: object, path: str) -> tuple[str, ...]:
    if not isinstance(tree, list) or len(tree) > MOST_DEVICES:
        raise Malformed(f"{path}: this is no list of at most {MOST_DEVICES} device ids; use conditions for more")
    for index, device in enumerate(tree):
        if not isinstance(device, str) or not is_id(device):
            raise Malformed(f"{path}[{index}]: {_quoted(device)} is no device id; write 32 hex digits")
    return tuple(sorted(set(tree)))


def _quoted(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _QUOTED else text[: _QUOTED - 1] + "…"
