"""Finds the Keras model that a command line names: one of the zoo, or a function in a file of one's own."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from model_export.errors import UnsupportedModel

if TYPE_CHECKING:
    import keras


def where(name: str) -> tuple[str, str]:
    """Where a model comes from (`zoo` or a file) and the function's name; TensorFlow is not loaded for this.

    Raises:
        UnsupportedModel: The name names no model, or there is no such file.
    """
    place, separator, function_name = name.rpartition(":")
    if not separator or not place or not function_name:
        raise UnsupportedModel(f"{name!r} names no model; write zoo:mlp, zoo:cnn or path/file.py:function")
    if place != "zoo" and not Path(place).is_file():
        raise UnsupportedModel(f"there is no file {place}")
    return place, function_name


def load(name: str, input_shape: tuple[int, ...], classes: int, seed: int) -> keras.Model:
    """Build a model from a fresh state of Keras, with initial weights that `seed` determines.

    Args:
        name: ``zoo:mlp``, ``zoo:cnn`` or ``path/file.py:function``; the function takes no argument, or two named
            ``input_shape`` and ``classes``, and returns a built `keras.Model`. The file is run.

    Raises:
        UnsupportedModel: There is no such file or function, it fails, or it does not return a built Keras model.
    """
    import keras

    place, function_name = where(name)
    function = _of_zoo(function_name) if place == "zoo" else _of_file(Path(place), function_name)
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    takes_shape = {"input_shape", "classes"} <= set(inspect.signature(function).parameters)
    try:
        model = function(input_shape=input_shape, classes=classes) if takes_shape else function()
    except UnsupportedModel:
        raise
    except Exception as problem:
        raise UnsupportedModel(f"{name} failed: {_first_line(problem)}") from problem
    if not isinstance(model, keras.Model):
        raise UnsupportedModel(f"{name} returned {type(model).__name__}, not a keras.Model")
    if not model.built:
        raise UnsupportedModel(f"{name} returned a model that is not built; begin it with keras.layers.Input(shape)")
    return model


def _of_zoo(name: str) -> Callable[..., object]:
    from model_export.zoo import ZOO

    if name not in ZOO:
        raise UnsupportedModel(f"the zoo has no {name!r}; it has {', '.join(ZOO)}")
    reference = ZOO[name]
    return lambda input_shape, classes: reference.build(reference.spec_for(input_shape, classes))


def _of_file(path: Path, name: str) -> Callable[..., object]:
    function = getattr(_run(path), name, None)
    if not callable(function):
        raise UnsupportedModel(f"{path} has no function {name!r}")
    found: Callable[..., object] = function
    return found


def _run(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UnsupportedModel(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as problem:
        raise UnsupportedModel(f"{path} cannot be run: {_first_line(problem)}") from problem
    return module


def _first_line(problem: Exception) -> str:
    lines = str(problem).strip().splitlines()
    return f"{type(problem).__name__}: {lines[0] if lines else ''}"
