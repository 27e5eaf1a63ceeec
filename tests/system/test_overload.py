"""Ten times as many phones as may wait, none of which keeps to its window: those who wait are still answered."""

from __future__ import annotations

import itertools
import selectors
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from edge_runtime.driver import Driver, Retries, http_client, over_http
from edge_runtime.protocol import wire
from edge_runtime.protocol.checkin import CHECK_IN_PATH, CheckIn
from edge_runtime.protocol.keys import SigningKey, digest
from edge_runtime.protocol.reasons import Wait
from edge_runtime.protocol.signing import sign_request
from edge_runtime.session.enrol import Installation, enrol
from tests.bench.knocking import Line, Serving, connect, request_bytes
from tests.programme import POPULATION, TENANT
from tests.system.test_coordinator_process import begin_task, home_in, operator, started

MAY_WAIT = 16
ANSWERED = 800
LEAST_SHARE = 0.5
"""Of the rate a CPU second without overload: 1.0 to 1.2 is measured; .27 if nobody waits to be turned away."""


@pytest.fixture
def processes() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def enrolled(address: str) -> Callable[[int], bytes]:
    """A phone that is enrolled, as what signs its check-ins."""
    with http_client(address) as client:
        driver = Driver(SigningKey(digest(b"phone")), TENANT, over_http(client), Retries(tries=1))
        driver.run(enrol(Installation(TENANT, POPULATION, "app", "1.0", "linux"), driver.key.public))
    message = CheckIn(version=1, population=POPULATION, visit="ab" * 16, runtime="none", examples=32)
    body = wire.encode(message)

    def signed(number: int) -> bytes:
        nonce, created = number.to_bytes(16, "big"), int(time.time())
        headers = sign_request(driver.key, driver.device_id, "POST", CHECK_IN_PATH, body, created=created, nonce=nonce)
        return request_bytes("POST", CHECK_IN_PATH, headers, body)

    return signed


def asked(lines: Sequence[Line], requests: Iterator[bytes]) -> None:
    """Ask on every line, and again at once whatever the answer, until enough were let in."""
    let_in = 0
    with selectors.DefaultSelector() as selector:
        for line in lines:
            line.socket.sendall(next(requests))
            selector.register(line.socket, selectors.EVENT_READ, line)
        while let_in < ANSWERED:
            for key, _events in selector.select():
                hear(key.data)
                if key.data.is_whole():
                    let_in += not is_busy(key.data)
                    key.data.heard = b""
                    key.data.socket.sendall(next(requests))


def turned_away(lines: Sequence[Line]) -> int:
    """Hear every answer that is still due, and count those that say `busy`."""
    for line in lines:
        while not line.is_whole():
            hear(line)
        line.socket.close()
    return sum(is_busy(line) for line in lines)


def hear(line: Line) -> None:
    heard = line.socket.recv(1 << 16)
    assert heard, "nobody is hung up on"
    line.heard += heard


def is_busy(line: Line) -> bool:
    assert line.heard[9:12] == b"200"
    return f'"{Wait.BUSY}"'.encode() in line.heard


def test_with_ten_times_as_many_phones_as_may_wait_half_of_the_work_at_least_is_still_done(
    tmp_path: Path, processes: ExitStack
) -> None:
    folder = home_in(tmp_path / "home")
    settings = {"EDGEWISE_HOLD_S": "0", "EDGEWISE_MOST_WAITING": str(MAY_WAIT)}
    process = started(processes, folder, "serve", "--port", "0", **settings)
    with operator(process.address, folder) as client:
        begin_task(client, selecting_deadline_s=1000.0, pool_size=1000)
    signed = enrolled(process.address)
    server = Serving(int(process.address.rsplit(":", 1)[1]), process.pid)
    requests = (signed(number) for number in itertools.count(1))

    def rate(count: int) -> tuple[float, int]:
        """Check-ins answered a CPU second of the process, and how many hear at its end that they are turned away."""
        lines, before = connect(server.port, count), server.cpu_s()
        asked(lines, requests)
        return ANSWERED / (server.cpu_s() - before), turned_away(lines)

    rate(MAY_WAIT)
    usual, none = rate(MAY_WAIT)
    overloaded, away = rate(10 * MAY_WAIT)
    assert none == 0
    assert away > MAY_WAIT, "that was more than it takes"
    assert overloaded > LEAST_SHARE * usual
