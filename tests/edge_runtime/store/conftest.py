"""Folders of these tests are in memory where the system has such a place: they sync often, and test no disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.example_store import ExampleStore
from edge_runtime.journal import StateFolder, open_folder
from tests.edge_runtime.store.kills import MEMORY
from tests.edge_runtime.store.pairs import open_pairs


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="store-", dir=MEMORY if MEMORY.is_dir() else None) as path:
        yield Path(path)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[StateFolder]:
    with open_folder(tmp_path / "state") as held:
        yield held


@pytest.fixture
def store(folder: StateFolder) -> Iterator[ExampleStore]:
    opened = open_pairs(folder)
    yield opened
    opened.close()
