"""Secure summing: what masks cost beside bare AES, and what opening a sum costs beside the masks it must remove.

The limit is the masks times what it takes to expand and add one, and the curve operations that the protocol cannot do
without times what each takes: all measured in the same run, by turns with ours, on one core.
"""

from __future__ import annotations

import os
import statistics
import time
import tracemalloc
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from edge_runtime.privacy import clip
from edge_runtime.protocol.keys import SigningKey, digest
from edge_runtime.protocol.report import report_bytes
from edge_runtime.protocol.secure_sum import mailbox, opening, participant
from edge_runtime.protocol.secure_sum.boxes import Pair
from edge_runtime.protocol.secure_sum.lanes import Lanes, LaneVector
from edge_runtime.protocol.secure_sum.mailbox import Dealt
from edge_runtime.protocol.secure_sum.members import encode_members
from edge_runtime.protocol.secure_sum.messages import Survivors, Unmasking
from edge_runtime.protocol.secure_sum.opening import Revelation
from edge_runtime.protocol.secure_sum.participant import Seat, Secrets
from edge_runtime.protocol.secure_sum.roster import Entry, sign_certificate
from edge_runtime.protocol.secure_sum.transcript import Agreement, Floors, Terms, agree, join
from tests.bench import group_round
from tests.bench.measure import Row, cpu_s

PARAMETERS: Final = 1_000_000
BITS: Final = 24
AUTHORITY: Final = SigningKey(digest(b"authority of the bench"))
REPEATS: Final = 7
SIZES: Final = (2_000, 4_097, 100_000, PARAMETERS)
"""Parameters of the reports whose length is compared. Below 1,100 header and zero lanes weigh more than that."""


def rows(folder: Path) -> list[Row]:
    hundred = _group(100, corrupt_permille=100)
    return [
        _device(hundred),
        _encode(),
        _coordinator("secsum.coordinator_n100", hundred, gone=10, bound=1.4),
        _cores(hundred, gone=10),
        _memory(hundred, gone=10),
        _coordinator("secsum.coordinator_n1000", _group(1000, corrupt_permille=50), gone=50, bound=1.5),
        _report_bytes(),
        group_round.row(folder),
    ]


@dataclass(frozen=True)
class Group:
    """An agreed group: its devices' keys and seats, and what they dealt."""

    agreement: Agreement
    keys: tuple[SigningKey, ...]
    seats: tuple[Seat, ...]
    dealt: Mapping[int, Dealt]
    pairs: tuple[Mapping[int, Pair], ...]


def _group(size: int, *, corrupt_permille: int) -> Group:
    lanes = Lanes(bits=BITS, clipping_norm=1.0, max_participants=size)
    terms = Terms(
        tenant="bench", task="bench", round=1, group="ab" * 16, plan_sha256="11" * 32, bundle_sha256="22" * 32,
        checkpoint_sha256="33" * 32, fewest=64, survivors=size * 8 // 10, corrupt_permille=corrupt_permille,
        dropout_permille=100, lanes=lanes, parameters=PARAMETERS,
    )  # fmt: skip
    made: dict[str, tuple[SigningKey, Secrets, Entry]] = {}
    for number in range(size):
        key = SigningKey(digest(b"bench", number.to_bytes(4, "little")))
        secrets, certificate = Secrets.fresh(os.urandom), sign_certificate(AUTHORITY, terms.tenant, key.public)
        entry = secrets.entry(key, certificate, plan_sha256=terms.plan_sha256, group=terms.group)
        made[entry.device_id(terms.tenant)] = (key, secrets, entry)
    ordered = [made[name] for name in sorted(made)]
    agreement = agree(terms, [entry for _key, _secrets, entry in ordered], AUTHORITY.public)
    seats = tuple(Seat(agreement, position, secrets) for position, (_key, secrets, _entry) in enumerate(ordered))
    keys = tuple(key for key, _secrets, _entry in ordered)
    both = [participant.deal(seat, key) for seat, key in zip(seats, keys, strict=True)]
    dealt = {member: mailbox.taken(agreement, member, shares) for member, (shares, _pairs) in enumerate(both)}
    return Group(agreement, keys, seats, dealt, tuple(pairs for _shares, pairs in both))


def _expand_and_add(lanes: LaneVector, count: int) -> Callable[[], None]:
    """Bare masks: AES-256-CTR into one block of 256 KB, added to the lanes."""
    zeros, made = bytes(1 << 18), bytearray(1 << 18)
    block = np.frombuffer(made, np.uint32)

    def work() -> None:
        for _mask in range(count):
            stream = Cipher(algorithms.AES(os.urandom(32)), modes.CTR(bytes(16))).encryptor()
            for begin in range(0, lanes.size, block.size):
                here = lanes[begin : begin + block.size]
                stream.update_into(memoryview(zeros)[: 4 * here.size], made)
                np.add(here, block[: here.size], out=here)

    return work


@dataclass(frozen=True)
class Curve:
    """Curve operations that a party cannot do without."""

    agreements: int = 0
    verifications: int = 0
    signatures: int = 0

    def work(self) -> Callable[[], None]:
        mine, theirs = X25519PrivateKey.generate(), X25519PrivateKey.generate().public_key()
        key = Ed25519PrivateKey.generate()
        public, signature = key.public_key(), key.sign(bytes(32))

        def run() -> None:
            for _agreement in range(self.agreements):
                mine.exchange(theirs)
            for _verification in range(self.verifications):
                public.verify(signature, bytes(32))
            for _signature in range(self.signatures):
                key.sign(bytes(32))

        return run


_SAMPLE: Final = 50
"""Bare masks that are measured at a time."""


def _row(id_: str, ours: Callable[[], object], *, count: int, curve: Curve, bound: float, how: str) -> Row:
    """Ours beside `count` bare masks and the curve work, by turns; the medians of CPU time."""
    bare, work = _expand_and_add(np.zeros(PARAMETERS + 4, np.uint32), _SAMPLE), curve.work()
    found = [(cpu_s(ours), cpu_s(bare) / _SAMPLE * count + cpu_s(work)) for _repeat in range(REPEATS + 1)][1:]
    ours_s, limit_s = (statistics.median(side) for side in zip(*found, strict=True))
    return Row(
        id=id_, ours=round(ours_s * 1e3, 2), limit=round(limit_s * 1e3, 2), ratio=round(ours_s / limit_s, 3),
        bound=bound, unit="ms CPU", how=how,
    )  # fmt: skip


def _device(group: Group) -> Row:
    agreement, me = group.agreement, 7
    seat, key, size = group.seats[me], group.keys[me], agreement.size
    delivery = mailbox.delivery(agreement, me, group.dealt)
    everybody = Survivors(version=1, group=agreement.terms.group, masked=encode_members(range(size), size))
    signed = participant.confirmed_digest(agreement, frozenset(range(size)))
    confirmations = mailbox.confirmations(agreement, {one: group.keys[one].sign(signed) for one in range(size)})
    lanes = np.zeros(agreement.terms.lanes.count(PARAMETERS), np.uint32)
    floors, own = Floors(), agreement.roster[me]

    def ours() -> None:
        join(agreement.terms, agreement.roster, AUTHORITY.public, own=own, floors=floors)
        _shares, pairs = participant.deal(seat, key)
        received = participant.receive(seat, pairs[me], delivery)
        participant.mask(seat, received, lanes)
        confirmed = participant.confirm(seat, key, received, everybody)
        participant.unmask(seat, received, confirmed, confirmations)

    return _row(
        "secsum.device_n100",
        ours,
        count=size,
        curve=Curve(agreements=2 * (size - 1), verifications=3 * size, signatures=size),
        bound=1.4,
        how="every step of one device, complete graph of 100, 1M lanes of 24 bits; "
        "limit: 100 bare masks, 198 X25519, 300 Ed25519 verifications, 100 signatures",
    )


def _encode() -> Row:
    lanes, rng = Lanes(bits=BITS, clipping_norm=1.0, max_participants=100), np.random.default_rng(0)
    delta = (rng.normal(size=PARAMETERS) / 900).astype(np.float32)  # of a norm above 1: it is clipped
    times = [cpu_s(lambda: lanes.pack(clip(delta, 1.0), rng)) for _repeat in range(REPEATS + 2)][2:]
    ours_s, limit_s = statistics.median(times), 0.025
    return Row(
        id="secsum.encode", ours=round(ours_s * 1e3, 2), limit=limit_s * 1e3, ratio=round(ours_s / limit_s, 3),
        bound=1.0, unit="ms CPU", how="clip, round and pack 1M parameters to 24 bits; limit: 25 ms",
    )  # fmt: skip


def _revelations(group: Group, gone: int) -> tuple[frozenset[int], dict[int, Revelation]]:
    """The last `gone` members fell silent before their report arrived; all others reveal."""
    agreement = group.agreement
    everybody = frozenset(range(agreement.size))
    masked = frozenset(range(agreement.size - gone))
    nobody = encode_members((), agreement.size)
    found = {}
    for holder in sorted(masked):
        dealers = sorted(agreement.graph.neighbours(holder) | ({holder} if agreement.graph.complete else set()))
        pairs = {dealer: group.pairs[dealer][holder] for dealer in dealers}
        message = Unmasking(
            version=1,
            group=agreement.terms.group,
            lacking=nobody,
            seeds=b"".join(pair.reveal_seed() for dealer, pair in pairs.items() if dealer in masked),
            keys=b"".join(pair.reveal_key() for dealer, pair in pairs.items() if dealer not in masked),
        )
        found[holder] = opening.revealed(agreement, holder, message, sharers=everybody, masked=masked)
    return masked, found


def _coordinator(id_: str, group: Group, *, gone: int, bound: float) -> Row:
    agreement = group.agreement
    masked, revelations = _revelations(group, gone)
    total = np.zeros(PARAMETERS + 4, np.uint32)
    count = len(opening.streams_left(agreement, opening.recover(agreement, group.dealt, masked, revelations)))

    def ours() -> None:
        opening.open_sum(agreement, total, opening.recover(agreement, group.dealt, masked, revelations))

    return _row(
        id_,
        ours,
        count=count,
        curve=Curve(agreements=count - len(masked)),
        bound=bound,
        how=f"check every share, rebuild, check every secret, remove {count} masks of 1M lanes: {agreement.size} "
        f"members of degree {agreement.graph.degree}, threshold {agreement.threshold}, {gone} gone before their report "
        f"came; limit: {count} bare masks and {count - len(masked)} X25519",
    )


def _cores(group: Group, *, gone: int) -> Row:
    """The gain of a second core, in wall time."""
    masked, revelations = _revelations(group, gone)
    recovery = opening.recover(group.agreement, group.dealt, masked, revelations)
    total, cores = np.zeros(PARAMETERS + 4, np.uint32), 2

    def wall_s(work: Callable[[], object]) -> float:
        begin = time.perf_counter()
        work()
        return time.perf_counter() - begin

    with ThreadPoolExecutor(cores) as pool:
        found = [
            (
                wall_s(lambda: opening.open_sum(group.agreement, total, recovery, spread=pool.map, parts=cores)),
                wall_s(lambda: opening.open_sum(group.agreement, total, recovery)),
            )
            for _repeat in range(REPEATS)
        ]
    two_s, one_s = (min(side) for side in zip(*found, strict=True))  # whoever else uses the cores only adds
    return Row(
        id="secsum.coordinator_cores", ours=round(two_s * 1e3, 1), limit=round(one_s * 1e3, 1),
        ratio=round(two_s / one_s, 3), bound=0.75, unit="ms wall",
        how="remove the same masks with two threads; limit: with one, on cores that others use too",
    )  # fmt: skip


def _memory(group: Group, *, gone: int) -> Row:
    """Peak of what Python and numpy hold while reports are added up one by one and the sum is opened."""
    agreement, lanes = group.agreement, group.agreement.terms.lanes
    masked, revelations = _revelations(group, gone)
    packed, vector = bytes(lanes.packed_bytes(PARAMETERS)), 4 * PARAMETERS
    tracemalloc.start()
    before, _peak = tracemalloc.get_traced_memory()
    total = np.zeros(lanes.count(PARAMETERS), np.uint32)
    for _report in range(3):
        np.add(total, lanes.unpack(packed, PARAMETERS), out=total)
    opening.open_sum(agreement, total, opening.recover(agreement, group.dealt, masked, revelations))
    total[-4:] = 0  # nobody sent the reports of these masks
    lanes.open_sum(total)
    _now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return Row(
        id="secsum.coordinator_memory", ours=round((peak - before) / 2**20, 1), limit=round(vector / 2**20, 1),
        ratio=round((peak - before) / vector, 2), bound=6.0, unit="MiB",
        how="peak of adding up, opening and un-scaling a sum of 100 members, 1M lanes; limit: the vector in float32",
    )  # fmt: skip


def _report_bytes() -> Row:
    lanes = Lanes(bits=BITS, clipping_norm=1.0, max_participants=100)
    worst = max(SIZES, key=lambda size: report_bytes(lanes, size) / (4 * size))
    ours, limit = report_bytes(lanes, worst), 4 * worst
    return Row(
        id="secsum.report_bytes", ours=ours, limit=limit, ratio=round(ours / limit, 4), bound=0.76, unit="bytes",
        how=f"a masked report of {worst} parameters, the worst of {SIZES}; limit: as float32",
    )  # fmt: skip
