"""Devices offer themselves: each hears of an assignment, or a retry window with its reason. Many share a transaction.

A batch does what its check-ins would do one after another; `tests/coordinator/one_by_one.py` is that, and the oracle.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlmodel import Session

from coordinator.core.choice import Contender, choose, telling, unfit
from coordinator.core.rounds import OPEN_STANDINGS, Phase, Standing
from coordinator.core.tasks import TaskState
from coordinator.services import checkin_rows as rows
from coordinator.services.checkin_rows import Changes, DeviceRow, Part
from coordinator.services.device_facts import changes, facts_of
from coordinator.services.device_keys import replayed, unproven
from coordinator.services.pace import Pace
from coordinator.services.running import Home, OpenRound, Programme, Running, programme_of
from coordinator.store.database import Database, database_now
from edge_runtime.protocol.checkin import Assignment, CheckIn, CheckInAnswer, RetryWindow
from edge_runtime.protocol.enrolment import LONGEST_DELAY_S
from edge_runtime.protocol.errors import (
    DeviceLeft,
    NotFound,
    Refusal,
    SwitchedOff,
    UnknownDevice,
)
from edge_runtime.protocol.policy import Policy
from edge_runtime.protocol.reasons import Outcome, Wait
from edge_runtime.protocol.signing import SignedBy

SPREAD_SHARE: Final = 0.2
"""Retry windows of a task's settings are this share of their delay wide, so that devices do not come back in step."""
SEEN_AGAIN: Final = timedelta(hours=1)
"""That a device was seen is written down this often; more would be a row for every check-in."""
_NOT_HELD = frozenset({Wait.NO_TASK, Wait.TOO_FEW_EXAMPLES, Wait.PARTICIPATED_RECENTLY, Wait.TASK_PAUSED, Wait.BUSY})


@dataclass(frozen=True, slots=True)
class Knock:
    """One check-in as it came."""

    claim: SignedBy
    target: str
    message: CheckIn
    again: bool = False
    """It was held, and asks whether something changed: its signature was verified, and it gives way to later visits."""


class CheckIns:
    """Answers batches of check-ins, each batch in one transaction.

    Args:
        now: The clock that signatures are held against; aware, UTC.
        dropped: Is told how many attributes were dropped from check-ins: undeclared ones, and misfits.
        moved: Is called when check-ins changed what rounds may wait for.
    """

    def __init__(
        self,
        database: Database,
        now: Callable[[], datetime],
        pace: Pace,
        dropped: Callable[[int, int], None] = lambda _undeclared, _misfits: None,
        moved: Callable[[], None] = lambda: None,
    ) -> None:
        self._moved = moved
        self._database = database
        self._now = now
        self._pace = pace
        self._dropped = dropped

    def answer(self, knocks: Sequence[Knock]) -> list[CheckInAnswer | Refusal]:
        """Answer or refuse each; a refusal harms no other. When this returns, all of it is durable.

        Raises:
            StorageFull, Unavailable: Nobody of the batch can be answered.
        """
        with self._database.reading() as session:
            keys = rows.keys_of(session, {knock.claim.keyid for knock in knocks})
            came: Counter[Home] = Counter()
            for knock in knocks:  # who was held has come once
                if knock.claim.keyid in keys:
                    came[keys[knock.claim.keyid][1]] += not knock.again
            self._pace.look(session, came, self._now())
        told: dict[int, CheckInAnswer | Refusal] = {}
        now = int(self._now().timestamp())
        for place, knock in enumerate(knocks):
            key = keys[knock.claim.keyid][0] if knock.claim.keyid in keys else None
            held = knock.again and key is not None  # it was proven before
            if not held and (refusal := unproven(knock.claim, key, "POST", knock.target, now)) is not None:
                told[place] = refusal
        proven = [place for place in range(len(knocks)) if place not in told]
        if proven:
            asked = [knocks[place] for place in proven]
            found, batch = self._database.transact(lambda session: _decide(session, asked, self._pace))
            self._pace.written()
            if batch.undeclared or batch.misfits:
                self._dropped(batch.undeclared, batch.misfits)
            if batch.changes.move:
                self._moved()
            told.update(zip(proven, found, strict=True))
        return [told[place] for place in range(len(knocks))]

    def turn_away(self, message: CheckIn) -> CheckInAnswer:
        """Send a check-in away that there is no room for, unread; at once, on the event loop."""
        window = self._pace.turn_away(message.population, message.visit)
        return _waiting(message.version, None, Wait.BUSY, window.after_s, window.spread_s)


def worth_holding(answer: CheckInAnswer, hold_s: float) -> bool:
    """Whether a device may as well stay on the line: a round is choosing, or it would come back within the hold."""
    if answer.retry is None or answer.retry.reason in _NOT_HELD:
        return False
    return answer.retry.reason is Wait.SELECTION_PENDING or answer.retry.after_s <= hold_s


def _decide(session: Session, knocks: Sequence[Knock], pace: Pace) -> tuple[list[CheckInAnswer | Refusal], _Batch]:
    """The answers, and the batch that decided them."""
    now = database_now(session)
    first = [knock.claim for knock in knocks if not knock.again]
    fresh = iter(rows.remember(session, first) if first else ())
    batch = _Batch(session, {knock.claim.keyid for knock in knocks}, pace, now)
    answers: list[CheckInAnswer | Refusal] = []
    for knock in knocks:
        if knock.again or next(fresh):
            answers.append(batch.answer(knock))
        else:
            answers.append(replayed())
    batch.changes.write(session, now)
    pace.write(session)
    return answers, batch


class _Batch:
    """What is known while a batch is decided; each decision is seen by the next."""

    def __init__(self, session: Session, ids: set[str], pace: Pace, now: datetime) -> None:
        self._now = now
        self._pace = pace
        self._devices = rows.devices_of(session, ids, now - SEEN_AGAIN)
        homes = {device.home for device in self._devices.values()}
        self._programmes = {home: programme_of(session, home) for home in homes}
        tasks = [task for programme in self._programmes.values() for task in programme.tasks]
        self._rounds = {round_.id: (round_, task) for task in tasks for round_ in task.rounds}
        self._parts: dict[str, list[Part]] = {}
        for part in rows.parts_of(session, ids) if self._rounds else ():
            self._parts.setdefault(part.device_id, []).append(part)
        looked_at = {task.rounds[0].id for task in tasks if task.rounds}
        selecting = {id_ for id_, (round_, _task) in self._rounds.items() if round_.phase == Phase.SELECTING}
        self._candidacies = rows.candidacies_of(session, looked_at | selecting, ids)
        self._candidate_of = {device: round_id for round_id, device in self._candidacies if round_id in selecting}
        self.changes = Changes()
        self.undeclared = self.misfits = 0

    def answer(self, knock: Knock) -> CheckInAnswer | Refusal:
        device = self._devices.get(knock.claim.keyid)
        if device is None:
            return UnknownDevice("enrol first")
        programme = self._programmes[device.home]
        refusal = _unwelcome(device, programme, knock.message)
        if refusal is not None:
            return refusal
        if device.unseen:
            device.unseen = False
            self.changes.seen.add(device.id)
        heard = facts_of(knock.message, device.facts, programme.declared)
        if not knock.again:
            self.undeclared += heard.unknown
            self.misfits += heard.misfits
        if changes(device.facts, heard.facts):
            device.facts = self.changes.facts[device.id] = heard.facts
        return self._answer(device, programme, knock)

    def _answer(self, device: DeviceRow, programme: Programme, knock: Knock) -> CheckInAnswer:
        part = self._open_part(device)
        if part is not None:
            round_, task = self._rounds[part.round_id]
            if part.standing == Standing.TRAINED:  # it waits to be summed, whatever visit it is
                return self._wait(Wait.ROUND_IN_PROGRESS, task, device, knock)
            mine = part.visit in (None, knock.message.visit)
            if mine and task.state == TaskState.PAUSED and part.standing == Standing.CHOSEN:
                return self._wait(Wait.TASK_PAUSED, task, device, knock)
            if mine:
                return self._assigned(device, part, round_, task, knock)
            if knock.again:  # a later visit is alive
                return self._wait(Wait.ROUND_IN_PROGRESS, task, device, knock)
            part.standing = Standing.ENDED
            self.changes.ended[part.id] = {
                "row": part.id,
                "to": Standing.ENDED,
                "why": Outcome.WENT_SILENT,
                "at": self._now,
            }
        return self._offered(device, programme, knock)

    def _open_part(self, device: DeviceRow) -> Part | None:
        for part in self._parts.get(device.id, ()):
            known = self._rounds.get(part.round_id)
            if part.standing in OPEN_STANDINGS and known is not None and known[0].closed_at is None:
                return part
        return None

    def _assigned(self, device: DeviceRow, part: Part, round_: OpenRound, task: Running, knock: Knock) -> CheckInAnswer:
        if part.standing == Standing.CHOSEN:
            visit = knock.message.visit
            part.standing, part.visit = Standing.ASSIGNED, visit
            self.changes.parts[part.id] = {"row": part.id, "to": Standing.ASSIGNED, "visit_": visit, "at": self._now}
            device.participated_at = self._now
            device.participations += 1
            self.changes.devices[device.id] = device
        assignment = Assignment(
            participation=part.id,
            round=round_.number,
            plan=task.plan_raw,
            plan_signature=task.plan_signature,
            checkpoint_sha256=round_.checkpoint_sha256,
            deadline_s=min(max(0.0, (round_.deadline_at - self._now).total_seconds()), LONGEST_DELAY_S),
        )
        policy = self._programmes[device.home].policy
        return _answer(knock.message.version, policy, assignment=assignment)

    def _offered(self, device: DeviceRow, programme: Programme, knock: Knock) -> CheckInAnswer:
        """Become a candidate of one selecting round, stay one, or wait."""
        why: dict[Wait, Running] = {}
        contenders: dict[str, tuple[Contender, OpenRound, Running]] = {}
        for task in programme.tasks:
            reason = self._unfit(task, device, knock.message)
            selecting = [round_ for round_ in task.rounds if round_.phase == Phase.SELECTING] if reason is None else []
            for round_ in selecting:
                contenders[round_.id] = (_contender(round_, task), round_, task)
            if not selecting:
                why.setdefault(reason or self._why_waiting(device, task), task)
        current = self._candidate_of.get(device.id)
        if current is not None and current not in contenders:
            self._withdraw(device, current)
            current = None
        chosen = current or self._chosen([one for one, _round, _task in contenders.values()], device)
        if chosen is None:
            reason = telling(why)
            return self._wait(reason, why.get(reason), device, knock)
        _one, round_, task = contenders[chosen]
        if current is None:
            self._add(device, round_)
        return self._wait(Wait.SELECTION_PENDING, task, device, knock)

    @staticmethod
    def _chosen(contenders: Sequence[Contender], device: DeviceRow) -> str | None:
        chosen = choose(contenders, device.id)
        return None if chosen is None else chosen.round_id

    def _add(self, device: DeviceRow, round_: OpenRound) -> None:
        pair = (round_.id, device.id)
        self._candidate_of[device.id] = round_.id
        self._candidacies.add(pair)
        round_.candidates += 1
        if pair in self.changes.removed:
            self.changes.removed.discard(pair)
        else:
            self.changes.added[pair] = None

    def _withdraw(self, device: DeviceRow, round_id: str) -> None:
        pair = (round_id, device.id)
        del self._candidate_of[device.id]
        self._candidacies.discard(pair)
        self._rounds[round_id][0].candidates -= 1
        if pair in self.changes.added:
            del self.changes.added[pair]
        else:
            self.changes.removed.add(pair)

    def _unfit(self, task: Running, device: DeviceRow, message: CheckIn) -> Wait | None:
        return unfit(
            task.settings,
            task.plan,
            paused=task.state == TaskState.PAUSED,
            in_cohort=task.cohort(device.facts),
            examples=message.examples,
            participated_at=device.participated_at,
            now=self._now,
        )

    def _why_waiting(self, device: DeviceRow, task: Running) -> Wait:
        """Of a task that could use the device, and has no round that selects."""
        if not task.rounds:
            return Wait.SELECTION_PENDING
        newest = task.rounds[0]
        took_part = next((part for part in self._parts.get(device.id, ()) if part.round_id == newest.id), None)
        if took_part is not None:
            return Wait.REPORTED if took_part.standing == Standing.REPORTED else Wait.ROUND_IN_PROGRESS
        return Wait.NOT_SELECTED if (newest.id, device.id) in self._candidacies else Wait.ROUND_IN_PROGRESS

    def _wait(self, reason: Wait, task: Running | None, device: DeviceRow, knock: Knock) -> CheckInAnswer:
        after_s = None if task is None else task.settings.retry_rejected_s
        programme = self._programmes[device.home]
        if after_s is not None:
            spread_s = after_s * SPREAD_SHARE
        else:
            paced = self._pace.window(device.home, knock.message.visit)
            after_s, spread_s = paced.after_s, paced.spread_s
        return _waiting(knock.message.version, programme.policy, reason, after_s, spread_s)


def _unwelcome(device: DeviceRow, programme: Programme, message: CheckIn) -> Refusal | None:
    if device.left:
        return DeviceLeft("this device was taken out by its owner")
    if programme.switched_off:
        return SwitchedOff("devices of this population are switched off; ask again when your policy lets you")
    if message.population != device.home.population:
        return NotFound(f"this device is not enrolled in a population {message.population!r}")
    return None


def _answer(
    version: int, policy: Policy | None, *, assignment: Assignment | None = None, retry: RetryWindow | None = None
) -> CheckInAnswer:
    return CheckInAnswer(version=version, assignment=assignment, retry=retry, policy=policy if version > 1 else None)


@functools.lru_cache(maxsize=4096)
def _waiting(version: int, policy: Policy | None, reason: Wait, after_s: float, spread_s: float) -> CheckInAnswer:
    """One answer for all that are answered alike."""
    return _answer(version, policy, retry=RetryWindow(reason=reason, after_s=after_s, spread_s=spread_s))


def _contender(round_: OpenRound, task: Running) -> Contender:
    return Contender(
        round_id=round_.id,
        seed=round_.seed,
        priority=task.settings.priority,
        pool_size=task.settings.pool_size,
        candidates=round_.candidates,
    )
