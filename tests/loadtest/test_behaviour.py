"""What a made-up phone does is what a coordinator accepts and a real phone would wait."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edge_runtime.driver import Unreachable
from edge_runtime.protocol import wire
from edge_runtime.protocol.bundle import Bundle, encode_bundle, verify_bundle
from edge_runtime.protocol.checkin import (
    CHECK_IN_PATH,
    Assignment,
    CheckInAnswer,
    RetryWindow,
    bundle_path,
    checkpoint_path,
)
from edge_runtime.protocol.checkpoint import Checkpoint
from edge_runtime.protocol.enrolment import ENROL_PATH
from edge_runtime.protocol.errors import BadSignature, StorageFull, Unavailable
from edge_runtime.protocol.keys import SigningKey, digest
from edge_runtime.protocol.reasons import Outcome, Wait
from edge_runtime.protocol.report import lanes_of_report, outcome_path, report_path
from edge_runtime.session.visit import VisitEnd, Work
from loadtest.behaviour import DROPOUTS, REFUSED_BY_THE_PHONE, back_off, made_up_report, training_s, wait_after
from loadtest.kinds import Kind, kind_of, kind_of_check_in
from loadtest.programme import made_up_model, made_up_plan

KEY = SigningKey(digest(b"tenant key of these tests"))
PARAMETERS = 500


def bundle() -> Bundle:
    raw = encode_bundle(*made_up_model(PARAMETERS), KEY)
    return verify_bundle(raw, digest(raw).hex(), KEY.public)


def work(number: int = 0) -> Work:
    held = bundle()
    return Work(
        participation=f"{number:032x}",
        round=1,
        plan=made_up_plan("acme", "swarm", held.sha256, goal=4),
        bundle=held,
        checkpoint=Checkpoint("00" * 32, held.sha256, 0, np.zeros(PARAMETERS, np.float32)),
    )


def test_made_up_reports_are_ones_a_coordinator_accepts_and_about_half_are_clipped() -> None:
    norms = []
    for number in range(60):
        given = work(number)
        report = made_up_report(given, np.random.default_rng(number), dropout_share=0.0)
        assert isinstance(report, bytes)
        lanes = given.plan.lanes()
        packed = lanes.unpack(lanes_of_report(report, given.participation, lanes, PARAMETERS), PARAMETERS)
        lanes.check_plain(packed)
        norms.append(float(np.linalg.norm(lanes.open_sum(packed))))
    assert max(norms) <= 4.0 * (1 + 1e-5)
    assert 15 <= sum(math.isclose(norm, 4.0, rel_tol=1e-3) for norm in norms) <= 45


def test_the_same_seed_makes_the_same_report() -> None:
    first, second = (made_up_report(work(), np.random.default_rng(7), 0.08) for _ in range(2))
    assert first == second


def test_the_share_of_dropouts_is_the_one_asked_for() -> None:
    rng = np.random.default_rng(3)
    ends = [made_up_report(work(), rng, 0.5) for _ in range(200)]
    dropped = {end for end in ends if isinstance(end, Outcome)}
    assert dropped == set(DROPOUTS)
    assert 70 <= sum(isinstance(end, Outcome) for end in ends) <= 130
    assert isinstance(made_up_report(work(), rng, 1.0), Outcome)


def test_a_dropout_is_never_taken_for_a_phone_that_refused_what_it_was_served() -> None:
    assert not set(DROPOUTS) & REFUSED_BY_THE_PHONE


def test_a_phone_comes_back_within_its_retry_window() -> None:
    rng = np.random.default_rng(0)
    end = VisitEnd(reason=Wait.NOT_SELECTED, after_s=900.0, spread_s=180.0)
    waits = [wait_after(end, rng) for _ in range(100)]
    assert min(waits) >= 900.0
    assert 1000.0 < max(waits) <= 1080.0
    assert all(120 <= training_s(rng) <= 180 for _ in range(100))


@pytest.mark.parametrize(
    ("problem", "low", "high"),
    [
        (Unreachable("no answer"), 720, 1080),
        (Unavailable("not now"), 720, 1080),
        (StorageFull("no room", retry_after_s=60.0), 60, 60),
        (BadSignature("wrong"), 11_520, 17_280),
    ],
)
def test_a_phone_stays_away_as_long_as_the_protocol_says(
    problem: Unreachable | Unavailable, low: float, high: float
) -> None:
    rng = np.random.default_rng(0)
    assert all(low <= back_off(problem, rng) <= high for _ in range(50))


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (ENROL_PATH, Kind.ENROL),
        (CHECK_IN_PATH, Kind.CHECK_IN),
        (bundle_path("ab" * 32), Kind.BUNDLE),
        (checkpoint_path("ab" * 32), Kind.CHECKPOINT),
        (report_path("ab" * 16), Kind.REPORT),
        (outcome_path("ab" * 16), Kind.OUTCOME),
        ("/v1/device/something-new", "/v1/device/something-new"),
    ],
)
def test_statistics_are_grouped_by_the_kind_of_request(path: str, kind: str) -> None:
    assert kind_of(path) == kind


@pytest.mark.parametrize("reason", Wait)
def test_a_check_in_about_a_selection_may_have_been_held_open_and_no_other(reason: Wait) -> None:
    retry = RetryWindow(reason=reason, after_s=900.0, spread_s=180.0)
    answer = wire.encode(CheckInAnswer(version=1, assignment=None, retry=retry))
    held = reason in (Wait.SELECTION_PENDING, Wait.NOT_SELECTED)
    assert kind_of_check_in(answer) == (Kind.HELD_CHECK_IN if held else Kind.CHECK_IN)


def test_a_check_in_with_an_assignment_may_have_been_held_open() -> None:
    assignment = Assignment(
        participation="ab" * 16,
        round=1,
        plan=b"{}",
        plan_signature=bytes(64),
        checkpoint_sha256="ab" * 32,
        deadline_s=30.0,
    )
    answer = wire.encode(CheckInAnswer(version=1, assignment=assignment, retry=None))
    assert kind_of_check_in(answer) == Kind.HELD_CHECK_IN
    assert kind_of_check_in(b"no answer at all") == Kind.CHECK_IN
