"""Files that people write by hand: settings and examples. Every mistake is named by its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.agent.rows import AT_ONCE, examples_in, features_in
from edge_runtime.agent.settings import (
    Settings,
    SettingsWrong,
    collection_text,
    read_settings,
    settings_of,
    settings_text,
)
from edge_runtime.example_store import Collection
from edge_runtime.protocol.bundle import Schema
from edge_runtime.protocol.errors import InvalidExamples, WrongStorageKey
from edge_runtime.protocol.policy import Policy, Thermal
from edge_runtime.session.enrol import Installation
from edge_runtime.testing import ROOTS
from tests.edge_runtime.serving import write_settings

CLASSES = Schema(shape=(), dtype="int32", low=0.0, high=2.0)
UNIT = Schema(shape=(), dtype="float32", low=0.0, high=1.0)


def collection(features: Schema | None = None, labels: Schema = CLASSES) -> Collection:
    return Collection(
        name="numbers",
        features=features or Schema(shape=(3,), dtype="float32", low=0.0, high=1.0),
        labels=labels,
        max_rows=100,
        max_bytes=1_000_000,
        time_to_live_s=None,
        dedupe=True,
    )


class TestExamples:
    @pytest.mark.parametrize(
        ("into", "text", "x", "y"),
        [
            (collection(), "0.1,0.2,0.3,2\n", [[0.1, 0.2, 0.3]], [2]),
            (collection(), "0,0,1,1\r\n1,1,0,0", [[0, 0, 1], [1, 1, 0]], [1, 0]),
            (collection(labels=Schema(shape=(2, 1), dtype="float32", low=0.0, high=1.0)), "0,0,0,.25,.75\n",
             [[0, 0, 0]], [[[0.25], [0.75]]]),
            (collection(Schema(shape=(3,), dtype="int32", low=0.0, high=99.0)), "7, 8 ,9e0,0\n", [[7, 8, 9]], [0]),
        ],
    )  # fmt: skip
    def test_a_row_is_features_and_then_the_label(
        self, tmp_path: Path, into: Collection, text: str, x: list[object], y: list[object]
    ) -> None:
        file = tmp_path / "examples.csv"
        file.write_bytes(text.encode())
        (found,) = examples_in(file, into)
        assert found.x.tolist() == np.array(x, into.features.dtype).tolist()
        assert found.y.tolist() == np.array(y, into.labels.dtype).tolist()

    @pytest.mark.parametrize(
        ("second", "sentence"),
        [
            ("0,0,0", "line 2: 3 where 3 features and 1 label are wanted"),
            ("0,0,0,1,1", "line 2: 5 where 3 features"),
            ("", "line 2: 1 where 3 features"),
            ("0,zero,0,1", "line 2, column 2: this is not a number"),
            ("0,0,nan,1", "line 2, column 3: this feature is not finite"),
            ("0,1e300,0,1", "line 2, column 2: this feature is not finite"),
            ("0,0,1.5,1", "line 2, column 3: this feature is outside 0.0 to 1.0"),
            ("0,0,0,0.5", "line 2, column 4: this label is not a whole number"),
            ("0,0,0,3", "line 2, column 4: this label is outside 0 to 2"),
            ("0,0,0,inf", "line 2, column 4: this label is not finite"),
            ("0" * 1000, "line 2: too long"),
            ("\u0661,0,0,1", "line 2, column 1: this is not a number"),
        ],
    )
    def test_what_does_not_fit_is_named_by_its_line_and_without_its_value(
        self, tmp_path: Path, second: str, sentence: str
    ) -> None:
        file = tmp_path / "examples.csv"
        file.write_text(f"0,0,0,1\n{second}\n0,0,0,2\n")
        with pytest.raises(InvalidExamples, match=sentence) as refusal:
            list(examples_in(file, collection()))
        assert "300" not in refusal.value.detail
        assert "1.5" not in refusal.value.detail

    def test_raw_numbers_are_the_same_examples(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        x, y = rng.random((AT_ONCE + 5, 3), np.float32), rng.integers(0, 3, AT_ONCE + 5)
        table = np.column_stack([x, y.astype(np.float32)]).astype("<f4")
        (tmp_path / "examples.f32").write_bytes(table.tobytes())
        np.savetxt(tmp_path / "examples.csv", table, delimiter=",", fmt="%.9g")
        for name in ("examples.f32", "examples.csv"):
            first, second = examples_in(tmp_path / name, collection())
            assert (len(first), len(second)) == (AT_ONCE, 5)
            np.testing.assert_array_equal(np.concatenate([first.x, second.x]), x)
            np.testing.assert_array_equal(np.concatenate([first.y, second.y]), y)

    def test_raw_numbers_that_are_no_whole_example_are_refused(self, tmp_path: Path) -> None:
        file = tmp_path / "examples.f32"
        file.write_bytes(np.zeros(6, "<f4").tobytes())
        with pytest.raises(InvalidExamples, match="example 2: 8 bytes where 3 features and 1 label"):
            list(examples_in(file, collection()))

    def test_features_alone_are_read_for_inference(self, tmp_path: Path) -> None:
        file = tmp_path / "x.csv"
        file.write_text("0,0.5,1\n")
        (found,) = features_in(file, collection().features)
        assert found.tolist() == [[0, 0.5, 1]]

    @pytest.mark.parametrize("name", ["examples.npy", "examples.pkl", "examples"])
    def test_files_of_another_kind_are_not_opened(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(InvalidExamples, match=r"neither of \.csv and \.f32"):
            list(examples_in(tmp_path / name, collection()))


class TestSettings:
    def test_what_is_said_is_what_holds(self, tmp_path: Path) -> None:
        settings = read_settings(write_settings(tmp_path, "https://fl.example.com"))
        assert settings.state == tmp_path / "phone"
        assert settings.network.coordinator == "https://fl.example.com"
        assert settings.roots == ROOTS
        assert settings.floors.limits == Policy(
            needs_idle=False, first_run_delay_s=0.0, min_interval_s=0.0, min_free_storage_bytes=0
        )
        assert settings.floors.assumed.thermal is Thermal.NONE
        assert settings.floors.assumed.in_use is None
        (declared,) = settings.collections
        assert declared.features == Schema(shape=(3,), dtype="float32", low=-10.0, high=10.0)
        assert (declared.max_rows, declared.time_to_live_s, declared.dedupe) == (10_000, None, True)

    @pytest.mark.parametrize("said", [(), ("DE", "board", {"indoors": True, "language": 'd"e', "sensors": -4})])
    def test_what_enrol_and_declare_write_can_be_read(self, tmp_path: Path, said: Any) -> None:
        installation = Installation("acme", "keyboard", "edge", "1.0", 'a "board"', *said)
        text = settings_text(Path(".."), installation, "http://127.0.0.1:1", ROOTS) + collection_text(collection())
        settings = settings_of(text, tmp_path / "phone" / "agent")
        assert settings.state == tmp_path / "phone"
        assert settings.installation == installation
        assert settings.floors.limits == Policy()
        assert settings.collections == (collection(),)

    @pytest.mark.parametrize(
        ("before", "after", "sentence"),
        [
            ('state = "phone"', "", "state is missing"),
            ('state = "phone"', "state = 7", "state is not text"),
            ('state = "phone"', "state = phone", "not TOML"),
            ("[limits]", "[limits]\nneeds_coffee = true", "limits.*needs_coffee"),
            ("needs_idle = false", 'needs_idle = "no"', "limits: needs_idle is not of type bool"),
            ("needs_idle = false", "battery_floor = 2.0", "limits: battery_floor is 0 to 1"),
            ('thermal = "none"', 'thermal = "warm"', "assumed: thermal is not one of"),
            ('tenant = "acme"', 'tenant = "Acme Inc"', "installation.tenant is 1 to 64"),
            ('tenant = "acme"', 'tenant = "acme"\nregion = "a b"', "installation: region is 1 to 32"),
            ('tenant = "acme"', 'tenant = "acme"\nattributes = 1', "installation.attributes is not a table"),
            (
                'tenant = "acme"',
                'tenant = "acme"\nattributes = { Beta = true }',
                "installation: the name of an attribute is 1 to 32",
            ),
            (
                'tenant = "acme"',
                'tenant = "acme"\nattributes = { ram = 1.5 }',
                "installation: the attribute ram is text",
            ),
            ('tenant_key = "', 'tenant_key = "zz', "trust.tenant_key is 64 hex digits"),
            ("https://", "ftp://", "network.coordinator begins with https://"),
            ("[trust]", "pins = ['00']\n[trust]", "network.pins is 64 hex digits"),
            ("[trust]", "speed = 1\n[trust]", "network.speed is not a setting"),
            ('name = "numbers"', 'name = "My Numbers"', "a collection's name"),
            ("shape = [3]", "shape = [0]", "a schema needs sides"),
            ("shape = [3]", "size = 3", "unknown key 'size'"),
            ('name = "numbers"', 'name = "numbers"\nmax_bytes = 1', "does not fit the quota"),
        ],
    )
    def test_a_mistake_is_named_with_the_file_and_its_place(
        self, tmp_path: Path, before: str, after: str, sentence: str
    ) -> None:
        path = write_settings(tmp_path, "https://fl.example.com")
        assert before in path.read_text()
        path.write_text(path.read_text().replace(before, after))
        with pytest.raises(SettingsWrong, match=sentence) as wrong:
            read_settings(path)
        assert str(path) in str(wrong.value)

    def test_a_file_that_is_not_there_says_what_writes_one(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsWrong, match=r"No such file.*`edgewise-device enrol` writes one"):
            read_settings(tmp_path / "device.toml")

    @pytest.mark.parametrize(
        ("content", "mode", "sentence"),
        [
            (bytes(32), 0o644, "others may read the key file; run: chmod 600"),
            (b"short", 0o600, "neither 32 bytes nor 64 hex digits"),
            (None, 0o600, "cannot be read"),
        ],
    )
    def test_a_storage_key_that_is_none_is_refused(
        self, tmp_path: Path, content: bytes | None, mode: int, sentence: str
    ) -> None:
        settings = self.with_key(tmp_path, content, mode)
        with pytest.raises(WrongStorageKey, match=sentence):
            settings.storage_key()

    @pytest.mark.parametrize("content", [bytes(range(32)), bytes(range(32)).hex().encode() + b"\n"])
    def test_a_storage_key_is_raw_or_hexadecimal(self, tmp_path: Path, content: bytes) -> None:
        assert self.with_key(tmp_path, content, 0o600).storage_key() == bytes(range(32))

    def with_key(self, folder: Path, content: bytes | None, mode: int) -> Settings:
        if content is not None:
            (folder / "storage.key").write_bytes(content)
            (folder / "storage.key").chmod(mode)
        path = write_settings(folder, "https://fl.example.com")
        path.write_text('key_file = "storage.key"\n' + path.read_text())
        return read_settings(path)
