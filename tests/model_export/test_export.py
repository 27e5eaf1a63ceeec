"""What is exported trains like TensorFlow on both runtimes, and what cannot be exported is refused with a sentence."""

from __future__ import annotations

import pytest

from edge_runtime.protocol.bundle import verify_bundle
from edge_runtime.protocol.checkpoint import verify_checkpoint
from edge_runtime.protocol.errors import DigestMismatch
from model_export.errors import UnsupportedModel
from model_export.spec import Exported
from model_export.verify import Step
from tests.exports import TENANT_KEY
from tests.workers import Workers

Case = tuple[Exported, list[Step]]

MODELS = ["mlp", "cnn", "convolutions", "poolings", "dense"]
SIGNATURES = ("begin_round", "delta", "evaluate", "get_weights", "infer", "set_weights", "train")


@pytest.fixture(scope="module")
def cases(workers: Workers) -> dict[str, Case]:
    return {name: workers["tensorflow"].run("tests.model_export.models:case", name) for name in MODELS}


@pytest.mark.parametrize("runtime", ["litert", "tflite"])
@pytest.mark.parametrize("name", MODELS)
def test_one_step_is_that_of_tensorflow(workers: Workers, cases: dict[str, Case], name: str, runtime: str) -> None:
    exported, steps = cases[name]
    errors = workers[runtime].run("tests.edge_runtime.tasks:step_errors", exported, steps)
    assert all(error.weights <= 1e-6 for error in errors), errors
    assert all(error.loss <= 1e-6 * max(1, step.loss) for error, step in zip(errors, steps, strict=True)), errors
    assert all(error.update > 1e-3 for error in errors), "steps this small would hide a wrong gradient"


@pytest.mark.parametrize("name", MODELS)
def test_every_file_verifies_and_has_builtin_operators_only(cases: dict[str, Case], name: str) -> None:
    exported, steps = cases[name]
    bundle = verify_bundle(exported.bundle, exported.bundle_sha256, TENANT_KEY.public)
    assert bundle.manifest == exported.manifest
    assert bundle.manifest.signatures == SIGNATURES
    assert bundle.manifest.minimum_runtime == "2.11.0"
    assert "TensorFlow 2.21" in bundle.manifest.exporter
    names = [operator.name for operator in bundle.manifest.operators]
    assert names
    assert not [name for name in names if "CUSTOM" in name or "Flex" in name]
    assert b"Flex" not in bundle.graph
    checkpoint = verify_checkpoint(
        exported.checkpoint,
        exported.checkpoint_sha256,
        TENANT_KEY.public,
        bundle_sha256=exported.bundle_sha256,
        parameters=bundle.manifest.parameters,
    )
    assert checkpoint.model_version == 0
    first = bundle.manifest.tensors[0]
    assert (checkpoint.weights[: first.size] == steps[0].before[first.name].reshape(-1)).all()


def test_a_frozen_layer_is_in_the_weights_and_not_in_the_delta(cases: dict[str, Case]) -> None:
    manifest = cases["dense"][0].manifest
    assert [tensor.trainable for tensor in manifest.tensors] == [False, False, True, True, True, True]
    assert manifest.shared_parameters == manifest.parameters - 64 * 12 - 12


def test_verify_catches_a_slightly_wrong_gradient(workers: Workers) -> None:
    case = workers["tensorflow"].run("tests.model_export.mutants:case_with_wrong_relu")
    errors = workers["litert"].run("tests.edge_runtime.tasks:step_errors", *case)
    assert all(error.weights > 1e-6 for error in errors)


def test_one_seed_gives_the_same_bytes(workers: Workers, cases: dict[str, Case]) -> None:
    first = cases["mlp"][0]
    again = workers["tensorflow"].run("tests.model_export.models:built_again", "mlp")
    assert again == (first.bundle_sha256, first.checkpoint_sha256)


@pytest.mark.parametrize(
    ("name", "culprit"),
    [
        ("dropout", "forget"),
        ("grouped", "Conv2D"),
        ("depthwise", "deep"),
        ("elu", "smooth"),
        ("normed", "'steady' is a BatchNormalization"),
        ("outputs", r"outputs of shape \(None, 5\)"),
        ("untrainable", "no trainable weights"),
    ],
)
def test_an_unsupported_model_is_refused_by_name(workers: Workers, name: str, culprit: str) -> None:
    with pytest.raises(UnsupportedModel, match=culprit):
        workers["tensorflow"].run("tests.model_export.models:refused", name)


def test_a_model_for_other_features_is_refused(workers: Workers) -> None:
    with pytest.raises(UnsupportedModel, match="inputs of shape"):
        workers["tensorflow"].run("tests.model_export.models:wrong_input")


def test_a_bundle_is_not_verified_under_another_digest(cases: dict[str, Case]) -> None:
    with pytest.raises(DigestMismatch):
        verify_bundle(cases["mlp"][0].bundle, cases["cnn"][0].bundle_sha256, TENANT_KEY.public)
