"""The parts are joined here and only here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from fastapi import FastAPI

from coordinator.api import device, health, operator
from coordinator.api.bell import Bell
from coordinator.api.parts import Parts
from coordinator.api.problems import answer_with_problems
from coordinator.settings import Settings
from coordinator.store import migrate
from coordinator.store.blobs import FolderBlobs
from coordinator.store.database import Database
from coordinator.worker import Worker
from edge_runtime.protocol.errors import Malformed
from edge_runtime.protocol.keys import SigningKey


def utc_now() -> datetime:
    return datetime.now(UTC)


def read_key(settings: Settings) -> SigningKey:
    """Read the coordinator's signing key.

    Raises:
        FileNotFoundError: `edgewise-coordinator init` was not run.
        Malformed: The file is not a key.
    """
    try:
        raw = bytes.fromhex(settings.key_file().read_text().strip())
    except ValueError:
        raise Malformed("it does not hold 64 hex digits") from None
    return SigningKey(raw)


def create_app(settings: Settings, *, now: Callable[[], datetime] = utc_now, with_worker: bool = True) -> FastAPI:
    """Make the coordinator: API and embedded worker. Its lifespan migrates the database and starts the worker.

    Args:
        now: The clock; aware, UTC.
        with_worker: Whether rounds are moved by a thread of this process (else by `app.state.worker.look()`).
    """
    database = Database(settings.sqlalchemy_url())
    blobs = FolderBlobs(settings.blob_folder(), settings.free_disk_bytes)
    key = read_key(settings)
    bell = Bell()
    worker = Worker(database, blobs, key, now, settings.worker_interval_s, settings.chunk_reports, bell.ring)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        migrate.upgrade(database)
        worker.resume()
        bell.attach()
        if with_worker:
            worker.start()
        try:
            yield
        finally:
            worker.stop()
            database.close()

    app = FastAPI(
        title="Edgewise coordinator",
        version="1",
        lifespan=lifespan,
        docs_url="/docs",
        redoc_url=None,
        openapi_url="/v1/openapi.json",
    )
    app.state.parts = Parts(database=database, blobs=blobs, key=key, now=now, bell=bell, hold_s=settings.hold_s)
    app.state.worker = worker
    answer_with_problems(app)
    app.include_router(device.router)
    app.include_router(operator.router)
    app.include_router(health.router)
    return app
