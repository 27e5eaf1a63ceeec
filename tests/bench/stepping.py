"""A process that takes training steps when it is told to: `python -m tests.bench.stepping RUNTIME FOLDER`.

RUNTIME is `tensorflow`, `litert`, `tflite` or `export`. `export` writes a zoo model's graph and a batch to FOLDER and
ends. The others read a number of steps from a line, take them, and answer with a line of JSON: CPU seconds of each step
and the largest resident memory so far, in bytes. One thread.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

WARM_UP = 3
BATCH = 20


def main(runtime: str, folder: Path) -> None:
    """Export, or take steps until the input ends."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ["KERAS_BACKEND"] = "tensorflow"
    if runtime == "export":
        _export(folder)
        return
    inputs = dict(np.load(folder / "batch.npz"))
    step = _of_tensorflow(folder, inputs) if runtime == "tensorflow" else _of_interpreter(runtime, folder, inputs)
    for _ in range(WARM_UP):
        step()
    for line in sys.stdin:
        times = []
        for _ in range(int(line)):
            begin = time.process_time()
            step()
            times.append(time.process_time() - begin)
        sys.stdout.write(json.dumps({"cpu_s": times, "peak_bytes": _peak_bytes()}) + "\n")
        sys.stdout.flush()


def _peak_bytes() -> int:
    """Of this program alone: `getrusage` would count what started it, too."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found.group(1)) * 1024 if found else 0


def _export(folder: Path) -> None:
    """Plain SGD, batches of 20: what every row is measured with."""
    import keras

    from edge_runtime.protocol.bundle import verify_bundle
    from edge_runtime.protocol.keys import SigningKey, digest
    from model_export.convert import export
    from model_export.spec import Sgd
    from model_export.zoo import ZOO

    reference = ZOO[folder.name]
    spec = replace(reference.spec, optimizer=Sgd(), batch_size=BATCH)
    keras.utils.set_random_seed(0)
    begin = time.perf_counter()
    key = SigningKey(digest(b"bench"))
    exported = export(reference.build(), spec, key)
    seconds = time.perf_counter() - begin
    graph = verify_bundle(exported.bundle, exported.bundle_sha256, key.public).graph
    (folder / "graph.tflite").write_bytes(graph)
    (folder / "facts.json").write_text(
        json.dumps({"seconds": seconds, "bundle": len(exported.bundle), "weights": 4 * exported.manifest.parameters})
    )
    rng = np.random.default_rng(0)
    np.savez(folder / "batch.npz", x=_drawn(spec.features, rng), y=_drawn(spec.labels, rng))


def _drawn(schema: Any, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    shape = (BATCH, *schema.shape)
    if schema.dtype == "int32":
        return rng.integers(int(schema.low), int(schema.high) + 1, shape).astype(np.int32)
    return rng.uniform(schema.low, schema.high, shape).astype(np.float32)


def _of_interpreter(runtime: str, folder: Path, inputs: dict[str, Any]) -> Callable[[], object]:
    from edge_runtime.interpreters import open_interpreter

    interpreter = open_interpreter((folder / "graph.tflite").read_bytes(), runtime)
    interpreter.call("begin_round", {})
    arguments = {**inputs, "mask": np.ones(BATCH, np.float32), "lr": np.float32(0.01)}
    return lambda: interpreter.call("train", arguments)


def _of_tensorflow(folder: Path, inputs: dict[str, Any]) -> Callable[[], object]:
    """The same step in graph mode, with TensorFlow's own operators and gradients."""
    import keras
    import tensorflow as tf

    from model_export import objectives
    from model_export.spec import Loss
    from model_export.zoo import ZOO

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    reference = ZOO[folder.name]
    keras.utils.set_random_seed(0)
    model, spec = reference.build(), reference.spec
    objective = objectives.LOSSES[Loss(str(spec.loss))]
    variables = [variable.value for variable in model.trainable_variables]

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def step(x: tf.Tensor, y: tf.Tensor, mask: tf.Tensor, rate: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            outputs = model(x, training=True)
            losses = objectives.per_example(objective, outputs, y)
            loss = tf.reduce_sum(losses * mask) / tf.reduce_sum(mask)
        for variable, gradient in zip(variables, tape.gradient(loss, variables), strict=True):
            variable.assign_sub(rate * tf.convert_to_tensor(gradient))
        correct = objectives.per_example(objectives.METRICS[spec.metrics[0]], outputs, y)
        return loss, tf.reduce_sum(correct * mask)

    arguments = [tf.constant(inputs["x"]), tf.constant(inputs["y"]), tf.ones([BATCH]), tf.constant(0.01)]
    return lambda: step(*arguments)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
