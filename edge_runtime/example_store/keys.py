"""Each collection has a data key of its own, sealed by the app's: deleting it makes what it sealed unreadable."""

from __future__ import annotations

import hmac
import os
from typing import Final

from edge_runtime.example_store.collection import Collection
from edge_runtime.journal.sealing import KEY_BYTES, OpenSeal, Seal, SealBroken, SecretSeal
from edge_runtime.protocol.errors import StateDamaged

_EXAMPLE: Final = b"edgewise/example/v1\0"
_DATA_KEY: Final = b"edgewise/collection-key/v1\0"
_FINGERPRINT: Final = b"edgewise/fingerprint/v1"
_SEALING: Final = b"edgewise/sealing/v1"


class DataKey:
    """Seals the examples of one collection, each for its id, and knows one again without showing it."""

    def __init__(self, raw: bytes, place: bytes, *, secret: bool) -> None:
        self._context_of_all = _EXAMPLE + place
        self._fingerprints = hmac.digest(raw, _FINGERPRINT, "sha256")
        self._seal: Seal = SecretSeal(hmac.digest(raw, _SEALING, "sha256")) if secret else OpenSeal()

    def close(self, plain: bytes, row: int) -> bytes:
        """Seal an example under its id."""
        return self._seal.close(plain, self._context(row))

    def open(self, sealed: bytes, row: int) -> bytes:
        """Return an example.

        Raises:
            SealBroken: It is not as it was written, or was written under another id, collection or schema.
        """
        return self._seal.open(sealed, self._context(row))

    def fingerprint(self, plain: bytes) -> bytes:
        """HMAC-SHA256 of an example: equal for equal ones, and nothing to whoever lacks the key."""
        return hmac.digest(self._fingerprints, plain, "sha256")

    def _context(self, row: int) -> bytes:
        return self._context_of_all + row.to_bytes(8, "little")


def place_of(name: str, schema_sha256: bytes) -> bytes:
    """What binds a seal to a collection and its schema."""
    return schema_sha256 + name.encode() + b"\0"


def new_data_key(collection: Collection, seal: Seal) -> bytes:
    """A fresh data key, sealed for this collection and schema."""
    return seal.close(os.urandom(KEY_BYTES), _DATA_KEY + place_of(collection.name, collection.schema_sha256))


def open_data_key(sealed: bytes, name: str, schema_sha256: bytes, seal: Seal) -> DataKey:
    """Take a data key out of its seal.

    Raises:
        StateDamaged: It is not as it was written.
    """
    place = place_of(name, schema_sha256)
    try:
        raw = seal.open(sealed, _DATA_KEY + place)
    except SealBroken:
        raise StateDamaged("a collection's key is not as it was written") from None
    return DataKey(raw, place, secret=seal.secret)
