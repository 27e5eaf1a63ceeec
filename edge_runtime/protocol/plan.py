"""The plan: what a chosen device executes. Signed by the tenant key; the coordinator cannot change a byte of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from edge_runtime.protocol import wire
from edge_runtime.protocol.claims import ON_DEVICES, AdaptiveNorm, check_claims
from edge_runtime.protocol.claims import Privacy as Privacy
from edge_runtime.protocol.errors import InvalidPlan
from edge_runtime.protocol.keys import Domain, PublicKey, SigningKey, digest, is_sha256, sign_document, verify_document
from edge_runtime.protocol.secure_sum.lanes import Lanes
from edge_runtime.protocol.secure_sum.thresholds import corrupt_members


class Kind(StrEnum):
    """What a device does with the model."""

    TRAIN = "train"
    EVALUATE = "evaluate"
    """Only measure it; nothing changes the model."""


class Close(StrEnum):
    """When a round stops waiting for reports."""

    GOAL = "goal"
    """At the goal: the fast choice."""
    ALL_RESOLVED = "all_resolved"
    """When each participant reported, sent an outcome, or the deadline passed: the reproducible choice."""


class Summing(StrEnum):
    """How the reports of a group are added up."""

    PLAIN = "plain"
    """The coordinator sees each report."""
    SECURE = "secure"
    """It sees sums of groups, and no report. Version 4."""


MOST_METRICS = 64
LONGEST_METRIC = 64
LARGEST_MEASURE = 1e6
MOST_EXAMPLES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RateStep:
    """From this epoch on, counted from 0, the learning rate is the plan's times `factor`."""

    from_epoch: int
    factor: float

    def __post_init__(self) -> None:
        if not (self.from_epoch >= 0 and 0 < self.factor <= 1000):
            raise InvalidPlan("a step of the learning rate has an epoch from 0 and a factor above 0, at most 1000")


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricRange:
    """A metric that devices report, and the range that its mean on a device is held within; `loss` is one too."""

    name: str
    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < len(self.name) <= LONGEST_METRIC:
            raise InvalidPlan(f"a metric's name has 1 to {LONGEST_METRIC} characters")
        if not (-LARGEST_MEASURE <= self.low < self.high <= LARGEST_MEASURE):
            raise InvalidPlan(f"the range of metric {self.name!r} is rising, within ±{LARGEST_MEASURE:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Training on one device: `epochs` passes over its examples, then one clipped, rounded delta.

    Attributes:
        bundle_sha256: The graph to train.
        epochs: Passes over the local examples.
        batch_size: Examples a step; at most the bundle's batch.
        learning_rate: Of the bundle's optimiser, per step.
        proximal_mu: Weight of the FedProx term; 0 for none.
        clipping_norm: Largest L2 norm of the delta.
        lane_bits: Bits of one lane of the report.
        expected_participants: What the sum is divided by, whoever came.
        max_participants: Most reports that one sum can hold without overflow.
        goal: Reports wanted in a round.
        min_reports: Fewer than these, and the round is abandoned.
        min_examples: A device with fewer takes no part.
        time_limit_s: A device stops training after this long, in seconds, over all its slices, and sends an outcome.
        rate_steps: Changes of the learning rate, by rising epochs. Version 2, as all below.
        max_steps: Training ends after so many steps, even within an epoch; None for no limit.
        max_example_age_s: Older examples are not used; None for any age.
        evaluates: The device measures the model on its examples before and after; the numbers stay there.
        kind: Train the model, or only measure it. Version 3, as all below.
        metrics: Of a plan that measures: what is reported, as `measures` says.
        max_examples: Of a plan that measures: a device weighs as much as so many examples at most.
        fewest_members: Of secure summing: least members of a group, n_min; the most are `max_participants`. Version 4,
            as all below.
        survivors: Of secure summing: fewest reports whose sum may be opened, m.
        corrupt_permille: Of secure summing: share of members assumed corrupt, in thousandths.
        dropout_permille: Of secure summing: share that may fall silent, in thousandths; for groups above 200.
        noise_multiplier: Standard deviation of the noise of a sum, divided by the clipping norm; 0 for none.
        rotation_seed: Of lanes below 24 bits: 32 bytes.
        separation: A device that was in round i under this plan is in round i + separation again at the earliest; 1 for
            none. Rounds are those of the signed round header. Version 5, as all below.
        separation_s: Least seconds between two assignments by the device's clock, whatever the rounds say; 0 for none.
        most_participations: Most rounds under this plan that one device is in; None for no limit.
        example_clipping_norm: Largest L2 norm of one example's gradient: each step on a device hides each example in
            noise; None for ordinary steps.
        example_noise_multiplier: Standard deviation of a step's noise, divided by that norm; 0 for none.
        layer_shares: The share of the squared clipping norm that each shared tensor gets, in the manifest's order, in
            any unit: each is clipped by itself; empty clips the delta as a whole.
        adaptive: The clipping norm follows a quantile of the deltas' norms; None for a fixed one.
    """

    VERSION: ClassVar[int] = 5
    OLDEST: ClassVar[int] = 1
    ADDED: ClassVar[Mapping[str, int]] = {
        "rate_steps": 2,
        "max_steps": 2,
        "max_example_age_s": 2,
        "evaluates": 2,
        "kind": 3,
        "metrics": 3,
        "max_examples": 3,
        "fewest_members": 4,
        "survivors": 4,
        "corrupt_permille": 4,
        "dropout_permille": 4,
        "noise_multiplier": 4,
        "rotation_seed": 4,
        "separation": 5,
        "separation_s": 5,
        "most_participations": 5,
        "example_clipping_norm": 5,
        "example_noise_multiplier": 5,
        "layer_shares": 5,
        "adaptive": 5,
    }

    version: int
    tenant: str
    population: str
    bundle_sha256: str
    epochs: int
    batch_size: int
    learning_rate: float
    proximal_mu: float
    clipping_norm: float
    lane_bits: int
    expected_participants: int
    max_participants: int
    goal: int
    min_reports: int
    close: Close
    summing: Summing
    privacy: Privacy
    min_examples: int
    time_limit_s: float
    rate_steps: tuple[RateStep, ...] = ()
    max_steps: int | None = None
    max_example_age_s: float | None = None
    evaluates: bool = False
    kind: Kind = Kind.TRAIN
    metrics: tuple[MetricRange, ...] = ()
    max_examples: int | None = None
    fewest_members: int | None = None
    survivors: int | None = None
    corrupt_permille: int = 100
    dropout_permille: int = 100
    noise_multiplier: float = 0.0
    rotation_seed: bytes = b""
    separation: int = 1
    separation_s: float = 0.0
    most_participations: int | None = None
    example_clipping_norm: float | None = None
    example_noise_multiplier: float = 0.0
    layer_shares: tuple[float, ...] = ()
    adaptive: AdaptiveNorm | None = None

    def __post_init__(self) -> None:
        def check(holds: bool, sentence: str) -> None:
            if not holds:
                raise InvalidPlan(sentence)

        check(bool(self.tenant) and bool(self.population), "tenant and population are named")
        check(is_sha256(self.bundle_sha256), "bundle_sha256 is 64 hex digits")
        check(1 <= self.epochs <= 1000, f"epochs is 1 to 1000, not {self.epochs}")
        check(1 <= self.batch_size <= 65536, f"batch_size is 1 to 65536, not {self.batch_size}")
        check(0 < self.learning_rate <= 1000, f"learning_rate is above 0 and at most 1000, not {self.learning_rate}")
        check(self.lane_bits == 32 or self.version >= 4, f"lanes have 32 bits before version 4, not {self.lane_bits}")
        check(0 <= self.proximal_mu <= 1000, f"proximal_mu is 0 to 1000, not {self.proximal_mu}")
        check(1 <= self.min_reports <= self.goal, "min_reports is at least 1 and at most the goal")
        check(self.goal <= self.max_participants, "the goal is at most max_participants")
        check(
            1 <= self.expected_participants <= self.max_participants,
            "expected_participants is at least 1 and at most max_participants",
        )
        check(self.min_examples >= 1, "min_examples is at least 1")
        check(0 < self.time_limit_s <= 86400, f"time_limit_s is above 0 and at most a day, not {self.time_limit_s}")
        epochs = [step.from_epoch for step in self.rate_steps]
        check(epochs == sorted(set(epochs)), "rate_steps are by rising epochs, each once")
        check(self.max_steps is None or self.max_steps >= 1, "max_steps is at least 1")
        check(self.max_example_age_s is None or self.max_example_age_s > 0, "max_example_age_s is above 0")
        check(wire.fits_version(self), f"a plan of version {self.version} has what a later version brought")
        self._check_measures()
        self._check_summing()
        self.lanes()  # refuses clipping norms, widths and participants that could overflow
        check_claims(self)

    def _check_measures(self) -> None:
        def check(holds: bool, sentence: str) -> None:
            if not holds:
                raise InvalidPlan(sentence)

        if self.kind is Kind.TRAIN:
            check(not self.metrics and self.max_examples is None, "only a plan that measures has metrics")
            return
        names = [metric.name for metric in self.metrics]
        check(0 < len(names) <= MOST_METRICS, f"a plan that measures has 1 to {MOST_METRICS} metrics")
        check(len(set(names)) == len(names), "each metric is named once")
        check(
            self.max_examples is not None and 1 <= self.max_examples <= MOST_EXAMPLES,
            f"max_examples of a plan that measures is 1 to {MOST_EXAMPLES}",
        )
        check(
            self.clipping_norm**2 >= 1 + len(names),
            "the clipping_norm of a plan that measures is at least the root of its metrics and one",
        )

    def _check_summing(self) -> None:
        def check(holds: bool, sentence: str) -> None:
            if not holds:
                raise InvalidPlan(sentence)

        members = (self.fewest_members, self.survivors)
        if self.summing is Summing.PLAIN:
            check(members == (None, None), "only secure summing has fewest_members and survivors")
            check(
                self.noise_multiplier == 0 or self.version >= 5,
                "before version 5, noise is added under secure summing alone",
            )
            return
        check(self.version >= 4, "secure summing came with version 4")
        check(None not in members, "secure summing has fewest_members and survivors")
        check(0 <= self.corrupt_permille < 1000, "corrupt_permille is 0 to 999")
        check(0 <= self.dropout_permille < 1000, "dropout_permille is 0 to 999")

    @property
    def trains(self) -> bool:
        return self.kind is Kind.TRAIN

    @property
    def limited(self) -> bool:
        """Whether the plan bounds how often one device takes part."""
        return self.separation > 1 or self.separation_s > 0 or self.most_participations is not None

    @property
    def folds(self) -> bool:
        """Whether a sum gets its noise after it was opened, and nobody sees what each member gave: it is folded."""
        return self.summing is Summing.SECURE and self.privacy in (Privacy.CENTRAL, Privacy.CORRELATED)

    @property
    def needs_header(self) -> bool:
        """Whether something that the plan promises is in the header of each round: its number, or its norm."""
        return self.limited or self.adaptive is not None

    @property
    def device_noise(self) -> float:
        """The noise multiplier of what devices add; 0 where they add nothing.

        With an adaptive norm it is the deltas' own, a little more than the plan's: both together cost what that says.
        """
        noised = self.privacy in ON_DEVICES if self.version >= 5 else self.noise_multiplier > 0
        if not noised:
            return 0.0
        return self.noise_multiplier if self.adaptive is None else self.adaptive.delta_multiplier(self.noise_multiplier)

    def honest_survivors(self) -> int:
        """Devices that together add the noise of a sum: the fewest survivors less those assumed corrupt, m - A; or 1.

        With local noise each adds all of it.
        """
        if self.survivors is None or self.privacy is Privacy.LOCAL:
            return 1
        return self.survivors - corrupt_members(self.corrupt_permille, self.max_participants)

    def most_examples(self) -> int:
        """As many examples as a device weighs at most, of a plan that measures."""
        if self.max_examples is None:
            raise InvalidPlan("this plan measures nothing")
        return self.max_examples

    @property
    def counts(self) -> int:
        """Values of a report behind those of its delta: 1 where the clipping norm adapts, as `counted` says."""
        return 0 if self.adaptive is None else 1

    def values(self, shared_parameters: int) -> int:
        """How many values a report has: one for each shared parameter, or what `measures` says; and its counts."""
        return (shared_parameters if self.kind is Kind.TRAIN else 1 + len(self.metrics)) + self.counts

    def learning_rate_in(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0."""
        factors = [step.factor for step in self.rate_steps if step.from_epoch <= epoch]
        return self.learning_rate * factors[-1] if factors else self.learning_rate

    def lanes(self, clipping_norm: float | None = None) -> Lanes:
        """The report codec this plan determines; its integers are the same under every clipping norm.

        Args:
            clipping_norm: Of the round, where it adapts; None for the plan's.
        """
        return Lanes(
            bits=self.lane_bits,
            clipping_norm=self.clipping_norm if clipping_norm is None else clipping_norm,
            max_participants=self.max_participants,
            noise_multiplier=self.device_noise,
            honest_survivors=self.honest_survivors(),
            rotation_seed=self.rotation_seed,
            bounded=self.privacy is not Privacy.NONE,
            folds=self.folds,
        )

    def count_lanes(self) -> Lanes | None:
        """The codec of the count of devices within an adaptive norm, in devices; None where the norm is fixed."""
        if self.adaptive is None:
            return None
        return Lanes(
            bits=self.lane_bits,
            clipping_norm=self.adaptive.sensitivity,
            max_participants=self.max_participants,
            noise_multiplier=self.adaptive.count_multiplier if self.privacy in ON_DEVICES else 0.0,
            honest_survivors=self.honest_survivors(),
            bounded=True,
            folds=self.folds,
        )


def sign_plan(plan: Plan, key: SigningKey) -> tuple[bytes, bytes]:
    """Return the plan's canonical bytes and the tenant's signature over them."""
    raw = wire.encode(plan)
    return raw, sign_document(key, Domain.PLAN, digest(raw))


def verify_plan(raw: bytes, signature: bytes, tenant_key: PublicKey) -> Plan:
    """Check the signature, then read the plan.

    Raises:
        UntrustedDocument: The tenant key did not sign it.
        InvalidPlan: It asks for something impossible.
        Malformed, UnsupportedVersion: It is not a plan of this version.
    """
    verify_document(tenant_key, Domain.PLAN, digest(raw), signature)
    return wire.decode(Plan, raw)
