"""The ledger of a group in the journal: what it is given is on disk when the call returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from edge_runtime.journal.files import Stored
from edge_runtime.journal.grouping import Grouping, Membership, believed, member
from edge_runtime.journal.journal import Journal
from edge_runtime.journal.participation import Participation, masked, regrouped
from edge_runtime.journal.state import State, counted, moved, under_way
from edge_runtime.protocol.errors import StepNotAllowed
from edge_runtime.protocol.group import Step
from edge_runtime.protocol.keys import digest
from edge_runtime.protocol.report import lanes_of_report
from edge_runtime.protocol.secure_sum.lanes import Lanes, LaneVector
from edge_runtime.protocol.secure_sum.participant import Secrets

Keeping: TypeAlias = Callable[[Participation, Stored], Participation]


@dataclass(frozen=True, slots=True)
class JournalLedger:
    """Of the group that the participation under way is in; a `session.group.Ledger`.

    Reading raises `StateDamaged` where a file is not as it was written.
    """

    journal: Journal
    group: str
    codec: Lanes

    @property
    def secrets(self) -> Secrets:
        return Secrets.from_raw(self._membership.secrets)

    def answer(self, step: Step) -> bytes | None:
        stored = self._membership.answer(step)
        return None if stored is None else self.journal.read(stored)

    def believe(self, step: Step, answer: bytes) -> None:
        def kept(grouping: Grouping, stored: Stored) -> Grouping:
            return believed(grouping, self.group, step, stored)

        self._keep(answer, lambda held, stored: regrouped(held, lambda grouping: kept(grouping, stored)))

    @property
    def report(self) -> bytes | None:
        stored = under_way(self.journal.state).report
        return None if stored is None else self.journal.read(stored)

    def lanes(self) -> LaneVector:
        held, grouping = under_way(self.journal.state), self._grouping
        if grouping.change is None:
            raise StepNotAllowed("a masked report was made from this training result already")
        report = self.journal.read(grouping.change)
        packed = lanes_of_report(report, held.participation, self.codec, grouping.values)
        return self.codec.unpack(packed, grouping.values)

    def mask(self, report: bytes) -> None:
        sha256 = digest(report).hex()

        def change(state: State, stored: Stored) -> State:
            return counted(moved(state, lambda held: masked(held, self.group, stored, sha256)))

        self.journal.keep(report, change)

    def _keep(self, content: bytes, step: Keeping) -> None:
        def change(state: State, stored: Stored) -> State:
            return moved(state, lambda held: step(held, stored))

        self.journal.keep(content, change)

    @property
    def _grouping(self) -> Grouping:
        grouping = under_way(self.journal.state).grouping
        if grouping is None:
            raise StepNotAllowed("this participation has nothing for a group")
        return grouping

    @property
    def _membership(self) -> Membership:
        return member(self._grouping, self.group)
