"""The round header: what the coordinator promises of a round, signed with the key that signs checkpoints.

A device asks for it where its plan's claims rest on it: rounds that are counted for limits of participation, and a
clipping norm that changes from round to round. Everybody in a round gets the same header, byte for byte: a coordinator
that counts otherwise for one device has signed two headers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edge_runtime.protocol import wire
from edge_runtime.protocol.enrolment import is_name
from edge_runtime.protocol.errors import ContradictedRound
from edge_runtime.protocol.keys import (
    SIGNATURE_BYTES,
    Domain,
    PublicKey,
    SigningKey,
    digest,
    is_sha256,
    sign_document,
    verify_document,
)
from edge_runtime.protocol.plan import Plan


def header_path(participation: str) -> str:
    """Where a participant asks for its round's header."""
    return f"/v1/device/participations/{participation}/round"


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundHeader:
    """One round of one task.

    Attributes:
        round: Its number in the task, counted from 1.
        plan_sha256: Of the plan's signed bytes.
        checkpoint_sha256: What its participants start from.
        clipping_norm: Of this round; the plan's, unless that adapts.
    """

    VERSION: ClassVar[int] = 1
    version: int
    tenant: str
    task: str
    round: int
    plan_sha256: str
    checkpoint_sha256: str
    clipping_norm: float

    def __post_init__(self) -> None:
        wire.require(is_name(self.tenant) and is_name(self.task), "tenant and task are names")
        wire.require(1 <= self.round < wire.INTEGER_LIMIT, "rounds are counted from 1")
        digests = is_sha256(self.plan_sha256) and is_sha256(self.checkpoint_sha256)
        wire.require(digests, "plan and checkpoint are named by 64 hex digits")
        wire.require(self.clipping_norm > 0, "clipping_norm is above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedRound:
    """A header's exact bytes, and the coordinator's signature over them."""

    VERSION: ClassVar[int] = 1
    version: int
    header: bytes
    signature: bytes

    def __post_init__(self) -> None:
        wire.require(len(self.signature) == SIGNATURE_BYTES, "signature has 64 bytes")


def sign_header(header: RoundHeader, key: SigningKey) -> SignedRound:
    """Sign a header; the same one again has the same bytes."""
    raw = wire.encode(header)
    return SignedRound(version=1, header=raw, signature=sign_document(key, Domain.ROUND, digest(raw)))


def verify_header(
    signed: SignedRound, key: PublicKey, plan: Plan, *, plan_sha256: str, round_: int, checkpoint_sha256: str
) -> RoundHeader:
    """Check the signature and that the header is of the round that this device was assigned to, then return it.

    Raises:
        UntrustedDocument: `key` did not sign it.
        Malformed, UnsupportedVersion: It is no header of this version.
        ContradictedRound: It is of another round, or its clipping norm is not one that the plan allows.
    """
    verify_document(key, Domain.ROUND, digest(signed.header), signed.signature)
    header = wire.decode(RoundHeader, signed.header)
    expected = (plan.tenant, round_, plan_sha256, checkpoint_sha256)
    if (header.tenant, header.round, header.plan_sha256, header.checkpoint_sha256) != expected:
        raise ContradictedRound("the round's header is of another round than the assignment")
    if plan.adaptive is None:
        allowed = header.clipping_norm == plan.clipping_norm
    else:
        allowed = plan.adaptive.smallest <= header.clipping_norm <= plan.adaptive.largest
    if not allowed:
        raise ContradictedRound("the clipping norm of the round's header is not one that the plan allows")
    return header
