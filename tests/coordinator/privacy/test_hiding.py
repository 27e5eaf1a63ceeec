"""Noise that the coordinator adds: drawn once, charged before, one view of a sum, and gone when it was used."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sqlmodel import Session, select

from coordinator.core.privacy.blt import fitted
from coordinator.core.privacy.central import SumNoise
from coordinator.core.privacy.plans import sum_noise
from coordinator.services import hiding
from coordinator.store.blobs import BlobKind
from coordinator.store.crash_points import CrashPoint, hooked
from coordinator.store.privacy_tables import NoiseRow, StreamRow
from coordinator.store.tables import Group, Round, Task
from edge_runtime.protocol.counted import Opened
from edge_runtime.protocol.measures import encode_measures
from edge_runtime.protocol.plan import Kind, MetricRange, Plan, Privacy
from edge_runtime.protocol.secure_sum.lanes import Lanes
from tests.coordinator.asking import check_in
from tests.coordinator.privacy.oracle import toeplitz
from tests.coordinator.privacy.spending import CENTRAL, NOISE, RHO, budget_of, kinds_of, put_budget
from tests.coordinator.running import begun, reported, rounds_of, weights_of, written
from tests.coordinator.secure import in_database
from tests.programme import FIRST_WEIGHTS, MANIFEST, TASK, TENANT, Crash, Home, Phone, one_hot, replace

ALONE = replace(CENTRAL, goal=1, expected_participants=1)
CORRELATED = replace(ALONE, privacy=Privacy.CORRELATED, separation=3)
SHARED = MANIFEST.shared_parameters


def started(home: Home, plan: Plan = ALONE, phones: int = 2, **settings: Any) -> list[Phone]:
    home.publish()
    found = [home.phone(number) for number in range(phones)]
    put_budget(home, "recipients", rho=9.0).raise_for_status()
    home.start_task(plan, **{"pool_size": 1, "rounds": 1, **settings})
    return found


def one_round(home: Home, phone: Phone, visit: str = "one") -> None:
    (assignment,) = begun(home, [phone], visit)
    reported(home, phone, assignment, one_hot(phone.number))


def views(home: Home) -> set[str]:
    """Every model version that was ever written, but for the first."""
    folder = home.app.state.parts.blobs.path(TENANT, BlobKind.CHECKPOINT, "0" * 64).parent
    return {path.name for path in folder.glob("*")} - {rounds_of(home, TASK)[0]["checkpoint_sha256"]}


def seeds(home: Home) -> list[bytes]:
    return in_database(home, lambda session: [row.seed for row in session.exec(select(NoiseRow)).all()])


def dying_at(points: dict[CrashPoint, int], look: Callable[[], None]) -> Callable[[CrashPoint], None]:
    """Dies so many times at each point; sees what is there each time."""

    def die(point: CrashPoint) -> None:
        look()
        if points.get(point, 0):
            points[point] -= 1
            raise Crash

    return die


def one_view_and_its_charge(home: Home) -> None:
    """The coordinator dies at every point of an update, twice; whenever a view is there, its charge is."""
    (phone, _other) = started(home)
    one_round(home, phone)

    def look() -> None:
        if views(home):
            assert "charged" in kinds_of(home), "a view without its charge"

    points = dict.fromkeys((CrashPoint.NOISE_CHARGED, CrashPoint.UPDATE_STORED, CrashPoint.UPDATE_COMMITTED), 2)
    with hooked(dying_at(points, look)):
        for _life in range(9):
            with contextlib.suppress(Crash):
                home.look()
    assert not any(points.values())
    assert rounds_of(home, TASK)[0]["phase"] == "committed"
    assert len(views(home)) == 1, "a repeated step gives the same view"
    assert kinds_of(home) == ["budget", "task", "reserved", "charged"]
    assert seeds(home) == [], "erased after the release"


def test_a_step_of_central_noise_that_is_repeated_gives_one_view_only(home: Home) -> None:
    one_view_and_its_charge(home)


def test_noise_that_is_drawn_anew_each_time_is_caught(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = SumNoise.drawn

    def fresh(noise: SumNoise, size: int, _seed: bytes, *purpose: bytes) -> Any:
        return drawn(noise, size, np.random.default_rng().bytes(32), *purpose)

    monkeypatch.setattr(SumNoise, "drawn", fresh)
    with pytest.raises(AssertionError, match="the same view"):
        one_view_and_its_charge(home)


def test_an_update_has_the_noise_of_the_plan_on_the_grid_of_the_lanes(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.services.hiding.secrets.token_bytes", lambda count: b"\x07" * count)
    (phone, _other) = started(home)
    one_round(home, phone)
    home.look()
    moved = (weights_of(home, rounds_of(home, TASK)[0]["result_sha256"]) - FIRST_WEIGHTS)[2:].astype(np.float64)
    noise = sum_noise(ALONE, SHARED)
    expected = one_hot(0) + noise.drawn(SHARED, b"\x07" * 32) * noise.step
    assert np.allclose(moved, expected, atol=1e-5 * np.abs(expected).max())
    assert np.std(expected) == pytest.approx(NOISE * ALONE.clipping_norm, rel=0.6)
    assert budget_of(home, "recipients")["spent"] == pytest.approx(RHO, rel=1e-3)


def test_a_sum_that_lost_a_group_gets_other_noise(home: Home) -> None:
    (phone, _other) = started(home)
    one_round(home, phone)

    def ids(session: Session) -> tuple[str, str]:
        return session.exec(select(Task.id)).one(), session.exec(select(Round.id)).one()

    task_id, round_id = in_database(home, ids)
    written(home, lambda session: hiding.prepare(session, [round_id]))
    (before,) = seeds(home)
    written(home, lambda session: hiding.prepare(session, [round_id]))
    assert seeds(home) == [before], "again is the same"
    more = Group(id="f" * 32, round_id=round_id, number=2, phase="reporting")
    written(home, lambda session: session.add(more))
    assert not in_database(home, lambda session: hiding.is_prepared(session, task_id, [round_id]))
    with pytest.raises(hiding.Unprepared):
        in_database(
            home,
            lambda s: hiding.hidden(
                s, home.app.state.parts.blobs, s.get_one(Round, round_id), Opened(np.zeros(SHARED))
            ),
        )
    written(home, lambda session: hiding.prepare(session, [round_id]))
    assert seeds(home) != [before]
    assert kinds_of(home).count("charged") == 1


def test_metrics_are_hidden_and_charged(home: Home) -> None:
    plan = replace(
        ALONE,
        kind=Kind.EVALUATE,
        metrics=(MetricRange(name="loss", low=0.0, high=4.0),),
        max_examples=8,
        clipping_norm=2.0,
    )
    (phone, _other) = started(home, plan, kind="evaluate")
    (assignment,) = begun(home, [phone], "one")
    reported(home, phone, assignment, encode_measures(plan, {"loss": 1.0}, 8))
    home.look()
    assert rounds_of(home, TASK)[0]["phase"] == "committed"
    assert rounds_of(home, TASK)[0]["metrics"] != {"loss": pytest.approx(1.0, abs=1e-3)}, "noise is in it"
    assert kinds_of(home) == ["budget", "task", "reserved", "charged"]
    assert seeds(home) == []


@pytest.mark.parametrize(("bits", "participants"), [(32, 4), (32, 1000), (24, 100), (20, 100)])
def test_the_noise_of_a_sum_has_the_claimed_law(bits: int, participants: int) -> None:
    """On the grid, with variance σ², and ρ no less than that of the plan's multiplier."""
    lanes = Lanes(bits, 1.5, participants, rotation_seed=bytes(32) if bits < 24 else b"", bounded=True)
    noise = SumNoise.of(lanes, 40_000, NOISE)
    found = noise.hidden(np.zeros(40_000), noise.drawn(40_000, b"\x01" * 32))
    assert np.allclose(found / noise.step, np.rint(found / noise.step), atol=1e-6)
    # 40,000 draws: the variance is within 4 % of the law but for one seed in 10^7, and this seed does not change.
    assert np.var(found) == pytest.approx((NOISE * 1.5) ** 2, rel=0.04)
    assert RHO <= noise.rho <= RHO * 1.05
    assert noise.sigma < 2**26


def correlated_round(home: Home, phone: Phone, number: int) -> None:
    one_round(home, phone, f"round {number}")
    home.look()


def test_correlated_noise_cancels_as_the_matrix_says_through_crashes_and_abandoned_rounds(home: Home) -> None:
    """Rounds 1, 2, 4 and 5 of six are released; the noise of the third, to which nobody came, goes with the fourth."""
    used: dict[int, bytes] = {}

    def look() -> None:
        for seed in seeds(home):
            assert used.setdefault(number, seed) == seed, "once drawn and charged, a seed stays"

    phones = started(home, CORRELATED, phones=6, rounds=6)
    points = (CrashPoint.NOISE_CHARGED, CrashPoint.UPDATE_STORED, CrashPoint.UPDATE_COMMITTED)
    deaths = dict.fromkeys(points, 0)
    with hooked(dying_at(deaths, look)):
        for number in (1, 2, 3, 4, 5):
            if number == 3:
                begun(home, [phones[2]], "silent")
                home.clock.forward(101)
                home.look()
                continue
            one_round(home, phones[number - 1], f"round {number}")
            deaths.update(dict.fromkeys(points, number % 3))
            for _life in range(7):
                with contextlib.suppress(Crash):
                    home.look()
            assert not any(deaths.values())
    found = rounds_of(home, TASK)
    assert [one["phase"] for one in found][:5] == ["committed", "committed", "abandoned", "committed", "committed"]
    noise = sum_noise(CORRELATED, SHARED)
    seed_of = used | {3: used[4]}
    fresh = np.array([noise.drawn(SHARED, seed_of[at], str(at).encode()) for at in range(1, 6)], np.float64)
    matrix = toeplitz(fitted(6, 3).column(6)[:5])
    correlated = np.linalg.solve(matrix, fresh)  # an oracle by dense algebra
    total, weights = np.zeros(SHARED), FIRST_WEIGHTS[2:].astype(np.float64)
    for at in (1, 2, 4, 5):
        expected = correlated[at - 1] if at != 4 else correlated[2] + correlated[3]
        total += one_hot(phones[at - 1].number) + np.rint(expected) * noise.step
        got = weights_of(home, found[at - 1]["result_sha256"])[2:].astype(np.float64)
        assert np.allclose(got, weights + total, atol=1e-4 * np.abs(total).max()), f"round {at}"
    cancelled, alone = np.cumsum(correlated, axis=0)[-1], np.cumsum(fresh, axis=0)[-1]
    assert np.linalg.norm(cancelled) < np.linalg.norm(alone)
    assert len(set(used.values())) == len(used) == 4


def test_correlated_rounds_cost_what_the_matrix_costs_up_to_them(home: Home) -> None:
    """ρ of t rounds is sens²/2z² of the first t rows; nothing of the noise outlives the task."""
    phones = started(home, CORRELATED, phones=4, rounds=3)
    for number in (1, 2, 3):
        correlated_round(home, phones[number - 1], number)
        column = fitted(3, 3).column(3)[:number]
        if number < 3:
            assert in_database(home, lambda session: session.exec(select(StreamRow)).one()).round == number
        rho = float(np.dot(column, column)) * RHO  # nobody is in two of three rounds that are three apart
        assert budget_of(home, "recipients")["spent"] == pytest.approx(rho, rel=1e-3)
    assert home.task()["state"] == "completed"
    assert in_database(home, lambda session: session.exec(select(StreamRow)).all()) == []
    folder = home.app.state.parts.blobs.path(TENANT, BlobKind.NOISE_STATE, "0" * 64).parent
    assert list(folder.glob("*")) == [], "nor the buffers"
    assert seeds(home) == []


def test_who_was_in_a_round_is_not_chosen_again_before_the_plan_says(home: Home) -> None:
    plan = replace(ALONE, separation=3, most_participations=2)
    phones = started(home, plan, phones=4, rounds=9)
    chosen = []
    for number in range(1, 6):
        assignments = begun(home, phones[:1] if number in (2, 3) else phones[:2], f"round {number}")
        for phone, assignment in zip(phones, assignments, strict=False):
            if assignment is not None:
                chosen.append((assignment.round, phone.number))
                reported(home, phone, assignment, one_hot(phone.number))
        home.clock.forward(200)
        home.look()
    per_phone = {number: [at for at, who in chosen if who == number] for number in (0, 1)}
    for rounds in per_phone.values():
        assert len(rounds) <= 2
        assert all(later - earlier >= 3 for earlier, later in itertools.pairwise(rounds))
    assert len(chosen) >= 3


def test_a_budget_that_is_spent_lets_rounds_at_work_end_before_the_task_does(home: Home) -> None:
    """A buffered task with two rounds at once, and a budget for two: both are in an update, then the task ends."""
    home.publish()
    phones = [home.phone(number) for number in range(3)]
    put_budget(home, "recipients", rho=2.1 * RHO).raise_for_status()
    home.start_task(ALONE, mode="buffered", rounds_at_once=3, pool_size=1, rounds=9)
    (late,) = begun(home, phones[:1], "late")
    (quick,) = begun(home, phones[1:2], "quick")
    reported(home, phones[1], quick, one_hot(1))
    home.look()
    assert home.task()["state"] == "active", "a round is at work"
    assert begun(home, phones[2:], "third") == [None]
    reported(home, phones[0], late, one_hot(0))
    home.look()
    home.clock.forward(101)  # a round that looked for devices meanwhile finds none
    home.look()
    found = home.task()
    assert (found["rounds_committed"], found["state"], found["ended_because"]) == (2, "completed", "budget-spent")
    answer = check_in(home, phones[2], "after")
    assert answer.retry is not None
    assert answer.retry.reason == "no-task", "devices hear that there is nothing to do"
