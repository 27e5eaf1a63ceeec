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
from coordinator.core.rounds import OPEN_PHASES
from coordinator.group_work import GroupWork
from coordinator.housekeeping import HEARTBEAT_S, House
from coordinator.round_work import RoundWork
from coordinator.services import ledger, rounds, selecting, updates
from coordinator.services.retention import Keep
from coordinator.services.secure_groups import Charge, charge_nothing
from coordinator.store import news
from coordinator.store.blobs import Blobs
from coordinator.store.crash_points import CrashPoint, crash_point
from coordinator.store.database import Database, database_now
from coordinator.store.leases import LeaseLost
from coordinator.store.tables import Round
from edge_runtime.protocol.errors import StorageFull, Unavailable
from edge_runtime.protocol.keys import PublicKey, SigningKey

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
        self._interval_s = interval_s
        self._changed = changed
        self._lease_s = lease_s
        holder = secrets.token_hex(16)
        self._claims = Claims(database, holder, lease_s)
        self._house = House(database, blobs, self._claims, holder, keep)
        self._groups = GroupWork(database, blobs, self._write, self._claims.hold, authority, charge)
        garbage = self._house.collect_garbage
        self._rounds = RoundWork(
            database, blobs, key, chunk_reports, self._write, self._claims.hold, self._groups, garbage
        )
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
            moving = [one for one in found if not self._rests(session, one, now)]
            buffers = updates.buffers(session)
        for task_id in buffers:
            what = f"the buffer of task {task_id}"
            yield _Step(what, task_id, partial(self._rounds.empty, task_id, now))
        for task_id in tasks:
            yield _Step(f"task {task_id}", task_id, partial(self._rounds.tend, task_id, now))
        for one in moving:
            what = f"round {one.number} of task {one.task_id}"
            yield _Step(what, one.task_id, partial(self._rounds.move, one, now))

    def _rests(self, session: Session, round_: Round, now: datetime) -> bool:
        try:
            return self._rounds.rests(session, round_, now)
        except Exception:  # it says so when its turn comes, and holds up no other
            return False

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
