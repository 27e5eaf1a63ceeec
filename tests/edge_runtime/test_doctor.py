"""`edgewise-device doctor`: each defect, made on purpose, is found, and what to do about it is said."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import resource
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from edge_runtime.agent import doctor
from edge_runtime.agent.doctor import Finding, Health, Surroundings, examine
from edge_runtime.agent.home import mark_left, opened
from edge_runtime.agent.rows import examples_in
from edge_runtime.agent.settings import Settings, read_settings
from edge_runtime.commands import app
from edge_runtime.conditions import UNKNOWN, Conditions
from edge_runtime.conditions.fixed import IDEAL, FixedSource
from edge_runtime.journal import open_folder, open_journal
from edge_runtime.journal.state import switched
from edge_runtime.protocol.keys import TrustRoots
from edge_runtime.schedule import Floors
from edge_runtime.session import Request, Response
from edge_runtime.testing import FakeCoordinator
from tests.edge_runtime.certificates import authority
from tests.edge_runtime.served import served
from tests.edge_runtime.serving import write_settings

Change = Callable[[Settings], Settings]


@pytest.fixture
def coordinator() -> FakeCoordinator:
    return FakeCoordinator(now_s=int(time.time()))


@pytest.fixture
def config(tmp_path: Path, coordinator: FakeCoordinator) -> Iterator[Path]:
    """Of a device at which nothing is wrong, once it has enrolled."""
    with served(coordinator) as address:
        (tmp_path / "storage.key").write_bytes(bytes(range(32)))
        (tmp_path / "storage.key").chmod(0o600)
        path = write_settings(tmp_path, address)
        path.write_text('key_file = "storage.key"\n' + path.read_text())
        yield path


@pytest.fixture
def settings(config: Path, tmp_path: Path) -> Settings:
    found = read_settings(config)
    (tmp_path / "examples.csv").write_text("1,2,3,4\n")
    with opened(found) as runtime:
        for examples in examples_in(tmp_path / "examples.csv", found.collections[0]):
            runtime.add("numbers", examples)
        runtime.run_slice(60)
    return found


def found_in(settings: Settings, part: str, conditions: Conditions = IDEAL, now_s: float | None = None) -> Finding:
    around = Surroundings(source=FixedSource(conditions), now_s=lambda: now_s or time.time())
    (finding,) = [finding for finding in examine(settings, around) if finding.part == part]
    return finding


def run_doctor(config: Path, *options: str) -> Result:
    return CliRunner().invoke(app, ["doctor", "--config", str(config), *options])


def without_examples(settings: Settings) -> Settings:
    return dataclasses.replace(settings, collections=())


def with_one_root(settings: Settings) -> Settings:
    return dataclasses.replace(settings, roots=TrustRoots(settings.roots.tenant, settings.roots.tenant))


def in_the_clear(settings: Settings) -> Settings:
    return dataclasses.replace(settings, key_file=None, state=settings.state.with_name("another"))


def with_another_key(settings: Settings) -> Settings:
    path = settings.state.with_name("another.key")
    path.write_bytes(bytes(32))
    path.chmod(0o600)
    return dataclasses.replace(settings, key_file=path)


def with_an_open_key(settings: Settings) -> Settings:
    settings.state.with_name("storage.key").chmod(0o644)
    return settings


def with_an_open_folder(settings: Settings) -> Settings:
    settings.state.chmod(0o755)
    return settings


def below_a_file(settings: Settings) -> Settings:
    settings.state.with_name("file").touch()
    return dataclasses.replace(settings, state=settings.state.with_name("file") / "phone", key_file=None)


def in_a_folder_of_the_kernel(settings: Settings) -> Settings:
    return dataclasses.replace(settings, state=Path("/proc/self/fd"), key_file=None)


def with_a_damaged_journal(settings: Settings) -> Settings:
    (settings.state / "journal").write_bytes(b"not a journal")
    return settings


def of_a_new_device(settings: Settings) -> Settings:
    return dataclasses.replace(settings, state=settings.state.with_name("another"))


def out(settings: Settings) -> Settings:
    mark_left(settings)
    return settings


def switched_off(settings: Settings) -> Settings:
    with open_folder(settings.state) as folder:
        open_journal(folder, key=settings.storage_key, now_s=time.time()).update(
            lambda state: switched(state, off=True)
        )
    return settings


def at(address: str) -> Change:
    def change(settings: Settings) -> Settings:
        return dataclasses.replace(settings, network=dataclasses.replace(settings.network, coordinator=address))

    return change


def with_no_such_ca(settings: Settings) -> Settings:
    network = dataclasses.replace(settings.network, ca_file=settings.state.with_name("none.pem"))
    return dataclasses.replace(settings, network=network)


def test_a_device_at_which_nothing_is_wrong_has_nothing_to_fix(settings: Settings) -> None:
    around = Surroundings(source=FixedSource(IDEAL))
    findings = {finding.part: finding for finding in examine(settings, around)}
    assert len(findings) == 14
    doubtful = {part for part, finding in findings.items() if finding.health is not Health.OK}
    assert doubtful == {"certificate"}, findings  # of plain HTTP there is none
    assert findings["enrolment"].found.startswith("device ")
    assert findings["examples"].found == "numbers 1"


@pytest.mark.parametrize(
    ("part", "change", "health", "found", "fix"),
    [
        ("state folder", with_an_open_folder, Health.WARN, "others may look into", "chmod 700"),
        ("state folder", below_a_file, Health.FAIL, "cannot be made in", "chown"),
        ("state folder", in_a_folder_of_the_kernel, Health.FAIL, "takes no files", "--state"),
        ("state folder", of_a_new_device, Health.WARN, "is not there yet", "edgewise-device enrol"),
        ("journal", with_another_key, Health.FAIL, "wrong-storage-key", "put the key file back"),
        ("journal", with_a_damaged_journal, Health.WARN, "state-damaged", "begins a new one"),
        ("journal", of_a_new_device, Health.OK, "not begun yet", ""),
        ("enrolment", of_a_new_device, Health.WARN, "not enrolled yet", "edgewise-device enrol"),
        ("enrolment", out, Health.FAIL, "the owner opted out", "enrol --again"),
        ("enrolment", switched_off, Health.WARN, "switched the population off", "ask the operator"),
        ("trust roots", with_one_root, Health.FAIL, "both are the same key", "edgewise-coordinator init"),
        ("storage key", in_the_clear, Health.WARN, "stored in the clear", "key_file"),
        ("storage key", with_an_open_key, Health.FAIL, "others may read the key file", "nothing that is stored"),
        ("network", at("http://127.0.0.1:1"), Health.FAIL, "nothing listens there", "is the coordinator running"),
        ("network", at("http://no-such-name.invalid"), Health.FAIL, "no-such-name.invalid is not found", "DNS"),
        ("network", with_no_such_ca, Health.FAIL, "there is no file", "ca_file under [network]"),
        ("certificate", at("http://127.0.0.1:1"), Health.WARN, "was not reached", ""),
        ("clock", at("http://127.0.0.1:1"), Health.WARN, "was not reached", ""),
        ("examples", without_examples, Health.FAIL, "no collection is declared", "examples declare"),
        ("examples", of_a_new_device, Health.WARN, "none yet in numbers", "examples add"),
    ],
)  # fmt: skip
def test_a_defect_is_found_and_what_to_do_is_said(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, part: str, change: Change, health: Health, found: str, fix: str
) -> None:
    names = socket.getaddrinfo

    def without_invalid(host: str, *rest: object, **more: object) -> object:
        if str(host).endswith(".invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return names(host, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", without_invalid)
    finding = found_in(change(settings), part)
    assert finding.health is health, finding
    assert found in finding.found
    assert fix in finding.fix


class TestTheInterpreter:
    def test_that_is_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def missing(name: str) -> str:
            raise importlib.metadata.PackageNotFoundError(name)

        monkeypatch.setattr(importlib.metadata, "version", missing)
        finding = doctor.interpreter()
        assert finding.health is Health.FAIL
        assert finding.fix == "pip install ai-edge-litert or pip install tflite-runtime"

    def stub(self, folder: Path, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
        """A package of that name that comes first."""
        (folder / "ai_edge_litert").mkdir()
        (folder / "ai_edge_litert" / "__init__.py").touch()
        (folder / "ai_edge_litert" / "interpreter.py").write_text(program)
        monkeypatch.setenv("PYTHONPATH", str(folder))

    def test_that_does_not_load(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stub(tmp_path, monkeypatch, "raise ImportError('libfoo.so: cannot open')")
        finding = doctor.interpreter()
        assert finding.health is Health.FAIL
        assert "does not load: ImportError: libfoo.so: cannot open" in finding.found
        assert "pip install --force-reinstall ai-edge-litert" in finding.fix

    def test_that_kills_its_process(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stub(tmp_path, monkeypatch, "import os; os.kill(os.getpid(), 4)")
        assert "the process ended with status -4" in doctor.interpreter().found

    def test_beside_a_numpy_that_it_was_not_built_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(np, "__version__", "2.1.0")
        assert doctor.numbers().fix == "pip install 'numpy>=1.26,<2'"


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """No file of this process grows beyond 10,000 bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_named(settings: Settings) -> None:
    with full_disk():
        finding = doctor.folder(settings.state)
    assert (finding.health, finding.fix) == (Health.FAIL, "free some storage, or raise the quota")
    assert not list(settings.state.glob(".doctor"))


def test_too_little_free_storage_is_named_with_what_is_wanted(settings: Settings) -> None:
    limits = dataclasses.replace(settings.floors.limits, min_free_storage_bytes=50_000_000)
    strict = dataclasses.replace(settings, floors=dataclasses.replace(settings.floors, limits=limits))
    short = dataclasses.replace(IDEAL, free_storage_bytes=7_000_000)
    finding = found_in(strict, "free storage", short)
    assert finding.health is Health.FAIL
    assert finding.found == "7 MB; at least 50 MB are wanted"
    assert found_in(strict, "free storage", UNKNOWN).health is Health.FAIL


def test_the_process_that_holds_the_folder_is_named(settings: Settings) -> None:
    with open_folder(settings.state):
        finding = found_in(settings, "one process")
    assert finding.health is Health.WARN
    assert f"process {os.getpid()} (" in finding.found
    assert "stop it" in finding.fix
    assert found_in(settings, "one process").health is Health.OK


@pytest.mark.parametrize("off_s", [-4000, 4000, 86_400])
def test_a_clock_that_is_off_is_named_with_how_far(settings: Settings, off_s: int) -> None:
    finding = found_in(settings, "clock", now_s=time.time() + off_s)
    assert finding.health is Health.FAIL
    assert abs(float(finding.found.split(" s ")[0]) - off_s) <= 5
    assert "timedatectl" in finding.fix


def test_what_answers_but_is_no_coordinator_is_named(settings: Settings) -> None:
    def portal(_request: Request, _headers: dict[str, str]) -> Response:
        return Response(200, b"<html>Welcome to our network</html>")

    with served(portal) as address:
        finding = found_in(at(address)(settings), "network")
    assert finding.health is Health.FAIL
    assert "is no coordinator" in finding.found
    assert "portal" in finding.fix


@pytest.mark.parametrize(
    ("days", "host", "trusted", "pins", "part", "health", "found"),
    [
        (90, "127.0.0.1", True, (), "certificate", Health.OK, "good for 90 days"),
        (90, "127.0.0.1", True, (), "network", Health.OK, "answers in"),
        (5, "127.0.0.1", True, (), "certificate", Health.WARN, "ends in 5 days"),
        (90, "127.0.0.1", False, (), "network", Health.FAIL, "an authority that is not trusted here"),
        (90, "127.0.0.2", True, (), "network", Health.FAIL, "is for another name"),
        (-1, "127.0.0.1", True, (), "network", Health.FAIL, "is not valid today"),
        (90, "127.0.0.1", True, (bytes(32),), "network", Health.FAIL, "not one that is pinned"),
    ],
)
def test_certificates_are_looked_at_before_they_keep_the_device_out(
    tmp_path: Path,
    settings: Settings,
    coordinator: FakeCoordinator,
    days: float,
    host: str,
    trusted: bool,
    pins: tuple[bytes, ...],
    part: str,
    health: Health,
    found: str,
) -> None:
    mine = authority(tmp_path)
    trust = mine if trusted else authority(tmp_path, "other")
    with served(coordinator, mine.server(tmp_path, days=days + 0.01, host=host)) as address:
        network = dataclasses.replace(settings.network, coordinator=address, ca_file=trust.ca_file, pins=pins)
        finding = found_in(dataclasses.replace(settings, network=network), part)
    assert finding.health is health, finding
    assert found in finding.found
    assert finding.fix or health is Health.OK


def test_what_nobody_can_tell_is_named_with_what_to_assume(settings: Settings) -> None:
    blank = dataclasses.replace(settings, floors=Floors())
    finding = found_in(blank, "conditions", dataclasses.replace(IDEAL, metered=None, thermal=None, battery_level=None))
    assert finding.health is Health.FAIL
    assert "metered, thermal" in finding.found
    assert finding.fix.endswith('under [assumed]: metered = false; thermal = "none"')
    assert found_in(settings, "conditions", dataclasses.replace(UNKNOWN, in_use=False)).health is Health.OK


class TestTheCommand:
    def test_ends_with_0_when_nothing_must_be_fixed(self, config: Path, settings: Settings) -> None:
        assumed = "charging = true\nin_use = false"
        config.write_text(config.read_text().replace("charging = true", assumed))
        result = run_doctor(config)
        assert result.exit_code == 0, result.output
        assert "ok    network" in result.output

    def test_ends_with_1_and_every_part_is_a_line_for_programs(self, config: Path, settings: Settings) -> None:
        result = run_doctor(config, "--json", "--coordinator", "http://127.0.0.1:1")
        assert result.exit_code == 1
        findings = {one["part"]: one for one in map(json.loads, result.stdout.splitlines())}
        assert len(findings) == 14
        assert findings["network"] == {
            "part": "network",
            "health": "fail",
            "found": "http://127.0.0.1:1: nothing listens there",
            "fix": "is the coordinator running, and is this its port?",
        }

    def test_says_what_to_fix_below_what_it_found(self, config: Path, settings: Settings) -> None:
        lines = run_doctor(config, "--coordinator", "http://127.0.0.1:1").stdout.splitlines()
        position = next(number for number, line in enumerate(lines) if line.startswith("fail  network"))
        assert lines[position + 1].strip() == "fix: is the coordinator running, and is this its port?"

    def test_changes_nothing(self, config: Path, settings: Settings) -> None:
        def contents() -> dict[str, bytes]:
            return {str(path): path.read_bytes() for path in settings.state.rglob("*") if path.is_file()}

        before = contents()
        run_doctor(config)
        assert contents() == before
