"""Points at which a coordinator of the tests can die, whatever it does."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlmodel import Session

from coordinator.store.blobs import FolderBlobs
from coordinator.store.crash_points import CrashPoint, hooked
from coordinator.store.database import Database
from tests.programme import Crash


class Seams:
    """Points at which the coordinator can die: around every blob that is written or deleted, and every commit."""

    def __init__(self) -> None:
        self.passed = 0
        self.last: int | None = None
        self.seen: set[CrashPoint] = set()

    def named(self, point: CrashPoint) -> None:
        """One of the coordinator's own points, the same in tests and in the product."""
        self.seen.add(point)
        self.point()

    def point(self) -> None:
        self.passed += 1
        if self.last is not None and self.passed > self.last:
            self.last = None
            raise Crash

    @contextlib.contextmanager
    def dying_after(self, points: int) -> Iterator[None]:
        self.passed, self.last = 0, points
        try:
            yield
        finally:
            self.last = None

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        attempt, put, delete = Database.attempt, FolderBlobs.put, FolderBlobs.delete

        @contextlib.contextmanager
        def seamed_attempt(database: Database, *, alone: bool) -> Iterator[Session]:
            with attempt(database, alone=alone) as session:
                yield session
                session.flush()
                self.point()
            self.point()

        def seamed(act: Callable[..., Any]) -> Callable[..., Any]:
            def acting(*arguments: Any, **options: Any) -> Any:
                self.point()
                result = act(*arguments, **options)
                self.point()
                return result

            return acting

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Database, "attempt", seamed_attempt)
            patch.setattr(FolderBlobs, "put", seamed(put))
            patch.setattr(FolderBlobs, "delete", seamed(delete))
            patch.setattr(
                "coordinator.store.blobs.os.fsync", lambda _handle: None
            )  # processes die here, power does not
            # One request at a time: a thread of its own for each part of it adds nothing but time.
            patch.setattr("anyio.to_thread.run_sync", _at_once)
            with hooked(self.named):
                yield


async def _at_once(act: Callable[..., Any], *arguments: Any, **_options: Any) -> Any:
    return act(*arguments)
