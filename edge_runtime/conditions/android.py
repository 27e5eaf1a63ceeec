"""Conditions of an Android phone, through Chaquopy's `java` module, and the entry point for JobScheduler.

Names and constants are those of https://developer.android.com/reference; Android 7 (API level 24) and later. The app
needs the permission ACCESS_NETWORK_STATE; without it, network conditions are unknown.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Final, Protocol, cast

from edge_runtime.conditions import Conditions
from edge_runtime.conditions.phone import RunSlice, Slices, Start, on_a_thread, told
from edge_runtime.protocol.policy import Policy, Thermal

SLICE_S: Final = 585.0
"""JobScheduler ends a job after about 10 minutes."""

_THERMAL_API: Final = 29
_BATTERY_CELSIUS: Final = ((50.0, Thermal.CRITICAL), (45.0, Thermal.SEVERE), (41.0, Thermal.MODERATE))
"""Before Android 10 nothing but the battery tells how hot a phone is. The figures are ours."""
_BATTERY_LIGHT_CELSIUS: Final = 38.0


class Java(Protocol):
    """Chaquopy's `java` module: https://chaquo.com/chaquopy/doc/current/python.html"""

    def jclass(self, cls_name: str) -> Any:
        """The Java class of that name."""


def java_module() -> Java:
    """The bridge of this process.

    Raises:
        ImportError: This is not an app built with Chaquopy.
    """
    return cast(Java, importlib.import_module("java"))


class AndroidSource:
    """Asks the system's services anew at every reading; a reading takes a few milliseconds."""

    def __init__(self, java: Java | None = None, context: Any = None) -> None:
        """Find the services.

        Args:
            java: The bridge; None for Chaquopy's.
            context: An android.content.Context; None for the application.

        Raises:
            ImportError: No bridge was given, and this is not an app built with Chaquopy.
        """
        self._java = java or java_module()
        self._context = context or application(self._java)

    def read(self) -> Conditions:
        """Look now."""
        battery, online = told(self._battery) or {}, told(self._online)
        return Conditions(
            in_use=told(lambda: bool(self._power().isInteractive())),
            charging=_charging(battery),
            battery_level=_level(battery),
            online=online,
            metered=False if online is False else told(self._metered),
            thermal=told(self._thermal) or _battery_heat(battery),
            free_storage_bytes=told(self._free_bytes),
            power_saver=told(lambda: bool(self._power().isPowerSaveMode())),
        )

    def _service(self, name: str) -> Any:
        return self._context.getSystemService(getattr(self._java.jclass("android.content.Context"), name))

    def _power(self) -> Any:
        return self._service("POWER_SERVICE")

    def _connectivity(self) -> Any:
        return self._service("CONNECTIVITY_SERVICE")

    def _battery(self) -> dict[str, int]:
        """The sticky broadcast about the battery: present, level, scale, status, plugged, temperature in 0.1 °C."""
        intent = self._java.jclass("android.content.Intent")
        manager = self._java.jclass("android.os.BatteryManager")
        only = self._java.jclass("android.content.IntentFilter")(intent.ACTION_BATTERY_CHANGED)
        said = self._context.registerReceiver(None, only)
        names = ("LEVEL", "SCALE", "STATUS", "PLUGGED", "TEMPERATURE")
        numbers = {name: said.getIntExtra(getattr(manager, f"EXTRA_{name}"), -1) for name in names}
        statuses = ("CHARGING", "DISCHARGING", "FULL")
        constants = {f"IS_{name}": getattr(manager, f"BATTERY_STATUS_{name}") for name in statuses}
        return {**numbers, **constants, "PRESENT": int(said.getBooleanExtra(manager.EXTRA_PRESENT, True))}

    def _online(self) -> bool:
        """There is a network of which Android knows that it leads to the internet, and doze mode does not cut it."""
        connectivity = self._connectivity()
        network = connectivity.getActiveNetwork()
        able = None if network is None else connectivity.getNetworkCapabilities(network)
        if able is None or self._power().isDeviceIdleMode():
            return False
        return bool(able.hasCapability(self._java.jclass("android.net.NetworkCapabilities").NET_CAPABILITY_VALIDATED))

    def _metered(self) -> bool:
        return bool(self._connectivity().isActiveNetworkMetered())

    def _thermal(self) -> Thermal | None:
        if self._java.jclass("android.os.Build").VERSION.SDK_INT < _THERMAL_API:
            return None
        status = self._power().getCurrentThermalStatus()
        return list(Thermal)[min(status, Thermal.CRITICAL.rank)] if status >= 0 else None

    def _free_bytes(self) -> int:
        folder = self._context.getFilesDir().getAbsolutePath()
        return int(self._java.jclass("android.os.StatFs")(folder).getAvailableBytes())


def application(java: Java) -> Any:
    """The app's own context, as Chaquopy keeps it."""
    return java.jclass("com.chaquo.python.Python").getPlatform().getApplication()


def _charging(battery: Mapping[str, int]) -> bool | None:
    """A television or a board without battery runs on power from outside; a battery that discharges is used."""
    if not battery:
        return None
    if not battery["PRESENT"]:
        return True
    if battery["STATUS"] in (battery["IS_CHARGING"], battery["IS_FULL"]):
        return True
    if battery["STATUS"] == battery["IS_DISCHARGING"]:
        return False
    return None if battery["PLUGGED"] < 0 else battery["PLUGGED"] > 0


def _level(battery: Mapping[str, int]) -> float | None:
    if not battery or not battery["PRESENT"] or not 0 <= battery["LEVEL"] <= battery["SCALE"] or not battery["SCALE"]:
        return None
    return round(battery["LEVEL"] / battery["SCALE"], 2)


def _battery_heat(battery: Mapping[str, int]) -> Thermal | None:
    if not battery or battery["TEMPERATURE"] < 0:
        return None
    celsius = battery["TEMPERATURE"] / 10
    reached = [heat for limit, heat in _BATTERY_CELSIUS if celsius >= limit]
    return reached[0] if reached else Thermal.LIGHT if celsius >= _BATTERY_LIGHT_CELSIUS else Thermal.NONE


class Jobs:
    """What the app's JobService calls. Keep one of it in a module of the app, made when the module is imported.

    Its two methods are called on the main thread and return at once; docs/scheduling.md shows the JobService.
    """

    def __init__(self, run_slice: RunSlice, *, deadline_s: float = SLICE_S, start: Start = on_a_thread) -> None:
        self._slices = Slices(run_slice, deadline_s=deadline_s, start=start)

    def on_start_job(self, service: Any, params: Any) -> bool:
        """`JobService.onStartJob`: True while the slice runs on its thread, False if one is running already."""
        return self._slices.begin(lambda end: None if end.stopped else service.jobFinished(params, end.more))

    def on_stop_job(self, service: Any, params: Any) -> bool:
        """`JobService.onStopJob`: the slice is asked to stop; True, so that the system starts the job again later."""
        self._slices.end()
        return True


def schedule(java: Java, policy: Policy, *, service: str, job_id: int, after_s: float, context: Any = None) -> bool:
    """Ask JobScheduler to start the service when a visit may be possible; True if it agreed.

    The system's own conditions only save wake-ups: `edge_runtime.schedule` decides.

    Args:
        policy: Already within the floors.
        service: The full name of the app's JobService.
        after_s: The earliest time from now, as `look_again_s` says.
    """
    app = context or application(java)
    info = java.jclass("android.app.job.JobInfo")
    network = info.NETWORK_TYPE_UNMETERED if policy.needs_unmetered else info.NETWORK_TYPE_ANY
    builder = info.Builder(job_id, java.jclass("android.content.ComponentName")(app, service))
    builder.setMinimumLatency(round(after_s * 1000))
    builder.setRequiredNetworkType(network)
    builder.setRequiresDeviceIdle(policy.needs_idle)
    builder.setRequiresCharging(policy.needs_charging)
    scheduler = app.getSystemService(java.jclass("android.content.Context").JOB_SCHEDULER_SERVICE)
    agreed: bool = scheduler.schedule(builder.build()) == java.jclass("android.app.job.JobScheduler").RESULT_SUCCESS
    return agreed
