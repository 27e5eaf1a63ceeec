"""What a swarm needs at its coordinator, brought through the operator API: population, bundle, checkpoint, task."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import numpy as np

from edge_runtime.protocol.bundle import (
    DefaultPlan,
    Input,
    Manifest,
    Operator,
    Output,
    Role,
    Schema,
    Tensor,
    encode_bundle,
)
from edge_runtime.protocol.checkpoint import encode_checkpoint
from edge_runtime.protocol.keys import PublicKey, SigningKey, digest
from edge_runtime.protocol.plan import Close, Plan, Privacy, Summing, sign_plan
from loadtest.problems import SetUpError
from loadtest.verdict import CoordinatorView

OVER_SELECTION: Final = 1.3
RETRY_S: Final = 900.0
"""The retry window after a check-in and after a report; phones of a swarm wait it out sped up."""
GRAPH_BYTES: Final = 64 << 10
DEADLINE_S: Final = 30.0
ROUNDS: Final = 100_000
"""More than any run commits."""


@dataclass(frozen=True, slots=True)
class Target:
    """A coordinator, and what opens it."""

    url: str
    tenant: str
    token: str = field(repr=False)
    tenant_key: SigningKey
    coordinator_key: PublicKey


@dataclass(frozen=True, slots=True)
class Programme:
    """What was published for one run."""

    population: str
    task: str
    first_weights_sha256: str


@dataclass(frozen=True, slots=True)
class Size:
    """How large a programme is."""

    parameters: int
    phones: int
    goal: int
    seed: int


class Operators:
    """The operator API as one caller sees it."""

    def __init__(self, client: httpx.Client, token: str) -> None:
        self._client = client
        self._headers = {"authorization": f"Bearer {token}"}

    def call(self, method: str, path: str, *, content: bytes | None = None, json: object = None) -> Any:
        """Call, and return the JSON of the answer; None when there is none.

        Raises:
            SetUpError: The coordinator refused, or gave no answer.
        """
        try:
            answer = self._client.request(
                method, f"/v1/operator{path}", content=content, json=json, headers=self._headers
            )
            tree = answer.json() if answer.content else None
        except httpx.TransportError as problem:
            raise SetUpError(f"no coordinator answers at {self._client.base_url}: {problem}") from problem
        except ValueError:
            raise SetUpError(f"what answers at {self._client.base_url} is not a coordinator") from None
        if answer.is_success:
            return tree
        detail = tree.get("detail") if isinstance(tree, dict) else None
        raise SetUpError(f"the coordinator refused {method} {path}: {detail or f'HTTP {answer.status_code}'}")

    def healthy(self) -> bool:
        try:
            return self._client.get("/healthz").status_code == 200
        except httpx.TransportError:
            return False


def publish(operators: Operators, target: Target, name: str, size: Size) -> Programme:
    """Make a population and a task of this name; the graph is made up, since no coordinator looks inside one.

    Raises:
        SetUpError: The coordinator refused, or gave no answer.
    """
    manifest, graph = made_up_model(size.parameters)
    bundle = encode_bundle(manifest, graph, target.tenant_key)
    sha256 = digest(bundle).hex()
    weights = np.random.default_rng(size.seed).standard_normal(manifest.parameters, dtype=np.float32)
    checkpoint = encode_checkpoint(weights, sha256, 0, target.tenant_key)
    operators.call("PUT", f"/populations/{name}")
    operators.call("PUT", f"/bundles/{sha256}", content=bundle)
    first = operators.call("POST", f"/bundles/{sha256}/checkpoints", content=checkpoint)
    order = task_order(name, made_up_plan(target.tenant, name, sha256, size.goal), target.tenant_key, size)
    operators.call("POST", "/tasks", json={**order, "checkpoint_sha256": first["sha256"]})
    for step in ("approve", "start"):
        operators.call("POST", f"/tasks/{name}/{step}")
    return Programme(population=name, task=name, first_weights_sha256=first["weights_sha256"])


def made_up_model(parameters: int) -> tuple[Manifest, bytes]:
    """A manifest and a graph that no interpreter could run."""
    graph = np.random.default_rng(0).bytes(GRAPH_BYTES)
    manifest = Manifest(
        version=Manifest.VERSION,
        name="made-up",
        graph_sha256=digest(graph).hex(),
        tensors=(Tensor(name="kernel", shape=(parameters,), trainable=True, role=Role.BASE),),
        slots=(),
        features=Schema(shape=(4,), dtype="float32", low=0.0, high=1.0),
        inputs=(Input(name="x", shape=(4,)),),
        labels=Schema(shape=(), dtype="int32", low=0.0, high=1.0),
        class_names=("no", "yes"),
        outputs=(Output(name="probabilities", shape=(2,)),),
        loss="sparse_categorical_crossentropy",
        metrics=("correct",),
        optimizer="sgd",
        proximal=False,
        seeded=False,
        batch_size=8,
        dynamic_batch=False,
        default_plan=DefaultPlan(epochs=1, batch_size=8, learning_rate=0.1),
        signatures=("train", "evaluate"),
        operators=(Operator(name="ADD", version=1),),
        minimum_runtime="2.14.0",
        measured=None,
        exporter="edgewise-loadtest",
    )
    return manifest, graph


def made_up_plan(tenant: str, population: str, bundle_sha256: str, goal: int) -> Plan:
    """A plan whose rounds close when every participant has answered, so that no report comes too late.

    It sums in plain, by name, and the task has the warning of that: a swarm measures check-ins and reports. What a
    secure round costs is a row of the bench.
    """
    return Plan(
        version=1,
        tenant=tenant,
        population=population,
        bundle_sha256=bundle_sha256,
        epochs=1,
        batch_size=8,
        learning_rate=0.1,
        proximal_mu=0.0,
        clipping_norm=4.0,
        lane_bits=32,
        expected_participants=goal,
        max_participants=2 * goal,
        goal=goal,
        min_reports=max(1, goal // 2),
        close=Close.ALL_RESOLVED,
        summing=Summing.PLAIN,
        privacy=Privacy.NONE,
        min_examples=1,
        time_limit_s=600.0,
    )


def task_order(name: str, plan: Plan, key: SigningKey, size: Size) -> dict[str, object]:
    """The body of the request that makes the task, but for its first checkpoint."""
    raw, signature = sign_plan(plan, key)
    chosen = math.ceil(size.goal * OVER_SELECTION)
    return {
        "name": name,
        "plan": base64.b64encode(raw).decode(),
        "plan_signature": base64.b64encode(signature).decode(),
        "settings": {
            "stop": {"rounds": ROUNDS},
            "over_selection": OVER_SELECTION,
            "pool_size": min(size.phones, 2 * chosen),
            "selecting_deadline_s": DEADLINE_S,
            "reporting_deadline_s": DEADLINE_S,
            "retry_rejected_s": RETRY_S,
            "retry_reported_s": RETRY_S,
        },
    }


def observe(operators: Operators, programme: Programme) -> CoordinatorView:
    """Ask how the run ended; a coordinator that does not answer is not alive."""
    try:
        task = operators.call("GET", f"/tasks/{programme.task}")
        rounds = operators.call("GET", f"/tasks/{programme.task}/rounds")
    except SetUpError:
        return CoordinatorView(alive=False)
    return CoordinatorView(
        alive=operators.healthy(),
        rounds_committed=task["rounds_committed"],
        rounds_abandoned=sum(round_["phase"] == "abandoned" for round_ in rounds),
        reports_held=sum(round_["reports"] for round_ in rounds),
        reports_counted=sum(round_["reports"] for round_ in rounds if round_["phase"] == "committed"),
        weights_changed=task["weights_sha256"] != programme.first_weights_sha256,
    )
