"""Bundles, checkpoints and keys: nothing is looked into before digest and signature hold."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.protocol.bundle import encode_bundle, verify_bundle
from edge_runtime.protocol.checkpoint import MODEL_VERSION_LIMIT, checkpoint_bytes, encode_checkpoint, verify_checkpoint
from edge_runtime.protocol.errors import (
    DigestMismatch,
    InvalidWeights,
    Malformed,
    MalformedBundle,
    MalformedCheckpoint,
    Refusal,
    UntrustedDocument,
)
from edge_runtime.protocol.keys import (
    Domain,
    PublicKey,
    SigningKey,
    device_id,
    digest,
    sign_document,
    verify_document,
)
from edge_runtime.protocol.plan import verify_plan
from tests.vectors.make import (
    BUNDLE,
    BUNDLE_SHA256,
    CHECKPOINT,
    COORDINATOR_KEY,
    GRAPH,
    MANIFEST,
    PLAN_BYTES,
    TENANT_KEY,
    WEIGHTS,
)


def read_bundle(raw: bytes, sha256: str | None = None) -> object:
    return verify_bundle(raw, sha256 or digest(raw).hex(), TENANT_KEY.public)


def read_checkpoint(raw: bytes, sha256: str | None = None) -> object:
    return verify_checkpoint(
        raw,
        sha256 or digest(raw).hex(),
        COORDINATOR_KEY.public,
        bundle_sha256=BUNDLE_SHA256,
        parameters=MANIFEST.parameters,
    )


READERS = {"bundle": (read_bundle, BUNDLE), "checkpoint": (read_checkpoint, CHECKPOINT)}
each_document = pytest.mark.parametrize(("read", "raw"), READERS.values(), ids=READERS.keys())


@each_document
def test_every_flipped_byte_is_refused_by_the_digest(read: object, raw: bytes) -> None:
    assert callable(read)
    address = digest(raw).hex()
    for position in range(len(raw)):
        changed = raw[:position] + bytes([raw[position] ^ 0x40]) + raw[position + 1 :]
        with pytest.raises(DigestMismatch):
            read(changed, address)


@each_document
def test_every_flipped_byte_is_refused_by_the_signature_when_the_address_is_forged_too(
    read: object, raw: bytes
) -> None:
    assert callable(read)
    for position in range(len(raw)):
        changed = raw[:position] + bytes([raw[position] ^ 1]) + raw[position + 1 :]
        with pytest.raises(UntrustedDocument):
            read(changed)


@each_document
def test_every_truncation_is_refused(read: object, raw: bytes) -> None:
    assert callable(read)
    for length in range(len(raw)):
        with pytest.raises(DigestMismatch):
            read(raw[:length], digest(raw).hex())
        with pytest.raises((MalformedBundle, MalformedCheckpoint, UntrustedDocument)):
            read(raw[:length])


def outcome(read: object, raw: bytes) -> str:
    assert callable(read)
    try:
        read(raw)
    except Refusal as refusal:
        return refusal.code
    return "read"


@given(body=st.binary(max_size=300))
def test_signed_bytes_of_any_kind_are_read_or_refused_by_name(body: bytes) -> None:
    as_bundle = body + sign_document(TENANT_KEY, Domain.BUNDLE, digest(body))
    as_checkpoint = body + sign_document(COORDINATOR_KEY, Domain.CHECKPOINT, digest(body))
    assert outcome(read_bundle, as_bundle) in ("malformed-bundle", "unsupported-version")
    assert outcome(read_checkpoint, as_checkpoint) in ("malformed-checkpoint", "unsupported-version")


@given(manifest_bytes=st.integers(0, 2**32 - 1), graph_bytes=st.integers(0, 2**64 - 1))
def test_a_signed_bundle_that_lies_about_its_lengths_is_malformed(manifest_bytes: int, graph_bytes: int) -> None:
    body = bytearray(BUNDLE[:-64])
    honest = struct.unpack_from("<IQ", body, 8)
    struct.pack_into("<IQ", body, 8, manifest_bytes, graph_bytes)
    if (manifest_bytes, graph_bytes) != honest:
        signed = bytes(body) + sign_document(TENANT_KEY, Domain.BUNDLE, digest(bytes(body)))
        assert outcome(read_bundle, signed) == "malformed-bundle"


@given(count=st.integers(0, 2**64 - 1).filter(lambda count: count != MANIFEST.parameters))
def test_a_signed_checkpoint_that_lies_about_its_length_is_malformed(count: int) -> None:
    body = bytearray(CHECKPOINT[:-64])
    struct.pack_into("<Q", body, 48, count)
    signed = bytes(body) + sign_document(COORDINATOR_KEY, Domain.CHECKPOINT, digest(bytes(body)))
    assert outcome(read_checkpoint, signed) == "malformed-checkpoint"


@pytest.mark.parametrize("made_for", list(Domain))
@pytest.mark.parametrize("used_for", list(Domain))
def test_a_signature_holds_for_its_own_domain_alone(made_for: Domain, used_for: Domain) -> None:
    signature = sign_document(TENANT_KEY, made_for, digest(b"document"))
    if made_for is used_for:
        verify_document(TENANT_KEY.public, used_for, digest(b"document"), signature)
    else:
        with pytest.raises(UntrustedDocument):
            verify_document(TENANT_KEY.public, used_for, digest(b"document"), signature)


def test_a_checkpoint_signature_does_not_make_a_bundle() -> None:
    body = BUNDLE[:-64]
    assert outcome(read_bundle, body + sign_document(TENANT_KEY, Domain.CHECKPOINT, digest(body))) == (
        "untrusted-document"
    )


def test_a_bundle_signature_does_not_make_a_plan() -> None:
    with pytest.raises(UntrustedDocument):
        verify_plan(PLAN_BYTES, sign_document(TENANT_KEY, Domain.BUNDLE, digest(PLAN_BYTES)), TENANT_KEY.public)


@pytest.mark.parametrize("length", [0, 1, 63, 65, 128])
def test_a_signature_of_another_length_is_not_one(length: int) -> None:
    with pytest.raises(UntrustedDocument):
        verify_plan(PLAN_BYTES, bytes(length), TENANT_KEY.public)


def test_the_same_signature_in_a_second_form_is_refused() -> None:
    """RFC 8032: S below the group order; S + L would verify under a careless check."""
    order = 2**252 + 27742317777372353535851937790883648493
    signature = sign_document(TENANT_KEY, Domain.PLAN, digest(PLAN_BYTES))
    grown = int.from_bytes(signature[32:], "little") + order
    with pytest.raises(UntrustedDocument):
        verify_plan(PLAN_BYTES, signature[:32] + grown.to_bytes(32, "little"), TENANT_KEY.public)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_never_signed(value: float) -> None:
    weights = WEIGHTS.copy()
    weights[-1] = value
    with pytest.raises(InvalidWeights):
        encode_checkpoint(weights, BUNDLE_SHA256, 0, COORDINATOR_KEY)


@pytest.mark.parametrize("weights", [WEIGHTS.astype(np.float64), WEIGHTS.reshape(3, 3)])
def test_weights_of_another_form_are_never_signed(weights: npt.NDArray[Any]) -> None:
    with pytest.raises(InvalidWeights):
        encode_checkpoint(weights, BUNDLE_SHA256, 0, COORDINATOR_KEY)


@pytest.mark.parametrize("version", [-1, MODEL_VERSION_LIMIT, 1 << 64])
def test_a_model_version_out_of_range_is_never_signed(version: int) -> None:
    with pytest.raises(MalformedCheckpoint):
        encode_checkpoint(WEIGHTS, BUNDLE_SHA256, version, COORDINATOR_KEY)


@given(values=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=50))
def test_a_checkpoint_gives_back_the_very_weights(values: list[float]) -> None:
    weights = np.asarray(values, np.float32)
    raw = encode_checkpoint(weights, BUNDLE_SHA256, 3, COORDINATOR_KEY)
    assert len(raw) == checkpoint_bytes(weights.size)
    read = verify_checkpoint(
        raw, digest(raw).hex(), COORDINATOR_KEY.public, bundle_sha256=BUNDLE_SHA256, parameters=weights.size
    )
    assert (read.weights.tobytes(), read.model_version) == (weights.tobytes(), 3)


def test_a_bundle_is_never_signed_with_a_manifest_of_another_graph() -> None:
    with pytest.raises(DigestMismatch):
        encode_bundle(MANIFEST, GRAPH + b"!", TENANT_KEY)


def test_keys_stay_out_of_repr() -> None:
    key = SigningKey(digest(b"a secret"))
    shown = f"{key!r} {key} {[key]} {key!a}"
    assert key.raw.hex() not in shown
    assert repr(key.raw) not in shown


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_key_of_another_length_is_malformed(length: int) -> None:
    for kind in (PublicKey, SigningKey):
        with pytest.raises(Malformed, match="32 bytes"):
            kind(bytes(length))


def test_a_device_has_another_id_for_every_tenant_and_key() -> None:
    keys = [SigningKey(digest(name)).public for name in (b"one", b"two")]
    ids = {device_id(tenant, key) for tenant in ("acme", "acm", "e") for key in keys}
    assert len(ids) == 6
    assert all(len(one) == 32 for one in ids)
