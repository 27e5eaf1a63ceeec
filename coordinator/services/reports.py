"""What a participant sends back: a report, durable before its receipt, or an outcome."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from datetime import datetime

from sqlmodel import Session, col, select, update

from coordinator.core.pacing import unit_of
from coordinator.core.rounds import OPEN_PHASES, STEPS, Event, GroupPhase, Phase, Standing, step
from coordinator.core.task_settings import TaskSettings, read_settings
from coordinator.services.group_steps import check_report
from coordinator.services.running import read_manifest, read_plan
from coordinator.store.blobs import BlobKind, Blobs
from coordinator.store.tables import BundleRow, Device, Group, Participation, Report, Round, Task
from edge_runtime.protocol.enrolment import LONGEST_DELAY_S
from edge_runtime.protocol.errors import (
    ConflictingReport,
    GroupEnded,
    ParticipationEnded,
    Refusal,
    RoundClosed,
    StepNotAllowed,
    UnknownParticipation,
)
from edge_runtime.protocol.keys import digest
from edge_runtime.protocol.plan import Summing
from edge_runtime.protocol.report import OutcomeNote, OutcomeNoted, Receipt, lanes_of_report, report_bytes
from edge_runtime.protocol.secure_sum.lanes import Lanes

RETRY_S = 900.0
"""Nobody who took part comes back earlier, unless a setting says so."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What a report of one participation must look like."""

    tenant: str
    participation: str
    lanes: Lanes
    parameters: int
    masked: bool = False
    """Of secure summing: any lanes are right."""

    @property
    def body_bytes(self) -> int:
        return report_bytes(self.lanes, self.parameters)

    def check(self, raw: bytes) -> None:
        """Return if the body is a report that an honest participant could have sent.

        Raises:
            ReportLength, MalformedReport, UnsupportedVersion, LanesOutOfRange: It is not.
        """
        packed = lanes_of_report(raw, self.participation, self.lanes, self.parameters)
        lanes = self.lanes.unpack(packed, self.parameters)
        if not self.masked:
            self.lanes.check_plain(lanes)


def expected_report(session: Session, device: Device, participation_id: str) -> Expected:
    """Say what is awaited from a participation, before a byte of the body is read.

    Raises:
        UnknownParticipation: The device has no such participation.
    """
    _participation, round_ = _of_device(session, device.id, participation_id)
    task = session.get_one(Task, round_.task_id)
    bundle = session.get_one(BundleRow, (task.tenant, task.bundle_sha256))
    plan = read_plan(task.plan)
    return Expected(
        tenant=task.tenant,
        participation=participation_id,
        lanes=plan.lanes(),
        parameters=plan.values(read_manifest(bundle.manifest).shared_parameters),
        masked=plan.summing is Summing.SECURE,
    )


def check_acceptable(session: Session, device_id: str, participation_id: str, sha256: str) -> Receipt | None:
    """Return the receipt if this report is already held, or None if it may be stored.

    Raises:
        UnknownParticipation: The device has no such participation.
        ConflictingReport: Another report is held under this id.
        ParticipationEnded: The device gave this participation up.
        RoundClosed: The round no longer takes reports.
        GroupEnded, StepNotAllowed: Of secure summing: its group does not take reports now.
    """
    participation, round_ = _of_device(session, device_id, participation_id)
    held = session.get(Report, participation_id)
    if held is not None:
        if held.sha256 != sha256:
            raise ConflictingReport("another report was already received for this participation")
        return _receipt(session, round_, held)
    secure = read_plan(session.get_one(Task, round_.task_id).plan).summing is Summing.SECURE
    if secure and participation.standing != Standing.ENDED:
        check_report(session, participation.group_id, device_id)
    elif not secure and session.get_one(Group, participation.group_id).phase != GroupPhase.REPORTING:
        raise RoundClosed("the round no longer takes reports")
    if participation.standing == Standing.ENDED:
        raise ParticipationEnded(f"the participation ended: {participation.outcome}")
    return None


def wants_parts(session: Session, device: Device, participation_id: str) -> bool:
    """Whether parts of a report are still wanted; not, if the report is held.

    Raises: As `check_acceptable`, but for another report.
    """
    _of_device(session, device.id, participation_id)
    if session.get(Report, participation_id) is not None:
        return False
    check_acceptable(session, device.id, participation_id, "")
    return True


def record_report(
    session: Session,
    device_id: str,
    participation_id: str,
    sha256: str,
    body_bytes: int,
    now: datetime,
    crc32: int | None = None,
) -> Receipt:
    """Count a report whose blob is durable; the receipt may leave when this transaction has committed.

    Args:
        crc32: Of the blob, so that it is read again without a second SHA-256.

    Raises: As `check_acceptable`.
    """
    receipt = check_acceptable(session, device_id, participation_id, sha256)
    if receipt is not None:
        return receipt
    participation, round_ = _of_device(session, device_id, participation_id)
    participation.standing = Standing.REPORTED
    participation.ended_at = now
    if round_.phase == Phase.TRAINING:
        round_.phase = step(STEPS, Phase(round_.phase), Event.FIRST_REPORT)
    if participation.group_id is None:
        raise RuntimeError("a report that may be taken belongs to a group: a bug of the check")
    report = Report(
        participation_id=participation_id,
        group_id=participation.group_id,
        sha256=sha256,
        body_bytes=body_bytes,
        crc32=crc32,
        received_at=now,
    )
    session.add_all((participation, round_, report))
    return _receipt(session, round_, report)


def store_report(blobs: Blobs, expected: Expected, raw: bytes, verified_sha256: str) -> int:
    """Check a body, whose digest was verified on its way in, and make it durable. Its CRC-32.

    Raises: As `Expected.check` and `Blobs.put`.
    """
    expected.check(raw)
    blobs.put(expected.tenant, BlobKind.REPORT, raw, verified_sha256=verified_sha256)
    return zlib.crc32(raw)


def drop_refused(blobs: Blobs, expected: Expected, sha256: str, refusal: Refusal) -> None:
    """Delete the blob of a report that was refused for ever after it was stored; a report has a blob of its own."""
    if isinstance(refusal, ConflictingReport | ParticipationEnded | RoundClosed | GroupEnded | StepNotAllowed):
        blobs.delete(expected.tenant, BlobKind.REPORT, sha256)
        blobs.drop_parts(expected.tenant, expected.participation)


def note_outcome(
    session: Session, device: Device, participation_id: str, note: OutcomeNote, now: datetime
) -> OutcomeNoted:
    """End a participation without a report; noting it again changes nothing.

    Raises:
        UnknownParticipation: The device has no such participation.
        ConflictingReport: A report was already received for it.
    """
    participation, round_ = _of_device(session, device.id, participation_id)
    if participation.standing == Standing.REPORTED:
        raise ConflictingReport("a report was already received for this participation")
    if participation.standing != Standing.ENDED:
        participation.standing = Standing.ENDED
        participation.outcome = note.reason
        participation.ended_at = now
        if note.costs is not None:
            participation.cost_seconds = note.costs.seconds
            participation.cost_bytes = note.costs.bytes
            participation.cost_battery_percent = note.costs.battery_percent
        session.add(participation)
    settings = _settings(session, round_)
    return OutcomeNoted(version=1, retry_after_s=_retry_s(settings.retry_rejected_s, settings, participation_id))


def note_download(session: Session, device: Device, sha256: str, now: datetime) -> None:
    """Remember when a participant first asked for its round's checkpoint; again changes nothing."""
    session.exec(
        update(Participation)
        .where(col(Participation.device_id) == device.id, col(Participation.standing) == Standing.ASSIGNED)
        .where(col(Participation.downloaded_at).is_(None))
        .where(
            col(Participation.round_id).in_(
                select(Round.id).where(Round.checkpoint_sha256 == sha256, col(Round.phase).in_(OPEN_PHASES))
            )
        )
        .values(downloaded_at=now)
    )


def _of_device(session: Session, device_id: str, participation_id: str) -> tuple[Participation, Round]:
    participation = session.get(Participation, participation_id)
    if participation is None or participation.device_id != device_id:
        raise UnknownParticipation("this device takes no part under that id")
    return participation, session.get_one(Round, participation.round_id)


def _settings(session: Session, round_: Round) -> TaskSettings:
    return read_settings(session.get_one(Task, round_.task_id).settings)


def _retry_s(set_s: float | None, settings: TaskSettings, participation_id: str) -> float:
    """When a device checks in again after it took part, in seconds.

    Where no setting says so, at an instant that the participation alone decides: a report that is sent again gets the
    same receipt, byte for byte, and devices do not come back in step. Pacing has its say at that check-in.
    """
    if set_s is not None:
        return set_s
    first_s = max(RETRY_S, settings.min_separation_s)
    return min(first_s * (1 + unit_of(digest(participation_id.encode()))), LONGEST_DELAY_S)


def _receipt(session: Session, round_: Round, report: Report) -> Receipt:
    settings = _settings(session, round_)
    return Receipt(
        version=1,
        participation=report.participation_id,
        report_sha256=report.sha256,
        retry_after_s=_retry_s(settings.retry_reported_s, settings, report.participation_id),
    )
