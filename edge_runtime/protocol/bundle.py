"""The bundle: graph, manifest and signature in one file, addressed by its SHA-256.

Layout, little-endian: magic `EWBN`, u16 version, u16 zero, u32 manifest bytes, u64 graph bytes, the manifest as
canonical JSON, the graph, and a 64-byte Ed25519 signature by the tenant key over everything before it.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Final

from edge_runtime.protocol import wire
from edge_runtime.protocol.errors import DigestMismatch, Malformed, MalformedBundle, UnsupportedVersion
from edge_runtime.protocol.keys import (
    SIGNATURE_BYTES,
    Domain,
    PublicKey,
    SigningKey,
    digest,
    is_sha256,
    sign_document,
    verify_document,
)

BUNDLE_LIMIT_BYTES: Final = 512 << 20
_HEADER: Final = struct.Struct("<4sHHIQ")
_MAGIC: Final = b"EWBN"
_VERSION: Final = 1


class Role(StrEnum):
    """What a tensor is to the federation."""

    BASE = "base"
    ADAPTER = "adapter"
    PERSONAL = "personal"
    """Trained on the device, and never leaves it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One weights tensor; float32."""

    name: str
    shape: tuple[int, ...]
    trainable: bool
    role: Role

    def __post_init__(self) -> None:
        wire.require(bool(self.name) and all(side > 0 for side in self.shape), "a tensor needs a name and sides > 0")

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def shared(self) -> bool:
        """Whether its change is reported."""
        return self.trainable and self.role is not Role.PERSONAL


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """The schema of `x`: shape of one example, dtype, and the closed range its values lie in."""

    shape: tuple[int, ...]
    dtype: str
    low: float
    high: float

    def __post_init__(self) -> None:
        wire.require(self.dtype in ("float32", "int32"), "features are float32 or int32")
        wire.require(all(side > 0 for side in self.shape) and self.low < self.high, "features need sides and a range")


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """A built-in operator of the graph, with its version."""

    name: str
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a device must know of a graph before it runs it. Signed with the graph."""

    VERSION: ClassVar[int] = 1

    version: int
    name: str
    graph_sha256: str
    tensors: tuple[Tensor, ...]
    """In the order of every weights vector."""
    features: Features
    class_names: tuple[str, ...]
    """Labels are int32 indices into it."""
    batch_size: int
    """Examples in one call of `train`, `evaluate` or `infer`; shorter batches are padded and masked."""
    signatures: tuple[str, ...]
    operators: tuple[Operator, ...]
    minimum_runtime: str
    exporter: str

    def __post_init__(self) -> None:
        wire.require(is_sha256(self.graph_sha256), "graph_sha256 is 64 hex digits")
        wire.require(len({tensor.name for tensor in self.tensors}) == len(self.tensors) > 0, "tensor names are unique")
        wire.require(self.batch_size >= 1 and len(self.class_names) >= 2, "a batch and at least two classes")

    @property
    def parameters(self) -> int:
        """Length of a weights vector."""
        return sum(tensor.size for tensor in self.tensors)

    @property
    def shared_parameters(self) -> int:
        """Length d of a delta: what is trained and reported."""
        return sum(tensor.size for tensor in self.tensors if tensor.shared)

    def shared_slices(self) -> tuple[slice, ...]:
        """Where the delta's parts lie in a weights vector, in order."""
        slices, begin = [], 0
        for tensor in self.tensors:
            if tensor.shared:
                slices.append(slice(begin, begin + tensor.size))
            begin += tensor.size
        return tuple(slices)


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose digest and signature were verified."""

    sha256: str
    manifest: Manifest
    graph: bytes


def encode_bundle(manifest: Manifest, graph: bytes, key: SigningKey) -> bytes:
    """Write and sign a bundle; the manifest's `graph_sha256` must be the graph's.

    Raises:
        DigestMismatch: It is not.
    """
    if digest(graph).hex() != manifest.graph_sha256:
        raise DigestMismatch("the manifest names another graph")
    text = wire.encode(manifest)
    body = _HEADER.pack(_MAGIC, _VERSION, 0, len(text), len(graph)) + text + graph
    return body + sign_document(key, Domain.BUNDLE, digest(body))


def verify_bundle(raw: bytes, expected_sha256: str, tenant_key: PublicKey) -> Bundle:
    """Check digest and signature, and only then look inside.

    Raises:
        DigestMismatch: The bytes are not the ones the digest names, or the graph is not the manifest's.
        UntrustedDocument: The tenant key did not sign them.
        MalformedBundle: The layout is wrong.
        UnsupportedVersion: The bundle or its manifest is of another version.
    """
    found = digest(raw).hex()
    if found != expected_sha256:
        raise DigestMismatch(f"the bundle has the digest {found[:12]}… and not {expected_sha256[:12]}…")
    if not _HEADER.size + SIGNATURE_BYTES < len(raw) <= BUNDLE_LIMIT_BYTES:
        raise MalformedBundle(f"{len(raw)} bytes are too few or too many for a bundle")
    view = memoryview(raw)
    verify_document(tenant_key, Domain.BUNDLE, digest(view[:-SIGNATURE_BYTES]), raw[-SIGNATURE_BYTES:])
    magic, version, zero, manifest_bytes, graph_bytes = _HEADER.unpack_from(raw)
    if magic != _MAGIC or zero:
        raise MalformedBundle("the bytes do not begin like a bundle")
    if version != _VERSION:
        raise UnsupportedVersion(f"bundle version {version}; spoken here: {_VERSION}")
    if len(raw) != _HEADER.size + manifest_bytes + graph_bytes + SIGNATURE_BYTES:
        raise MalformedBundle("the bundle's length does not match its header")
    graph_begin = _HEADER.size + manifest_bytes
    try:
        manifest = wire.decode(Manifest, raw[_HEADER.size : graph_begin])
    except Malformed as problem:
        raise MalformedBundle(f"the manifest is wrong: {problem.detail}") from problem
    graph = raw[graph_begin:-SIGNATURE_BYTES]
    if digest(graph).hex() != manifest.graph_sha256:
        raise DigestMismatch("the graph is not the one the manifest names")
    return Bundle(sha256=expected_sha256, manifest=manifest, graph=graph)
