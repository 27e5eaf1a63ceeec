"""What a group agrees on, from the rows of its task, round and members."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import bindparam
from sqlmodel import Session, col, func, select

from coordinator.services.group_facts import for_ever, once
from coordinator.services.running import read_manifest, read_plan
from coordinator.store.group_tables import Member, StepRow
from coordinator.store.tables import BundleRow, Group, Participation, Report, Round, Task
from edge_runtime.protocol.errors import InvalidPlan
from edge_runtime.protocol.group import Step
from edge_runtime.protocol.keys import PublicKey, digest
from edge_runtime.protocol.plan import Plan
from edge_runtime.protocol.secure_sum.members import Members
from edge_runtime.protocol.secure_sum.roster import Entry
from edge_runtime.protocol.secure_sum.thresholds import corrupt_members, sharing
from edge_runtime.protocol.secure_sum.transcript import Agreement, Terms, agree


def fewest_of(plan: Plan) -> int:
    """Members without whom no group of a secure plan begins.

    Raises:
        InvalidPlan: The plan sums in plain.
    """
    if plan.fewest_members is None or plan.survivors is None:
        raise InvalidPlan("this plan has no groups that sum securely")
    return max(plan.fewest_members, plan.survivors)


def task_of(session: Session, group: Group) -> tuple[Round, Task]:
    """The round of a group, and its task."""
    return round_and_task(session, group.round_id)


def round_and_task(session: Session, round_id: str) -> tuple[Round, Task]:
    """The row of a round and that of its task; the session keeps only rows that somebody holds."""

    def read() -> tuple[Round, Task]:
        round_ = session.get_one(Round, round_id)
        return round_, session.get_one(Task, round_.task_id)

    return once(session, round_id, "rows", read)


def terms_of(session: Session, group: Group) -> Terms:
    """The terms of a group, as its devices find them in the assignment."""
    round_, task = task_of(session, group)
    bundle = session.get_one(BundleRow, (task.tenant, task.bundle_sha256))
    return plan_terms(
        task.plan,
        task=task.name,
        number=round_.number,
        group=group.id,
        checkpoint_sha256=round_.checkpoint_sha256,
        shared_parameters=read_manifest(bundle.manifest).shared_parameters,
        clipping_norm=round_.clipping_norm,
    )


def plan_terms(
    raw: bytes,
    *,
    task: str,
    number: int,
    group: str,
    checkpoint_sha256: str,
    shared_parameters: int,
    clipping_norm: float | None = None,
) -> Terms:
    """What a plan says of a group.

    Args:
        clipping_norm: Of the round, where it adapts; None for the plan's.

    Raises:
        InvalidGroup: Sums under these terms would not hide a report.
        InvalidPlan: The plan sums in plain.
    """
    plan = read_plan(raw)
    fewest_of(plan)
    return Terms(
        tenant=plan.tenant,
        task=task,
        round=number,
        group=group,
        plan_sha256=digest(raw).hex(),
        bundle_sha256=plan.bundle_sha256,
        checkpoint_sha256=checkpoint_sha256,
        fewest=plan.fewest_members or 0,
        survivors=plan.survivors or 0,
        corrupt_permille=plan.corrupt_permille,
        dropout_permille=plan.dropout_permille,
        lanes=plan.lanes(clipping_norm),
        parameters=plan.values(shared_parameters),
    )


class Place(NamedTuple):
    """A member of a group whose roster is fixed, without what is delivered to it."""

    device_id: str
    position: int
    entry: bytes


def members_of(session: Session, group_id: str) -> list[Place]:
    """The members of a group whose roster is fixed, by position."""
    found = session.connection().execute(_PLACES, {"group": group_id})
    return [Place(device, position or 0, entry) for device, position, entry in found]


_MEMBERS = (col(Member.group_id) == bindparam("group"), col(Member.position).is_not(None))
_PLACES = select(col(Member.device_id), col(Member.position), col(Member.entry)).where(*_MEMBERS)
_PLACES = _PLACES.order_by(col(Member.position))
_SIZE = select(func.count()).select_from(Member).where(*_MEMBERS)


def size_of(session: Session, group_id: str) -> int:
    """How many members a group has whose roster is fixed."""
    found: int = session.connection().execute(_SIZE, {"group": group_id}).scalar_one()
    return found


def thresholds_of(plan: Plan, size: int) -> tuple[int, int]:
    """Of a group of this size: the shares that rebuild a secret, and the members with whom it can go on."""
    survivors, permille = plan.survivors or 0, plan.corrupt_permille
    shared = sharing(
        size,
        corrupt=corrupt_members(permille, plan.max_participants),
        corrupt_permille=permille,
        dropout_permille=plan.dropout_permille,
    )
    complete = shared.degree == size - 1
    return shared.threshold, max(shared.threshold, survivors) if complete else survivors


def agreement_of(session: Session, group: Group, authority: PublicKey) -> Agreement:
    """What the members of a group agreed on, after its roster was fixed."""

    def read() -> Agreement:
        entries = tuple(member.entry for member in members_of(session, group.id))
        return _agreed(terms_of(session, group), entries, authority.raw)

    return for_ever(session, group.id, "agreement", read)


@functools.lru_cache(maxsize=8)
def _agreed(terms: Terms, entries: tuple[bytes, ...], authority: bytes) -> Agreement:
    """Verifying two signatures a member takes a while, and every message needs the agreement."""
    return agree(terms, [Entry.from_raw(entry) for entry in entries], PublicKey(authority))


def roster_of(session: Session, group: Group) -> list[Place]:
    """The members of a group whose roster was fixed in an earlier transaction, by position."""
    return for_ever(session, group.id, "roster", lambda: members_of(session, group.id))


def position_of(session: Session, group: Group, device_id: str) -> int | None:
    """The place of a device in the roster; None where it has none."""
    places = for_ever(
        session, group.id, "places", lambda: {one.device_id: one.position for one in roster_of(session, group)}
    )
    return places.get(device_id)


def sharers_of(session: Session, group: Group) -> set[str]:
    """The devices that shared, of a group that no longer takes shares."""
    return for_ever(session, group.id, "sharers", lambda: who_sent(session, group.id, Step.SHARES))


def masked_of(session: Session, group: Group) -> set[str]:
    """The devices whose reports are in the sum, of a group that no longer takes reports."""
    return for_ever(session, group.id, "masked", lambda: who_reported(session, group.id))


def who_sent(session: Session, group_id: str, step: Step) -> set[str]:
    """The devices whose step is here."""
    return set(session.connection().execute(_SENT, {"group": group_id, "step": step.value}).scalars())


_SENT = select(col(StepRow.device_id)).where(
    col(StepRow.group_id) == bindparam("group"), col(StepRow.step) == bindparam("step")
)


def who_reported(session: Session, group_id: str) -> set[str]:
    """The devices whose report is here: once masking is over, those whose reports are in the sum."""
    return set(session.connection().execute(_REPORTED, {"group": group_id}).scalars())


_REPORTED = (
    select(col(Participation.device_id))
    .join(Report, col(Report.participation_id) == col(Participation.id))
    .where(col(Report.group_id) == bindparam("group"))
)


def positions(members: Sequence[Place], devices: set[str]) -> Members:
    """The places of those devices in the roster."""
    return frozenset(member.position for member in members if member.device_id in devices)


def bodies_of(session: Session, members: Sequence[Place], group: Group, step: Step) -> dict[int, bytes]:
    """What the members of a group sent at a step, by position."""
    places = {member.device_id: member.position for member in members}
    rows = session.exec(
        select(StepRow.device_id, StepRow.body).where(StepRow.group_id == group.id, StepRow.step == step.value)
    ).all()
    return {places[device]: body or b"" for device, body in rows}
