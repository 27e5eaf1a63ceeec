"""`serve` and `worker`: the processes of a coordinator."""

from __future__ import annotations

import errno
import logging
import signal
import socket
import sys
from typing import Annotated, Final

import typer

from coordinator.commands.console import Mistake, one_line_errors
from coordinator.commands.home import signing_key
from coordinator.commands.local import check_blobs, is_loopback, opened, read_settings
from coordinator.logs import start_logging
from coordinator.settings import Settings
from edge_runtime.protocol.errors import Refusal

FAILED: Final = 3
"""Exit status of a process that could not start for a reason that its log says."""
_BACKLOG: Final = 2048


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on [EDGEWISE_HOST or 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 for any free one [EDGEWISE_PORT or 8470]")] = None,
    no_worker: Annotated[
        bool, typer.Option("--no-worker", help="Serve alone; rounds are moved by `edgewise-coordinator worker`.")
    ] = False,
) -> None:
    """Serve devices and operators, with the worker inside. Stop it with Ctrl-C or SIGTERM, start it again at any time.

    At the first signal /readyz says draining, nobody new is let in, held check-ins are answered, and the worker
    finishes its step. A second signal stops at once; what was acknowledged is kept even then.

    edgewise-coordinator serve

    EDGEWISE_DATABASE_URL=postgresql://edgewise@db/edgewise edgewise-coordinator serve --host 0.0.0.0 --no-worker
    """
    with one_line_errors():
        settings = read_settings(host=host, port=port)
        signing_key(settings)
        check_blobs(settings)
        if not is_loopback(settings.host) and not _has_token(settings):
            beyond = f"{settings.host} is not a loopback address, and there is no operator token"
            raise Mistake(f"{beyond}; run `edgewise-coordinator init` first")
        with opened(settings) as database:
            database.engine.connect().close()
            listening = listen(settings)
    _start_logging(settings)
    name, bound_port = listening.getsockname()[:2]
    shown = f"[{name}]" if ":" in name else name
    typer.echo(f"edgewise-coordinator: listening on http://{shown}:{bound_port}")
    sys.stdout.flush()
    _run(settings, listening, with_worker=not no_worker)


def _run(settings: Settings, listening: socket.socket, *, with_worker: bool) -> None:
    from coordinator.app import create_app
    from coordinator.commands.draining import server_of

    server = server_of(create_app(settings, with_worker=with_worker), settings)
    server.run(sockets=[listening])
    if not server.started:
        raise typer.Exit(FAILED)  # the log says why


def worker() -> None:
    """Move rounds: choose participants, add up reports, make model versions. Run as many processes as you like.

    It needs the same settings as `serve`: database, blobs and key. At SIGTERM or Ctrl-C it finishes its step.

    edgewise-coordinator worker
    """
    from coordinator.app import create_worker
    from coordinator.store import migrate

    with one_line_errors():
        settings = read_settings()
        signing_key(settings)
        check_blobs(settings)
        with opened(settings) as database:
            _start_logging(settings)
            migrate.upgrade(database)
            moving = create_worker(settings, database)
            moving.resume()
            asked = (signal.SIGTERM, signal.SIGINT)
            signal.pthread_sigmask(signal.SIG_BLOCK, asked)
            moving.start()
            typer.echo("edgewise-coordinator: the worker is at work")
            sys.stdout.flush()
            signal.sigwait(asked)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, asked)  # a second one ends it at once
            moving.stop()


def _start_logging(settings: Settings) -> None:
    start_logging(settings.log_form, settings.log_level)
    logging.getLogger("uvicorn").setLevel(max(logging.WARNING, logging.getLogger().level))


def listen(settings: Settings) -> socket.socket:
    """A listening socket.

    Raises:
        Mistake: The port is in use, or the address is not of this machine.
    """
    try:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        return socket.create_server((settings.host, settings.port), family=family, backlog=_BACKLOG)
    except OSError as problem:
        if problem.errno == errno.EADDRINUSE:
            sentence = f"port {settings.port} is in use; stop what uses it, or choose another with --port (0: any)"
            raise Mistake(sentence) from None
        raise Mistake(f"cannot listen on {settings.host}:{settings.port}: {problem.strerror}") from None


def _has_token(settings: Settings) -> bool:
    from sqlalchemy.exc import SQLAlchemyError

    from coordinator.services import tenants

    with opened(settings) as database:
        try:
            with database.reading() as session:
                return tenants.has_token(session)
        except (SQLAlchemyError, Refusal):
            return False
