"""The operators' API. Every call needs a bearer token and sees its own tenant alone."""

from __future__ import annotations

import base64
import binascii
import json
from datetime import datetime
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from coordinator.api.parts import BlobResponse, Parts, PartsOf, read_body
from coordinator.core.task_settings import TaskSettings, read_settings
from coordinator.services import catalogue, tasks
from coordinator.store.blobs import BlobKind
from coordinator.store.tables import CheckpointRow, Population, Task, Tenant
from edge_runtime.protocol import wire
from edge_runtime.protocol.bundle import BUNDLE_LIMIT_BYTES
from edge_runtime.protocol.errors import Malformed, NotFound, OperatorUnauthorised
from edge_runtime.protocol.keys import SIGNATURE_BYTES
from edge_runtime.protocol.policy import Policy

PREFIX = "/v1/operator"


def tenant_of(request: Request, parts: PartsOf) -> Tenant:
    """Whose operator is calling.

    Raises:
        OperatorUnauthorised: No valid token came with the call.
    """
    scheme, _space, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise OperatorUnauthorised("send the operator token: `Authorization: Bearer …`")
    with parts.database.reading() as session:
        return catalogue.tenant_of_token(session, token)


TenantOf = Annotated[Tenant, Depends(tenant_of)]
After = Annotated[int, Query(ge=0, le=1 << 31)]
router = APIRouter(prefix=PREFIX, tags=["operator"])


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class TaskRequest(Body):
    """A task: the signed plan says what devices do, the rest how rounds are run."""

    name: str = Field(examples=["digits-mlp"])
    plan: str = Field(description="Base64 of the plan's exact bytes.")
    plan_signature: str = Field(description="Base64 of the tenant's signature of the plan.")
    checkpoint_sha256: str = Field(description="The imported checkpoint that round 1 starts from.")
    settings: TaskSettings
    seed: str | None = Field(None, pattern="^[0-9a-f]{64}$", description="Of the selection; random when absent.")


_TASK_BODY: dict[str, Any] = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": TaskRequest.model_json_schema()}}}
}


class Switch(Body):
    off: StrictBool


_SWITCH_BODY: dict[str, Any] = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": Switch.model_json_schema()}}}
}
Asked = TypeVar("Asked", bound=BaseModel)


class PopulationView(Body):
    name: str
    switched_off: bool
    policy: dict[str, Any] | None


class TaskView(Body):
    name: str
    population: str
    state: str
    bundle_sha256: str
    checkpoint_sha256: str
    model_version: int
    weights_sha256: str
    rounds_committed: int
    rounds_wanted: int | None
    settings: dict[str, Any]
    ended_because: str | None
    created_at: datetime


class CheckpointView(Body):
    sha256: str
    bundle_sha256: str
    model_version: int
    weights_sha256: str


@router.put("/populations/{name}", status_code=204)
def put_population(name: str, tenant: TenantOf, parts: PartsOf) -> None:
    """Make a population; again changes nothing."""
    with parts.database.writing() as session:
        catalogue.create_population(session, tenant, name, parts.now())


@router.get("/populations/{name}")
def get_population(name: str, tenant: TenantOf, parts: PartsOf) -> PopulationView:
    """What a population's devices are told."""
    with parts.database.reading() as session:
        return _population_view(catalogue.population_named(session, tenant, name))


@router.put("/populations/{name}/policy")
async def put_policy(name: str, request: Request, tenant: TenantOf, parts: PartsOf) -> PopulationView:
    """Say when devices may work, within what their apps allow; `null` leaves it to the apps."""
    raw = await read_body(request, wire.MESSAGE_LIMIT_BYTES)
    policy = None if raw.strip() == b"null" else wire.decode(Policy, raw)

    def take() -> PopulationView:
        with parts.database.writing() as session:
            return _population_view(catalogue.set_policy(session, tenant, name, policy))

    return await run_in_threadpool(take)


@router.put("/populations/{name}/switch", openapi_extra=_SWITCH_BODY)
async def put_switch(name: str, request: Request, tenant: TenantOf, parts: PartsOf) -> PopulationView:
    """Switch devices off or on; whoever is off does nothing but ask now and then."""
    wanted = _read(Switch, await read_body(request, wire.MESSAGE_LIMIT_BYTES))

    def take() -> PopulationView:
        with parts.database.writing() as session:
            return _population_view(catalogue.switch(session, tenant, name, off=wanted.off))

    return await run_in_threadpool(take)


@router.put("/bundles/{sha256}", status_code=204)
async def put_bundle(sha256: str, request: Request, tenant: TenantOf, parts: PartsOf) -> None:
    """Bring a bundle signed by the tenant key; again changes nothing."""
    raw = await read_body(request, BUNDLE_LIMIT_BYTES)

    def take() -> None:
        manifest = catalogue.store_bundle(parts.blobs, tenant, sha256, raw)
        with parts.database.writing() as session:
            catalogue.record_bundle(session, tenant, sha256, manifest, parts.now())

    await run_in_threadpool(take)


@router.post("/bundles/{sha256}/checkpoints")
async def post_checkpoint(sha256: str, request: Request, tenant: TenantOf, parts: PartsOf) -> CheckpointView:
    """Bring first weights signed by the tenant key; the answer names the model version signed here."""
    raw = await read_body(request, BUNDLE_LIMIT_BYTES)

    def take() -> CheckpointView:
        with parts.database.reading() as session:
            manifest = catalogue.manifest_of(session, tenant, sha256)
        checkpoint = catalogue.sign_imported(parts.blobs, tenant, sha256, manifest, raw, parts.key)
        with parts.database.writing() as session:
            return _checkpoint_view(catalogue.record_checkpoint(session, tenant.name, checkpoint, parts.now()))

    return await run_in_threadpool(take)


@router.get("/checkpoints/{sha256}/content")
def get_checkpoint(sha256: str, tenant: TenantOf, parts: PartsOf) -> Response:
    """The bytes of a model version."""
    path = parts.blobs.path(tenant.name, BlobKind.CHECKPOINT, sha256)
    if not path.is_file():
        raise NotFound("there is no such checkpoint")
    return BlobResponse(path, media_type="application/octet-stream")


@router.get("/checkpoints/{sha256}")
def get_checkpoint_view(sha256: str, tenant: TenantOf, parts: PartsOf) -> CheckpointView:
    """What is known of a model version."""
    with parts.database.reading() as session:
        row = session.get(CheckpointRow, (tenant.name, sha256))
    if row is None:
        raise NotFound("there is no such checkpoint")
    return _checkpoint_view(row)


@router.post("/tasks", openapi_extra=_TASK_BODY)
async def post_task(request: Request, tenant: TenantOf, parts: PartsOf) -> TaskView:
    """Create a task as a draft; the same order again returns the same task."""
    wanted = _ordered(await read_body(request, wire.MESSAGE_LIMIT_BYTES))

    def take() -> TaskView:
        with parts.database.writing() as session:
            task = tasks.create_task(session, tenant, wanted, parts.now())
        return _task_view(parts, task)

    return await run_in_threadpool(take)


def _read(kind: type[Asked], body: bytes) -> Asked:
    # FastAPI would read the whole body before it asks for a token.
    try:
        return kind.model_validate_json(body)
    except ValidationError as problem:
        raise RequestValidationError(problem.errors(include_context=False)) from problem


def _ordered(body: bytes) -> tasks.TaskOrder:
    order = _read(TaskRequest, body)
    return tasks.TaskOrder(
        name=order.name,
        plan=_bytes(order.plan, "plan"),
        plan_signature=_bytes(order.plan_signature, "plan_signature", SIGNATURE_BYTES),
        checkpoint_sha256=order.checkpoint_sha256,
        settings=order.settings,
        seed=bytes.fromhex(order.seed) if order.seed is not None else None,
    )


@router.get("/tasks/{name}")
def get_task(name: str, tenant: TenantOf, parts: PartsOf) -> TaskView:
    """How a task stands."""
    with parts.database.reading() as session:
        task = tasks.task_named(session, tenant, name)
    return _task_view(parts, task)


@router.get("/tasks/{name}/rounds")
def get_rounds(name: str, tenant: TenantOf, parts: PartsOf, after: After = 0) -> list[tasks.RoundView]:
    """The rounds of a task with a number above `after`, with the outcomes of their participants."""
    with parts.database.reading() as session:
        return tasks.rounds_of(session, tasks.task_named(session, tenant, name), after)


@router.post("/tasks/{name}/approve")
def approve_task(name: str, tenant: TenantOf, parts: PartsOf) -> TaskView:
    """Approve a draft as it stands."""
    with parts.database.writing() as session:
        task = tasks.approve_task(session, tenant, name, parts.now())
    return _task_view(parts, task)


@router.post("/tasks/{name}/start")
def start_task(name: str, tenant: TenantOf, parts: PartsOf) -> TaskView:
    """Start an approved task."""
    with parts.database.writing() as session:
        task = tasks.start_task(session, tenant, name, parts.now())
    return _task_view(parts, task)


@router.post("/tasks/{name}/pause")
def pause_task(name: str, tenant: TenantOf, parts: PartsOf) -> TaskView:
    """Choose no more devices until the task is resumed; those at work go on."""
    with parts.database.writing() as session:
        task = tasks.pause_task(session, tenant, name)
    return _task_view(parts, task)


@router.post("/tasks/{name}/resume")
def resume_task(name: str, tenant: TenantOf, parts: PartsOf) -> TaskView:
    """Go on with a paused task."""
    with parts.database.writing() as session:
        task = tasks.resume_task(session, tenant, name)
    return _task_view(parts, task)


@router.post("/tasks/{name}/cancel")
def cancel_task(name: str, tenant: TenantOf, parts: PartsOf) -> TaskView:
    """End a task; its open round is abandoned."""
    with parts.database.writing() as session:
        task = tasks.cancel_task(session, tenant, name, parts.now())
    return _task_view(parts, task)


def _population_view(population: Population) -> PopulationView:
    policy = None if population.policy is None else json.loads(population.policy)
    return PopulationView(name=population.name, switched_off=population.switched_off, policy=policy)


def _checkpoint_view(row: CheckpointRow) -> CheckpointView:
    return CheckpointView(
        sha256=row.sha256,
        bundle_sha256=row.bundle_sha256,
        model_version=row.model_version,
        weights_sha256=row.weights_sha256,
    )


def _task_view(parts: Parts, task: Task) -> TaskView:
    with parts.database.reading() as session:
        newest = session.get_one(CheckpointRow, (task.tenant, task.checkpoint_sha256))
    return TaskView(
        name=task.name,
        population=task.population,
        state=task.state,
        bundle_sha256=task.bundle_sha256,
        checkpoint_sha256=task.checkpoint_sha256,
        model_version=newest.model_version,
        weights_sha256=newest.weights_sha256,
        rounds_committed=task.rounds_committed,
        rounds_wanted=read_settings(task.settings).stop.rounds,
        settings=json.loads(task.settings),
        ended_because=task.ended_because,
        created_at=task.created_at,
    )


def _bytes(text: str, name: str, length: int | None = None) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Malformed(f"{name} is not base64") from None
    if length is not None and len(raw) != length:
        raise Malformed(f"{name} has {len(raw)} bytes and not {length}")
    return raw
