"""The worker: looks at what can move, and moves each a step. Any step may be repeated after a crash, by any worker."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from typing import Final, NamedTuple, TypeVar

from sqlmodel import Session, col, select

from coordinator.claims import Claims
from coordinator.core.rounds import OPEN_PHASES, Phase
from coordinator.group_work import GroupWork
from coordinator.housekeeping import HEARTBEAT_S, House
from coordinator.services import hiding, ledger, measuring, rounds, selecting, sums, updates
from coordinator.services.retention import Keep
from coordinator.services.secure_groups import Charge, charge_nothing
from coordinator.store import news
from coordinator.store.blobs import BlobKind, Blobs
from coordinator.store.crash_points import CrashPoint, crash_point
from coordinator.store.database import Database, database_now
from coordinator.store.leases import LeaseLost
from coordinator.store.tables import Round
from edge_runtime.protocol.errors import (
    DigestMismatch,
    InvalidWeights,
    NotFound,
    PrivacyRefusal,
    StorageFull,
    Unavailable,
)
from edge_runtime.protocol.keys import PublicKey, SigningKey
from edge_runtime.protocol.reasons import Abandonment

_log = logging.getLogger("edgewise.worker")

Answer = TypeVar("Answer")

_REST: Final = 4
"""A worker rests so many times as long as its last look took, whoever hints: looking is a fifth of its time at most."""
_UNHINTED: Final = 10
"""On SQLite every request that moves a round hints; a tenth of the looks are enough for deadlines, a second apart."""


class _Step(NamedTuple):
    """Something that may move."""

    what: str
    task_id: str
    act: Callable[[], bool]


class Worker:
    """Moves rounds forward. One runs inside the coordinator's process; on PostgreSQL there may be any number.

    A look does a bounded piece of work for each round, one chunk of reports at most, so that nobody waits for the sums
    of another task. What may be written about a task is decided by its lease: see `coordinator.claims`.

    Args:
        interval_s: Seconds between two looks; on SQLite, where a `hint` wakes it, up to ten times as many.
        chunk_reports: Reports added up in one step; memory holds one of them and one sum.
        changed: Is called after rounds opened, chose or ended: what held check-ins wait for. Other processes are told
            by the transaction itself.
        lease_s: A worker that is silent for so long loses its tasks to the next one.
        keep: For how long what is kept.
        authority: Under which devices are certified; without one no group sums securely.
        charge: Charges the ledger before a sum is opened.
    """

    def __init__(
        self,
        database: Database,
        blobs: Blobs,
        key: SigningKey,
        interval_s: float,
        chunk_reports: int,
        changed: Callable[[], None] = lambda: None,
        *,
        lease_s: float = 15.0,
        keep: Keep = Keep(),  # noqa: B008  # frozen
        authority: PublicKey | None = None,
        charge: Charge = charge_nothing,
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._key = key
        self._interval_s = interval_s
        self._chunk_reports = chunk_reports
        self._changed = changed
        self._lease_s = lease_s
        holder = secrets.token_hex(16)
        self._claims = Claims(database, holder, lease_s)
        self._house = House(database, blobs, self._claims, holder, keep)
        self._groups = GroupWork(database, blobs, self._write, self._claims.hold, authority, charge)
        self._news = False
        self._unhinted_s = interval_s if database.is_postgres else max(interval_s, min(1.0, _UNHINTED * interval_s))
        self._hinted = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def resume(self) -> None:
        """Give open rounds back the time of the outage, if no other worker did. Before the first look."""
        with self._database.writing() as session:
            down_s = rounds.move_deadlines(session, database_now(session))
        self._check_ledgers()
        if down_s > HEARTBEAT_S * 3:
            _log.warning("was down for %.0f s; deadlines of open rounds were moved by as much", down_s)

    def _check_ledgers(self) -> None:
        """Say which privacy ledgers are not the ones that were written; their tasks end before anything is opened."""
        with self._database.reading() as session:
            for whose, problem in ledger.damaged(session).items():
                _log.error("the privacy ledger of %s is damaged: %s", whose, problem.detail)

    def start(self) -> None:
        """Look until stopped, in a thread."""
        self._thread = threading.Thread(target=self.run, name="edgewise-worker", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Finish the step at hand, give back what is held, and stop; from any thread or signal handler, twice too."""
        self._stopping.set()
        self._hinted.set()
        if self._thread is not None:
            self._thread.join()

    def hint(self) -> None:
        """Say that something may have moved, so that the next look is soon; from any thread, as often as one likes."""
        self._hinted.set()

    def run(self) -> None:
        """Look until `stop`, and renew leases meanwhile: a step may take longer than they last."""
        over = threading.Event()
        renewing = threading.Thread(target=self._renew, args=(over,), name="edgewise-leases", daemon=True)
        renewing.start()
        try:
            self._run()
        finally:
            over.set()
            renewing.join()
        try:
            self._claims.keep(())
        except Exception:  # they expire by themselves
            _log.exception("leases could not be given back")

    def _renew(self, over: threading.Event) -> None:
        while not over.wait(self._lease_s / 3):
            try:
                self._claims.renew()
            except Exception:
                _log.exception("leases could not be renewed")

    def _run(self) -> None:
        reachable, took_s = True, 0.0
        while not self._rest(took_s):
            began_s = time.monotonic()
            try:
                if not reachable:
                    self.resume()  # devices could not report either
                    reachable = True
                self.settle()
            except (Unavailable, StorageFull):
                _log.exception("the database cannot be used")
                reachable = False
                self._stopping.wait(5.0)
            except Exception:
                _log.exception("a look at the open rounds failed")
                self._stopping.wait(5.0)
            took_s = time.monotonic() - began_s

    def _rest(self, took_s: float) -> bool:
        """Rest until something may have moved; whether it is time to stop."""
        if self._stopping.wait(min(self._interval_s, _REST * took_s)):
            return True
        self._hinted.wait(self._unhinted_s)
        self._hinted.clear()
        return self._stopping.is_set()

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
            ExceptionGroup: Some rounds or tasks could not be moved; all others were.
        """
        moved: set[str] = set()
        problems: list[Exception] = []
        for step in self._steps(self._house.look()):
            if self._stopping.is_set():
                break
            try:
                if step.act():
                    moved.add(step.task_id)
            except LeaseLost as lost:
                _log.warning("%s: %s", step.what, lost)
                self._claims.forget(step.task_id)
            except Exception as problem:  # a round in trouble does not hold up the others
                problem.add_note(f"in {step.what}")
                problems.append(problem)
        self._claims.keep(moved)
        if problems:
            raise ExceptionGroup("some rounds could not be moved", problems)
        return bool(moved)

    def _steps(self, now: datetime) -> Iterator[_Step]:
        with self._database.reading() as session:
            tasks = selecting.tasks_to_tend(session, now)
            found = session.exec(select(Round).where(col(Round.phase).in_(OPEN_PHASES)).order_by(col(Round.id))).all()
            buffers = updates.buffers(session)
        for task_id in buffers:
            what = f"the buffer of task {task_id}"
            yield _Step(what, task_id, partial(self._empty, task_id, now))
        for task_id in tasks:
            yield _Step(f"task {task_id}", task_id, partial(self._tend, task_id, now))
        for one in found:
            what = f"round {one.number} of task {one.task_id}"
            yield _Step(what, one.task_id, partial(self._move, one, now))

    def _write(
        self, point: CrashPoint, task_id: str, act: Callable[[Session], Answer], *, tells: bool = False
    ) -> Answer:
        """Act for a task in one transaction, as long as this worker holds it.

        Args:
            tells: Whether held check-ins are to hear of it, unless the act answers that nothing changed.

        Raises:
            LeaseLost: It does not any more.
        """

        def transaction(session: Session) -> Answer:
            self._claims.check(session, task_id)
            answer = act(session)
            if tells and answer is not False:
                news.tell(session)
            session.flush()
            crash_point(point)
            return answer

        answer = self._database.transact(transaction)
        crash_point(point)
        self._news |= tells and answer is not False
        return answer

    # --- tasks ------------------------------------------------------------------------------------------------------

    def _tend(self, task_id: str, now: datetime) -> bool:
        if not self._claims.hold(task_id):
            return False
        return self._write(
            CrashPoint.TASK_TENDED, task_id, lambda session: selecting.tend(session, task_id, now), tells=True
        )

    def _empty(self, task_id: str, now: datetime) -> bool:
        """Drop what is stale in a task's buffer, and apply an update if there is enough for one."""
        if not self._claims.hold(task_id):
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
        if done and update.stream is not None and before is not None and before != update.stream.sha256:
            self._blobs.delete(update.tenant, BlobKind.NOISE_STATE, before)
        self._house.collect_garbage()

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

    def _move(self, round_: Round, now: datetime) -> bool:
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
        if not ready or not self._claims.hold(round_.task_id):
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
        if closes is None or not self._claims.hold(round_.task_id):
            return False
        return self._write(
            CrashPoint.ROUND_CLOSED, round_.task_id, lambda session: rounds.close_round(session, round_.id, now)
        )

    def _add_up(self, round_: Round, now: datetime) -> bool:
        """Add up one chunk of what has arrived; end the round when all of it is added."""
        with self._database.reading() as session:
            group_ids = [group.id for group in rounds.live_groups(session, round_.id)]
            waiting = [one for one in group_ids if sums.wants_chunk(session, one, self._chunk_reports)]
            chunks = [(one, chunk) for one in group_ids for chunk in sums.chunks_to_add(session, one)]
            complete = updates.is_complete(session, round_.id)
        if not (chunks or waiting or complete) or not self._claims.hold(round_.task_id):
            return False
        if chunks:
            self._add_chunk(round_, *chunks[0])
        elif waiting:
            self._write(
                CrashPoint.CHUNK_ASSIGNED,
                round_.task_id,
                lambda session: sums.assign_chunk(session, waiting[0], self._chunk_reports),
            )
        else:
            self._finish(round_, now)
        return True

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
        self._house.collect_garbage()

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
