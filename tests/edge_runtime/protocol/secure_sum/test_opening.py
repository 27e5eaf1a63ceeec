"""Opening: every share and every secret is checked, and who lied is named."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from edge_runtime.protocol.errors import (
    ContradictedGroup,
    Malformed,
    Refusal,
)
from edge_runtime.protocol.keys import digest
from edge_runtime.protocol.secure_sum import boxes, field, opening, participant
from edge_runtime.protocol.secure_sum.boxes import Pair, seal
from edge_runtime.protocol.secure_sum.field import PRIME
from edge_runtime.protocol.secure_sum.mailbox import Blame, Fault
from edge_runtime.protocol.secure_sum.members import Members
from edge_runtime.protocol.secure_sum.messages import Unmasking
from edge_runtime.protocol.secure_sum.participant import seed_digest
from tests.edge_runtime.protocol.secure_sum.groups import (
    GROUP,
    Play,
    cut,
    party,
    plain_sum,
    terms_of,
    vectors_of,
)
from tests.edge_runtime.protocol.secure_sum.played import (
    EVERYBODY,
    FIVE,
    SIZE,
    confirmations_of,
    made,
    members,
    played,
)


def recovered(play: Play, masked: Members, spoil: Callable[[int, Unmasking], Unmasking]) -> opening.Recovery:
    agreement, found = play.party.agreement, {}
    confirmations = confirmations_of(play, masked, masked)
    for member in sorted(masked):
        seat, received = play.party.seats[member], play.received[member]
        message = spoil(member, participant.unmask(seat, received, play.confirm(member, masked), confirmations))
        found[member] = opening.revealed(agreement, member, message, sharers=frozenset(play.dealt), masked=masked)
    return opening.recover(agreement, play.dealt, masked, found)


def flipped(raw: bytes, place: int) -> bytes:
    return raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]


@pytest.mark.parametrize("part", ["seeds", "keys"])
@pytest.mark.parametrize("place", [0, 32, 33, 48])
def test_a_forged_share_costs_who_sent_it_and_not_the_group(part: str, place: int) -> None:
    play = played()
    dealer = 0 if part == "seeds" else 5
    group, vectors = play.party, vectors_of(play.party)

    def forge(member: int, message: Unmasking) -> Unmasking:
        forged: dict[str, Any] = {part: flipped(getattr(message, part), place)}
        return replace(message, **forged) if member == 2 else message

    recovery = recovered(play, FIVE, forge)
    assert recovery.blamed == (Blame(2, Fault.FORGED_SHARE, dealer),)
    total = play.total(play.mask(member, vectors[member]) for member in FIVE)
    opening.open_sum(group.agreement, total, recovery)
    assert cut(group, total) == plain_sum(group, vectors, FIVE)


def test_too_many_forged_shares_abort_the_group_and_name_who_forged() -> None:
    play = played()

    def forge(member: int, message: Unmasking) -> Unmasking:
        return replace(message, seeds=flipped(message.seeds, 0)) if member < 3 else message

    with pytest.raises(opening.NotOpened, match="right shares of member 0") as refused:
        recovered(play, EVERYBODY, forge)
    assert [one.member for one in refused.value.blamed] == [0, 1, 2]
    assert refused.value.code == "too-few-survivors"


def dealt_wrongly(play: Play, dealer: int, change: Callable[[Pair], Pair], holder: int = 0) -> None:
    """Let a dealer deal a holder a share off the polynomial, promised and signed as if it were right."""
    pair = change(play.pairs[dealer][holder])
    seat, dealt = play.party.seats[dealer], play.dealt[dealer]
    route = seat.route(dealer=dealer, holder=holder)
    box, promise = seal(seat.box_key(dealer=dealer, holder=holder), route, pair), pair.promise(route)
    signature = play.party.devices[dealer].key.sign(boxes.signed_digest(route, box, promise))
    play.dealt[dealer] = replace(
        dealt, boxes={**dealt.boxes, holder: box}, promises={**dealt.promises, holder: promise},
        signatures={**dealt.signatures, holder: signature},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("dealer", "change"),
    [
        (1, lambda pair: replace(pair, seed_share=(pair.seed_share + 1) % PRIME)),
        (5, lambda pair: replace(pair, key_share=(pair.key_share + 8) % PRIME)),
        (1, lambda pair: replace(pair, seed_share=(pair.seed_share + PRIME // 2) % PRIME)),
    ],
)
def test_a_dealer_of_inconsistent_shares_is_named(dealer: int, change: Callable[[Pair], Pair]) -> None:
    play = Play.shared(made(), range(SIZE))
    dealt_wrongly(play, dealer, change)
    play.receive()
    with pytest.raises(opening.NotOpened) as refused:
        recovered(play, FIVE, lambda _member, message: message)
    assert refused.value.blamed == (Blame(dealer, Fault.INCONSISTENT_SHARES, dealer),)


def test_a_wrong_seed_digest_is_its_dealers_fault() -> None:
    play = played()
    play.dealt[3] = replace(play.dealt[3], seed_digest=seed_digest(play.party.agreement, bytes(32)))
    with pytest.raises(opening.NotOpened) as refused:
        recovered(play, FIVE, lambda _member, message: message)
    assert refused.value.blamed == (Blame(3, Fault.INCONSISTENT_SHARES, 3),)


def test_an_opening_that_checks_no_secret_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutant: rebuilt secrets are taken as they are."""
    monkeypatch.setattr(opening._Rebuilding, "_blame_dealer", lambda *_all: None)
    with pytest.raises(pytest.fail.Exception):
        test_a_wrong_seed_digest_is_its_dealers_fault()


def test_an_opening_that_checks_no_share_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutant: shares are used without their promise."""
    monkeypatch.setattr(opening, "revealed_seed", lambda raw, _route, _promise: field.decode(raw[:33]))
    with pytest.raises((AssertionError, opening.NotOpened)):
        test_a_forged_share_costs_who_sent_it_and_not_the_group("seeds", 0)


@pytest.mark.parametrize(
    ("parts", "refusal"),
    [
        ({"seeds": b""}, Malformed),
        ({"seeds": bytes(49 * 6)}, Malformed),
        ({"keys": bytes(49 * 2)}, Malformed),
        ({"keys": b"", "seeds": bytes(49 * 6)}, Malformed),  # a member listed as alive that is gone
        ({"lacking": b"\xff"}, Malformed),
        ({"lacking": members(0)}, Malformed),
        ({"group": "00" * 16}, ContradictedGroup),
    ],
)
def test_shares_that_were_not_asked_for_are_refused(parts: dict[str, Any], refusal: type[Refusal]) -> None:
    play = played()
    message = participant.unmask(
        play.party.seats[1], play.received[1], play.confirm(1, FIVE), confirmations_of(play, FIVE, FIVE)
    )
    take = play.party.agreement, 1
    opening.revealed(*take, message, sharers=EVERYBODY, masked=FIVE)
    with pytest.raises(refusal):
        opening.revealed(*take, replace(message, **parts), sharers=EVERYBODY, masked=FIVE)


def test_shares_that_are_too_many_are_named() -> None:
    play = played()
    for part, wanted in (("seeds", 5), ("keys", 1)):
        parts = {"seeds": bytes(49 * 5), "keys": bytes(49)} | {part: bytes(49 * 7)}
        message = Unmasking(version=1, group=GROUP, lacking=members(), **parts)
        with pytest.raises(Malformed, match=f"^{part} has 343 bytes where {49 * wanted} are expected"):
            opening.revealed(play.party.agreement, 1, message, sharers=EVERYBODY, masked=FIVE)


def test_a_dealer_whose_shares_rebuild_no_secret_is_named() -> None:
    """All shares are as promised, and lie on a polynomial whose constant is 2^256: an element, and no secret."""
    play = Play.shared(made(), range(SIZE))
    secret = int.from_bytes(play.party.devices[1].secrets.seed, "little")
    for holder in EVERYBODY - {1}:
        shifted = (play.pairs[1][holder].seed_share + 2**256 - secret) % PRIME
        dealt_wrongly(play, 1, lambda pair, shifted=shifted: replace(pair, seed_share=shifted), holder)  # type: ignore[misc]
    play.receive()
    left = EVERYBODY - {1}
    revelations = play.reveal(EVERYBODY, EVERYBODY, left)
    with pytest.raises(opening.NotOpened, match="member 1 rebuild another") as refused:
        play.recover(EVERYBODY, revelations)
    assert refused.value.blamed == (Blame(1, Fault.INCONSISTENT_SHARES, 1),)


def test_parts_are_opened_side_by_side() -> None:
    """`spread` and `parts` reach the lanes: 70,004 of them are two blocks, so two parts at most."""
    made = party(terms_of(3, parameters=70_000), 3)
    play, vectors = Play.shared(made, made.everybody), vectors_of(made)
    play.receive()
    seen: list[Any] = []
    total = play.total(play.mask(member, vectors[member]) for member in made.everybody)

    def spread(work: Callable[[Any], Any], stretches: Iterable[Any]) -> Iterable[Any]:
        seen.extend(stretches)
        return map(work, reversed(seen))

    recovery = play.recover(made.everybody, play.reveal(made.everybody, made.everybody, made.everybody))
    opening.open_sum(made.agreement, total, recovery, spread=spread, parts=2)
    assert len(seen) == 2
    assert cut(made, total) == plain_sum(made, vectors, made.everybody)


def test_who_is_gone_reveals_nothing_that_counts() -> None:
    play = played()
    message = participant.unmask(
        play.party.seats[1], play.received[1], play.confirm(1, FIVE), confirmations_of(play, FIVE, FIVE)
    )
    with pytest.raises(ContradictedGroup, match="did not survive"):
        opening.revealed(play.party.agreement, 5, message, sharers=EVERYBODY, masked=FIVE)


def test_nobody_lacks_the_share_of_one_who_dealt_none() -> None:
    play = Play.shared(made(), FIVE)
    play.receive()
    message = Unmasking(version=1, group=GROUP, lacking=members(5), seeds=b"", keys=b"")
    with pytest.raises(ContradictedGroup, match="dealt it none"):
        opening.revealed(play.party.agreement, 1, message, sharers=FIVE, masked=FIVE)


def test_a_sum_is_never_opened_for_fewer_than_the_quorum_or_for_strangers() -> None:
    play = played()
    with pytest.raises(opening.NotOpened, match="3 reports") as refused:
        opening.recover(play.party.agreement, play.dealt, frozenset({0, 1, 2}), {})
    assert (refused.value.detail, refused.value.blamed) == ("3 reports came where a sum has 4 or more", ())
    with pytest.raises(ContradictedGroup):
        opening.recover(play.party.agreement, {0: play.dealt[0]}, FIVE, {})
    with pytest.raises(opening.NotOpened, match="0 right shares"):
        opening.recover(play.party.agreement, play.dealt, FIVE, {})


def test_secrets_are_in_no_text() -> None:
    play = played()
    recovery = recovered(play, FIVE, lambda _member, message: message)
    pair = play.received[0].pairs[1]
    shown = repr(recovery) + repr(play.received[0]) + repr(pair) + repr(play.confirm(0, FIVE))
    seeds = [device.secrets.seed for device in play.party.devices]
    for canary in (*seeds, *(device.secrets.mask_key.raw for device in play.party.devices)):
        assert repr(canary)[2:-1] not in shown
        assert str(int.from_bytes(canary, "little")) not in shown
    assert str(pair.seed_share) not in shown
    assert str(pair.key_share) not in shown
    bad = replace(play.received[0], bad_boxes={1: digest(b"a box key")})
    assert repr(digest(b"a box key"))[2:-1] not in repr(bad)
    revelation = opening.Revelation({1: pair.reveal_seed()}, {2: pair.reveal_key()})
    assert repr(pair.salt)[2:-1] not in repr(revelation) + shown
