"""Which checkpoint a device uses for inference: the newest one of its population."""

from __future__ import annotations

from sqlmodel import Session, col, select

from coordinator.core.tasks import ENDED
from coordinator.store.tables import CheckpointRow, Device, Task
from edge_runtime.protocol.errors import NotFound
from edge_runtime.protocol.release import Released, ReleaseQuery


def release_for(session: Session, device: Device, query: ReleaseQuery) -> Released:
    """Name the newest checkpoint of the population's newest task.

    Raises:
        NotFound: The population has no task, or the device is enrolled in another.
    """
    task = None
    if query.population == device.population:
        task = session.exec(
            select(Task)
            .where(Task.tenant == device.tenant, Task.population == device.population)
            .order_by(col(Task.created_at).desc())
        ).first()
    if task is None:
        raise NotFound("there is no released model for this device")
    newest = session.get_one(CheckpointRow, (task.tenant, task.checkpoint_sha256))
    return Released(
        version=1,
        bundle_sha256=task.bundle_sha256,
        checkpoint_sha256=newest.sha256,
        model_version=newest.model_version,
        final=task.state in ENDED,
    )
