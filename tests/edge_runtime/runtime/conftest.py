"""A bench for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.edge_runtime.runtime.bench import Bench, bench


@pytest.fixture
def home() -> Iterator[Bench]:
    with bench() as found:
        yield found
