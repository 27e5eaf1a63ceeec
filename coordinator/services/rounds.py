"""Rounds close and end. Each step may be repeated after a crash at any point with the same result."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlmodel import Session, col, func, select

from coordinator.core.rounds import (
    GROUP_STEPS,
    OPEN_PHASES,
    OPEN_STANDINGS,
    SECURE_PHASES,
    STEPS,
    UNENDED_PHASES,
    Event,
    GroupEvent,
    GroupPhase,
    Phase,
    Standing,
    Tally,
    Verdict,
    closing,
    step,
)
from coordinator.core.secure_groups import SecureTally
from coordinator.core.secure_groups import closing as secure_closing
from coordinator.core.selection import wanted
from coordinator.core.task_settings import TaskSettings, read_settings
from coordinator.core.tasks import TASK_STEPS, Stop, TaskEvent, TaskState
from coordinator.services import hiding, spending
from coordinator.services.group_ends import end_group, is_secure
from coordinator.services.group_terms import fewest_of
from coordinator.services.running import read_plan
from coordinator.store.group_tables import Member
from coordinator.store.tables import (
    Group,
    Heartbeat,
    Participation,
    Report,
    Round,
    Task,
)
from edge_runtime.protocol.plan import Plan, Summing
from edge_runtime.protocol.reasons import Abandonment, GroupEnd, Outcome


def for_one_group(plan: Plan, settings: TaskSettings) -> int:
    """How many devices are chosen for a plain round, or for one group of a secure one: its plan is about groups."""
    return wanted(plan.goal, settings.over_selection, plan.max_participants)


def closes(session: Session, round_id: str, now: datetime) -> Verdict | None:
    """What the plan's closing condition says of a round that still takes reports; None to wait on."""
    round_ = session.get_one(Round, round_id)
    if round_.phase not in (Phase.TRAINING, Phase.REPORTING) or round_.closed_at is not None:
        return None
    plan = read_plan(session.get_one(Task, round_.task_id).plan)
    deadline_passed = now >= round_.deadline_at
    if plan.summing is Summing.SECURE:
        if any(is_secure(group) for group in live_groups(session, round_id)):
            return None  # as `secure_closing` says; it is asked often while groups are at work
        secure, fewest = _secure_tally(session, round_id), fewest_of(plan)
        settings = read_settings(session.get_one(Task, round_.task_id).settings)
        groups = max(1, secure.chosen // for_one_group(plan, settings))
        return secure_closing(
            secure, plan.close, plan.goal * groups, plan.min_reports, fewest, deadline_passed=deadline_passed
        )
    tally = _tally(session, round_id)
    return closing(tally, plan.close, plan.goal, plan.min_reports, deadline_passed=deadline_passed)


def _secure_tally(session: Session, round_id: str) -> SecureTally:
    """How the participations and groups of a secure round stand."""
    phases = session.exec(select(Group.phase).where(Group.round_id == round_id)).all()
    standings = session.exec(
        select(Participation.standing).where(Participation.round_id == round_id, col(Participation.group_id).is_(None))
    ).all()
    counted = session.exec(
        select(func.count())
        .select_from(Report)
        .join(Group, col(Group.id) == col(Report.group_id))
        .where(Group.round_id == round_id, Group.phase == GroupPhase.SUMMED)
    ).one()
    begun = select(Member.group_id).where(col(Member.position).is_not(None)).distinct()
    return SecureTally(
        chosen=session.exec(select(func.count()).where(Participation.round_id == round_id)).one(),
        at_work=sum(phase in SECURE_PHASES for phase in phases),
        coming=sum(standing in (Standing.CHOSEN, Standing.ASSIGNED) for standing in standings),
        trained=standings.count(Standing.TRAINED),
        counted=counted,
        begun=session.exec(select(func.count()).where(Group.round_id == round_id, col(Group.id).in_(begun))).one(),
    )


def _too_few(session: Session, round_: Round) -> Abandonment:
    """Why a round ends without enough reports: of a secure one, perhaps no group ever came together."""
    plan = read_plan(session.get_one(Task, round_.task_id).plan)
    if plan.summing is Summing.SECURE and not _secure_tally(session, round_.id).begun:
        return Abandonment.POPULATION_TOO_SMALL
    return Abandonment.TOO_FEW_REPORTS


def _tally(session: Session, round_id: str) -> Tally:
    """How the participations stand, but for those of aborted groups."""
    standings = session.exec(
        select(Participation.standing)
        .join(Group, col(Group.id) == col(Participation.group_id))
        .where(Participation.round_id == round_id, Group.phase != GroupPhase.ABORTED)
    ).all()
    return Tally(
        chosen=len(standings), reported=standings.count(Standing.REPORTED), ended=standings.count(Standing.ENDED)
    )


def close_round(session: Session, round_id: str, now: datetime) -> bool:
    """Fix which reports count, or abandon, when the plan's condition holds. Whether anything changed.

    A group without a report has nothing to add up: it is aborted.
    """
    verdict = closes(session, round_id, now)
    round_ = session.get_one(Round, round_id)
    if verdict is Verdict.ABANDON:
        abandon(session, round_, Event.TOO_FEW_REPORTS, _too_few(session, round_), now)
    elif verdict is Verdict.ADD_UP:
        round_.closed_at = now
        session.add(round_)
        with_reports = set(
            session.exec(
                select(Report.group_id)
                .join(Group, col(Group.id) == col(Report.group_id))
                .where(Group.round_id == round_id)
                .distinct()
            ).all()
        )
        for group in live_groups(session, round_id):
            if group.phase == GroupPhase.SUMMED:
                continue  # it summed securely
            event = GroupEvent.CLOSED if group.id in with_reports else GroupEvent.ABORTED
            group.phase = step(GROUP_STEPS, GroupPhase(group.phase), event)
            session.add(group)
        _end_open_participations(session, round_id, now)
    return verdict is not None


def abort_group(session: Session, group_id: str, now: datetime) -> None:
    """End a group whose reports can no longer be read. The others go on, if they may still have enough reports.

    Again changes nothing.
    """
    group = session.get_one(Group, group_id)
    round_ = session.get_one(Round, group.round_id)
    if group.phase == GroupPhase.ABORTED or round_.phase not in UNENDED_PHASES:
        return
    if is_secure(group):  # the round closes, or goes on, by what is left
        end_group(session, group, GroupEnd.STORAGE_DAMAGED, now)
        return
    group.phase = step(GROUP_STEPS, GroupPhase(group.phase), GroupEvent.ABORTED)
    session.add(group)
    session.flush()
    _end_open_participations(session, round_.id, now, group_id)
    session.flush()
    tally = _tally(session, round_.id)
    plan = read_plan(session.get_one(Task, round_.task_id).plan)
    if tally.chosen - tally.ended < plan.min_reports:
        abandon(session, round_, Event.SUM_FAILED, Abandonment.STORAGE_DAMAGED, now)


def abandon(session: Session, round_: Round, event: Event, why: Abandonment, now: datetime) -> None:
    """End a round without an update; nobody's data are lost, and the task goes on with the next."""
    round_.phase = step(STEPS, Phase(round_.phase), event)
    round_.abandonment = why
    round_.closed_at = round_.closed_at or now
    session.add(round_)
    for group in live_groups(session, round_.id):
        if is_secure(group):
            end_group(session, group, GroupEnd.ROUND_ENDED, now)
        else:
            group.phase = step(GROUP_STEPS, GroupPhase(group.phase), GroupEvent.ABORTED)
            session.add(group)
    session.flush()
    _end_open_participations(session, round_.id, now)
    spending.free(session, session.get_one(Task, round_.task_id), round_)
    hiding.erase(session, round_.id)


_WHEN_A_TASK_ENDS = {
    TaskEvent.STOPPED: (Event.TASK_COMPLETED, Abandonment.TASK_COMPLETED),
    TaskEvent.CANCELLED: (Event.TASK_CANCELLED, Abandonment.TASK_CANCELLED),
}


def end_task(session: Session, task: Task, event: TaskEvent, why: Stop, now: datetime) -> None:
    """Follow the step that ends a task, keep why, and abandon its rounds: devices at work are free at next contact."""
    task.state = step(TASK_STEPS, TaskState(task.state), event)
    task.ended_because = why
    task.ended_at = now
    session.add(task)
    _abandon_all(session, task, UNENDED_PHASES, *_WHEN_A_TASK_ENDS[event], now)
    hiding.end_stream(session, task.id)


def stop_selecting(session: Session, task: Task, now: datetime) -> None:
    """Abandon the round of a paused task that looks for devices: nobody works for it yet."""
    _abandon_all(session, task, (Phase.SELECTING,), Event.TASK_PAUSED, Abandonment.TASK_PAUSED, now)


def _abandon_all(
    session: Session, task: Task, phases: Sequence[Phase], event: Event, why: Abandonment, now: datetime
) -> None:
    session.flush()
    for round_ in session.exec(select(Round).where(Round.task_id == task.id, col(Round.phase).in_(phases))).all():
        abandon(session, round_, event, why, now)


def give_up_sum(session: Session, round_id: str, why: Abandonment, now: datetime) -> None:
    """Abandon a round whose reports cannot be added up, by name, so that the task goes on; again changes nothing."""
    round_ = session.get_one(Round, round_id)
    if round_.phase in (Phase.REPORTING, Phase.BUFFERED):
        abandon(session, round_, Event.SUM_FAILED, why, now)


def beat(session: Session, now: datetime) -> None:
    """Write down that the coordinator is alive."""
    heartbeat = session.get(Heartbeat, 1) or Heartbeat(id=1, at=now)
    heartbeat.at = now
    session.add(heartbeat)


def move_deadlines(session: Session, now: datetime) -> float:
    """Give open rounds back the time the coordinator was down, in seconds."""
    heartbeat = session.get(Heartbeat, 1)
    down = now - heartbeat.at if heartbeat is not None and heartbeat.at < now else timedelta()
    for round_ in session.exec(select(Round).where(col(Round.phase).in_(OPEN_PHASES))).all():
        round_.deadline_at += down
        session.add(round_)
    for group in session.exec(select(Group).where(col(Group.step_deadline_at).is_not(None))).all():
        if group.step_deadline_at is not None:
            group.step_deadline_at += down
            session.add(group)
    beat(session, now)
    return down.total_seconds()


def live_groups(session: Session, round_id: str) -> Sequence[Group]:
    """The groups of a round that were not aborted, in order."""
    return session.exec(
        select(Group).where(Group.round_id == round_id, Group.phase != GroupPhase.ABORTED).order_by(col(Group.number))
    ).all()


def _end_open_participations(session: Session, round_id: str, now: datetime, group_id: str | None = None) -> None:
    query = select(Participation).where(
        Participation.round_id == round_id, col(Participation.standing).in_(OPEN_STANDINGS)
    )
    if group_id is not None:
        query = query.where(Participation.group_id == group_id)
    for participation in session.exec(query).all():
        participation.standing = Standing.ENDED
        participation.outcome = Outcome.DEADLINE_PASSED
        participation.ended_at = now
        session.add(participation)
