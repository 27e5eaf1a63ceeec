"""The parts are joined here and only here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial

from fastapi import FastAPI

from coordinator import accounting
from coordinator.api import device, groups, health, operator
from coordinator.api.bell import Bell
from coordinator.api.check_in import CheckInDoor, DevicesFirst
from coordinator.api.description import describe, operation_id
from coordinator.api.desk import Desk
from coordinator.api.observed import Observed
from coordinator.api.parts import Parts
from coordinator.api.problems import answer_with_problems
from coordinator.core.pacing import Limits
from coordinator.metrics import Metrics, Reading
from coordinator.services.checkins import CheckIns, Knock
from coordinator.services.device_calls import DeviceCalls
from coordinator.services.gauges import gauges
from coordinator.services.pace import Pace
from coordinator.services.retention import Keep
from coordinator.services.spending import charge_group
from coordinator.settings import Settings
from coordinator.store import migrate
from coordinator.store.blobs import Blobs
from coordinator.store.database import Database
from coordinator.store.news import hearing
from coordinator.store.s3 import open_blobs
from coordinator.worker import Worker
from edge_runtime.protocol.checkin import CheckInAnswer
from edge_runtime.protocol.errors import Malformed, Refusal
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


def read_authority(settings: Settings) -> SigningKey | None:
    """Read the key of the enrolment authority; None where there is none, as in a home of an earlier release.

    Raises:
        Malformed: The file is not a key.
    """
    if not settings.authority_file().exists():
        return None
    try:
        raw = bytes.fromhex(settings.authority_file().read_text().strip())
    except ValueError:
        raise Malformed("the key of the enrolment authority does not hold 64 hex digits") from None
    return SigningKey(raw)


def check_ins_of(
    settings: Settings,
    database: Database,
    now: Callable[[], datetime],
    metrics: Metrics,
    moved: Callable[[], None],
) -> tuple[CheckIns, Desk[Knock, CheckInAnswer]]:
    """What answers the check-ins of this process, and the desk where they wait for it."""

    def answer(knocks: Sequence[Knock]) -> list[CheckInAnswer | Refusal]:
        return check_ins.answer(knocks)

    desk: Desk[Knock, CheckInAnswer] = Desk(answer, settings.most_waiting)
    pace = Pace(Limits(), settings.check_ins_per_s, desk.waiting)
    check_ins = CheckIns(database, now, pace, metrics.attributes_dropped, moved)
    return check_ins, desk


def blobs_of(settings: Settings) -> Blobs:
    """Where the settings put blobs.

    Raises: As `open_blobs`.
    """
    return open_blobs(settings.blob_url, settings.blob_folder(), settings.free_disk_bytes)


def create_worker(
    settings: Settings, database: Database, blobs: Blobs | None = None, changed: Callable[[], None] = lambda: None
) -> Worker:
    """Make a worker: for a process of its own, or of the blobs that a process has."""
    authority = read_authority(settings)
    return Worker(
        database,
        blobs or blobs_of(settings),
        read_key(settings),
        settings.worker_interval_s,
        settings.chunk_reports,
        changed,
        lease_s=settings.lease_s,
        authority=None if authority is None else authority.public,
        charge=charge_group,
        keep=Keep(timedelta(days=settings.keep_rounds_days), timedelta(seconds=settings.sweep_after_s)),
    )


def create_app(settings: Settings, *, now: Callable[[], datetime] = utc_now, with_worker: bool = True) -> FastAPI:
    """Make the coordinator: API and embedded worker. Its lifespan migrates the database and starts the worker.

    Args:
        now: The clock; aware, UTC. On PostgreSQL its clock is put in the place of this process's own.
        with_worker: Whether rounds are moved by a thread of this process (else by `app.state.worker.look()`).
    """
    database = Database(
        settings.sqlalchemy_url(),
        connections=settings.database_connections,
        clock=None if now is utc_now else now,
    )
    parts = _parts_of(settings, database)
    # On PostgreSQL the bell is rung by what transactions tell, this process's own too.
    worker = create_worker(settings, database, parts.blobs, (lambda: None) if database.is_postgres else parts.bell.ring)
    metrics = Metrics(_gauges_of(parts))
    check_ins, desk = check_ins_of(settings, database, parts.now, metrics, worker.hint)
    app = DevicesFirst(
        title="Edgewise coordinator",
        version="1",
        lifespan=_lifespan(parts, worker, desk, with_worker=with_worker),
        docs_url="/docs",
        redoc_url=None,
        openapi_url="/v1/openapi.json",
        generate_unique_id_function=operation_id,
    )
    app.state.parts, app.state.worker, app.state.desk = parts, worker, desk
    app.state.check_ins = check_ins
    app.state.draining = False
    app.state.metrics_token = settings.metrics_token
    app.state.metrics = metrics
    app.add_middleware(Observed, metrics=metrics, access=settings.access_log)
    door = CheckInDoor(desk, check_ins.turn_away, parts.bell, settings.hold_s, metrics.check_in)
    app.door = Observed(door, metrics, settings.access_log)
    _route(app)
    return app


def _parts_of(settings: Settings, database: Database) -> Parts:
    device_calls = DeviceCalls(database, database.now)
    return Parts(
        calls=Desk(device_calls.answer, settings.most_waiting),
        looks=Desk(device_calls.look, settings.most_waiting),
        database=database,
        blobs=blobs_of(settings),
        key=read_key(settings),
        now=database.now,
        bell=Bell(),
        hold_s=settings.hold_s,
        authority=read_authority(settings),
        smallest_cohort=settings.smallest_cohort,
        second_opinion=partial(accounting.asked, settings.second_opinion),
    )


def _lifespan(
    parts: Parts, worker: Worker, desk: Desk[Knock, CheckInAnswer], *, with_worker: bool
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        migrate.upgrade(parts.database)
        worker.resume()
        parts.bell.attach()
        if with_worker:
            worker.start()
        try:
            async with hearing(parts.database, parts.bell.ring):
                yield
        finally:
            worker.stop()
            for one in (desk, parts.calls, parts.looks):
                one.close()
            parts.database.close()

    return lifespan


def _gauges_of(parts: Parts) -> Callable[[], Reading]:
    def read() -> Reading:
        with parts.database.reading() as session:
            return gauges(session, parts.now())

    return read


def _route(app: FastAPI) -> None:
    answer_with_problems(app)
    for router in (device.router, groups.router, operator.router, health.router):
        app.include_router(router)
    describe(app)
