"""What every test may use: workers for the big runtimes, exported models, and a guard around the pytest process."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.workers import Workers

if TYPE_CHECKING:
    from model_export.spec import Exported

FORBIDDEN = ("ai_edge_litert", "gevent", "locust", "tensorflow", "tflite_runtime")
"""Each breaks another, or patches the process it is imported into: they run in workers and subprocesses."""


_WORKERS = Workers()


def _wants_workers(item: pytest.Item) -> bool:
    return "workers" in getattr(item, "fixturenames", ())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that need the big runtimes come first: they take longest, and share one process (`pytest -n`)."""
    theirs = {item.path for item in items if _wants_workers(item)}
    items.sort(key=lambda item: item.path not in theirs)


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadScopeScheduling:
    """Give a file to one process; the files that come first go to two, of about the same work.

    What a file tries on PostgreSQL is a part of its own: all that is tried on SQLite comes before, in every file.
    """
    return _ByFile(config, log)


class _ByFile(LoadScopeScheduling):  # type: ignore[misc]  # xdist ships no types
    RULES = tuple(f"tests/model_export/test_{name}" for name in ("lowering", "gradients", "randomness", "traps"))
    EXPORTS = ("tests/model_export/",)
    RUNTIMES = ("tests/edge_runtime/test_", "tests/device_sim/test_demo.py")

    def _split_scope(self, nodeid: str) -> str:
        for scope, places in (("rules", (*self.RULES, *self.RUNTIMES)), ("exports", self.EXPORTS)):
            if nodeid.startswith(places):
                return scope
        file = nodeid.split("::")[0]
        return f"{file} on PostgreSQL" if "[postgresql" in nodeid else file


def pytest_collection_finish(session: pytest.Session) -> None:
    """Let TensorFlow load while the first tests run, if any test of this only process will want it."""
    alone = "PYTEST_XDIST_WORKER" not in os.environ and not session.config.option.collectonly
    if alone and any(map(_wants_workers, session.items)):
        _WORKERS.start("tensorflow")


def pytest_sessionfinish() -> None:
    _WORKERS.close()


@pytest.fixture(autouse=True)
def _clean_process() -> Iterator[None]:
    yield
    if found := [name for name in FORBIDDEN if name in sys.modules]:
        pytest.exit(f"the pytest process must never import {', '.join(found)}; use the `workers` fixture", returncode=3)


@pytest.fixture(scope="session")
def workers() -> Workers:
    """``workers["tensorflow"].run("module:function", *args)``; also "litert" and "tflite"."""
    return _WORKERS


@pytest.fixture(scope="session")
def exported(workers: Workers) -> Callable[[str], Exported]:
    """``exported("mlp")``, ``exported("cnn")``: a small model's bundle and checkpoint, made once a session.

    Both are signed by ``tests.exports.TENANT_KEY``.
    """
    made: dict[str, Exported] = {}

    def export(name: str) -> Exported:
        if name not in made:
            made[name] = workers["tensorflow"].run("tests.exports:build", name)
        return made[name]

    return export
