"""The order of app versions.

A version is 1 to 16 numbers with dots between them, then perhaps `-` and a pre-release, then perhaps `+` and a build:
`2.4`, `2.4.0-beta.2`, `2026.05.1+331`. The order is that of Semantic Versioning, for any number of numbers:

- numbers are compared as numbers, from the left; a missing one is 0, so 2.4 and 2.4.0 are the same version;
- a pre-release comes before its release; its parts are compared from the left, numbers as numbers and before texts,
  texts by their ASCII characters, and fewer parts before more;
- builds are not compared.

Source: https://semver.org/#spec-item-11
"""

from __future__ import annotations

import functools
import re
from typing import Final

LONGEST_VERSION: Final = 64
LONGEST_KEY: Final = 128
"""Of `version_key`, for any version of `LONGEST_VERSION` characters."""

_NUMBER = r"[0-9]{1,18}"
_PART = r"[0-9A-Za-z-]+"
_VERSION: Final = re.compile(
    rf"({_NUMBER}(?:\.{_NUMBER}){{0,15}})(?:-({_PART}(?:\.{_PART})*))?(?:\+{_PART}(?:\.{_PART})*)?"
)
_LONGEST_NUMBER: Final = 18

# In ASCII, and so in the C collation:  ","  <  "-"  <  digits  <  "="  <  capitals  <  "a" to "r"  <  "s".
_PRE_RELEASE, _RELEASE, _TEXT, _END_OF_TEXT = "-", "=", "s", ","


@functools.lru_cache(maxsize=4096)
def version_key(version: str) -> str:
    """A text of ASCII characters whose order, character by character, is the order of versions.

    Returns:
        At most `LONGEST_KEY` characters; equal for versions that are equal; empty for what is not a version.
    """
    found = _VERSION.fullmatch(version) if len(version) <= LONGEST_VERSION else None
    if found is None:
        return ""
    numbers = [number.lstrip("0") for number in found[1].split(".")]
    while numbers and not numbers[-1]:
        numbers.pop()
    release = "".join(_number_key(number) for number in numbers)
    if found[2] is None:
        return release + _RELEASE
    parts = [_part_key(part) for part in found[2].split(".")]
    return "" if None in parts else release + _PRE_RELEASE + "".join(map(str, parts))


def is_version(text: str) -> bool:
    return version_key(text) != ""


def _number_key(digits: str) -> str:
    """More digits are more: how many come first, as a letter."""
    digits = digits.lstrip("0") or "0"
    return chr(ord("a") + len(digits) - 1) + digits


def _part_key(part: str) -> str | None:
    if not part.isdecimal():
        return f"{_TEXT}{part}{_END_OF_TEXT}"
    return _number_key(part) if len(part.lstrip("0")) <= _LONGEST_NUMBER else None
