"""Every source passes the one contract suite."""

from __future__ import annotations

from pathlib import Path

from edge_runtime.conditions import UNKNOWN, Conditions
from edge_runtime.conditions.fixed import FixedSource
from tests.contracts.conditions import SourceContract, World
from tests.edge_runtime.conditions.android_world import AndroidWorld
from tests.edge_runtime.conditions.ios_world import IosWorld
from tests.edge_runtime.conditions.linux_world import LinuxWorld


class FixedWorld:
    def __init__(self) -> None:
        self.source = FixedSource()

    def become(self, situation: Conditions) -> None:
        self.source.conditions = situation

    def breaks(self) -> None:
        self.source.conditions = UNKNOWN


class TestFixed(SourceContract):
    def world(self, folder: Path) -> World:
        return FixedWorld()


class TestLinux(SourceContract):
    def world(self, folder: Path) -> World:
        return LinuxWorld(folder)


class TestAndroid14(SourceContract):
    def world(self, folder: Path) -> World:
        return AndroidWorld(api=34)


class TestAndroid8(SourceContract):
    """Heat is told by the battery alone."""

    def world(self, folder: Path) -> World:
        return AndroidWorld(api=26)


class TestIos(SourceContract):
    def world(self, folder: Path) -> World:
        return IosWorld(folder)
