"""What becomes of the participations of a fake coordinator: reports, at once or in parts, and outcomes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from edge_runtime.protocol import wire
from edge_runtime.protocol.errors import (
    BodyTooLarge,
    ConflictingReport,
    NotFound,
    ParticipationEnded,
    ReportLength,
    Unavailable,
    UnknownParticipation,
)
from edge_runtime.protocol.keys import digest
from edge_runtime.protocol.plan import Plan
from edge_runtime.protocol.report import (
    PART_BYTES,
    OutcomeNote,
    OutcomeNoted,
    Receipt,
    ReportComplete,
    ReportHeld,
    lanes_of_report,
    outcome_path,
    report_bytes,
    report_path,
)
from edge_runtime.session import Request

RETRY_S: Final = 900.0
_OFFSET_DIGITS: Final = 12


@dataclass(frozen=True, slots=True)
class _Awaited:
    """A participation, whose it is, and what its report must look like."""

    device: str
    participation: str
    plan: Plan
    parameters: int

    @property
    def body_bytes(self) -> int:
        return report_bytes(self.plan.lanes(), self.parameters)

    def check(self, report: bytes) -> None:
        """Return if an honest device could have sent this report in plain."""
        lanes = self.plan.lanes()
        packed = lanes_of_report(report, self.participation, lanes, self.parameters)
        lanes.check_plain(lanes.unpack(packed, self.parameters))


@dataclass(slots=True)
class Participations:
    """Takes what devices send at the end of a participation, as a coordinator does.

    Attributes:
        reports: The reports that came, by participation.
        outcomes: The outcomes that came, likewise.
    """

    reports: dict[str, bytes] = field(default_factory=dict)
    outcomes: dict[str, OutcomeNote] = field(default_factory=dict)
    _awaited: dict[str, _Awaited] = field(default_factory=dict)
    _parts: dict[str, bytes] = field(default_factory=dict)

    def clear(self) -> None:
        """Forget all of them, and what came."""
        for known in (self.reports, self.outcomes, self._awaited, self._parts):
            known.clear()

    def await_report(self, device: str, participation: str, plan: Plan, parameters: int) -> None:
        """Take what this device sends of this participation."""
        self._awaited[participation] = _Awaited(device, participation, plan, parameters)

    def answer(self, device: str, request: Request) -> Receipt | ReportHeld | OutcomeNoted:
        """Answer a request of a device.

        Raises:
            Refusal: As a coordinator refuses it.
        """
        for awaited in self._awaited.values():
            participation = awaited.participation
            mine = request.path.startswith((report_path(participation), outcome_path(participation)))
            if mine and awaited.device == device:
                return self._answer(awaited, request)
        if "/participations/" in request.path:
            raise UnknownParticipation("no such participation")
        raise NotFound(f"there is nothing at {request.path}")

    def _answer(self, awaited: _Awaited, request: Request) -> Receipt | ReportHeld | OutcomeNoted:
        participation = awaited.participation
        match request.method, request.path.removeprefix(report_path(participation)):
            case "PUT", "":
                if len(request.body) > awaited.body_bytes:
                    raise ReportLength(f"a report of this plan has {awaited.body_bytes} bytes")
                return self._counted(awaited, request.body, digest(request.body).hex())
            case "POST", "":
                return self._complete(awaited, wire.decode(ReportComplete, request.body))
            case "GET", "/parts":
                return ReportHeld(version=1, held_bytes=self._held(awaited))
            case "PUT", rest if rest.startswith("/parts/"):
                return self._part(awaited, rest.removeprefix("/parts/"), request.body)
            case "POST", path if path == outcome_path(participation):
                return self._ended(participation, wire.decode(OutcomeNote, request.body))
        raise NotFound(f"there is nothing at {request.path}")

    def _counted(self, awaited: _Awaited, report: bytes | None, sha256: str) -> Receipt:
        """Count a report that is here, whole; None if it is to be put together from its parts."""
        participation = awaited.participation
        if participation in self.reports:
            if digest(self.reports[participation]).hex() != sha256:
                raise ConflictingReport("another report was already received for this participation")
        else:
            self._not_ended(participation)
            whole = self._whole(participation, sha256) if report is None else report
            awaited.check(whole)
            self.reports[participation] = whole
        self._parts.pop(participation, None)
        return Receipt(version=1, participation=participation, report_sha256=sha256, retry_after_s=RETRY_S)

    def _complete(self, awaited: _Awaited, complete: ReportComplete) -> Receipt:
        return self._counted(awaited, None, complete.report_sha256)

    def _whole(self, participation: str, sha256: str) -> bytes:
        raw = self._parts.get(participation, b"")
        if digest(raw).hex() != sha256:
            self._parts.pop(participation, None)
            raise Unavailable("the parts are not this report; send them again", retry_after_s=60)
        return raw

    def _held(self, awaited: _Awaited) -> int:
        if awaited.participation in self.reports:
            return awaited.body_bytes
        self._not_ended(awaited.participation)
        return len(self._parts.get(awaited.participation, b""))

    def _part(self, awaited: _Awaited, offset: str, raw: bytes) -> ReportHeld:
        """Keep a part that begins within or at the end of what is held; any other changes nothing."""
        if len(raw) > PART_BYTES:
            raise BodyTooLarge(f"a part has at most {PART_BYTES} bytes")
        if not offset.isdecimal() or len(offset) > _OFFSET_DIGITS:
            raise NotFound("a part is addressed by its offset")
        at, held = int(offset), self._held(awaited)
        if awaited.participation not in self.reports and at <= held and at + len(raw) <= awaited.body_bytes:
            before = self._parts.get(awaited.participation, b"")
            self._parts[awaited.participation] = before[:at] + raw + before[at + len(raw) :]
        return ReportHeld(version=1, held_bytes=self._held(awaited))

    def _ended(self, participation: str, note: OutcomeNote) -> OutcomeNoted:
        if participation in self.reports:
            raise ConflictingReport("a report was already received for this participation")
        self.outcomes.setdefault(participation, note)
        return OutcomeNoted(version=1, retry_after_s=RETRY_S)

    def _not_ended(self, participation: str) -> None:
        if participation in self.outcomes:
            raise ParticipationEnded(f"the participation ended: {self.outcomes[participation].reason}")
