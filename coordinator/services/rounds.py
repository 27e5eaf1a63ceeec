"""The steps that move rounds forward. Each may be repeated after a crash at any point and gives the same result."""

from __future__ import annotations

import secrets
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from sqlmodel import Session, col, func, select

from coordinator.core.aggregation import federated_average
from coordinator.core.rounds import (
    GROUP_STEPS,
    OPEN_PHASES,
    OPEN_STANDINGS,
    STEPS,
    Event,
    GroupEvent,
    GroupPhase,
    Phase,
    Standing,
    Tally,
    Verdict,
    closing,
    step,
)
from coordinator.core.selection import ranked, round_seed, wanted
from coordinator.core.task_settings import read_settings
from coordinator.core.tasks import TASK_STEPS, Stop, TaskEvent, TaskState
from coordinator.services.catalogue import record_checkpoint, store_checkpoint
from coordinator.store.blobs import BlobKind, FolderBlobs
from coordinator.store.tables import (
    BundleRow,
    Candidate,
    CheckpointRow,
    Group,
    Heartbeat,
    PartialSum,
    Participation,
    Report,
    Round,
    Task,
)
from edge_runtime.protocol import wire
from edge_runtime.protocol.bundle import Manifest
from edge_runtime.protocol.checkpoint import Checkpoint, verify_checkpoint
from edge_runtime.protocol.keys import SigningKey
from edge_runtime.protocol.plan import Plan
from edge_runtime.protocol.reasons import Abandonment, Outcome
from edge_runtime.protocol.report import REPORT_HEADER
from edge_runtime.protocol.secure_sum.lanes import sum_lanes

_SUM_HEADER = struct.Struct("<16sI")
"""Group and chunk before the lanes of a partial sum, so that no two share a blob: deleting one harms no other."""


def tasks_without_round(session: Session) -> Sequence[Task]:
    """The active tasks that have no open round."""
    busy = select(Round.task_id).where(col(Round.phase).in_(OPEN_PHASES))
    return session.exec(select(Task).where(Task.state == TaskState.ACTIVE, col(Task.id).not_in(busy))).all()


def open_rounds(session: Session, now: datetime) -> int:
    """Open a round for every active task that has none; how many were opened."""
    idle = tasks_without_round(session)
    for task in idle:
        last = session.exec(select(func.max(Round.number)).where(Round.task_id == task.id)).one()
        session.add(
            Round(
                id=secrets.token_hex(16),
                tenant=task.tenant,
                task_id=task.id,
                number=(last or 0) + 1,
                phase=Phase.SELECTING,
                checkpoint_sha256=task.checkpoint_sha256,
                model_version=session.get_one(CheckpointRow, (task.tenant, task.checkpoint_sha256)).model_version,
                opened_at=now,
                deadline_at=now + timedelta(seconds=read_settings(task.settings).selecting_deadline_s),
            )
        )
    return len(idle)


def is_ready_to_choose(session: Session, round_id: str, now: datetime) -> bool:
    """Whether the pool of a selecting round is full, or its deadline passed."""
    round_ = session.get_one(Round, round_id)
    task = session.get_one(Task, round_.task_id)
    candidates = session.exec(select(func.count()).where(Candidate.round_id == round_id)).one()
    return round_.phase == Phase.SELECTING and (
        candidates >= read_settings(task.settings).pool_size or now >= round_.deadline_at
    )


def choose_participants(session: Session, round_id: str, now: datetime) -> bool:
    """Choose participants once the round is ready; abandon it when too few came. Whether anything changed."""
    if not is_ready_to_choose(session, round_id, now):
        return False
    round_ = session.get_one(Round, round_id)
    task = session.get_one(Task, round_.task_id)
    candidates = session.exec(select(Candidate.device_id).where(Candidate.round_id == round_id)).all()
    plan = wire.decode(Plan, task.plan)
    if len(candidates) < plan.min_reports:
        abandon(session, round_, Event.TOO_FEW_DEVICES, Abandonment.TOO_FEW_DEVICES, now)
        return True
    most = wanted(plan.goal, read_settings(task.settings).over_selection, plan.max_participants)
    chosen = ranked(round_seed(task.seed, round_.number), candidates)[:most]
    group = Group(id=secrets.token_hex(16), round_id=round_id, number=1, phase=GroupPhase.REPORTING)
    session.add(group)
    session.flush()
    session.add_all(
        Participation(
            id=secrets.token_hex(16), round_id=round_id, group_id=group.id, device_id=device, standing=Standing.CHOSEN
        )
        for device in chosen
    )
    round_.phase = step(STEPS, Phase(round_.phase), Event.PARTICIPANTS_CHOSEN)
    round_.deadline_at = now + timedelta(seconds=read_settings(task.settings).reporting_deadline_s)
    session.add(round_)
    return True


def closes(session: Session, round_id: str, now: datetime) -> Verdict | None:
    """What the plan's closing condition says of a round that still takes reports; None to wait on."""
    round_ = session.get_one(Round, round_id)
    if round_.phase not in (Phase.TRAINING, Phase.REPORTING) or round_.closed_at is not None:
        return None
    plan = wire.decode(Plan, session.get_one(Task, round_.task_id).plan)
    standings = session.exec(select(Participation.standing).where(Participation.round_id == round_id)).all()
    tally = Tally(
        chosen=len(standings), reported=standings.count(Standing.REPORTED), ended=standings.count(Standing.ENDED)
    )
    deadline_passed = now >= round_.deadline_at
    return closing(tally, plan.close, plan.goal, plan.min_reports, deadline_passed=deadline_passed)


def close_round(session: Session, round_id: str, now: datetime) -> bool:
    """Fix which reports count, or abandon, when the plan's condition holds. Whether anything changed."""
    verdict = closes(session, round_id, now)
    round_ = session.get_one(Round, round_id)
    if verdict is Verdict.ABANDON:
        abandon(session, round_, Event.TOO_FEW_REPORTS, Abandonment.TOO_FEW_REPORTS, now)
    elif verdict is Verdict.ADD_UP:
        round_.closed_at = now
        session.add(round_)
        for group in _groups(session, round_id):
            group.phase = step(GROUP_STEPS, GroupPhase(group.phase), GroupEvent.CLOSED)
            session.add(group)
        _end_open_participations(session, round_id, now)
    return verdict is not None


def abandon(session: Session, round_: Round, event: Event, why: Abandonment, now: datetime) -> None:
    """End a round without an update; nobody's data are lost, and the task goes on with the next."""
    round_.phase = step(STEPS, Phase(round_.phase), event)
    round_.abandonment = why
    round_.closed_at = now
    session.add(round_)
    for group in _groups(session, round_.id):
        group.phase = step(GROUP_STEPS, GroupPhase(group.phase), GroupEvent.ABORTED)
        session.add(group)
    _end_open_participations(session, round_.id, now)


def wants_chunk(session: Session, group_id: str, chunk_reports: int) -> bool:
    """Whether reports wait for a chunk: a full one while reports arrive, any rest once the group is closed."""
    phase = session.get_one(Group, group_id).phase
    if phase not in (GroupPhase.REPORTING, GroupPhase.ADDING):
        return False
    waiting = session.exec(select(func.count()).where(Report.group_id == group_id, col(Report.chunk).is_(None))).one()
    return waiting >= chunk_reports or (waiting > 0 and phase == GroupPhase.ADDING)


def assign_chunk(session: Session, group_id: str, chunk_reports: int) -> bool:
    """Put the next reports of a group into a chunk. Whether one was made.

    A report is in exactly one chunk, for ever: that is what counts it once.
    """
    if not wants_chunk(session, group_id, chunk_reports):
        return False
    waiting = session.exec(
        select(Report)
        .where(Report.group_id == group_id, col(Report.chunk).is_(None))
        .order_by(col(Report.participation_id))
        .limit(chunk_reports)
    ).all()
    last = session.exec(select(func.max(Report.chunk)).where(Report.group_id == group_id)).one()
    for report in waiting:
        report.chunk = 0 if last is None else last + 1
        session.add(report)
    return True


def chunks_to_add(session: Session, group_id: str) -> list[int]:
    """The chunks of a group that have no partial sum yet."""
    chunks = select(Report.chunk).where(Report.group_id == group_id, col(Report.chunk).is_not(None)).distinct()
    added = set(session.exec(select(PartialSum.chunk).where(PartialSum.group_id == group_id)).all())
    return sorted(chunk for chunk in session.exec(chunks).all() if chunk is not None and chunk not in added)


def add_chunk(session: Session, blobs: FolderBlobs, tenant: str, group_id: str, chunk: int) -> bytes:
    """Add up the reports of one chunk, one in memory at a time; group and chunk, then packed uint32 lanes."""
    addresses = session.exec(
        select(Report.sha256)
        .where(Report.group_id == group_id, Report.chunk == chunk)
        .order_by(col(Report.participation_id))
    ).all()
    total = sum_lanes(
        np.frombuffer(blobs.get(tenant, BlobKind.REPORT, sha256), dtype="<u4", offset=REPORT_HEADER.size)
        for sha256 in addresses
    )
    return _SUM_HEADER.pack(bytes.fromhex(group_id), chunk) + total.astype("<u4", copy=False).tobytes()


def record_chunk(session: Session, group_id: str, chunk: int, sha256: str) -> None:
    """Keep the address of a chunk's sum; again changes nothing."""
    if session.get(PartialSum, (group_id, chunk)) is None:
        session.add(PartialSum(group_id=group_id, chunk=chunk, sha256=sha256))


def is_added_up(session: Session, group_id: str) -> bool:
    """Whether every report of a closed group is in a partial sum."""
    group = session.get_one(Group, group_id)
    unchunked = session.exec(
        select(func.count()).select_from(Report).where(Report.group_id == group_id, col(Report.chunk).is_(None))
    ).one()
    return group.phase == GroupPhase.ADDING and unchunked == 0 and not chunks_to_add(session, group_id)


def next_checkpoint(session: Session, blobs: FolderBlobs, key: SigningKey, round_id: str) -> Checkpoint:
    """Turn the sums of a round's groups into the next model version, as a blob; again gives the same one.

    Raises:
        DigestMismatch, NotFound: A blob was damaged or lost.
        InvalidWeights: The update is not finite.
    """
    round_ = session.get_one(Round, round_id)
    task = session.get_one(Task, round_.task_id)
    plan = wire.decode(Plan, task.plan)
    manifest = wire.decode(Manifest, session.get_one(BundleRow, (task.tenant, task.bundle_sha256)).manifest)
    before = verify_checkpoint(
        blobs.get(task.tenant, BlobKind.CHECKPOINT, round_.checkpoint_sha256),
        round_.checkpoint_sha256,
        key.public,
        bundle_sha256=task.bundle_sha256,
        parameters=manifest.parameters,
    )
    total = sum_lanes(
        np.frombuffer(blobs.get(task.tenant, BlobKind.PARTIAL_SUM, sha256), dtype="<u4", offset=_SUM_HEADER.size)
        for sha256 in session.exec(
            select(PartialSum.sha256)
            .join(Group, col(Group.id) == col(PartialSum.group_id))
            .where(Group.round_id == round_id)
            .order_by(col(Group.number), col(PartialSum.chunk))
        ).all()
    )
    weights = federated_average(
        before.weights,
        plan.lanes().open_sum(total),
        manifest.shared_slices(),
        expected_participants=plan.expected_participants,
        server_learning_rate=read_settings(task.settings).server_optimiser.learning_rate,
    )
    return store_checkpoint(blobs, task.tenant, weights, task.bundle_sha256, before.model_version + 1, key)


def commit_round(session: Session, round_id: str, result: Checkpoint, now: datetime) -> None:
    """Make a round's result the task's newest model version, and end the round: one transaction."""
    round_ = session.get_one(Round, round_id)
    task = session.get_one(Task, round_.task_id)
    if round_.phase != Phase.REPORTING:
        return
    for group in _groups(session, round_id):
        group.phase = step(GROUP_STEPS, GroupPhase(group.phase), GroupEvent.SUM_COMMITTED)
        session.add(group)
    record_checkpoint(session, task.tenant, result, now)
    round_.phase = step(STEPS, Phase(round_.phase), Event.SUM_COMMITTED)
    round_.result_sha256 = result.sha256
    task.checkpoint_sha256 = result.sha256
    task.rounds_committed += 1
    most = read_settings(task.settings).stop.rounds
    if most is not None and task.rounds_committed >= most:
        end_task(task, TaskEvent.STOPPED, Stop.ROUNDS_DONE, now)
    session.add_all((round_, task))


def end_task(task: Task, event: TaskEvent, why: Stop, now: datetime) -> None:
    """Follow the step that ends a task, and keep why."""
    task.state = step(TASK_STEPS, TaskState(task.state), event)
    task.ended_because = why
    task.ended_at = now


def give_up_sum(session: Session, round_id: str, why: Abandonment, now: datetime) -> None:
    """Abandon a round whose reports cannot be added up, by name, so that the task goes on; again changes nothing."""
    round_ = session.get_one(Round, round_id)
    if round_.phase == Phase.REPORTING:
        abandon(session, round_, Event.SUM_FAILED, why, now)


@dataclass(frozen=True, slots=True)
class Garbage:
    """A blob that nobody needs any more."""

    tenant: str
    kind: BlobKind
    sha256: str


def garbage(session: Session, most: int = 1000) -> list[tuple[Garbage, Report | PartialSum]]:
    """Blobs of reports and partial sums whose group has ended, with their rows."""
    ended = (GroupPhase.SUMMED, GroupPhase.ABORTED)
    reports = session.exec(
        select(Report, Round.tenant)
        .join(Group, col(Group.id) == col(Report.group_id))
        .join(Round, col(Round.id) == col(Group.round_id))
        .where(col(Report.blob_deleted).is_(False), col(Group.phase).in_(ended))
        .limit(most)
    ).all()
    sums = session.exec(
        select(PartialSum, Round.tenant)
        .join(Group, col(Group.id) == col(PartialSum.group_id))
        .join(Round, col(Round.id) == col(Group.round_id))
        .where(col(PartialSum.blob_deleted).is_(False), col(Group.phase).in_(ended))
        .limit(most)
    ).all()
    return [
        *((Garbage(tenant, BlobKind.REPORT, row.sha256), row) for row, tenant in reports),
        *((Garbage(tenant, BlobKind.PARTIAL_SUM, row.sha256), row) for row, tenant in sums),
    ]


def beat(session: Session, now: datetime) -> None:
    """Write down that the coordinator is alive."""
    heartbeat = session.get(Heartbeat, 1) or Heartbeat(id=1, at=now)
    heartbeat.at = now
    session.add(heartbeat)


def move_deadlines(session: Session, now: datetime) -> float:
    """Give open rounds back the time the coordinator was down, in seconds."""
    heartbeat = session.get(Heartbeat, 1)
    down = now - heartbeat.at if heartbeat is not None and heartbeat.at < now else timedelta()
    for round_ in session.exec(select(Round).where(col(Round.phase).in_(OPEN_PHASES))).all():
        round_.deadline_at += down
        session.add(round_)
    beat(session, now)
    return down.total_seconds()


def _groups(session: Session, round_id: str) -> Sequence[Group]:
    return session.exec(select(Group).where(Group.round_id == round_id).order_by(col(Group.number))).all()


def _end_open_participations(session: Session, round_id: str, now: datetime) -> None:
    for participation in session.exec(
        select(Participation).where(Participation.round_id == round_id, col(Participation.standing).in_(OPEN_STANDINGS))
    ).all():
        participation.standing = Standing.ENDED
        participation.outcome = Outcome.DEADLINE_PASSED
        participation.ended_at = now
        session.add(participation)
