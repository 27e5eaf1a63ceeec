"""Write the frozen vectors anew: `python -m tests.vectors.make`.

A file here never changes once devices speak its version: a change of bytes is a new version with new vectors. Keys are
digests of fixed texts, and every random choice has a fixed seed.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from coordinator.settings import Settings
from coordinator.store.blobs import BlobKind, FolderBlobs
from edge_runtime.privacy import private_report
from edge_runtime.protocol import checkin, enrolment, errors, reasons, release, report, wire
from edge_runtime.protocol.bundle import (
    DefaultPlan,
    Input,
    Manifest,
    Measured,
    Operator,
    Output,
    Role,
    Schema,
    Tensor,
    encode_bundle,
)
from edge_runtime.protocol.checkin import Assignment, CheckIn, CheckInAnswer, RetryWindow
from edge_runtime.protocol.checkpoint import encode_checkpoint
from edge_runtime.protocol.claims import AdaptiveNorm
from edge_runtime.protocol.enrolment import Enrol, Enrolled, Evidence, Left, Problem
from edge_runtime.protocol.header import RoundHeader, SignedRound, header_path
from edge_runtime.protocol.keys import Domain, SigningKey, device_id, digest, sign_document
from edge_runtime.protocol.measures import encode_measures
from edge_runtime.protocol.plan import Close, Kind, MetricRange, Plan, Privacy, RateStep, Summing, sign_plan
from edge_runtime.protocol.policy import Policy
from edge_runtime.protocol.release import Released, ReleaseQuery
from edge_runtime.protocol.report import Costs, OutcomeNote, OutcomeNoted, Receipt, ReportComplete, ReportHeld
from edge_runtime.protocol.signing import sign_request
from tests.vectors import counted, secure_sum

FOLDER: Final = Path(__file__).parent / "v1"
FOLDER_3: Final = Path(__file__).parent / "v3"
"""What version 3 of a message brought."""
FOLDER_5: Final = Path(__file__).parent / "v5"
"""What version 5 of the plan brought."""
TENANT_KEY: Final = SigningKey(digest(b"tenant key of the vectors"))
COORDINATOR_KEY: Final = SigningKey(digest(b"coordinator key of the vectors"))
DEVICE_KEY: Final = SigningKey(digest(b"device key of the vectors"))
STRANGER: Final = SigningKey(digest(b"a key nobody trusts"))
PARTICIPATION: Final = digest(b"participation").hex()[:32]
GRAPH: Final = b"TFL3 in name only"
MANIFEST: Final = Manifest(
    version=2,
    name="vectors",
    graph_sha256=digest(GRAPH).hex(),
    tensors=(
        Tensor(name="bias", shape=(2,), trainable=True, role=Role.PERSONAL),
        Tensor(name="kernel", shape=(3, 2), trainable=True, role=Role.BASE),
        Tensor(name="scale", shape=(), trainable=False, role=Role.BASE),
    ),
    slots=(Tensor(name="kernel_momentum", shape=(3, 2), trainable=False, role=Role.PERSONAL),),
    features=Schema(shape=(3,), dtype="float32", low=0.0, high=1.0),
    inputs=(Input(name="sensors", shape=(2,)), Input(name="age", shape=())),
    labels=Schema(shape=(), dtype="int32", low=0.0, high=1.0),
    class_names=("no", "yes"),
    outputs=(Output(name="logits", shape=(2,)), Output(name="probabilities", shape=(2,))),
    loss="sparse_categorical_crossentropy",
    metrics=("correct",),
    optimizer="sgd",
    proximal=True,
    seeded=False,
    batch_size=8,
    dynamic_batch=False,
    default_plan=DefaultPlan(epochs=1, batch_size=8, learning_rate=0.1),
    signatures=("evaluate", "get_slots", "infer", "set_slots", "train"),
    operators=(Operator(name="FULLY_CONNECTED", version=9),),
    minimum_runtime="2.14.0",
    measured=Measured(runtime="ai-edge-litert 2.1.0", step_ms=0.25, peak_memory_bytes=16777216),
    exporter="edgewise vectors",
)
MANIFEST_1: Final = (
    b'{"batch_size":8,"class_names":["no","yes"],"exporter":"edgewise vectors",'
    b'"features":{"dtype":"float32","high":1.0,"low":0.0,"shape":[3]},'
    b'"graph_sha256":"%s","minimum_runtime":"2.14.0","name":"vectors",'
    b'"operators":[{"name":"FULLY_CONNECTED","version":9}],"signatures":["evaluate","infer","train"],'
    b'"tensors":[{"name":"kernel","role":"base","shape":[3,2],"trainable":true}],"version":1}'
) % digest(GRAPH).hex().encode()
"""A manifest as version 1 had it."""
WEIGHTS: Final = np.linspace(-1, 1, MANIFEST.parameters, dtype=np.float32)
BUNDLE: Final = encode_bundle(MANIFEST, GRAPH, TENANT_KEY)
BUNDLE_SHA256: Final = digest(BUNDLE).hex()
CHECKPOINT: Final = encode_checkpoint(WEIGHTS, BUNDLE_SHA256, 7, COORDINATOR_KEY)
PLAN: Final = Plan(
    version=1,
    tenant="acme",
    population="keyboard",
    bundle_sha256=BUNDLE_SHA256,
    epochs=2,
    batch_size=8,
    learning_rate=0.1,
    proximal_mu=0.01,
    clipping_norm=1.5,
    lane_bits=32,
    expected_participants=100,
    max_participants=200,
    goal=100,
    min_reports=50,
    close=Close.ALL_RESOLVED,
    summing=Summing.PLAIN,
    privacy=Privacy.NONE,
    min_examples=16,
    time_limit_s=180.0,
)
DELTA: Final = np.asarray([0.5, -0.25, 0.0, 1.0, -1.25, 0.125], np.float32)
REPORT_SEED: Final = 20260105
REPORT: Final = private_report(PARTICIPATION, DELTA, PLAN, np.random.default_rng(REPORT_SEED))
PLAN_BYTES, PLAN_SIGNATURE = sign_plan(PLAN, TENANT_KEY)
PLAN_2: Final = replace(
    PLAN,
    version=2,
    rate_steps=(RateStep(from_epoch=1, factor=0.5), RateStep(from_epoch=2, factor=0.25)),
    max_steps=40,
    max_example_age_s=2592000.0,
    evaluates=True,
)
PLAN_2_BYTES, PLAN_2_SIGNATURE = sign_plan(PLAN_2, TENANT_KEY)
PLAN_3: Final = replace(
    PLAN,
    version=3,
    kind=Kind.EVALUATE,
    metrics=(MetricRange(name="correct", low=0.0, high=1.0), MetricRange(name="loss", low=0.0, high=10.0)),
    max_examples=64,
    clipping_norm=2.0,
)
PLAN_3_BYTES, PLAN_3_SIGNATURE = sign_plan(PLAN_3, TENANT_KEY)
MEASURES: Final = encode_measures(PLAN_3, {"correct": 0.75, "loss": 2.5, "unasked": 1.0}, 48)
PLAN_5: Final = replace(
    PLAN,
    version=5,
    summing=Summing.SECURE,
    lane_bits=24,
    expected_participants=100,
    max_participants=100,
    goal=100,
    fewest_members=64,
    survivors=80,
    privacy=Privacy.DISTRIBUTED,
    noise_multiplier=0.75,
    separation=100,
    separation_s=86400.0,
    most_participations=2,
    layer_shares=(1.0,),
    adaptive=AdaptiveNorm(quantile=0.5, smallest=0.125, largest=8.0, rate=0.25, count_noise=5.0),
)
"""Distributed noise, limits of participation, an adaptive norm."""
PLAN_5_EXAMPLES: Final = replace(
    PLAN,
    version=5,
    proximal_mu=0.0,
    example_clipping_norm=0.5,
    example_noise_multiplier=1.25,
)
"""Steps that hide examples, in plain sums that hide nobody."""
PLANS_5: Final = {
    "distributed": PLAN_5,
    "examples": PLAN_5_EXAMPLES,
    "local": replace(PLAN, version=5, privacy=Privacy.LOCAL, noise_multiplier=3.5),
    "central": replace(PLAN, version=5, privacy=Privacy.CENTRAL, noise_multiplier=1.0, most_participations=1),
    "correlated": replace(PLAN, version=5, privacy=Privacy.CORRELATED, noise_multiplier=6.5, separation=100),
    "none": replace(PLAN, version=5),
}
_MEASURING: Final[dict[str, Any]] = {
    "adaptive": None,
    "kind": "evaluate",
    "metrics": [{"name": "loss", "low": 0.0, "high": 10.0}],
    "max_examples": 64,
    "clipping_norm": 2.0,
}
POLICY: Final = Policy(needs_charging=True, quiet_hours=(0, 23), max_participations=10, daily_bytes=50_000_000)
DEVICE: Final = device_id("acme", DEVICE_KEY.public)

MESSAGES: Final[tuple[object, ...]] = (
    PLAN,
    MANIFEST,
    Enrol(
        version=1,
        tenant="acme",
        population="keyboard",
        public_key=DEVICE_KEY.public.raw,
        app="example",
        app_version="1.0",
        platform="linux",
        evidence=Evidence.NONE,
    ),
    Enrolled(version=1, device_id=DEVICE, retry_after_s=0.0),
    CheckIn(version=1, population="keyboard", visit="0" * 32, runtime="litert 2.1.0", examples=64),
    CheckInAnswer(
        version=1,
        assignment=Assignment(
            participation=PARTICIPATION,
            round=3,
            plan=PLAN_BYTES,
            plan_signature=PLAN_SIGNATURE,
            checkpoint_sha256=digest(CHECKPOINT).hex(),
            deadline_s=599.5,
        ),
        retry=None,
    ),
    CheckInAnswer(
        version=1,
        assignment=None,
        retry=RetryWindow(reason=reasons.Wait.NOT_SELECTED, after_s=900.0, spread_s=180.0),
    ),
    Receipt(version=1, participation=PARTICIPATION, report_sha256=digest(REPORT).hex(), retry_after_s=900.0),
    OutcomeNote(version=1, reason=reasons.Outcome.BATTERY_LOW),
    OutcomeNoted(version=1, retry_after_s=900.0),
    ReleaseQuery(version=1, population="keyboard", held_sha256=None),
    Released(
        version=1,
        bundle_sha256=BUNDLE_SHA256,
        checkpoint_sha256=digest(CHECKPOINT).hex(),
        model_version=7,
        final=False,
    ),
    Problem(
        type="urn:edgewise:refusal:clock-skew",
        title="The request was signed by a clock that is too far off",
        status=401,
        detail="the request's time is +301 s off; at most 300 s are allowed",
        code="clock-skew",
        retry="now",
        retry_after_s=None,
        server_time=1767614400,
    ),
    PLAN_2,
    POLICY,
    Enrol(
        version=2,
        tenant="acme",
        population="keyboard",
        public_key=DEVICE_KEY.public.raw,
        app="example",
        app_version="1.0",
        platform="linux",
        evidence=Evidence.NONE,
    ),
    Enrolled(version=2, device_id=DEVICE, retry_after_s=300.0, policy=POLICY),
    CheckIn(version=2, population="keyboard", visit="0" * 32, runtime="litert 2.1.0", examples=64),
    CheckInAnswer(
        version=2,
        assignment=None,
        retry=RetryWindow(reason=reasons.Wait.NO_TASK, after_s=900.0, spread_s=180.0),
        policy=None,
    ),
    OutcomeNote(
        version=2,
        reason=reasons.Outcome.SLICE_ENDED,
        costs=Costs(seconds=128, bytes=1048576, battery_percent=1),
    ),
    Left(version=1, device_id=DEVICE),
    ReportHeld(version=1, held_bytes=1048576),
    ReportComplete(version=1, report_sha256=digest(REPORT).hex()),
)


CHECK_IN_3: Final = CheckIn(
    version=3,
    population="keyboard",
    visit="0" * 32,
    runtime="litert 2.1.0",
    examples=64,
    app_version="2.4.0-beta.1",
    platform="android",
    region="DE",
    hardware_class="high",
    attributes={"beta": True, "language": "de", "ram_gb": 8},
)
MESSAGES_3: Final[tuple[object, ...]] = (
    CHECK_IN_3,
    replace(CHECK_IN_3, region=None, hardware_class=None, attributes={}),
    replace(CHECK_IN_3, attributes={"a": -(2**53) + 1, "b": "0", "c": 0, "d": False, "e": "Grüße"}),
    CheckInAnswer(
        version=3,
        assignment=None,
        retry=RetryWindow(reason=reasons.Wait.NO_TASK, after_s=900.0, spread_s=180.0),
        policy=None,
    ),
)


def _signed(domain: Domain, body: bytes, key: SigningKey) -> bytes:
    return body + sign_document(key, domain, digest(body))


def bundle_vectors() -> dict[str, Any]:
    """One bundle that is right, and ones that are wrong with the code each must be refused by."""
    body = BUNDLE[:-64]

    def made(change: Callable[[bytearray], None]) -> bytes:
        changed = bytearray(body)
        change(changed)
        return _signed(Domain.BUNDLE, bytes(changed), TENANT_KEY)

    def header(offset: int, layout: str, value: int) -> bytes:
        return made(lambda raw: struct.pack_into(layout, raw, offset, value))

    manifest = wire.encode(MANIFEST)
    other_graph = _signed(Domain.BUNDLE, body[: -len(GRAPH)] + GRAPH[::-1], TENANT_KEY)

    def with_manifest(text: bytes) -> bytes:
        header = struct.pack("<4sHHIQ", b"EWBN", 1, 0, len(text), len(GRAPH))
        return _signed(Domain.BUNDLE, header + text + GRAPH, TENANT_KEY)

    def manifest_with(**changes: Any) -> bytes:
        return with_manifest(json.dumps({**json.loads(manifest), **changes}).encode())

    tensor = json.loads(manifest)["tensors"][0]
    longer = {"name": "x", "shape": [4]}
    return {
        "tenant_key": TENANT_KEY.public.raw.hex(),
        "right": {"sha256": BUNDLE_SHA256, "raw": BUNDLE.hex()},
        "wrong": [
            _wrong("a byte of the graph was changed", "digest-mismatch", _flipped(BUNDLE, -80), BUNDLE_SHA256),
            _wrong("cut short", "digest-mismatch", BUNDLE[:-1], BUNDLE_SHA256),
            _wrong("a byte was changed and the address with it", "untrusted-document", _flipped(BUNDLE, -80)),
            _wrong("signed by a stranger", "untrusted-document", _signed(Domain.BUNDLE, body, STRANGER)),
            _wrong("signed as a checkpoint", "untrusted-document", _signed(Domain.CHECKPOINT, body, TENANT_KEY)),
            _wrong("signed as a plan", "untrusted-document", _signed(Domain.PLAN, body, TENANT_KEY)),
            _wrong("no more than a signature", "malformed-bundle", BUNDLE[-64:]),
            _wrong("nothing", "malformed-bundle", b""),
            _wrong("another magic", "malformed-bundle", made(lambda raw: raw.__setitem__(0, 0x50))),
            _wrong("the reserved field is not zero", "malformed-bundle", header(6, "<H", 1)),
            _wrong("a later version", "unsupported-version", header(4, "<H", 2)),
            _wrong("a graph of 2^64 - 1 bytes is announced", "malformed-bundle", header(12, "<Q", 2**64 - 1)),
            _wrong("a manifest of 2^32 - 1 bytes is announced", "malformed-bundle", header(8, "<I", 2**32 - 1)),
            _wrong("the announced graph is a byte short", "malformed-bundle", header(12, "<Q", len(GRAPH) - 1)),
            _wrong("the graph is not the manifest's", "digest-mismatch", other_graph),
            _wrong("the manifest has an unknown key", "malformed-bundle", manifest_with(extra=1)),
            _wrong("the manifest is of a later version", "unsupported-version", manifest_with(version=3)),
            _wrong("the manifest is of version 1", "unsupported-version", with_manifest(MANIFEST_1)),
            _wrong("two slots of one name", "malformed-bundle", manifest_with(slots=[tensor, tensor])),
            _wrong("the inputs are more than x", "malformed-bundle", manifest_with(inputs=[longer])),
            _wrong("a class without a name", "malformed-bundle", manifest_with(class_names=["no"])),
        ],
    }


def checkpoint_vectors() -> dict[str, Any]:
    body = CHECKPOINT[:-64]

    def header(offset: int, layout: str, value: int) -> bytes:
        changed = bytearray(body)
        struct.pack_into(layout, changed, offset, value)
        return _signed(Domain.CHECKPOINT, bytes(changed), COORDINATOR_KEY)

    def weight(value: float) -> bytes:
        return header(56, "<I", struct.unpack("<I", struct.pack("<f", value))[0])

    longer = encode_checkpoint(np.zeros(MANIFEST.parameters + 1, np.float32), BUNDLE_SHA256, 7, COORDINATOR_KEY)
    elsewhere = encode_checkpoint(WEIGHTS, digest(b"another bundle").hex(), 7, COORDINATOR_KEY)
    address = digest(CHECKPOINT).hex()
    return {
        "coordinator_key": COORDINATOR_KEY.public.raw.hex(),
        "bundle_sha256": BUNDLE_SHA256,
        "parameters": MANIFEST.parameters,
        "right": {
            "sha256": address,
            "raw": CHECKPOINT.hex(),
            "model_version": 7,
            "weights": [float(weight) for weight in WEIGHTS],
        },
        "wrong": [
            _wrong("a bit of a weight was changed", "digest-mismatch", _flipped(CHECKPOINT, 60), address),
            _wrong("cut short", "digest-mismatch", CHECKPOINT[:-1], address),
            _wrong("a bit was changed and the address with it", "untrusted-document", _flipped(CHECKPOINT, 60)),
            _wrong("signed by the tenant", "untrusted-document", _signed(Domain.CHECKPOINT, body, TENANT_KEY)),
            _wrong("signed as a bundle", "untrusted-document", _signed(Domain.BUNDLE, body, COORDINATOR_KEY)),
            _wrong("no more than a signature", "malformed-checkpoint", CHECKPOINT[-64:]),
            _wrong("another magic", "malformed-checkpoint", header(0, "<I", 0)),
            _wrong("the reserved field is not zero", "malformed-checkpoint", header(6, "<H", 1)),
            _wrong("a later version", "unsupported-version", header(4, "<H", 2)),
            _wrong("2^64 - 1 parameters are announced", "malformed-checkpoint", header(48, "<Q", 2**64 - 1)),
            _wrong("2^62 parameters are announced", "malformed-checkpoint", header(48, "<Q", 2**62)),
            _wrong(
                "one parameter fewer is announced", "malformed-checkpoint", header(48, "<Q", MANIFEST.parameters - 1)
            ),
            _wrong("a model version of 2^53", "malformed-checkpoint", header(40, "<Q", 2**53)),
            _wrong("for another bundle", "wrong-checkpoint", elsewhere),
            _wrong("one parameter too many", "wrong-checkpoint", longer),
            _wrong("a weight is not a number", "invalid-weights", weight(float("nan"))),
            _wrong("a weight is infinite", "invalid-weights", weight(float("-inf"))),
        ],
    }


def plan_vectors() -> dict[str, Any]:
    tree = json.loads(PLAN_BYTES)

    def signed(raw: bytes, what: str, code: str, key: SigningKey = TENANT_KEY, domain: Domain = Domain.PLAN) -> Any:
        return {
            "what": what,
            "code": code,
            "raw": raw.hex(),
            "signature": sign_document(key, domain, digest(raw)).hex(),
        }

    def changed(what: str, code: str, **fields: Any) -> Any:
        raw = json.dumps({**tree, **fields}, sort_keys=True, separators=(",", ":")).encode()
        return signed(raw, what, code)

    lacking = json.dumps({key: tree[key] for key in tree if key != "goal"}).encode()
    tree_2 = json.loads(PLAN_2_BYTES)

    def changed_2(what: str, code: str, **fields: Any) -> Any:
        return signed(json.dumps({**tree_2, **fields}, sort_keys=True, separators=(",", ":")).encode(), what, code)

    twice = [{"factor": 0.5, "from_epoch": 1}] * 2
    return {
        "tenant_key": TENANT_KEY.public.raw.hex(),
        "right": {"raw": PLAN_BYTES.hex(), "signature": PLAN_SIGNATURE.hex()},
        "right_2": {"raw": PLAN_2_BYTES.hex(), "signature": PLAN_2_SIGNATURE.hex()},
        "wrong": [
            signed(PLAN_BYTES, "signed by a stranger", "untrusted-document", key=STRANGER),
            signed(PLAN_BYTES, "signed as a bundle", "untrusted-document", domain=Domain.BUNDLE),
            signed(PLAN_BYTES + b"{}", "two messages", "malformed"),
            signed(b"\xff" + PLAN_BYTES, "not UTF-8", "malformed"),
            signed(lacking, "a key is missing", "malformed"),
            signed(PLAN_BYTES[:-1] + b',"goal":100}', "a key is repeated", "malformed"),
            signed(PLAN_BYTES.replace(b"0.1,", b"1e999,"), "the learning rate is 1e999", "malformed"),
            signed(PLAN_BYTES.replace(b"0.1,", b"NaN,"), "the learning rate is NaN", "malformed"),
            changed("a later version", "unsupported-version", version=99),
            changed("the version is text", "malformed", version="1"),
            changed("an unknown key", "malformed", noise=1.0),
            changed("an unknown way of summing", "malformed", summing="in-the-open"),
            changed("epochs is true", "malformed", epochs=True),
            changed("epochs is a fraction", "malformed", epochs=1.0),
            changed("no epochs", "invalid-plan", epochs=0),
            changed("a negative learning rate", "invalid-plan", learning_rate=-0.1),
            changed("a learning rate of zero", "invalid-plan", learning_rate=0.0),
            changed("no batch", "invalid-plan", batch_size=0),
            changed("a negative proximal term", "invalid-plan", proximal_mu=-1.0),
            changed("a clipping norm of zero", "invalid-plan", clipping_norm=0.0),
            changed("a clipping norm too small for float32", "invalid-plan", clipping_norm=1e-300),
            changed("lanes of 31 bits", "invalid-plan", lane_bits=31),
            changed("so many participants that lanes hold nothing", "invalid-plan", max_participants=2**23 + 1),
            changed("a goal above max_participants", "invalid-plan", goal=201),
            changed("more reports needed than wanted", "invalid-plan", min_reports=101),
            changed("a round without a report", "invalid-plan", min_reports=0),
            changed("nobody expected", "invalid-plan", expected_participants=0),
            changed("no examples needed", "invalid-plan", min_examples=0),
            changed("no time", "invalid-plan", time_limit_s=0.0),
            changed("a bundle address in capitals", "invalid-plan", bundle_sha256=BUNDLE_SHA256.upper()),
            changed("a plan of version 2 without what that brought", "malformed", version=2),
            changed_2("a plan of version 1 with what version 2 brought", "malformed", version=1),
            changed_2("no steps", "invalid-plan", max_steps=0),
            changed_2("a learning rate that stays where it was changed", "invalid-plan", rate_steps=twice),
            changed_2("a factor of zero", "invalid-plan", rate_steps=[{"factor": 0.0, "from_epoch": 1}]),
            changed_2("examples of no age", "invalid-plan", max_example_age_s=0.0),
        ],
    }


def plan_vectors_3() -> dict[str, Any]:
    """A plan that measures, what a device reports for it, and what is wrong."""
    tree = json.loads(PLAN_3_BYTES)
    one = tree["metrics"][0]

    def changed(what: str, code: str, **fields: Any) -> Any:
        raw = json.dumps({**tree, **fields}, sort_keys=True, separators=(",", ":")).encode()
        signature = sign_document(TENANT_KEY, Domain.PLAN, digest(raw)).hex()
        return {"what": what, "code": code, "raw": raw.hex(), "signature": signature}

    return {
        "tenant_key": TENANT_KEY.public.raw.hex(),
        "right": {"raw": PLAN_3_BYTES.hex(), "signature": PLAN_3_SIGNATURE.hex()},
        "measures": {
            "means": {"correct": 0.75, "loss": 2.5, "unasked": 1.0},
            "examples": 48,
            "values": [float(value) for value in MEASURES],
        },
        "wrong": [
            changed("a plan of version 2 with what version 3 brought", "malformed", version=2),
            changed("an unknown kind", "malformed", kind="guess"),
            changed("a plan that trains, with metrics", "invalid-plan", kind="train"),
            changed("nothing to measure", "invalid-plan", metrics=[]),
            changed("a metric twice", "invalid-plan", metrics=[one, one]),
            changed("a metric without a name", "invalid-plan", metrics=[{**one, "name": ""}]),
            changed("a range that falls", "invalid-plan", metrics=[{**one, "low": 2.0}]),
            changed("a range beyond bounds", "invalid-plan", metrics=[{**one, "high": 1e7}]),
            changed("no examples", "invalid-plan", max_examples=0),
            changed("examples without end", "invalid-plan", max_examples=None),
            changed("a clipping norm that would cut the values", "invalid-plan", clipping_norm=1.5),
        ],
    }


def plan_vectors_5() -> dict[str, Any]:
    """A plan of each privacy mode, what a device's lanes are under it, and promises that do not hold."""

    def signed(raw: bytes) -> dict[str, str]:
        return {"raw": raw.hex(), "signature": sign_document(TENANT_KEY, Domain.PLAN, digest(raw)).hex()}

    def right(plan: Plan) -> dict[str, Any]:
        lanes = plan.lanes()
        grid = {"scale": lanes.scale, "noise": lanes.noise, "noise_steps": lanes.noise * lanes.scale}
        return {**signed(wire.encode(plan)), **grid}

    def changed(of: str, what: str, code: str = "invalid-plan", **fields: Any) -> dict[str, str]:
        tree = {**json.loads(wire.encode(PLANS_5[of])), **fields}
        return {"what": what, "code": code, **signed(json.dumps(tree, sort_keys=True, separators=(",", ":")).encode())}

    adaptive = json.loads(wire.encode(PLAN_5))["adaptive"]
    return {
        "tenant_key": TENANT_KEY.public.raw.hex(),
        "right": {name: right(plan) for name, plan in PLANS_5.items()},
        "wrong": [
            changed("distributed", "a plan of version 4 with what version 5 brought", "malformed", version=4),
            changed("local", "an unknown mode", "malformed", privacy="federated"),
            changed("local", "a claim without noise", noise_multiplier=0.0),
            changed("none", "noise without a claim", noise_multiplier=1.0),
            changed("local", "a noise multiplier below zero", noise_multiplier=-1.0),
            changed("local", "a noise multiplier of 1001", noise_multiplier=1001.0),
            changed("local", "distributed noise in plain sums", privacy="distributed"),
            changed("local", "noise finer than the grid", noise_multiplier=1e-9),
            changed("correlated", "correlated noise without limits", separation=1),
            changed("none", "a separation of no rounds", separation=0),
            changed("none", "a separation below zero seconds", separation_s=-1.0),
            changed("none", "a separation of more than a year", separation_s=366 * 86400.0 + 1),
            changed("none", "no participation at all", most_participations=0),
            changed("examples", "a norm of examples that is zero", example_clipping_norm=0.0),
            changed("examples", "hidden examples without noise", example_noise_multiplier=0.0),
            changed("none", "noise of examples without their norm", example_noise_multiplier=1.0),
            changed("examples", "hidden examples with a proximal term", proximal_mu=0.1),
            changed("none", "a layer without a share", layer_shares=[1.0, 0.0]),
            changed("none", "a share of a layer below zero", layer_shares=[-1.0]),
            changed("none", "an adaptive norm without noise", adaptive=adaptive),
            changed("local", "an adaptive norm with local noise", adaptive=adaptive),
            changed("distributed", "an adaptive norm that begins out of bounds", clipping_norm=16.0),
            changed("distributed", "counts that cost more than all", adaptive={**adaptive, "count_noise": 0.3}),
            changed("distributed", "a quantile of one", adaptive={**adaptive, "quantile": 1.0}),
            changed("distributed", "a rate of zero", adaptive={**adaptive, "rate": 0.0}),
            changed("distributed", "bounds that fall", adaptive={**adaptive, "largest": 0.1}),
            changed("distributed", "counts without noise", adaptive={**adaptive, "count_noise": 0.0}),
            changed("distributed", "a measuring plan with layers", **_MEASURING),
        ],
    }


def report_vectors() -> dict[str, Any]:
    lanes = PLAN.lanes()

    def changed(offset: int, layout: str, value: int) -> bytes:
        raw = bytearray(REPORT)
        struct.pack_into(layout, raw, offset, value)
        return bytes(raw)

    return {
        "participation": PARTICIPATION,
        "lane_bits": lanes.bits,
        "clipping_norm": lanes.clipping_norm,
        "max_participants": lanes.max_participants,
        "parameters": MANIFEST.shared_parameters,
        "bound": lanes.bound,
        "right": {"seed": REPORT_SEED, "delta": [float(value) for value in DELTA], "raw": REPORT.hex()},
        "wrong": [
            _wrong("a byte short", "report-length", REPORT[:-1]),
            _wrong("a byte long", "report-length", REPORT + b"\0"),
            _wrong("nothing", "report-length", b""),
            _wrong("another magic", "malformed-report", changed(0, "<I", 0)),
            _wrong("a later version", "unsupported-version", changed(4, "<H", 2)),
            _wrong("other lane bits", "malformed-report", changed(6, "<B", 24)),
            _wrong("the first reserved field is not zero", "malformed-report", changed(7, "<B", 1)),
            _wrong("of another participation", "malformed-report", _flipped(REPORT, 8)),
            _wrong("another number of lanes", "malformed-report", changed(24, "<I", 2**32 - 1)),
            _wrong("the second reserved field is not zero", "malformed-report", changed(28, "<I", 1)),
            _wrong("a lane one above the bound", "lanes-out-of-range", changed(32, "<I", lanes.bound + 1)),
            _wrong("a lane one below the bound", "lanes-out-of-range", changed(32, "<I", 2**32 - lanes.bound - 1)),
            _wrong("the smallest lane of all", "lanes-out-of-range", changed(32, "<I", 2**31)),
            _wrong("the first zero lane is not zero", "lanes-out-of-range", changed(32 + 4 * 6, "<I", 1)),
            _wrong("the last zero lane is not zero", "lanes-out-of-range", _flipped(REPORT, -1)),
        ],
    }


def request_vectors() -> dict[str, Any]:
    body = wire.encode(MESSAGES[4])
    created, nonce, target = 1767614400, digest(b"nonce")[:16], "/v1/device/check-in?again=1"
    headers = sign_request(DEVICE_KEY, DEVICE, "POST", target, body, created=created, nonce=nonce)
    return {
        "device_key": DEVICE_KEY.public.raw.hex(),
        "device_id": DEVICE,
        "method": "POST",
        "target": target,
        "body": body.hex(),
        "created": created,
        "nonce": nonce.hex(),
        "headers": headers,
    }


def check_in_vectors() -> dict[str, Any]:
    """Check-ins of version 3 that are right, and ones that are wrong with the code each must be refused by."""
    tree = json.loads(wire.encode(CHECK_IN_3))

    def changed(what: str, code: str = "malformed", **fields: Any) -> dict[str, str]:
        return {"what": what, "code": code, "json": json.dumps({**tree, **fields}, sort_keys=True)}

    def saying(what: str, **attributes: Any) -> dict[str, str]:
        return changed(what, attributes=attributes)

    lacking = {name: value for name, value in tree.items() if name != "region"}
    return {
        "right": [{"message": type(message).__name__, "json": wire.encode(message).decode()} for message in MESSAGES_3],
        "wrong": [
            changed("a later version", "unsupported-version", version=4),
            changed("a check-in of version 2 with what version 3 brought", version=2),
            {"what": "without its region", "code": "malformed", "json": json.dumps(lacking)},
            changed("an unknown key", name="Ada"),
            changed("no app version", app_version=None),
            changed("an app version of 129 characters", app_version="1" * 129),
            changed("no platform", platform=None),
            changed("a platform of two lines", platform="and\nroid"),
            changed("a region of no characters", region=""),
            changed("a region of 33 characters", region="d" * 33),
            changed("a region with a space", region="Unter den Linden"),
            changed("a hardware class that is a number", hardware_class=1),
            changed("attributes are null", attributes=None),
            changed("attributes are a list", attributes=["beta"]),
            saying("33 attributes", **{f"a{number}": 1 for number in range(33)}),
            saying("an attribute in capitals", Beta=True),
            saying("an attribute with a hyphen", **{"ram-gb": 8}),
            saying("an attribute of 33 characters", **{"a" * 33: 1}),
            saying("an attribute without a name", **{"": 1}),
            saying("an attribute that is a fraction", ram_gb=8.0),
            saying("an attribute of 2^53", ram_gb=2**53),
            saying("an attribute of minus 2^53", ram_gb=-(2**53)),
            saying("an attribute that is null", beta=None),
            saying("an attribute that is a list", language=["de"]),
            saying("an attribute of no characters", language=""),
            saying("an attribute of 65 characters", language="d" * 65),
            saying("an attribute of two lines", language="d\ne"),
        ],
    }


def settings_vector() -> dict[str, Any]:
    """Every variable with its default; a default may be added, and never changed."""
    fields = Settings.model_fields
    return {
        f"EDGEWISE_{name.upper()}": None if field.default is None else str(field.default)
        for name, field in fields.items()
    }


def blob_key_vectors() -> list[dict[str, str]]:
    blobs = FolderBlobs(Path("/blobs"), 0)
    address = digest(b"a blob").hex()
    return [
        {"tenant": "acme", "kind": kind.name, "sha256": address, "key": str(blobs.path("acme", kind, address))[7:]}
        for kind in BlobKind
    ]


def vectors() -> Iterator[tuple[str, Any]]:
    """The frozen files by name."""
    yield "bundle.json", bundle_vectors()
    yield "checkpoint.json", checkpoint_vectors()
    yield "plan.json", plan_vectors()
    yield "report.json", report_vectors()
    yield "request.json", request_vectors()
    yield (
        "messages.json",
        [{"message": type(message).__name__, "json": wire.encode(message).decode()} for message in MESSAGES],
    )
    yield (
        "reasons.json",
        {
            kind.__name__: {member.name: member.value for member in kind}
            for kind in (reasons.Wait, reasons.Outcome, reasons.Abandonment)
        },
    )
    yield (
        "refusals.json",
        {
            code: {"title": refusal.title, "retry": refusal.retry.value}
            for code, refusal in sorted(errors.REFUSALS.items())
        },
    )
    yield "secure-sum.json", secure_sum.vectors()
    yield "domains.json", {domain.name: domain.value for domain in Domain}
    yield "settings.json", settings_vector()
    yield "blob-keys.json", blob_key_vectors()
    yield (
        "paths.json",
        {
            "enrol": enrolment.ENROL_PATH,
            "device": enrolment.DEVICE_PATH,
            "check_in": checkin.CHECK_IN_PATH,
            "bundle": checkin.bundle_path("{sha256}"),
            "checkpoint": checkin.checkpoint_path("{sha256}"),
            "release": release.RELEASE_PATH,
            "report": report.report_path("{participation}"),
            "parts": report.parts_path("{participation}"),
            "outcome": report.outcome_path("{participation}"),
            "round": header_path("{participation}"),
        },
    )


def vectors_3() -> Iterator[tuple[str, Any]]:
    """The frozen files of version 3 by name."""
    yield "check-in.json", check_in_vectors()
    yield "plan.json", plan_vectors_3()


def header_vectors() -> dict[str, Any]:
    """The header of a round that is right, and ones that are wrong for the plan and the assignment it stands beside."""
    plan_sha256, checkpoint_sha256 = digest(wire.encode(PLAN_5)).hex(), digest(CHECKPOINT).hex()
    header = RoundHeader(
        version=1,
        tenant="acme",
        task="words",
        round=7,
        plan_sha256=plan_sha256,
        checkpoint_sha256=checkpoint_sha256,
        clipping_norm=0.75,
    )

    def signed(raw: bytes, key: SigningKey = COORDINATOR_KEY, domain: Domain = Domain.ROUND) -> dict[str, str]:
        signature = sign_document(key, domain, digest(raw))
        message = SignedRound(version=1, header=raw, signature=signature)
        return {"raw": raw.hex(), "signature": signature.hex(), "message": wire.encode(message).decode()}

    def changed(what: str, code: str = "contradicted-round", **fields: Any) -> dict[str, str]:
        tree = {**json.loads(wire.encode(header)), **fields}
        raw = json.dumps(tree, sort_keys=True, separators=(",", ":")).encode()
        return {"what": what, "code": code, **signed(raw)}

    raw = wire.encode(header)
    return {
        "coordinator_key": COORDINATOR_KEY.public.raw.hex(),
        "plan": wire.encode(PLAN_5).hex(),
        "round": 7,
        "checkpoint_sha256": checkpoint_sha256,
        "right": signed(raw),
        "wrong": [
            {"what": "signed by the tenant", "code": "untrusted-document", **signed(raw, TENANT_KEY)},
            {"what": "signed as a plan", "code": "untrusted-document", **signed(raw, domain=Domain.PLAN)},
            changed("a later version", "unsupported-version", version=2),
            changed("a round that is not counted from 1", "malformed", round=0),
            changed("a task that has no name", "malformed", task=""),
            changed("a plan that is named by no digest", "malformed", plan_sha256="00"),
            changed("a clipping norm of zero", "malformed", clipping_norm=0.0),
            changed("of another tenant", tenant="other"),
            changed("of another round", round=8),
            changed("of another plan", plan_sha256="0" * 64),
            changed("of another checkpoint", checkpoint_sha256="0" * 64),
            changed("a clipping norm below the plan's bounds", clipping_norm=0.0625),
            changed("a clipping norm above the plan's bounds", clipping_norm=16.0),
        ],
    }


def vectors_5() -> Iterator[tuple[str, Any]]:
    """The frozen files of version 5 by name."""
    yield "plan.json", plan_vectors_5()
    yield "round-header.json", header_vectors()
    yield "counted.json", counted.vectors(PLAN_5, PARTICIPATION)


def _flipped(raw: bytes, position: int) -> bytes:
    changed = bytearray(raw)
    changed[position] ^= 1
    return bytes(changed)


def _wrong(what: str, code: str, raw: bytes, sha256: str | None = None) -> dict[str, str]:
    return {"what": what, "code": code, "sha256": sha256 or digest(raw).hex(), "raw": raw.hex()}


def written(content: Any) -> str:
    """A vector file's text."""
    return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def main() -> None:
    for folder, files in ((FOLDER, vectors()), (FOLDER_3, vectors_3()), (FOLDER_5, vectors_5())):
        folder.mkdir(exist_ok=True)
        for name, content in files:
            (folder / name).write_text(written(content))


if __name__ == "__main__":
    main()
