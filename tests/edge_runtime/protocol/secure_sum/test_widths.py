"""Lanes of 20 to 32 bits: one packing, two scales, rotation below 24 bits, and nothing that wraps in silence."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.protocol.errors import InvalidPlan, LanesOutOfRange, ReportLength
from edge_runtime.protocol.report import encode_report, lanes_of_report, report_bytes
from edge_runtime.protocol.secure_sum import packing, rotation
from edge_runtime.protocol.secure_sum.lanes import ZERO_LANES, Lanes
from tests.edge_runtime.protocol.secure_sum import oracle
from tests.edge_runtime.protocol.secure_sum.groups import lanes_of

widths = st.integers(20, 32)
SEED = bytes(range(32))


@given(bits=widths, size=st.integers(0, 40), seed=st.integers(0, 99))
def test_packed_lanes_are_one_number_and_come_back(bits: int, size: int, seed: int) -> None:
    whole = np.random.default_rng(seed).integers(0, 1 << 32, size, dtype=np.uint64).astype(np.uint32)
    kept = [lane % (1 << bits) for lane in whole.tolist()]
    raw = packing.pack(whole, bits)
    assert raw == oracle.packed(kept, bits)
    assert len(raw) == packing.packed_bytes(size, bits)
    assert packing.unpack(raw, size, bits).tolist() == kept
    assert packing.unpack(memoryview(raw), size, bits).dtype == np.uint32


@given(bits=widths, size=st.integers(1, 40), by=st.sampled_from([-1, 1, 4]))
def test_packed_lanes_have_one_length(bits: int, size: int, by: int) -> None:
    with pytest.raises(ReportLength):
        packing.unpack(bytes(packing.packed_bytes(size, bits) + by), size, bits)


@given(bits=widths, size=st.integers(1, 15))
def test_bits_behind_the_last_lane_are_zero(bits: int, size: int) -> None:
    spare = packing.packed_bytes(size, bits) * 8 - size * bits
    raw = bytearray(packing.packed_bytes(size, bits))
    for bit in range(8 - spare, 8):
        raw[-1] = 1 << bit
        with pytest.raises(LanesOutOfRange):
            packing.unpack(bytes(raw), size, bits)


@pytest.mark.parametrize("bits", range(24, 33))
@pytest.mark.parametrize("most", [1, 3, 200, 1000])
def test_wide_lanes_never_wrap(bits: int, most: int) -> None:
    lanes = lanes_of(bits, most)
    half = 2 ** (bits - 1) - 1
    assert lanes.scale == (half - most) / most
    assert most * (lanes.scale * lanes.clipping_norm + 1) <= half * (1 + 1e-12)
    assert most * lanes.bound <= half


@pytest.mark.parametrize("bits", range(24, 33))
@pytest.mark.parametrize("most", [1, 3, 200, 1000])
def test_sums_of_lanes_that_fold_stay_within_a_quarter_of_the_ring(bits: int, most: int) -> None:
    lanes = lanes_of(bits, most, folds=True)
    assert not lanes_of(bits, most).folds
    assert lanes.scale == (2 ** (bits - 2) - 1 - most) / most
    assert most * (lanes.scale * lanes.clipping_norm + 1) <= 2 ** (bits - 2)


@pytest.mark.parametrize("bits", [24, 28, 32])
@pytest.mark.parametrize("noise", [0.3, 1.0, 5.0])
def test_wide_lanes_leave_nine_deviations_for_the_noise(bits: int, noise: float) -> None:
    lanes = lanes_of(bits, 100, noise_multiplier=noise, honest_survivors=70)
    sigma = noise / math.sqrt(70)
    assert lanes.noise == pytest.approx(sigma)
    used = 100 * (lanes.scale + 1) + 9 * math.sqrt(100) * sigma * lanes.scale
    assert used == pytest.approx(2 ** (bits - 1) - 1)


@pytest.mark.parametrize("bits", [20, 21, 22, 23])
@pytest.mark.parametrize(("most", "noise"), [(3, 0.0), (200, 0.0), (1000, 1.0)])
def test_narrow_lanes_leave_nine_deviations_of_the_sum(bits: int, most: int, noise: float) -> None:
    """Source: arXiv 2102.06387, 4.4: 9 deviations of signal, noise and rounding together are half the range."""
    lanes = lanes_of(bits, most, noise_multiplier=noise, honest_survivors=max(1, most // 2))
    variance = lanes.scale**2 * (most**2 / 4096 + most * lanes.noise**2) + most / 4
    assert 9 * math.sqrt(variance) == pytest.approx(2 ** (bits - 1))


@pytest.mark.parametrize("bits", [20, 21, 22, 23])
@pytest.mark.parametrize(("most", "norm", "noise"), [(3, 1.0, 0.0), (200, 0.5, 0.3), (1000, 4.0, 1.0)])
def test_the_scale_of_narrow_lanes_is_that_of_the_page(bits: int, most: int, norm: float, noise: float) -> None:
    """√(2^(2b) - 81 n) / (18 √(C² n²/4096 + n σ²)), to the last digits: rounding's share of the range is small."""
    lanes = replace(lanes_of(bits, most), clipping_norm=norm, noise_multiplier=noise, honest_survivors=2)
    variance = norm**2 * most**2 / 4096 + most * (noise * norm) ** 2 / 2
    assert math.isclose(lanes.scale, math.sqrt(4**bits - 81 * most) / (18 * math.sqrt(variance)), rel_tol=1e-14)


def test_the_bound_of_a_lane_is_the_norm_nine_deviations_and_rounding_or_all_of_the_range() -> None:
    assert lanes_of(24, 1).bound == 2**23 - 1
    assert lanes_of(24, 3).bound == (2**23 - 1) // 3
    assert lanes_of(20, 1).bound == 2**19 - 1, "after rotation the norm would be more than the range"
    noisy = replace(lanes_of(24, 100, noise_multiplier=0.5, honest_survivors=4), clipping_norm=2.0)
    assert noisy.bound == math.ceil(noisy.scale * (2.0 + 9 * 0.5)) + 1
    narrow = lanes_of(22, 100)
    assert narrow.bound == math.ceil(narrow.scale) + 1


def test_the_norm_of_the_integers_is_that_of_the_page_for_any_clipping_norm() -> None:
    for bits, parameters, padded in ((24, 100, 100), (20, 100, 4096)):
        lanes = replace(lanes_of(bits, 50, noise_multiplier=1.0), clipping_norm=3.0)
        steps = 3.0 * lanes.scale
        expected = math.sqrt(steps**2 + padded / 4 + steps + math.sqrt(padded) / 2)
        assert math.isclose(lanes.rounded_norm(parameters), expected, rel_tol=1e-14)


@pytest.mark.parametrize("sign", [1, -1])
def test_what_float32_adds_to_the_norm_is_cut_off(sign: int) -> None:
    """.1 is more in float32 than in float64: at 32 bits, alone in a sum, by 31 steps beyond what a lane can hold."""
    lanes = Lanes(bits=32, clipping_norm=0.1, max_participants=1)
    value = np.float32(0.1 * sign)
    assert abs(float(value)) > 0.1
    signed = lanes.encode(np.asarray([value, 0.0], np.float32), np.random.default_rng(0)).view(np.int32)
    assert abs(int(signed[0]) - sign * (2**31 - 2)) <= 1
    assert not signed[1:].any()


@pytest.mark.parametrize("value", [1.01, -1.01])
def test_a_value_beyond_the_norm_on_either_side_is_refused(value: float) -> None:
    lanes, rng = lanes_of(24, 3), np.random.default_rng(0)
    with pytest.raises(LanesOutOfRange, match="a value of the delta is beyond"):
        lanes.encode(np.asarray([0.0, value], np.float32), rng)
    assert lanes.encode(np.asarray([0.0, value / 1.01], np.float32), rng).size == 6


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_no_number_is_named(value: float) -> None:
    for delta in ([value], [0.5, value, -0.5]):
        with pytest.raises(LanesOutOfRange, match="not finite"):
            lanes_of(24, 3).encode(np.asarray(delta, np.float32), np.random.default_rng(0))


def test_the_norm_that_noise_must_hide_is_of_all_blocks_together() -> None:
    """Three blocks of values, each of them below the norm, and together above it."""
    lanes = lanes_of(24, 10, noise_multiplier=1.0)
    delta = np.full(3 * (1 << 14), 1.4 / math.sqrt(3 * (1 << 14)), np.float32)
    with pytest.raises(LanesOutOfRange, match="the delta is beyond the clipping norm"):
        lanes.encode(delta, np.random.default_rng(0))
    assert lanes.encode(delta / np.float32(1.5), np.random.default_rng(0)).size == delta.size + 4


@pytest.mark.parametrize(("above", "taken"), [(0.5e-6, True), (1.5e-6, False)])
def test_the_norm_that_noise_must_hide_is_held_to_a_millionth(above: float, taken: bool) -> None:
    """Two values so near to whole steps that rounding leaves them there, at the limit but for so much."""
    lanes = lanes_of(24, 10, noise_multiplier=1.0)
    square = lanes.rounded_norm(2) ** 2
    one = math.floor(lanes.scale) - 1
    other = math.isqrt(int(square * (1 + above) - one**2))
    assert abs((one**2 + other**2) / square - 1 - above) < 1e-7
    delta = np.asarray([(one + 0.02) / lanes.scale, (other + 0.02) / lanes.scale], np.float32)
    if taken:
        assert lanes.encode(delta, np.random.default_rng(0)).tolist() == [one, other, 0, 0, 0, 0]
    else:
        with pytest.raises(LanesOutOfRange, match="the delta is beyond the clipping norm"):
            lanes.encode(delta, np.random.default_rng(0))


def test_each_lane_is_rounded_by_itself() -> None:
    lanes = lanes_of(24, 3)
    delta = np.full(400, (1000 + 0.5) / lanes.scale, np.float32)
    found = np.bincount(lanes.encode(delta, np.random.default_rng(1))[:-ZERO_LANES] - 999, minlength=3)
    assert found.sum() == 400
    assert found[1] > 100
    assert found[2] > 100


def test_noise_and_participants_make_the_scale_coarser() -> None:
    for bits in (20, 24):
        scales = [lanes_of(bits, 100, noise_multiplier=noise).scale for noise in (0.0, 0.1, 1.0)]
        scales += [lanes_of(bits, 200, noise_multiplier=1.0).scale]
        assert scales == sorted(scales, reverse=True)


@given(blocks=st.integers(1, 3), seed=st.integers(0, 99))
@settings(max_examples=10, deadline=None)
def test_rotation_is_its_own_inverse_and_keeps_the_norm(blocks: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=4096 * blocks)
    turned = rotation.hadamard(values)
    assert np.allclose(rotation.hadamard(turned), values, atol=1e-12)
    assert np.linalg.norm(turned) == pytest.approx(np.linalg.norm(values))


def test_rotation_is_the_matrix_of_the_page() -> None:
    """Entry (i, j) of a block is (-1) to the number of common bits of i and j, over the root of 4,096."""
    for place in (0, 1, 63, 64, 4095, 2730):
        one = np.zeros(4096)
        one[place] = 1.0
        expected = [(-1) ** (place & other).bit_count() / 64 for other in range(4096)]
        assert rotation.hadamard(one).tolist() == expected


def test_signs_are_bits_of_a_key_stream() -> None:
    key = oracle.hkdf(SEED, bytes(32), b"edgewise/secsum/1/signs")
    words = oracle.key_stream(key, 64)
    expected = [1 - 2 * (word >> bit & 1) for word in words for bit in range(32)]
    following = rotation.signs(SEED)
    assert [*following(1024), *following(1024)] == expected


@pytest.mark.parametrize("place", [0, 17, 4095])
def test_after_rotation_no_value_holds_the_whole_norm(place: int) -> None:
    lanes = lanes_of(20, 10)
    delta = np.zeros(4096, np.float32)
    delta[place] = 1.0
    signed = lanes.unpack(lanes.pack(delta, np.random.default_rng(0)), 4096)[:-ZERO_LANES].astype(np.int64)
    signed[signed >= 1 << 19] -= 1 << 20
    assert np.abs(signed).max() <= lanes.scale / 64 + 1


@pytest.mark.parametrize("bits", range(20, 33))
@pytest.mark.parametrize("parameters", [1, 100, 4096, 5000])
def test_a_sum_opens_to_the_sum_of_its_deltas(bits: int, parameters: int) -> None:
    lanes, rng = lanes_of(bits, 5), np.random.default_rng(bits)
    deltas = rng.normal(size=(5, parameters)).astype(np.float32)
    deltas /= np.linalg.norm(deltas, axis=1, keepdims=True) * np.float32(1.0001)
    total = np.zeros(lanes.count(parameters), np.uint32)
    for delta in deltas:
        raw = lanes.pack(delta, rng)
        assert len(raw) == lanes.packed_bytes(parameters)
        one = lanes.unpack(raw, parameters)
        lanes.check_plain(one)
        total += one
    step = 5 / lanes.scale * (64 if lanes.rotated else 1)
    opened = lanes.open_sum(total, parameters)
    assert opened.shape == (parameters,)
    assert np.abs(opened - deltas.astype(np.float64).sum(axis=0)).max() < step * 1.0001


def test_narrow_lanes_at_the_largest_norm_do_not_wrap() -> None:
    """All devices agree on one weight: the worst for a sum, and after rotation no more than others."""
    lanes, rng = lanes_of(20, 200), np.random.default_rng(0)
    delta = np.zeros(4096, np.float32)
    delta[5] = 1.0
    total = sum((lanes.encode(delta, rng).astype(np.int64) for _report in range(200)), np.int64(0)) % (1 << 32)
    opened = lanes.open_sum(np.asarray(total, np.uint32), 4096)
    assert opened[5] == pytest.approx(200, rel=0.02)
    assert np.abs(np.delete(opened, 5)).max() < 5


def test_conditional_rounding_bounds_the_norm_that_noise_must_hide() -> None:
    lanes, rng = lanes_of(24, 1000, noise_multiplier=30.0), np.random.default_rng(1)
    delta = rng.normal(size=3000).astype(np.float32)
    delta /= np.float32(np.linalg.norm(delta))
    steps = lanes.scale
    assert lanes.rounded_norm(3000) ** 2 == pytest.approx(steps**2 + 750 + steps + math.sqrt(3000) / 2)
    above = 0
    for _time in range(50):
        signed = lanes.encode(delta, rng).view(np.int32).astype(np.float64)
        assert np.linalg.norm(signed) <= lanes.rounded_norm(3000) * 1.00001
        loose = np.floor(delta * steps + rng.random(3000))
        above += bool(np.linalg.norm(loose) > lanes.rounded_norm(3000))
    assert 0 < above < 35, "rounding once is sometimes too long, and at least .39 of the time it is not"


def test_a_delta_beyond_the_norm_is_never_noised() -> None:
    lanes = lanes_of(24, 10, noise_multiplier=1.0)
    with pytest.raises(LanesOutOfRange, match="clipping norm"):
        lanes.encode(np.full(10, 0.9, np.float32), np.random.default_rng(0))


@pytest.mark.parametrize("bits", [20, 23, 24, 27])
def test_a_plain_report_of_any_width_is_checked(bits: int) -> None:
    lanes = lanes_of(bits, 5)
    good = np.zeros(lanes.count(3), np.uint32)
    good[0], good[1] = lanes.bound, (1 << bits) - lanes.bound
    lanes.check_plain(good)
    spoils: list[tuple[int, int]] = [(0, lanes.bound + 1), (1, (1 << bits) - lanes.bound - 1), (-1, 1), (-4, 1)]
    for place, value in spoils:
        bad = good.copy()
        bad[place] = value
        with pytest.raises(LanesOutOfRange):
            lanes.check_plain(bad)


@pytest.mark.parametrize("bits", [20, 22, 24, 31])
def test_a_report_of_any_width_has_one_header_and_one_length(bits: int) -> None:
    lanes = lanes_of(bits, 5)
    raw = encode_report("ab" * 16, lanes, lanes.pack(np.zeros(7, np.float32), np.random.default_rng(0)))
    assert len(raw) == report_bytes(lanes, 7)
    assert lanes_of_report(raw, "ab" * 16, lanes, 7).tobytes() == raw[32:]
    with pytest.raises(ReportLength):
        lanes_of_report(raw, "ab" * 16, lanes, 9000)


@pytest.mark.parametrize("parameters", [1100, 4096, 4097, 100_000, 1_000_000, 6_600_001])
def test_a_report_is_at_most_76_hundredths_of_float32(parameters: int) -> None:
    assert report_bytes(lanes_of(24, 100), parameters) <= 0.76 * 4 * parameters


@pytest.mark.parametrize(
    ("bits", "most", "more"),
    [
        (19, 5, {}), (33, 5, {}), (24, 5, {"rotation_seed": SEED}), (20, 5, {"rotation_seed": b""}),
        (20, 5, {"rotation_seed": bytes(31)}), (24, 5, {"noise_multiplier": -1.0}),
        (24, 5, {"noise_multiplier": math.nan}), (24, 5, {"noise_multiplier": math.inf}),
        (24, 5, {"noise_multiplier": 1001.0}), (24, 5, {"honest_survivors": 0}), (24, 5, {"honest_survivors": 6}),
        (20, 2049, {}), (24, (1 << 15) + 1, {}),
    ],
)  # fmt: skip
def test_lanes_that_could_overflow_or_hold_nothing_are_refused(bits: int, most: int, more: dict[str, Any]) -> None:
    with pytest.raises(InvalidPlan):
        lanes_of(bits, most, **more)


def test_numbers_at_their_limits_are_taken_and_none_beyond() -> None:
    for norm, beyond in ((1e-9, 0.999e-9), (1e6, 1_000_000.5)):
        assert replace(lanes_of(24, 3), clipping_norm=norm).scale > 0
        with pytest.raises(InvalidPlan, match="clipping_norm is 1e-09 to 1000000"):
            replace(lanes_of(24, 3), clipping_norm=beyond)
    assert lanes_of(24, 3, noise_multiplier=1000.0).noise == 1000.0
    with pytest.raises(InvalidPlan, match="noise_multiplier is 0 to 1000"):
        lanes_of(24, 3, noise_multiplier=1000.5)
    with pytest.raises(InvalidPlan, match="0 participants"):
        lanes_of(24, 0)


def test_lanes_that_say_nothing_more_have_no_noise() -> None:
    plain = Lanes(bits=24, clipping_norm=1.0, max_participants=3)
    assert plain == Lanes(24, 1.0, 3, noise_multiplier=0.0, honest_survivors=1, rotation_seed=b"", bounded=False)
    assert (plain.noise, plain.rotated) == (0.0, False)


def test_lanes_that_are_not_spoken_are_refused_with_those_that_are() -> None:
    with pytest.raises(InvalidPlan, match="lanes of 33 bits are not spoken; only 20 to 32"):
        lanes_of(33, 5)


@pytest.mark.parametrize("bits", range(20, 33))
@pytest.mark.parametrize("norm", [1e-9, 1.0, 1e6])
def test_the_norm_is_at_least_one_step_with_the_most_participants_and_the_most_noise(bits: int, norm: float) -> None:
    lanes = replace(lanes_of(bits, 1 << (bits - 9)), clipping_norm=norm, noise_multiplier=1000.0)
    assert lanes.scale * norm >= 1


def test_a_sum_of_another_length_is_a_bug() -> None:
    with pytest.raises(ValueError, match="lanes is not one of"):
        lanes_of(24, 5).open_sum(np.zeros(9, np.uint32), 6)
    with pytest.raises(ValueError, match="lanes is not one of"):
        lanes_of(20, 5).open_sum(np.zeros(9, np.uint32))


def wide(lanes: Lanes) -> float:
    return ((1 << (lanes.bits - 1)) - 1) / (lanes.max_participants * lanes.clipping_norm)


MUTANTS: list[tuple[str, Callable[[Lanes], float]]] = [
    ("no room for rounding", wide),
    ("twice as fine", lambda lanes: 2 * wide(lanes)),
]


@pytest.mark.parametrize(("what", "scale"), MUTANTS)
def test_a_scale_without_room_is_caught(
    what: str, scale: Callable[[Lanes], float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Lanes, "scale", property(scale))
    with pytest.raises(AssertionError):
        test_wide_lanes_never_wrap(24, 200)
