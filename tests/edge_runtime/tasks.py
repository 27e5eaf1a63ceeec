"""What tests of the model and of training run inside an interpreter's worker."""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_runtime.examples import Examples
from edge_runtime.interpreters import open_interpreter
from edge_runtime.journal import Progress
from edge_runtime.model import Evaluation, Model, Slots, open_model
from edge_runtime.private_steps import HiddenSteps
from edge_runtime.protocol.bundle import verify_bundle
from edge_runtime.protocol.checkpoint import Weights
from edge_runtime.protocol.noise import NoiseSource
from edge_runtime.protocol.plan import Plan
from edge_runtime.protocol.reasons import Outcome
from edge_runtime.training import Interrupted, Trained, beginning, resume, train
from model_export.spec import Exported
from model_export.verify import Difference, Recording, compare
from tests.exports import TENANT_KEY


def opened(exported: Exported, runtime: str | None = None) -> Model:
    return open_model(verify_bundle(exported.bundle, exported.bundle_sha256, TENANT_KEY.public), runtime)


def differences(exported: Exported, recording: Recording) -> list[Difference]:
    """How far the bundle is from TensorFlow on whichever runtime this worker has loaded."""
    bundle = verify_bundle(exported.bundle, exported.bundle_sha256, TENANT_KEY.public)
    return list(compare(open_interpreter(bundle.graph, _here()).call, bundle.manifest, recording))


def runtime_here(exported: Exported) -> str:
    bundle = verify_bundle(exported.bundle, exported.bundle_sha256, TENANT_KEY.public)
    return open_interpreter(bundle.graph, _here()).runtime


def delegated_nodes(exported: Exported, forget_to_allocate: bool = False) -> int:
    """How many nodes of the first subgraph XNNPACK has taken over, after a call; as each package's own list says."""
    bundle = verify_bundle(exported.bundle, exported.bundle_sha256, TENANT_KEY.public)
    if forget_to_allocate:
        from tflite_runtime.interpreter import Interpreter

        kept, Interpreter.allocate_tensors = Interpreter.allocate_tensors, lambda _self: None
    try:
        interpreter = open_interpreter(bundle.graph, _here())
    finally:
        if forget_to_allocate:
            Interpreter.allocate_tensors = kept
    interpreter.call("get_weights", {})
    operators = interpreter._interpreter._get_ops_details()  # type: ignore[attr-defined]
    return sum(operator["op_name"] == "DELEGATE" for operator in operators)


def load(graph: bytes) -> None:
    """Open a graph that nobody verified."""
    open_interpreter(graph, _here())


def call_signature(exported: Exported, signature: str, inputs: dict[str, Any]) -> Any:
    """Call a signature of the graph with inputs that nobody checked."""
    bundle = verify_bundle(exported.bundle, exported.bundle_sha256, TENANT_KEY.public)
    return open_interpreter(bundle.graph, _here()).call(signature, inputs)


def call(exported: Exported, method: str, *args: Any) -> Any:
    """Call one method of a fresh model."""
    return getattr(opened(exported, _here()), method)(*args)


def round_trip(exported: Exported, weights: Weights) -> Weights:
    model = opened(exported, _here())
    model.set_weights(weights)
    return model.get_weights()


def infer_plain(graph: bytes) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Signatures of a graph that only infers, and its outputs for three rows of six numbers."""
    interpreter = open_interpreter(graph, _here())
    x = np.random.default_rng(5).random((3, 6)).astype(np.float32)
    return interpreter.signatures(), interpreter.call("infer", {"x": x})


def slots_round_trip(exported: Exported, slots: Slots) -> tuple[Slots, Slots]:
    """Slots as they come back, and those after a round has begun."""
    model = opened(exported, _here())
    model.set_slots(slots)
    back = model.get_slots()
    model.begin_round()
    return back, model.get_slots()


def one_step(exported: Exported, examples: Examples, learning_rate: float) -> tuple[Weights, Weights, Weights]:
    """Weights before and after one step, and the delta."""
    model = opened(exported, _here())
    before = model.get_weights()
    model.begin_round()
    model.train_step(examples.x, examples.y, learning_rate)
    return before, model.get_weights(), model.delta()


def measured(exported: Exported, examples: Examples) -> tuple[Evaluation, Any]:
    """The evaluation, and the probabilities from which it can be computed anew."""
    model = opened(exported, _here())
    return model.evaluate(examples), model.infer(examples.x)["probabilities"]


def trained(exported: Exported, weights: Weights, plan: Plan, examples: Examples, seed: int) -> Trained:
    return train(opened(exported, _here()), weights, plan, examples, np.random.default_rng(seed))


def trained_twice(
    exported: Exported, weights: Weights, plan: Plan, examples: Examples, seed: int
) -> tuple[Trained, Trained]:
    """Two runs in one interpreter, one after the other."""
    model = opened(exported, _here())
    first = train(model, weights, plan, examples, np.random.default_rng(seed))
    return first, train(model, weights, plan, examples, np.random.default_rng(seed))


def trained_until(exported: Exported, weights: Weights, plan: Plan, examples: Examples, steps: int) -> Trained:
    """Train, and be told to stop after some steps."""
    asked = 0

    def stop() -> Outcome | None:
        nonlocal asked
        asked += 1
        return Outcome.BATTERY_LOW if asked > steps else None

    return train(opened(exported, _here()), weights, plan, examples, np.random.default_rng(0), stop=stop)


def _here() -> str:
    """The runtime this worker was started for."""
    import sys

    return "tflite" if "tflite_runtime" in sys.modules else "litert"


def in_slices(
    exported: Exported, weights: Weights, plan: Plan, examples: Examples, stops: list[set[int]]
) -> list[tuple[bytes, bytes, int]]:
    """Delta and weights of a run that is stopped before these steps, for each set of them, and in how many slices.

    Every slice gets an interpreter that has trained something else before.
    """
    used = opened(exported, _here())
    return [_in_slices(used, weights, plan, examples, at) for at in stops]


def _in_slices(
    model: Model, weights: Weights, plan: Plan, examples: Examples, at: set[int]
) -> tuple[bytes, bytes, int]:
    progress, taken, slices = beginning(model, weights, "s", 7, np.random.default_rng(7)), 0, 0

    def stop() -> Outcome | None:
        nonlocal taken
        wanted = taken in at
        at.discard(taken)
        taken += not wanted
        return Outcome.IN_USE if wanted else None

    def save(reached: Progress) -> None:
        nonlocal progress
        progress = reached

    while True:
        slices += 1
        try:
            finished = resume(model, weights, plan, examples, progress, save=save, stop=stop)
        except Interrupted:
            train(model, weights * np.float32(0.5), plan, examples, np.random.default_rng(slices))
            continue
        return finished.delta.tobytes(), finished.weights.tobytes(), slices


def hidden_step(
    exported: Exported, weights: Weights, hidden: HiddenSteps, local: Examples, rate: float, key: bytes
) -> tuple[Weights, float | None]:
    """The weights after one step that hides its examples, with the noise of a key; and the loss before it."""
    model = opened(exported, _here())
    model.set_weights(weights)
    model.begin_round()
    loss = hidden.take(model, local, rate, [0] * len(local), NoiseSource(key))
    return model.get_weights(), loss
