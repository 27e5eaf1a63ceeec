"""Reference models of the docs, the tests and the benchmarks. Each takes an input shape and a number of classes."""

from model_export.zoo.images import cnn
from model_export.zoo.tables import mlp

__all__ = ["cnn", "mlp"]
