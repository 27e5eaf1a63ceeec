"""The worker's part that moves rounds: opens, chooses, closes, adds up, and makes model versions of the sums."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

from sqlmodel import Session

from coordinator.core.rounds import Phase
from coordinator.group_work import GroupWork, Write
from coordinator.services import hiding, measuring, rounds, selecting, sums, updates
from coordinator.services.running import read_plan
from coordinator.store.blobs import BlobKind, Blobs
from coordinator.store.crash_points import CrashPoint, crash_point
from coordinator.store.database import Database
from coordinator.store.tables import Round, Task
from edge_runtime.protocol.errors import DigestMismatch, InvalidWeights, NotFound, PrivacyRefusal
from edge_runtime.protocol.keys import SigningKey
from edge_runtime.protocol.plan import Summing
from edge_runtime.protocol.reasons import Abandonment

_log = logging.getLogger("edgewise.worker")


class _ToAdd(NamedTuple):
    """A chunk of a group that is to be added, or a group whose reports wait for one; neither: the round is added up."""

    group_id: str | None = None
    chunk: int | None = None


class RoundWork:
    """Moves one task or one round a step. Every step may be repeated after a crash, by any worker.

    Args:
        chunk_reports: Reports added up in one step; memory holds one of them and one sum.
        write: Acts for a task in one transaction.
        hold: Claims a task for this worker.
        groups: Moves groups that sum securely.
        collect_garbage: Deletes the blobs of ended rounds.
    """

    def __init__(
        self,
        database: Database,
        blobs: Blobs,
        key: SigningKey,
        chunk_reports: int,
        write: Write,
        hold: Callable[[str], bool],
        groups: GroupWork,
        collect_garbage: Callable[[], None],
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._key = key
        self._chunk_reports = chunk_reports
        self._write = write
        self._hold = hold
        self._groups = groups
        self._collect_garbage = collect_garbage

    # --- tasks ------------------------------------------------------------------------------------------------------

    def tend(self, task_id: str, now: datetime) -> bool:
        """Complete a task whose stop condition holds, else open a round if there is room. Whether anything changed."""
        if not self._hold(task_id):
            return False
        return self._write(
            CrashPoint.TASK_TENDED, task_id, lambda session: selecting.tend(session, task_id, now), tells=True
        )

    def empty(self, task_id: str, now: datetime) -> bool:
        """Drop what is stale in a task's buffer, and apply an update if there is enough for one."""
        if not self._hold(task_id):
            return False
        with self._database.reading() as session:
            buffer = updates.buffers(session).get(task_id)
        if buffer is None:
            return False
        if buffer.stale:
            self._write(CrashPoint.STALE_DROPPED, task_id, lambda session: updates.drop_stale(session, task_id, now))
        if buffer.fresh:
            self._update(task_id, buffer.fresh, now)
        return True

    def _update(self, task_id: str, round_ids: tuple[str, ...], now: datetime) -> None:
        """Make the next model version of the sums of rounds; what cannot be read or used is given up by name."""
        if not self._hide(task_id, round_ids, now):
            return
        try:
            with self._database.reading() as session:
                before = hiding.stream_of(session, task_id)
                update = updates.compute_update(session, self._blobs, self._key, task_id, round_ids)
        except hiding.Unprepared:
            return  # the next look draws other noise
        except sums.GroupDamaged as damaged:
            self._abort(damaged, task_id, now)
            return
        except (DigestMismatch, NotFound):
            self._give_up(task_id, round_ids, Abandonment.STORAGE_DAMAGED, now)
            return
        except InvalidWeights:
            self._give_up(task_id, round_ids, Abandonment.UPDATE_NOT_FINITE, now)
            return
        crash_point(CrashPoint.UPDATE_STORED)
        done = self._write(
            CrashPoint.UPDATE_COMMITTED,
            task_id,
            lambda session: updates.commit_update(session, update, now),
            tells=True,
        )
        replaced = update.replaced_state_sha256
        if done and replaced is not None and replaced != update.state_sha256:
            self._blobs.delete(update.tenant, BlobKind.OPTIMISER_STATE, replaced)
        if done and update.stream is not None:
            self._erase_noise(update, {before, update.stream.sha256})
        self._collect_garbage()

    def _erase_noise(self, update: updates.Update, buffers: set[str | None]) -> None:
        """Delete the buffers of correlated noise in which it no longer stands: all, when the task has ended."""
        with self._database.reading() as session:
            kept = hiding.stream_of(session, update.task_id)
        for sha256 in buffers - {None, kept}:
            self._blobs.delete(update.tenant, BlobKind.NOISE_STATE, str(sha256))

    def _hide(self, task_id: str, round_ids: tuple[str, ...], now: datetime) -> bool:
        """Charge rounds, and draw the noise with which the coordinator hides their sums. Whether they may be used."""
        with self._database.reading() as session:
            prepared = hiding.is_prepared(session, task_id, round_ids)
        try:
            return prepared or self._write(
                CrashPoint.NOISE_CHARGED, task_id, lambda session: hiding.prepare(session, round_ids)
            )
        except PrivacyRefusal:
            self._give_up(task_id, round_ids, Abandonment.NOT_CHARGED, now)
            return False

    # --- rounds -----------------------------------------------------------------------------------------------------

    def rests(self, session: Session, round_: Round, now: datetime) -> bool:
        """Whether there is surely nothing to move. All rounds are asked in one view, so that few have to be moved."""
        if round_.phase == Phase.SELECTING:
            return not selecting.is_ready_to_choose(session, round_.id, now)
        task = session.get_one(Task, round_.task_id)  # kept, so that it is not read again below
        if read_plan(task.plan).summing is Summing.SECURE:
            return False
        if round_.closed_at is None and rounds.closes(session, round_.id, now) is not None:
            return False
        return not self._to_add(session, round_)

    def move(self, round_: Round, now: datetime) -> bool:
        """Move a round one step; whether anything moved."""
        if round_.phase == Phase.SELECTING:
            return self._choose(round_, now)
        moved = round_.closed_at is None and self._close(round_, now)
        try:
            moved = (round_.closed_at is None and self._groups.move(round_, now)) or moved
            return self._add_up(round_, now) or moved
        except sums.GroupDamaged as damaged:
            self._abort(damaged, round_.task_id, now)
            return True

    def _choose(self, round_: Round, now: datetime) -> bool:
        with self._database.reading() as session:
            ready = selecting.is_ready_to_choose(session, round_.id, now)
        if not ready or not self._hold(round_.task_id):
            return False
        return self._write(
            CrashPoint.PARTICIPANTS_CHOSEN,
            round_.task_id,
            lambda session: selecting.choose_participants(session, round_.id, now),
            tells=True,
        )

    def _close(self, round_: Round, now: datetime) -> bool:
        with self._database.reading() as session:
            closes = rounds.closes(session, round_.id, now)
        if closes is None or not self._hold(round_.task_id):
            return False
        return self._write(
            CrashPoint.ROUND_CLOSED, round_.task_id, lambda session: rounds.close_round(session, round_.id, now)
        )

    def _add_up(self, round_: Round, now: datetime) -> bool:
        """Add up one chunk of what has arrived; end the round when all of it is added."""
        with self._database.reading() as session:
            found = self._to_add(session, round_)
        if found is None or not self._hold(round_.task_id):
            return False
        if found.chunk is not None and found.group_id is not None:
            self._add_chunk(round_, found.group_id, found.chunk)
        elif (group_id := found.group_id) is not None:
            self._write(
                CrashPoint.CHUNK_ASSIGNED,
                round_.task_id,
                lambda session: sums.assign_chunk(session, group_id, self._chunk_reports),
            )
        else:
            self._finish(round_, now)
        return True

    def _to_add(self, session: Session, round_: Round) -> _ToAdd | None:
        """What comes next of adding a round up; None while nothing does."""
        groups = rounds.live_groups(session, round_.id)
        for group in groups:
            for chunk in sums.chunks_to_add(session, group.id):
                return _ToAdd(group.id, chunk)
        for group in groups:
            if sums.wants_chunk(session, group.id, self._chunk_reports):
                return _ToAdd(group.id)
        return _ToAdd() if updates.is_complete(session, round_.id) else None

    def _add_chunk(self, round_: Round, group_id: str, chunk: int) -> None:
        with self._database.reading() as session:
            codec = sums.codec_of(session, round_.task_id)
            total = sums.add_chunk(session, self._blobs, round_.tenant, group_id, chunk, codec)
        sha256 = self._blobs.put(round_.tenant, BlobKind.PARTIAL_SUM, total)
        crash_point(CrashPoint.CHUNK_STORED)
        self._write(
            CrashPoint.CHUNK_RECORDED,
            round_.task_id,
            lambda session: sums.record_chunk(session, group_id, chunk, sha256),
        )

    def _finish(self, round_: Round, now: datetime) -> None:
        """Do with the sum of a round what its task is for."""
        with self._database.reading() as session:
            end = updates.end_of(session, round_.task_id)
        if end is updates.End.UPDATE:
            self._update(round_.task_id, (round_.id,), now)
        elif end is updates.End.BUFFER:
            self._write(
                CrashPoint.ROUND_BUFFERED, round_.task_id, lambda session: updates.buffer_round(session, round_.id)
            )
        else:
            self._measure(round_, now)

    def _measure(self, round_: Round, now: datetime) -> None:
        if not self._hide(round_.task_id, (round_.id,), now):
            return
        try:
            with self._database.reading() as session:
                found = measuring.measure(session, self._blobs, round_.id)
        except hiding.Unprepared:
            return  # the next look draws other noise
        self._write(
            CrashPoint.METRICS_COMMITTED,
            round_.task_id,
            lambda session: measuring.commit_metrics(session, round_.id, found, now),
            tells=True,
        )
        self._collect_garbage()

    def _abort(self, damaged: sums.GroupDamaged, task_id: str, now: datetime) -> None:
        _log.error("a group is aborted, %s", Abandonment.STORAGE_DAMAGED, exc_info=damaged)
        self._write(
            CrashPoint.GROUP_ABORTED,
            task_id,
            lambda session: rounds.abort_group(session, damaged.group_id, now),
            tells=True,
        )

    def _give_up(self, task_id: str, round_ids: tuple[str, ...], why: Abandonment, now: datetime) -> None:
        _log.exception("rounds %s are abandoned: %s", ", ".join(round_ids), why)

        def give_up(session: Session) -> None:
            for round_id in round_ids:
                rounds.give_up_sum(session, round_id, why, now)

        self._write(CrashPoint.ROUND_GIVEN_UP, task_id, give_up, tells=True)
