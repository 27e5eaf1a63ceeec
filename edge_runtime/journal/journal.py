"""The journal: one state on disk, changed by pure functions, and on disk again before anything acts on the change."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from edge_runtime.journal.document import Document, Seen, decode_document, encode_document, encode_seen
from edge_runtime.journal.files import replace_file
from edge_runtime.journal.grouping import Grouping
from edge_runtime.journal.participation import (
    Event,
    Participation,
    Progress,
    Savepoint,
    Stored,
    Vector,
    saved,
    sealed,
    stepped,
    without_savepoint,
)
from edge_runtime.journal.participation import trained as with_change
from edge_runtime.journal.sealing import Seal
from edge_runtime.journal.state import Change as StateChange
from edge_runtime.journal.state import Personal, State, moved, sending, under_way
from edge_runtime.journal.stored import StoredFiles
from edge_runtime.protocol.errors import DeviceStorageFull, StateDamaged
from edge_runtime.protocol.keys import digest

JOURNAL_FILE: Final = "journal"
SEEN_FILE: Final = "journal.seen"

_FLOAT: Final = np.dtype("<f4")


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """Weights as this device trained them: float32, shape ``(manifest.parameters,)``."""

    bundle_sha256: str
    weights: Vector


class Witness(Protocol):
    """A third place for the epoch that a backup of the app's files does not hold: the host's key store, say.

    With it, a journal is also known as old when its whole folder was put back.
    """

    def read(self) -> int | None:
        """The last epoch that was written; None before the first."""

    def write(self, epoch: int) -> None:
        """Keep an epoch, durably."""


class Journal:
    """Opened by `open_journal`, for one process. Safe to use from several threads.

    Guarantee: a change that returned is on disk; one that raised did not happen or, if the disk failed at its very
    end, did, and `state` says which. A process killed at any instant leaves the state before or after the change.
    """

    def __init__(self, folder: Path, seal: Seal, document: Document, witness: Witness | None) -> None:
        self._folder = folder
        self._seal = seal
        self._document = document
        self._witness = witness
        self._told = True
        self._files = StoredFiles(folder, seal)
        self._turn = threading.RLock()

    @property
    def state(self) -> State:
        """What is on disk."""
        return self._document.state

    def update(self, change: StateChange) -> State:
        """Apply a change and return the state once it is on disk; no change, no write.

        Raises:
            Refusal: The change does not fit the state; nothing happened.
            DeviceStorageFull: There is no room; nothing happened.
        """
        with self._turn:
            before = self._document.state
            after = change(before)
            if after != before:
                self._write(after)
                self._files.drop(before.stored - after.stored)
            return after

    def save(self, progress: Progress) -> None:
        """Replace the savepoint; the vectors are on disk before the journal names them.

        Raises:
            StepNotAllowed: It goes back, is of another run, or training is over.
            DeviceStorageFull: There is no room; the savepoint before it still holds.
        """
        with self._turn:
            weights, slots = (vector.astype(_FLOAT, copy=False) for vector in (progress.weights, progress.slots))
            self._able_to(Event.SAVED)
            vectors = self._files.put(*(vector.view(np.uint8).data for vector in (weights, slots)))
            savepoint = Savepoint(
                epoch=progress.epoch,
                step=progress.step,
                order_seed=progress.order_seed,
                rng=progress.rng,
                snapshot=progress.snapshot,
                parameters=len(weights),
                slot_values=len(slots),
                vectors=vectors,
            )
            try:
                self.update(lambda state: moved(state, lambda held: saved(held, savepoint)))
            except Exception:
                self._drop_unnamed(vectors)
                raise

    def progress(self) -> Progress | None:
        """Where training continues; None at its start. A savepoint that was damaged is dropped: training begins anew.

        Raises:
            DeviceStorageFull: A damaged savepoint could not be dropped for want of room.
        """
        with self._turn:
            held = self.state.participation
            if held is None or held.savepoint is None:
                return None
            savepoint = held.savepoint
            try:
                raw = self._files.get(savepoint.vectors)
                if len(raw) != _FLOAT.itemsize * (savepoint.parameters + savepoint.slot_values):
                    raise StateDamaged("the savepoint's vectors have another length")
            except StateDamaged:
                self.update(lambda state: moved(state, without_savepoint))
                return None
            values = np.frombuffer(raw, _FLOAT).astype(np.float32)
            return Progress(
                epoch=savepoint.epoch,
                step=savepoint.step,
                order_seed=savepoint.order_seed,
                rng=savepoint.rng,
                snapshot=savepoint.snapshot,
                weights=values[: savepoint.parameters],
                slots=values[savepoint.parameters :],
            )

    def seal(self, report: bytes, trained: Trained | None = None) -> None:
        """End training with this report. From here on there is no other, and no training.

        Args:
            trained: The weights as they were trained here, to be kept in place of those before.

        Raises:
            StepNotAllowed: There is a report or an outcome already.
            DeviceStorageFull: There is no room; the savepoint still holds.
        """
        with self._turn:
            self._able_to(Event.SEALED)
            personal = self._put_personal(trained) if trained else None
            files = [personal.vectors] if personal else []
            try:
                stored, sha256 = self._files.put(memoryview(report)), digest(report).hex()
                files.append(stored)
                self.update(lambda state: _sealed(state, stored, sha256, personal))
            except Exception:
                self._drop_unnamed(*files)
                raise

    def seal_change(self, lanes: bytes, *, values: int, zeroed: str | None, trained: Trained | None) -> None:
        """End training with a change that a group is to sum; it never leaves as it is.

        Args:
            lanes: A report that is not masked yet.
            values: Its parameters.
            zeroed: Why it is zeros, if it is.
            trained: As in `seal`.

        Raises:
            StepNotAllowed, DeviceStorageFull: As `seal`.
        """
        with self._turn:
            self._able_to(Event.TRAINED)
            personal = self._put_personal(trained) if trained else None

            def ended(state: State, stored: Stored) -> State:
                grouping = Grouping(change=stored, values=values, zeroed=zeroed)
                after = moved(state, lambda held: with_change(held, grouping))
                return replace(after, personal=personal) if personal else after

            try:
                self.keep(lanes, ended)
            except Exception:
                self._drop_unnamed(*([personal.vectors] if personal else []))
                raise

    def keep(self, content: bytes, change: Callable[[State, Stored], State]) -> State:
        """Put bytes into a file of their own, on disk before the change names it.

        Raises:
            Refusal: The change does not fit the state; nothing happened.
            DeviceStorageFull: There is no room; nothing happened.
        """
        with self._turn:
            stored = self._files.put(memoryview(content))
            try:
                return self.update(lambda state: change(state, stored))
            except Exception:
                self._drop_unnamed(stored)
                raise

    def read(self, stored: Stored) -> bytes:
        """What `keep` was given.

        Raises:
            StateDamaged: It is gone, or not as it was written.
        """
        with self._turn:
            return self._files.get(stored)

    def personal(self, bundle_sha256: str) -> Vector | None:
        """The weights as this device trained them last with this bundle; None without any, or if they were damaged."""
        with self._turn:
            held = self.state.personal
            if held is None or held.bundle_sha256 != bundle_sha256:
                return None
            try:
                raw = self._files.get(held.vectors)
            except StateDamaged:
                return None
            return np.frombuffer(raw, _FLOAT).astype(np.float32)

    def _put_personal(self, trained: Trained) -> Personal:
        raw = trained.weights.astype(_FLOAT, copy=False).view(np.uint8).data
        return Personal(
            bundle_sha256=trained.bundle_sha256, parameters=len(trained.weights), vectors=self._files.put(raw)
        )

    def report_to_send(self) -> bytes:
        """Decide, on disk, that the report leaves, and return it: the same bytes every time.

        Raises:
            StepNotAllowed: There is no report to send.
            StateDamaged: It can no longer be read; let the participation expire.
            DeviceStorageFull: The decision could not be written: it must not leave.
        """
        with self._turn:
            held = self._able_to(Event.SENDING)
            if held.report is None:
                raise StateDamaged("the journal names no report")
            report = self._files.get(held.report)
            self.update(sending)
            return report

    def _drop_unnamed(self, *files: Stored) -> None:
        """After a change that failed. Not after a process that is ended: its change may be on disk, and name them."""
        self._files.drop([file for file in files if file not in self.state.stored])

    def _able_to(self, event: Event) -> Participation:
        """Ask the table before a file is written in vain."""
        held = under_way(self.state)
        stepped(held, event)
        return held

    def _write(self, state: State) -> None:
        """The order that lets a crash fall anywhere: what was seen last is never ahead, and at most one behind."""
        if not self._told:
            self._tell(self._document.place)
        raw, document = encode_document(state, self._document.place, self._seal)
        try:
            replace_file(self._folder / JOURNAL_FILE, raw)
        except (OSError, DeviceStorageFull):
            self._document = decode_document((self._folder / JOURNAL_FILE).read_bytes(), self._seal)
            self._told = False
            raise
        self._document, self._told = document, False
        with suppress(OSError, DeviceStorageFull):  # the change is on disk; the next one tells it first
            self._tell(document.place)

    def _tell(self, place: Seen) -> None:
        tell(self._folder, place, self._witness)
        self._told = True


def _sealed(state: State, report: Stored, sha256: str, personal: Personal | None) -> State:
    after = moved(state, lambda held: sealed(held, report, sha256))
    return replace(after, personal=personal) if personal else after


def tell(folder: Path, place: Seen, witness: Witness | None) -> None:
    """Note in the other places which document is the newest.

    Raises:
        DeviceStorageFull: There is no room.
    """
    replace_file(folder / SEEN_FILE, encode_seen(place))
    if witness is not None:
        witness.write(place.epoch)
