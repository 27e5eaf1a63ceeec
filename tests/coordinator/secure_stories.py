"""Stories of groups that sum securely, drawn at random and told over real HTTP; a few of them in every run of the
tests, many in `tests.coordinator.secure_nightly`."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import httpx
import numpy as np
from hypothesis import strategies as st
from sqlmodel import select

from coordinator.core.rounds import SECURE_PHASES
from coordinator.core.secure_groups import PROVEN_FOR, TAKEN_IN, TOO_FEW, quarantine_for
from coordinator.store.group_tables import FaultRow, Quarantine
from edge_runtime.protocol.bundle import encode_bundle
from edge_runtime.protocol.checkpoint import encode_checkpoint
from edge_runtime.protocol.errors import Refusal
from edge_runtime.protocol.group import Step
from edge_runtime.protocol.keys import digest
from edge_runtime.protocol.reasons import GroupEnd
from tests.coordinator.asking import refusal
from tests.coordinator.secure import (
    STEPS,
    SecurePhone,
    end_phase,
    groups_of,
    in_database,
    meet,
    plain_sum,
    secure_plan,
    secure_round,
    sums_seen,
)
from tests.programme import POPULATION, TENANT_KEY, Clock, Home, copy_home, manifest, open_home, replace

_GRAPH = b"not a graph that any interpreter could run"


def told_afresh(made: tuple[Path, str], story: Callable[[Home], Any]) -> Any:
    """Tell a story with a coordinator of its own: a copy of one that was made, with its operator token."""
    with TemporaryDirectory() as folder, open_home(copy_home(made[0], Path(folder) / "home"), Clock(), made[1]) as home:
        return story(home)


# --- drawn groups, against plain integers ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scene:
    """A group and who falls silent.

    Attributes:
        parameters: Shared ones, d.
        survivors: The fewest whose sum may be opened, m.
        corrupt_permille: Assumed corrupt, γ.
        gone: So many phones are silent from this step on, for ever.
    """

    size: int
    parameters: int
    bits: int
    survivors: int
    corrupt_permille: int
    gone: Mapping[Step, int]

    def outcome(self) -> tuple[GroupEnd | None, int]:
        """What must come of it, by the page's words alone: why it ends, or None and whose reports are in the sum.

        Phones leave in the order of their numbers, so the sum is of those from that number on.
        """
        corrupt = self.corrupt_permille * self.size // 1000
        left = self.size
        threshold = 0
        counted = 0
        for step in STEPS:
            left -= self.gone.get(step, 0)
            if step is Step.JOIN:
                threshold = -(-(left + corrupt) // 2) + 1
                if left < max(3, self.survivors):
                    return GroupEnd.TOO_FEW_JOINED, 0
            elif step in (Step.SHARES, Step.MASKED) and left < max(threshold, self.survivors):
                return (GroupEnd.TOO_FEW_SHARED if step is Step.SHARES else GroupEnd.TOO_FEW_SURVIVORS), 0
            elif left < threshold:
                return TOO_FEW_LATE[step], 0
            if step is Step.MASKED:
                counted = self.size - left
        return None, counted


TOO_FEW_LATE: Final = {
    Step.CONFIRMATION: GroupEnd.TOO_FEW_CONFIRMED,
    Step.UNMASKING: GroupEnd.TOO_FEW_REVEALED,
}
assert set(TOO_FEW_LATE.values()) < set(TOO_FEW.values())


@st.composite
def scenes(draw: st.DrawFn, most: int = 7) -> Scene:
    size = draw(st.integers(3, most))
    corrupt_permille = draw(st.sampled_from((0, 0, 150, 300)))
    largest = -(-(size + corrupt_permille * size // 1000) // 2) + 1
    survivors = draw(st.integers(min(size, max(largest, size // 2 + 1)), size))
    left, gone = size, {}
    for step in STEPS:
        gone[step] = draw(st.sampled_from((0, 0, 0, 1, 2))) if left else 0
        gone[step] = min(gone[step], left)
        left -= gone[step]
    return Scene(
        size=size,
        parameters=draw(st.sampled_from((1, 2, 5, 10, 63, 1024))),
        bits=draw(st.sampled_from((20, 23, 24, 24, 27, 31, 32))),
        survivors=survivors,
        corrupt_permille=corrupt_permille,
        gone=gone,
    )


def tell(home: Home, scene: Scene) -> None:
    """Play a scene; the sum is that of plain integers, or the group ends by the name that the page has for it."""
    more = {"rotation_seed": bytes(range(32))} if scene.bits < 24 else {}
    plan = secure_plan(scene.size, survivors=scene.survivors, bits=scene.bits, **more)
    plan = replace(plan, corrupt_permille=scene.corrupt_permille)
    phones = drawn_round(home, scene, plan)
    why, first = scene.outcome()
    left = list(phones)
    with sums_seen(home, scene.bits) as sums:
        meet(home, phones)
        for step in STEPS:
            left = left[scene.gone.get(step, 0) :]
            if groups_of(home)[0].phase not in SECURE_PHASES:
                break
            for phone in left:
                phone.take(step)
            end_step(home, step)
    group = groups_of(home)[0]
    if why is None:
        assert (group.phase, sums) == ("summed", [plain_sum(phones[first:], scene.bits)]), scene
    else:
        assert (group.phase, group.ended_because, sums) == ("aborted", why, []), scene


def end_step(home: Home, step: Step) -> None:
    """Let the worker look; whoever did not take the step is waited for in vain."""
    home.look()
    if groups_of(home)[0].phase == TAKEN_IN[step]:
        end_phase(home)


def drawn_round(home: Home, scene: Scene, plan: Any) -> list[SecurePhone]:
    """A task on a bundle of so many parameters."""
    kind = manifest(scene.parameters + 2)
    bundle = encode_bundle(kind, _GRAPH, TENANT_KEY)
    first = encode_checkpoint(np.zeros(kind.parameters, np.float32), digest(bundle).hex(), 0, TENANT_KEY)
    plan = replace(plan, bundle_sha256=digest(bundle).hex())
    home.operator("PUT", f"/populations/{POPULATION}").raise_for_status()
    home.operator("PUT", f"/bundles/{plan.bundle_sha256}", content=bundle).raise_for_status()
    made = home.operator("POST", f"/bundles/{plan.bundle_sha256}/checkpoints", content=first)
    phones = secure_round(home, scene.size, plan, checkpoint_sha256=made.raise_for_status().json()["sha256"])
    for phone in phones:
        phone.values = scene.parameters
    return phones


def tell_of_a_regular_group(home: Home, size: int = 205) -> None:
    """A group above 200: each phone has k neighbours, and some go at every step. Its sum is that of plain integers."""
    plan = secure_plan(size, survivors=size * 8 // 10)
    phones = secure_round(home, size, replace(plan, corrupt_permille=100, dropout_permille=100))
    masked: list[SecurePhone] = []
    left = list(phones)
    with sums_seen(home) as sums:
        meet(home, phones)
        for step in STEPS:
            left = left[3:]
            for phone in left:
                phone.take(step)
            end_step(home, step)
            masked = list(left) if step is Step.MASKED else masked
    agreement = left[-1].sit().agreement
    assert not agreement.graph.complete
    assert agreement.graph.degree < size - 4
    assert (groups_of(home)[0].phase, sums) == ("summed", [plain_sum(masked)])


# --- a phone that lies at random -------------------------------------------------------------------------------------


@dataclass
class Liar:
    """Spoils what an honest phone would send, and keeps what it was told.

    Attributes:
        codes: Of every refusal.
        lied: Something spoilt was taken.
        masked: What it reported is what it should have.
    """

    phone: SecurePhone
    rng: random.Random
    tries: int
    codes: list[str]
    lied: bool = False
    masked: bool = False

    def attack(self, step: Step, others: list[SecurePhone]) -> None:
        """Send spoilt messages of a step until one is taken; then, perhaps, the right one."""
        honest, theirs = _made(self.phone, step), _made(others[0], step)
        for _try in range(self.tries):
            if self._told(self.phone.post(step, spoilt(honest, theirs, self.rng))):
                self.lied = True
                break
            self._told(self.phone.get(self.rng.choice(STEPS)))
        else:
            self._told(self.phone.post(step, honest))
        if step is Step.MASKED:
            self._report()

    def _report(self) -> None:
        with suppress(Refusal, AssertionError):
            honest = self.phone.report()
            for _try in range(self.tries // 2):
                cut = self.rng.randrange(len(honest))
                wrong = self.rng.choice((honest[:cut], honest + b"\0", b"", bytes(len(honest)), honest[::-1]))
                assert not self._told(self.phone.put_report(wrong))
            self.masked = self._told(self.phone.put_report(honest))

    def _told(self, answer: httpx.Response) -> bool:
        assert answer.status_code < 500, answer.text
        if answer.status_code >= 400:
            self.codes.append(refusal(answer))
        return answer.status_code == 200


def _made(phone: SecurePhone, step: Step) -> bytes:
    """What an honest phone would send at a step; an empty object where it would send nothing."""
    makers: dict[Step, Callable[[], bytes]] = {
        Step.JOIN: phone.joining,
        Step.SHARES: phone.shares,
        Step.MASKED: phone.complaints,
        Step.CONFIRMATION: phone.confirmation,
        Step.UNMASKING: phone.unmasking,
    }
    try:
        return makers[step]()
    except (Refusal, AssertionError):
        return b"{}"


def spoilt(body: bytes, other: bytes, rng: random.Random) -> bytes:
    """A message that is not what it should be."""
    kind = rng.randrange(8)
    if kind == 0:
        return rng.randbytes(rng.randrange(300))
    if kind == 1:
        return rng.choice((b"", b"{}", b"[]", b"null", b"[" * 5000, b'{"version":1}', b'"\\ud800"', b"1e999"))
    if kind == 2:
        return other
    fields: dict[str, Any] = json.loads(body)
    if not fields:
        return b"nothing"
    name = rng.choice(sorted(fields))
    if kind == 3:
        del fields[name]
    elif kind == 4:
        fields[rng.choice(("more", "Version", ""))] = 0
    elif kind == 5:
        fields[name] = rng.choice((None, -1, 1 << 70, 0.5, "", "ü", [], {}, True, "AA==", [[[]]]))
    else:
        fields[name] = _spoilt_bytes(fields[name], json.loads(other).get(name), rng)
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def _spoilt_bytes(value: object, other: object, rng: random.Random) -> object:
    if not isinstance(value, str):
        return 2
    try:
        raw = bytearray(base64.b64decode(value, validate=True))
    except ValueError:
        return value[:-1] + "z"
    way = rng.randrange(5)
    if way == 0 or not raw:
        raw += b"\0"
    elif way == 1:
        del raw[-1]
    elif way == 2:
        raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    elif way == 3:
        raw = bytearray(rng.randbytes(len(raw)))
    elif isinstance(other, str):
        return other
    return base64.b64encode(bytes(raw)).decode()


def tell_of_a_liar(home: Home, seed: int, *, tries: int = 6) -> Liar:
    """One of six spoils its messages from a drawn step on. The others' sum completes, or the group ends by name."""
    rng = random.Random(seed)
    phones = secure_round(home, 6)
    from_step = rng.randrange(len(STEPS))
    liar, honest = Liar(phones[0], rng, tries, []), phones[1:]
    with sums_seen(home) as sums:
        meet(home, phones)
        for place, step in enumerate(STEPS):
            if groups_of(home)[0].phase not in SECURE_PHASES:
                break
            if place >= from_step:
                liar.attack(step, honest)
            else:
                phones[0].take(step)
                liar.masked |= step is Step.MASKED
            for phone in honest:
                with suppress(Refusal):
                    phone.take(step)
            end_step(home, step)
    _check_end(home, phones, liar, sums)
    return liar


def _check_end(home: Home, phones: list[SecurePhone], liar: Liar, sums: list[list[int]]) -> None:
    group = groups_of(home)[0]
    if group.phase == "summed":
        assert sums == [plain_sum(phones if liar.masked else phones[1:])]
    else:
        assert (group.phase, sums) == ("aborted", [])
        assert group.ended_because in set(GroupEnd)
        assert liar.lied, "nobody else gave a reason"
    faults = in_database(home, lambda session: session.exec(select(FaultRow)).all())
    proven = [fault for fault in faults if quarantine_for(fault.fault, 1) == PROVEN_FOR]
    assert {fault.device_id for fault in proven} <= {liar.phone.device_id}, "an honest phone was blamed"
    assert all(any(json.loads(fault.evidence).values()) for fault in proven)
    kept_out = in_database(home, lambda session: {one.device_id for one in session.exec(select(Quarantine)).all()})
    assert kept_out == {fault.device_id for fault in proven}
