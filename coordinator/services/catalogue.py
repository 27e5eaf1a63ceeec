"""What an operator brings: tenants, tokens, populations, bundles, checkpoints."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import tuple_
from sqlmodel import Session, col, delete, select

from coordinator.services.running import read_manifest
from coordinator.store.blobs import BlobKind, Blobs
from coordinator.store.tables import BundleRow, CheckpointRow, OperatorToken, Population, Tenant
from edge_runtime.protocol import wire
from edge_runtime.protocol.bundle import Manifest, verify_bundle
from edge_runtime.protocol.checkpoint import Checkpoint, Weights, seal_checkpoint, verify_checkpoint
from edge_runtime.protocol.enrolment import is_name
from edge_runtime.protocol.errors import Conflict, Malformed, NotFound, OperatorUnauthorised, PreconditionFailed
from edge_runtime.protocol.keys import PublicKey, SigningKey, digest, is_sha256
from edge_runtime.protocol.policy import Policy

BUCKET_KEY_BYTES = 32


def create_tenant(session: Session, name: str, public_key: PublicKey, now: datetime) -> None:
    """Make a tenant known with the key that signs its bundles and plans.

    Raises:
        Malformed: The name is not one.
        Conflict: It exists with another key.
    """
    if not is_name(name):
        raise Malformed(f"{name!r} is not a name: 1 to 64 of a-z 0-9 . _ -, a letter or digit first")
    existing = session.get(Tenant, name)
    if existing is None:
        session.add(Tenant(name=name, public_key=public_key.raw, created_at=now))
    elif existing.public_key != public_key.raw:
        raise Conflict(f"the tenant {name!r} exists with another key")


def issue_token(session: Session, tenant: str, now: datetime) -> str:
    """Make an operator token of 256 random bits for a tenant; only its SHA-256 is kept."""
    token = f"ewop_{secrets.token_urlsafe(32)}"
    session.add(OperatorToken(token_sha256=_token_digest(token), tenant=tenant, created_at=now))
    return token


def revoke_tokens(session: Session, tenant: str) -> None:
    """Make every operator token of a tenant worthless."""
    session.exec(delete(OperatorToken).where(col(OperatorToken.tenant) == tenant))


def tenant_of_token(session: Session, token: str) -> Tenant:
    """Return whose operator holds this token.

    Raises:
        OperatorUnauthorised: Nobody's.
    """
    row = session.get(OperatorToken, _token_digest(token))
    if row is None:
        raise OperatorUnauthorised("the token is not valid; `edgewise-coordinator init` makes one")
    return session.get_one(Tenant, row.tenant)


def population_named(session: Session, tenant: Tenant, name: str) -> Population:
    """Raises: NotFound: The tenant has no population of this name."""
    population = session.get(Population, (tenant.name, name))
    if population is None:
        raise NotFound(f"there is no population {name!r}")
    return population


def populations(session: Session, tenant: Tenant, after: str, most: int) -> Sequence[Population]:
    """The tenant's populations by name, from the first after a name."""
    return session.exec(
        select(Population)
        .where(Population.tenant == tenant.name, Population.name > after)
        .order_by(col(Population.name))
        .limit(most)
    ).all()


def check_version(found: int, expected: int | None) -> None:
    """Return if an object is in the version that a change is meant for; None is any.

    Raises:
        PreconditionFailed: It is not.
    """
    if expected is not None and expected != found:
        raise PreconditionFailed(f"the object is in version {found} by now; look at it again, then change it")


def _change(session: Session, population: Population, expected: int | None) -> None:
    check_version(population.version, expected)
    population.version += 1
    session.add(population)


def set_policy(
    session: Session, tenant: Tenant, name: str, policy: Policy | None, expected: int | None = None
) -> Population:
    """Say when devices of a population may work; None leaves it to their apps. They learn it at their next check-in.

    Raises:
        NotFound: The tenant has no population of this name.
        PreconditionFailed: It is not in the expected version.
    """
    population = population_named(session, tenant, name)
    raw = None if policy is None else wire.encode(policy)
    if population.policy != raw:
        _change(session, population, expected)
        population.policy = raw
    return population


def switch(session: Session, tenant: Tenant, name: str, *, off: bool, expected: int | None = None) -> Population:
    """Switch the devices of a population off or on; again changes nothing. They learn it at their next contact.

    Raises:
        NotFound: The tenant has no population of this name.
        PreconditionFailed: It is not in the expected version.
    """
    population = population_named(session, tenant, name)
    if population.switched_off != off:
        _change(session, population, expected)
        population.switched_off = off
    return population


def create_population(session: Session, tenant: Tenant, name: str, now: datetime) -> None:
    """Make a population; again changes nothing.

    Raises:
        Malformed: The name is not one.
    """
    if not is_name(name):
        raise Malformed(f"{name!r} is not a name: 1 to 64 of a-z 0-9 . _ -, a letter or digit first")
    if session.get(Population, (tenant.name, name)) is None:
        session.add(
            Population(tenant=tenant.name, name=name, created_at=now, bucket_key=secrets.token_bytes(BUCKET_KEY_BYTES))
        )


def store_bundle(blobs: Blobs, tenant: Tenant, sha256: str, raw: bytes) -> Manifest:
    """Keep a bundle signed by the tenant as a blob; again changes nothing. Outside transactions: it may be large.

    Raises:
        DigestMismatch, UntrustedDocument, MalformedBundle, UnsupportedVersion: It is not what it says.
    """
    bundle = verify_bundle(raw, sha256, PublicKey(tenant.public_key))
    blobs.put(tenant.name, BlobKind.BUNDLE, raw)
    return bundle.manifest


def record_bundle(session: Session, tenant: Tenant, sha256: str, manifest: Manifest, now: datetime) -> None:
    """List a stored bundle; again changes nothing."""
    if session.get(BundleRow, (tenant.name, sha256)) is None:
        session.add(BundleRow(tenant=tenant.name, sha256=sha256, manifest=wire.encode(manifest), imported_at=now))


def manifest_of(session: Session, tenant: Tenant, bundle_sha256: str) -> Manifest:
    """Raises: NotFound: The tenant has not brought this bundle."""
    bundle = session.get(BundleRow, (tenant.name, bundle_sha256))
    if bundle is None:
        raise NotFound("import the bundle before its checkpoint")
    return read_manifest(bundle.manifest)


def sign_imported(
    blobs: Blobs, tenant: Tenant, bundle_sha256: str, manifest: Manifest, raw: bytes, key: SigningKey
) -> Checkpoint:
    """Take first weights signed by the tenant, and sign them as a model version. Outside transactions, as above.

    Raises:
        DigestMismatch, UntrustedDocument, MalformedCheckpoint, WrongCheckpoint, InvalidWeights: As they say.
    """
    checkpoint = verify_checkpoint(
        raw,
        digest(raw).hex(),
        PublicKey(tenant.public_key),
        bundle_sha256=bundle_sha256,
        parameters=manifest.parameters,
    )
    return store_checkpoint(blobs, tenant.name, checkpoint.weights, bundle_sha256, checkpoint.model_version, key)


def store_checkpoint(
    blobs: Blobs, tenant: str, weights: Weights, bundle_sha256: str, model_version: int, key: SigningKey
) -> Checkpoint:
    """Sign weights as a model version and keep them as a blob; again changes nothing."""
    raw, sha256 = seal_checkpoint(weights, bundle_sha256, model_version, key)
    blobs.put(tenant, BlobKind.CHECKPOINT, raw, verified_sha256=sha256)
    return Checkpoint(sha256=sha256, bundle_sha256=bundle_sha256, model_version=model_version, weights=weights)


def record_checkpoint(session: Session, tenant: str, checkpoint: Checkpoint, now: datetime) -> CheckpointRow:
    """List a stored checkpoint; again changes nothing."""
    existing = session.get(CheckpointRow, (tenant, checkpoint.sha256))
    if existing is not None:
        return existing
    row = CheckpointRow(
        tenant=tenant,
        sha256=checkpoint.sha256,
        bundle_sha256=checkpoint.bundle_sha256,
        model_version=checkpoint.model_version,
        weights_sha256=digest(checkpoint.weights.astype("<f4", copy=False).tobytes()).hex(),
        created_at=now,
    )
    session.add(row)
    session.flush()
    return row


def checkpoints(
    session: Session, tenant: Tenant, bundle_sha256: str, before: str, most: int
) -> Sequence[CheckpointRow]:
    """The model versions of a bundle, newest first, from the first before a cursor.

    Raises:
        NotFound: The tenant has not brought this bundle.
        Malformed: The cursor is none.
    """
    manifest_of(session, tenant, bundle_sha256)
    query = select(CheckpointRow).where(
        CheckpointRow.tenant == tenant.name, CheckpointRow.bundle_sha256 == bundle_sha256
    )
    if before:
        number, _dot, sha256 = before.partition(".")
        if not (number.isdecimal() and len(number) < 18 and is_sha256(sha256)):
            raise Malformed("the cursor is not one that this list gave out")
        query = query.where(
            tuple_(col(CheckpointRow.model_version), col(CheckpointRow.sha256)) < tuple_(int(number), sha256)
        )
    newest_first = (col(CheckpointRow.model_version).desc(), col(CheckpointRow.sha256).desc())
    return session.exec(query.order_by(*newest_first).limit(most)).all()


def checkpoint_cursor(row: CheckpointRow) -> str:
    """Where a list of model versions goes on after this one."""
    return f"{row.model_version}.{row.sha256}"


def _token_digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
