"""What a model of the zoo is: a spec, and a builder for it. Nothing here loads Keras."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edge_runtime.protocol.bundle import Schema
from model_export.errors import UnsupportedModel
from model_export.spec import ExportSpec, class_labels

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A model of the zoo.

    Attributes:
        summary: What it is, in a few words.
        spec: What it is exported with at its own sizes.
        builder: From a spec to a built model. Loads Keras. `keras.utils.set_random_seed` before it determines every
            initial weight.
        any_size: Whether the spec's input shape and number of classes may be others. A builder may still refuse an
            input that is too small for its windows.
    """

    summary: str
    spec: ExportSpec
    builder: Callable[[ExportSpec], keras.Model]
    any_size: bool = False

    @property
    def name(self) -> str:
        return self.spec.name

    def spec_for(self, input_shape: tuple[int, ...] | None = None, classes: int | None = None) -> ExportSpec:
        """The spec for an input of this shape and so many classes; None means the model's own.

        Another number of classes names them 0, 1, 2 ...

        Raises:
            UnsupportedModel: This model has one size, and not this one.
        """
        own_classes = len(self.spec.class_names)
        shape = self.spec.features.shape if input_shape is None else input_shape
        count = own_classes if classes is None else classes
        if (shape, count) == (self.spec.features.shape, own_classes):
            return self.spec
        if not self.any_size:
            raise UnsupportedModel(
                f"{self.name} has one size: an input of shape {self.spec.features.shape}, and its own outputs"
            )
        names = self.spec.class_names if count == own_classes else numbered(count)
        features = replace(self.spec.features, shape=shape)
        return replace(self.spec, features=features, labels=class_labels(names), class_names=names)

    def build(self, spec: ExportSpec | None = None) -> keras.Model:
        """Build the model with fresh weights, for a spec of `spec_for`; None means its own."""
        return self.builder(self.spec if spec is None else spec)


def numbered(classes: int) -> tuple[str, ...]:
    """Names for classes that have none."""
    return tuple(str(label) for label in range(classes))


def tokens(vocabulary: int, length: int) -> Schema:
    """Schema of `length` indices into a vocabulary."""
    return Schema(shape=(length,), dtype="int32", low=0, high=vocabulary - 1)


def sizes(spec: ExportSpec) -> tuple[tuple[int, ...], int]:
    """Input shape and number of classes: what builders of classifiers take."""
    return spec.features.shape, len(spec.class_names)
