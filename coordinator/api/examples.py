"""An example of every message and object, built of the real classes, so that none can be wrong."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from pydantic import TypeAdapter

from coordinator.api.operator import cohorts
from coordinator.api.operator.cohorts import CohortView
from coordinator.api.operator.devices import DeviceView, FaultView, QuarantineView
from coordinator.api.operator.models import CheckpointView
from coordinator.api.operator.populations import PopulationRequest, PopulationView, Switch
from coordinator.api.operator.releases import ReleaseRequest, ReleaseView, ShareRequest
from coordinator.api.operator.task_privacy import CostView, PrivacyView
from coordinator.api.operator.tasks import CloneRequest, TaskRequest, TaskView
from coordinator.api.privacy_examples import privacy_examples
from coordinator.api.problems import problem_of
from coordinator.core.forecast import Costs, Forecast
from coordinator.core.privacy.statement import Mode, Opponent
from coordinator.core.task_settings import Stops, TaskSettings
from coordinator.core.tasks import TaskState
from coordinator.services import reach
from coordinator.services.funnel import Funnel
from coordinator.services.round_views import GroupView, RoundView
from coordinator.services.task_changes import DryRun
from edge_runtime.protocol import wire
from edge_runtime.protocol.checkin import CheckIn, CheckInAnswer, RetryWindow
from edge_runtime.protocol.enrolment import Enrol, Enrolled, Evidence, Left
from edge_runtime.protocol.errors import Conflict, NotFound, OperatorUnauthorised, Unavailable
from edge_runtime.protocol.group import Appointment, StepTaken, Trained
from edge_runtime.protocol.header import SignedRound
from edge_runtime.protocol.plan import Summing
from edge_runtime.protocol.policy import Policy
from edge_runtime.protocol.reasons import Outcome, Wait
from edge_runtime.protocol.release import Released, ReleaseQuery
from edge_runtime.protocol.report import OutcomeNote, OutcomeNoted, Receipt, ReportComplete, ReportHeld

_AT: Final = datetime(2026, 11, 22, 2, 32, 50, tzinfo=UTC)
_ID: Final = "5f1d0e1f6f0c4b0c8a3bb86f3c9d2e11"  # pragma: allowlist secret
_BUNDLE: Final = "7afb9a" + "0" * 58
_FIRST: Final = "80eedb" + "0" * 58
_NEXT: Final = "b09216" + "0" * 58
_SETTINGS: Final = TaskSettings(pool_size=4, stop=Stops(rounds=2))

PATCH: Final = {"stop": {"rounds": 100}, "priority": 5}


def _all() -> Iterator[object]:
    yield from _messages()
    yield from _populations()
    yield from _tasks()
    yield from _rounds()
    yield from _devices()
    yield from _releases()
    yield from privacy_examples()


def _messages() -> Iterator[object]:
    """Of the device protocol."""
    yield Enrol(
        version=1,
        tenant="acme",
        population="digits",
        public_key=bytes(32),
        app="org.example.keyboard",
        app_version="1.0",
        platform="android",
        evidence=Evidence.NONE,
    )
    yield Enrolled(version=1, device_id=_ID, retry_after_s=60.0)
    yield Left(version=1, device_id=_ID)
    yield CheckIn(version=1, population="digits", visit=_ID, runtime="litert 2.1", examples=64)
    yield CheckInAnswer(
        version=1, assignment=None, retry=RetryWindow(reason=Wait.NOT_SELECTED, after_s=900.0, spread_s=180.0)
    )
    yield ReleaseQuery(version=1, population="digits", held_sha256=None)
    yield Released(version=1, bundle_sha256=_BUNDLE, checkpoint_sha256=_NEXT, model_version=1, final=False)
    yield ReportHeld(version=1, held_bytes=1048576)
    yield ReportComplete(version=1, report_sha256=_NEXT)
    yield Receipt(version=1, participation=_ID, report_sha256=_NEXT, retry_after_s=86400.0)
    yield OutcomeNote(version=1, reason=Outcome.BATTERY_LOW, costs=None)
    yield OutcomeNoted(version=1, retry_after_s=3600.0)
    yield SignedRound(version=1, header=b"{}", signature=bytes(64))
    yield Trained(version=1)
    yield Appointment(version=1, task=_ID, in_s=120.0, window_s=60.0, group=None)
    yield StepTaken(version=1)
    yield Policy(needs_charging=True, quiet_hours=(0, 1, 22, 23))


def _populations() -> Iterator[object]:
    """Of the operators' API, as all that follow: whom it is about."""
    yield Switch(off=True)
    yield PopulationRequest(
        model_family="next-word",
        example_schema=None,
        attributes={"language": {"type": "text", "values": ["de", "en"]}},
    )
    yield CohortView(
        name="german", population="digits", rule=cohorts.EXAMPLE, version=3, created_at=_AT, changed_at=_AT
    )
    yield reach.Reach(
        devices=90_000, matching=31_000, seen_this_week=24_500, check_ins_per_hour=410.0, sampled=None, margin=0
    )
    yield PopulationView(
        name="digits", switched_off=False, policy=None, model_family=None, example_schema=None, attributes=None
    )


def _tasks() -> Iterator[object]:
    """What is trained, and how."""
    yield CheckpointView(sha256=_NEXT, bundle_sha256=_BUNDLE, model_version=1, weights_sha256=_FIRST, created_at=_AT)
    yield TaskRequest(
        name="digits-1",
        plan="eyJiYXRjaF9zaXplIjoxMH0=",
        plan_signature="q83vEjRWeJA=",
        checkpoint_sha256=_FIRST,
        settings=_SETTINGS,
        seed=None,
    )
    yield DryRun(findings=(), forecast=_forecast())
    yield CloneRequest(name="digits-2", newest=True)
    yield TaskView(
        name="digits-1",
        population="digits",
        state=TaskState.ACTIVE,
        bundle_sha256=_BUNDLE,
        checkpoint_sha256=_NEXT,
        model_version=1,
        weights_sha256=_FIRST,
        clipping_norm=4.0,
        rounds_committed=1,
        rounds_wanted=2,
        settings=json.loads(wire.encode(_SETTINGS)),
        created_at=_AT,
        approved_at=_AT,
        started_at=_AT,
        ended_at=None,
        ended_because=None,
        summing=Summing.SECURE,
        privacy=_privacy(),
        warnings=[],
    )


def _privacy() -> PrivacyView:
    """Of a task of two rounds, where there is a budget against either opponent."""
    costs = [
        CostView(opponent=one, protects=True, target_delta=1e-7, epsilon_a_round=0.995, epsilon_in_all=1.438)
        for one in Opponent
    ]
    return PrivacyView(mode=Mode.DISTRIBUTED, noise_multiplier=5.0, example_noise_multiplier=None, costs=costs)


def _rounds() -> Iterator[object]:
    """How a round went."""
    yield RoundView(
        number=1,
        phase="committed",
        abandonment=None,
        checkpoint_sha256=_FIRST,
        model_version=0,
        clipping_norm=4.0,
        result_sha256=_NEXT,
        metrics=None,
        chosen=4,
        reports=3,
        report_body_bytes=1221384,
        outcomes={"battery-low": 1},
        groups=[GroupView(number=1, phase="summed", chosen=4, reports=3, abandonment=None)],
        opened_at=_AT,
        closed_at=_AT,
    )
    yield Funnel(
        offered=9,
        chosen=4,
        accepted=4,
        downloaded=4,
        reported=3,
        counted=3,
        outcomes={"battery-low": 1},
        phone_seconds=310,
        bytes=4870112,
        battery_percent=1,
    )


def _devices() -> Iterator[object]:
    """One device, and what it did to a group."""
    yield DeviceView(
        id=_ID,
        app="org.example.keyboard",
        app_version="1.0",
        platform="android",
        evidence="none",
        region="eu",
        hardware_class="mid",
        attributes={"language": "de"},
        enrolled_at=_AT,
        seen_at=_AT,
        participated_at=None,
        participations=0,
        left_at=None,
    )
    fault = FaultView(task="words", round=7, fault="forged-share", other=_ID, evidence={"revealed": "ab"}, at=_AT)
    yield fault
    yield QuarantineView(device=_ID, because="forged-share", at=_AT, until=_AT, faults=(fault,))


def _releases() -> Iterator[object]:
    """What a population's devices are given to use."""
    yield ShareRequest(share=0.5)
    yield ReleaseRequest(checkpoint_sha256=_NEXT, share=0.05)
    yield ReleaseView(number=1, checkpoint_sha256=_NEXT, share=0.05, created_at=_AT, withdrawn_at=None)


def _forecast() -> Forecast:
    """Of the example's task."""
    a_round = Costs(bytes_down=1_628_992, bytes_up=1_628_512, phone_seconds=240)
    return Forecast(
        devices=31_000,
        chosen=4,
        round_s=95.0,
        rounds_a_day=909.5,
        opens_at=_AT,
        a_round=a_round,
        stops_after_s=190.0,
        rounds=2.0,
        total=a_round.times(2),
        cautions=(),
    )


def _written(example: object) -> Any:
    if type(example).__module__.startswith("edge_runtime.protocol"):
        return json.loads(wire.encode(example))
    return TypeAdapter(type(example)).dump_python(example, mode="json")


@functools.cache
def examples() -> Mapping[str, Any]:
    """An example of each class, by its name."""
    return {type(one).__name__: _written(one) for one in _all()}


@functools.cache
def problems() -> Mapping[str, Any]:
    """Some refusals, by their codes."""
    refusals = (
        OperatorUnauthorised("send the operator token: `Authorization: Bearer …`"),
        NotFound("there is no task 'digits-9'"),
        Conflict("a task that is draft cannot be started"),
        Unavailable("the coordinator's database is busy", retry_after_s=60),
    )
    return {one.code: _written(problem_of(one, _AT)) for one in refusals}
