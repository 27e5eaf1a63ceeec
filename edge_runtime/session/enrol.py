"""Enrol, once an installation."""

from __future__ import annotations

from edge_runtime.installation import Installation as Installation
from edge_runtime.protocol import wire
from edge_runtime.protocol.enrolment import DEVICE_PATH, ENROL_PATH, Enrol, Enrolled, Evidence, Left
from edge_runtime.protocol.keys import PublicKey
from edge_runtime.session import Request, Session, accepted, ask


def enrol(installation: Installation, key: PublicKey) -> Session[Enrolled]:
    """Make the device known; doing it again is harmless.

    Raises:
        Refusal: The coordinator refused.
    """
    message = Enrol(
        version=Enrol.VERSION,
        tenant=installation.tenant,
        population=installation.population,
        public_key=key.raw,
        app=installation.app,
        app_version=installation.app_version,
        platform=installation.platform,
        evidence=Evidence.NONE,
    )
    return (yield from ask(ENROL_PATH, message, Enrolled))


def leave() -> Session[Left]:
    """Take the device out for ever; doing it again is harmless.

    Raises:
        Refusal: The coordinator refused.
    """
    return wire.decode(Left, accepted((yield Request("DELETE", DEVICE_PATH))))
