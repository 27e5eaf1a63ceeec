"""What is kept for how long: rows of rounds that ended long ago, and blobs that no row names.

A blob is durable before its row, so a crash in between leaves one that nobody names. It may still be named: the device
sends its report again. What is swept is therefore what no round can name any more: every round of its tenant that had
begun when it was written has ended. Bundles and checkpoints are never swept: an operator may bring the same bytes anew.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice

from sqlmodel import Session, col, delete, exists, func, select

from coordinator.core.rounds import UNENDED_PHASES
from coordinator.store.blobs import BlobKind, Blobs, Stored
from coordinator.store.group_tables import FaultRow, Member, StepRow
from coordinator.store.privacy_tables import StreamRow
from coordinator.store.tables import Candidate, Group, PartialSum, Participation, Report, Round, Task

SWEPT = (BlobKind.REPORT, BlobKind.PARTIAL_SUM, BlobKind.OPTIMISER_STATE, BlobKind.NOISE_STATE, None)
EVERY = timedelta(hours=1)
CLOCK_MARGIN = timedelta(minutes=10)
"""How far the clock of the blobs may be from the database's."""
STEP = 1000


@dataclass(frozen=True, slots=True)
class Keep:
    """For how long what is kept."""

    rounds: timedelta = timedelta(days=90)
    """Who took part in a round, after its end."""
    blobs: timedelta = timedelta(days=1)
    """A blob that no row names, after it was written."""


@dataclass(frozen=True, slots=True)
class Forgotten:
    """How many rows went."""

    candidates: int
    participations: int
    partial_sums: int
    members: int
    """Of groups that summed securely, with what they sent and did."""

    def __bool__(self) -> bool:
        return bool(self.candidates or self.participations or self.partial_sums or self.members)


def forget_rounds(session: Session, before: datetime, most: int = STEP) -> Forgotten:
    """Delete who took part in rounds that closed before; at most so many rows of each kind, so call until it is falsy.

    Rounds and groups stay, with their results, and the keys of members: none is taken twice. Rows whose blob was not
    deleted yet stay until it is.
    """
    over = (
        col(Round.phase).not_in(UNENDED_PHASES),
        func.coalesce(col(Round.closed_at), col(Round.deadline_at)) < before,
    )
    candidates = session.exec(
        select(Candidate).join(Round, col(Round.id) == col(Candidate.round_id)).where(*over).limit(most)
    ).all()
    with_blob = exists().where(col(Report.participation_id) == col(Participation.id), ~col(Report.blob_deleted))
    participations = session.exec(
        select(Participation.id)
        .join(Round, col(Round.id) == col(Participation.round_id))
        .where(*over, ~with_blob)
        .limit(most)
    ).all()
    sums = session.exec(
        select(PartialSum)
        .join(Group, col(Group.id) == col(PartialSum.group_id))
        .join(Round, col(Round.id) == col(Group.round_id))
        .where(*over, col(PartialSum.blob_deleted))
        .limit(most)
    ).all()
    members = session.exec(
        select(Member)
        .join(Group, col(Group.id) == col(Member.group_id))
        .join(Round, col(Round.id) == col(Group.round_id))
        .where(*over)
        .limit(most)
    ).all()
    for member in members:
        for kind in (StepRow, FaultRow):
            of_member = (col(kind.group_id) == member.group_id, col(kind.device_id) == member.device_id)
            session.exec(delete(kind).where(*of_member))
    for row in (*candidates, *sums, *members):
        session.delete(row)
    session.flush()
    session.exec(delete(Report).where(col(Report.participation_id).in_(participations)))
    session.exec(delete(Participation).where(col(Participation.id).in_(participations)))
    return Forgotten(len(candidates), len(participations), len(sums), len(members))


def orphans(
    found: Iterable[Stored], named: Collection[tuple[str, BlobKind | None, str]], oldest: Mapping[str, datetime]
) -> list[Stored]:
    """Blobs that no row names, and no row ever will.

    Args:
        named: Tenant, kind and name of what rows name.
        oldest: By tenant, when the oldest of its rounds that have not ended was opened.
    """
    return [
        one
        for one in found
        if one.kind in SWEPT
        and (one.tenant, one.kind, one.name) not in named
        and (one.tenant not in oldest or one.modified_at < oldest[one.tenant] - CLOCK_MARGIN)
    ]


def stale(blobs: Blobs, before: datetime) -> Iterator[list[Stored]]:
    """Blobs of the kinds that are swept and were written before, in steps for `sweep`; a step may have none.

    So many blobs are looked at for a step, whatever they are: each takes as long as any other.
    """
    every = blobs.stored()
    while step := list(islice(every, STEP)):
        yield [one for one in step if one.modified_at < before and one.kind in SWEPT]


def sweep(session: Session, blobs: Blobs, found: Collection[Stored]) -> int:
    """Delete those of these blobs that nobody will ever name; how many. One step of `stale`.

    Args:
        session: Reads; what it finds to be an orphan stays one.
    """
    rounds = session.exec(
        select(Round.tenant, func.min(Round.opened_at))
        .where(col(Round.phase).in_(UNENDED_PHASES))
        .group_by(col(Round.tenant))
    ).all()
    unwanted = orphans(found, _named(session, found), dict(rounds))
    for one in unwanted:
        if one.kind is None:
            blobs.drop_parts(one.tenant, one.name)
        else:
            blobs.delete(one.tenant, one.kind, one.name)
    return len(unwanted)


def _named(session: Session, found: Collection[Stored]) -> set[tuple[str, BlobKind | None, str]]:
    names = {kind: [one.name for one in found if one.kind == kind] for kind in SWEPT}
    rows = {
        BlobKind.REPORT: select(Round.tenant, Report.sha256)
        .join(Group, col(Group.id) == col(Report.group_id))
        .join(Round, col(Round.id) == col(Group.round_id))
        .where(col(Report.sha256).in_(names[BlobKind.REPORT]), ~col(Report.blob_deleted)),
        BlobKind.PARTIAL_SUM: select(Round.tenant, PartialSum.sha256)
        .join(Group, col(Group.id) == col(PartialSum.group_id))
        .join(Round, col(Round.id) == col(Group.round_id))
        .where(col(PartialSum.sha256).in_(names[BlobKind.PARTIAL_SUM]), ~col(PartialSum.blob_deleted)),
        BlobKind.OPTIMISER_STATE: select(Task.tenant, Task.optimiser_state_sha256).where(
            col(Task.optimiser_state_sha256).in_(names[BlobKind.OPTIMISER_STATE])
        ),
        BlobKind.NOISE_STATE: select(Task.tenant, StreamRow.buffers_sha256)
        .join(StreamRow, col(StreamRow.task_id) == col(Task.id))
        .where(col(StreamRow.buffers_sha256).in_(names[BlobKind.NOISE_STATE])),
        None: select(Round.tenant, Participation.id)
        .join(Round, col(Round.id) == col(Participation.round_id))
        .where(
            col(Participation.id).in_(names[None]),
            col(Round.phase).in_(UNENDED_PHASES),
            col(Participation.ended_at).is_(None),
        ),
    }
    return {(tenant, kind, str(name)) for kind, query in rows.items() for tenant, name in session.exec(query).all()}
