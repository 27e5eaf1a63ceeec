"""The tenant's signing key on disk: 32 bytes as hex in a file that only its owner can read."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from edge_runtime.protocol.errors import Malformed
from edge_runtime.protocol.keys import SigningKey


def create(path: Path) -> SigningKey:
    """Write a fresh key.

    Raises:
        FileExistsError: There is a file already; a key is never overwritten.
    """
    raw = secrets.token_bytes(32)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(raw.hex() + "\n")
    return SigningKey(raw)


def read(path: Path) -> SigningKey:
    """Read a key that `create` wrote.

    Raises:
        Malformed: The file does not hold 64 hex digits.
        OSError: It cannot be read.
    """
    try:
        return SigningKey(bytes.fromhex(path.read_text("ascii").strip()))
    except ValueError:  # what was read is a secret: it stays out of the message
        raise Malformed(f"{path} does not hold a key of 64 hex digits") from None
