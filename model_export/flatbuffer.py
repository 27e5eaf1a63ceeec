"""What a TFLite file says of itself."""

from __future__ import annotations

from typing import Any, Final

from tensorflow.lite.python import schema_py_generated as schema

from edge_runtime.protocol.bundle import Operator

_NAMES: Final = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}


def operators(graph: bytes) -> tuple[Operator, ...]:
    """The operators of a graph, by name; one that is not built in is named "CUSTOM ..."."""
    found = set()
    model = schema.Model.GetRootAsModel(graph, 0)
    for index in range(model.OperatorCodesLength()):
        entry = model.OperatorCodes(index)
        # Old files hold the code in a byte, new ones in an int; the larger one is meant.
        name = _NAMES[max(entry.BuiltinCode(), entry.DeprecatedBuiltinCode())]
        if name == "CUSTOM":
            name = f"CUSTOM {entry.CustomCode().decode()}"
        found.add((name, entry.Version()))
    return tuple(Operator(name=name, version=version) for name, version in sorted(found))


def minimum_runtime(graph: bytes) -> str:
    """The oldest TFLite runtime that has every operator version of a graph, as the converter wrote it down."""
    model: Any = schema.Model.GetRootAsModel(graph, 0)
    for index in range(model.MetadataLength()):
        entry = model.Metadata(index)
        if entry.Name() == b"min_runtime_version":
            text: bytes = model.Buffers(entry.Buffer()).DataAsNumpy().tobytes()
            return text.rstrip(b"\0").decode()
    raise ValueError("the graph does not name its oldest runtime")
