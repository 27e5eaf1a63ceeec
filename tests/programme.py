"""A small programme for tests: a tenant, a population, a bundle nobody can run, a task, and devices that speak HTTP.

The coordinator never looks inside a graph, so its tests bring a made-up one; training is a function of the round.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import numpy as np
from fastapi import FastAPI

from coordinator.app import create_app
from coordinator.services import catalogue
from coordinator.settings import Settings
from coordinator.store import migrate
from coordinator.store.database import Database
from edge_runtime.driver import Driver, Retries, Unreachable
from edge_runtime.privacy import private_report
from edge_runtime.protocol.bundle import (
    Bundle,
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
from edge_runtime.protocol.keys import SigningKey, TrustRoots, digest
from edge_runtime.protocol.plan import Close, Plan, Privacy, Summing, sign_plan
from edge_runtime.protocol.reasons import Outcome
from edge_runtime.session import Request, Response
from edge_runtime.session.enrol import Installation, enrol
from edge_runtime.session.visit import Offer, VisitEnd, Work, visit
from tests.asgi import answer_of
from tests.postgres import copy_database, drop_database
from tests.warm import LOOP, warm

TENANT = "acme"
POPULATION = "keyboard"
TASK = "words"
TENANT_KEY = SigningKey(digest(b"tenant key of the tests"))
COORDINATOR_KEY = SigningKey(digest(b"coordinator key of the tests"))
AUTHORITY_KEY = SigningKey(digest(b"enrolment authority of the tests' coordinator"))
ROOTS = TrustRoots(tenant=TENANT_KEY.public, coordinator=COORDINATOR_KEY.public)
START = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)


def manifest(parameters: int = 12) -> Manifest:
    """Of a graph whose weights are one personal bias of 2 and one shared matrix of the rest."""
    graph = b"not a graph that any interpreter could run"
    return Manifest(
        version=Manifest.VERSION,
        name="tiny",
        graph_sha256=digest(graph).hex(),
        tensors=(
            Tensor(name="bias", shape=(2,), trainable=True, role=Role.PERSONAL),
            Tensor(name="kernel", shape=(parameters - 2, 1), trainable=True, role=Role.BASE),
        ),
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
        exporter="tests",
    )


MANIFEST = manifest()
BUNDLE = encode_bundle(MANIFEST, b"not a graph that any interpreter could run", TENANT_KEY)
BUNDLE_SHA256 = digest(BUNDLE).hex()
FIRST_WEIGHTS = np.linspace(-1, 1, MANIFEST.parameters, dtype=np.float32)
CHECKPOINT = encode_checkpoint(FIRST_WEIGHTS, BUNDLE_SHA256, 0, TENANT_KEY)

PLAN = Plan(
    version=1,
    tenant=TENANT,
    population=POPULATION,
    bundle_sha256=BUNDLE_SHA256,
    epochs=1,
    batch_size=8,
    learning_rate=0.1,
    proximal_mu=0.0,
    clipping_norm=4.0,
    lane_bits=32,
    expected_participants=4,
    max_participants=16,
    goal=4,
    min_reports=2,
    close=Close.ALL_RESOLVED,
    summing=Summing.PLAIN,
    privacy=Privacy.NONE,
    min_examples=1,
    time_limit_s=60.0,
)


class Crash(BaseException):
    """Raised by a test inside the coordinator: its process died here."""


@dataclass
class Clock:
    """Stands still until it is moved."""

    at: datetime = START

    def __call__(self) -> datetime:
        return self.at

    def timestamp(self) -> float:
        return self.at.timestamp()

    def forward(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


def one_hot(position: int, value: float = 1.0) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A delta that is told apart from every other in a sum."""
    delta = np.zeros(MANIFEST.shared_parameters, np.float32)
    delta[position] = value
    return delta


@dataclass
class Phone:
    """A device of the tests, with the real session and the real driver."""

    number: int
    driver: Driver
    clock: Clock
    bundles: dict[str, Bundle] = field(default_factory=dict)
    visits: Iterator[int] = field(default_factory=itertools.count)

    def enrol(self, population: str = POPULATION) -> None:
        self.driver.run(enrol(Installation(TENANT, population, "app", "1.0", "linux"), self.driver.key.public))

    def moved(self, home: Home) -> Phone:
        """The same phone, that speaks to the coordinator where it runs now."""
        self.driver.send = home.send
        return self

    def visit(
        self, train: Callable[[Work], bytes | Outcome] | None = None, name: str | None = None, examples: int = 32
    ) -> VisitEnd:
        offer = Offer(
            tenant=TENANT,
            population=POPULATION,
            visit=name or digest(f"{self.number}/{next(self.visits)}".encode()).hex()[:32],
            runtime="none",
            examples=examples,
        )
        return self.driver.run(visit(offer, ROOTS, self.bundles, train or self.report))

    def report(self, work: Work) -> bytes:
        """A report whose delta is one-hot at the phone's number."""
        return private_report(work.participation, one_hot(self.number), work.plan, np.random.default_rng(self.number))


@dataclass
class Home:
    """A coordinator in this process, reached over ASGI; its worker moves when it is told to."""

    app: FastAPI
    clock: Clock
    token: str
    request: Callable[..., httpx.Response]

    def look(self) -> None:
        """Let the worker move everything as far as it goes."""
        self.app.state.worker.settle()

    def operator(
        self, method: str, path: str, headers: Mapping[str, str] = MappingProxyType({}), **kwargs: Any
    ) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.token}", **headers}
        return self.request(method, f"/v1/operator{path}", headers=headers, **kwargs)

    def send(self, request: Request, headers: dict[str, str]) -> Response:
        try:
            answer = self.request(request.method, request.path, content=request.body, headers=headers)
        except httpx.TransportError as problem:
            raise Unreachable(str(problem)) from problem
        return Response(answer.status_code, answer.content)

    def phone(self, number: int, population: str = POPULATION) -> Phone:
        driver = Driver(
            key=SigningKey(digest(b"phone", str(number).encode())),
            tenant=TENANT,
            send=self.send,
            retries=Retries(tries=1),
            clock=self.clock.timestamp,
            sleep=lambda _seconds: None,
        )
        phone = Phone(number, driver, self.clock)
        phone.enrol(population)
        return phone

    def publish(self) -> str:
        """Bring population, bundle and first checkpoint; the checkpoint's address as signed by the coordinator."""
        self.operator("PUT", f"/populations/{POPULATION}").raise_for_status()
        self.operator("PUT", f"/bundles/{BUNDLE_SHA256}", content=BUNDLE).raise_for_status()
        answer = self.operator("POST", f"/bundles/{BUNDLE_SHA256}/checkpoints", content=CHECKPOINT)
        sha256: str = answer.raise_for_status().json()["sha256"]
        return sha256

    def order(
        self,
        plan: Plan = PLAN,
        *,
        name: str = TASK,
        checkpoint_sha256: str = "",
        seed: str | None = "00" * 32,
        rounds: int | None = 2,
        **settings: Any,
    ) -> dict[str, Any]:
        """The body of a task request."""
        raw, signature = sign_plan(plan, TENANT_KEY)
        order = {
            "name": name,
            "plan": base64.b64encode(raw).decode(),
            "plan_signature": base64.b64encode(signature).decode(),
            "checkpoint_sha256": checkpoint_sha256,
            "settings": {
                "stop": {"rounds": rounds},
                "over_selection": 1.0,
                "pool_size": 4,
                "selecting_deadline_s": 100.0,
                "reporting_deadline_s": 100.0,
                "retry_rejected_s": 10.0,
                "retry_reported_s": 10.0,
                **settings,
            },
        }
        return order if seed is None else {**order, "seed": seed}

    def start_task(self, plan: Plan = PLAN, **changes: Any) -> None:
        order = self.order(plan, **{"checkpoint_sha256": self.publish(), **changes})
        self.start_order(order)
        self.look()

    def start_order(self, order: dict[str, Any]) -> dict[str, Any]:
        """Create the task of an order, approve and start it; the task."""
        self.operator("POST", "/tasks", json=order).raise_for_status()
        self.operator("POST", f"/tasks/{order['name']}/approve").raise_for_status()
        started: dict[str, Any] = self.operator("POST", f"/tasks/{order['name']}/start").raise_for_status().json()
        return started

    def task(self) -> dict[str, Any]:
        found: dict[str, Any] = self.operator("GET", f"/tasks/{TASK}").raise_for_status().json()
        return found

    def rounds(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.operator("GET", f"/tasks/{TASK}/rounds").raise_for_status().json()
        return found


_URL_FILE = "database.url"
"""Names the database of a folder, if it is not SQLite's file in it."""


def settings_in(folder: Path) -> Settings:
    url = folder / _URL_FILE
    return Settings(
        data_dir=folder,
        database_url=url.read_text() if url.exists() else "",
        hold_s=0,
        free_disk_bytes=0,
        chunk_reports=2,
        worker_interval_s=0.05,
    )


def copy_home(folder: Path, to: Path) -> Path:
    """A copy of a coordinator that does not run, with a database of its own."""
    copy = Path(shutil.copytree(folder, to))
    url = folder / _URL_FILE
    if url.exists():
        (copy / _URL_FILE).write_text(copy_database(url.read_text()))
    return copy


def forget_home(folder: Path) -> None:
    """Delete what a coordinator has outside its folder."""
    url = folder / _URL_FILE
    if url.exists():
        drop_database(url.read_text())


def make_home(folder: Path, database_url: str = "") -> str:
    """What `edgewise-coordinator init` makes, with the tests' keys; the operator token."""
    if database_url:
        (folder / _URL_FILE).write_text(database_url)
    settings = settings_in(folder)
    settings.key_file().write_text(COORDINATOR_KEY.raw.hex())
    settings.authority_file().write_text(AUTHORITY_KEY.raw.hex())
    database = Database(settings.sqlalchemy_url())
    migrate.upgrade(database)
    with database.writing() as session:
        catalogue.create_tenant(session, TENANT, TENANT_KEY.public, START)
        session.flush()
        token = catalogue.issue_token(session, TENANT, START)
    database.close()
    return token


@contextlib.contextmanager
def open_home(folder: Path, clock: Clock, token: str, **changes: Any) -> Iterator[Home]:
    """Run the coordinator of a folder in this process; what was there before goes on."""
    app = create_app(settings_in(folder).model_copy(update=changes), now=clock, with_worker=False)
    warm(app)
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://home")
    with LOOP as portal, portal.wrap_async_context_manager(app.router.lifespan_context(app)):

        async def call(method: str, url: str, kwargs: dict[str, Any]) -> httpx.Response | Crash:
            try:
                return await answer_of(app, client.build_request(method, url, **kwargs))
            except Crash as crash:
                return crash

        def request(method: str, url: str, **kwargs: Any) -> httpx.Response:
            answer: httpx.Response | Crash = portal.call(call, method, url, kwargs)
            if isinstance(answer, Crash):
                raise answer
            return answer

        yield Home(app, clock, token, request)


__all__ = ["PLAN", "Home", "Phone", "make_home", "open_home", "replace"]
