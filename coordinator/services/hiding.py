"""Noise that the coordinator adds to sums, once: its seed commits with the charge, and goes when the sum is used.

A step that is repeated finds the seed and gives the same view. Noise of another sum, of other groups, is drawn anew:
one and the same would give away the difference. Nothing of it is left when the round, or of correlated noise the task,
has ended.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from sqlmodel import Session, col, delete, select

from coordinator.core.aggregation import Values
from coordinator.core.privacy.central import SEED_BYTES
from coordinator.core.privacy.plans import OF_THE_COORDINATOR, count_noise, mode_of, sum_noise
from coordinator.core.privacy.statement import Mode
from coordinator.core.rounds import GroupPhase
from coordinator.core.task_settings import read_settings
from coordinator.services import spending
from coordinator.services.ledger import fingerprint
from coordinator.services.running import read_plan
from coordinator.store.blobs import BlobKind, Blobs
from coordinator.store.privacy_tables import NoiseRow, StreamRow
from coordinator.store.tables import Group, Round, Task
from edge_runtime.protocol.counted import Opened
from edge_runtime.protocol.errors import DigestMismatch
from edge_runtime.protocol.plan import Plan

_HEADER: Final = struct.Struct("<4sHH16sQQ")
_MAGIC: Final = b"EWNS"
_VERSION: Final = 1
_COUNT: Final = b"count"
"""The purpose of a count's noise, which is drawn from the seed of its round."""


@dataclass(frozen=True, slots=True)
class Stream:
    """Where correlated noise stands after a round.

    Attributes:
        round: Its number.
        sha256: Of the buffers, as a blob.
    """

    round: int
    sha256: str


@dataclass(frozen=True, slots=True, eq=False)
class Hidden:
    """A sum with its noise, and where correlated noise stands after it.

    Attributes:
        above: Of the sum's counts, with their noise.
    """

    total: Values
    above: float = 0.0
    stream: Stream | None = None


class Unprepared(Exception):
    """The groups whose sum is to be used are others than those for whose sum noise was drawn."""


def groups_of(session: Session, round_id: str) -> tuple[str, ...]:
    """The groups of a round whose sums are used, in order."""
    return tuple(
        session.exec(
            select(Group.id)
            .where(Group.round_id == round_id, Group.phase != GroupPhase.ABORTED)
            .order_by(col(Group.number))
        ).all()
    )


def is_prepared(session: Session, task_id: str, round_ids: Sequence[str]) -> bool:
    """Whether the sums of rounds may be used: the noise that hides them is drawn."""
    if mode_of(read_plan(session.get_one(Task, task_id).plan)) not in OF_THE_COORDINATOR:
        return True
    return all(_seed(session, round_id) is not None for round_id in round_ids)


def _seed(session: Session, round_id: str) -> bytes | None:
    row = session.get(NoiseRow, round_id)
    if row is None or row.groups_sha256 != fingerprint(*groups_of(session, round_id)):
        return None
    return row.seed


def prepare(session: Session, round_ids: Sequence[str]) -> bool:
    """Charge rounds and draw the seeds of their noise, in one transaction; again changes nothing.

    Raises:
        NotReserved, LedgerDamaged: As `spending.charge`.
    """
    for round_id in round_ids:
        spending.charge(session, session.get_one(Round, round_id))
        if _seed(session, round_id) is None:
            row = session.get(NoiseRow, round_id) or NoiseRow(round_id=round_id, groups_sha256="", seed=b"")
            row.groups_sha256 = fingerprint(*groups_of(session, round_id))
            row.seed = secrets.token_bytes(SEED_BYTES)
            session.add(row)
    return True


def hidden(session: Session, blobs: Blobs, round_: Round, found: Opened) -> Hidden:
    """A round's sum with the noise of its task's mode; as it is where devices have added it, or nobody claims any.

    Raises:
        Unprepared: Its groups are others than those for whose sum noise was drawn.
        DigestMismatch, NotFound: The buffers of correlated noise were damaged or lost.
    """
    task = session.get_one(Task, round_.task_id)
    plan, total = read_plan(task.plan), found.delta
    mode = mode_of(plan)
    if mode not in OF_THE_COORDINATOR:
        return Hidden(total, found.above)
    seed = _seed(session, round_.id)
    if seed is None:
        raise Unprepared(round_.id)
    noise = sum_noise(plan, total.size, round_.clipping_norm)
    if mode is Mode.CENTRAL:
        return Hidden(noise.hidden(total, noise.drawn(total.size, seed)), _hidden_count(plan, found.above, seed))
    planned, factor = read_settings(task.settings).stop.rounds or 1, spending.factor_in(session, task)
    if factor is None:
        raise Unprepared(round_.id)
    last, buffers = _buffers(session, blobs, task, total.size)
    together = np.zeros(total.size)
    for number in range(last + 1, round_.number + 1):  # rounds that came to nothing have their noise too
        if (number - 1) % planned == 0:
            buffers = factor.begin(total.size)
        fresh = noise.drawn(total.size, seed, str(number).encode()).astype(np.float64)
        correlated, buffers = factor.step(buffers, fresh)
        together += correlated
    raw = _encoded(task.id, round_.number, buffers)
    sha256 = blobs.put(task.tenant, BlobKind.NOISE_STATE, raw)
    return Hidden(noise.hidden(total, together), stream=Stream(round_.number, sha256))


def _hidden_count(plan: Plan, above: float, seed: bytes) -> float:
    noise = count_noise(plan)
    if noise is None:
        return 0.0
    return float(noise.hidden(np.array([above]), noise.drawn(1, seed, _COUNT))[0])


def erase(session: Session, round_id: str) -> None:
    """The noise of a round has been used, or never will be."""
    session.exec(delete(NoiseRow).where(col(NoiseRow.round_id) == round_id))


def keep_stream(session: Session, task_id: str, stream: Stream | None) -> str | None:
    """Note where correlated noise stands; the blob that it stood in before."""
    if stream is None:
        return None
    row = session.get(StreamRow, task_id) or StreamRow(task_id=task_id, round=0)
    before = row.buffers_sha256
    row.round, row.buffers_sha256 = stream.round, stream.sha256
    session.add(row)
    return before


def end_stream(session: Session, task_id: str) -> None:
    """A task has ended: nothing names the buffers of its noise any more, and they are swept."""
    session.exec(delete(StreamRow).where(col(StreamRow.task_id) == task_id))


def stream_of(session: Session, task_id: str) -> str | None:
    """The blob in which correlated noise stands."""
    row = session.get(StreamRow, task_id)
    return None if row is None else row.buffers_sha256


def _buffers(session: Session, blobs: Blobs, task: Task, size: int) -> tuple[int, Values]:
    row = session.get(StreamRow, task.id)
    if row is None or row.buffers_sha256 is None:
        return 0, np.zeros((0, size))
    raw = blobs.get(task.tenant, BlobKind.NOISE_STATE, row.buffers_sha256)
    magic, version, count, of, number, values = _HEADER.unpack_from(raw)
    expected = (_MAGIC, _VERSION, bytes.fromhex(task.id), row.round, size)
    if (magic, version, of, number, values) != expected or len(raw) != _HEADER.size + 8 * count * size:
        raise DigestMismatch("the buffers of correlated noise are not of this task")
    return row.round, np.frombuffer(raw, "<f8", offset=_HEADER.size).reshape(count, size).astype(np.float64)


def _encoded(task_id: str, number: int, buffers: Values) -> bytes:
    """Little-endian: magic `EWNS`, u16 version, u16 buffers, the task (16 bytes), u64 round and values, float64."""
    count, size = buffers.shape
    header = _HEADER.pack(_MAGIC, _VERSION, count, bytes.fromhex(task_id), number, size)
    return header + buffers.astype("<f8", copy=False).tobytes()
