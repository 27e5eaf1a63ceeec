"""`edgewise-device`, command by command, against the app's own fake coordinator over HTTP."""

from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from edge_runtime.agent import loop
from edge_runtime.agent.advice import BLOCKED, span
from edge_runtime.agent.home import alone, app_key, opened, settings_file
from edge_runtime.agent.settings import Settings, read_settings
from edge_runtime.agent.telling import why_text
from edge_runtime.commands import app
from edge_runtime.identity import adopt_key
from edge_runtime.journal import open_folder, open_journal, peek
from edge_runtime.journal.state import left
from edge_runtime.outcomes import Happened, SliceEnd, Why
from edge_runtime.protocol.errors import Malformed, StateInUse
from edge_runtime.protocol.keys import SigningKey, device_id
from edge_runtime.protocol.reasons import Blocker, Wait
from edge_runtime.testing import ROOTS, FakeCoordinator
from tests.edge_runtime.served import served
from tests.edge_runtime.serving import write_settings

KEYS = ("--tenant-key", ROOTS.tenant.raw.hex(), "--coordinator-key", ROOTS.coordinator.raw.hex())
SEED = bytes(range(32))


@pytest.fixture
def coordinator() -> FakeCoordinator:
    return FakeCoordinator()


@pytest.fixture
def address(coordinator: FakeCoordinator) -> Iterator[str]:
    with served(coordinator) as found:
        yield found


@pytest.fixture
def config(tmp_path: Path, address: str) -> Path:
    return write_settings(tmp_path, address)


def device(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def printed(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.stdout


def complaint(result: Result) -> str:
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("edgewise-device: ")
    return line


def examples_file(folder: Path, *rows: str) -> Path:
    path = folder / "examples.csv"
    path.write_text("\n".join(rows or ("1,2,3,4", "0,0,0,1", "-1,0,1,2")) + "\n")
    return path


class TestEnrol:
    def options(self, state: Path, address: str) -> tuple[str | Path, ...]:
        names = ("--tenant", "acme", "--population", "keyboard")
        return ("enrol", "--state", state, "--coordinator", address, *names, *KEYS)

    def test_the_first_time_it_writes_settings_that_only_its_owner_can_reach(
        self, tmp_path: Path, coordinator: FakeCoordinator, address: str
    ) -> None:
        state = tmp_path / "phone"
        assert "enrolled as " in printed(device(*self.options(state, address)))
        (device_,) = coordinator.devices
        settings = read_settings(settings_file(state))
        assert (settings.state, settings.network.coordinator, settings.roots) == (state, address, ROOTS)
        assert stat.S_IMODE(state.stat().st_mode) == stat.S_IMODE(settings_file(state).parent.stat().st_mode) == 0o700
        held = peek(state, key=None)
        assert held is not None
        assert held.identity is not None
        assert (held.identity.device_id, held.identity.known) == (device_, True)

    def test_again_it_is_the_same_device_and_needs_no_options(
        self, tmp_path: Path, coordinator: FakeCoordinator, address: str
    ) -> None:
        state = tmp_path / "phone"
        first = printed(device(*self.options(state, address)))
        assert printed(device("enrol", "--state", state)) == first
        assert len(coordinator.devices) == 1

    def test_options_beside_settings_are_refused_and_not_ignored(self, tmp_path: Path, address: str) -> None:
        device(*self.options(tmp_path / "phone", address))
        assert "is there already" in complaint(device(*self.options(tmp_path / "phone", address)))

    @pytest.mark.parametrize(
        ("name", "value", "sentence"),
        [
            ("--tenant", None, "--tenant must be given"),
            ("--tenant", "Acme Inc", "installation.tenant is 1 to 64"),
            ("--tenant-key", "zz", "64 hex digits each"),
            ("--coordinator", "fl.example.com", "begins with https://"),
        ],
    )
    def test_a_mistake_writes_nothing(
        self, tmp_path: Path, address: str, name: str, value: str | None, sentence: str
    ) -> None:
        words = list(self.options(tmp_path / "phone", address))
        at = words.index(name)
        words[at : at + 2] = [] if value is None else [name, value]
        assert sentence in complaint(device(*words))
        assert not settings_file(tmp_path / "phone").exists()

    def test_a_coordinator_that_refuses_leaves_no_settings(
        self, tmp_path: Path, coordinator: FakeCoordinator, address: str
    ) -> None:
        coordinator.switch_off()
        assert "(switched-off)" in complaint(device(*self.options(tmp_path / "phone", address)))
        assert not settings_file(tmp_path / "phone").exists()

    def test_without_settings_every_command_says_what_writes_them(self, tmp_path: Path) -> None:
        for command in (("run",), ("why",), ("doctor",), ("opt-out",), ("examples", "list")):
            assert "`edgewise-device enrol` writes one" in complaint(device(*command, "--state", tmp_path / "phone"))


class TestAnEarlierDeviceKey:
    def taken_over(self, settings: Settings) -> bool:
        with open_folder(settings.state) as folder:
            journal = open_journal(folder, key=None, now_s=0.0)
            return adopt_key(folder, journal, settings.installation.tenant)

    def test_becomes_the_identity_of_the_journal(self, config: Path, coordinator: FakeCoordinator) -> None:
        settings = read_settings(config)
        settings.state.mkdir()
        (settings.state / "device.key").write_text(SEED.hex())
        printed(device("enrol", "--config", config))
        assert list(coordinator.devices) == [device_id("acme", SigningKey(SEED).public)]
        assert not (settings.state / "device.key").exists()

    def test_is_deleted_by_whoever_comes_after_a_kill(self, config: Path) -> None:
        settings = read_settings(config)
        settings.state.mkdir()
        for _ in range(2):  # the second time as if the first had died before it deleted the file
            (settings.state / "device.key").write_text(SEED.hex())
            assert self.taken_over(settings)
            assert not (settings.state / "device.key").exists()
        assert not self.taken_over(settings)

    def test_of_another_device_stays_where_it_is(self, config: Path) -> None:
        settings = read_settings(config)
        settings.state.mkdir()
        (settings.state / "device.key").write_text(SEED.hex())
        self.taken_over(settings)
        (settings.state / "device.key").write_text("11" * 32)
        assert not self.taken_over(settings)
        assert (settings.state / "device.key").exists()

    def test_is_not_taken_by_a_device_that_its_owner_took_out(self, config: Path) -> None:
        settings = read_settings(config)
        with open_folder(settings.state) as folder:
            open_journal(folder, key=None, now_s=0.0).update(left)
            (settings.state / "device.key").write_text(SEED.hex())
        assert not self.taken_over(settings)

    def test_that_is_none_is_named(self, config: Path) -> None:
        settings = read_settings(config)
        settings.state.mkdir()
        (settings.state / "device.key").write_text("not a key")
        with pytest.raises(Malformed, match="is not a device key"):
            self.taken_over(settings)
        assert "not a key" not in complaint(device("why", "--config", config)).replace("is not a", "")


class TestExamples:
    def test_are_added_counted_and_deleted(self, tmp_path: Path, config: Path) -> None:
        file = examples_file(tmp_path)
        assert "3 of 3 added, 0 were there already" in printed(device("examples", "add", file, "--config", config))
        assert "0 of 3 added, 3 were there already" in printed(device("examples", "add", file, "--config", config))
        facts = json.loads(printed(device("examples", "list", "--json", "--config", config)))
        assert (facts["collection"], facts["count"]) == ("numbers", 3)
        assert "0 expired" in printed(device("examples", "expire", "--config", config))
        printed(device("examples", "delete", "--yes", "--config", config))
        assert "numbers: 0 examples" in printed(device("examples", "list", "--config", config))

    def test_of_which_one_does_not_fit_are_all_refused(self, tmp_path: Path, config: Path) -> None:
        file = examples_file(tmp_path, "1,2,3,4", "1,2,99,4")
        assert "line 2, column 3" in complaint(device("examples", "add", file, "--config", config))
        assert "numbers: 0 examples" in printed(device("examples", "list", "--config", config))

    def test_are_sealed_by_the_key_of_the_settings(self, tmp_path: Path, config: Path) -> None:
        (tmp_path / "storage.key").write_bytes(SEED)
        (tmp_path / "storage.key").chmod(0o600)
        config.write_text('key_file = "storage.key"\n' + config.read_text())
        printed(device("examples", "add", examples_file(tmp_path), "--config", config))
        (tmp_path / "storage.key").write_bytes(bytes(32))
        assert "(wrong-storage-key)" in complaint(device("examples", "list", "--config", config))

    def test_of_a_collection_that_nobody_declared_are_refused(self, tmp_path: Path, config: Path) -> None:
        words = ("examples", "add", examples_file(tmp_path), "--collection", "words", "--config", config)
        assert "declare no collection words" in complaint(device(*words))

    def test_a_collection_is_declared_without_an_editor(self, tmp_path: Path, config: Path) -> None:
        words = ("declare", "pictures", "--features", "8x8x1", "--classes", "4", "--keep-days", "30")
        printed(device("examples", *words, "--config", config))
        declared = read_settings(config).collections[1]
        assert (declared.features.shape, declared.labels.high, declared.time_to_live_s) == ((8, 8, 1), 3, 30 * 86_400)
        assert "declared already" in complaint(device("examples", *words, "--config", config))
        assert "this is no collection" in complaint(
            device("examples", "declare", "more", "--features", "8xx1", "--config", config)
        )

    def test_of_another_schema_say_what_to_do(self, tmp_path: Path, config: Path) -> None:
        printed(device("examples", "add", examples_file(tmp_path), "--config", config))
        config.write_text(config.read_text().replace("shape = [3]", "shape = [4]"))
        assert "examples delete --collection numbers" in complaint(device("examples", "list", "--config", config))
        printed(device("examples", "delete", "--yes", "--collection", "numbers", "--config", config))
        assert "numbers: 0 examples" in printed(device("examples", "list", "--config", config))

    def test_wait_for_the_process_that_holds_the_folder(self, tmp_path: Path, config: Path) -> None:
        file = examples_file(tmp_path)
        folder = open_folder(read_settings(config).state)
        free = threading.Timer(0.3, folder.close)
        free.start()
        assert "3 of 3 added" in printed(device("examples", "add", file, "--config", config))
        free.join()
        with open_folder(read_settings(config).state):
            refused = device("examples", "add", file, "--wait", "0", "--config", config)
        assert "(state-in-use)" in complaint(refused)


class TestTheLoop:
    def work(self, config: Path, ending: loop.Ending, ends: list[SliceEnd], **how: bool) -> SliceEnd:
        return loop.run(read_settings(config), ending, ends.append, lambda _sentence: None, **how)

    def test_sleeps_as_long_as_it_was_told_and_then_asks_again(
        self, config: Path, coordinator: FakeCoordinator
    ) -> None:
        ending, ends, slept = loop.Ending(), list[SliceEnd](), list[float]()
        coordinator.wait(Wait.NOT_SELECTED, after_s=40.0)
        coordinator.wait(Wait.NO_TASK, after_s=70.0)
        ending.wait = lambda seconds: slept.append(seconds) or len(slept) == 2  # type: ignore[method-assign, func-returns-value]
        self.work(config, ending, ends)
        assert [(end.happened, end.reason) for end in ends] == [
            (Happened.WAITING, "not-selected"),
            (Happened.BLOCKED, "too-soon"),
        ]
        assert slept[0] == 40.0
        assert 39 <= slept[1] <= 40

    def test_once_is_one_slice(self, config: Path, coordinator: FakeCoordinator) -> None:
        ends = list[SliceEnd]()
        assert self.work(config, loop.Ending(), ends, once=True).reason == "no-task"
        assert len(ends) == 1
        assert [path for _method, path in coordinator.asked] == ["/v1/device/enrol", "/v1/device/check-in"]

    def test_is_alone_on_its_folder_also_between_two_slices(self, config: Path) -> None:
        with alone(read_settings(config)):
            with pytest.raises(StateInUse, match="another `edgewise-device run`"):
                self.work(config, loop.Ending(), [])
            assert "(state-in-use)" in complaint(device("run", "--once", "--config", config))
            assert "now " in printed(device("why", "--config", config))

    def test_a_slice_waits_for_a_command_and_comes_back_soon_if_it_lasts(
        self, config: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(loop, "_OTHERS_S", 0.2)
        ends = list[SliceEnd]()
        with open_folder(read_settings(config).state):
            self.work(config, loop.Ending(), ends, once=True)
        assert [(end.reason, end.come_back_s) for end in ends] == [("state-in-use", 0.2)]

    def test_ends_when_it_is_asked_to_before_it_began(self, config: Path, coordinator: FakeCoordinator) -> None:
        ending, ends = loop.Ending(), list[SliceEnd]()
        ending.ask()
        self.work(config, ending, ends)
        assert [end.reason for end in ends] == ["system-stopped"]
        assert not coordinator.asked


class TestWhy:
    def test_names_the_first_blocker_now_and_the_last_visits(self, config: Path) -> None:
        config.write_text(config.read_text().replace("min_interval_s = 0.0", "min_interval_s = 100.0"))
        printed(device("run", "--once", "--config", config))
        printed(device("run", "--once", "--config", config))
        text = printed(device("why", "--config", config))
        assert "now          too-soon: the interval since the last visit is not over" in text
        assert "look again in 15 min" in text
        rows = [line.split() for line in text.splitlines()[-2:]]
        assert [row[1:] for row in rows] == [["too-soon", "-", "1"], ["no-task", "-", "1"]]

    def test_is_one_object_for_programs(self, config: Path) -> None:
        facts = json.loads(printed(device("why", "--json", "--config", config)))
        assert (facts["reason"], facts["working"], facts["examples"], facts["history"]) == (None, False, 0, [])

    def test_is_answered_while_another_process_works(self, config: Path) -> None:
        printed(device("run", "--once", "--config", config))
        with open_folder(read_settings(config).state):
            facts = json.loads(printed(device("why", "--json", "--config", config)))
            text = printed(device("why", "--config", config))
        assert facts["working"] is True
        assert [visit["reason"] for visit in facts["history"]] == ["no-task"]
        assert "another process runs a slice" in text

    def test_every_reason_has_a_sentence(self) -> None:
        assert set(BLOCKED) == {*Blocker, "switched-off", "opted-out"}
        for reason in BLOCKED:
            why = Why(reason=reason, come_back_s=1.0, unknown=(), phase=None, history=(), restarted=None, examples=0)
            assert f"{reason}: {BLOCKED[reason]}" in why_text(why, working=False)

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [(-1, "0 s"), (45, "45 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (172_800, "2 days")],
    )
    def test_durations_read_as_people_say_them(self, seconds: float, text: str) -> None:
        assert span(seconds) == text


class TestOptOut:
    def test_deletes_everything_tells_the_coordinator_and_does_not_come_back(
        self, tmp_path: Path, config: Path, coordinator: FakeCoordinator
    ) -> None:
        state = read_settings(config).state
        printed(device("examples", "add", examples_file(tmp_path), "--config", config))
        printed(device("enrol", "--config", config))
        assert "the coordinator knows" in printed(device("opt-out", "--yes", "--config", config))
        assert all(one.left for one in coordinator.devices.values())
        assert os.listdir(state) == ["agent"]
        for command in (("run", "--once"), ("why",), ("examples", "list")):
            assert "(device-left)" in complaint(device(*command, "--config", config))
        assert "--again" in complaint(device("enrol", "--config", config))
        assert len(coordinator.devices) == 1
        printed(device("enrol", "--again", "--config", config))
        assert len(coordinator.devices) == 2

    def test_that_the_coordinator_did_not_take_is_told_by_a_later_slice(
        self, config: Path, coordinator: FakeCoordinator
    ) -> None:
        printed(device("enrol", "--config", config))
        coordinator.fail(400)
        assert "tells it later" in printed(device("opt-out", "--yes", "--config", config))
        assert not any(one.left for one in coordinator.devices.values())
        assert "opted-out" in printed(device("run", "--once", "--config", config))
        assert all(one.left for one in coordinator.devices.values())
        assert "(device-left)" in complaint(device("run", "--once", "--config", config))

    def test_asks_first(self, config: Path, coordinator: FakeCoordinator) -> None:
        printed(device("enrol", "--config", config))
        answer = CliRunner().invoke(app, ["opt-out", "--config", str(config)], input="n\n")
        assert answer.exit_code == 2
        assert not any(one.left for one in coordinator.devices.values())


def test_a_sealed_folder_can_be_opened_by_its_key_alone(tmp_path: Path, config: Path) -> None:
    (tmp_path / "storage.key").write_text(SEED.hex())
    (tmp_path / "storage.key").chmod(0o600)
    plain = config.read_text()
    config.write_text('key_file = "storage.key"\n' + plain)
    settings = read_settings(config)
    with opened(settings) as runtime:
        assert runtime.why().examples == 0
    assert peek(settings.state, key=app_key(settings)) is not None
    config.write_text(plain)
    assert "(wrong-storage-key)" in complaint(device("why", "--config", config))


@pytest.mark.parametrize(
    ("words", "taught"),
    [
        ((), "Begin with `enrol`"),
        (("enrol",), "Make this device known"),
        (("run",), "until SIGTERM"),
        (("why",), "Say why nothing is trained"),
        (("infer",), "Run the released model"),
        (("opt-out",), "delete every example"),
        (("doctor",), "Exit status 1"),
        (("info",), "which interpreter"),
        (("examples",), "they never leave it"),
        (("examples", "declare"), "what its examples look like"),
        (("examples", "add"), "or none if one does not fit"),
        (("examples", "list"), "Count what each collection holds"),
        (("examples", "expire"), "older than its collection keeps it"),
        (("examples", "delete"), "for good"),
    ],
)
def test_every_command_teaches_its_use(words: tuple[str, ...], taught: str) -> None:
    text = " ".join(printed(device(*words, "--help")).replace("│", " ").split())
    assert taught in text
    assert "Usage" in text
