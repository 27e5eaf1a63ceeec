"""The sum of an evaluating round becomes its metrics; nothing changes the model."""

from __future__ import annotations

from datetime import datetime

from sqlmodel import Session

from coordinator.core.measuring import Measured
from coordinator.services import hiding, spending
from coordinator.services.sums import counted_reports, opened_sum, plan_and_manifest
from coordinator.services.updates import commit, count_rounds, is_complete, take_groups
from coordinator.store.blobs import Blobs
from coordinator.store.tables import Round, Task
from edge_runtime.protocol import wire
from edge_runtime.protocol.measures import decode_measures


def measure(session: Session, blobs: Blobs, round_id: str) -> Measured:
    """Open the sum of a round's reports and turn it into means; again gives the same ones.

    Raises:
        GroupDamaged: A partial sum was damaged or lost.
    """
    round_ = session.get_one(Round, round_id)
    plan, manifest = plan_and_manifest(session, session.get_one(Task, round_.task_id))
    total = opened_sum(session, blobs, round_, plan, plan.values(manifest.shared_parameters))
    examples, means = decode_measures(plan, hiding.hidden(session, blobs, round_, total).total)
    return Measured(version=1, reports=counted_reports(session, round_id), examples=examples, means=means)


def commit_metrics(session: Session, round_id: str, found: Measured, now: datetime) -> bool:
    """Keep what a round found, and end it. Whether it was done; not, if the round ended or lost a group meanwhile."""
    if not is_complete(session, round_id) or counted_reports(session, round_id) != found.reports:
        return False
    round_ = session.get_one(Round, round_id)
    take_groups(session, round_id)
    session.flush()
    spending.note_release(session, round_)
    hiding.erase(session, round_id)
    commit(session, round_)
    round_.metrics = wire.encode(found)
    count_rounds(session, session.get_one(Task, round_.task_id), 1, now)
    return True
