"""Numbers about the whole coordinator, for whoever watches it: counts and ages, nothing of any one device."""

from __future__ import annotations

from datetime import datetime

from sqlmodel import Session, col, func, select

from coordinator.core.rounds import OPEN_PHASES, OPEN_STANDINGS, GroupPhase
from coordinator.metrics import Reading
from coordinator.store.privacy_tables import SpentRow
from coordinator.store.tables import Group, Heartbeat, Participation, Report, Round, Task

_ALIVE_GROUPS = (GroupPhase.REPORTING, GroupPhase.ADDING)


def gauges(session: Session, now: datetime) -> Reading:
    """Tasks by state, open rounds by phase, what waits, what is gone of privacy budgets, and the worker's last sign."""
    tasks = session.exec(select(Task.state, func.count()).group_by(col(Task.state))).all()
    rounds = session.exec(
        select(Round.phase, func.count()).where(col(Round.phase).in_(OPEN_PHASES)).group_by(col(Round.phase))
    ).all()
    at_work = session.exec(
        select(func.count()).select_from(Participation).where(col(Participation.standing).in_(OPEN_STANDINGS))
    ).one()
    waiting = session.exec(
        select(func.count())
        .select_from(Report)
        .join(Group, col(Group.id) == col(Report.group_id))
        .where(col(Group.phase).in_(_ALIVE_GROUPS), col(Report.chunk).is_(None))
    ).one()
    oldest = session.exec(select(func.min(Round.opened_at)).where(col(Round.phase).in_(OPEN_PHASES))).one()
    spent = session.exec(select(SpentRow.opponent, func.max(SpentRow.share)).group_by(col(SpentRow.opponent))).all()
    heartbeat = session.get(Heartbeat, 1)
    return {
        ("edgewise_tasks", "Tasks by state."): {(("state", state),): float(count) for state, count in tasks},
        ("edgewise_open_rounds", "Open rounds by phase."): {
            (("phase", phase),): float(count) for phase, count in rounds
        },
        ("edgewise_open_participations", "Participants at work."): {(): float(at_work)},
        ("edgewise_waiting_reports", "Reports received and not yet added."): {(): float(waiting)},
        ("edgewise_oldest_round_seconds", "Age of the oldest open round; 0 without one."): {
            (): 0.0 if oldest is None else max(0.0, (now - oldest).total_seconds())
        },
        ("edgewise_privacy_spent_share", "Largest share of a privacy budget that is gone, by opponent."): {
            (("opponent", opponent),): share for opponent, share in spent
        },
        ("edgewise_worker_silence_seconds", "Since a worker last gave a sign; -1 before the first."): {
            (): -1.0 if heartbeat is None else max(0.0, (now - heartbeat.at).total_seconds())
        },
    }
