"""A tenant as one stream, to bring it to another database and other blobs, under the same coordinator's key.

Lines of JSON, each ending in a line feed: a head; `{"table", "row"}`, parents before children; `{"blob", "sha256",
"raw"}`; an end with the number of lines before it, their SHA-256, and the coordinator's signature. Bytes are base64,
times are ISO 8601. Operator tokens, nonces, leases and kept answers stay behind.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Column, LargeBinary, Select, Table, column, insert, select, table
from sqlmodel import Session, SQLModel, col

from coordinator.core.privacy.plans import OF_THE_COORDINATOR, mode_of
from coordinator.core.rounds import UNENDED_PHASES
from coordinator.services.running import read_plan
from coordinator.store.blobs import BlobKind, Blobs
from coordinator.store.database import UtcDateTime
from coordinator.store.privacy_tables import NoiseRow
from coordinator.store.tables import BundleRow, CheckpointRow, PartialSum, Report, Round, Task, Tenant
from edge_runtime.protocol.errors import Conflict, DigestMismatch, Malformed, NotFound, UnsupportedVersion
from edge_runtime.protocol.keys import PublicKey, SigningKey

VERSION = 1
LEFT_BEHIND = frozenset({"heartbeats", "idempotency", "leases", "nonces", "operator_tokens", "privacy_noise"})
"""Of one coordinator, or secrets of one place: where the tenant goes it gets new tokens, and noise is drawn anew."""
_CONTEXT = b"edgewise tenant export 1\n"
_FORMAT = "edgewise-tenant"
_ALEMBIC = table("alembic_version", column("version_num"))


def export_tenant(session: Session, blobs: Blobs, tenant: str, key: SigningKey) -> Iterator[bytes]:
    """Everything of a tenant, line by line, as it was at one moment; one row or blob in memory at a time.

    Args:
        session: Reads, until the last line is out.

    Raises:
        NotFound: There is no such tenant, or a blob is missing.
        Conflict: A sum waits for noise of the coordinator.
        DigestMismatch: A blob is damaged.
    """
    if session.get(Tenant, tenant) is None:
        raise NotFound(f"there is no tenant {tenant!r}")
    _check_hidden(session, tenant)
    lines, sha256 = 0, hashlib.sha256()
    for value in _values(session, blobs, tenant):
        line = _line(value)
        lines += 1
        sha256.update(line)
        yield line
    signature = key.sign(_CONTEXT + sha256.digest())
    yield _line({"end": lines, "sha256": sha256.hexdigest(), "signature": _text(signature)})


def _check_hidden(session: Session, tenant: str) -> None:
    """Return if no sum waits for noise of the coordinator: two places would hide it twice, for one charge.

    Raises:
        Conflict: One does, or may soon.
    """
    waiting = col(Round.phase).in_(UNENDED_PHASES) | col(Round.id).in_(select(col(NoiseRow.round_id)))
    query = select(col(Task.name), col(Task.plan), col(Round.number)).join(Round, col(Round.task_id) == col(Task.id))
    query = query.where(col(Task.tenant) == tenant, waiting).order_by(col(Task.name), col(Round.number))
    for name, plan, number in session.connection().execute(query):
        if mode_of(read_plan(plan)) in OF_THE_COORDINATOR:
            raise Conflict(
                f"round {number} of the task {name!r} is open, and the noise that hides its sum stays here: pause the "
                "task and let the round end, or cancel it; then export again"
            )


def verify_export(lines: Iterable[bytes], revision: str, key: PublicKey) -> str:
    """Check a stream to its end, and return its tenant. Nothing is written before.

    Args:
        revision: Of this database's schema.

    Raises:
        Malformed: It is no such stream, or is cut off.
        UnsupportedVersion: It is of another version, or of another schema.
        DigestMismatch: It was changed on its way.
        UntrustedDocument: Another coordinator made it.
    """
    stream = iter(lines)
    head = next(stream, b"")
    tenant = _tenant_of(_read(head), revision)
    count, sha256, line = 1, hashlib.sha256(head), b""
    for following in stream:
        if line:
            count += 1
            sha256.update(line)
        line = following
    end = _read(line) if line else {}
    if set(end) != {"end", "sha256", "signature"} or end["end"] != count:
        raise Malformed("the export is cut off: its last line is missing; export the tenant again")
    if end["sha256"] != sha256.hexdigest():
        raise DigestMismatch("the export was changed after it was made; export the tenant again")
    key.verify(_bytes(end["signature"]), _CONTEXT + sha256.digest())
    return tenant


def import_tenant(session: Session, blobs: Blobs, lines: Callable[[], Iterable[bytes]], key: PublicKey) -> str:
    """Take a tenant in, whole or not at all; its name. Blobs are written first, and repeating it repairs them.

    Args:
        lines: Gives the stream from its beginning; it is read twice.

    Raises: As `verify_export`, and:
        Conflict: The tenant is here already.
    """
    tenant = verify_export(lines(), revision_of(session), key)
    if session.get(Tenant, tenant) is not None:
        raise Conflict(f"the tenant {tenant!r} is here already; an import adds a whole tenant and changes none")
    tables = {found.name: found for found in _tables()}
    for line in lines():
        value = _read(line)
        if "table" in value:
            into = tables[value["table"]]
            session.connection().execute(insert(into).values(_decoded(into, value["row"])))
        elif "blob" in value:
            stored = blobs.put(tenant, BlobKind(value["blob"]), _bytes(value["raw"]))
            if stored != value["sha256"]:
                raise DigestMismatch("a blob of the export is not what its address says")
    return tenant


def revision_of(session: Session) -> str:
    """The schema's newest migration."""
    return str(session.connection().execute(select(_ALEMBIC.c.version_num)).scalar_one())


def _values(session: Session, blobs: Blobs, tenant: str) -> Iterator[Mapping[str, Any]]:
    yield {"format": _FORMAT, "version": VERSION, "schema": revision_of(session), "tenant": tenant}
    for found in _tables():
        for row in session.connection().execute(_of_tenant(found, tenant).order_by(*found.primary_key)).mappings():
            yield {"table": found.name, "row": {name: _encoded(value) for name, value in row.items()}}
    for kind, sha256 in _blobs_of(session, tenant):
        yield {"blob": kind.value, "sha256": sha256, "raw": _text(blobs.get(tenant, kind, sha256))}


def _tables() -> list[Table]:
    """Parents before children."""
    return [found for found in SQLModel.metadata.sorted_tables if found.name not in LEFT_BEHIND]


def _of_tenant(found: Table, tenant: str) -> Select[Any]:
    rounds, groups = SQLModel.metadata.tables["rounds"], SQLModel.metadata.tables["groups"]
    if found.name == "tenants":
        return select(found).where(found.c.name == tenant)
    if "tenant" in found.c:
        return select(found).where(found.c.tenant == tenant)
    if "task_id" in found.c:
        tasks = SQLModel.metadata.tables["tasks"]
        return select(found).where(found.c.task_id.in_(select(tasks.c.id).where(tasks.c.tenant == tenant)))
    of_rounds = select(rounds.c.id).where(rounds.c.tenant == tenant)
    if "round_id" in found.c:
        return select(found).where(found.c.round_id.in_(of_rounds))
    return select(found).where(found.c.group_id.in_(select(groups.c.id).where(groups.c.round_id.in_(of_rounds))))


def _blobs_of(session: Session, tenant: str) -> list[tuple[BlobKind, str]]:
    found: list[tuple[BlobKind, str]] = []
    for kind, of_catalogue in ((BlobKind.BUNDLE, BundleRow), (BlobKind.CHECKPOINT, CheckpointRow)):
        addresses = select(of_catalogue.sha256).where(of_catalogue.tenant == tenant)  # type: ignore[call-overload]
        found += [(kind, sha256) for sha256 in session.connection().execute(addresses).scalars()]
    for kind, of_round in ((BlobKind.REPORT, Report), (BlobKind.PARTIAL_SUM, PartialSum)):
        of_rounds = SQLModel.metadata.tables[str(of_round.__tablename__)]
        rows = session.connection().execute(_of_tenant(of_rounds, tenant)).mappings()
        found += [(kind, row["sha256"]) for row in rows if not row["blob_deleted"]]
    tasks = SQLModel.metadata.tables["tasks"]
    states = select(tasks.c.optimiser_state_sha256).where(tasks.c.tenant == tenant)
    found += [(BlobKind.OPTIMISER_STATE, kept) for kept in session.connection().execute(states).scalars() if kept]
    streams = SQLModel.metadata.tables["privacy_streams"]
    rows = session.connection().execute(_of_tenant(streams, tenant)).mappings()
    found += [(BlobKind.NOISE_STATE, row["buffers_sha256"]) for row in rows if row["buffers_sha256"]]
    return sorted(set(found))


def _tenant_of(head: Mapping[str, Any], revision: str) -> str:
    if head.get("format") != _FORMAT or not isinstance(head.get("tenant"), str):
        raise Malformed("this is not the export of a tenant")
    if head.get("version") != VERSION:
        raise UnsupportedVersion(
            f"the export has version {head.get('version')!r}, and this coordinator reads {VERSION}"
        )
    if head.get("schema") != revision:
        raise UnsupportedVersion(
            f"the export has the schema {head.get('schema')!r}, and this database {revision!r}; "
            "bring both coordinators to the same release, and export again"
        )
    return str(head["tenant"])


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode() + b"\n"


def _read(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:
        value = None
    if not isinstance(value, dict) or not line.endswith(b"\n"):
        raise Malformed("the export is cut off, or is no export: a line is not JSON")
    return value


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _bytes(text: object) -> bytes:
    try:
        return base64.b64decode(str(text), validate=True)
    except ValueError:
        raise Malformed("the export has bytes that are not base64") from None


def _encoded(value: object) -> object:
    if isinstance(value, bytes | memoryview):
        return _text(bytes(value))
    return value.isoformat() if isinstance(value, datetime) else value


def _decoded(into: Table, row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _decoded_value(into.c[name], value) for name, value in row.items()}


def _decoded_value(into: Column[Any], value: object) -> object:
    if value is None:
        return None
    if isinstance(into.type, LargeBinary):
        return _bytes(value)
    return datetime.fromisoformat(str(value)) if isinstance(into.type, UtcDateTime) else value
