"""`privacy`: plans for budgets, budgets, ledgers, and what may be said."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from coordinator.commands.charts import lines, svg
from coordinator.commands.console import (
    AsJson,
    Mistake,
    moment,
    one_line_errors,
    print_facts,
    print_table,
    say,
    short,
    show,
)
from coordinator.commands.remote import Address, TokenFile, connected, part
from coordinator.core.privacy.figures import rounded_up

privacy = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="""What privacy costs: plan it, set budgets, read ledgers, and what may be said.

    ε bounds how much any one participant can change what an opponent believes: 0.1 is hardly anything, 1 is strong, 10
    is weak but better than nothing. There are two opponents. The coordinator sees the sum of each group: against it
    only larger groups help. Recipients get the model: against them more groups help too.

    \b
    1. edgewise-coordinator privacy plan --population 900 --rounds 50 \\
         --goal 300 --parameters 300 --epsilon-recipients 2

    2. edgewise-coordinator privacy budget set keyboard coordinator --epsilon 8

    3. put the noise multiplier of the plan into the task's plan, with its mode; sign, approve, start

    4. edgewise-coordinator privacy statement keyboard""",
)
budget = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="""What a population may spend, against whom, and what is gone.

    edgewise-coordinator privacy budget set keyboard coordinator --epsilon 8

    edgewise-coordinator privacy budget show keyboard""",
)
privacy.add_typer(budget, name="budget")

_NO_PROMISE: Final = 100.0
"""ε above which a budget is next to no promise."""

Population = Annotated[str, typer.Argument(help="The population.")]


class Against(StrEnum):
    COORDINATOR = "coordinator"
    RECIPIENTS = "recipients"


class PlannedMode(StrEnum):
    DISTRIBUTED = "distributed"
    CENTRAL = "central"
    CORRELATED = "correlated"
    LOCAL = "local"


@privacy.command()
def plan(
    population: Annotated[int, typer.Option(help="Devices of the population, N.")],
    rounds: Annotated[int, typer.Option(help="Rounds of the whole training.")],
    goal: Annotated[
        int, typer.Option(help="Reports wanted in a round, of all groups together; an order's goal is that of one.")
    ],
    parameters: Annotated[int, typer.Option(help="Values of a report: the model's shared weights.")],
    mode: Annotated[PlannedMode, typer.Option(help="What is to hide a participant.")] = PlannedMode.DISTRIBUTED,
    epsilon_coordinator: Annotated[
        float | None, typer.Option(help="Budget ε against whoever runs the coordinator.", show_default=False)
    ] = None,
    epsilon_recipients: Annotated[
        float | None, typer.Option(help="Budget ε against whoever gets the model.", show_default=False)
    ] = None,
    target_delta: Annotated[
        float | None, typer.Option(help="Chance that ε does not hold; 1/N^1.1 unless given.", show_default=False)
    ] = None,
    largest_error: Annotated[
        float, typer.Option(help="Noise in a round's mean that training still bears, in clipping norms.")
    ] = 1.0,
    clipping_norm: Annotated[float, typer.Option(help="Largest L2 norm of a delta.")] = 1.0,
    group_size: Annotated[int, typer.Option(help="Members of one group that sums securely.")] = 100,
    separation: Annotated[int, typer.Option(help="A device is in every so manieth round at most.")] = 1,
    most: Annotated[
        int | None,
        typer.Option(help="Rounds that one device is in at most; no limit unless given.", show_default=False),
    ] = None,
    chart: Annotated[
        Path | None, typer.Option(help="Write the chart of ε by round as SVG.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find the noise that a budget needs, what it costs in error, and what to do where both cannot be kept.

    Nothing is asked of a coordinator. The chart shows every mode, with the noise that it needs for the same budget.

    \b
    edgewise-coordinator privacy plan --population 900 --rounds 50 \\
      --goal 100 --parameters 300 --epsilon-coordinator 8

    In another mode, against recipients:

    \b
    edgewise-coordinator privacy plan --population 900 --rounds 50 \\
      --goal 250 --parameters 300 --mode central --epsilon-recipients 2

    With devices that stay away for ten rounds and are in three at most, and a picture:

    \b
    edgewise-coordinator privacy plan --population 9000 --rounds 50 \\
      --goal 100 --parameters 300 --epsilon-coordinator 2 \\
      --separation 10 --most 3 --chart epsilon.svg
    """
    with one_line_errors():
        from pydantic import ValidationError

        from coordinator.api.operator.privacy import WishRequest, advice_for

        try:
            wish = WishRequest(
                population=population, rounds=rounds, goal=goal, parameters=parameters, mode=mode.value,
                epsilon_coordinator=epsilon_coordinator, epsilon_recipients=epsilon_recipients,
                target_delta=target_delta, largest_error=largest_error, clipping_norm=clipping_norm,
                group_size=group_size, separation=separation, most_participations=most,
            )  # fmt: skip
        except ValidationError as problem:
            first = problem.errors()[0]
            option = "--" + str(first["loc"][0]).removesuffix("_participations").replace("_", "-")
            raise Mistake(f"{option}: {first['msg'].lower()}") from None
        advice = advice_for(wish).model_dump(mode="json")
        if chart is not None:
            given = ((Against.COORDINATOR, epsilon_coordinator), (Against.RECIPIENTS, epsilon_recipients))
            title = f"ε by round, {goal:,} reports a round, δ = {advice['target_delta']:.2g}"
            chart.write_text(svg(advice, title, {one: epsilon for one, epsilon in given if epsilon is not None}))
    show(as_json, advice, _print_plan)
    if chart is not None:
        say(f"the chart is in {chart}")


def _print_plan(tree: Any) -> None:
    for sentence in tree["sentences"]:
        typer.echo(sentence)
    typer.echo()
    print_facts(
        [
            ("mode", tree["mode"]),
            ("reachable", tree["reachable"]),
            ("noise multiplier", rounded_up(tree["noise_multiplier"])),
            ("error, clipping norms", round(tree["error"], 4)),
            ("goal needed", tree["goal_needed"]),
            ("target delta", tree["target_delta"]),
            *((f"against the {one['opponent']}", one["sentence"]) for one in tree["figures"]),
            ("clipping", tree["clipping"]),
        ]
    )
    typer.echo("\nε by round, each mode with the noise that it needs:")
    for line in lines(tree):
        typer.echo(line)


@budget.command("set")
def set_budget(
    population: Population,
    opponent: Annotated[Against, typer.Argument(help="Against whom.")],
    epsilon: Annotated[float | None, typer.Option(help="ε at the target delta.", show_default=False)] = None,
    rho: Annotated[float | None, typer.Option(help="Or ρ; 1 at most is good practice.", show_default=False)] = None,
    target_delta: Annotated[
        float | None, typer.Option(help="Below 1/N; 1/N^1.1 unless given.", show_default=False)
    ] = None,
    address: Address = "",
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Set what a population may spend. Tasks then have to protect from that opponent, and end when it is spent.

    A budget may be raised, and the ledger keeps that it was; what is spent stays spent.

    edgewise-coordinator privacy budget set keyboard coordinator --epsilon 8

    \b
    edgewise-coordinator privacy budget set keyboard recipients \\
      --rho 0.5 --target-delta 1e-8
    """
    with connected(address, token_file) as operator:
        if (epsilon is None) == (rho is None):
            raise Mistake("give --epsilon, or --rho")
        wanted = {"epsilon": epsilon, "rho": rho, "target_delta": target_delta}
        path = f"/populations/{part(population)}/privacy/budgets/{opponent}"
        found = operator.change("PUT", path, wanted).tree
    show(as_json, found, lambda tree: _print_budgets([tree]))
    allowed = _epsilon_of(found)
    if allowed > _NO_PROMISE:
        say(f"warning: a budget of ε = {rounded_up(allowed, 3)} is next to no promise; 1 is strong, 10 is weak")


@budget.command("show")
def show_budgets(
    population: Population, address: Address = "", token_file: TokenFile = None, as_json: AsJson = False
) -> None:
    """Show the budgets of a population: what is spent for good, what is reserved for rounds at work, what is left.

    edgewise-coordinator privacy budget show keyboard
    """
    with connected(address, token_file) as operator:
        found = operator.get(f"/populations/{part(population)}/privacy/budgets").tree
    show(as_json, found, _print_budgets)


def _epsilon_of(one: Any) -> float:
    """ε that a budget allows at its target delta."""
    from coordinator.core.privacy.conversions import epsilon_bound

    if one["epsilon"] is not None:
        return float(one["epsilon"])
    return epsilon_bound(one["rho"], one["target_delta"])


def _figure(one: Any) -> str:
    """A budget, in its unit."""
    return f"ε = {one['epsilon']:g}" if one["epsilon"] is not None else f"ρ = {one['rho']:g}"


def _print_budgets(tree: Any) -> None:
    print_table(
        ("against", "budget", "target delta", "spent", "reserved", "share", "alerts"),
        [
            (
                one["opponent"],
                _figure(one),
                f"{one['target_delta']:.3g}",
                f"{one['spent']:.4g}",
                f"{one['reserved']:.4g}",
                f"{one['share']:.1%}",
                ", ".join(f"{share:.0%}" for share in one["alerts"]),
            )
            for one in tree
        ],
        "there is no budget yet: edgewise-coordinator privacy budget set POPULATION coordinator --epsilon 8",
    )


def _budgeted(one: Any) -> str:
    """A budget, as an entry of a ledger."""
    at = "" if one["epsilon"] is None else f" at δ = {one['target_delta']:.3g}"
    return f"budget, {one['opponent']}: {_figure(one)}{at}"


@privacy.command()
def ledger(
    population: Population,
    known: Annotated[
        str, typer.Option(help="A head that was kept elsewhere, ENTRIES:DIGEST; refused if it is not part of it.")
    ] = "",
    most: Annotated[int, typer.Option(min=1, help="Entries that are shown; the oldest come first.")] = 1000,
    address: Address = "",
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Read the ledger of a population: every budget, reservation and charge. It is verified before it is shown.

    `privacy statement` prints its head. Keep it elsewhere, and give it back as --known: a ledger that was cut off or
    rewritten since is refused.

    edgewise-coordinator privacy ledger keyboard
    """
    with connected(address, token_file) as operator:
        path = f"/populations/{part(population)}/privacy/ledger"
        found = operator.pages(path, most, known=known or None)
    show(
        as_json,
        found,
        lambda tree: print_table(
            ("entry", "at", "what", "task", "round", "ρ coordinator", "ρ recipients", "digest"),
            [
                (
                    one["place"],
                    moment(one["at"]),
                    one["kind"] if one["opponent"] is None else _budgeted(one),
                    one["task"],
                    one["round"],
                    one["rho_coordinator"],
                    one["rho_recipients"],
                    short(one["digest"]),
                )
                for one in tree
            ],
            "the ledger is empty: it begins with the first budget",
        ),
    )


@privacy.command()
def statement(
    population: Population,
    task: Annotated[str | None, typer.Option(help="Of one task alone.", show_default=False)] = None,
    claim: Annotated[bool, typer.Option("--claim", help="Ask for a second opinion too, and keep both.")] = False,
    address: Address = "",
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Say what may be said: a figure against each opponent, with unit, adjacency, mechanism and assumptions.

    edgewise-coordinator privacy statement keyboard

    edgewise-coordinator privacy statement keyboard --task words --json
    """
    with connected(address, token_file) as operator:
        path = f"/populations/{part(population)}/privacy"
        claims = operator.change("POST", f"{path}/claims").tree if claim else []
        found = operator.get(f"{path}/statement", task=task).tree
    show(as_json, {**found, "claims": claims} if claim else found, _print_statement)


def _print_statement(tree: Any) -> None:
    print_facts(
        [
            ("population", tree["population"]),
            ("task", tree["task"]),
            ("modes", ", ".join(tree["modes"])),
            ("rounds charged", tree["rounds"]),
            ("ledger since", moment(tree["since"])),
            ("head", f"{tree['entries']}:{tree['head']}"),
        ]
    )
    for one in tree["figures"]:
        typer.echo(f"\n{one['sentence']}")
    if not tree["figures"]:
        typer.echo("\nNothing was charged: nothing may be claimed.")
    for one in tree["examples"]:
        typer.echo(f"\nSingle examples, task {one['task']}, apart from the figures above: {one['figure']['sentence']}")
    for one in tree.get("claims", []):
        second = (
            "nobody" if one["second_epsilon"] is None else f"{one['second_accountant']}: {one['second_epsilon']:.4g}"
        )
        typer.echo(
            f"\nClaimed against the {one['opponent']}: ε = {rounded_up(one['epsilon'], 4)}; second opinion: {second}"
        )
