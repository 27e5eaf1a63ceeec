"""Buffered tasks: rounds overlap, and an update weighs each sum by its staleness; against plain arithmetic in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from coordinator.services import updates
from coordinator.store.blobs import BlobKind
from edge_runtime.protocol.plan import Plan
from tests.coordinator.asking import check_in
from tests.coordinator.running import begun, reported, rounds_of, stored, task_of, weights_of
from tests.programme import FIRST_WEIGHTS, MANIFEST, PLAN, TASK, Home, Phone, replace

BUFFERED = replace(PLAN, goal=2, min_reports=1, expected_participants=2)
SHARED = slice(2, 12)
OPTIMISERS: list[dict[str, Any]] = [{}, {"name": "adam", "learning_rate": 0.1}]


def start(home: Home, plan: Plan = BUFFERED, **settings: Any) -> None:
    """A task whose rounds are of one phone each, and whose updates take two reports."""
    chosen = {"mode": "buffered", "rounds_at_once": 3, "pool_size": 1, "rounds": 100, **settings}
    home.start_task(plan, **chosen)


def delta_of(rng: np.random.Generator) -> np.ndarray[Any, Any]:
    return rng.normal(size=MANIFEST.shared_parameters).astype(np.float32)


class PlainFedBuff:
    """What the coordinator must do, in a few lines: https://arxiv.org/abs/2106.06639, with the tasks' optimisers."""

    def __init__(self, plan: Plan, exponent: float, **optimiser: Any) -> None:
        self.versions = [FIRST_WEIGHTS]
        self.stalest = 0
        self._plan, self._exponent, self._optimiser = plan, exponent, optimiser
        self._held: list[tuple[int, int, Any]] = []
        self._m = np.zeros(MANIFEST.shared_parameters)
        self._v = np.full(MANIFEST.shared_parameters, 1e-3**2)

    def receive(self, number: int, version: int, delta: np.ndarray[Any, Any]) -> None:
        """A sum of one report; applied with the others of the buffer, by round, when there are as many as the goal."""
        lanes = self._plan.lanes().encode(delta, np.random.default_rng(0))
        summed = lanes[:-4].view(np.int32).astype(np.float64) / self._plan.lanes().scale
        self._held.append((number, version, summed))
        if len(self._held) < self._plan.goal:
            return
        newest = len(self.versions) - 1
        total = np.zeros(MANIFEST.shared_parameters)
        for _number, began, held in sorted(self._held, key=lambda one: one[0]):
            total = total + held * (1 + newest - began) ** -self._exponent
        self.stalest = max(self.stalest, *(newest - began for _number, began, _held in self._held))
        self._held = []
        weights = self.versions[-1].astype(np.float64)
        weights[SHARED] += self._update(total)
        self.versions.append(weights.astype(np.float32))

    def _update(self, total: Any) -> Any:
        name, rate = self._optimiser.get("name", "sgd"), self._optimiser.get("learning_rate", 1.0)
        if name == "sgd":
            return total * (rate / self._plan.expected_participants)
        mean = total / self._plan.expected_participants
        self._m = 0.9 * self._m + (1 - 0.9) * mean
        self._v = 0.99 * self._v + (1 - 0.99) * (mean * mean)
        return rate * self._m / (np.sqrt(self._v) + 1e-3)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_updates_are_those_of_plain_fedbuff_bit_for_bit(home: Home, optimiser: dict[str, Any]) -> None:
    """Waves of four phones; within a wave they report in any order, some a wave late; three reports make an update."""
    plan = replace(BUFFERED, goal=3, expected_participants=3)
    start(home, plan, server_optimiser=optimiser, rounds_at_once=6)
    rng = np.random.default_rng(7)
    oracle = PlainFedBuff(plan, 0.5, **optimiser)
    working: list[tuple[Phone, Any, int]] = []
    for wave in range(4):
        for one in range(4):
            phone = home.phone(4 * wave + one)
            (assignment,) = begun(home, [phone], str(wave))
            if assignment is not None:
                working.append((phone, assignment, task_of(home, TASK)["model_version"]))
        order = [int(place) for place in rng.permutation(len(working)) if place]
        order = [0, *order] if wave == 3 else order  # the first of all is very late
        for place in order[: 3 + wave % 2]:
            phone, assignment, version = working[place]
            delta = delta_of(rng)
            reported(home, phone, assignment, delta)
            home.look()
            oracle.receive(assignment.round, version, delta)
        working = [one for place, one in enumerate(working) if place not in order[: 3 + wave % 2]]
    assert len(oracle.versions) == 5
    found = task_of(home, TASK)
    assert found["model_version"] == len(oracle.versions) - 1
    assert weights_of(home, found["checkpoint_sha256"]).tobytes() == oracle.versions[-1].tobytes()
    committed = [one for one in rounds_of(home, TASK) if one["phase"] == "committed"]
    assert len(committed) == found["rounds_committed"] == 3 * found["model_version"]
    assert oracle.stalest >= 2, "nothing was stale"


def test_rounds_overlap_and_each_begins_from_the_newest_model(home: Home) -> None:
    start(home)
    phones = [home.phone(number) for number in range(4)]
    assignments = [begun(home, [phone], "first")[0] for phone in phones[:3]]
    assert all(assignments)
    assert [one["phase"] for one in rounds_of(home, TASK)] == ["training"] * 3
    check_in(home, phones[3])
    home.look()
    assert len(rounds_of(home, TASK)) == 3, "no more than rounds_at_once"
    for number in (1, 2):
        reported(home, phones[number], assignments[number], delta_of(np.random.default_rng(number)))
    home.look()
    first, second, third, fourth = rounds_of(home, TASK)
    assert [one["phase"] for one in (first, second, third, fourth)] == [
        "training",
        "committed",
        "committed",
        "selecting",
    ]
    assert (first["model_version"], fourth["model_version"]) == (0, 1)
    assert second["result_sha256"] == third["result_sha256"] == fourth["checkpoint_sha256"]


def test_a_sum_waits_in_the_buffer_until_there_are_enough_reports(home: Home) -> None:
    start(home)
    phone = home.phone(0)
    (assignment,) = begun(home, [phone], "first")
    reported(home, phone, assignment, delta_of(np.random.default_rng(1)))
    home.look()
    assert rounds_of(home, TASK)[0]["phase"] == "buffered"
    assert task_of(home, TASK)["model_version"] == 0


def aged(home: Home, max_staleness: int) -> Phone:
    """A buffer with one sum that is two versions old: its phone."""
    start(home, replace(BUFFERED, goal=2), max_staleness=max_staleness, rounds_at_once=3)
    late = home.phone(9)
    (assignment,) = begun(home, [late], "late")
    for wave in range(2):
        for number in (0, 1):
            phone = home.phone(10 * wave + number)
            (each,) = begun(home, [phone], str(wave))
            reported(home, phone, each, delta_of(np.random.default_rng(number)))
            home.look()
    assert task_of(home, TASK)["model_version"] == 2
    reported(home, late, assignment, delta_of(np.random.default_rng(5)))
    home.look()
    return late


def test_a_sum_that_is_too_old_is_dropped_by_name(home: Home) -> None:
    aged(home, max_staleness=1)
    first = rounds_of(home, TASK)[0]
    assert (first["phase"], first["abandonment"], first["reports"]) == ("abandoned", "too-stale", 1)
    assert [group["abandonment"] for group in first["groups"]] == ["too-stale"]
    assert first["result_sha256"] is None


def test_a_sum_that_is_just_young_enough_waits(home: Home) -> None:
    aged(home, max_staleness=2)
    assert rounds_of(home, TASK)[0]["phase"] == "buffered"


def test_an_update_computed_twice_is_the_same_and_applied_once(home: Home) -> None:
    """Two workers compute the update of the same buffer, and both try to commit it."""
    start(home, server_optimiser={"name": "yogi"})
    phones = [home.phone(number) for number in range(2)]
    assignments = [begun(home, [phone], "first")[0] for phone in phones]
    parts = home.app.state.parts
    reported(home, phones[0], assignments[0], delta_of(np.random.default_rng(0)))
    home.look()
    reported(home, phones[1], assignments[1], delta_of(np.random.default_rng(1)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(home.app.state.worker._rounds, "_update", lambda *_given: None)
        home.app.state.worker.look()
        home.app.state.worker.look()
        home.app.state.worker.look()
        home.app.state.worker.look()
    with parts.database.reading() as session:
        ((task_id, buffer),) = updates.buffers(session).items()
        assert len(buffer.fresh) == 2
        twice = [updates.compute_update(session, parts.blobs, parts.key, task_id, buffer.fresh) for _time in range(2)]
    assert twice[0].result.sha256 == twice[1].result.sha256
    assert twice[0].state_sha256 == twice[1].state_sha256
    done = []
    for update in twice:
        with parts.database.writing() as session:
            done.append(updates.commit_update(session, update, home.clock()))
    assert done == [True, False]
    assert task_of(home, TASK)["model_version"] == 1


def test_what_the_optimiser_remembers_is_replaced_with_the_model_and_the_old_is_deleted(home: Home) -> None:
    start(home, server_optimiser={"name": "adam"})
    for wave in range(3):
        for number in range(2):
            phone = home.phone(2 * wave + number)
            (assignment,) = begun(home, [phone], str(wave))
            reported(home, phone, assignment, delta_of(np.random.default_rng(number)))
            home.look()
    assert task_of(home, TASK)["model_version"] == 3
    with stored(home, TASK) as (_session, task):
        kept = task.optimiser_state_sha256
    assert kept is not None
    blobs = home.app.state.parts.blobs
    states = blobs.path("acme", BlobKind.OPTIMISER_STATE, kept)
    assert [path.name for path in states.parent.iterdir()] == [kept]


def test_a_damaged_state_abandons_the_rounds_by_name(home: Home) -> None:
    start(home, replace(BUFFERED, goal=1), server_optimiser={"name": "adam"})
    phone = home.phone(0)
    (assignment,) = begun(home, [phone], "first")
    reported(home, phone, assignment, delta_of(np.random.default_rng(0)))
    home.look()
    with stored(home, TASK) as (_session, task):
        state = task.optimiser_state_sha256
    home.app.state.parts.blobs.path("acme", BlobKind.OPTIMISER_STATE, state).write_bytes(b"gone")
    (assignment,) = begun(home, [other := home.phone(1)], "second")
    reported(home, other, assignment, delta_of(np.random.default_rng(1)))
    home.look()
    assert rounds_of(home, TASK)[1]["abandonment"] == "storage-damaged"
    assert task_of(home, TASK)["model_version"] == 1


def test_a_damaged_sum_in_the_buffer_costs_only_its_own_round(home: Home) -> None:
    start(home)
    phones = [home.phone(number) for number in range(3)]
    assignments = [begun(home, [phone], "first")[0] for phone in phones]
    reported(home, phones[0], assignments[0], delta_of(np.random.default_rng(0)))
    home.look()
    folder = home.app.state.parts.blobs.path("acme", BlobKind.PARTIAL_SUM, "0" * 64).parent
    for path in folder.iterdir():
        path.write_bytes(b"damaged")
    for number in (1, 2):
        reported(home, phones[number], assignments[number], delta_of(np.random.default_rng(number)))
        home.look()
    found = rounds_of(home, TASK)
    assert [one["abandonment"] for one in found[:3]] == ["storage-damaged", None, None]
    assert [one["phase"] for one in found[1:3]] == ["committed", "committed"]


def test_a_buffered_task_that_is_cancelled_drops_its_buffer_by_name(home: Home) -> None:
    start(home)
    phone = home.phone(0)
    (assignment,) = begun(home, [phone], "first")
    reported(home, phone, assignment, delta_of(np.random.default_rng(1)))
    home.look()
    home.operator("POST", f"/tasks/{TASK}/cancel").raise_for_status()
    found = rounds_of(home, TASK)
    assert {one["phase"] for one in found} == {"abandoned"}
    assert {one["abandonment"] for one in found} == {"task-cancelled"}


def test_a_buffered_task_stops_after_its_rounds_and_what_overlaps_is_abandoned_by_name(home: Home) -> None:
    start(home, rounds=2)
    phones = [home.phone(number) for number in range(3)]
    assignments = [begun(home, [phone], "first")[0] for phone in phones]
    for number in (0, 1):
        reported(home, phones[number], assignments[number], delta_of(np.random.default_rng(number)))
        home.look()
    found = task_of(home, TASK)
    assert (found["state"], found["ended_because"], found["rounds_committed"]) == ("completed", "rounds-done", 2)
    assert [one["abandonment"] for one in rounds_of(home, TASK)][:3] == [None, None, "task-completed"]
