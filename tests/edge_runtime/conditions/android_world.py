"""A fake of Chaquopy's `java` module: the classes, methods and constants of Android that the source may use.

A name that Android lacks raises `AttributeError`, as in Chaquopy; a class that it lacks raises a Java error.
"""
# ruff: noqa: N802, N803

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Final

from edge_runtime.conditions import Conditions
from edge_runtime.conditions.android import AndroidSource
from edge_runtime.protocol.policy import Thermal

FILES_DIR: Final = "/data/user/0/com.example/files"
BATTERY_CELSIUS: Final = {
    Thermal.NONE: 25.0,
    Thermal.LIGHT: 39.0,
    Thermal.MODERATE: 42.0,
    Thermal.SEVERE: 46.0,
    Thermal.CRITICAL: 55.0,
}


class JavaError(Exception):
    """A java.lang.Throwable, as Chaquopy raises it."""


@dataclass(slots=True)
class Phone:
    """The state of a phone, in Android's own terms."""

    api: int = 34
    interactive: bool = False
    power_save: bool = False
    doze: bool = False
    thermal_status: int = 0
    battery: dict[str, int | bool] = field(default_factory=dict)
    network: bool = True
    validated: bool = True
    metered: bool = False
    available_bytes: int = 1 << 30
    broken: bool = False
    jobs: list[dict[str, Any]] = field(default_factory=list)


class Intent:
    ACTION_BATTERY_CHANGED: Final = "android.intent.action.BATTERY_CHANGED"

    def __init__(self, extras: dict[str, int | bool]) -> None:
        self._extras = extras

    def getIntExtra(self, name: str, defaultValue: int) -> int:
        value = self._extras.get(name, defaultValue)
        return defaultValue if isinstance(value, bool) else value

    def getBooleanExtra(self, name: str, defaultValue: bool) -> bool:
        value = self._extras.get(name, defaultValue)
        return value if isinstance(value, bool) else defaultValue


class IntentFilter:
    def __init__(self, action: str) -> None:
        self.action = action


class BatteryManager:
    EXTRA_LEVEL: Final = "level"
    EXTRA_SCALE: Final = "scale"
    EXTRA_STATUS: Final = "status"
    EXTRA_PLUGGED: Final = "plugged"
    EXTRA_PRESENT: Final = "present"
    EXTRA_TEMPERATURE: Final = "temperature"
    BATTERY_STATUS_UNKNOWN: Final = 1
    BATTERY_STATUS_CHARGING: Final = 2
    BATTERY_STATUS_DISCHARGING: Final = 3
    BATTERY_STATUS_NOT_CHARGING: Final = 4
    BATTERY_STATUS_FULL: Final = 5


class Context:
    POWER_SERVICE: Final = "power"
    CONNECTIVITY_SERVICE: Final = "connectivity"
    JOB_SCHEDULER_SERVICE: Final = "jobscheduler"


class NetworkCapabilities:
    NET_CAPABILITY_NOT_METERED: Final = 11
    NET_CAPABILITY_INTERNET: Final = 12
    NET_CAPABILITY_VALIDATED: Final = 16

    def __init__(self, has: set[int]) -> None:
        self._has = has

    def hasCapability(self, capability: int) -> bool:
        return capability in self._has


class ComponentName:
    def __init__(self, pkg: Application, cls: str) -> None:
        self.cls = cls


class JobInfoBuilder:
    def __init__(self, jobId: int, jobService: ComponentName) -> None:
        self._made: dict[str, Any] = {"id": jobId, "service": jobService.cls}

    def setMinimumLatency(self, minLatencyMillis: int) -> JobInfoBuilder:
        self._made["latency_ms"] = minLatencyMillis
        return self

    def setRequiredNetworkType(self, networkType: int) -> JobInfoBuilder:
        self._made["network"] = networkType
        return self

    def setRequiresDeviceIdle(self, requiresDeviceIdle: bool) -> JobInfoBuilder:
        self._made["idle"] = requiresDeviceIdle
        return self

    def setRequiresCharging(self, requiresCharging: bool) -> JobInfoBuilder:
        self._made["charging"] = requiresCharging
        return self

    def build(self) -> dict[str, Any]:
        return self._made


class JobInfo:
    NETWORK_TYPE_NONE: Final = 0
    NETWORK_TYPE_ANY: Final = 1
    NETWORK_TYPE_UNMETERED: Final = 2
    Builder = JobInfoBuilder


class JobScheduler:
    RESULT_FAILURE: Final = 0
    RESULT_SUCCESS: Final = 1

    def __init__(self, phone: Phone) -> None:
        self._phone = phone

    def schedule(self, job: dict[str, Any]) -> int:
        if self._phone.broken:
            return self.RESULT_FAILURE
        self._phone.jobs.append(job)
        return self.RESULT_SUCCESS


class PowerManager:
    def __init__(self, phone: Phone) -> None:
        self._phone = phone

    def isInteractive(self) -> bool:
        return self._phone.interactive

    def isPowerSaveMode(self) -> bool:
        return self._phone.power_save

    def isDeviceIdleMode(self) -> bool:
        return self._phone.doze

    def __getattr__(self, name: str) -> Callable[[], int]:
        if name == "getCurrentThermalStatus" and self._phone.api >= 29:
            return lambda: self._phone.thermal_status
        raise AttributeError(name)


class ConnectivityManager:
    def __init__(self, phone: Phone) -> None:
        self._phone = phone

    def getActiveNetwork(self) -> object | None:
        return self._phone if self._phone.network else None

    def getNetworkCapabilities(self, network: object) -> NetworkCapabilities | None:
        assert network is self._phone
        has = {NetworkCapabilities.NET_CAPABILITY_INTERNET}
        return NetworkCapabilities(
            has | {NetworkCapabilities.NET_CAPABILITY_VALIDATED} if self._phone.validated else has
        )

    def isActiveNetworkMetered(self) -> bool:
        return self._phone.metered or not self._phone.network  # Android's own cautious answer


class File:
    def getAbsolutePath(self) -> str:
        return FILES_DIR


class Application:
    def __init__(self, phone: Phone) -> None:
        self._phone = phone

    def _works(self) -> None:
        if self._phone.broken:
            raise JavaError("android.os.DeadSystemException")

    def getSystemService(self, name: str) -> object:
        if name == Context.JOB_SCHEDULER_SERVICE:
            return JobScheduler(self._phone)
        self._works()
        kinds = {Context.POWER_SERVICE: PowerManager, Context.CONNECTIVITY_SERVICE: ConnectivityManager}
        return kinds[name](self._phone)

    def registerReceiver(self, receiver: None, filter: IntentFilter) -> Intent | None:  # noqa: A002
        self._works()
        assert filter.action == Intent.ACTION_BATTERY_CHANGED
        return Intent(self._phone.battery) if self._phone.battery else None

    def getFilesDir(self) -> File:
        self._works()
        return File()


class FakeJava:
    """The module `java` on one phone."""

    def __init__(self, phone: Phone) -> None:
        app = Application(phone)

        class StatFs:
            def __init__(self, path: str) -> None:
                assert path == FILES_DIR

            def getAvailableBytes(self) -> int:
                return phone.available_bytes

        platform = SimpleNamespace(getApplication=lambda: app)
        self._classes: dict[str, object] = {
            "android.app.job.JobInfo": JobInfo,
            "android.app.job.JobScheduler": JobScheduler,
            "android.content.ComponentName": ComponentName,
            "android.content.Context": Context,
            "android.content.Intent": Intent,
            "android.content.IntentFilter": IntentFilter,
            "android.net.NetworkCapabilities": NetworkCapabilities,
            "android.os.BatteryManager": BatteryManager,
            "android.os.Build": SimpleNamespace(VERSION=SimpleNamespace(SDK_INT=phone.api)),
            "android.os.StatFs": StatFs,
            "com.chaquo.python.Python": SimpleNamespace(getPlatform=lambda: platform),
        }

    def jclass(self, cls_name: str) -> Any:
        try:
            return self._classes[cls_name]
        except KeyError:
            raise JavaError(f"java.lang.NoClassDefFoundError: {cls_name}") from None


class AndroidWorld:
    """A phone of which every part can be set."""

    def __init__(self, api: int = 34) -> None:
        self.phone = Phone(api=api)
        self.java = FakeJava(self.phone)
        self.source = AndroidSource(self.java)

    def become(self, situation: Conditions) -> None:
        phone, heat = self.phone, situation.thermal or Thermal.NONE
        charging, discharging = BatteryManager.BATTERY_STATUS_CHARGING, BatteryManager.BATTERY_STATUS_DISCHARGING
        full = situation.battery_level == 1.0
        phone.battery = {
            "present": True,
            "level": round(200 * (situation.battery_level or 0.0)),
            "scale": 200,
            "status": (BatteryManager.BATTERY_STATUS_FULL if full else charging) if situation.charging else discharging,
            "plugged": int(bool(situation.charging)),
            "temperature": round(10 * BATTERY_CELSIUS[heat]),
        }
        phone.thermal_status = heat.rank
        phone.interactive, phone.power_save = bool(situation.in_use), bool(situation.power_saver)
        phone.network, phone.metered = bool(situation.online), bool(situation.metered)
        phone.available_bytes = situation.free_storage_bytes or 0

    def breaks(self) -> None:
        self.phone.broken = True
