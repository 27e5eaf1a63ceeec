"""Hashes of which none, made for one thing, is ever that of another: a domain first, every part after its length."""

from __future__ import annotations

import hashlib
from enum import StrEnum


class Domain(StrEnum):
    """What a hash or a signature is for."""

    CERTIFICATE = "edgewise/certificate/1"
    JOIN = "edgewise/secsum/1/join"
    CONTEXT = "edgewise/secsum/1"
    RING = "edgewise/secsum/1/ring"
    BOX = "edgewise/secsum/1/signed-box"
    SEED = "edgewise/secsum/1/seed"
    SEED_SHARE = "edgewise/secsum/1/seed-share"
    KEY_SHARE = "edgewise/secsum/1/key-share"
    CONFIRM = "edgewise/secsum/1/confirm"


def hashed(domain: Domain, *parts: bytes) -> bytes:
    """SHA-256 over the domain and the parts, each after its length as 4 bytes, little-endian; 32 bytes."""
    framed = [domain.value.encode(), *parts]
    return hashlib.sha256(b"".join(len(part).to_bytes(4, "little") + part for part in framed)).digest()
