"""Phones without a journal: a visit under a plan that sums securely, driven as the simulator drives it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from edge_runtime.privacy import private_report
from edge_runtime.protocol import wire
from edge_runtime.protocol.bundle import Bundle
from edge_runtime.protocol.checkpoint import Checkpoint
from edge_runtime.protocol.errors import InvalidGroup, TooFewSurvivors
from edge_runtime.protocol.group import Appointment, Opened, Step
from edge_runtime.protocol.keys import digest
from edge_runtime.protocol.plan import Plan, Summing
from edge_runtime.protocol.reasons import Outcome
from edge_runtime.protocol.secure_sum.transcript import Floors, Terms
from edge_runtime.session import Request, Response, Session
from edge_runtime.session.terms import terms_of
from edge_runtime.session.unkept import Summer
from edge_runtime.session.visit import Work, visit
from tests.edge_runtime.protocol.secure_sum.groups import AUTHORITY
from tests.edge_runtime.session.group_server import NO_FLOORS, GroupServer, member_of, participation_of
from tests.edge_runtime.session.test_visit import OFFER, ROOTS, coordinator, drive, noted, run, steps, with_plan
from tests.vectors.make import BUNDLE_SHA256, MANIFEST, PLAN, WEIGHTS

SIZE = 5
GROUP, OTHER = "ab" * 16, "cd" * 16
SECURE = dataclasses.replace(
    PLAN,
    version=4,
    summing=Summing.SECURE,
    lane_bits=24,
    max_participants=SIZE,
    expected_participants=SIZE,
    goal=SIZE,
    min_reports=1,
    fewest_members=3,
    survivors=4,
    corrupt_permille=0,
)
NAMES = [f"phone-{number}" for number in range(SIZE)]


def test_a_visit_that_sums_in_no_group_refuses_a_plan_that_does_and_trains_nothing() -> None:
    end, asked = run(coordinator(check_in=with_plan(SECURE)), lambda _work: pytest.fail("it must not train"))
    assert end.reason is noted(asked) is Outcome.GROUP_REFUSED


def test_a_visit_gives_what_was_trained_to_what_sums_it_and_sends_no_report() -> None:
    given: list[bytes] = []

    def sums(_work: Work, report: bytes) -> Session[Opened | Outcome]:
        given.append(report)
        yield from ()
        return Opened(version=1, retry_after_s=77.0)

    end, asked = drive(visit(OFFER, ROOTS, {}, lambda _work: b"trained", sums), coordinator(check_in=with_plan(SECURE)))
    assert (end.after_s, given) == (77.0, [b"trained"])
    assert "report" not in steps(asked)


def work_of(name: str, plan: Plan = SECURE) -> Work:
    return Work(
        participation=participation_of(name),
        round=3,
        plan=plan,
        bundle=Bundle(sha256=BUNDLE_SHA256, manifest=MANIFEST, graph=b""),
        checkpoint=Checkpoint("33" * 32, BUNDLE_SHA256, 1, WEIGHTS),
        plan_sha256=digest(wire.encode(plan)).hex(),
    )


def terms(group: str) -> Terms:
    values = SECURE.values(MANIFEST.shared_parameters)
    return terms_of(
        SECURE,
        plan_sha256=digest(wire.encode(SECURE)).hex(),
        round_=3,
        checkpoint_sha256="33" * 32,
        values=values,
        task="words",
        group=group,
    )


def summer_of(name: str, floors: Floors = NO_FLOORS) -> Summer:
    member = member_of(terms(GROUP), name)
    return Summer(key=member.key, certificate=member.certificate, authority=AUTHORITY.public, floors=floors)


def delta_of(number: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.full(SECURE.values(MANIFEST.shared_parameters), number / 100, np.float32)


def sessions(servers: dict[str, GroupServer]) -> dict[str, Opened | Outcome]:
    """All phones in turns: an appointment first, then the first group, then the next where that one ended."""
    asked = dict.fromkeys(NAMES, 0)

    def answer(name: str, request: Request) -> Response:
        if request.path.endswith("/trained"):
            asked[name] += 1
            group = None if asked[name] == 1 else list(servers)[min(asked[name], len(servers) + 1) - 2]
            named = Appointment(version=1, task="words", in_s=0.0, window_s=9.0, group=group)
            return Response(200, wire.encode(named))
        current = next(one for one in servers.values() if one.failed is None)
        group = request.path.split("/")[4] if "/groups/" in request.path else current.terms.group
        return servers[group].answer(name, request)

    running = {}
    for number, name in enumerate(NAMES):
        report = private_report(participation_of(name), delta_of(number), SECURE, np.random.default_rng(number))
        session = summer_of(name).sums(work_of(name), report)
        running[name] = (session, next(session))
    ends: dict[str, Opened | Outcome] = {}
    while running:
        for name, (session, request) in list(running.items()):
            try:
                running[name] = (session, session.send(answer(name, request)))
            except StopIteration as end:
                ends[name] = end.value
                del running[name]
    return ends


def test_phones_without_a_journal_sum_exactly() -> None:
    server = GroupServer(terms(GROUP), frozenset(NAMES))
    ends = sessions({GROUP: server})
    assert all(isinstance(end, Opened) for end in ends.values())
    assert server.opened is not None
    values = SECURE.values(MANIFEST.shared_parameters)
    found = SECURE.lanes().open_sum(server.opened, values)
    assert found == pytest.approx(sum(delta_of(number) for number in range(SIZE)), abs=SIZE / SECURE.lanes().scale)


def test_phones_whose_group_ended_join_the_next() -> None:
    ended = GroupServer(terms(GROUP), frozenset(NAMES))
    ended.closed.append(Step.JOIN)
    ended.failed = TooFewSurvivors("nobody came")
    server = GroupServer(terms(OTHER), frozenset(NAMES))
    ends = sessions({GROUP: ended, OTHER: server})
    assert all(isinstance(end, Opened) for end in ends.values())
    assert server.opened is not None


def test_a_phone_below_its_floors_says_nothing() -> None:
    with pytest.raises(InvalidGroup):
        next(summer_of("phone-0", Floors()).sums(work_of("phone-0"), b""))
