"""Folders of these tests are in memory where the system has such a place: they sync often, and test no disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.edge_runtime.store.kills import MEMORY


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="store-", dir=MEMORY if MEMORY.is_dir() else None) as path:
        yield Path(path)
