"""Sums become model versions: at once for a synchronous task, out of the buffer for a buffered one.

An update is computed outside any transaction and as often as need be: it writes blobs alone. One transaction makes it
the newest model version and ends the rounds whose sums are in it; it finds either all of them as they were, or nothing
to do. So a sum is in at most one update.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlmodel import Session, col, func, select

from coordinator.core import optimisers
from coordinator.core.aggregation import Values, apply_update, buffered_sum
from coordinator.core.privacy.clipping import next_norm
from coordinator.core.rounds import GROUP_STEPS, STEPS, Event, GroupEvent, GroupPhase, Phase, step
from coordinator.core.task_settings import Mode, ServerOptimiser, TaskSettings, read_settings
from coordinator.core.tasks import RUNNING, TaskEvent
from coordinator.services import hiding, spending
from coordinator.services.catalogue import record_checkpoint, store_checkpoint
from coordinator.services.rounds import abandon, end_task, live_groups
from coordinator.services.running import norm_of, read_plan
from coordinator.services.stops import stop_for
from coordinator.services.sums import is_added_up, opened_sum, plan_and_manifest
from coordinator.store.blobs import BlobKind, Blobs
from coordinator.store.tables import CheckpointRow, Group, Report, Round, Task
from edge_runtime.protocol.checkpoint import Checkpoint, verify_checkpoint
from edge_runtime.protocol.keys import SigningKey
from edge_runtime.protocol.plan import Kind, Plan, Summing
from edge_runtime.protocol.reasons import Abandonment


class End(StrEnum):
    """What the sum of a round is for."""

    UPDATE = "update"
    BUFFER = "buffer"
    MEASURE = "measure"


def end_of(session: Session, task_id: str) -> End:
    """What a task does with the sums of its rounds."""
    settings = read_settings(session.get_one(Task, task_id).settings)
    if settings.kind is Kind.EVALUATE:
        return End.MEASURE
    return End.BUFFER if settings.mode is Mode.BUFFERED else End.UPDATE


@dataclass(frozen=True, slots=True, eq=False)
class Update:
    """A model version that may become a task's newest.

    Attributes:
        rounds: Whose sums are in it, by number.
        groups: The same, of those rounds.
        base_sha256: The model version that it was applied to.
        state_sha256: What the server optimiser remembers after it; None where it remembers nothing.
        replaced_state_sha256: What it remembered before.
        stream: Where correlated noise stands after it; None without any.
        clipping_norm: Of the rounds that begin after it, where it adapts; None for the plan's.
    """

    tenant: str
    task_id: str
    rounds: tuple[str, ...]
    groups: tuple[str, ...]
    base_sha256: str
    result: Checkpoint
    state_sha256: str | None
    replaced_state_sha256: str | None
    stream: hiding.Stream | None = None
    clipping_norm: float | None = None


def is_complete(session: Session, round_id: str) -> bool:
    """Whether a reporting round is closed and added up: it may be committed or go into the buffer."""
    return session.get_one(Round, round_id).phase == Phase.REPORTING and is_added_up(session, round_id)


def buffer_round(session: Session, round_id: str) -> bool:
    """Put the sum of a buffered task's round into the buffer. Whether anything changed."""
    if not is_complete(session, round_id):
        return False
    round_ = session.get_one(Round, round_id)
    take_groups(session, round_id)
    round_.phase = step(STEPS, Phase(round_.phase), Event.SUM_BUFFERED)
    session.add(round_)
    return True


def take_groups(session: Session, round_id: str) -> None:
    """The sums of a round's groups have been used."""
    for group in live_groups(session, round_id):
        if group.phase != GroupPhase.SUMMED:
            group.phase = step(GROUP_STEPS, GroupPhase(group.phase), GroupEvent.SUM_TAKEN)
            session.add(group)


@dataclass(frozen=True, slots=True)
class Buffer:
    """What waits in the buffer of a task, by round number.

    Attributes:
        stale: Rounds that began too many model versions ago.
        fresh: The others; empty as long as their reports are fewer than the plan's goal.
    """

    stale: tuple[str, ...]
    fresh: tuple[str, ...]


def buffers(session: Session) -> dict[str, Buffer]:
    """Of every task with something to do in its buffer: what is too old, and what is enough for an update."""
    waiting: dict[str, list[Round]] = defaultdict(list)
    for round_ in session.exec(select(Round).where(Round.phase == Phase.BUFFERED).order_by(col(Round.number))).all():
        waiting[round_.task_id].append(round_)
    found = {task_id: _buffer(session, session.get_one(Task, task_id), rounds) for task_id, rounds in waiting.items()}
    return {task_id: buffer for task_id, buffer in found.items() if buffer.stale or buffer.fresh}


def _buffer(session: Session, task: Task, waiting: Sequence[Round]) -> Buffer:
    newest = session.get_one(CheckpointRow, (task.tenant, task.checkpoint_sha256)).model_version
    most = read_settings(task.settings).max_staleness
    stale = tuple(one.id for one in waiting if newest - one.model_version > most)
    fresh = tuple(one.id for one in waiting if newest - one.model_version <= most)
    reports = session.exec(
        select(func.count())
        .select_from(Report)
        .join(Group, col(Group.id) == col(Report.group_id))
        .where(col(Group.round_id).in_(fresh), Group.phase == GroupPhase.SUMMED)
    ).one()
    return Buffer(stale, fresh if reports >= read_plan(task.plan).goal else ())


def drop_stale(session: Session, task_id: str, now: datetime) -> bool:
    """Abandon the rounds in the buffer that are too old, by name. Whether there were any."""
    dropped = buffers(session).get(task_id, Buffer((), ())).stale
    for round_id in dropped:
        abandon(session, session.get_one(Round, round_id), Event.TOO_STALE, Abandonment.TOO_STALE, now)
    return bool(dropped)


def compute_update(session: Session, blobs: Blobs, key: SigningKey, task_id: str, round_ids: Sequence[str]) -> Update:
    """Turn the sums of rounds into the next model version, as blobs; again gives the same ones.

    Σ (1 + staleness)^-exponent × the round's sum goes through the task's server optimiser; see `core.optimisers`. A
    synchronous round is never stale.

    Raises:
        GroupDamaged: A partial sum was damaged or lost.
        DigestMismatch, NotFound: The checkpoint or the optimiser's state was.
        InvalidWeights: The update is not finite.
        Unprepared: The rounds lost a group since the noise of their sums was drawn: draw it anew.
    """
    task = session.get_one(Task, task_id)
    settings = read_settings(task.settings)
    plan, manifest = plan_and_manifest(session, task)
    before = verify_checkpoint(
        blobs.get(task.tenant, BlobKind.CHECKPOINT, task.checkpoint_sha256, checked=False),
        task.checkpoint_sha256,
        key.public,
        bundle_sha256=task.bundle_sha256,
        parameters=manifest.parameters,
    )
    found = _weighted_sum(session, blobs, settings, round_ids, before.model_version)
    divisor = _divisor(session, plan, round_ids)
    state = _remembered(blobs, task, settings.server_optimiser, found.total.size)
    change, state = optimisers.step(settings.server_optimiser, state, found.total, divisor)
    weights = apply_update(before.weights, change, manifest.shared_slices())
    raw = optimisers.encode_state(state, task.id)
    return Update(
        tenant=task.tenant,
        task_id=task.id,
        rounds=tuple(round_ids),
        groups=_groups_of(session, round_ids),
        base_sha256=before.sha256,
        result=store_checkpoint(blobs, task.tenant, weights, task.bundle_sha256, before.model_version + 1, key),
        state_sha256=None if raw is None else blobs.put(task.tenant, BlobKind.OPTIMISER_STATE, raw),
        replaced_state_sha256=task.optimiser_state_sha256,
        stream=found.stream,
        clipping_norm=_norm_after(task, plan, found.above / divisor),
    )


def _norm_after(task: Task, plan: Plan, share_above: float) -> float | None:
    """The clipping norm that a count leads to; None where it is fixed."""
    if plan.adaptive is None:
        return None
    return next_norm(plan.adaptive, norm_of(task, plan), share_above)


def _weighted_sum(
    session: Session, blobs: Blobs, settings: TaskSettings, round_ids: Sequence[str], newest: int
) -> hiding.Hidden:
    """The deltas of rounds, hidden where their plan says so, each weighted by how old it is.

    Counts are added up as they are, and of noise that is a stream the last place is kept.
    """
    above, streams = 0.0, list[hiding.Stream]()

    def delta_of(round_: Round) -> tuple[Values, int]:
        nonlocal above
        plan, manifest = plan_and_manifest(session, session.get_one(Task, round_.task_id))
        opened = opened_sum(session, blobs, round_, plan, manifest.shared_parameters)
        found = hiding.hidden(session, blobs, round_, opened)
        above += found.above
        streams.extend([found.stream] if found.stream else [])
        return found.total, newest - round_.model_version if settings.mode is Mode.BUFFERED else 0

    rounds = (session.get_one(Round, round_id) for round_id in round_ids)
    total = buffered_sum(map(delta_of, rounds), settings.staleness_exponent)
    return hiding.Hidden(total, above, streams[-1] if streams else None)


def _remembered(blobs: Blobs, task: Task, optimiser: ServerOptimiser, values: int) -> optimisers.OptimiserState:
    """What a task's server optimiser remembers."""
    if task.optimiser_state_sha256 is None:
        return optimisers.begin(optimiser, values)
    kept = blobs.get(task.tenant, BlobKind.OPTIMISER_STATE, task.optimiser_state_sha256)
    return optimisers.decode_state(kept, task.id, optimiser, values)


def _divisor(session: Session, plan: Plan, round_ids: Sequence[str]) -> int:
    """What a sum is divided by, whoever came: of secure summing the plan's number counts for each opened group."""
    groups = len(_groups_of(session, round_ids)) if plan.summing is Summing.SECURE else 1
    return plan.expected_participants * groups


def commit_update(session: Session, update: Update, now: datetime) -> bool:
    """Make an update the task's newest model version, and end its rounds: one transaction. Whether it was done.

    Not, if the task ended, moved on, or lost one of the rounds or groups meanwhile: the update was for nothing then.
    """
    task = session.get_one(Task, update.task_id)
    buffered = read_settings(task.settings).mode is Mode.BUFFERED
    ready = Phase.BUFFERED if buffered else Phase.REPORTING
    rounds = [session.get_one(Round, round_id) for round_id in update.rounds]
    as_it_was = task.state in RUNNING and task.checkpoint_sha256 == update.base_sha256
    if not as_it_was or any(round_.phase != ready for round_ in rounds):
        return False
    if _groups_of(session, update.rounds) != update.groups:
        return False
    record_checkpoint(session, task.tenant, update.result, now)
    for round_ in rounds:
        take_groups(session, round_.id)
        session.flush()
        spending.note_release(session, round_)
        hiding.erase(session, round_.id)
        commit(session, round_)
        round_.result_sha256 = update.result.sha256
    task.checkpoint_sha256 = update.result.sha256
    task.optimiser_state_sha256 = update.state_sha256
    task.clipping_norm = update.clipping_norm
    hiding.keep_stream(session, task.id, update.stream)
    count_rounds(session, task, len(rounds), now)
    return True


def _groups_of(session: Session, round_ids: Sequence[str]) -> tuple[str, ...]:
    return tuple(group.id for round_id in round_ids for group in live_groups(session, round_id))


def commit(session: Session, round_: Round) -> None:
    """End a round whose sum was used."""
    round_.phase = step(STEPS, Phase(round_.phase), Event.SUM_COMMITTED)
    session.add(round_)


def count_rounds(session: Session, task: Task, rounds: int, now: datetime) -> None:
    """Count committed rounds, and complete the task if that was the last."""
    task.rounds_committed += rounds
    session.add(task)
    session.flush()
    if (why := stop_for(session, task, now)) is not None:
        end_task(session, task, TaskEvent.STOPPED, why, now)
