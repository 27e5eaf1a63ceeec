"""A device offers itself: an assignment, or a retry window with its reason."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from sqlmodel import Session, col, select

from coordinator.core.rounds import OPEN_PHASES, OPEN_STANDINGS, Phase, Standing
from coordinator.core.task_settings import read_settings
from coordinator.core.tasks import TaskState
from coordinator.services.devices import check_welcome, policy_of
from coordinator.store.tables import Candidate, Device, Participation, Round, Task
from edge_runtime.protocol import wire
from edge_runtime.protocol.checkin import Assignment, CheckIn, CheckInAnswer, RetryWindow, bucketed
from edge_runtime.protocol.enrolment import LONGEST_DELAY_S
from edge_runtime.protocol.errors import NotFound
from edge_runtime.protocol.plan import Plan
from edge_runtime.protocol.reasons import Outcome, Wait

NO_TASK_RETRY_S = 900.0
SPREAD_SHARE = 0.2
"""Retry windows are this share of their delay wide, so that devices do not come back in step."""


def check_in(session: Session, device: Device, message: CheckIn, now: datetime) -> CheckInAnswer:
    """Answer one check-in, in its version. The same `visit` gets the same assignment again.

    A device that is assigned and checks in under another visit has lost its work: its participation ends.

    Raises:
        NotFound: The device is enrolled in another population.
    """
    if message.population != device.population:
        raise NotFound(f"this device is not enrolled in a population {message.population!r}")
    return _in_version(session, device, _answer(session, device, message, now), message.version)


def _answer(session: Session, device: Device, message: CheckIn, now: datetime) -> CheckInAnswer:
    standing = _open_participation(session, device)
    if standing is not None:
        participation, round_, task = standing
        if participation.visit in (None, message.visit):
            return _assigned(session, participation, round_, task, message.visit, now)
        participation.standing = Standing.ENDED
        participation.outcome = Outcome.WENT_SILENT
        participation.ended_at = now
        session.add(participation)
    return _offered(session, device, message, now)


def look_again(session: Session, device: Device, message: CheckIn, now: datetime) -> CheckInAnswer:
    """Answer a held check-in anew. It gives way to a later visit of the same device: that one is alive."""
    check_welcome(session, device)
    standing = _open_participation(session, device)
    if standing is not None and standing[0].visit not in (None, message.visit):
        answer = _wait(Wait.ROUND_IN_PROGRESS, _retry_rejected_s(standing[2]))
        return _in_version(session, device, answer, message.version)
    return check_in(session, device, message, now)


def _in_version(session: Session, device: Device, answer: CheckInAnswer, version: int) -> CheckInAnswer:
    policy = policy_of(session, device) if version > 1 else None
    return replace(answer, version=version, policy=policy)


def worth_holding(answer: CheckInAnswer, hold_s: float) -> bool:
    """Whether a device may as well stay on the line: a round is choosing, or it would come back within the hold."""
    if answer.retry is None or answer.retry.reason in (Wait.NO_TASK, Wait.TOO_FEW_EXAMPLES):
        return False
    return answer.retry.reason is Wait.SELECTION_PENDING or answer.retry.after_s <= hold_s


def _open_participation(session: Session, device: Device) -> tuple[Participation, Round, Task] | None:
    return session.exec(
        select(Participation, Round, Task)
        .join(Round, col(Round.id) == col(Participation.round_id))
        .join(Task, col(Task.id) == col(Round.task_id))
        .where(Participation.device_id == device.id)
        .where(col(Participation.standing).in_(OPEN_STANDINGS))
        .where(col(Round.phase).in_(OPEN_PHASES))
        .where(col(Round.closed_at).is_(None))
    ).first()


def _assigned(
    session: Session, participation: Participation, round_: Round, task: Task, visit: str, now: datetime
) -> CheckInAnswer:
    if participation.standing == Standing.CHOSEN:
        participation.standing = Standing.ASSIGNED
        participation.visit = visit
        participation.assigned_at = now
        session.add(participation)
    assignment = Assignment(
        participation=participation.id,
        round=round_.number,
        plan=task.plan,
        plan_signature=task.plan_signature,
        checkpoint_sha256=round_.checkpoint_sha256,
        deadline_s=min(max(0.0, (round_.deadline_at - now).total_seconds()), LONGEST_DELAY_S),
    )
    return CheckInAnswer(version=1, assignment=assignment, retry=None)


def _offered(session: Session, device: Device, message: CheckIn, now: datetime) -> CheckInAnswer:
    """Become a candidate of the task's selecting round, or wait."""
    found = session.exec(
        select(Task, Round)
        .join(Round, col(Round.task_id) == col(Task.id), isouter=True)
        .where(Task.tenant == device.tenant, Task.population == device.population)
        .where(Task.state == TaskState.ACTIVE)
        .order_by(col(Task.created_at), col(Round.number).desc())
    ).first()
    if found is None:
        return _wait(Wait.NO_TASK, NO_TASK_RETRY_S)
    task, round_ = found
    plan = wire.decode(Plan, task.plan)
    if message.examples < bucketed(plan.min_examples):
        return _wait(Wait.TOO_FEW_EXAMPLES, NO_TASK_RETRY_S)
    if round_ is None or round_.phase != Phase.SELECTING:
        return _wait(_why_waiting(session, device, round_), _retry_rejected_s(task))
    if session.get(Candidate, (round_.id, device.id)) is None:
        session.add(Candidate(round_id=round_.id, device_id=device.id, checked_in_at=now))
    return _wait(Wait.SELECTION_PENDING, _retry_rejected_s(task))


def _why_waiting(session: Session, device: Device, round_: Round | None) -> Wait:
    if round_ is None or round_.phase not in OPEN_PHASES:
        return Wait.SELECTION_PENDING
    took_part = session.exec(
        select(Participation.standing).where(Participation.round_id == round_.id, Participation.device_id == device.id)
    ).first()
    if took_part is not None:
        return Wait.REPORTED if took_part == Standing.REPORTED else Wait.ROUND_IN_PROGRESS
    if session.get(Candidate, (round_.id, device.id)) is not None:
        return Wait.NOT_SELECTED
    return Wait.ROUND_IN_PROGRESS


def _retry_rejected_s(task: Task) -> float:
    set_s = read_settings(task.settings).retry_rejected_s
    return NO_TASK_RETRY_S if set_s is None else set_s


def _wait(reason: Wait, after_s: float) -> CheckInAnswer:
    window = RetryWindow(reason=reason, after_s=after_s, spread_s=after_s * SPREAD_SHARE)
    return CheckInAnswer(version=1, assignment=None, retry=window)
