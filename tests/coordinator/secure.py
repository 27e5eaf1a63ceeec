"""A task that sums securely, and scripted phones on the pure functions of the protocol, one request at a time."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx
import numpy as np
from sqlmodel import Session, select

from coordinator.core.rounds import SECURE_PHASES, GroupPhase
from coordinator.core.secure_groups import LONGEST_S
from coordinator.store.blobs import BlobKind
from coordinator.store.crash_points import CrashPoint, hooked
from coordinator.store.tables import Group
from edge_runtime.protocol import wire
from edge_runtime.protocol.checkin import Assignment
from edge_runtime.protocol.enrolment import ENROL_PATH, Enrol, Enrolled, Evidence
from edge_runtime.protocol.group import Appointment, NotYet, Opened, Step, StepTaken, Trained, step_path, trained_path
from edge_runtime.protocol.keys import digest
from edge_runtime.protocol.plan import Plan, Privacy, Summing
from edge_runtime.protocol.report import encode_report, report_path
from edge_runtime.protocol.secure_sum import participant, transcript
from edge_runtime.protocol.secure_sum.lanes import LaneVector
from edge_runtime.protocol.secure_sum.masks import keyed_randomness
from edge_runtime.protocol.secure_sum.messages import Confirmations, Delivery, Roster, Survivors
from edge_runtime.protocol.secure_sum.participant import Confirmed, Received, Seat, Secrets
from edge_runtime.protocol.secure_sum.transcript import Floors, Terms
from tests.coordinator.asking import ask, assigned
from tests.programme import AUTHORITY_KEY, MANIFEST, PLAN, POPULATION, TASK, TENANT, Home, Phone, replace

Message = TypeVar("Message")
SIZE = 5
SIX = 6
FLOORS = Floors(smallest_group=3, fewest_survivors=2, least_corrupt_permille=0)


def secure_plan(size: int = SIZE, *, survivors: int | None = None, bits: int = 24, **more: Any) -> Plan:
    """For one group of so many: nobody corrupt, and as many may drop out as the threshold allows."""
    return replace(
        PLAN,
        version=4,
        summing=Summing.SECURE,
        privacy=Privacy.NONE,
        lane_bits=bits,
        max_participants=size,
        expected_participants=size,
        goal=size,
        min_reports=1,
        fewest_members=3,
        survivors=survivors or max(-(-size // 2) + 1, size // 2 + 1),
        corrupt_permille=0,
        **more,
    )


@dataclass
class SecurePhone:
    """A phone that does one step after another, honestly, as far as a test lets it."""

    phone: Phone
    home: Home
    assignment: Assignment
    certificate: bytes
    values: int = MANIFEST.shared_parameters
    draws: int = 0
    group: str = ""
    task: str = TASK
    secrets: Secrets | None = None
    seat: Seat | None = None
    received: Received | None = None
    confirmed: Confirmed | None = None
    own: Any = None
    sent: dict[Step, bytes] = field(default_factory=dict)

    @property
    def plan(self) -> Plan:
        return wire.decode(Plan, self.assignment.plan)

    @property
    def device_id(self) -> str:
        return self.phone.driver.device_id

    def ask(self, method: str, path: str, body: bytes = b"") -> httpx.Response:
        return ask(self.home, self.phone, method, path, body)

    def say_trained(self) -> httpx.Response:
        body = wire.encode(Trained(version=1))
        return self.ask("POST", trained_path(self.assignment.participation), body)

    def appointment(self) -> Appointment:
        answer = self.say_trained()
        assert answer.status_code == 200, answer.text
        found = wire.decode(Appointment, answer.content)
        if found.group is not None and found.group != self.group:
            self.group, self.task, self.seat, self.received, self.sent = found.group, found.task, None, None, {}
        return found

    # --- one step: what is sent ------------------------------------------------------------------------------------

    def joining(self) -> bytes:
        if Step.JOIN not in self.sent:
            self.draws += 1
            seed = digest(b"secrets", self.device_id.encode(), bytes([self.draws]))
            self.secrets = Secrets.fresh(keyed_randomness(seed))
            entry = self.secrets.entry(
                self.phone.driver.key,
                self.certificate,
                plan_sha256=digest(self.assignment.plan).hex(),
                group=self.group,
            )
            self.sent[Step.JOIN] = wire.encode(participant.joining(entry, self.group))
        return self.sent[Step.JOIN]

    def terms(self) -> Terms:
        return Terms(
            tenant=TENANT,
            task=self.task,
            round=self.assignment.round,
            group=self.group,
            plan_sha256=digest(self.assignment.plan).hex(),
            bundle_sha256=self.plan.bundle_sha256,
            checkpoint_sha256=self.assignment.checkpoint_sha256,
            fewest=self.plan.fewest_members or 0,
            survivors=self.plan.survivors or 0,
            corrupt_permille=self.plan.corrupt_permille,
            dropout_permille=self.plan.dropout_permille,
            lanes=self.plan.lanes(),
            parameters=self.values,
        )

    def sit(self, terms: Terms | None = None) -> Seat:
        if self.seat is None:
            assert self.secrets is not None
            roster = self.following(Step.JOIN, Roster)
            own = [one for one in roster.members() if one.device_key == self.phone.driver.key.public.raw]
            agreement, position = transcript.join(
                terms or self.terms(), roster.members(), AUTHORITY_KEY.public, own=own[0], floors=FLOORS
            )
            self.seat = Seat(agreement, position, self.secrets)
        return self.seat

    def shares(self) -> bytes:
        message, pairs = participant.deal(self.sit(), self.phone.driver.key)
        self.own = pairs.get(self.sit().position)
        return wire.encode(message)

    def receive(self) -> Received:
        if self.received is None:
            self.received = participant.receive(self.sit(), self.own, self.following(Step.SHARES, Delivery))
        return self.received

    def complaints(self) -> bytes:
        return wire.encode(participant.complaints(self.sit(), self.receive()))

    def report(self, lanes: LaneVector | None = None) -> bytes:
        packed = participant.mask(self.sit(), self.receive(), (self.lanes() if lanes is None else lanes).copy())
        return encode_report(self.assignment.participation, self.plan.lanes(), packed)

    def lanes(self) -> LaneVector:
        """Integers that tell this phone's report from any other in a sum."""
        count = self.plan.lanes().count(self.values)
        lanes = np.zeros(count, np.uint32)
        lanes[: count - 4] = np.arange(count - 4, dtype=np.uint32) * (self.phone.number + 1) + 7
        return lanes

    def confirmation(self) -> bytes:
        survivors = self.following(Step.MASKED, Survivors)
        self.confirmed = participant.confirm(self.sit(), self.phone.driver.key, self.receive(), survivors)
        return wire.encode(self.confirmed.message)

    def unmasking(self) -> bytes:
        assert self.confirmed is not None
        confirmations = self.following(Step.CONFIRMATION, Confirmations)
        return wire.encode(participant.unmask(self.sit(), self.receive(), self.confirmed, confirmations))

    # --- one step: sending it --------------------------------------------------------------------------------------

    def post(self, step: Step, body: bytes | None = None) -> httpx.Response:
        makers: dict[Step, Callable[[], bytes]] = {
            Step.JOIN: self.joining,
            Step.SHARES: self.shares,
            Step.MASKED: self.complaints,
            Step.CONFIRMATION: self.confirmation,
            Step.UNMASKING: self.unmasking,
        }
        return self.ask("POST", step_path(self.group, step), makers[step]() if body is None else body)

    def put_report(self, body: bytes | None = None) -> httpx.Response:
        return self.ask("PUT", report_path(self.assignment.participation), self.report() if body is None else body)

    def take(self, step: Step) -> None:
        """Send a step as an honest phone does, and see it taken."""
        answer = self.post(step)
        assert answer.status_code == 200, answer.text
        assert wire.decode(StepTaken, answer.content).version == 1
        if step is Step.MASKED:
            receipt = self.put_report()
            assert receipt.status_code == 200, receipt.text

    def get(self, step: Step) -> httpx.Response:
        return self.ask("GET", step_path(self.group, step))

    def following(self, step: Step, kind: type[Message]) -> Message:
        answer = self.get(step)
        assert answer.status_code == 200, answer.text
        return wire.decode(kind, answer.content)

    def waits(self, step: Step) -> bool:
        answer = self.get(step)
        if answer.status_code != 202:
            return False
        assert wire.decode(NotYet, answer.content).ask_after_s > 0
        return True

    def is_opened(self) -> bool:
        return self.get(Step.UNMASKING).status_code == 200 and self.following(Step.UNMASKING, Opened).version == 1


def certified(phone: Phone) -> bytes:
    """Enrol again, in the version that brings the certificate."""
    message = Enrol(
        version=3,
        tenant=TENANT,
        population=POPULATION,
        public_key=phone.driver.key.public.raw,
        app="app",
        app_version="1.0",
        platform="linux",
        evidence=Evidence.NONE,
    )
    home_send = phone.driver.send
    from edge_runtime.session import Request
    from tests.coordinator.asking import signature

    body = wire.encode(message)
    answer = home_send(Request("POST", ENROL_PATH, body), signature(phone, "POST", ENROL_PATH, body))
    assert answer.status == 200, answer.body
    return wire.decode(Enrolled, answer.body).certificate


def secure_round(home: Home, count: int = SIZE, plan: Plan | None = None, **order: Any) -> list[SecurePhone]:
    """Phones with an assignment each, in the first round of a task that sums securely."""
    home.start_task(plan or secure_plan(count), **{"pool_size": count, **order})
    phones = [home.phone(number) for number in range(count)]
    certificates = [certified(phone) for phone in phones]
    return [
        SecurePhone(phone, home, assignment, certificate)
        for phone, assignment, certificate in zip(phones, assigned(home, phones), certificates, strict=True)
    ]


def meet(home: Home, phones: Sequence[SecurePhone]) -> None:
    """All say that they have trained, and are asked to join a group."""
    for phone in phones:
        phone.appointment()
    home.look()
    for phone in phones:
        assert phone.appointment().group is not None


STEPS = tuple(Step)


def play(home: Home, phones: Sequence[SecurePhone], alive: Callable[[Step], Iterable[SecurePhone]]) -> None:
    """Step after step, each taken by those who are still there; the others are waited for in vain."""
    for step in STEPS:
        there = list(alive(step))
        for phone in there:
            phone.take(step)
        home.look()
        if len(there) < len(phones):
            pass_time(home)


def end_phase(home: Home, number: int = 0) -> None:
    """Let the phase of a group end: by the grace of its quorum, or at its limit; the next one only begins."""
    home.look()
    phase = groups_of(home)[number].phase
    for _half in range(2):
        if groups_of(home)[number].phase == phase and phase in SECURE_PHASES:
            home.clock.forward(LONGEST_S[GroupPhase(phase)] / 2)
            home.look()


def pass_time(home: Home) -> None:
    """Longer than any phase, in steps, so that the worker sees a grace begin and end."""
    for _look in range(3):
        home.clock.forward(61)
        home.look()


def groups_of(home: Home) -> list[Group]:
    return in_database(home, lambda session: list(session.exec(select(Group).order_by(Group.number)).all()))  # type: ignore[arg-type]


Answer = TypeVar("Answer")


def in_database(home: Home, read: Callable[[Session], Answer]) -> Answer:
    with home.app.state.parts.database.reading() as session:
        return read(session)


@contextlib.contextmanager
def sums_seen(home: Home, bits: int = 24) -> Iterator[list[list[int]]]:
    """Every opened sum, as whole numbers, when its blob is durable."""
    found: list[list[int]] = []
    known: set[str] = set()

    def look(point: CrashPoint) -> None:
        if point is not CrashPoint.SUM_UNMASKED:
            return
        folder = home.app.state.parts.blobs.path(TENANT, BlobKind.PARTIAL_SUM, "0" * 64).parent
        for path in folder.glob("*"):
            raw = path.read_bytes()
            if path.name not in known and struct.unpack_from("<16si", raw)[1] == -1:
                known.add(path.name)
                found.append([int(lane) % (1 << bits) for lane in np.frombuffer(raw, "<u4", offset=20)])

    with hooked(look):
        yield found


def plain_sum(phones: list[SecurePhone], bits: int = 24) -> list[int]:
    """What the sum must be: whole numbers of Python."""
    return [sum(lane) % (1 << bits) for lane in zip(*(phone.lanes().tolist() for phone in phones), strict=True)]
