"""A coordinator in the same process, as a transport: real messages, checked signatures, answers as it is told."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from edge_runtime.protocol import wire
from edge_runtime.protocol.bundle import Manifest, encode_bundle
from edge_runtime.protocol.checkin import (
    CHECK_IN_PATH,
    Assignment,
    CheckIn,
    CheckInAnswer,
    RetryWindow,
    bundle_path,
    checkpoint_path,
)
from edge_runtime.protocol.checkpoint import Weights, encode_checkpoint
from edge_runtime.protocol.enrolment import DEVICE_PATH, ENROL_PATH, Enrol, Enrolled, Left, Problem
from edge_runtime.protocol.errors import (
    BadSignature,
    ClockSkew,
    DeviceLeft,
    Refusal,
    ReplayedRequest,
    SwitchedOff,
    Unavailable,
    UnknownDevice,
)
from edge_runtime.protocol.header import RoundHeader, SignedRound, header_path, sign_header
from edge_runtime.protocol.keys import PublicKey, SigningKey, TrustRoots, device_id, digest
from edge_runtime.protocol.plan import Close, Plan, Privacy, Summing, sign_plan
from edge_runtime.protocol.policy import Policy
from edge_runtime.protocol.reasons import Wait
from edge_runtime.protocol.release import RELEASE_PATH, Released, ReleaseQuery
from edge_runtime.protocol.report import OutcomeNote
from edge_runtime.protocol.signing import claimed, verify_body, verify_request
from edge_runtime.session import Request, Response, Unreachable
from edge_runtime.testing.linear import GRAPH, linear_manifest
from edge_runtime.testing.reports import Participations

TENANT_KEY: Final = SigningKey(digest(b"tenant key of edge_runtime.testing"))
COORDINATOR_KEY: Final = SigningKey(digest(b"coordinator key of edge_runtime.testing"))
ROOTS: Final = TrustRoots(tenant=TENANT_KEY.public, coordinator=COORDINATOR_KEY.public)


@dataclass(slots=True)
class _Device:
    key: PublicKey
    left: bool = False


@dataclass(slots=True, kw_only=True)
class FakeCoordinator:
    """A coordinator in memory: give it to `Runtime` as its transport. Use `ROOTS` as the trust roots.

    It sums plainly: there is no group with one device in it. Under a plan that sums securely a device ends with
    "group-refused".

    Attributes:
        tenant, population: Whose devices it takes.
        manifest: Of the bundle that it serves; the graph is made up.
        weights: What it serves as the current model; zeros by default.
        clipping_norm: What the headers of rounds name, for a plan whose norm adapts; None for the plan's.
        policy: What it sends with its answers.
        now_s: Its clock, seconds since the epoch; a request whose signature is further off is refused. None trusts
            every clock.
        participations: What came at the end of each.
        asked: Method and path of every request, in order.
        devices: Whoever enrolled, by device id.
    """

    tenant: str = "acme"
    population: str = "keyboard"
    manifest: Manifest = field(default_factory=linear_manifest)
    weights: Weights | None = None
    clipping_norm: float | None = None
    policy: Policy | None = None
    now_s: int | None = None
    participations: Participations = field(default_factory=Participations)
    asked: list[tuple[str, str]] = field(default_factory=list)
    devices: dict[str, _Device] = field(default_factory=dict)
    _script: deque[Assignment | RetryWindow | Response | Exception] = field(default_factory=deque)
    _given: dict[str, Assignment] = field(default_factory=dict)
    _nonces: set[str] = field(default_factory=set)
    _failures: deque[Response | Exception] = field(default_factory=deque)
    _switched_off: float | None = None
    _assigned: int = 0

    @property
    def reports(self) -> dict[str, bytes]:
        """The reports that came, by participation."""
        return self.participations.reports

    @property
    def outcomes(self) -> dict[str, OutcomeNote]:
        """The outcomes that came, by participation."""
        return self.participations.outcomes

    # --- what it is told ----------------------------------------------------------------------------------------

    def assign(self, *, deadline_s: float = 86_400.0, **changes: Any) -> Plan:
        """Choose the device at a check-in to come; the changes are to fields of the plan, which is returned."""
        plan = dataclasses.replace(self._plan(), **changes)
        raw, signature = sign_plan(plan, TENANT_KEY)
        self._assigned += 1
        self._script.append(
            Assignment(
                participation=digest(b"participation", str(self._assigned).encode()).hex()[:32],
                round=self._assigned,
                plan=raw,
                plan_signature=signature,
                checkpoint_sha256=digest(self.checkpoint).hex(),
                deadline_s=deadline_s,
            )
        )
        return plan

    def wait(self, reason: Wait = Wait.NO_TASK, after_s: float = 900.0) -> None:
        """Give a retry window at a check-in to come. Without any word it is "no-task" and 900 s."""
        self._script.append(RetryWindow(reason=reason, after_s=after_s, spread_s=0.0))

    def fail(self, status: int = 503, body: bytes = b"", retry_after_s: float | None = None) -> None:
        """Answer a request to come with this, whatever it asks."""
        self._failures.append(Response(status, body, retry_after_s))

    def go_silent(self, times: int = 3) -> None:
        """Give no answer to so many tries."""
        self._failures.extend(Unreachable("silent") for _ in range(times))

    def forget(self) -> None:
        """Know no device and no participation any more, as after a restored backup."""
        self.devices.clear()
        self._given.clear()
        self.participations.clear()

    def switch_off(self, retry_after_s: float = 86_400.0) -> None:
        """Throw the kill switch."""
        self._switched_off = retry_after_s

    def switch_on(self) -> None:
        """Take the kill switch back."""
        self._switched_off = None

    # --- what it serves -----------------------------------------------------------------------------------------

    @property
    def bundle(self) -> bytes:
        """The bundle's bytes."""
        return encode_bundle(self.manifest, GRAPH, TENANT_KEY)

    @property
    def checkpoint(self) -> bytes:
        """The current checkpoint's bytes."""
        weights = np.zeros(self.manifest.parameters, np.float32) if self.weights is None else self.weights
        return encode_checkpoint(weights, digest(self.bundle).hex(), 1, COORDINATOR_KEY)

    def _plan(self) -> Plan:
        return Plan(
            version=Plan.VERSION,
            tenant=self.tenant,
            population=self.population,
            bundle_sha256=digest(self.bundle).hex(),
            epochs=1,
            batch_size=self.manifest.batch_size,
            learning_rate=0.1,
            proximal_mu=0.0,
            clipping_norm=10.0,
            lane_bits=32,
            expected_participants=1,
            max_participants=1,
            goal=1,
            min_reports=1,
            close=Close.GOAL,
            summing=Summing.PLAIN,
            privacy=Privacy.NONE,
            min_examples=1,
            time_limit_s=600.0,
        )

    def __call__(self, request: Request, headers: dict[str, str]) -> Response:
        """Carry one request: the transport."""
        self.asked.append((request.method, request.path))
        if self._failures:
            answer = self._failures.popleft()
            if isinstance(answer, Exception):
                raise answer
            return answer
        try:
            answer = self._answer(request, headers)
        except Refusal as refusal:
            return self._problem(refusal)
        return answer if isinstance(answer, Response) else Response(200, wire.encode(answer))

    def _answer(self, request: Request, headers: Mapping[str, str]) -> Any:
        device = self._signed(request, headers)
        if request.path == DEVICE_PATH:
            self.devices[device].left = True
            return Left(version=1, device_id=device)
        if self.devices[device].left:
            raise DeviceLeft("its owner took it out")
        if self._switched_off is not None:
            raise SwitchedOff("switched off", retry_after_s=self._switched_off)
        if request.path == ENROL_PATH:
            version = wire.decode(Enrol, request.body).version
            return Enrolled(version=version, device_id=device, retry_after_s=0.0, policy=self.policy)
        if request.path == CHECK_IN_PATH:
            return self._checked_in(device, wire.decode(CheckIn, request.body))
        if request.path == RELEASE_PATH:
            return self._released(wire.decode(ReleaseQuery, request.body))
        for path, raw in self._blobs().items():
            if request.path == path:
                return Response(200, raw)
        for assignment in self._given.values():
            if request.path == header_path(assignment.participation):
                return self._header(assignment)
        return self.participations.answer(device, request)

    def _header(self, assignment: Assignment) -> SignedRound:
        header = RoundHeader(
            version=1,
            tenant=self.tenant,
            task=self.population,
            round=assignment.round,
            plan_sha256=digest(assignment.plan).hex(),
            checkpoint_sha256=assignment.checkpoint_sha256,
            clipping_norm=self.clipping_norm or wire.decode(Plan, assignment.plan).clipping_norm,
        )
        return sign_header(header, COORDINATOR_KEY)

    def _signed(self, request: Request, headers: Mapping[str, str]) -> str:
        claim = claimed({name.lower(): value for name, value in headers.items()})
        if request.path == ENROL_PATH:
            enrol = wire.decode(Enrol, request.body)
            found = _Device(PublicKey(enrol.public_key))
            if claim.keyid != device_id(self.tenant, found.key):
                raise BadSignature("an enrolment is signed under the id of the key it brings")
        elif claim.keyid in self.devices:
            found = self.devices[claim.keyid]
        else:
            raise UnknownDevice("enrol first")
        now = claim.created if self.now_s is None else self.now_s
        verify_request(claim, found.key, request.method, request.path, now=now)
        verify_body(claim, digest(request.body))
        if claim.nonce in self._nonces:
            raise ReplayedRequest("this very request came before")
        self._nonces.add(claim.nonce)
        self.devices.setdefault(claim.keyid, found)
        return claim.keyid

    def _checked_in(self, device: str, message: CheckIn) -> Any:
        if message.visit not in self._given:
            told = self._script.popleft() if self._script else RetryWindow(reason=Wait.NO_TASK, after_s=900, spread_s=0)
            if isinstance(told, RetryWindow):
                return CheckInAnswer(version=message.version, assignment=None, retry=told, policy=self.policy)
            if not isinstance(told, Assignment):
                return told
            self._given[message.visit] = told
            plan = wire.decode(Plan, told.plan)
            values = plan.values(self.manifest.shared_parameters)
            self.participations.await_report(device, told.participation, plan, values)
        assignment = self._given[message.visit]
        return CheckInAnswer(version=message.version, assignment=assignment, retry=None, policy=self.policy)

    def _released(self, _query: ReleaseQuery) -> Released:
        sha256 = digest(self.checkpoint).hex()
        return Released(
            version=1,
            bundle_sha256=digest(self.bundle).hex(),
            checkpoint_sha256=sha256,
            model_version=1,
            final=False,
        )

    def _blobs(self) -> dict[str, bytes]:
        bundle, checkpoint = self.bundle, self.checkpoint
        return {
            bundle_path(digest(bundle).hex()): bundle,
            checkpoint_path(digest(checkpoint).hex()): checkpoint,
        }

    def _problem(self, refusal: Refusal) -> Response:
        status = 401 if isinstance(refusal, BadSignature | ClockSkew | UnknownDevice) else 400
        status = 503 if isinstance(refusal, Unavailable) else status
        problem = Problem(
            type=f"urn:edgewise:refusal:{refusal.code}",
            title=refusal.title,
            status=status,
            detail=refusal.detail,
            code=refusal.code,
            retry=refusal.retry,
            retry_after_s=refusal.retry_after_s,
            server_time=self.now_s or 0,
        )
        return Response(status, wire.encode(problem))
