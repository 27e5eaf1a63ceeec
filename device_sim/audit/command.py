"""`edgewise-sim audit`: hold a plan's claim against an attacker, and say what was found."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from coordinator.core.privacy.statement import Mode
from device_sim.audit.attacks import Verdict
from device_sim.audit.page import write
from device_sim.audit.plans import Audit, claim_of, judged, ran
from device_sim.report.elements import counted


def run_audit(audit: Audit, out: Path, console: Console) -> Verdict:
    """Run it, with a bar on a terminal; write the report.

    Raises:
        OSError: The report cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    claim = claim_of(audit)
    console.print(
        f"Claim: ε = {claim:.3f} at δ = {audit.target_delta:g} against the {audit.opponent.value}, "
        f"for {_unit(audit)} in a task of {counted(audit.rounds, 'round')} ({audit.mode.value} noise, "
        f"z = {audit.multiplier:g}).",
        soft_wrap=True,
    )
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("canaries", total=audit.canaries)
        run = ran(audit, lambda done: progress.update(bar, completed=done))
    verdict = judged(audit, run)
    console.print(verdict.sentence(), soft_wrap=True)
    if audit.not_attacked is not None:
        console.print(audit.not_attacked, soft_wrap=True)
    for path in write(out, audit, run, verdict):
        console.print(f"wrote {path}", soft_wrap=True, highlight=False)
    return verdict


def _unit(audit: Audit) -> str:
    """Whose data the claim hides."""
    return "an example on a device" if audit.mode is Mode.EXAMPLE_LEVEL else "a device"
