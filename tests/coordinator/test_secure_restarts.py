"""Groups that sum securely, on both databases: restarts and deaths at every step, and what is left of a round."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import LargeBinary, select
from sqlmodel import Session, SQLModel
from sqlmodel import select as sql_select

from coordinator.store.blobs import FolderBlobs
from coordinator.store.crash_points import CrashPoint, hooked
from coordinator.store.group_tables import FaultRow
from coordinator.store.tables import Group
from edge_runtime.protocol.errors import Conflict
from edge_runtime.protocol.group import Step
from tests.coordinator.asking import refusal
from tests.coordinator.secure import (
    SIX,
    STEPS,
    SecurePhone,
    groups_of,
    in_database,
    meet,
    plain_sum,
    secure_round,
    sums_seen,
)
from tests.programme import START, Clock, Crash, Home, copy_home, forget_home, open_home

Act = Callable[[SecurePhone], Any]


def script() -> list[tuple[bool, Act | None]]:
    """What happens, in order: something that each phone does, or None for a look of the worker."""
    acts: list[tuple[bool, Act | None]] = [(True, lambda phone: phone.appointment()), (False, None)]
    acts.append((True, lambda phone: phone.appointment()))
    for step in STEPS:
        acts += [(True, lambda phone, step=step: phone.take(step)), (False, None)]  # type: ignore[misc]
    return acts


def test_the_coordinator_starts_again_after_every_step_and_the_sum_is_exact(
    made: tuple[Path, str], tmp_path: Path, clock: Clock
) -> None:
    folder = copy_home(made[0], tmp_path / "home")
    phones: list[SecurePhone] = []
    sums: list[list[int]] = []
    for of_phones, act in [(False, None), *script()]:
        with open_home(folder, clock, made[1]) as home, sums_seen(home) as seen:
            if not phones:
                phones = secure_round(home, SIX)
            if act is None:
                home.look()
            for phone in phones if of_phones and act else ():
                moved(phone, home)
                assert act is not None
                act(phone)
            sums += seen
    with open_home(folder, clock, made[1]) as home:
        assert home.rounds()[0]["phase"] == "committed"
    assert sums == [plain_sum(phones)]
    forget_home(folder)


def moved(phone: SecurePhone, home: Home) -> None:
    phone.home = home
    phone.phone.moved(home)


SECURE_POINTS = {
    CrashPoint.GROUPS_FORMED,
    CrashPoint.GROUP_MOVED,
    CrashPoint.SUM_UNMASKED,
    CrashPoint.SUM_OPENED,
    CrashPoint.STEP_TAKEN,
}


def test_the_coordinator_dies_at_every_point_and_the_sum_is_exact_and_charged_once(
    made: tuple[Path, str], tmp_path: Path, clock: Clock
) -> None:
    """One life after another on the same folder; each ends at the next point that no life died at."""
    folder = copy_home(made[0], tmp_path / "home")
    died: dict[tuple[CrashPoint, str], int] = {}
    acts = script()
    phones: list[SecurePhone] = []
    sums: list[list[int]] = []
    place, doing = 0, "begin"

    def die(point: CrashPoint) -> None:
        key = (point, doing)
        if point in SECURE_POINTS and died.get(key, 0) < (1 if point is CrashPoint.STEP_TAKEN else 2):
            died[key] = died.get(key, 0) + 1
            raise Crash

    while place < len(acts):
        clock.forward(16)  # the leases of who died are over
        with open_home(folder, clock, made[1]) as home, sums_seen(home) as seen, hooked(die):
            with contextlib.suppress(Crash):
                phones = phones or secure_round(home, SIX)
                while place < len(acts):
                    doing = f"act {place}"
                    of_phones, act = acts[place]
                    if act is None:
                        home.look()
                    for phone in phones if of_phones and act else ():
                        moved(phone, home)
                        assert act is not None
                        act(phone)
                    place += 1
            sums += [one for one in seen if one not in sums]
    with open_home(folder, clock, made[1]) as home:
        assert home.rounds()[0]["phase"] == "committed"
        assert home.rounds()[0]["reports"] == SIX
    assert sums == [plain_sum(phones)]
    assert {point for point, _doing in died} == SECURE_POINTS
    forget_home(folder)


def test_deadlines_of_a_step_move_by_the_time_of_an_outage(
    made: tuple[Path, str], tmp_path: Path, clock: Clock
) -> None:
    folder = copy_home(made[0], tmp_path / "home")
    with open_home(folder, clock, made[1]) as home:
        phones = secure_round(home, SIX)
        meet(home, phones)
        for phone in phones:
            phone.take(Step.JOIN)
        home.look()
        before = groups_of(home)[0].step_deadline_at
    clock.forward(3600)
    with open_home(folder, clock, made[1]) as home:
        home.look()
        (group,) = groups_of(home)
        assert before is not None
        assert group.step_deadline_at == before + timedelta(hours=1)
        for phone in phones:
            moved(phone, home)
        with sums_seen(home) as sums:
            for step in STEPS[1:]:
                for phone in phones:
                    phone.take(step)
                home.look()
        assert sums == [plain_sum(phones)]
    forget_home(folder)


def stored(home: Home) -> bytes:
    """Every value of every row, and every blob."""

    def rows(session: Any) -> list[bytes]:
        found = []
        for table in SQLModel.metadata.sorted_tables:
            for row in session.connection().execute(select(table)).all():
                for column, value in zip(table.columns, row, strict=True):
                    found.append(bytes(value or b"") if isinstance(column.type, LargeBinary) else str(value).encode())
        return found

    blobs = home.app.state.parts.blobs
    files = [b"\0".join(path.read_bytes() for path in blobs._folder.rglob("*") if path.is_file())]
    return b"\0".join(in_database(home, rows) + files)


def secrets_of(phone: SecurePhone) -> dict[str, bytes]:
    """What must be found nowhere: what the phone drew, and its report before it was masked."""
    assert phone.secrets is not None
    drawn = {"box key": phone.secrets.box_key.raw, "mask key": phone.secrets.mask_key.raw, "seed": phone.secrets.seed}
    lanes = phone.lanes()
    packed = phone.plan.lanes().packed(lanes)
    return drawn | {"dealing secret": phone.secrets.dealing, "lanes": lanes[:8].tobytes(), "report": packed[:24]}


def test_no_secret_of_a_phone_is_ever_stored_or_logged(
    home: Home, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Canaries: looked for in every row and blob after every step, in every blob that was written, and in the log."""
    caplog.set_level(logging.DEBUG)
    written: list[bytes] = []
    put = FolderBlobs.put

    def seen(blobs: FolderBlobs, tenant: str, kind: Any, raw: bytes, **options: Any) -> str:
        written.append(raw)
        return put(blobs, tenant, kind, raw, **options)

    monkeypatch.setattr(FolderBlobs, "put", seen)
    phones = secure_round(home, SIX)
    meet(home, phones)
    for step in STEPS:
        for phone in phones[1:] if step in STEPS[2:] else phones:
            phone.take(step)
        everything = stored(home)
        home.look()
        while groups_of(home)[0].phase == {"masked": "masking"}.get(step):
            home.clock.forward(30)
            home.look()
        everything += stored(home) + b"".join(written) + caplog.text.encode()
        for phone in phones:
            for name, secret in secrets_of(phone).items():
                assert secret not in everything, f"{name} after {step}"
                assert secret.hex().encode() not in everything, f"{name} after {step}"
    assert home.rounds()[0]["phase"] == "committed"
    assert phones[1].secrets is not None
    assert phones[1].secrets.box_key.public in stored(home), "the scan finds what is there"
    bodies = in_database(home, lambda s: s.connection().exec_driver_sql("SELECT body FROM group_steps").scalars().all())
    assert bodies
    assert not any(bodies), "what members sent is forgotten when the group ends"


def confirmed_by_all(home: Home) -> list[SecurePhone]:
    """Six who have confirmed; the worker has not looked since."""
    phones = secure_round(home, SIX)
    meet(home, phones)
    for step in STEPS[:4]:
        if step is not Step.JOIN:
            home.look()
        for phone in phones:
            phone.take(step)
    return phones


def charges(home: Home) -> list[str]:
    def kept(session: Session) -> list[str]:
        return [row.fault for row in session.exec(sql_select(FaultRow)).all()]

    return in_database(home, kept)


def test_the_charge_and_the_unmasking_commit_together_or_not_at_all(home: Home) -> None:
    """Twice the coordinator dies within the transaction: neither is there. When shares may be asked for, both are."""
    phones = confirmed_by_all(home)

    def charge(session: Session, group: Group) -> None:
        device = phones[0].device_id
        session.add(
            FaultRow(
                group_id=group.id, device_id=device, fault="charged", other_device_id=device, evidence=b"", at=START
            )
        )

    home.app.state.worker._groups._charge = charge
    passed: list[tuple[str, list[str]]] = []

    def die(point: CrashPoint) -> None:
        if point is CrashPoint.GROUP_MOVED:
            passed.append((point, []))
            if len(passed) <= 2:
                raise Crash

    with hooked(die):
        with pytest.raises(Crash):
            home.look()
        assert (groups_of(home)[0].phase, charges(home)) == ("confirming", []), "it died within the transaction"
        passed[:] = []
        with pytest.raises(Crash):
            home.look()
    passed[:] = [("", [])] * 2
    home.look()
    assert (groups_of(home)[0].phase, charges(home)) == ("unmasking", ["charged"])
    for phone in phones:
        phone.take(Step.UNMASKING)
    home.look()
    assert (groups_of(home)[0].phase, charges(home)) == ("summed", ["charged"])


def test_a_sum_that_the_ledger_does_not_allow_is_never_opened(home: Home) -> None:
    phones = confirmed_by_all(home)

    def charge(session: Session, group: Group) -> None:
        session.add(
            FaultRow(
                group_id=group.id,
                device_id=phones[0].device_id,
                fault="half",
                other_device_id="",
                evidence=b"",
                at=START,
            )
        )
        session.flush()
        raise Conflict("the budget is spent")

    home.app.state.worker._groups._charge = charge
    home.look()
    assert (groups_of(home)[0].phase, groups_of(home)[0].ended_because) == ("aborted", "not-charged")
    assert charges(home) == [], "what the hook wrote is undone"
    assert refusal(phones[0].get(Step.CONFIRMATION)) == "group-ended"
