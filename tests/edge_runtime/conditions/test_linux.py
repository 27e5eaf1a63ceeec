"""Recorded trees, single files of them changed, and files that are garbage."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.conditions import Conditions
from edge_runtime.conditions.linux import LOGIN, NETWORK, LinuxSource, free_bytes, no_bus, system_bus, values_told
from edge_runtime.conditions.sysfs import heat, power
from edge_runtime.protocol.policy import Thermal
from tests.edge_runtime.conditions.linux_world import TREES, FakeBus, LinuxWorld, plant, write

SUPPLY = "sys/class/power_supply"
ZONE = "sys/class/thermal/thermal_zone0"


def read(root: Path, bus: FakeBus | None = None) -> Conditions:
    """What a new source tells of a tree, with 1 GB of free storage."""
    return LinuxSource(root, root=root, bus=bus or no_bus, free=lambda _path: 10**9).read()


def test_a_laptop_on_its_battery(tmp_path: Path) -> None:
    bus = FakeBus({NETWORK: {"Metered": 4, "Connectivity": 4}, LOGIN: {"IdleHint": False}})
    assert read(plant(tmp_path, "laptop"), bus) == Conditions(
        in_use=True,
        charging=False,
        battery_level=0.73,
        online=True,
        metered=False,
        thermal=Thermal.NONE,
        free_storage_bytes=10**9,
        power_saver=False,
    )


def test_a_raspberry_pi_runs_on_the_mains_and_cannot_tell_what_its_network_costs(tmp_path: Path) -> None:
    assert read(plant(tmp_path, "raspberry-pi")) == Conditions(
        in_use=False,
        charging=True,
        battery_level=None,
        online=True,
        metered=None,
        thermal=Thermal.NONE,
        free_storage_bytes=10**9,
        power_saver=False,
    )


def test_a_phone_like_board_on_its_charger(tmp_path: Path) -> None:
    bus = FakeBus({NETWORK: {"Metered": 1, "Connectivity": 0}, LOGIN: {"IdleHint": True}})
    assert read(plant(tmp_path, "phone"), bus) == Conditions(
        in_use=False,
        charging=True,
        battery_level=0.64,
        online=True,
        metered=True,
        thermal=Thermal.LIGHT,
        free_storage_bytes=10**9,
        power_saver=False,
    )


@pytest.mark.parametrize(
    ("tree", "charging", "level", "thermal"),
    [
        ("recorded-raspberry-pi-4", None, None, Thermal.NONE),
        ("recorded-nexus-5", False, 0.36, None),
        ("recorded-pinebook-pro", True, 0.96, None),
        ("recorded-hp-pavilion", False, 0.94, None),
        ("recorded-presario", None, None, Thermal.NONE),
    ],
)
def test_recorded_devices_are_understood(
    tree: str, charging: bool | None, level: float | None, thermal: Thermal | None, tmp_path: Path
) -> None:
    told = read(plant(tmp_path, tree))
    assert (told.charging, told.battery_level, told.thermal) == (charging, level, thermal)


@pytest.mark.parametrize(
    ("celsius", "expected"),
    [
        (74.9, Thermal.NONE),
        (75.0, Thermal.LIGHT),
        (80.8, Thermal.MODERATE),
        (90, Thermal.SEVERE),
        (100, Thermal.CRITICAL),
    ],
)
def test_a_device_whose_zones_name_no_limit_is_held_to_that_of_a_raspberry_pi(
    celsius: float, expected: Thermal, tmp_path: Path
) -> None:
    root = plant(tmp_path, "recorded-raspberry-pi-4")
    write(root, f"{ZONE}/temp", round(celsius * 1000))
    assert heat(root / "sys") is expected


def test_a_zone_without_limits_is_not_judged_beside_one_that_has_some(tmp_path: Path) -> None:
    root = plant(tmp_path, "recorded-presario")
    write(root, "sys/class/thermal/thermal_zone1/temp", 99_000)
    assert heat(root / "sys") is Thermal.NONE


@pytest.mark.parametrize(
    ("what", "files", "charging"),
    [
        ("charging", {"BAT0/status": "Charging", "AC/online": "1"}, True),
        ("full, and plugged in", {"BAT0/status": "Full", "AC/online": "1"}, True),
        ("held at 80 %, and plugged in", {"BAT0/status": "Not charging", "AC/online": "1"}, True),
        ("plugged in, the battery says nothing", {"BAT0/status": "Unknown", "AC/online": "1"}, True),
        ("charging, the charger says nothing", {"BAT0/status": "Charging", "AC/online": "?"}, True),
        ("a charger that is too weak", {"BAT0/status": "Discharging", "AC/online": "1"}, False),
        ("full, and just unplugged", {"BAT0/status": "Full"}, False),
        ("unplugged, the battery says nothing", {"BAT0/status": "Unknown"}, False),
        ("full, the charger says nothing", {"BAT0/status": "Full", "AC/online": "?"}, True),
        ("held at 80 %, the charger says nothing", {"BAT0/status": "Not charging", "AC/online": "?"}, False),
        ("nobody says anything", {"BAT0/status": "Unknown", "AC/online": ""}, None),
        ("of two batteries, one is used", {"BAT1/present": "1", "BAT1/status": "Charging"}, False),
    ],
)
def test_charging_is_power_that_does_not_come_from_a_battery(
    what: str, files: dict[str, str], charging: bool | None, tmp_path: Path
) -> None:
    root = plant(tmp_path, "laptop")
    write(root, f"{SUPPLY}/ucsi-source-psy-USBC000:001/online", 0)
    for path, text in files.items():
        write(root, f"{SUPPLY}/{path}", text)
    assert power(root / "sys").charging is charging, what


@pytest.mark.parametrize(
    ("what", "files", "level"),
    [
        ("two batteries, by energy", {"BAT1/present": 1, "BAT1/energy_now": 0, "BAT1/energy_full": 50000000}, 0.37),
        ("two batteries, one only in percent", {"BAT1/present": 1, "BAT1/capacity": 27}, 0.5),
        ("two batteries, one silent", {"BAT1/present": 1}, None),
        ("an empty battery", {"BAT0/energy_now": 0}, 0.0),
        ("fuller than full", {"BAT0/energy_now": 51_000_000}, 1.0),
        ("no size", {"BAT0/energy_full": 0}, 0.73),
        ("negative energy", {"BAT0/energy_now": -5}, 0.73),
        ("only garbage", {"BAT0/energy_now": "x", "BAT0/capacity": "y"}, None),
    ],
)
def test_the_level_is_that_of_all_batteries(
    what: str, files: dict[str, object], level: float | None, tmp_path: Path
) -> None:
    root = plant(tmp_path, "laptop")
    for path, text in files.items():
        write(root, f"{SUPPLY}/{path}", text)
    assert power(root / "sys").battery_level == level, what


def test_a_supply_of_unknown_type_could_be_a_battery(tmp_path: Path) -> None:
    root = plant(tmp_path, "raspberry-pi")
    (root / SUPPLY / "rpi-poe/type").unlink()
    assert power(root / "sys").charging is None


def test_a_kernel_that_knows_no_supplies_cannot_tell(tmp_path: Path) -> None:
    assert power(tmp_path / "sys").charging is None


@pytest.mark.parametrize(
    ("celsius", "expected"),
    [
        (84.9, Thermal.LIGHT),
        (79.0, Thermal.NONE),
        (85.0, Thermal.MODERATE),
        (100.0, Thermal.SEVERE),
        (110.0, Thermal.CRITICAL),
        (150.0, Thermal.CRITICAL),
    ],
)
def test_a_zone_with_only_a_critical_trip_is_hot_before_it(celsius: float, expected: Thermal, tmp_path: Path) -> None:
    root = plant(tmp_path, "raspberry-pi")
    write(root, f"{ZONE}/temp", round(celsius * 1000))
    assert heat(root / "sys") is expected


def test_the_hottest_zone_counts(tmp_path: Path) -> None:
    root = plant(tmp_path, "phone")
    write(root, "sys/class/thermal/thermal_zone1/temp", 96_000)
    assert heat(root / "sys") is Thermal.SEVERE


@pytest.mark.parametrize("temperature", ["", "hot", "-274000", "999999", "-99999999999"])
def test_a_zone_that_tells_nonsense_is_no_zone(temperature: str, tmp_path: Path) -> None:
    root = plant(tmp_path, "raspberry-pi")
    write(root, f"{ZONE}/temp", temperature)
    assert heat(root / "sys") is None


def load(root: Path, *, others: int, ours: int, idle: int) -> None:
    """The processors' ticks so far, of all of them together."""
    write(root, "proc/stat", f"cpu  {others + ours} 0 0 {idle} 0 0 0 0 0 0\ncpu0 1 0 0 1\ncpu1 1 0 0 1")
    write(root, "proc/self/stat", f"7 (an (odd) name) R 1 7 7 0 -1 4194304 1 0 0 0 {ours} 0 0 0 20 0 1 0")


def test_our_own_training_is_not_somebody_else_at_work(tmp_path: Path) -> None:
    source = LinuxSource(tmp_path, root=plant(tmp_path, "raspberry-pi"), bus=no_bus)
    load(tmp_path, others=1000, ours=0, idle=9000)
    assert source.read().in_use is False
    load(tmp_path, others=1010, ours=190, idle=9000)  # all processors are busy, with our work
    assert source.read().in_use is False
    load(tmp_path, others=1130, ours=270, idle=9000)  # more than half of them with other work
    assert source.read().in_use is True


@pytest.mark.parametrize(("average", "in_use"), [("0.90 0 0 1/2 3", False), ("2.10 0 0 1/2 3", True), ("", None)])
def test_the_first_look_takes_the_average_load(average: str, in_use: bool | None, tmp_path: Path) -> None:
    root = plant(tmp_path, "raspberry-pi")
    write(root, "proc/loadavg", average)
    assert read(root).in_use is in_use


def test_a_person_at_a_quiet_machine_is_at_it(tmp_path: Path) -> None:
    root = plant(tmp_path, "raspberry-pi")
    assert read(root, FakeBus({LOGIN: {"IdleHint": False}})).in_use is True


def test_a_busy_machine_without_a_person_is_in_use(tmp_path: Path) -> None:
    root = plant(tmp_path, "raspberry-pi")
    write(root, "proc/loadavg", "4.00 4.00 4.00 1/2 3")
    assert read(root, FakeBus({LOGIN: {"IdleHint": True}})).in_use is True


@pytest.mark.parametrize(
    ("metered", "connectivity", "expected"),
    [
        (0, 4, (True, None)),
        (1, 4, (True, True)),
        (2, 4, (True, False)),
        (3, 4, (True, True)),
        (4, 4, (True, False)),
        (9, 9, (True, None)),
        ("yes", "full", (True, None)),
        (1, 0, (True, True)),
        (1, 1, (False, False)),
        (1, 2, (False, False)),
        (1, 3, (False, False)),
    ],
)
def test_what_network_manager_says(
    metered: object, connectivity: object, expected: tuple[bool, bool | None], tmp_path: Path
) -> None:
    bus = FakeBus({NETWORK: {"Metered": metered, "Connectivity": connectivity}})
    conditions = read(plant(tmp_path, "laptop"), bus)
    assert (conditions.online, conditions.metered) == expected


@pytest.mark.parametrize(
    ("what", "four", "six", "online"),
    [
        ("no files", None, None, None),
        ("no routes", "Iface	Destination", "", False),
        ("a route to one network", "eth0 0001A8C0 00000000 0001 0 0 0", None, False),
        ("a route that is down", "eth0 00000000 0101A8C0 0002 0 0 0", None, False),
        ("a route that rejects", "eth0 00000000 0101A8C0 0203 0 0 0", None, False),
        ("garbage", "eth0 00000000 0101A8C0 zz 0 0 0", "x", False),
        ("a default route", "eth0 00000000 0101A8C0 0003 0 0 0", None, True),
    ],
)
def test_without_network_manager_a_default_route_is_online(
    what: str, four: str | None, six: str | None, online: bool | None, tmp_path: Path
) -> None:
    root = plant(tmp_path, "raspberry-pi")
    (root / "proc/net/route").unlink()
    for name, text in (("route", four), ("ipv6_route", six)):
        if text is not None:
            write(root, f"proc/net/{name}", text)
    assert read(root).online is online, what


def test_the_bus_is_asked_at_every_other_look_of_a_watch(tmp_path: Path) -> None:
    world = LinuxWorld(tmp_path)
    for _look in range(8):
        world.source.read()
        world.now_s += 0.5
    assert world.bus.asked == [NETWORK[0], LOGIN[0]] * 4


def test_what_the_bus_says_is_seen_within_a_second(tmp_path: Path) -> None:
    world = LinuxWorld(tmp_path)
    assert world.source.read().in_use is False
    world.login["IdleHint"] = False
    world.now_s += 0.5
    assert world.source.read().in_use is False
    world.now_s += 0.5
    assert world.source.read().in_use is True


FILES = {
    tree.stem: sorted({line.split(": ")[0] for line in tree.read_text().splitlines()[1:]})
    for tree in TREES.glob("*.txt")
}


def _garbage(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _folder(path: Path, _content: bytes) -> None:
    path.unlink()
    path.mkdir()


def _loop(path: Path, _content: bytes) -> None:
    path.unlink()
    path.symlink_to(path)


def _gone(path: Path, _content: bytes) -> None:
    path.unlink()


@settings(max_examples=100, deadline=None)
@given(
    tree=st.sampled_from(sorted(FILES)),
    damage=st.sampled_from([_garbage, _folder, _loop, _gone]),
    content=st.binary(max_size=40) | st.integers().map(lambda value: str(value).encode()) | st.just(b"9" * 5000),
    data=st.data(),
)
def test_a_damaged_tree_is_read_without_an_error(
    tree: str, damage: Callable[[Path, bytes], None], content: bytes, data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = plant(Path(folder), tree)
        source = LinuxSource(root, root=root, bus=no_bus, free=lambda _path: 1)
        whole = source.read()
        damage(root / data.draw(st.sampled_from(FILES[tree])), content)
        damaged = source.read()
    assert (whole.free_storage_bytes, damaged.free_storage_bytes) == (1, 1)  # the other readings go on


def test_free_storage_is_what_this_user_may_write(tmp_path: Path) -> None:
    told = os.statvfs(tmp_path)
    assert 0 < free_bytes(tmp_path) <= told.f_blocks * told.f_frsize


def test_free_storage_of_a_folder_that_is_gone_is_unknown(tmp_path: Path) -> None:
    assert LinuxSource(tmp_path / "gone", root=tmp_path, bus=no_bus).read().free_storage_bytes is None


def busctl(folder: Path, script: str) -> None:
    """Put a program of that name first on the path."""
    program = folder / "busctl"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


def test_the_bus_is_asked_through_busctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    busctl(
        tmp_path, f'echo "$@" > {tmp_path}/asked; echo \'{{"type":"u","data":4}}\'; echo \'{{"type":"b","data":true}}\''
    )
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert system_bus(*NETWORK, ("Metered", "Connectivity")) == (4, True)
    words = (tmp_path / "asked").read_text().split()
    assert words[-6:] == ["get-property", *NETWORK, "Metered", "Connectivity"]
    assert {"--system", "--json=short", "--auto-start=no", "--timeout=200ms"} <= set(words)


@pytest.mark.parametrize("script", ["exit 1", "echo nonsense", "exec sleep 20", 'echo \'{"type":"u","data":4}\''])
def test_a_bus_that_does_not_answer_is_unknown(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    busctl(tmp_path, script)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert system_bus(*NETWORK, ("Metered", "Connectivity")) is None


def test_a_machine_without_busctl_has_no_bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert system_bus(*LOGIN, ("IdleHint",)) is None


@pytest.mark.parametrize("printed", [b"", b"[]", b"1", b'{"data":1}\n{}', b'{"type":"u"}', b"\xff", b'{"data":1}'])
def test_what_busctl_never_prints_is_unknown(printed: bytes) -> None:
    assert values_told(printed, 2) is None


def test_this_very_machine_is_read_without_an_error(tmp_path: Path) -> None:
    conditions = LinuxSource(tmp_path, bus=no_bus).read()
    assert conditions.free_storage_bytes
    assert conditions.in_use is not None
