"""A bundle is refused for the part that is wrong, whichever byte was flipped, and can be signed again."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from edge_runtime.protocol import wire
from edge_runtime.protocol.bundle import Measured, verify_bundle
from edge_runtime.protocol.checkpoint import encode_checkpoint, verify_checkpoint
from edge_runtime.protocol.keys import SIGNATURE_BYTES, SigningKey, digest
from model_export.cli import app
from model_export.provenance import (
    Distrusted,
    Part,
    checkpoint_for,
    signed_again,
    take_apart,
    verified,
    verified_checkpoint,
    with_measured,
)
from model_export.spec import Exported
from tests.exports import TENANT_KEY

OTHER_KEY = SigningKey(bytes(range(1, 33)))
HEADER = struct.calcsize("<4sHHIQ")


@pytest.fixture
def mlp(exported: Callable[[str], Exported]) -> Exported:
    return exported("mlp")


def flipped(raw: bytes, place: int, bit: int) -> bytes:
    return raw[:place] + bytes([raw[place] ^ (1 << bit)]) + raw[place + 1 :]


def part_refused(raw: bytes) -> Part:
    with pytest.raises(Distrusted) as refused:
        verified(raw, TENANT_KEY.public)
    assert str(refused.value.part) in str(refused.value)
    return refused.value.part


@pytest.mark.parametrize("region", [Part.HEADER, Part.MANIFEST, Part.GRAPH, Part.SIGNATURE])
def test_every_flipped_byte_is_refused_by_name(mlp: Exported, region: Part) -> None:
    raw = mlp.bundle
    manifest_end = HEADER + len(wire.encode(mlp.manifest))
    begin, end = {
        Part.HEADER: (0, HEADER),
        Part.MANIFEST: (HEADER, manifest_end),
        Part.GRAPH: (manifest_end, len(raw) - SIGNATURE_BYTES),
        Part.SIGNATURE: (len(raw) - SIGNATURE_BYTES, len(raw)),
    }[region]
    # Still readable, a manifest is as its signature does not say; or it names another graph.
    named = {Part.MANIFEST, Part.SIGNATURE, Part.GRAPH} if region is Part.MANIFEST else {region}
    rng = np.random.default_rng(0)
    for place, bit in zip(rng.integers(begin, end, 75), rng.integers(0, 8, 75), strict=True):
        assert part_refused(flipped(raw, int(place), int(bit))) in named


def test_every_byte_of_header_and_signature_counts(mlp: Exported) -> None:
    raw = mlp.bundle
    assert {part_refused(flipped(raw, place, 0)) for place in range(HEADER)} == {Part.HEADER}
    places = range(len(raw) - SIGNATURE_BYTES, len(raw))
    assert {part_refused(flipped(raw, place, 7)) for place in places} == {Part.SIGNATURE}


@pytest.mark.parametrize("length", [0, 3, HEADER - 1, HEADER, HEADER + 100, -1, -SIGNATURE_BYTES - 1])
def test_a_truncated_bundle_is_refused_for_its_header(mlp: Exported, length: int) -> None:
    assert part_refused(mlp.bundle[:length]) is Part.HEADER


def test_a_bundle_without_a_signature_is_refused_and_can_be_signed(mlp: Exported) -> None:
    body = mlp.bundle[:-SIGNATURE_BYTES]
    for unsigned in (body, body + bytes(SIGNATURE_BYTES)):
        assert part_refused(unsigned) is Part.SIGNATURE
        assert signed_again(unsigned, TENANT_KEY) == mlp.bundle


def test_another_digest_and_another_key_are_named(mlp: Exported) -> None:
    with pytest.raises(Distrusted, match="the digest is wrong"):
        verified(mlp.bundle, TENANT_KEY.public, "ab" * 32)
    with pytest.raises(Distrusted, match="the signature is wrong: another key"):
        verified(mlp.bundle, OTHER_KEY.public)
    assert verified(mlp.bundle, TENANT_KEY.public, mlp.bundle_sha256).manifest == mlp.manifest


def test_a_damaged_bundle_is_not_signed(mlp: Exported) -> None:
    middle = len(mlp.bundle) // 2
    with pytest.raises(Distrusted, match="the graph is wrong"):
        signed_again(flipped(mlp.bundle, middle, 3), OTHER_KEY)


def test_a_bundle_signed_again_is_the_same_but_for_its_signer(mlp: Exported) -> None:
    again = signed_again(mlp.bundle, OTHER_KEY)
    sha256 = digest(again).hex()
    assert verify_bundle(again, sha256, OTHER_KEY.public).manifest == mlp.manifest
    assert signed_again(again, TENANT_KEY) == mlp.bundle
    checkpoint = checkpoint_for(mlp.checkpoint, sha256, mlp.bundle_sha256, OTHER_KEY)
    count = mlp.manifest.parameters
    found = verify_checkpoint(
        checkpoint, digest(checkpoint).hex(), OTHER_KEY.public, bundle_sha256=sha256, parameters=count
    )
    old = verify_checkpoint(
        mlp.checkpoint, mlp.checkpoint_sha256, TENANT_KEY.public, bundle_sha256=mlp.bundle_sha256, parameters=count
    )
    assert (found.weights == old.weights).all()
    with pytest.raises(Distrusted, match="for another bundle"):
        checkpoint_for(mlp.checkpoint, sha256, sha256, OTHER_KEY)


def test_what_a_step_cost_is_signed_into_the_manifest(mlp: Exported) -> None:
    measured = Measured(runtime="ai-edge-litert 2.3.0", step_ms=1.5, peak_memory_bytes=60_000_000)
    found = with_measured(mlp, measured, TENANT_KEY)
    bundle = verify_bundle(found.bundle, found.bundle_sha256, TENANT_KEY.public)
    assert bundle.manifest.measured == measured
    assert take_apart(found.bundle).graph == take_apart(mlp.bundle).graph
    assert verified_checkpoint(found.checkpoint, bundle, (TENANT_KEY.public,)).model_version == 0


def test_a_checkpoint_is_believed_by_one_of_its_keys(mlp: Exported) -> None:
    bundle = verified(mlp.bundle, TENANT_KEY.public)
    weights = np.zeros(mlp.manifest.parameters, np.float32)
    released = encode_checkpoint(weights, mlp.bundle_sha256, 30, OTHER_KEY)
    keys = (TENANT_KEY.public, OTHER_KEY.public)
    assert verified_checkpoint(released, bundle, keys).model_version == 30
    for raw, sentence in (
        (flipped(released, 200, 1), "none of the given keys"),
        (encode_checkpoint(weights, "ab" * 32, 30, OTHER_KEY), "for another bundle"),
        (encode_checkpoint(weights[:-1], mlp.bundle_sha256, 30, OTHER_KEY), "for another bundle"),
    ):
        with pytest.raises(Distrusted, match=f"the checkpoint is wrong: .*{sentence}"):
            verified_checkpoint(raw, bundle, keys)
    with pytest.raises(Distrusted, match="none of the given keys"):
        verified_checkpoint(released, bundle, keys[:1])


def test_sign_and_verify_on_the_command_line(mlp: Exported, tmp_path: Path) -> None:
    bundle, checkpoint, key = tmp_path / "bundle.ewb", tmp_path / "checkpoint.ewc", tmp_path / "tenant.key"
    bundle.write_bytes(mlp.bundle)
    checkpoint.write_bytes(mlp.checkpoint)
    run = CliRunner().invoke
    public = run(app, ["keygen", str(key)]).stdout.strip()
    sign = ["sign", str(bundle), "--checkpoint", str(checkpoint), "--tenant-key", str(key)]
    assert run(app, [*sign, "--out", str(tmp_path / "signed")]).exit_code == 0
    assert bundle.read_bytes() == mlp.bundle
    signed = [str(tmp_path / "signed" / name) for name in ("bundle.ewb", "checkpoint.ewc")]
    verify = ["verify", signed[0], "--checkpoint", signed[1], "--tenant-key-public"]
    found = run(app, [*verify, public])
    assert (found.exit_code, "model version 0" in found.stdout) == (0, True)
    refused = run(app, ["verify", str(bundle), "--tenant-key-public", public])
    assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)
    assert "the signature is wrong" in refused.stderr
    assert run(app, sign).exit_code == 0
    assert bundle.read_bytes() == (tmp_path / "signed" / "bundle.ewb").read_bytes()
    wrong = run(app, ["verify", str(bundle), "--tenant-key-public", public, "--sha256", "ab" * 32])
    assert (wrong.exit_code, "the digest is wrong" in wrong.stderr) == (2, True)
