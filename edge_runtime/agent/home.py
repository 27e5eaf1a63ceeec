"""The state folder as `edgewise-device` uses it: taken for one piece of work at a time, so that commands take turns.

What is the command's own lies in the folder `agent` within it, which the runtime leaves alone: the settings, the lock
of the one that runs, and the mark of an owner who opted out.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from edge_runtime.agent.settings import Settings
from edge_runtime.conditions.linux import LinuxSource
from edge_runtime.identity import adopt_key
from edge_runtime.journal import StateFolder, open_folder, open_journal, peek
from edge_runtime.journal.sealing import AppKey
from edge_runtime.protocol.errors import DeviceLeft, SchemaChanged, StateInUse
from edge_runtime.runtime import Runtime
from edge_runtime.surroundings import Log, quiet

FOLDER: Final = "agent"
SETTINGS: Final = "device.toml"
_LOCK: Final = "lock"
_LEFT: Final = "opted-out"
_LOOK_S: Final = 0.1


def settings_file(state: Path) -> Path:
    """Where `enrol` puts the settings of a state folder."""
    return state / FOLDER / SETTINGS


def app_key(settings: Settings) -> AppKey | None:
    """What seals the state; None where the settings name no key."""
    return None if settings.key_file is None else settings.storage_key


def has_left(settings: Settings) -> bool:
    """Whether the owner opted out: nothing works here any more until somebody enrols again."""
    return (settings.state / FOLDER / _LEFT).exists()


def mark_left(settings: Settings) -> None:
    """Note, before anything is deleted, that the owner opted out: nothing enrols by itself again."""
    _made(settings.state / FOLDER)
    (settings.state / FOLDER / _LEFT).touch()


def take_back(settings: Settings) -> None:
    """Forget that the owner opted out."""
    (settings.state / FOLDER / _LEFT).unlink(missing_ok=True)


@contextlib.contextmanager
def alone(settings: Settings) -> Iterator[None]:
    """Be the one that works on a folder, for as long as the block lasts, also between two slices.

    Raises:
        StateInUse: Another one is.
    """
    lock = os.open(_made(settings.state / FOLDER) / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StateInUse("another `edgewise-device run` works on this folder") from None
        yield
    finally:
        os.close(lock)


def taken(state: Path, wait_s: float = 0.0, give_up: Callable[[], bool] = lambda: False) -> StateFolder:
    """Take the folder, once whoever holds it has let go of it.

    Raises:
        StateInUse: Nobody did in that time.
        OSError: The folder cannot be used.
    """
    until = time.monotonic() + wait_s
    while True:
        try:
            return open_folder(state)
        except StateInUse:
            if time.monotonic() >= until or give_up():
                raise
        time.sleep(_LOOK_S)


@contextlib.contextmanager
def opened(
    settings: Settings,
    *,
    log: Log = quiet,
    declares: bool = True,
    leaving: bool = False,
    wait_s: float = 0.0,
    give_up: Callable[[], bool] = lambda: False,
) -> Iterator[Runtime]:
    """The runtime of a folder, for as long as the block lasts. A device key of an earlier version is taken over.

    Args:
        declares: Whether the collections of the settings are wanted.
        leaving: The owner opts out, perhaps once more.
        wait_s: How long to wait for another command to end.

    Raises:
        DeviceLeft: The owner opted out, and the coordinator knows it.
        Refusal: As `Runtime` and `Runtime.declare` say.
        OSError: The folder cannot be used.
    """
    if has_left(settings) and not leaving and not _is_leaving(settings):
        raise DeviceLeft("the owner took this device out; `edgewise-device enrol --again` takes part anew")
    with taken(settings.state, wait_s, give_up) as folder:
        journal = open_journal(folder, key=app_key(settings), now_s=time.time())
        if adopt_key(folder, journal, settings.installation.tenant):
            log("took over the device key of an earlier version")
    with Runtime(
        settings.state,
        settings.network,
        settings.installation,
        settings.roots,
        source=LinuxSource(settings.state),
        key=app_key(settings),
        floors=settings.floors,
        log=log,
    ) as runtime:
        if declares and not has_left(settings):
            _declare(runtime, settings)
        yield runtime


def _is_leaving(settings: Settings) -> bool:
    """Whether the coordinator does not know yet that the owner opted out."""
    state = peek(settings.state, key=app_key(settings))
    return state is not None and state.opted_out


def _declare(runtime: Runtime, settings: Settings) -> None:
    for collection in settings.collections:
        try:
            runtime.declare(collection)
        except SchemaChanged as refusal:
            sentence = f"{refusal.detail}; run: edgewise-device examples delete --collection {collection.name}"
            raise SchemaChanged(sentence) from None


def _made(folder: Path) -> Path:
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder
