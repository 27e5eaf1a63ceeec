"""Keys, trust roots and the signatures of documents.

A document signature is Ed25519 over a domain and the SHA-256 of the document, so that no signature made for one kind
of document is ever valid for another. Verification raises; it never returns a flag.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from edge_runtime.protocol.errors import Malformed, UntrustedDocument

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SIGNATURE_BYTES = 64
PUBLIC_KEY_BYTES = 32
DIGEST_BYTES = 32

_SHA256 = re.compile(r"[0-9a-f]{64}")
_ID = re.compile(r"[0-9a-f]{32}")


class Domain(StrEnum):
    """What a document signature is for."""

    BUNDLE = "edgewise/bundle/v1"
    CHECKPOINT = "edgewise/checkpoint/v1"
    PLAN = "edgewise/plan/v1"
    ROUND = "edgewise/round/v1"


@dataclass(frozen=True, slots=True)
class PublicKey:
    """An Ed25519 public key of 32 raw bytes."""

    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) != PUBLIC_KEY_BYTES:
            raise Malformed(f"a public key has {PUBLIC_KEY_BYTES} bytes, not {len(self.raw)}")

    def verify(self, signature: bytes, message: bytes) -> None:
        """Return if the signature is by this key.

        Raises:
            UntrustedDocument: It is not.
        """
        # At first use: an app that names its trust roots has not verified anything yet.
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except (InvalidSignature, ValueError):
            raise UntrustedDocument("the signature is not by the expected key") from None


@dataclass(frozen=True, slots=True)
class SigningKey:
    """An Ed25519 private key of 32 raw bytes, kept out of `repr` and logs."""

    raw: bytes = field(repr=False)
    _key: Ed25519PrivateKey = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.raw) != PUBLIC_KEY_BYTES:
            raise Malformed(f"a signing key has {PUBLIC_KEY_BYTES} bytes, not {len(self.raw)}")
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        object.__setattr__(self, "_key", Ed25519PrivateKey.from_private_bytes(self.raw))

    @property
    def public(self) -> PublicKey:
        return PublicKey(self._key.public_key().public_bytes_raw())

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message)


@dataclass(frozen=True, slots=True)
class TrustRoots:
    """The two keys compiled into the host app: everything a device believes is signed by one of them."""

    tenant: PublicKey
    """Signs bundles and plans; kept offline by the app's owner."""
    coordinator: PublicKey
    """Signs checkpoints; held by the coordinator."""
    authority: PublicKey | None = None
    """Certifies devices for groups that sum securely; None takes no part in any."""


def digest(*parts: bytes | memoryview) -> bytes:
    """SHA-256 of the parts, one after another."""
    state = hashlib.sha256()
    for part in parts:
        state.update(part)
    return state.digest()


def sign_document(key: SigningKey, domain: Domain, document_digest: bytes) -> bytes:
    """Sign a document of one domain by its SHA-256; 64 bytes."""
    return key.sign(_message(domain, document_digest))


def verify_document(key: PublicKey, domain: Domain, document_digest: bytes, signature: bytes) -> None:
    """Return if the document was signed by `key` for this domain.

    Raises:
        UntrustedDocument: It was not.
    """
    key.verify(signature, _message(domain, document_digest))


def is_sha256(text: str) -> bool:
    """Whether a text is the address of a blob or document: 64 lower-case hex digits."""
    return _SHA256.fullmatch(text) is not None


def is_id(text: str) -> bool:
    """Whether a text is an id of a device, participation or visit: 32 lower-case hex digits."""
    return _ID.fullmatch(text) is not None


def device_id(tenant: str, key: PublicKey) -> str:
    """The id of a device: 32 hex digits that tenant and device key determine, so that enrolling twice is harmless."""
    return digest(b"edgewise/device/v1\0", tenant.encode(), b"\0", key.raw).hex()[:32]


def _message(domain: Domain, document_digest: bytes) -> bytes:
    if len(document_digest) != DIGEST_BYTES:
        raise Malformed("a document is signed by its SHA-256 of 32 bytes")
    return domain.value.encode() + b"\0" + document_digest
