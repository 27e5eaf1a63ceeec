"""Opening a journal: believed, begun, or started anew."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edge_runtime.journal.document import (
    NOTHING_SEEN,
    Document,
    Seen,
    decode_document,
    decode_seen,
    encode_document,
)
from edge_runtime.journal.files import replace_file
from edge_runtime.journal.folder import StateFolder
from edge_runtime.journal.journal import JOURNAL_FILE, SEEN_FILE, Journal, Witness, tell
from edge_runtime.journal.sealing import AppKey, Seal, seal_of
from edge_runtime.journal.state import Restart, Restarted, State
from edge_runtime.journal.stored import StoredFiles
from edge_runtime.protocol.errors import StateDamaged, WrongStorageKey

_PURPOSE: Final = b"edgewise/journal/v1"


@dataclass(frozen=True, slots=True)
class _Places:
    """What the other places say of the journal: the file beside it, and the witness (None without one)."""

    seen: Seen | None
    """None if it cannot be read."""
    witnessed: int | None

    @property
    def empty(self) -> bool:
        return self.seen == NOTHING_SEEN and not self.witnessed

    def know(self, document: Document) -> bool:
        """Whether the document is the newest that was written, as far as the places can tell."""
        epoch = document.place.epoch
        in_time = self.witnessed is None or epoch in (self.witnessed, self.witnessed + 1)
        return in_time and self.seen is not None and document.follows(self.seen)

    def told_of(self, document: Document) -> bool:
        return self.seen == document.place and self.witnessed in (None, document.place.epoch)


def open_journal(
    folder: StateFolder,
    *,
    key: AppKey | None,
    now_s: float,
    witness: Witness | None = None,
    start_over: bool = False,
) -> Journal:
    """Open the journal of a folder, made at the first call. `journal.state.restarted` says whether it lost its past.

    A journal that is damaged, or older than what was seen of it, is not believed: it is started anew, without
    identity, participation, report or savepoint, so that nothing is trained or sent a second time.

    Args:
        folder: Held by this process.
        key: Seals identity, reports and savepoints; None is the choice to store them in the clear.
        now_s: Seconds since the epoch.
        witness: Where to keep the epoch a third time.
        start_over: Start anew where the key does not open what is there, instead of refusing.

    Raises:
        WrongStorageKey: The key does not open what is there, which stays as it is.
        UnsupportedVersion: A later version of the app wrote it; it stays as it is.
        DeviceStorageFull: There is no room to begin.
        OSError: The folder cannot be used.
    """
    seal = seal_of(key, _PURPOSE)
    places = _Places(_seen(folder.path), None if witness is None else witness.read() or 0)
    try:
        document = _read(folder.path, seal)
        why = _doubt(document, places)
    except StateDamaged:
        document, why = None, Restart.DAMAGED
    except WrongStorageKey:
        if not start_over:
            raise
        document, why = None, Restart.KEY_LOST
    if document is None or why is not None:
        state = State(restarted=Restarted(why=why, at_s=now_s) if why else None)
        raw, document = encode_document(state, _latest(document, places), seal)
        replace_file(folder.path / JOURNAL_FILE, raw)
    if not places.told_of(document):
        tell(folder.path, document.place, witness)
    StoredFiles(folder.path, seal).keep_only(document.state.stored)
    return Journal(folder.path, seal, document, witness)


def peek(path: Path, *, key: AppKey | None) -> State | None:
    """What the journal of a folder says, without taking the folder: for a look from outside. None if there is none.

    Nothing is written, and whoever holds the folder may be past it already.

    Raises:
        StateDamaged, WrongStorageKey, UnsupportedVersion: It cannot be read.
        OSError: The folder cannot be used.
    """
    document = _read(path, seal_of(key, _PURPOSE))
    return None if document is None else document.state


def _doubt(document: Document | None, places: _Places) -> Restart | None:
    """Why what was found is not believed, or None."""
    if document is None:
        return None if places.empty else Restart.DAMAGED
    if places.seen is None:
        return Restart.DAMAGED
    return None if places.know(document) else Restart.ROLLED_BACK


def _latest(document: Document | None, places: _Places) -> Seen:
    """The place after which to begin: no epoch is ever used twice."""
    seen = places.seen or NOTHING_SEEN
    epochs = [seen.epoch, places.witnessed or 0, document.place.epoch if document else 0]
    return Seen(max(epochs), seen.sha256) if any(epochs) else NOTHING_SEEN


def _read(path: Path, seal: Seal) -> Document | None:
    try:
        raw = (path / JOURNAL_FILE).read_bytes()
    except FileNotFoundError:
        return None
    return decode_document(raw, seal)


def _seen(path: Path) -> Seen | None:
    try:
        return decode_seen((path / SEEN_FILE).read_bytes())
    except FileNotFoundError:
        return NOTHING_SEEN
    except StateDamaged:
        return None
