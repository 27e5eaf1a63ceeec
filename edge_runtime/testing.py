"""For an app's own unit tests: a coordinator in the same process, and a model that needs no interpreter.

The coordinator is a transport: it speaks the real protocol, checks every signature, and answers as it is told. Nothing
here belongs into an app.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from edge_runtime.interpreters import Array
from edge_runtime.model import Model
from edge_runtime.protocol import wire
from edge_runtime.protocol.bundle import (
    Bundle,
    DefaultPlan,
    Input,
    Manifest,
    Output,
    Role,
    Schema,
    Tensor,
    encode_bundle,
)
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
    NotFound,
    Refusal,
    ReplayedRequest,
    SwitchedOff,
    UnknownDevice,
    UnknownParticipation,
)
from edge_runtime.protocol.keys import PublicKey, SigningKey, TrustRoots, device_id, digest
from edge_runtime.protocol.plan import Close, Plan, Privacy, Summing, sign_plan
from edge_runtime.protocol.policy import Policy
from edge_runtime.protocol.reasons import Outcome, Wait
from edge_runtime.protocol.release import RELEASE_PATH, Released, ReleaseQuery
from edge_runtime.protocol.report import OutcomeNote, OutcomeNoted, Receipt, outcome_path, report_path
from edge_runtime.protocol.signing import claimed, verify_body, verify_request
from edge_runtime.session import Request, Response, Unreachable

TENANT_KEY: Final = SigningKey(digest(b"tenant key of edge_runtime.testing"))
COORDINATOR_KEY: Final = SigningKey(digest(b"coordinator key of edge_runtime.testing"))
ROOTS: Final = TrustRoots(tenant=TENANT_KEY.public, coordinator=COORDINATOR_KEY.public)
GRAPH: Final = b"a linear model, without a graph"


def linear_manifest(features: int = 3, *, personal_bias: bool = False, batch_size: int = 4) -> Manifest:
    """A model with one output: the weighted sum of the features and a bias, trained by squared error."""
    bias = Role.PERSONAL if personal_bias else Role.BASE
    return Manifest(
        version=Manifest.VERSION,
        name="linear",
        graph_sha256=digest(GRAPH).hex(),
        tensors=(
            Tensor(name="kernel", shape=(features,), trainable=True, role=Role.BASE),
            Tensor(name="bias", shape=(), trainable=True, role=bias),
        ),
        slots=(),
        features=Schema(shape=(features,), dtype="float32", low=-10.0, high=10.0),
        inputs=(Input(name="x", shape=(features,)),),
        labels=Schema(shape=(), dtype="float32", low=-100.0, high=100.0),
        class_names=(),
        outputs=(Output(name="y", shape=()),),
        loss="mean_squared_error",
        metrics=(),
        optimizer="sgd",
        proximal=True,
        seeded=False,
        batch_size=batch_size,
        dynamic_batch=True,
        default_plan=DefaultPlan(epochs=1, batch_size=batch_size, learning_rate=0.1),
        signatures=("begin_round", "delta", "evaluate", "get_weights", "infer", "set_weights", "train"),
        operators=(),
        minimum_runtime="none",
        measured=None,
        exporter="edge_runtime.testing",
    )


class Linear:
    """The interpreter of `linear_manifest`, in numpy."""

    runtime = "numpy"

    def __init__(self, manifest: Manifest) -> None:
        self._signatures = manifest.signatures
        self._kernel = np.zeros(manifest.tensors[0].shape, np.float32)
        self._bias = np.float32(0)
        self._anchor = self._kernel, self._bias

    def signatures(self) -> tuple[str, ...]:
        """All of the contract but slots and private steps."""
        return self._signatures

    def call(self, signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run a signature."""
        found: dict[str, Array] = getattr(self, f"_{signature}")(**inputs)
        return found

    def _output(self, x: Array) -> Array:
        return np.asarray(x @ self._kernel + self._bias, np.float32)

    def _train(self, x: Array, y: Array, mask: Array, lr: Array, mu: Array) -> dict[str, Array]:
        error = (self._output(x) - y) * mask / mask.sum()
        loss = np.asarray(((self._output(x) - y) ** 2 * mask).sum() / mask.sum())
        pull = mu * (self._kernel - self._anchor[0]), mu * (self._bias - self._anchor[1])
        self._kernel = np.asarray(self._kernel - lr * (2 * x.T @ error + pull[0]), np.float32)
        self._bias = np.float32(self._bias - lr * (2 * error.sum() + pull[1]))
        return {"loss": loss}

    def _evaluate(self, x: Array, y: Array, mask: Array) -> dict[str, Array]:
        return {"loss_sum": np.asarray(((self._output(x) - y) ** 2 * mask).sum()), "count": mask.sum()}

    def _infer(self, x: Array) -> dict[str, Array]:
        return {"y": self._output(x)}

    def _begin_round(self) -> dict[str, Array]:
        self._anchor = self._kernel, self._bias
        return {"ok": np.array(1)}

    def _delta(self, clip: Array) -> dict[str, Array]:
        kernel, bias = self._kernel - self._anchor[0], np.asarray(self._bias - self._anchor[1])
        return {"kernel": kernel, "bias": bias, "norm": np.sqrt((kernel**2).sum() + bias**2)}

    def _get_weights(self) -> dict[str, Array]:
        return {"kernel": self._kernel, "bias": np.asarray(self._bias)}

    def _set_weights(self, kernel: Array, bias: Array) -> dict[str, Array]:
        self._kernel, self._bias = kernel.copy(), np.float32(bias)
        return {"ok": np.array(1)}


@dataclass(frozen=True, slots=True)
class LinearEngine:
    """Opens the bundles of a `FakeCoordinator` with numpy: no interpreter needs to be installed."""

    name: str = "numpy, for tests"

    def open(self, bundle: Bundle) -> Model:
        """Make the model of a linear manifest."""
        return Model(bundle, Linear(bundle.manifest))


@dataclass(slots=True)
class _Device:
    key: PublicKey
    left: bool = False


@dataclass(slots=True, kw_only=True)
class FakeCoordinator:
    """A coordinator in memory: give it to `Runtime` as its transport. Use `ROOTS` as the trust roots.

    Attributes:
        tenant, population: Whose devices it takes.
        manifest: Of the bundle that it serves; the graph is made up.
        weights: What it serves as the current model; zeros by default.
        policy: What it sends with its answers.
        now_s: Its clock, seconds since the epoch; a request whose signature is further off is refused. None trusts
            every clock.
        reports: The reports that came, by participation.
        outcomes: The outcomes that came, likewise.
        asked: Method and path of every request, in order.
        devices: Whoever enrolled, by device id.
    """

    tenant: str = "acme"
    population: str = "keyboard"
    manifest: Manifest = field(default_factory=linear_manifest)
    weights: Weights | None = None
    policy: Policy | None = None
    now_s: int | None = None
    reports: dict[str, bytes] = field(default_factory=dict)
    outcomes: dict[str, OutcomeNote] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    devices: dict[str, _Device] = field(default_factory=dict)
    _script: deque[Assignment | RetryWindow | Response | Exception] = field(default_factory=deque)
    _given: dict[str, Assignment] = field(default_factory=dict)
    _nonces: set[str] = field(default_factory=set)
    _failures: deque[Response | Exception] = field(default_factory=deque)
    _switched_off: float | None = None
    _participations: int = 0

    # --- what it is told ----------------------------------------------------------------------------------------

    def assign(self, *, deadline_s: float = 86_400.0, **changes: Any) -> Plan:
        """Choose the device at a check-in to come; the changes are to fields of the plan, which is returned."""
        plan = dataclasses.replace(self._plan(), **changes)
        raw, signature = sign_plan(plan, TENANT_KEY)
        self._participations += 1
        self._script.append(
            Assignment(
                participation=digest(b"participation", str(self._participations).encode()).hex()[:32],
                round=self._participations,
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
            return self._checked_in(wire.decode(CheckIn, request.body))
        if request.path == RELEASE_PATH:
            return self._released(wire.decode(ReleaseQuery, request.body))
        for path, raw in self._blobs().items():
            if request.path == path:
                return Response(200, raw)
        return self._ended(request)

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

    def _checked_in(self, message: CheckIn) -> Any:
        if message.visit not in self._given:
            told = self._script.popleft() if self._script else RetryWindow(reason=Wait.NO_TASK, after_s=900, spread_s=0)
            if isinstance(told, RetryWindow):
                return CheckInAnswer(version=message.version, assignment=None, retry=told, policy=self.policy)
            if not isinstance(told, Assignment):
                return told
            self._given[message.visit] = told
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

    def _ended(self, request: Request) -> Any:
        for assignment in self._given.values():
            participation = assignment.participation
            if request.path == report_path(participation):
                self.reports.setdefault(participation, request.body)
                sha256 = digest(self.reports[participation]).hex()
                return Receipt(version=1, participation=participation, report_sha256=sha256, retry_after_s=900.0)
            if request.path == outcome_path(participation):
                self.outcomes.setdefault(participation, wire.decode(OutcomeNote, request.body))
                return OutcomeNoted(version=1, retry_after_s=900.0)
        if "/participations/" in request.path:
            raise UnknownParticipation("no such participation")
        raise NotFound(f"there is nothing at {request.path}")

    def _problem(self, refusal: Refusal) -> Response:
        status = 401 if isinstance(refusal, BadSignature | ClockSkew | UnknownDevice) else 400
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


__all__ = ["ROOTS", "FakeCoordinator", "LinearEngine", "Outcome", "Policy", "Wait", "linear_manifest"]
