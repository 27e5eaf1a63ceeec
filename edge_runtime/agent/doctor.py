"""Whether a device can work, part by part, and for each part that cannot, what to do about it.

Nothing is changed; the coordinator is asked for its time, without a signature, and for nothing else.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess  # nosec B404
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from edge_runtime.agent.home import app_key, has_left
from edge_runtime.agent.reaching import Reached, Unreached, reach
from edge_runtime.agent.settings import Settings
from edge_runtime.conditions import Assuming, Conditions, Source, unknown
from edge_runtime.conditions.linux import LinuxSource
from edge_runtime.example_store.tables import STORE_FILE
from edge_runtime.interpreters import PACKAGES, runtime_name
from edge_runtime.journal import State, peek
from edge_runtime.journal.files import NO_ROOM
from edge_runtime.protocol.errors import InterpreterMissing, Refusal
from edge_runtime.protocol.signing import CLOCK_WINDOW_S

CERTIFICATE_DAYS: Final = 14.0
"""A coordinator's certificate that ends sooner is worth a word."""

_MODULES: Final = {"ai-edge-litert": "ai_edge_litert.interpreter", "tflite-runtime": "tflite_runtime.interpreter"}
_LOAD_WAIT_S: Final = 60.0
_PROBE_BYTES: Final = 1 << 16
_PROBE: Final = ".doctor"


class Health(StrEnum):
    """How a part is: the only list."""

    OK = "ok"
    WARN = "warn"
    """It works, or will, but look at it."""
    FAIL = "fail"
    """Nothing is trained until this is put right."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One part of a device.

    Attributes:
        part: What was looked at.
        found: What is there.
        fix: What to do; empty where there is nothing to do.
    """

    part: str
    health: Health
    found: str
    fix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What is looked at; tests bring their own."""

    source: Source
    now_s: Callable[[], float] = time.time


def examine(settings: Settings, around: Surroundings | None = None) -> Iterator[Finding]:
    """Look at every part, one after the other."""
    around = around or Surroundings(source=LinuxSource(settings.state))
    yield interpreter()
    yield numbers()
    yield folder(settings.state)
    conditions = Assuming(around.source, settings.floors.assumed).read()
    yield storage(settings, conditions)
    yield holder(settings.state)
    found = journal(settings)
    yield found
    state = _state(settings) if found.health is Health.OK else None
    yield enrolment(settings, state)
    yield roots(settings)
    yield secrecy(settings)
    reached = reach(settings.network)
    yield network(settings, reached)
    yield certificate(reached, around.now_s())
    yield clock(reached, around.now_s())
    yield examples(settings)
    yield known(conditions)


def interpreter() -> Finding:
    """An interpreter is installed, and loads in a process of its own: a broken one can kill it."""
    part = "interpreter"
    try:
        name = runtime_name()
    except InterpreterMissing:
        wanted = " or ".join(f"pip install {package}" for package in PACKAGES.values())
        return Finding(part, Health.FAIL, "none is installed", wanted)
    module = _MODULES[name.split()[0]]
    try:
        loaded = subprocess.run(  # nosec B603
            [sys.executable, "-c", f"import {module}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_LOAD_WAIT_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as problem:
        return Finding(part, Health.WARN, f"{name}; whether it loads could not be tried: {problem}")
    if loaded.returncode == 0:
        return Finding(part, Health.OK, name)
    said = loaded.stderr.decode(errors="replace").strip().splitlines()
    last = said[-1] if said else f"the process ended with status {loaded.returncode}"
    fix = f"pip install --force-reinstall {name.split()[0]} (needs a 64-bit system and Python 3.11)"
    return Finding(part, Health.FAIL, f"{name} does not load: {last}", fix)


def numbers() -> Finding:
    """numpy is of the version that the interpreters are built for."""
    import numpy as np

    if np.__version__.startswith("1."):
        return Finding("numpy", Health.OK, np.__version__)
    return Finding("numpy", Health.FAIL, np.__version__, "pip install 'numpy>=1.26,<2'")


def folder(state: Path) -> Finding:
    """The state folder takes files, and others cannot read it. Where there is none yet, it can be made."""
    part = "state folder"
    there = next(path for path in (state, *state.absolute().parents) if path.exists())
    if there != state:
        if there.is_dir() and os.access(there, os.W_OK):
            return Finding(part, Health.WARN, f"{state} is not there yet", "run: edgewise-device enrol")
        return Finding(part, Health.FAIL, f"{state} cannot be made in {there}", _owned(there))
    try:
        _probe(state)
    except OSError as problem:
        if problem.errno in NO_ROOM:
            return Finding(part, Health.FAIL, f"{state}: {problem.strerror}", "free some storage, or raise the quota")
        return Finding(part, Health.FAIL, f"{state} takes no files: {problem.strerror}", _owned(state))
    if state.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return Finding(part, Health.WARN, f"others may look into {state}", f"chmod 700 {state}")
    return Finding(part, Health.OK, str(state))


def storage(settings: Settings, conditions: Conditions) -> Finding:
    """There is as much free storage as the policy wants."""
    part, free = "free storage", conditions.free_storage_bytes
    least = settings.floors.limits.min_free_storage_bytes
    if free is None:
        return Finding(part, Health.FAIL, "it cannot be read", "is the state folder there, and on a real file system?")
    found = f"{free / 1e6:.0f} MB; at least {least / 1e6:.0f} MB are wanted"
    if free >= least:
        return Finding(part, Health.OK, found)
    return Finding(part, Health.FAIL, found, "free some, or lower min_free_storage_bytes under [limits]")


def holder(state: Path) -> Finding:
    """No other process holds the folder just now."""
    part, lock = "one process", state / "lock"
    if not lock.exists() or not (pids := _holders(lock)):
        return Finding(part, Health.OK, "nobody holds the folder")
    whose = ", ".join(f"{pid} ({_command(pid)})" for pid in pids)
    fix = "wait until its slice is over; if it is no edgewise-device, stop it"
    return Finding(part, Health.WARN, f"process {whose} holds the folder", fix)


def journal(settings: Settings) -> Finding:
    """The journal can be read."""
    part = "journal"
    try:
        state = peek(settings.state, key=app_key(settings))
    except Refusal as refusal:
        fix = {
            "wrong-storage-key": "put the key file back that sealed it; without it, delete the state folder and enrol",
            "unsupported-version": "a later version wrote it: install that version again",
        }.get(refusal.code, "the next slice begins a new one, and enrols as a new device; nothing is to do")
        health = Health.WARN if refusal.code == "state-damaged" else Health.FAIL
        return Finding(part, health, f"{refusal.detail} ({refusal.code})", fix)
    except OSError as problem:
        return Finding(part, Health.FAIL, problem.strerror or str(problem), _owned(settings.state))
    if state is None:
        return Finding(part, Health.OK, "not begun yet")
    if state.restarted is not None:
        return Finding(part, Health.OK, f"readable; it was begun anew: {state.restarted.why}")
    return Finding(part, Health.OK, "readable")


def enrolment(settings: Settings, state: State | None) -> Finding:
    """The coordinator knows this device."""
    part = "enrolment"
    if has_left(settings) or (state is not None and state.opted_out):
        return Finding(part, Health.FAIL, "the owner opted out", "edgewise-device enrol --again")
    if state is None or state.identity is None or not state.identity.known:
        return Finding(part, Health.WARN, "not enrolled yet", "edgewise-device enrol; the first slice does it too")
    if state.switched_off:
        return Finding(part, Health.WARN, "an operator switched the population off", "ask the operator")
    return Finding(part, Health.OK, f"device {state.identity.device_id}")


def roots(settings: Settings) -> Finding:
    """The two trust roots are two."""
    part, pair = "trust roots", settings.roots
    if pair.tenant == pair.coordinator:
        fix = "coordinator_key under [trust] is what `edgewise-coordinator init` prints, tenant_key the app owner's"
        return Finding(part, Health.FAIL, "both are the same key", fix)
    short = f"tenant {pair.tenant.raw.hex()[:12]}…, coordinator {pair.coordinator.raw.hex()[:12]}…"
    return Finding(part, Health.OK, short)


def secrecy(settings: Settings) -> Finding:
    """What is stored is sealed."""
    part = "storage key"
    if settings.key_file is None:
        fix = "set key_file before the first example; then: head -c 32 /dev/urandom > FILE; chmod 600 FILE"
        return Finding(part, Health.WARN, "examples are stored in the clear", fix)
    try:
        settings.storage_key()
    except Refusal as refusal:
        return Finding(part, Health.FAIL, refusal.detail, "without this very key nothing that is stored can be read")
    return Finding(part, Health.OK, str(settings.key_file))


def network(settings: Settings, reached: Reached | Unreached) -> Finding:
    """The coordinator answers, and is one."""
    part, address = "network", settings.network.coordinator
    if isinstance(reached, Unreached):
        return Finding(part, Health.FAIL, f"{address}: {reached.found}", reached.fix)
    if reached.server_s is None:
        fix = "is this the coordinator's address, or does a portal or proxy answer in its place?"
        return Finding(part, Health.FAIL, f"{address} answers, but is no coordinator", fix)
    return Finding(part, Health.OK, f"{address} answers in {reached.took_s * 1e3:.0f} ms")


def certificate(reached: Reached | Unreached, now_s: float) -> Finding:
    """The coordinator's certificate holds for some time."""
    part = "certificate"
    if isinstance(reached, Unreached):
        return Finding(part, Health.WARN, "not seen: the coordinator was not reached")
    if reached.certificate_until_s is None:
        return Finding(part, Health.WARN, "none was seen: not HTTPS, or behind a proxy", "use an https:// address")
    days = (reached.certificate_until_s - now_s) / 86_400
    if days < CERTIFICATE_DAYS:
        return Finding(part, Health.WARN, f"ends in {days:.0f} days", "tell the coordinator's operator to renew it")
    return Finding(part, Health.OK, f"good for {days:.0f} days")


def clock(reached: Reached | Unreached, now_s: float) -> Finding:
    """The clock is the coordinator's, as far as signatures go."""
    part = "clock"
    if isinstance(reached, Unreached) or reached.server_s is None:
        return Finding(part, Health.WARN, "not compared: the coordinator was not reached")
    off_s = now_s - reached.server_s
    if abs(off_s) <= CLOCK_WINDOW_S:
        return Finding(part, Health.OK, f"{off_s:+.0f} s beside the coordinator's")
    fix = "set it (timedatectl set-ntp true): quiet hours, budgets and intervals go by it"
    return Finding(part, Health.FAIL, f"{off_s:+.0f} s beside the coordinator's", fix)


def examples(settings: Settings) -> Finding:
    """There is something to train on."""
    part = "examples"
    if not settings.collections:
        return Finding(part, Health.FAIL, "no collection is declared", "edgewise-device examples declare NAME …")
    counts = _counted(settings.state / STORE_FILE)
    names = [collection.name for collection in settings.collections]
    if counts is None:
        return Finding(part, Health.WARN, f"none yet in {', '.join(names)}", "edgewise-device examples add FILE")
    first = counts.get(names[0], 0)
    found = ", ".join(f"{name} {counts.get(name, 0)}" for name in names)
    if not first:
        return Finding(part, Health.WARN, found, f"edgewise-device examples add FILE --collection {names[0]}")
    return Finding(part, Health.OK, found)


def known(conditions: Conditions) -> Finding:
    """Everything that a policy asks for can be read, or is assumed."""
    part, gaps = "conditions", [name for name in unknown(conditions) if name in _ASKED]
    if conditions.charging:
        gaps = [name for name in gaps if name != "battery_level"]
    if not gaps:
        return Finding(part, Health.OK, "all can be read, or are assumed")
    fix = "; ".join(f"{name} = {_ASKED[name]}" for name in gaps)
    found = f"nobody can tell {', '.join(gaps)}: taken as what spares the owner"
    return Finding(part, Health.FAIL, found, f"if you know it of this board, under [assumed]: {fix}")


_ASKED: Final = {
    "in_use": "false",
    "charging": "true",
    "battery_level": "1.0",
    "metered": "false",
    "thermal": '"none"',
    "power_saver": "false",
}
"""What blocks when it is unknown, and what to assume where it never holds."""


def _probe(state: Path) -> None:
    """Write a file as large as a savepoint of a small model, and delete it."""
    path = state / _PROBE
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        rest = memoryview(bytes(_PROBE_BYTES))
        while rest:
            rest = rest[os.write(handle, rest) :]
        os.fsync(handle)
    finally:
        os.close(handle)
        path.unlink(missing_ok=True)


def _owned(path: Path) -> str:
    return f"give it to the user that runs this: chown {os.geteuid()} {path}; or choose another folder with --state"


def _state(settings: Settings) -> State | None:
    return peek(settings.state, key=app_key(settings))


def _holders(lock: Path) -> list[int]:
    """Who holds a `flock` on a file, as the kernel tells; nobody where it tells nothing.

    Source: proc(5), /proc/locks.
    """
    told = lock.stat()
    place = f"{os.major(told.st_dev):02x}:{os.minor(told.st_dev):02x}:{told.st_ino}"
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return []
    words = [line.split() for line in lines]
    return [int(word[4]) for word in words if len(word) > 5 and word[1] == "FLOCK" and word[5] == place]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "of another user"


def _counted(store: Path) -> dict[str, int] | None:
    """How many examples each collection holds, without taking the folder; None if there is no store to read."""
    try:
        with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as connection:
            return dict(connection.execute("SELECT collection, COUNT(*) FROM examples GROUP BY collection"))
    except sqlite3.Error:
        return None
