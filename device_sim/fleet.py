"""A fleet of simulated phones on the real wire protocol: the phones' own sessions and driver, many at a time."""

from __future__ import annotations

import hashlib
import itertools
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

import httpx
import numpy as np

from device_sim.appointments import keep_appointments
from device_sim.behaviour import behaviour, generator
from device_sim.datasets import Dataset
from device_sim.events import Diary, Enrolled, Evaluated, Event, Participated
from edge_runtime import limits
from edge_runtime.driver import Driver, Retries, Send, over_http, time_limit
from edge_runtime.examples import Examples
from edge_runtime.interpreters import runtime_name
from edge_runtime.model import Model, open_model
from edge_runtime.privacy import layer_sizes, private_report
from edge_runtime.protocol.bundle import Bundle
from edge_runtime.protocol.checkpoint import Checkpoint
from edge_runtime.protocol.errors import NotFound
from edge_runtime.protocol.group import Step
from edge_runtime.protocol.keys import SigningKey, TrustRoots
from edge_runtime.protocol.noise import NoiseSource
from edge_runtime.protocol.reasons import Outcome, Wait
from edge_runtime.protocol.secure_sum.transcript import Floors as GroupFloors
from edge_runtime.session import Request, Response
from edge_runtime.session.enrol import Installation, enrol
from edge_runtime.session.unkept import Summer
from edge_runtime.session.visit import (
    Offer,
    Train,
    VisitEnd,
    Work,
    current_release,
    fetch_bundle,
    fetch_checkpoint,
    visit,
)
from edge_runtime.training import Interrupted, Trained, train

Result = TypeVar("Result")

HARDWARE_CLASSES: Final = ("high", "middle", "low")
RETRIES: Final = Retries(tries=480, pause_s=0.25)
"""Patient enough for a coordinator that is down for two minutes."""

AWAITS_TASK_S: Final = 60.0
ASKS_FOR_TASK_S: Final = 0.2

COMES_BACK_S: Final = 0.4
"""How long after it was killed an app checks in anew, in seconds."""

SUMMING: Final = {
    Step.JOIN: "offers keys for a group",
    Step.SHARES: "shares its secrets among the group",
    Step.MASKED: "masks its report",
    Step.CONFIRMATION: "confirms whose reports count",
    Step.UNMASKING: "helps to open the sum",
}
"""What a phone's day says of each step in a group."""

# Purposes of random generators: no two share a path.
BEHAVIOUR, ORDER, _ROUNDING, _RETURN = range(4)


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetConfig:
    """What a fleet must know; everything else it learns over HTTP."""

    coordinator: str
    roots: TrustRoots
    tenant: str
    population: str
    seed: int
    models: int = 2
    """Phones that train at the same time."""
    groups: GroupFloors = field(default_factory=GroupFloors)
    """What the simulated app compiled in for secure summing."""


class AppKilled(Exception):
    """The simulated system killed the app in the middle of a visit."""


@dataclass(slots=True)
class Phone:
    """One simulated phone: a key of its own, and examples that nobody else sees."""

    index: int
    examples: Examples
    key: SigningKey
    certificate: bytes = b""
    """Of the key, by the enrolment authority."""
    past: limits.Past = ()
    """What it gave under plans that bound it; it outlives the app's death."""
    visits: int = 0
    bytes_up: int = 0
    bytes_down: int = 0


def phone_key(seed: int, index: int) -> SigningKey:
    """The key of a simulated phone: from the seed, so that a fleet is the same fleet on every run.

    Real devices draw theirs from the system's random source.
    """
    return SigningKey(hashlib.sha256(f"edgewise/simulated-phone/{seed}/{index}".encode()).digest())


@dataclass(slots=True)
class Models:
    """A few interpreters that all phones share, one at a time each."""

    most: int
    _idle: queue.LifoQueue[Model | None] = field(init=False)

    def __post_init__(self) -> None:
        self._idle = queue.LifoQueue()
        for _ in range(self.most):
            self._idle.put(None)

    def use(self, bundle: Bundle, act: Callable[[Model], Result]) -> Result:
        """Run `act` with a model of the bundle that nobody else uses meanwhile."""
        model = self._idle.get()
        try:
            if model is None or model.bundle.sha256 != bundle.sha256:
                model = open_model(bundle)
            return act(model)
        finally:
            self._idle.put(model)


class Fleet:
    """Phones that train, and phones that are held out and only evaluate.

    Args:
        tell: Is told every event; called from several threads.
        diary_of: Index of the phone whose day is told.
    """

    def __init__(self, config: FleetConfig, dataset: Dataset, tell: Callable[[Event], None], diary_of: int = 0) -> None:
        self._config = config
        self._dataset = dataset
        self._tell = tell
        self._diary_of = diary_of
        everyone = (*dataset.training, *dataset.held_out)
        phones = [Phone(i, examples, phone_key(config.seed, i)) for i, examples in enumerate(everyone)]
        self._training = phones[: len(dataset.training)]
        self._held_out = phones[len(dataset.training) :]
        self._bundles: dict[str, Bundle] = {}
        self._models = Models(config.models)
        self._runtime = runtime_name()
        self._evaluated: set[int] = set()
        self._to_evaluate: queue.SimpleQueue[tuple[Bundle, Checkpoint] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()

    def run(self) -> None:
        """Enrol everyone, train until the task has ended, and evaluate every model version on the way.

        Raises:
            Refusal: The coordinator refused a phone, or no task has started `AWAITS_TASK_S` after all were enrolled.
            Unreachable: It did not come back in time.
        """
        self._enrol_all()
        self._await_task()
        self._look_at_release()
        evaluating = threading.Thread(target=self._evaluate_all, name="evaluate", daemon=True)
        evaluating.start()
        try:
            self._visit_until_done()
            self._look_at_release()
        finally:
            self._to_evaluate.put(None)
            evaluating.join()

    # --- visits -------------------------------------------------------------------------------------------------

    def _visit_until_done(self) -> None:
        """Every training phone visits when its retry window says so, until no task is left."""
        with self._client() as client:
            keep_appointments(len(self._training), lambda index: self._one_visit(self._training[index], client))

    def _one_visit(self, phone: Phone, client: httpx.Client) -> float | None:
        """Drive one visit; the seconds until the next one, or None when there is nothing more to do."""
        driver = self._driver(phone, client)
        phone.visits += 1
        phone.bytes_up = phone.bytes_down = 0
        offer = Offer(
            tenant=self._config.tenant,
            population=self._config.population,
            visit=hashlib.sha256(f"{self._config.seed}/{phone.index}/{phone.visits}".encode()).hexdigest()[:32],
            runtime=self._runtime,
            examples=len(phone.examples),
            installation=self._installation(phone),
        )
        self._note(phone, "check-in", f"visit {phone.visits}")
        took_part: list[tuple[int, bool]] = []
        try:
            train_ = self._trainer(phone, took_part)
            end = driver.run(visit(offer, self._config.roots, self._bundles, train_, self._summer(phone).sums))
        except AppKilled:
            self._note(phone, "interrupted", Outcome.PROCESS_KILLED)
            self._tell_participation(phone, took_part, Outcome.PROCESS_KILLED)
            return COMES_BACK_S
        if end.round is None:
            self._note(phone, "waiting", end.reason)
        else:
            self._note(phone, "reported" if end.reason is Wait.REPORTED else "interrupted", end.reason)
            self._tell_participation(phone, took_part, end.reason)
        return None if end.reason is Wait.NO_TASK else self._return_delay(phone, end)

    def _trainer(self, phone: Phone, took_part: list[tuple[int, bool]]) -> Train:
        seed = self._config.seed

        def run_plan(work: Work) -> bytes | Outcome:
            happens = behaviour(generator(seed, BEHAVIOUR, phone.index, work.round))
            took_part.append((work.round, happens.straggle_s > 0))
            self._note(phone, "assigned", f"round {work.round}")
            self._note(phone, "fetched", f"model version {work.checkpoint.model_version}")
            self._wants_evaluation(work.bundle, work.checkpoint)
            if happens.silent:
                raise AppKilled
            if happens.dropout is not None:
                return happens.dropout
            now_s = time.time()
            if (too_often := limits.barred(phone.past, work.plan, work.plan_sha256, work.round, now_s)) is not None:
                return too_often
            try:
                trained = self._train(phone, work)
            except Interrupted as interrupted:
                return interrupted.outcome
            time.sleep(happens.straggle_s)
            self._note(
                phone, "trained", f"{trained.steps} steps, loss {trained.loss_first:.2f} to {trained.loss_last:.2f}"
            )
            if work.plan.limited:
                phone.past = limits.gave(phone.past, work.plan_sha256, work.round, now_s)
            return private_report(
                work.participation,
                trained.delta,
                work.plan,
                generator(seed, _ROUNDING, phone.index, work.round),
                layer_sizes(work.bundle.manifest),
                clipping_norm=work.clipping_norm,
                simulated_noise=noise_of(seed, phone.index, work.round),
            )

        return run_plan

    def _summer(self, phone: Phone) -> Summer:
        """How a phone takes part in groups: it has no journal, and forgets a participation when its app is killed."""
        return Summer(
            key=phone.key,
            certificate=phone.certificate,
            authority=self._config.roots.authority,
            floors=self._config.groups,
        )

    def _train(self, phone: Phone, work: Work) -> Trained:
        order = generator(self._config.seed, ORDER, phone.index, work.round)

        def act(model: Model) -> Trained:
            stop = time_limit(work.plan.time_limit_s)
            return train(model, work.checkpoint.weights, work.plan, phone.examples, order, stop=stop)

        return self._models.use(work.bundle, act)

    def _return_delay(self, phone: Phone, end: VisitEnd) -> float:
        return (
            end.after_s
            + float(generator(self._config.seed, _RETURN, phone.index, phone.visits).random()) * end.spread_s
        )

    def _await_task(self) -> None:
        """Return when a task has started, which may be ordered once the phones are known."""
        until = time.monotonic() + AWAITS_TASK_S
        with self._client() as client:
            while True:
                try:
                    self._driver(self._held_out[0], client).run(current_release(self._config.population, None))
                    return
                except NotFound:
                    if time.monotonic() > until:
                        raise
                time.sleep(ASKS_FOR_TASK_S)

    # --- held-out phones ----------------------------------------------------------------------------------------

    def _look_at_release(self) -> None:
        """Every held-out phone asks for the released model and fetches it, as an app does that only infers."""

        def look(index: int) -> None:
            driver = self._driver(self._held_out[index], client)
            released = driver.run(current_release(self._config.population, None))
            bundle = driver.run(fetch_bundle(released.bundle_sha256, self._config.roots, self._bundles))
            checkpoint = driver.run(fetch_checkpoint(released.checkpoint_sha256, bundle, self._config.roots))
            self._wants_evaluation(bundle, checkpoint)

        with self._client() as client:
            keep_appointments(len(self._held_out), look)

    def _wants_evaluation(self, bundle: Bundle, checkpoint: Checkpoint) -> None:
        with self._lock:
            if checkpoint.model_version in self._evaluated:
                return
            self._evaluated.add(checkpoint.model_version)
        self._to_evaluate.put((bundle, checkpoint))

    def _evaluate_all(self) -> None:
        test = pooled(self._dataset.held_out)
        while (wanted := self._to_evaluate.get()) is not None:
            bundle, checkpoint = wanted
            model = open_model(bundle)
            model.set_weights(checkpoint.weights)
            found = model.evaluate(test)
            self._tell(Evaluated(checkpoint.model_version, found.accuracy, found.loss))

    # --- plumbing -----------------------------------------------------------------------------------------------

    def _enrol_all(self) -> None:
        everyone = (*self._training, *self._held_out)
        done = itertools.count(1)

        def enrol_one(index: int) -> None:
            phone = everyone[index]
            answer = self._driver(phone, client).run(enrol(self._installation(phone), phone.key.public))
            phone.certificate = answer.certificate
            self._tell(Enrolled(next(done)))

        with self._client() as client:
            keep_appointments(len(everyone), enrol_one)

    def _installation(self, phone: Phone) -> Installation:
        """What a phone says of itself; every third one is of each hardware class, so that cohorts can be tried."""
        tenant, population = self._config.tenant, self._config.population
        hardware = HARDWARE_CLASSES[phone.index % len(HARDWARE_CLASSES)]
        return Installation(tenant, population, "edgewise-demo", "1.0", "simulated", hardware_class=hardware)

    def _client(self) -> httpx.Client:
        unlimited = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        return httpx.Client(base_url=self._config.coordinator, timeout=60, trust_env=False, limits=unlimited)

    def _driver(self, phone: Phone, client: httpx.Client) -> Driver:
        send = _counted(phone, self._told(phone, over_http(client)))
        return Driver(key=phone.key, tenant=self._config.tenant, send=send, retries=RETRIES)

    def _told(self, phone: Phone, send: Send) -> Send:
        """Tell of the steps that a phone sends in a group."""

        def telling(request: Request, headers: dict[str, str]) -> Response:
            if request.method == "POST" and "/groups/" in request.path:
                self._note(phone, "summing", SUMMING[Step(request.path.rsplit("/", 1)[-1])])
            return send(request, headers)

        return telling

    def _note(self, phone: Phone, what: str, detail: str) -> None:
        if phone.index == self._diary_of:
            self._tell(Diary(time.time(), what, detail))

    def _tell_participation(self, phone: Phone, took_part: list[tuple[int, bool]], reason: str) -> None:
        for number, straggled in took_part:
            self._tell(Participated(number, reason, phone.bytes_up, phone.bytes_down, straggled))


def noise_of(seed: int, phone: int, round_: int) -> NoiseSource:
    """The noise of one participation: from the seed, so that a run can be repeated, and so hiding nothing.

    Real devices draw theirs from the system's random source.
    """
    return NoiseSource(hashlib.sha256(f"edgewise/simulated-noise/{seed}/{phone}/{round_}".encode()).digest())


def pooled(devices: Sequence[Examples]) -> Examples:
    """The examples of several devices in one place: what federation avoids, and what a test set is."""
    return Examples(np.concatenate([one.x for one in devices]), np.concatenate([one.y for one in devices]))


def _counted(phone: Phone, send: Send) -> Send:
    """Count the bodies that a phone sends and receives."""

    def counting(request: Request, headers: dict[str, str]) -> Response:
        response = send(request, headers)
        phone.bytes_up += len(request.body)
        phone.bytes_down += len(response.body)
        return response

    return counting
