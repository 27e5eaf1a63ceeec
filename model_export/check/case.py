"""What one process hands to the next: a graph, its manifest, and what TensorFlow did, in a folder of plain files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from edge_runtime.protocol import wire
from edge_runtime.protocol.bundle import Manifest
from model_export.verify import Answer, Array, Arrays, PrivateStep, Recording, Step

GRAPH: Final = "graph.tflite"
_MANIFEST, _FACTS, _RECORDING = "manifest.json", "facts.json", "recording.npz"
_STEP: Final = ("inputs", "outputs", "before", "after", "slots_before", "slots_after", "noise")


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the exporting process knows and a manifest does not say.

    Attributes:
        refusal: Why there is no graph; empty if there is one.
        export_s: Seconds for tracing and converting.
        operations: Operators of the graph, counted each time they occur.
        layers: Classes of the model's layers, each once.
        table_rows: Rows of the table that an input looks up.
        learning_rate: Of the recorded steps.
        finite: Whether TensorFlow's own training stayed finite.
    """

    refusal: str = ""
    export_s: float = 0.0
    operations: int = 0
    layers: tuple[str, ...] = ()
    table_rows: Mapping[str, int] = field(default_factory=dict)
    learning_rate: float = 0.0
    finite: bool = True


def write_facts(folder: Path, facts: Facts) -> None:
    (folder / _FACTS).write_text(json.dumps(asdict(facts)))


def read_facts(folder: Path) -> Facts:
    tree = json.loads((folder / _FACTS).read_text())
    return Facts(**{**tree, "layers": tuple(tree["layers"])})


def write_case(folder: Path, graph: bytes, manifest: Manifest, recording: Recording) -> None:
    (folder / GRAPH).write_bytes(graph)
    (folder / _MANIFEST).write_bytes(wire.encode(manifest))
    arrays: dict[str, Array] = {}
    for index, step in enumerate(recording.steps):
        for part in _STEP:
            _put(arrays, f"step/{index}/{part}", getattr(step, part))
    for index, answer in enumerate(recording.answers):
        _put(arrays, f"answer/{index}/{answer.signature}/inputs", answer.inputs)
        _put(arrays, f"answer/{index}/{answer.signature}/outputs", answer.outputs)
    if (private := recording.private) is not None:
        for index, example in enumerate(private.examples):
            _put(arrays, f"private/example/{index}", example)
        arrays["private/norms/norms"] = np.array(private.norms)
        for part in ("applied", "before", "after"):
            _put(arrays, f"private/{part}", getattr(private, part))
    np.savez(folder / _RECORDING, **arrays)


def read_manifest(folder: Path) -> Manifest:
    return wire.decode(Manifest, (folder / _MANIFEST).read_bytes())


def read_recording(folder: Path) -> Recording:
    with np.load(folder / _RECORDING, allow_pickle=False) as file:
        tree = _tree({name: file[name] for name in file.files})
    steps = _in_order(tree.get("step", {}))
    answers = [next(iter(one.items())) for one in _in_order(tree.get("answer", {}))]
    return Recording(
        steps=tuple(Step(**{part: one.get(part, {}) for part in _STEP}) for one in steps),
        answers=tuple(Answer(name, one.get("inputs", {}), one["outputs"]) for name, one in answers),
        private=_private(tree["private"]) if "private" in tree else None,
    )


def read_first_inputs(folder: Path) -> Arrays:
    """Inputs of the first step's `train`, and nothing else of the recording."""
    begin = "step/0/inputs/"
    with np.load(folder / _RECORDING, allow_pickle=False) as file:
        return {name.removeprefix(begin): file[name] for name in file.files if name.startswith(begin)}


def _private(tree: Mapping[str, Any]) -> PrivateStep:
    norms = tuple(float(norm) for norm in tree["norms"]["norms"])
    return PrivateStep(tuple(_in_order(tree["example"])), norms, tree["applied"], tree["before"], tree["after"])


def _put(arrays: dict[str, Array], begin: str, values: Arrays) -> None:
    arrays.update({f"{begin}/{name}": np.asarray(value) for name, value in values.items()})


def _tree(flat: Mapping[str, Array]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *folders, last = name.split("/")
        place = tree
        for one in folders:
            place = place.setdefault(one, {})
        place[last] = value
    return tree


def _in_order(numbered: Mapping[str, Any]) -> list[Any]:
    return [numbered[key] for key in sorted(numbered, key=int)]
