"""What is asked of an export, and what comes out of it. No TensorFlow here."""

from __future__ import annotations

from dataclasses import dataclass

from edge_runtime.protocol.bundle import Features, Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSpec:
    """What a Keras model does not say of itself.

    Attributes:
        name: Of the model, for people.
        features: Schema of one example.
        class_names: In the order of the model's outputs.
        batch_size: Examples in one call; fixed in the graph, shorter batches are padded and masked.
    """

    name: str
    features: Features
    class_names: tuple[str, ...]
    batch_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A signed bundle, the signed checkpoint of model version 0, and their digests."""

    manifest: Manifest
    bundle: bytes
    bundle_sha256: str
    checkpoint: bytes
    checkpoint_sha256: str
