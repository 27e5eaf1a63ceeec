"""Who is in a group: certified devices with keys made for this group alone, each entry signed by its device."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Final

from edge_runtime.protocol.errors import InvalidRoster, Malformed, UntrustedDocument
from edge_runtime.protocol.keys import PublicKey, SigningKey, device_id
from edge_runtime.protocol.secure_sum.digests import Domain, hashed
from edge_runtime.protocol.secure_sum.masks import check_public

NONCE_BYTES: Final = 16
_ENTRY: Final = struct.Struct("<32s64s32s32s16s64s")
ENTRY_BYTES: Final = _ENTRY.size
"""240."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One member: what it sends to join, and what all others see of it. 240 bytes, in this order.

    Attributes:
        device_key: Ed25519; its id, with the tenant, is the device's.
        certificate: The enrolment authority's signature of tenant and device key.
        box_key: X25519, fresh; seals shares.
        mask_key: X25519, fresh; masks reports. Its private half is shared.
        nonce: 16 random bytes.
        signature: By the device key, over plan, group, both keys and nonce.
    """

    device_key: bytes
    certificate: bytes
    box_key: bytes
    mask_key: bytes
    nonce: bytes
    signature: bytes

    @property
    def raw(self) -> bytes:
        return _ENTRY.pack(*astuple(self))

    @classmethod
    def from_raw(cls, raw: bytes) -> Entry:
        """Read one entry.

        Raises:
            Malformed: The bytes are not 240.
        """
        if len(raw) != ENTRY_BYTES:
            raise Malformed(f"an entry of a roster has {ENTRY_BYTES} bytes, not {len(raw)}")
        return cls(*_ENTRY.unpack(raw))

    def device_id(self, tenant: str) -> str:
        return device_id(tenant, PublicKey(self.device_key))


def sign_certificate(authority: SigningKey, tenant: str, device: PublicKey) -> bytes:
    """What the enrolment authority gives a device that it found to be a real one; 64 bytes."""
    return authority.sign(hashed(Domain.CERTIFICATE, tenant.encode(), device.raw))


def verify_certificate(authority: PublicKey, tenant: str, device: PublicKey, certificate: bytes) -> None:
    """Return if the authority certified the device for this tenant.

    Raises:
        UntrustedDocument: It did not.
    """
    authority.verify(certificate, hashed(Domain.CERTIFICATE, tenant.encode(), device.raw))


def signed_entry(
    device: SigningKey,
    certificate: bytes,
    *,
    plan_sha256: str,
    group: str,
    box_key: bytes,
    mask_key: bytes,
    nonce: bytes,
) -> Entry:
    """The entry by which a device joins one group under one plan.

    Raises:
        ValueError: A part has the wrong length: a bug of the caller.
    """
    if len(nonce) != NONCE_BYTES:
        raise ValueError(f"a nonce has {NONCE_BYTES} bytes")
    signature = device.sign(_joining(plan_sha256, group, box_key, mask_key, nonce))
    return Entry(device.public.raw, certificate, box_key, mask_key, nonce, signature)


def verify_entry(entry: Entry, *, tenant: str, plan_sha256: str, group: str, authority: PublicKey) -> None:
    """Return if the entry is by a certified device, for this plan and group, with keys that may be agreed with.

    Raises:
        InvalidRoster: It is not.
    """
    device = PublicKey(entry.device_key)
    message = _joining(plan_sha256, group, entry.box_key, entry.mask_key, entry.nonce)
    try:
        check_public(entry.box_key)
        check_public(entry.mask_key)
        verify_certificate(authority, tenant, device, entry.certificate)
        device.verify(entry.signature, message)
    except (Malformed, UntrustedDocument) as refusal:
        raise InvalidRoster(f"the entry of device {entry.device_id(tenant)}: {refusal.detail}") from None


def verify_roster(roster: Sequence[Entry], *, tenant: str, plan_sha256: str, group: str, authority: PublicKey) -> None:
    """Return if every entry holds, devices rise by id, each once, and no key is there twice.

    Raises:
        InvalidRoster: Something does not hold.
    """
    ids = [entry.device_id(tenant) for entry in roster]
    if any(not one < following for one, following in itertools.pairwise(ids)):
        raise InvalidRoster("the devices of a roster are there once each, by rising id")
    keys = [key for entry in roster for key in (entry.box_key, entry.mask_key)]
    if len(set(keys)) != len(keys):
        raise InvalidRoster("a key is in the roster twice")
    for entry in roster:
        verify_entry(entry, tenant=tenant, plan_sha256=plan_sha256, group=group, authority=authority)


def _joining(plan_sha256: str, group: str, box_key: bytes, mask_key: bytes, nonce: bytes) -> bytes:
    return hashed(Domain.JOIN, bytes.fromhex(plan_sha256), bytes.fromhex(group), box_key, mask_key, nonce)
