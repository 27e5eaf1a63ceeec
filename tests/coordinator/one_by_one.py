"""Check-ins answered one after another, each by plain statements on the rows: the oracle of the batches."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlmodel import Session, col, func, select

from coordinator.core.choice import Contender, choose
from coordinator.core.cohorts.declarations import read_declared
from coordinator.core.cohorts.evaluation import matches
from coordinator.core.cohorts.reading import read_rule
from coordinator.core.rounds import OPEN_PHASES, OPEN_STANDINGS, Phase, Standing
from coordinator.core.selection import round_seed
from coordinator.core.task_settings import TaskSettings, read_settings
from coordinator.core.tasks import RUNNING, TaskState
from coordinator.services.checkins import Knock
from coordinator.services.device_facts import facts_in, facts_of
from coordinator.store.tables import Candidate, Cohort, Device, Nonce, Participation, Population, Round, Task
from edge_runtime.protocol import wire
from edge_runtime.protocol.checkin import CheckIn, bucketed
from edge_runtime.protocol.errors import Refusal
from edge_runtime.protocol.keys import PublicKey
from edge_runtime.protocol.plan import Plan
from edge_runtime.protocol.reasons import Wait
from edge_runtime.protocol.signing import verify_request

Told = tuple[str, str | None]
"""`assigned`, `wait` or `refused`, with the participation, the reason or the code."""


def told_one(session: Session, knock: Knock, now: datetime) -> Told:
    claim, device = knock.claim, session.get(Device, knock.claim.keyid)
    if device is None:
        return "refused", "unknown-device"
    if not knock.again:
        try:
            key = PublicKey(device.public_key)
            verify_request(claim, key, "POST", knock.target, now=int(now.timestamp()))
        except Refusal as refusal:
            return "refused", refusal.code
        if session.get(Nonce, (claim.created, claim.keyid, claim.nonce)) is not None:
            return "refused", "replayed-request"
        session.add(Nonce(signed_at=claim.created, device_id=claim.keyid, nonce=claim.nonce))
    population = session.get_one(Population, (device.tenant, device.population))
    if device.left_at is not None:
        return "refused", "device-left"
    if population.switched_off:
        return "refused", "switched-off"
    if knock.message.population != device.population:
        return "refused", "not-found"
    _hear(device, population, knock.message, now)
    session.flush()
    return _told(session, device, population, knock, now)


def _hear(device: Device, population: Population, message: CheckIn, now: datetime) -> None:
    if device.seen_at is None or device.seen_at < now - timedelta(hours=1):
        device.seen_at = now
    facts = facts_of(message, facts_in(device), read_declared(population.attributes)).facts
    for name in ("app_version", "app_version_key", "platform", "region", "hardware_class"):
        setattr(device, name, getattr(facts, name))
    if dict(facts.attributes) != (device.attributes or {}):
        device.attributes = dict(facts.attributes) or None


def _told(session: Session, device: Device, population: Population, knock: Knock, now: datetime) -> Told:
    for part, round_, task in session.exec(
        select(Participation, Round, Task)
        .join(Round, col(Round.id) == col(Participation.round_id))
        .join(Task, col(Task.id) == col(Round.task_id))
        .where(Participation.device_id == device.id, col(Participation.standing).in_(OPEN_STANDINGS))
        .where(col(Round.phase).in_(OPEN_PHASES), col(Round.closed_at).is_(None))
        .where(col(Task.state).in_(RUNNING))
    ).all():
        assert round_.task_id == task.id
        if part.standing == Standing.TRAINED:
            return "wait", Wait.ROUND_IN_PROGRESS
        if part.visit in (None, knock.message.visit):
            if part.standing == Standing.CHOSEN and task.state == TaskState.PAUSED:
                return "wait", Wait.TASK_PAUSED
            if part.standing == Standing.CHOSEN:
                part.standing, part.visit, part.assigned_at = Standing.ASSIGNED, knock.message.visit, now
                device.participated_at = now
                device.participations += 1
            return "assigned", part.id
        if knock.again:
            return "wait", Wait.ROUND_IN_PROGRESS
        part.standing, part.outcome, part.ended_at = Standing.ENDED, "went-silent", now
        session.flush()
    return _offered(session, device, population, knock.message, now)


def _offered(session: Session, device: Device, population: Population, message: CheckIn, now: datetime) -> Told:
    tasks = session.exec(
        select(Task)
        .where(Task.tenant == device.tenant, Task.population == device.population, col(Task.state).in_(RUNNING))
        .order_by(col(Task.created_at), col(Task.id))
    ).all()
    why: list[Wait] = []
    contenders: list[Contender] = []
    for task in tasks:
        settings = read_settings(task.settings)
        reason = _unfit(session, device, population, task, settings, message, now)
        selecting = session.exec(select(Round).where(Round.task_id == task.id, Round.phase == Phase.SELECTING)).all()
        if reason is None and selecting:
            contenders += [_contender(session, task, settings, round_) for round_ in selecting]
        else:
            why.append(reason or _why_waiting(session, device, task))
    current = session.exec(
        select(Candidate)
        .join(Round, col(Round.id) == col(Candidate.round_id))
        .where(Candidate.device_id == device.id, Round.phase == Phase.SELECTING)
    ).first()
    if current is not None and current.round_id in {one.round_id for one in contenders}:
        return "wait", Wait.SELECTION_PENDING
    if current is not None:
        session.delete(current)
        session.flush()
        contenders = [_recounted(session, one) for one in contenders]
    chosen = choose(contenders, device.id)
    if chosen is not None:
        session.add(Candidate(round_id=chosen.round_id, device_id=device.id, checked_in_at=now))
        session.flush()
        return "wait", Wait.SELECTION_PENDING
    order = [
        *(Wait.SELECTION_PENDING, Wait.NOT_SELECTED, Wait.REPORTED, Wait.ROUND_IN_PROGRESS),
        *(Wait.PARTICIPATED_RECENTLY, Wait.TOO_FEW_EXAMPLES, Wait.TASK_PAUSED, Wait.NO_TASK),
    ]
    return "wait", next((reason for reason in order if reason in why), Wait.NO_TASK)


def _unfit(
    session: Session,
    device: Device,
    population: Population,
    task: Task,
    settings: TaskSettings,
    message: CheckIn,
    now: datetime,
) -> Wait | None:
    if settings.cohort is not None:
        cohort = session.get(Cohort, (device.tenant, device.population, settings.cohort))
        if cohort is None or not matches(read_rule(cohort.rule), facts_in(device), population.bucket_key):
            return Wait.NO_TASK
    if task.state == TaskState.PAUSED:
        return Wait.TASK_PAUSED
    if message.examples < bucketed(wire.decode(Plan, task.plan).min_examples):
        return Wait.TOO_FEW_EXAMPLES
    separation = timedelta(seconds=settings.min_separation_s)
    if device.participated_at is not None and device.participated_at + separation > now:
        return Wait.PARTICIPATED_RECENTLY
    return None


def _contender(session: Session, task: Task, settings: TaskSettings, round_: Round) -> Contender:
    return _recounted(
        session,
        Contender(
            round_id=round_.id,
            seed=round_seed(task.seed, round_.number),
            priority=settings.priority,
            pool_size=settings.pool_size,
            candidates=0,
        ),
    )


def _recounted(session: Session, one: Contender) -> Contender:
    count = session.exec(select(func.count()).where(Candidate.round_id == one.round_id)).one()
    return Contender(
        round_id=one.round_id, seed=one.seed, priority=one.priority, pool_size=one.pool_size, candidates=count
    )


def _why_waiting(session: Session, device: Device, task: Task) -> Wait:
    newest = session.exec(
        select(Round)
        .where(Round.task_id == task.id, col(Round.phase).in_(OPEN_PHASES))
        .order_by(col(Round.number).desc())
    ).first()
    if newest is None:
        return Wait.SELECTION_PENDING
    part = session.exec(
        select(Participation).where(Participation.round_id == newest.id, Participation.device_id == device.id)
    ).first()
    if part is not None:
        return Wait.REPORTED if part.standing == Standing.REPORTED else Wait.ROUND_IN_PROGRESS
    is_candidate = session.get(Candidate, (newest.id, device.id)) is not None
    return Wait.NOT_SELECTED if is_candidate else Wait.ROUND_IN_PROGRESS
