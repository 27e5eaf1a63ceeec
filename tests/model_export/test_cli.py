"""`edgewise-export` from key to inspected bundle, and one clear line for everything that can be put right."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edge_runtime.protocol.bundle import verify_bundle
from edge_runtime.protocol.checkpoint import verify_checkpoint
from edge_runtime.protocol.keys import PublicKey, digest
from model_export.cli import app
from tests.workers import Workers

Build = Callable[..., tuple[int, str, str]]

OWN_MODELS = """
import keras
from keras import layers

def perceptron():
    return keras.Sequential([layers.Input((50, 6)), layers.Flatten(), layers.Dense(7, activation="softmax")])

def shaped(input_shape, classes):
    return keras.Sequential([layers.Input(input_shape), layers.Flatten(), layers.Dense(classes)])

def deep(depth):
    raise AssertionError

def failing():
    raise RuntimeError("no such\\nluck")

def number():
    return 3

def unbuilt():
    return keras.Sequential([layers.Dense(7)])
"""


@pytest.fixture
def public_key(tmp_path: Path) -> PublicKey:
    result = CliRunner().invoke(app, ["keygen", str(tmp_path / "tenant.key")])
    assert result.exit_code == 0
    return PublicKey(bytes.fromhex(result.stdout.strip()))


@pytest.fixture
def build(workers: Workers, tmp_path: Path, public_key: PublicKey) -> Build:
    """Run `edgewise-export build MODEL ...` for sensor windows of 50×6 and seven classes."""
    (tmp_path / "own.py").write_text(OWN_MODELS)
    fixed = ["--out", str(tmp_path / "out"), "--tenant-key", str(tmp_path / "tenant.key"), "--input-shape", "50,6"]

    def run(model: str, *options: str) -> tuple[int, str, str]:
        arguments = ("build", model.replace("own.py", str(tmp_path / "own.py")), *fixed, "--classes", "7", *options)
        found: tuple[int, str, str] = workers["tensorflow"].run("tests.model_export.commands:invoke", *arguments)
        return found

    return run


@pytest.mark.parametrize("model", ["own.py:perceptron", "own.py:shaped"])
def test_a_model_becomes_two_signed_files(build: Build, tmp_path: Path, public_key: PublicKey, model: str) -> None:
    status, printed, _ = build(model, "--low", "-20", "--high", "20", "--name", "wrist")
    assert status == 0
    raw, checkpoint = ((tmp_path / "out" / name).read_bytes() for name in ("bundle.ewb", "checkpoint.ewc"))
    bundle = verify_bundle(raw, digest(raw).hex(), public_key)
    parameters = bundle.manifest.parameters
    assert (bundle.manifest.name, bundle.manifest.features.shape) == ("wrist", (50, 6))
    assert (bundle.manifest.features.low, bundle.manifest.features.high) == (-20, 20)
    verify_checkpoint(
        checkpoint, digest(checkpoint).hex(), public_key, bundle_sha256=bundle.sha256, parameters=parameters
    )
    for fact in (bundle.sha256, f"{len(raw)} bytes", "BATCH_MATMUL 1", str(parameters)):
        assert fact in printed
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["bundle.ewb", "checkpoint.ewc"]

    inspect = ["inspect", str(tmp_path / "out" / "bundle.ewb"), "--tenant-key-public"]
    shown = CliRunner().invoke(app, [*inspect, public_key.raw.hex()])
    assert shown.exit_code == 0
    assert "float32 50×6, -20 to 20" in shown.stdout
    refused = CliRunner().invoke(app, [*inspect, "00" * 32])
    assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    ("model", "options", "sentence"),
    [
        ("zoo:resnet", [], "the zoo has no 'resnet'; it has logistic, mlp, cnn,"),
        ("mlp", [], "names no model"),
        ("missing.py:model", [], "there is no file missing.py"),
        ("own.py:missing", [], "has no function 'missing'"),
        ("own.py:deep", [], "missing 1 required positional argument: 'depth'"),
        ("own.py:failing", [], "failed: RuntimeError: no such"),
        ("zoo:cnn", ["--input-shape", "50"], "zoo:cnn failed"),
        ("own.py:number", [], "returned int, not a keras.Model"),
        ("own.py:unbuilt", [], "not built"),
        ("own.py:perceptron", ["--class-names", "a,b,c"], r"outputs of shape (None, 7), not (None, 3)"),
        ("own.py:perceptron", ["--input-shape", "28,28,1"], r"inputs of shape (None, 50, 6)"),
        ("own.py:shaped", ["--input-shape", "50;6"], "--input-shape is numbers with commas"),
        ("own.py:shaped", ["--low", "1"], "range"),
        ("own.py:shaped", ["--tenant-key", "missing.key"], "missing.key: No such file"),
        ("zoo:mlp", ["--tenant-key", "pyproject.toml"], "does not hold a key"),
    ],
)
def test_a_mistake_is_one_clear_line(build: Build, model: str, options: list[str], sentence: str) -> None:
    status, printed, complaint = build(model, *options)
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


def test_help_teaches() -> None:
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    for word in ("keygen", "build", "inspect", "Conv2D", "tenant.key"):
        assert word in result.stdout
