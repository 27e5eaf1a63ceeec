"""Rounds as an operator sees them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime

from sqlmodel import Session, col, func, select

from coordinator.core.measuring import Measured
from coordinator.core.rounds import GroupPhase, Phase
from coordinator.services.running import norm_of, read_plan
from coordinator.store.tables import Group, Participation, Report, Round, Task
from edge_runtime.protocol import wire
from edge_runtime.protocol.reasons import Abandonment


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupView:
    """A group of a round, and why it was aborted: for the round's reason if that was abandoned, else for its own.

    Of secure summing those are chosen who were asked to join and were not let go.
    """

    number: int
    phase: str
    chosen: int
    reports: int
    abandonment: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundView:
    """A round with what became of its participants.

    Attributes:
        model_version: That the participants start from.
        clipping_norm: That their deltas are held to.
        metrics: What a round of evaluation found: the means by metric.
    """

    number: int
    phase: str
    abandonment: str | None
    checkpoint_sha256: str
    model_version: int
    clipping_norm: float
    result_sha256: str | None
    metrics: dict[str, float] | None
    chosen: int
    reports: int
    report_body_bytes: int
    outcomes: dict[str, int]
    groups: list[GroupView]
    opened_at: datetime
    closed_at: datetime | None


def rounds_of(session: Session, task: Task, after: int = 0, most: int = 500) -> list[RoundView]:
    """The task's rounds with a number above `after`, oldest first, so many at most."""
    found = session.exec(
        select(Round).where(Round.task_id == task.id, Round.number > after).order_by(col(Round.number)).limit(most)
    ).all()
    ids = [round_.id for round_ in found]
    outcomes: dict[str, dict[str, int]] = defaultdict(dict)
    for round_id, outcome, count in session.exec(
        select(Participation.round_id, Participation.outcome, func.count())
        .where(col(Participation.round_id).in_(ids), col(Participation.outcome).is_not(None))
        .group_by(col(Participation.round_id), col(Participation.outcome))
    ).all():
        outcomes[round_id][str(outcome)] = count
    groups: dict[str, list[tuple[Group, int, int, int]]] = defaultdict(list)
    for group, chosen, reports, body_bytes in session.exec(
        select(
            Group,
            func.count(col(Participation.id)),
            func.count(col(Report.participation_id)),
            func.coalesce(func.sum(col(Report.body_bytes)), 0),
        )
        .join(Participation, col(Participation.group_id) == col(Group.id), isouter=True)
        .join(Report, col(Report.participation_id) == col(Participation.id), isouter=True)
        .where(col(Group.round_id).in_(ids))
        .group_by(col(Group.id))
        .order_by(col(Group.number))
    ).all():
        groups[group.round_id].append((group, chosen, reports, int(body_bytes or 0)))
    chosen_for = dict(
        session.exec(
            select(Participation.round_id, func.count())
            .where(col(Participation.round_id).in_(ids))
            .group_by(col(Participation.round_id))
        ).all()
    )
    plan = read_plan(task.plan)
    return [
        _view(one, norm_of(one, plan), chosen_for.get(one.id, 0), outcomes[one.id], groups[one.id]) for one in found
    ]


def _view(
    round_: Round, norm: float, chosen: int, outcomes: dict[str, int], groups: list[tuple[Group, int, int, int]]
) -> RoundView:
    return RoundView(
        number=round_.number,
        phase=round_.phase,
        abandonment=round_.abandonment,
        checkpoint_sha256=round_.checkpoint_sha256,
        model_version=round_.model_version,
        clipping_norm=norm,
        result_sha256=round_.result_sha256,
        metrics=None if round_.metrics is None else wire.decode(Measured, round_.metrics).means,
        chosen=chosen,
        reports=sum(reports for _group, _chosen, reports, _bytes in groups),
        report_body_bytes=sum(body_bytes for _group, _chosen, _reports, body_bytes in groups),
        outcomes=outcomes,
        groups=[
            GroupView(
                number=group.number,
                phase=group.phase,
                chosen=in_group,
                reports=reports,
                abandonment=_why(round_, group, reports),
            )
            for group, in_group, reports, _bytes in groups
        ],
        opened_at=round_.opened_at,
        closed_at=round_.closed_at,
    )


def _why(round_: Round, group: Group, reports: int) -> str | None:
    """Of a group that was aborted in a round that went on, there are two reasons."""
    if group.phase != GroupPhase.ABORTED:
        return None
    if group.ended_because is not None:
        return group.ended_because
    if round_.phase == Phase.ABANDONED:
        return round_.abandonment
    return Abandonment.STORAGE_DAMAGED if reports else Abandonment.TOO_FEW_REPORTS
