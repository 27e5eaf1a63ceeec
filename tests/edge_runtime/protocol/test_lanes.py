"""The report codec: sums are exact in any order, never wrap, and open to what was put in."""

from __future__ import annotations

import contextlib
import math
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.privacy import clip, private_report
from edge_runtime.protocol.errors import InvalidPlan, LanesOutOfRange, NonFiniteTraining, ReportLength
from edge_runtime.protocol.report import REPORT_HEADER, lanes_of_report
from edge_runtime.protocol.secure_sum.lanes import ZERO_LANES, Lanes, LaneVector, add_into, sum_lanes
from tests.vectors.make import PARTICIPATION, PLAN

Array = npt.NDArray[Any]

norms = st.floats(2e-9, 9e5)
groups = st.integers(1, 1 << 23)
FEW = st.integers(1, 40)
HALF = (1 << 31) - 1


def seeded(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def packed(lanes: Lanes, delta: Array, seed: int = 0) -> LaneVector:
    return lanes.unpack(lanes.pack(delta.astype(np.float32), seeded(seed)), delta.size)


def added(reports: list[LaneVector]) -> LaneVector:
    total = np.zeros_like(reports[0])
    for report in reports:
        add_into(total, report)
    return total


def extremes(lanes: Lanes) -> list[LaneVector]:
    """n reports that put all of the norm into one lane: the worst that honest devices can do."""
    delta = np.asarray([lanes.clipping_norm, -lanes.clipping_norm])
    return [packed(lanes, delta, seed) for seed in range(lanes.max_participants)]


@given(
    deltas=st.lists(st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=3), min_size=2, max_size=8),
    order=st.randoms(use_true_random=False),
)
def test_a_sum_does_not_depend_on_the_order(deltas: list[list[float]], order: object) -> None:
    lanes = Lanes(bits=32, clipping_norm=1.0, max_participants=8)
    reports = [packed(lanes, np.asarray(delta), seed) for seed, delta in enumerate(deltas)]
    shuffled = list(reports)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    assert added(reports).tobytes() == added(shuffled).tobytes()


@given(norm=norms, most=groups)
def test_n_bounds_never_leave_the_signed_range(norm: float, most: int) -> None:
    lanes = Lanes(bits=32, clipping_norm=norm, max_participants=most)
    assert most * lanes.bound <= HALF
    assert math.isfinite(lanes.scale)


@given(norm=norms, most=groups, seed=st.integers(0, 1000))
def test_no_honest_lane_is_beyond_the_bound(norm: float, most: int, seed: int) -> None:
    lanes = Lanes(bits=32, clipping_norm=norm, max_participants=most)
    whole = float(np.float32(norm)) if np.float32(norm) <= norm else norm
    report = packed(lanes, np.asarray([whole, -whole, whole / 2]), seed)
    lanes.check_plain(report)
    assert np.abs(report[:-ZERO_LANES].view(np.int32).astype(np.int64)).max() <= lanes.bound


@given(norm=norms, most=FEW)
def test_n_reports_at_the_norm_do_not_wrap(norm: float, most: int) -> None:
    lanes = Lanes(bits=32, clipping_norm=float(np.float32(norm)), max_participants=most)
    up, down = lanes.open_sum(added(extremes(lanes)))
    step = most / lanes.scale
    assert math.isclose(up, most * lanes.clipping_norm, rel_tol=1e-6, abs_tol=step)
    assert math.isclose(down, -most * lanes.clipping_norm, rel_tol=1e-6, abs_tol=step)


def test_the_most_reports_at_the_norm_do_not_wrap() -> None:
    lanes = Lanes(bits=32, clipping_norm=1.0, max_participants=1 << 23)
    report = packed(lanes, np.asarray([1.0, -1.0]), 3)
    # 2^23 equal reports, added as one product: what the running sum would hold.
    total = (report.astype(np.uint64) * (1 << 23) % (1 << 32)).astype(np.uint32)
    up, down = lanes.open_sum(total)
    assert 0.99 * (1 << 23) < up < 1.01 * (1 << 23)
    assert -1.01 * (1 << 23) < down < -0.99 * (1 << 23)


def test_a_scale_that_ignores_the_participants_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lanes, "scale", property(lambda lanes: (HALF - 1) / lanes.clipping_norm))
    with pytest.raises(AssertionError):
        test_n_reports_at_the_norm_do_not_wrap.hypothesis.inner_test(norm=1.0, most=2)  # type: ignore[attr-defined]


def test_a_bound_without_room_for_rounding_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lanes, "bound", property(lambda lanes: HALF // lanes.max_participants - 1))
    check = test_no_honest_lane_is_beyond_the_bound.hypothesis.inner_test  # type: ignore[attr-defined]
    caught = 0
    for seed in range(50):
        with contextlib.suppress(AssertionError):
            try:
                check(norm=1.0, most=7, seed=seed)
            except LanesOutOfRange:
                caught += 1
    assert caught > 0


@given(values=st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=20), most=FEW, seed=st.integers(0, 99))
def test_the_error_of_a_report_is_below_one_step(values: list[float], most: int, seed: int) -> None:
    lanes = Lanes(bits=32, clipping_norm=1.0, max_participants=most)
    delta = np.asarray(values)
    opened = lanes.open_sum(packed(lanes, delta, seed))
    assert np.abs(opened - delta).max() < 1.0000001 / lanes.scale


def test_rounding_is_right_on_average() -> None:
    """10,000 roundings of ten fractions: each mean within five standard errors of the value."""
    lanes = Lanes(bits=32, clipping_norm=1.0, max_participants=1 << 22)  # coarse: 511 steps
    fractions = np.linspace(0.05, 0.95, 10)
    delta = np.repeat((100 + fractions) / lanes.scale, 10_000).astype(np.float32)
    exact = delta.astype(np.float64)[::10_000] * lanes.scale
    means = packed(lanes, delta, 1)[:-ZERO_LANES].view(np.int32).reshape(10, -1).mean(axis=1)
    spread = np.sqrt((exact % 1) * (1 - exact % 1) / 10_000)
    assert (np.abs(means - exact) < 5 * spread).all()


def test_rounding_to_the_nearest_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def nearest(lanes: Lanes, delta: Array, rng: object) -> bytes:
        rounded = np.zeros(delta.size + ZERO_LANES, np.uint32)
        rounded[: delta.size] = np.rint(delta.astype(np.float64) * lanes.scale).astype(np.int64).astype(np.uint32)
        return rounded.tobytes()

    monkeypatch.setattr(Lanes, "pack", nearest)
    with pytest.raises(AssertionError):
        test_rounding_is_right_on_average()


@given(
    values=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=30),
    norm=st.floats(1e-6, 1e6),
)
def test_a_clipped_delta_has_at_most_the_clipping_norm(values: list[float], norm: float) -> None:
    delta = np.asarray(values, np.float32)
    clipped = clip(delta, norm)
    assert np.linalg.norm(clipped.astype(np.float64)) <= norm * (1 + 1e-6)
    if np.linalg.norm(delta.astype(np.float64)) <= norm:
        assert clipped is delta


def test_clipping_keeps_the_direction() -> None:
    assert np.allclose(clip(np.asarray([30.0, -40.0], np.float32), 5.0), [3.0, -4.0])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_delta_that_is_not_finite_is_named(value: float) -> None:
    delta = np.zeros(6, np.float32)
    delta[2] = value
    with pytest.raises(NonFiniteTraining):
        private_report(PARTICIPATION, delta, PLAN, seeded())
    with pytest.raises(LanesOutOfRange):
        PLAN.lanes().pack(delta, seeded())


def test_a_delta_that_was_not_clipped_is_refused() -> None:
    with pytest.raises(LanesOutOfRange, match="beyond the clipping norm"):
        PLAN.lanes().pack(np.asarray([PLAN.clipping_norm * 1.01], np.float32), seeded())


LANES = Lanes(bits=32, clipping_norm=1.0, max_participants=10)


@pytest.mark.parametrize("value", [LANES.bound + 1, -LANES.bound - 1, HALF, -HALF - 1, HALF - 1])
def test_a_lane_outside_the_bound_is_refused(value: int) -> None:
    report = packed(LANES, np.zeros(5))
    report = report.copy()
    report[3] = value % (1 << 32)
    with pytest.raises(LanesOutOfRange, match="a lane is outside"):
        LANES.check_plain(report)


@pytest.mark.parametrize("value", [LANES.bound, -LANES.bound, 0, 1, -1])
def test_a_lane_at_the_bound_is_taken(value: int) -> None:
    report = packed(LANES, np.zeros(5)).copy()
    report[3] = value % (1 << 32)
    LANES.check_plain(report)
    assert report[:-ZERO_LANES].view(np.int32)[3] == value


@pytest.mark.parametrize("lane", range(ZERO_LANES))
def test_a_zero_lane_that_is_not_zero_is_refused_in_a_report_and_in_a_sum(lane: int) -> None:
    report = packed(LANES, np.zeros(5)).copy()
    report[5 + lane] = 1
    with pytest.raises(LanesOutOfRange, match="zero lanes are not zero"):
        LANES.check_plain(report)
    with pytest.raises(LanesOutOfRange, match="do not sum to zero"):
        LANES.open_sum(report)


def test_lanes_of_another_length_are_refused() -> None:
    raw = LANES.pack(np.zeros(5, np.float32), seeded())
    for wrong in (raw[:-1], raw[:-4], raw + b"\0", b""):
        with pytest.raises(ReportLength):
            LANES.unpack(wrong, 5)
    with pytest.raises(ReportLength):
        LANES.unpack(raw, 4)


@given(parameters=st.integers(0, 10_000))
def test_the_length_of_a_report_is_known_beforehand(parameters: int) -> None:
    raw = LANES.pack(np.zeros(parameters, np.float32), seeded())
    assert len(raw) == LANES.packed_bytes(parameters) == 4 * (parameters + ZERO_LANES)


def test_an_empty_delta_is_four_zero_lanes() -> None:
    report = packed(LANES, np.zeros(0))
    LANES.check_plain(report)
    assert report.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("bits", "norm", "most"),
    [
        (33, 1.0, 1),
        (19, 1.0, 1),
        (0, 1.0, 1),
        (64, 1.0, 1),
        (32, 1.0, 0),
        (32, 1.0, -1),
        (32, 1.0, (1 << 23) + 1),
        (32, 0.0, 1),
        (32, -1.0, 1),
        (32, math.nan, 1),
        (32, math.inf, 1),
        (32, 1e-10, 1),
        (32, 1.1e6, 1),
    ],
)
def test_impossible_lanes_are_an_invalid_plan(bits: int, norm: float, most: int) -> None:
    with pytest.raises(InvalidPlan):
        Lanes(bits=bits, clipping_norm=norm, max_participants=most)


@given(most=st.lists(groups, min_size=2, max_size=5, unique=True).map(sorted))
def test_more_participants_leave_a_coarser_scale(most: list[int]) -> None:
    scales = [Lanes(bits=32, clipping_norm=1.0, max_participants=one).scale for one in most]
    assert all(coarse < fine for fine, coarse in pairwise(scales))


def test_a_report_is_its_header_and_its_lanes() -> None:
    raw = private_report(PARTICIPATION, np.zeros(6, np.float32), PLAN, seeded())
    assert lanes_of_report(raw, PARTICIPATION, PLAN.lanes(), 6).tobytes() == raw[REPORT_HEADER.size :]
    assert REPORT_HEADER.size % 4 == 0


def test_an_empty_sum_is_never_made() -> None:
    with pytest.raises(ValueError, match="nothing to add up"):
        sum_lanes([])


@given(reports=st.lists(st.lists(st.integers(0, (1 << 32) - 1), min_size=3, max_size=3), min_size=1, max_size=9))
def test_a_sum_is_that_of_whole_numbers_modulo_two_to_the_32(reports: list[list[int]]) -> None:
    vectors = [np.asarray(report, np.uint32) for report in reports]
    before = [vector.copy() for vector in vectors]
    assert sum_lanes(vectors).tolist() == [sum(lane) % (1 << 32) for lane in zip(*reports, strict=True)]
    assert all((vector == kept).all() for vector, kept in zip(vectors, before, strict=True)), "no report is changed"
