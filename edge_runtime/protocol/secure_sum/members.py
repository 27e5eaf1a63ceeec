"""Sets of a group's members, as bits: no member is there twice, and nobody is there who is not in the group."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from edge_runtime.protocol.errors import Malformed

Members: TypeAlias = frozenset[int]
"""Positions in the roster, counted from 0."""


def set_bytes(size: int) -> int:
    """The exact length of a set of members of a group of this size."""
    return -(-size // 8)


def encode_members(members: Iterable[int], size: int) -> bytes:
    """Write a set: member i is bit i mod 8, from the lowest, of byte ⌊i / 8⌋.

    Raises:
        ValueError: Somebody is not in the group: a bug of the caller.
    """
    bits = 0
    for member in members:
        if not 0 <= member < size:
            raise ValueError(f"there is no member {member} in a group of {size}")
        bits |= 1 << member
    return bits.to_bytes(set_bytes(size), "little")


def decode_members(raw: bytes, size: int) -> Members:
    """Read a set.

    Raises:
        Malformed: Another length, or a bit beyond the group.
    """
    if len(raw) != set_bytes(size):
        raise Malformed(f"a set of members of a group of {size} has {set_bytes(size)} bytes, not {len(raw)}")
    bits = int.from_bytes(raw, "little")
    if bits >> size:
        raise Malformed(f"a set names members beyond the {size} of the group")
    return frozenset(member for member in range(size) if bits >> member & 1)
