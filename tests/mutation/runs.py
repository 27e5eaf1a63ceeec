"""Runs of the package's tests in one process: without a mutant, to learn what each test costs and calls."""

from __future__ import annotations

import functools
import gc
import json
import os
import resource
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final, NoReturn

import hypothesis
import pytest

PACKAGE: Final = "edge_runtime.protocol.secure_sum"
FOLDER: Final = Path(__file__).parents[2] / PACKAGE.replace(".", "/")
TESTS: Final = (
    "tests/edge_runtime/protocol/secure_sum",
    "tests/edge_runtime/protocol/test_lanes.py",
    "tests/vectors/test_secure_sum.py",
)
SLOW: Final = ("two_hundred_and_one", *(f"completes_or_aborts_cleanly[{size}]" for size in range(7, 13)))
"""Parts of names of tests that are not asked, because each costs seconds: what they alone would kill survives."""

_LEAST_SECONDS: Final = 5
"""Of processor time that a mutant has at least before it counts as one that never ends."""
_LONGEST_SECONDS: Final = 900
"""Of wall time: a mutant that waits for ever uses no processor."""
_MEMORY_BYTES: Final = 4 << 30
_OPTIONS: Final = (
    "-qq", "-x", "-W", "error", "-c", os.devnull, "--rootdir", ".", "--tb=no", "--assert=plain", "--capture=no",
    "-p", "no:cacheprovider", "-p", "no:faulthandler", "-p", "xdist.plugin",
)  # fmt: skip
_Kept: Final = type(functools.cache(len))


@dataclass(frozen=True, slots=True)
class Survey:
    """What the tests do when nothing is wrong.

    Attributes:
        seconds: Of processor time, by test.
        callers: Which tests call a function; by module and name.
    """

    seconds: Mapping[str, float]
    callers: Mapping[tuple[str, str], frozenset[str]]

    def quickest(self, names: set[str]) -> list[str]:
        """Tests in the order in which they are asked."""
        return sorted(names, key=lambda name: (self.seconds[name], name))

    def allowed(self, names: Sequence[str]) -> int:
        """Seconds of processor time that these tests have with a mutant."""
        return _LEAST_SECONDS + int(2 * sum(self.seconds[name] for name in names))


def survey() -> Survey:
    """Run all tests once.

    Raises:
        RuntimeError: One fails.
    """
    reading, writing = os.pipe()

    def look() -> int:
        plugin = _Looking()
        status = run(plugin)
        with os.fdopen(writing, "w") as out:
            json.dump([plugin.seconds, [[*key, sorted(names)] for key, names in plugin.callers.items()]], out)
        return status

    pid = forked(look)
    os.close(writing)
    with os.fdopen(reading) as taken:
        text = taken.read()
    if os.waitpid(pid, 0)[1]:
        raise RuntimeError("a test fails without any mutant: run pytest on them, and mend that first")
    seconds, callers = json.loads(text)
    return Survey(seconds, {(module, name): frozenset(names) for module, name, names in callers})


def run(plugin: object) -> int:
    """pytest over the tests in this process, with a plugin of ours; 0 if all passed.

    Examples are the same each time, and one that fails is not made smaller.
    """
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    hypothesis.settings.register_profile(
        "mutation", derandomize=True, database=None, deadline=None, suppress_health_check=list(hypothesis.HealthCheck),
        phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),
    )  # fmt: skip
    hypothesis.settings.load_profile("mutation")
    return int(pytest.main([*_OPTIONS, *TESTS], plugins=[_WithoutSlow(), plugin]))


def forked(work: Callable[[], int], cpu_seconds: int = 0, *, silent: bool = True) -> int:
    """Work in a child process, within limits if there are any; its id. It ends with what the work returns."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        _live(work, cpu_seconds, silent=silent)
    return pid


def _live(work: Callable[[], int], cpu_seconds: int, *, silent: bool) -> NoReturn:
    status = 1
    try:
        if silent:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
        if cpu_seconds:
            resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 5))
            resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
            signal.alarm(_LONGEST_SECONDS)
        status = work()
    finally:
        os._exit(status)


class _WithoutSlow:
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if not any(name in item.nodeid for name in SLOW)]


class _Looking:
    """Notes what each test costs and calls, with nothing kept from the test before: what is kept is not called."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.callers: dict[tuple[str, str], set[str]] = defaultdict(set)
        self._caches: list[Any] = []

    def pytest_runtestloop(self) -> None:
        self._caches = [
            found
            for found in gc.get_objects()
            if isinstance(found, _Kept) and str(found.__module__).startswith((PACKAGE, "tests.edge_runtime"))
        ]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        for cache in self._caches:
            cache.cache_clear()
        called: set[CodeType] = set()

        def trace(frame: FrameType, _event: str, _value: object) -> None:
            called.add(frame.f_code)

        started = time.process_time()
        sys.settrace(trace)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            self.seconds[item.nodeid] = time.process_time() - started
            for code in called:
                path = Path(code.co_filename)
                if path.parent == FOLDER:
                    self.callers[path.stem, code.co_qualname.split(".<locals>")[0]].add(item.nodeid)
