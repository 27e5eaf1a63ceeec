"""Who this installation is: one key in one file, made at the first visit and never sent anywhere."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from edge_runtime.protocol.errors import Malformed
from edge_runtime.protocol.keys import SigningKey

_KEY_FILE = "device.key"


def load_identity(state: Path) -> SigningKey:
    """Return the device key of a state folder, made at the first call; readable by its owner alone.

    Raises:
        Malformed: The file is not a key.
        OSError: The folder cannot be used.
    """
    state.mkdir(parents=True, exist_ok=True)
    path = state / _KEY_FILE
    with contextlib.suppress(FileExistsError):
        _create(path, os.urandom(32).hex())
    try:
        return SigningKey(bytes.fromhex(path.read_text().strip()))
    except ValueError:
        raise Malformed(f"{path} is not a device key; delete it to enrol as a new device") from None


def _create(path: Path, text: str) -> None:
    """Write a new file whole or not at all: a crash never leaves half a key."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
