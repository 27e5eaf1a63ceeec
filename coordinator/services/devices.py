"""Who a device is: enrolment, and the signature on every request after it."""

from __future__ import annotations

from datetime import datetime

from sqlmodel import Session, col, delete, select

from coordinator.core.cohorts.versions import version_key
from coordinator.core.rounds import OPEN_STANDINGS, Standing
from coordinator.services import checkin_rows as rows
from coordinator.services.device_keys import DeviceKey, replayed
from coordinator.store.tables import Candidate, Device, Nonce, Participation, Population
from edge_runtime.protocol import wire
from edge_runtime.protocol.enrolment import Enrol, Enrolled, Left
from edge_runtime.protocol.errors import (
    BadSignature,
    Conflict,
    DeviceLeft,
    NotFound,
    SwitchedOff,
)
from edge_runtime.protocol.keys import PublicKey, SigningKey, device_id
from edge_runtime.protocol.policy import Policy
from edge_runtime.protocol.reasons import Outcome
from edge_runtime.protocol.secure_sum.roster import sign_certificate
from edge_runtime.protocol.signing import SignedBy, verify_request

LEFT_LABEL = "left"
"""What is left of what an app said of a device that was taken out."""

CERTIFIED_SINCE = 3
"""Earlier versions of the answer to an enrolment have no certificate."""
FIRST_CHECK_IN_S = 0.0
"""A freshly enrolled device may check in at once."""


def check_welcome(session: Session, device: Device) -> None:
    """Return if a device may do more than leave.

    Raises:
        DeviceLeft: Its owner took it out.
        SwitchedOff: An operator switched its population off.
    """
    if device.left_at is not None:
        raise DeviceLeft("this device was taken out by its owner")
    _check_switch(session.get_one(Population, (device.tenant, device.population)))


def leave(session: Session, device: Device, now: datetime) -> Left:
    """Take a device out: it is never chosen again, and nothing waits for it. Again gets the same answer.

    A report that was received before stays in its sum: nobody can tell it from the others there any more.
    """
    if device.left_at is None:
        device.left_at = now
        device.app = device.app_version = device.platform = LEFT_LABEL
        device.app_version_key = ""
        device.region = device.hardware_class = device.attributes = None
        session.add(device)
        session.exec(delete(Candidate).where(col(Candidate.device_id) == device.id))
        end_participations(session, device, Outcome.OPTED_OUT, now)
    return Left(version=1, device_id=device.id)


def end_participations(session: Session, device: Device, outcome: Outcome, now: datetime) -> None:
    """End what a device takes part in without a report."""
    for participation in session.exec(
        select(Participation)
        .where(Participation.device_id == device.id)
        .where(col(Participation.standing).in_(OPEN_STANDINGS))
    ).all():
        participation.standing = Standing.ENDED
        participation.outcome = outcome
        participation.ended_at = now
        session.add(participation)


def policy_of(session: Session, device: Device) -> Policy | None:
    """When devices of this one's population may work; None where no operator said so."""
    raw = session.get_one(Population, (device.tenant, device.population)).policy
    return None if raw is None else wire.decode(Policy, raw)


def enrol(
    session: Session,
    message: Enrol,
    claim: SignedBy,
    method: str,
    target: str,
    now: datetime,
    authority: SigningKey | None = None,
) -> Enrolled:
    """Make a device known. Enrolling the same key again gives the same answer.

    Args:
        authority: Certifies the device's key, so that it may join groups that sum securely.

    Raises:
        BadSignature: The request is not signed by the key it brings.
        NotFound: The tenant has no such population.
        Conflict: The device is enrolled in another population.
        DeviceLeft: Its owner took it out; a device that comes back has a new key.
        SwitchedOff: An operator switched the population off.
    """
    key = PublicKey(message.public_key)
    if claim.keyid != device_id(message.tenant, key):
        raise BadSignature("an enrolment is signed under the id of the key it brings")
    verify_request(claim, DeviceKey(key.raw), method, target, now=int(now.timestamp()))
    if rows.remember(session, [claim]) == [False]:
        raise replayed()
    population = session.get(Population, (message.tenant, message.population))
    if population is None:
        raise NotFound(f"there is no population {message.population!r} of a tenant {message.tenant!r}")
    _let_in(session, population, message, claim.keyid, now)
    policy = wire.decode(Policy, population.policy) if population.policy and message.version > 1 else None
    certificate = b""
    if authority is not None and message.version >= CERTIFIED_SINCE:
        certificate = sign_certificate(authority, message.tenant, key)
    return Enrolled(
        version=message.version,
        device_id=claim.keyid,
        retry_after_s=FIRST_CHECK_IN_S,
        policy=policy,
        certificate=certificate,
    )


def _let_in(session: Session, population: Population, message: Enrol, identity: str, now: datetime) -> None:
    existing = session.get(Device, identity)
    if existing is not None and existing.population != message.population:
        raise Conflict("this key is enrolled in another population")
    if existing is not None and existing.left_at is not None:
        raise DeviceLeft("this device was taken out by its owner")
    _check_switch(population)
    if existing is None:
        session.add(
            Device(
                id=identity,
                tenant=message.tenant,
                population=message.population,
                public_key=message.public_key,
                app=message.app,
                app_version=message.app_version,
                app_version_key=version_key(message.app_version),
                platform=message.platform,
                evidence=message.evidence,
                enrolled_at=now,
            )
        )


def forget_nonces(session: Session, before: datetime) -> None:
    """Forget requests so old that their time alone refuses them."""
    session.exec(delete(Nonce).where(col(Nonce.signed_at) < int(before.timestamp())))


def _check_switch(population: Population) -> None:
    if population.switched_off:
        raise SwitchedOff("devices of this population are switched off; ask again when your policy lets you")
