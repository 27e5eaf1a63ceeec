"""Devices' keys, as the coordinator verifies requests with them: by libsodium, in less than half the time of OpenSSL.

Both take every signature that an honest device makes. libsodium also refuses keys of small order, for which a signature
proves nothing. Why two libraries: docs/decisions/0017-requests-are-verified-by-libsodium.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from nacl.bindings import crypto_sign_open
from nacl.exceptions import CryptoError

from edge_runtime.protocol.errors import Refusal, ReplayedRequest, UnknownDevice, UntrustedDocument
from edge_runtime.protocol.keys import SIGNATURE_BYTES
from edge_runtime.protocol.signing import SignedBy, verify_request


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


def unproven(claim: SignedBy, key: bytes | None, method: str, target: str, now: int) -> Refusal | None:
    """Why a request is not one of the device that it names; None if it is.

    Args:
        key: Of the device; None where none is enrolled under that id.
        now: Seconds since the epoch.
    """
    if key is None:
        return UnknownDevice("enrol first")
    try:
        verify_request(claim, DeviceKey(key), method, target, now=now)
    except Refusal as refusal:
        return refusal
    return None


def replayed() -> ReplayedRequest:
    """What a request is told that was received before."""
    return ReplayedRequest("this request was already received; sign it again with a fresh nonce")
