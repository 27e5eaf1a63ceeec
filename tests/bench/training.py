"""Training on a device and in a fleet."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from edge_runtime.examples import Examples
from edge_runtime.model import open_model
from edge_runtime.privacy import private_report
from edge_runtime.protocol.bundle import verify_bundle
from edge_runtime.protocol.checkpoint import verify_checkpoint
from edge_runtime.protocol.keys import SigningKey, digest
from edge_runtime.protocol.plan import Close, Plan, Privacy, Summing
from edge_runtime.training import train
from tests.bench.measure import Row, cost_row

EXAMPLES, BATCH = 20, 20


def rows(folder: Path) -> list[Row]:
    return [_device_round(folder)]


def _device_round(folder: Path) -> Row:
    key_file = folder / "tenant.key"
    export = [sys.executable, "-m", "model_export.cli"]
    if not key_file.exists():
        subprocess.run([*export, "keygen", str(key_file)], check=True, capture_output=True)
    build = [*export, "build", "zoo:mlp", f"--out={folder}", f"--tenant-key={key_file}", f"--batch-size={BATCH}"]
    subprocess.run(build, check=True, capture_output=True)
    key = SigningKey(bytes.fromhex(key_file.read_text().strip())).public
    raw, first = (folder / "bundle.ewb").read_bytes(), (folder / "checkpoint.ewc").read_bytes()
    bundle = verify_bundle(raw, digest(raw).hex(), key)
    count = bundle.manifest.parameters
    weights = verify_checkpoint(first, digest(first).hex(), key, bundle_sha256=bundle.sha256, parameters=count).weights
    plan = plan_for(bundle.sha256)
    model = open_model(bundle)
    rng = np.random.default_rng(0)
    examples = Examples(
        rng.random((EXAMPLES, 28, 28, 1), dtype=np.float32), rng.integers(0, 10, EXAMPLES).astype(np.int32)
    )

    def ours() -> None:
        for _ in range(10):
            private_report("ab" * 16, train(model, weights, plan, examples, rng).delta, plan, rng)

    return cost_row(
        "sim.device_round_mlp",
        ours,
        lambda: [_numpy_round(weights, examples) for _ in range(10)],
        bound=1.16,
        how="one simulated device's round: MLP of 101,770, 20 examples, one epoch, delta clipped and packed; "
        "limit: one numpy SGD step on the same weights, and the delta",
        count=10,
    )


def _numpy_round(weights: np.ndarray[tuple[int], np.dtype[np.float32]], examples: Examples) -> object:
    trained = weights.copy()
    kernel, bias = trained[:100_352].reshape(784, 128), trained[100_352:100_480]
    top, top_bias = trained[100_480:101_760].reshape(128, 10), trained[101_760:]
    x = examples.x.reshape(len(examples), -1)
    hidden = np.maximum(x @ kernel + bias, 0)
    logits = hidden @ top + top_bias
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    shares[np.arange(len(examples)), examples.y] -= 1
    shares *= np.float32(0.1 / len(examples))
    back = (shares @ top.T) * (hidden > 0)
    top -= hidden.T @ shares
    top_bias -= shares.sum(0)
    kernel -= x.T @ back
    bias -= back.sum(0)
    return trained - weights


def plan_for(bundle_sha256: str, epochs: int = 1) -> Plan:
    return Plan(
        version=1, tenant="bench", population="bench", bundle_sha256=bundle_sha256, epochs=epochs, batch_size=BATCH,
        learning_rate=0.1, proximal_mu=0.0, clipping_norm=1.0, lane_bits=32, expected_participants=100,
        max_participants=100, goal=100, min_reports=1, close=Close.GOAL, summing=Summing.PLAIN, privacy=Privacy.NONE,
        min_examples=1, time_limit_s=60.0,
    )  # fmt: skip
