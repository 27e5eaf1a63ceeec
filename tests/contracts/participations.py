"""What every coordinator does with the reports of a participant: the real one, and the one for an app's own tests."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import pytest

from edge_runtime.driver import Driver
from edge_runtime.privacy import private_report
from edge_runtime.protocol import wire
from edge_runtime.protocol.enrolment import Problem
from edge_runtime.protocol.keys import digest
from edge_runtime.protocol.plan import Plan
from edge_runtime.protocol.reasons import Outcome
from edge_runtime.protocol.report import (
    PART_BYTES,
    OutcomeNote,
    Receipt,
    ReportComplete,
    ReportHeld,
    outcome_path,
    parts_path,
    report_path,
)
from edge_runtime.session import Request, Response, Session, Unreachable
from edge_runtime.session.visit import give_up, send_report

PARAMETERS: Final = PART_BYTES // 2
"""A report of that many lanes of 32 bits comes in three parts."""


@dataclass(frozen=True, slots=True)
class Participant:
    """A device that was chosen, its report, another that an honest device could send as well, and a stranger."""

    driver: Driver
    participation: str
    report: bytes
    other: bytes
    stranger: Driver

    def ask(self, method: str, path: str, body: bytes = b"") -> Response:
        return self.driver.run(_one(Request(method, path, body)))

    def part(self, offset: int, raw: bytes) -> int:
        return held(self.ask("PUT", f"{parts_path(self.participation)}/{offset}", raw))

    def complete(self, report: bytes) -> Response:
        message = ReportComplete(version=1, report_sha256=digest(report).hex())
        return self.ask("POST", report_path(self.participation), wire.encode(message))

    def send_all_parts(self, report: bytes) -> None:
        for offset in range(0, len(report), PART_BYTES):
            self.part(offset, report[offset : offset + PART_BYTES])


def reports_of(participation: str, plan: Plan, parameters: int) -> tuple[bytes, bytes]:
    """Two reports of a plan."""
    deltas = [np.random.default_rng(seed).normal(size=parameters).astype(np.float32) for seed in (0, 1)]
    first, second = (private_report(participation, delta, plan, np.random.default_rng(0)) for delta in deltas)
    assert 2 * PART_BYTES < len(first) <= 3 * PART_BYTES
    return first, second


def _one(request: Request) -> Session[Response]:
    return (yield request)


def held(answer: Response) -> int:
    assert answer.status == 200, answer.body
    return wire.decode(ReportHeld, answer.body).held_bytes


def code(answer: Response) -> str:
    assert answer.status >= 400, "it was accepted"
    return wire.decode(Problem, answer.body).code


class ReportsContract:
    """Subclass it for each coordinator, with a fixture `participant`: a `Participant` that has sent nothing yet."""

    def test_a_report_sent_again_gets_the_same_receipt(self, participant: Participant) -> None:
        at_once = participant.ask("PUT", report_path(participant.participation), participant.report)
        assert wire.decode(Receipt, at_once.body).report_sha256 == digest(participant.report).hex()
        assert participant.ask("PUT", report_path(participant.participation), participant.report) == at_once
        assert participant.driver.run(send_report(participant.participation, participant.report)) == wire.decode(
            Receipt, at_once.body
        )

    def test_another_report_is_refused(self, participant: Participant) -> None:
        participant.driver.run(send_report(participant.participation, participant.report))
        path = report_path(participant.participation)
        assert code(participant.ask("PUT", path, participant.other)) == "conflicting-report"
        assert code(participant.complete(participant.other)) == "conflicting-report"

    @pytest.mark.parametrize("more", [1, -1])
    def test_a_report_of_another_length_is_refused(self, more: int, participant: Participant) -> None:
        report = participant.report + b"x" if more > 0 else participant.report[:more]
        assert code(participant.ask("PUT", report_path(participant.participation), report)) == "report-length"

    def test_a_report_of_another_participation_is_refused(self, participant: Participant) -> None:
        report = participant.report[:8] + bytes(16) + participant.report[24:]
        assert code(participant.ask("PUT", report_path(participant.participation), report)) == "malformed-report"

    def test_a_long_report_comes_in_parts(self, participant: Participant) -> None:
        path = parts_path(participant.participation)
        assert held(participant.ask("GET", path)) == 0
        receipt = participant.driver.run(send_report(participant.participation, participant.report))
        assert receipt.report_sha256 == digest(participant.report).hex()
        assert held(participant.ask("GET", path)) == len(participant.report), "no part of it is wanted any more"
        assert participant.part(0, participant.other[:1000]) == len(participant.report)

    def test_a_report_that_broke_off_goes_on_where_it_broke(self, participant: Participant) -> None:
        sent: list[Request] = []
        honest = participant.driver.send

        def breaks(request: Request, headers: dict[str, str]) -> Response:
            sent.append(request)
            if len(sent) == 3:
                raise Unreachable("broken off")
            return honest(request, headers)

        participant.driver.send = breaks
        with pytest.raises(Unreachable):
            participant.driver.run(send_report(participant.participation, participant.report))
        participant.driver.run(send_report(participant.participation, participant.report))
        offsets = [request.path.rpartition("/")[2] for request in sent if request.method == "PUT"]
        assert offsets == ["0", str(PART_BYTES), str(PART_BYTES), str(2 * PART_BYTES)]

    def test_a_part_out_of_place_changes_nothing(self, participant: Participant) -> None:
        report = participant.report
        assert participant.part(5, b"too far ahead") == 0
        assert participant.part(0, report[:1000]) == 1000
        assert participant.part(0, report[:1000]) == 1000
        assert participant.part(500, report[500:2000]) == 2000
        assert participant.part(2000, bytes(PART_BYTES)) == 2000 + PART_BYTES
        assert participant.part(2000 + PART_BYTES, bytes(PART_BYTES)) == 2000 + PART_BYTES, "it would be too long"

    def test_a_part_within_what_is_held_replaces_it(self, participant: Participant) -> None:
        participant.part(0, bytes(3000))
        assert participant.part(1000, participant.report[1000:2000]) == 3000
        participant.send_all_parts(participant.report)
        assert participant.complete(participant.report).status == 200

    def test_a_part_that_is_too_long_or_nowhere_is_refused(self, participant: Participant) -> None:
        path = parts_path(participant.participation)
        assert code(participant.ask("PUT", f"{path}/0", bytes(PART_BYTES + 1))) == "body-too-large"
        for offset in ("-1", "x", "1" * 13):
            assert code(participant.ask("PUT", f"{path}/{offset}", b"")) == "not-found", offset

    def test_parts_of_another_report_are_forgotten(self, participant: Participant) -> None:
        participant.part(0, participant.report[:1000])
        assert code(participant.complete(participant.report)) == "unavailable"
        assert held(participant.ask("GET", parts_path(participant.participation))) == 0
        participant.driver.run(send_report(participant.participation, participant.report))

    def test_a_report_in_parts_is_checked_like_one_at_once(self, participant: Participant) -> None:
        lying = participant.report[:32] + b"\xff\xff\xff\x7f" + participant.report[36:]
        participant.send_all_parts(lying)
        assert code(participant.complete(lying)) == "lanes-out-of-range"
        assert code(participant.ask("PUT", report_path(participant.participation), lying)) == "lanes-out-of-range"

    def test_a_stranger_sends_no_part_and_no_report(self, participant: Participant) -> None:
        stranger = replace(participant, driver=participant.stranger)
        for method, path in (
            ("PUT", report_path(participant.participation)),
            ("PUT", f"{parts_path(participant.participation)}/0"),
            ("GET", parts_path(participant.participation)),
        ):
            body = participant.report[:10] if method == "PUT" else b""
            assert code(stranger.ask(method, path, body)) == "unknown-participation", path
        assert code(stranger.complete(participant.report)) == "unknown-participation"

    def test_after_an_outcome_no_report_is_taken(self, participant: Participant) -> None:
        participant.driver.run(give_up(participant.participation, Outcome.NETWORK_LOST))
        path = report_path(participant.participation)
        assert code(participant.ask("PUT", path, participant.report)) == "participation-ended"
        assert code(participant.ask("GET", parts_path(participant.participation))) == "participation-ended"

    def test_after_a_report_no_outcome_is_taken(self, participant: Participant) -> None:
        participant.driver.run(send_report(participant.participation, participant.report))
        note = OutcomeNote(version=OutcomeNote.VERSION, reason=Outcome.NETWORK_LOST)
        refused = participant.ask("POST", outcome_path(participant.participation), wire.encode(note))
        assert code(refused) == "conflicting-report"
