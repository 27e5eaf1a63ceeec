"""Lanes of b bits as bytes: lane i is bits i b to (i + 1) b - 1 of one little-endian number, the rest of it zero."""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from edge_runtime.protocol.errors import LanesOutOfRange, ReportLength

LaneVector: TypeAlias = npt.NDArray[np.uint32]

_WORD_BITS: Final = 32
_BYTE_BITS: Final = 8
_GROUP: Final = 8
"""Eight lanes of b bits are b bytes."""
_THREE: Final = 3


def packed_bytes(count: int, bits: int) -> int:
    """The exact length of `count` lanes: whole bytes, the last one filled up with zero bits."""
    return -(-count * bits // _BYTE_BITS)


def pack(lanes: LaneVector, bits: int) -> bytes:
    """Write the low `bits` bits of each lane; of the others nothing."""
    words = np.ascontiguousarray(lanes, dtype="<u4")
    if bits == _WORD_BITS:
        return words.tobytes()
    if bits == _THREE * _BYTE_BITS:
        written, parts = np.empty(_THREE * words.size, np.uint8), words.view(np.uint8)
        for place in range(_THREE):
            written[place::_THREE] = parts[place::4]
        return written.tobytes()
    groups = -(-words.size // _GROUP)
    filled = np.zeros(groups * _GROUP, np.uint32)
    filled[: words.size] = words & np.uint32((1 << bits) - 1)
    table = np.ascontiguousarray(filled.reshape(groups, _GROUP).T)  # a row for each place in the group
    out = np.zeros((groups, bits), np.uint8)
    for column in range(bits):
        for place in range(_GROUP):
            shift = place * bits - column * _BYTE_BITS  # where this lane begins, seen from this byte
            if -bits < shift < _BYTE_BITS:
                row = table[place]
                moved = row << np.uint32(shift) if shift >= 0 else row >> np.uint32(-shift)
                out[:, column] |= moved.astype(np.uint8)
    return out.tobytes()[: packed_bytes(words.size, bits)]


def unpack(packed: bytes | memoryview, count: int, bits: int) -> LaneVector:
    """Read `count` lanes, uint32.

    Raises:
        ReportLength: The length is not exactly that of so many lanes.
        LanesOutOfRange: A bit behind the last lane is not zero.
    """
    expected = packed_bytes(count, bits)
    if len(packed) != expected:
        raise ReportLength(f"{len(packed)} bytes of lanes where {expected} are expected")
    if bits == _WORD_BITS:
        return np.frombuffer(packed, dtype="<u4").astype(np.uint32, copy=False)
    raw = np.frombuffer(packed, np.uint8)
    if bits == _THREE * _BYTE_BITS:
        return _three_bytes(raw, count)
    spare = expected * _BYTE_BITS - count * bits
    if spare and int(raw[-1]) >> (_BYTE_BITS - spare):
        raise LanesOutOfRange("a bit behind the last lane is not zero")
    groups = -(-count // _GROUP)
    table = np.zeros(groups * bits, np.uint8)
    table[:expected] = raw
    columns = np.ascontiguousarray(table.reshape(groups, bits).T).astype(np.uint32)
    out = np.zeros((groups, _GROUP), np.uint32)
    for place in range(_GROUP):
        for column in range(bits):
            shift = place * bits - column * _BYTE_BITS
            if -bits < shift < _BYTE_BITS:
                row = columns[column]
                out[:, place] |= row >> np.uint32(shift) if shift >= 0 else row << np.uint32(-shift)
    out &= np.uint32((1 << bits) - 1)
    return out.reshape(-1)[:count].copy()


def _three_bytes(raw: npt.NDArray[np.uint8], count: int) -> LaneVector:
    """Lanes of 24 bits: each but the last is read with the byte behind it, which is cut off."""
    lanes = np.empty(count, np.uint32)
    if count:
        overlapping: LaneVector = np.ndarray((count - 1,), "<u4", raw, 0, (_THREE,))
        np.bitwise_and(overlapping, (1 << 24) - 1, out=lanes[:-1])
        lanes[-1] = int.from_bytes(raw[-_THREE:].tobytes(), "little")
    return lanes
