"""The environment that TensorFlow finds when it is first imported."""

from __future__ import annotations

import os


def quiet_tensorflow() -> None:
    """Say little, add up in one order whatever the processor, and let Keras use TensorFlow."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    os.environ["KERAS_BACKEND"] = "tensorflow"  # whatever else the user's Keras is set to
