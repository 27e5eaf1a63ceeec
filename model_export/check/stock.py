"""Interpreters as their packages bring them. For child processes: what is opened here may crash, and is meant to."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from typing import Any, Final

from model_export.verify import Arrays, Call

PACKAGES: Final[Mapping[str, str]] = {"litert": "ai-edge-litert", "tflite": "tflite-runtime"}
"""Runtimes by name, in order of preference, and the packages that hold them."""


def installed() -> dict[str, str]:
    """Package and version of each runtime that is installed, by name; nothing is loaded."""
    found = {}
    for name, package in PACKAGES.items():
        try:
            found[name] = f"{package} {importlib.metadata.version(package)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def open_stock(graph: bytes, runtime: str) -> Call:
    """Load a graph into a stock interpreter, on one thread."""
    interpreter = _class(runtime)(model_content=graph, num_threads=1)
    interpreter.allocate_tensors()  # XNNPACK is only put in here on TFLite 2.14
    runners = {name: interpreter.get_signature_runner(name) for name in interpreter.get_signature_list()}

    def call(signature: str, inputs: Arrays) -> Arrays:
        outputs: Arrays = runners[signature](**inputs)
        return outputs

    return call


def _class(runtime: str) -> Any:
    if runtime == "litert":
        from ai_edge_litert.interpreter import Interpreter as LiteRT

        return LiteRT
    from tflite_runtime.interpreter import Interpreter as TFLite

    return TFLite
