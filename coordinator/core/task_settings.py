"""How the rounds of a task are run: everything an operator says of a task beside its signed plan.

The plan says what devices do; it is signed by the tenant and never changes. These settings stay with the coordinator.
Each field says what it means and when it may change; the API, the documents and the checks read it
there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from operator import attrgetter
from typing import Annotated, Any, ClassVar, cast, get_type_hints
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from edge_runtime.protocol import wire
from edge_runtime.protocol.enrolment import LONGEST_DELAY_S, is_name
from edge_runtime.protocol.errors import Malformed
from edge_runtime.protocol.plan import Kind

MOST_ROUNDS = 1_000_000
MOST_DEVICES = 1_000_000
_DAY_MIN = 24 * 60


class Change(StrEnum):
    """When a field may change."""

    DRAFT = "draft"
    """Only before the task starts."""
    PAUSED = "paused"
    """Before it starts, and while it is paused."""
    ACTIVE = "active"
    """At any time; the next round follows it."""


class Mode(StrEnum):
    SYNCHRONOUS = "synchronous"
    """One round at a time, each from the newest model version."""
    BUFFERED = "buffered"
    """Rounds overlap; their sums wait in a buffer, and an update weighs each by its staleness (FedBuff)."""


class Optimiser(StrEnum):
    """The server optimisers of `core.optimisers`."""

    SGD = "sgd"
    MOMENTUM = "momentum"
    ADAGRAD = "adagrad"
    ADAM = "adam"
    YOGI = "yogi"


@dataclass(frozen=True, slots=True)
class Says:
    """What a field means, when it may change, and the range of its number, both ends included."""

    sentence: str
    change: Change
    least: float | None = None
    most: float = 0.0

    def __get_pydantic_json_schema__(self, core: Any, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """What the description of the API says of the field; a name that pydantic looks for, and no import of it."""
        return {**handler(core), "description": self.sentence, "x-changes": self.change.value}


@functools.cache
def facts(kind: Hashable) -> Mapping[str, Says]:
    """What is said of each field of a settings class."""
    hints = get_type_hints(cast(type, kind), include_extras=True).items()
    return {name: said for name, hint in hints for said in getattr(hint, "__metadata__", ()) if isinstance(said, Says)}


def _check_ranges(message: Any) -> None:
    for name, said in facts(cast(Hashable, type(message))).items():
        value = getattr(message, name)
        if said.least is not None and value is not None:
            wire.require(said.least <= value <= said.most, f"{name} is {said.least:,} to {said.most:,}, not {value}")


@functools.lru_cache(maxsize=64)
def _is_time_zone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptimiser:
    """What turns the mean delta into an update."""

    name: Annotated[Optimiser, Says("sgd is federated averaging at learning rate 1", Change.DRAFT)] = Optimiser.SGD
    learning_rate: Annotated[float, Says("Of the server", Change.ACTIVE, least=1e-9, most=100)] = 1.0
    beta1: Annotated[float, Says("Momentum, of all but sgd and adagrad", Change.DRAFT, least=0, most=0.9999)] = 0.9
    beta2: Annotated[float, Says("Second moment, of adam and yogi", Change.DRAFT, least=0, most=0.999999)] = 0.99
    tau: Annotated[
        float, Says("Adaptivity: added to the root of the second moment", Change.DRAFT, least=1e-9, most=10)
    ] = 1e-3

    def __post_init__(self) -> None:
        _check_ranges(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Part of the week in which rounds may open, by the clock of the settings' time zone."""

    days: tuple[int, ...]
    """0 is Monday."""
    from_minute: int
    to_minute: int
    """Of the day; at or before `from_minute` means on the next day."""

    def __post_init__(self) -> None:
        days = list(self.days)
        wire.require(
            bool(days) and days == sorted(set(days)) and days[0] >= 0 and days[-1] <= 6,
            "the days of a window are 0 (Monday) to 6, rising, each once",
        )
        wire.require(
            0 <= self.from_minute < _DAY_MIN and 0 <= self.to_minute <= _DAY_MIN and self.from_minute != self.to_minute,
            f"a window lies between minute 0 and {_DAY_MIN} of the day, and is not empty",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricTarget:
    """A task has done its work when a metric of an evaluating task stays on the right side for some rounds."""

    task: str
    metric: str
    at_least: float | None = None
    at_most: float | None = None
    rounds: int = 1

    def __post_init__(self) -> None:
        wire.require(is_name(self.task), "the evaluating task of a metric target is named")
        wire.require(0 < len(self.metric) <= 64, "the metric of a target is named")
        wire.require(
            (self.at_least is None) != (self.at_most is None), "a target has at_least or at_most, and not both"
        )
        wire.require(1 <= self.rounds <= 1000, "a target holds for 1 to 1000 rounds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stops:
    """When a task is completed: whichever comes first. None says never."""

    rounds: Annotated[int | None, Says("Committed rounds", Change.ACTIVE, least=1, most=MOST_ROUNDS)] = None
    at: Annotated[str | None, Says("Date and time with an offset, ISO 8601", Change.ACTIVE)] = None
    metric: Annotated[MetricTarget | None, Says("A metric of an evaluating task", Change.ACTIVE)] = None
    bytes: Annotated[int | None, Says("Moved by devices, up and down", Change.ACTIVE, least=1, most=1 << 60)] = None
    phone_seconds: Annotated[int | None, Says("Spent by devices", Change.ACTIVE, least=1, most=1 << 50)] = None

    def __post_init__(self) -> None:
        _check_ranges(self)
        self.moment()

    def moment(self) -> datetime | None:
        """When the task stops by its date; aware."""
        if self.at is None:
            return None
        try:
            moment = datetime.fromisoformat(self.at)
        except ValueError:
            raise Malformed(f"stop.at {self.at!r} is not a date and time in ISO 8601") from None
        wire.require(moment.tzinfo is not None, "stop.at has an offset from UTC, such as 2026-07-01T00:00:00+02:00")
        return moment


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSettings:
    """How rounds are run. Every time is in seconds."""

    VERSION: ClassVar[int] = 1

    version: int = 1
    kind: Annotated[Kind, Says("Train the model, or only measure it; the plan's", Change.DRAFT)] = Kind.TRAIN
    evaluates: Annotated[str | None, Says("Of an evaluating task: whose newest model it measures", Change.DRAFT)] = None
    cohort: Annotated[str | None, Says("Who may take part; null for the whole population", Change.PAUSED)] = None
    mode: Annotated[Mode, Says("How rounds follow each other", Change.DRAFT)] = Mode.SYNCHRONOUS
    pool_size: Annotated[
        int, Says("Devices that check in before a round chooses", Change.ACTIVE, least=1, most=MOST_DEVICES)
    ]
    over_selection: Annotated[
        float, Says("Devices chosen for one report of the goal", Change.ACTIVE, least=1, most=10)
    ] = 1.3
    group_size: Annotated[
        int | None,
        Says("Participants summed together; null for one group a round", Change.PAUSED, least=1, most=MOST_DEVICES),
    ] = None
    selecting_deadline_s: Annotated[float, Says("To find the pool", Change.ACTIVE, least=1, most=LONGEST_DELAY_S)] = (
        600.0
    )
    reporting_deadline_s: Annotated[
        float, Says("From choosing to the last report", Change.ACTIVE, least=1, most=LONGEST_DELAY_S)
    ] = 600.0
    rounds_at_once: Annotated[
        int, Says("Of a buffered task: rounds that may be open together", Change.ACTIVE, least=1, most=1000)
    ] = 1
    max_staleness: Annotated[
        int, Says("Of a buffered task: older sums are dropped", Change.ACTIVE, least=0, most=10_000)
    ] = 20
    staleness_exponent: Annotated[
        float, Says("A sum s versions old weighs (1 + s) to minus this", Change.DRAFT, least=0, most=10)
    ] = 0.5
    priority: Annotated[int, Says("Devices go to the highest first", Change.ACTIVE, least=-100, most=100)] = 0
    min_separation_s: Annotated[
        float, Says("Between two participations of a device, in any task", Change.ACTIVE, least=0, most=366 * 86400)
    ] = 0.0
    windows: Annotated[tuple[Window, ...], Says("When rounds may open; none for always", Change.ACTIVE)] = ()
    time_zone: Annotated[str, Says("Of the windows, as in the IANA database", Change.ACTIVE)] = "UTC"
    server_optimiser: Annotated[ServerOptimiser, Says("What turns the mean delta into an update", Change.ACTIVE)] = (
        ServerOptimiser()
    )
    stop: Annotated[Stops, Says("When the task is completed", Change.ACTIVE)] = Stops()
    retry_rejected_s: Annotated[
        float | None,
        Says(
            "Retry window after a rejected check-in; null for pacing", Change.ACTIVE, least=0.001, most=LONGEST_DELAY_S
        ),
    ] = None
    retry_reported_s: Annotated[
        float | None,
        Says("Retry window after a report; null for pacing", Change.ACTIVE, least=0.001, most=LONGEST_DELAY_S),
    ] = None

    def __post_init__(self) -> None:
        wire.require(self.version == self.VERSION, f"the settings of a task are of version {self.VERSION}")
        _check_ranges(self)
        for name in ("evaluates", "cohort"):
            named = getattr(self, name)
            wire.require(named is None or is_name(named), f"{name} is a name")
        wire.require(
            (self.evaluates is None) or self.kind is Kind.EVALUATE, "only a task of kind evaluate evaluates another"
        )
        wire.require(self.kind is Kind.TRAIN or self.mode is Mode.SYNCHRONOUS, "a task of kind evaluate is synchronous")
        wire.require(
            self.rounds_at_once == 1 or self.mode is Mode.BUFFERED, "only a buffered task has several rounds at once"
        )
        wire.require(_is_time_zone(self.time_zone), f"time_zone {self.time_zone!r} is not in the IANA database")

    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.time_zone)


def changes(kind: type = TaskSettings, prefix: str = "") -> Mapping[str, Change]:
    """When each field may change, by its dotted name; of a field with fields of its own, each of those."""
    found: dict[str, Change] = {}
    for name, said in facts(kind).items():
        nested = _NESTED.get(name) if kind is TaskSettings else None
        found |= {prefix + name: said.change} if nested is None else changes(nested, f"{prefix}{name}.")
    return found


def changed(before: TaskSettings, after: TaskSettings) -> list[str]:
    """The dotted names of the fields that differ."""
    return [name for name in changes() if attrgetter(name)(before) != attrgetter(name)(after)]


_NESTED: Mapping[str, type] = {"server_optimiser": ServerOptimiser, "stop": Stops}


@functools.lru_cache(maxsize=1024)
def read_settings(raw: bytes) -> TaskSettings:
    """Settings as they were stored; decoded once, since every check-in asks for them."""
    return wire.decode(TaskSettings, raw)
