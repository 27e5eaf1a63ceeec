"""A group, from joining it to its opened sum: the device's side, as a session without I/O.

Everything a device sends in a group follows from what it drew and from the answers that it believed. Both are in its
ledger, on disk, before anything that follows from them leaves: so a step that is taken again, by whatever process, has
the same bytes, and an answer is believed once. An answer is checked before it is believed; one that does not hold ends
the group for this device, for ever.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol, TypeVar

from edge_runtime.protocol import wire
from edge_runtime.protocol.errors import (
    Conflict,
    ContradictedGroup,
    GroupEnded,
    InvalidGroup,
    InvalidRoster,
    Malformed,
    Refusal,
    StepNotAllowed,
    TooFewSurvivors,
)
from edge_runtime.protocol.group import (
    STEP_GRACE_S,
    Appointment,
    NotYet,
    Opened,
    Step,
    StepTaken,
    Trained,
    step_path,
    trained_path,
)
from edge_runtime.protocol.keys import PublicKey, SigningKey
from edge_runtime.protocol.report import encode_report
from edge_runtime.protocol.secure_sum import participant, transcript
from edge_runtime.protocol.secure_sum.lanes import LaneVector
from edge_runtime.protocol.secure_sum.messages import Confirmations, Delivery, Roster, Survivors
from edge_runtime.protocol.secure_sum.participant import Seat, Secrets
from edge_runtime.protocol.secure_sum.transcript import Floors, Terms
from edge_runtime.session import Request, Session, Unreachable, accepted, ask
from edge_runtime.session.visit import send_report

Result = TypeVar("Result")
Message = TypeVar("Message")

LONGEST_STEP_S: Final = 120.0
"""No step is awaited longer by a coordinator that is up; forming is the longest."""
LEAST_PAUSE_S: Final = 0.2
"""Between two questions, whatever the coordinator asks for."""
AGAIN_S: Final = 5.0
"""After an answer that is not the coordinator's."""

CONTRADICTIONS: Final = (ContradictedGroup, InvalidGroup, InvalidRoster)
"""What the device was told of its group does not hold: it takes no part in this round any more."""

ENDINGS: Final = (*CONTRADICTIONS, Conflict, GroupEnded, StepNotAllowed, TooFewSurvivors)
"""What ends a group for a device, by its own word or by the coordinator's."""


class Ledger(Protocol):
    """What a device keeps of one group. Whatever is written is on disk when the call returns."""

    @property
    def secrets(self) -> Secrets:
        """Drawn for this group, and kept before anything of it was sent."""

    def answer(self, step: Step) -> bytes | None:
        """The answer that was believed."""

    def believe(self, step: Step, answer: bytes) -> None:
        """Keep an answer for ever.

        Raises:
            StepNotAllowed: There is one, or it is not its turn.
        """

    @property
    def report(self) -> bytes | None:
        """The masked report, once there is one."""

    def lanes(self) -> LaneVector:
        """What was trained, not masked: to be written over.

        Raises:
            StepNotAllowed: A masked report exists.
        """

    def mask(self, report: bytes) -> None:
        """Keep the masked report, and let go of what it was made from, in one change.

        Raises:
            StepNotAllowed: A masked report exists.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """Who joins, on what terms.

    Attributes:
        key: The device's.
        certificate: Of that key, by the authority.
        authority: The key that the host app pins.
        floors: What the host app compiled in.
    """

    key: SigningKey
    certificate: bytes
    authority: PublicKey
    floors: Floors
    participation: str
    terms: Terms


@dataclass(frozen=True, slots=True)
class Quit:
    """The device left the group, for ever; nothing of it is sent any more."""

    refusal: Refusal

    @property
    def contradicted(self) -> bool:
        """Whether the device was told something that does not hold."""
        return isinstance(self.refusal, CONTRADICTIONS)


def appointment(participation: str, after_s: float = 0.0) -> Session[Appointment]:
    """Say that this participation has trained; when to come, or the group to join now.

    Raises:
        Refusal: The coordinator refused.
    """
    asking = ask(trained_path(participation), Trained(version=1), Appointment)
    return (yield from _with(asking, patience_s=None, after_s=after_s))


def take_part(member: Member, ledger: Ledger) -> Session[Opened | Quit]:
    """Go on with a group from wherever the ledger is, to its opened sum or to the end of it for this device.

    Guarantee: whatever the answers, in however many processes: one masked report is made; of each peer one kind of
    share leaves; nothing is revealed below the floors, or for another set than the one that t members signed.

    Raises:
        Refusal: The coordinator refused this device or its report, and not for the group's sake.
    """
    try:
        return (yield from _Steps(member, ledger).taken())
    except ENDINGS as refusal:
        return Quit(refusal)


@dataclass(slots=True)
class _Steps:
    member: Member
    ledger: Ledger
    patience_s: float = field(default=LONGEST_STEP_S + STEP_GRACE_S)
    """How long to go on trying: until the step's deadline, and a grace."""

    def taken(self) -> Session[Opened]:
        """All steps, those that were taken before from what is kept of them."""
        member, ledger, terms = self.member, self.ledger, self.member.terms
        member.floors.check(terms)
        seat = yield from self._joined(ledger.secrets)
        shares, pairs = participant.deal(seat, member.key)
        own = pairs.get(seat.position)
        received = yield from self._known(
            Step.SHARES,
            lambda: self._post(Step.SHARES, shares),
            Delivery,
            lambda told: participant.receive(seat, own, told),
        )
        report = ledger.report
        if report is None:
            report = encode_report(member.participation, terms.lanes, participant.mask(seat, received, ledger.lanes()))
            ledger.mask(report)
        complaints, masked = participant.complaints(seat, received), report
        confirmed = yield from self._known(
            Step.MASKED,
            lambda: self._send_masked(complaints, masked),
            Survivors,
            lambda told: participant.confirm(seat, member.key, received, told),
        )
        unmasking = yield from self._known(
            Step.CONFIRMATION,
            lambda: self._post(Step.CONFIRMATION, confirmed.message),
            Confirmations,
            lambda told: participant.unmask(seat, received, confirmed, told),
        )
        yield from self._patiently(lambda: self._post(Step.UNMASKING, unmasking))
        return (yield from self._told(Step.UNMASKING, Opened))

    def _joined(self, secrets: Secrets) -> Session[Seat]:
        member, terms = self.member, self.member.terms
        own = secrets.entry(member.key, member.certificate, plan_sha256=terms.plan_sha256, group=terms.group)

        def seated(roster: Roster) -> Seat:
            roster.check_group(terms.group)
            agreement, position = transcript.join(
                terms, roster.members(), member.authority, own=own, floors=member.floors
            )
            return Seat(agreement, position, secrets)

        return (
            yield from self._known(
                Step.JOIN, lambda: self._post(Step.JOIN, participant.joining(own, terms.group)), Roster, seated
            )
        )

    def _known(
        self,
        step: Step,
        send: Callable[[], Session[None]],
        kind: type[Message],
        check: Callable[[Message], Result],
    ) -> Session[Result]:
        """What follows from the answer to a step: from the one that is kept, or from one that is asked for now."""
        kept = self.ledger.answer(step)
        if kept is not None:
            return _checked(check, wire.decode(kind, kept))
        yield from self._patiently(send)
        answer = yield from self._told(step, kind)
        found = _checked(check, answer)
        self.ledger.believe(step, wire.encode(answer))
        return found

    def _post(self, step: Step, message: object) -> Session[None]:
        yield from ask(step_path(self.member.terms.group, step), message, StepTaken)

    def _send_masked(self, complaints: object, report: bytes) -> Session[None]:
        yield from self._post(Step.MASKED, complaints)
        yield from send_report(self.member.participation, report)

    def _told(self, step: Step, kind: type[Message]) -> Session[Message]:
        """Ask for what follows a step until it is there."""
        after_s = 0.0
        while True:
            asking = functools.partial(self._asked, step, kind, after_s)
            answer, after_s = yield from self._patiently(asking)
            if answer is not None:
                return answer

    def _asked(self, step: Step, kind: type[Message], after_s: float) -> Session[tuple[Message | None, float]]:
        """Ask once: the answer, or when to ask again."""
        response = yield Request("GET", step_path(self.member.terms.group, step), after_s=after_s)
        if response.status != 202:
            self.patience_s = LONGEST_STEP_S + STEP_GRACE_S
            return wire.decode(kind, accepted(response)), 0.0
        not_yet = wire.decode(NotYet, response.body)
        self.patience_s = min(not_yet.left_s, LONGEST_STEP_S) + STEP_GRACE_S
        return None, max(LEAST_PAUSE_S, not_yet.ask_after_s)

    def _patiently(self, begin: Callable[[], Session[Result]]) -> Session[Result]:
        """Do it, again and again while what answers is not the coordinator, until nobody waits for it any more."""
        waited_s = 0.0
        while True:
            try:
                return (yield from _with(begin(), patience_s=self.patience_s, after_s=AGAIN_S if waited_s else 0.0))
            except Malformed as refusal:
                waited_s += AGAIN_S
                if waited_s > self.patience_s:
                    raise Unreachable(f"what answers is not the coordinator: {refusal.detail}") from None


def _checked(check: Callable[[Any], Result], answer: object) -> Result:
    """A message of the right kind whose parts have the wrong length contradicts what was agreed."""
    try:
        return check(answer)
    except Malformed as refusal:
        raise ContradictedGroup(refusal.detail) from None


def _with(session: Session[Result], *, patience_s: float | None, after_s: float) -> Session[Result]:
    """The same session, with patience for each of its requests; the first one waits."""
    try:
        request = next(session)
        while True:
            after_s, waits_s = 0.0, after_s
            response = yield replace(request, patience_s=patience_s, after_s=request.after_s + waits_s)
            request = session.send(response)
    except StopIteration as end:
        result: Result = end.value
        return result
    finally:
        session.close()
