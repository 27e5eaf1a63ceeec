from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.programme import PLAN, Clock, Home, Phone, make_home, open_home, replace


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a new coordinator, and its operator token; to be copied."""
    folder = tmp_path_factory.mktemp("made") / "home"
    folder.mkdir()
    return folder, make_home(folder)


@pytest.fixture(scope="session")
def started(made: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a coordinator with a task that one phone, which is enrolled, can do alone; to be copied."""
    folder = Path(shutil.copytree(made[0], tmp_path_factory.mktemp("started") / "home"))
    with open_home(folder, Clock(), made[1]) as home:
        home.start_task(replace(PLAN, goal=1, min_reports=1), pool_size=1)
        home.phone(0)
    return folder


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A coordinator's folder of this test's own; with a task if the test asks for a `phone` to do it."""
    if "phone" in request.fixturenames:
        return Path(shutil.copytree(request.getfixturevalue("started"), tmp_path / "home"))
    return Path(shutil.copytree(request.getfixturevalue("made")[0], tmp_path / "home"))


@pytest.fixture
def phone(home: Home) -> Phone:
    """One enrolled phone, and a task that it can do alone."""
    return home.phone(0)


@pytest.fixture
def home(folder: Path, made: tuple[Path, str], clock: Clock) -> Iterator[Home]:
    with open_home(folder, clock, made[1]) as opened:
        yield opened
