"""Both ends of secure summing: the session that phones run, against the coordinator as it is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from edge_runtime.protocol.bundle import Bundle
from edge_runtime.protocol.checkpoint import Checkpoint
from edge_runtime.protocol.group import Opened, Step
from edge_runtime.protocol.keys import digest
from edge_runtime.protocol.reasons import Outcome
from edge_runtime.protocol.report import encode_report, report_path
from edge_runtime.protocol.secure_sum.masks import keyed_randomness
from edge_runtime.session import Request, Response, Session
from edge_runtime.session.unkept import Summer
from edge_runtime.session.visit import Work
from tests.coordinator.secure import (
    FLOORS,
    SIX,
    SecurePhone,
    plain_sum,
    secure_round,
    sums_seen,
)
from tests.programme import AUTHORITY_KEY, BUNDLE_SHA256, FIRST_WEIGHTS, MANIFEST, Home

End = Opened | Outcome


def session_of(phone: SecurePhone, report: bytes | None = None, clipping_norm: float | None = None) -> Session[End]:
    """What the fleet drives, for one phone whose training came to this report; None for lanes that tell it apart."""
    assignment, codec = phone.assignment, phone.plan.lanes()
    summer = Summer(
        key=phone.phone.driver.key,
        certificate=phone.certificate,
        authority=AUTHORITY_KEY.public,
        floors=FLOORS,
        randomness=keyed_randomness(digest(b"session", assignment.participation.encode())),
    )
    work = Work(
        participation=assignment.participation,
        round=assignment.round,
        plan=phone.plan,
        bundle=Bundle(BUNDLE_SHA256, MANIFEST, b""),
        checkpoint=Checkpoint(assignment.checkpoint_sha256, BUNDLE_SHA256, 0, FIRST_WEIGHTS),
        plan_sha256=digest(assignment.plan).hex(),
        clipping_norm=clipping_norm,
    )
    return summer.sums(work, report or encode_report(assignment.participation, codec, codec.packed(phone.lanes())))


def drive(
    home: Home,
    phones: list[SecurePhone],
    gone: dict[str, Step],
    session_of: Callable[[SecurePhone], Session[End]] = session_of,
) -> dict[str, End]:
    """All sessions in turns; when nobody gets on, time passes, five seconds a turn."""
    running: dict[str, tuple[SecurePhone, Session[End], Request]] = {}
    ends: dict[str, End] = {}
    for phone in phones:
        session = session_of(phone)
        running[phone.device_id] = (phone, session, next(session))
    stalls = 0
    while running:
        got_on = False
        for device, (phone, session, request) in list(running.items()):
            if _sends(request, phone, gone.get(device)):
                session.close()
                del running[device]
                continue
            answer = phone.ask(request.method, request.path, request.body)
            got_on = got_on or (answer.status_code != 202 and not request.path.endswith("/trained"))
            try:
                response = Response(answer.status_code, answer.content)
                running[device] = (phone, session, session.send(response))
            except StopIteration as end:
                ends[device] = end.value
                del running[device]
        home.look()
        stalls = 0 if got_on else stalls + 1
        assert stalls < 40, "the group does not get on"
        if stalls > 2:
            home.clock.forward(5)
    return ends


def _sends(request: Request, phone: SecurePhone, step: Step | None) -> bool:
    if step is Step.MASKED:
        return request.method == "PUT" and request.path == report_path(phone.assignment.participation)
    return step is not None and request.method == "POST" and request.path.endswith(f"/{step.value}")


def test_sessions_and_coordinator_sum_exactly(home: Home) -> None:
    phones = secure_round(home, SIX)
    with sums_seen(home) as sums:
        ends = drive(home, phones, {})
    assert sums == [plain_sum(phones)]
    assert len(ends) == SIX
    assert all(isinstance(end, Opened) for end in ends.values())


@pytest.mark.parametrize("step", [Step.JOIN, Step.SHARES, Step.MASKED, Step.CONFIRMATION, Step.UNMASKING])
def test_a_phone_that_goes_at_a_step_costs_the_others_nothing(home: Home, step: Step) -> None:
    phones = secure_round(home, SIX)
    with sums_seen(home) as sums:
        ends = drive(home, phones, {phones[0].device_id: step})
    counted = phones if step in (Step.CONFIRMATION, Step.UNMASKING) else phones[1:]
    assert sums == [plain_sum(counted)]
    assert len(ends) == SIX - 1
    assert all(isinstance(end, Opened) for end in ends.values())


def test_sessions_whose_group_came_to_nothing_after_masking_end_by_name(home: Home) -> None:
    phones = secure_round(home, SIX)
    with sums_seen(home) as sums:
        ends = drive(home, phones, {phone.device_id: Step.MASKED for phone in phones[:3]})
    assert sums == []
    assert set(ends.values()) == {Outcome.GROUP_ENDED}
