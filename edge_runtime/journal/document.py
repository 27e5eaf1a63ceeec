"""The journal's file: one document, replaced whole at every change, each naming the one before it.

Layout, little-endian: magic `EWJL`, u16 version, u8 secret, u8 zero, u64 epoch, 32 bytes SHA-256 of the document
before, u32 payload bytes, the payload, and the SHA-256 of everything before it. The payload is the state as canonical
JSON, sealed for this header. The second place holds, in 76 bytes, the last epoch and digest that were seen: magic
`EWJS`, u16 version, u16 zero, u32 zero, u64 epoch, 32 bytes digest, and 24 bytes of a SHA-256 over what is before them.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from edge_runtime.journal.sealing import Seal, SealBroken
from edge_runtime.journal.state import State
from edge_runtime.protocol import wire
from edge_runtime.protocol.errors import Malformed, StateDamaged, UnsupportedVersion, WrongStorageKey
from edge_runtime.protocol.keys import DIGEST_BYTES, digest

Migration = Callable[[dict[str, Any]], dict[str, Any]]


def _with_groups(tree: dict[str, Any]) -> dict[str, Any]:
    """1 to 2: certificates, and what is kept under secure summing."""
    identity, held = tree["identity"], tree["participation"]
    return {
        **tree,
        "version": 2,
        "identity": identity and {**identity, "certificate": ""},
        "participation": held and {**held, "grouping": None},
    }


def _with_limits(tree: dict[str, Any]) -> dict[str, Any]:
    """2 to 3: what was given under plans that bound it; until then none did."""
    held = tree["participation"]
    return {**tree, "version": 3, "taken": [], "participation": held and {**held, "counted_as": None}}


def _with_norms(tree: dict[str, Any]) -> dict[str, Any]:
    """3 to 4: the clipping norm of a round; until then every plan had its own."""
    held = tree["participation"]
    return {**tree, "version": 4, "participation": held and {**held, "clipping_norm": None}}


MIGRATIONS: Final[Mapping[int, Migration]] = {1: _with_groups, 2: _with_limits, 3: _with_norms}
"""From a version of the state's JSON to the next. Only ever added to; `State.VERSION` is the one after the last."""

NOTHING_BEFORE: Final = bytes(DIGEST_BYTES)
"""What the first document names as the one before it."""

_MAGIC: Final = b"EWJL"
_SEEN_MAGIC: Final = b"EWJS"
_LAYOUT: Final = 1
_HEADER: Final = struct.Struct("<4sHBBQ32sI")
_SEEN: Final = struct.Struct("<4sHHIQ32s")
_SEEN_CHECK_BYTES: Final = 24
_CONTEXT: Final = b"edgewise/journal/v1\0"


@dataclass(frozen=True, slots=True)
class Seen:
    """A document's place in the chain: how many were written up to it, and its digest."""

    epoch: int
    sha256: bytes


NOTHING_SEEN: Final = Seen(0, NOTHING_BEFORE)


@dataclass(frozen=True, slots=True)
class Document:
    """A state in its place in the chain."""

    state: State
    place: Seen
    before: bytes
    """Digest of the document before it."""

    def follows(self, seen: Seen) -> bool:
        """Whether it is the one that was seen last, or the very next: a crash may fall between the two writes."""
        return self.place == seen or (self.place.epoch, self.before) == (seen.epoch + 1, seen.sha256)


def encode_document(state: State, before: Seen, seal: Seal) -> tuple[bytes, Document]:
    """Write the document that comes after `before`."""
    text = wire.encode(state)
    epoch = before.epoch + 1
    size = len(text) + seal.overhead_bytes
    header = _HEADER.pack(_MAGIC, _LAYOUT, seal.secret, 0, epoch, before.sha256, size)
    body = header + seal.close(text, _CONTEXT + header)
    sha256 = digest(body)
    return body + sha256, Document(state, Seen(epoch, sha256), before.sha256)


def decode_document(raw: bytes, seal: Seal) -> Document:
    """Read a document; an older version of the state is migrated.

    Raises:
        StateDamaged: It is not as it was written.
        WrongStorageKey: It is, and was sealed with another key, or with one where there is none, or without.
        UnsupportedVersion: A later version of the app wrote it.
    """
    if len(raw) < _HEADER.size + DIGEST_BYTES or digest(raw[:-DIGEST_BYTES]) != raw[-DIGEST_BYTES:]:
        raise StateDamaged("the journal is not as it was written")
    magic, layout, secret, zero, epoch, before, size = _HEADER.unpack_from(raw)
    if magic != _MAGIC or zero or len(raw) != _HEADER.size + size + DIGEST_BYTES:
        raise StateDamaged("the journal is not a journal")
    if layout != _LAYOUT:
        raise UnsupportedVersion(f"journal layout {layout}; spoken here: {_LAYOUT}")
    if bool(secret) != seal.secret:
        raise WrongStorageKey("the journal is sealed, and there is no key" if secret else "the journal is not sealed")
    try:
        text = seal.open(raw[_HEADER.size : -DIGEST_BYTES], _CONTEXT + raw[: _HEADER.size])
    except SealBroken:
        raise WrongStorageKey("the app's key does not open the journal") from None
    return Document(decode_state(text), Seen(epoch, raw[-DIGEST_BYTES:]), before)


def decode_state(text: bytes, migrations: Mapping[int, Migration] = MIGRATIONS) -> State:
    """Read a state of this version or an earlier one.

    Raises:
        StateDamaged: It is not a state.
        UnsupportedVersion: A later version of the app wrote it.
    """
    try:
        tree = json.loads(text)
        while isinstance(tree, dict) and tree.get("version") in migrations:
            tree = migrations[tree["version"]](tree)
        return wire.decode(State, json.dumps(tree).encode())
    except (ValueError, KeyError, TypeError, Malformed) as problem:
        raise StateDamaged("the journal holds no state") from problem


def encode_seen(seen: Seen) -> bytes:
    """Write what was seen last."""
    body = _SEEN.pack(_SEEN_MAGIC, _LAYOUT, 0, 0, seen.epoch, seen.sha256)
    return body + digest(body)[:_SEEN_CHECK_BYTES]


def decode_seen(raw: bytes) -> Seen:
    """Read what was seen last.

    Raises:
        StateDamaged: It is not as it was written.
    """
    body = raw[: _SEEN.size]
    if len(raw) != _SEEN.size + _SEEN_CHECK_BYTES or raw[_SEEN.size :] != digest(body)[:_SEEN_CHECK_BYTES]:
        raise StateDamaged("what was seen last of the journal is not as it was written")
    _magic, _layout, _zero, _zeros, epoch, sha256 = _SEEN.unpack(body)
    return Seen(epoch, sha256)
