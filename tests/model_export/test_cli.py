"""`edgewise-export` from a new file to a signed bundle, and one clear line for everything that can be put right."""

from __future__ import annotations

import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from edge_runtime.protocol.bundle import Manifest, verify_bundle
from edge_runtime.protocol.checkpoint import verify_checkpoint
from edge_runtime.protocol.keys import PublicKey, digest
from model_export.cli import app
from tests.workers import ROOT, Workers

Run = Callable[..., tuple[int, str, str]]

OWN_MODELS = """
import keras
import tensorflow as tf
from keras import layers
from edge_runtime.protocol.bundle import Schema
from model_export.spec import ExportSpec, Loss

def perceptron():
    return keras.Sequential([layers.Input((50, 6)), layers.Flatten(), layers.Dense(7, activation="softmax")])

def shaped(input_shape, classes):
    return keras.Sequential([layers.Input(input_shape), layers.Flatten(), layers.Dense(classes)])

def pair():
    schema = Schema(shape=(3,), dtype="float32", low=-1.0, high=1.0)
    model = keras.Sequential([layers.Input((3,)), layers.Dense(4, name="wide"), layers.Dense(3, name="out")])
    return model, ExportSpec(name="row", features=schema, labels=schema, loss=Loss.HUBER, metrics=(), batch_size=3)

class Line(tf.Module):
    def __init__(self):
        super().__init__()
        self.slope = tf.Variable(tf.ones((4, 2)))

    def __call__(self, x):
        return tf.matmul(x, self.slope)

def module():
    return Line()

def deep(depth):
    raise AssertionError

def failing():
    raise RuntimeError("no such\\nluck")

def number():
    return 3

def unbuilt():
    return keras.Sequential([layers.Dense(7)])

def saved(path):
    pass

def binary():
    return keras.Sequential([layers.Input((2,)), layers.Dense(1, activation="sigmoid")])

def regression():
    return keras.Sequential([layers.Input((2,)), layers.Dense(1)])

def words():
    return keras.Sequential([layers.Input((4,), dtype="int32"), layers.Embedding(9, 3), layers.Dense(9)])
"""


@pytest.fixture
def public_key(tmp_path: Path) -> PublicKey:
    result = CliRunner().invoke(app, ["keygen", str(tmp_path / "tenant.key")])
    assert result.exit_code == 0
    return PublicKey(bytes.fromhex(result.stdout.strip()))


@pytest.fixture
def run(workers: Workers, tmp_path: Path) -> Run:
    """Run `edgewise-export` where TensorFlow may be loaded, with ``own.py`` in a folder of its own."""
    (tmp_path / "own.py").write_text(OWN_MODELS)

    def invoke(*arguments: str) -> tuple[int, str, str]:
        placed = (one.replace("own.py", str(tmp_path / "own.py")) for one in arguments)
        found: tuple[int, str, str] = workers["tensorflow"].run("tests.model_export.commands:invoke", *placed)
        return found

    return invoke


@dataclass(frozen=True, slots=True)
class Built:
    """The folder that `build` wrote, and the key it was signed with."""

    folder: Path
    key: PublicKey

    @property
    def raw(self) -> bytes:
        return (self.folder / "bundle.ewb").read_bytes()

    @property
    def manifest(self) -> Manifest:
        return verify_bundle(self.raw, digest(self.raw).hex(), self.key).manifest


@pytest.fixture
def build(run: Run, tmp_path: Path, public_key: PublicKey) -> Callable[..., Built]:
    def built(model: str, *options: str) -> Built:
        fixed = ("--out", str(tmp_path / "out"), "--tenant-key", str(tmp_path / "tenant.key"))
        status, _printed, complaint = run("build", model, *fixed, *options)
        assert status == 0, complaint
        return Built(tmp_path / "out", public_key)

    return built


def test_a_model_becomes_two_signed_files(run: Run, tmp_path: Path, public_key: PublicKey) -> None:
    fixed = ("--out", str(tmp_path / "out"), "--tenant-key", str(tmp_path / "tenant.key"), "--measure")
    status, printed, _ = run("build", "own.py:perceptron", *fixed, "--low", "-20", "--high", "20", "--name", "wrist")
    assert status == 0
    raw, checkpoint = ((tmp_path / "out" / name).read_bytes() for name in ("bundle.ewb", "checkpoint.ewc"))
    bundle = verify_bundle(raw, digest(raw).hex(), public_key)
    parameters = bundle.manifest.parameters
    assert (bundle.manifest.name, bundle.manifest.features.shape) == ("wrist", (50, 6))
    assert (bundle.manifest.features.low, bundle.manifest.features.high) == (-20, 20)
    assert bundle.manifest.measured is not None
    assert bundle.manifest.measured.runtime.startswith("ai-edge-litert")
    assert bundle.manifest.measured.peak_memory_bytes > 1_000_000
    verify_checkpoint(
        checkpoint, digest(checkpoint).hex(), public_key, bundle_sha256=bundle.sha256, parameters=parameters
    )
    for fact in (bundle.sha256, f"{len(raw)} bytes", "SOFTMAX 1", str(parameters), "ms a step"):
        assert fact in printed
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["bundle.ewb", "checkpoint.ewc"]

    inspect = ["inspect", str(tmp_path / "out" / "bundle.ewb"), "--tenant-key-public"]
    shown = CliRunner().invoke(app, [*inspect, public_key.raw.hex()])
    assert shown.exit_code == 0
    assert "float32 50×6, -20 to 20" in shown.stdout
    refused = CliRunner().invoke(app, [*inspect, "00" * 32])
    assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)


def test_every_option_is_in_the_manifest(build: Callable[..., Built]) -> None:
    found = build(
        "own.py:shaped", "--input-shape", "2,3", "--class-names", "cat,dog", "--low", "-1", "--high", "2",
        "--optimizer", "momentum", "--momentum", "0.5", "--lora", "2", "--proximal", "--private-steps",
        "--batch-size", "4", "--dynamic-batch", "--seed", "7", "--epochs", "3", "--learning-rate", "0.25",
        "--name", "all",
    ).manifest  # fmt: skip
    assert (found.name, found.features.shape, found.class_names) == ("all", (2, 3), ("cat", "dog"))
    assert (found.features.low, found.features.high, found.labels.high) == (-1, 2, 1)
    assert (found.optimizer, found.proximal, found.batch_size, found.dynamic_batch) == ("momentum", True, 4, True)
    assert (found.default_plan.epochs, found.default_plan.batch_size, found.default_plan.learning_rate) == (3, 4, 0.25)
    assert {"accumulate", "apply"} <= set(found.signatures)
    assert {one.role for one in found.tensors if one.trainable} == {"adapter"}


def test_options_overrule_the_spec_that_comes_with_a_model(build: Callable[..., Built]) -> None:
    found = build("own.py:pair", "--trainable", "out", "--personal", "wide", "--loss", "mean_squared_error").manifest
    assert (found.name, found.loss, found.metrics, found.batch_size) == (
        "row",
        "mean_squared_error",
        ("absolute_error",),
        3,
    )
    assert [one.name for one in found.tensors if one.role == "personal"] == ["wide_kernel", "wide_bias"]
    assert [one.name for one in found.tensors if one.shared] == ["out_kernel", "out_bias"]


@pytest.mark.parametrize(
    ("model", "loss", "labels", "features"),
    [
        ("own.py:binary", "binary_crossentropy", ("float32", (1,)), ("float32", (2,), 1.0)),
        ("own.py:regression", "mean_squared_error", ("float32", (1,)), ("float32", (2,), 1.0)),
        ("own.py:words", "sparse_categorical_crossentropy", ("int32", (4,)), ("int32", (4,), 8.0)),
    ],
)
def test_a_model_without_a_spec_gets_one(
    build: Callable[..., Built],
    model: str,
    loss: str,
    labels: tuple[str, tuple[int, ...]],
    features: tuple[str, tuple[int, ...], float],
) -> None:
    found = build(model).manifest
    assert found.loss == loss
    assert (found.labels.dtype, found.labels.shape) == labels
    assert (found.features.dtype, found.features.shape, found.features.high) == features


def test_a_module_needs_an_input_shape(build: Callable[..., Built]) -> None:
    found = build("own.py:module", "--input-shape", "4").manifest
    assert ([one.name for one in found.tensors], found.class_names) == (["slope"], ("0", "1"))


@pytest.mark.parametrize(
    ("model", "options", "sentence"),
    [
        ("zoo:resnet", [], "the zoo has no 'resnet'; it has logistic, mlp, cnn,"),
        ("mlp", [], "names no model"),
        ("missing.py:model", [], "there is no file missing.py"),
        ("missing.keras", [], "there is no file missing.keras"),
        ("own.py:missing", [], "has no function 'missing'"),
        ("own.py:deep", [], "missing 1 required positional argument: 'depth'"),
        ("own.py:failing", [], "failed: RuntimeError: no such"),
        ("zoo:cnn", ["--input-shape", "50"], "zoo:cnn failed"),
        ("zoo:two_tower", ["--classes", "4"], "two_tower has one size"),
        ("own.py:number", [], "returned int, not a keras.Model"),
        ("own.py:unbuilt", [], "not built"),
        ("own.py:module", [], "give --input-shape"),
        ("own.py:perceptron", ["--class-names", "a,b,c"], r"outputs of shape"),
        ("own.py:perceptron", ["--input-shape", "28,28,1"], r"inputs of shape (None, 50, 6)"),
        ("own.py:perceptron", ["--trainable", "dens"], "no layer with weights is called 'dens'"),
        ("own.py:module", ["--input-shape", "4", "--lora", "2"], "no such layer can have LoRA adapters"),
        ("own.py:shaped", ["--input-shape", "50;6"], "--input-shape is numbers with commas"),
        ("own.py:shaped", ["--low", "1"], "range"),
        ("own.py:shaped", ["--momentum", "0.5"], "--momentum is for --optimizer momentum"),
        ("own.py:shaped", ["--tenant-key", "missing.key"], "missing.key: No such file"),
        ("zoo:mlp", ["--tenant-key", "pyproject.toml"], "does not hold a key"),
    ],
)
def test_a_mistake_is_one_clear_line(
    run: Run, tmp_path: Path, public_key: PublicKey, model: str, options: list[str], sentence: str
) -> None:
    del public_key  # its file is what matters
    fixed = ("--out", str(tmp_path / "out"), "--tenant-key", str(tmp_path / "tenant.key"))
    status, printed, complaint = run("build", model, *fixed, *options)
    assert status == 2
    assert not printed
    assert sentence in complaint
    assert complaint.count("\n") == 1


def test_a_key_is_private_and_never_overwritten(public_key: PublicKey, tmp_path: Path) -> None:
    file = tmp_path / "tenant.key"
    before = file.read_bytes()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert public_key.raw.hex() not in before.decode()
    again = CliRunner().invoke(app, ["keygen", str(file)])
    assert (again.exit_code, again.stderr) == (2, f"edgewise-export: {file}: File exists\n")
    assert file.read_bytes() == before


def test_a_new_model_can_be_built_as_it_is(build: Callable[..., Built], run: Run, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    status, printed, _ = run("new", str(file))
    assert (status, f"edgewise-export check {file}:build" in printed) == (0, True)
    assert "edgewise-export check mine.py:build" in file.read_text()
    assert build(f"{file}:build").manifest.name == "my_model"
    status, _, complaint = run("new", str(file))
    assert (status, complaint) == (2, f"edgewise-export: {file}: File exists\n")


def test_the_template_is_the_example_of_the_guide() -> None:
    assert (ROOT / "model_export" / "template.py").read_text() == (ROOT / "docs/examples/my_model.py").read_text()


def test_the_zoo_is_listed_without_tensorflow() -> None:
    program = "import sys, model_export.cli as c\ntry: c.app(['zoo'])\nexcept SystemExit: pass\n"
    check = "print([name for name in ('keras', 'tensorflow') if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", program + check], capture_output=True, text=True, check=True)
    assert "zoo:two_tower" in found.stdout
    assert found.stdout.endswith("[]\n")


def test_help_teaches() -> None:
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    for word in ("new", "check", "keygen", "build", "inspect", "sign", "verify", "weights", "bake", "tenant.key"):
        assert word in result.stdout


@pytest.mark.parametrize("command", ["new", "check", "build", "sign", "verify", "weights", "bake"])
def test_every_command_shows_an_example_of_itself(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert (
        f"edgewise-export {command}" in result.stdout.split("Options:")[0].split("Arguments:")[0].partition("\n\n")[2]
    )


def test_build_and_check_take_the_same_options_of_a_spec() -> None:
    commands = getattr(get_command(app), "commands", {})
    build, check = (
        {option for parameter in commands[name].params for option in parameter.opts} for name in ("build", "check")
    )
    assert build - check == {"--tenant-key", "--measure"}
    assert check - build == {"--runtime", "--steps", "--tolerance", "--timeout"}
