"""`tasks new` and `tasks create`: from a file to a signed order."""

from __future__ import annotations

import base64
import json
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any

import typer

from coordinator.commands.console import AsJson, cell, one_line_errors, print_facts, say, show
from coordinator.commands.files import read_key
from coordinator.commands.ordering import Order, read_order, template
from coordinator.commands.remote import Address, Answer, Operator, TokenFile, connected, part
from coordinator.commands.task_views import hidden_by, print_created
from coordinator.core.task_settings import TaskSettings, changed
from coordinator.core.tasks import TaskState
from edge_runtime.protocol import wire
from edge_runtime.protocol.keys import SigningKey
from edge_runtime.protocol.plan import Plan, Privacy, sign_plan


def new() -> None:
    """Print an order to begin with: a file with every field, what it means, and its limits.

    edgewise-coordinator tasks new > order.toml
    """
    typer.echo(template(), nl=False)


def create(
    order: Annotated[Path, typer.Argument(help="As `edgewise-coordinator tasks new` prints one.")],
    tenant_key_file: Annotated[Path, typer.Option(help="Signs the plan; `edgewise-export keygen` writes it.")],
    start: Annotated[bool, typer.Option("--start", help="Approve and start it, too.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done; send nothing.")] = False,
    address: Address = "",
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Order a task: sign its plan, bring bundle and first weights, and create it as a draft.

    The tenant key stays on this machine: only the plan and its signature travel. The same order again changes nothing.

    edgewise-coordinator tasks create order.toml --tenant-key-file tenant.key

    edgewise-coordinator tasks create order.toml --tenant-key-file tenant.key --start
    """
    if dry_run:
        _dry_create(order, tenant_key_file, start)
        return
    with connected(address, token_file) as operator:
        key = read_key(tenant_key_file)
        read = read_order(order, key.public)
        if not as_json:
            _announce(read, start)
        operator.get(f"/populations/{part(read.plan.population)}")  # before many bytes are sent for nothing
        answer = operator.change("POST", "/tasks", _body(read, key, _bring(operator, read)))
        if start:
            answer = _start(operator, read.name, answer.tree["state"], answer.etag)
        found = answer.tree
        forecast = operator.get(f"/tasks/{part(read.name)}/dry-run").tree
    show(as_json, found | {"dry_run": forecast}, print_created)


def _dry_create(order: Path, tenant_key_file: Path, start: bool) -> None:
    with one_line_errors():
        _announce(read_order(order, read_key(tenant_key_file).public), start)
    say("nothing was sent")


def _announce(read: Order, start: bool) -> None:
    """Say what is going to be done."""
    plan, settings = read.plan, read.settings
    brought = [f"{len(raw):,} bytes of {kind}" for kind, raw in _brought(read) if raw is not None]
    unless_given = TaskSettings(pool_size=settings.pool_size)
    differing = [f"{name}={cell(attrgetter(name)(settings))}" for name in changed(unless_given, settings)]
    training = f"{plan.epochs} × {plan.batch_size} at {plan.learning_rate:g}"
    print_facts(
        [
            ("task", f"{read.name}, {plan.kind} for {plan.tenant}/{plan.population}"),
            ("brings", " and ".join(brought) or "nothing; the coordinator has bundle and checkpoint"),
            ("devices", f"{training}, clipped to {plan.clipping_norm:g}{_adapting(plan)}"),
            ("privacy", hidden_by(plan.privacy, None if plan.privacy is Privacy.NONE else plan.noise_multiplier)),
            ("round", f"{plan.goal} reports wanted, at least {plan.min_reports}, pool of {settings.pool_size}"),
            ("settings", ", ".join(differing) or "all as they are unless given"),
            ("then", "it is approved and started" if start else "it is a draft; approve it, then start it"),
        ]
    )


def _adapting(plan: Plan) -> str:
    one = plan.adaptive
    if one is None:
        return ""
    return f" at first; that follows the norms' quantile {one.quantile:g} within {one.smallest:g} to {one.largest:g}"


def _brought(read: Order) -> tuple[tuple[str, bytes | None], ...]:
    return (("bundle", read.bundle), ("first weights", read.checkpoint))


def _body(read: Order, key: SigningKey, checkpoint_sha256: str) -> dict[str, Any]:
    raw, signature = sign_plan(read.plan, key)
    return {
        "name": read.name,
        "plan": base64.b64encode(raw).decode(),
        "plan_signature": base64.b64encode(signature).decode(),
        "checkpoint_sha256": checkpoint_sha256,
        "settings": json.loads(wire.encode(read.settings)),
    } | ({} if read.seed is None else {"seed": read.seed})


def _bring(operator: Operator, read: Order) -> str:
    """Upload what the order brings; the digest of the checkpoint that it begins with, as signed there."""
    sha256 = read.plan.bundle_sha256
    if read.bundle is not None:
        operator.change("PUT", f"/bundles/{sha256}", content=read.bundle)
    if read.checkpoint is None:
        return str(read.checkpoint_sha256)
    return str(operator.change("POST", f"/bundles/{sha256}/checkpoints", content=read.checkpoint).tree["sha256"])


def _start(operator: Operator, name: str, state: str, etag: str | None) -> Answer:
    """Approve and start a task; only as it was seen. One that runs already is left alone."""
    path = f"/tasks/{part(name)}"
    if state == TaskState.DRAFT:
        etag = operator.change("POST", f"{path}/approve", if_match=etag).etag
        state = TaskState.APPROVED
    if state == TaskState.APPROVED:
        return operator.change("POST", f"{path}/start", if_match=etag)
    return operator.get(path)
