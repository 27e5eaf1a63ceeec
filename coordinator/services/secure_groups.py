"""The worker's side of groups that sum securely: they go on from step to step, or come to nothing.

Every step is a transaction that looks again at what is there, so it may be repeated after a crash, by any worker. Which
messages count is fixed by the phase: a step is taken in one phase alone, and only the worker changes phases.
`group_forming` is how a group begins, `group_opening` how its sum is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Final

from sqlmodel import Session, col, select

from coordinator.core.rounds import GROUP_STEPS, SECURE_PHASES, GroupPhase, Standing, step
from coordinator.core.secure_groups import (
    FELL_SILENT,
    FOLLOWS,
    TAKEN_IN,
    TOO_FEW,
    Count,
    Move,
    due,
    grace,
    limit,
)
from coordinator.services.faults import record_fault, release
from coordinator.services.group_ends import end_group
from coordinator.services.group_terms import (
    agreement_of,
    bodies_of,
    fewest_of,
    members_of,
    size_of,
    task_of,
    thresholds_of,
    who_reported,
    who_sent,
)
from coordinator.services.running import read_plan
from coordinator.store.group_tables import Member
from coordinator.store.tables import Group, Participation
from edge_runtime.protocol import wire
from edge_runtime.protocol.errors import Refusal
from edge_runtime.protocol.group import Step
from edge_runtime.protocol.keys import PublicKey
from edge_runtime.protocol.reasons import GroupEnd
from edge_runtime.protocol.secure_sum import mailbox
from edge_runtime.protocol.secure_sum.mailbox import Dealt
from edge_runtime.protocol.secure_sum.messages import Shares
from edge_runtime.protocol.secure_sum.transcript import Agreement

Charge = Callable[[Session, Group], None]
"""Charges the ledger for a sum that is about to be opened, in the transaction that lets it be; a refusal forbids it."""

_STEP_OF: Final[Mapping[GroupPhase, Step]] = {phase: step for step, phase in TAKEN_IN.items()}


def charge_nothing(_session: Session, _group: Group) -> None:
    """Of plans without noise: there is no ledger entry."""


def live_groups(session: Session, round_id: str) -> Sequence[Group]:
    """The secure groups of a round that have not ended."""
    return session.exec(
        select(Group).where(Group.round_id == round_id, col(Group.phase).in_(SECURE_PHASES)).order_by(col(Group.number))
    ).all()


def move_of(session: Session, group: Group, now: datetime) -> Move | None:
    """What a group does now; None to wait on."""
    if group.step_deadline_at is None or group.phase not in SECURE_PHASES:
        return None
    return due(count(session, group), GroupPhase(group.phase), group.step_deadline_at, now)


def moves_on(session: Session, group: Group, now: datetime) -> bool:
    """Whether `advance` has something to do."""
    move = move_of(session, group, now)
    return move is not None and not (move is Move.ON and group.phase == GroupPhase.UNMASKING)


def count(session: Session, group: Group) -> Count:
    """Who is awaited in the phase of a group, and who has answered."""
    phase = GroupPhase(group.phase)
    able, answered = _able(session, group.id), _answered(session, group)
    plan = read_plan(task_of(session, group)[1].plan)
    if phase is GroupPhase.FORMING:  # all participants are asked; who joined and gave up is no member
        return Count(awaited=len(able), answered=len(answered & able), quorum=fewest_of(plan))
    threshold, quorum = thresholds_of(plan, size_of(session, group.id))
    shares_open = phase in (GroupPhase.CONFIRMING, GroupPhase.UNMASKING)
    return Count(
        awaited=len(answered | (_asked(session, group) & able)),
        answered=len(answered),
        quorum=threshold if shares_open else quorum,
    )


def _able(session: Session, group_id: str) -> set[str]:
    """Participants of a group who have not given up."""
    return set(
        session.exec(
            select(Participation.device_id).where(
                Participation.group_id == group_id, Participation.standing != Standing.ENDED
            )
        ).all()
    )


def _asked(session: Session, group: Group) -> set[str]:
    """From whom the step of the group's phase is taken, once its roster is fixed."""
    phase = GroupPhase(group.phase)
    if phase is GroupPhase.SHARING:
        return {member.device_id for member in members_of(session, group.id)}
    if phase is GroupPhase.MASKING:
        return who_sent(session, group.id, Step.SHARES)
    return who_reported(session, group.id)


def _answered(session: Session, group: Group) -> set[str]:
    phase = GroupPhase(group.phase)
    return (
        who_reported(session, group.id) if phase is GroupPhase.MASKING else who_sent(session, group.id, _STEP_OF[phase])
    )


def advance(session: Session, group_id: str, now: datetime, authority: PublicKey, charge: Charge) -> bool:
    """Let a group do what is due. Whether its members are to hear of it.

    Not the end of its last phase: for that its sum is opened first.
    """
    group = session.get_one(Group, group_id)
    if not moves_on(session, group, now):
        return False
    move, phase = move_of(session, group, now), GroupPhase(group.phase)
    if move is Move.HURRY:
        group.step_deadline_at = now + grace(phase)
        session.add(group)
        return False
    if move is Move.ABORT:
        note_silence(session, group, now)
        end_group(session, group, TOO_FEW[phase], now)
    else:
        _go_on(session, group, now, authority, charge)
    return True


def _go_on(session: Session, group: Group, now: datetime, authority: PublicKey, charge: Charge) -> None:
    phase = GroupPhase(group.phase)
    if phase is GroupPhase.FORMING:
        _fix_roster(session, group, now)
    elif phase is GroupPhase.SHARING:
        _deliver(session, group, authority)
        _leave_behind(session, group, who_sent(session, group.id, Step.SHARES), now)
    elif phase is GroupPhase.MASKING:
        _leave_behind(session, group, who_reported(session, group.id), now)
    else:
        try:
            with session.begin_nested():
                charge(session, group)
        except Refusal:
            end_group(session, group, GroupEnd.NOT_CHARGED, now)
            return
    group.phase = step(GROUP_STEPS, phase, FOLLOWS[phase])
    group.step_deadline_at = now + limit(GroupPhase(group.phase))
    session.add(group)


def _fix_roster(session: Session, group: Group, now: datetime) -> None:
    joined = who_sent(session, group.id, Step.JOIN) & _able(session, group.id)
    for position, device in enumerate(sorted(joined)):
        member = session.get_one(Member, (group.id, device))
        member.position = position
        session.add(member)
    session.flush()
    _leave_behind(session, group, joined, now)


def _deliver(session: Session, group: Group, authority: PublicKey) -> None:
    agreement = agreement_of(session, group, authority)
    dealt = dealt_in(session, group, agreement)
    for place in members_of(session, group.id):
        if place.position in dealt:
            member = session.get_one(Member, (group.id, place.device_id))
            member.delivery = wire.encode(mailbox.delivery(agreement, place.position, dealt))
            session.add(member)


def dealt_in(session: Session, group: Group, agreement: Agreement) -> dict[int, Dealt]:
    """What those dealt who shared, by position."""
    bodies = bodies_of(session, members_of(session, group.id), group, Step.SHARES)
    return {dealer: mailbox.taken(agreement, dealer, wire.decode(Shares, body)) for dealer, body in bodies.items()}


def _leave_behind(session: Session, group: Group, with_it: set[str], now: datetime) -> None:
    """The group goes on without the others: they may join another one."""
    for participation in session.exec(select(Participation).where(Participation.group_id == group.id)).all():
        if participation.device_id not in with_it:
            release(session, participation, now)


def note_silence(session: Session, group: Group, now: datetime) -> None:
    """Keep in mind who was awaited when a group came to nothing; that a phone did not come to join is no fault."""
    if group.phase == GroupPhase.FORMING:
        return
    for device in sorted(_asked(session, group) - _answered(session, group)):
        record_fault(session, group, device, FELL_SILENT, now)
