"""The checkpoint: one weights vector for a bundle, signed, addressed by its SHA-256: a model version.

Layout, little-endian: magic `EWCK`, u16 version, u16 zero, the bundle's SHA-256 (32 bytes), u64 model version,
u64 parameters, the weights as float32, and a 64-byte Ed25519 signature over everything before it.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from edge_runtime.protocol.errors import (
    DigestMismatch,
    InvalidWeights,
    MalformedCheckpoint,
    UnsupportedVersion,
    WrongCheckpoint,
)
from edge_runtime.protocol.keys import (
    SIGNATURE_BYTES,
    Domain,
    PublicKey,
    SigningKey,
    sign_document,
    verify_document,
)

Weights = npt.NDArray[np.float32]
"""A flat weights vector, float32, in the order of the manifest's tensors."""

MODEL_VERSION_LIMIT: Final = 1 << 53
"""Model versions are below it: they also travel in JSON, and not every reader of JSON has larger integers."""

_HEADER: Final = struct.Struct("<4sHH32sQQ")
_MAGIC: Final = b"EWCK"
_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint whose digest and signature were verified."""

    sha256: str
    bundle_sha256: str
    model_version: int
    """0 for the exporter's first weights, then one more for every committed round."""
    weights: Weights


def checkpoint_bytes(parameters: int) -> int:
    """The exact length of a checkpoint."""
    return _HEADER.size + 4 * parameters + SIGNATURE_BYTES


def encode_checkpoint(weights: Weights, bundle_sha256: str, model_version: int, key: SigningKey) -> bytes:
    """Write and sign a checkpoint.

    Raises: As `seal_checkpoint`.
    """
    return seal_checkpoint(weights, bundle_sha256, model_version, key)[0]


def seal_checkpoint(weights: Weights, bundle_sha256: str, model_version: int, key: SigningKey) -> tuple[bytes, str]:
    """Write and sign a checkpoint; its bytes, and their SHA-256.

    Raises:
        InvalidWeights: The weights are not a finite float32 vector.
        MalformedCheckpoint: The model version is out of range.
    """
    if not 0 <= model_version < MODEL_VERSION_LIMIT:
        raise MalformedCheckpoint(f"there is no model version {model_version}")
    if weights.dtype != np.float32 or weights.ndim != 1 or not np.isfinite(weights).all():
        raise InvalidWeights("weights are a flat vector of finite float32 values")
    header = _HEADER.pack(_MAGIC, _VERSION, 0, bytes.fromhex(bundle_sha256), model_version, weights.size)
    body = header + weights.astype("<f4", copy=False).tobytes()
    state = hashlib.sha256(body)
    signature = sign_document(key, Domain.CHECKPOINT, state.digest())
    state.update(signature)
    return body + signature, state.hexdigest()


def verify_checkpoint(
    raw: bytes | memoryview, expected_sha256: str, key: PublicKey, *, bundle_sha256: str, parameters: int
) -> Checkpoint:
    """Check digest, signature, length and bundle, and only then read the weights.

    Raises:
        DigestMismatch: The bytes are not the ones the digest names.
        UntrustedDocument: `key` did not sign them.
        MalformedCheckpoint: The layout is wrong.
        UnsupportedVersion: The checkpoint is of another version.
        WrongCheckpoint: It belongs to another bundle, or has another number of parameters.
        InvalidWeights: A weight is not finite.
    """
    body, signature = memoryview(raw)[:-SIGNATURE_BYTES], bytes(raw[-SIGNATURE_BYTES:])
    state = hashlib.sha256(body)  # gone through once for both digests
    body_digest = state.digest()
    state.update(signature)
    found = state.hexdigest()
    if found != expected_sha256:
        raise DigestMismatch(f"the checkpoint has the digest {found[:12]}… and not {expected_sha256[:12]}…")
    if len(raw) < _HEADER.size + SIGNATURE_BYTES:
        raise MalformedCheckpoint(f"{len(raw)} bytes are too few for a checkpoint")
    verify_document(key, Domain.CHECKPOINT, body_digest, signature)
    magic, version, zero, of_bundle, model_version, count = _HEADER.unpack_from(raw)
    if magic != _MAGIC or zero:
        raise MalformedCheckpoint("the bytes do not begin like a checkpoint")
    if version != _VERSION:
        raise UnsupportedVersion(f"checkpoint version {version}; spoken here: {_VERSION}")
    if model_version >= MODEL_VERSION_LIMIT:
        raise MalformedCheckpoint(f"there is no model version {model_version}")
    if len(raw) != checkpoint_bytes(count):
        raise MalformedCheckpoint("the checkpoint's length does not match its header")
    if of_bundle.hex() != bundle_sha256 or count != parameters:
        raise WrongCheckpoint("the checkpoint is for another bundle")
    weights = np.frombuffer(raw, dtype="<f4", count=count, offset=_HEADER.size).astype(np.float32)
    if not np.isfinite((weights.min(initial=0), weights.max(initial=0))).all():  # NaN if there is one anywhere
        raise InvalidWeights("a weight is not finite")
    return Checkpoint(sha256=expected_sha256, bundle_sha256=bundle_sha256, model_version=model_version, weights=weights)
