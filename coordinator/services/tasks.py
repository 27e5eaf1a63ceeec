"""Tasks as an operator sees them: create, approve, start, pause, look, cancel."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlmodel import Session, col, func, select

from coordinator.core.task_settings import TaskSettings
from coordinator.core.tasks import RUNNING, TASK_STEPS, Stop, TaskEvent, TaskState
from coordinator.services.rounds import end_task, stop_selecting
from coordinator.store.tables import BundleRow, CheckpointRow, Participation, Population, Report, Round, Task, Tenant
from edge_runtime.protocol import wire
from edge_runtime.protocol.bundle import Manifest
from edge_runtime.protocol.enrolment import is_name
from edge_runtime.protocol.errors import Conflict, InvalidPlan, Malformed, NotFound
from edge_runtime.protocol.keys import PublicKey
from edge_runtime.protocol.plan import Plan, verify_plan


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOrder:
    """What an operator asks for; the plan says what devices do, the settings how rounds are run."""

    name: str
    plan: bytes
    plan_signature: bytes
    checkpoint_sha256: str
    settings: TaskSettings
    seed: bytes | None


def create_task(session: Session, tenant: Tenant, order: TaskOrder, now: datetime) -> Task:
    """Create a task as a draft; the same order again returns the same task.

    Raises:
        UntrustedDocument, InvalidPlan, Malformed: The plan is not the tenant's, or not a plan.
        NotFound: Its population or checkpoint does not exist.
        Conflict: A task of this name exists with other content, or the population works for another task.
    """
    if not is_name(order.name):
        raise Malformed(f"{order.name!r} is not a name: 1 to 64 of a-z 0-9 . _ -, a letter or digit first")
    plan = verify_plan(order.plan, order.plan_signature, PublicKey(tenant.public_key))
    if plan.tenant != tenant.name:
        raise Conflict("the plan is for another tenant")
    existing = session.exec(select(Task).where(Task.tenant == tenant.name, Task.name == order.name)).first()
    if existing is not None:
        if not _is_order_of(existing, order):
            raise Conflict(f"a task {order.name!r} exists with other content")
        return existing
    _check_settings(order.settings, plan)
    if session.get(Population, (tenant.name, plan.population)) is None:
        raise NotFound(f"there is no population {plan.population!r}")
    checkpoint = session.get(CheckpointRow, (tenant.name, order.checkpoint_sha256))
    if checkpoint is None or checkpoint.bundle_sha256 != plan.bundle_sha256:
        raise NotFound("there is no such checkpoint for the plan's bundle")
    _check_bundle(session, plan)
    task = _new_task(order, plan, now)
    session.add(task)
    return task


def _check_settings(settings: TaskSettings, plan: Plan) -> None:
    if settings.pool_size < plan.min_reports:
        raise Malformed(f"a pool of {settings.pool_size} devices never gives the plan's {plan.min_reports} reports")


def _check_bundle(session: Session, plan: Plan) -> None:
    bundle = session.get_one(BundleRow, (plan.tenant, plan.bundle_sha256))
    largest = wire.decode(Manifest, bundle.manifest).batch_size
    if plan.batch_size > largest:
        raise InvalidPlan(f"the plan's batches of {plan.batch_size} do not fit a graph for {largest}")


def _check_alone(session: Session, task: Task) -> None:
    """A population works for one task at a time: two would take each other's devices."""
    other = session.exec(
        select(Task.name).where(
            Task.tenant == task.tenant,
            Task.population == task.population,
            col(Task.state).in_(RUNNING),
            Task.id != task.id,
        )
    ).first()
    if other is not None:
        raise Conflict(f"the population {task.population!r} works for the task {other!r}; wait for it, or cancel it")


def _new_task(order: TaskOrder, plan: Plan, now: datetime) -> Task:
    return Task(
        id=secrets.token_hex(16),
        tenant=plan.tenant,
        population=plan.population,
        name=order.name,
        state=TaskState.DRAFT,
        plan=order.plan,
        plan_signature=order.plan_signature,
        bundle_sha256=plan.bundle_sha256,
        first_checkpoint_sha256=order.checkpoint_sha256,
        checkpoint_sha256=order.checkpoint_sha256,
        settings=wire.encode(order.settings),
        seed=order.seed if order.seed is not None else secrets.token_bytes(32),
        rounds_committed=0,
        created_at=now,
    )


def _is_order_of(task: Task, order: TaskOrder) -> bool:
    """Whether a task was made by this very order; a seed that was not given is not compared."""
    return (
        (task.plan, task.plan_signature) == (order.plan, order.plan_signature)
        and task.settings == wire.encode(order.settings)
        and task.first_checkpoint_sha256 == order.checkpoint_sha256
        and order.seed in (None, task.seed)
    )


def task_named(session: Session, tenant: Tenant, name: str) -> Task:
    """Raises: NotFound: The tenant has no task of this name."""
    task = session.exec(select(Task).where(Task.tenant == tenant.name, Task.name == name)).first()
    if task is None:
        raise NotFound(f"there is no task {name!r}")
    return task


def tasks_of(
    session: Session, tenant: Tenant, population: str | None, state: TaskState | None, after: str, most: int
) -> Sequence[Task]:
    """The tenant's tasks by name, from the first after a name; of one population or state if it is given."""
    query = select(Task).where(Task.tenant == tenant.name, Task.name > after)
    if population is not None:
        query = query.where(Task.population == population)
    if state is not None:
        query = query.where(Task.state == state)
    return session.exec(query.order_by(col(Task.name)).limit(most)).all()


def approve_task(session: Session, tenant: Tenant, name: str, now: datetime) -> Task:
    """Approve a draft as it stands; again changes nothing.

    Raises:
        NotFound: The tenant has no task of this name.
        Conflict: It is past that.
    """
    task = task_named(session, tenant, name)
    if _moves(task, TaskEvent.APPROVED, TaskState.APPROVED):
        task.approved_at = now
        session.add(task)
    return task


def start_task(session: Session, tenant: Tenant, name: str, now: datetime) -> Task:
    """Start an approved task; again changes nothing.

    Raises:
        NotFound: The tenant has no task of this name.
        Conflict: It is not approved, or its population works for another task.
    """
    task = task_named(session, tenant, name)
    if _moves(task, TaskEvent.STARTED, TaskState.ACTIVE):
        session.flush()
        _check_alone(session, task)
        task.started_at = now
        session.add(task)
    return task


def pause_task(session: Session, tenant: Tenant, name: str, now: datetime) -> Task:
    """Choose no more devices for a task until it is resumed; again changes nothing. Devices at work go on.

    A round that still looks for devices is abandoned: nobody works for it, and the next one begins with whoever is
    there then. Rounds at work are added up as if nothing had happened.

    Raises:
        NotFound: The tenant has no task of this name.
        Conflict: It is not active.
    """
    task = task_named(session, tenant, name)
    if _moves(task, TaskEvent.PAUSED, TaskState.PAUSED):
        stop_selecting(session, task, now)
    session.add(task)
    return task


def resume_task(session: Session, tenant: Tenant, name: str) -> Task:
    """Go on with a paused task; again changes nothing.

    Raises:
        NotFound: The tenant has no task of this name.
        Conflict: It is not paused.
    """
    task = task_named(session, tenant, name)
    _moves(task, TaskEvent.RESUMED, TaskState.ACTIVE)
    session.add(task)
    return task


def cancel_task(session: Session, tenant: Tenant, name: str, now: datetime) -> Task:
    """End a task and abandon its open rounds; again changes nothing.

    Raises:
        NotFound: The tenant has no task of this name.
        Conflict: The task is completed.
    """
    task = task_named(session, tenant, name)
    if task.state == TaskState.COMPLETED:
        raise Conflict("the task is completed")
    if task.state != TaskState.CANCELLED:
        end_task(session, task, TaskEvent.CANCELLED, Stop.CANCELLED, now)
    return task


def _moves(task: Task, event: TaskEvent, to: TaskState) -> bool:
    """Follow a step of a task's life; not if it is there already.

    Raises:
        Conflict: There is no such step from where it stands.
    """
    if task.state == to:
        return False
    follows = TASK_STEPS.get((TaskState(task.state), event))
    if follows is None:
        raise Conflict(f"a task that is {task.state} cannot be {event}")
    task.state = follows
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundView:
    """A round with what became of its participants."""

    number: int
    phase: str
    abandonment: str | None
    checkpoint_sha256: str
    result_sha256: str | None
    chosen: int
    reports: int
    report_body_bytes: int
    outcomes: dict[str, int]
    opened_at: datetime
    closed_at: datetime | None


def rounds_of(session: Session, task: Task, after: int = 0, most: int = 500) -> list[RoundView]:
    """The task's rounds with a number above `after`, oldest first, so many at most."""
    views = []
    for round_ in session.exec(
        select(Round).where(Round.task_id == task.id, Round.number > after).order_by(col(Round.number)).limit(most)
    ).all():
        standings = session.exec(
            select(Participation.outcome, func.count())
            .where(Participation.round_id == round_.id)
            .group_by(col(Participation.outcome))
        ).all()
        reports, body_bytes = session.exec(
            select(func.count(), func.coalesce(func.sum(Report.body_bytes), 0))
            .select_from(Report)
            .join(Participation, col(Participation.id) == col(Report.participation_id))
            .where(Participation.round_id == round_.id)
        ).one()
        views.append(
            RoundView(
                number=round_.number,
                phase=round_.phase,
                abandonment=round_.abandonment,
                checkpoint_sha256=round_.checkpoint_sha256,
                result_sha256=round_.result_sha256,
                chosen=sum(count for _outcome, count in standings),
                reports=reports,
                report_body_bytes=body_bytes,
                outcomes={outcome: count for outcome, count in standings if outcome is not None},
                opened_at=round_.opened_at,
                closed_at=round_.closed_at,
            )
        )
    return views
