"""`edgewise-coordinator`: make a coordinator's home, and serve it."""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import socket
import sys
import tempfile
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from pydantic import ValidationError

from coordinator.settings import Settings

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Samples devices, adds up their changes and releases better models. "
    "Settings come from EDGEWISE_* variables; without any, everything lives in ./edgewise-data.",
)


def _fail(sentence: str) -> NoReturn:
    typer.echo(f"edgewise-coordinator: {sentence}", err=True)
    raise typer.Exit(2)


def _settings(host: str | None = None, port: int | None = None) -> Settings:
    given = {key: value for key, value in {"host": host, "port": port}.items() if value is not None}
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except ValidationError as problem:
        first = problem.errors()[0]
        _fail(f"EDGEWISE_{'.'.join(map(str, first['loc'])).upper()} is wrong: {first['msg']}")


@app.command()
def init(
    tenant: Annotated[str, typer.Option(help="Name of the organisation: a-z 0-9 . _ -")],
    tenant_key: Annotated[
        str, typer.Option(help="Its public key, 64 hex digits, as `edgewise-export keygen` prints it")
    ],
    revoke: Annotated[bool, typer.Option("--revoke", help="Revoke the tenant's earlier operator tokens")] = False,
) -> None:
    """Make the database, the coordinator's key and an operator token. Running it again issues a new token."""
    from sqlalchemy.exc import SQLAlchemyError

    from coordinator.app import read_key, utc_now
    from coordinator.services import catalogue
    from coordinator.store import migrate
    from coordinator.store.database import Database
    from edge_runtime.protocol.errors import Refusal
    from edge_runtime.protocol.keys import PublicKey

    settings = _settings()
    try:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not settings.key_file().exists():
            _write_secret(settings.key_file(), os.urandom(32).hex())
        public = read_key(settings).public
        database = Database(settings.sqlalchemy_url())
        migrate.upgrade(database)
        with database.writing() as session:
            catalogue.create_tenant(session, tenant, PublicKey(_tenant_key(tenant_key)), utc_now())
            session.flush()
            if revoke:
                catalogue.revoke_tokens(session, tenant)
            token = catalogue.issue_token(session, tenant, utc_now())
        database.close()
        _write_secret(settings.token_file(), token)
    except Refusal as refusal:
        _fail(refusal.detail)
    except SQLAlchemyError as problem:
        _fail(f"the database cannot be used: {problem.__cause__ or problem}")
    except OSError as problem:
        _fail(f"the data folder {settings.data_dir} cannot be used: {problem.strerror}")
    typer.echo(f"coordinator key  {public.raw.hex()}   (compile it into the host app)")
    typer.echo(f"operator token   in {settings.token_file()}")


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on [EDGEWISE_HOST or 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 for any free one [EDGEWISE_PORT or 8470]")] = None,
) -> None:
    """Serve devices and operators, with the worker inside. Stop it with Ctrl-C; start it again at any time."""
    import uvicorn

    from coordinator.app import create_app, read_key
    from edge_runtime.protocol.errors import Refusal

    settings = _settings(host, port)
    try:
        read_key(settings)
    except FileNotFoundError:
        _fail(f"{settings.data_dir} is not a coordinator's home yet; run `edgewise-coordinator init` first")
    except (OSError, Refusal) as problem:
        _fail(f"the key file {settings.key_file()} cannot be used: {problem}")
    if not _is_loopback(settings.host) and not _has_token(settings):
        _fail(f"{settings.host} is not a loopback address, and there is no operator token; run `init` first")
    listening = _listen(settings)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    name, bound_port = listening.getsockname()[:2]
    shown = f"[{name}]" if ":" in name else name
    typer.echo(f"edgewise-coordinator: listening on http://{shown}:{bound_port}")
    sys.stdout.flush()
    config = uvicorn.Config(create_app(settings), access_log=False, log_level="warning", timeout_graceful_shutdown=2)
    uvicorn.Server(config).run(sockets=[listening])


def _tenant_key(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        _fail("--tenant-key is 64 hex digits; `edgewise-export keygen` prints it")


def _listen(settings: Settings) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        listening = socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    except OSError as problem:
        if problem.errno == errno.EADDRINUSE:
            _fail(f"port {settings.port} is in use; stop what uses it, or choose another with --port (0: any)")
        _fail(f"cannot listen on {settings.host}:{settings.port}: {problem.strerror}")
    return listening


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _has_token(settings: Settings) -> bool:
    from sqlalchemy.exc import SQLAlchemyError
    from sqlmodel import select

    from coordinator.store.database import Database
    from coordinator.store.tables import OperatorToken

    database = Database(settings.sqlalchemy_url())
    try:
        with database.reading() as session:
            return session.exec(select(OperatorToken)).first() is not None
    except SQLAlchemyError:
        return False
    finally:
        database.close()


def _write_secret(path: Path, text: str) -> None:
    """Replace a file that only its owner may read, whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    with os.fdopen(handle, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    Path(temporary).replace(path)


if __name__ == "__main__":
    app()
