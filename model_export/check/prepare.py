"""A child process with TensorFlow: exports a model, records TensorFlow training it, and leaves both in a folder."""

from __future__ import annotations

import json
import secrets
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from edge_runtime.protocol.bundle import Bundle, verify_bundle
from edge_runtime.protocol.keys import SigningKey
from model_export.asked import Asked
from model_export.check.case import Facts, write_case, write_facts
from model_export.environment import quiet_tensorflow
from model_export.errors import UnsupportedModel
from model_export.spec import Adam, ExportSpec
from model_export.wishes import asked_from

_ADAMS_RATE: Final = 1e-3
"""Adam's first steps are as long as its learning rate whatever the gradient, so a long one magnifies rounding."""


def prepare(name: str, asked: Asked, steps: int, folder: Path, say: Callable[[str], None]) -> None:
    """Leave a case in the folder, or the reason why there is none."""
    quiet_tensorflow()
    say("loading TensorFlow")
    import numpy as np

    from model_export.convert import export
    from model_export.examples import table_rows
    from model_export.load import load
    from model_export.reference import Course, record

    try:
        say(f"building {name}")
        model, spec = load(name, asked)
        say("tracing and converting")
        begin = time.perf_counter()
        key = SigningKey(secrets.token_bytes(32))
        exported = export(model, spec, key)
        export_s = time.perf_counter() - begin
    except UnsupportedModel as problem:
        write_facts(folder, Facts(refusal=str(problem)))
        return
    say("training with TensorFlow")
    rate = _learning_rate(spec)
    course = Course(steps=steps, learning_rate=rate, sizes=_sizes(spec))
    recording = record(model, spec, exported.manifest, course, np.random.default_rng(0))
    bundle = verify_bundle(exported.bundle, exported.bundle_sha256, key.public)
    write_case(folder, bundle.graph, bundle.manifest, recording)
    finite = all(np.isfinite(array).all() for step in recording.steps for array in step.after.values())
    write_facts(
        folder,
        Facts(
            export_s=export_s,
            operations=_operations(bundle),
            layers=_layers(model),
            table_rows=table_rows(model),
            learning_rate=rate,
            finite=bool(finite),
        ),
    )


def _learning_rate(spec: ExportSpec) -> float:
    rate = spec.default_plan.learning_rate
    return min(rate, _ADAMS_RATE) if isinstance(spec.optimizer, Adam) else rate


def _sizes(spec: ExportSpec) -> tuple[int, ...] | None:
    return (spec.batch_size, 1, (spec.batch_size + 1) // 2) if spec.dynamic_batch else None


def _layers(model: Any) -> tuple[str, ...]:
    layers = model._flatten_layers() if hasattr(model, "_flatten_layers") else ()
    return tuple(sorted({type(layer).__name__ for layer in layers if layer is not model}))


def _operations(bundle: Bundle) -> int:
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.Model.GetRootAsModel(bundle.graph, 0)
    return sum(model.Subgraphs(index).OperatorsLength() for index in range(model.SubgraphsLength()))


if __name__ == "__main__":
    _name, _wishes, _steps, _folder = sys.argv[1:]
    prepare(_name, asked_from(json.loads(_wishes)), int(_steps), Path(_folder), lambda text: print(text, flush=True))  # noqa: T201
