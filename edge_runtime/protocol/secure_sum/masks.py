"""Masks: key agreement, key derivation, and key streams that are added to lanes in place.

A mask is the AES-256-CTR key stream of a key that HKDF-SHA256 makes from a secret, the group's context and a use: from
counter 0, 4 bytes a lane, little-endian, modulo 2^b. Streams are added modulo 2^32, of which 2^b is a divisor, and cut
to b bits when the lanes are packed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, TypeAlias

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from edge_runtime.protocol.errors import Malformed
from edge_runtime.protocol.secure_sum.packing import LaneVector

KEY_BYTES: Final = 32
BLOCK_BYTES: Final = 1 << 18
"""Key stream that is made at a time, and added while it is still in the cache."""
BLOCK_LANES: Final = BLOCK_BYTES // 4
_COUNTER_BYTES: Final = 16
_LANES_A_COUNT: Final = 4
_TOGETHER: Final = 256
"""Streams that are open at a time: what they take does not grow with the group."""
_CURVE_PRIME: Final = (1 << 255) - 19
_LOW_ORDER: Final = frozenset(
    {
        0,
        1,
        _CURVE_PRIME - 1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
    }
)
"""The points of small order, as numbers: a secret agreed with one is known to all.

Source: https://cr.yp.to/ecdh.html#validate, without the encodings that are not the canonical ones.
"""

Spread: TypeAlias = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
"""`map`, or the `map` of a thread pool: AES and numpy release the interpreter lock."""


class Use(StrEnum):
    """What a derived key is for: no key has two uses."""

    BOX = "edgewise/secsum/1/box"
    SELF = "edgewise/secsum/1/self"
    PAIR = "edgewise/secsum/1/pair"
    DEALING = "edgewise/secsum/1/dealing"
    SIGNS = "edgewise/secsum/1/signs"


@dataclass(frozen=True, slots=True)
class AgreementKey:
    """An X25519 private key of 32 bytes, kept out of `repr` and logs."""

    raw: bytes = field(repr=False)
    _key: X25519PrivateKey = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.raw) != KEY_BYTES:
            raise Malformed(f"an agreement key has {KEY_BYTES} bytes, not {len(self.raw)}")
        object.__setattr__(self, "_key", X25519PrivateKey.from_private_bytes(self.raw))

    @property
    def public(self) -> bytes:
        """The public key, 32 bytes, in its one encoding."""
        return self._key.public_key().public_bytes_raw()

    def agree(self, peer: bytes, context: bytes, use: Use, *names: int) -> bytes:
        """A key of 32 bytes that only the two ends know, for one use in one context, between the named positions.

        Raises:
            Malformed: The peer's key is none, or of low order.
        """
        check_public(peer)
        return derived(self._key.exchange(X25519PublicKey.from_public_bytes(peer)), context, use, *names)


def check_public(raw: bytes) -> None:
    """Return if the bytes are a public key that may be agreed with.

    Raises:
        Malformed: Another length, not the one encoding of a point, or a point of low order.
    """
    if len(raw) != KEY_BYTES:
        raise Malformed(f"a public key has {KEY_BYTES} bytes, not {len(raw)}")
    number = int.from_bytes(raw, "little")
    if number >= _CURVE_PRIME:
        raise Malformed("a public key is in its one encoding, below 2^255 - 19")
    if number in _LOW_ORDER:
        raise Malformed("a public key is not of low order")


def derived(secret: bytes, context: bytes, use: Use, *names: int) -> bytes:
    """HKDF-SHA256 with the context as salt; the info is the use, then each named position in 4 bytes.

    Raises:
        ValueError: Secret or context have not 32 bytes: a bug of the caller.
    """
    if len(secret) != KEY_BYTES or len(context) != KEY_BYTES:
        raise ValueError("a secret and a context have 32 bytes each")
    info = use.value.encode() + b"".join(name.to_bytes(4, "little") for name in names)
    return HKDF(hashes.SHA256(), KEY_BYTES, context, info).derive(secret)


@dataclass(frozen=True, slots=True)
class Stream:
    """One mask, to be added or taken away.

    Args:
        key: 32 bytes, from `derived`; used for this stream and for nothing else.
        added: False where the stream is subtracted.
    """

    key: bytes = field(repr=False)
    added: bool

    def __post_init__(self) -> None:
        if len(self.key) != KEY_BYTES:
            raise ValueError(f"a stream has a key of {KEY_BYTES} bytes")

    def undone(self) -> Stream:
        """The stream that takes this one away."""
        return Stream(self.key, not self.added)


def opened(key: bytes, first_lane: int = 0) -> CipherContext:
    """The key stream from one lane on, a multiple of 4."""
    counter = (first_lane // _LANES_A_COUNT).to_bytes(_COUNTER_BYTES, "big")
    return Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor()


def keyed_randomness(key: bytes) -> Callable[[int], bytes]:
    """Bytes that only the holder of the key knows, the same for the same key; not for more than one purpose."""
    stream = opened(key)
    return lambda length: stream.update(bytes(length))


def apply(lanes: LaneVector, streams: Sequence[Stream], *, spread: Spread = map, parts: int = 1) -> None:
    """Add streams to lanes in place, and subtract those that are to be taken away, modulo 2^32.

    A block of lanes stays in the cache while all streams pass over it. Beyond the lanes, memory is two blocks and
    at most 256 open streams for each part, whatever the number of streams.

    Args:
        lanes: Uint32, contiguous, changed in place.
        spread: Runs the parts, one after another or side by side.
        parts: Stretches of lanes that can run side by side.

    Raises:
        ValueError: The lanes are not contiguous uint32, or there is not one part: a bug of the caller.
    """
    if lanes.dtype != np.uint32 or lanes.ndim != 1 or not lanes.flags.c_contiguous or parts < 1:
        raise ValueError("streams are added to contiguous uint32 lanes, in one part or more")
    blocks = -(-lanes.size // BLOCK_LANES)
    borders = [blocks * part // parts * BLOCK_LANES for part in range(parts + 1)]
    stretches = [(first, lanes[first:last]) for first, last in itertools.pairwise(borders) if first < last]
    for _done in spread(lambda stretch: _apply_to(stretch[1], stretch[0], streams), stretches):
        pass


def _apply_to(lanes: LaneVector, first_lane: int, streams: Sequence[Stream]) -> None:
    zeros, made = bytes(BLOCK_BYTES), bytearray(BLOCK_BYTES)
    block = np.frombuffer(made, dtype="<u4")
    for begin in range(0, len(streams), _TOGETHER):
        ready = [
            (opened(stream.key, first_lane), np.add if stream.added else np.subtract)
            for stream in streams[begin : begin + _TOGETHER]
        ]
        for start in range(0, lanes.size, BLOCK_LANES):
            here = lanes[start : start + BLOCK_LANES]
            feed, mask = memoryview(zeros)[: 4 * here.size], block[: here.size]
            for stream, operation in ready:
                stream.update_into(feed, made)
                operation(here, mask, out=here)
