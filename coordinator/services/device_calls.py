"""Signed requests of devices, many in one transaction: one commit makes all that they did durable."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlmodel import Session, col, select

from coordinator.services import checkin_rows as rows
from coordinator.services.device_keys import replayed, unproven
from coordinator.services.devices import check_welcome
from coordinator.services.group_facts import Kept
from coordinator.store.database import Database, database_now
from coordinator.store.tables import Device, Population
from edge_runtime.protocol.errors import Refusal, UnknownDevice
from edge_runtime.protocol.signing import SignedBy

MOST_KEYS: Final = 100_000
"""Kept in memory, about 20 MB."""


@dataclass(frozen=True, slots=True)
class Call:
    """One signed request, and what is done for the device.

    Attributes:
        act: Reads and writes by the session, and does nothing else: the transaction may be repeated. It is given the
            device and the time of the transaction.
        leaving: Whether also a device may ask that left, or whose population is switched off.
    """

    claim: SignedBy
    method: str
    target: str
    act: Callable[[Session, Device, datetime], object]
    leaving: bool = False


class DeviceCalls:
    """Answers batches of calls, each batch in one transaction.

    Args:
        now: The clock that signatures are held against; aware, UTC.
    """

    def __init__(self, database: Database, now: Callable[[], datetime]) -> None:
        self._database = database
        self._now = now
        self._keys: dict[str, bytes] = {}
        self._facts = Kept()

    def answer(self, calls: Sequence[Call]) -> list[object]:
        """What each act answers, or why it is refused. When this returns, all of it is durable.

        A refusal undoes what its act did, and nothing else. The request is remembered all the same: a refused one
        cannot be replayed either.

        Raises:
            StorageFull, Unavailable: Nobody of the batch can be answered.
        """
        keys = self._keys_of({one.claim.keyid for one in calls})
        now = int(self._now().timestamp())
        told: dict[int, object] = {}
        for place, call in enumerate(calls):
            key = keys.get(call.claim.keyid)
            if (refusal := unproven(call.claim, key, call.method, call.target, now)) is not None:
                told[place] = refusal
        proven = [place for place in range(len(calls)) if place not in told]
        if proven:
            found = self._database.transact(lambda session: self._act(session, [calls[place] for place in proven]))
            told.update(zip(proven, found, strict=True))
        return [told[place] for place in range(len(calls))]

    def look(self, looks: Sequence[Callable[[Session], object]]) -> list[object]:
        """What each sees, all of them in one consistent view; nothing is written.

        Raises:
            Unavailable: The database does not answer.
        """
        with self._database.reading() as session:
            self._facts.lend(session)
            return [_told(lambda look=one: look(session)) for one in looks]  # type: ignore[misc]

    def _keys_of(self, ids: set[str]) -> Mapping[str, bytes]:
        """The key of each device that was ever enrolled: an id is the digest of its key, so it never has another."""
        if len(self._keys) > MOST_KEYS:
            self._keys.clear()
        unknown = ids - self._keys.keys()
        if unknown:
            with self._database.reading() as session:
                found = rows.keys_of(session, unknown)
            self._keys.update((id_, key) for id_, (key, _home) in found.items())
        return self._keys

    def _act(self, session: Session, calls: Sequence[Call]) -> list[object]:
        self._facts.lend(session)
        return _acted(session, calls)


def _acted(session: Session, calls: Sequence[Call]) -> list[object]:
    now = database_now(session)
    fresh = rows.remember(session, [one.claim for one in calls])
    found = session.exec(select(Device).where(col(Device.id).in_({one.claim.keyid for one in calls}))).all()
    devices = {device.id: device for device in found}
    _populations = [
        session.get(Population, (one.tenant, one.population)) for one in found
    ]  # the session forgets others
    return [_one(session, call, devices, now, new=new) for call, new in zip(calls, fresh, strict=True)]


def _one(session: Session, call: Call, devices: Mapping[str, Device], now: datetime, *, new: bool) -> object:
    device = devices.get(call.claim.keyid)
    if device is None:
        return UnknownDevice("enrol first")
    if not new:
        return replayed()

    def done() -> object:
        with session.begin_nested():
            if not call.leaving:
                check_welcome(session, device)
            return call.act(session, device, now)

    return _told(done)


def _told(act: Callable[[], object]) -> object:
    try:
        return act()
    except Refusal as refusal:
        return refusal
