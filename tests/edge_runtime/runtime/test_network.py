"""A network that breaks, hangs and drips: what came is kept, what was sent counts once, nobody waits for ever."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from edge_runtime import Happened, Network, Unreachable
from edge_runtime.conditions.fixed import IDEAL
from edge_runtime.driver import key_pin
from edge_runtime.protocol.reasons import Blocker
from edge_runtime.session import Request, Response
from tests.edge_runtime.certificates import authority, certificate_in
from tests.edge_runtime.runtime.bench import Bench
from tests.edge_runtime.served import Line, served


def assigned(home: Bench) -> Line:
    home.coordinator.assign(epochs=2)
    return Line(home.coordinator)


def test_a_whole_slice_over_a_socket(home: Bench) -> None:
    with served(assigned(home)) as address:
        home.transport = Network(coordinator=address)
        with home.runtime() as runtime:
            assert runtime.run_slice(600).happened is Happened.REPORTED
            (day,) = runtime._device.usage.days
            assert day.transferred_bytes > sum(len(raw) for raw in home.coordinator.reports.values())


def test_an_http_client_of_the_apps_own_will_do(home: Bench) -> None:
    with served(assigned(home)) as address, httpx.Client(base_url=address, trust_env=False) as client:
        home.transport = client
        with home.runtime() as runtime:
            assert runtime.run_slice(600).happened is Happened.REPORTED
        assert not client.is_closed


def test_a_download_that_breaks_goes_on_where_it_broke(home: Bench) -> None:
    line = assigned(home)
    line.cut_after = 1000
    with served(line) as address:
        home.transport = Network(coordinator=address)
        with home.runtime() as runtime:
            end = runtime.run_slice(600)
            while end.happened is Happened.UNREACHABLE:
                home.clock.forward(end.come_back_s)
                end = runtime.run_slice(600)
            assert end.happened is Happened.REPORTED
    size = len(home.coordinator.bundle)
    assert line.ranges[: size // 1000] == [f"bytes={begin}-" for begin in range(1000, size, 1000)]
    assert not list(home.path.glob("*.part"))


def test_a_damaged_part_is_fetched_anew(home: Bench) -> None:
    line = assigned(home)
    line.cut_after = 300
    with served(line) as address:
        home.transport = Network(coordinator=address)
        with home.runtime() as runtime:
            runtime.run_slice(600)
            (part,) = home.path.glob("*.part")
            part.write_bytes(b"\0" * 500)
            line.cut_after = None
            home.clock.forward(1200)
            assert runtime.run_slice(600).happened is Happened.REPORTED


def test_a_condition_that_is_lost_ends_a_download_and_keeps_what_came(home: Bench) -> None:
    line = assigned(home)

    def drip(position: int) -> None:
        home.clock.forward(0.01)
        if position == 700:
            home.source.conditions = replace(IDEAL, metered=True)

    line.drip = drip
    with served(line) as address:
        home.transport = Network(coordinator=address)
        with home.runtime() as runtime:
            end = runtime.run_slice(600)
            assert (end.happened, end.reason) == (Happened.INTERRUPTED, Blocker.NETWORK_METERED)
            (part,) = home.path.glob("*.part")
            assert 0 < part.stat().st_size < 1200, "within 2 s, at 100 bytes a second"
            line.drip, home.source.conditions = None, IDEAL
            assert runtime.run_slice(600).happened is Happened.REPORTED
    assert line.ranges


def test_a_server_that_never_answers_ends_after_the_limit(home: Bench) -> None:
    line = assigned(home)
    line.hang = threading.Event()
    with served(line) as address:
        home.transport = Network(coordinator=address, read_s=0.05)
        with home.runtime() as runtime:
            began = time.monotonic()
            end = runtime.run_slice(600)
            assert (end.happened, end.reason) == (Happened.UNREACHABLE, "network-lost")
            assert time.monotonic() - began < 3
            assert 720 <= end.come_back_s <= 1080
        line.hang.set()


def test_an_endless_answer_is_cut_off(home: Bench) -> None:
    line = assigned(home)
    line.endless = True
    with served(line) as address:
        home.transport = Network(coordinator=address)
        with home.runtime() as runtime:
            assert runtime.run_slice(600).happened is Happened.UNREACHABLE
            (day,) = runtime._device.usage.days
            assert day.transferred_bytes < 10 << 20


def test_an_upload_that_breaks_in_the_middle_is_sent_again_and_counts_once(home: Bench) -> None:
    line = assigned(home)
    with served(line) as address:
        home.transport = Network(coordinator=address)
        with home.runtime() as runtime:
            assert runtime.run_slice(600, lambda: home.engine.steps > 3).work_left
            line.cut_upload_after = 40
            broken = runtime.run_slice(600)
            assert (broken.happened, broken.work_left, home.coordinator.reports) == (Happened.UNREACHABLE, True, {})
            assert runtime.run_slice(600).reason == Blocker.TOO_SOON, "it backs off"
            line.cut_upload_after = None
            home.clock.forward(1200)
            assert runtime.run_slice(600).happened is Happened.REPORTED
    assert len(home.coordinator.reports) == 1


class PowerLost(BaseException):
    """The process died here."""


@pytest.mark.parametrize("arrived", [False, True])
def test_a_process_that_dies_while_it_sends_sends_the_same_bytes_again(home: Bench, arrived: bool) -> None:
    home.coordinator.assign(epochs=2)
    sent: list[bytes] = []

    def dies_at_the_report(request: Request, headers: dict[str, str]) -> Response:
        if request.method == "PUT":
            sent.append(request.body)
            if len(sent) == 1:
                if arrived:
                    home.coordinator(request, headers)
                raise PowerLost
        return home.coordinator(request, headers)

    home.transport = dies_at_the_report
    with home.runtime() as runtime, pytest.raises(PowerLost):
        runtime.run_slice(600)
    steps = home.engine.steps
    home.drawn += 500
    with home.runtime(examples=0) as runtime:
        assert runtime.run_slice(600).happened is Happened.REPORTED
        assert runtime.why().history[-1].reason == "reported"
    assert sent[0] == sent[1]
    assert home.engine.steps == steps, "nothing was trained again"
    assert list(home.coordinator.reports.values()) == [sent[0]]


def test_a_second_address_is_tried_where_the_first_is_silent(home: Bench) -> None:
    with served(assigned(home)) as address:
        home.transport = Network(coordinator="http://127.0.0.1:9", fallbacks=(address,))
        with home.runtime() as runtime:
            assert runtime.run_slice(600).happened is Happened.REPORTED


def test_a_proxy_carries_everything(home: Bench) -> None:
    line = assigned(home)
    with served(line) as proxy:
        home.transport = Network(coordinator="http://coordinator.example", proxy=proxy)
        with home.runtime() as runtime:
            assert runtime.run_slice(600).happened is Happened.REPORTED
    assert all(target.startswith("http://coordinator.example/v1/") for target in line.targets)


def test_a_certificate_is_checked_against_the_apps_authorities_and_pins(home: Bench, tmp_path: Path) -> None:
    mine = authority(tmp_path)
    tls, line = mine.server(tmp_path), assigned(home)
    pin = key_pin(certificate_in(tmp_path / "server.pem"))
    with served(line, tls) as address, home.runtime() as runtime:
        ways = {
            "nobody trusts it": Network(coordinator=address),
            "another key is pinned": Network(coordinator=address, ca_file=mine.ca_file, pins=(bytes(32),)),
            "trusted": Network(coordinator=address, ca_file=mine.ca_file),
            "pinned": Network(coordinator=address, ca_file=mine.ca_file, pins=(bytes(32), pin)),
        }
        found = {}
        for what, way in ways.items():
            runtime._device.transport = way
            found[what] = runtime.run_slice(600).happened
            home.clock.forward(1200)
            if found[what] is Happened.UNREACHABLE:
                assert line.targets == [], "not a byte of a request left"
    assert list(found.values()) == [
        Happened.UNREACHABLE,
        Happened.UNREACHABLE,
        Happened.REPORTED,
        Happened.WAITING,
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        {"coordinator": "https://c", "pins": (b"short",)},
        {"coordinator": "http://c", "pins": (bytes(32),)},
        {"coordinator": "https://c", "fallbacks": ("http://c",), "pins": (bytes(32),)},
        {"coordinator": "http://c", "read_s": 0.0},
    ],
    ids=["a short pin", "no TLS", "a fallback without TLS", "no time"],
)
def test_a_way_that_cannot_be_right_is_refused_at_once(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"pin|read_s"):
        Network(**wrong)  # type: ignore[arg-type]


def test_no_thread_and_no_handle_is_left(home: Bench) -> None:
    before = threading.active_count()
    with served(assigned(home)) as address:
        here = threading.active_count()
        home.transport = Network(coordinator=address)
        with home.runtime() as runtime:
            runtime.run_slice(600)
            time_limit = time.monotonic() + 2
            while threading.active_count() > here and time.monotonic() < time_limit:
                threading.Event().wait(0.01)  # the server's threads end with the connections
            assert threading.active_count() == here
    assert threading.active_count() == before


def test_renewing_without_a_network_raises(home: Bench) -> None:
    home.coordinator.go_silent(3)
    with home.runtime() as runtime, pytest.raises(Unreachable):
        runtime.renew()
