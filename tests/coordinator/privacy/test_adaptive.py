"""A clipping norm that adapts, over HTTP: learned from noised counts, signed in each round's header, charged with z."""

from __future__ import annotations

import dataclasses
import functools
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.core.privacy.clipping import STEP_LOG_LIMIT, next_norm
from coordinator.core.privacy.plans import cost_of, count_noise, sum_noise
from coordinator.core.task_settings import Mode
from coordinator.services import hiding
from edge_runtime.privacy import private_report
from edge_runtime.protocol import wire
from edge_runtime.protocol.checkin import Assignment
from edge_runtime.protocol.claims import AdaptiveNorm
from edge_runtime.protocol.group import Opened
from edge_runtime.protocol.header import RoundHeader, SignedRound, header_path, verify_header
from edge_runtime.protocol.keys import digest
from edge_runtime.protocol.noise import NoiseSource
from edge_runtime.protocol.plan import Plan, Privacy
from edge_runtime.protocol.reasons import Outcome
from edge_runtime.protocol.secure_sum.lanes import Delta
from edge_runtime.session import Session
from tests.coordinator.asking import ask, send_report
from tests.coordinator.privacy.spending import (
    CENTRAL,
    FEW,
    NOISE,
    RHO,
    budget_of,
    distributed_plan,
    in_a_round,
    members,
    put_budget,
)
from tests.coordinator.running import begun, rounds_of, task_of, weights_of
from tests.coordinator.secure import SIX, SecurePhone, sums_seen
from tests.coordinator.test_sessions_in_groups import drive, session_of
from tests.programme import (
    FIRST_WEIGHTS,
    MANIFEST,
    ROOTS,
    TASK,
    Home,
    Phone,
    replace,
)

SHARED = MANIFEST.shared_parameters
ADAPTIVE = AdaptiveNorm(quantile=0.5, smallest=0.05, largest=50.0, rate=0.5, count_noise=3.0)
ALONE = replace(CENTRAL, goal=1, expected_participants=1, adaptive=ADAPTIVE)
SEED = b"\x07" * 32


# --- the arithmetic ----------------------------------------------------------------------------------------------


def settled(quantile: float, there: float, given_of: Any) -> float:
    """Where the norm settles if only a share of those expected are there: as a quantile of the deltas' norms."""
    lengths = np.random.default_rng(3).lognormal(1.0, 0.5, 4000)
    adaptive, norm = dataclasses.replace(ADAPTIVE, quantile=quantile), 0.5
    for _round in range(300):
        came = lengths[: int(there * lengths.size)]
        counted = sum(given_of(adaptive, bool(one <= norm)) for one in came)
        norm = next_norm(adaptive, norm, counted / lengths.size)
    return float((lengths <= norm).mean())


@pytest.mark.parametrize("quantile", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("there", [1.0, 0.6])
def test_the_norm_settles_at_the_quantile_however_many_fall_silent(quantile: float, there: float) -> None:
    found = settled(quantile, there, lambda adaptive, within: adaptive.given(within=within))
    assert found == pytest.approx(quantile, abs=0.03)


def test_counts_of_plus_or_minus_a_half_would_settle_elsewhere_when_some_fall_silent() -> None:
    def halves(adaptive: AdaptiveNorm, within: bool) -> float:
        return (0.5 if within else -0.5) - (adaptive.quantile - 0.5) / 0.6  # the quantile of those expected

    assert abs(settled(0.8, 0.6, halves) - 0.8) > 0.1


@given(norm=st.floats(0.05, 50), share=st.floats(-1e9, 1e9))
@settings(deadline=None)
def test_no_count_takes_the_norm_out_of_its_bounds_or_far(norm: float, share: float) -> None:
    found = next_norm(ADAPTIVE, norm, share)
    assert ADAPTIVE.smallest <= found <= ADAPTIVE.largest
    assert abs(math.log(found / norm)) <= STEP_LOG_LIMIT + 1e-9
    assert (found <= norm) if share >= 0 else (found >= norm)


@pytest.mark.parametrize("quantile", [0.5, 0.8])
@pytest.mark.parametrize("plan", [CENTRAL, distributed_plan(SIX)], ids=["central", "distributed"])
def test_deltas_and_counts_cost_what_the_noise_multiplier_says(plan: Plan, quantile: float) -> None:
    adapts = replace(plan, adaptive=dataclasses.replace(ADAPTIVE, quantile=quantile))
    cost = cost_of(adapts, adapts.values(SHARED))
    assert RHO <= (cost.recipients or 0.0) <= 1.001 * RHO, "rounding costs a little"


# --- central -----------------------------------------------------------------------------------------------------


def seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the coordinator draw this seed for every round's noise."""
    monkeypatch.setattr(hiding, "secrets", SimpleNamespace(token_bytes=lambda count: SEED[:count]))


def header_of(home: Home, phone: Phone, assignment: Assignment) -> RoundHeader:
    answer = ask(home, phone, "GET", header_path(assignment.participation)).raise_for_status()
    return verify_header(
        wire.decode(SignedRound, answer.content),
        ROOTS.coordinator,
        wire.decode(Plan, assignment.plan),
        plan_sha256=digest(assignment.plan).hex(),
        round_=assignment.round,
        checkpoint_sha256=assignment.checkpoint_sha256,
    )


def started(home: Home, plan: Plan = ALONE, phones: int = 2, **more: Any) -> list[Phone]:
    home.publish()
    found = [home.phone(number) for number in range(phones)]
    put_budget(home, "recipients", rho=9.0).raise_for_status()
    home.start_task(plan, **{"pool_size": 1, "rounds": 3, **more})
    return found


def one_round(home: Home, phone: Phone, visit: str, length: float) -> float:
    """One phone reports a delta of this length, as a device does; the norm that it was told."""
    (assignment,) = begun(home, [phone], visit)
    assert assignment is not None
    norm = header_of(home, phone, assignment).clipping_norm
    sent(home, phone, assignment, norm, length)
    return norm


def sent(home: Home, phone: Phone, assignment: Assignment, norm: float, length: float) -> None:
    """The phone's report of a delta of this length; the coordinator makes of it what it can."""
    delta = np.full(SHARED, length / math.sqrt(SHARED), np.float32)
    plan, rng = wire.decode(Plan, assignment.plan), np.random.default_rng(1)
    report = private_report(assignment.participation, delta, plan, rng, clipping_norm=norm)
    assert send_report(home, phone, assignment, report).status_code == 200
    home.look()


def test_the_norm_moves_by_the_noised_count_and_the_next_round_has_it(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeded(monkeypatch)
    phone, other = started(home)
    counts = count_noise(ALONE)
    assert counts is not None
    drawn = float(counts.drawn(1, SEED, b"count")[0]) * counts.step
    norm, told, weights = ALONE.clipping_norm, [], FIRST_WEIGHTS
    for number, (who, length) in enumerate(((phone, 0.2), (other, 30.0), (phone, 0.2))):
        told.append(one_round(home, who, f"visit {number}", length))
        assert told[-1] == norm
        after = weights_of(home, rounds_of(home, TASK)[number]["result_sha256"])
        noise = sum_noise(ALONE, SHARED, norm)
        given_ = min(length, norm) / math.sqrt(SHARED) + noise.drawn(SHARED, SEED) * noise.step
        assert np.allclose((after - weights)[2:], given_, atol=1e-5 * np.abs(given_).max()), "at the round's norm"
        norm = next_norm(ADAPTIVE, norm, (0.5 if length <= norm else -0.5) + drawn)
        weights = after
        assert task_of(home, TASK)["clipping_norm"] == pytest.approx(norm, rel=1e-4)
        norm = task_of(home, TASK)["clipping_norm"]
    assert [one["clipping_norm"] for one in rounds_of(home, TASK)] == told
    assert len(set(told)) == 3
    assert budget_of(home, "recipients")["spent"] == pytest.approx(3 * RHO, rel=1e-3)


# --- buffered ----------------------------------------------------------------------------------------------------


def test_an_update_of_several_rounds_moves_the_norm_once_by_all_their_counts(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeded(monkeypatch)
    plan = replace(ALONE, goal=2, expected_participants=2, min_reports=1)
    phone, other = started(home, plan, mode=Mode.BUFFERED, rounds=None, pool_size=1)
    for number, who in enumerate((phone, other)):
        assert one_round(home, who, f"visit {number}", 0.2) == plan.clipping_norm
    counts = count_noise(plan)
    assert counts is not None
    drawn = float(counts.drawn(1, SEED, b"count")[0]) * counts.step
    expected = next_norm(ADAPTIVE, plan.clipping_norm, (1.0 + 2 * drawn) / 2)
    assert task_of(home, TASK)["clipping_norm"] == pytest.approx(expected, rel=1e-4)


# --- distributed -------------------------------------------------------------------------------------------------

LENGTHS = (0.1, 0.1, 0.1, 30.0, 30.0, 30.0)


def summing(phone: SecurePhone, norm: float, delta: Delta | None = None) -> Session[Opened | Outcome]:
    """What a device does in its group, with a delta of its own length unless it is given."""
    assignment, plan = phone.assignment, phone.plan
    of_its_own = np.full(SHARED, LENGTHS[phone.phone.number] / math.sqrt(SHARED), np.float32)
    report = private_report(
        assignment.participation,
        of_its_own if delta is None else delta,
        plan,
        np.random.default_rng(phone.phone.number),
        clipping_norm=norm,
        simulated_noise=NoiseSource(digest(b"noise", phone.device_id.encode(), assignment.participation.encode())),
    )
    return session_of(phone, report, norm)


def signed(lanes: list[int]) -> Any:
    """Lanes of 24 bits as whole numbers around zero."""
    found = np.array(lanes, np.int64)
    return np.where(found >= 1 << 23, found - (1 << 24), found)


def test_devices_add_the_noise_of_the_count_and_the_norm_follows_what_is_opened(home: Home) -> None:
    plan = distributed_plan(SIX, adaptive=ADAPTIVE)
    counts = plan.count_lanes()
    assert counts is not None
    enrolled = members(home, SIX)
    put_budget(home, "coordinator", rho=9.0).raise_for_status()
    home.start_task(plan, pool_size=SIX, rounds=2)
    norm, weights = plan.clipping_norm, FIRST_WEIGHTS
    for number in range(2):
        phones = in_a_round(home, enrolled, f"visit {number}")
        told = {header_of(home, one.phone, one.assignment).clipping_norm for one in phones}
        assert told == {norm}
        with sums_seen(home) as sums:
            ends = drive(home, phones, {}, functools.partial(summing, norm=norm))
        assert all(isinstance(end, Opened) for end in ends.values())
        *deltas, count, _a, _b, _c, _d = signed(sums[0]).tolist()
        after = weights_of(home, rounds_of(home, TASK)[number]["result_sha256"])
        moved = np.array(deltas) / plan.lanes(norm).scale / SIX
        assert np.allclose((after - weights)[2:], moved, atol=1e-5 * np.abs(moved).max())
        norm = next_norm(ADAPTIVE, norm, count / counts.scale / SIX)
        assert rounds_of(home, TASK)[number]["clipping_norm"] in told
        assert task_of(home, TASK)["clipping_norm"] == pytest.approx(norm, rel=1e-12)
        weights = after
    assert budget_of(home)["spent"] == pytest.approx(2 / (2 * NOISE**2), rel=1e-2)


def test_a_device_that_was_told_another_norm_spoils_no_sum_and_is_in_none(home: Home) -> None:
    """The coordinator's lie to one device ends as any other contradiction in a group: nothing of it is opened."""
    enrolled = members(home, FEW)
    put_budget(home, "coordinator", rho=9.0).raise_for_status()
    home.start_task(distributed_plan(FEW, adaptive=ADAPTIVE), pool_size=FEW, rounds=1)
    phones = in_a_round(home, enrolled, "one")

    def told(phone: SecurePhone) -> Session[Opened | Outcome]:
        return summing(phone, 7.0 if phone is phones[0] else ALONE.clipping_norm)

    with sums_seen(home) as sums:
        ends = drive(home, phones, {}, told)
    assert sums == []
    assert not any(isinstance(end, Opened) for end in ends.values())


def test_a_lanes_room_follows_the_rounds_norm_where_sums_are_folded(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Central noise over masked sums: all of the norm in one value, of each device, after the norm has grown."""
    seeded(monkeypatch)
    plan = replace(
        distributed_plan(SIX), privacy=Privacy.CENTRAL, noise_multiplier=0.01, clipping_norm=0.1, adaptive=ADAPTIVE
    )
    enrolled = members(home, SIX)
    put_budget(home, "recipients", rho=1e9).raise_for_status()
    home.start_task(plan, pool_size=SIX, rounds=2)
    weights = FIRST_WEIGHTS
    for number in range(2):
        phones = in_a_round(home, enrolled, f"visit {number}")
        norm = header_of(home, phones[0].phone, phones[0].assignment).clipping_norm
        delta = np.zeros(SHARED, np.float32)
        delta[0] = 30.0
        ends = drive(home, phones, {}, functools.partial(summing, norm=norm, delta=delta))
        assert all(isinstance(end, Opened) for end in ends.values())
        after = weights_of(home, rounds_of(home, TASK)[number]["result_sha256"])
        assert (after - weights)[2] == pytest.approx(norm, rel=0.05), "the mean of six that all give their norm"
        weights = after
    assert norm > 1.1 * plan.clipping_norm


def test_the_counts_of_all_groups_of_a_round_move_the_norm(home: Home) -> None:
    plan = distributed_plan(FEW, adaptive=ADAPTIVE)
    counts = plan.count_lanes()
    assert counts is not None
    enrolled = members(home, 2 * FEW)
    put_budget(home, "coordinator", rho=9.0).raise_for_status()
    home.start_task(plan, pool_size=2 * FEW, rounds=1)
    phones = in_a_round(home, enrolled, "one")
    with sums_seen(home) as sums:
        drive(home, phones, {}, functools.partial(summing, norm=plan.clipping_norm))
    assert len(sums) == 2
    above = sum(signed(one).tolist()[-5] for one in sums) / counts.scale
    expected = next_norm(ADAPTIVE, plan.clipping_norm, above / (2 * FEW))
    assert task_of(home, TASK)["clipping_norm"] == pytest.approx(expected, rel=1e-12)


def test_a_rounds_norm_is_that_of_when_it_chose_and_stays(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rounds overlap: the update of one moves the task's norm, and not that of the other, whoever asks again."""
    seeded(monkeypatch)
    plan = replace(ALONE, min_reports=1)
    first, second, third = started(home, plan, phones=3, mode=Mode.BUFFERED, rounds=None, rounds_at_once=3, pool_size=1)
    (early,) = begun(home, [first], "early")
    (other,) = begun(home, [second], "other")
    assert early is not None
    assert other is not None
    assert header_of(home, first, early).clipping_norm == plan.clipping_norm
    sent(home, second, other, plan.clipping_norm, 0.2)
    moved = task_of(home, TASK)["clipping_norm"]
    assert moved != plan.clipping_norm
    assert header_of(home, first, early).clipping_norm == plan.clipping_norm, "again the same"
    (late,) = begun(home, [third], "late")
    assert late is not None
    assert header_of(home, third, late).clipping_norm == moved, "of when it chose, not of when it opened"
    before = weights_of(home, task_of(home, TASK)["checkpoint_sha256"])
    sent(home, first, early, plan.clipping_norm, 30.0)
    noise = sum_noise(plan, SHARED, plan.clipping_norm)
    expected = plan.clipping_norm / math.sqrt(SHARED) + noise.drawn(SHARED, SEED) * noise.step
    weight = 2**-0.5
    change = (weights_of(home, task_of(home, TASK)["checkpoint_sha256"]) - before)[2:]
    assert np.allclose(change, weight * expected, atol=1e-4 * np.abs(expected).max()), "at the norm it was given at"


def test_a_clone_begins_at_its_plans_norm(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    seeded(monkeypatch)
    phone, _other = started(home)
    one_round(home, phone, "visit", 0.2)
    assert task_of(home, TASK)["clipping_norm"] != ALONE.clipping_norm
    home.operator("POST", f"/tasks/{TASK}/clone", json={"name": "again", "newest": True}).raise_for_status()
    assert task_of(home, "again")["clipping_norm"] == ALONE.clipping_norm
