"""The frozen vectors of secure summing are read from their file: what is right is computed, what is wrong refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Final

import numpy as np
import pytest

from edge_runtime.protocol import wire
from edge_runtime.protocol.errors import Refusal
from edge_runtime.protocol.keys import PublicKey, SigningKey
from edge_runtime.protocol.secure_sum import field, mailbox, masks, opening, packing, participant, rotation, shamir
from edge_runtime.protocol.secure_sum import thresholds as bounds
from edge_runtime.protocol.secure_sum.lanes import Lanes
from edge_runtime.protocol.secure_sum.masks import AgreementKey, Stream, Use, derived
from edge_runtime.protocol.secure_sum.members import Members, decode_members, encode_members
from edge_runtime.protocol.secure_sum.messages import (
    Complaints,
    Confirmation,
    Confirmations,
    Delivery,
    Joining,
    Roster,
    Shares,
    Survivors,
    Unmasking,
)
from edge_runtime.protocol.secure_sum.participant import Seat, Secrets
from edge_runtime.protocol.secure_sum.roster import Entry
from edge_runtime.protocol.secure_sum.transcript import Floors, Terms, agree, join
from tests.vectors.make import FOLDER

FROZEN: Final[dict[str, Any]] = json.loads((FOLDER / "secure-sum.json").read_text())
GROUP: Final[dict[str, Any]] = FROZEN["group"]
FLOORS: Final = Floors(smallest_group=3, fewest_survivors=3, least_corrupt_permille=0)
MASKED: Final[Members] = frozenset({0, 1, 2, 4})


def wrong(of: list[dict[str, Any]]) -> list[Any]:
    return [pytest.param(one, id=one["what"]) for one in of]


def terms() -> Terms:
    given = dict(GROUP["terms"])
    lanes = Lanes(
        bits=given.pop("lane_bits"),
        clipping_norm=given.pop("clipping_norm"),
        max_participants=given.pop("max_participants"),
    )
    return Terms(**given, lanes=lanes)


AUTHORITY: Final = PublicKey(bytes.fromhex(GROUP["authority_key"]))


def entries(raw: str) -> tuple[Entry, ...]:
    return wire.decode(Roster, raw.encode()).members()


def seat(member: int) -> tuple[Seat, SigningKey]:
    roster = entries(GROUP["roster"])
    agreement, position = join(terms(), roster, AUTHORITY, own=roster[member], floors=FLOORS)
    secrets = Secrets.from_raw(bytes.fromhex(GROUP["secrets"][member]))
    return Seat(agreement, position, secrets), SigningKey(bytes.fromhex(GROUP["device_keys"][member]))


def read(kind: type[Any], raw: str) -> Any:
    message = wire.decode(kind, raw.encode())
    assert wire.encode(message).decode() == raw
    return message


def test_elements_are_read_and_written() -> None:
    for one in FROZEN["field"]["right"]:
        assert field.decode(bytes.fromhex(one["raw"])) == int(one["number"])
        assert field.encode(int(one["number"])).hex() == one["raw"]


@pytest.mark.parametrize("vector", wrong(FROZEN["field"]["wrong"]))
def test_a_wrong_element_is_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(Refusal) as refused:
        field.decode(bytes.fromhex(vector["raw"]))
    assert refused.value.code == vector["code"]


def test_shares_are_dealt_and_rebuild() -> None:
    of = FROZEN["shamir"]
    draw = masks.keyed_randomness(bytes.fromhex(of["key_of_the_random_stream"]))
    shares = shamir.split(bytes.fromhex(of["secret"]), of["threshold"], of["points"], draw)
    assert [field.encode(share).hex() for share in shares] == of["shares"]
    assert shamir.Weights.of(of["points"][1:]).rebuild(shares[1:]).hex() == of["secret"]
    given = [field.decode(bytes.fromhex(raw)) for raw in of["no_secret"]["shares"]]
    with pytest.raises(Refusal) as refused:
        shamir.Weights.of(of["no_secret"]["points"]).rebuild(given)
    assert refused.value.code == of["no_secret"]["code"]


def test_keys_and_masks_are_the_frozen_ones() -> None:
    of = FROZEN["masks"]
    context, secret = bytes.fromhex(of["context"]), bytes.fromhex(of["secret"])
    assert {use.value: derived(secret, context, use).hex() for use in Use} == of["derived"]
    assert derived(secret, context, Use.BOX, 1, 2).hex() == of["derived_between_1_and_2"]
    one, other = (AgreementKey(bytes.fromhex(raw)) for raw in of["private_keys"])
    assert [one.public.hex(), other.public.hex()] == of["public_keys"]
    key = other.agree(one.public, context, Use.PAIR)
    assert key.hex() == of["pair_key"]
    assert masks.opened(key).update(bytes(64)).hex() == of["stream"]
    assert masks.opened(key, 65536).update(bytes(16)).hex() == of["stream_from_lane_65536"]
    lanes = np.asarray(of["lanes"], np.uint32)
    masks.apply(lanes, [Stream(derived(secret, context, Use.SELF), added=True), Stream(key, added=False)])
    assert [lane % (1 << 24) for lane in lanes.tolist()] == of["plus_self_minus_pair_24_bits"]


@pytest.mark.parametrize("vector", wrong(FROZEN["public_keys"]["wrong"]))
def test_a_wrong_public_key_is_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(Refusal) as refused:
        masks.check_public(bytes.fromhex(vector["raw"]))
    assert refused.value.code == vector["code"]


def test_sets_packing_signs_scales_and_thresholds_are_the_frozen_ones() -> None:
    for one in FROZEN["members"]["right"]:
        assert encode_members(one["members"], one["size"]).hex() == one["raw"]
        assert sorted(decode_members(bytes.fromhex(one["raw"]), one["size"])) == one["members"]
    for one in FROZEN["packing"]:
        assert packing.pack(np.asarray(one["lanes"], np.uint32), one["bits"]).hex() == one["raw"]
        cut = [lane % (1 << one["bits"]) for lane in one["lanes"]]
        assert packing.unpack(bytes.fromhex(one["raw"]), len(cut), one["bits"]).tolist() == cut
    assert rotation.signs(bytes.fromhex(FROZEN["signs"]["seed"]))(64).tolist() == FROZEN["signs"]["first"]
    for one in FROZEN["scales"]:
        names = ("bits", "clipping_norm", "max_participants", "noise_multiplier", "honest_survivors")
        lanes = Lanes(**{name: one[name] for name in names}, rotation_seed=bytes(32 if one["bits"] < 24 else 0))
        assert (lanes.scale, lanes.bound, lanes.count(5000)) == (one["scale"], one["bound"], one["lanes_of_5000"])
    for one in FROZEN["thresholds"]["complete"]:
        assert bounds.complete_threshold(one["members"], one["corrupt"]) == one["threshold"]
    for one in FROZEN["thresholds"]["regular"]:
        found = bounds.regular(one["members"], one["corrupt_permille"], one["dropout_permille"])
        assert (found.degree, found.threshold) == (one["degree"], one["threshold"])


@pytest.mark.parametrize("vector", wrong(FROZEN["members"]["wrong"]))
def test_a_wrong_set_is_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(Refusal) as refused:
        decode_members(bytes.fromhex(vector["raw"]), vector["size"])
    assert refused.value.code == vector["code"]


@pytest.mark.parametrize("member", range(5))
def test_a_member_says_what_was_frozen_at_every_step(member: int) -> None:
    mine, key = seat(member)
    assert (mine.position, mine.agreement.context.hex()) == (member, GROUP["context"])
    assert mine.agreement.threshold == GROUP["threshold"]
    joining = read(Joining, GROUP["joining"][member])
    certificate = mine.agreement.roster[member].certificate
    plan, group = GROUP["terms"]["plan_sha256"], GROUP["terms"]["group"]
    assert mine.secrets.entry(key, certificate, plan_sha256=plan, group=group).raw == joining.entry
    shares, pairs = participant.deal(mine, key)
    assert shares == read(Shares, GROUP["shares"][member])
    received = participant.receive(mine, pairs[member], read(Delivery, GROUP["delivery"][member]))
    assert participant.complaints(mine, received) == read(Complaints, GROUP["complaints"])
    if member not in MASKED:
        return
    lanes = np.asarray(GROUP["lanes"][member], np.uint32)
    assert participant.mask(mine, received, lanes).hex() == GROUP["masked"][str(member)]
    confirmed = participant.confirm(mine, key, received, read(Survivors, GROUP["survivors"]))
    assert confirmed.message == read(Confirmation, GROUP["confirmation"][str(member)])
    said = read(Confirmations, GROUP["confirmations"])
    assert participant.unmask(mine, received, confirmed, said) == read(Unmasking, GROUP["unmasking"][str(member)])


def test_the_coordinator_opens_the_frozen_sum() -> None:
    agreement = agree(terms(), entries(GROUP["roster"]), AUTHORITY)
    dealt = {member: mailbox.taken(agreement, member, read(Shares, GROUP["shares"][member])) for member in range(5)}
    for member in range(5):
        assert mailbox.delivery(agreement, member, dealt) == read(Delivery, GROUP["delivery"][member])
    sharers, lanes = frozenset(range(5)), agreement.terms.lanes
    total = np.zeros(10, np.uint32)
    revelations = {}
    for member in sorted(MASKED):
        total += lanes.unpack(bytes.fromhex(GROUP["masked"][str(member)]), 6)
        message = read(Unmasking, GROUP["unmasking"][str(member)])
        revelations[member] = opening.revealed(agreement, member, message, sharers=sharers, masked=MASKED)
    opening.open_sum(agreement, total, opening.recover(agreement, dealt, MASKED, revelations))
    plain = [sum(GROUP["lanes"][member][lane] for member in MASKED) % (1 << 24) for lane in range(10)]
    assert [lane % (1 << 24) for lane in total.tolist()] == GROUP["sum"] == plain


def steps_of_member_0(step: str, raw: str) -> None:
    """Give member 0, or the coordinator, a message in place of the right one."""
    if step == "roster":
        agree(terms(), entries(raw), AUTHORITY)
        return
    mine, key = seat(0)
    agreement, sharers = mine.agreement, frozenset(range(5))
    _shares, pairs = participant.deal(mine, key)
    if step == "shares":
        mailbox.taken(agreement, 0, wire.decode(Shares, raw.encode()))
        return
    delivery = raw if step == "delivery" else GROUP["delivery"][0]
    received = participant.receive(mine, pairs[0], wire.decode(Delivery, delivery.encode()))
    if step == "complaints":
        dealt = {one: mailbox.taken(agreement, one, read(Shares, GROUP["shares"][one])) for one in range(5)}
        mailbox.judged(agreement, 0, wire.decode(Complaints, raw.encode()), dealt)
        return
    shown = raw if step == "survivors" else GROUP["survivors"]
    confirmed = participant.confirm(mine, key, received, wire.decode(Survivors, shown.encode()))
    said = raw if step == "confirmations" else GROUP["confirmations"]
    participant.unmask(mine, received, confirmed, wire.decode(Confirmations, said.encode()))
    message = wire.decode(Unmasking, (raw if step == "unmasking" else GROUP["unmasking"]["0"]).encode())
    opening.revealed(agreement, 0, message, sharers=sharers, masked=MASKED)


@pytest.mark.parametrize(
    ("step", "vector"),
    [pytest.param(step, one, id=f"{step}: {one['what']}") for step, many in FROZEN["refused"].items() for one in many],
)
def test_a_wrong_message_is_refused_by_name(step: str, vector: dict[str, Any]) -> None:
    with pytest.raises(Refusal) as refused:
        steps_of_member_0(step, vector["json"])
    assert refused.value.code == vector["code"]


def test_every_right_message_passes_the_same_way() -> None:
    """So that a wrong one is refused for what is wrong with it."""
    rights = {"roster": GROUP["roster"], "shares": GROUP["shares"][0], "delivery": GROUP["delivery"][0],
              "survivors": GROUP["survivors"], "confirmations": GROUP["confirmations"],
              "complaints": GROUP["complaints"], "unmasking": GROUP["unmasking"]["0"]}  # fmt: skip
    assert rights.keys() == FROZEN["refused"].keys()
    for step, raw in rights.items():
        steps_of_member_0(step, raw)


@pytest.mark.parametrize("one", FROZEN["thresholds"]["refused"], ids=str)
def test_a_group_of_a_wrong_size_is_refused(one: dict[str, Any]) -> None:
    with pytest.raises(Refusal) as refused:
        bounds.sharing(one["members"], corrupt=0, corrupt_permille=0, dropout_permille=0)
    assert refused.value.code == one["code"]


def test_another_checkpoint_gives_another_context() -> None:
    roster = entries(GROUP["roster"])
    other = agree(replace(terms(), checkpoint_sha256="00" * 32), roster, AUTHORITY)
    assert other.context.hex() != GROUP["context"]
