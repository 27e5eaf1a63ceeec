"""Histories of secure rounds: lost requests and answers, time, phones that give up, deaths at any point.

Each phone's report is one lane of its own, so a sum shows who is in it, and how often. Whatever happens, the sum of a
group that was opened is of each report that it took once, no report is in two sums, and what was acknowledged is in an
opened sum or in a group that ended by name. `tests.coordinator.secure_nightly` plays thousands.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, TypeVar

import httpx
import numpy as np
from sqlmodel import select

from coordinator.core.rounds import SECURE_PHASES, GroupPhase
from coordinator.services.sums import OPENED
from coordinator.store.blobs import BlobKind
from coordinator.store.crash_points import CrashPoint, hooked
from coordinator.store.tables import Group, Participation, Report
from edge_runtime.protocol import wire
from edge_runtime.protocol.checkin import Assignment
from edge_runtime.protocol.errors import Refusal
from edge_runtime.protocol.group import Appointment, Opened, Step
from edge_runtime.protocol.reasons import GroupEnd, Outcome
from edge_runtime.protocol.secure_sum.lanes import LaneVector
from tests.coordinator.asking import refusal, send_outcome
from tests.coordinator.secure import STEPS, SecurePhone, in_database, secure_plan, secure_round
from tests.programme import TENANT, Clock, Crash, Home, copy_home, make_home, open_home

PHONES: Final = 7
PLAN: Final = secure_plan(PHONES, survivors=5)
MARK: Final = 1000
"""In the lane of a phone's number; all others are 0."""
SPAN_S: Final = 1200.0
Message = TypeVar("Message")


class Lost(Exception):
    """A request or its answer did not arrive, or what was asked for is not there yet."""


class Over(Exception):
    """The coordinator refused by name: the group or the participation goes on without this phone."""


@dataclass
class Wanderer(SecurePhone):
    """Tries its next step whenever it is its turn, and never knows whether the last one arrived.

    Attributes:
        lossy: Draws which requests and answers are lost; None where all arrive.
        at: Its next step; None while it is in no group.
        acknowledged: It has the receipt of its report.
        done: It does nothing more.
    """

    lossy: random.Random | None = None
    at: int | None = None
    acknowledged: bool = False
    done: bool = False
    codes: set[str] = field(default_factory=set)

    def lanes(self) -> LaneVector:
        lanes = np.zeros(self.plan.lanes().count(self.values), np.uint32)
        lanes[self.phone.number] = MARK
        return lanes

    def ask(self, method: str, path: str, body: bytes = b"") -> httpx.Response:
        if self.lossy and self.lossy.random() < 0.06:
            raise Lost
        answer = super().ask(method, path, body)
        if self.lossy and self.lossy.random() < 0.06:
            raise Lost
        assert answer.status_code < 500, answer.text
        if answer.status_code >= 400:
            self.codes.add(refusal(answer))
        return answer

    def following(self, step: Step, kind: type[Message]) -> Message:
        answer = self.get(step)
        if answer.status_code == 202:
            raise Lost
        return wire.decode(kind, _taken(answer).content)

    def act(self) -> None:
        if self.done:
            return
        try:
            with suppress(Lost):
                self._act()
        except Over:
            self.done = self.at is None or self.acknowledged
            self.at, self.group = None, ""
        except Refusal:  # of its own: it would not go on with such a group
            self.at, self.group = None, ""

    def _act(self) -> None:
        if self.at is None:
            found = wire.decode(Appointment, _taken(self.say_trained()).content)
            if found.group is not None:
                if found.group != self.group:
                    self.group, self.seat, self.received, self.confirmed, self.sent = found.group, None, None, None, {}
                self.at = 0
        elif self.at < len(STEPS):
            step = STEPS[self.at]
            if step is Step.UNMASKING and self.confirmed is None:
                self.confirmation()
            _taken(self.post(step))
            if step is Step.MASKED:
                _taken(self.put_report())
                self.acknowledged = True
            self.at += 1
        else:
            self.following(Step.UNMASKING, Opened)
            self.done = True


def _taken(answer: httpx.Response) -> httpx.Response:
    if answer.status_code >= 400:
        raise Over
    return answer


@dataclass(frozen=True, slots=True)
class Beginning:
    """A coordinator whose secure round has chosen its phones; to be copied."""

    folder: Path
    token: str
    seats: tuple[tuple[Assignment, bytes], ...]


@contextmanager
def beginning() -> Iterator[Beginning]:
    with TemporaryDirectory() as name:
        folder = Path(name) / "home"
        folder.mkdir()
        token = make_home(folder)
        with open_home(folder, Clock(), token) as home:
            phones = secure_round(home, PHONES, PLAN, reporting_deadline_s=SPAN_S)
            seats = tuple((phone.assignment, phone.certificate) for phone in phones)
        yield Beginning(folder, token, seats)


@dataclass
class History:
    """One history as it goes on.

    Attributes:
        sums: What was opened, by group: as it was first, and the same ever after.
        deaths: Of the coordinator.
    """

    rng: random.Random
    clock: Clock = field(default_factory=Clock)
    phones: list[Wanderer] = field(default_factory=list)
    sums: dict[str, list[int]] = field(default_factory=dict)
    deaths: int = 0
    _left: int = 0

    def live(self, begun: Beginning, folder: Path, acts: int) -> None:
        """Lives of the coordinator, one after another, until so many things happened and the round is over."""
        while True:
            self._left = self.rng.randrange(5, 80)
            self.clock.forward(16)  # the leases of who died are over
            with open_home(folder, self.clock, begun.token) as home, ExitStack() as stack:
                stack.enter_context(hooked(partial(self._pass, home)))
                with suppress(Crash):
                    self._greet(home, begun)
                    while acts > 0:
                        acts -= 1
                        self._act(home)
                    self._left = 1 << 30  # nobody dies any more
                    self._finish(home)
                    return
                self.deaths += 1

    def _greet(self, home: Home, begun: Beginning) -> None:
        if not self.phones:
            self.phones = [
                Wanderer(home.phone(number), home, *seat, lossy=self.rng) for number, seat in enumerate(begun.seats)
            ]
        for phone in self.phones:
            phone.home = home
            phone.phone.moved(home)

    def _act(self, home: Home) -> None:
        chance = self.rng.random()
        if chance < 0.75:
            self.rng.choice(self.phones).act()
        elif chance < 0.96:
            home.look()
        elif chance < 0.995:
            self.clock.forward(self.rng.choice((1, 5, 16)))
        else:
            phone = self.rng.choice(self.phones)
            send_outcome(home, phone.phone, phone.assignment, Outcome.BATTERY_LOW)

    def _pass(self, home: Home, point: CrashPoint) -> None:
        if point is CrashPoint.SUM_UNMASKED:
            self._note_sums(home)
        self._left -= 1
        if self._left == 0:
            raise Crash

    def _note_sums(self, home: Home) -> None:
        folder = home.app.state.parts.blobs.path(TENANT, BlobKind.PARTIAL_SUM, "0" * 64).parent
        for path in folder.glob("*"):
            raw = path.read_bytes()
            group, chunk = struct.unpack_from("<16si", raw)
            if chunk == OPENED:
                found = [int(lane) % (1 << 24) for lane in np.frombuffer(raw, "<u4", offset=20)]
                assert self.sums.setdefault(group.hex(), found) == found, "the same group, another sum"

    def _finish(self, home: Home) -> None:
        """Everything arrives from now on, and time passes until the round is over."""
        for phone in self.phones:
            phone.lossy = None
        for _time in range(50):
            for phone in self.phones:
                phone.act()
            home.look()
            if home.rounds()[0]["phase"] in ("committed", "abandoned"):
                break
            self.clock.forward(31)
        self.check(home)

    def check(self, home: Home) -> None:
        """Hold what is there against what phones know."""
        groups, reports, owners = in_database(
            home,
            lambda session: (
                {group.id: group for group in session.exec(select(Group)).all()},
                session.exec(select(Report)).all(),
                {one.id: one.device_id for one in session.exec(select(Participation)).all()},
            ),
        )
        assert home.rounds()[0]["phase"] in ("committed", "abandoned")
        assert all(group.phase not in SECURE_PHASES for group in groups.values())
        assert all(group.ended_because in set(GroupEnd) for group in groups.values() if group.phase == "aborted")
        numbers = {phone.device_id: phone.phone.number for phone in self.phones}
        counted: list[int] = []
        for group in groups.values():
            of = sorted(numbers[owners[one.participation_id]] for one in reports if one.group_id == group.id)
            if group.phase == GroupPhase.SUMMED:
                assert self.sums[group.id] == _marks(of, len(self.sums[group.id]))
                counted += of
        assert len(counted) == len(set(counted)), "a report is in two sums"
        held = {numbers[owners[one.participation_id]] for one in reports}
        acknowledged = {phone.phone.number for phone in self.phones if phone.acknowledged}
        assert acknowledged <= held, "a receipt was given for nothing"
        first = home.rounds()[0]
        assert first["reports"] == len(counted) if first["phase"] == "committed" else not counted


def _marks(numbers: Sequence[int], lanes: int) -> list[int]:
    return [MARK if lane in numbers else 0 for lane in range(lanes)]


def play(begun: Beginning, seed: int, acts: int = 150) -> History:
    """Play the history of a seed; it is the same every time."""
    history = History(random.Random(seed))
    with TemporaryDirectory() as name:
        history.live(begun, copy_home(begun.folder, Path(name) / "home"), acts)
    return history
