"""Field and shares: any t rebuild, t - 1 say nothing, and every element has one encoding."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.protocol.errors import Malformed, WrongShare
from edge_runtime.protocol.secure_sum import field, shamir
from edge_runtime.protocol.secure_sum.field import PRIME
from edge_runtime.protocol.secure_sum.shamir import Weights, split
from tests.edge_runtime.protocol.secure_sum import oracle

secrets = st.binary(min_size=32, max_size=32)
elements = st.integers(0, PRIME - 1)


def seeded(seed: int) -> Callable[[int], bytes]:
    return random.Random(seed).randbytes


@st.composite
def sharings(draw: st.DrawFn) -> tuple[bytes, int, list[int]]:
    points = draw(st.lists(st.integers(1, 65535), min_size=2, max_size=20, unique=True))
    return draw(secrets), draw(st.integers(2, len(points))), points


def test_p_is_the_smallest_prime_above_two_to_the_256() -> None:
    def prime(number: int) -> bool:
        """Miller-Rabin with 40 random bases: wrong with probability below 2^-80."""
        odd, twos = number - 1, 0
        while odd % 2 == 0:
            odd, twos = odd // 2, twos + 1
        for _base in range(40):
            power = pow(random.Random(_base).randrange(2, number - 1), odd, number)
            if power in (1, number - 1):
                continue
            for _square in range(twos - 1):
                power = power * power % number
                if power == number - 1:
                    break
            else:
                return False
        return True

    assert PRIME == 2**256 + 297 == oracle.P
    assert [offset for offset in range(298) if prime(2**256 + offset)] == [297]


@given(sharing=sharings(), seed=st.integers(0, 2**32), order=st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_any_threshold_of_shares_rebuilds_the_secret(
    sharing: tuple[bytes, int, list[int]], seed: int, order: random.Random
) -> None:
    secret, threshold, points = sharing
    shares = dict(zip(points, split(secret, threshold, points, seeded(seed)), strict=True))
    chosen = order.sample(points, threshold)
    assert Weights.of(chosen).rebuild([shares[point] for point in chosen]) == secret
    assert oracle.interpolated({point: shares[point] for point in chosen}) == int.from_bytes(secret, "little")


@given(sharing=sharings(), seed=st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_all_shares_lie_on_one_polynomial_below_the_threshold(sharing: tuple[bytes, int, list[int]], seed: int) -> None:
    secret, threshold, points = sharing
    shares = dict(zip(points, split(secret, threshold, points, seeded(seed)), strict=True))
    first = {point: shares[point] for point in points[:threshold]}
    assert all(oracle.interpolated(first, at=point) == share for point, share in shares.items())


def test_one_share_fewer_rebuilds_nothing() -> None:
    points = list(range(1, 8))
    shares = split(b"\x07" * 32, 4, points, os.urandom)
    found = oracle.interpolated(dict(zip(points[:3], shares[:3], strict=True)))
    assert found != int.from_bytes(b"\x07" * 32, "little")


SMALL = 7


def counts(threshold: int, secret: int) -> Counter[tuple[int, ...]]:
    """How often each tuple of t - 1 shares is dealt, over every choice of coefficients of a field of 7 elements."""
    found: Counter[tuple[int, ...]] = Counter()
    for coefficients in itertools.product(range(SMALL), repeat=threshold - 1):
        drawn = iter(coefficients)
        shares = split(bytes([secret]) + bytes(31), threshold, [1, 2, 3, 4], lambda _length, d=drawn: bytes([next(d)]))  # type: ignore[misc]
        found[tuple(shares[: threshold - 1])] += 1
    return found


@pytest.mark.parametrize("threshold", [2, 3, 4])
def test_fewer_shares_than_the_threshold_are_the_same_for_every_secret(
    threshold: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exactly, in a field of 7: for each secret every tuple of t - 1 shares is dealt equally often."""
    monkeypatch.setattr(field, "PRIME", SMALL)
    for secret in range(SMALL):
        found = counts(threshold, secret)
        assert len(found) == SMALL ** (threshold - 1)
        assert set(found.values()) == {1}


def test_a_polynomial_of_too_low_degree_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutant: one coefficient fewer, so that t - 1 shares are enough."""
    right = shamir._evaluated
    monkeypatch.setattr(shamir, "_evaluated", lambda coefficients, *rest: right(coefficients[1:], *rest))
    with pytest.raises(AssertionError):
        test_fewer_shares_than_the_threshold_are_the_same_for_every_secret(3, monkeypatch)
    monkeypatch.undo()


def test_elements_are_drawn_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(field, "PRIME", 5)  # of 3 bits: 5, 6 and 7 are drawn anew, not folded
    found = Counter(shamir.uniform(seeded(1)) for _once in range(1))
    draw = seeded(2)
    found = Counter(shamir.uniform(draw) for _once in range(20_000))
    assert set(found) == set(range(5))
    assert sum((count - 4000) ** 2 / 4000 for count in found.values()) < 25  # chi-square, 4 degrees: p < 1e-4 above


@given(element=elements)
def test_an_element_has_one_encoding_of_33_bytes(element: int) -> None:
    raw = field.encode(element)
    assert len(raw) == 33
    assert field.decode(raw) == element


@pytest.mark.parametrize("raw", [b"", bytes(32), bytes(34), b"\xff" * 33, PRIME.to_bytes(33, "little")])
def test_bytes_that_are_no_element_are_refused(raw: bytes) -> None:
    with pytest.raises(Malformed):
        field.decode(raw)


def test_the_largest_element_is_read() -> None:
    assert field.decode((PRIME - 1).to_bytes(33, "little")) == PRIME - 1


@pytest.mark.parametrize("element", [-1, PRIME])
def test_what_is_no_element_is_never_written(element: int) -> None:
    with pytest.raises(ValueError, match="below p"):
        field.encode(element)


@given(sharing=sharings(), seed=st.integers(0, 999), by=st.integers(1, PRIME - 1))
@settings(max_examples=30, deadline=None)
def test_a_forged_share_never_rebuilds_the_secret(sharing: tuple[bytes, int, list[int]], seed: int, by: int) -> None:
    secret, threshold, points = sharing
    shares = split(secret, threshold, points, seeded(seed))[:threshold]
    shares[0] = (shares[0] + by) % PRIME
    with contextlib.suppress(WrongShare):
        assert Weights.of(points[:threshold]).rebuild(shares) != secret


def test_shares_of_no_secret_are_refused() -> None:
    """256 bits and a little: p - 1 is an element and no secret."""
    with pytest.raises(WrongShare):
        Weights.of([1, 2]).rebuild([PRIME - 1, PRIME - 1])


@pytest.mark.parametrize(
    ("threshold", "points"),
    [(1, [1, 2, 3]), (0, [1, 2]), (4, [1, 2, 3]), (2, [0, 1]), (2, [1, 1]), (2, [1, 65536]), (2, [-1, 1]), (2, [])],
)
def test_a_sharing_that_hides_or_opens_nothing_is_never_made(threshold: int, points: list[int]) -> None:
    with pytest.raises(ValueError, match=r"threshold|points"):
        split(bytes(32), threshold, points, os.urandom)


@pytest.mark.parametrize("points", [[1, 1], [0, 2], [], [70000]])
def test_weights_of_points_that_are_none_are_never_made(points: list[int]) -> None:
    with pytest.raises(ValueError, match="points"):
        Weights.of(points)


@pytest.mark.parametrize("secret", [b"", bytes(31), bytes(33)])
def test_a_secret_of_another_length_is_never_shared(secret: bytes) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        split(secret, 2, [1, 2], os.urandom)


@given(numbers=st.lists(st.integers(1, PRIME - 1), min_size=1, max_size=9))
def test_inverses_are_inverses(numbers: list[int]) -> None:
    assert [one * inverse % PRIME for one, inverse in zip(numbers, field.inverses(numbers), strict=True)] == [1] * len(
        numbers
    )


@pytest.mark.parametrize("count", [0, 2, 4])
def test_shares_that_are_not_as_many_as_the_points_are_a_bug(count: int) -> None:
    with pytest.raises(ValueError, match="zip"):
        Weights.of([1, 2, 3]).rebuild([1] * count)


def test_the_weights_of_one_set_serve_every_secret() -> None:
    points = [2, 5, 9]
    weights = Weights.of(points)
    for secret in (bytes(32), b"\xff" * 32, bytes(range(32))):
        assert weights.rebuild(split(secret, 3, points, os.urandom)) == secret
