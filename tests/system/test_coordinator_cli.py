"""`edgewise-coordinator`: whatever is wrong is said in one line, with exit status 2 and no traceback."""

from __future__ import annotations

import os
import socket
import stat
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from coordinator import cli
from coordinator.commands import serving
from coordinator.settings import Settings
from coordinator.store.database import Database
from edge_runtime.protocol.keys import SigningKey, digest
from tests.s3 import KEYS
from tests.s3 import serving as serving_s3

KEY = SigningKey(digest(b"tenant")).public.raw.hex()


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("EDGEWISE_")]:
        monkeypatch.delenv(name)
    folder = tmp_path / "home"
    monkeypatch.setenv("EDGEWISE_DATA_DIR", str(folder))
    return folder


@pytest.fixture
def never_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever gets as far as serving says so, and does not."""

    def run(_server: object, sockets: list[socket.socket]) -> None:
        for one in sockets:
            one.close()
        print("would serve")

    monkeypatch.setattr("uvicorn.Server.run", run)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, list(arguments))


def init() -> Result:
    return run("init", "--tenant", "acme", "--tenant-key", KEY)


def complaint(result: Result) -> str:
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.strip().splitlines()
    assert "Traceback" not in result.output
    return line


def test_a_home_is_made_with_a_key_and_a_token_that_only_its_owner_reads(data_dir: Path) -> None:
    result = init()
    assert result.exit_code == 0, result.output
    for name in ("coordinator.key", "operator.token"):
        assert stat.S_IMODE((data_dir / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
    key = SigningKey(bytes.fromhex((data_dir / "coordinator.key").read_text()))
    assert key.public.raw.hex() in result.output
    assert key.raw.hex() not in result.output
    assert (data_dir / "operator.token").read_text() not in result.output


def test_making_a_home_again_keeps_its_key_and_gives_a_new_token(data_dir: Path) -> None:
    init()
    before = {name: (data_dir / name).read_text() for name in ("coordinator.key", "operator.token")}
    assert init().exit_code == 0
    assert (data_dir / "coordinator.key").read_text() == before["coordinator.key"]
    assert (data_dir / "operator.token").read_text() != before["operator.token"]


@pytest.mark.parametrize("key", ["", "00", "zz" * 32, "00" * 33])
def test_a_tenant_key_that_is_none_is_named(data_dir: Path, key: str) -> None:
    line = complaint(run("init", "--tenant", "acme", "--tenant-key", key))
    assert "key" in line


def test_a_tenant_name_that_is_none_is_named(data_dir: Path) -> None:
    assert "is not a name" in complaint(run("init", "--tenant", "Acme Inc", "--tenant-key", KEY))


def test_a_tenant_with_another_key_is_a_conflict(data_dir: Path) -> None:
    init()
    other = SigningKey(digest(b"other")).public.raw.hex()
    assert "another key" in complaint(run("init", "--tenant", "acme", "--tenant-key", other))


def test_a_folder_that_is_a_file_is_named(data_dir: Path) -> None:
    data_dir.write_text("")
    assert "cannot be used" in complaint(init())


def test_a_database_that_is_none_is_named(data_dir: Path) -> None:
    data_dir.mkdir()
    (data_dir / "coordinator.sqlite").write_bytes(b"this is no database" * 100)
    assert "database cannot be used" in complaint(init())


@pytest.mark.usefixtures("never_serves")
class TestServe:
    def test_without_a_home_says_to_make_one(self, data_dir: Path) -> None:
        assert "run `edgewise-coordinator init` first" in complaint(run("serve"))

    def test_with_a_key_that_is_none_names_the_file(self, data_dir: Path) -> None:
        init()
        (data_dir / "coordinator.key").write_text("not hex")
        line = complaint(run("serve"))
        assert "coordinator.key cannot be used" in line
        assert "not hex" not in line

    def test_on_a_port_in_use_says_which(self, data_dir: Path) -> None:
        init()
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            assert f"port {port} is in use" in complaint(run("serve", "--port", str(port)))

    def test_beyond_loopback_needs_a_token(self, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        init()
        monkeypatch.setattr(serving, "listen", lambda _settings: pytest.fail("it must not listen"))
        database = Database(Settings().sqlalchemy_url())
        with database.writing() as session:
            session.connection().exec_driver_sql("DELETE FROM operator_tokens")
        database.close()
        for host in ("0.0.0.0", "::", "10.1.2.3", "example.org", ""):
            assert "there is no operator token" in complaint(run("serve", "--host", host))

    def test_beyond_loopback_without_a_database_needs_a_token_too(
        self, data_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        init()
        (data_dir / "coordinator.sqlite").unlink()
        monkeypatch.setattr(serving, "listen", lambda _settings: pytest.fail("it must not listen"))
        assert "there is no operator token" in complaint(run("serve", "--host", "0.0.0.0"))

    def test_beyond_loopback_is_allowed_with_a_token(self, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        init()
        asked: list[str] = []

        def listen_on_loopback(settings: Settings) -> socket.socket:
            asked.append(settings.host)
            return socket.create_server(("127.0.0.1", 0))

        monkeypatch.setattr(serving, "listen", listen_on_loopback)
        assert "would serve" in run("serve", "--host", "0.0.0.0").output
        assert asked == ["0.0.0.0"]

    @pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost"])
    def test_on_loopback_says_where(self, data_dir: Path, host: str) -> None:
        init()
        result = run("serve", "--host", host, "--port", "0")
        assert "listening on http://127.0.0." in result.output
        assert "would serve" in result.output

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("EDGEWISE_PORT", "many"),
            ("EDGEWISE_PORT", "65536"),
            ("EDGEWISE_WORKER_INTERVAL_S", "0"),
            ("EDGEWISE_WORKER_INTERVAL_S", "nan"),
            ("EDGEWISE_CHUNK_REPORTS", "0"),
            ("EDGEWISE_FREE_DISK_BYTES", "-1"),
            ("EDGEWISE_HOLD_S", "soon"),
        ],
    )
    def test_with_a_setting_that_is_none_names_it(
        self, data_dir: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
    ) -> None:
        monkeypatch.setenv(name, value)
        assert f"{name} is wrong" in complaint(run("serve"))


def test_a_password_in_a_database_address_stays_out_of_repr() -> None:
    password = "hush"  # pragma: allowlist secret
    address = f"postgresql://edgewise:{password}@db/edgewise"
    assert Settings(database_url=address).sqlalchemy_url() == address
    assert password not in repr(Settings(database_url=address))


@pytest.mark.usefixtures("never_serves")
@pytest.mark.parametrize("command", ["serve", "worker"])
class TestReplicasSettings:
    """Each is refused at start, with its name and what to do."""

    @pytest.mark.parametrize("url", ["mysql://db/edgewise", "postgresql+asyncpg://db/edgewise", "edgewise"])
    def test_a_database_of_another_kind(
        self, data_dir: Path, monkeypatch: pytest.MonkeyPatch, command: str, url: str
    ) -> None:
        init()
        monkeypatch.setenv("EDGEWISE_DATABASE_URL", url)
        line = complaint(run(command))
        assert "EDGEWISE_DATABASE_URL is wrong: the database's address begins with sqlite:/// or postgresql://" in line

    def test_a_database_that_does_not_answer(
        self, data_dir: Path, monkeypatch: pytest.MonkeyPatch, command: str
    ) -> None:
        init()
        password = "hush"  # pragma: allowlist secret
        monkeypatch.setenv("EDGEWISE_DATABASE_URL", f"postgresql://edgewise:{password}@127.0.0.1:1/edgewise")
        line = complaint(run(command))
        assert "start it, or correct EDGEWISE_DATABASE_URL" in line
        assert password not in line

    @pytest.mark.parametrize("count", ["0", "1", "many", "1001"])
    def test_a_number_of_connections_that_is_none(
        self, data_dir: Path, monkeypatch: pytest.MonkeyPatch, command: str, count: str
    ) -> None:
        init()
        monkeypatch.setenv("EDGEWISE_DATABASE_CONNECTIONS", count)
        assert "EDGEWISE_DATABASE_CONNECTIONS is wrong" in complaint(run(command))

    @pytest.mark.parametrize("url", ["http://bucket", "s3://", "s3:///prefix", "bucket"])
    def test_blobs_of_another_kind(
        self, data_dir: Path, monkeypatch: pytest.MonkeyPatch, command: str, url: str
    ) -> None:
        init()
        monkeypatch.setenv("EDGEWISE_BLOB_URL", url)
        line = complaint(run(command))
        assert "EDGEWISE_BLOB_URL is wrong: the blobs' address is s3://bucket or s3://bucket/prefix" in line

    def test_a_bucket_that_does_not_answer(self, data_dir: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
        init()
        monkeypatch.setenv("EDGEWISE_BLOB_URL", "s3://bucket/blobs")
        for name, value in {**KEYS, "AWS_ENDPOINT_URL": "http://127.0.0.1:1"}.items():
            monkeypatch.setenv(name, value)
        line = complaint(run(command))
        assert "EDGEWISE_BLOB_URL cannot be used: the blob storage does not answer; correct" in line
        assert "start the service" in line

    def test_a_bucket_that_is_not_there(self, data_dir: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
        init()
        monkeypatch.setenv("EDGEWISE_BLOB_URL", "s3://bucket/blobs")
        with serving_s3() as url:
            for name, value in {**KEYS, "AWS_ENDPOINT_URL": url}.items():
                monkeypatch.setenv(name, value)
            line = complaint(run(command))
        assert "EDGEWISE_BLOB_URL cannot be used: the blob storage has no such bucket; correct" in line

    @pytest.mark.parametrize("url", ["127.0.0.1:9000", "ftp://127.0.0.1", "http://"])
    def test_an_address_of_buckets_that_is_none(
        self, data_dir: Path, monkeypatch: pytest.MonkeyPatch, command: str, url: str
    ) -> None:
        init()
        monkeypatch.setenv("EDGEWISE_BLOB_URL", "s3://bucket/blobs")
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        assert "AWS_ENDPOINT_URL is wrong: it is an address such as" in complaint(run(command))

    def test_a_bucket_without_what_it_takes(
        self, data_dir: Path, monkeypatch: pytest.MonkeyPatch, command: str
    ) -> None:
        init()
        monkeypatch.setenv("EDGEWISE_BLOB_URL", "s3://bucket")
        monkeypatch.setitem(sys.modules, "obstore.store", None)
        line = complaint(run(command))
        assert "pip install" in line
        assert "s3" in line
