"""What those who watch the coordinator see: metrics, readiness, log lines."""

from __future__ import annotations

import io
import json
import logging
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from coordinator.api import check_in as door
from coordinator.api.desk import Desk
from coordinator.logs import AccessLog, JsonLines, LogForm, request_id, start_logging
from coordinator.settings import Settings, unknown_variables
from coordinator.store import migrate
from edge_runtime.protocol.checkin import CHECK_IN_PATH
from tests.coordinator.asking import ask, assigned, check_in, offer, refusal, send_report
from tests.programme import Home, Phone


def scraped(home: Home) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample of `/metrics` by name and labels."""
    answer = home.request("GET", "/metrics").raise_for_status()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_metrics_count_requests_by_template_and_say_how_rounds_stand(home: Home) -> None:
    home.start_task()
    phones = [home.phone(number) for number in range(4)]
    assignments = assigned(home, phones)
    send_report(home, phones[0], assignments[0])
    for name in ("words", "nothing"):
        home.operator("GET", f"/tasks/{name}")
    found = scraped(home)
    path = "/v1/operator/tasks/{name}"

    def answered(status: str) -> float:
        labels = (("method", "GET"), ("route", path), ("status", status))
        return found["edgewise_http_requests_total", labels]

    assert (answered("200"), answered("404")) == (1, 1)
    assert found["edgewise_http_request_seconds_count", (("route", path),)] == 2
    assert found["edgewise_tasks", (("state", "active"),)] == 1
    assert found["edgewise_open_participations", ()] == 3
    assert found["edgewise_waiting_reports", ()] == 1
    home.clock.forward(60)
    assert scraped(home)["edgewise_oldest_round_seconds", ()] == 60
    assert scraped(home)["edgewise_worker_silence_seconds", ()] >= 60


def test_check_ins_are_counted_and_named_like_every_other_request(home: Home, phone: Phone) -> None:
    home.publish()
    given = ask(home, phone, "POST", CHECK_IN_PATH, offer(phone), x_request_id="mine-3")
    assert (given.status_code, given.headers["x-request-id"]) == (200, "mine-3")
    refused = ask(home, phone, "POST", CHECK_IN_PATH, b"{}")
    assert refused.headers["x-request-id"]
    found = scraped(home)

    def answered(status: int) -> float:
        labels = (("method", "POST"), ("route", CHECK_IN_PATH), ("status", str(status)))
        return found["edgewise_http_requests_total", labels]

    assert (answered(200), answered(refused.status_code)) == (1, 1)
    assert found["edgewise_http_request_seconds_count", (("route", CHECK_IN_PATH),)] == 2
    assert found["edgewise_http_received_bytes_total", (("route", CHECK_IN_PATH),)] == len(offer(phone)) + 2


def test_check_ins_are_counted_by_what_they_heard(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.start_task()
    phones = [home.phone(number) for number in range(4)]
    assigned(home, phones)
    monkeypatch.setattr(Desk, "full", True)
    monkeypatch.setattr(door, "TURNING_AWAY_S", 0)
    check_in(home, phones[0], "later")
    found = scraped(home)
    heard = {
        dict(labels)["answer"]: count for (name, labels), count in found.items() if name == "edgewise_check_ins_total"
    }
    assert heard == {"selection-pending": 4, "assigned": 4, "busy": 1}


def test_metrics_hold_nothing_of_one_device_or_tenant(home: Home) -> None:
    home.start_task()
    phones = [home.phone(number) for number in range(4)]
    send_report(home, phones[0], assigned(home, phones)[0])
    text = home.request("GET", "/metrics").text
    device = home.operator("GET", "/populations/keyboard/devices").json()[0]["id"]
    for secret in (device, home.token, "acme", "keyboard", "words"):
        assert secret not in text


def test_metrics_are_for_loopback_or_for_the_token(home: Home) -> None:
    home.app.state.metrics_token = "watcher"
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Bearer \xff".encode("latin-1")}):
        assert refusal(home.request("GET", "/metrics", headers=headers)) == "operator-unauthorised"
    assert home.request("GET", "/metrics", headers={"authorization": "Bearer watcher"}).status_code == 200


def test_readiness_names_what_is_missing(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    assert home.request("GET", "/readyz").json() == {"status": "ready", "problems": []}
    monkeypatch.setattr(migrate, "missing", lambda _database: ["0009"])
    answer = home.request("GET", "/readyz")
    assert (answer.status_code, answer.json()["status"]) == (503, "not-ready")
    assert "edgewise-coordinator migrate" in answer.json()["problems"][0]
    monkeypatch.undo()
    home.app.state.draining = True
    answer = home.request("GET", "/readyz")
    assert (answer.status_code, answer.json()["status"]) == (503, "draining")
    assert home.request("GET", "/healthz").status_code == 200, "it still lives"


def test_missing_migrations_are_named_oldest_first(home: Home) -> None:
    database = home.app.state.parts.database
    assert migrate.missing(database) == []
    migrate.downgrade(database, "0002")
    assert migrate.missing(database)[:1] == ["0003"]
    migrate.downgrade(database, "base")
    assert migrate.missing(database)[:3] == ["0001", "0002", "0003"]
    migrate.upgrade(database)


def test_a_line_of_the_log_is_one_object_with_its_request() -> None:
    lines = io.StringIO()
    handler = logging.StreamHandler(lines)
    handler.setFormatter(JsonLines())
    log = logging.Logger("edgewise.test")
    log.addHandler(handler)
    token = request_id.set("mine-1")
    try:
        raise ValueError("two\nlines")
    except ValueError:
        log.exception("it %s", "failed", extra={"http": {"status": 500}})
    finally:
        request_id.reset(token)
    log.warning("later")
    first, second = (json.loads(line) for line in lines.getvalue().splitlines())
    assert (first["level"], first["logger"], first["message"]) == ("error", "edgewise.test", "it failed")
    assert (first["request_id"], first["http"]) == ("mine-1", {"status": 500})
    assert first["traceback"].endswith("two\nlines")
    assert "request_id" not in second


def test_the_log_is_written_in_the_form_that_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    before = logging.getLogger().handlers[:]
    try:
        start_logging(LogForm.JSON, "warning")
        logging.getLogger("edgewise.test").info("quiet")
        logging.getLogger("edgewise.test").warning("loud")
        assert json.loads(capsys.readouterr().err)["message"] == "loud"
    finally:
        logging.basicConfig(handlers=before, force=True)


# --- settings -----------------------------------------------------------------------------------------------------


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "edgewise.toml"
    file.write_text('port = 9000\nhold_s = 5\naccess_log = "all"\n')
    monkeypatch.setenv("EDGEWISE_CONFIG", str(file))
    monkeypatch.setenv("EDGEWISE_PORT", "9001")
    settings = Settings()
    assert (settings.port, settings.hold_s, settings.access_log) == (9001, 5.0, AccessLog.ALL)


def test_a_field_of_the_file_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "edgewise.toml"
    file.write_text("prot = 9000\n")
    monkeypatch.setenv("EDGEWISE_CONFIG", str(file))
    with pytest.raises(ValueError, match="prot"):
        Settings()


def test_a_variable_that_no_setting_has_is_named_with_what_was_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEWISE_PROT", "9000")
    monkeypatch.setenv("EDGEWISE_XYZZY", "1")
    monkeypatch.setenv("EDGEWISE_TEST_POSTGRES", "")
    assert unknown_variables() == [("EDGEWISE_PROT", "EDGEWISE_PORT"), ("EDGEWISE_XYZZY", None)]


def test_every_metric_is_documented_and_alerts_ask_for_metrics_that_exist(home: Home) -> None:
    home.start_task()
    home.phone(0)
    families = text_string_to_metric_families(home.request("GET", "/metrics").text)
    found = {f"{one.name}_total" if one.type == "counter" else one.name for one in families}
    there = {name for name in found if not name.endswith("_created")}
    text = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    listed = set(re.findall(r"^\| `(edgewise_\w+)` \|", text, re.MULTILINE))
    assert listed == there
    assert set(re.findall(r"edgewise_\w+", text)) <= there
