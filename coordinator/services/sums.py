"""Reports are added up in chunks, one in memory at a time; every step may be repeated after a crash at any point."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from sqlmodel import Session, col, func, select

from coordinator.core.privacy.folding import folded
from coordinator.core.rounds import UNENDED_PHASES, GroupPhase, Phase
from coordinator.services.rounds import live_groups
from coordinator.services.running import read_manifest, read_plan
from coordinator.store.blobs import BlobKind, Blobs
from coordinator.store.tables import BundleRow, Group, PartialSum, Report, Round, Task
from edge_runtime.protocol.bundle import Manifest
from edge_runtime.protocol.counted import Opened, open_sum
from edge_runtime.protocol.errors import DigestMismatch, NotFound, Refusal
from edge_runtime.protocol.plan import Plan, Summing
from edge_runtime.protocol.report import REPORT_HEADER
from edge_runtime.protocol.secure_sum.lanes import Lanes, LaneVector, sum_lanes

OPENED: Final = -1
"""In place of a chunk's number: the opened sum of a group that sums securely. Its chunks are masked."""
_SUM_HEADER = struct.Struct("<16si")
"""Group and chunk before the lanes of a partial sum, so that no two share a blob: deleting one harms no other."""

_TAKING_REPORTS = (GroupPhase.REPORTING, GroupPhase.MASKING)
_ALL_HERE = (GroupPhase.ADDING, GroupPhase.CONFIRMING, GroupPhase.UNMASKING)
"""Which reports count is fixed, and they may still have to be added."""


class GroupDamaged(Exception):
    """What was stored for a group can no longer be read as it was written."""

    def __init__(self, group_id: str, problem: Refusal) -> None:
        super().__init__(f"group {group_id}: {problem}")
        self.group_id = group_id


def wants_chunk(session: Session, group_id: str, chunk_reports: int) -> bool:
    """Whether reports wait for a chunk: a full one while reports arrive, any rest once the group is closed."""
    phase = session.get_one(Group, group_id).phase
    if phase not in (*_TAKING_REPORTS, *_ALL_HERE):
        return False
    waiting = session.exec(select(func.count()).where(Report.group_id == group_id, col(Report.chunk).is_(None))).one()
    return waiting >= chunk_reports or (waiting > 0 and phase in _ALL_HERE)


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


def add_chunk(session: Session, blobs: Blobs, tenant: str, group_id: str, chunk: int, codec: Codec) -> bytes:
    """Add up the reports of one chunk, one in memory at a time; group and chunk, then uint32 lanes.

    Raises:
        GroupDamaged: A report's blob was damaged or lost.
    """
    addresses = session.exec(
        select(Report.sha256, Report.crc32)
        .where(Report.group_id == group_id, Report.chunk == chunk)
        .order_by(col(Report.participation_id))
    ).all()
    try:
        total = sum_lanes(
            codec.unpack(memoryview(_report(blobs, tenant, sha256, crc32))[REPORT_HEADER.size :])
            for sha256, crc32 in addresses
        )
    except (DigestMismatch, NotFound) as problem:
        raise GroupDamaged(group_id, problem) from problem
    return sum_blob(group_id, chunk, total)


def _report(blobs: Blobs, tenant: str, sha256: str, crc32: int | None) -> bytes:
    """A report as it was stored; whether the disk damaged it is told by its CRC-32, at a quarter of a SHA-256."""
    raw = blobs.get(tenant, BlobKind.REPORT, sha256, checked=crc32 is None)
    if crc32 is not None and zlib.crc32(raw) != crc32:
        raise DigestMismatch(f"the blob {sha256[:12]}… of a report was damaged on disk")
    return raw


def sum_blob(group_id: str, chunk: int, total: LaneVector) -> bytes:
    """A partial sum as it is stored: group and chunk, then uint32 lanes."""
    return _SUM_HEADER.pack(bytes.fromhex(group_id), chunk) + total.astype("<u4", copy=False).tobytes()


@dataclass(frozen=True, slots=True)
class Codec:
    """How the reports of a task are written."""

    lanes: Lanes
    parameters: int

    def unpack(self, packed: memoryview) -> LaneVector:
        return self.lanes.unpack(packed, self.parameters)


def codec_of(session: Session, task_id: str) -> Codec:
    plan, manifest = plan_and_manifest(session, session.get_one(Task, task_id))
    return Codec(plan.lanes(), plan.values(manifest.shared_parameters))


def record_chunk(session: Session, group_id: str, chunk: int, sha256: str) -> None:
    """Keep the address of a chunk's sum, even if the group has ended meanwhile: the row is what deletes the blob.

    Again changes nothing.
    """
    if session.get(PartialSum, (group_id, chunk)) is None:
        session.add(PartialSum(group_id=group_id, chunk=chunk, sha256=sha256))


def is_added_up(session: Session, round_id: str) -> bool:
    """Whether a round is closed, and each live group's sum is there: every report added, every secure sum opened."""
    groups = live_groups(session, round_id)
    if session.get_one(Round, round_id).closed_at is None or not groups:
        return False
    return all(
        group.phase == GroupPhase.SUMMED or (group.phase == GroupPhase.ADDING and is_group_added(session, group))
        for group in groups
    )


def is_group_added(session: Session, group: Group) -> bool:
    """Whether every report of a group is in a partial sum."""
    return not _unchunked(session, group.id) and not chunks_to_add(session, group.id)


def _unchunked(session: Session, group_id: str) -> int:
    return session.exec(
        select(func.count()).select_from(Report).where(Report.group_id == group_id, col(Report.chunk).is_(None))
    ).one()


def round_sum(session: Session, blobs: Blobs, round_: Round) -> LaneVector:
    """The sum of all reports of a round's live groups: those of each group first, then of the groups; exact.

    The plan's lanes have room for every participant of a round together, so the groups may be added before opening.

    Raises:
        GroupDamaged: A partial sum's blob was damaged or lost.
    """
    return sum_lanes(_group_sum(session, blobs, round_.tenant, group) for group in live_groups(session, round_.id))


def opened_sum(session: Session, blobs: Blobs, round_: Round, plan: Plan, values: int) -> Opened:
    """The sum of the deltas of a round's live groups, of so many values, and of their counts.

    A plain plan's lanes have room for all participants of a round; a secure plan's have room for one group, so each
    group's sum is opened by itself. Where the coordinator adds the noise it is folded: no member of a group that
    nobody can look into makes another one's report show.

    Raises:
        GroupDamaged: A partial sum's blob was damaged or lost.
    """
    if plan.summing is Summing.PLAIN:
        return open_sum(plan, round_sum(session, blobs, round_), values, round_.clipping_norm)
    total, above = np.zeros(values, np.float64), 0.0
    for group in live_groups(session, round_.id):
        found = open_sum(plan, _group_sum(session, blobs, round_.tenant, group), values, round_.clipping_norm)
        if plan.folds:
            found = _folded(plan, found, round_.clipping_norm)
        total += found.delta
        above += found.above
    return Opened(total, above)


def _folded(plan: Plan, found: Opened, clipping_norm: float | None) -> Opened:
    delta, counts = folded(found.delta, plan.lanes(clipping_norm)), plan.count_lanes()
    return Opened(delta) if counts is None else Opened(delta, float(folded(np.array([found.above]), counts)[0]))


def _group_sum(session: Session, blobs: Blobs, tenant: str, group: Group) -> LaneVector:
    """The sum of a group's reports; of one that sums securely what was opened."""
    opened = session.get(PartialSum, (group.id, OPENED))
    if opened is not None:
        return _sum_of(blobs, tenant, group, [opened.sha256])
    return group_total(session, blobs, tenant, group)


def group_total(session: Session, blobs: Blobs, tenant: str, group: Group) -> LaneVector:
    """The sum of a group's reports as they came, masked or not.

    Raises:
        GroupDamaged: A partial sum's blob was damaged or lost.
    """
    addresses = session.exec(
        select(PartialSum.sha256)
        .where(PartialSum.group_id == group.id, PartialSum.chunk != OPENED)
        .order_by(col(PartialSum.chunk))
    ).all()
    return _sum_of(blobs, tenant, group, addresses)


def _sum_of(blobs: Blobs, tenant: str, group: Group, addresses: Sequence[str]) -> LaneVector:
    try:
        return sum_lanes(
            np.frombuffer(blobs.get(tenant, BlobKind.PARTIAL_SUM, sha256), dtype="<u4", offset=_SUM_HEADER.size)
            for sha256 in addresses
        )
    except (DigestMismatch, NotFound) as problem:
        raise GroupDamaged(group.id, problem) from problem


def counted_reports(session: Session, round_id: str) -> int:
    """How many reports are in the live groups of a round."""
    return session.exec(
        select(func.count())
        .select_from(Report)
        .join(Group, col(Group.id) == col(Report.group_id))
        .where(Group.round_id == round_id, Group.phase != GroupPhase.ABORTED)
    ).one()


def plan_and_manifest(session: Session, task: Task) -> tuple[Plan, Manifest]:
    """What determines the lanes of a task's reports."""
    bundle = session.get_one(BundleRow, (task.tenant, task.bundle_sha256))
    return read_plan(task.plan), read_manifest(bundle.manifest)


@dataclass(frozen=True, slots=True)
class Garbage:
    """A blob that nobody needs any more."""

    tenant: str
    kind: BlobKind
    sha256: str


def garbage(session: Session, most: int = 1000) -> list[tuple[Garbage, Report | PartialSum]]:
    """Blobs of reports and partial sums whose round has ended, with their rows."""
    ended = [phase for phase in Phase if phase not in UNENDED_PHASES]
    reports = session.exec(
        select(Report, Round.tenant)
        .join(Group, col(Group.id) == col(Report.group_id))
        .join(Round, col(Round.id) == col(Group.round_id))
        .where(col(Report.blob_deleted).is_(False), col(Round.phase).in_(ended))
        .limit(most)
    ).all()
    sums = session.exec(
        select(PartialSum, Round.tenant)
        .join(Group, col(Group.id) == col(PartialSum.group_id))
        .join(Round, col(Round.id) == col(Group.round_id))
        .where(col(PartialSum.blob_deleted).is_(False), col(Round.phase).in_(ended))
        .limit(most)
    ).all()
    return [
        *((Garbage(tenant, BlobKind.REPORT, row.sha256), row) for row, tenant in reports),
        *((Garbage(tenant, BlobKind.PARTIAL_SUM, row.sha256), row) for row, tenant in sums),
    ]


def forget(session: Session, found: Sequence[tuple[Garbage, Report | PartialSum]]) -> None:
    """Keep in mind that blobs are deleted; again changes nothing."""
    for _blob, row in found:
        if isinstance(row, Report):
            kept: Report | PartialSum | None = session.get(Report, row.participation_id)
        else:
            kept = session.get(PartialSum, (row.group_id, row.chunk))
        if kept is not None:  # else the device was erased meanwhile
            kept.blob_deleted = True
            session.add(kept)
