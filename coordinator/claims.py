"""What a worker may write about: leases of tasks, where there can be several workers."""

from __future__ import annotations

import threading
from collections.abc import Collection
from datetime import timedelta
from functools import partial

from sqlmodel import Session

from coordinator.store import leases
from coordinator.store.database import Database, database_now
from coordinator.store.leases import Lease

KIND = "task"
MOST_HELD = 8
"""Tasks that a worker holds at once: the others are for other workers."""


class Claims:
    """The tasks that one worker holds. On SQLite there is one worker, and it holds all of them without a lease.

    One thread works; another may `renew` meanwhile, so that a step may take longer than a lease.

    Args:
        holder: Names the worker; no two have the same name.
        lease_s: A worker that is silent for so long loses its tasks to the next one.
    """

    def __init__(self, database: Database, holder: str, lease_s: float) -> None:
        self._database = database
        self._holder = holder
        self._lease_s = lease_s
        self._held: dict[str, Lease] = {}
        self._changing = threading.Lock()

    def hold(self, task_id: str) -> bool:
        """Hold a task for some time from now on; not, if another worker does, or this one holds enough."""
        if not self._database.is_postgres:
            return True
        held = self._held.get(task_id)
        if held is None and len(self._held) >= MOST_HELD:
            return False
        try:
            lease = self._database.transact(lambda session: self._claimed(session, task_id, held))
        except leases.LeaseLost:
            lease = None
        with self._changing:
            if lease is None:
                self._held.pop(task_id, None)
            else:
                self._held[task_id] = lease
        return lease is not None

    def renew(self) -> None:
        """Hold for longer what is held; from a thread that does nothing else."""
        for task_id, held in list(self._held.items()):
            try:
                longer = self._database.transact(partial(self._longer, held=held))
            except leases.LeaseLost:
                continue  # whoever works on it will be told
            with self._changing:
                now = self._held.get(task_id)
                if now is not None and now.fence == longer.fence:
                    self._held[task_id] = longer

    def _longer(self, session: Session, held: Lease) -> Lease:
        return leases.renew(session, held, database_now(session), self._lease_s)

    def _claimed(self, session: Session, task_id: str, held: Lease | None) -> Lease | None:
        now = database_now(session)
        if held is None:
            return next(iter(leases.claim(session, KIND, [task_id], self._holder, now, self._lease_s)), None)
        if held.expires_at - now > timedelta(seconds=self._lease_s / 2):
            return held
        return leases.renew(session, held, now, self._lease_s)

    def check(self, session: Session, task_id: str) -> None:
        """Return if this worker may write about a task: first in every transaction that does.

        Raises:
            LeaseLost: Another worker has claimed it since.
        """
        if not self._database.is_postgres:
            return
        if task_id not in self._held:
            raise leases.LeaseLost(f"the task {task_id} is not held")
        leases.check_fence(session, self._held[task_id])

    def forget(self, task_id: str) -> None:
        """The lease of a task was lost."""
        with self._changing:
            self._held.pop(task_id, None)

    def keep(self, task_ids: Collection[str]) -> None:
        """Give back all tasks but these."""
        for task_id in [one for one in self._held if one not in task_ids]:
            with self._changing:
                lease = self._held.pop(task_id)
            self._database.transact(partial(leases.release, lease=lease))

    def sweep(self) -> None:
        """Forget leases that nobody has held for long."""
        if self._database.is_postgres:
            self._database.transact(
                lambda session: leases.sweep(session, database_now(session) - timedelta(seconds=60 * self._lease_s))
            )
