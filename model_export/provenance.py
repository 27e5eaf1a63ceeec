"""Who signed a bundle, what exactly is wrong with one that does not verify, and signing again."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from edge_runtime.protocol import wire
from edge_runtime.protocol.bundle import Bundle, Manifest, Measured, encode_bundle, verify_bundle
from edge_runtime.protocol.checkpoint import Checkpoint, encode_checkpoint, verify_checkpoint
from edge_runtime.protocol.errors import Malformed, Refusal, UntrustedDocument
from edge_runtime.protocol.keys import SIGNATURE_BYTES, PublicKey, SigningKey, digest
from model_export.spec import Exported

_HEADER: Final = struct.Struct("<4sHHIQ")
"""As `edge_runtime.protocol.bundle` lays it out."""
_CHECKPOINT_HEADER: Final = struct.Struct("<4sHH32sQQ")


class Part(StrEnum):
    """What of a bundle, or of its checkpoint, is wrong."""

    HEADER = "header"
    MANIFEST = "manifest"
    GRAPH = "graph"
    SIGNATURE = "signature"
    DIGEST = "digest"
    CHECKPOINT = "checkpoint"


class Distrusted(Refusal):
    """A file is not what its signer signed.

    Attributes:
        part: That is wrong.
    """

    code = "untrusted-document"

    def __init__(self, part: Part, detail: str) -> None:
        super().__init__(f"the {part} is wrong: {detail}")
        self.part = part


@dataclass(frozen=True, slots=True)
class Laid:
    """A bundle taken apart and not verified."""

    manifest: Manifest
    graph: bytes
    signed: bool
    """Whether it has a signature, be it right or wrong."""


def take_apart(raw: bytes) -> Laid:
    """Read a bundle without looking at its signature, which may be missing.

    Raises:
        Distrusted: The header or the manifest cannot be read, or the graph is not the one the manifest names.
    """
    if len(raw) < _HEADER.size:
        raise Distrusted(Part.HEADER, f"{len(raw)} bytes are too few")
    magic, version, zero, manifest_bytes, graph_bytes = _HEADER.unpack_from(raw)
    if (magic, version, zero) != (b"EWBN", 1, 0):
        raise Distrusted(Part.HEADER, "it does not begin like a bundle of version 1")
    end = _HEADER.size + manifest_bytes + graph_bytes
    if len(raw) not in (end, end + SIGNATURE_BYTES):
        raise Distrusted(Part.HEADER, f"it tells of {end + SIGNATURE_BYTES} bytes, and there are {len(raw)}")
    try:
        manifest = wire.decode(Manifest, raw[_HEADER.size : _HEADER.size + manifest_bytes])
    except Refusal as problem:
        if _is_manifest(raw[_HEADER.size : _HEADER.size + manifest_bytes - SIGNATURE_BYTES]):
            raise Distrusted(Part.HEADER, "it tells of a longer manifest than there is") from problem
        raise Distrusted(Part.MANIFEST, problem.detail) from problem
    graph = raw[_HEADER.size + manifest_bytes : end]
    if digest(graph).hex() != manifest.graph_sha256:
        if digest(graph[:-SIGNATURE_BYTES]).hex() == manifest.graph_sha256:  # it took the signature for graph
            raise Distrusted(Part.HEADER, "it tells of a longer graph than the manifest names")
        raise Distrusted(Part.GRAPH, "it is not the one that the manifest names")
    return Laid(manifest, graph, any(raw[end:]))


def _is_manifest(raw: bytes) -> bool:
    try:
        wire.decode(Manifest, raw)
    except Refusal:
        return False
    return True


def verified(raw: bytes, key: PublicKey, expected_sha256: str | None = None) -> Bundle:
    """Verify a bundle, and name the part that is wrong.

    A change that leaves the manifest readable cannot be told from a change of the signature: both are named
    "signature", as is another key.

    Raises:
        Distrusted: A part is wrong.
    """
    if expected_sha256 is not None and digest(raw).hex() != expected_sha256:
        found = f"it is {digest(raw).hex()}, not {expected_sha256}"
        _explain(raw, key)
        raise Distrusted(Part.DIGEST, found)
    _explain(raw, key)
    return verify_bundle(raw, digest(raw).hex(), key)


def _explain(raw: bytes, key: PublicKey) -> None:
    laid = take_apart(raw)
    if not laid.signed:
        raise Distrusted(Part.SIGNATURE, "there is none; sign with: edgewise-export sign")
    try:
        verify_bundle(raw, digest(raw).hex(), key)
    except UntrustedDocument as problem:
        raise Distrusted(
            Part.SIGNATURE, "another key made it, or the manifest or the signature was changed since"
        ) from problem


def verified_checkpoint(raw: bytes, bundle: Bundle, keys: tuple[PublicKey, ...]) -> Checkpoint:
    """Verify a checkpoint of a bundle, by the first of the keys that signed it.

    Raises:
        Distrusted: None of them did, or it is for another bundle, or damaged.
    """
    problem: Refusal | None = None
    for key in keys:
        try:
            return verify_checkpoint(
                raw, digest(raw).hex(), key, bundle_sha256=bundle.sha256, parameters=bundle.manifest.parameters
            )
        except UntrustedDocument as refused:
            problem = refused
        except Refusal as refused:
            raise Distrusted(Part.CHECKPOINT, refused.detail) from refused
    raise Distrusted(Part.CHECKPOINT, "none of the given keys signed it, or it was changed since") from problem


def signed_again(raw: bytes, key: SigningKey) -> bytes:
    """The bundle with a signature by this key, whoever signed it before.

    Raises:
        Distrusted: It is damaged.
    """
    laid = take_apart(raw)
    return encode_bundle(laid.manifest, laid.graph, key)


def checkpoint_for(raw: bytes, bundle_sha256: str, old_bundle_sha256: str, key: SigningKey) -> bytes:
    """The checkpoint of a bundle that was signed again, for its new digest and with the new key.

    Raises:
        Distrusted: It is damaged, or not for the old bundle.
    """
    if len(raw) < _CHECKPOINT_HEADER.size + SIGNATURE_BYTES:
        raise Distrusted(Part.CHECKPOINT, f"{len(raw)} bytes are too few")
    import numpy as np

    _magic, _version, _zero, of_bundle, model_version, count = _CHECKPOINT_HEADER.unpack_from(raw)
    if of_bundle.hex() != old_bundle_sha256:
        raise Distrusted(Part.CHECKPOINT, "it is for another bundle")
    if len(raw) != _CHECKPOINT_HEADER.size + 4 * count + SIGNATURE_BYTES:
        raise Distrusted(Part.CHECKPOINT, "its length does not match its header")
    weights = np.frombuffer(raw, "<f4", count=count, offset=_CHECKPOINT_HEADER.size).astype(np.float32)
    return encode_checkpoint(weights, bundle_sha256, model_version, key)


def with_measured(exported: Exported, measured: Measured, key: SigningKey) -> Exported:
    """What was exported, with the cost of a step in its manifest; both files are signed again."""
    manifest = replace(exported.manifest, measured=measured)
    bundle = encode_bundle(manifest, take_apart(exported.bundle).graph, key)
    bundle_sha256 = digest(bundle).hex()
    checkpoint = checkpoint_for(exported.checkpoint, bundle_sha256, exported.bundle_sha256, key)
    return Exported(
        manifest=manifest,
        bundle=bundle,
        bundle_sha256=bundle_sha256,
        checkpoint=checkpoint,
        checkpoint_sha256=digest(checkpoint).hex(),
    )


def public_key(text: str, option: str) -> PublicKey:
    """A public key as `edgewise-export keygen` prints it.

    Raises:
        Malformed: It is not 64 hex digits.
    """
    try:
        return PublicKey(bytes.fromhex(text))
    except ValueError:
        raise Malformed(f"{option} is 64 hex digits") from None
