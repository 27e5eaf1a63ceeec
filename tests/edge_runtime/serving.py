"""A fake coordinator with a model that an interpreter can run, and the settings of a device that speaks to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from edge_runtime.protocol.bundle import encode_bundle, verify_bundle
from edge_runtime.protocol.checkpoint import verify_checkpoint
from edge_runtime.protocol.keys import PublicKey, digest
from edge_runtime.testing import ROOTS, TENANT_KEY, FakeCoordinator


@dataclass(slots=True, kw_only=True)
class RealModel(FakeCoordinator):
    """Serves a bundle that an interpreter can run."""

    real_bundle: bytes = field(default=b"", repr=False)

    @property
    def bundle(self) -> bytes:
        return self.real_bundle


def real_model(bundle: bytes, checkpoint: bytes, key: PublicKey) -> RealModel:
    """A fake coordinator for an exported model: the documents are signed anew, by the fake's keys."""
    verified = verify_bundle(bundle, digest(bundle).hex(), key)
    mine = encode_bundle(verified.manifest, verified.graph, TENANT_KEY)
    parameters = verified.manifest.parameters
    weights = verify_checkpoint(
        checkpoint, digest(checkpoint).hex(), key, bundle_sha256=verified.sha256, parameters=parameters
    ).weights
    return RealModel(manifest=verified.manifest, weights=weights, real_bundle=mine)


SETTINGS = """
state = "{state}"

[installation]
tenant = "acme"
population = "keyboard"

[network]
coordinator = "{address}"

[trust]
tenant_key = "{tenant_key}"
coordinator_key = "{coordinator_key}"

[limits]
needs_idle = false
first_run_delay_s = 0.0
min_interval_s = 0.0
min_free_storage_bytes = 0

[assumed]
charging = true
metered = false
thermal = "none"
power_saver = false
battery_level = 1.0

[[collections]]
name = "numbers"
features = {{ shape = {shape}, low = {low}, high = {high} }}
labels = {labels}
"""

LINEAR_LABELS = "{ low = -100, high = 100 }"


def write_settings(
    folder: Path, address: str, *, shape: tuple[int, ...] = (3,), labels: str = LINEAR_LABELS, **changes: str
) -> Path:
    """Settings of a device that a slice always suits, of the fake's tenant and population; the file."""
    facts = {
        "state": "phone",
        "address": address,
        "tenant_key": ROOTS.tenant.raw.hex(),
        "coordinator_key": ROOTS.coordinator.raw.hex(),
        "shape": str(list(shape)),
        "low": "-10" if shape == (3,) else "0",
        "high": "10" if shape == (3,) else "1",
        "labels": labels,
    }
    path = folder / "device.toml"
    path.write_text(SETTINGS.format(**{**facts, **changes}))
    return path
