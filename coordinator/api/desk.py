"""A desk: those who come while a batch is being committed make the next batch. One for check-ins, one for all else.

No timer gathers a batch: an idle desk answers one alone and at once, a busy one commits many together. One thread works
on one batch at a time. Everything else here runs on the event loop, so there is nothing to lock.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Generic, TypeVar

from edge_runtime.protocol.errors import Refusal

_log = logging.getLogger("edgewise.desk")

LARGEST_BATCH: Final = 256
"""About 50 ms of work: nobody waits much longer for a batch that began just before."""

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")
_Waiting = tuple[Asked, "asyncio.Future[Answer]"]


class DeskFull(Exception):
    """More wait than can be answered soon."""


class Desk(Generic[Asked, Answer]):
    """Takes requests on the event loop, and has them answered in batches.

    Args:
        answer: Answers or refuses each of a batch, in another thread.
        most_waiting: Nobody else is taken while so many wait.
    """

    def __init__(self, answer: Callable[[Sequence[Asked]], Sequence[Answer | Refusal]], most_waiting: int) -> None:
        self._answer = answer
        self._most_waiting = most_waiting
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="edgewise-desk")
        self._waiting: list[_Waiting[Asked, Answer]] = []
        self._working = False

    def waiting(self) -> int:
        """How many wait for the next batch."""
        return len(self._waiting)

    @property
    def full(self) -> bool:
        return len(self._waiting) >= self._most_waiting

    async def ask(self, asked: Asked) -> Answer:
        """Wait for an answer, which is durable then.

        Raises:
            DeskFull: Too many wait already; nothing was done.
            Refusal: As the answer says.
        """
        if self.full:
            raise DeskFull
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Answer] = loop.create_future()
        self._waiting.append((asked, answered))
        if not self._working:
            self._working = True
            loop.call_soon(self._begin, loop)
        return await answered

    def close(self) -> None:
        """Finish the batch at hand."""
        self._thread.shutdown()

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        batch = [one for one in self._waiting[:LARGEST_BATCH] if not one[1].done()]
        del self._waiting[:LARGEST_BATCH]
        if batch:
            self._thread.submit(self._work, loop, batch)
        else:
            self._working = False

    def _work(self, loop: asyncio.AbstractEventLoop, batch: list[_Waiting[Asked, Answer]]) -> None:
        told = self._told([asked for asked, _answered in batch])
        loop.call_soon_threadsafe(self._finish, loop, batch, told)

    def _told(self, batch: Sequence[Asked]) -> Sequence[Answer | BaseException]:
        try:
            return self._answer(batch)
        except Refusal as refusal:
            return [type(refusal)(refusal.detail, retry_after_s=refusal.retry_after_s) for _asked in batch]
        except Exception as bug:
            if len(batch) == 1:
                return [bug]
            _log.warning("a batch of %d requests failed; each is answered alone", len(batch), exc_info=bug)
            return [told for asked in batch for told in self._told([asked])]
        except BaseException as death:
            return [death] * len(batch)

    def _finish(
        self,
        loop: asyncio.AbstractEventLoop,
        batch: list[_Waiting[Asked, Answer]],
        told: Sequence[Answer | BaseException],
    ) -> None:
        for (_asked, answered), what in zip(batch, told, strict=True):
            if answered.done():
                continue  # whoever waited is gone
            if isinstance(what, BaseException):
                answered.set_exception(what)
            else:
                answered.set_result(what)
        self._begin(loop)
