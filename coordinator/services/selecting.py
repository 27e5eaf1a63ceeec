"""Rounds open and choose. Each step may be repeated after a crash at any point with the same result."""

from __future__ import annotations

import logging
import secrets
from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial

from sqlalchemy import ColumnElement
from sqlmodel import Session, col, func, select
from sqlmodel.sql.expression import SelectOfScalar

from coordinator.core.privacy.participation import ParticipationLimits
from coordinator.core.privacy.plans import limits_of
from coordinator.core.rounds import (
    OPEN_PHASES,
    OPEN_STANDINGS,
    STEPS,
    UNENDED_PHASES,
    Event,
    GroupPhase,
    Phase,
    Standing,
    group_sizes,
    step,
)
from coordinator.core.schedule_windows import is_open
from coordinator.core.selection import ranked, round_seed
from coordinator.core.stopping import is_past
from coordinator.core.task_settings import Mode, TaskSettings, read_settings
from coordinator.core.tasks import RUNNING, Stop, TaskEvent, TaskState
from coordinator.services import spending
from coordinator.services.group_terms import fewest_of
from coordinator.services.rounds import abandon, end_task, for_one_group
from coordinator.services.running import read_plan
from coordinator.services.spending import Room
from coordinator.services.stops import stop_for
from coordinator.store.database import after_commit
from coordinator.store.group_tables import Quarantine
from coordinator.store.tables import (
    Candidate,
    CheckpointRow,
    Device,
    Group,
    Participation,
    Report,
    Round,
    Task,
)
from edge_runtime.protocol.plan import Summing
from edge_runtime.protocol.reasons import Abandonment

_log = logging.getLogger("edgewise.privacy")


def tasks_to_tend(session: Session, now: datetime) -> list[str]:
    """The running tasks that may open a round now, or whose date has come."""
    phases: dict[str, Counter[str]] = defaultdict(Counter)
    for task_id, phase, count in session.exec(
        select(Round.task_id, Round.phase, func.count())
        .where(col(Round.phase).in_(UNENDED_PHASES))
        .group_by(col(Round.task_id), col(Round.phase))
    ).all():
        phases[task_id][phase] = count
    running = session.exec(select(Task).where(col(Task.state).in_(RUNNING)).order_by(col(Task.created_at))).all()
    return [
        task.id
        for task in running
        if is_past(read_settings(task.settings).stop, now) or _may_open(task, phases[task.id], now)
    ]


def _may_open(task: Task, phases: Counter[str], now: datetime) -> bool:
    settings = read_settings(task.settings)
    return (
        task.state == TaskState.ACTIVE
        and has_room(settings, phases)
        and is_open(settings.windows, settings.zone(), now)
    )


def has_room(settings: TaskSettings, phases: Counter[str]) -> bool:
    """Whether a task may have one more round beside those that have not ended, counted by phase.

    A synchronous task has one. A buffered one has at most one that looks for devices, and `rounds_at_once` in all at
    which devices may work; those that wait in the buffer do not count.
    """
    if settings.mode is Mode.SYNCHRONOUS:
        return not phases.total()
    return not phases[Phase.SELECTING] and sum(phases[phase] for phase in OPEN_PHASES) < settings.rounds_at_once


def tend(session: Session, task_id: str, now: datetime) -> bool:
    """Complete a task whose stop condition holds, else open a round if there is room. Whether anything changed."""
    task = session.get_one(Task, task_id)
    if task.state not in RUNNING:
        return False
    if (why := stop_for(session, task, now)) is not None:
        end_task(session, task, TaskEvent.STOPPED, why, now)
        return True
    found = session.exec(
        select(Round.phase).where(Round.task_id == task_id, col(Round.phase).in_(UNENDED_PHASES))
    ).all()
    if not _may_open(task, Counter(found), now):
        return False
    last = session.exec(select(func.max(Round.number)).where(Round.task_id == task.id)).one()
    room = spending.room_for(session, task, (last or 0) + 1)
    if room is Room.SPENT and _is_at_work(found):
        return False  # what was charged already is used first
    if _ends_for_privacy(session, task, room, now):
        return True
    round_ = Round(
        id=secrets.token_hex(16),
        tenant=task.tenant,
        task_id=task.id,
        number=(last or 0) + 1,
        phase=Phase.SELECTING,
        checkpoint_sha256=task.checkpoint_sha256,
        opened_at=now,
        deadline_at=now + timedelta(seconds=read_settings(task.settings).selecting_deadline_s),
    )
    _start_from_the_newest(session, task, round_)
    return True


_WITHOUT_ROOM = {Room.SPENT: Stop.BUDGET_SPENT, Room.DAMAGED: Stop.LEDGER_DAMAGED}


def _is_at_work(phases: Sequence[str]) -> bool:
    """Whether a round goes on by itself, and is not one that looks for devices or waits in a buffer for others."""
    return any(phase in (Phase.TRAINING, Phase.REPORTING) for phase in phases)


def _ends_for_privacy(session: Session, task: Task, room: Room, now: datetime) -> bool:
    """End a task for which nothing is left that could be charged. Whether it did."""
    why = _WITHOUT_ROOM.get(room)
    if why is not None:
        end_task(session, task, TaskEvent.STOPPED, why, now)
        after_commit(session, partial(_log_end, task, why))
    return why is not None


def _log_end(task: Task, why: Stop) -> None:
    """In the log, beside the alerts of its budget, or what is wrong with its ledger."""
    _log.warning(
        "task %s of %s has ended after %d rounds: %s",
        task.name, spending.whose_of(task), task.rounds_committed, why.value,
    )  # fmt: skip


def _start_from_the_newest(session: Session, task: Task, round_: Round) -> None:
    """Let a round start from the newest model version of its task, or of the task that it evaluates."""
    evaluates = read_settings(task.settings).evaluates
    of = Task.id == task.id if evaluates is None else Task.name == evaluates
    newest = session.exec(
        select(CheckpointRow)
        .join(Task, (col(Task.tenant) == col(CheckpointRow.tenant)) & (Task.checkpoint_sha256 == CheckpointRow.sha256))
        .where(Task.tenant == task.tenant, of)
    ).one()
    round_.checkpoint_sha256 = newest.sha256
    round_.model_version = newest.model_version
    round_.clipping_norm = task.clipping_norm
    session.add(round_)


def is_ready_to_choose(session: Session, round_id: str, now: datetime) -> bool:
    """Whether the pool of a selecting round is full, or its deadline passed; not while its task is paused."""
    round_ = session.get_one(Round, round_id)
    task = session.get_one(Task, round_.task_id)
    if round_.phase != Phase.SELECTING or task.state != TaskState.ACTIVE:
        return False
    if now >= round_.deadline_at:
        return True
    wanted = read_settings(task.settings).pool_size
    # Every look asks, and hardly ever are there enough: only of enough is it asked whether they are still free.
    came = session.exec(select(func.count()).where(Candidate.round_id == round_id)).one()
    if came < wanted:
        return False
    return session.exec(select(func.count()).select_from(_pool(task, round_, now).subquery())).one() >= wanted


def _pool(task: Task, round_: Round, now: datetime) -> SelectOfScalar[str]:
    """The candidates of a round that are still here, work for no other round, are not in quarantine, and may take part.

    How often a device takes part is for the device to enforce; here it is checked as far as reports are remembered.
    """
    kept_out = (
        select(Quarantine.device_id).where(Quarantine.device_id == Candidate.device_id, Quarantine.until > now).exists()
    )
    busy = (
        select(Participation.device_id)
        .where(Participation.device_id == Candidate.device_id, col(Participation.standing).in_(OPEN_STANDINGS))
        .exists()
    )
    return (
        select(Candidate.device_id)
        .join(Device, col(Device.id) == col(Candidate.device_id))
        .where(Candidate.round_id == round_.id, col(Device.left_at).is_(None), ~busy, ~kept_out)
        .where(*_within_limits(task, round_.number, limits_of(read_plan(task.plan)), now))
    )


def _within_limits(task: Task, number: int, limits: ParticipationLimits, now: datetime) -> list[ColumnElement[bool]]:
    """Whether a candidate has been in few enough rounds of a task, long enough ago: `participation.barred`, in SQL."""
    gave = (
        select(func.count())
        .select_from(Report)
        .join(Participation, col(Participation.id) == col(Report.participation_id))
        .join(Round, col(Round.id) == col(Participation.round_id))
        .where(Participation.device_id == Candidate.device_id, Round.task_id == task.id)
    )
    found: list[ColumnElement[bool]] = []
    if limits.most is not None:
        found.append(gave.scalar_subquery() < limits.most)
    if limits.separation > 1:
        found.append(gave.where(Round.number > number - limits.separation).scalar_subquery() == 0)
    if limits.least_gap_s > 0:
        since = now - timedelta(seconds=limits.least_gap_s)
        found.append(gave.where(Report.received_at > since).scalar_subquery() == 0)
    return found


def choose_participants(session: Session, round_id: str, now: datetime) -> bool:
    """Choose participants once the round is ready; abandon it when too few came. Whether anything changed.

    They start from the model version that is the newest now: nobody has asked for another. A buffered task's rounds
    are no larger than its pool: several of them make up the goal.
    """
    if not is_ready_to_choose(session, round_id, now):
        return False
    round_ = session.get_one(Round, round_id)
    task = session.get_one(Task, round_.task_id)
    pool = session.exec(_pool(task, round_, now)).all()
    plan, settings = read_plan(task.plan), read_settings(task.settings)
    if plan.summing is Summing.SECURE and len(pool) < fewest_of(plan):
        abandon(session, round_, Event.TOO_FEW_DEVICES, Abandonment.POPULATION_TOO_SMALL, now)
        return True
    if len(pool) < plan.min_reports:
        abandon(session, round_, Event.TOO_FEW_DEVICES, Abandonment.TOO_FEW_DEVICES, now)
        return True
    room = spending.reserve(session, task, round_)
    if room is Room.SPENT and _is_at_work(session.exec(select(Round.phase).where(Round.task_id == task.id)).all()):
        room = Room.HELD
    if _ends_for_privacy(session, task, room, now):
        return True
    if room is Room.HELD:
        abandon(session, round_, Event.TOO_FEW_DEVICES, Abandonment.BUDGET_HELD, now)
        return True
    most = for_one_group(plan, settings)
    if plan.summing is Summing.SECURE:  # as many groups as the pool has devices for
        most *= max(1, len(pool) // most)
    if settings.mode is Mode.BUFFERED:
        most = min(most, settings.pool_size)
    chosen = ranked(round_seed(task.seed, round_.number), pool)[:most]
    if plan.summing is Summing.SECURE:  # groups form of those who have trained
        session.add_all(_participation(round_id, None, device) for device in chosen)
    else:
        _form_groups(session, round_id, chosen, settings.group_size)
    _start_from_the_newest(session, task, round_)
    round_.phase = step(STEPS, Phase(round_.phase), Event.PARTICIPANTS_CHOSEN)
    round_.deadline_at = now + timedelta(seconds=settings.reporting_deadline_s)
    session.add(round_)
    return True


def _form_groups(session: Session, round_id: str, chosen: Sequence[str], least: int | None) -> None:
    """Put the participants into groups, in the order in which they were ranked."""
    taken = 0
    for number, size in enumerate(group_sizes(len(chosen), least), start=1):
        group = Group(id=secrets.token_hex(16), round_id=round_id, number=number, phase=GroupPhase.REPORTING)
        session.add(group)
        session.flush()
        session.add_all(_participation(round_id, group.id, device) for device in chosen[taken : taken + size])
        taken += size


def _participation(round_id: str, group_id: str | None, device_id: str) -> Participation:
    return Participation(
        id=secrets.token_hex(16),
        round_id=round_id,
        group_id=group_id,
        device_id=device_id,
        standing=Standing.CHOSEN,
    )
