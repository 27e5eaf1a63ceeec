"""A finished load test as a small table for the terminal."""

from __future__ import annotations

from loadtest.run import Finished
from loadtest.verdict import Bound

_SIGNS = {Bound.AT_LEAST: "≥", Bound.AT_MOST: "≤"}


def table(finished: Finished) -> str:
    """Requests, checks, and where the verdict is."""
    swarm, verdict = finished.swarm, finished.verdict
    lines = ["", f"{'request':<14}{'sent':>8}{'failed':>8}{'per s':>9}{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}"]
    lines += [
        f"{row.kind:<14}{row.requests:>8}{row.failures:>8}{row.per_second:>9.1f}"
        f"{row.p50_ms:>9.0f}{row.p95_ms:>9.0f}{row.p99_ms:>9.0f}"
        for row in swarm.requests
    ]
    sent = sum(row.requests for row in swarm.requests)
    lines += [
        "",
        f"{sent / swarm.seconds:.0f} requests/s; processor seconds in {swarm.seconds:.0f} s: {_cpu(finished)}",
    ]
    lines += ["", f"{'check':<27}{'measured':>12}{'limit':>15}"]
    for check in verdict.checks:
        limit = f"{_SIGNS[check.bound]}{check.limit:>11.4g} {check.unit:<11}"
        lines.append(f"{check.name:<27}{check.measured:>12.4g}   {limit}{'passed' if check.passed else 'FAILED'}")
    lines += [f"FAILED {check.name}: {check.sentence}" for check in verdict.checks if not check.passed]
    lines += ["", f"{'passed' if verdict.passed else 'FAILED'}: {finished.verdict_file}"]
    return "\n".join(lines)


def _cpu(finished: Finished) -> str:
    swarm = f"swarm {finished.swarm.cpu_s:.1f}"
    if finished.coordinator_cpu_s is None:
        return swarm
    return f"{swarm}, coordinator {finished.coordinator_cpu_s:.1f}"
