"""A participation's training, from its assignment to a report on disk, in as many slices as it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from edge_runtime.device import Device
from edge_runtime.exchange import Exchange
from edge_runtime.journal import Progress
from edge_runtime.journal import state as now_is
from edge_runtime.journal.admission import admitted, is_admitted
from edge_runtime.journal.journal import Trained
from edge_runtime.journal.participation import Participation
from edge_runtime.journal.state import State
from edge_runtime.model import Model
from edge_runtime.personal import with_own
from edge_runtime.privacy import layer_sizes, private_report
from edge_runtime.protocol import wire
from edge_runtime.protocol.bundle import BUNDLE_LIMIT_BYTES, Bundle, verify_bundle
from edge_runtime.protocol.checkin import bundle_path, checkpoint_path
from edge_runtime.protocol.checkpoint import Checkpoint, Weights, checkpoint_bytes, verify_checkpoint
from edge_runtime.protocol.errors import InvalidExamples, NonFiniteTraining, NotFound
from edge_runtime.protocol.keys import digest
from edge_runtime.protocol.plan import Plan, Summing
from edge_runtime.protocol.reasons import Outcome
from edge_runtime.protocol.secure_sum.lanes import Delta
from edge_runtime.session.visit import round_header, verified_plan
from edge_runtime.training import Batches, Finished, beginning, resume


class Barred(Exception):
    """The plan's limits of participation do not allow this one; `outcome` says which."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome)
        self.outcome = outcome


SAVE_EVERY_S: Final = 30.0
"""The most that a killed app trains again."""


class Run:
    """One slice of it.

    Attributes:
        refused_as: The outcome of a refusal at the point that was reached.
    """

    def __init__(self, device: Device, exchange: Exchange, held: Participation) -> None:
        self.refused_as = Outcome.PLAN_REFUSED
        self._device = device
        self._exchange = exchange
        self._held = held
        self._saved_at_s = device.monotonic()

    def go_on(self) -> None:
        """Fetch what is not on disk, verify all of it, train, and seal the report, or the change for a group.

        Raises:
            Interrupted: Stopped; a savepoint holds what was reached.
            Refusal: Something was refused, by the coordinator or here.
            Unreachable: No answer.
        """
        installation, held = self._device.installation, self._held
        plan = verified_plan(
            held.plan, held.plan_signature, installation.tenant, installation.population, self._device.roots
        )
        self._admit(plan)
        if plan.summing is Summing.SECURE:
            self._go_on_for_a_group(plan)
            return
        finished = self._finished(plan)
        self._say_evaluation(finished)
        report = self._report(plan, finished.delta)
        self._exchange.book()
        self._device.journal.seal(report, Trained(plan.bundle_sha256, finished.weights))

    def _admit(self, plan: Plan) -> None:
        """Hold this participation against the plan's limits, on disk before anything is trained.

        Rounds, and norms that adapt, are those of the signed header; it is asked for once.

        Raises:
            Barred: It would be one too many, or too early.
            Refusal: The header does not hold.
            Interrupted, Unreachable: As `Exchange.drive`.
        """
        held = self._held
        if not plan.needs_header or is_admitted(held, plan):
            return
        header = self._exchange.drive(
            round_header(
                held.participation,
                plan,
                self._device.roots.coordinator,
                plan_sha256=digest(held.plan).hex(),
                round_=held.round,
                checkpoint_sha256=held.checkpoint_sha256,
            )
        )
        reasons: list[Outcome | None] = []

        def change(state: State) -> State:
            after, reason = admitted(state, plan, digest(held.plan).hex(), header.clipping_norm)
            reasons.append(reason)
            return after

        self._device.journal.update(change)
        if reasons[-1] is not None:
            raise Barred(reasons[-1])

    def _go_on_for_a_group(self, plan: Plan) -> None:
        """Train, if this device takes part in such groups; what is not finite becomes zeros: others count on it."""
        from edge_runtime.groups import certified  # and all of secure summing

        self.refused_as = Outcome.GROUP_REFUSED
        certified(self._device, self._exchange, plan)
        trained, zeroed = None, None
        try:
            finished = self._finished(plan)
            self._say_evaluation(finished)
            trained, delta = Trained(plan.bundle_sha256, finished.weights), finished.delta
            report = self._report(plan, delta)
        except NonFiniteTraining as refusal:
            self._device.say(f"contributes zeros: {refusal.detail} ({refusal.code})")
            zeroed, trained = Outcome.NON_FINITE_TRAINING, None
            values = plan.values(self._bundle(plan).manifest.shared_parameters)
            delta = np.zeros(values - plan.counts, np.float32)
            report = self._report(plan, delta, zeroed=True)
        self._exchange.book()
        values = delta.size + plan.counts
        self._device.journal.seal_change(report, values=values, zeroed=zeroed, trained=trained)

    def _report(self, plan: Plan, delta: Delta, *, zeroed: bool = False) -> bytes:
        """The report, not masked yet: clipped, and with the noise that the plan has devices add."""
        layers = layer_sizes(self._bundle(plan).manifest) if plan.layer_shares else ()
        held, rng = now_is.under_way(self._device.state), self._generator()
        norm = held.clipping_norm
        return private_report(held.participation, delta, plan, rng, layers, clipping_norm=norm, zeroed=zeroed)

    def _finished(self, plan: Plan) -> Finished:
        """Train to the end; the graph, its interpreter and the weights received are let go before a report is made."""
        self.refused_as = Outcome.BUNDLE_REFUSED
        bundle = self._bundle(plan)
        self.refused_as = Outcome.CHECKPOINT_REFUSED
        checkpoint = self._checkpoint(bundle)
        self.refused_as = Outcome.INTERPRETER_FAILED
        journal = self._device.journal
        model = self._device.engine.open(bundle)
        received = with_own(checkpoint.weights, journal.personal(bundle.sha256), bundle.manifest)
        del checkpoint
        progress = journal.progress() or self._begun(plan, model, received)
        stop, examples = self._stop(plan), self._examples(progress)
        return resume(
            model, received, plan, examples, progress, save=self._save, stop=stop, due=self._due, overwrite=True
        )

    def _bundle(self, plan: Plan) -> Bundle:
        sha256, downloads = plan.bundle_sha256, self._device.downloads
        raw = downloads.read(sha256)
        if raw is None:
            raw = self._exchange.drive(downloads.obtain(bundle_path(sha256), sha256, BUNDLE_LIMIT_BYTES))
        return verify_bundle(raw, sha256, self._device.roots.tenant)

    def _checkpoint(self, bundle: Bundle) -> Checkpoint:
        sha256, parameters = self._held.checkpoint_sha256, bundle.manifest.parameters
        downloads, raw = self._device.downloads, self._device.downloads.read(self._held.checkpoint_sha256)
        if raw is None:
            limit = max(checkpoint_bytes(parameters), wire.MESSAGE_LIMIT_BYTES)
            raw = self._exchange.drive(downloads.obtain(checkpoint_path(sha256), sha256, limit))
        key = self._device.roots.coordinator
        return verify_checkpoint(raw, sha256, key, bundle_sha256=bundle.sha256, parameters=parameters)

    def _begun(self, plan: Plan, model: Model, received: Weights) -> Progress:
        """Fix the examples, their order and the chances of dropout, on disk before the first step."""
        device, collection = self._device, self._device.trains_on
        if collection is None:
            raise InvalidExamples("the app declared no examples")
        snapshot = device.examples.snapshot(collection.name, plan.max_example_age_s, device.now_s)
        device.examples.keep_snapshots(snapshot)
        order_seed = int.from_bytes(device.entropy(8), "big") >> 1
        progress = beginning(model, received, snapshot, order_seed, self._generator())
        device.journal.save(progress)
        return progress

    def _examples(self, progress: Progress) -> Batches:
        try:
            return self._device.examples.batches(progress.snapshot)
        except NotFound:
            raise InvalidExamples("the examples of this participation are gone") from None

    def _stop(self, plan: Plan) -> Callable[[], Outcome | None]:
        """Conditions first, then the plan's time over all slices, then the coordinator's deadline."""
        held, watch = now_is.under_way(self._device.state), self._exchange.watch
        worked_s = held.seconds - self._exchange.booked_seconds
        deadline_s = watch.seconds + held.deadline_at_s - self._device.now_s

        def stop() -> Outcome | None:
            if outcome := watch():
                return outcome
            if worked_s + watch.seconds >= plan.time_limit_s:
                return Outcome.TIME_LIMIT
            return Outcome.DEADLINE_PASSED if watch.seconds >= deadline_s else None

        return stop

    def _due(self) -> bool:
        return self._device.monotonic() - self._saved_at_s >= SAVE_EVERY_S

    def _save(self, progress: Progress) -> None:
        self._exchange.book()
        self._device.journal.save(progress)
        self._saved_at_s = self._device.monotonic()

    def _generator(self) -> np.random.Generator:
        return np.random.default_rng(int.from_bytes(self._device.entropy(16), "big"))

    def _say_evaluation(self, finished: Finished) -> None:
        if finished.before is not None and finished.after is not None:
            self._device.say(f"loss on local examples: {finished.before.loss:.4g} to {finished.after.loss:.4g}")
