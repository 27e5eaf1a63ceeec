"""Weights that are this device's own: personal tensors, and the model as it was trained here. They never leave it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_runtime.protocol.bundle import Manifest, Role
from edge_runtime.protocol.checkpoint import Weights


def with_own(received: Weights, own: Weights | None, manifest: Manifest) -> Weights:
    """Received weights with this device's personal tensors in place of the received ones.

    Args:
        received: Float32, shape ``(manifest.parameters,)``.
        own: As this device trained them last, of the same shape; None before it trained.
    """
    return received if own is None else np.where(_personal(manifest), own, received)


def personalised(released: Weights, own: Weights | None, manifest: Manifest) -> Weights:
    """Released weights as this device uses them for itself.

    With personal tensors: the released ones around the device's own. Without any: all of them as the device trained
    them last, on its own examples. Before it trained: the released ones.
    """
    if own is None or not _personal(manifest).any():
        return released if own is None else own
    return with_own(released, own, manifest)


def _personal(manifest: Manifest) -> npt.NDArray[np.bool_]:
    """For each weight, whether it belongs to a personal tensor; shape ``(manifest.parameters,)``."""
    sizes = [tensor.size for tensor in manifest.tensors]
    return np.repeat([tensor.role is Role.PERSONAL for tensor in manifest.tensors], sizes)
