"""What to audit: a plan from a file, or one made from a few numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edge_runtime.protocol import wire
from edge_runtime.protocol.errors import InvalidPlan, Malformed
from edge_runtime.protocol.plan import Close, Plan, Privacy, Summing

_NO_BUNDLE = "0" * 64


def read_plan(path: Path) -> Plan:
    """Read a plan as it was signed: its JSON, of any version.

    Raises:
        InvalidPlan: It cannot be read, or is no plan that holds together.
    """
    try:
        return wire.decode(Plan, path.read_bytes())
    except OSError as problem:
        raise InvalidPlan(f"{path} cannot be read: {problem.strerror}") from None
    except Malformed as refusal:
        raise InvalidPlan(f"{path} is not the JSON of a plan: {refusal.detail}") from None


def plan_of(
    mode: Privacy,
    noise_multiplier: float,
    *,
    group: int = 100,
    clipping_norm: float = 1.0,
    separation: int = 1,
    most_participations: int | None = None,
) -> Plan:
    """A plan of a mode, which no bundle belongs to; of distributed noise with four fifths as fewest survivors.

    Raises:
        InvalidPlan: Its promises do not hold together.
    """
    secure = mode is Privacy.DISTRIBUTED
    return Plan(
        version=Plan.VERSION,
        tenant="audit",
        population="canaries",
        bundle_sha256=_NO_BUNDLE,
        epochs=1,
        batch_size=1,
        learning_rate=1.0,
        proximal_mu=0.0,
        clipping_norm=clipping_norm,
        lane_bits=24 if secure else 32,
        expected_participants=group,
        max_participants=group,
        goal=group,
        min_reports=1,
        close=Close.GOAL,
        summing=Summing.SECURE if secure else Summing.PLAIN,
        privacy=mode,
        min_examples=1,
        time_limit_s=60.0,
        fewest_members=max(3, group // 2 + 1) if secure else None,
        survivors=-(-group * 4 // 5) if secure else None,
        noise_multiplier=noise_multiplier,
        separation=separation,
        most_participations=most_participations,
    )


def plan_of_examples(noise_multiplier: float, *, separation: int = 1) -> Plan:
    """A plan that hides the examples on a device, and no device.

    Raises:
        InvalidPlan: Its promises do not hold together.
    """
    plain = plan_of(Privacy.NONE, 0.0, separation=separation)
    return replace(plain, example_clipping_norm=1.0, example_noise_multiplier=noise_multiplier)
