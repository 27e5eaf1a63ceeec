from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.programme import Clock, Home, make_home, open_home


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a new coordinator, and its operator token; to be copied."""
    folder = tmp_path_factory.mktemp("made") / "home"
    folder.mkdir()
    return folder, make_home(folder)


@pytest.fixture
def folder(made: tuple[Path, str], tmp_path: Path) -> Path:
    """A coordinator's folder of this test's own."""
    return Path(shutil.copytree(made[0], tmp_path / "home"))


@pytest.fixture
def home(folder: Path, made: tuple[Path, str], clock: Clock) -> Iterator[Home]:
    with open_home(folder, clock, made[1]) as opened:
        yield opened
