"""`edgewise-sim`: a real model trains across simulated phones."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from edge_runtime.protocol.plan import Privacy, Summing

if TYPE_CHECKING:
    from device_sim.recipes import DemoOptions

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Fleets of simulated phones on the real wire protocol.",
)


def _fail(sentence: str) -> NoReturn:
    typer.echo(f"edgewise-sim: {sentence}", err=True)
    raise typer.Exit(2)


_Model = Annotated[
    str | None,
    typer.Option(
        help="zoo:cnn, zoo:mlp, or your own: path/file.py:function that returns a Keras model "
        "[digits zoo:cnn, watch zoo:mlp]"
    ),
]
_Phones = Annotated[int | None, typer.Option(min=2, help="Phones, of which a fifth never train [digits 100, watch 20]")]
_Epochs = Annotated[
    int | None, typer.Option(min=1, max=1000, help="Passes over a phone's examples in a round [digits 2, watch 3]")
]
_LearningRate = Annotated[
    float | None,
    typer.Option(min=1e-6, max=1000, help="Of a phone's SGD [digits 0.2, watch 0.1; another model 0.1, 0.03]"),
]
_Summing = Annotated[
    Summing, typer.Option(help="secure: the coordinator sees sums of groups alone; plain: it sees each report")
]
_Privacy = Annotated[
    Privacy | None,
    typer.Option(
        help="none, or distributed: each phone adds noise before its report is masked "
        "[distributed where 64 phones or more train and sum securely]"
    ),
]
_Exported = Annotated[
    Path | None, typer.Option(help="Folder that `edgewise-export build` wrote, with tenant.key; skips exporting")
]


@app.command()
def demo(
    dataset: Annotated[str, typer.Option(help="digits (5,000 MNIST digits) or watch (ten people's wrists)")] = "digits",
    model: _Model = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds to commit [digits 10, watch 20]")] = None,
    devices: _Phones = None,
    epochs: _Epochs = None,
    learning_rate: _LearningRate = None,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same final weights, bit for bit")] = 1,
    summing: _Summing = Summing.SECURE,
    privacy: _Privacy = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the coordinator; 0 for any free one")] = 0,
    out: Annotated[Path, typer.Option(help="Folder of the report, the summary and the logs")] = Path("build/demo"),
    exported: _Exported = None,
) -> None:
    """Export a model, start a coordinator and a fleet, train, and write a report.

    Everything is real but the phones: the TFLite interpreter, HTTP, signatures, the database. Stop it with Ctrl-C.

    \b
    edgewise-sim demo
    edgewise-sim demo --dataset watch --model zoo:cnn
    edgewise-sim demo --model my_model.py:build
    """
    from device_sim.recipes import RECIPES, DemoOptions

    if dataset not in RECIPES:
        _fail(f"there is no dataset {dataset!r}; choose one of {', '.join(RECIPES)}")
    options = DemoOptions(
        dataset=dataset,
        model=model or RECIPES[dataset].model,
        rounds=rounds,
        epochs=epochs,
        learning_rate=learning_rate,
        devices=devices,
        seed=seed,
        summing=summing,
        privacy=privacy,
        port=port,
        out=out,
        exported=exported,
    )
    _demonstrate(options)


def _demonstrate(options: DemoOptions) -> None:
    """Run a demo before the user's eyes."""
    from rich.console import Console

    from device_sim.demo import run_demo
    from device_sim.interrupts import Interrupted, leave, waiting_for_signals
    from device_sim.processes import Children, CommandFailed
    from device_sim.programme import OperatorCallFailed
    from device_sim.terminal import print_summary, watching
    from edge_runtime.interpreters import runtime_name
    from edge_runtime.protocol.errors import Refusal

    console, children = Console(), Children()
    try:
        runtime_name()
        with waiting_for_signals() as interrupts, watching(console) as watcher:
            history, summary = interrupts.run(lambda: run_demo(options, watcher, children), children.stop_all)
    except (CommandFailed, OperatorCallFailed, ValueError) as problem:
        _fail(str(problem))
    except Refusal as refusal:
        _fail(refusal.detail)
    except Interrupted:
        leave()
    print_summary(console, history, summary, options.out)


@app.command()
def fleet(
    coordinator: Annotated[str, typer.Option(help="Its address: http://127.0.0.1:8470")],
    tenant: Annotated[str, typer.Option(help="Whose phones these are")],
    population: Annotated[str, typer.Option(help="The population they enrol in")],
    tenant_key: Annotated[str, typer.Option(help="Trust root of bundles and plans, 64 hex digits")],
    coordinator_key: Annotated[str, typer.Option(help="Trust root of checkpoints, 64 hex digits")],
    dataset: Annotated[str, typer.Option(help="What the phones hold: digits or watch")] = "digits",
    devices: Annotated[int | None, typer.Option(min=2, help="Phones, of which a fifth never train")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Determines keys, data split, behaviour and training")] = 1,
    authority_key: Annotated[str | None, typer.Option(help="Who certifies phones for secure summing")] = None,
    smallest_group: Annotated[int, typer.Option(min=2, help="Least members of a group these phones join")] = 64,
    fewest_survivors: Annotated[int, typer.Option(min=2, help="Least reports of a sum they help to open")] = 52,
) -> None:
    """Run a fleet against a coordinator until its task has ended; one JSON line an event on standard output."""
    from device_sim.datasets import load
    from device_sim.events import EventWriter
    from device_sim.fleet import Fleet, FleetConfig
    from device_sim.interrupts import signals_as_interrupts
    from edge_runtime.driver import Unreachable
    from edge_runtime.protocol.errors import Refusal
    from edge_runtime.protocol.keys import PublicKey, TrustRoots
    from edge_runtime.protocol.secure_sum.transcript import Floors

    try:
        roots = TrustRoots(
            tenant=PublicKey(bytes.fromhex(tenant_key)),
            coordinator=PublicKey(bytes.fromhex(coordinator_key)),
            authority=None if authority_key is None else PublicKey(bytes.fromhex(authority_key)),
        )
        floors = Floors(smallest_group=smallest_group, fewest_survivors=fewest_survivors)
        config = FleetConfig(
            coordinator=coordinator, roots=roots, tenant=tenant, population=population, seed=seed, groups=floors
        )
        with signals_as_interrupts():
            Fleet(config, load(dataset, devices=devices, seed=seed), EventWriter(sys.stdout)).run()
    except Refusal as refusal:
        _fail(f"the coordinator refused: {refusal.detail} ({refusal.code})")
    except (Unreachable, ValueError) as problem:
        _fail(str(problem))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


@app.command()
def baselines(
    folder: Annotated[Path, typer.Option(help="Where bundle.ewb, checkpoint.ewc and plan.json are")],
    tenant_key: Annotated[str, typer.Option(help="Trust root of the bundle, 64 hex digits")],
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the examples")],
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Also so many rounds of the fleet's training, without its noise")
    ] = None,
    dataset: Annotated[str, typer.Option(help="What the phones hold: digits or watch")] = "digits",
    devices: Annotated[int | None, typer.Option(min=2, help="Phones, of which a fifth never train")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Determines the data split and the training")] = 1,
) -> None:
    """Train without federation, each phone alone and all data pooled; writes baselines.json into the folder."""
    from device_sim.baselines import measure_folder
    from device_sim.datasets import load
    from device_sim.events import EventWriter, TrainedAlone
    from device_sim.interrupts import signals_as_interrupts
    from edge_runtime.protocol.errors import Refusal
    from edge_runtime.protocol.keys import PublicKey

    tell = EventWriter(sys.stdout)
    try:
        with signals_as_interrupts():
            measure_folder(
                folder,
                PublicKey(bytes.fromhex(tenant_key)),
                load(dataset, devices=devices, seed=seed),
                epochs=epochs,
                seed=seed,
                replay_rounds=rounds,
                progress=lambda done: tell(TrainedAlone(done)),
            )
    except Refusal as refusal:
        _fail(f"{refusal.detail} ({refusal.code})")
    except (OSError, ValueError) as problem:
        _fail(str(problem))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


@app.command()
def audit(
    plan: Annotated[
        Path | None, typer.Option(help="A task's plan as it was signed (JSON); else the plan is made from the options")
    ] = None,
    mode: Annotated[
        str, typer.Option(help="distributed, local, central, correlated, or example-level: the examples on a phone")
    ] = "distributed",
    noise_multiplier: Annotated[
        float, typer.Option(min=1e-3, max=1000, help="Noise over the clipping norm, of a sum or of a local report")
    ] = 2.0,
    group: Annotated[int, typer.Option(min=5, max=1000, help="Devices whose reports are summed together")] = 100,
    separation: Annotated[int, typer.Option(min=1, help="Rounds between two participations of a device")] = 6,
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="Rounds of the task")] = 6,
    target_delta: Annotated[float, typer.Option(min=1e-12, max=0.5, help="δ of the claim")] = 1e-5,
    canaries: Annotated[
        int, typer.Option(min=100, max=10_000_000, help="More find smaller faults: 10,000 find half the noise")
    ] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Of coins and rounding; noise is the system's, fresh each time")] = 1,
    out: Annotated[Path, typer.Option(help="Folder of audit.html and audit.json")] = Path("build/audit"),
) -> None:
    """Attack a task's privacy with canaries, and hold what an attacker can show against what is claimed.

    Canaries are devices that take part by a coin. They go through the code that phones and the coordinator run:
    limits, clipping, rounding, noise, sum, release. An attacker who sees the releases guesses the coins; how often it
    is right gives a lower bound on ε at 95 % (Steinke et al. 2023). Ends with 1 where the bound is above the claim: a
    promise is broken. A bound below it proves nothing, and is far below a right claim.

    \b
    edgewise-sim audit
    edgewise-sim audit --mode local --noise-multiplier 3.5
    edgewise-sim audit --plan build/demo/plan.json --rounds 30
    edgewise-sim audit --mode correlated --noise-multiplier 6 \\
      --separation 3 --canaries 100000
    """
    from rich.console import Console

    from coordinator.core.privacy.statement import Mode
    from device_sim.audit.command import run_audit
    from device_sim.audit.configured import plan_of, plan_of_examples, read_plan
    from device_sim.audit.plans import Audit
    from edge_runtime.protocol.errors import InvalidPlan
    from edge_runtime.protocol.plan import Privacy

    modes = [one.value for one in Mode if one is not Mode.NONE]
    if mode not in modes:
        _fail(f"there is nothing to audit in a mode {mode!r}; choose one of {', '.join(modes)}")
    try:
        if plan is not None:
            chosen = read_plan(plan)
        elif mode == Mode.EXAMPLE_LEVEL:
            chosen = plan_of_examples(noise_multiplier, separation=separation)
        else:
            chosen = plan_of(Privacy(mode), noise_multiplier, group=group, separation=separation)
        asked = Audit(plan=chosen, rounds=rounds, target_delta=target_delta, canaries=canaries, seed=seed)
        verdict = run_audit(asked, out, Console())
    except InvalidPlan as refusal:
        _fail(refusal.detail)
    except OSError as problem:
        _fail(f"the report cannot be written: {problem.filename or out}: {problem.strerror or problem}")
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    raise typer.Exit(1 if verdict.disproved else 0)
