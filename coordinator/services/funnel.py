"""How far a task's devices came, and what became of those that did not."""

from __future__ import annotations

from dataclasses import dataclass

from sqlmodel import Session, col, func, select

from coordinator.core.rounds import GroupPhase, Phase
from coordinator.services.stops import spent
from coordinator.store.tables import Candidate, Group, Participation, Report, Round, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Funnel:
    """Of all rounds of a task.

    Attributes:
        offered: Devices that checked in while a round was selecting, once for each round.
        chosen: Participations.
        accepted: Those whose device heard of it.
        downloaded: Those whose device asked for the checkpoint.
        reported: Those whose report was acknowledged.
        counted: Those whose report is in a model version, or in the metrics of a round.
        outcomes: The others, by reason code.
        phone_seconds, bytes: As `services.stops.Spent` counts them.
        battery_percent: As far as outcomes said.
    """

    offered: int
    chosen: int
    accepted: int
    downloaded: int
    reported: int
    counted: int
    outcomes: dict[str, int]
    phone_seconds: int
    bytes: int
    battery_percent: int


def funnel(session: Session, task: Task) -> Funnel:
    """Count how far the devices of a task came."""
    of_task = select(Round.id).where(Round.task_id == task.id)
    chosen, accepted, downloaded, battery = session.exec(
        select(
            func.count(),
            func.count(col(Participation.assigned_at)),
            func.count(col(Participation.downloaded_at)),
            func.coalesce(func.sum(Participation.cost_battery_percent), 0),
        )
        .select_from(Participation)
        .where(col(Participation.round_id).in_(of_task))
    ).one()
    reports = (
        select(func.count())
        .select_from(Report)
        .join(Group, col(Group.id) == col(Report.group_id))
        .join(Round, col(Round.id) == col(Group.round_id))
        .where(Round.task_id == task.id)
    )
    outcomes = session.exec(
        select(Participation.outcome, func.count())
        .where(col(Participation.round_id).in_(of_task), col(Participation.outcome).is_not(None))
        .group_by(col(Participation.outcome))
        .order_by(col(Participation.outcome))
    ).all()
    costs = spent(session, task)
    return Funnel(
        offered=session.exec(select(func.count()).where(col(Candidate.round_id).in_(of_task))).one(),
        chosen=chosen,
        accepted=accepted,
        downloaded=downloaded,
        reported=session.exec(reports).one(),
        counted=session.exec(reports.where(Group.phase == GroupPhase.SUMMED, Round.phase == Phase.COMMITTED)).one(),
        outcomes={outcome: count for outcome, count in outcomes if outcome is not None},
        phone_seconds=costs.phone_seconds,
        bytes=costs.bytes,
        battery_percent=int(battery or 0),
    )
