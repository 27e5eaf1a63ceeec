"""Makes a converted file small: what can be computed when it is loaded is not stored.

The converter writes every variable's first value as a constant, anchors and optimiser slots included: twice to four
times the weights. A constant of one value becomes a FILL, so that only the weights themselves take room; on request
they are stored in half precision, or as bytes with a scale for each index of the last axis. Names of inner tensors,
empty buffers and repeated constants go as well: nothing that an interpreter reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import flatbuffers
import numpy as np
import numpy.typing as npt
from tensorflow.lite.python import schema_py_generated as schema

from model_export.spec import Storage

Array = npt.NDArray[Any]
Weights = npt.NDArray[np.float32]

_WORTH_FILLING: Final = 16
"""Values from which on a FILL is smaller than the constant."""
_WORTH_PACKING: Final = 1024
"""Values from which on weights are stored in fewer bytes."""

_Builtin: Final = schema.BuiltinOperator
_Type: Final = schema.TensorType
_NUMPY: Final = {_Type.FLOAT32: np.float32, _Type.INT32: np.int32, _Type.FLOAT16: np.float16, _Type.INT8: np.int8}
_TYPES: Final = {np.dtype(kind): code for code, kind in _NUMPY.items()}


def compacted(graph: bytes, weights: Sequence[Weights], storage: Storage) -> tuple[bytes, list[Weights]]:
    """Store a graph's first values in as few bytes as wanted.

    Args:
        graph: A .tflite file as the converter wrote it.
        weights: The model's.

    Returns:
        The file, and the weights as the interpreter will have them: rounded, if `storage` rounds.
    """
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(bytearray(graph), 0))
    for subgraph in model.subgraphs:
        if any(_assigns_constant(model, subgraph, op) for op in subgraph.operators):
            _Initializer(model, subgraph, storage).rewrite()
    _first_with_inputs(model)
    _strip(model)
    _share_buffers(model)
    for subgraph in model.subgraphs:
        for op in subgraph.operators:
            op.builtinOptions = op.builtinOptions and _Options(op.builtinOptions)
    builder = _Sharing(1 << 20)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output()), [restored(one, storage) for one in weights]


def restored(weights: Weights, storage: Storage) -> Weights:
    """Weights after they were stored and read again."""
    if weights.size < _WORTH_PACKING or storage is Storage.FLOAT32 or np.ptp(weights) == 0:
        return weights
    if storage is Storage.FLOAT16:
        return weights.astype(np.float16).astype(np.float32)
    levels, scales = _levels(weights)
    return levels.astype(np.float32) * scales


def _levels(weights: Weights) -> tuple[npt.NDArray[np.int8], Weights]:
    """Whole numbers from -127 to 127, and the scale of each index of the last axis."""
    largest = np.abs(weights).max(axis=tuple(range(weights.ndim - 1)))
    scales = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return np.rint(weights / scales).astype(np.int8), scales


class _Sharing(flatbuffers.Builder):  # type: ignore[misc]  # flatbuffers ships no types
    """Writes equal vectors once: shapes, mostly."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._places: dict[tuple[str, bytes], int] = {}
        self.options: dict[tuple[str, str], int] = {}

    def CreateNumpyVector(self, x: Array) -> int:  # noqa: N802 (the library's name)
        key = (x.dtype.str, x.tobytes())
        if key not in self._places:
            self._places[key] = super().CreateNumpyVector(x)
        return self._places[key]


class _Options:
    """Options of an operator, written once for all operators that have the same."""

    def __init__(self, options: Any) -> None:
        self._options = options
        fields = sorted(vars(options).items())
        self._key = (type(options).__name__, repr([(name, np.asarray(value).tolist()) for name, value in fields]))

    def Pack(self, builder: _Sharing) -> int:  # noqa: N802 (the library's name)
        if self._key not in builder.options:
            builder.options[self._key] = self._options.Pack(builder)
        return builder.options[self._key]


class _Initializer:
    """The subgraph that gives every variable its first value, and what is rewritten in it."""

    def __init__(self, model: Any, subgraph: Any, storage: Storage) -> None:
        self._model = model
        self._subgraph = subgraph
        self._storage = storage

    def rewrite(self) -> None:
        before: list[Any] = []
        for op in self._subgraph.operators:
            if _assigns_constant(self._model, self._subgraph, op):
                before.extend(self._computed(int(op.inputs[1])))
            before.append(op)
        self._subgraph.operators = before

    def _computed(self, index: int) -> list[Any]:
        """Operators that compute a constant instead; none where it is small as it is."""
        tensor = self._subgraph.tensors[index]
        raw = self._model.buffers[tensor.buffer].data
        values = np.frombuffer(raw.tobytes(), np.float32).reshape(tensor.shape)
        if values.size >= _WORTH_FILLING and np.ptp(values) == 0:
            self._free(tensor)
            shape = self._constant(np.asarray(tensor.shape, np.int32))
            value = self._constant(np.asarray(values.reshape(-1)[0], np.float32))
            return [self._operator(_Builtin.FILL, [shape, value], index, "FillOptions")]
        if self._storage is Storage.FLOAT32 or values.size < _WORTH_PACKING:
            return []
        self._free(tensor)
        if self._storage is Storage.FLOAT16:
            half = self._constant(values.astype(np.float16))
            return [self._operator(_Builtin.DEQUANTIZE, [half], index, "DequantizeOptions", version=3)]
        levels, scales = _levels(values)
        whole = self._tensor(values.shape, _Type.FLOAT32, 0)
        return [
            self._operator(_Builtin.CAST, [self._constant(levels)], whole, "CastOptions"),
            self._operator(_Builtin.MUL, [whole, self._constant(scales)], index, "MulOptions"),
        ]

    def _free(self, tensor: Any) -> None:
        tensor.buffer = 0

    def _constant(self, values: Array) -> int:
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
        self._model.buffers.append(buffer)
        return self._tensor(values.shape, _TYPES[values.dtype], len(self._model.buffers) - 1)

    def _tensor(self, shape: Sequence[int], kind: int, buffer: int) -> int:
        tensor = schema.TensorT()
        tensor.shape = np.asarray(shape, np.int32)
        tensor.type, tensor.buffer = kind, buffer
        self._subgraph.tensors.append(tensor)
        return len(self._subgraph.tensors) - 1

    def _operator(self, code: int, inputs: Sequence[int], output: int, options: str, version: int = 1) -> Any:
        op = schema.OperatorT()
        op.opcodeIndex = self._opcode(code, version)
        op.inputs = np.asarray(inputs, np.int32)
        op.outputs = np.asarray([output], np.int32)
        op.builtinOptionsType = getattr(schema.BuiltinOptions, options)
        op.builtinOptions = getattr(schema, f"{options}T")()
        return op

    def _opcode(self, code: int, version: int) -> int:
        for index, entry in enumerate(self._model.operatorCodes):
            if (entry.builtinCode, entry.version) == (code, version):
                return index
        entry = schema.OperatorCodeT()
        entry.builtinCode, entry.deprecatedBuiltinCode, entry.version = code, min(code, 127), version
        self._model.operatorCodes.append(entry)
        return len(self._model.operatorCodes) - 1


def _code(model: Any, op: Any) -> int:
    entry = model.operatorCodes[op.opcodeIndex]
    return int(max(entry.builtinCode, entry.deprecatedBuiltinCode))


def _assigns_constant(model: Any, subgraph: Any, op: Any) -> bool:
    """Whether an operator gives a variable a constant of float32."""
    if _code(model, op) != _Builtin.ASSIGN_VARIABLE:
        return False
    tensor = subgraph.tensors[op.inputs[1]]
    raw = model.buffers[tensor.buffer].data
    return tensor.type == _Type.FLOAT32 and raw is not None and len(raw) > 0


def _first_with_inputs(model: Any) -> None:
    """Let the first subgraph be a signature that takes inputs: Java's `Interpreter` cannot run it without any."""
    place = next(index for index, subgraph in enumerate(model.subgraphs) if len(subgraph.inputs))
    model.subgraphs[0], model.subgraphs[place] = model.subgraphs[place], model.subgraphs[0]
    moved = {0: place, place: 0}
    for signature in model.signatureDefs:
        signature.subgraphIndex = moved.get(signature.subgraphIndex, signature.subgraphIndex)


def _strip(model: Any) -> None:
    """Drop what only people and converters read."""
    for subgraph in model.subgraphs:
        for tensor in subgraph.tensors:
            tensor.name = None
            tensor.quantization = None
            tensor.shapeSignature = tensor.shapeSignature if _dynamic(tensor) else None


def _dynamic(tensor: Any) -> bool:
    return tensor.shapeSignature is not None and -1 in tensor.shapeSignature


def _share_buffers(model: Any) -> None:
    """Keep what is read: one buffer for all that are empty, and one for constants of equal bytes."""
    kept = [schema.BufferT()]
    place = {b"": 0}

    def moved(index: int) -> int:
        data = model.buffers[index].data
        raw = b"" if data is None else np.asarray(data, np.uint8).tobytes()
        if raw not in place:
            place[raw] = len(kept)
            kept.append(model.buffers[index])
        return place[raw]

    for subgraph in model.subgraphs:
        for tensor in subgraph.tensors:
            tensor.buffer = moved(tensor.buffer)
    for entry in model.metadata or []:
        entry.buffer = moved(entry.buffer)
    model.buffers = kept
    model.metadataBuffer = None
