"""The worker's side of groups that sum securely: the sum of one is opened, and whoever lied is named.

Opening writes nothing and takes long; what came of it is recorded afterwards, in a transaction that looks again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from sqlmodel import Session

from coordinator.core.rounds import GROUP_STEPS, GroupEvent, GroupPhase, step
from coordinator.core.secure_groups import ZERO_LANES, Move
from coordinator.services.faults import record_fault
from coordinator.services.group_ends import end_group, forget_steps
from coordinator.services.group_terms import agreement_of, bodies_of, members_of, positions, task_of, who_reported
from coordinator.services.secure_groups import dealt_in, move_of, note_silence
from coordinator.services.sums import OPENED, group_total, is_group_added, record_chunk, sum_blob
from coordinator.store.blobs import Blobs
from coordinator.store.tables import Group
from edge_runtime.protocol import wire
from edge_runtime.protocol.group import Step
from edge_runtime.protocol.keys import PublicKey
from edge_runtime.protocol.reasons import GroupEnd
from edge_runtime.protocol.secure_sum import opening
from edge_runtime.protocol.secure_sum.lanes import ZERO_LANES as ZERO_LANE_COUNT
from edge_runtime.protocol.secure_sum.mailbox import Blame, Dealt, Fault
from edge_runtime.protocol.secure_sum.masks import Spread
from edge_runtime.protocol.secure_sum.messages import Unmasking
from edge_runtime.protocol.secure_sum.opening import Revelation


@dataclass(frozen=True, slots=True)
class OpenedSum:
    """What came of opening a group's sum.

    Attributes:
        raw: The sum of the lanes, as a blob; None if the group came to nothing.
        why: Then, why.
        blamed: Who was found to have lied, either way, with the evidence.
    """

    raw: bytes | None
    why: GroupEnd | None
    blamed: tuple[tuple[Blame, Mapping[str, str]], ...] = ()


def is_ready_to_open(session: Session, group: Group, now: datetime) -> bool:
    """Whether all who will reveal have revealed, and the masked reports are added up."""
    return (
        group.phase == GroupPhase.UNMASKING
        and move_of(session, group, now) is Move.ON
        and is_group_added(session, group)
    )


def open_group(
    session: Session, blobs: Blobs, group: Group, authority: PublicKey, *, spread: Spread = map, parts: int = 1
) -> OpenedSum:
    """Rebuild the secrets that hide a group's sum, check each, and take the masks off. Writes nothing.

    Raises:
        GroupDamaged: A partial sum was damaged or lost.
    """
    agreement = agreement_of(session, group, authority)
    members = members_of(session, group.id)
    dealt = dealt_in(session, group, agreement)
    masked = positions(members, who_reported(session, group.id))
    revelations = {
        holder: opening.revealed(
            agreement, holder, wire.decode(Unmasking, body), sharers=frozenset(dealt), masked=masked
        )
        for holder, body in bodies_of(session, members, group, Step.UNMASKING).items()
    }
    try:
        recovery = opening.recover(agreement, dealt, masked, revelations)
    except opening.NotOpened as failed:
        inconsistent = any(blame.fault is Fault.INCONSISTENT_SHARES for blame in failed.blamed)
        why = GroupEnd.INCONSISTENT_SHARES if inconsistent else GroupEnd.TOO_FEW_REVEALED
        return OpenedSum(None, why, _shown(failed.blamed, dealt, revelations))
    blamed = _shown(recovery.blamed, dealt, revelations)
    round_, _task = task_of(session, group)
    total = group_total(session, blobs, round_.tenant, group)
    opening.open_sum(agreement, total, recovery, spread=spread, parts=parts)
    lane = np.uint32((1 << agreement.terms.lanes.bits) - 1)
    if (total[-ZERO_LANE_COUNT:] & lane).any():
        return OpenedSum(None, GroupEnd.ZERO_LANES, blamed)
    return OpenedSum(sum_blob(group.id, OPENED, total), None, blamed)


def _shown(
    blamed: Sequence[Blame], dealt: Mapping[int, Dealt], revelations: Mapping[int, Revelation]
) -> tuple[tuple[Blame, Mapping[str, str]], ...]:
    """Blame with what shows it: of a forged share the promise that it breaks, of a dealer what it committed to."""
    shown = []
    for blame in blamed:
        if blame.fault is Fault.FORGED_SHARE:
            given = revelations[blame.member]
            raw = given.seeds.get(blame.other) or given.keys.get(blame.other, b"")
            evidence = {"revealed": raw.hex(), "promise": dealt[blame.other].promises[blame.member].hex()}
        else:
            evidence = {"seed_digest": dealt[blame.member].seed_digest.hex()}
        shown.append((blame, evidence))
    return tuple(shown)


def record_opened(session: Session, group_id: str, found: OpenedSum, sha256: str, now: datetime) -> bool:
    """Keep the address of a group's sum, or why there is none. Whether the group was still to be opened.

    The blob has a row even if the group has ended meanwhile: it is what deletes it.
    """
    group = session.get_one(Group, group_id)
    if sha256:
        record_chunk(session, group_id, OPENED, sha256)
    if group.phase != GroupPhase.UNMASKING:
        return False
    _blame(session, group, found.blamed, now)
    if found.why is not None:
        if found.why is GroupEnd.TOO_FEW_REVEALED:
            note_silence(session, group, now)
        if found.why is GroupEnd.ZERO_LANES:
            for device in sorted(who_reported(session, group_id)):
                record_fault(session, group, device, ZERO_LANES, now)
        end_group(session, group, found.why, now)
        return True
    group.phase = step(GROUP_STEPS, GroupPhase(group.phase), GroupEvent.SUM_OPENED)
    group.step_deadline_at = None
    session.add(group)
    forget_steps(session, group_id)
    return True


def _blame(session: Session, group: Group, blamed: Sequence[tuple[Blame, Mapping[str, str]]], now: datetime) -> None:
    members = members_of(session, group.id)
    for blame, evidence in blamed:
        other = members[blame.other].device_id
        record_fault(session, group, members[blame.member].device_id, blame.fault, now, other=other, evidence=evidence)
