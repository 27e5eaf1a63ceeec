"""A long report in parts: taken up where it broke off, counted once, and the same receipt as at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edge_runtime.privacy import private_report
from edge_runtime.protocol import wire
from edge_runtime.protocol.bundle import encode_bundle
from edge_runtime.protocol.checkpoint import encode_checkpoint
from edge_runtime.protocol.keys import digest
from edge_runtime.protocol.report import PART_BYTES, ReportComplete, ReportHeld, parts_path, report_path
from edge_runtime.session import Request, Response, Session, Unreachable
from edge_runtime.session.visit import send_report
from tests.coordinator.asking import ask, assigned, refusal
from tests.programme import PLAN, POPULATION, TENANT_KEY, Home, Phone, manifest

LONG = manifest(PART_BYTES // 2)
BUNDLE = encode_bundle(LONG, b"not a graph that any interpreter could run", TENANT_KEY)
SHA256 = digest(BUNDLE).hex()
CHECKPOINT = encode_checkpoint(np.zeros(LONG.parameters, np.float32), SHA256, 0, TENANT_KEY)


@pytest.fixture
def taking_part(home: Home) -> tuple[Phone, str, bytes]:
    """A participant, its participation, and a report of two parts."""
    home.operator("PUT", f"/populations/{POPULATION}").raise_for_status()
    home.operator("PUT", f"/bundles/{SHA256}", content=BUNDLE).raise_for_status()
    checkpoint = home.operator("POST", f"/bundles/{SHA256}/checkpoints", content=CHECKPOINT).json()["sha256"]
    plan = replace(PLAN, bundle_sha256=SHA256, min_reports=1, goal=1)
    home.start_order(home.order(plan, checkpoint_sha256=checkpoint, pool_size=1))
    home.look()
    phone = home.phone(0)
    (assignment,) = assigned(home, [phone])
    delta = np.random.default_rng(0).normal(size=LONG.shared_parameters).astype(np.float32)
    report = private_report(assignment.participation, delta, plan, np.random.default_rng(0))
    assert PART_BYTES < len(report) < 3 * PART_BYTES
    return phone, assignment.participation, report


def held(answer: Any) -> int:
    assert answer.status_code == 200, answer.text
    return wire.decode(ReportHeld, answer.content).held_bytes


def part(home: Home, phone: Phone, participation: str, offset: int, raw: bytes) -> Any:
    return ask(home, phone, "PUT", f"{parts_path(participation)}/{offset}", raw)


def test_a_long_report_is_sent_in_parts_and_counted_once(home: Home, taking_part: tuple[Phone, str, bytes]) -> None:
    phone, participation, report = taking_part
    first = phone.driver.run(send_report(participation, report))
    assert phone.driver.run(send_report(participation, report)) == first, "again gives the same receipt"
    home.look()
    assert (home.rounds()[0]["phase"], home.rounds()[0]["reports"]) == ("committed", 1)
    assert phone.driver.run(send_report(participation, report)) == first, "however late"
    assert not list(home.app.state.parts.blobs._folder.glob("*/report-parts/*"))


def test_a_report_that_broke_off_goes_on_where_it_broke(home: Home, taking_part: tuple[Phone, str, bytes]) -> None:
    phone, participation, report = taking_part
    sent: list[Request] = []
    honest = phone.driver.send

    def breaks(request: Request, headers: dict[str, str]) -> Response:
        sent.append(request)
        if len(sent) == 3:
            raise Unreachable("broken off")
        return honest(request, headers)

    phone.driver.send = breaks
    with pytest.raises(Unreachable):
        phone.driver.run(send_report(participation, report))
    phone.driver.run(send_report(participation, report))
    offsets = [request.path.rpartition("/")[2] for request in sent if request.method == "PUT"]
    assert offsets == ["0", str(PART_BYTES), *(str(at) for at in range(PART_BYTES, len(report), PART_BYTES))]


def test_parts_out_of_place_are_not_taken(home: Home, taking_part: tuple[Phone, str, bytes]) -> None:
    phone, participation, report = taking_part
    assert held(part(home, phone, participation, 5, b"too far ahead")) == 0
    assert held(part(home, phone, participation, 0, report[:1000])) == 1000
    assert held(part(home, phone, participation, 0, report[:1000])) == 1000
    assert held(part(home, phone, participation, 500, report[500:2000])) == 2000
    assert held(part(home, phone, participation, 2000, bytes(PART_BYTES))) == 2000 + PART_BYTES
    assert held(part(home, phone, participation, 2000 + PART_BYTES, bytes(PART_BYTES))) == 2000 + PART_BYTES
    assert refusal(part(home, phone, participation, 0, bytes(PART_BYTES + 1))) == "body-too-large"
    assert refusal(ask(home, phone, "PUT", parts_path(participation) + "/-1", b"")) == "not-found"


def test_parts_of_another_report_are_forgotten(home: Home, taking_part: tuple[Phone, str, bytes]) -> None:
    phone, participation, report = taking_part
    part(home, phone, participation, 0, report[:1000])
    complete = wire.encode(ReportComplete(version=1, report_sha256=digest(report).hex()))
    assert refusal(ask(home, phone, "POST", report_path(participation), complete)) == "unavailable"
    assert held(ask(home, phone, "GET", parts_path(participation))) == 0
    phone.driver.run(send_report(participation, report))


def test_a_report_whose_lanes_lie_is_refused_in_parts_too(home: Home, taking_part: tuple[Phone, str, bytes]) -> None:
    phone, participation, report = taking_part
    lying = report[:32] + b"\xff\xff\xff\x7f" + report[36:]
    complete = wire.encode(ReportComplete(version=1, report_sha256=digest(lying).hex()))
    for offset in range(0, len(lying), PART_BYTES):
        part(home, phone, participation, offset, lying[offset : offset + PART_BYTES])
    assert refusal(ask(home, phone, "POST", report_path(participation), complete)) == "lanes-out-of-range"


def test_another_device_sends_no_part(home: Home, taking_part: tuple[Phone, str, bytes]) -> None:
    _phone, participation, report = taking_part
    assert refusal(part(home, home.phone(9), participation, 0, report[:10])) == "unknown-participation"


def test_a_coordinator_that_forgets_for_ever_is_not_fed_for_ever(taking_part: tuple[Phone, str, bytes]) -> None:
    phone, participation, report = taking_part
    asked = 0

    def forgets(_request: Request, _headers: dict[str, str]) -> Response:
        nonlocal asked
        asked += 1
        return Response(200, wire.encode(ReportHeld(version=1, held_bytes=0)))

    phone.driver.send = forgets
    session: Session[Any] = send_report(participation, report)
    with pytest.raises(Exception, match="another number of bytes"):
        phone.driver.run(session)
    assert asked < 10
