"""Commands on the coordinator's own machine: tenants, keys, migrations, the doctor, settings that are wrong."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from coordinator.commands import doctor
from coordinator.commands.doctor import Health
from coordinator.settings import Settings
from coordinator.store import migrate
from coordinator.store.database import Database
from edge_runtime.protocol.keys import SigningKey, digest
from tests.coordinator.serving import complaint, run

KEY = SigningKey(digest(b"tenant")).public.raw.hex()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty place, and no settings but where it is."""
    for name in [name for name in os.environ if name.startswith("EDGEWISE_") and "_TEST_" not in name]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("EDGEWISE_DATA_DIR", str(tmp_path / "home"))
    monkeypatch.setenv("EDGEWISE_PORT", "0")
    return tmp_path / "home"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home as `init` makes it; to be copied."""
    folder = tmp_path_factory.mktemp("template") / "home"
    with pytest.MonkeyPatch.context() as here:
        here.setenv("EDGEWISE_DATA_DIR", str(folder))
        out("init", "--tenant", "acme", "--tenant-key", KEY)
    return folder


@pytest.fixture
def made(home: Path, template: Path) -> Path:
    return Path(shutil.copytree(template, home))


def out(*words: str) -> str:
    result = run(*words)
    assert result.exit_code == 0, result.output
    return result.stdout


# --- tenants ------------------------------------------------------------------------------------------------------


def tenants() -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in json.loads(out("tenants", "list", "--json"))}


def test_a_tenant_is_made_with_a_token_that_only_its_owner_reads(made: Path, tmp_path: Path) -> None:
    other = SigningKey(digest(b"beta")).public.raw.hex()
    text = out("tenants", "create", "beta", "--tenant-key", other)
    token = (made / "beta.token").read_text()
    assert stat.S_IMODE((made / "beta.token").stat().st_mode) == 0o600
    assert token not in text
    assert tenants()["beta"]["tokens"] == 1
    out("tenants", "token", "beta", "--out", str(tmp_path / "second"))
    assert tenants()["beta"]["tokens"] == 2
    assert "beta" in out("tenants", "list")
    assert "add --yes" in complaint(run("tenants", "revoke", "beta"))
    out("tenants", "revoke", "beta", "--yes")
    assert {name: one["tokens"] for name, one in tenants().items()} == {"acme": 1, "beta": 0}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("tenants", "token", "amce"), "did you mean 'acme'?"),
        (("tenants", "revoke", "zzz", "--yes"), "there are 'acme'"),
        (("tenants", "export", "amce", "file"), "did you mean 'acme'?"),
        (("tenants", "create", "beta", "--tenant-key", "00"), "--tenant-key is a public key"),
        (("tenants", "create", "Beta Inc", "--tenant-key", KEY), "is not a name"),
        (("tenants", "create", "acme", "--tenant-key", "11" * 32), "exists with another key"),
        (("tenants", "token", "acme", "--out", "/nowhere/token"), "no such folder"),
        (("tenants", "import", "nowhere"), "No such file"),
    ],
)
def test_a_mistake_about_tenants_is_one_line(
    made: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: tuple[str, ...], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert says in complaint(run(*words))
    assert tenants()["acme"]["tokens"] == 1, "and nothing was done"


def test_a_tenant_moves_to_another_home_with_the_same_key(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "acme.export"
    out("tenants", "export", "acme", str(file))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "is there already" in complaint(run("tenants", "export", "acme", str(file)))
    assert "is here already" in complaint(run("tenants", "import", str(file)))

    there = tmp_path / "there"
    there.mkdir()
    monkeypatch.setenv("EDGEWISE_DATA_DIR", str(there))
    assert "is not a coordinator's home yet" in complaint(run("tenants", "import", str(file)))
    (there / "coordinator.key").write_text((made / "coordinator.key").read_text())
    out("migrate")
    out("tenants", "import", str(file))
    assert tenants()["acme"]["key"] == KEY
    assert tenants()["acme"]["tokens"] == 0

    (tmp_path / "cut").write_bytes(file.read_bytes()[:-9])
    assert complaint(run("tenants", "import", str(tmp_path / "cut")))


# --- keys, migrations ---------------------------------------------------------------------------------------------


def test_the_public_half_of_the_key_is_shown_and_the_other_is_not(made: Path) -> None:
    secret = (made / "coordinator.key").read_text()
    found = json.loads(out("keys", "show", "--json"))
    assert found["public_key"] == SigningKey(bytes.fromhex(secret)).public.raw.hex()
    assert found["mode"] == "0600"
    assert secret not in out("keys", "show") + json.dumps(found)


def test_without_a_key_there_is_none_to_show(home: Path) -> None:
    assert "run `edgewise-coordinator init` first" in complaint(run("keys", "show"))


def test_migrations_are_shown_checked_applied_and_undone(made: Path) -> None:
    revisions = [one.revision for one in migrate.revisions()]
    assert "nothing was to be done" in out("migrate")
    out("migrate", "--check")
    assert f"undone   {revisions[-1]}" in out("migrate", "--to", revisions[-2])
    result = run("migrate", "--check")
    assert f"missing  {revisions[-1]}" in result.stdout
    assert "run `edgewise-coordinator migrate`" in complaint(result, 1)
    assert f"applied  {revisions[-1]}" in out("migrate")
    assert "--to is one of" in complaint(run("migrate", "--to", "9999"))
    out("migrate", "--to", "base")
    assert out("migrate").count("applied") == len(revisions)


# --- the doctor ---------------------------------------------------------------------------------------------------


def findings(status: int = 0) -> dict[str, dict[str, str]]:
    result = run("doctor", "--json")
    assert result.exit_code == status, result.output
    return {one["what"]: one for one in json.loads(result.stdout)}


def test_a_home_that_is_well_has_no_problem(made: Path) -> None:
    found = findings()
    assert {"key", "database", "migrations", "clock", "tokens", "blobs", "port", "time zones"} <= set(found)
    assert "WAL" in found["database"]["found"]
    assert found["tokens"]["found"] == "acme: 1"
    assert not [one for one in found.values() if one["health"] == Health.PROBLEM]
    assert "what to do" in out("doctor")


def test_every_setting_says_where_it_is_from_and_secrets_say_nothing(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEWISE_METRICS_TOKEN", "hush-hush")
    (tmp_path / "edgewise.toml").write_text("hold_s = 3\n")
    monkeypatch.setenv("EDGEWISE_CONFIG", str(tmp_path / "edgewise.toml"))
    found = findings()
    assert {f"setting {name}" for name in Settings.model_fields} <= set(found)
    assert found["setting port"]["found"] == "0 (EDGEWISE_PORT)"
    assert found["setting hold_s"]["found"] == f"3.0 ({tmp_path / 'edgewise.toml'})"
    assert found["setting host"]["found"] == "127.0.0.1 (default)"
    assert "hush-hush" not in json.dumps(found)


def test_what_is_not_well_is_a_problem_with_what_to_do(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (made / "coordinator.key").chmod(0o644)
    monkeypatch.setenv("EDGEWISE_PROT", "8470")
    monkeypatch.setenv("EDGEWISE_FREE_DISK_BYTES", str(1 << 60))
    out_of_date = [one.revision for one in migrate.revisions()][-2]
    database = Database(Settings().sqlalchemy_url())
    migrate.downgrade(database, out_of_date)
    database.close()
    found = findings(1)
    assert found["EDGEWISE_PROT"]["do"] == "write EDGEWISE_PORT"
    assert found["key"]["do"].startswith("chmod 600")
    assert "edgewise-coordinator migrate" in found["migrations"]["do"]
    assert "free some space" in found["blobs"]["do"]


def test_a_home_without_an_authority_sums_nothing_securely(made: Path) -> None:
    authority = made / "authority.key"
    assert findings()["authority"]["health"] == Health.OK
    authority.chmod(0o644)
    assert findings(1)["authority"]["do"].startswith("chmod 600")
    authority.write_text("no key")
    assert "holds no key" in findings(1)["authority"]["found"]
    authority.unlink()
    found = findings()["authority"]
    assert (found["health"], "init" in found["do"]) == (Health.WARNING, True)
    assert "no-authority" in found["found"]


def test_a_home_that_is_none_is_a_problem(home: Path) -> None:
    found = findings(1)
    assert (found["key"]["health"], found["database"]["health"]) == (Health.PROBLEM, Health.PROBLEM)
    assert "init" in found["database"]["do"]


def test_a_database_that_is_none_is_a_problem(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (made / "coordinator.sqlite").write_bytes(b"this is no database" * 100)
    assert "backup" in findings(1)["database"]["do"]
    monkeypatch.setenv("EDGEWISE_DATABASE_URL", "mysql://edgewise:hush@db/edgewise")  # pragma: allowlist secret
    found = findings(1)
    assert "begins with" in found["database"]["do"]
    assert "hush" not in json.dumps(found)


def test_a_port_in_use_and_nobody_s_token_are_warnings(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out("tenants", "revoke", "acme", "--yes")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("EDGEWISE_PORT", str(taken.getsockname()[1]))
        found = findings()
    assert found["port"]["health"] == found["tokens"]["health"] == Health.WARNING
    assert "tenants token" in found["tokens"]["do"]


def test_a_clock_that_is_off_is_a_problem(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "CLOCK_S", -1.0)
    assert "time server" in findings(1)["clock"]["do"]


# --- settings -----------------------------------------------------------------------------------------------------

LOCAL = [("serve",), ("worker",), ("migrate",), ("keys", "show"), ("tenants", "list")]


@pytest.mark.parametrize("words", [*LOCAL, ("init", "--tenant", "acme", "--tenant-key", KEY)], ids=" ".join)
def test_an_unknown_variable_is_refused_with_what_was_meant(
    made: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("EDGEWISE_DATA_DRI", "elsewhere")
    assert "EDGEWISE_DATA_DRI is not a setting; did you mean EDGEWISE_DATA_DIR?" in complaint(run(*words))


def test_a_variable_like_no_other_is_refused(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEWISE_COLOUR", "red")
    assert "EDGEWISE_COLOUR is not a setting; unset it" in complaint(run("tenants", "list"))


def test_variables_of_others_are_none_of_its_business(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EDGEWISE_ADDRESS", "EDGEWISE_TOKEN_FILE", "EDGEWISE_DEVICE_STATE"):
        monkeypatch.setenv(name, "here")
    out("tenants", "list")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("prot = 1", "has 'prot', which is no setting; did you mean port?"),
        ("hold_s = 'soon'", "hold_s in"),
        ("hold_s = ", "which is not TOML"),
        ("worker_interval_s = 0", "worker_interval_s in"),
    ],
)
@pytest.mark.parametrize("words", LOCAL[:3], ids=" ".join)
def test_a_settings_file_that_is_wrong_is_named(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], text: str, says: str
) -> None:
    path = tmp_path / "edgewise.toml"
    path.write_text(text)
    monkeypatch.setenv("EDGEWISE_CONFIG", str(path))
    line = complaint(run(*words))
    assert says in line
    assert str(path) in line


def test_a_settings_file_that_is_not_there_is_named(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEWISE_CONFIG", "/nowhere/edgewise.toml")
    line = complaint(run("serve"))
    assert "EDGEWISE_CONFIG names /nowhere/edgewise.toml, which cannot be read" in line


def test_a_wrong_value_says_whose_it_is(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "--port is wrong" in complaint(run("serve", "--port", "70000"))
    (tmp_path / "edgewise.toml").write_text("hold_s = 3\n")
    monkeypatch.setenv("EDGEWISE_CONFIG", str(tmp_path / "edgewise.toml"))
    monkeypatch.setenv("EDGEWISE_HOLD_S", "soon")
    line = complaint(run("serve"))
    assert "EDGEWISE_HOLD_S is wrong" in line
    assert "How long a check-in may be held" in line


def test_a_database_address_that_is_none_shows_no_password(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEWISE_DATABASE_URL", "mysql://edgewise:hush@db/edgewise")  # pragma: allowlist secret
    for words in (*LOCAL[:3], ("tenants", "list")):
        line = complaint(run(*words))
        assert "EDGEWISE_DATABASE_URL is wrong" in line
        assert "hush" not in line


def test_an_address_of_blobs_that_is_none_is_named(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEWISE_BLOB_URL", "ftp://bucket")
    for words in (("serve",), ("worker",), ("tenants", "export", "acme", "file")):
        assert "EDGEWISE_BLOB_URL is wrong: the blobs' address is s3://" in complaint(run(*words))
    assert "EDGEWISE_BLOB_URL" in findings(1)["blobs"]["do"]


def every_command() -> list[tuple[str, ...]]:
    from typer.main import get_command

    from coordinator import cli

    found: list[tuple[str, ...]] = []
    for name, command in getattr(get_command(cli.app), "commands", {}).items():
        below = getattr(command, "commands", None)
        found += [(name,)] if below is None else [(name, one) for one in below]
    return found


@pytest.mark.parametrize("words", every_command(), ids=" ".join)
def test_every_command_teaches_with_an_example(words: tuple[str, ...]) -> None:
    text = " ".join(out(*words, "--help").split())
    assert f"edgewise-coordinator {' '.join(words)}" in text.partition("Usage:")[2].partition("]")[2]


@pytest.mark.parametrize("words", every_command(), ids=" ".join)
def test_every_command_is_listed_for_operators(words: tuple[str, ...]) -> None:
    text = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith(f"| `edgewise-coordinator {words[0]}")]
    assert len(rows) == 1
    assert all(word in rows[0] for word in words)
