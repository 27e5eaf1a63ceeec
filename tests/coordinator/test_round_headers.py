"""A round's header: signed with the key of checkpoints, the same for everybody in the round, and for nobody else."""

from __future__ import annotations

from edge_runtime.protocol import wire
from edge_runtime.protocol.checkin import Assignment
from edge_runtime.protocol.header import SignedRound, header_path, verify_header
from edge_runtime.protocol.keys import digest
from edge_runtime.protocol.plan import Plan
from tests.coordinator.asking import ask, refusal
from tests.coordinator.running import begun
from tests.programme import PLAN, ROOTS, TASK, Home, Phone, replace

LIMITED = replace(PLAN, version=5, separation=2, most_participations=3, goal=2, min_reports=2)


def joined(home: Home, phones: list[Phone]) -> list[Assignment]:
    found = [one for one in begun(home, phones, TASK) if one is not None]
    assert len(found) == len(phones)
    return found


def test_everybody_in_a_round_gets_the_header_that_their_assignment_says(home: Home) -> None:
    home.start_task(LIMITED, pool_size=2)
    phones = [home.phone(number) for number in range(2)]
    assignments = joined(home, phones)
    found = set()
    for phone, assignment in zip(phones, assignments, strict=True):
        answer = ask(home, phone, "GET", header_path(assignment.participation)).raise_for_status()
        found.add(answer.content)
        header = verify_header(
            wire.decode(SignedRound, answer.content),
            ROOTS.coordinator,
            wire.decode(Plan, assignment.plan),
            plan_sha256=digest(assignment.plan).hex(),
            round_=assignment.round,
            checkpoint_sha256=assignment.checkpoint_sha256,
        )
        assert (header.task, header.round, header.clipping_norm) == (TASK, 1, LIMITED.clipping_norm)
    assert len(found) == 1


def test_a_header_is_for_who_takes_part(home: Home) -> None:
    home.start_task(LIMITED, pool_size=2)
    phones = [home.phone(number) for number in range(2)]
    first, second = joined(home, phones)
    assert refusal(ask(home, phones[0], "GET", header_path(second.participation))) == "unknown-participation"
    assert refusal(ask(home, phones[0], "GET", header_path("0" * 32))) == "unknown-participation"
    assert ask(home, phones[0], "GET", header_path(first.participation)).status_code == 200
