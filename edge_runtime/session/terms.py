"""What a plan says of the groups that sum under it, and whether a device takes part in such: pure."""

from __future__ import annotations

from typing import Final

from edge_runtime.protocol.errors import InvalidGroup, InvalidPlan
from edge_runtime.protocol.keys import PublicKey
from edge_runtime.protocol.plan import Plan
from edge_runtime.protocol.secure_sum.transcript import Floors, Terms

_NOBODY: Final = "0" * 32
_NOTHING: Final = "0" * 64


def terms_of(
    plan: Plan,
    *,
    plan_sha256: str,
    round_: int,
    checkpoint_sha256: str,
    values: int,
    task: str,
    group: str,
    clipping_norm: float | None = None,
) -> Terms:
    """The terms of one group: all of it this device's own, but for the names of task and group.

    Args:
        clipping_norm: Of the round's header; None where the plan needs none.

    Raises:
        InvalidGroup: Sums under the plan would not hide a report.
    """
    if plan.fewest_members is None or plan.survivors is None:
        raise InvalidGroup("the plan sums in no group")
    return Terms(
        tenant=plan.tenant,
        task=task,
        round=round_,
        group=group,
        plan_sha256=plan_sha256,
        bundle_sha256=plan.bundle_sha256,
        checkpoint_sha256=checkpoint_sha256,
        fewest=plan.fewest_members,
        survivors=plan.survivors,
        corrupt_permille=plan.corrupt_permille,
        dropout_permille=plan.dropout_permille,
        lanes=plan.lanes(clipping_norm),
        parameters=values,
    )


def authority_for(plan: Plan, authority: PublicKey | None, floors: Floors) -> PublicKey:
    """The authority under which a device takes part, asked before it trains.

    Raises:
        InvalidGroup: The app pins none, the plan is below its floors, or its sums would not hide a report.
    """
    if authority is None:
        raise InvalidGroup("the app pins no enrolment authority, so that no member of a group can be trusted")
    any_group = terms_of(
        plan,
        plan_sha256=_NOTHING,
        round_=1,
        checkpoint_sha256=_NOTHING,
        values=1,
        task=plan.population,
        group=_NOBODY,
    )
    floors.check(any_group)
    if plan.noise_multiplier < floors.least_noise:  # the lanes of an adaptive norm have more: counts need the rest
        raise InvalidGroup("the plan's noise is below the app's floor")
    if any_group.lanes.noise_multiplier > 0:
        from edge_runtime.protocol.noise import DiscreteGaussian  # most plans have none

        try:
            DiscreteGaussian(any_group.lanes.noise * any_group.lanes.scale)
        except InvalidPlan as refusal:
            raise InvalidGroup(refusal.detail) from None
    return authority
