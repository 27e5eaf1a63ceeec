"""Answers to operators' requests that named themselves, kept so that asking again gets the same."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlmodel import Session, col, delete

from coordinator.store.tables import Idempotency
from edge_runtime.protocol.errors import Conflict, Malformed

KEPT_S = 86_400.0
"""How long an answer is kept: a request that comes later is a new one."""
_LONGEST_KEY = 128


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    etag: str | None
    body: bytes


def answered(session: Session, tenant: str, key: str, request_sha256: str) -> Answer | None:
    """What this request was answered before; None if it is new.

    Raises:
        Malformed: The key is not one.
        Conflict: Another request came under this key.
    """
    if not (1 <= len(key) <= _LONGEST_KEY and key.isascii() and key.isprintable()):
        raise Malformed(f"an idempotency key has 1 to {_LONGEST_KEY} printable ASCII characters")
    row = session.get(Idempotency, (tenant, key))
    if row is None:
        return None
    if row.request_sha256 != request_sha256:
        raise Conflict("another request came under this idempotency key; choose a new key for a new request")
    return Answer(row.status, row.etag, row.body)


def keep(session: Session, tenant: str, key: str, request_sha256: str, answer: Answer, now: datetime) -> Answer:
    """Keep an answer, and return it; or the one that a twin of this request got meanwhile.

    Raises:
        Conflict: Another request came under this key meanwhile.
    """
    before = answered(session, tenant, key, request_sha256)
    if before is not None:
        return before
    session.add(
        Idempotency(
            tenant=tenant,
            key=key,
            request_sha256=request_sha256,
            status=answer.status,
            etag=answer.etag,
            body=answer.body,
            created_at=now,
        )
    )
    return answer


def forget(session: Session, before: datetime) -> None:
    """Forget answers of earlier requests."""
    session.exec(delete(Idempotency).where(col(Idempotency.created_at) < before))
