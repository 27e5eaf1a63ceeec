"""The worker's side of groups that sum securely: they form, of those who have trained."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime

from sqlmodel import Session, col, func, select

from coordinator.core import appointments
from coordinator.core.appointments import Crowd
from coordinator.core.rounds import GroupPhase, Phase, Standing
from coordinator.core.secure_groups import limit
from coordinator.core.selection import ranked, round_seed
from coordinator.core.task_settings import read_settings
from coordinator.services.group_steps import timing_of
from coordinator.services.group_terms import fewest_of
from coordinator.services.running import read_plan
from coordinator.store.tables import Group, Participation, Round, Task
from edge_runtime.protocol.plan import Summing


def sums_securely(session: Session, task_id: str) -> bool:
    """Whether the rounds of a task have groups that sum securely."""
    return read_plan(session.get_one(Task, task_id).plan).summing is Summing.SECURE


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
