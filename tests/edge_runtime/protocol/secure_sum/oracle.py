"""A second, slow implementation, from the page and not from the code: whole numbers, no numpy, nothing shared.

HKDF is made of HMAC, key streams of single AES blocks, secrets of Newton's interpolation instead of Lagrange's.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Mapping
from fractions import Fraction

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

P = 2**256 + 297


def hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """RFC 5869, one block of output."""
    extracted = hmac.new(salt, secret, hashlib.sha256).digest()
    return hmac.new(extracted, info + b"\x01", hashlib.sha256).digest()


def key_stream(key: bytes, lanes: int) -> list[int]:
    """AES-256 of a counter, block by block; 4 bytes a lane, little-endian."""
    cipher = Cipher(algorithms.AES(key), modes.ECB())  # single blocks: this is how CTR is made
    found: list[int] = []
    counter = 0
    while len(found) < lanes:
        block = cipher.encryptor().update(counter.to_bytes(16, "big"))
        found += [int.from_bytes(block[at : at + 4], "little") for at in (0, 4, 8, 12)]
        counter += 1
    return found[:lanes]


def masked(lanes: list[int], streams: list[tuple[bytes, int]], bits: int) -> list[int]:
    """Lanes plus signed streams, each modulo 2^b."""
    expanded = [(sign, key_stream(key, len(lanes))) for key, sign in streams]
    return [
        (lane + sum(sign * stream[place] for sign, stream in expanded)) % 2**bits for place, lane in enumerate(lanes)
    ]


def packed(lanes: list[int], bits: int) -> bytes:
    """One number, lane 0 lowest."""
    whole = sum(lane << (place * bits) for place, lane in enumerate(lanes))
    return whole.to_bytes(-(-len(lanes) * bits // 8), "little")


def interpolated(shares: Mapping[int, int], at: int = 0) -> int:
    """Newton's divided differences modulo p, evaluated at a point."""
    points = list(shares)
    table = [shares[point] for point in points]
    for level in range(1, len(points)):
        for place in range(len(points) - 1, level - 1, -1):
            run = points[place] - points[place - level]
            table[place] = (table[place] - table[place - 1]) * pow(run, P - 2, P) % P
    value = 0
    for place in range(len(points) - 1, -1, -1):
        value = (value * (at - points[place]) + table[place]) % P
    return value


def framed(*parts: bytes) -> bytes:
    """SHA-256 over parts, each after its length."""
    state = hashlib.sha256()
    for part in parts:
        state.update(len(part).to_bytes(4, "little"))
        state.update(part)
    return state.digest()


def tail(size: int, marked: int, drawn: int, numbers: range) -> float:
    """The probability that one of these numbers of marked ones is drawn: hypergeometric, in logarithms."""
    return math.fsum(
        math.exp(_ways(marked, number) + _ways(size - marked, drawn - number) - _ways(size, drawn))
        for number in numbers
        if 0 <= number <= marked and 0 <= drawn - number <= size - marked
    )


def _ways(of: int, chosen: int) -> float:
    return math.lgamma(of + 1) - math.lgamma(chosen + 1) - math.lgamma(of - chosen + 1)


def regular(size: int, corrupt: int, gone: int) -> tuple[int, int]:
    """Degree and threshold of the smallest graph that meets the three bounds, in exact fractions."""
    for degree in range(2, size - 1, 2):
        threshold = math.ceil((most_corrupt(size, corrupt, degree) + degree - Fraction(5, 4)) / 2) + 1
        alone = sum(_exactly(size, size - gone, degree, alive) for alive in range(threshold))
        connected = apart(size, degree, corrupt + gone) < _RARE
        if connected and threshold <= degree and size * alone <= Fraction(1, 2**20):
            return degree, threshold
    raise ValueError("there is none")


_RARE = Fraction(1, 2**41)


def most_corrupt(size: int, corrupt: int, degree: int) -> int:
    """The number of corrupt neighbours that nobody has more of, but rarely."""
    return next(most for most in range(degree + 1) if size * _beyond(size, corrupt, degree, most) <= _RARE)


def _beyond(size: int, marked: int, drawn: int, most: int) -> Fraction:
    return sum((_exactly(size, marked, drawn, number) for number in range(most + 1, drawn + 1)), Fraction(0))


def apart(size: int, degree: int, bad: int) -> Fraction:
    """The bound on the probability that the honest who are left fall apart."""
    if degree > bad:
        return Fraction(0)
    ways = Fraction(size * (size - degree - 1), 2)
    return ways * Fraction(math.comb(size - degree, bad - degree), math.comb(size, bad))


def _exactly(size: int, marked: int, drawn: int, number: int) -> Fraction:
    return Fraction(math.comb(marked, number) * math.comb(size - marked, drawn - number), math.comb(size, drawn))
