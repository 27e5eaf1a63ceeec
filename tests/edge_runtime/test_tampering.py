"""A truncated or altered bundle or checkpoint is refused by name; nothing of it ever reaches an interpreter."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.protocol.bundle import verify_bundle
from edge_runtime.protocol.checkpoint import verify_checkpoint
from edge_runtime.protocol.errors import (
    DigestMismatch,
    MalformedBundle,
    MalformedCheckpoint,
    UntrustedDocument,
    WrongCheckpoint,
)
from edge_runtime.protocol.keys import SigningKey, digest
from model_export.spec import Exported
from tests.exports import TENANT_KEY

Verify = Callable[[bytes, str], object]

MALLORY = SigningKey(bytes(32))


@pytest.fixture(scope="module")
def mlp(exported: Callable[[str], Exported]) -> Exported:
    return exported("mlp")


@pytest.fixture(scope="module", params=["bundle", "checkpoint"])
def original(request: pytest.FixtureRequest, mlp: Exported) -> tuple[bytes, Verify]:
    """The bytes, and how a device verifies them against an expected digest."""
    if request.param == "bundle":
        return mlp.bundle, lambda raw, sha256: verify_bundle(raw, sha256, TENANT_KEY.public)
    return mlp.checkpoint, lambda raw, sha256: verify_checkpoint(
        raw,
        sha256,
        TENANT_KEY.public,
        bundle_sha256=mlp.bundle_sha256,
        parameters=mlp.manifest.parameters,
    )


def refuse(original: tuple[bytes, Verify], altered: bytes) -> None:
    """Neither the right digest nor that of the altered bytes helps without the tenant key."""
    raw, verify = original
    with pytest.raises(DigestMismatch):
        verify(altered, digest(raw).hex())
    with pytest.raises((UntrustedDocument, MalformedBundle, MalformedCheckpoint)):
        verify(altered, digest(altered).hex())


@pytest.mark.parametrize("share", [0, 0.0001, 0.001, 0.01, 0.1, 0.5, 0.9, 0.999, 0.99999])
def test_a_truncated_file_is_refused(original: tuple[bytes, Verify], share: float) -> None:
    refuse(original, original[0][: int(share * len(original[0]))])


@pytest.mark.parametrize("step", range(60))
def test_a_flipped_bit_is_refused_wherever_it_is(original: tuple[bytes, Verify], step: int) -> None:
    altered = bytearray(original[0])
    altered[step * (len(altered) - 1) // 59] ^= 1 << step % 8
    refuse(original, bytes(altered))


@given(data=st.data())
def test_any_change_is_refused(original: tuple[bytes, Verify], data: st.DataObject) -> None:
    altered = bytearray(original[0])
    for _ in range(data.draw(st.integers(1, 7))):
        altered[data.draw(st.integers(0, len(altered) - 1))] ^= data.draw(st.integers(1, 255))
    if bytes(altered) != original[0]:
        refuse(original, bytes(altered))


def test_appended_bytes_are_refused(original: tuple[bytes, Verify]) -> None:
    refuse(original, original[0] + b"\0")


def test_another_signer_is_refused(mlp: Exported) -> None:
    with pytest.raises(UntrustedDocument):
        verify_bundle(mlp.bundle, mlp.bundle_sha256, MALLORY.public)


def test_a_checkpoint_of_another_model_is_refused(mlp: Exported, exported: Callable[[str], Exported]) -> None:
    other = exported("cnn")
    with pytest.raises(WrongCheckpoint):
        verify_checkpoint(
            other.checkpoint,
            other.checkpoint_sha256,
            TENANT_KEY.public,
            bundle_sha256=mlp.bundle_sha256,
            parameters=mlp.manifest.parameters,
        )
