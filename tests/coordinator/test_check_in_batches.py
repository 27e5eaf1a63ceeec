"""A batch of check-ins does what its check-ins do one after another: the same answers, the same rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlmodel import Session, SQLModel, col, select

from coordinator.core.pacing import Limits
from coordinator.core.rounds import OPEN_PHASES, GroupPhase, Phase, Standing
from coordinator.core.tasks import TaskState
from coordinator.services import checkin_rows, checkins, devices
from coordinator.services.checkins import CheckIns, Knock
from coordinator.services.pace import Pace
from coordinator.store.database import Database
from coordinator.store.tables import Candidate, Cohort, Device, Group, Nonce, Participation, Population, Round, Task
from edge_runtime.protocol.checkin import CHECK_IN_PATH, CheckIn, CheckInAnswer
from edge_runtime.protocol.errors import Refusal
from edge_runtime.protocol.keys import SigningKey, device_id, digest
from edge_runtime.protocol.signing import claimed, sign_request
from tests.coordinator.one_by_one import Told, told_one
from tests.postgres import Postgres
from tests.programme import (
    PLAN,
    POPULATION,
    TENANT,
    Clock,
    copy_home,
    forget_home,
    make_home,
    open_home,
    replace,
    settings_in,
)
from tests.warm import share_statements

PHONES = 5
TASKS = ("first", "second", "third")
RULE = b'{"version":1,"where":{"platform":["android"]}}'
KEYS = [SigningKey(digest(b"phone", str(number).encode())) for number in range(PHONES + 1)]
"""The last is nobody's."""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return three_tasks(tmp_path_factory.mktemp("batches") / "home")


def three_tasks(folder: Path, database_url: str = "") -> Path:
    """A coordinator with three tasks of one population, and no round yet."""
    folder.mkdir()
    with open_home(folder, Clock(), make_home(folder, database_url)) as home:
        sha256 = home.publish()
        with home.app.state.parts.database.writing() as session:
            session.merge(
                Cohort(
                    tenant=TENANT,
                    population=POPULATION,
                    name="androids",
                    rule=RULE,
                    created_at=home.clock.at,
                    changed_at=home.clock.at,
                )
            )
        for number, name in enumerate(TASKS):
            plan = replace(PLAN, min_examples=(1, 1, 33)[number])
            home.start_order(
                home.order(
                    plan,
                    name=name,
                    checkpoint_sha256=sha256,
                    seed=f"{number:02d}" * 32,
                    pool_size=2 + number,
                    priority=(0, 0, 1)[number],
                    min_separation_s=(0.0, 3600.0, 0.0)[number],
                    cohort=None if number < 2 else "androids",
                )
            )
        for number in range(PHONES):
            home.phone(number)
    return folder


@dataclass
class World:
    """One of two coordinators to which the same happens."""

    database: Database
    clock: Clock = field(default_factory=Clock)

    def change(self, act: Callable[[Session], None]) -> None:
        with self.database.writing() as session:
            act(session)

    def rows(self) -> dict[str, list[Any]]:
        """Everything that check-ins may write."""
        with self.database.reading() as session:
            tables: tuple[type[SQLModel], ...] = (Device, Nonce, Candidate, Participation)
            return {
                table.__name__: sorted(repr(sorted(row.model_dump().items())) for row in session.exec(select(table)))
                for table in tables
            }


@pytest.fixture
def worlds(template: Path, tmp_path: Path) -> Iterator[Callable[[], tuple[World, World]]]:
    with copies(template, tmp_path) as fresh:
        yield fresh


@contextmanager
def copies(template: Path, scratch: Path) -> Iterator[Callable[[], tuple[World, World]]]:
    """Makes pairs of coordinators that know the same."""
    opened: list[World] = []
    folders: list[Path] = []

    def fresh() -> tuple[World, World]:
        found = []
        for name in ("batches", "alone"):
            folders.append(copy_home(template, scratch / f"{len(opened)}{name}"))
            clock = Clock()
            opened.append(World(Database(settings_in(folders[-1]).sqlalchemy_url(), clock=clock), clock))
            share_statements(opened[-1].database.engine)
            found.append(opened[-1])
        return found[0], found[1]

    yield fresh
    for world, folder in zip(opened, folders, strict=True):
        world.database.close()
        forget_home(folder)


def knock(of: tuple[int, int, int, bool, str, int], clock: Clock) -> Knock:
    """A check-in by (phone, visit, examples, again, how, nonce)."""
    phone, visit, examples, again, how, nonce = of
    key, name = KEYS[phone], device_id(TENANT, KEYS[phone].public)
    signer = KEYS[(phone + 1) % PHONES] if how == "forged" else key
    created = int(clock.at.timestamp()) + (4000 if how == "skewed" else 0)
    headers = sign_request(signer, name, "POST", CHECK_IN_PATH, b"", created=created, nonce=digest(bytes([nonce]))[:16])
    message = CheckIn(
        version=3,
        population="elsewhere" if how == "elsewhere" else POPULATION,
        visit=digest(bytes([visit])).hex()[:32],
        runtime="none",
        examples=examples,
        app_version="1.0",
        platform="ios" if how == "ios" else "android",
        region=None,
        hardware_class=None,
        attributes={},
    )
    return Knock(claimed(headers), CHECK_IN_PATH, message, again)


def opens(number: int) -> Callable[[Session], None]:
    """A task opens its next round; a round before it that still selects goes on."""

    def act(session: Session) -> None:
        task = session.exec(select(Task).where(Task.name == TASKS[number])).one()
        found = session.exec(select(Round).where(Round.task_id == task.id)).all()
        session.add(
            Round(
                id=digest(b"round", bytes([number, len(found)])).hex()[:32],
                tenant=TENANT,
                task_id=task.id,
                number=len(found) + 1,
                phase=Phase.SELECTING,
                checkpoint_sha256=task.checkpoint_sha256,
                opened_at=task.created_at,
                deadline_at=task.created_at + timedelta(days=1),
            )
        )

    return act


def chooses(number: int) -> Callable[[Session], None]:
    """The task's oldest selecting round takes the first two of its candidates."""

    def act(session: Session) -> None:
        round_ = _oldest(session, number, (Phase.SELECTING,))
        if round_ is None:
            return
        round_.phase = Phase.TRAINING
        group = Group(
            id=digest(round_.id.encode()).hex()[:32], round_id=round_.id, number=1, phase=GroupPhase.REPORTING
        )
        session.add_all((round_, group))
        session.flush()
        found = session.exec(
            select(Candidate.device_id).where(Candidate.round_id == round_.id).order_by(col(Candidate.device_id))
        ).all()
        for device in found[:2]:
            name = digest(round_.id.encode(), device.encode()).hex()[:32]
            session.add(
                Participation(
                    id=name, round_id=round_.id, group_id=group.id, device_id=device, standing=Standing.CHOSEN
                )
            )

    return act


def ends(number: int, standing: Standing) -> Callable[[Session], None]:
    """One participation of the task ends; then the oldest open round of the task."""

    def act(session: Session) -> None:
        round_ = _oldest(session, number, OPEN_PHASES)
        if round_ is None:
            return
        part = session.exec(
            select(Participation).where(Participation.round_id == round_.id).order_by(col(Participation.id))
        ).first()
        if part is not None and part.standing == Standing.ASSIGNED:
            part.standing = standing
        else:
            round_.phase = Phase.ABANDONED
        session.flush()

    return act


def _oldest(session: Session, number: int, phases: Sequence[Phase]) -> Round | None:
    task = session.exec(select(Task).where(Task.name == TASKS[number])).one()
    return session.exec(
        select(Round).where(Round.task_id == task.id, col(Round.phase).in_(phases)).order_by(col(Round.number))
    ).first()


def pauses(number: int) -> Callable[[Session], None]:
    def act(session: Session) -> None:
        task = session.exec(select(Task).where(Task.name == TASKS[number])).one()
        task.state = TaskState.PAUSED if task.state == TaskState.ACTIVE else TaskState.ACTIVE

    return act


def switches(_number: int) -> Callable[[Session], None]:
    def act(session: Session) -> None:
        population = session.get_one(Population, (TENANT, POPULATION))
        population.switched_off = not population.switched_off

    return act


def leaves(number: int) -> Callable[[Session], None]:
    def act(session: Session) -> None:
        device = session.get_one(Device, device_id(TENANT, KEYS[number].public))
        devices.leave(session, device, Clock().at)

    return act


def as_told(what: CheckInAnswer | Refusal) -> Told:
    if isinstance(what, Refusal):
        return "refused", what.code
    if what.assignment is not None:
        return "assigned", what.assignment.participation
    return "wait", what.retry.reason if what.retry else None


HOW = st.sampled_from(["right"] * 8 + ["ios", "forged", "skewed", "elsewhere"])
KNOCKS = st.tuples(
    st.sampled_from([*range(PHONES)] * 4 + [PHONES]),
    st.integers(0, 2),
    st.sampled_from([32, 64]),
    st.sampled_from([False, False, False, True]),
    HOW,
    st.integers(0, 40),
)
TASK = st.integers(0, len(TASKS) - 1)
HAPPENINGS = st.one_of(
    st.builds(opens, TASK),
    st.builds(opens, TASK),
    st.builds(chooses, TASK),
    st.builds(chooses, TASK),
    st.builds(ends, TASK, st.sampled_from([Standing.REPORTED, Standing.ENDED])),
    st.builds(pauses, TASK),
    st.builds(switches, TASK),
    st.builds(leaves, TASK),
)
STEPS = st.one_of(
    st.lists(KNOCKS, min_size=1, max_size=12),
    st.lists(KNOCKS, min_size=1, max_size=12),
    HAPPENINGS,
    HAPPENINGS,
    st.sampled_from([1.0, 1800.0, 4000.0]),
)


def play(worlds: tuple[World, World], steps: Sequence[Any]) -> None:
    """Let the same happen to both, in batches and one by one, and hold answers and rows against each other."""
    batched, alone = worlds
    answering = CheckIns(batched.database, batched.clock, Pace(Limits(), 1000, lambda: 0))
    for step in steps:
        if isinstance(step, float):
            batched.clock.forward(step)
            alone.clock.forward(step)
        elif callable(step):
            batched.change(step)
            alone.change(step)
        else:
            knocks = [knock(one, batched.clock) for one in step]
            told = [as_told(what) for what in answering.answer(knocks)]
            for one, what in zip(knocks, told, strict=True):
                with alone.database.writing() as session:
                    assert told_one(session, one, alone.clock.at) == what
            assert batched.rows() == alone.rows()
            check(batched)


def check(world: World) -> None:
    """A device is a candidate of at most one round, and works for at most one."""
    with world.database.reading() as session:
        selecting = session.exec(
            select(Candidate.device_id)
            .join(Round, col(Round.id) == col(Candidate.round_id))
            .where(Round.phase == Phase.SELECTING)
        ).all()
        assert len(selecting) == len(set(selecting))
        working = session.exec(
            select(Participation.device_id)
            .join(Round, col(Round.id) == col(Participation.round_id))
            .where(Participation.standing == Standing.ASSIGNED, col(Round.phase).in_(OPEN_PHASES))
        ).all()
        assert len(working) == len(set(working))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(steps=st.lists(STEPS, min_size=4, max_size=14))
def test_a_batch_is_what_its_check_ins_are_one_after_another(
    worlds: Callable[[], tuple[World, World]], steps: list[Any]
) -> None:
    play(worlds(), [opens(0), opens(1), opens(2), *steps])


def visit(phone: int, number: int, nonce: int, how: str = "right") -> tuple[int, int, int, bool, str, int]:
    return phone, number, 64, False, how, nonce


STORY: list[Any] = [
    opens(0),
    [visit(0, 0, 1), visit(1, 0, 2), visit(0, 0, 1), visit(2, 0, 3, "forged"), visit(2, 0, 4)],
    chooses(0),
    [visit(0, 0, 5), visit(1, 0, 6), visit(0, 1, 7), visit(0, 0, 5), visit(2, 0, 8)],
]


def test_one_story_is_told_alike(worlds: Callable[[], tuple[World, World]]) -> None:
    play(worlds(), STORY)


def test_on_postgresql_batches_are_their_check_ins_too(postgres: Postgres, tmp_path: Path) -> None:
    """Ids, nonces and rows travel otherwise there."""
    template = three_tasks(tmp_path / "home", postgres.new())

    @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(steps=st.lists(STEPS, min_size=8, max_size=14))
    def plays(steps: list[Any]) -> None:
        play(fresh(), [opens(0), opens(1), opens(2), *steps])

    with copies(template, tmp_path) as fresh:
        play(fresh(), STORY)
        plays()
    forget_home(template)


@pytest.mark.parametrize("wrong", ["replays", "candidates", "assignments"])
def test_a_batch_that_forgets_what_it_did_is_caught(
    worlds: Callable[[], tuple[World, World]], monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    if wrong == "replays":
        monkeypatch.setattr(checkin_rows, "remember", lambda _session, claims: [True] * len(claims))
    elif wrong == "candidates":
        monkeypatch.setattr(checkins, "choose", lambda contenders, _device: contenders[-1] if contenders else None)
        monkeypatch.setattr(checkins._Batch, "_add", lambda *_forgotten: None)
    else:
        monkeypatch.setattr(checkins._Batch, "_open_part", lambda *_forgotten: None)
    with pytest.raises(AssertionError):
        play(worlds(), STORY)
