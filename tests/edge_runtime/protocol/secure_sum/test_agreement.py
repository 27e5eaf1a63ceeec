"""What a group agrees on: every input moves the context, and a roster or terms that cannot be trusted are refused."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.protocol.errors import InvalidGroup, InvalidRoster, Malformed, UntrustedDocument
from edge_runtime.protocol.keys import SigningKey, digest
from edge_runtime.protocol.secure_sum import digests
from edge_runtime.protocol.secure_sum.masks import _LOW_ORDER, AgreementKey
from edge_runtime.protocol.secure_sum.participant import Seat, Secrets
from edge_runtime.protocol.secure_sum.roster import (
    ENTRY_BYTES,
    Entry,
    sign_certificate,
    signed_entry,
    verify_certificate,
)
from edge_runtime.protocol.secure_sum.thresholds import complete_threshold
from edge_runtime.protocol.secure_sum.transcript import Floors, Terms, _context, agree, join
from tests.edge_runtime.protocol.secure_sum import oracle
from tests.edge_runtime.protocol.secure_sum.groups import AUTHORITY, PUBLIC, device, lanes_of, party, terms_of

TERMS = terms_of(6)
OPEN = Floors(smallest_group=3, fewest_survivors=2, least_corrupt_permille=0)
OTHERS: dict[str, Any] = {
    "tenant": "acma", "task": "word", "round": 4, "group": "cd" * 16, "plan_sha256": "12" * 32,
    "bundle_sha256": "23" * 32, "checkpoint_sha256": "34" * 32, "survivors": 5, "corrupt_permille": 200,
    "lanes": lanes_of(25, 6), "parameters": 6,
}  # fmt: skip
NOT_IN_THE_CONTEXT = {"fewest", "dropout_permille"}
"""They decide whether a group is taken, and on a regular graph degree and threshold, which are in it."""


def entries(terms: Terms = TERMS, size: int = 6) -> list[Entry]:
    return list(party(terms, size).agreement.roster)


def context(terms: Terms, degree: int = 5, threshold: int = 4) -> bytes:
    return _context(terms, tuple(entries()), degree, threshold)


@pytest.mark.parametrize("name", [one.name for one in fields(Terms) if one.name not in NOT_IN_THE_CONTEXT])
def test_every_term_moves_the_context(name: str) -> None:
    terms = replace(TERMS, survivors=6)
    assert context(replace(terms, **{name: OTHERS[name]})) != context(terms)


def test_degree_threshold_roster_noise_and_rotation_move_the_context() -> None:
    narrow = replace(TERMS, lanes=lanes_of(20, 6))
    found = {
        context(TERMS), context(TERMS, degree=4), context(TERMS, threshold=5), context(narrow),
        context(replace(narrow, lanes=replace(narrow.lanes, rotation_seed=bytes(32)))),
        context(replace(TERMS, lanes=replace(TERMS.lanes, noise_multiplier=0.5))),
        context(replace(TERMS, lanes=replace(TERMS.lanes, clipping_norm=2.0))),
        _context(TERMS, tuple(entries()[:5]), 5, 4),
    }  # fmt: skip
    assert len(found) == 8


def test_the_context_is_the_one_that_the_page_describes() -> None:
    made = party(TERMS, 6).agreement
    words = (6, made.threshold, 5, TERMS.survivors, 0, 24, 5)
    assert made.context == oracle.framed(
        b"edgewise/secsum/1", b"acme", b"words", (3).to_bytes(8, "little"), bytes.fromhex(TERMS.group),
        *(bytes([byte]) * 32 for byte in (0x11, 0x22, 0x33)), *(word.to_bytes(8, "little") for word in words),
        struct.pack("<d", (2**23 - 1 - 6) / 6), struct.pack("<d", 0.0), b"", b"".join(one.raw for one in made.roster),
    )  # fmt: skip


@given(parts=st.lists(st.binary(max_size=5), max_size=4), others=st.lists(st.binary(max_size=5), max_size=4))
def test_no_two_lists_of_parts_have_one_hash(parts: list[bytes], others: list[bytes]) -> None:
    same = digests.hashed(digests.Domain.JOIN, *parts) == digests.hashed(digests.Domain.JOIN, *others)
    assert same == (parts == others)
    assert digests.hashed(digests.Domain.JOIN, *parts) != digests.hashed(digests.Domain.CONFIRM, *parts)


def test_a_device_agrees_with_the_coordinator() -> None:
    roster = entries()
    for position, own in enumerate(roster):
        made, found = join(TERMS, roster, PUBLIC, own=own, floors=OPEN)
        assert (made, found) == (party(TERMS, 6).agreement, position)


def changed(position: int, **parts: Any) -> list[Entry]:
    roster = entries()
    roster[position] = replace(roster[position], **parts)
    return roster


def swapped_by_the_coordinator() -> list[Entry]:
    """Another mask key under the same device, as a coordinator that sits in the middle would show."""
    return changed(1, mask_key=AgreementKey(digest(b"of the coordinator")).public)


def uncertified() -> list[Entry]:
    """Whoever the coordinator enrolled without the authority."""
    stranger = SigningKey(digest(b"stranger"))
    certificate = sign_certificate(SigningKey(digest(b"another authority")), "acme", stranger.public)
    secrets = device(TERMS, 0).secrets
    entry = secrets.entry(stranger, certificate, plan_sha256=TERMS.plan_sha256, group=TERMS.group)
    return sorted([*entries()[1:], entry], key=lambda one: one.device_id("acme"))


def of_low_order(which: str) -> list[Entry]:
    """A mask key of low order gives a mask that everybody knows, a box key a box that everybody opens."""
    made = device(TERMS, 9)
    keys = {"box_key": made.entry.box_key, "mask_key": made.entry.mask_key}
    keys[which] = max(_LOW_ORDER).to_bytes(32, "little")
    entry = signed_entry(
        made.key, made.entry.certificate, plan_sha256=TERMS.plan_sha256, group=TERMS.group, nonce=bytes(16), **keys
    )
    return sorted([*entries()[1:], entry], key=lambda one: one.device_id("acme"))


def with_one_device_under_two_names() -> list[Entry]:
    """A certified device that drew twice and signed both: one phone with two seats."""
    made, other = device(TERMS, 9), device(TERMS, 10)
    entry = other.secrets.entry(made.key, made.entry.certificate, plan_sha256=TERMS.plan_sha256, group=TERMS.group)
    return sorted([*entries()[2:], made.entry, entry], key=lambda one: one.device_id("acme"))


def with_a_key_twice() -> list[Entry]:
    """Two devices with one mask key: their masks would be one."""
    made, other = device(TERMS, 9), device(TERMS, 1)
    entry = signed_entry(
        made.key, made.entry.certificate, plan_sha256=TERMS.plan_sha256, group=TERMS.group,
        box_key=made.entry.box_key, mask_key=other.entry.mask_key, nonce=bytes(16),
    )  # fmt: skip
    kept = [one for one in entries() if one != device(TERMS, 0).entry]
    return sorted([*kept, entry], key=lambda one: one.device_id("acme"))


ROSTERS: dict[str, Callable[[], list[Entry]]] = {
    "a swapped mask key": swapped_by_the_coordinator,
    "a changed nonce": lambda: changed(2, nonce=bytes(16)),
    "another's certificate": lambda: changed(2, certificate=entries()[3].certificate),
    "another's signature": lambda: changed(2, signature=entries()[3].signature),
    "an uncertified device": uncertified,
    "a box key of low order": lambda: of_low_order("box_key"),
    "a mask key of low order": lambda: of_low_order("mask_key"),
    "one device in two seats": with_one_device_under_two_names,
    "a key that is there twice": with_a_key_twice,
    "a device that is there twice": lambda: [*entries()[:2], *entries()[1:5]],
    "another order": lambda: entries()[::-1],
    "too few members": lambda: entries()[:3],
    "too many members": lambda: entries(terms_of(7), 7),
    "nobody": list,
    "entries for another plan": lambda: entries(replace(TERMS, plan_sha256="99" * 32)),
    "entries for another group": lambda: entries(replace(TERMS, group="99" * 16)),
    "entries for another tenant": lambda: entries(replace(TERMS, tenant="other")),
}


@pytest.mark.parametrize("what", ROSTERS)
def test_a_roster_that_cannot_be_trusted_is_refused(what: str) -> None:
    with pytest.raises(InvalidRoster):
        agree(TERMS, ROSTERS[what](), PUBLIC)


SENTENCES = {
    "a swapped mask key": "the entry of device .* signature",
    "another's certificate": "the entry of device .* signature",
    "a box key of low order": "low order",
    "a mask key of low order": "low order",
    "one device in two seats": "once each, by rising id",
    "a key that is there twice": "a key is in the roster twice",
    "another order": "once each, by rising id",
    "too few members": "3 members where 4 to 6 are wanted",
    "too many members": "7 members where 4 to 6 are wanted",
}


@pytest.mark.parametrize("what", SENTENCES)
def test_a_roster_is_refused_for_what_is_wrong_with_it(what: str) -> None:
    """Each check by itself: another one that refuses as well does not stand in for it."""
    with pytest.raises(InvalidRoster, match=SENTENCES[what]):
        agree(TERMS, ROSTERS[what](), PUBLIC)


def test_another_authority_certifies_nobody() -> None:
    with pytest.raises(InvalidRoster, match="the entry of device"):
        agree(TERMS, entries(), SigningKey(digest(b"another authority")).public)


def test_a_certificate_is_for_one_tenant_and_one_key() -> None:
    mine = device(TERMS, 0)
    verify_certificate(PUBLIC, "acme", mine.key.public, mine.entry.certificate)
    for tenant, key in (("other", mine.key.public), ("acme", device(TERMS, 1).key.public)):
        with pytest.raises(UntrustedDocument):
            verify_certificate(PUBLIC, tenant, key, mine.entry.certificate)


@pytest.mark.parametrize("count", [0, 2])
def test_a_device_that_is_not_there_exactly_once_goes(count: int) -> None:
    own = device(TERMS, 9).entry
    with pytest.raises(InvalidRoster, match="exactly once"):
        join(TERMS, [*entries()[:5], *[own] * count], PUBLIC, own=own, floors=OPEN)


@given(place=st.integers(0, ENTRY_BYTES - 1), bit=st.integers(0, 7))
@settings(max_examples=60, deadline=None)
def test_no_bit_of_an_entry_can_be_changed(place: int, bit: int) -> None:
    roster = entries()
    raw = bytearray(roster[0].raw)
    raw[place] ^= 1 << bit
    roster[0] = Entry.from_raw(bytes(raw))
    with pytest.raises(InvalidRoster):
        agree(TERMS, sorted(roster, key=lambda one: one.device_id("acme")), PUBLIC)


@pytest.mark.parametrize(
    ("floors", "sentence"),
    [
        (Floors(), "groups of 3"),
        (replace(OPEN, smallest_group=4), "groups of 3"),
        (replace(OPEN, fewest_survivors=5), "sums of 4"),
        (replace(OPEN, least_corrupt_permille=50), "fewer corrupt"),
        (replace(OPEN, least_noise=0.1), "noise"),
    ],
)
def test_a_device_joins_no_group_below_the_floors_of_its_app(floors: Floors, sentence: str) -> None:
    roster = entries()
    with pytest.raises(InvalidGroup, match=sentence):
        join(TERMS, roster, PUBLIC, own=roster[0], floors=floors)


def test_a_group_exactly_at_the_floors_is_joined() -> None:
    terms = replace(TERMS, corrupt_permille=100, survivors=5, lanes=lanes_of(24, 6, noise_multiplier=0.5))
    floors = Floors(smallest_group=3, fewest_survivors=5, least_corrupt_permille=100, least_noise=0.5)
    roster = entries(terms)
    assert join(terms, roster, PUBLIC, own=roster[2], floors=floors)[1] == 2


def test_terms_at_every_limit_are_taken() -> None:
    """One step further each of them is refused, below."""
    limits: list[dict[str, Any]] = [
        {"round": 1}, {"round": 2**63 - 1}, {"parameters": 1}, {"parameters": 2**31 - 1}, {"fewest": 6},
        {"survivors": 6}, {"dropout_permille": 0}, {"dropout_permille": 999},
    ]  # fmt: skip
    for terms in limits:
        assert replace(TERMS, **terms)
    assert terms_of(1000, fewest=1000).most == 1000
    assert terms_of(3).most == 3


@given(most=st.integers(3, 1000), permille=st.integers(0, 400))
def test_fewest_survivors_are_more_than_half_and_no_fewer_than_any_threshold(most: int, permille: int) -> None:
    """Of whatever size the group turns out to be: a sum of m is never opened by fewer shares than t."""
    corrupt = permille * most // 1000
    largest = min(most, 200)
    wanted = max(math.ceil((largest + corrupt) / 2) + 1, most // 2 + 1)
    if wanted > most:
        with pytest.raises(InvalidGroup, match="survivors is"):
            terms_of(most, corrupt_permille=permille, survivors=most)
        return
    terms = terms_of(most, corrupt_permille=permille, survivors=wanted)
    assert terms.fewest_to_open == wanted
    with pytest.raises(InvalidGroup, match=f"survivors is {wanted} to {most}"):
        replace(terms, survivors=wanted - 1)
    for size in {3, largest // 2, largest - 1, largest}:
        assert complete_threshold(size, corrupt) <= terms.survivors


def test_the_floors_of_an_app_that_says_nothing() -> None:
    assert Floors() == Floors(smallest_group=64, fewest_survivors=52, least_corrupt_permille=50, least_noise=0.0)


@pytest.mark.parametrize(
    "terms",
    [
        {"tenant": "Acme"}, {"task": ""}, {"round": 0}, {"round": 2**63}, {"group": "x"}, {"group": "AB" * 16},
        {"plan_sha256": ""}, {"bundle_sha256": "11" * 31}, {"checkpoint_sha256": "zz" * 32}, {"parameters": 0},
        {"parameters": 2**31}, {"corrupt_permille": -1}, {"corrupt_permille": 1000}, {"dropout_permille": 1000},
        {"dropout_permille": -1}, {"fewest": 2}, {"fewest": 7}, {"survivors": 3}, {"survivors": 7}, {"survivors": 0},
        {"lanes": lanes_of(24, 1001)}, {"lanes": lanes_of(24, 2)}, {"lanes": lanes_of(24, 3), "fewest": 4},
    ],
    ids=str,
)  # fmt: skip
def test_impossible_terms_are_refused(terms: dict[str, Any]) -> None:
    with pytest.raises(InvalidGroup):
        replace(TERMS, **terms)


def test_a_group_of_ten_never_opens_with_two() -> None:
    """A production library takes k = t = 2 for ten; here the threshold follows from the members, whatever is said."""
    assert party(terms_of(10), 10).agreement.threshold == 6
    assert "threshold" not in {one.name for one in fields(Terms)}
    with pytest.raises(InvalidGroup):
        replace(terms_of(10), survivors=2)


@pytest.mark.parametrize("length", [0, ENTRY_BYTES - 1, ENTRY_BYTES + 1])
def test_an_entry_has_240_bytes(length: int) -> None:
    assert ENTRY_BYTES == 240
    with pytest.raises(Malformed):
        Entry.from_raw(bytes(length))


def test_secrets_are_read_as_they_were_written_and_are_in_no_text() -> None:
    secrets = device(TERMS, 0).secrets
    assert Secrets.from_raw(secrets.raw) == secrets
    assert len(secrets.raw) == 144
    shown = repr(secrets) + repr(party(TERMS, 6).seats[0])
    for canary in (secrets.box_key.raw, secrets.mask_key.raw, secrets.seed, secrets.dealing):
        assert repr(canary)[2:-1] not in shown
        assert canary.hex() not in shown
    for raw in (b"", secrets.raw[:-1], secrets.raw + b"\0"):
        with pytest.raises(Malformed):
            Secrets.from_raw(raw)


def test_a_seat_is_never_taken_with_anothers_secrets() -> None:
    made = party(TERMS, 6)
    with pytest.raises(ValueError, match="not those of the entry"):
        Seat(made.agreement, 1, made.devices[2].secrets)


def test_a_nonce_of_another_length_is_a_bug() -> None:
    made = device(TERMS, 0)
    with pytest.raises(ValueError, match="16 bytes"):
        signed_entry(
            made.key, bytes(64), plan_sha256="11" * 32, group="ab" * 16, box_key=bytes(32), mask_key=bytes(32),
            nonce=b"",
        )  # fmt: skip


def test_the_authority_of_the_tests_signs_what_an_authority_signs() -> None:
    made = device(TERMS, 0)
    expected = oracle.framed(b"edgewise/certificate/1", b"acme", made.key.public.raw)
    AUTHORITY.public.verify(made.entry.certificate, expected)
