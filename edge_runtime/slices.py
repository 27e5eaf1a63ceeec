"""One slice of work: go on with what is under way as far as conditions, time and the coordinator allow.

Each step is on disk before anything acts on it, so that a slice may be killed at any instant: the next one goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, TypeVar

from edge_runtime.device import Device
from edge_runtime.exchange import Exchange
from edge_runtime.inference import is_due, renewed
from edge_runtime.journal import Phase
from edge_runtime.journal import state as now_is
from edge_runtime.journal.participation import Participation
from edge_runtime.journal.state import State, Visited
from edge_runtime.outcomes import Happened, SliceEnd
from edge_runtime.protocol import wire
from edge_runtime.protocol.checkin import Assignment
from edge_runtime.protocol.errors import (
    BadSignature,
    DeviceLeft,
    DeviceStorageFull,
    Malformed,
    ParticipationEnded,
    Refusal,
    ReplayedRequest,
    Retry,
    StateDamaged,
    SwitchedOff,
    UnknownDevice,
)
from edge_runtime.protocol.plan import Plan
from edge_runtime.protocol.reasons import Blocker, Outcome
from edge_runtime.protocol.report import coarse
from edge_runtime.returning import (
    FINAL_FOR_A_REPORT,
    REPORTED,
    UNREACHABLE,
    activity_of,
    appointment_in_s,
    backs_off_s,
    come_back_s,
    failure_wait_s,
    is_hopeless,
    reason_of,
)
from edge_runtime.runs import Barred, Run
from edge_runtime.schedule import LOOK_AGAIN_S, Activity, blocker
from edge_runtime.session import Unreachable
from edge_runtime.session.visit import Offer, check_in, give_up, outcome_of, send_report
from edge_runtime.training import Interrupted

Result = TypeVar("Result")

_OF_THE_CONTACT: Final = (BadSignature, DeviceLeft, ReplayedRequest, UnknownDevice)
"""Refusals that say nothing of what was asked for: it may be asked for again."""

_UNTOLD: Final = frozenset(
    {Outcome.SYSTEM_STOPPED, Outcome.NETWORK_METERED, Outcome.NETWORK_LOST, Outcome.DAILY_BYTES_SPENT}
)
"""After these an outcome is not sent at once, but in a later slice."""


class Slice:
    """Runs once. Every expected failure ends it by name; what is raised is a mistake of ours."""

    def __init__(self, device: Device, deadline_s: float, stop: Callable[[], bool]) -> None:
        self._device = device
        self._exchange = Exchange(device, deadline_s, stop)

    def run(self) -> SliceEnd:
        """Work, and say how it ended; that is noted for `why`."""
        try:
            end = self._settled()
            self._renew(end)
            self._exchange.book()
        except DeviceStorageFull:
            end = self._without_room()
        except OSError:
            end = self._end(Happened.REFUSED, StateDamaged.code, failure_wait_s(None, self._device.chance()))
        self._device.say(f"slice: {end.happened}, {end.reason}; come back in {end.come_back_s:.0f} s")
        return end

    def _settled(self) -> SliceEnd:
        try:
            return self._work()
        except Interrupted as stopped:
            return self._interrupted(stopped.outcome)
        except Unreachable:
            return self._failed(Happened.UNREACHABLE, UNREACHABLE, failure_wait_s(None, self._device.chance()))
        except SwitchedOff as refusal:
            return self._switched_off(refusal)
        except DeviceLeft:
            self._update(now_is.left)
            return self._end(Happened.OPTED_OUT, Outcome.OPTED_OUT, math.inf)
        except DeviceStorageFull:
            raise
        except Refusal as refusal:
            self._device.say(f"refused: {refusal.detail} ({refusal.code})")
            return self._failed(Happened.REFUSED, refusal.code, failure_wait_s(refusal, self._device.chance()))

    def _work(self) -> SliceEnd:
        """Take one step after the other until one of them ends the slice."""
        if (blocked := self._blocked()) is not None:
            return blocked
        if self._held is None and (end := self._visit()) is not None:
            return end
        while (held := self._held) is not None:
            if held.phase in (Phase.ASSIGNED, Phase.TRAINING):
                self._train(held)
            elif held.phase is Phase.GIVING_UP:
                return self._tell(held)
            elif held.phase in (Phase.TRAINED, Phase.MASKED):
                return self._sum()
            else:
                return self._report(held)
        raise RuntimeError("a participation ended without a reason")

    # --- may it work? -------------------------------------------------------------------------------------------

    def _blocked(self) -> SliceEnd | None:
        """Look at deadline, switch, conditions and intervals, in this order."""
        device, now_s = self._device, self._device.now_s
        before = self._held
        state = self._update(lambda state: now_is.expired(now_is.seen_at(state, now_s), now_s))
        if before is not None and state.participation is None:
            self._note(Visited(at_s=now_s, reason=Outcome.DEADLINE_PASSED, round=before.round))
        held, now, policy, usage = self._held, device.now(), device.policy, device.usage
        activity = activity_of(held, fetched=held is not None and self._is_fetched(held))
        if state.switched_off and (left_s := backs_off_s(usage, policy, now)) > 0:
            return SliceEnd(happened=Happened.SWITCHED_OFF, reason=Outcome.SWITCHED_OFF, come_back_s=left_s)
        reason = blocker(device.source.read(), policy, usage, now, device.local, activity)
        if reason is not None:
            return self._stopped(reason)
        ahead_s = appointment_in_s(held, now_s)
        if ahead_s + device.least_slice_s > self._exchange.watch.left_s and ahead_s > 0:
            return self._end(Happened.BLOCKED, Blocker.APPOINTMENT_AHEAD, ahead_s)
        left_s = backs_off_s(usage, policy, now) if activity is Activity.TRANSFER else 0.0
        return self._end(Happened.BLOCKED, Blocker.TOO_SOON, left_s) if left_s > 0 else None

    def _is_fetched(self, held: Participation) -> bool:
        plan, downloads = wire.decode(Plan, held.plan), self._device.downloads
        return downloads.holds(plan.bundle_sha256) and downloads.holds(held.checkpoint_sha256)

    # --- a visit ------------------------------------------------------------------------------------------------

    def _visit(self) -> SliceEnd | None:
        """Check in; None when the device was chosen."""
        device = self._device
        offer = self._offer()
        answer = self._exchange.drive(check_in(offer))
        self._update(lambda state: now_is.told(state, answer.policy))
        if answer.assignment is None:
            if answer.retry is None:
                raise RuntimeError("an answer is an assignment or a retry window")
            self._update(now_is.not_chosen)
            wait_s = answer.retry.after_s + answer.retry.spread_s * device.chance()
            return self._failed(Happened.WAITING, answer.retry.reason, wait_s)
        self._exchange.begin_anew()  # under the policy that came with the answer
        self._take_on(answer.assignment)
        reason = blocker(
            device.source.read(), device.policy, device.usage, device.now(), device.local, Activity.TRANSFER
        )
        return None if reason is None else self._stopped(reason)

    def _offer(self) -> Offer:
        device = self._device
        visit = device.state.asking or device.entropy(16).hex()
        self._update(lambda state: now_is.asking(state, visit))
        collection = device.trains_on
        count = 0 if collection is None else device.examples.eligible(collection.name, 0, None, device.now_s).count
        return Offer(
            tenant=device.installation.tenant,
            population=device.installation.population,
            visit=visit,
            runtime=device.engine.name,
            examples=count,
            installation=device.installation,
        )

    def _take_on(self, assignment: Assignment) -> None:
        population, now_s = self._device.installation.population, self._device.now_s
        try:
            self._update(lambda state: now_is.assigned(state, assignment, population, now_s))
        except ParticipationEnded:  # through with it here: nothing is trained twice
            self._exchange.drive(give_up(assignment.participation, Outcome.PROCESS_KILLED))
            raise

    # --- training -----------------------------------------------------------------------------------------------

    def _train(self, held: Participation) -> None:
        """Go on training, up to a report on disk, or up to an outcome."""
        run = Run(self._device, self._exchange, held)
        try:
            run.go_on()
        except StateDamaged:
            self._give_up(Outcome.EXAMPLES_REFUSED)
        except Barred as barred:
            self._device.say(f"takes no part: {barred.outcome}")
            self._give_up(barred.outcome)
        except Refusal as refusal:
            if refusal.retry is not Retry.NEVER or isinstance(refusal, _OF_THE_CONTACT):
                raise
            self._device.say(f"gives up: {refusal.detail} ({refusal.code})")
            self._give_up(outcome_of(refusal, run.refused_as))

    # --- summing ------------------------------------------------------------------------------------------------

    def _sum(self) -> SliceEnd:
        """Go on with the appointment and the group, up to the opened sum or to the end of the slice."""
        from edge_runtime.groups import Sum, Waits  # and all of secure summing

        try:
            end = Sum(self._device, self._exchange).go_on()
        except FINAL_FOR_A_REPORT as refusal:
            return self._refused(refusal, Happened.REFUSED, refusal.code)
        except Unreachable:  # a group does not wait long
            return self._failed(Happened.UNREACHABLE, UNREACHABLE, self._device.policy.min_interval_s)
        except StateDamaged:
            end = Outcome.PROCESS_KILLED
        except Refusal as refusal:
            if refusal.retry is not Retry.NEVER or isinstance(refusal, (*_OF_THE_CONTACT, Malformed)):
                raise
            self._device.say(f"gives up: {refusal.detail} ({refusal.code})")
            end = outcome_of(refusal, Outcome.GROUP_REFUSED)
        if isinstance(end, Waits):
            return self._end(Happened.INTERRUPTED, Blocker.APPOINTMENT_AHEAD, end.after_s)
        if isinstance(end, Outcome):
            if now_is.under_way(self._device.state).phase is not Phase.GIVING_UP:
                self._give_up(end)
            return self._told_at_once(end)
        return self._over(now_is.opened, Happened.REPORTED, REPORTED, end.retry_after_s)

    # --- the end of a participation -----------------------------------------------------------------------------

    def _report(self, held: Participation) -> SliceEnd:
        try:
            report = self._device.journal.report_to_send()
        except StateDamaged:
            if held.phase is Phase.SENT:
                raise
            self._give_up(Outcome.PROCESS_KILLED)
            return self._tell(now_is.under_way(self._device.state))
        try:
            receipt = self._exchange.drive(send_report(held.participation, report))
        except FINAL_FOR_A_REPORT as refusal:
            return self._refused(refusal, Happened.REFUSED, refusal.code)
        return self._over(
            lambda state, now_s: now_is.received(state, receipt, now_s),
            Happened.REPORTED,
            REPORTED,
            receipt.retry_after_s,
        )

    def _tell(self, held: Participation, *, watched: bool = True) -> SliceEnd:
        """Send the outcome that is decided."""
        outcome = held.outcome or Outcome.PROCESS_KILLED
        self._exchange.book()
        costs = coarse(held.seconds, held.transferred_bytes, held.battery_share)
        try:
            noted = self._exchange.drive(give_up(held.participation, outcome, costs), watched=watched)
        except FINAL_FOR_A_REPORT as refusal:
            return self._refused(refusal, Happened.GAVE_UP, outcome)
        return self._over(now_is.noted, Happened.GAVE_UP, outcome, noted.retry_after_s)

    def _refused(self, refusal: Refusal, happened: Happened, reason: str) -> SliceEnd:
        """The coordinator does not want it, and never will."""
        self._device.say(f"refused: {refusal.detail} ({refusal.code})")
        return self._over(now_is.refused, happened, reason, failure_wait_s(None, self._device.chance()))

    def _over(
        self, change: Callable[[State, float], State], happened: Happened, reason: str, wait_s: float
    ) -> SliceEnd:
        """End the participation and note the visit, in one change."""
        self._exchange.book()
        now_s, round_ = self._device.now_s, now_is.under_way(self._device.state).round
        visit = Visited(at_s=now_s, reason=reason, round=round_)
        self._update(lambda state: now_is.visited(change(state, now_s), visit, wait_s))
        return self._to_come_back(happened, reason, wait_s, round_)

    def _give_up(self, outcome: Outcome) -> None:
        self._exchange.book()
        self._update(lambda state: now_is.given_up(state, outcome))

    # --- the released model -------------------------------------------------------------------------------------

    def _renew(self, end: SliceEnd) -> None:
        """Once a day, after a visit that ended well, fetch the released model of an app that infers."""
        device = self._device
        if end.happened not in (Happened.WAITING, Happened.REPORTED) or not is_due(device.state, device.now_s):
            return
        found = None
        try:
            found = self._exchange.drive(renewed(device))
        except (Interrupted, Unreachable):
            return
        except Refusal as refusal:
            device.say(f"no release: {refusal.detail} ({refusal.code})")
        now_s = device.now_s
        self._update(lambda state: now_is.released(state, found, now_s))

    # --- the end of a slice -------------------------------------------------------------------------------------

    def _interrupted(self, outcome: Outcome) -> SliceEnd:
        reason = reason_of(outcome)
        if reason is not None:
            return self._stopped(reason)
        self._give_up(outcome)  # time limit or deadline: no later slice can help
        return self._told_at_once(outcome)

    def _stopped(self, reason: Blocker) -> SliceEnd:
        """A condition does not hold: go on later, or give up where later is too late."""
        device, held = self._device, self._held
        after_s = come_back_s(reason, device.policy, device.usage, device.now(), device.local)
        if held is None:
            return self._end(Happened.BLOCKED, reason, after_s)
        if is_hopeless(held, after_s, device.now_s):
            self._give_up(Outcome(reason.value))
            return self._told_at_once(Outcome(reason.value))
        return self._end(Happened.INTERRUPTED, reason, after_s)

    def _without_room(self) -> SliceEnd:
        """The disk took no more; what is on it still holds."""
        try:
            return self._stopped(Blocker.STORAGE_LOW)
        except DeviceStorageFull:
            return self._end(
                Happened.INTERRUPTED if self._held else Happened.BLOCKED, Blocker.STORAGE_LOW, LOOK_AGAIN_S
            )

    def _told_at_once(self, outcome: Outcome) -> SliceEnd:
        """Tell the outcome now, so that nobody waits for this device, if its network allows some hundred bytes."""
        held, conditions = now_is.under_way(self._device.state), self._device.source.read()
        metered = self._device.policy.needs_unmetered and conditions.metered is not False
        if outcome in _UNTOLD or metered or conditions.online is False:
            return self._end(Happened.GAVE_UP, outcome, self._device.policy.min_interval_s)
        try:
            return self._tell(held, watched=False)
        except (Unreachable, Refusal):
            return self._failed(Happened.GAVE_UP, outcome, failure_wait_s(None, self._device.chance()))

    def _switched_off(self, refusal: SwitchedOff) -> SliceEnd:
        """Drop what is under way and wait as long as the policy lets a coordinator ask."""
        now_s = self._device.now_s
        self._update(lambda state: now_is.switched(now_is.dropped(state, Outcome.SWITCHED_OFF, now_s), off=True))
        longest_s = self._device.policy.max_interval_s
        wait_s = longest_s if refusal.retry_after_s is None else min(refusal.retry_after_s, longest_s)
        return self._failed(Happened.SWITCHED_OFF, Outcome.SWITCHED_OFF, wait_s)

    def _failed(self, happened: Happened, reason: str, wait_s: float, round_: int | None = None) -> SliceEnd:
        """The coordinator was met, or not to be met: note when to come back."""
        visit = Visited(at_s=self._device.now_s, reason=reason, round=round_)
        self._update(lambda state: now_is.visited(state, visit, wait_s))
        return self._to_come_back(happened, reason, wait_s, round_)

    def _to_come_back(self, happened: Happened, reason: str, wait_s: float, round_: int | None) -> SliceEnd:
        policy = self._device.policy
        after_s = min(max(wait_s, policy.min_interval_s), policy.max_interval_s)
        left = self._held is not None
        return SliceEnd(happened=happened, reason=reason, come_back_s=after_s, work_left=left, round=round_)

    def _end(self, happened: Happened, reason: str, after_s: float) -> SliceEnd:
        held = self._held
        self._note(Visited(at_s=self._device.now_s, reason=reason, round=held.round if held else None))
        return SliceEnd(
            happened=happened,
            reason=reason,
            come_back_s=after_s,
            work_left=held is not None,
            round=held.round if held else None,
        )

    def _note(self, visit: Visited) -> None:
        """For `why` alone: a full disk does without."""
        try:
            self._update(lambda state: now_is.noted_visit(state, visit))
        except (DeviceStorageFull, OSError):
            self._device.say("the disk is full: what happened is not noted")

    @property
    def _held(self) -> Participation | None:
        return self._device.state.participation

    def _update(self, change: now_is.Change) -> State:
        return self._device.journal.update(change)
