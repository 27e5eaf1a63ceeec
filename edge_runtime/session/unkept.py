"""Summing in groups without a journal: for simulators, whose phones forget a participation when they die."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from edge_runtime.protocol.errors import StepNotAllowed
from edge_runtime.protocol.group import Opened, Step
from edge_runtime.protocol.keys import PublicKey, SigningKey
from edge_runtime.protocol.reasons import Outcome
from edge_runtime.protocol.report import lanes_of_report
from edge_runtime.protocol.secure_sum.lanes import Lanes, LaneVector
from edge_runtime.protocol.secure_sum.participant import Secrets
from edge_runtime.protocol.secure_sum.shamir import Randomness
from edge_runtime.protocol.secure_sum.transcript import Floors
from edge_runtime.session import Session
from edge_runtime.session.group import LEAST_PAUSE_S, Member, appointment, take_part
from edge_runtime.session.terms import authority_for, terms_of
from edge_runtime.session.visit import Work


@dataclass(slots=True, kw_only=True)
class MemoryLedger:
    """A `session.group.Ledger` that lasts as long as its process; `unmasked` is shared by all groups of a report."""

    secrets: Secrets
    unmasked: Unmasked
    answers: dict[Step, bytes] = field(default_factory=dict)
    report: bytes | None = None

    def answer(self, step: Step) -> bytes | None:
        return self.answers.get(step)

    def believe(self, step: Step, answer: bytes) -> None:
        if step in self.answers:
            raise StepNotAllowed(f"an answer to {step} is believed already")
        self.answers[step] = answer

    def lanes(self) -> LaneVector:
        return self.unmasked.lanes()

    def mask(self, report: bytes) -> None:
        self.unmasked.let_go()
        self.report = report


@dataclass(slots=True, kw_only=True)
class Unmasked:
    """What was trained, until it is masked once."""

    participation: str
    codec: Lanes
    values: int
    report: bytes | None = field(repr=False)

    def lanes(self) -> LaneVector:
        """As `Ledger.lanes`."""
        if self.report is None:
            raise StepNotAllowed("a masked report was made from this training result already")
        packed = lanes_of_report(self.report, self.participation, self.codec, self.values)
        return self.codec.unpack(packed, self.values)

    def let_go(self) -> None:
        """A masked report exists.

        Raises:
            StepNotAllowed: There was one before.
        """
        if self.report is None:
            raise StepNotAllowed("a masked report was made from this training result already")
        self.report = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summer:
    """A device without a journal that takes part in groups."""

    key: SigningKey
    certificate: bytes
    authority: PublicKey | None
    floors: Floors
    randomness: Randomness = os.urandom

    def sums(self, work: Work, report: bytes) -> Session[Opened | Outcome]:
        """Sum what was trained: keep appointments, and join one group after the other until one is opened.

        A `session.visit.Sums`.

        Raises:
            InvalidGroup: This device takes part in no such group.
            Refusal: The coordinator refused.
        """
        plan = work.plan
        authority = authority_for(plan, self.authority, self.floors)
        values = plan.values(work.bundle.manifest.shared_parameters)
        unmasked = Unmasked(participation=work.participation, codec=plan.lanes(), values=values, report=report)
        after_s, left = 0.0, set[str]()
        while True:
            named = yield from appointment(unmasked.participation, after_s)
            after_s = max(named.in_s, LEAST_PAUSE_S)
            if named.group is None or named.group in left:
                continue
            terms = terms_of(
                plan,
                plan_sha256=work.plan_sha256,
                round_=work.round,
                checkpoint_sha256=work.checkpoint.sha256,
                values=values,
                task=named.task,
                group=named.group,
                clipping_norm=work.clipping_norm,
            )
            member = Member(
                key=self.key,
                certificate=self.certificate,
                authority=authority,
                floors=self.floors,
                participation=unmasked.participation,
                terms=terms,
            )
            ledger = MemoryLedger(secrets=Secrets.fresh(self.randomness), unmasked=unmasked)
            end = yield from take_part(member, ledger)
            if isinstance(end, Opened):
                return end
            if end.contradicted:
                return Outcome.GROUP_REFUSED
            if ledger.report is not None:
                return Outcome.GROUP_ENDED
            left.add(named.group)
