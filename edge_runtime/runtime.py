"""The runtime that an app bundles: one object, one folder, and a slice of work whenever the system has time for it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edge_runtime.outcomes import Happened, SliceEnd, Why
from edge_runtime.protocol.errors import StateInUse
from edge_runtime.protocol.reasons import Outcome
from edge_runtime.schedule import Floors
from edge_runtime.watch import never_stops

if TYPE_CHECKING:
    import asyncio
    from pathlib import Path
    from types import TracebackType

    from edge_runtime.conditions import Source
    from edge_runtime.device import Transport
    from edge_runtime.example_store import Added, Collection, Statistics
    from edge_runtime.examples import Examples, Features
    from edge_runtime.inference import Outputs
    from edge_runtime.journal import AppKey, Witness
    from edge_runtime.model import Engine
    from edge_runtime.protocol.keys import TrustRoots
    from edge_runtime.session.enrol import Installation
    from edge_runtime.surroundings import Log, Surroundings

_AGAIN_S = 900.0


@dataclass(slots=True)
class _Turn:
    """One slice at a time, and a way to end it early."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    ending: threading.Event = field(default_factory=threading.Event)


class Runtime:
    """Federated learning on this device. Safe to use from several threads; one process a folder.

    Nothing runs by itself: the app calls `run_slice` when its system gives background time. Close it at the end, or
    use it as a context manager. No thread and no connection is left between two calls.
    """

    def __init__(
        self,
        state: Path,
        transport: Transport,
        installation: Installation,
        roots: TrustRoots,
        *,
        source: Source,
        key: AppKey | None,
        floors: Floors | None = None,
        engine: Engine | None = None,
        witness: Witness | None = None,
        log: Log | None = None,
        surroundings: Surroundings | None = None,
    ) -> None:
        """Open the state folder, made if need be; nothing is sent.

        Args:
            state: A folder of the app's own that backups leave out. Everything is kept there.
            transport: The way to the coordinator: a `Network`, an httpx.Client whose base_url it is, or a function
                that carries one request.
            installation: Tenant, population, app, its version, platform, and what cohorts ask for.
            roots: The two public keys that are compiled into the app.
            source: Where conditions come from (`edge_runtime.conditions`).
            key: Returns the 32 secret bytes that seal what is stored, from the system's key store; None stores in the
                clear.
            floors: What the coordinator cannot loosen; None for the protocol's defaults.
            engine: What opens bundles; None for the interpreter that is installed.
            witness: A place outside the folder that finds a whole folder that was put back.
            log: Takes one plain sentence a time; what it raises is ignored. None for nobody.
            surroundings: Clocks, chance and time zone; None for the system's.

        Raises:
            StateInUse: Another process, or another runtime of this one, holds the folder.
            WrongStorageKey: The key does not open what is there, which stays as it is.
            UnsupportedVersion: A later version of the app wrote it.
            DeviceStorageFull: There is no room to begin.
            OSError: The folder cannot be used.
        """
        # Here and not above: an app imports its names whenever it starts, and opens a runtime when it has work for it.
        from edge_runtime.work import Work, open_device

        self._device = open_device(
            state,
            transport,
            installation,
            roots,
            source=source,
            key=key,
            floors=floors or Floors(),
            engine=engine,
            witness=witness,
            log=log,
            around=surroundings,
        )
        self._work = Work(self._device)
        self._turn = _Turn()
        self._closed = False
        if self._device.state.opted_out:
            self._work.forget()
        self._work.tidy()

    # --- examples -----------------------------------------------------------------------------------------------

    def declare(self, collection: Collection, *, drop_other_schema: bool = False) -> None:
        """Say what a collection holds, at every start before it is used. The first one is what plans train on.

        Args:
            drop_other_schema: Delete examples of another schema, instead of refusing.

        Raises:
            SchemaChanged: It holds examples of another schema; nothing happened.
            DeviceStorageFull: There is no room.
            DeviceLeft: The owner opted out.
        """
        self._device.examples.declare(collection, drop_other_schema=drop_other_schema)
        self._device.collections[collection.name] = collection

    def add(self, name: str, examples: Examples) -> Added:
        """Keep all of these examples in a declared collection, or none. Beyond its quota the oldest go.

        Args:
            examples: `x` of shape ``(count, *features.shape)``, `y` of shape ``(count, *labels.shape)``, each of the
                collection's dtype and with values in its range.

        Raises:
            UnknownCollection: It was not declared.
            InvalidExamples: One does not fit the schema.
            DeviceStorageFull: There is no room.
            DeviceLeft: The owner opted out.
        """
        return self._device.examples.add(name, examples, self._device.now_s)

    def expire(self) -> int:
        """Delete what is past its time to live, in every collection; how many examples went. Slices do it too."""
        return self._device.examples.expire(self._device.now_s)

    def delete(self, name: str, ids: Iterable[int] | None = None) -> int:
        """Delete examples by the ids that `add` returned, or a whole collection; how many went."""
        store = self._device.examples
        if ids is not None:
            return store.delete(name, ids)
        count = store.statistics(name, self._device.now_s).count if name in self._device.collections else 0
        store.delete_collection(name)
        self._device.collections.pop(name, None)
        return count

    def statistics(self, name: str) -> Statistics:
        """Count a declared collection: examples, bytes, classes, ages. It stays on the device."""
        return self._device.examples.statistics(name, self._device.now_s)

    # --- work ---------------------------------------------------------------------------------------------------

    def run_slice(self, deadline_s: float, stop: Callable[[], bool] = never_stops) -> SliceEnd:
        """Go on with what there is to do, for as long as conditions hold: check in, fetch, train, report.

        Every expected failure is an end with a reason; none is raised. Training stops within 2 s of a condition that
        is lost, of `stop` or of the deadline, if a step takes less than a second; a request that is answered slowly
        ends at the latest after the network's `read_s`.

        Args:
            deadline_s: How long it may take, in seconds; the policy's `slice_s` holds too.
            stop: Whether the system wants it to end; asked before every step.

        Returns:
            What happened, why, when to come back, and whether work is left (which is its truth value, so that this
            method is a `conditions.phone.RunSlice`).
        """
        if not self._turn.lock.acquire(blocking=False):
            return SliceEnd(happened=Happened.REFUSED, reason=StateInUse.code, come_back_s=_AGAIN_S)
        try:
            if self._closed:
                return self._opted_out(0.0)
            if self._device.state.opted_out:
                return self._leave()
            end = self._work.run(deadline_s, lambda: stop() or self._turn.ending.is_set())
            if end.happened is Happened.OPTED_OUT:
                self._work.forget()
                return self._leave()
            self._work.tidy()
            return end
        finally:
            self._turn.lock.release()

    async def arun_slice(self, deadline_s: float, stop: Callable[[], bool] = never_stops) -> SliceEnd:
        """`run_slice` on a thread of its own that has ended when this returns, or is cancelled.

        A cancelled slice is stopped as by `stop`, and waited for.
        """
        import asyncio
        from concurrent.futures import ThreadPoolExecutor

        cancelled = threading.Event()
        with ThreadPoolExecutor(1, "edgewise-slice") as thread:
            work: asyncio.Future[SliceEnd] = asyncio.get_running_loop().run_in_executor(
                thread, self.run_slice, deadline_s, lambda: stop() or cancelled.is_set()
            )
            try:
                return await asyncio.shield(work)
            except asyncio.CancelledError:
                cancelled.set()
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([work])
                raise

    def why(self) -> Why:
        """Why nothing is trained just now: the first reason, what is unknown, and how the last slices ended."""
        return self._work.why(closed=self._closed)

    # --- the model ----------------------------------------------------------------------------------------------

    def infer(self, x: Features, *, personalised: bool = False) -> Outputs:
        """Run the model on some examples; the network is never touched.

        Args:
            x: Shape ``(count, *features.shape)``, of the manifest's dtype, values in its range.
            personalised: With this device's own weights: its personal tensors within the released model or, where the
                model has none, all weights as they were trained here last. Before the first training: as released.

        Returns:
            Every output by its name in the manifest, float32, shape ``(count, *output.shape)``.

        Raises:
            NotFound: No released model is here yet; slices, and `renew`, fetch it.
            InvalidExamples: `x` does not fit.
            InterpreterMissing, InterpreterFailed: As they say.
        """
        return self._work.infer(x, own=personalised)

    def renew(self) -> int:
        """Fetch the released model now, whatever the conditions; its version. Slices do it daily if the app infers.

        Raises:
            Unreachable: No answer.
            Refusal: There is none yet, or it is not what digests and trust roots say.
        """
        with self._exclusive():
            return self._work.renew()

    # --- the end ------------------------------------------------------------------------------------------------

    def opt_out(self) -> bool:
        """Take the device out: stop what runs, delete everything, and tell the coordinator, whatever the conditions.

        Returns:
            True if the coordinator knows: nothing is left, and the runtime is closed. False if it gave no answer:
            nothing is left but the sealed key, with which later slices tell it.
        """
        with self._exclusive():
            if self._closed:
                return True
            self._work.forget()
            return self._leave().come_back_s == 0.0

    def close(self) -> None:
        """End a slice that runs, wait for it, and let go of the folder; twice is once."""
        with self._exclusive():
            if not self._closed:
                self._closed = True
                self._work.close()

    def __enter__(self) -> Runtime:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """End a slice that runs, and let none begin."""
        self._turn.ending.set()
        with self._turn.lock:
            self._turn.ending.clear()
            yield

    def _leave(self) -> SliceEnd:
        """Tell the coordinator that the owner opted out and, once it knows, forget that too."""
        if not self._work.left():
            return self._opted_out(_AGAIN_S)
        self._closed = True
        return self._opted_out(0.0)

    def _opted_out(self, after_s: float) -> SliceEnd:
        return SliceEnd(happened=Happened.OPTED_OUT, reason=Outcome.OPTED_OUT, come_back_s=after_s)
