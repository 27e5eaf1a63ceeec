"""The demo: export, coordinator and fleet as three processes, watched from a fourth; then the report."""

from __future__ import annotations

import shutil
import time
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np

from coordinator.core.privacy.settings import SMALLEST_COHORT
from device_sim import processes
from device_sim.claims import budget_for, claim_of
from device_sim.datasets import Dataset, load
from device_sim.history import (
    Baselines,
    Claim,
    GroupRecord,
    History,
    PhoneEvent,
    RoundRecord,
    Summary,
    write_history,
    write_summary,
)
from device_sim.processes import Children, CommandFailed
from device_sim.programme import Operator, plan_for
from device_sim.recipes import DemoOptions, Recipe, privacy_for, recipe_for
from device_sim.replay import task_seed
from device_sim.report import render
from device_sim.stages import comparison, export_model, run_fleet, running_coordinator
from device_sim.watching import Heard, Watcher
from edge_runtime.protocol.bundle import verify_bundle
from edge_runtime.protocol.keys import SigningKey, digest
from edge_runtime.protocol.plan import Plan, Privacy, Summing

RETRY_S: Final = 0.4
"""Retry windows of the demo, in seconds; minutes to hours for real phones."""

FREE_DISK_BYTES: Final = 500 << 20


def run_demo(options: DemoOptions, watcher: Watcher, children: Children) -> tuple[History, Summary]:
    """Run the whole demo and leave its results in `options.out`.

    Raises:
        CommandFailed: A part failed; the text says what to do.
        ValueError: There is no such dataset, it cannot be spread over that many devices, or they cannot sum or hide so.
    """
    began = time.time()
    dataset = load(options.dataset, devices=options.devices, seed=options.seed)
    recipe, privacy = recipe_for(options), privacy_for(options, len(dataset.training))

    def planned(bundle_sha256: str) -> Plan:
        return plan_for(recipe, dataset.name, bundle_sha256, len(dataset.training), options.summing, privacy)

    planned("0" * 64)  # what no plan allows is refused before any work
    out = _fresh(options.out)
    port = processes.free_port(options.port)
    watcher.stage("exporting the model")
    tenant_key = export_model(options, dataset, children)
    bundle_raw, checkpoint_raw = (out / "bundle.ewb").read_bytes(), (out / "checkpoint.ewc").read_bytes()
    bundle = verify_bundle(bundle_raw, digest(bundle_raw).hex(), tenant_key.public)
    phones = len(dataset.training) + len(dataset.held_out)
    plan = planned(bundle.sha256)
    watcher.stage("starting the coordinator")
    with (
        running_coordinator(
            port, out, tenant_key, watcher, children, smallest_cohort=min(SMALLEST_COHORT, phones)
        ) as home,
        comparison(options, dataset, plan, tenant_key, watcher, children) as compared,
    ):
        first = home.operator.publish(dataset.name, bundle_raw, bundle.sha256, checkpoint_raw)
        values = plan.values(bundle.manifest.shared_parameters)

        def order() -> None:
            if privacy is not Privacy.NONE:
                home.operator.set_budgets(dataset.name, budget_for(plan, values, recipe.rounds, phones))
            _order(home.operator, options, plan, tenant_key, first, recipe, len(dataset.training))
            for warning in home.operator.task("demo")["warnings"]:
                watcher.note(f"warning: {warning}")

        watcher.stage("phones enrol")
        heard = run_fleet(options, dataset, plan, tenant_key, home, watcher, children, order)
        task, rounds = home.operator.task("demo"), home.operator.rounds("demo")
        stated = None if privacy is Privacy.NONE else home.operator.statement(dataset.name, "demo")
        watcher.stage("training without federation, for comparison")
        baselines = compared()
    groups = max(1, len(dataset.training) // plan.max_participants)
    claim = claim_of(plan, values, recipe.rounds, groups, stated)
    history = _history(options, dataset, task, rounds, heard, baselines, claim, began)
    summary = _summary(history, rounds, task, dataset, time.time() - began)
    write_history(history, out / "history.json")
    write_summary(summary, out / "summary.json")
    watcher.stage("drawing the report")
    (out / "report.html").write_text(render(history, summary), encoding="utf-8")
    return history, summary


def _order(
    operator: Operator,
    options: DemoOptions,
    plan: Plan,
    tenant_key: SigningKey,
    first: str,
    recipe: Recipe,
    training_phones: int,
) -> None:
    """Order the task, once the phones are enrolled: its cohort is counted then."""
    operator.order_task(
        "demo",
        plan,
        tenant_key,
        first,
        recipe,
        pool_size=training_phones,
        selecting_deadline_s=600.0,
        reporting_deadline_s=600.0,
        retry_rejected_s=RETRY_S,
        retry_reported_s=RETRY_S,
        seed=task_seed(options.seed).hex(),
    )


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


def _history(
    options: DemoOptions,
    dataset: Dataset,
    task: dict[str, Any],
    rounds: list[dict[str, Any]],
    heard: Heard,
    baselines: Baselines,
    claim: Claim,
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
        rounds=tuple(_record(version, one, heard, options) for version, one in enumerate(committed, start=1)),
        baselines=baselines,
        phone=tuple(PhoneEvent(at_s=note.at - began, what=note.what, detail=note.detail) for note in heard.diary),
        phone_name="phone 1",
        examples_by_device=tuple(
            tuple(np.bincount(one.y, minlength=len(dataset.class_names)).tolist()) for one in dataset.training
        ),
        summing=options.summing.value,
        warnings=tuple(task["warnings"]),
        claim=claim,
    )


def _record(version: int, one: dict[str, Any], heard: Heard, options: DemoOptions) -> RoundRecord:
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
        groups=tuple(map(_group, one["groups"])) if options.summing is Summing.SECURE else (),
    )


def _group(one: dict[str, Any]) -> GroupRecord:
    aborted = one["abandonment"]
    return GroupRecord(members=one["chosen"], reports=one["reports"] if aborted is None else 0, aborted=aborted)


def _summary(
    history: History, rounds: list[dict[str, Any]], task: dict[str, Any], dataset: Dataset, seconds: float
) -> Summary:
    reports = sum(one["reports"] for one in rounds if one["phase"] == "committed")
    final, without = history.rounds[-1].accuracy, history.baselines.without_noise
    body_bytes = sum(one["report_body_bytes"] for one in rounds if one["phase"] == "committed")
    return Summary(
        rounds=len(history.rounds),
        devices=len(dataset.training) + len(dataset.held_out),
        reports_counted=reports,
        accuracy_initial=history.initial_accuracy,
        accuracy_final=final,
        accuracy_local_mean=history.baselines.local_mean,
        accuracy_central=history.baselines.central,
        seconds=round(seconds, 2),
        bytes_up_per_report=round(body_bytes / reports),
        final_weights_sha256=task["weights_sha256"],
        privacy_mode=history.claim.mode,
        epsilon_coordinator=history.claim.epsilon_coordinator,
        epsilon_recipients=history.claim.epsilon_recipients,
        target_delta=history.claim.target_delta,
        accuracy_without_noise=final if without is None else without,
    )


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()
