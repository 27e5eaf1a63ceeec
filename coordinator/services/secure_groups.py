"""The worker's side of groups that sum securely: they form, go on, are opened, or come to nothing.

Every step is a transaction that looks again at what is there, so it may be repeated after a crash, by any worker. Which
messages count is fixed by the phase: a step is taken in one phase alone, and only the worker changes phases.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import numpy as np
from sqlmodel import Session, col, func, select

from coordinator.core import appointments
from coordinator.core.appointments import Crowd
from coordinator.core.rounds import GROUP_STEPS, SECURE_PHASES, GroupEvent, GroupPhase, Phase, Standing, step
from coordinator.core.secure_groups import (
    FELL_SILENT,
    FOLLOWS,
    TAKEN_IN,
    TOO_FEW,
    ZERO_LANES,
    Count,
    Move,
    due,
    grace,
    limit,
)
from coordinator.core.selection import ranked, round_seed
from coordinator.core.task_settings import read_settings
from coordinator.services.faults import record_fault, release
from coordinator.services.group_ends import end_group, forget_steps
from coordinator.services.group_steps import timing_of
from coordinator.services.group_terms import (
    agreement_of,
    fewest_of,
    members_of,
    positions,
    size_of,
    task_of,
    thresholds_of,
    who_reported,
    who_sent,
)
from coordinator.services.running import read_plan
from coordinator.services.sums import OPENED, group_total, is_group_added, record_chunk, sum_blob
from coordinator.store.blobs import Blobs
from coordinator.store.group_tables import Member, StepRow
from coordinator.store.tables import Group, Participation, Round, Task
from edge_runtime.protocol import wire
from edge_runtime.protocol.errors import Refusal
from edge_runtime.protocol.group import Step
from edge_runtime.protocol.keys import PublicKey
from edge_runtime.protocol.plan import Plan, Summing
from edge_runtime.protocol.reasons import GroupEnd
from edge_runtime.protocol.secure_sum import mailbox, opening
from edge_runtime.protocol.secure_sum.lanes import ZERO_LANES as ZERO_LANE_COUNT
from edge_runtime.protocol.secure_sum.mailbox import Blame, Dealt, Fault
from edge_runtime.protocol.secure_sum.masks import Spread
from edge_runtime.protocol.secure_sum.messages import Shares, Unmasking
from edge_runtime.protocol.secure_sum.opening import Revelation
from edge_runtime.protocol.secure_sum.transcript import Agreement

Charge = Callable[[Session, Group], None]
"""Charges the ledger for a sum that is about to be opened, in the transaction that lets it be; a refusal forbids it."""

_STEP_OF: Final[Mapping[GroupPhase, Step]] = {phase: step for step, phase in TAKEN_IN.items()}


def charge_nothing(_session: Session, _group: Group) -> None:
    """Of plans without noise: there is no ledger entry."""


# --- forming ----------------------------------------------------------------------------------------------------------


def forms(session: Session, round_id: str, now: datetime) -> bool:
    """Whether those who have trained make up a group now."""
    return bool(_forming(session, round_id, now))


def form(session: Session, round_id: str, now: datetime) -> bool:
    """Ask those who have trained to join groups, drawn at random. Whether there were enough."""
    sizes = _forming(session, round_id, now)
    if not sizes:
        return False
    round_ = session.get_one(Round, round_id)
    task = session.get_one(Task, round_.task_id)
    last = session.exec(select(func.max(Group.number)).where(Group.round_id == round_id)).one() or 0
    waiting = {one.device_id: one for one in _waiting(session, round_id)}
    order, taken = ranked(round_seed(task.seed, round_.number) + bytes([last % 256]), waiting), 0
    for number, size in enumerate(sizes, start=last + 1):
        group = Group(id=secrets.token_hex(16), round_id=round_id, number=number, phase=GroupPhase.FORMING)
        group.step_deadline_at = now + limit(GroupPhase.FORMING)
        session.add(group)
        session.flush()
        for device in order[taken : taken + size]:
            waiting[device].group_id = group.id
            session.add(waiting[device])
        taken += size
    return True


def _forming(session: Session, round_id: str, now: datetime) -> list[int]:
    round_ = session.get_one(Round, round_id)
    if round_.phase not in (Phase.TRAINING, Phase.REPORTING) or round_.closed_at is not None:
        return []
    task = session.get_one(Task, round_.task_id)
    plan, timing = read_plan(task.plan), timing_of(task, round_, now)
    if plan.summing is not Summing.SECURE or timing.elapsed_s >= timing.span_s:
        return []
    crowd, fewest = _crowd(session, round_id), fewest_of(plan)
    if not appointments.forms(crowd, timing, fewest=fewest, goal=plan.goal, close=plan.close):
        return []
    return appointments.sizes(crowd.waiting, fewest, plan.max_participants, read_settings(task.settings).group_size)


def _waiting(session: Session, round_id: str) -> Sequence[Participation]:
    return session.exec(
        select(Participation).where(
            Participation.round_id == round_id,
            Participation.standing == Standing.TRAINED,
            col(Participation.group_id).is_(None),
        )
    ).all()


def _crowd(session: Session, round_id: str) -> Crowd:
    coming = session.exec(
        select(func.count()).where(
            Participation.round_id == round_id,
            col(Participation.standing).in_((Standing.CHOSEN, Standing.ASSIGNED)),
        )
    ).one()
    return Crowd(waiting=len(_waiting(session, round_id)), coming=coming)


# --- going on ---------------------------------------------------------------------------------------------------------


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
        _note_silence(session, group, now)
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
    bodies = _bodies(session, group, Step.SHARES)
    return {dealer: mailbox.taken(agreement, dealer, wire.decode(Shares, body)) for dealer, body in bodies.items()}


def _bodies(session: Session, group: Group, step_: Step) -> dict[int, bytes]:
    places = {member.device_id: member.position for member in members_of(session, group.id)}
    rows = session.exec(
        select(StepRow.device_id, StepRow.body).where(StepRow.group_id == group.id, StepRow.step == step_.value)
    ).all()
    return {places[device]: body or b"" for device, body in rows}


def _leave_behind(session: Session, group: Group, with_it: set[str], now: datetime) -> None:
    """The group goes on without the others: they may join another one."""
    for participation in session.exec(select(Participation).where(Participation.group_id == group.id)).all():
        if participation.device_id not in with_it:
            release(session, participation, now)


def _note_silence(session: Session, group: Group, now: datetime) -> None:
    """Keep in mind who was awaited when a group came to nothing; that a phone did not come to join is no fault."""
    if group.phase == GroupPhase.FORMING:
        return
    for device in sorted(_asked(session, group) - _answered(session, group)):
        record_fault(session, group, device, FELL_SILENT, now)


# --- opening ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OpenedSum:
    """What came of opening a group's sum.

    Attributes:
        raw: The sum of the lanes, as a blob; None if the group came to nothing.
        why: Then, why.
        blamed: Who was found to have lied, either way, with the evidence.
    """

    raw: bytes | None
    why: GroupEnd | None
    blamed: tuple[tuple[Blame, Mapping[str, str]], ...] = ()


def is_ready_to_open(session: Session, group: Group, now: datetime) -> bool:
    """Whether all who will reveal have revealed, and the masked reports are added up."""
    return (
        group.phase == GroupPhase.UNMASKING
        and move_of(session, group, now) is Move.ON
        and is_group_added(session, group)
    )


def open_group(
    session: Session, blobs: Blobs, group: Group, authority: PublicKey, *, spread: Spread = map, parts: int = 1
) -> OpenedSum:
    """Rebuild the secrets that hide a group's sum, check each, and take the masks off. Writes nothing.

    Raises:
        GroupDamaged: A partial sum was damaged or lost.
    """
    agreement = agreement_of(session, group, authority)
    members = members_of(session, group.id)
    dealt = dealt_in(session, group, agreement)
    masked = positions(members, who_reported(session, group.id))
    revelations = {
        holder: opening.revealed(
            agreement, holder, wire.decode(Unmasking, body), sharers=frozenset(dealt), masked=masked
        )
        for holder, body in _bodies(session, group, Step.UNMASKING).items()
    }
    try:
        recovery = opening.recover(agreement, dealt, masked, revelations)
    except opening.NotOpened as failed:
        inconsistent = any(blame.fault is Fault.INCONSISTENT_SHARES for blame in failed.blamed)
        why = GroupEnd.INCONSISTENT_SHARES if inconsistent else GroupEnd.TOO_FEW_REVEALED
        return OpenedSum(None, why, _shown(failed.blamed, dealt, revelations))
    blamed = _shown(recovery.blamed, dealt, revelations)
    round_, _task = task_of(session, group)
    total = group_total(session, blobs, round_.tenant, group)
    opening.open_sum(agreement, total, recovery, spread=spread, parts=parts)
    lane = np.uint32((1 << agreement.terms.lanes.bits) - 1)
    if (total[-ZERO_LANE_COUNT:] & lane).any():
        return OpenedSum(None, GroupEnd.ZERO_LANES, blamed)
    return OpenedSum(sum_blob(group.id, OPENED, total), None, blamed)


def _shown(
    blamed: Sequence[Blame], dealt: Mapping[int, Dealt], revelations: Mapping[int, Revelation]
) -> tuple[tuple[Blame, Mapping[str, str]], ...]:
    """Blame with what shows it: of a forged share the promise that it breaks, of a dealer what it committed to."""
    shown = []
    for blame in blamed:
        if blame.fault is Fault.FORGED_SHARE:
            given = revelations[blame.member]
            raw = given.seeds.get(blame.other) or given.keys.get(blame.other, b"")
            evidence = {"revealed": raw.hex(), "promise": dealt[blame.other].promises[blame.member].hex()}
        else:
            evidence = {"seed_digest": dealt[blame.member].seed_digest.hex()}
        shown.append((blame, evidence))
    return tuple(shown)


def record_opened(session: Session, group_id: str, found: OpenedSum, sha256: str, now: datetime) -> bool:
    """Keep the address of a group's sum, or why there is none. Whether the group was still to be opened.

    The blob has a row even if the group has ended meanwhile: it is what deletes it.
    """
    group = session.get_one(Group, group_id)
    if sha256:
        record_chunk(session, group_id, OPENED, sha256)
    if group.phase != GroupPhase.UNMASKING:
        return False
    _blame(session, group, found.blamed, now)
    if found.why is not None:
        if found.why is GroupEnd.TOO_FEW_REVEALED:
            _note_silence(session, group, now)
        if found.why is GroupEnd.ZERO_LANES:
            for device in sorted(who_reported(session, group_id)):
                record_fault(session, group, device, ZERO_LANES, now)
        end_group(session, group, found.why, now)
        return True
    group.phase = step(GROUP_STEPS, GroupPhase(group.phase), GroupEvent.SUM_OPENED)
    group.step_deadline_at = None
    session.add(group)
    forget_steps(session, group_id)
    return True


def _blame(session: Session, group: Group, blamed: Sequence[tuple[Blame, Mapping[str, str]]], now: datetime) -> None:
    members = members_of(session, group.id)
    for blame, evidence in blamed:
        other = members[blame.other].device_id
        record_fault(session, group, members[blame.member].device_id, blame.fault, now, other=other, evidence=evidence)


def secure_plan(session: Session, task_id: str) -> Plan | None:
    """The plan of a task that sums securely; None of another."""
    plan = read_plan(session.get_one(Task, task_id).plan)
    return plan if plan.summing is Summing.SECURE else None
