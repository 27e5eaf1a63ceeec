"""Tasks are changed, cloned and tried out on paper."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol

from sqlmodel import Session, select

from coordinator.core.forecast import Forecast, Reach, Sizes, forecast
from coordinator.core.privacy.plans import check_rounds_fixed
from coordinator.core.privacy.settings import SMALLEST_COHORT
from coordinator.core.task_settings import Change, TaskSettings, changed, changes, read_settings
from coordinator.core.tasks import ENDED, RUNNING, TASK_STEPS, TaskEvent, TaskState
from coordinator.services import budgets
from coordinator.services.catalogue import check_version
from coordinator.services.sums import plan_and_manifest
from coordinator.services.tasks import check_settings, task_named
from coordinator.store.blobs import BlobKind, Blobs
from coordinator.store.tables import Task, Tenant
from edge_runtime.protocol import wire
from edge_runtime.protocol.checkpoint import checkpoint_bytes
from edge_runtime.protocol.enrolment import is_name
from edge_runtime.protocol.errors import Conflict, Malformed, Refusal
from edge_runtime.protocol.plan import Plan
from edge_runtime.protocol.report import report_bytes

_ALLOWED: Mapping[TaskState, frozenset[Change]] = {
    TaskState.DRAFT: frozenset(Change),
    TaskState.APPROVED: frozenset(Change),
    TaskState.PAUSED: frozenset({Change.PAUSED, Change.ACTIVE}),
    TaskState.ACTIVE: frozenset({Change.ACTIVE}),
}
_WHEN: Mapping[Change, str] = {
    Change.DRAFT: "only before the task starts",
    Change.PAUSED: "before the task starts and while it is paused",
    Change.ACTIVE: "until the task ends",
}


def change_task(
    session: Session,
    tenant: Tenant,
    name: str,
    patch: Mapping[str, Any],
    expected_version: int | None = None,
) -> Task:
    """Change some of a task's settings: those that are named, in the form that they are read in. The same is no change.

    The next round follows them. An approved task becomes a draft again: what was approved is no longer what would run.

    Args:
        patch: Objects are gone into; any other value takes the place of the old one, null too.
        expected_version: Of the task; None for any.

    Raises:
        NotFound: The tenant has no task of this name, or the settings name something that does not exist.
        PreconditionFailed: The task is not in the expected version.
        Malformed: These are no settings, or none for this plan.
        ModeNotGiven: Correlated noise was planned for its number of rounds.
        Conflict: A field cannot change now; the sentence says which, and when it can.
    """
    task = task_named(session, tenant, name)
    check_version(task.version, expected_version)
    before = read_settings(task.settings)
    after = wire.decode(TaskSettings, json.dumps(_merged(json.loads(task.settings), patch)).encode())
    differing = changed(before, after)
    if not differing:
        return task
    state = TaskState(task.state)
    if state in ENDED:
        raise Conflict(f"the task is {state}: nothing of it changes any more; clone it")
    when = changes()
    for field in differing:
        if when[field] not in _ALLOWED[state]:
            raise Conflict(f"{field} cannot change while the task is {state}: {_WHEN[when[field]]}")
    plan = wire.decode(Plan, task.plan)
    check_settings(session, after, plan)
    if state in RUNNING and before.stop.rounds != after.stop.rounds:
        check_rounds_fixed(plan)
    task.settings = wire.encode(after)
    task.state = TASK_STEPS[state, TaskEvent.CHANGED]
    if task.state == TaskState.DRAFT:
        task.approved_at = None
    task.version += 1
    session.add(task)
    return task


def _merged(tree: object, patch: object) -> object:
    """The tree with everything that the patch names put in its place."""
    if not (isinstance(tree, dict) and isinstance(patch, Mapping)):
        return patch
    return {**tree, **{key: _merged(tree.get(key), value) for key, value in patch.items()}}


def clone_task(session: Session, tenant: Tenant, name: str, new_name: str, now: datetime, *, newest: bool) -> Task:
    """Make a draft with the plan and settings of a task; again returns the same draft as long as it is one.

    It has a seed of its own, the clipping norm of its plan, and a server optimiser that remembers nothing.

    Args:
        newest: Start from the task's newest model version; else from its first.

    Raises:
        Malformed: The new name is not one.
        NotFound: The tenant has no task to clone.
        Conflict: There is another task of the new name.
    """
    if not is_name(new_name):
        raise Malformed(f"{new_name!r} is not a name: 1 to 64 of a-z 0-9 . _ -, a letter or digit first")
    task = task_named(session, tenant, name)
    checkpoint_sha256 = task.checkpoint_sha256 if newest else task.first_checkpoint_sha256
    existing = session.exec(select(Task).where(Task.tenant == tenant.name, Task.name == new_name)).first()
    if existing is not None:
        same = (existing.plan, existing.settings) == (task.plan, task.settings)
        if existing.state != TaskState.DRAFT or not same or existing.first_checkpoint_sha256 != checkpoint_sha256:
            raise Conflict(f"a task {new_name!r} exists with other content")
        return existing
    clone = _draft_of(task, new_name, checkpoint_sha256, now)
    session.add(clone)
    return clone


def _draft_of(task: Task, name: str, checkpoint_sha256: str, now: datetime) -> Task:
    return Task(
        id=secrets.token_hex(16),
        tenant=task.tenant,
        population=task.population,
        name=name,
        state=TaskState.DRAFT,
        plan=task.plan,
        plan_signature=task.plan_signature,
        bundle_sha256=task.bundle_sha256,
        first_checkpoint_sha256=checkpoint_sha256,
        checkpoint_sha256=checkpoint_sha256,
        settings=task.settings,
        seed=secrets.token_bytes(32),
        rounds_committed=0,
        created_at=now,
    )


class Reaching(Protocol):
    """Says whom the cohort of a task matches."""

    def __call__(self, session: Session, tenant: Tenant, population: str, cohort: str | None) -> Reach: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """What a task would do, and why it could not.

    Attributes:
        findings: One sentence for each thing that keeps it from starting.
    """

    findings: tuple[str, ...]
    forecast: Forecast


def dry_run(
    session: Session,
    tenant: Tenant,
    name: str,
    blobs: Blobs,
    reach: Reaching,
    now: datetime,
    smallest_cohort: int = SMALLEST_COHORT,
) -> DryRun:
    """Say what a task would do from now on; nothing changes, and no device hears of it.

    Args:
        smallest_cohort: No task that claims privacy addresses fewer devices.

    Raises:
        NotFound: The tenant has no task of this name.
    """
    task = task_named(session, tenant, name)
    settings = read_settings(task.settings)
    plan, manifest = plan_and_manifest(session, task)
    sizes = Sizes(
        checkpoint=checkpoint_bytes(manifest.parameters),
        bundle=blobs.size(task.tenant, BlobKind.BUNDLE, task.bundle_sha256),
        report=report_bytes(plan.lanes(), plan.values(manifest.shared_parameters)),
    )
    found = tuple(_findings(session, settings, plan))
    reached = reach(session, tenant, task.population, settings.cohort) if not found else _NOBODY
    seen = forecast(plan, settings, reached, sizes, now)
    if not found:
        found = tuple(_lacking(session, task, round(reached.devices), smallest_cohort))
    return DryRun(findings=found, forecast=seen if not found else replace(seen, cautions=()))


def _lacking(session: Session, task: Task, cohort: int, smallest_cohort: int) -> Iterator[str]:
    """What keeps a task from spending from the budgets of its population."""
    try:
        budgets.check_task(session, task, cohort=cohort, smallest_cohort=smallest_cohort)
    except Refusal as refusal:
        yield refusal.detail


_NOBODY = Reach(devices=0, check_ins_an_hour=0.0)


def _findings(session: Session, settings: TaskSettings, plan: Plan) -> Iterator[str]:
    try:
        check_settings(session, settings, plan)
    except Refusal as refusal:
        yield refusal.detail
