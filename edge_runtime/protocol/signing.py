"""HTTP Message Signatures (RFC 9421) in the one profile that devices use.

Every device request is signed with Ed25519 over method, path, query and body digest, and over the time, a fresh nonce,
the key id and the tag `edgewise-device/1`. One label, one order of components: any other form is refused.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from edge_runtime.protocol.errors import BadSignature, ClockSkew, DigestMismatch, UntrustedDocument
from edge_runtime.protocol.keys import SIGNATURE_BYTES, SigningKey, digest

LABEL = "edgewise"
TAG = "edgewise-device/1"
NONCE_BYTES = 16
CLOCK_WINDOW_S = 300
"""A request whose time is further off than this is refused."""

SIGNATURE_HEADERS = ("content-digest", "signature-input", "signature")

NONCE_LIFETIME_S = 2 * CLOCK_WINDOW_S + 2
"""How long a nonce is remembered: from a clock a window ahead to one a window behind, and the cut-off fractions."""

_COMPONENTS = '("@method" "@path" "@query" "content-digest")'
_PARAMETERS = re.compile(
    re.escape(f"{LABEL}={_COMPONENTS};")
    + r'created=(?P<created>0|[1-9][0-9]{0,11});keyid="(?P<keyid>[0-9a-f]{32})"'
    + r';alg="ed25519";nonce="(?P<nonce>[0-9a-f]{32})"'
    + re.escape(f';tag="{TAG}"')
)
_SIGNATURE = re.compile(re.escape(f"{LABEL}=:") + r"(?P<signature>[A-Za-z0-9+/=]{88}):")
_DIGEST = re.compile(r"sha-256=:(?P<digest>[A-Za-z0-9+/=]{44}):")


class Verifies(Protocol):
    """A public key, by whatever library: `keys.PublicKey` is one."""

    def verify(self, signature: bytes, message: bytes) -> None:
        """Return if the signature is by this key; raise `UntrustedDocument` if it is not."""


@dataclass(frozen=True, slots=True)
class SignedBy:
    """What the signature headers claim, before anything is verified."""

    keyid: str
    created: int
    nonce: str
    body_digest: bytes
    signature: bytes


def content_digest(body_digest: bytes) -> str:
    """The value of the Content-Digest header (RFC 9530) for a SHA-256."""
    return f"sha-256=:{base64.b64encode(body_digest).decode()}:"


def sign_request(
    key: SigningKey, keyid: str, method: str, target: str, body: bytes, *, created: int, nonce: bytes
) -> dict[str, str]:
    """Make the three headers that sign a request.

    Args:
        target: Path and query as they stand on the request line.
        created: Seconds since the epoch by the signer's (corrected) clock.
        nonce: 16 bytes, fresh for every try of every request.
    """
    if len(nonce) != NONCE_BYTES:
        raise ValueError(f"a nonce has {NONCE_BYTES} bytes")
    body_digest = content_digest(digest(body))
    parameters = _parameters(created, keyid, nonce.hex())
    signature = key.sign(_base(method, target, body_digest, parameters))
    return {
        "content-digest": body_digest,
        "signature-input": f"{LABEL}={parameters}",
        "signature": f"{LABEL}=:{base64.b64encode(signature).decode()}:",
    }


def claimed(headers: Mapping[str, str]) -> SignedBy:
    """Read the signature headers (names in lower case).

    Raises:
        BadSignature: A header is missing, or not in the one form this profile has.
    """
    parameters = _PARAMETERS.fullmatch(headers.get("signature-input", ""))
    signature = _SIGNATURE.fullmatch(headers.get("signature", ""))
    body_digest = _DIGEST.fullmatch(headers.get("content-digest", ""))
    if parameters is None or signature is None or body_digest is None:
        raise BadSignature("a device request needs Signature-Input, Signature and Content-Digest in the device profile")
    return SignedBy(
        keyid=parameters["keyid"],
        created=int(parameters["created"]),
        nonce=parameters["nonce"],
        body_digest=_decoded(body_digest["digest"], 32),
        signature=_decoded(signature["signature"], SIGNATURE_BYTES),
    )


def verify_request(claim: SignedBy, key: Verifies, method: str, target: str, *, now: int) -> None:
    """Return if the request line and the claimed body digest were signed by `key`, recently.

    The caller compares the body with `claim.body_digest` (`verify_body`) and remembers the nonce.

    Raises:
        BadSignature: The signature is not by this key over this request.
        ClockSkew: The signature is right and its time is off by more than `CLOCK_WINDOW_S`.
    """
    parameters = _parameters(claim.created, claim.keyid, claim.nonce)
    try:
        key.verify(claim.signature, _base(method, target, content_digest(claim.body_digest), parameters))
    except UntrustedDocument:
        raise BadSignature("the signature is not by this device's key over this request") from None
    if abs(now - claim.created) > CLOCK_WINDOW_S:
        raise ClockSkew(f"the request's time is {claim.created - now:+d} s off; at most {CLOCK_WINDOW_S} s are allowed")


def verify_body(claim: SignedBy, body_digest: bytes) -> None:
    """Return if the body received is the body signed.

    Raises:
        DigestMismatch: It is not.
    """
    if body_digest != claim.body_digest:
        raise DigestMismatch("the body does not match its Content-Digest")


def _parameters(created: int, keyid: str, nonce: str) -> str:
    """In the order in which common signers write them."""
    return f'{_COMPONENTS};created={created};keyid="{keyid}";alg="ed25519";nonce="{nonce}";tag="{TAG}"'


def _base(method: str, target: str, body_digest: str, parameters: str) -> bytes:
    path, _mark, query = target.partition("?")
    return (
        f'"@method": {method}\n"@path": {path}\n"@query": ?{query}\n"content-digest": {body_digest}\n'
        f'"@signature-params": {parameters}'
    ).encode()


def _decoded(text: str, length: int) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BadSignature("a signature header is not base64") from None
    if len(raw) != length or base64.b64encode(raw).decode() != text:
        raise BadSignature("a signature header has the wrong length")
    return raw
