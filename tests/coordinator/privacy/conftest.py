from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator.core.privacy.opinions import SecondOpinions
from tests.programme import Clock, Home, open_home


@pytest.fixture
def home(folder: Path, made: tuple[Path, str], clock: Clock) -> Iterator[Home]:
    """A coordinator for which a handful of devices is a cohort; this process loads no torch for second opinions."""
    with open_home(folder, clock, made[1], smallest_cohort=2, second_opinion=SecondOpinions.NEVER) as opened:
        yield opened
