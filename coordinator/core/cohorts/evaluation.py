"""Whether one device is in a cohort. Asked at every check-in, so a rule is compiled once."""

from __future__ import annotations

import functools
import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Final, TypeAlias

from coordinator.core.cohorts.reading import read_rule
from coordinator.core.cohorts.rule import (
    BUCKETS,
    And,
    AppVersion,
    AttributeIn,
    AttributeIs,
    AttributeRange,
    Bucket,
    Condition,
    Not,
    OneOf,
    Or,
    Rule,
)
from coordinator.core.cohorts.versions import version_key
from edge_runtime.protocol.checkin import AttributeValue

BUCKET_BYTES: Final = 6
"""Of the hash; 2^48 is no multiple of `BUCKETS`: one bucket has at most 4e-10 of its share too much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFacts:
    """What is known of a device. None, an absent attribute and an empty `app_version_key` are unknown."""

    device_id: str
    app: str
    app_version: str
    platform: str
    app_version_key: str
    """`version_key` of the version."""
    region: str | None = None
    hardware_class: str | None = None
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)


Test: TypeAlias = Callable[[DeviceFacts], bool]


def bucket_key_of(bucket_key: bytes, salt: str) -> bytes:
    """The key of one experiment: those of two salts have nothing to do with each other.

    HMAC-SHA-256 of the population's secret key over the salt; 32 bytes.
    """
    return hmac.digest(bucket_key, b"edgewise/bucket/v1\0" + salt.encode(), "sha256")


def bucket_of(device_id: str, key: bytes) -> int:
    """The bucket of a device, 0 to 99,999, evenly; the same for ever.

    The first 6 bytes of SHA-256(key, device id), big-endian, modulo 100,000. Key and id have fixed lengths, so that
    nobody without the key can tell or choose a bucket.

    Args:
        key: Of `bucket_key_of`.
    """
    digest = hashlib.sha256(key + device_id.encode()).digest()
    return int.from_bytes(digest[:BUCKET_BYTES], "big") % BUCKETS


def matches(rule: Rule, facts: DeviceFacts, bucket_key: bytes) -> bool:
    """Whether a device is in a cohort.

    Args:
        bucket_key: The population's, of 32 bytes.
    """
    return compile_rule(rule, bucket_key)(facts)


@functools.lru_cache(maxsize=1024)
def compiled(raw: bytes, bucket_key: bytes) -> Test:
    """`compile_rule` of a rule as it was stored, done once: every check-in asks for it."""
    return compile_rule(read_rule(raw), bucket_key)


def compile_rule(rule: Rule, bucket_key: bytes) -> Test:
    """A function that says whether a device is in a cohort; it raises nothing, and keeps nothing."""
    where = _test(rule.where, bucket_key)
    include, exclude = frozenset(rule.include), frozenset(rule.exclude)
    if not include and not exclude:
        return where

    def test(facts: DeviceFacts) -> bool:
        device = facts.device_id
        return device not in exclude and (device in include or where(facts))

    return test


def _test(condition: Condition, bucket_key: bytes) -> Test:
    match condition:
        case OneOf(field=name, values=values):
            return _among(attrgetter(name.value), frozenset(values))
        case AppVersion():
            return _version_between(condition)
        case AttributeIn(name=name, values=values):
            return _text_among(name, frozenset(values))
        case AttributeIs(name=name, value=value):
            return lambda facts: facts.attributes.get(name) is value
        case AttributeRange():
            return _integer_between(condition)
        case Bucket(salt=salt, start=start, end=end):
            return _in_buckets(bucket_key_of(bucket_key, salt), start, end)
        case And(parts=parts):
            return _all(tuple(_test(part, bucket_key) for part in parts))
        case Or(parts=parts):
            return _any(tuple(_test(part, bucket_key) for part in parts))
        case Not(part=part):
            inner = _test(part, bucket_key)
            return lambda facts: not inner(facts)


def _all(tests: tuple[Test, ...]) -> Test:
    def test(facts: DeviceFacts) -> bool:
        for one in tests:  # noqa: SIM110  # a generator would cost more than most tests
            if not one(facts):
                return False
        return True

    return test


def _any(tests: tuple[Test, ...]) -> Test:
    def test(facts: DeviceFacts) -> bool:
        for one in tests:  # noqa: SIM110  # as above
            if one(facts):
                return True
        return False

    return test


def _among(read: Callable[[DeviceFacts], str | None], values: frozenset[str]) -> Test:
    return lambda facts: read(facts) in values


def _text_among(name: str, values: frozenset[str]) -> Test:
    return lambda facts: facts.attributes.get(name) in values


def _version_between(bounds: AppVersion) -> Test:
    """Comparisons with keys: text order is version order, and nothing else has an order."""
    low, above = _key(bounds.at_least), _key(bounds.above)
    high, below = _key(bounds.at_most), _key(bounds.below)

    def test(facts: DeviceFacts) -> bool:
        key = facts.app_version_key
        return (
            key != ""
            and (low is None or low <= key)
            and (above is None or above < key)
            and (high is None or key <= high)
            and (below is None or key < below)
        )

    return test


def _key(version: str | None) -> str | None:
    return None if version is None else version_key(version)


def _integer_between(bounds: AttributeRange) -> Test:
    name, least, most = bounds.name, *whole_bounds(bounds)

    def test(facts: DeviceFacts) -> bool:
        value = facts.attributes.get(name)
        return type(value) is int and (least is None or least <= value) and (most is None or value <= most)

    return test


def whole_bounds(bounds: AttributeRange) -> tuple[int | None, int | None]:
    """The least and the most integer between bounds; None where there is no bound."""
    least = bounds.at_least if bounds.above is None else bounds.above + 1
    most = bounds.at_most if bounds.below is None else bounds.below - 1
    return least, most


def _in_buckets(key: bytes, start: int, end: int) -> Test:
    return lambda facts: start <= bucket_of(facts.device_id, key) < end
