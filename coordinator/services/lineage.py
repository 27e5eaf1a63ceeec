"""Who trained a model: the tasks whose rounds made it, and those that made what they began from."""

from __future__ import annotations

from collections.abc import Sequence

from sqlmodel import Session, col, select

from coordinator.core.privacy.refusals import NotCovered
from coordinator.services import ledger
from coordinator.services.spending import whose_of
from coordinator.store.tables import CheckpointRow, Round, Task


def trainers(session: Session, tenant: str, checkpoint_sha256: str) -> list[Task]:
    """The tasks that trained a model version, each after those that went on from it; none for one brought from outside.

    A model is known by its weights: one that was fetched and imported again is the same.
    """
    found: dict[str, Task] = {}
    waiting = [checkpoint_sha256]
    for sha256 in waiting:
        for task in _makers(session, tenant, sha256):
            if task.id not in found:
                found[task.id] = task
                waiting.append(task.first_checkpoint_sha256)
    return list(found.values())


def _makers(session: Session, tenant: str, checkpoint_sha256: str) -> Sequence[Task]:
    weights = select(CheckpointRow.weights_sha256).where(
        CheckpointRow.tenant == tenant, CheckpointRow.sha256 == checkpoint_sha256
    )
    same = select(CheckpointRow.sha256).where(
        CheckpointRow.tenant == tenant, col(CheckpointRow.weights_sha256).in_(weights)
    )
    made = select(Round.task_id).where(Round.tenant == tenant, col(Round.result_sha256).in_(same))
    return session.exec(select(Task).where(col(Task.id).in_(made)).order_by(col(Task.name))).all()


def claimed_in(session: Session, tenant: str, checkpoint_sha256: str) -> list[str]:
    """The populations whose ledgers say what a model gives away of the devices that trained it.

    A population without a ledger has claimed nothing, and is not among them.

    Raises:
        NotCovered: One has a ledger, and a task of it trained the model without a charge.
        LedgerDamaged: A ledger is not the one that was written.
    """
    found = set()
    for task in trainers(session, tenant, checkpoint_sha256):
        if ledger.exists(session, whose_of(task)):
            _check_charged(session, task)
            found.add(task.population)
    return sorted(found)


def _check_charged(session: Session, task: Task) -> None:
    known = ledger.read(session, whose_of(task)).account.tasks.get(task.name)
    used = session.exec(select(Round.number).where(Round.task_id == task.id, col(Round.result_sha256).is_not(None)))
    if not set(used) <= set(known.charged if known else ()):
        raise NotCovered(
            f"The task {task.name!r} trained this model, or one that it began from, without a claim, and its "
            f"population {task.population!r} has a budget.",
            "Release a model that only tasks with a claim have trained, from an imported one on.",
        )
