"""Generated histories of a journal against a plain record: a crash or a full disk at any call that touches the disk."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from edge_runtime.journal import AppKey, Journal, Progress, open_folder, open_journal
from edge_runtime.journal import participation as steps
from edge_runtime.journal import state as now_is
from edge_runtime.journal.state import State
from edge_runtime.protocol.errors import DeviceStorageFull, Refusal
from edge_runtime.protocol.reasons import Outcome
from edge_runtime.protocol.report import Receipt
from edge_runtime.schedule import Day
from tests.edge_runtime.store.journals import Numbers, key
from tests.edge_runtime.store.kills import MEMORY
from tests.edge_runtime.store.test_participation import HERE, NOW_S

POINTS = st.none() | st.tuples(st.integers(1, 24), st.booleans())
"""At which call the disk ends, and whether the process ends with it (True) or hears of a full disk (False)."""


class Killed(BaseException):
    """The process is no more."""


@contextmanager
def ending(point: tuple[int, bool] | None) -> Iterator[None]:
    """Let the n-th call to the disk, and all after it, fail."""
    calls = 0

    def guarded(real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            nonlocal calls
            calls += 1
            if point is not None and calls >= point[0]:
                raise Killed if point[1] else OSError(errno.ENOSPC, "full")
            return real(*arguments, **options)

        return call

    with (
        patch.object(os, "write", guarded(os.write)),
        patch.object(os, "fsync", guarded(os.fsync)),
        patch.object(os, "replace", guarded(os.replace)),
        patch.object(os, "unlink", guarded(os.unlink) if point and point[1] else os.unlink),
    ):
        yield


@dataclass(frozen=True)
class Record:
    """What the model knows: who takes part, how far that is, and what left the device."""

    number: int = 0
    phase: str | None = None
    savepoint: tuple[int, int] | None = None
    report: bytes | None = None
    begun: int = 0
    ended: int = 0
    seconds: float = 0.0


class Histories(RuleBasedStateMachine):
    def app_key(self) -> AppKey | None:
        return None

    def __init__(self) -> None:
        super().__init__()
        self.place = tempfile.TemporaryDirectory(prefix="journal-", dir=MEMORY if MEMORY.is_dir() else None)
        self.folder = open_folder(Path(self.place.name))
        self.witness = Numbers()
        self.journal = self.opened()
        self.record = Record()
        self.left: dict[str, set[bytes]] = {}

    def teardown(self) -> None:
        self.folder.close()
        self.place.cleanup()

    def opened(self) -> Journal:
        return open_journal(self.folder, key=self.app_key(), now_s=NOW_S, witness=self.witness)

    def act(self, act: Callable[[], object], then: Record | None, point: tuple[int, bool] | None) -> None:
        """Do something that leads to `then`, or that is refused (None); the disk may end halfway."""
        before = self.record
        try:
            with ending(point):
                act()
            assert then is not None, "this should have been refused"
            self.record = then
        except DeviceStorageFull:
            assert point is not None
            assert not point[1]
            self.find(before, then or before)
        except Refusal:
            assert then is None
        except Killed:
            self.journal = self.opened()
            self.find(before, then or before)

    def find(self, before: Record, after: Record) -> None:
        """What is on disk is the one or the other."""
        assert self.fits(before) or self.fits(after)
        self.record = after if self.fits(after) else before

    def fits(self, record: Record) -> bool:
        state = self.journal.state
        held = state.participation
        found = (
            held.phase.value if held else None,
            (held.savepoint.epoch, held.savepoint.step) if held and held.savepoint else None,
            held.report_sha256 if held else None,
            now_is.used(state, NOW_S).participations,
            len(state.ended),
            sum(day.seconds for day in now_is.used(state, NOW_S).days),
        )
        sha256 = hashlib.sha256(record.report).hexdigest() if record.report is not None else None
        return found == (record.phase, record.savepoint, sha256, record.begun, record.ended, record.seconds)

    def change(self, change: now_is.Change) -> Callable[[], State]:
        return lambda: self.journal.update(change)

    @property
    def id(self) -> str:
        return f"{self.record.number:032x}"

    @rule(point=POINTS)
    def take_part(self, point: tuple[int, bool] | None) -> None:
        here = replace(HERE, participation=self.id)
        begun = self.record.begun + (self.record.phase is None)
        then = replace(self.record, phase=self.record.phase or "assigned", begun=begun)
        self.act(self.change(lambda state: now_is.assigned(state, here, "pop", NOW_S)), then, point)

    @rule(epoch=st.integers(0, 2), step=st.integers(0, 2), point=POINTS)
    def save(self, epoch: int, step: int, point: tuple[int, bool] | None) -> None:
        at = (epoch, step)
        forward = self.record.savepoint is None or at >= self.record.savepoint
        able = self.record.phase in ("assigned", "training") and forward
        then = replace(self.record, phase="training", savepoint=at) if able else None
        progress = Progress(
            epoch=epoch,
            step=step,
            order_seed=1,
            rng=b"{}",
            snapshot="s",
            weights=np.array([epoch, step], np.float32),
            slots=np.zeros(0, np.float32),
        )
        self.act(lambda: self.journal.save(progress), then, point)

    @rule(content=st.binary(max_size=8), point=POINTS)
    def seal(self, content: bytes, point: tuple[int, bool] | None) -> None:
        able = self.record.phase in ("assigned", "training")
        then = replace(self.record, phase="sealed", savepoint=None, report=content) if able else None
        self.act(lambda: self.journal.seal(content), then, point)

    @rule(point=POINTS)
    def send(self, point: tuple[int, bool] | None) -> None:
        able = self.record.phase in ("sealed", "sent")
        then = replace(self.record, phase="sent") if able else None

        def leave() -> None:
            report = self.journal.report_to_send()
            self.left.setdefault(self.id, set()).add(report)

        self.act(leave, then, point)

    @rule(point=POINTS)
    def receive(self, point: tuple[int, bool] | None) -> None:
        sha256 = hashlib.sha256(self.record.report or b"").hexdigest()
        receipt = Receipt(version=1, participation=self.id, report_sha256=sha256, retry_after_s=1.0)
        then = self.over() if self.record.phase == "sent" else None
        self.act(self.change(lambda state: now_is.received(state, receipt, NOW_S)), then, point)

    @rule(point=POINTS)
    def give_up(self, point: tuple[int, bool] | None) -> None:
        able = self.record.phase in ("assigned", "training", "sealed")
        then = replace(self.record, phase="giving-up", savepoint=None, report=None) if able else None
        self.act(self.change(lambda state: now_is.given_up(state, Outcome.IN_USE)), then, point)

    @rule(point=POINTS)
    def note(self, point: tuple[int, bool] | None) -> None:
        then = self.over() if self.record.phase == "giving-up" else None
        self.act(self.change(lambda state: now_is.noted(state, NOW_S)), then, point)

    @rule(point=POINTS)
    def expire(self, point: tuple[int, bool] | None) -> None:
        then = self.over() if self.record.phase else self.record
        self.act(self.change(lambda state: now_is.expired(state, NOW_S + 1e6)), then, point)

    def over(self) -> Record:
        record = self.record
        return Record(number=record.number + 1, begun=record.begun, ended=record.ended + 1, seconds=record.seconds)

    @rule(point=POINTS)
    def spend(self, point: tuple[int, bool] | None) -> None:
        then = replace(self.record, seconds=self.record.seconds + 1)
        self.act(self.change(lambda state: now_is.spent(state, Day(date="today", seconds=1.0))), then, point)

    @rule(point=POINTS)
    def the_process_ends(self, point: tuple[int, bool] | None) -> None:
        def open_again() -> None:
            self.journal = self.opened()

        self.act(open_again, self.record, point)

    @invariant()
    def the_journal_holds_the_record(self) -> None:
        assert self.journal.state.restarted is None
        assert self.fits(self.record)
        progress = self.journal.progress()
        saved = None if progress is None else tuple(progress.weights.tolist())
        assert saved == self.record.savepoint
        assert all(len(reports) == 1 for reports in self.left.values())

    @invariant()
    def nothing_lies_around_that_nobody_needs(self) -> None:
        stored = {f"stored-{one.sha256}" for one in self.journal.state.stored}
        names = {path.name for path in self.folder.path.iterdir()}
        assert stored <= names
        assert len(names) <= 3 + len(stored) + 2  # what a full disk left is overwritten, or cleared at the next start


class SealedHistories(Histories):
    def app_key(self) -> AppKey | None:
        return key


WEIGHTS = np.ones(3, np.float32)
RECEIPT = Receipt(
    version=1, participation=HERE.participation, report_sha256=hashlib.sha256(b"r").hexdigest(), retry_after_s=1.0
)


def saving(step: int) -> Callable[[Journal], object]:
    progress = Progress(epoch=0, step=step, order_seed=1, rng=b"{}", snapshot="s", weights=WEIGHTS, slots=WEIGHTS)
    return lambda journal: journal.save(progress)


WAYS: dict[str, list[Callable[[Journal], object]]] = {
    "reported": [
        lambda journal: journal.update(lambda state: now_is.assigned(state, HERE, "pop", NOW_S)),
        saving(1),
        saving(2),
        lambda journal: journal.seal(b"r"),
        lambda journal: journal.report_to_send(),
        lambda journal: journal.update(lambda state: now_is.received(state, RECEIPT, NOW_S)),
    ],
    "given up": [
        lambda journal: journal.update(lambda state: now_is.assigned(state, HERE, "pop", NOW_S)),
        saving(1),
        lambda journal: journal.update(lambda state: now_is.given_up(state, Outcome.IN_USE)),
        lambda journal: journal.update(lambda state: now_is.noted(state, NOW_S)),
    ],
}


@pytest.mark.parametrize("way", WAYS)
def test_a_crash_at_any_call_of_any_step_leaves_it_done_or_not_done(tmp_path: Path, way: str) -> None:
    crashes = 0
    for number in range(len(WAYS[way])):
        for call in itertools.count(1):
            place = tmp_path / f"{number}-{call}"
            killed = _crash_and_go_on(place, WAYS[way], number, call)
            crashes += killed
            if not killed:
                break
    assert crashes >= 8 * len(WAYS[way])


def _crash_and_go_on(place: Path, way: list[Callable[[Journal], object]], number: int, call: int) -> bool:
    """Take all steps, with a crash at a call of one of them; True if there was such a call."""
    with open_folder(place) as folder:
        journal = open_journal(folder, key=None, now_s=NOW_S)
        for step in way[:number]:
            step(journal)
        before, killed = journal.state, False
        try:
            with ending((call, True)):
                way[number](journal)
        except Killed:
            killed = True
        journal = open_journal(folder, key=None, now_s=NOW_S)
        assert journal.state.restarted is None
        held = {path.name for path in place.iterdir()}
        assert held == {"lock", "journal", "journal.seen"} | {f"stored-{one.sha256}" for one in journal.state.stored}
        if journal.state.participation is not None and journal.state.participation.savepoint is not None:
            assert journal.progress() is not None
        for step in way[number if journal.state == before else number + 1 :]:
            step(journal)
        assert journal.state.participation is None
        assert len(journal.state.ended) == 1
    return killed


LENGTHS = settings(max_examples=40, stateful_step_count=30, deadline=None)


def test_a_journal_in_the_clear_keeps_its_record() -> None:
    run_state_machine_as_test(Histories, settings=LENGTHS)


def test_a_sealed_journal_keeps_its_record() -> None:
    run_state_machine_as_test(SealedHistories, settings=LENGTHS)


def test_a_step_of_a_participation_is_refused_when_there_is_none() -> None:
    with pytest.raises(Refusal):
        now_is.moved(State(), steps.without_savepoint)
