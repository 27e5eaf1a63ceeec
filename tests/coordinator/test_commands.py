"""Commands that call the operator API, typed at a real coordinator: what they say, and what when they cannot."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from coordinator.store.group_tables import Quarantine
from tests.coordinator.serving import Served, complaint, run, serving
from tests.programme import POPULATION

GERMAN = {"version": 1, "where": {"attribute": {"name": "language", "in": ["de"]}}}
DECLARED = {"model_family": "next-word", "attributes": {"language": {"type": "text", "values": ["de", "en"]}}}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("served")) as found:
        found.home.start_task()
        found.home.phone(0)
        yield found


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EDGEWISE_ADDRESS", "EDGEWISE_TOKEN_FILE", "EDGEWISE_CONFIG"):
        monkeypatch.delenv(name, raising=False)


def written(path: Path, tree: object) -> str:
    path.write_text(json.dumps(tree))
    return str(path)


# --- populations --------------------------------------------------------------------------------------------------


def test_a_population_is_made_shown_and_listed(served: Served, tmp_path: Path) -> None:
    declares = written(tmp_path / "declares.json", DECLARED)
    assert "next-word" in served.out("populations", "create", "digits", "--declares", declares)
    assert "left to the apps" in served.out("populations", "show", "digits")
    listed = served.out("populations", "list").splitlines()
    assert listed[0].split() == ["population", "devices", "policy", "model", "family", "attributes"]
    assert [line.split()[0] for line in listed[1:]] == ["digits", POPULATION]
    found = json.loads(served.out("populations", "list", "--json"))
    assert [one["name"] for one in found] == ["digits", POPULATION]


def test_a_policy_is_printed_edited_and_given_back(served: Served, tmp_path: Path) -> None:
    served.out("populations", "create", "quiet")
    suggested = json.loads(served.out("populations", "policy", "quiet"))
    given = written(tmp_path / "policy.json", suggested | {"needs_charging": True})
    served.out("populations", "policy", "quiet", given)
    assert json.loads(served.out("populations", "policy", "quiet"))["needs_charging"] is True
    served.out("populations", "policy", "quiet", "--clear")
    assert json.loads(served.out("populations", "show", "quiet", "--json"))["policy"] is None


def test_a_policy_that_is_none_is_refused_with_what_is_wrong(served: Served, tmp_path: Path) -> None:
    given = written(tmp_path / "policy.json", {"version": 1})
    assert "lacks the key" in complaint(served.run("populations", "policy", POPULATION, given), 1)
    assert "give one" in complaint(served.run("populations", "policy", POPULATION, given, "--clear"))
    assert "nowhere" in complaint(served.run("populations", "policy", POPULATION, str(tmp_path / "nowhere")))


def test_a_population_is_switched_off_only_by_someone_who_means_it(served: Served) -> None:
    served.out("populations", "create", "switched")
    line = complaint(served.run("populations", "switch", "switched", "off"))
    assert "add --yes" in line
    assert not json.loads(served.out("populations", "show", "switched", "--json"))["switched_off"]
    served.out("populations", "switch", "switched", "off", "--yes")
    assert "switched off" in served.out("populations", "show", "switched")
    served.out("populations", "switch", "switched", "on")
    assert not json.loads(served.out("populations", "show", "switched", "--json"))["switched_off"]


# --- cohorts ------------------------------------------------------------------------------------------------------


def test_a_cohort_is_put_shown_reached_and_deleted(served: Served, tmp_path: Path) -> None:
    served.out("populations", "create", "worded", "--declares", written(tmp_path / "declares.json", DECLARED))
    rule = written(tmp_path / "german.json", GERMAN)
    assert "matching" in served.out("cohorts", "put", "worded", "german", rule)
    assert '"language"' in served.out("cohorts", "show", "worded", "german")
    assert "german" in served.out("cohorts", "list", "worded")
    assert json.loads(served.out("cohorts", "reach", "worded", "german", "--json"))["devices"] == 0
    everyone = written(tmp_path / "everyone.json", {"version": 1, "where": {"and": []}})
    assert "add --yes" in complaint(served.run("cohorts", "put", "worded", "german", everyone))
    served.out("cohorts", "put", "worded", "german", everyone, "--yes")
    assert json.loads(served.out("cohorts", "show", "worded", "german", "--json"))["version"] == 2
    served.out("cohorts", "delete", "worded", "german", "--yes")
    assert "has no cohort yet" in served.out("cohorts", "list", "worded")


def test_a_rule_that_is_not_saved_is_reached(served: Served, tmp_path: Path) -> None:
    everyone = written(tmp_path / "everyone.json", {"version": 1, "where": {"and": []}})
    assert json.loads(served.out("cohorts", "reach", POPULATION, "--rule", everyone, "--json"))["matching"] == 1
    assert "name a cohort" in complaint(served.run("cohorts", "reach", POPULATION))


@pytest.mark.parametrize(
    ("text", "status", "says"),
    [
        ("{", 2, "is not JSON"),
        ("\xff", 2, "not text in UTF-8"),
        ('{"version": 1, "where": {"colour": ["red"]}}', 1, "colour"),
        ('{"version": 1, "where": {"attribute": {"name": "mood", "in": ["good"]}}}', 1, "mood"),
    ],
)
def test_a_rule_that_is_none_is_refused_with_what_is_wrong(
    served: Served, tmp_path: Path, text: str, status: int, says: str
) -> None:
    (tmp_path / "rule.json").write_bytes(text.encode("latin-1"))
    assert says in complaint(served.run("cohorts", "put", POPULATION, "some", str(tmp_path / "rule.json")), status)


# --- devices, releases --------------------------------------------------------------------------------------------


def test_a_device_is_listed_shown_and_taken_out(served: Served) -> None:
    served.home.phone(1)
    found = json.loads(served.out("devices", "list", POPULATION, "--json"))
    gone = found[0]["id"]
    assert gone in served.out("devices", "list", POPULATION)
    assert "platform" in served.out("devices", "show", POPULATION, gone)
    assert "add --yes" in complaint(served.run("devices", "delete", POPULATION, gone))
    served.out("devices", "delete", POPULATION, gone, "--yes")
    assert json.loads(served.out("devices", "show", POPULATION, gone, "--json"))["left_at"] is not None
    assert "no device" in complaint(served.run("devices", "show", POPULATION, "00" * 16), 1)
    more = served.run("devices", "list", POPULATION, "--most", "1")
    assert len(more.stdout.splitlines()) == 2
    assert "more than 1" in more.stderr


def test_who_is_kept_out_is_listed_and_let_in(served: Served) -> None:
    device = served.home.phone(2).driver.device_id
    assert "no device of" in served.out("devices", "quarantined", POPULATION)
    assert "not in quarantine" in complaint(served.run("devices", "release", POPULATION, device, "--yes"), 1)
    now = served.home.clock.at
    with served.home.app.state.parts.database.writing() as session:
        until = now + timedelta(days=400)
        session.add(Quarantine(device_id=device, tenant="acme", because="bad-box", at=now, until=until))
    assert device in served.out("devices", "quarantined", POPULATION)
    assert json.loads(served.out("devices", "quarantined", POPULATION, "--json"))[0]["faults"] == []
    assert "take part again" in served.out("devices", "release", POPULATION, device, "--yes")
    assert device not in served.out("devices", "quarantined", POPULATION)


def test_what_a_device_says_does_not_command_a_terminal(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    from coordinator.commands.console import cell

    assert "\x1b" not in cell("\x1b[2J[red]owned")
    assert "[red]owned" in cell("\x1b[2J[red]owned"), "and markup is text"


def test_a_release_is_made_widened_and_withdrawn(served: Served) -> None:
    assert "has no release yet" in served.out("releases", "list", POPULATION)
    task = json.loads(served.out("tasks", "list", "--json"))[0]["name"]
    served.out("releases", "create", POPULATION, "--task", task, "--share", "0.05")
    served.out("releases", "share", POPULATION, "1", "0.5")
    assert json.loads(served.out("releases", "list", POPULATION, "--json"))[0]["share"] == 0.5
    assert "50%" in served.out("releases", "list", POPULATION)
    served.out("releases", "withdraw", POPULATION, "1", "--yes")
    assert json.loads(served.out("releases", "list", POPULATION, "--json"))[0]["withdrawn_at"] is not None


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (("--share", "0.5"), 2, "--task"),
        (("--share", "1.5", "--checkpoint", "00" * 32), 2, "above 0 and at most 1"),
        (("--share", "nan", "--checkpoint", "00" * 32), 2, "above 0 and at most 1"),
        (("--share", "0.5", "--checkpoint", "00" * 32), 1, "no such checkpoint"),
        (("--share", "0.5", "--task", "wordz"), 1, "did you mean 'words'?"),
    ],
)
def test_a_release_that_cannot_be_is_refused(served: Served, words: tuple[str, ...], status: int, says: str) -> None:
    assert says in complaint(served.run("releases", "create", POPULATION, *words), status)


def test_a_release_of_another_population_s_task_is_refused(served: Served) -> None:
    served.out("populations", "create", "others")
    line = complaint(served.run("releases", "create", "others", "--task", "words", "--share", "1"))
    assert f"is of the population '{POPULATION}'" in line


# --- mistakes that all commands share -----------------------------------------------------------------------------

EACH = [
    ("populations", "list"),
    ("populations", "show", POPULATION),
    ("populations", "policy", POPULATION),
    ("populations", "create", "digits"),
    ("populations", "switch", POPULATION, "on"),
    ("cohorts", "list", POPULATION),
    ("cohorts", "show", POPULATION, "some"),
    ("cohorts", "delete", POPULATION, "some", "--yes"),
    ("cohorts", "reach", POPULATION, "some"),
    ("tasks", "list"),
    ("tasks", "show", "words"),
    ("tasks", "approve", "words"),
    ("tasks", "start", "words"),
    ("tasks", "pause", "words"),
    ("tasks", "resume", "words"),
    ("tasks", "cancel", "words", "--yes"),
    ("tasks", "clone", "words", "more"),
    ("tasks", "change", "words", "--set", "priority=1"),
    ("tasks", "dry-run", "words"),
    ("tasks", "funnel", "words"),
    ("tasks", "watch", "words"),
    ("devices", "list", POPULATION),
    ("devices", "show", POPULATION, "00" * 16),
    ("devices", "delete", POPULATION, "00" * 16, "--yes"),
    ("devices", "quarantined", POPULATION),
    ("devices", "release", POPULATION, "00" * 16, "--yes"),
    ("releases", "list", POPULATION),
    ("releases", "create", POPULATION, "--task", "words", "--share", "1"),
    ("releases", "share", POPULATION, "1", "1"),
    ("releases", "withdraw", POPULATION, "1", "--yes"),
]


@pytest.mark.parametrize("words", EACH, ids=" ".join)
def test_a_token_that_is_not_valid_is_one_line(served: Served, tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / "other.token").write_text("ewop_other")
    line = complaint(run(*words, "--address", served.address, "--token-file", str(tmp_path / "other.token")))
    assert "does not know the token in" in line
    assert "tenants token" in line
    assert "ewop_other" not in line


@pytest.mark.parametrize("words", [*EACH[:3], EACH[10], EACH[20]], ids=" ".join)
def test_a_coordinator_that_is_down_is_one_line(tmp_path: Path, words: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    (tmp_path / "token").write_text("ewop_token")
    line = complaint(run(*words, "--address", f"http://127.0.0.1:{port}", "--token-file", str(tmp_path / "token")))
    assert f"no coordinator answers at http://127.0.0.1:{port}" in line
    assert "edgewise-coordinator serve" in line


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("populations", "show", "keybord"), "did you mean 'keyboard'?"),
        (("cohorts", "list", "keybord"), "did you mean 'keyboard'?"),
        (("devices", "list", "keybord"), "did you mean 'keyboard'?"),
        (("tasks", "show", "wrods"), "did you mean 'words'?"),
        (("tasks", "funnel", "wrods"), "did you mean 'words'?"),
        (("tasks", "watch", "wrods"), "did you mean 'words'?"),
        (("tasks", "show", "zzz"), "there are 'words'"),
        (("cohorts", "show", POPULATION, "some"), "there are no cohorts yet"),
        (("populations", "show", "../tasks"), "there are"),
    ],
)
def test_an_unknown_name_gets_the_closest_one(served: Served, words: tuple[str, ...], meant: str) -> None:
    assert meant in complaint(served.run(*words), 1)


@pytest.mark.parametrize("address", ["ftp://there", "there:8470", "http://", "http://there:x", "http://there/path"])
def test_an_address_that_is_none_is_named(served: Served, address: str) -> None:
    line = complaint(run("tasks", "list", "--address", address, "--token-file", str(served.token_file)))
    assert "--address is such as" in line


def test_a_token_file_that_is_none_is_named(served: Served, tmp_path: Path) -> None:
    missing = complaint(run("tasks", "list", "--address", served.address, "--token-file", str(tmp_path / "none")))
    assert str(tmp_path / "none") in missing
    for content in (b"", b"two words", b"\xff"):
        (tmp_path / "token").write_bytes(content)
        line = complaint(run("tasks", "list", "--address", served.address, "--token-file", str(tmp_path / "token")))
        assert "does not hold an operator token" in line


def test_what_is_no_coordinator_is_named(tmp_path: Path, served: Served) -> None:
    import http.server
    import threading

    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if "tasks" in self.path else 502)
            self.end_headers()
            self.wfile.write(b"<html>")

        def log_message(self, *_words: Any) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Other) as other:
        thread = threading.Thread(target=other.serve_forever)
        thread.start()
        for what in ("tasks", "populations"):
            address = f"http://127.0.0.1:{other.server_port}"
            line = complaint(run(what, "list", "--address", address, "--token-file", str(served.token_file)))
            assert "is not an Edgewise coordinator" in line
        other.shutdown()
        thread.join()


def test_address_and_token_come_from_the_environment(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEWISE_ADDRESS", served.address)
    monkeypatch.setenv("EDGEWISE_TOKEN_FILE", str(served.token_file))
    assert run("populations", "list").exit_code == 0


def test_on_the_coordinator_s_machine_nothing_has_to_be_said(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEWISE_DATA_DIR", str(served.folder))
    monkeypatch.setenv("EDGEWISE_PORT", served.address.rpartition(":")[2])
    assert run("populations", "list").exit_code == 0


def test_someone_else_s_change_is_not_overwritten(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between look and change, somebody else changes the population."""
    from coordinator.commands.remote import Operator

    served.out("populations", "create", "contended")
    change = Operator.change

    def late(self: Operator, method: str, path: str, *words: Any, **more: Any) -> Any:
        served.home.operator("PUT", "/populations/contended/switch", json={"off": True}).raise_for_status()
        return change(self, method, path, *words, **more)

    monkeypatch.setattr(Operator, "change", late)
    line = complaint(served.run("populations", "policy", "contended", str(written_policy(served.folder))), 1)
    assert "somebody else changed it meanwhile" in line


def written_policy(folder: Path) -> Path:
    from edge_runtime.protocol import wire
    from edge_runtime.protocol.policy import Policy

    path = folder / "policy.json"
    path.write_bytes(wire.encode(Policy()))
    return path


def test_a_long_list_comes_whole(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    from coordinator.commands import remote

    for number in range(5):
        served.out("populations", "create", f"many-{number}")
    whole = json.loads(served.out("populations", "list", "--json"))
    monkeypatch.setattr(remote, "_PAGE", 2)
    assert json.loads(served.out("populations", "list", "--json")) == whole
    assert len(whole) >= 6
