"""Groups in memory: a coordinator made of the protocol's own pieces, and phones that run the device's session.

The server answers requests and nothing else. A step is closed when everybody whom it can expect has sent it, or when
the test closes it: whoever has not sent it by then is gone. `play` lets many phones talk to it in turns.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from edge_runtime.protocol import wire
from edge_runtime.protocol.enrolment import Problem
from edge_runtime.protocol.errors import GroupEnded, NotFound, Refusal, TooFewSurvivors
from edge_runtime.protocol.group import NotYet, Opened, Step, StepTaken, step_path
from edge_runtime.protocol.keys import SigningKey, digest
from edge_runtime.protocol.report import Receipt, encode_report, lanes_of_report, report_path
from edge_runtime.protocol.secure_sum import mailbox, opening
from edge_runtime.protocol.secure_sum.lanes import LaneVector
from edge_runtime.protocol.secure_sum.mailbox import Blame, Dealt
from edge_runtime.protocol.secure_sum.members import Members, encode_members
from edge_runtime.protocol.secure_sum.messages import (
    Complaints,
    Confirmation,
    Joining,
    Roster,
    Shares,
    Survivors,
    Unmasking,
)
from edge_runtime.protocol.secure_sum.opening import Revelation
from edge_runtime.protocol.secure_sum.participant import Secrets
from edge_runtime.protocol.secure_sum.roster import Entry, sign_certificate
from edge_runtime.protocol.secure_sum.transcript import Agreement, Floors, Terms, agree
from edge_runtime.session import Request, Response, Session
from edge_runtime.session.group import Ledger, Member, Quit, take_part
from edge_runtime.session.unkept import MemoryLedger, Unmasked
from tests.edge_runtime.protocol.secure_sum.groups import AUTHORITY

NO_FLOORS: Final = Floors(smallest_group=2, fewest_survivors=2, least_corrupt_permille=0)
RETRY_AFTER_S: Final = 60.0


@dataclass
class GroupServer:
    """One group. Devices are named by whatever the caller names them by, in `answer`.

    Attributes:
        terms: Of the group; the server believes no device about them.
        expected: Who is expected to join.
        reports: Masked reports, by device.
        opened: The sum, modulo 2^32, once it is opened.
    """

    terms: Terms
    expected: frozenset[str]
    entries: dict[str, Entry] = field(default_factory=dict)
    agreement: Agreement | None = None
    places: dict[str, int] = field(default_factory=dict)
    dealt: dict[int, Dealt] = field(default_factory=dict)
    complaints: dict[int, Complaints] = field(default_factory=dict)
    reports: dict[str, bytes] = field(default_factory=dict)
    confirmed: dict[int, bytes] = field(default_factory=dict)
    revealed: dict[int, Revelation] = field(default_factory=dict)
    bodies: dict[tuple[str, str, str], bytes] = field(default_factory=dict)
    sharers: Members = frozenset()
    masked: Members = frozenset()
    closed: list[Step] = field(default_factory=list)
    opened: LaneVector | None = None
    failed: Refusal | None = None
    blamed: list[Blame] = field(default_factory=list)
    participations: dict[str, str] = field(default_factory=dict)
    """Of devices whose participation is not `participation_of` their name."""

    # --- answers ------------------------------------------------------------------------------------------------

    def answer(self, device: str, request: Request) -> Response:
        """Answer one request of a device; a refusal travels as a problem."""
        try:
            if self.failed is not None:
                raise GroupEnded(self.failed.detail)
            return self._answered(device, request)
        except Refusal as refusal:
            return problem(refusal)

    def _answered(self, device: str, request: Request) -> Response:
        if request.method == "PUT":
            return self._reported(device, request)
        for step in Step:
            if request.path == step_path(self.terms.group, step):
                return self._sent(device, step, request) if request.method == "POST" else self._asked(device, step)
        raise NotFound(f"nothing is at {request.path}")

    def _once(self, device: str, request: Request) -> bool:
        """Whether it is new. Another body under its name is a bug of a device, and fails the test."""
        sent = (device, request.method, request.path)
        is_new = sent not in self.bodies
        assert self.bodies.setdefault(sent, request.body) == request.body, f"{device} sent another {request.path}"
        return is_new

    def _sent(self, device: str, step: Step, request: Request) -> Response:
        if self._once(device, request):
            if step in self.closed:
                raise GroupEnded(f"{step} is over")
            self._take(device, step, request.body)
            self._close_if_complete(step)
        return Response(200, wire.encode(StepTaken(version=1)))

    def _take(self, device: str, step: Step, body: bytes) -> None:
        if step is Step.JOIN:
            self.entries[device] = Entry.from_raw(wire.decode(Joining, body).entry)
            return
        assert self.agreement is not None
        place = self.places[device]
        if step is Step.SHARES:
            self.dealt[place] = mailbox.taken(self.agreement, place, wire.decode(Shares, body))
        elif step is Step.MASKED:
            self.complaints[place] = wire.decode(Complaints, body)
            self.blamed += mailbox.judged(self.agreement, place, self.complaints[place], self.dealt)
        elif step is Step.CONFIRMATION:
            message = wire.decode(Confirmation, body)
            mailbox.check_confirmation(self.agreement, place, self.masked, message)
            self.confirmed[place] = message.signature
        else:
            unmasking = wire.decode(Unmasking, body)
            self.revealed[place] = opening.revealed(
                self.agreement, place, unmasking, sharers=self.sharers, masked=self.masked
            )

    def _reported(self, device: str, request: Request) -> Response:
        if self._once(device, request):
            if Step.MASKED in self.closed:
                raise GroupEnded("it is settled whose reports came")
            self.reports[device] = request.body
            self._close_if_complete(Step.MASKED)
        participation = request.path.split("/")[4]
        sha256 = digest(request.body).hex()
        return Response(
            200, wire.encode(Receipt(version=1, participation=participation, report_sha256=sha256, retry_after_s=1.0))
        )

    def _asked(self, device: str, step: Step) -> Response:
        if step not in self.closed:
            return Response(202, wire.encode(NotYet(version=1, ask_after_s=0.0, left_s=30.0)))
        if device not in self.places:
            raise GroupEnded("it formed without this device")
        return Response(200, wire.encode(self.told(device, step)))

    def told(self, device: str, step: Step) -> object:
        """What follows a step that is closed."""
        agreement, group = self.agreement, self.terms.group
        assert agreement is not None
        if step is Step.JOIN:
            return Roster(version=1, group=group, entries=b"".join(one.raw for one in agreement.roster))
        if step is Step.SHARES:
            return mailbox.delivery(agreement, self.places[device], self.dealt)
        if step is Step.MASKED:
            return Survivors(version=1, group=group, masked=encode_members(self.masked, agreement.size))
        if step is Step.CONFIRMATION:
            return mailbox.confirmations(agreement, self.confirmed)
        return Opened(version=1, retry_after_s=RETRY_AFTER_S)

    # --- deadlines ----------------------------------------------------------------------------------------------

    def _close_if_complete(self, step: Step) -> None:
        names = {place: name for name, place in self.places.items()}
        waits = {
            Step.JOIN: self.expected - self.entries.keys(),
            Step.SHARES: self.places.values() - self.dealt.keys(),
            Step.MASKED: {names[one] for one in self.sharers} - self.reports.keys(),
            Step.CONFIRMATION: self.masked - self.confirmed.keys(),
            Step.UNMASKING: self.masked - self.revealed.keys(),
        }[step]
        if not waits:
            self.close(step)

    def close_next(self) -> None:
        """The deadline of the step that is awaited has passed."""
        self.close(next(step for step in Step if step not in self.closed))

    def close(self, step: Step) -> None:
        self.closed.append(step)
        try:
            self._settle(step)
        except Refusal as refusal:
            self.failed = refusal

    def _settle(self, step: Step) -> None:
        if step is Step.JOIN:
            order = sorted(self.entries, key=lambda name: self.entries[name].device_id(self.terms.tenant))
            self.agreement = agree(self.terms, [self.entries[name] for name in order], AUTHORITY.public)
            self.places = {name: place for place, name in enumerate(order)}
        elif step is Step.SHARES:
            self.sharers = frozenset(self.dealt)
            self._enough(self.sharers)
        elif step is Step.MASKED:
            self.masked = frozenset(self.places[name] for name in self.reports)
            self._enough(self.masked)
        elif step is Step.UNMASKING:
            self._open()

    def _enough(self, members: Members) -> None:
        assert self.agreement is not None
        if len(members) < self.agreement.quorum:
            raise TooFewSurvivors(f"{len(members)} are left")

    def _open(self) -> None:
        assert self.agreement is not None
        recovery = opening.recover(self.agreement, self.dealt, self.masked, self.revealed)
        total = np.zeros(self.terms.lanes.count(self.terms.parameters), np.uint32)
        for name, report in self.reports.items():
            participation = self.participations.get(name) or participation_of(name)
            packed = lanes_of_report(report, participation, self.terms.lanes, self.terms.parameters)
            total += self.terms.lanes.unpack(packed, self.terms.parameters)
        opening.open_sum(self.agreement, total, recovery)
        self.opened = total


def problem(refusal: Refusal, status: int = 410) -> Response:
    """A refusal as it travels."""
    return Response(
        status,
        wire.encode(
            Problem(
                type=f"urn:edgewise:refusal:{refusal.code}",
                title=refusal.title,
                status=status,
                detail=refusal.detail,
                code=refusal.code,
                retry=refusal.retry,
                retry_after_s=refusal.retry_after_s,
                server_time=0,
            )
        ),
    )


def participation_of(name: str) -> str:
    return digest(b"participation of", name.encode()).hex()[:32]


# --- phones -----------------------------------------------------------------------------------------------------


@dataclass
class Phone:
    """One device, and all that it ever sent: what `sent` holds left it, whatever process it was."""

    name: str
    member: Member
    ledger: Ledger
    sent: list[Request] = field(default_factory=list)
    end: Opened | Quit | None = None

    def session(self) -> Session[Opened | Quit]:
        """As a process begins it, or goes on with it."""
        return take_part(self.member, self.ledger)


def phone_of(terms: Terms, number: int, lanes: LaneVector, floors: Floors = NO_FLOORS) -> Phone:
    """A certified device whose training came to these lanes."""
    name = f"phone-{number}"
    member = member_of(terms, name, floors)
    unmasked = Unmasked(
        participation=member.participation,
        codec=terms.lanes,
        values=terms.parameters,
        report=encode_report(member.participation, terms.lanes, terms.lanes.packed(lanes)),
    )
    return Phone(name, member, MemoryLedger(secrets=secrets_of(name, terms.group), unmasked=unmasked))


def member_of(terms: Terms, name: str, floors: Floors = NO_FLOORS) -> Member:
    key = SigningKey(digest(b"key of", name.encode()))
    return Member(
        key=key,
        certificate=_certificate(terms.tenant, key.raw),
        authority=AUTHORITY.public,
        floors=floors,
        participation=participation_of(name),
        terms=terms,
    )


@functools.cache
def _certificate(tenant: str, key: bytes) -> bytes:
    return sign_certificate(AUTHORITY, tenant, SigningKey(key).public)


def secrets_of(name: str, group: str) -> Secrets:
    """Another draw for every device and group, and the same in every run."""
    return Secrets.from_raw(
        b"".join(digest(b"secrets", name.encode(), group.encode(), bytes([part])) for part in range(5))[:144]
    )


def lanes_of(terms: Terms, number: int) -> LaneVector:
    """Small lanes, the four zeros included."""
    rng = np.random.default_rng(number)
    lanes = np.zeros(terms.lanes.count(terms.parameters), np.uint32)
    lanes[:-4] = rng.integers(0, 1000, lanes.size - 4)
    return lanes


def play(
    server: GroupServer, phones: Iterable[Phone], gone: Mapping[str, Step] | None = None
) -> dict[str, Opened | Quit]:
    """Let phones take turns until all have ended; `gone` names the step that a phone never sends."""
    gone = gone or {}
    running: dict[str, tuple[Phone, Session[Opened | Quit], Request]] = {}
    ends: dict[str, Opened | Quit] = {}
    for phone in phones:
        session = phone.session()
        running[phone.name] = (phone, session, next(session))
    while running:
        waiting = True
        for name, (phone, session, request) in list(running.items()):
            step = gone.get(name)
            if step is not None and is_of(request, server.terms.group, step, phone.member.participation):
                session.close()
                del running[name]
                continue
            phone.sent.append(request)
            response = server.answer(name, request)
            waiting = waiting and response.status == 202
            try:
                running[name] = (phone, session, session.send(response))
            except StopIteration as end:
                ends[name] = phone.end = end.value
                del running[name]
        if waiting and running:
            server.close_next()
    return ends


def is_of(request: Request, group: str, step: Step, participation: str) -> bool:
    """Whether a request sends a step; the masked step is its report."""
    if step is Step.MASKED:
        return request.method == "PUT" and request.path == report_path(participation)
    return request.method == "POST" and request.path == step_path(group, step)


def phones_of(terms: Terms, count: int, **changes: Any) -> list[Phone]:
    return [phone_of(terms, number, lanes_of(terms, number), **changes) for number in range(count)]


def server_for(terms: Terms, phones: Iterable[Phone]) -> GroupServer:
    return GroupServer(terms, frozenset(phone.name for phone in phones))


def sum_of(terms: Terms, phones: Iterable[int]) -> list[int]:
    """What the sum must be, in Python's whole numbers."""
    wanted = [lanes_of(terms, number).tolist() for number in phones]
    return [sum(lane) % (1 << terms.lanes.bits) for lane in zip(*wanted, strict=True)]


def opened_lanes(server: GroupServer) -> list[int]:
    assert server.opened is not None
    return [lane % (1 << server.terms.lanes.bits) for lane in server.opened.tolist()]


def with_checkpoint(phone: Phone, sha256: str) -> Phone:
    """The same phone, told another model."""
    terms = replace(phone.member.terms, checkpoint_sha256=sha256)
    return Phone(phone.name, replace(phone.member, terms=terms), phone.ledger)
