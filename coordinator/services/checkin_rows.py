"""What a batch of check-ins reads and writes: a handful of statements, however many devices are in it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, col, delete

from coordinator.core.cohorts.evaluation import DeviceFacts
from coordinator.core.rounds import OPEN_PHASES
from coordinator.services.running import Home
from coordinator.store.among import ByDialect, among_ids
from coordinator.store.database import UtcDateTime
from coordinator.store.tables import Candidate, Device, Nonce, Participation, Round
from edge_runtime.protocol.signing import SignedBy


@dataclass(slots=True)
class DeviceRow:
    """What check-ins change and look at."""

    id: str
    home: Home
    left: bool
    unseen: bool
    """Nobody wrote down lately that it was seen."""
    participated_at: datetime | None
    participations: int
    facts: DeviceFacts


@dataclass(slots=True)
class Part:
    """A participation in an open round."""

    id: str
    round_id: str
    device_id: str
    standing: str
    visit: str | None


_KEYS = among_ids(
    select(col(Device.id), col(Device.public_key), col(Device.tenant), col(Device.population)), col(Device.id)
)
_DEVICES = among_ids(
    select(
        col(Device.id),
        col(Device.tenant),
        col(Device.population),
        col(Device.left_at).is_not(None),
        or_(col(Device.seen_at).is_(None), col(Device.seen_at) < bindparam("lately", type_=UtcDateTime)),
        col(Device.participated_at),
        col(Device.participations),
        col(Device.app),
        col(Device.app_version),
        col(Device.platform),
        col(Device.app_version_key),
        col(Device.region),
        col(Device.hardware_class),
        col(Device.attributes),
    ),
    col(Device.id),
)
_PARTS = among_ids(
    select(
        col(Participation.id),
        col(Participation.round_id),
        col(Participation.device_id),
        col(Participation.standing),
        col(Participation.visit),
    )
    .join(Round, col(Round.id) == col(Participation.round_id))
    .where(col(Round.phase).in_(OPEN_PHASES)),
    col(Participation.device_id),
)
_CANDIDACIES = among_ids(
    select(col(Candidate.round_id), col(Candidate.device_id)).where(
        col(Candidate.round_id).in_(bindparam("rounds", expanding=True))
    ),
    col(Candidate.device_id),
)


def _found(session: Session, statements: ByDialect, values: Mapping[str, object]) -> Sequence[Any]:
    """All rows at once: asked for one by one, each costs more than what is done with it."""
    connection = session.connection()
    return connection.execute(statements[connection.dialect.name], values).all()


def keys_of(session: Session, ids: Collection[str]) -> Mapping[str, tuple[bytes, Home]]:
    """The public key of each device that is enrolled, and where: neither ever changes."""
    found = _found(session, _KEYS, {"ids": [*ids]})
    return {id_: (key, Home(tenant, population)) for id_, key, tenant, population in found}


def devices_of(session: Session, ids: Collection[str], lately: datetime) -> dict[str, DeviceRow]:
    """The devices that are there; they count as unseen if they were not seen lately."""
    found = _found(session, _DEVICES, {"ids": [*ids], "lately": lately})
    return {
        id_: DeviceRow(id_, Home(tenant, population), left, unseen, participated_at, count, DeviceFacts(
            device_id=id_,
            app=app,
            app_version=app_version,
            platform=platform,
            app_version_key=app_version_key,
            region=region,
            hardware_class=hardware_class,
            attributes=attributes or {},
        ))
        for (
            id_, tenant, population, left, unseen, participated_at, count,
            app, app_version, platform, app_version_key, region, hardware_class, attributes,
        ) in found
    }  # fmt: skip


def parts_of(session: Session, ids: Collection[str]) -> list[Part]:
    """The participations of devices in open rounds, whatever became of them."""
    return [Part(*row) for row in _found(session, _PARTS, {"ids": [*ids]})]


def candidacies_of(session: Session, rounds: Collection[str], ids: Collection[str]) -> set[tuple[str, str]]:
    """Which of the devices are candidates of which of the rounds: pairs of round and device."""
    if not rounds:
        return set()
    found = _found(session, _CANDIDACIES, {"rounds": [*rounds], "ids": [*ids]})
    return {(round_id, device_id) for round_id, device_id in found}


def remember(session: Session, claims: Sequence[SignedBy]) -> list[bool]:
    """Remember requests; of each, whether it is new. Of the same request twice the first is."""
    keys = [(claim.created, claim.keyid, claim.nonce) for claim in claims]
    firsts = dict.fromkeys(keys, True)
    connection = session.connection()
    with connection.begin_nested() as trying:
        if _insert(connection, [*firsts]) == len(firsts):
            return [firsts.pop(key, False) for key in keys]
        trying.rollback()
    seen = {key for key in firsts if session.get(Nonce, key) is not None}
    _insert(connection, [key for key in firsts if key not in seen])
    return [key not in seen and firsts.pop(key, False) for key in keys]


_REMEMBER = {
    dialect.__name__.rpartition(".")[2]: dialect.insert(Nonce).on_conflict_do_nothing()
    for dialect in (postgresql, sqlite)
}


def _insert(connection: Connection, keys: Iterable[tuple[int, str, str]]) -> int:
    """Add nonces that are not there yet; how many were added."""
    rows = [{"signed_at": at, "device_id": device, "nonce": nonce} for at, device, nonce in sorted(keys)]
    return connection.execute(_REMEMBER[connection.dialect.name], rows).rowcount if rows else 0


@dataclass(slots=True)
class Changes:
    """What the decisions of a batch change; a row that is changed twice keeps the last."""

    parts: dict[str, dict[str, object]] = field(default_factory=dict)
    ended: dict[str, dict[str, object]] = field(default_factory=dict)
    devices: dict[str, DeviceRow] = field(default_factory=dict)
    facts: dict[str, DeviceFacts] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    added: dict[tuple[str, str], None] = field(default_factory=dict)
    removed: set[tuple[str, str]] = field(default_factory=set)

    @property
    def move(self) -> bool:
        """Whether rounds may have waited for any of it."""
        return bool(self.parts or self.ended or self.added or self.removed)

    def write(self, session: Session, now: datetime) -> None:
        connection = session.connection()
        if self.parts:
            connection.execute(_ASSIGN, list(self.parts.values()))
        if self.ended:
            connection.execute(_END, list(self.ended.values()))
        if self.devices:
            connection.execute(_PARTICIPATED, [_participated(device) for device in self.devices.values()])
        if self.facts:
            connection.execute(_FACTS, [_said(facts) for facts in self.facts.values()])
        if self.seen:
            connection.execute(_SEEN[connection.dialect.name], {"ids": [*self.seen], "at": now})
        for round_id, device_id in self.removed:
            connection.execute(
                delete(Candidate).where(col(Candidate.round_id) == round_id, col(Candidate.device_id) == device_id)
            )
        added = [{"round_id": pair[0], "device_id": pair[1], "checked_in_at": now} for pair in self.added]
        if added:
            connection.execute(insert(Candidate), added)


def _participated(device: DeviceRow) -> dict[str, object]:
    return {"row": device.id, "at": device.participated_at, "count": device.participations}


def _said(facts: DeviceFacts) -> dict[str, object]:
    return {
        "row": facts.device_id,
        "version": facts.app_version,
        "version_key": facts.app_version_key,
        "on": facts.platform,
        "in": facts.region,
        "class": facts.hardware_class,
        "said": dict(facts.attributes) or None,
    }


_ASSIGN = (
    update(Participation)
    .where(col(Participation.id) == bindparam("row"))
    .values(standing=bindparam("to"), visit=bindparam("visit_"), assigned_at=bindparam("at"))
)
_END = (
    update(Participation)
    .where(col(Participation.id) == bindparam("row"))
    .values(standing=bindparam("to"), outcome=bindparam("why"), ended_at=bindparam("at"))
)
_SEEN = among_ids(update(Device).values(seen_at=bindparam("at")), col(Device.id))
_PARTICIPATED = (
    update(Device)
    .where(col(Device.id) == bindparam("row"))
    .values(participated_at=bindparam("at"), participations=bindparam("count"))
)
_FACTS = (
    update(Device)
    .where(col(Device.id) == bindparam("row"))
    .values(
        app_version=bindparam("version"),
        app_version_key=bindparam("version_key"),
        platform=bindparam("on"),
        region=bindparam("in"),
        hardware_class=bindparam("class"),
        attributes=bindparam("said"),
    )
)
