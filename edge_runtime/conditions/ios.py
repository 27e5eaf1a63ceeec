"""Conditions of an iPhone, through rubicon-objc, and the entry point for BGProcessingTask.

NWPathMonitor is a Swift type; its twin in C, `nw_path_monitor_*` of Network.framework, tells the same, and is called
through ctypes with a block of rubicon-objc as the handler. Names and constants are those of
https://developer.apple.com/documentation; iOS 13 and later.
"""

from __future__ import annotations

import ctypes
import importlib
import threading
from pathlib import Path
from typing import Any, Final, Protocol, cast

from edge_runtime.conditions import Conditions
from edge_runtime.conditions.phone import Ended, RunSlice, Slices, Start, on_a_thread, told
from edge_runtime.protocol.policy import Policy, Thermal

SLICE_S: Final = 585.0
"""iOS promises a processing task "several minutes"; about 10 are seen. It may end one at any time."""

_CHARGING: Final[dict[int, bool]] = {1: False, 2: True, 3: True}
"""UIDeviceBatteryState: unplugged, charging, full; 0 is unknown."""
_THERMAL: Final[dict[int, Thermal]] = {0: Thermal.NONE, 1: Thermal.LIGHT, 2: Thermal.SEVERE, 3: Thermal.CRITICAL}
"""NSProcessInfoThermalState: nominal, fair, serious, critical."""
_STATE_BACKGROUND: Final = 2
"""UIApplicationState: 0 is active, 1 inactive."""
_SATISFIED: Final = 1
"""nw_path_status_t: there is a network, and it can be used."""
_FIRST_PATH_S: Final = 0.5


class ObjC(Protocol):
    """The module `rubicon.objc`: https://rubicon-objc.readthedocs.io"""

    runtime: Any
    objc_block: Any

    def ObjCClass(self, name: str) -> Any:  # noqa: N802
        """The Objective-C class of that name."""

    def ObjCInstance(self, pointer: Any) -> Any:  # noqa: N802
        """The object at a pointer."""

    def Block(self, function: Any, restype: Any, *argtypes: Any) -> Any:  # noqa: N802
        """A Python function as a block."""


def objc_module() -> ObjC:
    """The bridge of this process.

    Raises:
        ImportError: rubicon-objc is not bundled, or this is not an Apple system.
    """
    return cast(ObjC, importlib.import_module("rubicon.objc"))


def shared(objc: ObjC, framework: str, name: str, instance: str) -> Any:
    """The one instance of a system class, such as `UIDevice.currentDevice`."""
    objc.runtime.load_library(framework)
    kind = objc.ObjCClass(name)
    kind.declare_class_property(instance)
    return getattr(kind, instance)


class _Path:
    """The network path that the system would use now, as its monitor told last."""

    def __init__(self, objc: ObjC) -> None:
        self.told: tuple[bool, bool] | None = None
        """Whether it leads out, and whether it is metered."""
        self._first = threading.Event()
        self._c = network = objc.runtime.load_library("Network")
        pointer = ctypes.c_void_p
        _declare(network.nw_path_get_status, ctypes.c_int, pointer)
        _declare(network.nw_path_is_expensive, ctypes.c_bool, pointer)
        _declare(network.nw_path_is_constrained, ctypes.c_bool, pointer)
        _declare(network.nw_path_monitor_create, pointer)
        _declare(network.nw_path_monitor_set_queue, None, pointer, pointer)
        _declare(network.nw_path_monitor_set_update_handler, None, pointer, objc.objc_block)
        _declare(network.nw_path_monitor_start, None, pointer)
        queue = objc.runtime.libc.dispatch_get_global_queue
        _declare(queue, pointer, ctypes.c_long, ctypes.c_ulong)
        self._handler = objc.Block(self._update, None, pointer)
        self._monitor = network.nw_path_monitor_create()
        network.nw_path_monitor_set_queue(self._monitor, queue(0, 0))
        network.nw_path_monitor_set_update_handler(self._monitor, self._handler)
        network.nw_path_monitor_start(self._monitor)

    def now(self) -> tuple[bool | None, bool | None]:
        """Online and metered. The first path comes a moment after the start, and is waited for once."""
        self._first.wait(_FIRST_PATH_S)
        self._first.set()
        return self.told or (None, None)

    def _update(self, path: int) -> None:
        """Expensive is a mobile network or a hotspot; constrained is Low Data Mode."""
        online = self._c.nw_path_get_status(path) == _SATISFIED
        costs = self._c.nw_path_is_expensive(path) or self._c.nw_path_is_constrained(path)
        self.told = online, bool(online and costs)
        self._first.set()


def _declare(function: Any, result: Any, *arguments: Any) -> None:
    function.restype, function.argtypes = result, list(arguments)


class IosSource:
    """Reads the system's own state; what the path monitor tells arrives by itself."""

    def __init__(self, storage: Path, objc: ObjC | None = None) -> None:
        """Start the path monitor, and let the device tell of its battery.

        Args:
            storage: The folder in which the app keeps its state.
            objc: The bridge; None for rubicon-objc.

        Raises:
            ImportError: No bridge was given, and rubicon-objc is not bundled.
        """
        bridge = objc or objc_module()
        self._storage = storage
        self._path = told(lambda: _Path(bridge))
        self._device: Any = told(lambda: shared(bridge, "UIKit", "UIDevice", "currentDevice"))
        self._app: Any = told(lambda: shared(bridge, "UIKit", "UIApplication", "sharedApplication"))
        self._process: Any = told(lambda: shared(bridge, "Foundation", "NSProcessInfo", "processInfo"))
        self._files: Any = told(lambda: shared(bridge, "Foundation", "NSFileManager", "defaultManager"))
        told(lambda: self._device.setBatteryMonitoringEnabled_(True))

    def read(self) -> Conditions:
        """Look now."""
        online, metered = self._path.now() if self._path else (None, None)
        return Conditions(
            in_use=told(self._in_use),
            charging=told(lambda: _CHARGING.get(self._device.batteryState)),
            battery_level=told(self._level),
            online=online,
            metered=metered,
            thermal=told(lambda: _THERMAL.get(self._process.thermalState)),
            free_storage_bytes=told(self._free_bytes),
            power_saver=told(lambda: bool(self._process.isLowPowerModeEnabled())),
        )

    def _in_use(self) -> bool:
        """iOS does not tell whether its owner looks at the phone, only whether this app is in the foreground.

        A processing task is started on an idle phone, and ended when its owner takes it.
        """
        return bool(self._app.applicationState != _STATE_BACKGROUND)

    def _level(self) -> float | None:
        """The system says -1 for unknown."""
        level = float(self._device.batteryLevel)
        return round(level, 2) if 0 <= level <= 1 else None

    def _free_bytes(self) -> int:
        told_of = self._files.attributesOfFileSystemForPath_error_(str(self._storage), None)
        return int(told_of.objectForKey_("NSFileSystemFreeSize").unsignedLongLongValue)


class ProcessingTasks:
    """What the app's BGProcessingTask handler calls."""

    def __init__(
        self, objc: ObjC, run_slice: RunSlice, *, deadline_s: float = SLICE_S, start: Start = on_a_thread
    ) -> None:
        self._objc = objc
        self._slices = Slices(run_slice, deadline_s=deadline_s, start=start)
        self._expired = objc.Block(self._slices.end, None)
        self._launched = objc.Block(lambda task: self.on_task(objc.ObjCInstance(task)), None, ctypes.c_void_p)

    def register(self, identifier: str) -> bool:
        """Tell the system what to call; before the app has finished launching, once for each identifier."""
        tasks = shared(self._objc, "BackgroundTasks", "BGTaskScheduler", "sharedScheduler")
        return bool(tasks.registerForTaskWithIdentifier_usingQueue_launchHandler_(identifier, None, self._launched))

    def on_task(self, task: Any) -> None:
        """Run a slice on a thread of its own; the task is completed when it ends, or when the system ends it."""

        def completed(end: Ended) -> None:
            task.setTaskCompletedWithSuccess_(end.succeeded)

        task.setExpirationHandler_(self._expired)
        if not self._slices.begin(completed):
            task.setTaskCompletedWithSuccess_(False)

    def submit(self, policy: Policy, *, identifier: str, after_s: float) -> bool:
        """Ask the system to launch the task when the device is idle; True if it agreed.

        Args:
            policy: Already within the floors.
            after_s: The earliest time from now, as `look_again_s` says.
        """
        tasks = shared(self._objc, "BackgroundTasks", "BGTaskScheduler", "sharedScheduler")
        request = self._objc.ObjCClass("BGProcessingTaskRequest").alloc().initWithIdentifier_(identifier)
        request.setRequiresNetworkConnectivity_(True)
        request.setRequiresExternalPower_(policy.needs_charging)
        earliest = self._objc.ObjCClass("NSDate").dateWithTimeIntervalSinceNow_(after_s)
        request.setEarliestBeginDate_(earliest)
        return bool(tasks.submitTaskRequest_error_(request, None))
