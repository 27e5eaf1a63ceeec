"""What a worker may write about: leases of tasks, where there can be several workers."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from functools import partial

from sqlmodel import Session

from coordinator.store import leases
from coordinator.store.database import Database, database_now
from coordinator.store.leases import Lease

KIND = "task"
LEASE_S = 60.0
"""A worker that is silent for so long loses its tasks to the next one."""
MOST_HELD = 8
"""Tasks that a worker holds at once: the others are for other workers."""


class Claims:
    """The tasks that one worker holds. On SQLite there is one worker, and it holds all of them without a lease.

    Args:
        holder: Names the worker; no two have the same name.
    """

    def __init__(self, database: Database, holder: str) -> None:
        self._database = database
        self._holder = holder
        self._held: dict[str, Lease] = {}

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
        if lease is None:
            self._held.pop(task_id, None)
            return False
        self._held[task_id] = lease
        return True

    def _claimed(self, session: Session, task_id: str, held: Lease | None) -> Lease | None:
        now = database_now(session)
        if held is None:
            return next(iter(leases.claim(session, KIND, [task_id], self._holder, now, LEASE_S)), None)
        if held.expires_at - now > timedelta(seconds=LEASE_S / 2):
            return held
        return leases.renew(session, held, now, LEASE_S)

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
        self._held.pop(task_id, None)

    def keep(self, task_ids: Collection[str]) -> None:
        """Give back all tasks but these."""
        for task_id in [one for one in self._held if one not in task_ids]:
            lease = self._held.pop(task_id)
            self._database.transact(partial(leases.release, lease=lease))

    def sweep(self) -> None:
        """Forget leases that nobody has held for long."""
        if self._database.is_postgres:
            self._database.transact(
                lambda session: leases.sweep(session, database_now(session) - timedelta(seconds=60 * LEASE_S))
            )
