"""A coordinator that sums in groups, around the fake one: appointments as the test says, and members beside the device.

The device under test is a whole `Runtime` with its journal; the other members run the same session in memory, and go
on whenever the device asks for something.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

from edge_runtime import Floors, Runtime
from edge_runtime.protocol import wire
from edge_runtime.protocol.checkin import Assignment
from edge_runtime.protocol.enrolment import ENROL_PATH, Enrol, Enrolled
from edge_runtime.protocol.group import Appointment, Opened, Step
from edge_runtime.protocol.keys import PublicKey, TrustRoots, digest
from edge_runtime.protocol.plan import Plan, Summing
from edge_runtime.protocol.secure_sum.roster import sign_certificate
from edge_runtime.protocol.secure_sum.transcript import Terms
from edge_runtime.session import Request, Response, Session
from edge_runtime.session.group import Quit
from edge_runtime.session.terms import terms_of
from edge_runtime.testing import ROOTS
from tests.edge_runtime.protocol.secure_sum.groups import AUTHORITY
from tests.edge_runtime.runtime.bench import POLICY, Bench
from tests.edge_runtime.session.group_server import NO_FLOORS, GroupServer, Phone, phone_of

TRUSTED: Final = TrustRoots(ROOTS.tenant, ROOTS.coordinator, AUTHORITY.public)
FLOORS: Final = Floors(limits=POLICY, groups=NO_FLOORS)
MEMBERS: Final = 5
DEVICE: Final = "device"


class Killed(BaseException):
    """The process ends here."""


@dataclass
class Hall:
    """Everything that the device reaches.

    Attributes:
        certifies: Whether enrolment gives a certificate.
        appointments: What is said to "trained", one after the other; the last one again and again.
        servers: The groups that formed, by id.
        gone: For the next group: the others that never send a step.
        trained: How often the device said that it has trained.
        dies_at: The request, counted from 1 after "trained", at which the device's process ends.
    """

    home: Bench
    certifies: bool = True
    appointments: deque[Appointment] = field(default_factory=deque)
    servers: dict[str, GroupServer] = field(default_factory=dict)
    gone: dict[str, Step] = field(default_factory=dict)
    trained: int = 0
    requests: list[Request] = field(default_factory=list)
    dies_at: int | None = None
    arrives: bool = True
    changed: Callable[[Request, Response], Response] = lambda _request, response: response
    _joined: str = ""
    _others: dict[str, list[tuple[Phone, Session[Opened | Quit], Request]]] = field(default_factory=dict)

    def __call__(self, request: Request, headers: dict[str, str]) -> Response:
        """Carry one request: the transport."""
        in_group = "/groups/" in request.path or request.path.endswith(("/trained", "/report"))
        if not in_group:
            response = self.home.coordinator(request, headers)
            return self._certified(request, response) if request.path == ENROL_PATH else response
        self.requests.append(request)
        dies = len(self.requests) == self.dies_at
        if dies and not self.arrives:
            raise Killed
        response = self.changed(request, self._answer(request))
        if dies:
            raise Killed
        return response

    def _answer(self, request: Request) -> Response:
        if request.path.endswith("/trained"):
            self.trained += 1
            named = self.appointments.popleft() if len(self.appointments) > 1 else self.appointments[0]
            return Response(200, wire.encode(named))
        if "/groups/" in request.path:
            self._joined = request.path.split("/")[4]
        group = self._joined
        server = self.servers[group]
        response = server.answer(DEVICE, request)
        while response.status == 202:
            if not self._advance(group):
                server.close_next()
            response = server.answer(DEVICE, request)
        return response

    def _advance(self, group: str) -> bool:
        """Let each of the others take a turn; whether any got on."""
        server, still, got_on = self.servers[group], [], False
        for phone, session, request in self._others[group]:
            step = self.gone.get(phone.name)
            if step is not None and request.method != "GET" and _names(request, step):
                session.close()
                continue
            response = server.answer(phone.name, request)
            got_on = got_on or response.status != 202
            try:
                still.append((phone, session, session.send(response)))
            except StopIteration:
                got_on = True
        self._others[group] = still
        return got_on

    def _certified(self, request: Request, response: Response) -> Response:
        enrolled = wire.decode(Enrolled, response.body)
        key = PublicKey(wire.decode(Enrol, request.body).public_key)
        certificate = sign_certificate(AUTHORITY, "acme", key) if self.certifies else b""
        return Response(200, wire.encode(replace(enrolled, certificate=certificate)))

    # --- what it is told ----------------------------------------------------------------------------------------

    def assign(self, **changes: Any) -> Plan:
        """Choose the device, under a plan that sums securely in groups of `MEMBERS`."""
        secure: dict[str, Any] = {
            "summing": Summing.SECURE,
            "lane_bits": 24,
            "max_participants": MEMBERS,
            "expected_participants": MEMBERS,
            "goal": MEMBERS,
            "fewest_members": 3,
            "survivors": 4,
            "corrupt_permille": 0,
        }
        return self.home.coordinator.assign(**(secure | changes))

    def appoint(self, in_s: float = 0.0, group: str | None = None) -> None:
        """Say when to come, or which group forms now; the others of that group are there."""
        self.appointments.append(Appointment(version=1, task="words", in_s=in_s, window_s=60.0, group=group))
        if group is not None:
            self._form(group)

    def _form(self, group: str) -> None:
        assignment = self.home.coordinator._script[-1]
        assert isinstance(assignment, Assignment)
        terms = self.terms(assignment, group)
        phones = [phone_of(terms, number, lanes(terms, number)) for number in range(1, MEMBERS)]
        names = frozenset((DEVICE, *(phone.name for phone in phones)))
        self.servers[group] = GroupServer(terms, names, participations={DEVICE: assignment.participation})
        self._others[group] = []
        for phone in phones:
            session = phone.session()
            self._others[group].append((phone, session, next(session)))

    def terms(self, assignment: Assignment, group: str) -> Terms:
        plan = wire.decode(Plan, assignment.plan)
        return terms_of(
            plan,
            plan_sha256=digest(assignment.plan).hex(),
            round_=assignment.round,
            checkpoint_sha256=assignment.checkpoint_sha256,
            values=plan.values(self.home.coordinator.manifest.shared_parameters),
            task="words",
            group=group,
            clipping_norm=self.home.coordinator.clipping_norm,
        )

    @contextmanager
    def runtime(self, **changes: Any) -> Iterator[Runtime]:
        """A process of the device."""
        self.home.transport, self.home.roots = self, changes.pop("roots", TRUSTED)
        with self.home.runtime(**({"floors": FLOORS} | changes)) as runtime:
            yield runtime


def lanes(terms: Terms, number: int) -> Any:
    """What another member contributes: its number in every lane but the zero ones."""
    import numpy as np

    found = np.zeros(terms.lanes.count(terms.parameters), np.uint32)
    found[:-4] = number
    return found


OF_THE_OTHERS: Final = sum(range(1, MEMBERS))


def _names(request: Request, step: Step) -> bool:
    if step is Step.MASKED:
        return request.method == "PUT"
    return request.path.endswith(f"/{step.value}")
