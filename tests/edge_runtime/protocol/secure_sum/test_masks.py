"""Masks: known answers, an independent expansion, uniform lanes, and no key with two uses."""

from __future__ import annotations

import hashlib
import itertools
import tracemalloc
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.protocol.errors import Malformed
from edge_runtime.protocol.keys import digest
from edge_runtime.protocol.secure_sum import masks
from edge_runtime.protocol.secure_sum.masks import BLOCK_LANES, AgreementKey, Stream, Use, apply, derived
from tests.edge_runtime.protocol.secure_sum import oracle

CONTEXT = digest(b"context")
CURVE = 2**255 - 19


def key(text: str) -> bytes:
    return digest(text.encode())


def test_a_derived_key_is_that_of_rfc_5869() -> None:
    """The extract and expand of RFC 5869 written anew; its test case 3 has no salt, ours always has one."""
    for use, names in itertools.product(Use, ((), (3,), (0, 99))):
        info = use.value.encode() + b"".join(name.to_bytes(4, "little") for name in names)
        assert derived(key("secret"), CONTEXT, use, *names) == oracle.hkdf(key("secret"), CONTEXT, info)


def test_keys_differ_by_use_context_names_and_order() -> None:
    found = [derived(key("s"), context, use, *names)
             for context in (CONTEXT, key("other")) for use in Use for names in ((), (1, 2), (2, 1), (1,))]  # fmt: skip
    assert len(set(found)) == len(found)


@given(
    size=st.sampled_from([1, 3, 4, 5, 1000, BLOCK_LANES - 1, BLOCK_LANES, BLOCK_LANES + 1]),
    signs=st.lists(st.booleans(), min_size=1, max_size=4),
    parts=st.integers(1, 4),
)
@settings(max_examples=12, deadline=None)
def test_streams_are_what_a_second_implementation_expands(size: int, signs: list[bool], parts: int) -> None:
    lanes = np.arange(size, dtype=np.uint32) * np.uint32(2654435761)
    keys = [key(f"stream {number}") for number in range(len(signs))]
    # The oracle is slow: it looks at the ends of the vector and at the border of a block.
    looked = sorted({*range(min(8, size)), *range(max(0, size - 6), size)})
    expected = lanes.tolist()
    apply(lanes, [Stream(one, added) for one, added in zip(keys, signs, strict=True)], parts=parts)
    for one, added in zip(keys, signs, strict=True):
        stream = np.frombuffer(masks.opened(one).update(bytes(4 * size)), "<u4").tolist()
        head = oracle.key_stream(one, min(8, size))
        assert stream[: len(head)] == head
        for place in looked:
            expected[place] = (expected[place] + (stream[place] if added else -stream[place])) % 2**32
    assert [int(lanes[place]) for place in looked] == [expected[place] for place in looked]


def test_the_stream_goes_on_where_a_block_ends() -> None:
    lanes = np.zeros(BLOCK_LANES + 8, np.uint32)
    apply(lanes, [Stream(key("s"), added=True)])
    counter = (BLOCK_LANES // 4).to_bytes(16, "big")
    block = Cipher(algorithms.AES(key("s")), modes.ECB()).encryptor().update(counter)
    assert lanes[BLOCK_LANES : BLOCK_LANES + 4].tobytes() == block


@given(parts=st.integers(1, 9))
@settings(max_examples=9, deadline=None)
def test_parts_side_by_side_give_the_same_lanes(parts: int) -> None:
    streams = [Stream(key(str(number)), number % 2 == 0) for number in range(5)]
    whole = np.arange(3 * BLOCK_LANES + 17, dtype=np.uint32)
    pieces = whole.copy()
    apply(whole, streams)
    with ThreadPoolExecutor(2) as pool:
        apply(pieces, streams, spread=pool.map, parts=parts)
    assert (whole == pieces).all()


@pytest.mark.parametrize("parts", [1, 3, 4, 9])
def test_every_part_has_its_share_of_the_work(parts: int) -> None:
    sizes: list[int] = []

    def spread(work: Callable[[Any], Any], stretches: Iterable[Any]) -> Iterable[Any]:
        for stretch in stretches:
            sizes.append(stretch[1].size)
            yield work(stretch)

    lanes = np.zeros(4 * BLOCK_LANES, np.uint32)
    apply(lanes, [], spread=spread, parts=parts)
    assert sum(sizes) == lanes.size
    assert len(sizes) == min(parts, 4)
    assert max(sizes) <= -(-4 // parts) * BLOCK_LANES


def test_more_streams_than_are_open_together_are_all_applied() -> None:
    streams = [Stream(key(str(number)), added=True) for number in range(2 * masks._TOGETHER + 3)]
    lanes = np.zeros(5, np.uint32)
    apply(lanes, streams)
    expected = sum(np.frombuffer(masks.opened(one.key).update(bytes(20)), "<u4").astype(object) for one in streams)
    assert lanes.tolist() == [lane % 2**32 for lane in expected]  # type: ignore[union-attr]


@pytest.mark.parametrize("count", [5, 700])
def test_memory_does_not_grow_with_the_number_of_streams(count: int) -> None:
    streams = [Stream(key(str(number)), added=True) for number in range(count)]
    lanes = np.zeros(1000, np.uint32)
    tracemalloc.start()
    apply(lanes, streams)
    _now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * masks.BLOCK_BYTES


def test_what_is_added_and_taken_away_is_gone() -> None:
    streams = [Stream(key(str(number)), number % 3 == 0) for number in range(7)]
    lanes = np.arange(100, dtype=np.uint32)
    apply(lanes, [*streams, *(one.undone() for one in streams)])
    assert (lanes == np.arange(100)).all()


def end_buckets(words: np.ndarray[tuple[int], np.dtype[np.uint32]], bits: int) -> float:
    """Chi-square over 64 even buckets of b bits, of which the first and the last are where a bad range shows."""
    found = np.bincount((words & np.uint32((1 << bits) - 1)) >> np.uint32(bits - 6), minlength=64)
    expected = words.size / 64
    return float(((found - expected) ** 2 / expected).sum())


CHI_SQUARE_63 = 124.0
"""Above it with probability below 1e-5, for 63 degrees of freedom."""


@pytest.mark.parametrize("bits", [20, 24, 32])
def test_a_mask_is_uniform_over_the_whole_range(bits: int) -> None:
    lanes = np.zeros(1 << 18, np.uint32)
    apply(lanes, [Stream(key("uniform"), added=True)])
    assert end_buckets(lanes, bits) < CHI_SQUARE_63
    for bit in range(bits):  # each bit is set half of the time, within 5 deviations
        assert abs(int((lanes >> np.uint32(bit) & np.uint32(1)).sum()) - lanes.size / 2) < 2.5 * lanes.size**0.5


def test_both_ends_of_the_range_occur() -> None:
    """R - 1 is a lane like any other: a framework's range never yields it."""
    lanes = np.zeros(1 << 22, np.uint32)
    apply(lanes, [Stream(key("ends"), added=True)])
    low = lanes & np.uint32((1 << 20) - 1)
    found = np.bincount(low, minlength=1 << 20)
    assert low.min() == 0
    assert low.max() == (1 << 20) - 1
    assert abs(int(found[: 1 << 8].sum()) - 1024) < 200
    assert abs(int(found[-(1 << 8) :].sum()) - 1024) < 200


def test_a_range_that_never_yields_its_end_is_caught() -> None:
    """A mutant: lanes modulo R - 1, as `randrange(0, R - 1)` gives."""
    lanes = np.zeros(1 << 22, np.uint32)
    apply(lanes, [Stream(key("ends"), added=True)])
    assert (lanes % np.uint32((1 << 20) - 1)).max() < (1 << 20) - 1


KNOWN = "07ebf23b 4a110a75 3587897c 2445483f".replace(" ", "")


def known_answer() -> str:
    lanes = np.zeros(1000, np.uint32)
    apply(lanes, [Stream(derived(bytes(range(32)), CONTEXT, Use.PAIR), added=True)])
    return hashlib.sha256(lanes.astype("<u4").tobytes()).hexdigest()[:32]


def test_a_mask_is_the_known_one() -> None:
    assert known_answer() == KNOWN
    expected = oracle.key_stream(oracle.hkdf(bytes(range(32)), CONTEXT, Use.PAIR.value.encode()), 1000)
    raw = b"".join(lane.to_bytes(4, "little") for lane in expected)
    assert hashlib.sha256(raw).hexdigest()[:32] == KNOWN


@pytest.mark.parametrize("kept_bytes", [3, 4, 16, 31])
def test_a_truncated_mask_seed_is_caught(kept_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutant: a seed folded to 24, 32 or more bits, as one framework does."""
    right = masks.opened
    monkeypatch.setattr(masks, "opened", lambda whole, first=0: right(whole[:kept_bytes].ljust(32, b"\0"), first))
    with pytest.raises(AssertionError):
        test_a_mask_is_the_known_one()


def test_both_ends_agree_and_nobody_else() -> None:
    one, other, third = (AgreementKey(key(name)) for name in ("one", "other", "third"))
    agreed = one.agree(other.public, CONTEXT, Use.PAIR)
    assert agreed == other.agree(one.public, CONTEXT, Use.PAIR)
    shared = X25519PrivateKey.from_private_bytes(one.raw).exchange(X25519PublicKey.from_public_bytes(other.public))
    assert agreed == oracle.hkdf(shared, CONTEXT, Use.PAIR.value.encode())
    assert agreed != third.agree(other.public, CONTEXT, Use.PAIR)


@pytest.mark.parametrize("number", sorted(masks._LOW_ORDER))
def test_a_point_of_low_order_is_refused(number: int) -> None:
    raw = number.to_bytes(32, "little")
    with pytest.raises(ValueError, match="shared key"):  # it is one: the library finds the agreed secret zero
        X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(raw))
    with pytest.raises(Malformed, match="low order"):
        AgreementKey(key("mine")).agree(raw, CONTEXT, Use.PAIR)


@pytest.mark.parametrize(
    "raw",
    [b"", bytes(31), bytes(33), CURVE.to_bytes(32, "little"), (CURVE + 1).to_bytes(32, "little"),
     (CURVE + 9).to_bytes(32, "little"), b"\xff" * 32, (1 << 255 | 9).to_bytes(32, "little")],
)  # fmt: skip
def test_a_public_key_in_a_second_encoding_is_refused(raw: bytes) -> None:
    with pytest.raises(Malformed):
        masks.check_public(raw)


@pytest.mark.parametrize("length", [1, 31, 33, 64])
def test_a_public_key_of_another_length_is_refused_whatever_it_holds(length: int) -> None:
    with pytest.raises(Malformed, match="a public key has 32 bytes"):
        masks.check_public(b"\x09" + bytes(length - 1))


def test_an_honest_public_key_is_taken() -> None:
    for number in range(50):
        masks.check_public(AgreementKey(key(str(number))).public)


def test_secrets_are_in_no_text() -> None:
    mine = AgreementKey(key("mine"))
    assert repr(mine) == "AgreementKey()"
    for shown in (repr(mine), repr(Stream(key("mine"), added=True))):
        assert key("mine").hex() not in shown
        assert repr(key("mine")) not in shown


@pytest.mark.parametrize("raw", [b"", bytes(31), bytes(33)])
def test_keys_of_another_length_are_never_used(raw: bytes) -> None:
    with pytest.raises(Malformed):
        AgreementKey(raw)
    with pytest.raises(ValueError, match="32 bytes"):
        Stream(raw, added=True)
    with pytest.raises(ValueError, match="32 bytes"):
        derived(raw, CONTEXT, Use.SELF)
    with pytest.raises(ValueError, match="32 bytes"):
        derived(bytes(32), raw, Use.SELF)


@pytest.mark.parametrize(
    "lanes", [np.zeros(4, np.int64), np.zeros((2, 2), np.uint32), np.zeros(8, np.uint32)[::2], np.zeros(4, np.float32)]
)
def test_lanes_of_another_kind_are_never_masked(lanes: np.ndarray[tuple[int], np.dtype[np.uint32]]) -> None:
    with pytest.raises(ValueError, match="contiguous uint32"):
        apply(lanes, [])


def test_no_part_is_a_bug() -> None:
    with pytest.raises(ValueError, match="one part"):
        apply(np.zeros(4, np.uint32), [], parts=0)
