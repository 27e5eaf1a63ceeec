"""A locust user that is a phone: the device's own sessions and driver, with locust's client as the network."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any, ClassVar

import gevent
import numpy as np
from locust import HttpUser

from edge_runtime.driver import Driver, Unreachable
from edge_runtime.protocol import wire
from edge_runtime.protocol.bundle import Bundle
from edge_runtime.protocol.enrolment import Problem
from edge_runtime.protocol.errors import Malformed, Refusal
from edge_runtime.protocol.keys import PublicKey, SigningKey, TrustRoots
from edge_runtime.protocol.reasons import Outcome
from edge_runtime.session import Request, Response
from edge_runtime.session.enrol import Installation, enrol
from edge_runtime.session.visit import Offer, VisitEnd, Work, visit
from loadtest.behaviour import back_off, made_up_report, training_s, wait_after
from loadtest.kinds import Kind, kind_of, kind_of_check_in
from loadtest.swarm_messages import SwarmOrder

CONNECT_S = 10.0
READ_S = 90.0
"""Longer than any coordinator holds a check-in open."""
EXAMPLES = 64
"""Every phone says that it holds so many examples."""


@dataclass(slots=True)
class Tally:
    """What all phones of a swarm have come to, beside locust's own statistics."""

    endings: Counter[str] = field(default_factory=Counter)
    reports_made: int = 0
    receipts: int = 0


class Phone(HttpUser):  # type: ignore[misc]  # to mypy, locust is Any: see pyproject.toml
    """One phone: enrols, then visits the coordinator for ever and waits out the retry windows, sped up."""

    abstract = True
    order: ClassVar[SwarmOrder]
    tally: ClassVar[Tally]
    numbers: ClassVar[Iterator[int]]

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.client.trust_env = False  # a load test does not take the way through a proxy
        self.rng = np.random.default_rng([self.order.seed, next(self.numbers)])
        self.roots = TrustRoots(PublicKey(self.order.tenant_key), PublicKey(self.order.coordinator_key))
        self.driver = Driver(SigningKey(os.urandom(32)), self.order.tenant, self.exchange, sleep=gevent.sleep)
        self.bundles: dict[str, Bundle] = {}
        self.enrolled = False
        self.wait_s = 0.0

    def wait_time(self) -> float:
        """Seconds of this run until the next visit."""
        return self.wait_s / self.order.speed_up

    def exchange(self, request: Request, headers: dict[str, str]) -> Response:
        """Send one signed request; a failure in the statistics is an answer that refuses, or none.

        Raises:
            Unreachable: There was no answer.
        """
        kind = kind_of(request.path)
        with self.client.request(
            request.method,
            request.path,
            name=kind,
            catch_response=True,
            data=request.body,
            headers={**headers, "accept-encoding": "identity"},
            timeout=(CONNECT_S, READ_S),
            allow_redirects=False,
        ) as answer:
            response = Response(answer.status_code, answer.content or b"")
            problem = _problem(request, response)
            if problem is not None:
                answer.failure(problem)
            elif kind == Kind.CHECK_IN:
                answer.request_meta["name"] = kind_of_check_in(response.body)
        if response.status == 0 or len(response.body) > request.answer_limit_bytes:
            raise Unreachable(f"{request.method} {request.path}: {problem}")
        return response

    def visit_once(self) -> None:
        """Enrol if need be, visit, and note how it ended and when to come back."""
        try:
            if not self.enrolled:
                self._enrol()
            end = self._visit()
        except Refusal as refusal:
            reason, self.wait_s = refusal.code or "refused", back_off(refusal, self.rng)
        except Unreachable as problem:
            reason, self.wait_s = "unreachable", back_off(problem, self.rng)
        else:
            reason, self.wait_s = end.reason.value, wait_after(end, self.rng)
            self.tally.receipts += end.bytes_up > 0
        self.tally.endings[reason] += 1

    def _enrol(self) -> None:
        order = self.order
        installation = Installation(order.tenant, order.population, "edgewise-loadtest", "1", "locust")
        self.driver.run(enrol(installation, self.driver.key.public))
        self.enrolled = True

    def _visit(self) -> VisitEnd:
        offer = Offer(
            tenant=self.order.tenant,
            population=self.order.population,
            visit=os.urandom(16).hex(),
            runtime="none",
            examples=EXAMPLES,
        )
        return self.driver.run(visit(offer, self.roots, self.bundles, self._train))

    def _train(self, work: Work) -> bytes | Outcome:
        gevent.sleep(training_s(self.rng) / self.order.speed_up)
        report = made_up_report(work, self.rng, self.order.dropout_share)
        self.tally.reports_made += isinstance(report, bytes)
        return report

    tasks: ClassVar = [visit_once]


def phones_of(order: SwarmOrder, tally: Tally) -> type[Phone]:
    """The user class of one swarm."""
    return type("PhoneOfSwarm", (Phone,), {"abstract": False, "order": order, "tally": tally, "numbers": count()})


def _problem(request: Request, response: Response) -> str | None:
    """Why an answer is a failure: no answer has the status 0."""
    if response.status == 0:
        return "unreachable"
    if len(response.body) > request.answer_limit_bytes:
        return "the answer is too long"
    if response.status == 200:
        return None
    try:
        return wire.decode(Problem, response.body).code
    except Malformed:
        return f"HTTP {response.status}"
