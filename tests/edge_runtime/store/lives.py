"""A device's life as one program that goes on wherever it was killed, and an oracle that knows how it must end.

What a dead process cannot forget is kept outside it: in memory that its parent shares, and that it writes without a
system call. There the coordinator's post arrives too.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from edge_runtime.example_store import Collection, ExampleStore, open_store
from edge_runtime.examples import Examples
from edge_runtime.journal import AppKey, Journal, Phase, Progress, open_folder, open_journal
from edge_runtime.journal import state as now_is
from edge_runtime.journal.admission import admitted
from edge_runtime.journal.participation import rng_from, rng_state
from edge_runtime.journal.state import Identity, State, Visited
from edge_runtime.limits import Taken
from edge_runtime.protocol import wire
from edge_runtime.protocol.bundle import Schema
from edge_runtime.protocol.checkin import Assignment
from edge_runtime.protocol.keys import digest
from edge_runtime.protocol.reasons import Outcome, Wait
from edge_runtime.protocol.report import Receipt
from edge_runtime.schedule import Day
from edge_runtime.testing import FakeCoordinator

NUMBERS: Final = 12
BATCH: Final = 3
EPOCHS: Final = 2
SLICE: Final = 2
"""Steps between two savepoints."""
DELETED: Final = 4
"""The number that the owner deletes before anything is trained."""
PARTICIPATIONS: Final = ("a" * 32, "b" * 32, "c" * 32, "d" * 32)
GIVEN_UP: Final = PARTICIPATIONS[1]
BARRED: Final = PARTICIPATIONS[3]
"""The plan allows two reports: those of the first and the third."""
PLAN: Final = FakeCoordinator().assign(separation=2, most_participations=2)
PLAN_SHA256: Final = digest(wire.encode(PLAN)).hex()
NOW_S: Final = 1_800_000_000.0

NUMBERED: Final = Collection(
    name="numbered",
    features=Schema(shape=(1,), dtype="float32", low=0, high=NUMBERS),
    labels=Schema(shape=(), dtype="int32", low=0, high=2),
    max_rows=NUMBERS,
    max_bytes=1 << 20,
    time_to_live_s=None,
    dedupe=True,
)
SHORT: Final = Collection(
    name="short",
    features=NUMBERED.features,
    labels=NUMBERED.labels,
    max_rows=4,
    max_bytes=1 << 20,
    time_to_live_s=600.0,
    dedupe=True,
)

TRAINED: Final = np.array([EPOCHS * (number != DELETED) for number in range(NUMBERS)], np.float32)
"""What the weights must be in the end: each number that was not deleted, once an epoch."""


class Wrong(Exception):
    """The oracle found a broken promise."""


def require(holds: bool, sentence: str) -> None:
    """Raise unless it holds; an `assert` that no flag takes away."""
    if not holds:
        raise Wrong(sentence)


class Outside:
    """What survives the device: how far it said it was, and what reached the coordinator."""

    _COUNTS: Final = struct.Struct("<4I")
    _LETTER: Final = struct.Struct("<BB32s")

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 1 << 16)

    def close(self) -> None:
        self._memory.close()

    def count(self, which: int) -> int:
        """0: batches begun to be added; 1: batches added; 2: deletions begun; 3: deletions done."""
        return int(self._COUNTS.unpack_from(self._memory)[which])

    def set(self, which: int, value: int) -> None:
        counts = list(self._COUNTS.unpack_from(self._memory))
        counts[which] = value
        self._COUNTS.pack_into(self._memory, 0, *counts)

    def mark_sealed(self, participation: str) -> None:
        self._memory[32 + PARTICIPATIONS.index(participation)] = 1

    def is_sealed(self, participation: str) -> bool:
        return bool(self._memory[32 + PARTICIPATIONS.index(participation)])

    def post(self, participation: str, kind: int, body: bytes) -> None:
        """Let a report (1) or an outcome (2) leave the device."""
        (letters,) = struct.unpack_from("<I", self._memory, 64)
        entry = PARTICIPATIONS.index(participation), kind, hashlib.sha256(body).digest()
        self._LETTER.pack_into(self._memory, 68 + letters * self._LETTER.size, *entry)
        struct.pack_into("<I", self._memory, 64, letters + 1)

    def posted(self) -> Iterator[tuple[str, int, bytes]]:
        (letters,) = struct.unpack_from("<I", self._memory, 64)
        for letter in range(letters):
            who, kind, sha256 = self._LETTER.unpack_from(self._memory, 68 + letter * self._LETTER.size)
            yield PARTICIPATIONS[who], kind, sha256


def report_of(participation: str, weights: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> bytes:
    return participation.encode() + weights.tobytes()


def numbered(first: int, count: int) -> Examples:
    numbers = np.arange(first, first + count)
    return Examples(numbers.astype(np.float32)[:, None], (numbers % 3).astype(np.int32))


def live(path: Path, outside: Outside, key: AppKey | None) -> None:
    """Collect, delete, and take part in everything, going on from what is on disk."""
    with open_folder(path) as folder:
        store, journal = open_store(folder, key=key, now_s=NOW_S), open_journal(folder, key=key, now_s=NOW_S)
        require(not store.found_damaged, "the store was found damaged")
        require(journal.state.restarted is None, "the journal was not believed")
        if journal.state.identity is None:
            who = Identity(seed=os.urandom(32), tenant="acme", device_id="d" * 32)
            journal.update(lambda state: now_is.enrolled(state, who))
        _collect(store, outside)
        for participation in PARTICIPATIONS:
            while not any(one.participation == participation for one in journal.state.ended):
                _go_on(store, journal, outside, participation)
        store.expire(NOW_S + 1800)
        store.keep_snapshots()
        store.close()


def _collect(store: ExampleStore, outside: Outside) -> None:
    for collection in (NUMBERED, SHORT):
        store.declare(collection)
    while (batch := outside.count(1)) < NUMBERS // BATCH:
        outside.set(0, batch + 1)
        store.add("numbered", numbered(batch * BATCH, BATCH), NOW_S)
        outside.set(1, batch + 1)
    store.add("short", numbered(0, 2), NOW_S)
    if not outside.count(3):
        outside.set(2, 1)
        store.delete("numbered", [DELETED + 1])  # ids are counted from 1
        outside.set(3, 1)


def _go_on(store: ExampleStore, journal: Journal, outside: Outside, participation: str) -> None:
    assignment = Assignment(
        participation=participation,
        round=1 + PARTICIPATIONS.index(participation),
        plan=wire.encode(PLAN),
        plan_signature=bytes(64),
        checkpoint_sha256="0" * 64,
        deadline_s=3600.0,
    )
    held = journal.update(lambda state: now_is.assigned(state, assignment, "pop", NOW_S)).participation
    if held is None:
        return
    if held.phase is Phase.ASSIGNED and (reason := _reason(journal)) is not None:
        journal.update(lambda state: now_is.given_up(state, reason))
    elif held.phase in (Phase.ASSIGNED, Phase.TRAINING):
        _train(store, journal, outside, participation)
    elif held.phase is Phase.GIVING_UP:
        outside.post(participation, 2, b"outcome")
        journal.update(lambda state: _noted(now_is.noted(state, NOW_S), Outcome.TIME_LIMIT))
    else:
        report = journal.report_to_send()
        outside.post(participation, 1, report)
        sha256 = hashlib.sha256(report).hexdigest()
        receipt = Receipt(version=1, participation=participation, report_sha256=sha256, retry_after_s=60.0)
        journal.update(lambda state: _noted(now_is.received(state, receipt, NOW_S), Wait.REPORTED))


def _reason(journal: Journal) -> Outcome | None:
    """Why the plan's limits do not allow what was assigned, or None; what was decided is on disk."""
    state, reason = admitted(journal.state, PLAN, PLAN_SHA256, PLAN.clipping_norm)
    journal.update(lambda _state: state)
    return reason


def _noted(state: State, reason: Wait | Outcome) -> State:
    spent = now_is.spent(state, Day(date="2027-01-15", seconds=1.0))
    return now_is.visited(spent, Visited(at_s=NOW_S, reason=reason), 0.0)


def _train(store: ExampleStore, journal: Journal, outside: Outside, participation: str) -> None:
    require(not outside.is_sealed(participation), "something was trained after its report was sealed")
    progress = journal.progress() or Progress(
        epoch=0,
        step=0,
        order_seed=7,
        rng=rng_state(np.random.default_rng(7)),
        snapshot=store.snapshot("numbered", None, NOW_S),
        weights=np.zeros(NUMBERS, np.float32),
        slots=np.zeros(3, np.float32),
    )
    if participation == GIVEN_UP and progress.step:
        journal.update(lambda state: now_is.given_up(state, Outcome.TIME_LIMIT))
        return
    for _step in range(SLICE):
        if progress.epoch < EPOCHS:
            progress = _stepped(store, progress)
    if progress.epoch < EPOCHS:
        journal.save(progress)
        return
    journal.seal(report_of(participation, progress.weights))
    outside.mark_sealed(participation)


def _stepped(store: ExampleStore, progress: Progress) -> Progress:
    """One step of adding each example's number to the weights, in an order drawn at the start of the epoch."""
    examples, rng = store.batches(progress.snapshot), rng_from(progress.rng)
    order = np.random.default_rng([progress.order_seed, progress.epoch]).permutation(len(examples))
    batch = examples.take(order[progress.step * BATCH : (progress.step + 1) * BATCH])
    weights = progress.weights.copy()
    np.add.at(weights, batch.x[:, 0].astype(np.int64), 1)
    rng.random()
    last = (progress.step + 1) * BATCH >= len(examples)
    return Progress(
        epoch=progress.epoch + last,
        step=0 if last else progress.step + 1,
        order_seed=progress.order_seed,
        rng=rng_state(rng),
        snapshot=progress.snapshot,
        weights=weights,
        slots=progress.slots + 1,
    )


def check(path: Path, outside: Outside, key: AppKey | None, *, finished: bool) -> None:
    """Hold what is on disk, and what was posted, against what must be.

    Raises:
        Wrong: A promise is broken.
    """
    with open_folder(path) as folder:
        store, journal = open_store(folder, key=key, now_s=NOW_S), open_journal(folder, key=key, now_s=NOW_S)
        _check_limits(journal.state, outside)
        require(not store.found_damaged and journal.state.restarted is None, "what is on disk was not believed")
        _check_examples(store, outside, finished)
        _check_post(outside, finished)
        if finished:
            _check_journal(journal.state)
        store.close()
    known = {"lock", "examples.db", "examples.db-journal", "journal", "journal.seen"}
    known |= {f"stored-{one.sha256}" for one in journal.state.stored}
    require({found.name for found in path.iterdir()} <= known, "a file was left over")


def _check_examples(store: ExampleStore, outside: Outside, finished: bool) -> None:
    store.declare(NUMBERED)
    examples = store.batches(store.snapshot("numbered", None, NOW_S))
    found = examples.take(np.arange(len(examples))).x[:, 0].astype(int).tolist()
    begun, done = outside.count(0) * BATCH, outside.count(1) * BATCH
    require(len(found) == len(set(found)), "an example was added twice")
    gone = {DELETED} if outside.count(3) else set()
    require(set(range(done)) - set(found) <= {DELETED} if outside.count(2) else set(found) >= set(range(done)), "lost")
    require(set(found) <= set(range(begun)) - gone, "an example is there that should not be")
    require(len(found) % BATCH == 0 or bool(outside.count(2)), "half a batch was added")
    require(not finished or store.collections() == ("numbered", "short"), "a collection is missing")


def _check_post(outside: Outside, finished: bool) -> None:
    for participation in PARTICIPATIONS:
        letters = {(kind, sha256) for who, kind, sha256 in outside.posted() if who == participation}
        require(len(letters) <= 1, "a report and an outcome were sent, or two reports")
        report = 1, hashlib.sha256(report_of(participation, TRAINED)).digest()
        outcome = 2, hashlib.sha256(b"outcome").digest()
        expected = outcome if participation in (GIVEN_UP, BARRED) else report
        require(letters <= {expected}, "examples were trained twice or not at all")
        require(bool(letters) or not finished, "a report was lost")


def _check_limits(state: State, outside: Outside) -> None:
    """No report has left that the plan's limits do not count, and nothing is counted of which none may have."""
    left = len({who for who, kind, _sha256 in outside.posted() if kind == 1})
    times = sum(one.times for one in state.taken)
    require(left <= times <= min(2, left + 1), "the plan's limits count another number of reports than may have left")


def _check_journal(state: State) -> None:
    ends = [(one.participation, one.phase) for one in state.ended]
    phases = (Phase.REPORTED, Phase.ENDED, Phase.REPORTED, Phase.ENDED)
    require(ends == list(zip(PARTICIPATIONS, phases, strict=True)), "participations ended otherwise")
    require(state.ended[-1].outcome is Outcome.PARTICIPATIONS_SPENT, "the plan's limit did not hold")
    require(state.taken == (Taken(plan_sha256=PLAN_SHA256, times=2, round=3, at_s=NOW_S),), "counted otherwise")
    usage = now_is.used(state, NOW_S)
    require(usage.participations == len(PARTICIPATIONS), "another number of participations was counted")
    require([day.seconds for day in usage.days] == [len(PARTICIPATIONS)], "something was spent twice or never")
    require(
        sum(one.times for one in state.visits) == len(PARTICIPATIONS) and state.identity is not None,
        "a visit or the identity is gone",
    )
