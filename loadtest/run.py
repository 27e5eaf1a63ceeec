"""One load test from beginning to end: coordinator, programme, swarm, verdict."""

from __future__ import annotations

import json
import os
import secrets
import subprocess  # nosec B404
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from edge_runtime.driver import http_client
from edge_runtime.protocol import wire
from loadtest.children import Children
from loadtest.local_coordinator import cpu_seconds, start_coordinator
from loadtest.problems import SetUpError
from loadtest.programme import Operators, Programme, Size, Target, observe, publish
from loadtest.swarm_messages import Progress, SwarmOrder, SwarmResult
from loadtest.verdict import CoordinatorView, Limits, Verdict, judge


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadTest:
    """What to run.

    Attributes:
        target: The coordinator to aim at; None to start one.
        port: Of the one to start; 0 for any free one.
        goal: Reports wanted in a round; None to suit the number of phones.
        out: Folder of everything that is written.
    """

    target: Target | None
    port: int
    phones: int
    spawn_rate: float
    seconds: float
    parameters: int
    goal: int | None
    seed: int
    dropout_share: float
    speed_up: float
    limits: Limits
    out: Path


@dataclass(frozen=True, slots=True)
class Finished:
    """A load test that ran."""

    verdict: Verdict
    swarm: SwarmResult
    coordinator: CoordinatorView
    coordinator_cpu_s: float | None
    verdict_file: Path


def run(test: LoadTest, children: Children, tell: Callable[[str], None]) -> Finished:
    """Run a load test and write its verdict.

    Raises:
        SetUpError: It could not run.
    """
    _make_folder(test.out)
    target, pid = test.target, None
    if target is None:
        target, pid = start_coordinator(children, test.port, test.out / "coordinator.log")
    client = children.stack.enter_context(http_client(target.url))
    operators = Operators(client, target.token)
    tell(f"coordinator  {target.url}{'' if pid is None else '  (started for this run)'}")
    goal = test.goal or max(1, min(100, test.phones // 4))
    size = Size(parameters=test.parameters, phones=test.phones, goal=goal, seed=test.seed)
    programme = publish(operators, target, f"loadtest-{secrets.token_hex(4)}", size)
    if pid is None:
        children.stack.callback(_cancel, operators, programme)
    tell(
        f"swarm        {test.phones} phones for {test.seconds:g} s, {test.parameters} parameters, goal {goal}, "
        f"waiting sped up {test.speed_up:g} times"
    )
    swarm = _swarm(test, target, programme, operators, children, tell)
    cpu_s = None if pid is None else cpu_seconds(pid)
    coordinator = observe(operators, programme)
    verdict = judge(swarm, coordinator, test.limits)
    return Finished(verdict, swarm, coordinator, cpu_s, _write(test.out, verdict, swarm, coordinator, cpu_s))


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in ("verdict.json", "statistics.json", "coordinator.log", "swarm.log"):
            (out / name).unlink(missing_ok=True)
    except OSError as problem:
        raise SetUpError(f"the folder {out} cannot be written: {problem.strerror}") from problem


def _cancel(operators: Operators, programme: Programme) -> None:
    try:
        operators.call("POST", f"/tasks/{programme.task}/cancel")
    except SetUpError:
        return  # a coordinator that is gone runs no task


def _swarm(
    test: LoadTest,
    target: Target,
    programme: Programme,
    operators: Operators,
    children: Children,
    tell: Callable[[str], None],
) -> SwarmResult:
    order = SwarmOrder(
        url=target.url,
        tenant=target.tenant,
        population=programme.population,
        tenant_key=target.tenant_key.public.raw,
        coordinator_key=target.coordinator_key.raw,
        phones=test.phones,
        spawn_rate=test.spawn_rate,
        seconds=test.seconds,
        seed=test.seed,
        dropout_share=test.dropout_share,
        speed_up=test.speed_up,
        out=str(test.out),
    )
    log = test.out / "swarm.log"
    process = children.start(
        "loadtest.swarm", output=subprocess.PIPE, errors=log, environment={**os.environ, "PYTHONUNBUFFERED": "1"}
    )
    result = _listen(
        process, order, lambda progress: tell(_progress_line(progress, test.seconds, operators, programme))
    )
    if result is None:
        raise SetUpError(f"the swarm ended before its time; see {log}")
    return result


def _listen(
    process: subprocess.Popen[bytes], order: SwarmOrder, tell: Callable[[Progress], None]
) -> SwarmResult | None:
    """Give the swarm its order, pass on its progress, return its result; None if it ended without one."""
    if process.stdin is None or process.stdout is None:
        raise ValueError("the swarm was started without pipes")
    try:
        process.stdin.write(wire.encode(order) + b"\n")
        process.stdin.flush()
        for line in process.stdout:
            kind, _space, message = line.partition(b" ")
            if kind == b"SwarmResult":
                return wire.decode(SwarmResult, message)
            if kind == b"Progress":
                tell(wire.decode(Progress, message))
    except BrokenPipeError:
        return None
    return None


def _progress_line(progress: Progress, seconds: float, operators: Operators, programme: Programme) -> str:
    try:
        rounds = operators.call("GET", f"/tasks/{programme.task}")["rounds_committed"]
    except SetUpError:
        rounds = "?"
    return (
        f"{progress.elapsed_s:5.0f} of {seconds:g} s   {progress.phones} phones   {progress.requests} requests   "
        f"{progress.failures} failed   {progress.receipts} reports   {rounds} rounds"
    )


def _write(
    out: Path, verdict: Verdict, swarm: SwarmResult, coordinator: CoordinatorView, coordinator_cpu_s: float | None
) -> Path:
    statistics = {
        "swarm": asdict(swarm),
        "coordinator": {**asdict(coordinator), "cpu_s": coordinator_cpu_s},
    }
    (out / "statistics.json").write_text(json.dumps(statistics, indent=2) + "\n")
    path = out / "verdict.json"
    path.write_text(json.dumps(asdict(verdict), indent=2) + "\n")
    return path
