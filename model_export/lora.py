"""LoRA adapters on the layers of a Keras model. Source: https://arxiv.org/abs/2106.09685."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final

from edge_runtime.protocol.bundle import Tensor
from model_export.errors import UnsupportedModel

_FIRST_FACTORS: Final = ("lora_kernel_a", "lora_embeddings_a")
"""Keras' names of the factor whose last side is the rank."""


def add_adapters(model: Any, rank: int, patterns: Sequence[str]) -> int:
    """Put adapters on every layer that can have them and fits a pattern; how many.

    Raises:
        UnsupportedModel: It is no Keras model, or no such layer can have them.
    """
    layers = [layer for layer in _able(model) if _named(layer, patterns)]
    if not layers:
        raise UnsupportedModel("no such layer can have LoRA adapters; Dense, EinsumDense, Embedding and Conv can")
    for layer in layers:
        try:
            layer.enable_lora(rank)
        except (ValueError, NotImplementedError) as problem:
            raise UnsupportedModel(f"the layer {layer.name} takes no LoRA adapter: {problem}") from problem
    return len(layers)


def add_adapters_of(model: Any, tensors: Sequence[Tensor]) -> None:
    """Put the adapters on a model that its bundle's tensors tell of; for a model that was saved without them."""
    ranks: Mapping[str, int] = {
        tensor.name: tensor.shape[-1] for tensor in tensors if tensor.name.endswith(_FIRST_FACTORS)
    }
    for layer in _able(model) if ranks else ():
        path = re.sub(r"\W", "_", layer.path.removeprefix(f"{model.name}/"), flags=re.ASCII)
        for factor in _FIRST_FACTORS:
            if (rank := ranks.get(f"{path}_{factor}")) is not None:
                layer.enable_lora(rank)


def _able(model: Any) -> list[Any]:
    """Layers that can have adapters and have none."""
    layers = model._flatten_layers() if hasattr(model, "_flatten_layers") else []
    return [one for one in layers if hasattr(one, "enable_lora") and not getattr(one, "lora_enabled", False)]


def _named(layer: Any, patterns: Sequence[str]) -> bool:
    parts = layer.path.split("/")
    return any(fnmatchcase(one, pattern) for pattern in patterns for one in (layer.path, *parts))
