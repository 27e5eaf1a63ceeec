"""The messages of a group: one version, exact lengths, and nothing in them that is not refused by name."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.protocol import wire
from edge_runtime.protocol.errors import (
    Malformed,
    Refusal,
    UnsupportedVersion,
)
from edge_runtime.protocol.secure_sum import mailbox, messages, opening, participant
from edge_runtime.protocol.secure_sum.messages import Complaints, Confirmations, Delivery, Survivors, Unmasking
from tests.edge_runtime.protocol.secure_sum.groups import (
    GROUP,
)
from tests.edge_runtime.protocol.secure_sum.played import (
    EVERYBODY,
    SIZE,
    made,
    played,
)

HEAD = {"version": 1, "group": GROUP}
MESSAGES: list[tuple[type[Any], dict[str, Any]]] = [
    (messages.Joining, {"entry": bytes(240)}),
    (messages.Roster, {"entries": bytes(480)}),
    (messages.Shares, {"seed_digest": bytes(32), "boxes": b"", "promises": b"", "signatures": b""}),
    (messages.Delivery, {"sharers": b"", "boxes": b"", "promises": b"", "signatures": b""}),
    (messages.Complaints, {"about": b"", "box_keys": bytes(32), "unsigned": b""}),
    (messages.Survivors, {"masked": b"\1"}),
    (messages.Confirmation, {"signature": bytes(64)}),
    (messages.Confirmations, {"confirmed": b"", "signatures": bytes(128)}),
    (messages.Unmasking, {"lacking": b"", "seeds": b"", "keys": b""}),
]


@pytest.mark.parametrize(("kind", "parts"), MESSAGES, ids=[kind.__name__ for kind, _parts in MESSAGES])
def test_a_message_is_read_as_it_was_written_and_of_one_version(kind: type[Any], parts: dict[str, Any]) -> None:
    message = kind(**HEAD, **parts)
    raw = wire.encode(message)
    assert wire.decode(kind, raw) == message
    with pytest.raises(UnsupportedVersion):
        wire.decode(kind, raw.replace(b'"version":1', b'"version":2'))
    with pytest.raises(Malformed):
        wire.decode(kind, raw.replace(GROUP.encode(), b"x"))


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        (messages.Joining, {"entry": bytes(239)}),
        (messages.Roster, {"entries": bytes(241)}),
        (messages.Shares, {"seed_digest": bytes(31), "boxes": b"", "promises": b"", "signatures": b""}),
        (messages.Complaints, {"about": b"", "box_keys": bytes(33), "unsigned": b""}),
        (messages.Confirmation, {"signature": bytes(63)}),
        (messages.Confirmations, {"confirmed": b"", "signatures": bytes(65)}),
    ],
)
def test_a_message_of_another_length_is_malformed(kind: type[Any], parts: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        kind(**HEAD, **parts)


@pytest.mark.parametrize(("kind", "parts"), MESSAGES, ids=[kind.__name__ for kind, _parts in MESSAGES])
def test_no_message_of_another_version_or_group_is_made(kind: type[Any], parts: dict[str, Any]) -> None:
    with pytest.raises(Malformed, match="version is 1"):
        kind(version=2, group=GROUP, **parts)
    with pytest.raises(Malformed, match="group is 32 hex digits"):
        kind(version=1, group=GROUP[:-1], **parts)


def test_a_roster_is_read_as_its_entries() -> None:
    entries = made().agreement.roster
    message = messages.Roster(version=1, group=GROUP, entries=b"".join(one.raw for one in entries))
    assert message.members() == entries
    joining = participant.joining(entries[0], GROUP)
    assert joining.entry == entries[0].raw


def test_the_largest_messages_fit() -> None:
    """1,000 members of degree 194, and 200 on a complete graph: below the limit of a control message."""
    for count in (199, 194):
        parts = {"boxes": bytes(98 * count), "promises": bytes(64 * count), "signatures": bytes(64 * count)}
        assert len(wire.encode(messages.Delivery(version=1, group=GROUP, sharers=bytes(125), **parts))) < 1 << 16
    roster = messages.Roster(version=1, group=GROUP, entries=bytes(240 * 1000))
    assert len(wire.encode(roster)) < wire.MESSAGE_LIMIT_BYTES


@given(raw=st.binary(max_size=300), member=st.integers(0, SIZE - 1))
@settings(max_examples=150, deadline=None)
def test_any_bytes_in_any_message_are_refused_by_name(raw: bytes, member: int) -> None:
    """Whatever a peer puts into the packed parts: a refusal or a right answer, never another error."""
    play = played()
    agreement, seat = play.party.agreement, play.party.seats[member]
    head: dict[str, Any] = {"version": 1, "group": GROUP}
    confirmed = play.confirm(member, EVERYBODY)

    def unmasked() -> None:
        message = Unmasking(**head, lacking=raw[:1], seeds=raw, keys=raw)
        opening.revealed(agreement, member, message, sharers=EVERYBODY, masked=EVERYBODY)

    calls: list[Callable[[], object]] = [
        lambda: messages.Roster(**head, entries=raw).members(),
        lambda: mailbox.taken(
            agreement, member, messages.Shares(**head, seed_digest=raw[:32], boxes=raw, promises=raw, signatures=raw)
        ),
        lambda: participant.receive(
            seat, play.pairs[member][member], Delivery(**head, sharers=raw[:1], boxes=raw, promises=raw, signatures=raw)
        ),
        lambda: mailbox.judged(
            agreement, member, Complaints(**head, about=raw[:1], box_keys=raw[:32], unsigned=raw[1:2]), play.dealt
        ),
        lambda: participant.confirm(
            seat, play.party.devices[member].key, play.received[member], Survivors(**head, masked=raw[:1])
        ),
        lambda: participant.unmask(
            seat, play.received[member], confirmed, Confirmations(**head, confirmed=raw[:1], signatures=raw)
        ),
        unmasked,
        lambda: wire.decode(Delivery, raw),
    ]
    for call in calls:
        with contextlib.suppress(Refusal):
            call()
