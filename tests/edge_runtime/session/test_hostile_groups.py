"""A hostile coordinator, with every other member in its hands: whatever it says, in whatever order, across restarts.

The oracle knows all that was dealt to the device under attack. It looks at the bytes that left, and at nothing else:
two kinds of share of one peer never leave, nor do two masked reports, nor anything for a set that is too small.
"""

from __future__ import annotations

import functools
import itertools
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.journal import Journal, StateFolder, open_folder, open_journal
from edge_runtime.journal import state as now_is
from edge_runtime.journal.grouping import Membership, joined
from edge_runtime.journal.ledger import JournalLedger
from edge_runtime.journal.participation import regrouped
from edge_runtime.protocol import wire
from edge_runtime.protocol.checkin import Assignment
from edge_runtime.protocol.errors import (
    ContradictedGroup,
    GroupEnded,
    InvalidRoster,
    Refusal,
    RoundClosed,
    StepNotAllowed,
    TooFewSurvivors,
)
from edge_runtime.protocol.group import NotYet, Opened, Step, StepTaken, step_path
from edge_runtime.protocol.keys import digest
from edge_runtime.protocol.report import Receipt
from edge_runtime.protocol.secure_sum import mailbox, participant
from edge_runtime.protocol.secure_sum.boxes import Pair
from edge_runtime.protocol.secure_sum.mailbox import Dealt
from edge_runtime.protocol.secure_sum.members import encode_members
from edge_runtime.protocol.secure_sum.messages import Confirmation, Delivery, Roster, Survivors, Unmasking
from edge_runtime.protocol.secure_sum.participant import Confirmed, Received, Seat
from edge_runtime.protocol.secure_sum.transcript import Agreement, agree
from edge_runtime.session import Request, Response, Session, Unreachable
from edge_runtime.session.group import Quit
from edge_runtime.session.unkept import MemoryLedger, Unmasked
from tests.edge_runtime.protocol.secure_sum.groups import AUTHORITY, terms_of
from tests.edge_runtime.session.group_server import (
    Phone,
    lanes_of,
    member_of,
    phone_of,
    problem,
    secrets_of,
)

SIZE = 6
TERMS = terms_of(SIZE)
OTHER = terms_of(SIZE, group="cd" * 16)
VICTIM = "phone-0"
NAMES = tuple(f"phone-{number}" for number in range(SIZE))


@dataclass(frozen=True)
class Others:
    """What the attacker holds: the keys of everybody else, and so everything that it can say."""

    agreement: Agreement
    places: Mapping[str, int]
    dealt: Mapping[int, Dealt]
    to_victim: Mapping[int, Pair]
    """What was dealt to the victim, by dealer, its own included: how the oracle knows a share when it leaves."""

    @property
    def victim(self) -> int:
        return self.places[VICTIM]

    def delivery(self, sharers: frozenset[int]) -> Delivery:
        dealt = {dealer: one for dealer, one in self.dealt.items() if dealer in sharers}
        return mailbox.delivery(self.agreement, self.victim, dealt)

    def survivors(self, masked: frozenset[int]) -> Survivors:
        return Survivors(version=1, group=TERMS.group, masked=encode_members(masked, SIZE))

    def confirmations(self, masked: frozenset[int], signers: frozenset[int]) -> object:
        signed = participant.confirmed_digest(self.agreement, masked)
        keys = {place: member_of(TERMS, name).key for name, place in self.places.items()}
        return mailbox.confirmations(self.agreement, {one: keys[one].sign(signed) for one in signers})

    def roster(self) -> Roster:
        return Roster(version=1, group=TERMS.group, entries=b"".join(one.raw for one in self.agreement.roster))


@functools.cache
def others() -> Others:
    members = {name: member_of(TERMS, name) for name in NAMES}
    entries = {
        name: secrets_of(name, TERMS.group).entry(
            one.key, one.certificate, plan_sha256=TERMS.plan_sha256, group=TERMS.group
        )
        for name, one in members.items()
    }
    order = sorted(entries, key=lambda name: entries[name].device_id(TERMS.tenant))
    agreement = agree(TERMS, [entries[name] for name in order], AUTHORITY.public)
    places = {name: place for place, name in enumerate(order)}
    dealt, to_victim = {}, {}
    for name, place in places.items():
        seat = Seat(agreement, place, secrets_of(name, TERMS.group))
        shares, pairs = participant.deal(seat, members[name].key)
        dealt[place] = mailbox.taken(agreement, place, shares)
        to_victim[place] = pairs[places[VICTIM]]
    return Others(agreement, places, dealt, to_victim)


ALL = frozenset(range(SIZE))


def but(*others_gone: int) -> frozenset[int]:
    """Everybody but so many others, by number among those that are not the victim."""
    rest = [place for place in range(SIZE) if place != others().victim]
    return ALL - {rest[number] for number in others_gone}


@functools.cache
def answers() -> Mapping[str, Response]:
    """Everything that the attacker says: honest answers of every step, other sets, other groups, and rubbish."""
    known, ok = others(), {}

    def said(name: str, message: object, status: int = 200) -> None:
        ok[name] = Response(status, wire.encode(message))

    said("taken", StepTaken(version=1))
    said("not-yet", NotYet(version=1, ask_after_s=0.0, left_s=0.0), 202)
    said("roster", known.roster())
    rest = [one for place, one in enumerate(known.agreement.roster) if place != known.victim]
    said("roster-without-it", Roster(version=1, group=TERMS.group, entries=b"".join(one.raw for one in rest)))
    said("roster-too-small", Roster(version=1, group=TERMS.group, entries=known.agreement.roster[known.victim].raw))
    entries = known.roster().entries
    said("roster-of-another-group", Roster(version=1, group=OTHER.group, entries=entries))
    said("roster-changed", Roster(version=1, group=TERMS.group, entries=bytes(240) + entries[240:]))
    for name, sharers in (("all", ALL), ("but-one", but(0)), ("but-another", but(1)), ("too-few", but(0, 1, 2, 3))):
        said(f"delivery-{name}", known.delivery(sharers))
        said(f"survivors-{name}", known.survivors(sharers))
        said(f"confirmations-{name}", known.confirmations(sharers, sharers))
    said("delivery-without-it", replace(known.delivery(ALL), sharers=encode_members(ALL - {known.victim}, SIZE)))
    said("delivery-cut", replace(known.delivery(ALL), boxes=b""))
    said("survivors-without-it", known.survivors(ALL - {known.victim}))
    said("survivors-of-another-group", replace(known.survivors(ALL), group=OTHER.group))
    said("survivors-bits-beyond", replace(known.survivors(ALL), masked=b"\xff"))
    said("confirmations-too-few", known.confirmations(ALL, but(0, 1, 2, 3)))
    said("confirmations-not-signed", replace(known.confirmations(ALL, ALL), signatures=bytes(64 * SIZE)))  # type: ignore[type-var]
    said("opened", Opened(version=1, retry_after_s=1.0))
    refusals: tuple[Refusal, ...] = (GroupEnded("over"), ContradictedGroup("so it says"), RoundClosed("it closed"))
    ok |= {f"refused-{one.code}": problem(one) for one in refusals}
    ok["empty"], ok["html"] = Response(200, b""), Response(200, b"<html>")
    return ok


RIGHT = {
    Step.JOIN: {"roster"},
    Step.SHARES: {"delivery-all", "delivery-but-one", "delivery-but-another"},
    Step.MASKED: {"survivors-all", "survivors-but-one", "survivors-but-another"},
    Step.CONFIRMATION: {"confirmations-all", "confirmations-but-one", "confirmations-but-another"},
    Step.UNMASKING: {"opened"},
}
"""What can be believed at a step, if it fits what was believed before."""

SILENT = {"not-yet", "empty", "html"}
"""No answer: it is asked for again."""


@dataclass
class Observed:
    """What left the device, and what must hold of it: the oracle."""

    sent: list[Request] = field(default_factory=list)
    believed: frozenset[int] | None = None

    def see(self, request: Request) -> None:
        self.sent.append(request)
        self.check()

    def bodies(self, step: Step) -> set[bytes]:
        path = step_path(TERMS.group, step)
        return {one.body for one in self.sent if one.method == "POST" and one.path == path}

    def check(self) -> None:
        for step in Step:
            assert len(self.bodies(step)) <= 1, f"two kinds of {step} left"
        assert len({one.body for one in self.sent if one.method == "PUT"}) <= 1, "two masked reports left"
        revealed = b"".join(wire.decode(Unmasking, one).seeds for one in self.bodies(Step.UNMASKING))
        keys = b"".join(wire.decode(Unmasking, one).keys for one in self.bodies(Step.UNMASKING))
        seeds_of = {dealer for dealer, pair in others().to_victim.items() if pair.reveal_seed() in revealed + keys}
        keys_of = {dealer for dealer, pair in others().to_victim.items() if pair.reveal_key() in revealed + keys}
        assert not seeds_of & keys_of, "two kinds of share of one peer left"
        assert not revealed + keys or len(seeds_of) >= others().agreement.quorum, "shares left for too small a sum"
        for body in self.bodies(Step.CONFIRMATION):
            self.check_confirmation(wire.decode(Confirmation, body).signature)

    def check_confirmation(self, signature: bytes) -> None:
        key, agreement = member_of(TERMS, VICTIM).key, others().agreement
        subsets = (frozenset(one) for size in range(SIZE + 1) for one in itertools.combinations(sorted(ALL), size))
        signed = next(one for one in subsets if key.sign(participant.confirmed_digest(agreement, one)) == signature)
        assert others().victim in signed
        assert len(signed) >= agreement.quorum
        assert self.believed is None or signed <= self.believed, "it confirmed a set with members who never shared"


@dataclass
class Attack:
    """The victim and the attacker: one answer at a time."""

    phone: Phone = field(default_factory=lambda: phone_of(TERMS, 0, lanes_of(TERMS, 0)))
    observed: Observed = field(default_factory=Observed)
    request: Request | None = None
    over: object = None

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """The process dies, and another one goes on with what is kept."""
        self.session: Session[Opened | Quit] = self.phone.session()
        self.over = None
        self._go(lambda: next(self.session))

    def _go(self, step: Callable[[], Request]) -> None:
        try:
            self.request = step()
            self.observed.see(self.request)
        except StopIteration as end:
            self.request, self.over = None, end.value
        except (Unreachable, Refusal) as ended:
            self.request, self.over = None, ended

    def say(self, response: Response) -> None:
        self._go(lambda: self.session.send(response))

    @property
    def asks(self) -> Step | None:
        """The step whose answer it asks for."""
        if self.request is None or self.request.method != "GET":
            return None
        return Step(self.request.path.rsplit("/", 1)[1])

    def accept(self) -> None:
        """Let it send until it asks."""
        while self.request is not None and self.asks is None:
            self.say(acknowledged(self.request))

    def answer(self, name: str) -> None:
        if self.asks is Step.SHARES and self.phone.ledger.answer(Step.SHARES) is None and name.startswith("delivery-"):
            sharers = {"all": ALL, "but-one": but(0), "but-another": but(1)}.get(name.removeprefix("delivery-"))
            self.observed.believed = sharers
        self.say(answers()[name])

    def until(self, step: Step, path: tuple[str, ...] = ()) -> None:
        """Honest up to the question of a step."""
        honest = iter(path or ("roster", "delivery-all", "survivors-all", "confirmations-all"))
        self.accept()
        while self.asks is not step:
            self.answer(next(honest))
            self.accept()


def acknowledged(request: Request) -> Response:
    if request.method == "PUT":
        participation = request.path.split("/")[4]
        sha256 = digest(request.body).hex()
        receipt = Receipt(version=1, participation=participation, report_sha256=sha256, retry_after_s=1.0)
        return Response(200, wire.encode(receipt))
    return answers()["taken"]


@pytest.mark.parametrize("step", Step)
@pytest.mark.parametrize("name", sorted(answers()))
def test_every_answer_at_every_step_is_believed_asked_for_again_or_the_end(step: Step, name: str) -> None:
    attack = Attack()
    attack.until(step)
    attack.answer(name)
    fits = name in RIGHT[step] and (step is not Step.CONFIRMATION or name == "confirmations-all")
    if fits:
        assert attack.asks is None
        assert not isinstance(attack.over, Quit)
    elif name in SILENT or not name.startswith((step.value, *OF_STEP[step], "refused")):
        assert attack.asks is step, "it asks again"
        attack.say(answers()["taken"])
        assert attack.asks is step
    elif name == "refused-round-closed":
        assert isinstance(attack.over, RoundClosed)
    else:
        assert isinstance(attack.over, Quit)
        before = len(attack.observed.sent)
        attack.observed.check()
        assert len(attack.observed.sent) == before


OF_STEP = {
    Step.JOIN: ("roster",),
    Step.SHARES: ("delivery",),
    Step.MASKED: ("survivors",),
    Step.CONFIRMATION: ("confirmations",),
    Step.UNMASKING: ("opened",),
}


@pytest.mark.parametrize(
    ("step", "name", "refusal"),
    [
        (Step.JOIN, "roster-without-it", InvalidRoster),
        (Step.JOIN, "roster-too-small", InvalidRoster),
        (Step.JOIN, "roster-of-another-group", ContradictedGroup),
        (Step.JOIN, "roster-changed", InvalidRoster),
        (Step.SHARES, "delivery-too-few", TooFewSurvivors),
        (Step.SHARES, "delivery-without-it", ContradictedGroup),
        (Step.SHARES, "delivery-cut", ContradictedGroup),
        (Step.MASKED, "survivors-too-few", TooFewSurvivors),
        (Step.MASKED, "survivors-without-it", ContradictedGroup),
        (Step.MASKED, "survivors-of-another-group", ContradictedGroup),
        (Step.MASKED, "survivors-bits-beyond", ContradictedGroup),
        (Step.CONFIRMATION, "confirmations-too-few", TooFewSurvivors),
        (Step.CONFIRMATION, "confirmations-but-one", ContradictedGroup),
        (Step.CONFIRMATION, "confirmations-not-signed", ContradictedGroup),
        (Step.UNMASKING, "refused-group-ended", GroupEnded),
    ],
)
def test_what_does_not_hold_is_named(step: Step, name: str, refusal: type[Refusal]) -> None:
    attack = Attack()
    attack.until(step)
    attack.answer(name)
    assert isinstance(attack.over, Quit)
    assert type(attack.over.refusal) is refusal
    assert attack.over.contradicted is (refusal in (ContradictedGroup, InvalidRoster))


def test_a_survivor_who_never_shared_is_a_contradiction() -> None:
    attack = Attack()
    attack.until(Step.MASKED, ("roster", "delivery-but-one"))
    attack.answer("survivors-all")
    assert isinstance(attack.over, Quit)
    assert attack.over.contradicted


said = st.one_of(st.just("restart"), st.just("accept"), st.sampled_from(sorted(answers())))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(Step), st.lists(said, max_size=12))
def test_no_sequence_of_answers_and_restarts_makes_it_reveal_two_things(step: Step, words: list[str]) -> None:
    attack = Attack()
    attack.until(step)
    for word in words:
        if word == "restart":
            attack.restart()
        elif attack.request is None:
            break
        elif word == "accept":
            attack.accept()
        else:
            attack.answer(word)
    attack.observed.check()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_run_through_all_steps_with_other_sets_after_each_restart_reveals_two_things(data: st.DataObject) -> None:
    attack = Attack()
    for _process in range(4):
        attack.accept()
        while (step := attack.asks) is not None:
            attack.answer(data.draw(st.sampled_from(sorted(RIGHT[step])), label=step))
            attack.accept()
            if data.draw(st.booleans(), label="dies"):
                break
        attack.restart()
    attack.observed.check()


# --- the same, with a journal on disk that every process opens anew -------------------------------------------------


@dataclass
class Journalled(Phone):
    """A phone whose ledger is the journal of a folder."""

    path: Path = Path()
    folder: StateFolder | None = None

    @classmethod
    def at(cls, path: Path) -> Journalled:
        phone = phone_of(TERMS, 0, lanes_of(TERMS, 0))
        held = phone.ledger
        assert isinstance(held, MemoryLedger)
        assert held.unmasked.report is not None
        made = cls(phone.name, phone.member, held, path=path)
        journal = made.opened()
        assignment = Assignment(
            participation=phone.member.participation,
            round=TERMS.round,
            plan=b"plan",
            plan_signature=bytes(64),
            checkpoint_sha256=TERMS.checkpoint_sha256,
            deadline_s=600.0,
        )
        journal.update(lambda state: now_is.assigned(state, assignment, "pop", 1.0))
        journal.seal_change(held.unmasked.report, values=TERMS.parameters, zeroed=None, trained=None)
        membership = Membership(group=TERMS.group, task=TERMS.task, secrets=held.secrets.raw)
        journal.update(
            lambda state: now_is.moved(state, lambda one: regrouped(one, lambda grouping: joined(grouping, membership)))
        )
        return made

    def opened(self) -> Journal:
        if self.folder is not None:
            self.folder.close()
        self.folder = open_folder(self.path)
        return open_journal(self.folder, key=lambda: bytes(32), now_s=1.0)

    def session(self) -> Session[Opened | Quit]:
        self.ledger = JournalLedger(self.opened(), TERMS.group, TERMS.lanes)
        return super().session()


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_no_run_with_a_journal_that_is_opened_anew_reveals_two_things(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as path:
        phone = Journalled.at(Path(path))
        attack = Attack(phone)
        for _process in range(3):
            attack.accept()
            while (step := attack.asks) is not None:
                attack.answer(data.draw(st.sampled_from([*sorted(RIGHT[step]), *sorted(answers())]), label=step))
                attack.accept()
                if data.draw(st.booleans(), label="dies"):
                    break
            attack.restart()
        attack.observed.check()
        assert phone.folder is not None
        phone.folder.close()


def test_a_journal_that_is_shown_two_sets_of_survivors_believes_the_first(tmp_path: Path) -> None:
    attack = Attack(Journalled.at(tmp_path))
    attack.until(Step.UNMASKING)
    attack.restart()
    attack.accept()
    assert attack.asks is Step.UNMASKING, "it sends what it had decided, and asks for nothing before it"
    for step in (Step.MASKED, Step.CONFIRMATION):
        with pytest.raises(StepNotAllowed):
            attack.phone.ledger.believe(step, b"another")


# --- mutants: each is a device with one bug, which the oracle must catch ---------------------------------------------


class Forgetful(MemoryLedger):
    """Sends first and never writes: its next process knows nothing of what was believed."""

    def believe(self, step: Step, answer: bytes) -> None:
        """Forget it."""


class Reusing(MemoryLedger):
    """Keeps what was trained after it was masked, and forgets the masked report."""

    def mask(self, report: bytes) -> None:
        """Keep both."""


def victim_with(ledger: type[MemoryLedger]) -> Phone:
    phone = phone_of(TERMS, 0, lanes_of(TERMS, 0))
    held = phone.ledger
    assert isinstance(held, MemoryLedger)
    phone.ledger = ledger(secrets=held.secrets, unmasked=held.unmasked)
    return phone


def reveal_twice(phone: Phone) -> None:
    """One process is shown everybody, the next one everybody but one."""
    attack = Attack(phone)
    for name in ("all", "but-one"):
        attack.until(Step.UNMASKING, ("roster", "delivery-all", f"survivors-{name}", f"confirmations-{name}"))
        attack.restart()
    attack.observed.check()


def test_a_device_that_forgets_what_it_believed_is_caught() -> None:
    class Lost(Forgetful):
        def lanes(self):  # type: ignore[no-untyped-def]
            return lanes_of(TERMS, 0)

        def mask(self, report: bytes) -> None:
            """As if it were the first."""

    with pytest.raises(AssertionError, match="left"):
        reveal_twice(victim_with(Lost))


def test_a_device_that_answers_a_second_request_to_unmask_is_caught() -> None:
    phone = victim_with(MemoryLedger)
    ledger = phone.ledger
    assert isinstance(ledger, MemoryLedger)
    attack = Attack(phone)
    attack.until(Step.UNMASKING)
    for step in (Step.MASKED, Step.CONFIRMATION):
        del ledger.answers[step]  # the bug: it lets itself be asked anew
    attack.restart()
    with pytest.raises(AssertionError, match="left"):
        attack.until(Step.UNMASKING, ("survivors-but-one", "confirmations-but-one"))


def test_a_device_that_makes_a_second_masked_report_is_caught() -> None:
    attack = Attack(victim_with(Reusing))
    attack.until(Step.MASKED)
    ledger = attack.phone.ledger
    assert isinstance(ledger, Reusing)
    ledger.answers.pop(Step.SHARES)
    attack.restart()
    with pytest.raises(AssertionError, match="two masked reports left"):
        attack.until(Step.CONFIRMATION, ("delivery-but-one", "survivors-but-one"))


def test_a_device_that_believes_survivors_who_never_shared_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def lax(seat: Seat, device: object, received: Received, survivors: Survivors) -> Confirmed:
        everybody = replace(received, sharers=ALL)
        return real(seat, device, everybody, survivors)  # type: ignore[arg-type]

    real = participant.confirm
    monkeypatch.setattr(participant, "confirm", lax)
    attack = Attack()
    attack.until(Step.MASKED, ("roster", "delivery-but-one"))
    with pytest.raises(AssertionError, match="never shared"):
        attack.answer("survivors-all")


def test_the_ledger_of_a_simulator_believes_an_answer_once() -> None:
    phone = phone_of(TERMS, 0, lanes_of(TERMS, 0))
    phone.ledger.believe(Step.JOIN, b"one")
    with pytest.raises(StepNotAllowed):
        phone.ledger.believe(Step.JOIN, b"another")
    unmasked = Unmasked(participation="0" * 32, codec=TERMS.lanes, values=5, report=None)
    with pytest.raises(StepNotAllowed):
        unmasked.let_go()
