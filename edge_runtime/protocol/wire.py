"""Strict JSON for control messages: one encoding for each dataclass, taken from its type annotations.

Encoding is canonical (sorted keys, no spaces, shortest round-trip floats), so that equal values have equal bytes.
Decoding refuses what it does not know: unknown, missing or repeated keys, wrong types, NaN, infinity, integers beyond
64 bits, text that is not Unicode, base64 in a second spelling, trailing bytes.

A message class that speaks several versions says so: `VERSION` is the newest, `OLDEST` the oldest, and `ADDED` names
the version that brought a field. A message of an earlier version is written and read without that field, which then
has its default: so its bytes never change.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import enum
import functools
import json
import math
import types
import typing
from collections.abc import Callable
from typing import Any, TypeVar

from edge_runtime.protocol.errors import Malformed, UnsupportedVersion

MESSAGE_LIMIT_BYTES = 1 << 20
"""No control message is larger."""

INTEGER_LIMIT = 1 << 63
"""Integers are below it in size: what every language and every database holds."""

_QUOTED_CHARACTERS = 64

Message = TypeVar("Message")

_UNIONS = (types.UnionType, typing.Union)

_Reader = Callable[[object, str], object]
"""From a tree of JSON, and where it stands, a value of one type."""


def encode(message: object) -> bytes:
    """Write a message dataclass as canonical JSON."""
    return json.dumps(_plain(message), sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def decode(kind: type[Message], raw: bytes) -> Message:
    """Read a message dataclass from JSON.

    Raises:
        Malformed: The bytes are not exactly one message of this kind.
        UnsupportedVersion: The message has a `version` that `kind` does not speak.
    """
    tree = json_tree(raw)
    _check_version(kind, tree)
    return typing.cast(Message, _built(kind, tree, kind.__name__))


def json_tree(raw: bytes) -> object:
    """Read JSON, as strictly as `decode`, for what is not of one dataclass.

    Raises:
        Malformed: It is too long, not UTF-8 or not JSON, or repeats a key.
    """
    if len(raw) > MESSAGE_LIMIT_BYTES:
        raise Malformed(f"a message of {len(raw)} bytes is over the limit of {MESSAGE_LIMIT_BYTES}")
    try:
        return _JSON.decode(raw.decode("utf-8"))
    except (ValueError, RecursionError) as problem:
        raise Malformed(f"not JSON: {problem}") from None


def require(condition: bool, sentence: str) -> None:
    """Raise `Malformed` unless the condition holds; for `__post_init__` of message dataclasses."""
    if not condition:
        raise Malformed(sentence)


def fits_version(message: Any) -> bool:
    """Whether every field that a later version brought has its default: else the message could not be written."""
    return all(
        getattr(message, name) == default for name, default in _later(typing.cast(Any, type(message)), message.version)
    )


@functools.cache
def _later(kind: Any, version: int) -> tuple[tuple[str, object], ...]:
    """The fields that later versions brought, with their defaults."""
    later = {name for name, since in _added(kind).items() if since > version}
    return tuple((f.name, f.default) for f in dataclasses.fields(kind) if f.name in later)


def _check_version(kind: type, tree: object) -> None:
    newest = getattr(kind, "VERSION", None)
    if newest is None or not isinstance(tree, dict) or "version" not in tree:
        return
    version = typing.cast(int, _scalar(int, tree["version"], f"{kind.__name__}.version"))
    oldest = getattr(kind, "OLDEST", newest)
    if not oldest <= version <= newest:
        spoken = newest if oldest == newest else f"{oldest} to {newest}"
        raise UnsupportedVersion(f"{kind.__name__} version {version}; spoken here: {spoken}")


def _added(kind: type) -> typing.Mapping[str, int]:
    """The fields that a later version brought, and which."""
    found: typing.Mapping[str, int] = getattr(kind, "ADDED", {})
    return found


@functools.cache
def _names(kind: Any, version: int | None) -> frozenset[str]:
    """The fields that a message of this version has."""
    added = _added(kind)
    return frozenset(f.name for f in dataclasses.fields(kind) if version is None or added.get(f.name, 0) <= version)


def _version_of(version: object) -> int | None:
    return version if isinstance(version, int) else None


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    tree = dict(pairs)
    if len(tree) != len(pairs):
        raise ValueError("a key is repeated")
    return tree


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not allowed")


_JSON = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)


def _plain(value: object) -> object:
    kind = type(value)
    if kind in _AS_THEY_ARE:
        return value
    if dataclasses.is_dataclass(kind):
        written = _written(kind, _version_of(getattr(value, "version", None)))
        return {name: (_floating if floats else _plain)(getattr(value, name)) for name, floats in written}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return value


_AS_THEY_ARE = frozenset({str, int, float, bool, types.NoneType})


def _floating(value: object) -> object:
    """Write a float that was given as an integer as a float: equal values have equal bytes."""
    if isinstance(value, tuple):
        return [_one_floating(item) for item in value]
    return _one_floating(value)


def _one_floating(value: object) -> object:
    return float(value) if type(value) is int else _plain(value)


@functools.cache
def _written(kind: Any, version: int | None) -> tuple[tuple[str, bool], ...]:
    """The fields that a message of this version has, and whether they hold floats; asking each time takes longest."""
    hints, names = _hints(kind), _names(kind, version)
    return tuple(
        (f.name, hints[f.name] is float or float in typing.get_args(hints[f.name]))
        for f in dataclasses.fields(kind)
        if f.name in names
    )


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _built(kind: Any, tree: object, where: str) -> object:
    return _reader(kind)(tree, where)


@functools.cache
def _reader(kind: Any) -> _Reader:
    """What reads this type; asking a type what it is takes longer than reading a value of it."""
    origin = typing.get_origin(kind)
    if origin in _UNIONS:
        return _union(kind)
    if origin is tuple:
        return functools.partial(_sequence, kind)
    if origin is dict:
        return functools.partial(_mapping, kind)
    if dataclasses.is_dataclass(kind):
        return functools.partial(_object, kind)
    return functools.partial(_scalar, kind)


def _union(kind: Any) -> _Reader:
    """Something or null; or one of several scalars, told apart by their JSON types."""
    arms = [arm for arm in typing.get_args(kind) if arm is not type(None)]
    nullable, only = len(arms) < len(typing.get_args(kind)), _reader(arms[0]) if len(arms) == 1 else None

    def read(tree: object, where: str) -> object:
        if tree is None and nullable:
            return None
        if only is not None:
            return only(tree, where)
        if type(tree) not in arms:
            raise Malformed(f"{where} is not of type {' or '.join(arm.__name__ for arm in arms)}")
        return _scalar(type(tree), tree, where)

    return read


def _sequence(kind: Any, tree: object, where: str) -> object:
    inner, _ellipsis = typing.get_args(kind)
    if not isinstance(tree, list):
        raise Malformed(f"{where} is not a list")
    return tuple(_built(inner, item, f"{where}[{index}]") for index, item in enumerate(tree))


def _mapping(kind: Any, tree: object, where: str) -> object:
    _key, inner = typing.get_args(kind)
    if not isinstance(tree, dict):
        raise Malformed(f"{where} is not an object")
    return {
        _text(key, where): _built(inner, item, f"{where}[{key[:_QUOTED_CHARACTERS]!r}]") for key, item in tree.items()
    }


def _object(kind: Any, tree: object, where: str) -> object:
    if not isinstance(tree, dict):
        raise Malformed(f"{where} is not an object")
    names = _names(kind, _version_of(tree.get("version")))
    if tree.keys() != names:
        if unknown := sorted(set(tree) - names):
            raise Malformed(f"{where} has an unknown key {unknown[0][:_QUOTED_CHARACTERS]!r}")
        raise Malformed(f"{where} lacks the key {min(names - set(tree))!r}")
    values = {}
    for name, text, read, suffix in _fields(kind, names):
        value = tree[name]
        # Most of a message is text that needs no reader; asking one costs more than the answer.
        plain = text and type(value) is str and value.isascii()
        values[name] = value if plain else read(value, where + suffix)
    return kind(**values)


@functools.cache
def _fields(kind: Any, names: frozenset[str]) -> tuple[tuple[str, bool, _Reader, str], ...]:
    """Each field: whether it may be text, what reads it, and how it is called behind the name of the object."""
    hints = _hints(kind)
    return tuple(
        (name, str in (hints[name], *_arms(hints[name])), _reader(hints[name]), f".{name}") for name in sorted(names)
    )


def _arms(kind: Any) -> tuple[Any, ...]:
    """The types of a union; none of any other."""
    return typing.get_args(kind) if typing.get_origin(kind) in _UNIONS else ()


def _scalar(kind: Any, tree: object, where: str) -> object:
    if kind is float and type(tree) in (int, float):
        return _finite(typing.cast(float, tree), where)
    if kind is bytes and isinstance(tree, str):
        return _bytes(tree, where)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        try:
            return kind(tree)
        except ValueError:
            raise Malformed(f"{where} is not one of {[member.value for member in kind]}") from None
    if kind is str and isinstance(tree, str):
        return _text(tree, where)
    if kind is int and type(tree) is int:
        require(-INTEGER_LIMIT < tree < INTEGER_LIMIT, f"{where} does not fit 64 bits")
        return tree
    if kind is bool and type(tree) is bool:
        return tree
    raise Malformed(f"{where} is not of type {getattr(kind, '__name__', kind)}")


def _bytes(text: str, where: str) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Malformed(f"{where} is not base64") from None
    require(base64.b64encode(raw).decode() == text, f"{where} is not base64 in its one spelling")
    return raw


def _text(text: str, where: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Malformed(f"{where} has half a surrogate pair") from None
    return text


def _finite(number: float, where: str) -> float:
    try:
        value = float(number)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise Malformed(f"{where} is not a finite number")
    return value
