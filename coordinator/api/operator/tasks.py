"""Tasks: ordered as drafts, changed, approved, started, watched, ended, cloned."""

from __future__ import annotations

import base64
import binascii
import json
import secrets
from datetime import datetime
from typing import Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import ConfigDict, Field, StrictBool
from sqlmodel import Session

from coordinator.api.operator.access import (
    Body,
    Cursor,
    ExpectedVersion,
    Limit,
    OperatorRoute,
    RawBody,
    TenantOf,
    etag,
    paged,
    tagged,
)
from coordinator.api.operator.task_privacy import PrivacyView, privacy_of, privacy_of_all, weak_promises
from coordinator.api.parts import Parts, PartsOf
from coordinator.core.cohorts.reading import read_rule
from coordinator.core.cohorts.rule import Rule
from coordinator.core.forecast import Reach
from coordinator.core.privacy.plans import mode_of
from coordinator.core.privacy.statement import Mode as PrivacyMode
from coordinator.core.task_settings import TaskSettings, read_settings
from coordinator.core.tasks import TaskState
from coordinator.services import budgets, catalogue, cohorts, funnel, reach, round_views, task_changes, tasks
from coordinator.services.running import norm_of, read_plan
from coordinator.services.tasks import warnings_of
from coordinator.store.tables import CheckpointRow, Task, Tenant
from edge_runtime.protocol import wire
from edge_runtime.protocol.errors import Malformed
from edge_runtime.protocol.keys import SIGNATURE_BYTES, PublicKey
from edge_runtime.protocol.plan import Summing

router = APIRouter(route_class=OperatorRoute, tags=["tasks"])

_EXAMPLE: dict[str, Any] = {
    "name": "digits-mlp",
    "plan": "eyJiYXRjaF9zaXplIjoxMCwi…",
    "plan_signature": "q83vEjRWeJA…",
    "checkpoint_sha256": "80eedb5c…",
    "settings": {"pool_size": 100, "stop": {"rounds": 50}, "server_optimiser": {"learning_rate": 1.0}},
}


class TaskRequest(Body):
    """A task: the signed plan says what devices do, the settings how rounds are run."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    name: str = Field(description="Within the tenant.", examples=["digits-mlp"])
    plan: str = Field(description="Base64 of the plan's exact bytes.")
    plan_signature: str = Field(description="Base64 of the tenant's signature of the plan.")
    checkpoint_sha256: str = Field(description="The imported checkpoint that round 1 starts from.")
    settings: TaskSettings
    seed: str | None = Field(None, pattern="^[0-9a-f]{64}$", description="Of the selection; random when absent.")


class CloneRequest(Body):
    """What the clone is called, and where it starts."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "digits-mlp-2", "newest": True}]})

    name: str = Field(description="Of the new task.")
    newest: StrictBool = Field(False, description="From the task's newest model version; else from its first.")


class TaskView(Body):
    name: str
    population: str
    state: TaskState
    bundle_sha256: str
    checkpoint_sha256: str = Field(description="The newest model version.")
    model_version: int
    weights_sha256: str
    clipping_norm: float = Field(description="Of rounds that begin now; the plan's, unless that adapts.")
    rounds_committed: int
    rounds_wanted: int | None
    settings: dict[str, Any]
    created_at: datetime
    approved_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    ended_because: str | None
    summing: Summing = Field(description="How the reports of a group are added up.")
    privacy: PrivacyView = Field(description="What hides a participant, and what it costs.")
    warnings: list[str] = Field(description="What whoever runs the task should know.")


@router.get("/tasks")
def list_tasks(
    request: Request,
    response: Response,
    tenant: TenantOf,
    parts: PartsOf,
    limit: Limit = 100,
    cursor: Cursor = "",
    population: str | None = None,
    state: TaskState | None = None,
) -> list[TaskView]:
    """The tenant's tasks, by name."""
    with parts.database.reading() as session:
        found = tasks.tasks_of(session, tenant, population, state, after=cursor, most=limit + 1)
        listed = paged(request, response, found, limit, lambda task: task.name)
        hidden = privacy_of_all(session, listed)
        return [_view(session, task, privacy) for task, privacy in zip(listed, hidden, strict=True)]


@router.post("/tasks")
def post_task(order: TaskRequest, response: Response, tenant: TenantOf, parts: PartsOf) -> TaskView:
    """Create a task as a draft; the same order again returns the same task."""
    with parts.database.writing() as session:
        task = tasks.create_task(session, tenant, _ordered(order), parts.now())
    return _answer(parts, response, task)


def _ordered(order: TaskRequest) -> tasks.TaskOrder:
    return tasks.TaskOrder(
        name=order.name,
        plan=_bytes(order.plan, "plan"),
        plan_signature=_bytes(order.plan_signature, "plan_signature", SIGNATURE_BYTES),
        checkpoint_sha256=order.checkpoint_sha256,
        settings=order.settings,
        seed=bytes.fromhex(order.seed) if order.seed is not None else None,
    )


@router.get("/tasks/{name}")
def get_task(name: str, request: Request, response: Response, tenant: TenantOf, parts: PartsOf) -> TaskView:
    """How a task stands."""
    with parts.database.reading() as session:
        task = tasks.task_named(session, tenant, name)
        view = _view(session, task, privacy_of(session, task))
    tagged(request, response, _tag(task, view.privacy))
    return view


@router.get("/tasks/{name}/rounds")
def get_rounds(
    name: str,
    request: Request,
    response: Response,
    tenant: TenantOf,
    parts: PartsOf,
    limit: Limit = 500,
    after: int = Query(0, ge=0, le=1 << 31, description="Rounds with a higher number."),
    cursor: Cursor = "",
) -> list[round_views.RoundView]:
    """The rounds of a task, oldest first, with the outcomes of their participants."""
    if cursor:
        if not (cursor.isdecimal() and len(cursor) < 12):
            raise Malformed("the cursor is not one that this list gave out")
        after = max(after, int(cursor))
    with parts.database.reading() as session:
        found = round_views.rounds_of(session, tasks.task_named(session, tenant, name), after, limit + 1)
    return paged(request, response, found, limit, lambda one: str(one.number))


@router.patch("/tasks/{name}")
def patch_task(
    name: str, raw: RawBody, response: Response, tenant: TenantOf, parts: PartsOf, expected: ExpectedVersion
) -> TaskView:
    """Change some of a task's settings: a merge patch. The next round follows them; what was approved is a draft again.

    Fields say when they may change; null puts null in a field's place (RFC 7396 would take the field out).
    """
    patch = wire.json_tree(raw)
    if not isinstance(patch, dict):
        raise Malformed('the patch is an object of settings, such as {"stop": {"rounds": 100}}')
    with parts.database.writing() as session:
        task = task_changes.change_task(session, tenant, name, patch, expected)
    return _answer(parts, response, task)


@router.post("/tasks/{name}/clone")
def clone_task(name: str, wanted: CloneRequest, response: Response, tenant: TenantOf, parts: PartsOf) -> TaskView:
    """Make a draft with the plan and the settings of a task; again returns the same draft."""
    with parts.database.writing() as session:
        task = task_changes.clone_task(session, tenant, name, wanted.name, parts.now(), newest=wanted.newest)
    return _answer(parts, response, task)


@router.get("/tasks/{name}/dry-run")
def get_dry_run(name: str, tenant: TenantOf, parts: PartsOf) -> task_changes.DryRun:
    """What a task would do from now on, and what keeps it from it; nothing changes, and no device hears of it."""
    with parts.database.reading() as session:
        now = parts.now()
        return task_changes.dry_run(session, tenant, name, parts.blobs, _reach(now), now, parts.smallest_cohort)


def _reach(now: datetime) -> task_changes.Reaching:
    def reached(session: Session, tenant: Tenant, population: str, cohort: str | None) -> Reach:
        rule = Rule() if cohort is None else read_rule(cohorts.cohort_named(session, tenant, population, cohort).rule)
        of = catalogue.population_named(session, tenant, population)
        found = reach.reach(session, of, rule, now, secrets.SystemRandom().random())
        return Reach(devices=found.matching, check_ins_an_hour=found.check_ins_per_hour)

    return reached


@router.get("/tasks/{name}/funnel")
def get_funnel(name: str, tenant: TenantOf, parts: PartsOf) -> funnel.Funnel:
    """How far the devices of a task came, what became of the others, and what it cost them."""
    with parts.database.reading() as session:
        return funnel.funnel(session, tasks.task_named(session, tenant, name))


@router.post("/tasks/{name}/approve")
def approve_task(
    name: str, response: Response, tenant: TenantOf, parts: PartsOf, expected: ExpectedVersion
) -> TaskView:
    """Approve a draft as it stands."""
    with parts.database.writing() as session:
        _check_version(session, tenant, name, expected)
        tasks.check_authority(session, tenant, name, _authority(parts))
        task = tasks.approve_task(session, tenant, name, parts.now())
        _check_spending(session, tenant, parts, task)
    return _answer(parts, response, task)


@router.post("/tasks/{name}/start")
def start_task(name: str, response: Response, tenant: TenantOf, parts: PartsOf, expected: ExpectedVersion) -> TaskView:
    """Start an approved task."""
    with parts.database.writing() as session:
        _check_version(session, tenant, name, expected)
        tasks.check_authority(session, tenant, name, _authority(parts))
        task = tasks.start_task(session, tenant, name, parts.now())
        _check_spending(session, tenant, parts, task)
    return _answer(parts, response, task)


def _authority(parts: Parts) -> PublicKey | None:
    return None if parts.authority is None else parts.authority.public


def _check_spending(session: Session, tenant: Tenant, parts: Parts, task: Task) -> None:
    """Hold a task against the budgets of its population; the devices of its cohort are counted where they matter."""
    cohort = 0
    if mode_of(read_plan(task.plan)) is not PrivacyMode.NONE:
        named = read_settings(task.settings).cohort
        cohort = round(_reach(parts.now())(session, tenant, task.population, named).devices)
    budgets.check_task(session, task, cohort=cohort, smallest_cohort=parts.smallest_cohort)


@router.post("/tasks/{name}/pause")
def pause_task(name: str, response: Response, tenant: TenantOf, parts: PartsOf, expected: ExpectedVersion) -> TaskView:
    """Choose no more devices until the task is resumed; those at work go on."""
    with parts.database.writing() as session:
        _check_version(session, tenant, name, expected)
        task = tasks.pause_task(session, tenant, name, parts.now())
    return _answer(parts, response, task)


@router.post("/tasks/{name}/resume")
def resume_task(name: str, response: Response, tenant: TenantOf, parts: PartsOf, expected: ExpectedVersion) -> TaskView:
    """Go on with a paused task."""
    with parts.database.writing() as session:
        _check_version(session, tenant, name, expected)
        task = tasks.resume_task(session, tenant, name)
        _check_spending(session, tenant, parts, task)
    return _answer(parts, response, task)


@router.post("/tasks/{name}/cancel")
def cancel_task(name: str, response: Response, tenant: TenantOf, parts: PartsOf, expected: ExpectedVersion) -> TaskView:
    """End a task; its open rounds are abandoned, and phones are free at their next contact."""
    with parts.database.writing() as session:
        _check_version(session, tenant, name, expected)
        task = tasks.cancel_task(session, tenant, name, parts.now())
    return _answer(parts, response, task)


def _check_version(session: Session, tenant: Tenant, name: str, expected: int | None) -> None:
    """Raises: As `task_named` and `check_version`."""
    catalogue.check_version(tasks.task_named(session, tenant, name).version, expected)


def _tag(task: Task, privacy: PrivacyView) -> str:
    return etag(task.version, task.state, task.rounds_committed, *([privacy.tag] if privacy.costs else []))


def _answer(parts: Parts, response: Response, task: Task) -> TaskView:
    with parts.database.reading() as session:
        view = _view(session, task, privacy_of(session, task))
    response.headers["etag"] = _tag(task, view.privacy)
    return view


def _view(session: Session, task: Task, privacy: PrivacyView) -> TaskView:
    newest = session.get_one(CheckpointRow, (task.tenant, task.checkpoint_sha256))
    plan = read_plan(task.plan)
    return TaskView(
        name=task.name,
        population=task.population,
        state=TaskState(task.state),
        bundle_sha256=task.bundle_sha256,
        checkpoint_sha256=task.checkpoint_sha256,
        model_version=newest.model_version,
        weights_sha256=newest.weights_sha256,
        clipping_norm=norm_of(task, plan),
        rounds_committed=task.rounds_committed,
        rounds_wanted=read_settings(task.settings).stop.rounds,
        settings=json.loads(task.settings),
        created_at=task.created_at,
        approved_at=task.approved_at,
        started_at=task.started_at,
        ended_at=task.ended_at,
        ended_because=task.ended_because,
        summing=plan.summing,
        privacy=privacy,
        warnings=[*warnings_of(plan), *weak_promises(privacy)],
    )


def _bytes(text: str, name: str, length: int | None = None) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Malformed(f"{name} is not base64") from None
    if length is not None and len(raw) != length:
        raise Malformed(f"{name} has {len(raw)} bytes and not {length}")
    return raw
