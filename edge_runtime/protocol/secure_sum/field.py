"""Whole numbers modulo p = 2^256 + 297, the field of the secret shares, and their one encoding of 33 bytes.

p is the smallest prime above 2^256, so that every secret of 32 bytes is an element. Elements travel little-endian.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from edge_runtime.protocol.errors import Malformed, WrongShare

PRIME: Final = (1 << 256) + 297
ELEMENT_BYTES: Final = 33
SECRET_BYTES: Final = 32


def encode(element: int) -> bytes:
    """Write an element as 33 bytes.

    Raises:
        ValueError: It is not an element: a bug of the caller.
    """
    if not 0 <= element < PRIME:
        raise ValueError("an element of the field is 0 or more, and below p")
    return element.to_bytes(ELEMENT_BYTES, "little")


def decode(raw: bytes | memoryview) -> int:
    """Read an element.

    Raises:
        Malformed: The bytes are not 33, or hold p or more: each element has one encoding.
    """
    if len(raw) != ELEMENT_BYTES:
        raise Malformed(f"an element of the field has {ELEMENT_BYTES} bytes, not {len(raw)}")
    element = int.from_bytes(raw, "little")
    if element >= PRIME:
        raise Malformed("an element of the field is below p")
    return element


def of_secret(secret: bytes) -> int:
    """The element of a secret of 32 bytes.

    Raises:
        ValueError: It has another length: a bug of the caller.
    """
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"a secret has {SECRET_BYTES} bytes")
    return int.from_bytes(secret, "little")


def to_secret(element: int) -> bytes:
    """The secret of an element.

    Raises:
        WrongShare: No secret has this element: some share was wrong.
    """
    if element >> (8 * SECRET_BYTES):
        raise WrongShare("the shares rebuild no secret of 32 bytes")
    return element.to_bytes(SECRET_BYTES, "little")


def inverses(elements: Sequence[int]) -> list[int]:
    """The inverse of each element, none of them zero, for the price of one inversion and three products each."""
    products = [1]
    for element in elements:
        products.append(products[-1] * element % PRIME)
    inverse = pow(products[-1], -1, PRIME)
    found = []
    for element, before in zip(reversed(elements), reversed(products[:-1]), strict=True):
        found.append(inverse * before % PRIME)
        inverse = inverse * element % PRIME
    return found[::-1]
