"""Thresholds and graphs: the rows of the design, bounds that hold, neighbours that follow from the context alone."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.protocol.errors import InvalidGroup, Malformed
from edge_runtime.protocol.keys import digest
from edge_runtime.protocol.secure_sum import thresholds
from edge_runtime.protocol.secure_sum.graph import Graph
from edge_runtime.protocol.secure_sum.members import decode_members, encode_members
from edge_runtime.protocol.secure_sum.thresholds import Sharing, complete_threshold, corrupt_members, regular, sharing
from tests.edge_runtime.protocol.secure_sum import oracle
from tests.edge_runtime.protocol.secure_sum.oracle import tail


@pytest.mark.parametrize(
    ("size", "corrupt", "dropout", "degree", "threshold"),
    [
        (200, 100, 100, 56, 39),
        (500, 100, 100, 82, 57),
        (100, 50, 100, 26, 16),
        (1000, 50, 100, 78, 52),
        (100, 100, 200, 52, 32),
        (1000, 100, 200, 194, 124),
    ],
)
def test_the_regular_rows_of_the_design(size: int, corrupt: int, dropout: int, degree: int, threshold: int) -> None:
    assert regular(size, corrupt, dropout) == Sharing(degree, threshold)


@pytest.mark.parametrize(("size", "threshold"), [(50, 29), (100, 56), (200, 111)])
def test_the_complete_rows_of_the_design(size: int, threshold: int) -> None:
    found = sharing(size, corrupt=corrupt_members(100, size), corrupt_permille=100, dropout_permille=100)
    assert found == Sharing(size - 1, threshold)


@pytest.mark.parametrize(("size", "corrupt", "dropout"), [(201, 50, 50), (333, 100, 100), (750, 20, 150)])
def test_the_three_bounds_hold_and_two_neighbours_fewer_break_one(size: int, corrupt: int, dropout: int) -> None:
    """By scipy's hypergeometric distribution and log-gamma, in floating point."""
    found = regular(size, corrupt, dropout)
    bad, gone = size * corrupt // 1000, size * dropout // 1000

    def holds(degree: int, threshold: int) -> bool:
        log = math.lgamma
        apart = -math.inf if degree > bad + gone else (
            math.log(size * (size - degree - 1) / 2) + log(bad + gone + 1) + log(size - degree + 1)
            - log(size + 1) - log(bad + gone - degree + 1)
        )  # fmt: skip
        most = next(m for m in range(degree + 1) if tail(size, bad, degree, range(m + 1, degree + 1)) <= 2**-41 / size)
        safe = threshold >= math.ceil((most + degree - 1.25) / 2) + 1
        alive = tail(size, size - gone, degree, range(threshold)) <= 2**-20 / size
        return apart < -41 * math.log(2) and safe and alive

    assert holds(found.degree, found.threshold)
    assert not any(holds(found.degree - 2, threshold) for threshold in range(2, found.degree - 1))


@pytest.mark.parametrize(
    ("size", "corrupt", "dropout"),
    [
        (201, 0, 0), (201, 5, 0), (300, 5, 5), (600, 0, 10), (1000, 1, 1), (1000, 0, 2), (450, 60, 0), (201, 50, 50),
        (1000, 300, 0), (500, 200, 1),
    ],
)  # fmt: skip
def test_degree_and_threshold_are_those_of_exact_fractions(size: int, corrupt: int, dropout: int) -> None:
    """Of each bound there is a row that it alone decides; with nobody corrupt or silent, two neighbours are enough."""
    found = regular(size, corrupt, dropout)
    assert (found.degree, found.threshold) == oracle.regular(size, size * corrupt // 1000, size * dropout // 1000)


@pytest.mark.parametrize(
    ("size", "degree", "bad", "holds"),
    [(551, 40, 214, True), (288, 12, 17, True), (968, 42, 374, False), (703, 12, 29, False), (201, 10, 9, True),
     (201, 4, 4, False)],
)  # fmt: skip
def test_the_first_bound_is_exact_where_a_ten_thousandth_decides(size: int, degree: int, bad: int, holds: bool) -> None:
    assert (oracle.apart(size, degree, bad) < Fraction(1, 2**41)) == holds
    assert thresholds._stays_connected(size, degree, bad) == holds


@pytest.mark.parametrize(
    ("size", "corrupt", "degree", "most"),
    [(201, 198, 198, 198), (201, 0, 10, 0), (1000, 300, 20, 20), (500, 50, 56, 26)],
)
def test_the_second_bound_is_exact(size: int, corrupt: int, degree: int, most: int) -> None:
    assert thresholds._most_corrupt(size, corrupt, degree) == oracle.most_corrupt(size, corrupt, degree) == most


def test_a_regular_graph_has_two_neighbours_fewer_than_there_are_others_or_fewer() -> None:
    """198 of 202 corrupt: 200 neighbours are just enough. One member fewer, and only a complete graph would be."""
    assert regular(202, 981, 0) == Sharing(200, 200)
    with pytest.raises(InvalidGroup, match="no regular graph of 201"):
        regular(201, 990, 0)


def test_the_largest_group_has_a_thousand_members() -> None:
    assert sharing(1000, corrupt=0, corrupt_permille=0, dropout_permille=0) == Sharing(2, 2)
    assert sharing(3, corrupt=0, corrupt_permille=0, dropout_permille=0) == Sharing(2, 3)


def test_members_lie_on_a_ring_by_the_hash_of_context_and_position() -> None:
    """As the page says it: neighbours are the k/2 on either side."""
    context = digest(b"a ring")
    graph = Graph.of(11, 4, context)
    hashes = [oracle.framed(b"edgewise/secsum/1/ring", context, one.to_bytes(4, "little")) for one in range(11)]
    ring = sorted(range(11), key=hashes.__getitem__)
    for place, member in enumerate(ring):
        assert graph.neighbours(member) == {ring[(place + step) % 11] for step in (-2, -1, 1, 2)}


@pytest.mark.parametrize("degree", [2, 8, 9])
def test_a_graph_of_every_degree_that_can_be_is_made(degree: int) -> None:
    assert len(Graph.of(10, degree, digest(b"")).neighbours(3)) == degree


@given(size=st.integers(3, 200), corrupt_permille=st.integers(0, 300))
def test_on_a_complete_graph_no_split_view_gives_both_secrets(size: int, corrupt_permille: int) -> None:
    """The honest give one kind of share each, the corrupt both: not enough for a threshold of each kind."""
    corrupt = corrupt_members(corrupt_permille, size)
    try:
        threshold = sharing(size, corrupt=corrupt, corrupt_permille=corrupt_permille, dropout_permille=0).threshold
    except InvalidGroup:
        assert complete_threshold(size, corrupt) > size
        return
    assert (size - corrupt) + 2 * corrupt < 2 * threshold
    assert corrupt < threshold <= size
    assert threshold > size / 2, "n = 10 never yields k = t = 2"


@given(size=st.integers(201, 1000), corrupt=st.integers(0, 120), dropout=st.integers(0, 150))
@settings(max_examples=15, deadline=None)
def test_on_a_regular_graph_no_split_view_gives_both_secrets(size: int, corrupt: int, dropout: int) -> None:
    found = regular(size, corrupt, dropout)
    bad = size * corrupt // 1000
    most = next(
        number for number in range(found.degree + 1)
        if tail(size, bad, found.degree, range(number + 1, found.degree + 1)) <= 2**-41 / size * (1 + 1e-6)
    )  # fmt: skip
    assert (found.degree - most) + 2 * most < 2 * found.threshold
    assert found.degree % 2 == 0


@pytest.mark.parametrize(
    ("size", "corrupt", "corrupt_permille", "dropout_permille"),
    [(200, 0, 0, -1), (200, 0, 0, 1000), (2, 0, 0, 0), (1001, 0, 0, 0), (0, 0, 0, 0), (-5, 0, 0, 0), (10, 9, 0, 0),
     (10, 0, 1000, 0), (10, 0, 0, 1000), (10, 0, -1, 0), (10, -1, 0, 0), (500, 0, 450, 450), (201, 0, 990, 0),
     (3, 2, 0, 0)],
)  # fmt: skip
def test_a_group_without_a_safe_threshold_is_refused(
    size: int, corrupt: int, corrupt_permille: int, dropout_permille: int
) -> None:
    with pytest.raises(InvalidGroup):
        sharing(size, corrupt=corrupt, corrupt_permille=corrupt_permille, dropout_permille=dropout_permille)


def test_the_graph_is_complete_up_to_two_hundred() -> None:
    assert sharing(200, corrupt=10, corrupt_permille=50, dropout_permille=100).degree == 199
    assert sharing(201, corrupt=10, corrupt_permille=50, dropout_permille=100).degree < 200


@given(size=st.integers(5, 60), half=st.integers(1, 2), seed=st.binary(min_size=1, max_size=4))
def test_neighbours_are_mutual_and_as_many_as_the_degree(size: int, half: int, seed: bytes) -> None:
    degree = min(size - 1, 2 * half)
    graph = Graph.of(size, degree, digest(seed))
    for member in range(size):
        near = graph.neighbours(member)
        assert len(near) == degree
        assert member not in near
        assert all(member in graph.neighbours(other) for other in near)
        assert graph.holders(member) == tuple(sorted(near | {member} if graph.complete else near))


def test_neighbours_follow_from_the_context_alone() -> None:
    one, again, other = (Graph.of(300, 20, digest(text)) for text in (b"a", b"a", b"b"))
    assert one == again
    assert [one.neighbours(member) for member in range(300)] != [other.neighbours(member) for member in range(300)]


def test_every_pair_of_members_is_as_likely_to_be_neighbours() -> None:
    """12 members of degree 4, 600 contexts: each of 66 pairs is expected 600 · 4/11 times; chi-square over pairs."""
    found: Counter[frozenset[int]] = Counter()
    for number in range(600):
        graph = Graph.of(12, 4, digest(number.to_bytes(2, "little")))
        found.update(
            frozenset((member, other)) for member in range(12) for other in graph.neighbours(member) if member < other
        )
    expected = 600 * 4 / 11
    assert len(found) == 66
    assert sum((count - expected) ** 2 / expected for count in found.values()) < 120


@pytest.mark.parametrize(("size", "degree"), [(10, 3), (10, 0), (10, 10), (10, -2), (5, 5)])
def test_a_graph_that_cannot_be_is_a_bug(size: int, degree: int) -> None:
    with pytest.raises(ValueError, match="no regular graph"):
        Graph.of(size, degree, digest(b""))


@given(size=st.integers(1, 40), data=st.data())
def test_a_set_is_read_as_it_was_written(size: int, data: st.DataObject) -> None:
    members = data.draw(st.frozensets(st.integers(0, size - 1)))
    raw = encode_members(members, size)
    assert decode_members(raw, size) == members
    assert sum(byte.bit_count() for byte in raw) == len(members)


@pytest.mark.parametrize(("raw", "size"), [(b"", 3), (b"\0\0", 8), (b"\x08", 3), (b"\xff", 7), (b"\0\x02", 9)])
def test_a_set_with_strangers_or_of_another_length_is_refused(raw: bytes, size: int) -> None:
    with pytest.raises(Malformed):
        decode_members(raw, size)


@pytest.mark.parametrize("member", [-1, 3])
def test_a_set_with_strangers_is_never_written(member: int) -> None:
    with pytest.raises(ValueError, match="no member"):
        encode_members([member], 3)
