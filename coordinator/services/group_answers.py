"""What a device of a group that sums securely gets after each step. The worker moves the group on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final, TypeAlias

from sqlalchemy import bindparam
from sqlmodel import Session, col, select

from coordinator.core.rounds import SECURE_PHASES, GroupPhase
from coordinator.core.secure_groups import TAKEN_IN
from coordinator.core.task_settings import read_settings
from coordinator.services.group_facts import for_ever
from coordinator.services.group_steps import digest_of, group_of
from coordinator.services.group_terms import (
    agreement_of,
    bodies_of,
    masked_of,
    position_of,
    positions,
    roster_of,
    task_of,
)
from coordinator.store.group_tables import Member
from coordinator.store.tables import Device, Group, Participation, Report
from edge_runtime.protocol import wire
from edge_runtime.protocol.errors import GroupEnded, StepNotAllowed
from edge_runtime.protocol.group import NotYet, Opened, Step
from edge_runtime.protocol.keys import PublicKey
from edge_runtime.protocol.secure_sum import mailbox
from edge_runtime.protocol.secure_sum.members import encode_members
from edge_runtime.protocol.secure_sum.messages import Confirmation, Roster, Survivors

ASK_AFTER_S: Final = 1.0
RETRY_S: Final = 900.0

Following: TypeAlias = Opened | Survivors | bytes
"""A message, or the bytes of one."""


def what_follows(
    session: Session, device: Device, group_id: str, step: Step, now: datetime, authority: PublicKey
) -> Following | NotYet:
    """What a device gets after a step, or that it is not there yet.

    Raises:
        GroupEnded: The group came to nothing, or is over.
        StepNotAllowed: The device did not take the step.
    """
    group = group_of(session, device, group_id)
    if not _has_taken(session, group, device, step):
        if group.phase == GroupPhase.ABORTED:
            raise GroupEnded(f"the group came to nothing: {group.ended_because}")
        raise StepNotAllowed(f"this device did not take the step {step}")
    if group.phase == GroupPhase.ABORTED:
        raise GroupEnded(f"the group came to nothing: {group.ended_because}")
    if group.phase == GroupPhase.SUMMED:
        if step is Step.UNMASKING:
            return _opened(session, group)
        raise GroupEnded("the group's sum was opened")
    phase = GroupPhase(group.phase)
    if SECURE_PHASES.index(phase) <= SECURE_PHASES.index(TAKEN_IN[step]):
        left_s = 0.0 if group.step_deadline_at is None else (group.step_deadline_at - now).total_seconds()
        return NotYet(version=1, ask_after_s=ASK_AFTER_S, left_s=max(0.0, left_s))
    return _FOLLOWING[step](session, group, device, authority)


def _has_taken(session: Session, group: Group, device: Device, step: Step) -> bool:
    if step is Step.MASKED:
        found = session.connection().execute(_HAS_REPORTED, {"group": group.id, "device": device.id})
        return found.first() is not None
    return digest_of(session, group.id, device.id, step) is not None


_HAS_REPORTED = (
    select(col(Report.participation_id))
    .join(Participation, col(Participation.id) == col(Report.participation_id))
    .where(col(Report.group_id) == bindparam("group"), col(Participation.device_id) == bindparam("device"))
)


def _roster(session: Session, group: Group, device: Device, _authority: PublicKey) -> Following:
    if position_of(session, group, device.id) is None:
        raise GroupEnded("the group went on without this device: it gave up before the roster was fixed")

    def written() -> bytes:
        entries = b"".join(member.entry for member in roster_of(session, group))
        return wire.encode(Roster(version=1, group=group.id, entries=entries))

    return for_ever(session, group.id, "written roster", written)


def _delivery(session: Session, group: Group, device: Device, _authority: PublicKey) -> Following:
    asked = {"group": group.id, "device": device.id}
    delivery: bytes | None = session.connection().execute(_DELIVERY, asked).scalar_one()
    if delivery is None:
        raise GroupEnded("the group's boxes were forgotten")
    return delivery


_DELIVERY = select(col(Member.delivery)).where(
    col(Member.group_id) == bindparam("group"), col(Member.device_id) == bindparam("device")
)


def _survivors(session: Session, group: Group, _device: Device, _authority: PublicKey) -> Following:
    members = roster_of(session, group)
    masked = positions(members, masked_of(session, group))
    return Survivors(version=1, group=group.id, masked=encode_members(masked, len(members)))


def _confirmations(session: Session, group: Group, _device: Device, authority: PublicKey) -> Following:
    def written() -> bytes:
        bodies = bodies_of(session, roster_of(session, group), group, Step.CONFIRMATION)
        signatures = {place: wire.decode(Confirmation, body).signature for place, body in bodies.items()}
        return wire.encode(mailbox.confirmations(agreement_of(session, group, authority), signatures))

    return for_ever(session, group.id, "written confirmations", written)


def _opened(session: Session, group: Group) -> Opened:
    _round, task = task_of(session, group)
    delay_s = read_settings(task.settings).retry_reported_s
    return Opened(version=1, retry_after_s=RETRY_S if delay_s is None else delay_s)


_FOLLOWING: Final[Mapping[Step, Callable[[Session, Group, Device, PublicKey], Following]]] = {
    Step.JOIN: _roster,
    Step.SHARES: _delivery,
    Step.MASKED: _survivors,
    Step.CONFIRMATION: _confirmations,
}
