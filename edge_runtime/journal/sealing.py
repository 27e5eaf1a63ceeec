"""What is stored is sealed: AES-256-GCM under a key of the host app's, or in the clear with a digest against damage."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import GCM

from edge_runtime.journal.files import own_memory
from edge_runtime.protocol.errors import WrongStorageKey

KEY_BYTES: Final = 32

AppKey: TypeAlias = Callable[[], bytes]
"""The host app's key store: returns the same 32 secret bytes at every call."""

_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16


class SealBroken(Exception):
    """The bytes are not what was sealed, or not with this key, or not for this place."""


class Seal(Protocol):
    """Closes bytes for one context, which is not stored, and opens them for the same one only."""

    @property
    def secret(self) -> bool:
        """Whether what it closes can be read without it."""

    @property
    def overhead_bytes(self) -> int:
        """How much longer bytes become."""

    def close(self, plain: bytes, context: bytes) -> bytes:
        """Seal the bytes."""

    def close_large(self, parts: Sequence[memoryview], context: bytes) -> memoryview:
        """Seal the parts, one after another, as `close` does, without a copy of what they hold beside the result."""

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """Return what was sealed.

        Raises:
            SealBroken: It was not sealed so.
        """


class SecretSeal:
    """AES-256-GCM with a fresh random 96-bit nonce in front; good for 2^32 closings under one key.

    Source: NIST SP 800-38D, 8.2.2 and 8.3.
    """

    secret: Final = True
    overhead_bytes: Final = _NONCE_BYTES + _TAG_BYTES

    def __init__(self, key: bytes) -> None:
        self._key = AES256(key)
        self._cipher = AESGCM(key)

    def close(self, plain: bytes, context: bytes) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, plain, context)

    def close_large(self, parts: Sequence[memoryview], context: bytes) -> memoryview:
        sealed, written = own_memory(self.overhead_bytes + _bytes_of(parts)), _NONCE_BYTES
        sealed[:_NONCE_BYTES] = nonce = os.urandom(_NONCE_BYTES)
        encryptor = Cipher(self._key, GCM(nonce)).encryptor()
        encryptor.authenticate_additional_data(context)
        for part in parts:
            written += encryptor.update_into(part, sealed[written:])
        encryptor.finalize()
        sealed[written:] = encryptor.tag
        return sealed

    def open(self, sealed: bytes, context: bytes) -> bytes:
        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], context)
        except (InvalidTag, ValueError):
            raise SealBroken("the seal does not open") from None


class OpenSeal:
    """No secrecy: the bytes, behind 16 bytes of a SHA-256 over context and bytes, so that damage is found."""

    secret: Final = False
    overhead_bytes: Final = _TAG_BYTES

    def close(self, plain: bytes, context: bytes) -> bytes:
        return self._tag((plain,), context) + plain

    def close_large(self, parts: Sequence[memoryview], context: bytes) -> memoryview:
        sealed, written = own_memory(self.overhead_bytes + _bytes_of(parts)), _TAG_BYTES
        sealed[:_TAG_BYTES] = self._tag(parts, context)
        for part in parts:
            sealed[written : written + part.nbytes] = part
            written += part.nbytes
        return sealed

    def open(self, sealed: bytes, context: bytes) -> bytes:
        plain = sealed[_TAG_BYTES:]
        if sealed[:_TAG_BYTES] != self._tag((plain,), context):
            raise SealBroken("the digest is another")
        return plain

    def _tag(self, parts: Sequence[bytes | memoryview], context: bytes) -> bytes:
        state = hashlib.sha256(len(context).to_bytes(8, "little") + context)
        for part in parts:
            state.update(part)
        return state.digest()[:_TAG_BYTES]


def _bytes_of(parts: Sequence[memoryview]) -> int:
    return sum(part.nbytes for part in parts)


def seal_of(key: AppKey | None, purpose: bytes) -> Seal:
    """The seal for one purpose under the app's key, or in the clear when the app chose to have no key.

    Raises:
        WrongStorageKey: The app's key store gave no 32 bytes.
    """
    if key is None:
        return OpenSeal()
    root = key()
    if len(root) != KEY_BYTES:
        raise WrongStorageKey(f"the app's key store gave {len(root)} bytes and not {KEY_BYTES}")
    return SecretSeal(hmac.digest(root, purpose, "sha256"))
