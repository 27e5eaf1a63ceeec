"""Reference models of the docs, the tests and the benchmarks, each with the spec that it is exported with.

Importing this loads no Keras and no TensorFlow; building a model does.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from model_export.zoo import images, language, recommender, sensors, tables
from model_export.zoo.images import cnn
from model_export.zoo.reference import Reference
from model_export.zoo.tables import mlp

__all__ = ["ZOO", "Reference", "cnn", "mlp"]

ZOO: Final[Mapping[str, Reference]] = MappingProxyType(
    {
        reference.name: reference
        for reference in (
            tables.LOGISTIC,
            tables.MLP,
            images.CNN,
            images.FEMNIST_CNN,
            images.FEMNIST_CNN_SMALL,
            images.MOBILENET,
            language.GRU_NEXT_WORD,
            language.CHAR_LSTM,
            language.TRANSFORMER,
            language.TRANSFORMER_LORA,
            sensors.SENSOR_CNN,
            tables.ANOMALY_AUTOENCODER,
            recommender.TWO_TOWER,
        )
    }
)
"""By name, simplest first."""
