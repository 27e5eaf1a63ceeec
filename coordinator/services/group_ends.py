"""How a group that was to sum securely comes to nothing, and what is forgotten when one ends."""

from __future__ import annotations

from datetime import datetime

from sqlmodel import Session, col, select, update

from coordinator.core.rounds import GROUP_STEPS, SECURE_PHASES, GroupEvent, GroupPhase, step
from coordinator.services.faults import release
from coordinator.store.group_tables import Member, StepRow
from coordinator.store.tables import Group, Participation
from edge_runtime.protocol.reasons import GroupEnd


def is_secure(group: Group) -> bool:
    """Whether a group sums securely, and has not ended."""
    return group.phase in SECURE_PHASES


def end_group(session: Session, group: Group, why: GroupEnd, now: datetime) -> None:
    """Abort a group, by name. Whoever has sent no masked report may join another; again changes nothing."""
    if group.phase == GroupPhase.ABORTED:
        return
    group.phase = step(GROUP_STEPS, GroupPhase(group.phase), GroupEvent.ABORTED)
    group.ended_because = why
    group.step_deadline_at = None
    session.add(group)
    for participation in session.exec(select(Participation).where(Participation.group_id == group.id)).all():
        release(session, participation, now)
    forget_steps(session, group.id)


def forget_steps(session: Session, group_id: str) -> None:
    """Forget what the members of a group sent; the digests stay, so that the same again gets the same answer."""
    session.exec(update(StepRow).where(col(StepRow.group_id) == group_id).values(body=None))
    session.exec(update(Member).where(col(Member.group_id) == group_id).values(delivery=None))
