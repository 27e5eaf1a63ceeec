"""A real PostgreSQL for the tests: one server a pytest process, one database a test, copied from a migrated one.

The programs come from the package `pgserver`, or from the PATH. `EDGEWISE_TEST_POSTGRES` names a server that runs
already, by the address of a superuser: `postgresql://postgres@127.0.0.1:5432/postgres`. There is no way to skip.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import psycopg
import pytest

from coordinator.store import migrate
from coordinator.store.database import Database

VARIABLE = "EDGEWISE_TEST_POSTGRES"
_NOBODY = 65534
_START_S = 30
_OPTIONS = {
    "listen_addresses": "",
    "shared_buffers": "16MB",
    "max_connections": "80",
    # The machine does not lose power in a test.
    "fsync": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
}
_GUARD = """
import shutil, subprocess, sys
folder, user, *stop = sys.argv[1:]
sys.stdin.read()
silent = subprocess.DEVNULL
subprocess.call(stop, user=int(user) if user else None, cwd=folder, stdout=silent, stderr=silent)
shutil.rmtree(folder, ignore_errors=True)
"""
"""Waits until its parent is done or gone, however it went, then stops the server and clears up."""


class Postgres:
    """A server, and the databases in it.

    Args:
        url: Of its database `postgres`, as a superuser.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.template = ""

    def new(self, *, migrated: bool = True) -> str:
        """The address of a new database: with every table, or empty."""
        if migrated and not self.template:
            self.template = self.new(migrated=False)
            database = Database(self.template)
            migrate.upgrade(database)
            database.close()
        return copy_database(self.template) if migrated else _create(self.url, "template0")


def copy_database(url: str) -> str:
    """The address of a copy, on the same server, of a database that nobody uses just now."""
    return _create(url, _name(url))


def drop_database(url: str) -> None:
    """Delete a database, whoever uses it."""
    _execute(url, f"DROP DATABASE {_name(url)} WITH (FORCE)")


def _create(url: str, template: str) -> str:
    name = f"edgewise_test_{uuid.uuid4().hex}"
    _execute(url, f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
    path, mark, options = url.partition("?")
    return f"{path.rpartition('/')[0]}/{name}{mark}{options}"


def _name(url: str) -> str:
    return url.partition("?")[0].rpartition("/")[2]


def _execute(url: str, statement: str) -> None:
    with psycopg.connect(url, dbname="postgres", autocommit=True) as connection:
        connection.execute(statement)


class OwnServer(Postgres):
    """A server in a folder of its own, that can be stopped, killed and started. As root it runs as nobody."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._user = _NOBODY if os.geteuid() == 0 else None
        if self._user is not None:
            os.chown(folder, self._user, self._user)
        self._programs = _programs(folder, self._user)
        super().__init__(f"postgresql://postgres@/postgres?host={folder}")
        self._run("initdb", "--auth=trust", "--encoding=utf8", "--username=postgres", "--locale=C", "--no-sync")
        stop = self._command("pg_ctl", "stop", "--mode=immediate", "--silent")
        self._guard = subprocess.Popen(
            [sys.executable, "-c", _GUARD, str(folder), str(self._user or ""), *stop],
            stdin=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for pytest; this one outlives it
        )
        self.start()

    def start(self) -> None:
        options = [f"-c{name}={value}" for name, value in {**_OPTIONS, "unix_socket_directories": self._folder}.items()]
        with (self._folder / "log").open("w") as log:
            self._server = subprocess.Popen(
                self._command("postgres", *options),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=self._user,
                cwd=self._folder,
                start_new_session=True,
            )
        limit = time.monotonic() + _START_S
        while not self._answers():
            if self._server.poll() is not None or time.monotonic() > limit:
                _give_up("postgres", (self._folder / "log").read_text())
            time.sleep(0.02)  # for a process of its own, not for a time

    def _answers(self) -> bool:
        try:
            _execute(self.url, "SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def stop(self) -> None:
        """Stop it at once, as a crash would."""
        self._server.send_signal(signal.SIGQUIT)
        self._server.wait(_START_S)

    def close(self) -> None:
        """Stop it, and clear up."""
        if self._server.poll() is None:
            self.stop()
        self._guard.communicate()

    def _command(self, program: str, *arguments: str) -> list[str]:
        return [str(self._programs / program), "-D", str(self._folder / "data"), *arguments]

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            self._command(program, *arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            user=self._user,
            cwd=self._folder,
            timeout=60,
        )
        if done.returncode != 0:
            _give_up(program, done.stderr)


def _give_up(program: str, said: str) -> NoReturn:
    pytest.fail(
        f"the tests' PostgreSQL does not run: `{program}` says {said.strip()!r}. "
        f"Give the address of another in {VARIABLE}",
        pytrace=False,
    )


def _copied(installed: Path, folder: Path) -> Path:
    """A copy that anybody can run. The wheel keeps the programs' libraries beside its package: so does the copy."""
    libraries = installed.parents[1] / "pgserver.libs"
    if libraries.is_dir():
        shutil.copytree(libraries, folder / libraries.name)
    return Path(shutil.copytree(installed, folder / "pgserver" / "pginstall"))


def _programs(folder: Path, user: int | None) -> Path:
    """The folder of `initdb` and `pg_ctl`, where the user who is to run them can.

    Raises:
        pytest.fail.Exception: There are none on this machine.
    """
    package = importlib.util.find_spec("pgserver")
    if package is not None and package.origin is not None:
        installed = Path(package.origin).parent / "pginstall"
        reachable = user is None or all(
            place.stat().st_mode & 0o005 == 0o005 for place in (installed, *installed.parents)
        )
        return (installed if reachable else _copied(installed, folder)) / "bin"
    found = shutil.which("pg_ctl")
    if found is None:
        pytest.fail(
            "the tests need PostgreSQL: `pip install pgserver`, or put `pg_ctl` on the PATH, or give the address of a "
            f"server in {VARIABLE}",
            pytrace=False,
        )
    return Path(found).resolve().parent


@contextmanager
def running() -> Iterator[Postgres]:
    """The server of this process, in a folder of its own if none is given."""
    given = os.environ.get(VARIABLE)
    if given:
        try:
            _execute(given, "SELECT 1")
        except psycopg.OperationalError as problem:
            pytest.fail(f"{VARIABLE} names a PostgreSQL that does not answer: {problem}", pytrace=False)
        server = Postgres(given)
        try:
            yield server
        finally:
            if server.template:
                drop_database(server.template)
        return
    with own_server() as own:
        yield own


@contextmanager
def own_server() -> Iterator[OwnServer]:
    """A server that a test may stop: always one of its own."""
    folder = Path(tempfile.mkdtemp(prefix="edgewise-pg-"))
    folder.chmod(0o755)
    own = OwnServer(folder)
    try:
        yield own
    finally:
        own.close()
