"""The swarm's process: `python -m loadtest.swarm`, an order on one line of stdin, progress and the result on stdout.

Importing locust patches sockets, so nothing but this process ever does.
"""

from __future__ import annotations

import csv
import sys
import time
from pathlib import Path
from typing import Any

import gevent
from gevent.fileobject import FileObjectThread
from locust.env import Environment
from locust.html import get_html_report
from locust.stats import PERCENTILES_TO_REPORT, StatsCSV, stats_history

from edge_runtime.protocol import wire
from loadtest.kinds import Kind
from loadtest.phone import Tally, phones_of
from loadtest.swarm_messages import Ending, Failure, Progress, RequestStatistics, SwarmOrder, SwarmResult

PROGRESS_S = 1.0
LAST_VISITS_S = 2.0
"""At the end, visits under way may take so long to finish; check-ins that are held open then are cut."""


def run(order: SwarmOrder) -> SwarmResult:
    """Run a swarm for as long as its order says, and write locust's own statistics."""
    tally = Tally()
    environment = Environment(
        user_classes=[phones_of(order, tally)], host=order.url, stop_timeout=LAST_VISITS_S, reset_stats=False
    )
    runner = environment.create_local_runner()
    history = gevent.spawn(stats_history, runner)
    began = time.monotonic()
    runner.start(order.phones, spawn_rate=order.spawn_rate)
    while (left := order.seconds - (time.monotonic() - began)) > 0:
        gevent.sleep(min(PROGRESS_S, left))
        _tell(_progress(runner, tally, time.monotonic() - began))
    runner.stop()
    history.kill()
    seconds = time.monotonic() - began
    _write_statistics(environment, Path(order.out))
    return SwarmResult(
        seconds=seconds,
        requests=tuple(_statistics(environment.stats, kind) for kind in Kind),
        failures=_failures(environment.stats),
        endings=tuple(Ending(reason=reason, visits=visits) for reason, visits in tally.endings.most_common()),
        crashes=sum(problem["count"] for problem in runner.exceptions.values()),
        reports_made=tally.reports_made,
        receipts=tally.receipts,
        cpu_s=time.process_time(),
    )


def _progress(runner: Any, tally: Tally, elapsed_s: float) -> Progress:
    total = runner.stats.total
    return Progress(
        elapsed_s=elapsed_s,
        phones=runner.user_count,
        requests=total.num_requests,
        failures=total.num_failures,
        receipts=tally.receipts,
    )


def _statistics(stats: Any, kind: Kind) -> RequestStatistics:
    entries = [entry for (name, _method), entry in stats.entries.items() if name == kind]
    if not entries:
        return RequestStatistics(kind=kind, requests=0, failures=0, per_second=0.0, p50_ms=0.0, p95_ms=0.0, p99_ms=0.0)
    (entry,) = entries  # each kind has one method
    return RequestStatistics(
        kind=kind,
        requests=entry.num_requests,
        failures=entry.num_failures,
        per_second=float(entry.total_rps),
        p50_ms=float(entry.get_response_time_percentile(0.50)),
        p95_ms=float(entry.get_response_time_percentile(0.95)),
        p99_ms=float(entry.get_response_time_percentile(0.99)),
    )


def _failures(stats: Any) -> tuple[Failure, ...]:
    found = [
        Failure(kind=error.name, reason=str(error.error), count=error.occurrences) for error in stats.errors.values()
    ]
    return tuple(sorted(found, key=lambda failure: -failure.count))


def _write_statistics(environment: Environment, out: Path) -> None:
    table = StatsCSV(environment, PERCENTILES_TO_REPORT)
    with (out / "requests.csv").open("w", newline="") as file:
        table.requests_csv(csv.writer(file))
    with (out / "failures.csv").open("w", newline="") as file:
        table.failures_csv(csv.writer(file))
    (out / "locust.html").write_text(get_html_report(environment, show_download_link=False))


def _tell(message: Progress | SwarmResult) -> None:
    sys.stdout.write(f"{type(message).__name__} {wire.encode(message).decode()}\n")
    sys.stdout.flush()


def _end_with_parent(stdin: Any) -> None:
    """Whoever ordered the swarm holds its stdin open; when that ends, so does the swarm."""
    stdin.read()
    sys.exit("the process that ordered the swarm is gone")


def main() -> None:
    stdin = FileObjectThread(sys.stdin.buffer, "rb")
    order = wire.decode(SwarmOrder, stdin.readline())
    watch = gevent.spawn(_end_with_parent, stdin)
    _tell(run(order))
    watch.kill(block=False)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
