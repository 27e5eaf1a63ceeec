"""The header of a round: what its participants may rely on, signed."""

from __future__ import annotations

from sqlmodel import Session

from coordinator.services.running import norm_of, read_plan
from coordinator.store.tables import Device, Participation, Round, Task
from edge_runtime.protocol.errors import UnknownParticipation
from edge_runtime.protocol.header import RoundHeader, SignedRound, sign_header
from edge_runtime.protocol.keys import SigningKey, digest


def header_for(session: Session, device: Device, participation_id: str, key: SigningKey) -> SignedRound:
    """The header of the round that a participation is in; the same for all of its participants, whenever they ask.

    Raises:
        UnknownParticipation: The device has no such participation.
    """
    participation = session.get(Participation, participation_id)
    if participation is None or participation.device_id != device.id:
        raise UnknownParticipation("this device takes no part under that id")
    round_ = session.get_one(Round, participation.round_id)
    task = session.get_one(Task, round_.task_id)
    header = RoundHeader(
        version=1,
        tenant=task.tenant,
        task=task.name,
        round=round_.number,
        plan_sha256=digest(task.plan).hex(),
        checkpoint_sha256=round_.checkpoint_sha256,
        clipping_norm=norm_of(round_, read_plan(task.plan)),
    )
    return sign_header(header, key)
