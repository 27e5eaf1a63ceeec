"""Who a device is: enrolment, and the signature on every request after it."""

from __future__ import annotations

from datetime import datetime

from sqlmodel import Session, col, delete

from coordinator.store.tables import Device, Nonce, Population
from edge_runtime.protocol.enrolment import Enrol, Enrolled
from edge_runtime.protocol.errors import BadSignature, Conflict, NotFound, ReplayedRequest, UnknownDevice
from edge_runtime.protocol.keys import PublicKey, device_id
from edge_runtime.protocol.signing import SignedBy, verify_request

FIRST_CHECK_IN_S = 0.0
"""A freshly enrolled device may check in at once."""


def authenticate(session: Session, claim: SignedBy, method: str, target: str, now: datetime) -> Device:
    """Return the device that signed this request, and remember the request.

    Raises:
        UnknownDevice: No such device is enrolled.
        BadSignature, ClockSkew: The signature does not hold.
        ReplayedRequest: This very request was already received.
    """
    device = session.get(Device, claim.keyid)
    if device is None:
        raise UnknownDevice("enrol first")
    verify_request(claim, PublicKey(device.public_key), method, target, now=int(now.timestamp()))
    _remember(session, claim, now)
    return device


def enrol(session: Session, message: Enrol, claim: SignedBy, method: str, target: str, now: datetime) -> Enrolled:
    """Make a device known. Enrolling the same key again gives the same answer.

    Raises:
        BadSignature: The request is not signed by the key it brings.
        NotFound: The tenant has no such population.
        Conflict: The device is enrolled in another population.
    """
    key = PublicKey(message.public_key)
    identity = device_id(message.tenant, key)
    if claim.keyid != identity:
        raise BadSignature("an enrolment is signed under the id of the key it brings")
    verify_request(claim, key, method, target, now=int(now.timestamp()))
    _remember(session, claim, now)
    if session.get(Population, (message.tenant, message.population)) is None:
        raise NotFound(f"there is no population {message.population!r} of a tenant {message.tenant!r}")
    existing = session.get(Device, identity)
    if existing is not None and existing.population != message.population:
        raise Conflict("this key is enrolled in another population")
    if existing is None:
        session.add(
            Device(
                id=identity,
                tenant=message.tenant,
                population=message.population,
                public_key=message.public_key,
                app=message.app,
                app_version=message.app_version,
                platform=message.platform,
                evidence=message.evidence,
                enrolled_at=now,
            )
        )
    return Enrolled(version=1, device_id=identity, retry_after_s=FIRST_CHECK_IN_S)


def forget_nonces(session: Session, before: datetime) -> None:
    """Forget requests so old that their time alone refuses them."""
    session.exec(delete(Nonce).where(col(Nonce.received_at) < before))


def _remember(session: Session, claim: SignedBy, now: datetime) -> None:
    if session.get(Nonce, (claim.keyid, claim.nonce)) is not None:
        raise ReplayedRequest("this request was already received; sign it again with a fresh nonce")
    session.add(Nonce(device_id=claim.keyid, nonce=claim.nonce, received_at=now))
