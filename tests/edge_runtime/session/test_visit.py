"""A visit, step by step, with whatever a coordinator may answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.privacy import private_report
from edge_runtime.protocol import errors, wire
from edge_runtime.protocol.bundle import BUNDLE_LIMIT_BYTES, Bundle
from edge_runtime.protocol.checkin import (
    CHECK_IN_PATH,
    CheckInAnswer,
    RetryWindow,
    bucketed,
    bundle_path,
    checkpoint_path,
)
from edge_runtime.protocol.checkin import CheckIn as CheckInMessage
from edge_runtime.protocol.checkpoint import encode_checkpoint
from edge_runtime.protocol.enrolment import Enrol, Enrolled, Problem
from edge_runtime.protocol.errors import Malformed, Refusal, RoundClosed, Unavailable
from edge_runtime.protocol.keys import SigningKey, TrustRoots, digest
from edge_runtime.protocol.plan import Plan, sign_plan
from edge_runtime.protocol.reasons import Outcome, Wait
from edge_runtime.protocol.report import OutcomeNote, OutcomeNoted, Receipt, outcome_path, report_path
from edge_runtime.session import Request, Response, Session
from edge_runtime.session.enrol import Installation, enrol
from edge_runtime.session.visit import Offer, VisitEnd, Work, visit
from tests.vectors.make import (
    BUNDLE,
    BUNDLE_SHA256,
    CHECKPOINT,
    COORDINATOR_KEY,
    MANIFEST,
    MESSAGES,
    PARTICIPATION,
    PLAN,
    STRANGER,
    TENANT_KEY,
    WEIGHTS,
)

ROOTS = TrustRoots(tenant=TENANT_KEY.public, coordinator=COORDINATOR_KEY.public)
OFFER = Offer(tenant="acme", population="keyboard", visit="0" * 32, runtime="none", examples=100)
(ASSIGNED,) = [one for one in MESSAGES if isinstance(one, CheckInAnswer) and one.assignment is not None]
ASSIGNMENT = ASSIGNED.assignment
assert ASSIGNMENT is not None
WAIT = CheckInAnswer(
    version=1, assignment=None, retry=RetryWindow(reason=Wait.NOT_SELECTED, after_s=60.0, spread_s=12.0)
)

Answer = Callable[[Request], Response]


def accepted(message: object) -> Response:
    return Response(200, wire.encode(message))


def refused(code: str, status: int = 410) -> Response:
    problem = Problem(
        type=f"urn:edgewise:refusal:{code}",
        title="",
        status=status,
        detail="as the coordinator says",
        code=code,
        retry="never",
        retry_after_s=7.0,
        server_time=0,
    )
    return Response(status, wire.encode(problem))


def coordinator(**answers: Response | Answer) -> Answer:
    """Answers a whole visit well, apart from the steps that are given."""
    steps: dict[str, Response | Answer] = {
        "check_in": accepted(ASSIGNED),
        "bundle": Response(200, BUNDLE),
        "checkpoint": Response(200, CHECKPOINT),
        "report": receipt_for,
        "outcome": accepted(OutcomeNoted(version=1, retry_after_s=30.0)),
        **answers,
    }

    def answer(request: Request) -> Response:
        found = steps[step_of(request)]
        return found if isinstance(found, Response) else found(request)

    return answer


def step_of(request: Request) -> str:
    return {
        CHECK_IN_PATH: "check_in",
        bundle_path(BUNDLE_SHA256): "bundle",
        checkpoint_path(digest(CHECKPOINT).hex()): "checkpoint",
        report_path(PARTICIPATION): "report",
        outcome_path(PARTICIPATION): "outcome",
    }[request.path]


def receipt_for(request: Request) -> Response:
    receipt = Receipt(
        version=1, participation=PARTICIPATION, report_sha256=digest(request.body).hex(), retry_after_s=900.0
    )
    return accepted(receipt)


def train(work: Work) -> bytes:
    delta = np.ones(work.bundle.manifest.shared_parameters, np.float32)
    return private_report(work.participation, delta, work.plan, np.random.default_rng(0))


def run(
    answer: Answer,
    training: Callable[[Work], bytes | Outcome] = train,
    bundles: dict[str, Bundle] | None = None,
    offer: Offer = OFFER,
) -> tuple[VisitEnd, list[Request]]:
    """Drive a visit; how it ended, and every request it made."""
    return drive(visit(offer, ROOTS, {} if bundles is None else bundles, training), answer)


def drive(session: Session[VisitEnd], answer: Answer) -> tuple[VisitEnd, list[Request]]:
    asked: list[Request] = []
    try:
        request = next(session)
        while True:
            asked.append(request)
            request = session.send(answer(request))
    except StopIteration as end:
        return end.value, asked


def steps(asked: list[Request]) -> list[str]:
    return [step_of(request) for request in asked]


def noted(asked: list[Request]) -> Outcome:
    return wire.decode(OutcomeNote, asked[-1].body).reason


def test_a_chosen_device_fetches_trains_and_reports() -> None:
    end, asked = run(coordinator())
    assert steps(asked) == ["check_in", "bundle", "checkpoint", "report"]
    assert end == VisitEnd(reason=Wait.REPORTED, after_s=900.0, round=3, bytes_up=len(asked[-1].body))
    offered = wire.decode(CheckInMessage, asked[0].body)
    assert (offered.population, offered.visit, offered.examples) == ("keyboard", "0" * 32, 64)


def test_a_device_that_is_not_chosen_is_told_when_to_come_back() -> None:
    end, asked = run(coordinator(check_in=accepted(WAIT)))
    assert steps(asked) == ["check_in"]
    assert wire.decode(CheckInMessage, asked[0].body).version == 2, "nothing is said of the device"
    assert end == VisitEnd(reason=Wait.NOT_SELECTED, after_s=60.0, spread_s=12.0)


def test_a_bundle_is_fetched_once() -> None:
    bundles: dict[str, Bundle] = {}
    run(coordinator(), bundles=bundles)
    _end, asked = run(coordinator(), bundles=bundles)
    assert steps(asked) == ["check_in", "checkpoint", "report"]


def test_training_gets_what_was_verified_and_nothing_else() -> None:
    seen: list[Work] = []

    def look(work: Work) -> Outcome:
        seen.append(work)
        return Outcome.BATTERY_LOW

    end, asked = run(coordinator(), look)
    (work,) = seen
    assert (work.plan, work.bundle.manifest, work.participation, work.round) == (PLAN, MANIFEST, PARTICIPATION, 3)
    assert work.checkpoint.weights.tolist() == WEIGHTS.tolist()
    assert steps(asked)[-1] == "outcome"
    assert noted(asked) is Outcome.BATTERY_LOW
    assert (end.reason, end.after_s) == (Outcome.BATTERY_LOW, 30.0)


@pytest.mark.parametrize("population", ["elsewhere", "keyboard2"])
def test_a_plan_for_others_is_refused(population: str) -> None:
    end, asked = run(coordinator(), offer=dataclasses.replace(OFFER, population=population))
    assert end.reason is noted(asked) is Outcome.PLAN_REFUSED
    assert steps(asked) == ["check_in", "outcome"]


def with_plan(plan: Plan = PLAN, key: SigningKey = TENANT_KEY, **changes: object) -> Response:
    raw, signature = sign_plan(plan, key)
    assert ASSIGNMENT is not None
    changed = dataclasses.replace(ASSIGNMENT, plan=raw, plan_signature=signature, **changes)  # type: ignore[arg-type]
    return accepted(CheckInAnswer(version=1, assignment=changed, retry=None))


@pytest.mark.parametrize(
    ("answers", "outcome"),
    [
        ({"check_in": with_plan(key=STRANGER)}, Outcome.PLAN_REFUSED),
        ({"check_in": with_plan(key=COORDINATOR_KEY)}, Outcome.PLAN_REFUSED),
        ({"bundle": Response(200, BUNDLE[:-1])}, Outcome.BUNDLE_REFUSED),
        ({"bundle": Response(200, b"")}, Outcome.BUNDLE_REFUSED),
        ({"bundle": Response(200, CHECKPOINT)}, Outcome.BUNDLE_REFUSED),
        ({"bundle": refused("not-found", 404)}, Outcome.BUNDLE_REFUSED),
        ({"bundle": Response(404, b"<html>a portal</html>")}, Outcome.NETWORK_LOST),
        ({"bundle": Response(302, b"")}, Outcome.NETWORK_LOST),
        ({"checkpoint": Response(200, CHECKPOINT + b"\0")}, Outcome.CHECKPOINT_REFUSED),
        ({"checkpoint": Response(200, BUNDLE)}, Outcome.CHECKPOINT_REFUSED),
        ({"checkpoint": refused("not-found", 404)}, Outcome.CHECKPOINT_REFUSED),
    ],
    ids=str,
)
def test_what_cannot_be_trusted_is_refused_by_name_before_training(
    answers: dict[str, Response], outcome: Outcome
) -> None:
    end, asked = run(coordinator(**answers), lambda _work: pytest.fail("it must not train"))
    assert end.reason is noted(asked) is outcome


def test_a_checkpoint_signed_by_the_tenant_is_not_the_coordinators() -> None:
    """Each root signs its own kind: who holds one key cannot stand in for the other."""
    forged = encode_checkpoint(WEIGHTS, BUNDLE_SHA256, 7, TENANT_KEY)
    answer = with_plan(checkpoint_sha256=digest(forged).hex())
    session = visit(OFFER, ROOTS, {}, lambda _work: pytest.fail("it must not train"))
    next(session)
    session.send(answer)
    request = session.send(Response(200, BUNDLE))
    assert request.path == checkpoint_path(digest(forged).hex())
    request = session.send(Response(200, forged))
    assert wire.decode(OutcomeNote, request.body).reason is Outcome.CHECKPOINT_REFUSED


@pytest.mark.parametrize(
    ("raised", "outcome"),
    [
        (errors.InvalidExamples(""), Outcome.EXAMPLES_REFUSED),
        (errors.InvalidPlan(""), Outcome.PLAN_REFUSED),
        (errors.NonFiniteTraining(""), Outcome.NON_FINITE_TRAINING),
        (errors.InterpreterMissing(""), Outcome.INTERPRETER_FAILED),
        (errors.InterpreterFailed(""), Outcome.INTERPRETER_FAILED),
        (errors.InvalidWeights(""), Outcome.INTERPRETER_FAILED),
    ],
    ids=lambda value: getattr(value, "code", value),
)
def test_a_refusal_while_training_becomes_the_outcome_that_fits(raised: Refusal, outcome: Outcome) -> None:
    def refuse(_work: Work) -> bytes:
        raise raised

    end, asked = run(coordinator(), refuse)
    assert end.reason is noted(asked) is outcome


def test_a_delta_that_is_not_finite_is_named() -> None:
    def diverge(work: Work) -> bytes:
        delta = np.full(work.bundle.manifest.shared_parameters, np.nan, np.float32)
        return private_report(work.participation, delta, work.plan, np.random.default_rng(0))

    end, _asked = run(coordinator(), diverge)
    assert end.reason is Outcome.NON_FINITE_TRAINING


def test_a_bug_while_training_is_not_hidden() -> None:
    def broken(_work: Work) -> bytes:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(coordinator(), broken)


@pytest.mark.parametrize("code", sorted(errors.REFUSALS))
def test_every_refusal_of_a_check_in_or_a_report_comes_up_by_name(code: str) -> None:
    for step in ("check_in", "report"):
        with pytest.raises(errors.REFUSALS[code]) as raised:
            run(coordinator(**{step: refused(code)}))
        assert raised.value.retry_after_s == 7.0


def test_a_refusal_of_a_later_version_is_a_refusal_all_the_same() -> None:
    with pytest.raises(Refusal) as raised:
        run(coordinator(check_in=refused("too-new-to-know")))
    assert type(raised.value) is Refusal


@pytest.mark.parametrize("field", ["participation", "report_sha256"])
def test_a_receipt_for_another_report_is_no_receipt(field: str) -> None:
    def wrong(request: Request) -> Response:
        receipt = wire.decode(Receipt, receipt_for(request).body)
        other = "0" * len(getattr(receipt, field))
        changes: dict[str, Any] = {field: other}
        return accepted(dataclasses.replace(receipt, **changes))

    with pytest.raises(Malformed, match="another report"):
        run(coordinator(report=wrong))


@given(
    status=st.sampled_from([200, 204, 301, 400, 401, 404, 410, 500, 507]),
    body=st.binary(max_size=80) | st.sampled_from([BUNDLE, wire.encode(WAIT), wire.encode(ASSIGNED), b"{}", b"null"]),
    step=st.sampled_from(["check_in", "bundle", "checkpoint", "report", "outcome"]),
)
def test_whatever_a_coordinator_answers_a_visit_ends_or_refuses(status: int, body: bytes, step: str) -> None:
    training = train if step != "outcome" else (lambda _work: Outcome.IN_USE)
    try:
        end, _asked = run(coordinator(**{step: Response(status, body)}), training)
    except Refusal as refusal:
        assert refusal.detail or refusal.code  # noqa: PT017 (either end is right)
    else:
        assert end.reason in {*Wait, *Outcome}


@given(
    changes=st.dictionaries(st.sampled_from(["participation", "checkpoint_sha256"]), st.text(max_size=40), min_size=1)
)
def test_an_assignment_of_nonsense_never_reaches_a_path_or_the_training(changes: dict[str, str]) -> None:
    raw = wire.encode(ASSIGNED)
    assert ASSIGNMENT is not None
    for name, value in changes.items():
        raw = raw.replace(getattr(ASSIGNMENT, name).encode(), wire.encode(Text(value))[9:-2])
    with pytest.raises(Malformed):
        run(coordinator(check_in=Response(200, raw)), lambda _work: pytest.fail("it must not train"))


@dataclasses.dataclass(frozen=True)
class Text:
    value: str


def test_no_answer_may_be_longer_than_its_request_can_use() -> None:
    _end, asked = run(coordinator())
    limits = {step_of(request): request.answer_limit_bytes for request in asked}
    assert limits["bundle"] == BUNDLE_LIMIT_BYTES
    assert {limits[step] for step in ("check_in", "checkpoint", "report")} == {wire.MESSAGE_LIMIT_BYTES}


def test_an_installation_enrols_with_its_public_key() -> None:
    key = SigningKey(digest(b"new device"))
    session = enrol(Installation("acme", "keyboard", "app", "1.0", "linux"), key.public)
    request = next(session)
    assert wire.decode(Enrol, request.body).public_key == key.public.raw
    assert key.raw not in request.body
    with pytest.raises(StopIteration) as end:
        session.send(accepted(Enrolled(version=1, device_id="0" * 32, retry_after_s=0.0)))
    assert end.value.value.device_id == "0" * 32


def test_what_is_not_the_coordinators_is_unavailable_and_not_a_refusal_of_its_own() -> None:
    with pytest.raises(Unavailable, match="HTTP 503"):
        run(coordinator(check_in=Response(503, b"<html>")))
    with pytest.raises(RoundClosed):
        run(coordinator(check_in=refused("round-closed")))


@given(count=st.integers(-5, 1 << 40))
def test_a_bucket_is_the_power_of_two_below(count: int) -> None:
    bucket = bucketed(count)
    if count <= 0:
        assert bucket == 0
    else:
        assert bucket <= count < 2 * bucket
        assert bucket & (bucket - 1) == 0


def test_a_check_in_says_what_the_app_says_of_its_device() -> None:
    says = Installation("acme", "keyboard", "app", "2.4.0", "android", "DE", "high", {"beta": True, "ram_gb": 8})
    _end, asked = run(coordinator(check_in=accepted(WAIT)), offer=dataclasses.replace(OFFER, installation=says))
    message = wire.decode(CheckInMessage, asked[0].body)
    assert message.version == 3
    said = (message.app_version, message.platform, message.region, message.hardware_class, message.attributes)
    assert said == ("2.4.0", "android", "DE", "high", {"beta": True, "ram_gb": 8})
    _end, asked = run(
        coordinator(check_in=accepted(WAIT)),
        offer=dataclasses.replace(OFFER, installation=Installation("acme", "keyboard", "app", "1.0", "linux")),
    )
    silent = wire.decode(CheckInMessage, asked[0].body)
    assert (silent.region, silent.hardware_class, silent.attributes) == (None, None, {})


@pytest.mark.parametrize(
    "said",
    [
        {"region": "Unter den Linden 1"},
        {"region": ""},
        {"hardware_class": "x" * 33},
        {"attributes": {"Name": "Ada"}},
        {"attributes": {"ram_gb": 8.5}},
        {"attributes": {"ram_gb": 2**53}},
        {"attributes": {"language": "d" * 65}},
        {"attributes": {"beta": None}},
        {"attributes": {f"a{number}": 1 for number in range(33)}},
    ],
    ids=str,
)
def test_an_app_cannot_say_what_does_not_fit(said: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        Installation("acme", "keyboard", "app", "1.0", "linux", **said)
