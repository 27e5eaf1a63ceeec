"""Tasks as an operator sees them: create, approve, start, pause, look, cancel."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlmodel import Session, col, select

from coordinator.core.privacy.plans import check_not_weaker
from coordinator.core.task_settings import TaskSettings, read_settings
from coordinator.core.tasks import RUNNING, TASK_STEPS, Stop, TaskEvent, TaskState
from coordinator.services.group_terms import fewest_of, plan_terms
from coordinator.services.rounds import end_task, stop_selecting
from coordinator.services.running import read_manifest, read_plan
from coordinator.store.tables import (
    BundleRow,
    CheckpointRow,
    Cohort,
    Population,
    Task,
    Tenant,
)
from edge_runtime.protocol import wire
from edge_runtime.protocol.enrolment import is_name
from edge_runtime.protocol.errors import Conflict, InvalidPlan, Malformed, NoAuthority, NotFound
from edge_runtime.protocol.keys import PublicKey
from edge_runtime.protocol.plan import Kind, Plan, Summing, verify_plan


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
        NotFound: Its population or checkpoint does not exist, or something that its settings name.
        Conflict: A task of this name exists with other content.
        NoiseLowered: And it is running, under a plan that promises more.
        InvalidGroup: Sums of the plan's groups would not hide a report.
    """
    if not is_name(order.name):
        raise Malformed(f"{order.name!r} is not a name: 1 to 64 of a-z 0-9 . _ -, a letter or digit first")
    plan = verify_plan(order.plan, order.plan_signature, PublicKey(tenant.public_key))
    if plan.tenant != tenant.name:
        raise Conflict("the plan is for another tenant")
    existing = session.exec(select(Task).where(Task.tenant == tenant.name, Task.name == order.name)).first()
    if existing is not None:
        if not _is_order_of(existing, order):
            if existing.state in RUNNING:
                check_not_weaker(read_plan(existing.plan), plan)
            raise Conflict(f"a task {order.name!r} exists with other content")
        return existing
    check_settings(session, order.settings, plan)
    if session.get(Population, (tenant.name, plan.population)) is None:
        raise NotFound(f"there is no population {plan.population!r}")
    checkpoint = session.get(CheckpointRow, (tenant.name, order.checkpoint_sha256))
    if checkpoint is None or checkpoint.bundle_sha256 != plan.bundle_sha256:
        raise NotFound("there is no such checkpoint for the plan's bundle")
    _check_bundle(session, plan)
    _check_groups(session, order, plan)
    task = _new_task(order, plan, now)
    session.add(task)
    return task


PLAIN_WARNING: Final = "plain summing: the coordinator sees each report"


def warnings_of(plan: Plan) -> list[str]:
    """What whoever runs a task of this plan should know."""
    return [PLAIN_WARNING] if plan.summing is Summing.PLAIN else []


def check_settings(session: Session, settings: TaskSettings, plan: Plan) -> None:
    """Return if rounds of this plan can be run so.

    Raises:
        Malformed: They cannot.
        NotFound: The settings name a cohort or a task that does not exist.
    """
    if settings.kind is not plan.kind:
        raise Malformed(f"the settings are of kind {settings.kind}, and the plan of kind {plan.kind}")
    if settings.pool_size < plan.min_reports:
        raise Malformed(f"a pool of {settings.pool_size} devices never gives the plan's {plan.min_reports} reports")
    if plan.summing is Summing.SECURE and settings.pool_size < fewest_of(plan):
        raise Malformed(f"a pool of {settings.pool_size} devices never makes a group of {fewest_of(plan)}")
    if settings.cohort is not None and session.get(Cohort, (plan.tenant, plan.population, settings.cohort)) is None:
        raise NotFound(f"the population {plan.population!r} has no cohort {settings.cohort!r}")
    if settings.evaluates is not None:
        _check_evaluated(_existing(session, plan.tenant, settings.evaluates), plan)
    if settings.stop.metric is not None:
        target = _existing(session, plan.tenant, settings.stop.metric.task)
        if read_settings(target.settings).kind is not Kind.EVALUATE:
            raise Malformed(f"the task {target.name!r} of the metric target does not evaluate")
        if settings.stop.metric.metric not in [metric.name for metric in read_plan(target.plan).metrics]:
            raise Malformed(f"the task {target.name!r} does not measure {settings.stop.metric.metric!r}")


def _check_evaluated(evaluated: Task, plan: Plan) -> None:
    if read_settings(evaluated.settings).kind is not Kind.TRAIN:
        raise Malformed(f"the task {evaluated.name!r} trains nothing that could be evaluated")
    if evaluated.bundle_sha256 != plan.bundle_sha256:
        raise Malformed(f"the task {evaluated.name!r} has another bundle than the plan")


def _existing(session: Session, tenant: str, name: str) -> Task:
    task = session.exec(select(Task).where(Task.tenant == tenant, Task.name == name)).first()
    if task is None:
        raise NotFound(f"there is no task {name!r}")
    return task


def _check_bundle(session: Session, plan: Plan) -> None:
    bundle = session.get_one(BundleRow, (plan.tenant, plan.bundle_sha256))
    manifest = read_manifest(bundle.manifest)
    if plan.batch_size > manifest.batch_size:
        raise InvalidPlan(f"the plan's batches of {plan.batch_size} do not fit a graph for {manifest.batch_size}")
    known = ("loss", *manifest.metrics)
    if unknown := [metric.name for metric in plan.metrics if metric.name not in known]:
        raise InvalidPlan(f"the graph does not measure {unknown[0]!r}, only {', '.join(known)}")


def _check_groups(session: Session, order: TaskOrder, plan: Plan) -> None:
    """Raises: InvalidGroup: Sums of the plan's groups would not hide a report."""
    if plan.summing is Summing.SECURE:
        bundle = session.get_one(BundleRow, (plan.tenant, plan.bundle_sha256))
        plan_terms(
            order.plan,
            task=order.name,
            number=1,
            group="0" * 32,
            checkpoint_sha256=order.checkpoint_sha256,
            shared_parameters=read_manifest(bundle.manifest).shared_parameters,
        )


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


def check_authority(session: Session, tenant: Tenant, name: str, authority: PublicKey | None) -> None:
    """Return if groups of a task could form.

    Args:
        authority: Certifies devices; None where the coordinator has none.

    Raises:
        NotFound: The tenant has no task of this name.
        NoAuthority: It sums securely, and nobody certifies its devices.
    """
    plan = read_plan(task_named(session, tenant, name).plan)
    if plan.summing is Summing.SECURE and authority is None:
        raise NoAuthority("`edgewise-coordinator init` makes the authority's key; then start the processes again")


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
        Conflict: It is not approved.
    """
    task = task_named(session, tenant, name)
    if _moves(task, TaskEvent.STARTED, TaskState.ACTIVE):
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
