"""The processes of a demo: export, coordinator, fleet, and the comparison without federation."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess  # nosec B404
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from device_sim import processes
from device_sim.datasets import Dataset
from device_sim.events import Event, TrainedAlone
from device_sim.history import Baselines
from device_sim.processes import Children, CommandFailed, python_module
from device_sim.programme import TENANT, Operator
from device_sim.recipes import RECIPES, DemoOptions, recipe_for
from device_sim.watching import Heard, Progress, Watcher, listen
from edge_runtime.protocol import wire
from edge_runtime.protocol.keys import SigningKey
from edge_runtime.protocol.plan import Plan, Privacy

POLITE = 10
"""Niceness of the comparison: it uses what the fleet and the coordinator leave."""


def export_model(options: DemoOptions, dataset: Dataset, children: Children) -> SigningKey:
    """Leave bundle, first checkpoint and tenant key in the demo's folder; the key.

    Raises:
        CommandFailed: The model could not be exported; the text is the exporter's.
    """
    out = options.out
    key_file, log = out / "tenant.key", out / "export.log"
    if options.exported is not None:
        try:
            for name in ("bundle.ewb", "checkpoint.ewc", "tenant.key"):
                shutil.copy(options.exported / name, out / name)  # with its mode: the key stays its owner's
        except OSError as problem:
            raise CommandFailed(f"{options.exported} is not the folder of an exported model: {problem}") from problem
        return _key_in(key_file)
    children.run(python_module("model_export.cli", "keygen", str(key_file)), log)
    features = dataset.features
    children.run(
        python_module(
            "model_export.cli",
            "build",
            options.model,
            f"--out={out}",
            f"--tenant-key={key_file}",
            f"--seed={options.seed}",
            f"--batch-size={RECIPES[options.dataset].batch_size}",
            f"--input-shape={','.join(map(str, features.shape))}",
            f"--low={features.low}",
            f"--high={features.high}",
            f"--class-names={','.join(dataset.class_names)}",
        ),
        log,
    )
    return _key_in(key_file)


def _key_in(file: Path) -> SigningKey:
    return SigningKey(bytes.fromhex(file.read_text().strip()))


@dataclass(slots=True)
class Home:
    operator: Operator
    address: str
    coordinator_key: str
    authority_key: str
    failures: list[CommandFailed]


@contextlib.contextmanager
def running_coordinator(
    port: int, out: Path, tenant_key: SigningKey, watcher: Watcher, children: Children, *, smallest_cohort: int
) -> Iterator[Home]:
    """Run a coordinator, started again whenever it dies, until the block ends.

    Args:
        smallest_cohort: It makes claims of privacy for so many devices and more.
    """
    folder, log = out / "coordinator", out / "coordinator.log"
    environment = {"EDGEWISE_DATA_DIR": str(folder), "EDGEWISE_SMALLEST_COHORT": str(smallest_cohort)}
    children.run(
        python_module("coordinator.cli", "init", f"--tenant={TENANT}", f"--tenant-key={tenant_key.public.raw.hex()}"),
        log,
        environment,
    )
    command = python_module("coordinator.cli", "serve", f"--port={port}")
    token = (folder / "operator.token").read_text()
    key, authority = (_key_in(folder / f"{name}.key").public.raw.hex() for name in ("coordinator", "authority"))
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(children.started(command, log, environment))
        processes.wait_until_listening(port, first, log)
        stopping = threading.Event()
        failures: list[CommandFailed] = []

        def keep_alive(child: subprocess.Popen[str]) -> None:
            while not stopping.wait(0.1):
                if child.poll() is None:
                    continue
                if children.stopped:
                    return
                watcher.note(f"the coordinator died (code {child.returncode}); starting it again")
                try:
                    child = stack.enter_context(children.started(command, log, environment))
                    processes.wait_until_listening(port, child, log)
                except CommandFailed as failure:
                    failures.append(failure)
                    return

        keeper = threading.Thread(target=keep_alive, args=(first,), name="keep-coordinator", daemon=True)
        keeper.start()
        address = f"http://127.0.0.1:{port}"
        transport = httpx.HTTPTransport(retries=3)
        try:
            with httpx.Client(
                base_url=address,
                headers={"authorization": f"Bearer {token}"},
                timeout=60,
                trust_env=False,
                transport=transport,
            ) as client:
                yield Home(Operator(client), address, key, authority, failures)
        except httpx.TransportError as problem:
            reason = failures[0] if failures else f"the coordinator does not answer ({problem}); see {log}"
            raise CommandFailed(str(reason)) from problem
        finally:
            stopping.set()
            keeper.join()


def run_fleet(
    options: DemoOptions,
    dataset: Dataset,
    plan: Plan,
    tenant_key: SigningKey,
    home: Home,
    watcher: Watcher,
    children: Children,
    order: Callable[[], None],
) -> Heard:
    """Start the fleet, order its task once all phones are enrolled, and watch its rounds to the end."""
    command = python_module(
        "device_sim",
        "fleet",
        f"--coordinator={home.address}",
        f"--tenant={TENANT}",
        f"--population={dataset.name}",
        f"--tenant-key={tenant_key.public.raw.hex()}",
        f"--coordinator-key={home.coordinator_key}",
        f"--authority-key={home.authority_key}",
        *floor_options(plan),
        *dataset_options(options),
    )
    log = options.out / "fleet.log"
    heard = Heard()
    phones = len(dataset.training) + len(dataset.held_out)
    with children.started(command, log, stdout=subprocess.PIPE) as child:
        listening = threading.Thread(target=listen, args=(child, heard), name="listen", daemon=True)
        listening.start()
        progress = Progress(home.operator, heard, phones, watcher)
        while child.poll() is None:
            if home.failures:
                raise home.failures[0]
            if not progress.ordered and heard.enrolled >= phones:
                order()
                progress.ordered = True
            progress.look()
            time.sleep(0.2)
        listening.join()
        check_ended(child, log)
        progress.look()
    return heard


@contextlib.contextmanager
def comparison(
    options: DemoOptions, dataset: Dataset, plan: Plan, tenant_key: SigningKey, watcher: Watcher, children: Children
) -> Iterator[Callable[[], Baselines]]:
    """Train without federation in a process of its own, beside the fleet; call what it yields for the result.

    Raises:
        CommandFailed: The comparison failed; raised by the call.
    """
    out, recipe = options.out, recipe_for(options)
    (out / "plan.json").write_bytes(wire.encode(plan))
    log = out / "baselines.log"
    command = python_module(
        "device_sim",
        "baselines",
        f"--folder={out}",
        f"--tenant-key={tenant_key.public.raw.hex()}",
        f"--epochs={recipe.rounds * recipe.epochs}",
        *([f"--rounds={recipe.rounds}"] if plan.privacy is not Privacy.NONE else []),
        *dataset_options(options),
    )

    def hear(event: Event) -> None:
        if isinstance(event, TrainedAlone):
            watcher.baselines(event.devices, len(dataset.training))

    with children.started(command, log, stdout=subprocess.PIPE) as child:
        with contextlib.suppress(ProcessLookupError):
            os.setpriority(os.PRIO_PROCESS, child.pid, POLITE)
        listening = threading.Thread(target=listen, args=(child, hear), name="listen-comparison", daemon=True)
        listening.start()

        def result() -> Baselines:
            listening.join()
            check_ended(child, log)
            return wire.decode(Baselines, (out / "baselines.json").read_bytes())

        yield result


def floor_options(plan: Plan) -> list[str]:
    """What the simulated app compiled in: just what the plan says, for groups far below those of real apps."""
    if plan.fewest_members is None or plan.survivors is None:
        return []
    return [f"--smallest-group={plan.fewest_members}", f"--fewest-survivors={plan.survivors}"]


def dataset_options(options: DemoOptions) -> list[str]:
    """The dataset as options of our commands."""
    devices = [f"--devices={options.devices}"] if options.devices is not None else []
    return [f"--dataset={options.dataset}", f"--seed={options.seed}", *devices]


def check_ended(child: subprocess.Popen[str], log: Path) -> None:
    """Return when a child has ended well.

    Raises:
        CommandFailed: It ended with an error.
    """
    if child.wait():
        raise CommandFailed(processes.last_line(log) or f"a process ended with code {child.returncode}; see {log}")
