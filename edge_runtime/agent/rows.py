"""Examples from files: CSV, or raw numbers. Every value is checked, and what is wrong is named by its line.

* `.csv`: an example in a line, numbers separated by commas: its features flat, then its label or labels. No heading.
* `.f32`: the same numbers as little-endian float32, one example after the other, and nothing else.

Files are read a few examples at a time. Pickled files are not read: opening one can run whatever it says.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from edge_runtime.example_store import Collection
from edge_runtime.examples import Examples, Features
from edge_runtime.protocol.bundle import Schema
from edge_runtime.protocol.errors import InvalidExamples

SUFFIXES: Final = (".csv", ".f32")
AT_ONCE: Final = 256
"""Examples in memory."""

_CELL_LIMIT: Final = 64
_INT_LIMIT: Final = 1 << 31
_STORED: Final = np.dtype("<f4")

Row: TypeAlias = npt.NDArray[np.float64]
Parts: TypeAlias = tuple[tuple[str, Schema], ...]
"""What a row holds, in order: the word for one of its values, and their schema."""


def examples_in(path: Path, collection: Collection) -> Iterator[Examples]:
    """The examples of a file, at most `AT_ONCE` at a time, each of them checked.

    Raises:
        InvalidExamples: A row does not fit; the text names its line and column, and no value.
        OSError: The file cannot be read.
    """
    for x, y in _read(path, (("feature", collection.features), ("label", collection.labels))):
        yield Examples(x, y)


def features_in(path: Path, schema: Schema) -> Iterator[Features]:
    """The features of a file without labels, likewise."""
    for (x,) in _read(path, (("feature", schema),)):
        yield x


def _read(path: Path, parts: Parts) -> Iterator[list[npt.NDArray[Any]]]:
    if path.suffix not in SUFFIXES:
        raise InvalidExamples(f"{path.name} is neither of {' and '.join(SUFFIXES)}")
    with path.open("rb") as file:
        rows = _lines(file, parts) if path.suffix == ".csv" else _records(file, parts)
        held: list[list[npt.NDArray[Any]]] = []
        for place, row in rows:
            held.append(_checked(row, parts, place))
            if len(held) == AT_ONCE:
                yield _stacked(held)
                held = []
        if held:
            yield _stacked(held)


def _lines(file: IO[bytes], parts: Parts) -> Iterator[tuple[str, Row]]:
    width = _width(parts)
    limit = _CELL_LIMIT * width
    number = 0
    while line := file.readline(limit + 1):
        number += 1
        place = f"line {number}"
        cells = line.split(b",")
        if len(line) > limit or len(cells) != width:
            raise InvalidExamples(f"{place}: {'too long' if len(line) > limit else len(cells)} where {_wanted(parts)}")
        row = np.empty(width)
        for column, cell in enumerate(cells):
            try:
                row[column] = float(cell.decode("ascii"))
            except ValueError:
                raise InvalidExamples(f"{place}, column {column + 1}: this is not a number") from None
        yield place, row


def _records(file: IO[bytes], parts: Parts) -> Iterator[tuple[str, Row]]:
    size = _STORED.itemsize * _width(parts)
    number = 0
    while raw := file.read(size):
        number += 1
        if len(raw) != size:
            raise InvalidExamples(f"example {number}: {len(raw)} bytes where {_wanted(parts)}, of 4 bytes each")
        yield f"example {number}", np.frombuffer(raw, _STORED).astype(np.float64)


def _checked(row: Row, parts: Parts, place: str) -> list[npt.NDArray[Any]]:
    """Each part of a row in its own shape and dtype; no number silently becomes another, but for float32's rounding."""
    found, begin = [], 0
    for word, schema in parts:
        values = row[begin : begin + schema.size]
        with np.errstate(over="ignore"):
            kept = values if schema.dtype == "int32" else values.astype(np.float32)
        for wrong, sentence in _faults(kept, schema):
            if wrong.any():
                column = begin + int(wrong.argmax()) + 1
                raise InvalidExamples(f"{place}, column {column}: this {word} {sentence}")
        found.append(kept.astype(schema.dtype).reshape(schema.shape))
        begin += schema.size
    return found


def _faults(values: npt.NDArray[Any], schema: Schema) -> Iterator[tuple[npt.NDArray[np.bool_], str]]:
    yield ~np.isfinite(values), "is not finite"
    if schema.dtype == "int32":
        yield (np.rint(values) != values) | (np.abs(values) >= _INT_LIMIT), "is not a whole number of 32 bits"
    kind = int if schema.dtype == "int32" else float
    yield (values < schema.low) | (values > schema.high), f"is outside {kind(schema.low)} to {kind(schema.high)}"


def _stacked(rows: list[list[npt.NDArray[Any]]]) -> list[npt.NDArray[Any]]:
    return [np.stack(part) for part in zip(*rows, strict=True)]


def _width(parts: Parts) -> int:
    return sum(schema.size for _word, schema in parts)


def _wanted(parts: Parts) -> str:
    counts = [f"{schema.size} {word}{'' if schema.size == 1 else 's'}" for word, schema in parts]
    return f"{' and '.join(counts)} are wanted"
