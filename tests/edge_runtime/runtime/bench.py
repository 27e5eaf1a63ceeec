"""A runtime on a bench: a coordinator in memory, a clock that stands still, conditions that change at a step."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np

from edge_runtime import Collection, Examples, Floors, Installation, Policy, Runtime
from edge_runtime.conditions.fixed import FixedSource
from edge_runtime.device import Transport
from edge_runtime.interpreters import Array
from edge_runtime.model import Model
from edge_runtime.protocol.bundle import Bundle
from edge_runtime.protocol.keys import TrustRoots
from edge_runtime.surroundings import Surroundings
from edge_runtime.testing import ROOTS, FakeCoordinator, Linear
from tests.edge_runtime.store.kills import MEMORY

NOW: Final = datetime(2026, 11, 22, 2, tzinfo=UTC)
POLICY: Final = Policy(first_run_delay_s=0.0, min_interval_s=0.0)
COUNT: Final = 22


def key() -> bytes:
    return bytes(range(32))


@dataclass
class Clock:
    """Both clocks; they move when they are told to, and when somebody sleeps."""

    at: datetime = NOW
    running_s: float = 1000.0

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return self.running_s

    def forward(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)
        self.running_s += seconds


@dataclass
class Engine:
    """Linear models in numpy; `steps` counts what all of them were trained, and `at_step` is told before each."""

    name: str = "numpy"
    steps: int = 0
    at_step: Callable[[int], None] = lambda _step: None
    opened: int = 0

    def open(self, bundle: Bundle) -> Model:
        self.opened += 1
        return Model(bundle, _Told(bundle, self))


class _Told(Linear):
    def __init__(self, bundle: Bundle, engine: Engine) -> None:
        super().__init__(bundle.manifest)
        self._engine = engine

    def _train(self, x: Array, y: Array, mask: Array, lr: Array, mu: Array) -> dict[str, Array]:
        self._engine.at_step(self._engine.steps)
        self._engine.steps += 1
        return super()._train(x, y, mask, lr, mu)


@dataclass
class Bench:
    """Everything around a runtime; `runtime` opens one, as a new process would."""

    path: Path
    coordinator: FakeCoordinator = field(default_factory=FakeCoordinator)
    clock: Clock = field(default_factory=Clock)
    source: FixedSource = field(default_factory=FixedSource)
    engine: Engine = field(default_factory=Engine)
    said: list[str] = field(default_factory=list)
    drawn: int = 0
    transport: Transport | None = None
    roots: TrustRoots = ROOTS

    @property
    def collection(self) -> Collection:
        manifest = self.coordinator.manifest
        return Collection(
            name="pairs",
            features=manifest.features,
            labels=manifest.labels,
            max_rows=100,
            max_bytes=1 << 20,
            time_to_live_s=None,
            dedupe=True,
        )

    def open(self, **changes: Any) -> Runtime:
        arguments: dict[str, Any] = {
            "source": self.source,
            "key": key,
            "floors": Floors(limits=POLICY),
            "engine": self.engine,
            "log": self.said.append,
            "surroundings": Surroundings(
                now=self.clock.now,
                monotonic=self.clock.monotonic,
                sleep=self.clock.forward,
                entropy=self.entropy,
                zone=UTC,
            ),
        }
        installation = Installation("acme", "keyboard", "app", "1.0", "linux")
        transport = self.transport or self.coordinator
        return Runtime(self.path, transport, installation, self.roots, **{**arguments, **changes})

    @contextmanager
    def runtime(self, examples: int = COUNT, **changes: Any) -> Iterator[Runtime]:
        """Opened, with its examples, and closed at the end."""
        with self.open(**changes) as runtime:
            runtime.declare(self.collection)
            if examples:
                runtime.add("pairs", pairs(examples))
            yield runtime

    def entropy(self, count: int) -> bytes:
        """The same in every run."""
        self.drawn += 1
        return np.random.default_rng([count, self.drawn]).bytes(count)


def pairs(count: int, seed: int = 0) -> Examples:
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (count, 3)).astype(np.float32)
    return Examples(x, (x @ np.array([1, 2, 3], np.float32) + 0.5).astype(np.float32))


@contextmanager
def bench(**fields: Any) -> Iterator[Bench]:
    """In memory, where the system has such a place."""
    with tempfile.TemporaryDirectory(prefix="runtime-", dir=MEMORY if MEMORY.is_dir() else None) as path:
        yield Bench(Path(path) / "state", **fields)


__all__ = ["COUNT", "NOW", "POLICY", "Bench", "Clock", "Engine", "bench", "key", "pairs", "replace"]
