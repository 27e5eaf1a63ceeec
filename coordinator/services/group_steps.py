"""What a device sends in a group that sums securely; `group_answers` is what it gets. The worker moves the group on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import bindparam, insert
from sqlmodel import Session, col, select

from coordinator.core.appointments import WINDOW_S, Timing
from coordinator.core.rounds import SECURE_PHASES, GroupPhase, Standing
from coordinator.core.secure_groups import TAKEN_IN
from coordinator.core.task_settings import read_settings
from coordinator.services.faults import is_quarantined, record_fault
from coordinator.services.group_facts import once
from coordinator.services.group_terms import (
    agreement_of,
    masked_of,
    position_of,
    positions,
    roster_of,
    round_and_task,
    sharers_of,
    terms_of,
)
from coordinator.services.running import read_plan
from coordinator.store.group_tables import Member, MemberKey, StepRow
from coordinator.store.tables import Device, Group, Participation, Round, Task
from edge_runtime.protocol import wire
from edge_runtime.protocol.errors import (
    Conflict,
    GroupEnded,
    InvalidRoster,
    ParticipationEnded,
    RoundClosed,
    StepNotAllowed,
    UnknownParticipation,
)
from edge_runtime.protocol.group import Appointment, Step, StepTaken
from edge_runtime.protocol.keys import PublicKey, digest
from edge_runtime.protocol.plan import Summing
from edge_runtime.protocol.secure_sum import mailbox, opening
from edge_runtime.protocol.secure_sum.mailbox import Blame, Dealt
from edge_runtime.protocol.secure_sum.members import decode_members
from edge_runtime.protocol.secure_sum.messages import (
    Complaints,
    Confirmation,
    Joining,
    Shares,
    Unmasking,
    pieces,
)
from edge_runtime.protocol.secure_sum.roster import Entry, verify_entry
from edge_runtime.protocol.secure_sum.transcript import Agreement

_TAKEN: Final = StepTaken(version=1)


# --- trained ----------------------------------------------------------------------------------------------------------


def trained(session: Session, device: Device, participation_id: str, now: datetime) -> Appointment:
    """A participant has trained, and asks when to come. Again tells it again.

    Raises:
        UnknownParticipation: The device has no such participation.
        ParticipationEnded, RoundClosed: It is over.
        StepNotAllowed: Its plan sums in plain, or its report is here already.
    """
    participation = session.get(Participation, participation_id)
    if participation is None or participation.device_id != device.id:
        raise UnknownParticipation("this device takes no part under that id")
    round_, task = round_and_task(session, participation.round_id)
    if read_plan(task.plan).summing is not Summing.SECURE:
        raise StepNotAllowed("this plan sums in plain: send the report")
    if participation.standing == Standing.REPORTED:
        raise StepNotAllowed("the report of this participation is here already")
    if round_.closed_at is not None:
        raise RoundClosed("the round takes no more reports")
    if participation.standing == Standing.ENDED:
        raise ParticipationEnded(f"the participation ended: {participation.outcome}")
    if is_quarantined(session, device.id, now):
        raise ParticipationEnded("this device was seen to harm groups, and takes part in none for a while")
    if participation.standing != Standing.TRAINED:
        participation.standing = Standing.TRAINED
        session.add(participation)
    return appointment(session, participation, now)


def appointment(session: Session, participation: Participation, now: datetime) -> Appointment:
    """When a participant who has trained is to come."""
    round_, task = round_and_task(session, participation.round_id)
    group = None if participation.group_id is None else _group(session, participation.group_id)
    if group is not None and group.phase in SECURE_PHASES and group.step_deadline_at is not None:
        left_s = max(0.0, (group.step_deadline_at - now).total_seconds())
        return Appointment(version=1, task=task.name, in_s=0.0, window_s=left_s, group=group.id)
    in_s = timing_of(task, round_, now).next_in_s()
    return Appointment(version=1, task=task.name, in_s=in_s, window_s=WINDOW_S, group=None)


def timing_of(task: Task, round_: Round, now: datetime) -> Timing:
    """Where a round that devices work for is in its time."""
    span_s = read_settings(task.settings).reporting_deadline_s
    return Timing(span_s=span_s, elapsed_s=span_s - (round_.deadline_at - now).total_seconds())


# --- steps ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Sent:
    """A step as it came from a device that may send it."""

    session: Session
    group: Group
    device: Device
    body: bytes
    now: datetime
    authority: PublicKey

    def position(self) -> int:
        """Raises: StepNotAllowed: The device is not in the roster."""
        found = position_of(self.session, self.group, self.device.id)
        if found is None:
            raise StepNotAllowed("this device is not in the roster of the group")
        return found

    def agreement(self) -> Agreement:
        return agreement_of(self.session, self.group, self.authority)


def take_step(
    session: Session, device: Device, group_id: str, step: Step, body: bytes, now: datetime, authority: PublicKey
) -> StepTaken:
    """Keep what a device sends at a step; the same again changes nothing.

    Raises:
        GroupEnded: There is no such group for this device, or it is over.
        Conflict: Something else is kept under this step.
        StepNotAllowed: The group is not at that step, or went on without this device.
        Malformed, ContradictedGroup, InvalidRoster: The message is not one that an honest device sends.
    """
    group = group_of(session, device, group_id)
    sha256 = digest(body).hex()
    kept = digest_of(session, group_id, device.id, step)
    if kept is not None:
        if kept != sha256:
            raise Conflict(f"another {step} of this device is kept already")
        return _TAKEN
    if group.phase not in SECURE_PHASES:
        raise GroupEnded("the group is over")
    if group.phase != TAKEN_IN[step]:
        raise StepNotAllowed(f"the group is {group.phase}; {step} is taken while it is {TAKEN_IN[step]}")
    _CHECKS[step](_Sent(session, group, device, body, now, authority))
    row = {"group_id": group_id, "device_id": device.id, "step": step.value, "sha256": sha256, "body": body}
    session.connection().execute(insert(StepRow), {**row, "received_at": now})
    return _TAKEN


def digest_of(session: Session, group_id: str, device_id: str, step: Step) -> str | None:
    """Of what is kept of a device's step, without the message."""
    asked = {"group": group_id, "device": device_id, "step": step.value}
    found: str | None = session.connection().execute(_DIGEST, asked).scalar()
    return found


_DIGEST = select(col(StepRow.sha256)).where(
    col(StepRow.group_id) == bindparam("group"),
    col(StepRow.device_id) == bindparam("device"),
    col(StepRow.step) == bindparam("step"),
)


def group_of(session: Session, device: Device, group_id: str) -> Group:
    """The group that a device was asked to join.

    Raises:
        GroupEnded: It was asked to join no such group, or the group went on without it.
    """
    group = _group(session, group_id)
    asked = session.connection().execute(_ASKED, {"group": group_id, "device": device.id}).first()
    if group is None or (asked is None and digest_of(session, group_id, device.id, Step.JOIN) is None):
        raise GroupEnded("there is no such group for this device")
    return group


def _group(session: Session, group_id: str) -> Group | None:
    return once(session, group_id, "group", lambda: session.get(Group, group_id))


_ASKED = select(col(Participation.id)).where(
    col(Participation.group_id) == bindparam("group"), col(Participation.device_id) == bindparam("device")
)


def _joins(sent: _Sent) -> None:
    session, group, device = sent.session, sent.group, sent.device
    participation = session.exec(
        select(Participation).where(Participation.group_id == group.id, Participation.device_id == device.id)
    ).one_or_none()
    if participation is None or participation.standing != Standing.TRAINED:
        raise StepNotAllowed("this device was not asked to join the group")
    message = wire.decode(Joining, sent.body)
    message.check_group(group.id)
    entry, terms = Entry.from_raw(message.entry), terms_of(session, group)
    if entry.device_key != device.public_key:
        raise InvalidRoster("the entry is of another device")
    verify_entry(entry, tenant=terms.tenant, plan_sha256=terms.plan_sha256, group=group.id, authority=sent.authority)
    keys = [entry.box_key.hex(), entry.mask_key.hex()]
    connection = session.connection()
    if keys[0] == keys[1] or connection.execute(_USED, {"keys": keys}).first() is not None:
        raise InvalidRoster("a key of the entry was used before: every group has fresh ones")
    connection.execute(insert(MemberKey), [{"public_key": key, "group_id": group.id} for key in keys])
    member = {"group_id": group.id, "device_id": device.id, "participation_id": participation.id}
    connection.execute(insert(Member), {**member, "entry": message.entry})


_USED = select(col(MemberKey.public_key)).where(col(MemberKey.public_key).in_(bindparam("keys", expanding=True)))


def _shares(sent: _Sent) -> None:
    mailbox.taken(sent.agreement(), sent.position(), wire.decode(Shares, sent.body))


def _complains(sent: _Sent) -> None:
    sharers = sharers_of(sent.session, sent.group)
    agreement = sent.agreement()
    if sent.device.id not in sharers:
        raise StepNotAllowed("the group went on without this device: its shares did not come in time")
    message, me = wire.decode(Complaints, sent.body), sent.position()
    members = roster_of(sent.session, sent.group)
    dealt = _dealt_of_those(sent, agreement, message, sharers)
    for blame in mailbox.judged(agreement, me, message, dealt):
        key = _shown_key(agreement, message, blame, me)
        record_fault(
            sent.session,
            sent.group,
            members[blame.member].device_id,
            blame.fault,
            sent.now,
            other=members[blame.other].device_id,
            evidence=_evidence(blame, me, dealt, key),
        )


def _dealt_of_those(sent: _Sent, agreement: Agreement, message: Complaints, sharers: set[str]) -> Mapping[int, Dealt]:
    """What the dealers dealt whom the complaints name; a name of somebody who dealt nothing is refused later."""
    named = decode_members(message.about, agreement.size) | decode_members(message.unsigned, agreement.size)
    found = {}
    for member in roster_of(sent.session, sent.group):
        position = member.position
        if position in named and member.device_id in sharers:
            row = sent.session.get_one(StepRow, (sent.group.id, member.device_id, Step.SHARES.value))
            found[position] = mailbox.taken(agreement, position, wire.decode(Shares, row.body or b""))
    return found


def _shown_key(agreement: Agreement, message: Complaints, blame: Blame, me: int) -> bytes:
    about = sorted(decode_members(message.about, agreement.size))
    dealer = blame.other if blame.member == me else blame.member
    return pieces(message.box_keys, 32, about, "box_keys").get(dealer, b"")


def _evidence(blame: Blame, me: int, dealt: Mapping[int, Dealt], key: bytes) -> dict[str, str]:
    dealer = blame.other if blame.member == me else blame.member
    one = dealt[dealer]
    return {
        "box": one.boxes[me].hex(),
        "promise": one.promises[me].hex(),
        "signature": one.signatures[me].hex(),
        "box_key": key.hex(),
    }


def _confirms(sent: _Sent) -> None:
    agreement = sent.agreement()
    masked = positions(roster_of(sent.session, sent.group), masked_of(sent.session, sent.group))
    mailbox.check_confirmation(agreement, sent.position(), masked, wire.decode(Confirmation, sent.body))


def _reveals(sent: _Sent) -> None:
    session, group = sent.session, sent.group
    members = roster_of(session, group)
    opening.revealed(
        sent.agreement(),
        sent.position(),
        wire.decode(Unmasking, sent.body),
        sharers=positions(members, sharers_of(session, group)),
        masked=positions(members, masked_of(session, group)),
    )


_CHECKS: Final[Mapping[Step, Callable[[_Sent], None]]] = {
    Step.JOIN: _joins,
    Step.SHARES: _shares,
    Step.MASKED: _complains,
    Step.CONFIRMATION: _confirms,
    Step.UNMASKING: _reveals,
}


def check_report(session: Session, group_id: str | None, device_id: str) -> None:
    """Return if a masked report may come now.

    Raises:
        GroupEnded: The device is in no group that goes on.
        StepNotAllowed: Its group does not mask yet, or went on without it.
    """
    group = None if group_id is None else session.get_one(Group, group_id)
    if group is None or group.phase not in SECURE_PHASES:
        raise GroupEnded("the group of this report is over, or went on without it")
    if group.phase != GroupPhase.MASKING:
        raise StepNotAllowed(f"the group is {group.phase}; reports are taken while it is {GroupPhase.MASKING}")
    if digest_of(session, group.id, device_id, Step.SHARES) is None:
        raise StepNotAllowed("the group went on without this device: its shares did not come in time")
