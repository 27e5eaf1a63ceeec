"""A fake of the module `rubicon.objc`: the classes, selectors and C functions of iOS that the source may use.

As with rubicon-objc, a declared property is an attribute, everything else is a method whose name spells out its
selector with underscores for colons, and a name that iOS lacks raises `AttributeError`.
"""
# ruff: noqa: N802

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from edge_runtime.conditions import Conditions
from edge_runtime.conditions.ios import IosSource
from edge_runtime.protocol.policy import Thermal

_THERMAL_STATES: Final = {Thermal.NONE: 0, Thermal.LIGHT: 1, Thermal.SEVERE: 2, Thermal.CRITICAL: 3}
_MONITOR: Final = 0x1000
_QUEUE: Final = 0x2000
_PATH: Final = 0x3000


class ObjCError(Exception):
    """An NSException, or a class that is not there, as rubicon-objc raises it."""


@dataclass(slots=True)
class Phone:
    """The state of a phone, in the terms of iOS."""

    monitoring: bool = False
    battery_state: int = 0
    battery_level: float = -1.0
    application_state: int = 2
    thermal_state: int = 0
    low_power: bool = False
    free_size: int = 0
    path_status: int = 1
    expensive: bool = False
    constrained: bool = False
    broken: bool = False
    path_changed: Callable[[], None] = lambda: None
    submitted: list[dict[str, Any]] = field(default_factory=list)
    launch: dict[str, Any] = field(default_factory=dict)

    def works(self) -> None:
        if self.broken:
            raise ObjCError("-[__NSDeallocated]")


class UIDevice:
    def __init__(self, phone: Phone) -> None:
        self._phone = phone

    def setBatteryMonitoringEnabled_(self, enabled: bool) -> None:
        self._phone.monitoring = enabled

    @property
    def batteryState(self) -> int:
        self._phone.works()
        return self._phone.battery_state if self._phone.monitoring else 0

    @property
    def batteryLevel(self) -> float:
        self._phone.works()
        return float(np.float32(self._phone.battery_level)) if self._phone.monitoring else -1.0


class UIApplication:
    def __init__(self, phone: Phone) -> None:
        self._phone = phone

    @property
    def applicationState(self) -> int:
        self._phone.works()
        return self._phone.application_state


class NSProcessInfo:
    """`lowPowerModeEnabled` has the getter `isLowPowerModeEnabled`; rubicon-objc finds only the latter."""

    def __init__(self, phone: Phone) -> None:
        self._phone = phone

    @property
    def thermalState(self) -> int:
        self._phone.works()
        return self._phone.thermal_state

    def isLowPowerModeEnabled(self) -> bool:
        self._phone.works()
        return self._phone.low_power


@dataclass(frozen=True)
class NSNumber:
    unsignedLongLongValue: int  # noqa: N815


class NSDictionary:
    def __init__(self, content: dict[str, object]) -> None:
        self._content = content

    def objectForKey_(self, key: str) -> object | None:
        return self._content.get(key)


class NSFileManager:
    def __init__(self, phone: Phone) -> None:
        self._phone = phone

    def attributesOfFileSystemForPath_error_(self, path: str, error: None) -> NSDictionary | None:
        assert isinstance(path, str)
        if self._phone.broken:
            return None
        return NSDictionary({"NSFileSystemFreeSize": NSNumber(self._phone.free_size)})


class BGTaskScheduler:
    def __init__(self, phone: Phone) -> None:
        self._phone = phone

    def registerForTaskWithIdentifier_usingQueue_launchHandler_(self, name: str, queue: None, block: FakeBlock) -> bool:
        self._phone.launch[name] = block
        return True

    def submitTaskRequest_error_(self, request: BGProcessingTaskRequest, error: None) -> bool:
        self._phone.submitted.append(request.asked)
        return not self._phone.broken


class BGProcessingTaskRequest:
    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}

    @classmethod
    def alloc(cls) -> BGProcessingTaskRequest:
        return cls()

    def initWithIdentifier_(self, identifier: str) -> BGProcessingTaskRequest:
        self.asked["identifier"] = identifier
        return self

    def setRequiresNetworkConnectivity_(self, needed: bool) -> None:
        self.asked["network"] = needed

    def setRequiresExternalPower_(self, needed: bool) -> None:
        self.asked["power"] = needed

    def setEarliestBeginDate_(self, date: float) -> None:
        self.asked["after_s"] = date


class NSDate:
    @staticmethod
    def dateWithTimeIntervalSinceNow_(seconds: float) -> float:
        return seconds


class BGProcessingTask:
    """What the system hands over, and what it was told."""

    def __init__(self) -> None:
        self.completed: list[bool] = []
        self._expired: FakeBlock | None = None

    def setExpirationHandler_(self, block: FakeBlock) -> None:
        assert block.argtypes == ()
        self._expired = block

    def setTaskCompletedWithSuccess_(self, success: bool) -> None:
        self.completed.append(success)

    def expire(self) -> None:
        assert self._expired is not None
        self._expired.function()


class SharedClass:
    """A class with one instance: an attribute once it is declared as a class property, a method before."""

    def __init__(self, instance: object, name: str) -> None:
        self._instance, self._name = instance, name
        self._declared: set[str] = set()

    def declare_class_property(self, name: str) -> None:
        self._declared.add(name)

    def __getattr__(self, name: str) -> Any:
        if name != self._name:
            raise AttributeError(name)
        return self._instance if name in self._declared else lambda: self._instance


@dataclass(frozen=True)
class FakeBlock:
    function: Callable[..., None]
    restype: object
    argtypes: tuple[object, ...]


class CFunction:
    """A function of a C library: its types must be declared, or pointers would be cut to 32 bits."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.restype: object = ctypes.c_int
        self.argtypes: list[object] | None = None

    def __call__(self, *arguments: object) -> Any:
        assert self.argtypes is not None
        assert len(self.argtypes) == len(arguments)
        result = self._function(*arguments)
        assert (result is None) == (self.restype is None)
        return result


class Network:
    """Network.framework."""

    def __init__(self, phone: Phone) -> None:
        self._phone = phone
        self._handler: FakeBlock | None = None
        self._queue = 0
        self.nw_path_get_status = CFunction(lambda path: self._of(path).path_status)
        self.nw_path_is_expensive = CFunction(lambda path: self._of(path).expensive)
        self.nw_path_is_constrained = CFunction(lambda path: self._of(path).constrained)
        self.nw_path_monitor_create = CFunction(lambda: _MONITOR)
        self.nw_path_monitor_set_queue = CFunction(self._set_queue)
        self.nw_path_monitor_set_update_handler = CFunction(self._set_handler)
        self.nw_path_monitor_start = CFunction(self._start)

    def _of(self, path: object) -> Phone:
        assert path == _PATH
        return self._phone

    def _set_queue(self, monitor: int, queue: int) -> None:
        assert (monitor, queue) == (_MONITOR, _QUEUE)
        self._queue = queue

    def _set_handler(self, monitor: int, handler: FakeBlock) -> None:
        assert (monitor, handler.argtypes) == (_MONITOR, (ctypes.c_void_p,))
        self._handler = handler

    def _start(self, monitor: int) -> None:
        assert monitor == _MONITOR
        assert self._queue == _QUEUE
        self._phone.path_changed = self._tell
        self._tell()

    def _tell(self) -> None:
        assert self._handler is not None
        self._handler.function(_PATH)


class LibC:
    def __init__(self) -> None:
        self.dispatch_get_global_queue = CFunction(lambda _priority, _flags: _QUEUE)


class Runtime:
    """`rubicon.objc.runtime`."""

    def __init__(self, phone: Phone) -> None:
        self.libc = LibC()
        self._libraries = {"Network": Network(phone), "UIKit": None, "Foundation": None, "BackgroundTasks": None}

    def load_library(self, name: str) -> Any:
        if name not in self._libraries:
            raise ValueError(f"Library {name!r} not found")
        return self._libraries[name]


class FakeObjC:
    """The module `rubicon.objc` on one phone."""

    def __init__(self, phone: Phone) -> None:
        self.runtime: Any = Runtime(phone)
        self.objc_block: Any = FakeBlock
        self.objects: dict[int, object] = {}
        self._classes: dict[str, object] = {
            "UIDevice": SharedClass(UIDevice(phone), "currentDevice"),
            "UIApplication": SharedClass(UIApplication(phone), "sharedApplication"),
            "NSProcessInfo": SharedClass(NSProcessInfo(phone), "processInfo"),
            "NSFileManager": SharedClass(NSFileManager(phone), "defaultManager"),
            "BGTaskScheduler": SharedClass(BGTaskScheduler(phone), "sharedScheduler"),
            "BGProcessingTaskRequest": BGProcessingTaskRequest,
            "NSDate": NSDate,
        }

    def ObjCClass(self, name: str) -> Any:
        try:
            return self._classes[name]
        except KeyError:
            raise NameError(f"ObjC Class '{name}' couldn't be found.") from None

    def ObjCInstance(self, pointer: Any) -> Any:
        return self.objects[pointer]

    def Block(self, function: Any, restype: Any, *argtypes: Any) -> Any:
        return FakeBlock(function, restype, argtypes)


class IosWorld:
    """A phone of which every part can be set."""

    def __init__(self, folder: Path) -> None:
        self.phone = Phone()
        self.objc = FakeObjC(self.phone)
        self.source = IosSource(folder, self.objc)

    def become(self, situation: Conditions) -> None:
        phone = self.phone
        phone.battery_level = situation.battery_level or 0.0
        phone.battery_state = (3 if situation.battery_level == 1.0 else 2) if situation.charging else 1
        phone.application_state = 0 if situation.in_use else 2
        phone.thermal_state = _THERMAL_STATES[situation.thermal or Thermal.NONE]
        phone.low_power = bool(situation.power_saver)
        phone.free_size = situation.free_storage_bytes or 0
        phone.path_status = 1 if situation.online else 2
        phone.expensive = bool(situation.metered)
        phone.path_changed()

    def breaks(self) -> None:
        """The system's services fail, and its path monitor is gone: a new source finds nothing."""
        self.phone.broken = True
        self.objc.runtime = None
        self.source = IosSource(Path("/"), self.objc)
