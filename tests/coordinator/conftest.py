from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.programme import Clock, Home, make_home, open_home


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def home(tmp_path: Path, clock: Clock) -> Iterator[Home]:
    token = make_home(tmp_path)
    with open_home(tmp_path, clock, token) as opened:
        yield opened
