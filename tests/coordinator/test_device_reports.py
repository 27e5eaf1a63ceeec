"""Reports and outcomes: durable before the receipt, counted once, and refused by name otherwise."""

from __future__ import annotations

import errno
import shutil
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from sqlmodel import select

from coordinator.store.blobs import BlobKind
from coordinator.store.tables import Participation, Report
from edge_runtime.protocol import wire
from edge_runtime.protocol.checkin import CHECK_IN_PATH, checkpoint_path
from edge_runtime.protocol.enrolment import Problem
from edge_runtime.protocol.keys import digest
from edge_runtime.protocol.reasons import Outcome
from edge_runtime.protocol.report import Receipt, outcome_path, report_path
from edge_runtime.protocol.secure_sum.lanes import ZERO_LANES
from tests.coordinator.asking import (
    ask,
    assigned,
    offer,
    refusal,
    report_of,
    send_outcome,
    send_report,
    signature,
)
from tests.programme import (
    MANIFEST,
    PLAN,
    TENANT,
    Clock,
    Home,
    Phone,
    one_hot,
    replace,
)


def counted(home: Home) -> int:
    with home.app.state.parts.database.reading() as session:
        return len(session.exec(select(Report)).all())


def report_blobs(home: Home) -> int:
    folder = home.app.state.parts.blobs.path(TENANT, BlobKind.REPORT, "0" * 64).parent
    return len(list(folder.iterdir())) if folder.is_dir() else 0


def test_a_report_gets_a_receipt_for_its_bytes(home: Home, phone: Phone) -> None:
    (assignment,) = assigned(home, [phone])
    body = report_of(phone, assignment)
    receipt = wire.decode(Receipt, send_report(home, phone, assignment, body).content)
    assert (receipt.participation, receipt.report_sha256) == (assignment.participation, digest(body).hex())


def test_a_report_sent_again_gets_the_same_receipt_and_counts_once(home: Home, phone: Phone) -> None:
    (assignment,) = assigned(home, [phone])
    answers = {send_report(home, phone, assignment).content for _again in range(3)}
    home.look()
    assert home.rounds()[0]["phase"] == "committed"
    answers.add(send_report(home, phone, assignment).content)
    assert len(answers) == 1
    assert counted(home) == 1


def test_a_report_sent_by_many_at_once_counts_once(home: Home, phone: Phone) -> None:
    (assignment,) = assigned(home, [phone])
    body = report_of(phone, assignment)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _n: send_report(home, phone, assignment, body), range(8)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert (counted(home), report_blobs(home)) == (1, 1)


def test_other_bytes_under_the_same_participation_are_a_conflict(home: Home, phone: Phone) -> None:
    (assignment,) = assigned(home, [phone])
    assert send_report(home, phone, assignment).status_code == 200
    other = report_of(phone, assignment, np.zeros(MANIFEST.shared_parameters, np.float32))
    assert refusal(send_report(home, phone, assignment, other)) == "conflicting-report"
    assert (counted(home), report_blobs(home)) == (1, 1)


def test_of_many_different_reports_at_once_one_counts_and_no_blob_is_left_behind(home: Home, phone: Phone) -> None:
    (assignment,) = assigned(home, [phone])
    bodies = [report_of(phone, assignment, one_hot(0, 1 / (seed + 1))) for seed in range(8)]
    assert len(set(bodies)) == 8
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda body: send_report(home, phone, assignment, body), bodies))
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 7
    assert (counted(home), report_blobs(home)) == (1, 1)


@pytest.mark.parametrize("change", [b"", b"\0", b"\0" * 4, b"\0" * (1 << 20)])
def test_a_report_of_a_wrong_length_is_refused(home: Home, phone: Phone, change: bytes) -> None:
    (assignment,) = assigned(home, [phone])
    body = report_of(phone, assignment)
    for wrong in (body + change, body[: -len(change) or None]) if change else (b"", body[:-1], body[:31]):
        assert refusal(send_report(home, phone, assignment, wrong)) == "report-length"
    assert (counted(home), report_blobs(home)) == (0, 0)


def test_a_report_in_endless_chunks_is_read_no_further_than_its_length(home: Home, phone: Phone) -> None:
    (assignment,) = assigned(home, [phone])
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield b"\0"

    path = report_path(assignment.participation)
    answer = home.request("PUT", path, content=endless(), headers=signature(phone, "PUT", path))
    assert refusal(answer) == "report-length"
    assert sent <= len(report_of(phone, assignment)) + 2


@pytest.mark.parametrize("position", [0, 3, MANIFEST.shared_parameters - 1])
@pytest.mark.parametrize("value", [1, -1])
def test_a_lane_out_of_range_is_refused(home: Home, phone: Phone, position: int, value: int) -> None:
    (assignment,) = assigned(home, [phone])
    body = bytearray(report_of(phone, assignment))
    lane = value * (PLAN.lanes().bound + 1) % (1 << 32)
    body[32 + 4 * position : 36 + 4 * position] = lane.to_bytes(4, "little")
    assert refusal(send_report(home, phone, assignment, bytes(body))) == "lanes-out-of-range"
    assert (counted(home), report_blobs(home)) == (0, 0)


@pytest.mark.parametrize("lane", range(ZERO_LANES))
def test_a_zero_lane_that_is_not_zero_is_refused(home: Home, phone: Phone, lane: int) -> None:
    (assignment,) = assigned(home, [phone])
    body = bytearray(report_of(phone, assignment))
    body[-4 * (lane + 1)] = 1
    assert refusal(send_report(home, phone, assignment, bytes(body))) == "lanes-out-of-range"


def test_a_report_of_another_round_is_malformed(home: Home, phone: Phone) -> None:
    (assignment,) = assigned(home, [phone])
    other = report_of(phone, replace(assignment, participation="ab" * 16))
    assert refusal(send_report(home, phone, assignment, other)) == "malformed-report"


@pytest.mark.parametrize("name", ["0" * 32, "x", "%2e%2e", "0" * 5000])
def test_an_unknown_participation_is_named(home: Home, phone: Phone, name: str) -> None:
    assert refusal(ask(home, phone, "PUT", report_path(name), b"x")) == "unknown-participation"
    note = b'{"reason":"in-use","version":1}'
    assert refusal(ask(home, phone, "POST", outcome_path(name), note)) == "unknown-participation"


def test_another_devices_participation_is_unknown_to_this_one(home: Home, phone: Phone) -> None:
    (assignment,) = assigned(home, [phone])
    other = home.phone(1)
    assert refusal(send_report(home, other, assignment)) == "unknown-participation"
    assert refusal(send_outcome(home, other, assignment)) == "unknown-participation"
    assert send_report(home, phone, assignment).status_code == 200


def test_a_report_after_the_round_closed_is_refused(home: Home) -> None:
    home.start_task()
    phones = [home.phone(number) for number in range(4)]
    assignments = assigned(home, phones)
    for phone, assignment in zip(phones[:3], assignments[:3], strict=True):
        send_report(home, phone, assignment)
    home.clock.forward(101)
    home.look()
    assert home.rounds()[0]["phase"] == "committed"
    assert refusal(send_report(home, phones[3], assignments[3])) == "round-closed"
    assert home.rounds()[0]["outcomes"] == {"deadline-passed": 1}


def test_a_report_for_an_abandoned_round_is_refused(home: Home) -> None:
    home.start_task()
    phones = [home.phone(number) for number in range(4)]
    assignments = assigned(home, phones)
    home.operator("POST", "/tasks/words/cancel").raise_for_status()
    assert refusal(send_report(home, phones[0], assignments[0])) == "round-closed"


def test_a_report_that_lands_while_its_round_closes_is_refused_whole(
    home: Home, phone: Phone, monkeypatch: pytest.MonkeyPatch
) -> None:
    (assignment,) = assigned(home, [phone])
    store = home.app.state.parts.blobs.put

    def close_meanwhile(tenant: str, kind: BlobKind, raw: bytes, *, verified_sha256: str) -> str:
        address: str = store(tenant, kind, raw, verified_sha256=verified_sha256)
        home.clock.forward(101)
        home.look()
        return address

    monkeypatch.setattr(home.app.state.parts.blobs, "put", close_meanwhile)
    assert refusal(send_report(home, phone, assignment)) == "round-closed"
    assert (counted(home), report_blobs(home)) == (0, 0)


def test_a_report_after_an_outcome_is_refused(home: Home, phone: Phone) -> None:
    (assignment,) = assigned(home, [phone])
    assert send_outcome(home, phone, assignment).status_code == 200
    assert refusal(send_report(home, phone, assignment)) == "participation-ended"


def test_an_outcome_noted_twice_is_noted_once(home: Home, phone: Phone) -> None:
    (assignment,) = assigned(home, [phone])
    first = send_outcome(home, phone, assignment, Outcome.OVERHEATED)
    second = send_outcome(home, phone, assignment, Outcome.BATTERY_LOW)
    assert first.content == second.content
    assert home.rounds()[0]["outcomes"] == {"overheated": 1}


def test_an_outcome_after_a_report_is_a_conflict(home: Home, phone: Phone) -> None:
    (assignment,) = assigned(home, [phone])
    send_report(home, phone, assignment)
    assert refusal(send_outcome(home, phone, assignment)) == "conflicting-report"


def test_a_full_disk_is_said_and_nothing_is_counted(home: Home, phone: Phone, monkeypatch: pytest.MonkeyPatch) -> None:
    (assignment,) = assigned(home, [phone])
    real = shutil.disk_usage
    monkeypatch.setattr(home.app.state.parts.blobs, "_free_bytes_wanted", real(Path.cwd()).total * 2)
    answer = send_report(home, phone, assignment)
    assert refusal(answer) == "storage-full"
    assert answer.status_code == 507
    problem = wire.decode(Problem, answer.content)
    assert problem.retry == "later"
    assert problem.retry_after_s is not None
    assert counted(home) == 0
    monkeypatch.undo()
    assert send_report(home, phone, assignment).status_code == 200


def test_a_disk_that_fills_up_while_writing_is_said_too(
    home: Home, phone: Phone, monkeypatch: pytest.MonkeyPatch
) -> None:
    (assignment,) = assigned(home, [phone])

    def full(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("coordinator.store.blobs._write_durably", full)
    assert refusal(send_report(home, phone, assignment)) == "storage-full"
    assert counted(home) == 0


def test_a_bug_is_a_problem_without_its_secrets(
    home: Home, phone: Phone, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_arguments: object) -> None:
        raise RuntimeError("what only the log may know")

    monkeypatch.setattr("coordinator.services.checkins._Batch._offered", broken)
    answer = ask(home, phone, "POST", CHECK_IN_PATH, offer(phone))
    assert (refusal(answer), answer.status_code) == ("unavailable", 500)
    assert "only the log" not in answer.text
    assert "what only the log may know" in caplog.text


def test_the_first_download_of_a_participant_is_noted_and_no_later_one(home: Home, phone: Phone, clock: Clock) -> None:
    (assignment,) = assigned(home, [phone])
    other = home.phone(1)
    path = checkpoint_path(assignment.checkpoint_sha256)
    asked = clock.at
    for one in (other, phone, phone):
        assert ask(home, one, "GET", path).status_code == 200
        clock.forward(5)
    with home.app.state.parts.database.reading() as session:
        (found,) = session.exec(select(Participation)).all()
    assert (found.id, found.downloaded_at) == (assignment.participation, asked + timedelta(seconds=5))


@pytest.mark.parametrize("announced", [1, 10_000])
def test_a_length_that_is_not_the_plans_is_refused_before_a_byte_is_read(
    home: Home, phone: Phone, announced: int
) -> None:
    (assignment,) = assigned(home, [phone])
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        read += 1
        yield bytes(announced)

    path = report_path(assignment.participation)
    headers = {**signature(phone, "PUT", path, bytes(announced)), "content-length": str(announced)}
    assert refusal(home.request("PUT", path, content=body(), headers=headers)) == "report-length"
    assert read == 0


def test_a_receipt_without_a_set_delay_is_the_same_again_and_spreads_devices(home: Home) -> None:
    home.start_task(retry_reported_s=None, min_separation_s=3600.0)
    phones = [home.phone(number) for number in range(4)]
    delays = []
    for one, assignment in zip(phones, assigned(home, phones), strict=True):
        body = report_of(one, assignment)
        first, again = (send_report(home, one, assignment, body).content for _time in range(2))
        assert first == again
        delays.append(wire.decode(Receipt, first).retry_after_s)
    assert all(3600 <= delay_s < 7200 for delay_s in delays)
    assert len(set(delays)) == 4
