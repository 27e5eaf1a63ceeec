"""What is exported trains like TensorFlow on both runtimes, and what cannot be exported is refused with a sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pytest

from edge_runtime.protocol.bundle import Bundle, Role, Schema, verify_bundle
from edge_runtime.protocol.checkpoint import Weights, verify_checkpoint
from edge_runtime.protocol.errors import DigestMismatch
from model_export.errors import UnsupportedModel
from model_export.spec import Adam, Exported, Loss, Metric
from model_export.verify import Recording
from tests.exports import TENANT_KEY
from tests.workers import Workers

Case = tuple[Exported, Recording]
Cases = Callable[[str], Case]

MODELS: Final = (
    "dense", "momentum", "adam", "soft", "binary", "huber", "own_loss",
    "normalized", "frozen_statistics", "recurrent", "attention", "adapters", "inputs", "dynamic", "module", "private",
)  # fmt: skip
OF_ZOO: Final = (
    "zoo:mlp", "zoo:femnist_cnn_small", "zoo:mobilenet", "zoo:transformer", "zoo:two_tower",
    "zoo:anomaly_autoencoder",
)  # fmt: skip
"""The others take the same step every night: `python -m tests.model_export.nightly`."""

TOLERANCE: Final = 1e-6
NEEDED: Final = {"begin_round", "delta", "evaluate", "get_weights", "infer", "set_weights", "train"}


@pytest.fixture(scope="module")
def cases(workers: Workers) -> Cases:
    """Each exported, and recorded, when it is first asked for."""
    made: dict[str, Case] = {}

    def case(name: str) -> Case:
        if name not in made:
            made[name] = workers["tensorflow"].run("tests.model_export.models:case", name)
        return made[name]

    return case


def bundle_of(exported: Exported) -> Bundle:
    return verify_bundle(exported.bundle, exported.bundle_sha256, TENANT_KEY.public)


def weights_of(exported: Exported) -> Weights:
    return verify_checkpoint(
        exported.checkpoint,
        exported.checkpoint_sha256,
        TENANT_KEY.public,
        bundle_sha256=exported.bundle_sha256,
        parameters=exported.manifest.parameters,
    ).weights


@pytest.mark.parametrize("runtime", ["litert", "tflite"])
@pytest.mark.parametrize("name", [*MODELS, *OF_ZOO])
def test_every_signature_does_what_tensorflow_does(workers: Workers, cases: Cases, name: str, runtime: str) -> None:
    exported, recording = cases(name)
    found = workers[runtime].run("tests.edge_runtime.tasks:differences", exported, recording)
    assert {one.signature for one in found} >= {"train", "evaluate", "infer", "delta"}
    assert {one.name for one in found} >= {tensor.name for tensor in exported.manifest.tensors}
    assert [one for one in found if not one.within(TOLERANCE)] == []
    assert all(step.change > 500 * TOLERANCE for step in recording.steps), (
        "steps this small would hide a wrong gradient"
    )


@pytest.mark.parametrize("name", [*MODELS, *OF_ZOO])
def test_every_file_verifies_and_has_builtin_operators_only(cases: Cases, name: str) -> None:
    exported, recording = cases(name)
    bundle = bundle_of(exported)
    assert bundle.manifest == exported.manifest
    assert set(bundle.manifest.signatures) >= NEEDED
    assert tuple(map(int, bundle.manifest.minimum_runtime.split("."))) <= (2, 14, 0)
    assert "TensorFlow 2.21" in bundle.manifest.exporter
    names = [operator.name for operator in bundle.manifest.operators]
    assert names
    assert not [name for name in names if "CUSTOM" in name or "Flex" in name]
    assert b"Flex" not in bundle.graph
    first = bundle.manifest.tensors[0]
    initial = (recording.private or recording.steps[0]).before[first.name]
    assert (weights_of(exported)[: first.size] == initial.reshape(-1)).all()


def test_a_frozen_layer_is_in_the_weights_and_not_in_the_delta(cases: Cases) -> None:
    exported, recording = cases("dense")
    frozen = [tensor.name for tensor in exported.manifest.tensors if not tensor.trainable]
    assert frozen == ["frozen_kernel", "frozen_bias", "kept_kernel", "kept_bias"]
    assert exported.manifest.shared_parameters == 12 * 12 + 12 + 12 * 4 + 4
    assert all((step.before[name] == step.after[name]).all() for step in recording.steps for name in frozen)


def test_statistics_of_a_part_that_does_not_train_stay(cases: Cases) -> None:
    exported, recording = cases("frozen_statistics")
    assert [tensor.name for tensor in exported.manifest.tensors if tensor.trainable] == ["head_kernel", "head_bias"]
    moved = recording.steps[-1].after["base_norm_moving_mean"]
    assert (moved == recording.steps[0].before["base_norm_moving_mean"]).all()


def test_statistics_of_batches_are_trained_and_shared(cases: Cases) -> None:
    exported, recording = cases("normalized")
    moving = [one for one in exported.manifest.tensors if "moving" in one.name]
    assert len(moving) == 2
    assert all(one.shared for one in moving)
    assert all((recording.steps[0].before[one.name] != recording.steps[0].after[one.name]).any() for one in moving)


def test_personal_weights_train_and_are_not_in_the_delta(cases: Cases) -> None:
    exported, recording = cases("inputs")
    personal = [one for one in exported.manifest.tensors if one.role is Role.PERSONAL]
    assert [(one.name, one.trainable, one.shared) for one in personal] == [("users_embeddings", True, False)]
    assert (recording.steps[0].before["users_embeddings"] != recording.steps[0].after["users_embeddings"]).any()
    assert [(one.name, one.shape) for one in exported.manifest.inputs] == [("user", (1,)), ("facts", (2, 2))]


def test_adapters_train_alone(cases: Cases) -> None:
    manifest = cases("adapters")[0].manifest
    trained = {one.name for one in manifest.tensors if one.trainable}
    assert trained == {one.name for one in manifest.tensors if one.role is Role.ADAPTER}
    assert trained == {
        "table_lora_embeddings_a", "table_lora_embeddings_b", "wide_lora_kernel_a", "wide_lora_kernel_b"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "optimizer", "slots"),
    [("huber", "sgd", 0), ("momentum", "momentum", 4), ("adam", "adam", 9), ("private", "momentum", 4)],
)
def test_an_optimizer_has_its_slots(cases: Cases, name: str, optimizer: str, slots: int) -> None:
    manifest = cases(name)[0].manifest
    assert (manifest.optimizer, len(manifest.slots)) == (optimizer, slots)
    assert {"get_slots", "set_slots"} & set(manifest.signatures) == ({"get_slots", "set_slots"} if slots else set())


@pytest.mark.parametrize("runtime", ["litert", "tflite"])
def test_slots_come_back_as_they_were_set(workers: Workers, cases: Cases, runtime: str) -> None:
    exported = cases("adam")[0]
    slots = np.random.default_rng(0).normal(size=exported.manifest.slot_values).astype(np.float32)
    back, fresh = workers[runtime].run("tests.edge_runtime.tasks:slots_round_trip", exported, slots)
    assert (back == slots).all()
    assert not fresh.any()


def test_a_graph_takes_what_its_manifest_says(cases: Cases) -> None:
    assert [cases(name)[0].manifest.proximal for name in ("dense", "momentum", "adam")] == [True, True, False]
    assert [cases(name)[0].manifest.seeded for name in ("dense", "normalized", "adapters")] == [False, True, True]
    assert {"accumulate", "apply"} <= set(cases("private")[0].manifest.signatures)
    assert {len(step.inputs["x"]) for step in cases("dynamic")[1].steps} == {1, 7, 20}


def test_losses_are_those_of_keras(workers: Workers) -> None:
    found = workers["tensorflow"].run("tests.model_export.models:losses_of_keras")
    assert set(found) == {loss.value for loss in Loss}
    assert all(ours == pytest.approx(theirs, rel=1e-6) for ours, theirs in found.values()), found


def test_verify_catches_a_slightly_wrong_gradient(workers: Workers) -> None:
    case = workers["tensorflow"].run("tests.model_export.mutants:case_with_wrong_tanh")
    found = workers["litert"].run("tests.edge_runtime.tasks:differences", *case)
    wrong = {one.name for one in found if not one.within(TOLERANCE)}
    assert {"hidden_kernel", "hidden_bias"} <= wrong


def test_one_model_gives_the_same_bytes(workers: Workers, cases: Cases) -> None:
    first = cases("momentum")[0]
    again = workers["tensorflow"].run("tests.model_export.models:exported_again", "momentum")
    assert again == (first.bundle_sha256, first.checkpoint_sha256)


def test_a_seed_gives_fresh_weights_and_leaves_the_model_alone(workers: Workers) -> None:
    run = workers["tensorflow"].run
    (first, kept), (other, kept_too) = (run("tests.model_export.models:with_seed", seed) for seed in (1, 2))
    assert kept == kept_too
    assert first != other
    assert kept not in first


@pytest.mark.parametrize(
    ("name", "culprit"),
    [
        ("bicubic", "ResizeBicubic"),
        ("outputs", r"outputs of shape \(None, 5\)"),
        ("untrainable", "no trainable weights"),
        ("several", "gives several outputs"),
        ("half", "/kernel are float16"),
    ],
)
def test_an_unsupported_model_is_refused_by_name(workers: Workers, name: str, culprit: str) -> None:
    with pytest.raises(UnsupportedModel, match=culprit):
        workers["tensorflow"].run("tests.model_export.models:refused", name)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"features": Schema(shape=(3,), dtype="float32", low=0.0, high=1.0)}, r"inputs of shape \(None, 6\)"),
        ({"trainable": ("hiden",)}, "no layer with weights is called 'hiden'"),
        ({"personal": ("logit",)}, "no layer with weights is called 'logit'"),
        ({"adapters_only": True}, r"no LoRA adapters; call layer.enable_lora\(rank\)"),
        ({"loss": Loss.MEAN_SQUARED_ERROR, "metrics": (Metric.ABSOLUTE_ERROR,)}, "labels for .* are float32"),
        ({"labels": Schema(shape=(), dtype="int32", low=1, high=4)}, "int32 from 0 to 3, not int32 from 1 to 4"),
        ({"optimizer": Adam(), "labels": Schema(shape=(2,), dtype="int32", low=0, high=3)}, "outputs of shape"),
    ],
)
def test_a_spec_that_does_not_fit_is_refused(workers: Workers, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UnsupportedModel, match=sentence):
        workers["tensorflow"].run("tests.model_export.models:refused_spec", changes)


def test_a_bundle_is_not_verified_under_another_digest(cases: Cases) -> None:
    with pytest.raises(DigestMismatch):
        verify_bundle(cases("dense")[0].bundle, cases("momentum")[0].bundle_sha256, TENANT_KEY.public)
