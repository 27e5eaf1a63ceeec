"""A bell that the worker rings when rounds change, for check-ins that are held open meanwhile."""

from __future__ import annotations

import asyncio
import contextlib


class Bell:
    """Rung from any thread, heard on the event loop."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._next = asyncio.Event()

    def attach(self) -> None:
        """Belong to the running event loop."""
        self._loop = asyncio.get_running_loop()

    def ring(self) -> None:
        """Wake everyone who listens; nothing happens when nobody can."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._ring)

    def listen(self) -> asyncio.Event:
        """The next ring; take it before looking at what it announces, so that none is missed."""
        return self._next

    def _ring(self) -> None:
        rung, self._next = self._next, asyncio.Event()
        rung.set()
