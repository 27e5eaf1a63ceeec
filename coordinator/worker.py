"""The worker: looks at open rounds, and moves each as far as it will go. Any step may be repeated after a crash."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import datetime, timedelta

from sqlmodel import col, select

from coordinator.core.rounds import OPEN_PHASES, GroupPhase, Phase
from coordinator.services import devices, rounds
from coordinator.store.blobs import BlobKind, FolderBlobs
from coordinator.store.database import Database
from coordinator.store.tables import Group, Round
from edge_runtime.protocol.errors import DigestMismatch, InvalidWeights, NotFound
from edge_runtime.protocol.keys import SigningKey
from edge_runtime.protocol.reasons import Abandonment
from edge_runtime.protocol.signing import NONCE_LIFETIME_S

_log = logging.getLogger("edgewise.worker")

HEARTBEAT_S = 1.0
NONCE_SWEEP_S = 60.0


class Worker:
    """Moves rounds forward. One runs inside the coordinator's process.

    Args:
        now: The clock; aware, UTC.
        interval_s: Seconds between two looks.
        chunk_reports: Reports added up in one step; memory holds one of them and one sum.
        changed: Is called after rounds opened, chose or ended: what held check-ins wait for.
    """

    def __init__(
        self,
        database: Database,
        blobs: FolderBlobs,
        key: SigningKey,
        now: Callable[[], datetime],
        interval_s: float,
        chunk_reports: int,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._key = key
        self._now = now
        self._interval_s = interval_s
        self._chunk_reports = chunk_reports
        self._changed = changed
        self._news = False
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._beaten_at: datetime | None = None
        self._swept_at: datetime | None = None

    def resume(self) -> None:
        """Give open rounds back the time of the outage, and forget parts of reports. Once, before the first look."""
        self._blobs.drop_all_parts()
        with self._database.writing() as session:
            down_s = rounds.move_deadlines(session, self._now())
        if down_s > HEARTBEAT_S * 3:
            _log.warning("was down for %.0f s; deadlines of open rounds were moved by as much", down_s)

    def start(self) -> None:
        """Look until stopped, in a thread."""
        self._thread = threading.Thread(target=self._run, name="edgewise-worker", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Finish the step at hand and stop."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(self._interval_s):
            try:
                self.settle()
            except Exception:
                # The database or the disk may come back: say so, and look again later.
                _log.exception("a look at the open rounds failed")
                self._stopping.wait(5.0)

    def settle(self) -> None:
        """Look until nothing moves any more; then wake held check-ins, even if some round is in trouble."""
        try:
            while self.look() and not self._stopping.is_set():
                pass
        finally:
            if self._news:
                self._news = False
                self._changed()

    def look(self) -> bool:
        """Move everything one step; whether anything moved.

        Raises:
            ExceptionGroup: Some rounds could not be moved; all others were.
        """
        now = self._now()
        self._keep_house(now)
        with self._database.reading() as session:
            idle_tasks = rounds.tasks_without_round(session)
            found = session.exec(select(Round).where(col(Round.phase).in_(OPEN_PHASES))).all()
        moved = False
        if idle_tasks:
            with self._database.writing() as session:
                moved = rounds.open_rounds(session, now) > 0
            self._news = True
        problems: list[Exception] = []
        for round_ in found:
            try:
                moved |= self._move(round_, now)
            except Exception as problem:  # a round in trouble does not hold up the others
                problem.add_note(f"in round {round_.number} of task {round_.task_id}")
                problems.append(problem)
        if problems:
            raise ExceptionGroup("some rounds could not be moved", problems)
        return moved

    def _move(self, round_: Round, now: datetime) -> bool:
        if round_.phase == Phase.SELECTING:
            with self._database.reading() as session:
                ready = rounds.is_ready_to_choose(session, round_.id, now)
            if not ready:
                return False
            with self._database.writing() as session:
                moved = rounds.choose_participants(session, round_.id, now)
            self._news = True
            return moved
        moved = False
        if round_.closed_at is None:
            with self._database.reading() as session:
                closes = rounds.closes(session, round_.id, now)
            if closes:
                with self._database.writing() as session:
                    moved = rounds.close_round(session, round_.id, now)
        try:
            return self._add_up(round_, now) or moved
        except (DigestMismatch, NotFound):
            return self._give_up(round_, Abandonment.STORAGE_DAMAGED, now)
        except InvalidWeights:
            return self._give_up(round_, Abandonment.UPDATE_NOT_FINITE, now)

    def _give_up(self, round_: Round, why: Abandonment, now: datetime) -> bool:
        _log.exception("round %d of task %s is abandoned: %s", round_.number, round_.task_id, why)
        with self._database.writing() as session:
            rounds.give_up_sum(session, round_.id, why, now)
        return True

    def _add_up(self, round_: Round, now: datetime) -> bool:
        """Add up what has arrived; commit the round when all of it is added."""
        with self._database.reading() as session:
            groups = session.exec(select(Group).where(Group.round_id == round_.id)).all()
            waiting = {group.id: rounds.wants_chunk(session, group.id, self._chunk_reports) for group in groups}
        moved = False
        for group in groups:
            if waiting[group.id]:
                with self._database.writing() as session:
                    moved |= rounds.assign_chunk(session, group.id, self._chunk_reports)
            moved |= self._add_chunks(round_.tenant, group.id)
        with self._database.reading() as session:
            complete = bool(groups) and all(
                group.phase == GroupPhase.ADDING and rounds.is_added_up(session, group.id) for group in groups
            )
        if complete:
            self._commit(round_.id, now)
        return moved or complete

    def _add_chunks(self, tenant: str, group_id: str) -> bool:
        with self._database.reading() as session:
            chunks = rounds.chunks_to_add(session, group_id)
            for chunk in chunks:
                total = rounds.add_chunk(session, self._blobs, tenant, group_id, chunk)
                sha256 = self._blobs.put(tenant, BlobKind.PARTIAL_SUM, total)
                with self._database.writing() as writing:
                    rounds.record_chunk(writing, group_id, chunk, sha256)
        return bool(chunks)

    def _commit(self, round_id: str, now: datetime) -> None:
        with self._database.reading() as session:
            result = rounds.next_checkpoint(session, self._blobs, self._key, round_id)
        with self._database.writing() as session:
            rounds.commit_round(session, round_id, result, now)
        self._news = True
        self._collect_garbage()

    def _keep_house(self, now: datetime) -> None:
        if self._beaten_at is None or now - self._beaten_at >= timedelta(seconds=HEARTBEAT_S):
            with self._database.writing() as session:
                rounds.beat(session, now)
            self._beaten_at = now
        if self._swept_at is None or now - self._swept_at >= timedelta(seconds=NONCE_SWEEP_S):
            with self._database.writing() as session:
                devices.forget_nonces(session, now - timedelta(seconds=NONCE_LIFETIME_S))
            self._collect_garbage()
            self._swept_at = now

    def _collect_garbage(self) -> None:
        """Delete blobs of ended groups; a crash in between leaves them for the next sweep."""
        while True:
            with self._database.reading() as session:
                found = rounds.garbage(session)
            if not found:
                return
            for blob, _row in found:
                self._blobs.delete(blob.tenant, blob.kind, blob.sha256)
            with self._database.writing() as session:
                for _blob, row in found:
                    row.blob_deleted = True
                    session.merge(row)
