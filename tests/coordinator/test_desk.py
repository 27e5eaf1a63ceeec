"""The check-in desk: batches without a timer, a refusal for each, and nobody turned away without an answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from pathlib import Path

import pytest
from sqlmodel import select

from coordinator.api import check_in as door
from coordinator.api.desk import LARGEST_BATCH, Desk, DeskFull
from coordinator.services.checkins import CheckIns, Knock
from coordinator.services.pace import STRANGE
from coordinator.store.database import Database
from coordinator.store.tables import Nonce
from edge_runtime.protocol import wire
from edge_runtime.protocol.checkin import CHECK_IN_PATH, CheckIn, CheckInAnswer, RetryWindow
from edge_runtime.protocol.errors import NotFound, Refusal, StorageFull
from edge_runtime.protocol.reasons import Wait
from edge_runtime.protocol.signing import SignedBy
from tests.coordinator.asking import ask, check_in, offer, refusal
from tests.programme import POPULATION, Clock, Home, Phone, open_home

CLAIM = SignedBy(keyid="0" * 32, created=0, nonce="0" * 32, body_digest=bytes(32), signature=bytes(64))
Told = CheckInAnswer | Refusal
ANSWER = CheckInAnswer(version=1, assignment=None, retry=RetryWindow(reason=Wait.NO_TASK, after_s=60, spread_s=0))


def knock(number: int) -> Knock:
    message = CheckIn(version=1, population=POPULATION, visit=f"{number:032x}", runtime="none", examples=0)
    return Knock(CLAIM, CHECK_IN_PATH, message)


def number_of(one: Knock) -> int:
    return int(one.message.visit, 16)


class Slow:
    """Answers a batch when it is let go, and keeps what the batches were."""

    def __init__(self, answer: Callable[[Knock], Told] = lambda _one: ANSWER) -> None:
        self.batches: list[list[int]] = []
        self.began, self.go = threading.Semaphore(0), threading.Semaphore(0)
        self._answer = answer

    def __call__(self, knocks: Sequence[Knock]) -> list[Told]:
        self.batches.append([number_of(one) for one in knocks])
        self.began.release()
        assert self.go.acquire(timeout=20)
        return [self._answer(one) for one in knocks]


async def began(slow: Slow) -> None:
    assert await asyncio.get_running_loop().run_in_executor(None, slow.began.acquire, True, 20)


def test_who_comes_while_a_batch_is_worked_on_makes_the_next() -> None:
    slow = Slow()

    async def story() -> list[CheckInAnswer]:
        desk = Desk(slow, 1000)
        first = asyncio.ensure_future(desk.ask(knock(0)))
        await began(slow)
        later = [asyncio.ensure_future(desk.ask(knock(number))) for number in range(1, 6)]
        await asyncio.sleep(0)
        assert desk.waiting() == 5
        assert not first.done()
        slow.go.release(2)
        answers = await asyncio.gather(first, *later)
        desk.close()
        return answers

    assert asyncio.run(story()) == [ANSWER] * 6
    assert slow.batches == [[0], [1, 2, 3, 4, 5]]


def test_a_batch_is_never_larger_than_it_may_be() -> None:
    slow = Slow()
    slow.go.release(10)

    async def story() -> None:
        desk = Desk(slow, 10_000)
        await asyncio.gather(*(desk.ask(knock(number)) for number in range(2 * LARGEST_BATCH + 7)))
        desk.close()

    asyncio.run(story())
    assert [len(batch) for batch in slow.batches] == [LARGEST_BATCH, LARGEST_BATCH, 7]
    in_order = [number for batch in slow.batches for number in batch]
    assert in_order == list(range(2 * LARGEST_BATCH + 7))


def test_a_full_desk_turns_away_at_once_and_goes_on_with_those_who_wait() -> None:
    slow = Slow()

    async def story() -> None:
        desk = Desk(slow, 3)
        held = [asyncio.ensure_future(desk.ask(knock(0)))]
        await began(slow)
        held += [asyncio.ensure_future(desk.ask(knock(number))) for number in (1, 2, 3)]
        await asyncio.sleep(0)
        for number in range(30):  # ten times what it takes
            with pytest.raises(DeskFull):
                await desk.ask(knock(100 + number))
        slow.go.release(2)
        assert await asyncio.gather(*held) == [ANSWER] * 4
        slow.go.release()
        assert await desk.ask(knock(9)) == ANSWER
        desk.close()

    asyncio.run(story())
    assert slow.batches == [[0], [1, 2, 3], [9]]


def answers_of(answer: Callable[[Sequence[Knock]], list[Told]], count: int) -> list[object]:
    """What each of so many hears who come together."""

    async def story() -> list[object]:
        desk = Desk(answer, 1000)
        told = await asyncio.gather(*(desk.ask(knock(number)) for number in range(count)), return_exceptions=True)
        desk.close()
        return list(told)

    return asyncio.run(story())


def test_a_refusal_harms_no_other() -> None:
    told = answers_of(lambda knocks: [NotFound("x") if number_of(one) == 2 else ANSWER for one in knocks], 5)
    assert [isinstance(one, NotFound) for one in told] == [False, False, True, False, False]


def test_a_batch_that_fails_as_a_whole_refuses_each() -> None:
    def full(_knocks: Sequence[Knock]) -> list[Told]:
        raise StorageFull("no room", retry_after_s=900)

    told = answers_of(full, 3)
    assert [(type(one), one.retry_after_s) for one in told if isinstance(one, Refusal)] == [(StorageFull, 900)] * 3
    assert len({id(one) for one in told}) == 3, "each has its own"


def test_a_bug_that_one_check_in_finds_is_not_the_others_problem() -> None:
    def buggy(knocks: Sequence[Knock]) -> list[Told]:
        if any(number_of(one) == 1 for one in knocks):
            raise RuntimeError("a bug")
        return [ANSWER] * len(knocks)

    assert [type(one) for one in answers_of(buggy, 3)] == [CheckInAnswer, RuntimeError, CheckInAnswer]


def test_who_hung_up_is_not_answered_and_the_others_are() -> None:
    slow = Slow()

    async def story() -> None:
        desk = Desk(slow, 1000)
        first = asyncio.ensure_future(desk.ask(knock(0)))
        await began(slow)
        gone, stays = (asyncio.ensure_future(desk.ask(knock(number))) for number in (1, 2))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        slow.go.release(2)
        assert list(await asyncio.gather(first, stays)) == [ANSWER] * 2
        desk.close()

    asyncio.run(story())
    assert slow.batches == [[0], [2]], "nothing is done for one who is gone"


# --- with a real coordinator --------------------------------------------------------------------------------------


def test_a_full_desk_answers_busy_over_http_and_writes_nothing(
    folder: Path, made: tuple[Path, str], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_home(folder, clock, made[1]) as home:
        home.publish()
        phone = home.phone(0)
        before = nonces(home)
        monkeypatch.setattr(Desk, "full", True)
        monkeypatch.setattr(door, "TURNING_AWAY_S", 0)
        told = check_in(home, phone)
        assert told.retry is not None
        assert (told.retry.reason, told.retry.after_s, told.retry.spread_s) == (Wait.BUSY, *astuple(STRANGE))
        assert nonces(home) == before
        monkeypatch.undo()
        again = check_in(home, phone, "later").retry
        assert again is not None
        assert again.reason is Wait.NO_TASK


def nonces(home: Home) -> int:
    with home.app.state.parts.database.reading() as session:
        return len(session.exec(select(Nonce)).all())


def test_many_at_once_share_few_transactions(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.start_task()
    phones = [home.phone(number) for number in range(16)]
    entered, go = threading.Event(), threading.Event()
    sizes: list[int] = []
    answer = CheckIns.answer

    def counted(self: CheckIns, knocks: Sequence[Knock]) -> list[Told]:
        sizes.append(len(knocks))
        entered.set()
        assert go.wait(20)
        return answer(self, knocks)

    monkeypatch.setattr(CheckIns, "answer", counted)
    with ThreadPoolExecutor(16) as pool:
        first = pool.submit(check_in, home, phones[0])
        assert entered.wait(20)
        others = [pool.submit(check_in, home, phone) for phone in phones[1:]]
        wait_for(lambda: home.app.state.desk.waiting() == 15)
        go.set()
        told = [one.result(20) for one in (first, *others)]
    assert sizes == [1, 15]
    assert all(one.retry and one.retry.reason is Wait.SELECTION_PENDING for one in told)


def wait_for(fact: Callable[[], bool]) -> None:
    for _look in range(2_000_000):
        if fact():
            return
    pytest.fail("it never happened")


def test_a_disk_that_is_full_refuses_everybody_of_the_batch(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.publish()
    phone = home.phone(0)

    def full(*_arguments: object) -> None:
        raise StorageFull("the coordinator's disk is full", retry_after_s=900)

    monkeypatch.setattr(Database, "transact", full)
    assert refusal(ask(home, phone, "POST", CHECK_IN_PATH, offer(phone))) == "storage-full"


def test_the_description_has_the_check_in_though_no_router_answers_it(home: Home, phone: Phone) -> None:
    described = home.request("GET", "/v1/openapi.json").json()["paths"][CHECK_IN_PATH]
    assert set(described) == {"post"}
    assert wire.decode(CheckInAnswer, ask(home, phone, "POST", CHECK_IN_PATH, offer(phone)).content).retry
    assert home.request("GET", CHECK_IN_PATH).status_code == 405
