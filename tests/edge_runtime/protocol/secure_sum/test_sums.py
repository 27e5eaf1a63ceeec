"""Whole groups: sums are exactly those of whole numbers, whoever drops out when; nothing opens below the quorum."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.protocol.errors import InvalidGroup, InvalidRoster, LanesOutOfRange, TooFewSurvivors
from edge_runtime.protocol.secure_sum import masks, opening, participant
from edge_runtime.protocol.secure_sum.lanes import Lanes
from edge_runtime.protocol.secure_sum.members import Members
from edge_runtime.protocol.secure_sum.transcript import Terms
from tests.edge_runtime.protocol.secure_sum import oracle
from tests.edge_runtime.protocol.secure_sum.groups import (
    Party,
    Play,
    cut,
    lanes_of,
    party,
    plain_sum,
    run,
    small_regular,
    terms_of,
    vectors_of,
)


def gone(members: Members, count: int, seed: int = 0) -> Members:
    """A set without so many of its members, drawn at random."""
    return members - set(random.Random(seed).sample(sorted(members), count))


@st.composite
def dropouts(draw: st.DrawFn) -> tuple[Party, list[Members], int]:
    """A group of any shape, and who is left after each of four steps, always enough."""
    size = draw(st.integers(3, 9))
    bits = draw(st.integers(20, 32))
    parameters = draw(st.integers(1, 40)) if bits >= 24 else draw(st.sampled_from([1, 40, 4096, 4097]))
    permille = draw(st.sampled_from([0, 100, 250] if size > 5 else [0]))
    terms = terms_of(size, parameters=parameters, bits=bits, corrupt_permille=permille)
    made = party(terms, size)
    left = [made.everybody]
    for _step in range(4):
        spare = len(left[-1]) - made.agreement.quorum
        left.append(gone(left[-1], draw(st.integers(0, spare)), draw(st.integers(0, 99))))
    return made, left[1:], draw(st.integers(0, 99))


@given(group=dropouts())
@settings(max_examples=30, deadline=None)
def test_a_sum_is_that_of_whole_numbers_whoever_drops_out(group: tuple[Party, list[Members], int]) -> None:
    made, (sharers, masked, confirming, revealing), seed = group
    vectors = vectors_of(made, seed)
    total = run(made, vectors, sharers=sharers, masked=masked, confirming=confirming, revealing=revealing)
    assert cut(made, total) == plain_sum(made, vectors, masked)


def refused(made: Party, left: list[Members]) -> bool:
    """Whether a group with these members left at each step is aborted; if it is not, the sum is exact."""
    sharers, masked, confirming, revealing = left
    vectors = vectors_of(made)
    try:
        total = run(made, vectors, sharers=sharers, masked=masked, confirming=confirming, revealing=revealing)
    except TooFewSurvivors:
        return True
    assert cut(made, total) == plain_sum(made, vectors, masked)
    return False


STEPS = ("share", "mask", "confirm", "unmask")


@pytest.mark.parametrize("size", range(3, 13))
def test_every_count_of_dropouts_at_every_step_completes_or_aborts_cleanly(size: int) -> None:
    """Up to n - max(t, m) may go at each step; above that nobody reveals, and nothing is opened.

    Behind the masks only t count: the report of a member that confirmed or revealed nothing is in the sum.
    """
    made = party(terms_of(size), size)
    quorum, threshold = made.agreement.quorum, made.agreement.threshold
    assert quorum == max(threshold, made.agreement.terms.survivors)
    for step, name in enumerate(STEPS):
        for count in range(size + 1):
            left = [made.everybody] * step + [gone(made.everybody, count, count)] * (4 - step)
            needed = quorum if name in ("share", "mask") else threshold
            assert refused(made, left) == (size - count < needed), (name, count)


def test_a_group_of_fifty_completes_when_four_in_ten_go() -> None:
    """The promise: 40 % on complete graphs of 50 and more, with m = t."""
    terms = terms_of(50, parameters=3, corrupt_permille=100)
    assert (terms.survivors, terms.corrupt) == (29, 5)
    made = party(terms, 50)
    assert made.agreement.threshold == 29
    left = gone(made.everybody, 50 - 29)
    assert 50 - 29 >= 0.4 * 50
    play = Play.shared(made, made.everybody)
    play.receive(left)
    vectors = vectors_of(made)
    total = play.total(play.mask(member, vectors[member]) for member in left)
    opening.open_sum(made.agreement, total, play.recover(left, play.reveal(left, left, left)))
    assert cut(made, total) == plain_sum(made, vectors, left)
    with pytest.raises(TooFewSurvivors):
        play.confirm(min(left), left - {max(left)})


def test_a_sum_over_a_regular_graph_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    made = small_regular(monkeypatch)
    graph, vectors = made.agreement.graph, vectors_of(made)
    assert not graph.complete
    opened = 0
    for seed in range(30):
        sharers = gone(made.everybody, 1, seed)
        masked = gone(sharers, 2, seed)
        left = gone(masked, 1, seed)
        if any(len(graph.neighbours(member) & left) < 5 for member in sharers):
            continue
        opened += 1
        total = run(made, vectors, sharers=sharers, masked=masked, confirming=left, revealing=left)
        assert cut(made, total) == plain_sum(made, vectors, masked)
    assert opened >= 5


def test_deltas_come_back_as_their_sum() -> None:
    """The whole way: clipped deltas in, their sum out, within one rounding step a report."""
    for bits in (20, 24, 32):
        made = party(terms_of(6, parameters=50, bits=bits), 6)
        lanes = made.agreement.terms.lanes
        rng = np.random.default_rng(bits)
        deltas = rng.normal(size=(6, 50)).astype(np.float32) / 10
        vectors = {member: lanes.encode(deltas[member], rng) for member in made.everybody}
        masked = made.everybody - {2}
        total = run(made, vectors, sharers=made.everybody, masked=masked, confirming=masked, revealing=masked)
        expected = deltas[sorted(masked)].astype(np.float64).sum(axis=0)
        room = (5 if bits >= 24 else 5 * np.sqrt(4096)) / lanes.scale
        assert np.abs(lanes.open_sum(total, 50) - expected).max() <= room * 1.0001


def test_one_device_with_another_model_spoils_only_the_group() -> None:
    """It agreed on another checkpoint, so on another context: nothing of its masks cancels, the zero lanes show it."""
    made = party(terms_of(5, parameters=6), 5)
    other = party(replace(made.agreement.terms, checkpoint_sha256="44" * 32), 5)
    assert made.agreement.roster == other.agreement.roster, "the entries do not name the checkpoint"
    play, lanes = Play.shared(made, made.everybody), made.agreement.terms.lanes
    play.receive()
    zeros = {member: np.zeros(10, np.uint32) for member in made.everybody}
    masked = {member: play.mask(member, zeros[member]) for member in made.everybody}
    received = play.received[1]
    masked[1] = participant.mask(other.seats[1], received, zeros[1].copy())
    total = play.total(masked.values())
    everybody = made.everybody
    opening.open_sum(made.agreement, total, play.recover(everybody, play.reveal(everybody, everybody, everybody)))
    with pytest.raises(LanesOutOfRange, match="zero lanes"):
        lanes.open_sum(total)


@pytest.mark.parametrize("bits", [20, 23, 24, 28, 32])
def test_a_masked_report_is_what_a_second_implementation_makes(bits: int) -> None:
    made = party(terms_of(5, parameters=9, bits=bits), 5)
    play = Play.shared(made, made.everybody)
    play.receive()
    vectors, roster, context = vectors_of(made), made.agreement.roster, made.agreement.context
    me = 2
    own = made.devices[me].secrets
    streams = [(oracle.hkdf(own.seed, context, b"edgewise/secsum/1/self"), 1)]
    for peer in (0, 1, 3, 4):
        theirs = X25519PublicKey.from_public_bytes(roster[peer].mask_key)
        shared = X25519PrivateKey.from_private_bytes(own.mask_key.raw).exchange(theirs)
        streams.append((oracle.hkdf(shared, context, b"edgewise/secsum/1/pair"), 1 if me < peer else -1))
    lanes = vectors[me].tolist()
    looked = len(lanes) if bits >= 24 else 64
    expected = oracle.masked(lanes[:looked], streams, bits)
    packed = play.mask(me, vectors[me])
    length = looked * bits // 8
    assert packed[:length] == oracle.packed(expected, bits)[:length]


def chi_square(lanes: np.ndarray[tuple[int], np.dtype[np.uint32]], bits: int) -> float:
    found = np.bincount(lanes >> np.uint32(bits - 6), minlength=64)
    return float(((found - lanes.size / 64) ** 2 / (lanes.size / 64)).sum())


@pytest.mark.parametrize("bits", [24, 32])
def test_a_masked_report_is_uniform_whatever_is_in_it(bits: int) -> None:
    made = party(terms_of(4, parameters=60_000, bits=bits), 4)
    play = Play.shared(made, made.everybody)
    play.receive()
    for value in (0, 1, (1 << bits) - 1):
        packed = play.mask(1, np.full(60_004, value, np.uint32))
        assert chi_square(made.agreement.terms.lanes.unpack(packed, 60_000), bits) < 124  # p < 1e-5 above


def test_without_one_seed_or_one_pair_key_a_report_stays_hidden() -> None:
    """Take away every mask that n - 2 others and the coordinator know: what is left is as uniform as before."""
    made = party(terms_of(4, parameters=60_000), 4)
    play = Play.shared(made, made.everybody)
    play.receive()
    hidden = np.zeros(60_004, np.uint32)
    streams = participant.mask_streams(made.seats[1], made.everybody)
    for secret in (0, 3):
        left = hidden.copy()
        masks.apply(left, streams)
        masks.apply(left, [one.undone() for place, one in enumerate(streams) if place != secret])
        assert chi_square(left & np.uint32((1 << 24) - 1), 24) < 124


SIGNS: list[tuple[str, Callable[[int, int], bool]]] = [
    ("all are added", lambda of, peer: True),
    ("all are taken away", lambda of, peer: False),
]


@pytest.mark.parametrize(("what", "sign"), SIGNS)
def test_masks_with_a_wrong_sign_are_caught(
    what: str, sign: Callable[[int, int], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mutant: pair masks that do not cancel."""
    right = participant.pair_stream

    def wrong(agreement: object, key: object, *, of: int, peer: int) -> masks.Stream:
        return masks.Stream(right(agreement, key, of=of, peer=peer).key, sign(of, peer))  # type: ignore[arg-type]

    monkeypatch.setattr(participant, "pair_stream", wrong)
    made = party(terms_of(4), 4)
    with pytest.raises(AssertionError):
        assert refused(made, [made.everybody] * 4)


def test_masks_that_are_not_removed_for_the_gone_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutant: only the survivors' own masks are removed."""
    right = opening.streams_left
    monkeypatch.setattr(
        opening, "streams_left", lambda agreement, recovery: right(agreement, replace(recovery, keys={}))
    )
    made = party(terms_of(5), 5)
    left = made.everybody - {1}
    with pytest.raises(AssertionError):
        assert refused(made, [made.everybody, left, left, left])


@pytest.mark.parametrize("most", [1000, 1023, 1024])
def test_a_sum_of_the_largest_groups_is_exact_at_the_edge_of_the_range(most: int) -> None:
    """Every report holds the largest honest lanes: another framework wraps past 1,023. Lanes alone: masks cancel."""
    lanes = Lanes(bits=24, clipping_norm=1.0, max_participants=most)
    edge = np.asarray([lanes.bound, (1 << 24) - lanes.bound, 0, 0, 0, 0], np.uint32)
    total = np.zeros(6, np.uint32)
    for _report in range(most):
        total += edge
    up, down = lanes.open_sum(total) * lanes.scale
    assert round(up) == most * lanes.bound == -round(down)
    assert most * lanes.bound <= (1 << 23) - 1


def test_more_participants_than_the_terms_allow_are_refused() -> None:
    with pytest.raises(InvalidGroup, match="members"):
        terms_of(1001)
    with pytest.raises(InvalidRoster, match="members where"):
        party(terms_of(6), 7)


def terms_at(parameters: int) -> Terms:
    return terms_of(3, parameters=parameters, lanes=lanes_of(24, 3))


@pytest.mark.parametrize("parameters", [1, 7, 8, 9, 65_535, 65_536, 65_537])
def test_sums_are_exact_around_the_borders_of_blocks(parameters: int) -> None:
    made = party(terms_at(parameters), 3)
    assert not refused(made, [made.everybody] * 4)


def test_lanes_of_another_group_are_never_masked() -> None:
    made = party(terms_of(3), 3)
    play = Play.shared(made, made.everybody)
    play.receive()
    with pytest.raises(ValueError, match="lanes where"):
        play.mask(0, np.zeros(8, np.uint32))
    everybody = made.everybody
    recovery = play.recover(everybody, play.reveal(everybody, everybody, everybody))
    with pytest.raises(ValueError, match="lanes where"):
        opening.open_sum(made.agreement, np.zeros(8, np.uint32), recovery)


def test_a_sum_over_the_regular_graph_of_two_hundred_and_one_is_exact() -> None:
    """Degree and threshold as the bounds give them; 8 gone before their report came, 2 more before they reveal."""
    made = party(terms_of(201, parameters=3, corrupt_permille=20, dropout_permille=50, survivors=160), 201)
    graph, threshold = made.agreement.graph, made.agreement.threshold
    assert not graph.complete
    assert (graph.degree, threshold) == (22, 14)
    play, vectors = Play.shared(made, made.everybody), vectors_of(made)
    play.receive()
    masked = gone(made.everybody, 8)
    total = play.total(play.mask(member, vectors[member]) for member in masked)
    revelations = {}
    for holder in gone(masked, 2, 1):
        pairs = play.received[holder].pairs
        seeds = {dealer: pair.reveal_seed() for dealer, pair in pairs.items() if dealer in masked}
        keys = {dealer: pair.reveal_key() for dealer, pair in pairs.items() if dealer not in masked}
        revelations[holder] = opening.Revelation(seeds, keys)
    opening.open_sum(made.agreement, total, play.recover(masked, revelations))
    assert cut(made, total) == plain_sum(made, vectors, masked)
