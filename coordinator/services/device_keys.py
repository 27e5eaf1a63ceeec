"""Devices' keys, as the coordinator verifies requests with them: by libsodium, in less than half the time of OpenSSL.

Both take every signature that an honest device makes. libsodium also refuses keys of small order, for which a signature
proves nothing. Why two libraries: docs/decisions/0017-requests-are-verified-by-libsodium.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from nacl.bindings import crypto_sign_open
from nacl.exceptions import CryptoError

from edge_runtime.protocol.errors import UntrustedDocument
from edge_runtime.protocol.keys import SIGNATURE_BYTES


@dataclass(frozen=True, slots=True)
class DeviceKey:
    """An Ed25519 public key of 32 raw bytes, which enrolment checked."""

    raw: bytes

    def verify(self, signature: bytes, message: bytes) -> None:
        """Return if the signature is by this key.

        Raises:
            UntrustedDocument: It is not.
        """
        if len(signature) != SIGNATURE_BYTES:
            raise UntrustedDocument(f"a signature has {SIGNATURE_BYTES} bytes, not {len(signature)}")
        try:
            crypto_sign_open(signature + message, self.raw)
        except (CryptoError, ValueError):
            raise UntrustedDocument("the signature is not by the expected key") from None
