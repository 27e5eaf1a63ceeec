"""The values of a trainability report. Everything in it goes into the JSON as it is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from edge_runtime.protocol.bundle import Operator


class Verdict(StrEnum):
    """Whether a model trains on a phone."""

    TRAINS = "trains"
    REFUSED = "refused"
    """It cannot be exported."""
    WRONG = "wrong"
    """A step is further from TensorFlow's than it may be."""
    CRASHED = "crashed"
    """A process died or hung: the export, or an interpreter."""


class Reach(StrEnum):
    """On which phones a model trains within reason."""

    ANY = "any phone"
    RECENT = "recent phones"
    FEW = "hardly any phone"


class Concern(StrEnum):
    """What to know before a model is trained on phones."""

    LABELS_UNCHECKED = "labels-unchecked"
    INDICES_UNCHECKED = "indices-unchecked"
    BATCH_STATISTICS = "batch-statistics"
    LARGE_REPORT = "large-report"
    DROPOUT_STEPS = "dropout-steps"
    LARGE_GRAPH = "large-graph"
    LARGE_FILE = "large-file"
    SLOW_ON_OLD_RUNTIME = "slow-on-old-runtime"
    SLOW_STEP = "slow-step"
    MUCH_MEMORY = "much-memory"
    TENSORFLOW_DIVERGES = "tensorflow-diverges"
    ROUNDING_MATTERS = "rounding-matters"
    LITTLE_CHANGE = "little-change"
    RUNTIME_NOT_TRIED = "runtime-not-tried"


class EnergyClass(StrEnum):
    """By the share of a battery that training on 1,000 examples takes; A is the least."""

    A = "A"
    B = "B"
    C = "C"
    D = "D"
    E = "E"


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned:
    """A concern, and what it means for this model."""

    concern: Concern
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """An estimate: CPU time here, times how much slower and how hungry a phone's core is taken to be."""

    energy_class: EnergyClass
    joules_per_1000_examples: float
    battery_share: float
    """Of a full battery, for 1,000 examples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Largest:
    """The largest error of one signature, measured against the size of TensorFlow's values."""

    signature: str
    name: str
    """Of the tensor, slot or output."""
    step: int
    error: float | None
    """None where a value is not finite."""
    relative: float | None
    """To the largest of TensorFlow's values, or to 1 if those are smaller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """What a step cost here, on one thread."""

    step_ms: float
    """Median CPU time of `train` with a full batch."""
    low_ms: float
    high_ms: float
    """The quartiles."""
    steps: int
    open_ms: float
    peak_memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeReport:
    """One interpreter.

    Attributes:
        name: "litert" or "tflite".
        package: With its version; empty where it is not installed.
        crashed: What it died of and where; empty if it did not.
        largest: Of each signature.
        errors_by_step: Largest relative error of each training step; None where a value is not finite.
        timing: None where it crashed.
    """

    name: str
    package: str
    crashed: str = ""
    largest: tuple[Largest, ...] = ()
    errors_by_step: tuple[float | None, ...] = ()
    timing: Timing | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Exportation:
    """What came out of the export."""

    parameters: int
    reported_parameters: int
    weights_bytes: int
    graph_bytes: int
    report_bytes: int
    """Of one report, as it is sent."""
    operators: tuple[Operator, ...]
    operations: int
    """Operators, counted each time they occur."""
    signatures: tuple[str, ...]
    batch_size: int
    loss: str
    optimizer: str
    minimum_runtime: str
    export_s: float
    exporter: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A trainability report.

    Attributes:
        model: As it was named.
        trains: Whether the verdict is that it trains.
        sentence: The verdict for a person.
        carriers: What brings the minimum runtime: platform, and artefact with its version.
        tolerance: Largest relative error that passes.
        learning_rate: Of the steps that were compared.
    """

    version: int
    model: str
    verdict: Verdict
    trains: bool
    sentence: str
    tolerance: float
    steps: int
    learning_rate: float
    exportation: Exportation | None = None
    reach: Reach | None = None
    energy: Energy | None = None
    runtimes: tuple[RuntimeReport, ...] = ()
    warnings: tuple[Warned, ...] = ()
    carriers: tuple[tuple[str, str], ...] = ()
