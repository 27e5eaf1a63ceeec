"""The HTTP server of `serve`, and how it ends: nobody new, whoever waits is answered, exit status 0."""

from __future__ import annotations

import asyncio
import gc
import socket
from types import FrameType
from typing import Final

import uvicorn
from fastapi import FastAPI

from coordinator.settings import Settings

FINISH_S: Final = 25
"""Requests that are being answered have so long after a signal; less than the 30 s that most surroundings wait."""

_COLLECT_AFTER: Final = (50_000, 20, 50)
"""Python looks for cycles after so many new objects. Its 700 are used up by ten requests, and each look goes through
those of hundreds more that wait: a fifth of the time of a check-in."""


class DrainingServer(uvicorn.Server):
    """A server that says that it is about to stop, answers whoever waits, and then stops without an error.

    Args:
        drain_s: How long it still listens while `/readyz` says draining, for balancers that ask now and then.
    """

    def __init__(self, config: uvicorn.Config, app: FastAPI, drain_s: float) -> None:
        super().__init__(config)
        self._app = app
        self._drain_s = drain_s

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start; what is there by now stays as long as the process, and is never looked at for cycles again."""
        await super().startup(sockets)
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_COLLECT_AFTER)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain; at a second signal, stop at once.

        uvicorn would raise the signal again at the end; to be asked to stop is no error, so nothing is kept for that.
        """
        if self.should_exit or self._app.state.draining:
            self.should_exit = self.force_exit = True
            return
        self._app.state.draining = True
        self._app.state.parts.bell.ring()
        if self._drain_s == 0:
            self.should_exit = True
        else:
            asyncio.get_running_loop().call_later(self._drain_s, self._stop)

    def _stop(self) -> None:
        self.should_exit = True


def server_of(app: FastAPI, settings: Settings) -> DrainingServer:
    """A server for an application; its logs are the process's own."""
    config = uvicorn.Config(
        app, access_log=False, log_config=None, timeout_graceful_shutdown=FINISH_S, server_header=False
    )
    return DrainingServer(config, app, settings.drain_s)
