"""What a fleet, and the comparison after it, tell whoever started them: a JSON line an event on standard output."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TextIO


@dataclass(frozen=True, slots=True)
class Enrolled:
    """So many phones are known to the coordinator."""

    phones: int


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A model version on the held-out phones' examples."""

    model_version: int
    accuracy: float
    loss: float


@dataclass(frozen=True, slots=True)
class Participated:
    """One participation ended."""

    round: int
    reason: str
    bytes_up: int
    bytes_down: int
    straggled: bool


@dataclass(frozen=True, slots=True)
class Diary:
    """A moment of the one phone whose day is shown."""

    at: float
    """Seconds since the epoch."""
    what: str
    detail: str


@dataclass(frozen=True, slots=True)
class TrainedAlone:
    """So many devices have trained alone, for comparison."""

    devices: int


Event = Enrolled | Evaluated | Participated | Diary | TrainedAlone

_KINDS: Mapping[str, type[Event]] = {
    kind.__name__: kind for kind in (Enrolled, Evaluated, Participated, Diary, TrainedAlone)
}


@dataclass(slots=True)
class EventWriter:
    """Writes events as lines; safe from several threads."""

    stream: TextIO = field(default_factory=lambda: sys.stdout)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, event: Event) -> None:
        line = json.dumps({"kind": type(event).__name__, **asdict(event)})
        with self._lock:
            self.stream.write(line + "\n")
            self.stream.flush()


def read_event(line: str) -> Event | None:
    """The event of a line, or None for a line that is none."""
    try:
        tree = json.loads(line)
        return _KINDS[tree.pop("kind")](**tree)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
