"""The coordinator's verification of requests, held against the one that devices have."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.services.device_keys import DeviceKey
from edge_runtime.protocol.errors import UntrustedDocument
from edge_runtime.protocol.keys import PublicKey, SigningKey, digest

KEY = SigningKey(digest(b"device"))
MESSAGE = b'"@method": POST'
ORDER = 2**252 + 27742317777372353535851937790883648493
SMALL_ORDER = (bytes(32), b"\x01" + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f")
"""Points of order 4, 1 and 2."""


def takes(key: DeviceKey | PublicKey, signature: bytes, message: bytes) -> bool:
    try:
        key.verify(signature, message)
    except UntrustedDocument:
        return False
    return True


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.binary(max_size=200), st.integers(0, 511), st.booleans())
def test_both_libraries_agree_about_right_signatures_and_about_every_bit_that_is_turned_over(
    seed: bytes, message: bytes, bit: int, spoil: bool
) -> None:
    key = SigningKey(seed)
    signature = bytearray(key.sign(message))
    if spoil:
        signature[bit // 8] ^= 1 << bit % 8
    held = takes(DeviceKey(key.public.raw), bytes(signature), message)
    assert held is takes(key.public, bytes(signature), message) is not spoil


@pytest.mark.parametrize("length", [0, 1, 63, 65, 128])
def test_a_signature_of_another_length_is_refused(length: int) -> None:
    signature = (KEY.sign(MESSAGE) * 2)[:length]
    assert not takes(DeviceKey(KEY.public.raw), signature, MESSAGE)


def test_a_scalar_that_is_not_reduced_is_refused() -> None:
    """The same signature in a second spelling would be a second request."""
    signature = KEY.sign(MESSAGE)
    scalar = int.from_bytes(signature[32:], "little") + ORDER
    again = signature[:32] + scalar.to_bytes(32, "little")
    assert not takes(DeviceKey(KEY.public.raw), again, MESSAGE)


@pytest.mark.parametrize("point", SMALL_ORDER)
def test_under_a_key_of_small_order_nothing_is_proven(point: bytes) -> None:
    """The point is a signature of every message under itself, with the scalar 0, in about one of its orders."""
    assert not any(takes(DeviceKey(point), point + bytes(32), b"%d" % number) for number in range(16))


def test_another_message_or_another_key_is_refused() -> None:
    signature = KEY.sign(MESSAGE)
    assert takes(DeviceKey(KEY.public.raw), signature, MESSAGE)
    assert not takes(DeviceKey(KEY.public.raw), signature, MESSAGE + b" ")
    assert not takes(DeviceKey(SigningKey(digest(b"another")).public.raw), signature, MESSAGE)
