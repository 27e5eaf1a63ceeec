"""A corrupt member takes a group's sum to the edge of its ring: what others gave shows no more than elsewhere."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from coordinator.core.privacy.folding import folded
from coordinator.services import sums
from edge_runtime.protocol.claims import AdaptiveNorm
from edge_runtime.protocol.counted import Opened as Opened_
from edge_runtime.protocol.group import Opened
from edge_runtime.protocol.plan import Privacy, Summing
from edge_runtime.protocol.report import encode_report
from edge_runtime.protocol.secure_sum.lanes import Lanes, LaneVector
from edge_runtime.session import Session
from tests.coordinator.privacy.spending import distributed_plan, in_a_round, members, put_budget
from tests.coordinator.running import rounds_of, weights_of
from tests.coordinator.secure import SIX, SecurePhone
from tests.coordinator.test_sessions_in_groups import End, drive, session_of
from tests.programme import FIRST_WEIGHTS, MANIFEST, TASK, Home, replace


def lanes(bits: int = 24, most: int = 100, **more: Any) -> Lanes:
    return Lanes(
        **{"bits": bits, "clipping_norm": 1.0, "max_participants": most, "bounded": True, "folds": True, **more}
    )


LANES = lanes()
RING = 1 << 24
STEPS = int(LANES.scale)
"""Of one clipping norm."""


def centred(total: int) -> int:
    return (total + RING // 2) % RING - RING // 2


def read(total: int) -> float:
    """What is made of a lane's sum, in steps."""
    return float(folded(np.array([centred(total) / LANES.scale]), LANES)[0]) * LANES.scale


@example(total=RING // 2 - 1, more=STEPS)
@example(total=-(RING // 2), more=-STEPS)
@example(total=RING // 4 - 1, more=STEPS)
@given(total=st.integers(-(RING // 2), RING // 2 - 1), more=st.integers(-STEPS, STEPS))
@settings(max_examples=500, deadline=None)
def test_a_report_moves_a_sum_by_no_more_than_it_is_wherever_the_sum_stands(total: int, more: int) -> None:
    assert abs(read(total + more) - read(total)) <= abs(more) + 1e-3


def test_centred_sums_have_an_edge() -> None:
    """What folding is for: at the edge one step moves a centred sum by the whole ring."""
    assert abs(centred(RING // 2) - centred(RING // 2 - 1)) == RING - 1


@given(st.integers(-(RING // 4), RING // 4))
@settings(deadline=None)
def test_up_to_a_quarter_of_the_ring_nothing_changes(total: int) -> None:
    assert read(total) == pytest.approx(total, abs=1e-6)


# --- through the coordinator -------------------------------------------------------------------------------------

CENTRAL = replace(distributed_plan(SIX), privacy=Privacy.CENTRAL, noise_multiplier=1e-3)
EDGE = (RING // 2 - 40_000) % RING


def opened(home: Home, more: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """The update of a round in which one member takes each lane to the edge, and one gives `more` steps in each."""
    enrolled = members(home, SIX)
    put_budget(home, "recipients", rho=1e9).raise_for_status()
    home.start_task(CENTRAL, pool_size=SIX, rounds=1)
    phones = in_a_round(home, enrolled, "one")

    def given_by(phone: SecurePhone) -> LaneVector:
        lanes = np.zeros(phone.plan.lanes().count(phone.values), np.uint32)
        lanes[:-4] = {0: EDGE, 1: more}.get(phone.phone.number, 0)
        return lanes

    def summing(phone: SecurePhone, lanes: LaneVector) -> Session[End]:
        codec = phone.plan.lanes()
        return session_of(phone, encode_report(phone.assignment.participation, codec, codec.packed(lanes)))

    ends = drive(home, phones, {}, lambda phone: summing(phone, given_by(phone)))
    assert all(isinstance(end, Opened) for end in ends.values())
    after = weights_of(home, rounds_of(home, TASK)[0]["result_sha256"])
    return (after - FIRST_WEIGHTS)[2:].astype(np.float64)


@pytest.mark.parametrize(("more", "steps"), [(0, 40_000), (80_000, -40_000)])
def test_a_member_at_the_edge_learns_no_more_of_another_ones_report(home: Home, more: int, steps: int) -> None:
    """The noise is tiny here: 80,000 steps, which go over the edge, move the sum by 80,000 steps and no further."""
    expected = np.full(MANIFEST.shared_parameters, steps / CENTRAL.lanes().scale / SIX)
    assert opened(home, more) == pytest.approx(expected, abs=0.01)


def test_a_sum_that_is_only_centred_is_caught(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sums, "folded", lambda total, _lanes: total)
    moved = opened(home, 80_000)
    assert np.abs(moved).max() > 0.9 * CENTRAL.clipping_norm, "the whole ring"


def test_counts_are_folded_too_and_all_devices_within_are_far_from_the_edge() -> None:
    adaptive = AdaptiveNorm(quantile=0.5, smallest=0.1, largest=9.0, rate=0.2, count_noise=3.0)
    plan = replace(CENTRAL, noise_multiplier=1.0, adaptive=adaptive)
    counts = plan.count_lanes()
    assert counts is not None
    half = (RING // 2) / counts.scale

    def read(above: float) -> float:
        return sums._folded(plan, Opened_(np.zeros(1), above), None).above

    for everybody in (SIX / 2, -SIX / 2):
        assert read(everybody) == pytest.approx(everybody)
    assert read(half - 0.25) - read(-half + 0.25) == pytest.approx(0.5), "one device across the edge"


@given(norm=st.floats(1e-3, 1e3), most=st.integers(3, 1000), bits=st.integers(24, 32))
@settings(deadline=None)
def test_no_sum_of_honest_reports_is_changed(norm: float, most: int, bits: int) -> None:
    """All of the norm in one value, of each of n devices, rounded up."""
    plan = lanes(bits, most, clipping_norm=norm, folds=True)
    largest = most * (math.floor(plan.scale * norm) + 1)
    assert largest <= 1 << (bits - 2)
    assert folded(np.array([largest / plan.scale]), plan)[0] == largest / plan.scale


def test_only_masked_sums_under_noise_of_the_coordinator_fold() -> None:
    plain = replace(CENTRAL, summing=Summing.PLAIN, survivors=None, fewest_members=None)
    assert CENTRAL.lanes().folds
    assert replace(CENTRAL, privacy=Privacy.CORRELATED, separation=2).lanes().folds
    assert not plain.lanes().folds
    assert not distributed_plan(SIX).lanes().folds
    assert CENTRAL.lanes().scale == pytest.approx(plain.lanes().scale / 2, rel=1e-5)


def test_sums_of_rotated_lanes_cannot_be_folded() -> None:
    with pytest.raises(ValueError, match="rotated"):
        folded(np.zeros(4), lanes(20, rotation_seed=bytes(32)))
