"""Finds the model that a command line names: one of the zoo, a saved one, or a function in a file of one's own."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from model_export.asked import NOTHING, Asked, spec_with
from model_export.errors import UnsupportedModel
from model_export.lora import add_adapters
from model_export.spec import ExportSpec

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

SAVED: Final = ".keras"
_SIZES: Final = ((28, 28, 1), 10)
"""What a function that wants an input shape and a number of classes gets, if nobody says."""


def where(name: str) -> tuple[str, str]:
    """Where a model comes from (`zoo` or a file) and the function's name; TensorFlow is not loaded for this.

    A saved model has no function: the name is empty.

    Raises:
        UnsupportedModel: The name names no model, or there is no such file.
    """
    place, separator, function_name = name.rpartition(":")
    if name.endswith(SAVED):
        place, separator, function_name = name, ":", ""
    if not separator or not place or not (function_name or place == name):
        raise UnsupportedModel(f"{name!r} names no model; write zoo:mlp, model.keras or path/file.py:function")
    if place != "zoo" and not Path(place).is_file():
        raise UnsupportedModel(f"there is no file {place}")
    return place, function_name


def load(name: str, asked: Asked = NOTHING) -> tuple[keras.Model | tf.Module, ExportSpec]:
    """Build or read a model, from a fresh state of Keras, and say what it is exported with.

    The seed determines the initial weights of the zoo and of functions (0 if none is asked for); a saved model keeps
    its own, unless a seed is asked for.

    Args:
        name: ``zoo:mlp``, ``model.keras`` or ``path/file.py:function``. The function takes no argument, or two named
            ``input_shape`` and ``classes``, and returns a built `keras.Model`, a `tf.Module`, or a pair of one and its
            `ExportSpec`. The file is run.
        asked: Overrules what the model says.

    Raises:
        UnsupportedModel: There is no such file or function, it fails, or it does not return a model.
    """
    import keras

    place, function_name = where(name)
    keras.utils.clear_session()
    keras.utils.set_random_seed(asked.seed or 0)
    spec: ExportSpec | None
    if place == "zoo":
        model, spec = _of_zoo(function_name, asked)
    elif function_name:
        model, spec = _of_function(name, _in_file(Path(place), function_name), asked)
    else:
        model, spec = _saved(Path(place)), None
    if spec is None:
        from model_export.derived import derived_spec

        spec = derived_spec(model, function_name or Path(place).stem, asked)
    found = spec_with(spec, asked)
    if not function_name and asked.seed is not None:
        found = replace(found, seed=asked.seed)
    if asked.lora_rank is not None:
        add_adapters(model, asked.lora_rank, found.trainable)
    return model, found


def _of_zoo(name: str, asked: Asked) -> tuple[keras.Model, ExportSpec]:
    from model_export.zoo import ZOO

    if name not in ZOO:
        raise UnsupportedModel(f"the zoo has no {name!r}; it has {', '.join(ZOO)}")
    try:
        spec = ZOO[name].spec_for(asked.input_shape, asked.number_of_classes)
        return ZOO[name].build(spec), spec
    except UnsupportedModel:
        raise
    except Exception as problem:
        raise UnsupportedModel(f"zoo:{name} failed: {_first_line(problem)}") from problem


def _of_function(name: str, function: Callable[..., Any], asked: Asked) -> tuple[Any, ExportSpec | None]:
    import keras
    import tensorflow as tf

    sizes: dict[str, object] = {
        "input_shape": asked.input_shape or _SIZES[0],
        "classes": asked.number_of_classes or _SIZES[1],
    }
    taken = set(inspect.signature(function).parameters)
    try:
        made = function(**sizes) if set(sizes) <= taken else function()
    except UnsupportedModel:
        raise
    except Exception as problem:
        raise UnsupportedModel(f"{name} failed: {_first_line(problem)}") from problem
    model, spec = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(model, keras.Model | tf.Module):
        raise UnsupportedModel(f"{name} returned {type(model).__name__}, not a keras.Model or tf.Module")
    if spec is not None and not isinstance(spec, ExportSpec):
        raise UnsupportedModel(f"{name} returned a model and {type(spec).__name__}, not an ExportSpec")
    if isinstance(model, keras.Model) and not model.built:
        raise UnsupportedModel(f"{name} returned a model that is not built; begin it with keras.layers.Input(shape)")
    return model, spec


def _saved(path: Path) -> keras.Model:
    """Read a model that `model.save` wrote; code inside it is not run (Keras' safe mode)."""
    import keras

    try:
        return keras.models.load_model(path, compile=False)
    except Exception as problem:
        raise UnsupportedModel(f"{path} cannot be read: {_first_line(problem)}") from problem


def _in_file(path: Path, name: str) -> Callable[..., object]:
    function = getattr(_run(path), name, None)
    if not callable(function):
        raise UnsupportedModel(f"{path} has no function {name!r}")
    found: Callable[..., object] = function
    return found


def _run(path: Path) -> ModuleType:
    """Run a file; it may import its neighbours, after what is installed."""
    name = f"edgewise_own_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UnsupportedModel(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)
    sys.modules[name] = module  # dataclasses look their own module up
    try:
        spec.loader.exec_module(module)
    except Exception as problem:
        raise UnsupportedModel(f"{path} cannot be run: {_first_line(problem)}") from problem
    return module


def _first_line(problem: Exception) -> str:
    lines = str(problem).strip().splitlines()
    return f"{type(problem).__name__}: {lines[0] if lines else ''}"
