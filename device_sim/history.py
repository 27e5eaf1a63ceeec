"""What a demo records: the input of the report page, and the two JSON files beside it."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRecord:
    """One group of a round that summed securely."""

    members: int
    """Phones that were asked to join, and were not let go."""
    reports: int
    """In its opened sum; 0 of one that was aborted."""
    aborted: str | None = None
    """Why, by reason code (`edge_runtime.protocol.reasons.GroupEnd`); None if its sum was opened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRecord:
    """One committed round. Accuracy (0 to 1) and mean loss are of the model it made, on the held-out devices."""

    round: int
    """Counted from 1; round 0 is the model before training."""
    accuracy: float
    loss: float
    chosen: int
    """Participants."""
    reported: int
    """Reports that were counted."""
    dropouts: dict[str, int]
    """Participants that did not report, by reason code (`edge_runtime.protocol.reasons.Outcome`)."""
    stragglers: int
    """Participants that were slow on purpose; a straggler that reported in time is in `reported` too."""
    seconds: float
    bytes_up: int
    """All devices together, in the bodies of requests."""
    bytes_down: int
    """All devices together, in the bodies of answers."""
    groups: tuple[GroupRecord, ...] = ()
    """Of secure summing; none of plain."""

    def __post_init__(self) -> None:
        _require_finite(accuracy=self.accuracy, loss=self.loss, seconds=self.seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class PhoneEvent:
    """One moment in a phone's day."""

    at_s: float
    """Seconds since the demo began."""
    what: str
    """One of `check-in`, `waiting`, `assigned`, `fetched`, `trained`, `summing`, `reported` and `interrupted`, or
    another."""
    detail: str
    """The reason code, or what there is to say."""

    def __post_init__(self) -> None:
        _require_finite(at_s=self.at_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Baselines:
    """Accuracies (0 to 1) on the held-out devices without federation: same model, same total epochs."""

    local: tuple[float, ...]
    """Each training device alone, in the order of `History.examples_by_device`."""
    local_mean: float
    central: float
    """Trained on all training examples in one place."""
    without_noise: float | None = None
    """The federation once more, if its phones added noise: without it."""

    def __post_init__(self) -> None:
        _require_finite(local=sum(self.local), local_mean=self.local_mean, central=self.central)


@dataclass(frozen=True, slots=True, kw_only=True)
class Elsewhere:
    """What the same training would claim against the coordinator in one large group a round, of many phones."""

    members: int
    noise_multiplier: float
    epsilon: float
    target_delta: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What the ledger says of the run; all but the mode stand for nothing where there is no noise."""

    mode: str
    """`none` or `distributed`."""
    noise_multiplier: float = 0.0
    """Of one group's sum, z."""
    clipping_norm: float = 0.0
    survivors: int = 0
    """Fewest reports whose sum may be opened, m."""
    corrupt: int = 0
    """Members of a group whose noise is not counted, A."""
    epsilon_coordinator: float | None = None
    epsilon_recipients: float | None = None
    target_delta: float | None = None
    sentences: tuple[str, ...] = ()
    """The ledger's, each figure with everything that must stand beside it."""
    elsewhere: tuple[Elsewhere, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """Everything the report page shows.

    Raises:
        ValueError: There is no round or no training device, or a number is not finite.
    """

    dataset: str
    model: str
    devices_training: int
    devices_held_out: int
    seed: int
    initial_accuracy: float
    initial_loss: float
    rounds: tuple[RoundRecord, ...]
    baselines: Baselines
    phone: tuple[PhoneEvent, ...]
    phone_name: str
    examples_by_device: tuple[tuple[int, ...], ...]
    """For each training device, how many examples of each class it holds."""
    summing: str
    """`secure` or `plain`."""
    warnings: tuple[str, ...]
    """Of the task, as the coordinator gives them."""
    claim: Claim

    def __post_init__(self) -> None:
        _require_finite(initial_accuracy=self.initial_accuracy, initial_loss=self.initial_loss)
        if not self.rounds or not self.examples_by_device:
            raise ValueError("a history has at least one round and one training device")
        if len({len(counts) for counts in self.examples_by_device}) != 1 or not self.examples_by_device[0]:
            raise ValueError("every device counts the same classes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The demo in fifteen values: the keys of `summary.json`, which never change their meaning."""

    rounds: int
    devices: int
    """Phones of the fleet: those that train, and those that are held out."""
    reports_counted: int
    accuracy_initial: float
    accuracy_final: float
    accuracy_local_mean: float
    accuracy_central: float
    seconds: float
    bytes_up_per_report: int
    final_weights_sha256: str
    privacy_mode: str
    """`none` or `distributed`."""
    epsilon_coordinator: float | None
    """Against whoever runs the coordinator; None without noise. Never without `target_delta`."""
    epsilon_recipients: float | None
    """Against whoever gets the models."""
    target_delta: float | None
    accuracy_without_noise: float
    """Of the same training, when no phone adds noise."""

    def __post_init__(self) -> None:
        numbers = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        _require_finite(**{name: number for name, number in numbers.items() if isinstance(number, float)})


def write_history(history: History, path: Path) -> None:
    """Write `history.json`: sorted keys, so that equal histories are equal files."""
    path.write_text(json.dumps(dataclasses.asdict(history), sort_keys=True, allow_nan=False), encoding="utf-8")


def write_summary(summary: Summary, path: Path) -> None:
    """Write `summary.json`, one key a line in the order of the fields."""
    path.write_text(json.dumps(dataclasses.asdict(summary), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _require_finite(**numbers: float) -> None:
    for name, number in numbers.items():
        if not math.isfinite(number):
            raise ValueError(f"{name} is not a finite number")
