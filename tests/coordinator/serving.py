"""A coordinator on a real port of loopback, for commands that are given its address."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import uvicorn
from fastapi import FastAPI
from typer.testing import CliRunner, Result

from coordinator import cli
from coordinator.app import create_app
from tests.programme import Clock, Home, make_home, settings_in


@dataclass
class Served:
    """A coordinator that serves, and the commands as they are typed at it."""

    folder: Path
    address: str
    token_file: Path
    home: Home

    def run(self, *words: str) -> Result:
        """A command with the address and the token."""
        return run(*words, "--address", self.address, "--token-file", str(self.token_file))

    def out(self, *words: str) -> str:
        """What a command that goes well prints."""
        result = self.run(*words)
        assert result.exit_code == 0, result.output
        return result.stdout


def run(*words: str) -> Result:
    return CliRunner().invoke(cli.app, list(words), catch_exceptions=False)


def complaint(result: Result, status: int = 2) -> str:
    """The one line that a command says when it cannot."""
    assert result.exit_code == status, result.output
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("edgewise-coordinator: ")
    return line


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Served]:
    """Serve a new home in a thread; its worker moves when it is told to."""
    token = make_home(folder)
    token_file = folder / "operator.token"
    token_file.write_text(token)
    clock = Clock()
    app = create_app(settings_in(folder), now=clock, with_worker=False)
    with _listening(app) as address, httpx.Client(base_url=address, trust_env=False) as client:
        request: Callable[..., httpx.Response] = client.request
        yield Served(folder, address, token_file, Home(app, clock, token, request))


@contextlib.contextmanager
def _listening(app: FastAPI) -> Iterator[str]:
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=2))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
