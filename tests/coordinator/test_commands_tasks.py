"""Tasks from the command line: an order as a file, its life, and watching it; against a real coordinator."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from coordinator.commands import watching
from coordinator.commands.ordering import plan_facts, read_order, template
from coordinator.commands.remote import Operator, connected
from coordinator.core.task_settings import ServerOptimiser, Stops, TaskSettings, facts
from coordinator.services.tasks import PLAIN_WARNING
from edge_runtime.protocol.plan import Plan, Summing
from edge_runtime.protocol.reasons import Outcome
from tests.coordinator.asking import assigned, send_outcome, send_report
from tests.coordinator.serving import Served, complaint, run, serving
from tests.programme import BUNDLE, BUNDLE_SHA256, CHECKPOINT, POPULATION, TENANT, TENANT_KEY

PLAN = {
    "clipping_norm": 4.0,
    "expected_participants": 4,
    "max_participants": 16,
    "goal": 4,
    "min_reports": 2,
    "close": "all_resolved",
    "summing": "plain",
}
SECURE: dict[str, Any] = {key: value for key, value in PLAN.items() if key != "summing"}
SETTINGS: dict[str, Any] = {"pool_size": 4, "over_selection": 1.0, "retry_rejected_s": 10, "stop": {"rounds": 2}}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("served")) as found:
        found.out("populations", "create", POPULATION)
        yield found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of an app's owner: a model, and the tenant key."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "bundle.ewb").write_bytes(BUNDLE)
    (tmp_path / "model" / "checkpoint.ewc").write_bytes(CHECKPOINT)
    (tmp_path / "tenant.key").write_text(TENANT_KEY.raw.hex() + "\n")
    return tmp_path


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(one)}" for key, one in value.items()) + "}"
    return json.dumps(value)


def order(
    folder: Path, name: str, plan: dict[str, Any] = PLAN, settings: dict[str, Any] = SETTINGS, **top: Any
) -> Path:
    whole = {
        "name": name,
        "tenant": TENANT,
        "population": POPULATION,
        "bundle": "model/bundle.ewb",
        "checkpoint": "model/checkpoint.ewc",
        **top,
    }
    lines = [f"{key} = {toml(value)}" for key, value in whole.items() if value is not None]
    for title, table in (("plan", plan), ("settings", settings)):
        lines += [f"[{title}]", *(f"{key} = {toml(value)}" for key, value in table.items())]
    path = folder / f"{name}.toml"
    path.write_text("\n".join(lines))
    return path


def create(served: Served, folder: Path, path: Path, *words: str) -> Any:
    return served.run("tasks", "create", str(path), "--tenant-key-file", str(folder / "tenant.key"), *words)


def created(served: Served, folder: Path, name: str, *words: str, **changes: Any) -> dict[str, Any]:
    result = create(served, folder, order(folder, name, **changes), "--json", *words)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


# --- orders -------------------------------------------------------------------------------------------------------


def test_the_template_is_an_order_that_can_be_read(folder: Path) -> None:
    (folder / "order.toml").write_text(template().replace('"acme"', json.dumps(TENANT)))
    read = read_order(folder / "order.toml", TENANT_KEY.public)
    assert (read.plan.bundle_sha256, read.plan.goal) == (BUNDLE_SHA256, 100)
    assert read.settings == TaskSettings(pool_size=150, stop=Stops(rounds=50))
    assert (read.plan.summing, read.plan.survivors, read.plan.fewest_members) == (Summing.SECURE, 104, 104)
    assert read.plan.version == 4, "what no later version brought is said so that all devices understand it"


def test_an_order_that_does_not_say_how_sums_are_made_sums_securely(served: Served, folder: Path) -> None:
    settings = {**SETTINGS, "pool_size": 16}
    found = created(served, folder, "secure", plan=SECURE, settings=settings)
    assert (found["summing"], found["warnings"]) == ("secure", [])
    plan = read_order(order(folder, "secure", plan={**SECURE, "survivors": 15}, settings=settings), TENANT_KEY.public)
    assert (plan.plan.survivors, plan.plan.fewest_members, plan.plan.lane_bits) == (15, 15, 24)


def test_plain_summing_is_asked_for_by_name_and_every_step_warns_of_it(served: Served, folder: Path) -> None:
    read = read_order(order(folder, "seen"), TENANT_KEY.public)
    assert (read.plan.summing, read.plan.version, read.plan.lane_bits) == (Summing.PLAIN, Plan.OLDEST, 32)
    assert PLAIN_WARNING in create(served, folder, order(folder, "seen")).stdout
    assert PLAIN_WARNING in served.out("tasks", "show", "seen")
    assert PLAIN_WARNING in served.out("tasks", "approve", "seen")
    assert PLAIN_WARNING not in served.out("tasks", "list")


def test_the_template_explains_every_field_of_plan_and_settings() -> None:
    text = template()
    for name in {field.name for field in dataclasses.fields(Plan)} - {"version"}:
        assert f"\n{name} = " in text or f"\n# {name} = " in text or f"{name} = " in text
        assert plan_facts().get(name) is not None or f"{name}" in ("tenant", "population"), name
    for kind in (TaskSettings, ServerOptimiser, Stops):
        for said in facts(kind).values():
            assert said.sentence in text


def test_what_tasks_new_prints_is_toml() -> None:
    assert tomllib.loads(run("tasks", "new").stdout)["settings"]["stop"] == {"rounds": 50}


def test_an_order_becomes_a_draft_with_its_settings(served: Served, folder: Path) -> None:
    found = created(served, folder, "drafted", settings={**SETTINGS, "server_optimiser": {"name": "adam"}})
    assert (found["state"], found["bundle_sha256"]) == ("draft", BUNDLE_SHA256)
    assert found["settings"]["server_optimiser"]["name"] == "adam"
    assert found["settings"]["server_optimiser"]["beta1"] == 0.9
    assert "no-stop" not in found["dry_run"]["forecast"]["cautions"]
    assert created(served, folder, "drafted", settings={**SETTINGS, "server_optimiser": {"name": "adam"}})["state"]


def test_the_bundle_suggests_what_the_plan_leaves_out(served: Served, folder: Path) -> None:
    read = read_order(order(folder, "suggested"), TENANT_KEY.public)
    assert (read.plan.epochs, read.plan.batch_size, read.plan.learning_rate) == (1, 8, 0.1)
    read = read_order(order(folder, "suggested", plan={**PLAN, "epochs": 3, "max_steps": 9}), TENANT_KEY.public)
    assert (read.plan.epochs, read.plan.max_steps, read.plan.version) == (3, 9, 2)


def test_a_bundle_that_the_coordinator_has_need_not_be_brought(served: Served, folder: Path) -> None:
    first = created(served, folder, "brought")
    plan = {**PLAN, "epochs": 1, "batch_size": 8, "learning_rate": 0.1}
    there = {"bundle": None, "checkpoint": None, "bundle_sha256": BUNDLE_SHA256}
    found = created(served, folder, "there", plan=plan, **there, checkpoint_sha256=first["checkpoint_sha256"])
    assert found["checkpoint_sha256"] == first["checkpoint_sha256"]


def test_a_dry_run_of_an_order_says_what_it_would_do_and_sends_nothing(served: Served, folder: Path) -> None:
    path = order(folder, "unsent")
    result = run("tasks", "create", str(path), "--tenant-key-file", str(folder / "tenant.key"), "--dry-run", "--start")
    assert result.exit_code == 0, result.output
    assert "approved and started" in result.stdout
    assert "nothing was sent" in result.stderr
    assert "there is no task 'unsent'" in complaint(served.run("tasks", "show", "unsent"), 1)


def test_an_order_says_what_hides_a_participant_and_that_its_norm_adapts(folder: Path) -> None:
    adaptive = {"quantile": 0.5, "smallest": 0.1, "largest": 9.0, "rate": 0.2, "count_noise": 3.0}
    claim = {"privacy": "central", "noise_multiplier": 1.5, "adaptive": adaptive}
    path = order(folder, "hidden", plan={**PLAN, **claim})
    assert read_order(path, TENANT_KEY.public).plan.needs_header
    shown = run("tasks", "create", str(path), "--tenant-key-file", str(folder / "tenant.key"), "--dry-run").stdout
    words = " ".join(shown.split())
    assert "central, z = 1.5" in words
    assert "follows the norms' quantile 0.5 within 0.1 to 9" in words


def test_a_task_shows_its_mode_its_noise_and_what_it_costs_against_either_opponent(
    served: Served, folder: Path
) -> None:
    def words(text: str) -> str:
        return " ".join(text.split())

    served.out("populations", "create", "hidden")
    claim = {**PLAN, "privacy": "central", "noise_multiplier": 3.672546, "separation": 2}
    path = order(folder, "hides", population="hidden", plan=claim)
    shown = words(create(served, folder, path).stdout)
    assert "central, z = 3.672546" in shown
    assert "set one: edgewise-coordinator privacy budget set hidden recipients --epsilon 8" in shown
    served.out("privacy", "budget", "set", "hidden", "recipients", "--epsilon", "8", "--target-delta", "1e-6")
    for shown in (words(create(served, folder, path).stdout), words(served.out("tasks", "show", "hides"))):
        assert "central, z = 3.672546" in shown
        assert "ε, coordinator no protection" in shown
        assert "ε, recipients at most 1.253 a round, 1.253 after 2 rounds, at δ = 1e-06" in shown
    created(served, folder, "open")
    assert "privacy none: nothing is claimed" in words(served.out("tasks", "show", "open"))
    assert "privacy: none: nothing is claimed" in served.out("tasks", "approve", "open")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"plan": {**PLAN, "gaol": 4}}, "did you mean goal?"),
        ({"plan": {**PLAN, "goal": "four"}}, "Plan.goal is not of type int"),
        ({"plan": {**PLAN, "goal": 1}}, "min_reports"),
        ({"plan": {key: value for key, value in PLAN.items() if key != "clipping_norm"}}, "lacks clipping_norm"),
        ({"settings": {**SETTINGS, "pool_sise": 4}}, "did you mean pool_size?"),
        ({"settings": {}}, "lacks pool_size"),
        ({"settings": {**SETTINGS, "pool_size": 0}}, "pool_size is 1 to 1,000,000"),
        ({"settings": {**SETTINGS, "stop": {"round": 2}}}, "did you mean rounds?"),
        ({"settings": {**SETTINGS, "time_zone": "Mars/Base"}}, "not in the IANA database"),
        ({"bundle": "nowhere.ewb"}, "cannot be read"),
        ({"bundle": None}, "either bundle or bundle_sha256"),
        ({"bundle": None, "bundle_sha256": "zz"}, "64 hex digits"),
        ({"bundle": 7}, "name of a file"),
        ({"seed": "short"}, "seed"),
        ({"tenant": None}, "lacks tenant"),
        ({"colour": "red"}, "unknown 'colour'"),
    ],
)
def test_an_order_that_is_wrong_says_where(served: Served, folder: Path, changes: dict[str, Any], says: str) -> None:
    line = complaint(create(served, folder, order(folder, "wrong", **changes)))
    assert says in line
    assert says == "cannot be read" or "wrong.toml" in line


def test_an_order_is_not_toml_not_there_or_signed_by_another(served: Served, folder: Path) -> None:
    (folder / "order.toml").write_text("name = ")
    assert "is not TOML" in complaint(create(served, folder, folder / "order.toml"))
    assert "cannot be read" in complaint(create(served, folder, folder / "nowhere.toml"))
    path = order(folder, "signed")
    (folder / "tenant.key").write_text("11" * 32)
    assert "not by the expected key" in complaint(create(served, folder, path))
    (folder / "tenant.key").write_text("no key")
    line = complaint(create(served, folder, path))
    assert "edgewise-export keygen" in line
    assert "no key" not in line


def test_an_order_for_a_population_that_is_not_there_sends_no_bytes(served: Served, folder: Path) -> None:
    line = complaint(create(served, folder, order(folder, "lost", population="keyboards"), "--json"), 1)
    assert "did you mean 'keyboard'?" in line


# --- the life of a task -------------------------------------------------------------------------------------------


def test_a_task_is_created_started_paused_resumed_and_cancelled(served: Served, folder: Path) -> None:
    assert created(served, folder, "lived", "--start")["state"] == "active"
    assert created(served, folder, "lived", "--start")["state"] == "active", "again changes nothing"
    for verb, state in (("pause", "paused"), ("resume", "active")):
        assert f"lived is {state}" in served.out("tasks", verb, "lived")
    assert "add --yes" in complaint(served.run("tasks", "cancel", "lived"))
    assert "lived is cancelled" in served.out("tasks", "cancel", "lived", "--yes")
    assert "cannot be paused" in complaint(served.run("tasks", "pause", "lived"), 1)
    assert "lived" in served.out("tasks", "list", "--state", "cancelled")
    assert "lived" not in served.out("tasks", "list", "--state", "active")


def test_a_draft_is_approved_and_started_step_by_step(served: Served, folder: Path) -> None:
    created(served, folder, "stepped")
    assert "cannot be started" in complaint(served.run("tasks", "start", "stepped"), 1)
    assert "stepped is approved" in served.out("tasks", "approve", "stepped")
    assert "stepped is active" in served.out("tasks", "start", "stepped")
    served.out("tasks", "cancel", "stepped", "--yes")


def test_a_task_is_changed_cloned_and_tried_on_paper(served: Served, folder: Path) -> None:
    created(served, folder, "changed")
    assert "changed" in served.out("tasks", "change", "changed", "--set", "stop.rounds=9", "--set", "priority=5")
    found = json.loads(served.out("tasks", "show", "changed", "--json"))
    assert (found["settings"]["stop"]["rounds"], found["settings"]["priority"]) == (9, 5)
    served.out("tasks", "clone", "changed", "cloned", "--set", "stop.rounds=3", "--set", "time_zone=Europe/Berlin")
    found = json.loads(served.out("tasks", "show", "cloned", "--json"))
    assert (found["settings"]["stop"]["rounds"], found["settings"]["priority"]) == (3, 5)
    assert found["settings"]["time_zone"] == "Europe/Berlin"
    dry = served.run("tasks", "dry-run", "cloned")
    assert dry.exit_code == 0
    assert "too-few-devices" in dry.stdout


@pytest.mark.parametrize(
    ("given", "status", "says"),
    [
        ("priority", 2, "--set is a setting and its value"),
        (".rounds=1", 2, "--set is a setting and its value"),
        ("priority=many", 1, "priority"),
        ("priority=101", 1, "priority is -100 to 100"),
        ("pace=1", 1, "unknown key 'pace'"),
        ("mode=buffered", 1, "cannot change"),
        ("stop.metric.task=nobody", 1, "stop.metric lacks the key"),
    ],
)
def test_a_change_that_cannot_be_is_refused(served: Served, folder: Path, given: str, status: int, says: str) -> None:
    name = f"fixed-{given.encode().hex()[:20]}"
    created(served, folder, name, "--start")
    assert says in complaint(served.run("tasks", "change", name, "--set", given), status)
    served.out("tasks", "cancel", name, "--yes")


def test_a_setting_goes_into_an_object_or_has_a_value(served: Served) -> None:
    line = complaint(served.run("tasks", "change", "any", "--set", "stop=1", "--set", "stop.rounds=2"))
    assert "another --set" in line


def test_commands_that_need_a_task_show_the_closest_name(served: Served, folder: Path) -> None:
    created(served, folder, "unmistaken")
    for words in (("approve",), ("start",), ("pause",), ("resume",), ("dry-run",), ("change", "--set", "priority=1")):
        assert "did you mean 'unmistaken'?" in complaint(served.run("tasks", words[0], "unmistakem", *words[1:]), 1)
    assert "did you mean" in complaint(served.run("tasks", "clone", "unmistakem", "other"), 1)
    assert "did you mean" in complaint(served.run("tasks", "cancel", "unmistakem", "--yes"), 1)


# --- watching -----------------------------------------------------------------------------------------------------


def test_watching_says_what_happens_until_the_task_is_completed(
    served: Served, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    created(served, folder, "watched", "--start")
    home = served.home
    home.look()
    phones = [home.phone(number) for number in range(4)]

    def round_() -> None:
        assignments = assigned(home, phones)
        send_outcome(home, phones[3], assignments[3], Outcome.BATTERY_LOW)
        for phone, assignment in zip(phones[:3], assignments, strict=False):
            send_report(home, phone, assignment).raise_for_status()
        home.clock.forward(60)
        home.look()

    steps: Iterator[Callable[[], None]] = iter([round_, round_])
    monkeypatch.setattr("time.sleep", lambda _seconds: next(steps)())
    result = served.run("tasks", "watch", "watched")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("watched is active: 0 of 2 rounds, model version 0")
    assert "round 1 looks for devices" in lines
    assert "round 1 committed: 3 of 4 reports, without a report 1 battery-low" in lines
    assert lines[-1].startswith("watched is completed, rounds-done: 2 of 2 rounds, model version 2")
    assert "3" in served.out("tasks", "funnel", "watched")
    counted = json.loads(served.out("tasks", "funnel", "watched", "--json"))
    assert (counted["counted"], counted["outcomes"]) == (6, {"battery-low": 2})
    assert "committed" in served.out("tasks", "show", "watched")


def test_watching_a_task_that_is_cancelled_says_so_and_ends_with_1(served: Served, folder: Path) -> None:
    created(served, folder, "hopeless", "--start")
    served.out("tasks", "cancel", "hopeless", "--yes")
    result = served.run("tasks", "watch", "hopeless")
    assert result.exit_code == 1
    assert "hopeless is cancelled, cancelled: 0 of 2 rounds" in result.stdout


def test_ctrl_c_leaves_the_task_alone(served: Served, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    created(served, folder, "left-alone", "--start")

    def interrupted(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", interrupted)
    result = served.run("tasks", "watch", "left-alone")
    assert result.exit_code == 130
    assert "left-alone goes on" in result.stderr
    assert json.loads(served.out("tasks", "show", "left-alone", "--json"))["state"] == "active"
    served.out("tasks", "cancel", "left-alone", "--yes")


def test_watching_asks_for_rounds_that_have_ended_once(
    served: Served, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    created(served, folder, "asked-once", "--start")
    served.home.look()
    asked: list[object] = []
    get = Operator.get

    def noting(self: Operator, path: str, **query: object) -> Any:
        if path.endswith("/rounds"):
            asked.append(query["after"])
        return get(self, path, **query)

    monkeypatch.setattr(Operator, "get", noting)
    with connected(served.address, served.token_file) as operator:
        watched = watching.Watch(operator, "asked-once")
        assert [one.phase for one in watched.look().rounds] == ["selecting"]
        assert not watched.look().ended
        served.out("tasks", "cancel", "asked-once", "--yes")
        assert [one.phase for one in watched.look().rounds] == ["abandoned"]
        assert watched.look().ended
    assert asked == [0, 0, 0, 1], "the round is open twice, and has ended once"
