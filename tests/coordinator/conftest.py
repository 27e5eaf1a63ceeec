from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.coordinator.histories import forget_beginnings
from tests.postgres import Postgres, running
from tests.programme import PLAN, Clock, Home, Phone, copy_home, forget_home, make_home, open_home, replace
from tests.warm import LOOP

_ON_BOTH = (
    "characters", "device_reports", "exactly_once", "leaving", "report_parts", "retention", "round", "secure_restarts",
)  # fmt: skip
ON_BOTH = (*(f"tests.coordinator.test_{name}" for name in _ON_BOTH), "tests.coordinator.privacy.test_spending_together")
"""Where the database matters, every test runs on both kinds."""


@pytest.fixture(scope="session", autouse=True)
def _loop() -> Iterator[None]:
    """The event loop of all coordinators that tests open in this process."""
    with LOOP:
        yield


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real PostgreSQL, started when the first test asks for it."""
    with running() as server:
        yield server


@pytest.fixture(scope="session")
def kind(request: pytest.FixtureRequest) -> str:
    """`sqlite` or `postgresql`: which database a test's coordinator has."""
    return str(getattr(request, "param", "sqlite"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "kind" in metafunc.fixturenames and metafunc.module.__name__.startswith(ON_BOTH):
        metafunc.parametrize("kind", ["sqlite", "postgresql"], indirect=True, scope="session")


@pytest.fixture(scope="session")
def made(
    kind: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, str]]:
    """The folder of a new coordinator, and its operator token; to be copied."""
    folder = tmp_path_factory.mktemp("made") / "home"
    folder.mkdir()
    yield folder, make_home(folder, request.getfixturevalue("postgres").new() if kind == "postgresql" else "")
    forget_home(folder)


@pytest.fixture(scope="session")
def started(made: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a coordinator with a task that one phone, which is enrolled, can do alone; to be copied."""
    folder = copy_home(made[0], tmp_path_factory.mktemp("started") / "home")
    with open_home(folder, Clock(), made[1]) as home:
        home.start_task(replace(PLAN, goal=1, min_reports=1), pool_size=1)
        home.phone(0)
    yield folder
    forget_home(folder)


@pytest.fixture(scope="module")
def beginnings(made: tuple[Path, str]) -> Iterator[None]:
    """What the histories of a file begin with is kept until its last test."""
    yield
    forget_beginnings()


@pytest.fixture
def folder(request: pytest.FixtureRequest, made: tuple[Path, str], tmp_path: Path) -> Iterator[Path]:
    """A coordinator's folder of this test's own; with a task if the test asks for a `phone` to do it."""
    template = request.getfixturevalue("started") if "phone" in request.fixturenames else made[0]
    folder = copy_home(template, tmp_path / "home")
    yield folder
    forget_home(folder)


@pytest.fixture
def phone(home: Home) -> Phone:
    """One enrolled phone, and a task that it can do alone."""
    return home.phone(0)


@pytest.fixture
def home(folder: Path, made: tuple[Path, str], clock: Clock) -> Iterator[Home]:
    with open_home(folder, clock, made[1]) as opened:
        yield opened
