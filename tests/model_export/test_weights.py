"""Weights that were trained on phones come back: into a Keras file, and into a graph for inference alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.protocol.checkpoint import Weights, encode_checkpoint
from edge_runtime.protocol.keys import SigningKey
from model_export.spec import Exported
from tests.exports import TENANT_KEY
from tests.workers import Workers

COORDINATOR_KEY = SigningKey(bytes(range(2, 34)))


@dataclass(frozen=True, slots=True)
class Trained:
    """A folder with a bundle, a checkpoint of round 30 by the coordinator, and the weights in it."""

    folder: Path
    exported: Exported
    weights: Weights

    @property
    def arguments(self) -> tuple[str, ...]:
        return (
            str(self.folder / "round-30.ewc"),
            "--bundle", str(self.folder / "bundle.ewb"),
            "--tenant-key-public", TENANT_KEY.public.raw.hex(),
            "--coordinator-key-public", COORDINATOR_KEY.public.raw.hex(),
        )  # fmt: skip


def trained_in(folder: Path, exported: Exported) -> Trained:
    weights = np.random.default_rng(4).normal(size=exported.manifest.parameters).astype(np.float32)
    (folder / "bundle.ewb").write_bytes(exported.bundle)
    checkpoint = encode_checkpoint(weights, exported.bundle_sha256, 30, COORDINATOR_KEY)
    (folder / "round-30.ewc").write_bytes(checkpoint)
    return Trained(folder, exported, weights)


@pytest.fixture
def trained(workers: Workers, tmp_path: Path) -> Trained:
    return trained_in(tmp_path, workers["tensorflow"].run("tests.model_export.models:exported", "momentum"))


@pytest.fixture
def export(workers: Workers) -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: str) -> tuple[int, str, str]:
        found: tuple[int, str, str] = workers["tensorflow"].run("tests.model_export.commands:invoke", *arguments)
        return found

    return run


def test_trained_weights_go_into_the_keras_file(
    workers: Workers, trained: Trained, export: Callable[..., tuple[int, str, str]]
) -> None:
    run = workers["tensorflow"].run
    old, new = (str(trained.folder / name) for name in ("model.keras", "trained.keras"))
    run("tests.model_export.way_back:saved", old)
    status, printed, complaint = export("weights", *trained.arguments, "--into", old, "--out", new)
    assert (status, printed) == (0, f"{new}  4 tensors of model version 30\n"), complaint
    expected = run("tests.model_export.way_back:outputs_of_weights", "momentum", trained.weights)
    assert run("tests.model_export.way_back:outputs_of_saved", new) == pytest.approx(expected, abs=1e-6)
    assert run("tests.model_export.way_back:outputs_of_saved", old) != pytest.approx(expected, abs=1e-1)
    assert export("weights", *trained.arguments, "--into", old)[0] == 0
    assert run("tests.model_export.way_back:outputs_of_saved", old) == pytest.approx(expected, abs=1e-6)
    assert not list(trained.folder.glob("*.part*"))


def test_trained_adapters_are_merged_into_the_keras_file(
    workers: Workers, tmp_path: Path, export: Callable[..., tuple[int, str, str]]
) -> None:
    run = workers["tensorflow"].run
    file = str(tmp_path / "model.keras")
    run("tests.model_export.way_back:saved", file)
    trained = trained_in(tmp_path, run("tests.model_export.way_back:exported_with_adapters", file))
    assert export("weights", *trained.arguments, "--into", file)[0] == 0
    expected = run("tests.model_export.way_back:merged", trained.exported, trained.weights)
    assert run("tests.model_export.way_back:outputs_of_saved", file) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("wide", "extra", "sentence"),
    [
        (9, False, "the weights hidden_kernel have the shape (6, 9) in the model and (6, 8) in the checkpoint"),
        (8, True, "the checkpoint has no weights for more_kernel, more_bias of the model"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_and_untouched(
    workers: Workers,
    trained: Trained,
    export: Callable[..., tuple[int, str, str]],
    wide: int,
    extra: bool,
    sentence: str,
) -> None:
    file = trained.folder / "other.keras"
    workers["tensorflow"].run("tests.model_export.way_back:saved", str(file), wide, extra)
    before = file.read_bytes()
    status, _, complaint = export("weights", *trained.arguments, "--into", str(file))
    assert (status, complaint) == (2, f"edgewise-export: {sentence}\n")
    assert file.read_bytes() == before


def test_weights_that_nobody_vouches_for_are_refused(
    workers: Workers, trained: Trained, export: Callable[..., tuple[int, str, str]]
) -> None:
    file = str(trained.folder / "model.keras")
    workers["tensorflow"].run("tests.model_export.way_back:saved", file)
    status, _, complaint = export("weights", *trained.arguments[:5], "--into", file)
    assert (status, "none of the given keys signed it" in complaint) == (2, True)
    assert export("weights", *trained.arguments, "--into", str(trained.folder / "model.h5"))[0] == 2


@pytest.mark.parametrize("runtime", ["litert", "tflite"])
def test_a_baked_graph_infers_as_keras_does(
    workers: Workers, trained: Trained, export: Callable[..., tuple[int, str, str]], runtime: str
) -> None:
    run = workers["tensorflow"].run
    model, out = str(trained.folder / "model.keras"), trained.folder / "app.tflite"
    run("tests.model_export.way_back:saved", model)
    status, printed, complaint = export(
        "bake", *trained.arguments, "--model", model, "--out", str(out), "--batch-size", "3"
    )
    assert status == 0, complaint
    assert "model version 30, as Keras on ai-edge-litert" in printed
    signatures, outputs = workers[runtime].run("tests.edge_runtime.tasks:infer_plain", out.read_bytes())
    assert signatures == ("infer",)
    expected = run("tests.model_export.way_back:outputs_of_weights", "momentum", trained.weights)
    assert outputs["logits"] == pytest.approx(expected, abs=1e-5)
    assert out.stat().st_size < 4 * trained.exported.manifest.parameters + 3000
