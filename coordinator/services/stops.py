"""What a task has spent, and whether one of its stop conditions holds."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, and_, case, extract, or_
from sqlmodel import Session, col, func, select

from coordinator.core.measuring import Measured
from coordinator.core.rounds import Phase
from coordinator.core.stopping import Progress, stop_of
from coordinator.core.task_settings import MetricTarget, read_settings
from coordinator.core.tasks import Stop
from coordinator.services.running import read_manifest, read_plan
from coordinator.store.tables import BundleRow, Participation, Report, Round, Task
from edge_runtime.protocol import wire
from edge_runtime.protocol.checkpoint import checkpoint_bytes


@dataclass(frozen=True, slots=True)
class Spent:
    """What a task cost the owners of devices, by participations that have ended.

    Bytes: what the outcome said; where it said nothing, the checkpoint if the device asked for it, and the report. The
    graph is not in it: it is fetched once. Phone-seconds: what the outcome said; where it said nothing, the time from
    the assignment to the end, at most the plan's time limit. Outcomes round down to powers of two: the truth is up to
    twice as much of that part.
    """

    bytes: int
    phone_seconds: int


def spent(session: Session, task: Task) -> Spent:
    """Add up what the participations of a task cost."""
    moved, seconds = session.exec(
        select(func.coalesce(func.sum(_bytes(session, task)), 0), func.coalesce(func.sum(_seconds(task)), 0))
        .select_from(Participation)
        .join(Round, col(Round.id) == col(Participation.round_id))
        .join(Report, col(Report.participation_id) == col(Participation.id), isouter=True)
        .where(Round.task_id == task.id, col(Participation.ended_at).is_not(None))
    ).one()
    return Spent(int(moved), int(seconds))


def _bytes(session: Session, task: Task) -> ColumnElement[int]:
    manifest = read_manifest(session.get_one(BundleRow, (task.tenant, task.bundle_sha256)).manifest)
    body = func.coalesce(col(Report.body_bytes), 0)
    asked = or_(col(Participation.downloaded_at).is_not(None), col(Report.participation_id).is_not(None))
    fetched = case((asked, checkpoint_bytes(manifest.parameters)), else_=0)
    return func.coalesce(col(Participation.cost_bytes), fetched + body)


def _seconds(task: Task) -> ColumnElement[int]:
    limit = int(read_plan(task.plan).time_limit_s)
    took = extract("epoch", col(Participation.ended_at)) - extract("epoch", col(Participation.assigned_at))
    at_work = and_(col(Participation.assigned_at).is_not(None), took > 0)
    return func.coalesce(
        col(Participation.cost_seconds),
        case((and_(at_work, took > limit), limit), (at_work, took), else_=0),
    )


def stop_for(session: Session, task: Task, now: datetime) -> Stop | None:
    """Name the stop condition of a task that holds, or None. Looks up only what its conditions ask for."""
    stops = read_settings(task.settings).stop
    capped = stops.bytes is not None or stops.phone_seconds is not None
    costs = spent(session, task) if capped else Spent(0, 0)
    progress = Progress(
        rounds=task.rounds_committed,
        bytes=costs.bytes,
        phone_seconds=costs.phone_seconds,
        measured=[] if stops.metric is None else measured(session, task.tenant, stops.metric),
    )
    return stop_of(stops, progress, now)


def measured(session: Session, tenant: str, target: MetricTarget) -> list[float]:
    """The values of a target's metric by the newest rounds of its evaluating task, newest first."""
    found = session.exec(
        select(Round.metrics)
        .join(Task, col(Task.id) == col(Round.task_id))
        .where(Task.tenant == tenant, Task.name == target.task, Round.phase == Phase.COMMITTED)
        .where(col(Round.metrics).is_not(None))
        .order_by(col(Round.number).desc())
        .limit(target.rounds)
    ).all()
    means = [wire.decode(Measured, raw).means for raw in found if raw is not None]
    return [one[target.metric] for one in means if target.metric in one]
