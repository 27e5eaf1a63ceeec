"""The loop around a session: signing, trying again, clocks, and a network that does what it likes."""

from __future__ import annotations

import gzip
from collections.abc import Generator, Iterator

import httpx
import pytest

from edge_runtime.driver import Driver, Retries, Unreachable, http_client, over_http, time_limit
from edge_runtime.protocol import wire
from edge_runtime.protocol.enrolment import Problem
from edge_runtime.protocol.errors import Malformed
from edge_runtime.protocol.keys import SigningKey, device_id, digest
from edge_runtime.protocol.reasons import Outcome
from edge_runtime.protocol.signing import claimed, verify_request
from edge_runtime.session import Request, Response, Session

KEY = SigningKey(digest(b"device key of the driver tests"))
NOW = 1_767_614_400.75


def one(request: Request) -> Session[Response]:
    """A session of one request."""
    return (yield request)


class Network:
    """Gives the answers it was given, one for each try; an exception is raised."""

    def __init__(self, *answers: Response | Exception) -> None:
        self.answers: Iterator[Response | Exception] = iter(answers)
        self.headers: list[dict[str, str]] = []
        self.slept: list[float] = []

    def __call__(self, _request: Request, headers: dict[str, str]) -> Response:
        self.headers.append(headers)
        answer = next(self.answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def driver(self, tries: int = 3) -> Driver:
        return Driver(KEY, "acme", self, Retries(tries, 5.0), clock=lambda: NOW, sleep=self.slept.append)


FINE = Response(200, b"fine")


def skewed(server_time: int) -> Response:
    problem = Problem(
        type="urn:edgewise:refusal:clock-skew",
        title="",
        status=401,
        detail="",
        code="clock-skew",
        retry="now",
        retry_after_s=None,
        server_time=server_time,
    )
    return Response(401, wire.encode(problem))


def test_a_request_is_signed_by_the_device_for_now() -> None:
    network = Network(FINE)
    driver = network.driver()
    assert driver.run(one(Request("POST", "/p?q=1", b"body"))) == FINE
    claim = claimed(network.headers[0])
    verify_request(claim, KEY.public, "POST", "/p?q=1", now=int(NOW))
    assert (claim.keyid, claim.created) == (device_id("acme", KEY.public), int(NOW))
    assert claim.body_digest == digest(b"body")


def test_every_try_has_a_nonce_of_its_own() -> None:
    network = Network(Unreachable("gone"), Response(503, b""), FINE)
    assert network.driver().run(one(Request("GET", "/"))) == FINE
    assert len({claimed(headers).nonce for headers in network.headers}) == 3
    assert network.slept == [5.0, 5.0]


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_passing_failure_is_tried_again_and_then_named(status: int) -> None:
    network = Network(*[Response(status, b"")] * 3)
    with pytest.raises(Unreachable, match=f"HTTP {status}"):
        network.driver().run(one(Request("GET", "/")))
    assert network.slept == [5.0, 5.0], "and it does not wait after the last"


@pytest.mark.parametrize("status", [200, 206, 301, 400, 401, 404, 409, 410, 413, 422, 507])
def test_an_answer_is_an_answer(status: int) -> None:
    network = Network(Response(status, b"x"))
    assert network.driver().run(one(Request("GET", "/"))).status == status


def test_no_answer_to_any_try_is_unreachable() -> None:
    with pytest.raises(Unreachable, match="third"):
        Network(Unreachable("first"), Unreachable("second"), Unreachable("third")).driver().run(
            one(Request("GET", "/"))
        )


def test_no_try_at_all_is_unreachable() -> None:
    with pytest.raises(Unreachable):
        Network().driver(tries=0).run(one(Request("GET", "/")))


@pytest.mark.parametrize("off_s", [-86_400, 3_600])
def test_a_clock_that_is_off_is_corrected_once_and_for_signatures(off_s: int) -> None:
    network = Network(skewed(int(NOW) + off_s), FINE, FINE)
    driver = network.driver(tries=1)
    assert driver.run(one(Request("GET", "/"))) == FINE
    assert driver.run(one(Request("GET", "/"))) == FINE
    assert [claimed(headers).created - int(NOW) for headers in network.headers] == [0, off_s, off_s]
    assert network.slept == []


def test_a_coordinator_that_never_agrees_on_the_time_is_not_asked_for_ever() -> None:
    network = Network(skewed(1), skewed(2), skewed(3))
    assert network.driver().run(one(Request("GET", "/"))).status == 401
    assert len(network.headers) == 2


@pytest.mark.parametrize("server_time", [-1, 10**11 + 1, (1 << 63) - 1])
def test_a_time_that_is_nobodys_is_not_learned(server_time: int) -> None:
    network = Network(skewed(server_time))
    driver = network.driver()
    assert driver.run(one(Request("GET", "/"))).status == 401
    assert driver.clock_offset_s == 0


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b"null"])
def test_an_unauthorised_answer_of_another_kind_changes_no_clock(body: bytes) -> None:
    driver = Network(Response(401, body)).driver()
    assert driver.run(one(Request("GET", "/"))) == Response(401, body)
    assert driver.clock_offset_s == 0


def test_a_session_that_raises_is_closed() -> None:
    closed: list[bool] = []

    def session() -> Generator[Request, Response, None]:
        try:
            yield Request("GET", "/")
            raise Malformed("nonsense")
        finally:
            closed.append(True)

    with pytest.raises(Malformed):
        Network(FINE).driver().run(session())
    assert closed == [True]


def test_a_session_that_asks_nothing_just_ends() -> None:
    def session(requests: Iterator[Request]) -> Generator[Request, Response, str]:
        yield from requests
        return "done"

    assert Network().driver().run(session(iter(()))) == "done"


def test_the_key_stays_out_of_the_drivers_repr() -> None:
    assert KEY.raw.hex() not in repr(Network().driver())
    assert repr(KEY.raw) not in repr(Network().driver())


# --- over HTTP ----------------------------------------------------------------------------------------------------


def client(answer: object) -> httpx.Client:
    assert callable(answer)
    return httpx.Client(transport=httpx.MockTransport(answer), base_url="http://home")


def sent(content: bytes, status: int = 200, headers: dict[str, str] | None = None) -> httpx.Response:
    """An answer whose body is still to be read."""
    return httpx.Response(status, headers=headers, stream=httpx.ByteStream(content))


def test_a_request_goes_out_as_it_was_signed() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return sent(b"fine")

    with client(answer) as http:
        assert over_http(http)(Request("PUT", "/a%20b?c=d", b"body"), {"signature": "s"}) == FINE
    (request,) = seen
    assert (request.method, request.url.raw_path, request.read()) == ("PUT", b"/a%20b?c=d", b"body")
    assert (request.headers["signature"], request.headers["accept-encoding"]) == ("s", "identity")


@pytest.mark.parametrize(
    "problem", [httpx.ConnectError, httpx.ReadTimeout, httpx.RemoteProtocolError, httpx.InvalidURL]
)
def test_a_network_that_fails_is_unreachable(problem: type[Exception]) -> None:
    def answer(_request: httpx.Request) -> httpx.Response:
        raise problem("as it happens")

    with client(answer) as http, pytest.raises(Unreachable, match="GET /"):
        over_http(http)(Request("GET", "/"), {})


def test_an_endless_answer_is_cut_off() -> None:
    given: list[int] = []

    def endless() -> Iterator[bytes]:
        while True:
            given.append(1024)
            yield bytes(1024)

    request = Request("GET", "/", answer_limit_bytes=10_000)
    answering = client(lambda _request: httpx.Response(200, content=endless()))
    with answering as http, pytest.raises(Unreachable, match="too long"):
        over_http(http)(request, {})
    assert sum(given) < 20_000


def test_an_answer_at_its_limit_is_taken() -> None:
    with client(lambda _request: sent(bytes(10))) as http:
        assert over_http(http)(Request("GET", "/", answer_limit_bytes=10), {}).body == bytes(10)


def test_a_packed_answer_is_not_unpacked() -> None:
    bomb = gzip.compress(bytes(1 << 20))
    with client(lambda _r: sent(bomb, headers={"content-encoding": "gzip"})) as http:
        assert over_http(http)(Request("GET", "/"), {}).body == bomb


def test_a_redirect_is_an_answer_and_is_not_followed() -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        return sent(b"", 302, {"location": "http://elsewhere/"})

    with client(answer) as http:
        assert over_http(http)(Request("GET", "/here"), {}).status == 302
    assert asked == ["/here"]


def test_the_environment_names_no_proxy_for_us(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with http_client("http://127.0.0.1:9") as http:
        assert http.trust_env is False
        assert (http.timeout.connect, http.timeout.read) == (10.0, 60.0)


def test_the_time_limit_of_a_plan_stops_training_once_it_has_passed() -> None:
    clock = iter([100.0, 100.0, 159.9, 160.0, 500.0])
    stop = time_limit(60.0, lambda: next(clock))
    assert [stop(), stop(), stop(), stop()] == [None, None, Outcome.TIME_LIMIT, Outcome.TIME_LIMIT]


# --- requests that wait, and that have patience -----------------------------------------------------------------


class Ticking(Network):
    """A network whose clock moves when somebody sleeps."""

    def ticking(self) -> Driver:
        return Driver(
            KEY,
            "acme",
            self,
            Retries(3, 5.0),
            clock=lambda: NOW,
            sleep=self.slept.append,
            monotonic=lambda: sum(self.slept),
        )


def test_a_request_may_ask_to_be_sent_later() -> None:
    network = Ticking(FINE)
    assert network.ticking().run(one(Request("GET", "/", after_s=7.0))) == FINE
    assert network.slept == [7.0]


def test_a_patient_request_is_tried_as_long_as_it_asks_for_and_no_longer() -> None:
    network = Ticking(*[Unreachable("down")] * 100)
    with pytest.raises(Unreachable):
        network.ticking().run(one(Request("GET", "/", patience_s=60.0)))
    assert sum(network.slept) == 60.0


def test_patience_is_counted_from_the_first_try_and_one_try_is_always_made() -> None:
    network = Ticking(FINE)
    assert network.ticking().run(one(Request("GET", "/", after_s=600.0, patience_s=0.0))) == FINE


def test_a_patient_request_waits_for_a_delay_that_ends_within_its_patience() -> None:
    network = Ticking(Response(503, b"", 40.0), FINE)
    assert network.ticking().run(one(Request("GET", "/", patience_s=60.0))) == FINE
    assert network.slept == [40.0]
