"""What an app's own tests may rely on: the documented example, and a coordinator that believes nobody."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.driver import Driver, Retries
from edge_runtime.protocol import wire
from edge_runtime.protocol.enrolment import DEVICE_PATH, Problem
from edge_runtime.protocol.keys import SigningKey
from edge_runtime.session import Request, Response, Session
from edge_runtime.session.enrol import Installation, enrol
from edge_runtime.testing import FakeCoordinator
from tests.workers import ROOT

KEY = SigningKey(bytes(range(32)))
HERE = Installation("acme", "keyboard", "app", "1.0", "linux")


def test_the_documented_test_of_an_app_passes(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("app_test", ROOT / "docs" / "examples" / "app_test.py")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.test_a_round_at_night_and_none_by_day(tmp_path)


def driver(coordinator: FakeCoordinator, key: SigningKey = KEY, now_s: float = 1000.0) -> Driver:
    return Driver(key, "acme", coordinator, Retries(tries=1), clock=lambda: now_s, sleep=lambda _seconds: None)


def one(method: str, path: str) -> Session[Response]:
    return (yield Request(method, path))


def code(response: Response) -> str:
    return wire.decode(Problem, response.body).code


def test_it_refuses_whom_it_does_not_know() -> None:
    assert code(driver(FakeCoordinator()).run(one("DELETE", DEVICE_PATH))) == "unknown-device"


@pytest.mark.parametrize("spoilt", ["signature", "signature-input", "content-digest"])
def test_it_checks_every_signature(spoilt: str) -> None:
    coordinator = FakeCoordinator()
    driver(coordinator).run(enrol(HERE, KEY.public))
    spoiling = driver(coordinator)
    honest = spoiling.send

    def spoil(request: Request, headers: dict[str, str]) -> Response:
        return honest(request, {**headers, spoilt: headers[spoilt].replace("e", "f", 3)})

    spoiling.send = spoil
    assert code(spoiling.run(one("DELETE", DEVICE_PATH))) == "bad-signature"


def test_it_takes_no_request_twice() -> None:
    coordinator = FakeCoordinator()
    device = driver(coordinator)
    device.run(enrol(HERE, KEY.public))
    honest = device.send

    def twice(request: Request, headers: dict[str, str]) -> Response:
        honest(request, headers)
        return honest(request, headers)

    device.send = twice
    assert code(device.run(one("DELETE", DEVICE_PATH))) == "replayed-request"


def test_a_clock_that_is_off_is_told_and_corrected() -> None:
    coordinator = FakeCoordinator(now_s=50_000)
    device = driver(coordinator, now_s=1000.0)
    device.run(enrol(HERE, KEY.public))
    assert device.clock_offset_s == 49_000
