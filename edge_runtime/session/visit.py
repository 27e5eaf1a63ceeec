"""A visit: check in and, while chosen, fetch, train and report; it always ends with when to come back, and why."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from edge_runtime.installation import Installation
from edge_runtime.protocol import wire
from edge_runtime.protocol.bundle import BUNDLE_LIMIT_BYTES, Bundle, verify_bundle
from edge_runtime.protocol.checkin import (
    CHECK_IN_PATH,
    Assignment,
    CheckIn,
    CheckInAnswer,
    bucketed,
    bundle_path,
    checkpoint_path,
)
from edge_runtime.protocol.checkpoint import Checkpoint, checkpoint_bytes, verify_checkpoint
from edge_runtime.protocol.errors import (
    InvalidExamples,
    InvalidGroup,
    InvalidPlan,
    Malformed,
    NonFiniteTraining,
    Refusal,
    Unavailable,
)
from edge_runtime.protocol.group import Opened
from edge_runtime.protocol.header import RoundHeader, SignedRound, header_path, verify_header
from edge_runtime.protocol.keys import PublicKey, TrustRoots, digest
from edge_runtime.protocol.plan import Plan, Summing, verify_plan
from edge_runtime.protocol.reasons import Outcome, Wait
from edge_runtime.protocol.release import RELEASE_PATH, Released, ReleaseQuery
from edge_runtime.protocol.report import (
    PART_BYTES,
    Costs,
    OutcomeNote,
    OutcomeNoted,
    Receipt,
    ReportComplete,
    ReportHeld,
    outcome_path,
    parts_path,
    report_path,
)
from edge_runtime.session import Request, Session, accepted, ask, fetch


@dataclass(frozen=True, slots=True)
class Work:
    """A verified assignment: everything that training needs."""

    participation: str
    round: int
    plan: Plan
    bundle: Bundle
    checkpoint: Checkpoint
    plan_sha256: str = ""
    """As it was signed: groups agree on it. Empty where nobody sums in one."""
    clipping_norm: float | None = None
    """Of the round's header; None where the plan needs none."""


Train: TypeAlias = Callable[[Work], "bytes | Outcome"]
"""Runs the plan; returns the report's bytes, or why there is none. A `Refusal` becomes the outcome that fits it."""

Sums: TypeAlias = Callable[[Work, bytes], "Session[Opened | Outcome]"]
"""Sums a report, not masked yet, in groups: the opened sum, or why there is none."""

Bundles: TypeAlias = MutableMapping[str, Bundle]
"""Verified bundles by digest: the graph is fetched once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a device brings to a check-in."""

    tenant: str
    population: str
    visit: str
    """32 random hex digits, fresh for every visit."""
    runtime: str
    examples: int
    installation: Installation | None = None
    """What the app says of its device; None says nothing, in version 2 of the check-in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VisitEnd:
    """How a visit ended, and when to come back: after `after_s` seconds and a random part of `spread_s`."""

    reason: Wait | Outcome
    after_s: float
    spread_s: float = 0.0
    round: int | None = None
    bytes_up: int = 0
    """Of the report; 0 without one."""


def visit(
    offer: Offer, roots: TrustRoots, bundles: Bundles, train: Train, sums: Sums | None = None
) -> Session[VisitEnd]:
    """Check in; when chosen, fetch what is not held, verify all of it, train, and report or say why not.

    Args:
        sums: What sums under secure plans; without it, they are refused.

    Raises:
        Refusal: The coordinator refused the check-in, the report or the outcome.
    """
    answer = yield from check_in(offer)
    if answer.assignment is not None:
        return (yield from _take_part(answer.assignment, offer, roots, bundles, train, sums))
    if answer.retry is None:
        raise Malformed("the answer to a check-in is an assignment or a retry window")
    return VisitEnd(reason=answer.retry.reason, after_s=answer.retry.after_s, spread_s=answer.retry.spread_s)


def check_in(offer: Offer) -> Session[CheckInAnswer]:
    """Offer the device.

    Raises:
        Refusal: The coordinator refused.
    """
    message = CheckIn(
        version=2,
        population=offer.population,
        visit=offer.visit,
        runtime=offer.runtime,
        examples=bucketed(offer.examples),
    )
    if (says := offer.installation) is not None:
        message = replace(
            message,
            version=3,
            app_version=says.app_version,
            platform=says.platform,
            region=says.region,
            hardware_class=says.hardware_class,
            attributes=dict(says.attributes),
        )
    return (yield from ask(CHECK_IN_PATH, message, CheckInAnswer))


def verified_plan(raw: bytes, signature: bytes, tenant: str, population: str, roots: TrustRoots) -> Plan:
    """Return the plan of an assignment if it is for this device.

    Raises:
        Refusal: The tenant did not sign it, or it is for another population, or impossible.
    """
    plan = verify_plan(raw, signature, roots.tenant)
    if (plan.tenant, plan.population) != (tenant, population):
        raise InvalidPlan("the plan is for another population")
    return plan


def give_up(participation: str, reason: Outcome, costs: Costs | None = None) -> Session[OutcomeNoted]:
    """Say why there will be no report.

    Raises:
        Refusal: The coordinator refused.
    """
    note = OutcomeNote(version=OutcomeNote.VERSION, reason=reason, costs=costs)
    return (yield from ask(outcome_path(participation), note, OutcomeNoted))


def current_release(population: str, held_sha256: str | None) -> Session[Released]:
    """Ask which checkpoint to use for inference.

    Raises:
        Refusal: The coordinator refused.
    """
    query = ReleaseQuery(version=1, population=population, held_sha256=held_sha256)
    return (yield from ask(RELEASE_PATH, query, Released))


def fetch_bundle(sha256: str, roots: TrustRoots, bundles: Bundles) -> Session[Bundle]:
    """Return the bundle, fetched and verified unless it is held.

    Raises:
        Refusal: It was refused, or is not what its digest and the tenant key say.
    """
    if sha256 not in bundles:
        raw = yield from fetch(bundle_path(sha256), BUNDLE_LIMIT_BYTES)
        bundles[sha256] = verify_bundle(raw, sha256, roots.tenant)
    return bundles[sha256]


def fetch_checkpoint(sha256: str, bundle: Bundle, roots: TrustRoots) -> Session[Checkpoint]:
    """Return a checkpoint, fetched and verified.

    Raises:
        Refusal: It was refused, or is not what its digest and the coordinator key say.
    """
    limit = max(checkpoint_bytes(bundle.manifest.parameters), wire.MESSAGE_LIMIT_BYTES)
    raw = yield from fetch(checkpoint_path(sha256), limit)
    return verify_checkpoint(
        raw,
        sha256,
        roots.coordinator,
        bundle_sha256=bundle.sha256,
        parameters=bundle.manifest.parameters,
    )


def round_header(
    participation: str, plan: Plan, key: PublicKey, *, plan_sha256: str, round_: int, checkpoint_sha256: str
) -> Session[RoundHeader]:
    """Ask for the header of the round that was assigned, and verify it.

    Raises:
        Refusal: The coordinator refused, did not sign it, or it is of another round.
    """
    body = accepted((yield Request("GET", header_path(participation))))
    signed = wire.decode(SignedRound, body)
    return verify_header(signed, key, plan, plan_sha256=plan_sha256, round_=round_, checkpoint_sha256=checkpoint_sha256)


def _take_part(
    assignment: Assignment, offer: Offer, roots: TrustRoots, bundles: Bundles, train: Train, sums: Sums | None
) -> Session[VisitEnd]:
    refused_as = Outcome.PLAN_REFUSED
    try:
        plan = verified_plan(assignment.plan, assignment.plan_signature, offer.tenant, offer.population, roots)
        if plan.summing is Summing.SECURE and sums is None:
            raise InvalidGroup("this device sums in no group")
        plan_sha256 = digest(assignment.plan).hex()
        clipping_norm = None
        if plan.needs_header:
            header = yield from round_header(
                assignment.participation,
                plan,
                roots.coordinator,
                plan_sha256=plan_sha256,
                round_=assignment.round,
                checkpoint_sha256=assignment.checkpoint_sha256,
            )
            clipping_norm = header.clipping_norm
        refused_as = Outcome.BUNDLE_REFUSED
        bundle = yield from fetch_bundle(plan.bundle_sha256, roots, bundles)
        refused_as = Outcome.CHECKPOINT_REFUSED
        checkpoint = yield from fetch_checkpoint(assignment.checkpoint_sha256, bundle, roots)
        refused_as = Outcome.INTERPRETER_FAILED
        work = Work(
            participation=assignment.participation,
            round=assignment.round,
            plan=plan,
            bundle=bundle,
            checkpoint=checkpoint,
            plan_sha256=plan_sha256,
            clipping_norm=clipping_norm,
        )
        report = train(work)
        if plan.summing is Summing.SECURE and sums is not None and isinstance(report, bytes):
            refused_as = Outcome.GROUP_REFUSED
            return (yield from _summed(work, report, sums))
    except Refusal as refusal:
        report = outcome_of(refusal, refused_as)
    if isinstance(report, Outcome):
        return (yield from _given_up(assignment.participation, assignment.round, report))
    receipt = yield from send_report(assignment.participation, report)
    return VisitEnd(reason=Wait.REPORTED, after_s=receipt.retry_after_s, round=assignment.round, bytes_up=len(report))


def _summed(work: Work, report: bytes, sums: Sums) -> Session[VisitEnd]:
    end = yield from sums(work, report)
    if isinstance(end, Outcome):
        return (yield from _given_up(work.participation, work.round, end))
    return VisitEnd(reason=Wait.REPORTED, after_s=end.retry_after_s, round=work.round, bytes_up=len(report))


def _given_up(participation: str, round_: int, reason: Outcome) -> Session[VisitEnd]:
    noted = yield from give_up(participation, reason)
    return VisitEnd(reason=reason, after_s=noted.retry_after_s, round=round_)


def send_report(participation: str, report: bytes) -> Session[Receipt]:
    """Send a report, a long one in parts from where it broke off; the same one again gets the same receipt.

    Raises:
        Refusal: The coordinator refused, or its receipt is for another report.
    """
    if len(report) <= PART_BYTES:
        body = accepted((yield Request("PUT", report_path(participation), report)))
    else:
        yield from _send_parts(participation, report)
        complete = ReportComplete(version=1, report_sha256=digest(report).hex())
        body = accepted((yield Request("POST", report_path(participation), wire.encode(complete))))
    receipt = wire.decode(Receipt, body)
    if receipt.participation != participation or receipt.report_sha256 != digest(report).hex():
        raise Malformed("the receipt is for another report")
    return receipt


def _send_parts(participation: str, report: bytes) -> Session[None]:
    path = parts_path(participation)
    held = wire.decode(ReportHeld, accepted((yield Request("GET", path)))).held_bytes
    sent = 0  # a coordinator that forgets for ever is not fed for ever
    while held < len(report) and sent <= 2 * len(report):
        part = report[held : held + PART_BYTES]
        sent += len(part)
        held = wire.decode(ReportHeld, accepted((yield Request("PUT", f"{path}/{held}", part)))).held_bytes
    if held != len(report):
        raise Malformed("the coordinator holds another number of bytes than were sent")


def outcome_of(refusal: Refusal, otherwise: Outcome) -> Outcome:
    """What a participation ends with that was refused on the device."""
    return _OUTCOMES.get(type(refusal), otherwise)


_OUTCOMES: dict[type[Refusal], Outcome] = {
    InvalidExamples: Outcome.EXAMPLES_REFUSED,
    InvalidGroup: Outcome.GROUP_REFUSED,
    InvalidPlan: Outcome.PLAN_REFUSED,
    NonFiniteTraining: Outcome.NON_FINITE_TRAINING,
    Unavailable: Outcome.NETWORK_LOST,
}
