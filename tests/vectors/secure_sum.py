"""The vectors of secure summing: every layer alone, one whole group of five, and what each step must refuse.

Five devices share, one is gone before its report arrives, one more after it confirmed. Everything is in hex; messages
are the JSON that travels.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np

from edge_runtime.protocol import wire
from edge_runtime.protocol.keys import digest
from edge_runtime.protocol.secure_sum import boxes, field, mailbox, masks, opening, packing, participant, shamir
from edge_runtime.protocol.secure_sum.lanes import LANE_BITS
from edge_runtime.protocol.secure_sum.masks import AgreementKey, Stream, Use, derived
from edge_runtime.protocol.secure_sum.members import Members, encode_members
from edge_runtime.protocol.secure_sum.messages import Complaints, Confirmations, Delivery, Roster, Survivors, Unmasking
from edge_runtime.protocol.secure_sum.roster import Entry
from edge_runtime.protocol.secure_sum.rotation import signs
from edge_runtime.protocol.secure_sum.thresholds import regular, sharing
from edge_runtime.protocol.secure_sum.transcript import Terms
from tests.edge_runtime.protocol.secure_sum.groups import AUTHORITY, Party, Play, lanes_of, party, terms_of, vectors_of

TERMS: Final = terms_of(5, parameters=6)
PARTY: Final = party(TERMS, 5)
EVERYBODY: Final[Members] = frozenset(range(5))
MASKED: Final[Members] = EVERYBODY - {3}
CONTEXT: Final = digest(b"context of the vectors")
SECRET: Final = digest(b"secret of the vectors")


def vectors() -> dict[str, Any]:
    return {
        "field": _field(),
        "shamir": _shamir(),
        "masks": _masks(),
        "public_keys": _public_keys(),
        "members": _members(),
        "packing": _packing(),
        "scales": _scales(),
        "signs": {"seed": bytes(range(32)).hex(), "first": [int(sign) for sign in signs(bytes(range(32)))(64)]},
        "thresholds": _thresholds(),
        "group": group(PARTY),
        "refused": refused(),
    }


def _wrong(what: str, code: str, raw: bytes) -> dict[str, str]:
    return {"what": what, "code": code, "raw": raw.hex()}


def _field() -> dict[str, Any]:
    elements = (0, 1, int.from_bytes(SECRET, "little"), (1 << 256) - 1, 1 << 256, field.PRIME - 1)
    return {
        "right": [{"number": str(element), "raw": field.encode(element).hex()} for element in elements],
        "wrong": [
            _wrong("p itself", "malformed", field.PRIME.to_bytes(33, "little")),
            _wrong("all ones", "malformed", b"\xff" * 33),
            _wrong("a byte short", "malformed", bytes(32)),
            _wrong("a byte long", "malformed", bytes(34)),
        ],
    }


def _shamir() -> dict[str, Any]:
    points, key = [1, 2, 5, 1000], digest(b"dealing of the vectors")
    shares = shamir.split(SECRET, 3, points, masks.keyed_randomness(key))
    return {
        "secret": SECRET.hex(),
        "threshold": 3,
        "points": points,
        "key_of_the_random_stream": key.hex(),
        "shares": [field.encode(share).hex() for share in shares],
        "no_secret": {"points": [1, 2], "shares": [field.encode(field.PRIME - 1).hex()] * 2, "code": "wrong-share"},
    }


def _masks() -> dict[str, Any]:
    one, other = AgreementKey(digest(b"one")), AgreementKey(digest(b"other"))
    lanes = np.asarray([0, 1, (1 << 24) - 1, 5, 6], np.uint32)
    key = one.agree(other.public, CONTEXT, Use.PAIR)
    masked = lanes.copy()
    masks.apply(masked, [Stream(derived(SECRET, CONTEXT, Use.SELF), added=True), Stream(key, added=False)])
    return {
        "context": CONTEXT.hex(),
        "secret": SECRET.hex(),
        "derived": {use.value: derived(SECRET, CONTEXT, use).hex() for use in Use},
        "derived_between_1_and_2": derived(SECRET, CONTEXT, Use.BOX, 1, 2).hex(),
        "private_keys": [one.raw.hex(), other.raw.hex()],
        "public_keys": [one.public.hex(), other.public.hex()],
        "pair_key": key.hex(),
        "stream": masks.opened(key).update(bytes(64)).hex(),
        "stream_from_lane_65536": masks.opened(key, 65536).update(bytes(16)).hex(),
        "lanes": lanes.tolist(),
        "plus_self_minus_pair_24_bits": (masked & np.uint32((1 << 24) - 1)).tolist(),
    }


def _public_keys() -> dict[str, Any]:
    curve = (1 << 255) - 19
    numbers = {f"of low order: {number}": number for number in sorted(masks._LOW_ORDER)} | {
        "zero in a second encoding": curve,
        "one in a second encoding": curve + 1,
        "nine in a second encoding": curve + 9,
        "the highest bit is set": 1 << 255 | 9,
    }
    wrong = [_wrong(what, "malformed", number.to_bytes(32, "little")) for what, number in numbers.items()]
    wrong += [_wrong("a byte short", "malformed", bytes(31)), _wrong("a byte long", "malformed", bytes(33))]
    return {"right": [AgreementKey(SECRET).public.hex()], "wrong": wrong}


def _members() -> dict[str, Any]:
    sets = [((), 3), ((0,), 3), ((0, 2), 3), ((8,), 9), (range(16), 16)]
    return {
        "right": [{"size": size, "members": list(who), "raw": encode_members(who, size).hex()} for who, size in sets],
        "wrong": [
            {"size": 3, **_wrong("a member beyond the group", "malformed", b"\x08")},
            {"size": 8, **_wrong("a byte long", "malformed", b"\0\0")},
            {"size": 9, **_wrong("a byte short", "malformed", b"\0")},
        ],
    }


def _packing() -> list[dict[str, Any]]:
    lanes = np.asarray([0, 1, 0xFFFFFFFF, 0x80000000, 0xABCDEF, 0x12345678, 7, 8, 9], np.uint32)
    return [{"bits": bits, "lanes": lanes.tolist(), "raw": packing.pack(lanes, bits).hex()} for bits in LANE_BITS]


def _scales() -> list[dict[str, Any]]:
    found = []
    for bits, most, noise, honest in ((32, 200, 0.0, 1), (24, 100, 0.0, 1), (24, 100, 1.0, 70), (20, 100, 0.0, 1),
                                      (20, 1000, 0.5, 700)):  # fmt: skip
        lanes = lanes_of(bits, most, noise_multiplier=noise, honest_survivors=honest)
        found.append(
            {"bits": bits, "clipping_norm": 1.0, "max_participants": most, "noise_multiplier": noise,
             "honest_survivors": honest, "scale": lanes.scale, "bound": lanes.bound, "lanes_of_5000": lanes.count(5000)}
        )  # fmt: skip
    return found


def _thresholds() -> dict[str, Any]:
    rows = ((201, 50, 50), (500, 100, 100), (1000, 50, 100), (1000, 100, 200))
    return {
        "complete": [
            {"members": size, "corrupt": corrupt,
             "threshold": sharing(size, corrupt=corrupt, corrupt_permille=0, dropout_permille=0).threshold}
            for size, corrupt in ((3, 0), (10, 0), (50, 5), (100, 10), (200, 20))
        ],
        "regular": [
            {"members": size, "corrupt_permille": corrupt, "dropout_permille": dropout,
             "degree": regular(size, corrupt, dropout).degree, "threshold": regular(size, corrupt, dropout).threshold}
            for size, corrupt, dropout in rows
        ],
        "refused": [{"members": 2, "code": "invalid-group"}, {"members": 1001, "code": "invalid-group"}],
    }  # fmt: skip


def terms_json(terms: Terms) -> dict[str, Any]:
    lanes = terms.lanes
    return {
        "tenant": terms.tenant, "task": terms.task, "round": terms.round, "group": terms.group,
        "plan_sha256": terms.plan_sha256, "bundle_sha256": terms.bundle_sha256,
        "checkpoint_sha256": terms.checkpoint_sha256, "fewest": terms.fewest, "survivors": terms.survivors,
        "corrupt_permille": terms.corrupt_permille, "dropout_permille": terms.dropout_permille,
        "parameters": terms.parameters, "lane_bits": lanes.bits, "clipping_norm": lanes.clipping_norm,
        "max_participants": lanes.max_participants,
    }  # fmt: skip


def group(made: Party) -> dict[str, Any]:
    """Every secret, every message and the sum of one group."""
    agreement, play = made.agreement, Play.shared(made, EVERYBODY)
    play.receive()
    vectors = vectors_of(made)
    confirmed = {member: play.confirm(member, MASKED) for member in sorted(MASKED)}
    confirmations = play.confirmations(confirmed)
    masked = {member: play.mask(member, vectors[member]) for member in sorted(MASKED)}
    unmaskings = {
        member: participant.unmask(made.seats[member], play.received[member], confirmed[member], confirmations)
        for member in sorted(MASKED)
    }
    total = play.total(masked.values())
    revelations = {
        member: opening.revealed(agreement, member, message, sharers=EVERYBODY, masked=MASKED)
        for member, message in unmaskings.items()
    }
    opening.open_sum(agreement, total, play.recover(MASKED, revelations))
    roster = Roster(version=1, group=TERMS.group, entries=b"".join(entry.raw for entry in agreement.roster))
    survivors = Survivors(version=1, group=TERMS.group, masked=encode_members(MASKED, 5))
    return {
        "terms": terms_json(agreement.terms),
        "authority_key": AUTHORITY.public.raw.hex(),
        "device_keys": [device.key.raw.hex() for device in made.devices],
        "secrets": [device.secrets.raw.hex() for device in made.devices],
        "joining": [_text(participant.joining(device.entry, TERMS.group)) for device in made.devices],
        "roster": _text(roster),
        "context": agreement.context.hex(),
        "threshold": agreement.threshold,
        "shares": [_text(participant.deal(made.seats[member], made.devices[member].key)[0]) for member in range(5)],
        "delivery": [_text(mailbox.delivery(agreement, member, play.dealt)) for member in range(5)],
        "complaints": _text(participant.complaints(made.seats[0], play.received[0])),
        "lanes": [vectors[member].tolist() for member in range(5)],
        "masked": {str(member): raw.hex() for member, raw in masked.items()},
        "survivors": _text(survivors),
        "confirmation": {str(member): _text(one.message) for member, one in confirmed.items()},
        "confirmations": _text(confirmations),
        "unmasking": {str(member): _text(message) for member, message in unmaskings.items()},
        "sum": (total & np.uint32((1 << 24) - 1)).tolist(),
    }


def refused() -> dict[str, list[dict[str, str]]]:
    """Messages that member 0 of the group, or the coordinator, must refuse, each with its code."""
    agreement, play = PARTY.agreement, Play.shared(PARTY, EVERYBODY)
    play.receive()
    delivery = mailbox.delivery(agreement, 0, play.dealt)
    shares = participant.deal(PARTY.seats[0], PARTY.devices[0].key)[0]
    confirmed = {member: play.confirm(member, MASKED) for member in sorted(MASKED)}
    confirmations = play.confirmations(confirmed)
    unmasking = participant.unmask(PARTY.seats[0], play.received[0], confirmed[0], confirmations)
    return {
        "roster": [_said(*one) for one in _rosters(list(agreement.roster))],
        "delivery": [_said(*one) for one in _deliveries(delivery)],
        "survivors": [_said(*one) for one in _survivors()],
        "confirmations": [_said(*one) for one in _confirmations(confirmations)],
        "shares": [
            _said("a box too few", "malformed", replace(shares, boxes=shares.boxes[98:])),
            _said("a promise too many", "malformed", replace(shares, promises=shares.promises + bytes(64))),
            _said("of another group", "contradicted-group", replace(shares, group="00" * 16)),
        ],
        "complaints": [_said(*one) for one in _complaints()],
        "unmasking": [_said(*one) for one in _unmaskings(unmasking)],
    }


def _rosters(entries: list[Entry]) -> list[tuple[str, str, object]]:
    def roster(*members: Entry) -> Roster:
        return Roster(version=1, group=TERMS.group, entries=b"".join(one.raw for one in members))

    first, *rest = entries
    strange = replace(first, certificate=rest[0].certificate)
    return [
        ("another order", "invalid-roster", roster(*entries[::-1])),
        ("a member twice", "invalid-roster", roster(first, *entries[:4])),
        ("too few members", "invalid-roster", roster(*entries[:3])),
        ("another member's certificate", "invalid-roster", roster(strange, *rest)),
        ("another member's mask key", "invalid-roster", roster(replace(first, mask_key=rest[0].mask_key), *rest)),
        ("another nonce", "invalid-roster", roster(replace(first, nonce=bytes(16)), *rest)),
    ]


def _deliveries(right: Delivery) -> list[tuple[str, str, object]]:
    return [
        ("of another group", "contradicted-group", replace(right, group="00" * 16)),
        ("without this member", "contradicted-group", replace(right, sharers=encode_members({1, 2, 3, 4}, 5))),
        ("too few sharers", "too-few-survivors", replace(right, sharers=encode_members({0, 1, 2}, 5))),
        ("a stranger", "malformed", replace(right, sharers=b"\xff")),
        ("a box too few", "malformed", replace(right, boxes=right.boxes[98:])),
        ("a promise cut short", "malformed", replace(right, promises=right.promises[:-1])),
        ("no signatures", "malformed", replace(right, signatures=b"")),
    ]


def _survivors() -> list[tuple[str, str, object]]:
    def shown(*who: int, group: str = TERMS.group) -> Survivors:
        return Survivors(version=1, group=group, masked=encode_members(who, 5))

    return [
        ("without this member", "contradicted-group", shown(1, 2, 3, 4)),
        ("too few", "too-few-survivors", shown(0, 1, 2)),
        ("of another group", "contradicted-group", shown(0, 1, 2, 3, group="00" * 16)),
        ("a stranger", "malformed", replace(shown(0, 1, 2, 3), masked=b"\xff")),
        ("a byte long", "malformed", replace(shown(0, 1, 2, 3), masked=b"\x0f\0")),
    ]


def _confirmations(right: Confirmations) -> list[tuple[str, str, object]]:
    three = replace(right, confirmed=encode_members({0, 1, 2}, 5), signatures=right.signatures[: 3 * 64])
    gone = replace(right, confirmed=encode_members(EVERYBODY, 5), signatures=right.signatures + bytes(64))
    return [
        ("fewer than the threshold", "too-few-survivors", three),
        ("by one who is gone", "contradicted-group", gone),
        ("signatures in another order", "contradicted-group",
         replace(right, signatures=right.signatures[64:] + right.signatures[:64])),
        ("no signatures", "malformed", replace(right, signatures=b"")),
        ("of another group", "contradicted-group", replace(right, group="00" * 16)),
    ]  # fmt: skip


def _complaints() -> list[tuple[str, str, object]]:
    one = Complaints(version=1, group=TERMS.group, about=b"\x02", box_keys=bytes(32), unsigned=b"\0")
    return [
        ("about itself", "contradicted-group", replace(one, about=b"\x01")),
        ("about one member twice", "contradicted-group", replace(one, unsigned=b"\x02")),
        ("a key too many", "malformed", replace(one, box_keys=bytes(64))),
    ]


def _unmaskings(right: Unmasking) -> list[tuple[str, str, object]]:
    return [
        ("a seed too many", "malformed", replace(right, seeds=right.seeds + bytes(boxes.REVEALED_BYTES))),
        ("both shares of the one who is gone", "malformed",
         replace(right, seeds=right.seeds + right.keys)),
        ("a member listed as alive that is gone", "malformed",
         replace(right, seeds=right.seeds + right.keys, keys=b"")),
        ("a share kept back", "malformed", replace(right, keys=b"")),
        ("of another group", "contradicted-group", replace(right, group="00" * 16)),
    ]  # fmt: skip


def _text(message: object) -> str:
    return wire.encode(message).decode()


def _said(what: str, code: str, message: object) -> dict[str, str]:
    return {"what": what, "code": code, "json": _text(message)}
