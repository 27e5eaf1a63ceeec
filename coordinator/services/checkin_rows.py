"""What a batch of check-ins reads and writes: a handful of statements, however many devices are in it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Connection, String, bindparam, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, SQLModel, col, delete

from coordinator.core.cohorts.evaluation import DeviceFacts
from coordinator.core.rounds import OPEN_PHASES
from coordinator.services.running import Home
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


_IDS = bindparam("ids", type_=String, expanding=True)
_KEYS = select(col(Device.id), col(Device.public_key), col(Device.tenant), col(Device.population)).where(
    col(Device.id).in_(_IDS)
)
_DEVICES = select(
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
).where(col(Device.id).in_(_IDS))
_PARTS = (
    select(
        col(Participation.id),
        col(Participation.round_id),
        col(Participation.device_id),
        col(Participation.standing),
        col(Participation.visit),
    )
    .join(Round, col(Round.id) == col(Participation.round_id))
    .where(col(Participation.device_id).in_(_IDS), col(Round.phase).in_(OPEN_PHASES))
)
_CANDIDACIES = select(col(Candidate.round_id), col(Candidate.device_id)).where(
    col(Candidate.round_id).in_(bindparam("rounds", expanding=True)), col(Candidate.device_id).in_(_IDS)
)


def keys_of(session: Session, ids: Collection[str]) -> Mapping[str, tuple[bytes, Home]]:
    """The public key of each device that is enrolled, and where: neither ever changes."""
    found = session.connection().execute(_KEYS, {"ids": [*ids]})
    return {id_: (key, Home(tenant, population)) for id_, key, tenant, population in found}


def devices_of(session: Session, ids: Collection[str], lately: datetime) -> dict[str, DeviceRow]:
    """The devices that are there; they count as unseen if they were not seen lately."""
    found = session.connection().execute(_DEVICES, {"ids": [*ids], "lately": lately})
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
    return [Part(*row) for row in session.connection().execute(_PARTS, {"ids": [*ids]})]


def candidacies_of(session: Session, rounds: Collection[str], ids: Collection[str]) -> set[tuple[str, str]]:
    """Which of the devices are candidates of which of the rounds: pairs of round and device."""
    if not rounds:
        return set()
    found = session.connection().execute(_CANDIDACIES, {"rounds": [*rounds], "ids": [*ids]})
    return {(round_id, device_id) for round_id, device_id in found}


def remember(session: Session, claims: Sequence[SignedBy], now: datetime) -> list[bool]:
    """Remember requests; of each, whether it is new. Of the same request twice the first is."""
    firsts: set[tuple[str, str]] = set()
    new: list[bool] = []
    for claim in claims:
        new.append((claim.keyid, claim.nonce) not in firsts)
        firsts.add((claim.keyid, claim.nonce))
    connection = session.connection()
    with connection.begin_nested() as trying:
        if _insert(connection, Nonce, _nonces(firsts, now)) == len(firsts):
            return new
        trying.rollback()
    seen = {key for key in firsts if connection.execute(_NONCE, {"device": key[0], "nonce": key[1]}).first()}
    _insert(connection, Nonce, _nonces(firsts - seen, now))
    return [fresh and (claim.keyid, claim.nonce) not in seen for fresh, claim in zip(new, claims, strict=True)]


_NONCE = select(col(Nonce.nonce)).where(
    col(Nonce.device_id) == bindparam("device"), col(Nonce.nonce) == bindparam("nonce")
)


def _nonces(keys: Iterable[tuple[str, str]], now: datetime) -> list[dict[str, object]]:
    return [{"device_id": device, "nonce": nonce, "received_at": now} for device, nonce in keys]


def _insert(connection: Connection, table: type[SQLModel], rows: Sequence[Mapping[str, object]]) -> int:
    """Add rows that are not there yet; how many were added."""
    if not rows:
        return 0
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    return connection.execute(dialect.insert(table).on_conflict_do_nothing(), rows).rowcount


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
            connection.execute(_SEEN, {"ids": [*self.seen], "at": now})
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
_SEEN = update(Device).where(col(Device.id).in_(_IDS)).values(seen_at=bindparam("at"))
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
