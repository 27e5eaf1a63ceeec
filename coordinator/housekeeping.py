"""What a worker does besides moving rounds: signs of life, and forgetting what nobody needs any more."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import partial

from sqlmodel import Session

from coordinator.claims import Claims
from coordinator.services import devices, idempotency, retention, rounds, sums
from coordinator.services.retention import Keep
from coordinator.store import leases
from coordinator.store.blobs import Blobs, Stored
from coordinator.store.crash_points import CrashPoint, crash_point
from coordinator.store.database import Database, database_now
from edge_runtime.protocol.signing import NONCE_LIFETIME_S

HEARTBEAT_S = 1.0
SWEEP_S = 60.0


class House:
    """Keeps the house of one worker. Every step is bounded, and may be done by several workers at once.

    Args:
        holder: Names the worker; no two have the same name.
    """

    def __init__(self, database: Database, blobs: Blobs, claims: Claims, holder: str, keep: Keep) -> None:
        self._database = database
        self._blobs = blobs
        self._claims = claims
        self._holder = holder
        self._keep = keep
        self._beaten_at: datetime | None = None
        self._swept_at: datetime | None = None
        self._rounds_before: datetime | None = None
        self._stale: Iterator[list[Stored]] = iter(())

    def look(self) -> datetime:
        """Say that the coordinator is alive, do a step of what is due, and tell the time by the database's clock."""
        with self._database.reading() as session:
            now = database_now(session)
        if self._beaten_at is None or now - self._beaten_at >= timedelta(seconds=HEARTBEAT_S):
            self._database.transact(lambda session: rounds.beat(session, now))
            self._beaten_at = now
        if self._swept_at is None or now - self._swept_at >= timedelta(seconds=SWEEP_S):
            self._sweep(now)
            self._swept_at = now
        self._forget_rounds()
        self._sweep_blobs()
        return now

    def _sweep(self, now: datetime) -> None:
        forgotten = now - timedelta(seconds=NONCE_LIFETIME_S)
        self._database.transact(lambda session: devices.forget_nonces(session, forgotten))
        answers = now - timedelta(seconds=idempotency.KEPT_S)
        self._database.transact(lambda session: idempotency.forget(session, answers))
        self._claims.sweep()
        self.collect_garbage()
        if self._database.transact(self._is_due):
            self._rounds_before = now - self._keep.rounds
            self._stale = retention.stale(self._blobs, now - self._keep.blobs)

    def _is_due(self, session: Session) -> bool:
        """Whether retention is this worker's turn. Its lease is never given back: the next turn is when it ends."""
        every_s = retention.EVERY.total_seconds()
        return bool(leases.claim(session, "house", ["retention"], self._holder, database_now(session), every_s))

    def _forget_rounds(self) -> None:
        if self._rounds_before is not None:
            went = self._database.transact(partial(retention.forget_rounds, before=self._rounds_before))
            if not went:
                self._rounds_before = None

    def _sweep_blobs(self) -> None:
        found = next(self._stale, None)
        if found:
            with self._database.reading() as session:
                retention.sweep(session, self._blobs, found)

    def collect_garbage(self) -> None:
        """Delete blobs of ended rounds; a crash in between leaves them for the next sweep."""
        while True:
            with self._database.reading() as session:
                found = sums.garbage(session)
            if not found:
                return
            for blob, _row in found:
                self._blobs.delete(blob.tenant, blob.kind, blob.sha256)
            crash_point(CrashPoint.GARBAGE_DELETED)
            self._database.transact(partial(sums.forget, found=found))
            crash_point(CrashPoint.GARBAGE_RECORDED)
