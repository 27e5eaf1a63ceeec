"""Several workers' processes that spend one budget on one PostgreSQL, and a ledger that is read by plain arithmetic.

Tasks of one population open a round each; what is left of their budget is for fewer. The test holds the ledger until
two workers wait for it, so that they meet there for certain; some are killed, there and later on. The long form:

    python -m tests.system.spending_replicas --budgets 8
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import math
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import psycopg
from sqlalchemy import text
from sqlmodel import col, select

from coordinator.core.privacy.chain import Entry, Head, verified
from coordinator.core.privacy.ledger import FactKind
from coordinator.core.privacy.opinions import SecondOpinions
from coordinator.core.rounds import Phase
from coordinator.services import ledger
from coordinator.store.privacy_tables import EntryRow, LedgerRow
from coordinator.store.tables import Round
from edge_runtime.protocol.errors import Unavailable
from tests.coordinator.privacy.spending import CENTRAL, RHO, WHOSE, put_budget
from tests.postgres import OwnServer, own_server
from tests.programme import Clock, Home, Phone, make_home, open_home, replace
from tests.system.planted_worker import BUGS
from tests.system.replicas import LIMIT_S, PAUSE_S, Replica
from tests.warm import LOOP

TASKS: Final = 6
PHONES: Final = TASKS + 2
WORKERS: Final = 2
PLAN: Final = replace(CENTRAL, goal=1, min_reports=1, expected_participants=1)
_HOLD: Final = "SELECT 1 FROM privacy_ledgers WHERE tenant = %s AND population = %s FOR UPDATE"
_WAITING: Final = (
    "SELECT count(*) FILTER (WHERE query LIKE '%privacy_ledgers%FOR UPDATE%'), "
    "count(*) FILTER (WHERE wait_event = 'advisory') "
    "FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
)
"""How many wait to hold the ledger; and to be alone, for something else, until the others have ended."""
_AT_WORK: Final = (
    "SELECT count(*) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'"
)

_OPENED: Final = text(
    "SELECT tasks.name, rounds.number, checkpoints.xmin::text::bigint FROM rounds "
    "JOIN tasks ON tasks.id = rounds.task_id JOIN checkpoints ON checkpoints.sha256 = rounds.result_sha256"
)
"""Rounds whose sums were used, each with the number of the transaction that made a model of it."""
_CHARGED_IN: Final = text("SELECT place, xmin::text::bigint AS number FROM privacy_entries")
"""The number of the transaction of each entry: a transaction that begins when another has ended has a larger one."""


class Time(Clock):
    """Goes on by itself."""

    def __call__(self) -> datetime:
        return datetime.now(UTC)

    def timestamp(self) -> float:
        return time.time()


class Worker(Replica):
    """A worker's process, with a bug planted if one is named."""

    def __init__(self, environment: dict[str, str], said: Path, bug: str = "") -> None:
        self._program = ["tests.system.planted_worker", bug] if bug else ["coordinator.cli", "worker"]
        super().__init__([], environment, said)

    def _begin(self) -> subprocess.Popen[str]:
        with self._said.open("a") as said:
            return subprocess.Popen(
                [sys.executable, "-m", *self._program],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
            )

    def stand_still(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def replace_soon(self) -> None:
        """SIGKILL, and a new process in its place, which is at work when it has begun."""
        self.kill()
        self._process = self._begin()


class Spenders:
    """An API in this process, phones of its population, and workers in processes of their own."""

    def __init__(self, home: Home, url: str, workers: Sequence[Worker]) -> None:
        self.home = home
        self.workers = workers
        self._url = url
        self._phones: list[Phone] = []

    # --- what operators do ----------------------------------------------------------------------------------------

    def begin(self, rounds: float) -> None:
        """A budget for so many rounds, and tasks that want more."""
        checkpoint = self.home.publish()
        self._phones = [self.home.phone(number) for number in range(PHONES)]
        put_budget(self.home, "recipients", rho=rounds * RHO).raise_for_status()
        for number in range(TASKS):
            self.home.start_order(
                self.home.order(
                    PLAN,
                    name=f"words-{number}",
                    checkpoint_sha256=checkpoint,
                    rounds=99,
                    pool_size=1,
                    retry_rejected_s=1.0,
                    retry_reported_s=1.0,
                    selecting_deadline_s=1000.0,
                    reporting_deadline_s=1000.0,
                )
            )

    def states(self) -> Counter[tuple[str, str | None]]:
        """How many tasks are in each state, and why they ended."""
        found = self.home.operator("GET", "/tasks").raise_for_status().json()
        return Counter((one["state"], one["ended_because"]) for one in found)

    # --- what phones do -------------------------------------------------------------------------------------------

    def visit(self) -> None:
        """Each phone comes by once; who hears that there is too much to do will come again."""
        for phone in self._phones:
            with contextlib.suppress(Unavailable):
                phone.visit()

    def visit_until(self, reached: Callable[[], bool]) -> None:
        """Phones come by until something is reached."""
        self._await(reached, self.visit)

    def _await(self, reached: Callable[[], bool], meanwhile: Callable[[], None] = lambda: None) -> None:
        """Wait for real processes, as long as entries are made."""
        limit, seen = time.monotonic() + LIMIT_S, 0
        while not reached():
            if (entries := self.entries()) > seen:
                limit, seen = time.monotonic() + LIMIT_S, entries
            assert time.monotonic() < limit, self._trouble()
            meanwhile()
            time.sleep(PAUSE_S)  # for real processes

    # --- what is in the database ----------------------------------------------------------------------------------

    def entries(self) -> int:
        """How many the ledger has."""
        with self.home.app.state.parts.database.reading() as session:
            return ledger.read(session, WHOSE).head.count

    def selecting(self) -> int:
        """Rounds that wait for phones."""
        with self.home.app.state.parts.database.reading() as session:
            return len(session.exec(select(Round.id).where(Round.phase == Phase.SELECTING)).all())

    # --- how workers meet -----------------------------------------------------------------------------------------

    def collide(self, meanwhile: Callable[[], None]) -> None:
        """Every task's round has its phone; hold the ledger until all workers wait for it, then let them go.

        Args:
            meanwhile: Happens while they wait.
        """
        self._await(lambda: self.selecting() == TASKS)
        with psycopg.connect(self._url) as holding, psycopg.connect(self._url, autocommit=True) as looking:
            with self._still(looking):
                self.visit()
                holding.execute(_HOLD, tuple(WHOSE))

            def all_wait() -> bool:
                at_ledger, apart = looking.execute(_WAITING).fetchone() or (0, 0)
                return bool(at_ledger and at_ledger + apart >= len(self.workers))

            self._await(all_wait)
            meanwhile()

    @contextlib.contextmanager
    def _still(self, looking: psycopg.Connection[Any]) -> Iterator[None]:
        """No worker moves, and none is in a transaction."""

        def stopped() -> bool:
            for worker in self.workers:
                worker.stand_still()
            (at_work,) = looking.execute(_AT_WORK).fetchone() or (0,)
            if at_work:
                self._go_on()
            return not at_work

        self._await(stopped)
        try:
            yield
        finally:
            self._go_on()

    def _go_on(self) -> None:
        for worker in self.workers:
            worker.go_on()

    def _trouble(self) -> str:
        return "\n".join([f"{self.states()}, {self.entries()} entries", *(one.said() for one in self.workers)])


@contextlib.contextmanager
def spenders(folder: Path, postgres: OwnServer, bug: str = "") -> Iterator[Spenders]:
    """Workers on a new database, each with the bug if one is named."""
    folder.mkdir()
    url = postgres.new()
    token = make_home(folder, url)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("EDGEWISE_")},
        "EDGEWISE_DATA_DIR": str(folder),
        "EDGEWISE_DATABASE_URL": url,
        "EDGEWISE_WORKER_INTERVAL_S": "0.02",
        "EDGEWISE_FREE_DISK_BYTES": "0",
        "EDGEWISE_LEASE_S": "1",
        "EDGEWISE_SECOND_OPINION": "never",
    }
    workers: list[Worker] = []
    try:
        workers += [Worker(environment, folder / f"worker-{number}.log", bug) for number in range(WORKERS)]
        with open_home(folder, Time(), token, smallest_cohort=2, second_opinion=SecondOpinions.NEVER) as home:
            for worker in workers:
                worker.await_ready()
            yield Spenders(home, url, workers)
    finally:
        for worker in workers:
            worker.end()


def spend(here: Spenders, rounds: float, kill: bool = True, rng: random.Random | None = None) -> None:
    """Tasks race for a budget until all have ended.

    Args:
        kill: Whether a worker dies where they meet, with a reservation on its way.
        rng: Draws when the next one dies, again and again; None for never.
    """
    here.begin(rounds)
    here.collide(here.workers[0].replace_soon if kill else lambda: None)
    turns = itertools.cycle(reversed(here.workers))
    due = math.inf if rng is None else here.entries()

    def over() -> bool:
        nonlocal due
        if rng is not None and here.entries() >= due:
            next(turns).replace_soon()
            due = here.entries() + rng.randrange(6, 24)
        return not any(state == "active" for state, _why in here.states())

    here.visit_until(over)


def check(here: Spenders, rounds: float) -> int:
    """Hold the ledger against plain arithmetic, and against the rounds that were opened; how many those are.

    Raises:
        AssertionError: The budget was overspent, an entry was edited, or a sum was opened without one charge before it.
    """
    with here.home.app.state.parts.database.reading() as session:
        raws = session.exec(select(EntryRow.entry).order_by(col(EntryRow.place))).all()
        row = session.get_one(LedgerRow, WHOSE)
        opened = session.execute(_OPENED).all()
        charged_in = {one.place: one.number for one in session.execute(_CHARGED_IN)}
    entries = [Entry.from_bytes(raw) for raw in raws]
    assert verified(str(WHOSE), entries) == Head(row.count, row.digest), "one chain"
    held = spent_by_entry(entries)
    assert max(held) <= rounds * RHO * (1 + 1e-9), f"{max(held) / RHO:.3f} rounds at once, of {rounds}"
    charges = [one for one in entries if one.fact.kind is FactKind.CHARGED]
    charged = Counter((one.fact.task, one.fact.round) for one in charges)
    assert charged == Counter((name, number) for name, number, _in in opened), "one charge for each"
    places = {(one.fact.task, one.fact.round): one.place for one in charges}
    for name, number, released_in in opened:
        assert charged_in[places[name, number]] < released_in, "a charge is durable before a sum is used"
    named = re.findall(r"entry (\d+), ([0-9a-f]{64})$", "".join(one.said() for one in here.workers), re.MULTILINE)
    assert {digest for _place, digest in named} <= {one.digest for one in entries}, "logged heads are of this ledger"
    assert here.states() == {("completed", "budget-spent"): TASKS}
    return len(opened)


def spent_by_entry(entries: Sequence[Entry]) -> list[float]:
    """ρ against recipients that is reserved and charged after each entry: one addition after another."""
    reserved: dict[tuple[str, int], float] = {}
    charged: dict[tuple[str, int], float] = {}
    found = []
    for entry in entries:
        fact = entry.fact
        key = (fact.task, fact.round)
        rho = 0.0 if fact.cost is None else fact.cost.recipients or 0.0
        if fact.kind is FactKind.RESERVED:
            assert key not in {**reserved, **charged}, "reserved once"
            reserved[key] = rho
        elif fact.kind is FactKind.CHARGED:
            assert reserved.pop(key, None) == rho, "charged as it was reserved, once"
            charged[key] = rho
        elif fact.kind is FactKind.FREED:
            del reserved[key]
        found.append(sum(reserved.values()) + sum(charged.values()))
    return found


def noticed(folder: Path, postgres: OwnServer, bug: str) -> AssertionError | None:
    """What the check says of workers with a bug: each task's first round finds room, and the budget is for fewer."""
    try:
        with spenders(folder, postgres, bug) as here:
            spend(here, TASKS - 1.5, kill=False)
            check(here, TASKS - 1.5)
    except AssertionError as said:
        return said
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budgets", type=int, default=4, help="one after another, each of a new coordinator")
    parser.add_argument("--seed", type=int, default=0)
    order = parser.parse_args()
    rng = random.Random(order.seed)
    opened = 0
    with LOOP, own_server() as postgres, tempfile.TemporaryDirectory() as scratch:
        for number in range(order.budgets):
            rounds = rng.randrange(3, 30) + 0.5
            with spenders(Path(scratch) / f"home-{number}", postgres) as here:
                spend(here, rounds, rng=rng)
                opened += check(here, rounds)
        print(f"{order.budgets} budgets, {opened} rounds: none was overspent, and each round was charged once")
        said = {bug: noticed(Path(scratch) / bug.replace(" ", "-"), postgres, bug) for bug in BUGS}
    for bug, what in said.items():
        print(f"{bug}: {'NOT NOTICED' if what is None else str(what).splitlines()[0]}")
    return 0 if all(said.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
