"""`edgewise-sim audit`: hold a plan's claim against an attacker, and say what was found."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from device_sim.audit.attacks import Verdict
from device_sim.audit.page import write
from device_sim.audit.plans import Audit, claim_of, judged, ran


def run_audit(audit: Audit, out: Path, console: Console) -> Verdict:
    """Run it, with a bar on a terminal; write the report.

    Raises:
        OSError: The report cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    claim = claim_of(audit)
    console.print(
        f"Claim: ε = {claim:.3f} at δ = {audit.target_delta:g} against the {audit.opponent.value}, "
        f"for a device in a task of {audit.rounds} rounds ({audit.mode.value} noise, "
        f"z = {audit.multiplier:g}).",
        soft_wrap=True,
    )
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("canaries", total=audit.canaries)
        run = ran(audit, lambda done: progress.update(bar, completed=done))
    verdict = judged(audit, run)
    console.print(verdict.sentence(), soft_wrap=True)
    for path in write(out, audit, run, verdict):
        console.print(f"wrote {path}", soft_wrap=True, highlight=False)
    return verdict
