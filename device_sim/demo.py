"""The demo: export, coordinator and fleet as three processes, watched from a fourth; then the report."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import subprocess  # nosec B404
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np

from device_sim import processes
from device_sim.datasets import Dataset, load
from device_sim.events import Diary, Enrolled, Evaluated, Event, Participated, TrainedAlone, read_event
from device_sim.history import Baselines, History, PhoneEvent, RoundRecord, Summary, write_history, write_summary
from device_sim.processes import CommandFailed, python_module
from device_sim.programme import TENANT, Operator, Recipe, plan_for
from device_sim.report import render
from edge_runtime.protocol import wire
from edge_runtime.protocol.bundle import verify_bundle
from edge_runtime.protocol.keys import SigningKey, digest
from edge_runtime.protocol.plan import Plan

RECIPES: Final[Mapping[str, Recipe]] = {
    "digits": Recipe(
        rounds=30,
        goal_share=0.6,
        epochs=5,
        batch_size=10,
        learning_rate=0.3,
        clipping_norm=4.0,
        server_learning_rate=2.0,
    ),
    "watch": Recipe(
        rounds=20,
        goal_share=0.75,
        epochs=3,
        batch_size=20,
        learning_rate=0.1,
        clipping_norm=8.0,
        server_learning_rate=1.3,
    ),
}

RETRY_S: Final = 0.4
"""Retry windows of the demo, in seconds; minutes to hours for real phones."""

ABANDONED_IN_A_ROW: Final = 3
FREE_DISK_BYTES: Final = 500 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """What the user asked for."""

    dataset: str
    model: str
    rounds: int | None
    devices: int | None
    seed: int
    port: int
    out: Path
    exported: Path | None = None
    """Folder with `bundle.ewb`, `checkpoint.ewc` and `tenant.key`; nothing is exported then."""


class Watcher:
    """Hears what the demo is doing. The default says nothing."""

    def stage(self, title: str) -> None:
        """A new part of the demo begins."""

    def enrolled(self, phones: int, of: int) -> None:
        """Phones are becoming known."""

    def round(self, number: int, of: int, resolved: int, chosen: int, accuracy: float | None) -> None:
        """A round moved."""

    def baselines(self, done: int, of: int) -> None:
        """Devices have trained alone."""

    def note(self, sentence: str) -> None:
        """Something worth knowing happened."""


@dataclass(slots=True)
class Heard:
    """What the fleet has told so far."""

    enrolled: int = 0
    evaluations: dict[int, Evaluated] = field(default_factory=dict)
    participations: dict[int, list[Participated]] = field(default_factory=dict)
    diary: list[Diary] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        if isinstance(event, Enrolled):
            self.enrolled = event.phones
        elif isinstance(event, Evaluated):
            self.evaluations[event.model_version] = event
        elif isinstance(event, Participated):
            self.participations.setdefault(event.round, []).append(event)
        elif isinstance(event, Diary):
            self.diary.append(event)


def run_demo(options: DemoOptions, watcher: Watcher) -> Summary:
    """Run the whole demo and leave its results in `options.out`.

    Raises:
        CommandFailed: A part failed; the text says what to do.
        ValueError: There is no such dataset, or it cannot be spread over that many devices.
    """
    began = time.time()
    dataset = load(options.dataset, devices=options.devices, seed=options.seed)
    out = _fresh(options.out)
    port = processes.free_port(options.port)
    watcher.stage("exporting the model")
    tenant_key = SigningKey(bytes.fromhex(_export(options, dataset, out)))
    bundle_raw, checkpoint_raw = (out / "bundle.ewb").read_bytes(), (out / "checkpoint.ewc").read_bytes()
    bundle = verify_bundle(bundle_raw, digest(bundle_raw).hex(), tenant_key.public)
    recipe = _recipe(options)
    plan = plan_for(recipe, dataset.name, bundle.sha256, len(dataset.training))
    watcher.stage("starting the coordinator")
    with _coordinator(port, out, tenant_key, watcher) as home:
        first = home.operator.publish(dataset.name, bundle_raw, bundle.sha256, checkpoint_raw)
        home.operator.order_task(
            "demo",
            plan,
            tenant_key,
            first,
            recipe,
            pool_size=len(dataset.training),
            selecting_deadline_s=600.0,
            reporting_deadline_s=600.0,
            retry_rejected_s=RETRY_S,
            retry_reported_s=RETRY_S,
            seed=hashlib.sha256(f"edgewise/demo/{options.seed}".encode()).hexdigest(),
        )
        watcher.stage("phones enrol")
        heard = _run_fleet(options, dataset, out, tenant_key, home, watcher)
        task, rounds = home.operator.task("demo"), home.operator.rounds("demo")
    watcher.stage("training alone, for comparison")
    baselines = _run_baselines(options, dataset, plan, recipe, tenant_key, watcher)
    history = _history(options, dataset, rounds, heard, baselines, began)
    summary = _summary(history, rounds, task, dataset, time.time() - began)
    write_history(history, out / "history.json")
    write_summary(summary, out / "summary.json")
    watcher.stage("drawing the report")
    (out / "report.html").write_text(render(history, summary), encoding="utf-8")
    return summary


def _recipe(options: DemoOptions) -> Recipe:
    recipe = RECIPES[options.dataset]
    return recipe if options.rounds is None else replace(recipe, rounds=options.rounds)


def _fresh(out: Path) -> Path:
    try:
        if (out / "coordinator").exists():
            shutil.rmtree(out / "coordinator")
        out.mkdir(parents=True, exist_ok=True)
        for old in _LEFT_BY_A_RUN:
            (out / old).unlink(missing_ok=True)
        free = shutil.disk_usage(out).free
    except OSError as problem:
        raise CommandFailed(f"the folder {out} cannot be used: {problem.strerror}") from problem
    if free < FREE_DISK_BYTES:
        raise CommandFailed(f"the disk has {free >> 20} MB free at {out}; the demo needs {FREE_DISK_BYTES >> 20} MB")
    return out


_LEFT_BY_A_RUN: Final = (
    "tenant.key",
    "plan.json",
    "baselines.json",
    "summary.json",
    "history.json",
    "report.html",
    *(f"{part}.log" for part in ("export", "coordinator", "fleet", "baselines")),
)


def _export(options: DemoOptions, dataset: Dataset, out: Path) -> str:
    """Make a tenant key, and export the model with it; the key in hex."""
    key_file, log = out / "tenant.key", out / "export.log"
    if options.exported is not None:
        try:
            for name in ("bundle.ewb", "checkpoint.ewc", "tenant.key"):
                shutil.copyfile(options.exported / name, out / name)
        except OSError as problem:
            raise CommandFailed(f"{options.exported} is not the folder of an exported model: {problem}") from problem
        return key_file.read_text().strip()
    processes.run(python_module("model_export.cli", "keygen", str(key_file)), log)
    features = dataset.features
    processes.run(
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
    return key_file.read_text().strip()


@dataclass(slots=True)
class _Home:
    operator: Operator
    address: str
    coordinator_key: str
    failures: list[CommandFailed]


@contextlib.contextmanager
def _coordinator(port: int, out: Path, tenant_key: SigningKey, watcher: Watcher) -> Iterator[_Home]:
    """Run a coordinator, started again whenever it dies, until the block ends."""
    folder, log = out / "coordinator", out / "coordinator.log"
    environment = {"EDGEWISE_DATA_DIR": str(folder)}
    processes.run(
        python_module("coordinator.cli", "init", f"--tenant={TENANT}", f"--tenant-key={tenant_key.public.raw.hex()}"),
        log,
        environment,
    )
    command = python_module("coordinator.cli", "serve", f"--port={port}")
    token = (folder / "operator.token").read_text()
    key = SigningKey(bytes.fromhex((folder / "coordinator.key").read_text())).public.raw.hex()
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(processes.started(command, log, environment))
        processes.wait_until_listening(port, first, log)
        stopping = threading.Event()
        failures: list[CommandFailed] = []

        def keep_alive(child: subprocess.Popen[str]) -> None:
            while not stopping.wait(0.1):
                if child.poll() is None:
                    continue
                watcher.note(f"the coordinator died (code {child.returncode}); starting it again")
                try:
                    child = stack.enter_context(processes.started(command, log, environment))
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
                yield _Home(Operator(client), address, key, failures)
        finally:
            stopping.set()
            keeper.join()


def _run_fleet(
    options: DemoOptions, dataset: Dataset, out: Path, tenant_key: SigningKey, home: _Home, watcher: Watcher
) -> Heard:
    """Start the fleet, and watch it and its rounds to the end."""
    command = python_module(
        "device_sim.cli",
        "fleet",
        f"--coordinator={home.address}",
        f"--tenant={TENANT}",
        f"--population={dataset.name}",
        f"--tenant-key={tenant_key.public.raw.hex()}",
        f"--coordinator-key={home.coordinator_key}",
        *_dataset_options(options),
    )
    log = out / "fleet.log"
    heard = Heard()
    with processes.started(command, log, stdout=subprocess.PIPE) as child:
        listening = threading.Thread(target=_listen, args=(child, heard), name="listen", daemon=True)
        listening.start()
        progress = _Progress(home.operator, heard, len(dataset.training) + len(dataset.held_out), watcher)
        while child.poll() is None:
            if home.failures:
                raise home.failures[0]
            progress.look()
            time.sleep(0.2)
        listening.join()
        _check_ended(child, log)
        progress.look()
    return heard


def _run_baselines(
    options: DemoOptions, dataset: Dataset, plan: Plan, recipe: Recipe, tenant_key: SigningKey, watcher: Watcher
) -> Baselines:
    """Train without federation, in a process of its own."""
    out = options.out
    (out / "plan.json").write_bytes(wire.encode(plan))
    command = python_module(
        "device_sim.cli",
        "baselines",
        f"--folder={out}",
        f"--tenant-key={tenant_key.public.raw.hex()}",
        f"--epochs={recipe.rounds * recipe.epochs}",
        *_dataset_options(options),
    )

    def hear(event: Event) -> None:
        if isinstance(event, TrainedAlone):
            watcher.baselines(event.devices, len(dataset.training))

    with processes.started(command, out / "baselines.log", stdout=subprocess.PIPE) as child:
        _listen(child, hear)
        _check_ended(child, out / "baselines.log")
    return wire.decode(Baselines, (out / "baselines.json").read_bytes())


def _dataset_options(options: DemoOptions) -> list[str]:
    devices = [f"--devices={options.devices}"] if options.devices is not None else []
    return [f"--dataset={options.dataset}", f"--seed={options.seed}", *devices]


def _listen(child: subprocess.Popen[str], hear: Callable[[Event], None]) -> None:
    if child.stdout is not None:
        for line in child.stdout:
            event = read_event(line)
            if event is not None:
                hear(event)


def _check_ended(child: subprocess.Popen[str], log: Path) -> None:
    if child.wait():
        raise CommandFailed(processes.last_line(log) or f"a process ended with code {child.returncode}; see {log}")


class _Progress:
    """Turns what the operator API and the fleet say into what a watcher hears."""

    def __init__(self, operator: Operator, heard: Heard, phones: int, watcher: Watcher) -> None:
        self._operator = operator
        self._heard = heard
        self._phones = phones
        self._watcher = watcher
        self._training = False
        self._after = 0

    def look(self) -> None:
        """Tell what is new.

        Raises:
            CommandFailed: Round after round is abandoned.
        """
        if self._heard.enrolled < self._phones:
            self._watcher.enrolled(self._heard.enrolled, self._phones)
            return
        if not self._training:
            self._watcher.enrolled(self._phones, self._phones)
            self._watcher.stage("phones train")
            self._training = True
        try:
            task, rounds = self._operator.task("demo"), self._operator.rounds("demo", self._after)
        except httpx.TransportError:
            return  # it is being started again
        if [one["phase"] for one in rounds].count("abandoned") >= ABANDONED_IN_A_ROW:
            raise CommandFailed("three rounds in a row were abandoned: " + str(rounds[-1]["abandonment"]))
        newest = max(self._heard.evaluations, default=None)
        accuracy = self._heard.evaluations[newest].accuracy if newest is not None else None
        for one in rounds:
            resolved = one["reports"] + sum(one["outcomes"].values())
            self._watcher.round(task["rounds_committed"], task["rounds_wanted"], resolved, one["chosen"], accuracy)
            if one["phase"] == "committed":
                self._after = one["number"]


def _history(
    options: DemoOptions,
    dataset: Dataset,
    rounds: list[dict[str, Any]],
    heard: Heard,
    baselines: Baselines,
    began: float,
) -> History:
    committed = [one for one in rounds if one["phase"] == "committed"]
    missing = [v for v in range(len(committed) + 1) if v not in heard.evaluations]
    if not committed or missing:
        raise CommandFailed(f"the fleet did not evaluate the model versions {missing}")
    return History(
        dataset=dataset.title,
        model=options.model,
        devices_training=len(dataset.training),
        devices_held_out=len(dataset.held_out),
        seed=options.seed,
        initial_accuracy=heard.evaluations[0].accuracy,
        initial_loss=heard.evaluations[0].loss,
        rounds=tuple(_record(version, one, heard) for version, one in enumerate(committed, start=1)),
        baselines=baselines,
        phone=tuple(PhoneEvent(at_s=note.at - began, what=note.what, detail=note.detail) for note in heard.diary),
        phone_name="phone 1",
        examples_by_device=tuple(
            tuple(np.bincount(one.y, minlength=len(dataset.class_names)).tolist()) for one in dataset.training
        ),
    )


def _record(version: int, one: dict[str, Any], heard: Heard) -> RoundRecord:
    participations = heard.participations.get(one["number"], [])
    return RoundRecord(
        round=one["number"],
        accuracy=heard.evaluations[version].accuracy,
        loss=heard.evaluations[version].loss,
        chosen=one["chosen"],
        reported=one["reports"],
        dropouts=one["outcomes"],
        stragglers=sum(participation.straggled for participation in participations),
        seconds=_seconds(one["closed_at"]) - _seconds(one["opened_at"]),
        bytes_up=sum(participation.bytes_up for participation in participations),
        bytes_down=sum(participation.bytes_down for participation in participations),
    )


def _summary(
    history: History, rounds: list[dict[str, Any]], task: dict[str, Any], dataset: Dataset, seconds: float
) -> Summary:
    reports = sum(one["reports"] for one in rounds if one["phase"] == "committed")
    body_bytes = sum(one["report_body_bytes"] for one in rounds if one["phase"] == "committed")
    return Summary(
        rounds=len(history.rounds),
        devices=len(dataset.training) + len(dataset.held_out),
        reports_counted=reports,
        accuracy_initial=history.initial_accuracy,
        accuracy_final=history.rounds[-1].accuracy,
        accuracy_local_mean=history.baselines.local_mean,
        accuracy_central=history.baselines.central,
        seconds=round(seconds, 2),
        bytes_up_per_report=round(body_bytes / reports),
        final_weights_sha256=task["weights_sha256"],
    )


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()
