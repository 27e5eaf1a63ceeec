"""A second reading of docs/cohorts.md: a rule's JSON and a device's facts to yes or no, with nothing of the product.

Slow and plain: versions are compared as the document says and not by their keys, and each comparison first asks
whether the device says anything of that type.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable
from typing import Any


def fits(rule: dict[str, Any], device: dict[str, Any], bucket_key: bytes) -> bool:
    """Whether a device, whose facts are by the names of its columns, is in a cohort."""
    if device["id"] in rule.get("exclude", []):
        return False
    return device["id"] in rule.get("include", []) or holds(rule["where"], device, bucket_key)


def holds(condition: dict[str, Any], device: dict[str, Any], bucket_key: bytes) -> bool:
    ((key, value),) = condition.items()
    if key == "and":
        return all(holds(part, device, bucket_key) for part in value)
    if key == "or":
        return any(holds(part, device, bucket_key) for part in value)
    if key == "not":
        return not holds(value, device, bucket_key)
    if key == "bucket":
        return bool(value["from"] <= bucket(device["id"], value["salt"], bucket_key) < value["to"])
    if key == "app_version":
        version = parsed(device["app_version"])
        return version is not None and bounded(version, {name: parsed(text) for name, text in value.items()})
    if key == "attribute":
        return attribute(value, (device["attributes"] or {}).get(value["name"]))
    said = device[key]
    return said is not None and any(said == one for one in value)


def attribute(value: dict[str, Any], said: Any) -> bool:
    if "in" in value:
        return isinstance(said, str) and said in value["in"]
    if "is" in value:
        return isinstance(said, bool) and said == value["is"]
    if isinstance(said, bool) or not isinstance(said, int):
        return False
    return bounded(said, {name: bound for name, bound in value.items() if name != "name"})


def bounded(value: Any, bounds: dict[str, Any]) -> bool:
    compared: dict[str, Callable[[Any], Any]] = {
        "at_least": lambda bound: not value < bound,
        "above": lambda bound: bound < value,
        "at_most": lambda bound: not bound < value,
        "below": lambda bound: value < bound,
    }
    return all(compared[name](bound) for name, bound in bounds.items())


def bucket(device: str, salt: str, bucket_key: bytes) -> int:
    key = hmac.new(bucket_key, b"edgewise/bucket/v1\0" + salt.encode(), hashlib.sha256).digest()
    return int(hashlib.sha256(key + device.encode()).hexdigest()[:12], 16) % 100_000


class Version:
    """Compared as https://semver.org/#spec-item-11 says, for any number of numbers."""

    def __init__(self, numbers: list[int], parts: list[str] | None) -> None:
        self.numbers, self.parts = numbers, parts

    def __lt__(self, other: Version) -> bool:
        longest = max(len(self.numbers), len(other.numbers))
        mine, theirs = (one.numbers + [0] * (longest - len(one.numbers)) for one in (self, other))
        if mine != theirs:
            return mine < theirs
        if self.parts is None or other.parts is None:
            return self.parts is not None and other.parts is None
        for one, two in zip(self.parts, other.parts, strict=False):
            if one.isdecimal() and two.isdecimal():
                if int(one) != int(two):
                    return int(one) < int(two)
            elif one.isdecimal() != two.isdecimal():
                return one.isdecimal()
            elif one != two:
                return one < two
        return len(self.parts) < len(other.parts)


def parsed(text: str) -> Version | None:
    """A version, or None if it is not one."""
    text = text if len(text) <= 64 else ""
    plain, _plus, build = text.partition("+")
    release, dash, pre_release = plain.partition("-")
    numbers, parts = release.split("."), pre_release.split(".") if dash else None
    identifiers = [*(parts or []), *(build.split(".") if _plus else [])]
    if not all(re.fullmatch("[0-9]{1,18}", number) for number in numbers) or len(numbers) > 16:
        return None
    if not all(re.fullmatch("[0-9A-Za-z-]+", part) for part in identifiers):
        return None
    if any(part.isdecimal() and len(part.lstrip("0")) > 18 for part in parts or []):
        return None
    return Version([int(number) for number in numbers], parts)
