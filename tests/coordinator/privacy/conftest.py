from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.programme import Clock, Home, open_home


@pytest.fixture
def home(folder: Path, made: tuple[Path, str], clock: Clock) -> Iterator[Home]:
    """A coordinator for which a handful of devices is a cohort."""
    with open_home(folder, clock, made[1], smallest_cohort=2) as opened:
        yield opened
