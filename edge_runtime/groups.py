"""Summing what was trained: from the appointment to the opened sum, in as many slices and groups as it takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from edge_runtime.device import Device
from edge_runtime.exchange import Exchange
from edge_runtime.journal import grouping as sums
from edge_runtime.journal import state as now_is
from edge_runtime.journal.grouping import Grouping, Meeting, Membership
from edge_runtime.journal.ledger import JournalLedger
from edge_runtime.journal.participation import Participation, regrouped
from edge_runtime.journal.state import State
from edge_runtime.protocol.errors import ContradictedGroup, GroupEnded, InvalidGroup, StepNotAllowed
from edge_runtime.protocol.group import Appointment, Opened
from edge_runtime.protocol.keys import PublicKey, SigningKey, digest
from edge_runtime.protocol.plan import Plan
from edge_runtime.protocol.reasons import Outcome
from edge_runtime.protocol.secure_sum.participant import Secrets
from edge_runtime.protocol.secure_sum.transcript import Floors
from edge_runtime.returning import appointment_in_s
from edge_runtime.schedule import Activity
from edge_runtime.session.enrol import enrol
from edge_runtime.session.group import Member, Quit, appointment, take_part
from edge_runtime.session.terms import authority_for, terms_of
from edge_runtime.session.visit import verified_plan

LEAST_WAIT_S: Final = 1.0
"""Before a device asks again that was named neither a time nor a group."""
WITHOUT_IT_S: Final = 60.0
"""Before a device asks again that was named a group that it has left: that group goes on without it for a while."""


@dataclass(frozen=True, slots=True)
class Waits:
    """What was trained waits for its appointment, after so many seconds."""

    after_s: float


def certified(
    device: Device, exchange: Exchange, plan: Plan, activity: Activity = Activity.TRANSFER
) -> tuple[PublicKey, Floors]:
    """The authority and the floors under which this device takes part in groups of a plan; enrols for a certificate.

    Raises:
        InvalidGroup: It takes part in none.
        Interrupted, Unreachable, Refusal: As `Exchange.drive`.
    """
    floors = device.floors.groups or Floors()
    authority = authority_for(plan, device.roots.authority, floors)
    if not device.is_certified():
        key = SigningKey(device.identity().seed)
        enrolled = exchange.drive(enrol(device.installation, key.public), activity=activity)
        device.known(known=True, certificate=enrolled.certificate)
    if not device.is_certified():
        raise InvalidGroup("the enrolment authority has not certified this device")
    return authority, floors


class Sum:
    """One slice of it."""

    def __init__(self, device: Device, exchange: Exchange) -> None:
        self._device = device
        self._exchange = exchange

    def go_on(self) -> Opened | Waits | Outcome:
        """Keep the appointment, join a group, take its steps; the next group where one came to nothing.

        Returns:
            The opened sum; when to go on; or the outcome with which the participation ends.

        Raises:
            Interrupted: Stopped; the journal holds what was reached.
            Refusal: Something was refused, by the coordinator or here.
            Unreachable: No answer.
        """
        device, held = self._device, self._held
        tenant, population = device.installation.tenant, device.installation.population
        plan = verified_plan(held.plan, held.plan_signature, tenant, population, device.roots)
        authority, floors = certified(device, self._exchange, plan, Activity.SUM)
        while True:
            membership = self._grouping.membership
            if membership is None:
                if (end := self._joined()) is not None:
                    return end
                continue
            done = self._taken_part(plan, authority, floors, membership)
            if isinstance(done, Opened):
                return done
            if (outcome := self._departed(done)) is not None:
                return outcome

    def _joined(self) -> Waits | Outcome | None:
        """Ask for a group and, if there is one and time for it, join it; None once it is joined, or to ask again."""
        device, left_s = self._device, self._exchange.watch.left_s
        ahead_s = appointment_in_s(self._held, device.now_s)
        if ahead_s > 0 and ahead_s + device.least_slice_s > left_s:
            return Waits(ahead_s)
        named = self._exchange.drive(appointment(self._held.participation, ahead_s), activity=Activity.SUM)
        left = {one.group for one in self._grouping.left}
        if named.group is None or named.group in left:
            wait_s = max(LEAST_WAIT_S, named.in_s) if named.group is None else WITHOUT_IT_S
            at_s = device.now_s + wait_s
            self._regroup(lambda held: sums.met(held, Meeting(at_s=at_s, until_s=at_s + named.window_s)))
            device.say(f"waits for its appointment in {wait_s:.0f} s")
            return None
        if self._exchange.watch.left_s < device.least_slice_s:
            self._regroup(lambda held: sums.met(held, None))
            return Waits(0.0)
        return self._join(named, named.group)

    def _join(self, named: Appointment, group: str) -> Outcome | None:
        """Draw fresh secrets, on disk before anything of them leaves."""
        secrets = Secrets.fresh(self._device.entropy).raw
        membership = Membership(group=group, task=named.task, secrets=secrets)
        try:
            self._regroup(lambda held: sums.joined(held, membership))
        except (ContradictedGroup, GroupEnded) as refusal:
            self._device.say(f"joins no further group: {refusal.detail}")
            return Outcome.GROUP_REFUSED if isinstance(refusal, ContradictedGroup) else Outcome.GROUP_ENDED
        return None

    def _taken_part(self, plan: Plan, authority: PublicKey, floors: Floors, membership: Membership) -> Opened | Quit:
        device, held, change = self._device, self._held, self._grouping.values
        terms = terms_of(
            plan,
            plan_sha256=digest(held.plan).hex(),
            round_=held.round,
            checkpoint_sha256=held.checkpoint_sha256,
            values=change,
            task=membership.task,
            group=membership.group,
            clipping_norm=held.clipping_norm,
        )
        identity = device.identity()
        member = Member(
            key=SigningKey(identity.seed),
            certificate=identity.certificate,
            authority=authority,
            floors=floors,
            participation=held.participation,
            terms=terms,
        )
        ledger = JournalLedger(device.journal, membership.group, terms.lanes)
        return self._exchange.drive(take_part(member, ledger), activity=Activity.SUM)

    def _departed(self, quit_: Quit) -> Outcome | None:
        """Leave for ever. None: what was trained is still there, and may join another group."""
        code = quit_.refusal.code
        self._device.say(f"left its group: {quit_.refusal.detail} ({code})")
        masked = self._grouping.change is None
        outcome = Outcome.GROUP_REFUSED if quit_.contradicted else Outcome.GROUP_ENDED if masked else None

        def change(state: State) -> State:
            left = now_is.left_group(state, code)
            return left if outcome is None else now_is.given_up(left, outcome)

        self._device.journal.update(change)
        return outcome

    def _regroup(self, change: sums.Regrouping) -> None:
        self._device.journal.update(lambda state: now_is.moved(state, lambda held: regrouped(held, change)))

    @property
    def _held(self) -> Participation:
        return now_is.under_way(self._device.state)

    @property
    def _grouping(self) -> Grouping:
        grouping = self._held.grouping
        if grouping is None:
            raise StepNotAllowed("this participation has nothing for a group")
        return grouping
