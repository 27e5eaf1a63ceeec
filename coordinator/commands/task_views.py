"""Tasks, forecasts and funnels as tables."""

from __future__ import annotations

from typing import Any, Final

import typer

from coordinator.commands.console import cell, moment, print_facts, print_table, short
from coordinator.core.privacy.figures import rounded_up
from coordinator.core.tasks import TaskState

RECENT: Final = 10
"""Rounds that are shown of a task."""


def rounds_of(one: dict[str, Any]) -> str:
    wanted = "" if one["rounds_wanted"] is None else f"/{one['rounds_wanted']}"
    return f"{one['rounds_committed']}{wanted}"


def print_task(tree: dict[str, Any]) -> None:
    print_facts(
        [
            ("task", tree["name"]),
            ("population", tree["population"]),
            ("state", tree["state"] + (f", {tree['ended_because']}" if tree["ended_because"] else "")),
            ("rounds", rounds_of(tree)),
            ("model version", f"{tree['model_version']}, checkpoint {tree['checkpoint_sha256']}"),
            ("clipping norm", f"{tree['clipping_norm']:.6g}"),
            *privacy_facts(tree),
            ("bundle", tree["bundle_sha256"]),
            *((f"{one}", moment(tree[f"{one}_at"])) for one in ("created", "approved", "started", "ended")),
            *(("warning", one) for one in tree.get("warnings", ())),
            *((f"settings.{name}", value) for name, value in tree["settings"].items() if name != "version"),
        ]
    )
    if tree["rounds"]:
        typer.echo()
        print_table(
            ("round", "phase", "chosen", "reports", "norm", "outcomes", "result", "opened"),
            [
                (
                    one["number"],
                    one["abandonment"] or one["phase"],
                    one["chosen"],
                    one["reports"],
                    f"{one['clipping_norm']:.3g}",
                    ", ".join(f"{count} {reason}" for reason, count in one["outcomes"].items()) or None,
                    one["metrics"] or short(one["result_sha256"]),
                    moment(one["opened_at"]),
                )
                for one in tree["rounds"][-RECENT:]
            ],
            "",
        )


def privacy_facts(tree: dict[str, Any]) -> list[tuple[str, object]]:
    """What hides a participant of a task, and what it costs against either opponent."""
    privacy = tree["privacy"]
    facts: list[tuple[str, object]] = [("privacy", hidden_by(privacy["mode"], privacy["noise_multiplier"]))]
    if privacy["example_noise_multiplier"] is not None:
        noise = f"z = {privacy['example_noise_multiplier']:.9g}"
        facts.append(("single examples", f"each step hides them on the device, {noise}"))
    if privacy["noise_multiplier"] is not None and not privacy["costs"]:
        facts.append(("ε", _without_budget(tree["population"], privacy["mode"])))
    return facts + [(f"ε, {one['opponent']}", _cost(one, tree["rounds_wanted"])) for one in privacy["costs"]]


def hidden_by(mode: str, noise: float | None) -> str:
    """A mode, with its noise multiplier."""
    return f"{mode}: nothing is claimed" if noise is None else f"{mode}, z = {noise:.9g}"


def _without_budget(population: str, mode: str) -> str:
    from coordinator.core.privacy.statement import PROTECTS, Mode

    opponent = min(PROTECTS[Mode(mode)])
    command = f"edgewise-coordinator privacy budget set {population} {opponent} --epsilon 8"
    return f"the population has no budget to state it at; set one: {command}"


def _cost(one: dict[str, Any], rounds: int | None) -> str:
    if not one["protects"]:
        return "no protection: the mode leaves devices open to it"
    if one["epsilon_a_round"] is None:
        return "no bound"
    if rounds is None:
        then = "and no number of rounds is set"
    elif one["epsilon_in_all"] is None:
        then = f"not known yet after {rounds:,} rounds"
    else:
        then = f"{rounded_up(one['epsilon_in_all'], 4)} after {rounds:,} rounds"
    return f"at most {rounded_up(one['epsilon_a_round'], 4)} a round, {then}, at δ = {one['target_delta']:.3g}"


def print_moved(tree: dict[str, Any]) -> None:
    """A task that moved a step, and what whoever let it should know."""
    typer.echo(f"{tree['name']} is {tree['state']}")
    if tree["state"] in (TaskState.APPROVED, TaskState.ACTIVE):
        for name, said in privacy_facts(tree):
            typer.echo(f"{name}: {cell(said)}")
    for warning in tree["warnings"]:
        typer.echo(f"warning: {warning}")


def print_created(tree: dict[str, Any]) -> None:
    facts = [("state", tree["state"]), ("checkpoint", tree["checkpoint_sha256"])]
    print_facts([*facts, *privacy_facts(tree)[1:], *(("warning", one) for one in tree["warnings"])])
    print_dry_run(tree["dry_run"])


def print_dry_run(tree: dict[str, Any]) -> None:
    seen = tree["forecast"]
    total = seen["total"]
    print_facts(
        [
            *(("in the way", one) for one in tree["findings"]),
            *(("look at", one) for one in seen["cautions"]),
            ("devices", f"{seen['devices']} match, {seen['chosen']} chosen a round"),
            ("a round takes", "never gets its reports" if seen["round_s"] is None else f"{seen['round_s']:.0f} s"),
            ("rounds a day", f"{seen['rounds_a_day']:.1f}"),
            ("opens", moment(seen["opens_at"])),
            ("costs a round", _costs(seen["a_round"])),
            ("costs in all", "unknown: nothing stops it that can be foreseen" if total is None else _costs(total)),
        ]
    )


def _costs(tree: dict[str, Any]) -> str:
    moved = (tree["bytes_down"] + tree["bytes_up"]) / 1e6
    return f"at most {moved:,.1f} MB and {tree['phone_seconds']:,} phone-seconds"


def print_funnel(tree: dict[str, Any]) -> None:
    steps = ("offered", "chosen", "accepted", "downloaded", "reported", "counted")
    first = tree["chosen"]
    print_table(
        ("step", "devices", "of chosen"),
        [(one, tree[one], "–" if not first else f"{tree[one] / first:.0%}") for one in steps],
        "",
    )
    if tree["outcomes"]:
        typer.echo()
        most_first = sorted(tree["outcomes"].items(), key=lambda one: -one[1])
        print_table(("without a report", "devices"), most_first, "")
    typer.echo()
    print_facts(
        [("phone-seconds", tree["phone_seconds"]), ("bytes", tree["bytes"]), ("battery", tree["battery_percent"])]
    )
