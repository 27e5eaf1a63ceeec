"""`doctor`: is everything there that a coordinator needs? Each finding says what to do."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import stat
import zoneinfo
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import typer

from coordinator.commands.console import REFUSED, AsJson, Mistake, plain, print_json, print_table
from coordinator.commands.home import mode_of, signing_key
from coordinator.commands.local import check_blobs, config_file, database_problem, read_config, settings_as_they_are
from coordinator.settings import PREFIX, Settings, unknown_variables
from edge_runtime.protocol.errors import Refusal

if TYPE_CHECKING:
    from sqlmodel import Session

    from coordinator.store.database import Database

CLOCK_S: Final = 5.0
"""Further apart, deadlines are seen differently by processes and their database."""
ROOM: Final = 10
"""Warns while so many times the least free disk are left."""
_HIDDEN: Final = ("database_url", "metrics_token")
_ZONE: Final = "Europe/Berlin"
"""In every database of time zones."""


class Health(StrEnum):
    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, how it stands, and what to do if it does not stand well."""

    what: str
    health: Health
    found: str
    do: str = ""


def doctor(as_json: AsJson = False) -> None:
    """Look at everything that a coordinator needs: settings, database, blobs, key, clock, port, tokens, time zones.

    Nothing is changed. Exit status 1 if there is a problem; warnings are none.

    edgewise-coordinator doctor

    edgewise-coordinator doctor --json
    """
    try:
        settings = settings_as_they_are()
        findings = [*_variables(), *_settings(settings), *_everything(settings)]
    except Mistake as mistake:
        findings = [*_variables(), Finding("settings", Health.PROBLEM, "they cannot be read", str(mistake))]
    if as_json:
        print_json([asdict(one) for one in findings])
    else:
        print_table(
            ("", "what", "found", "what to do"), [(one.health, one.what, one.found, one.do) for one in findings], ""
        )
    if any(one.health is Health.PROBLEM for one in findings):
        raise typer.Exit(REFUSED)


def _variables() -> Iterator[Finding]:
    for name, meant in unknown_variables():
        do = f"write {meant}" if meant else "unset it"
        yield Finding(plain(name), Health.PROBLEM, "is not a setting; no process starts with it", do)


def _settings(settings: Settings) -> Iterator[Finding]:
    """Each setting with its value and where it is from; what may hold a secret is not shown."""
    filed = read_config()
    given = {name.upper() for name in os.environ}
    for name in Settings.model_fields:
        value = getattr(settings, name)
        variable = f"{PREFIX}{name.upper()}"
        source = variable if variable in given else str(config_file()) if name in filed else "default"
        hidden = name in _HIDDEN and bool(value)
        shown = "hidden" if hidden else "unset" if value is None else plain(str(value)) or "empty"
        yield Finding(f"setting {name}", Health.OK, f"{shown} ({source})")


def _everything(settings: Settings) -> Iterator[Finding]:
    yield _key(settings)
    yield _authority(settings)
    yield from _data_folder(settings)
    yield from _database(settings)
    yield from _blobs(settings)
    yield _port(settings)
    yield _time_zones()


def _key(settings: Settings) -> Finding:
    path = settings.key_file()
    try:
        public = signing_key(settings).public.raw.hex()
    except Mistake as mistake:
        return Finding("key", Health.PROBLEM, "there is no key that could sign", str(mistake))
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return Finding("key", Health.PROBLEM, f"{path} has mode {mode_of(path)}: others read it", f"chmod 600 {path}")
    return Finding("key", Health.OK, f"public half {public[:16]}…, mode {mode_of(path)}")


def _authority(settings: Settings) -> Finding:
    """Of the key that certifies devices: without it, no task that sums securely can be approved."""
    from coordinator.app import read_authority

    path = settings.authority_file()
    try:
        key = read_authority(settings)
    except (Refusal, OSError) as problem:
        return Finding("authority", Health.PROBLEM, f"{path} holds no key: {plain(str(problem))}", "restore it")
    if key is None:
        found = "there is none: tasks that sum securely are refused, as no-authority"
        return Finding("authority", Health.WARNING, found, "run `edgewise-coordinator init`")
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        found = f"{path} has mode {mode_of(path)}: others read it"
        return Finding("authority", Health.PROBLEM, found, f"chmod 600 {path}")
    return Finding("authority", Health.OK, f"public half {key.public.raw.hex()[:16]}…, mode {mode_of(path)}")


def _data_folder(settings: Settings) -> Iterator[Finding]:
    folder = settings.data_dir
    if folder.is_dir() and folder.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        found = f"{folder} has mode {mode_of(folder)}: others may look into it"
        yield Finding("data folder", Health.WARNING, found, f"chmod 700 {folder}")


def _database(settings: Settings) -> Iterator[Finding]:
    from sqlalchemy.exc import SQLAlchemyError

    from coordinator.store.database import Database

    file = settings.data_dir / "coordinator.sqlite"
    if not settings.database_url and not file.exists():
        yield Finding("database", Health.PROBLEM, f"{file} is not there", "run `edgewise-coordinator init`")
        return
    try:
        database = Database(settings.sqlalchemy_url())
    except ValueError as problem:
        yield Finding("database", Health.PROBLEM, "its address cannot be used", f"EDGEWISE_DATABASE_URL: {problem}")
        return
    try:
        yield from _inside(database)
    except (SQLAlchemyError, Refusal) as problem:
        do = "start it, or correct EDGEWISE_DATABASE_URL" if database.is_postgres else "restore it from a backup"
        yield Finding("database", Health.PROBLEM, f"it does not answer: {plain(database_problem(problem))}", do)
    finally:
        database.close()


def _inside(database: Database) -> Iterator[Finding]:
    from coordinator.app import utc_now
    from coordinator.services import tenants
    from coordinator.store import migrate
    from coordinator.store.database import database_now

    yield _version(database)
    missing = migrate.missing(database)
    if missing:
        do = "back it up, then run `edgewise-coordinator migrate`"
        yield Finding("migrations", Health.PROBLEM, f"{len(missing)} are missing: {', '.join(missing)}", do)
        return
    yield Finding("migrations", Health.OK, "none is missing")
    with database.reading() as session:
        apart = abs((database_now(session) - utc_now()).total_seconds())
        known = tenants.tenants(session)
        yield from _ledgers(session)
    yield _clock(apart)
    if any(one.tokens for one in known):
        yield Finding("tokens", Health.OK, ", ".join(f"{one.name}: {one.tokens}" for one in known))
    else:
        do = "`edgewise-coordinator tenants token NAME`" if known else "`edgewise-coordinator init`"
        yield Finding("tokens", Health.WARNING, "no operator could be let in", do)


def _ledgers(session: Session) -> Iterator[Finding]:
    """Each privacy ledger: whole or not, and how much of its budgets is gone."""
    from coordinator.core.privacy.ledger import ALERTS
    from coordinator.services import budgets, ledger

    for whose in ledger.every(session):
        what = f"ledger {whose}"
        try:
            book = ledger.read(session, whose)
        except Refusal as problem:
            yield Finding(what, Health.PROBLEM, problem.detail, "nothing is charged to it: restore it from a backup")
            continue
        states = budgets.budgets_of(book.account)
        gone = ", ".join(f"{one.share:.0%} against the {one.opponent}" for one in states)
        found = f"{book.head.count} entries, whole; {gone} spent or reserved; head {book.head.digest[:16]}…"
        if any(one.share >= ALERTS[0] for one in states):
            do = "fewer rounds, more noise, or a larger budget; at 100 % tasks end by themselves"
            yield Finding(what, Health.WARNING, found, do)
        else:
            yield Finding(what, Health.OK, found)


def _version(database: Database) -> Finding:
    with database.engine.connect() as connection:
        if database.is_postgres:
            version = connection.exec_driver_sql("SHOW server_version").scalar_one()
            return Finding("database", Health.OK, f"PostgreSQL {plain(str(version))}")
        version = connection.exec_driver_sql("SELECT sqlite_version()").scalar_one()
        mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar_one()
    if mode != "wal":
        do = "put it on a local disk: network folders do not do"
        return Finding("database", Health.PROBLEM, f"SQLite {version} without WAL ({mode})", do)
    return Finding("database", Health.OK, f"SQLite {version}, WAL")


def _clock(apart_s: float) -> Finding:
    found = f"{apart_s:.1f} s from the database's"
    if apart_s > CLOCK_S:
        return Finding("clock", Health.PROBLEM, found, "let both follow the same time server")
    return Finding("clock", Health.OK, found)


def _blobs(settings: Settings) -> Iterator[Finding]:
    if settings.blob_url:
        yield _bucket(settings)
        return
    folder = settings.blob_folder()
    existing = next(one for one in (folder, *folder.resolve().parents) if one.exists())
    if not os.access(existing, os.W_OK | os.X_OK) or not existing.is_dir():
        yield Finding("blobs", Health.PROBLEM, f"{folder} cannot be written", "make it writable for this user")
        return
    free = shutil.disk_usage(existing).free
    found = f"{folder}, {free / 1e9:.1f} GB free"
    if free < settings.free_disk_bytes:
        do = "free some space; blobs are refused below EDGEWISE_FREE_DISK_BYTES"
        yield Finding("blobs", Health.PROBLEM, found, do)
    elif free < ROOM * settings.free_disk_bytes:
        yield Finding("blobs", Health.WARNING, found, "free some space soon")
    else:
        yield Finding("blobs", Health.OK, found)


def _bucket(settings: Settings) -> Finding:
    try:
        check_blobs(settings)
    except Mistake as problem:
        do = "correct EDGEWISE_BLOB_URL, and what the bucket lets this machine do"
        return Finding("blobs", Health.PROBLEM, f"they cannot be written: {plain(str(problem))}", do)
    return Finding("blobs", Health.OK, f"{plain(settings.blob_url)} answers")


def _port(settings: Settings) -> Finding:
    where = f"{settings.host}:{settings.port}"
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        with contextlib.closing(socket.create_server((settings.host, settings.port), family=family)):
            return Finding("port", Health.OK, f"{where} is free")
    except OSError as problem:
        do = "nothing, if a coordinator runs here; else stop what uses it, or set EDGEWISE_PORT"
        return Finding("port", Health.WARNING, f"{where}: {problem.strerror}", do)


def _time_zones() -> Finding:
    try:
        zoneinfo.ZoneInfo(_ZONE)
    except (zoneinfo.ZoneInfoNotFoundError, OSError):
        return Finding("time zones", Health.PROBLEM, "there is no database of them", "pip install tzdata")
    return Finding("time zones", Health.OK, f"{len(zoneinfo.available_timezones())} are known")
