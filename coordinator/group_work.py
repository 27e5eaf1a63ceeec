"""The worker's part that moves groups that sum securely, one step for each look."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Protocol, TypeVar

from sqlmodel import Session

from coordinator.services import group_forming, group_opening, secure_groups
from coordinator.services.secure_groups import Charge
from coordinator.store.blobs import BlobKind, Blobs
from coordinator.store.crash_points import CrashPoint, crash_point
from coordinator.store.database import Database
from coordinator.store.tables import Group, Round
from edge_runtime.protocol.keys import PublicKey

Answer = TypeVar("Answer")


class Write(Protocol):
    """Acts for a task in one transaction, as long as the worker holds it: `Worker._write`."""

    def __call__(
        self, point: CrashPoint, task_id: str, act: Callable[[Session], Answer], *, tells: bool = False
    ) -> Answer: ...


class GroupWork:
    """Forms groups, moves them on and opens their sums.

    Args:
        hold: Claims a task for this worker.
        authority: Under which devices are certified; None where the coordinator has none, and no group forms.
        charge: Charges the ledger, in the transaction that lets a sum be opened.
        cores: A sum is unmasked in so many parts side by side.
    """

    def __init__(
        self,
        database: Database,
        blobs: Blobs,
        write: Write,
        hold: Callable[[str], bool],
        authority: PublicKey | None,
        charge: Charge,
        cores: int | None = None,
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._write = write
        self._hold = hold
        self._authority = authority
        self._charge = charge
        self._cores = cores or os.cpu_count() or 1

    def move(self, round_: Round, now: datetime) -> bool:
        """Move the secure groups of a round a step each; whether anything moved.

        Raises:
            GroupDamaged: What was stored for a group can no longer be read.
            LeaseLost: Another worker has claimed the task.
        """
        if self._authority is None:
            return False
        with self._database.reading() as session:
            if not group_forming.sums_securely(session, round_.task_id):
                return False
            forms = group_forming.forms(session, round_.id, now)
            groups = secure_groups.live_groups(session, round_.id)
            moves = [group for group in groups if secure_groups.moves_on(session, group, now)]
            opens = [one for one in groups if one not in moves and group_opening.is_ready_to_open(session, one, now)]
        if not (forms or opens or moves) or not self._hold(round_.task_id):
            return False
        if forms:
            self._write(
                CrashPoint.GROUPS_FORMED,
                round_.task_id,
                lambda session: group_forming.form(session, round_.id, now),
                tells=True,
            )
        for group in moves:
            self._advance(round_, group.id, self._authority, now)
        for group in opens:
            self._open(round_, group, self._authority, now)
        return True

    def _advance(self, round_: Round, group_id: str, authority: PublicKey, now: datetime) -> None:
        self._write(
            CrashPoint.GROUP_MOVED,
            round_.task_id,
            lambda session: secure_groups.advance(session, group_id, now, authority, self._charge),
            tells=True,
        )

    def _open(self, round_: Round, group: Group, authority: PublicKey, now: datetime) -> None:
        with self._database.reading() as session, ThreadPoolExecutor(self._cores) as pool:
            found = group_opening.open_group(session, self._blobs, group, authority, spread=pool.map, parts=self._cores)
        sha256 = "" if found.raw is None else self._blobs.put(round_.tenant, BlobKind.PARTIAL_SUM, found.raw)
        crash_point(CrashPoint.SUM_UNMASKED)
        self._write(
            CrashPoint.SUM_OPENED,
            round_.task_id,
            lambda session: group_opening.record_opened(session, group.id, found, sha256, now),
            tells=True,
        )
