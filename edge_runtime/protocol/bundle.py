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
from edge_runtime.protocol.schema import Schema as Schema

BUNDLE_LIMIT_BYTES: Final = 512 << 20
SEED_LIMIT: Final = 1 << 22
"""Seeds of `train` and `accumulate` are 0 to one below it."""
_HEADER: Final = struct.Struct("<4sHHIQ")
_MAGIC: Final = b"EWBN"
_VERSION: Final = 1
_BESIDE_METRICS: Final = ("loss", "loss_sum", "count")
"""What else `train` and `evaluate` return."""


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
        _require_named_shape("a tensor", self.name, self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def shared(self) -> bool:
        """Whether its change is reported."""
        return self.trainable and self.role is not Role.PERSONAL


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One input of the Keras model, and so one part of `x`."""

    name: str
    shape: tuple[int, ...]
    """Of one example."""

    def __post_init__(self) -> None:
        _require_named_shape("an input", self.name, self.shape)

    @property
    def size(self) -> int:
        """Values of one example."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """A built-in operator of the graph, with its version."""

    name: str
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One output of `infer`, float32."""

    name: str
    shape: tuple[int, ...]
    """Of one example."""

    def __post_init__(self) -> None:
        _require_named_shape("an output", self.name, self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class DefaultPlan:
    """What the model's author suggests to whoever writes a plan."""

    epochs: int
    batch_size: int
    learning_rate: float

    def __post_init__(self) -> None:
        wire.require(1 <= self.epochs <= 1000, "a default plan has 1 to 1000 epochs")
        wire.require(1 <= self.batch_size <= 65536, "a default plan has a batch of 1 to 65536")
        wire.require(0 < self.learning_rate <= 1000, "a default learning rate is above 0 and at most 1000")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one step cost where the model was exported, on one thread."""

    runtime: str
    step_ms: float
    """Median CPU time of a call of `train` with a full batch."""
    peak_memory_bytes: int
    """Largest resident memory of a process that trains and does nothing else."""

    def __post_init__(self) -> None:
        wire.require(self.step_ms >= 0 and self.peak_memory_bytes >= 0, "what was measured is not negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a device must know of a graph before it runs it. Signed with the graph."""

    VERSION: ClassVar[int] = 2

    version: int
    name: str
    graph_sha256: str
    tensors: tuple[Tensor, ...]
    """In the order of every weights vector."""
    slots: tuple[Tensor, ...]
    """The optimiser's memory between two steps, for `get_slots` and `set_slots`; empty for plain SGD."""
    features: Schema
    """Of `x`."""
    inputs: tuple[Input, ...]
    """The model's inputs. One is `x` itself; several lie in it side by side, flattened, in this order."""
    labels: Schema
    """Of `y`."""
    class_names: tuple[str, ...]
    """What a label of 0, 1, 2 ... means; empty where labels are not classes."""
    outputs: tuple[Output, ...]
    """Of `infer`."""
    loss: str
    metrics: tuple[str, ...]
    """Outputs of `train` and `evaluate` beside the loss: sums over the examples."""
    optimizer: str
    proximal: bool
    """Whether `train` takes `mu`, the weight of the FedProx term."""
    seeded: bool
    """Whether `train` and `accumulate` take `seed`, an int32 below 2^22, for dropout."""
    batch_size: int
    """Examples in one call of `train`, `evaluate` or `infer`: exactly so many, or if dynamic 1 to so many."""
    dynamic_batch: bool
    """If not, shorter batches are padded and masked."""
    default_plan: DefaultPlan
    signatures: tuple[str, ...]
    operators: tuple[Operator, ...]
    minimum_runtime: str
    measured: Measured | None
    exporter: str

    def __post_init__(self) -> None:
        wire.require(is_sha256(self.graph_sha256), "graph_sha256 is 64 hex digits")
        wire.require(bool(self.tensors and self.inputs and self.outputs), "a model has weights, inputs and outputs")
        for named in (self.tensors, self.slots, self.inputs, self.outputs):
            names = {one.name for one in named}
            wire.require(len(names) == len(named), "tensors, slots, inputs and outputs have names of their own")
        metrics = {*self.metrics, *_BESIDE_METRICS}
        wire.require(len(metrics) == len(self.metrics) + len(_BESIDE_METRICS), "metrics have names of their own")
        wire.require(1 <= self.batch_size <= 65536, "a batch is of 1 to 65536 examples")
        wire.require(sum(one.size for one in self.inputs) == self.features.size, "the inputs make up x")
        of_names = (self.labels.low, self.labels.high) == (0, len(self.class_names) - 1)
        named_or_not = not self.class_names or self.labels.dtype != "int32" or of_names
        wire.require(named_or_not, "either every class has a name or none has")

    @property
    def hides_examples(self) -> bool:
        """Whether it has the signatures of example-level private steps."""
        return {"accumulate", "apply"} <= set(self.signatures)

    @property
    def parameters(self) -> int:
        """Length of a weights vector."""
        return sum(tensor.size for tensor in self.tensors)

    @property
    def slot_values(self) -> int:
        """Length of a slots vector."""
        return sum(slot.size for slot in self.slots)

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


def _require_named_shape(what: str, name: str, shape: tuple[int, ...]) -> None:
    wire.require(bool(name) and all(side > 0 for side in shape), f"{what} needs a name and sides > 0")


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


def verify_bundle(raw: bytes | memoryview, expected_sha256: str, tenant_key: PublicKey) -> Bundle:
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
    verify_document(tenant_key, Domain.BUNDLE, digest(view[:-SIGNATURE_BYTES]), bytes(view[-SIGNATURE_BYTES:]))
    magic, version, zero, manifest_bytes, graph_bytes = _HEADER.unpack_from(raw)
    if magic != _MAGIC or zero:
        raise MalformedBundle("the bytes do not begin like a bundle")
    if version != _VERSION:
        raise UnsupportedVersion(f"bundle version {version}; spoken here: {_VERSION}")
    if len(raw) != _HEADER.size + manifest_bytes + graph_bytes + SIGNATURE_BYTES:
        raise MalformedBundle("the bundle's length does not match its header")
    graph_begin = _HEADER.size + manifest_bytes
    try:
        manifest = wire.decode(Manifest, bytes(view[_HEADER.size : graph_begin]))
    except Malformed as problem:
        raise MalformedBundle(f"the manifest is wrong: {problem.detail}") from problem
    graph = bytes(view[graph_begin:-SIGNATURE_BYTES])
    if digest(graph).hex() != manifest.graph_sha256:
        raise DigestMismatch("the graph is not the one the manifest names")
    return Bundle(sha256=expected_sha256, manifest=manifest, graph=graph)
