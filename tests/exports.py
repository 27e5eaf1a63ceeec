"""Small models, exported inside the TensorFlow worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edge_runtime.protocol.bundle import Features
from edge_runtime.protocol.keys import SigningKey

if TYPE_CHECKING:
    from model_export.spec import Exported

TENANT_KEY: Final = SigningKey(bytes(range(32)))
INPUT_SHAPE: Final = (8, 8, 1)
CLASSES: Final = 4
BATCH_SIZE: Final = 5


def build(name: str) -> Exported:
    """Export the zoo's `name` for images of 8×8 and four classes."""
    import keras

    from model_export import zoo
    from model_export.convert import export
    from model_export.spec import ExportSpec

    keras.utils.set_random_seed(0)
    model = {"mlp": zoo.mlp, "cnn": zoo.cnn}[name](INPUT_SHAPE, CLASSES)
    features = Features(shape=INPUT_SHAPE, dtype="float32", low=0.0, high=1.0)
    class_names = tuple(str(label) for label in range(CLASSES))
    spec = ExportSpec(name=name, features=features, class_names=class_names, batch_size=BATCH_SIZE)
    return export(model, spec, TENANT_KEY)
