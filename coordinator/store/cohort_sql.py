"""A cohort's rule as a condition on the table of devices, with the result of `core.cohorts.evaluation`.

SQL has three truth values and the rules have two. So no condition here is ever NULL: each comparison becomes false
where it would be NULL, before anything is joined or negated. Text is compared by its bytes, whatever the database's
locale. Attributes are compared with their JSON types: true is not 1, and 1 is not "1".
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
    LargeBinary,
    Text,
    and_,
    bindparam,
    false,
    func,
    not_,
    or_,
    true,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlmodel import col

from coordinator.core.cohorts.evaluation import BUCKET_BYTES, bucket_key_of, whole_bounds
from coordinator.core.cohorts.rule import (
    BUCKETS,
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
from coordinator.store.sqlite_functions import SQLITE_BUCKET
from coordinator.store.tables import Device

_FIELDS: dict[Field, Any] = {
    Field.PLATFORM: col(Device.platform),
    Field.APP: col(Device.app),
    Field.REGION: col(Device.region),
    Field.HARDWARE_CLASS: col(Device.hardware_class),
}


def matching(rule: Rule, bucket_key: bytes) -> ColumnElement[bool]:
    """The devices of a cohort, among those of its population, which whoever asks names.

    Never NULL.

    Args:
        bucket_key: The population's, of 32 bytes.
    """
    where = _condition(rule.where, bucket_key)
    if rule.include:
        where = or_(listed(rule.include), where)
    return and_(not_(listed(rule.exclude)), where) if rule.exclude else where


def listed(devices: tuple[str, ...]) -> ColumnElement[bool]:
    """The devices with these ids."""
    return col(Device.id).in_(devices)


def _condition(condition: Condition, bucket_key: bytes) -> ColumnElement[bool]:
    """Never NULL, so that `not` is what it is in Python."""
    match condition:
        case OneOf(field=field, values=values):
            return _known(_bytewise(_FIELDS[field]).in_(values))
        case AppVersion():
            return _version_between(condition)
        case AttributeIn(name=name, values=values):
            return _known(_bytewise(_attribute(_AttributeText, name)).in_(values))
        case AttributeIs(name=name, value=value):
            return _attribute(_AttributeFlag, name).is_(value)
        case AttributeRange(name=name):
            return _integer_between(condition, _attribute(_AttributeInteger, name))
        case Bucket(salt=salt, start=start, end=end):
            key = bindparam(None, bucket_key_of(bucket_key, salt), LargeBinary)
            return _BucketOf(col(Device.id), key).between(start, end - 1)
        case And(parts=parts):
            return and_(true(), *(_condition(part, bucket_key) for part in parts))
        case Or(parts=parts):
            return or_(false(), *(_condition(part, bucket_key) for part in parts))
        case Not(part=part):
            return not_(_condition(part, bucket_key))


def _known(comparison: ColumnElement[bool]) -> ColumnElement[bool]:
    """A comparison, false where it is NULL."""
    return func.coalesce(comparison, false(), type_=Boolean)


def _version_between(bounds: AppVersion) -> ColumnElement[bool]:
    key = _bytewise(col(Device.app_version_key))
    tests: list[ColumnElement[bool]] = [key != ""]
    if bounds.at_least is not None:
        tests.append(key >= version_key(bounds.at_least))
    if bounds.above is not None:
        tests.append(key > version_key(bounds.above))
    if bounds.at_most is not None:
        tests.append(key <= version_key(bounds.at_most))
    if bounds.below is not None:
        tests.append(key < version_key(bounds.below))
    return _known(and_(*tests))


def _integer_between(bounds: AttributeRange, value: ColumnElement[Any]) -> ColumnElement[bool]:
    least, most = whole_bounds(bounds)
    tests: list[ColumnElement[bool]] = [value.is_not(None)]
    tests += [] if least is None else [value >= least]
    tests += [] if most is None else [value <= most]
    return _known(and_(*tests))


class _Bytewise(FunctionElement[str]):
    """A text that is compared by its bytes."""

    type = Text()
    inherit_cache = True
    name = "edgewise_bytewise"


class _BucketOf(FunctionElement[int]):
    """`bucket_of` of a device id and a key."""

    type = BigInteger()
    inherit_cache = True
    name = SQLITE_BUCKET


class _AttributeText(FunctionElement[str]):
    """An attribute of a name that is a text, else NULL."""

    type = Text()
    inherit_cache = True
    name = "edgewise_attribute_text"


class _AttributeInteger(FunctionElement[int]):
    """An attribute of a name that is an integer, else NULL."""

    type = BigInteger()
    inherit_cache = True
    name = "edgewise_attribute_integer"


class _AttributeFlag(FunctionElement[bool]):
    """An attribute of a name that is a boolean, else NULL."""

    type = Boolean()
    inherit_cache = True
    name = "edgewise_attribute_flag"


def _bytewise(text: Any) -> ColumnElement[Any]:
    return _Bytewise(text)


def _attribute(kind: type[FunctionElement[Any]], name: str) -> ColumnElement[Any]:
    return kind(col(Device.attributes), bindparam(None, name, Text))


def _parts(element: FunctionElement[Any], compiler: SQLCompiler, **kwargs: Any) -> list[str]:
    return [compiler.process(part, **kwargs) for part in element.clauses]


@compiles(_Bytewise, "sqlite")
def _bytewise_sqlite(element: _Bytewise, compiler: SQLCompiler, **kwargs: Any) -> str:
    (text,) = _parts(element, compiler, **kwargs)
    return f"({text} COLLATE BINARY)"


@compiles(_Bytewise, "postgresql")
def _bytewise_postgres(element: _Bytewise, compiler: SQLCompiler, **kwargs: Any) -> str:
    (text,) = _parts(element, compiler, **kwargs)
    return f'({text} COLLATE "C")'


@compiles(_BucketOf, "sqlite")
def _bucket_sqlite(element: _BucketOf, compiler: SQLCompiler, **kwargs: Any) -> str:
    device, key = _parts(element, compiler, **kwargs)
    return f"{SQLITE_BUCKET}({device}, {key})"


@compiles(_BucketOf, "postgresql")
def _bucket_postgres(element: _BucketOf, compiler: SQLCompiler, **kwargs: Any) -> str:
    device, key = _parts(element, compiler, **kwargs)
    first = f"substring(sha256(CAST({key} AS BYTEA) || convert_to({device}, 'UTF8')) FROM 1 FOR {BUCKET_BYTES})"
    number = f"CAST(CAST('x' || encode({first}, 'hex') AS BIT({8 * BUCKET_BYTES})) AS BIGINT)"
    return f"mod({number}, {BUCKETS})"


@compiles(_AttributeText, "sqlite")
def _text_sqlite(element: _AttributeText, compiler: SQLCompiler, **kwargs: Any) -> str:
    return _of_type_sqlite(element, compiler, "'text'", **kwargs)


@compiles(_AttributeInteger, "sqlite")
def _integer_sqlite(element: _AttributeInteger, compiler: SQLCompiler, **kwargs: Any) -> str:
    return _of_type_sqlite(element, compiler, "'integer'", **kwargs)


@compiles(_AttributeFlag, "sqlite")
def _flag_sqlite(element: _AttributeFlag, compiler: SQLCompiler, **kwargs: Any) -> str:
    return _of_type_sqlite(element, compiler, "'true', 'false'", **kwargs)


def _of_type_sqlite(element: FunctionElement[Any], compiler: SQLCompiler, types: str, **kwargs: Any) -> str:
    column, name = _parts(element, compiler, **kwargs)
    path = f"'$.' || {name}"
    return f"(CASE WHEN json_type({column}, {path}) IN ({types}) THEN json_extract({column}, {path}) END)"


@compiles(_AttributeText, "postgresql")
def _text_postgres(element: _AttributeText, compiler: SQLCompiler, **kwargs: Any) -> str:
    column, name = _parts(element, compiler, **kwargs)
    return f"(CASE WHEN jsonb_typeof({column} -> {name}) = 'string' THEN {column} ->> {name} END)"


@compiles(_AttributeInteger, "postgresql")
def _integer_postgres(element: _AttributeInteger, compiler: SQLCompiler, **kwargs: Any) -> str:
    column, name = _parts(element, compiler, **kwargs)
    whole = f"jsonb_typeof({column} -> {name}) = 'number' AND {column} ->> {name} ~ '^-?[0-9]{{1,18}}$'"
    return f"(CASE WHEN {whole} THEN CAST({column} ->> {name} AS BIGINT) END)"


@compiles(_AttributeFlag, "postgresql")
def _flag_postgres(element: _AttributeFlag, compiler: SQLCompiler, **kwargs: Any) -> str:
    column, name = _parts(element, compiler, **kwargs)
    return f"(CASE WHEN jsonb_typeof({column} -> {name}) = 'boolean' THEN CAST({column} ->> {name} AS BOOLEAN) END)"
