"""May this device take part now, by what its plan promises? The decision, and what is noted of it, in one change."""

from __future__ import annotations

from dataclasses import replace

from edge_runtime import limits
from edge_runtime.journal.participation import Participation
from edge_runtime.journal.state import State, under_way
from edge_runtime.protocol.plan import Plan
from edge_runtime.protocol.reasons import Outcome


def is_admitted(held: Participation, plan: Plan) -> bool:
    """Whether the header of its round is known; of before journals kept norms, where the plan's own is all it says."""
    return held.clipping_norm is not None or (held.counted_as is not None and plan.adaptive is None)


def admitted(state: State, plan: Plan, plan_sha256: str, clipping_norm: float) -> tuple[State, Outcome | None]:
    """Hold the participation under way against the limits of its plan; why it may not be, or None.

    One that may is counted once its report may leave; asked again, it is not held against itself. What a restart may
    have lost is on the state that comes back, whatever the answer.

    Args:
        clipping_norm: Of the round's header; kept with a participation that may be.
    """
    held = under_way(state)
    if is_admitted(held, plan):
        return state, None
    known = replace(held, clipping_norm=clipping_norm)
    if not plan.limited:
        return replace(state, participation=known), None
    restarted_at_s = state.restarted.at_s if state.restarted else None
    past = limits.assumed(state.taken, plan, plan_sha256, held.round, restarted_at_s, held.assigned_at_s)
    reason = limits.barred(past, plan, plan_sha256, held.round, held.assigned_at_s)
    after = held if reason else replace(known, counted_as=plan_sha256)
    return replace(state, taken=past, participation=after), reason
