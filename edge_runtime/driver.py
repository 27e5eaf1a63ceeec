"""The loop that drives a session over HTTP. The only file that sleeps, opens sockets and reads the clock."""

from __future__ import annotations

import contextlib
import os
import ssl
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import httpx

from edge_runtime.network import Meter, Network
from edge_runtime.protocol import wire
from edge_runtime.protocol.enrolment import Problem
from edge_runtime.protocol.errors import ClockSkew, Malformed
from edge_runtime.protocol.keys import SigningKey, device_id, digest
from edge_runtime.protocol.reasons import Outcome
from edge_runtime.protocol.signing import NONCE_BYTES, sign_request
from edge_runtime.session import Request, Response, Session, Unreachable

Result = TypeVar("Result")

__all__ = ["Driver", "Meter", "Retries", "Send", "Unreachable", "connected", "http_client", "over_http", "time_limit"]

LATEST_SERVER_TIME = 10**11
"""Seconds since the epoch. A later time, or a negative one, cannot be signed and is nobody's clock."""

LONGEST_RETRY_AFTER_S = 30 * 86_400.0
"""A longer `Retry-After` is nobody's."""

RETRIED_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})


Send = Callable[[Request, dict[str, str]], Response]
"""Sends one signed request and returns the answer. Raises `Unreachable` when there is none."""


@dataclass(frozen=True, slots=True)
class Retries:
    """How often a request is tried within a visit, and how far apart."""

    tries: int = 3
    pause_s: float = 5.0

    @property
    def patience_s(self) -> float:
        """A longer delay that a server names ends the visit instead."""
        return self.tries * self.pause_s


@dataclass(slots=True)
class Driver:
    """Signs and sends what sessions yield.

    Args:
        key: The device key; it never leaves the device.
        tenant: Determines the device id together with the key.
        send: Carries one request.
        clock: Seconds since the epoch; only signatures depend on it.
        sleep: Waits between tries, and before a request that asks for it.
        monotonic: Seconds; how long a request that asks for patience is tried.
    """

    key: SigningKey
    tenant: str
    send: Send
    retries: Retries = Retries()
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    monotonic: Callable[[], float] = time.monotonic
    device_id: str = field(init=False)
    clock_offset_s: int = field(init=False, default=0)
    """Learned from a coordinator that refused our clock; used for signatures only."""

    def __post_init__(self) -> None:
        self.device_id = device_id(self.tenant, self.key.public)

    def run(self, session: Session[Result]) -> Result:
        """Drive a session to its end and return its result.

        Raises:
            Unreachable: A request got no answer in any of its tries.
            Refusal: The session raised it.
        """
        try:
            request = next(session)
            while True:
                request = session.send(self._exchange(request))
        except StopIteration as end:
            result: Result = end.value
            return result
        finally:
            session.close()

    def _exchange(self, request: Request) -> Response:
        failure: Unreachable | None = None
        corrected = False
        tried = 0
        if request.after_s > 0:
            self.sleep(request.after_s)
        goes_on, patience_s = self._goes_on(request)
        while goes_on(tried):
            pause_s = self.retries.pause_s
            try:
                response = self.send(request, self._signature(request))
            except Unreachable as problem:
                failure = problem
            else:
                if not corrected and self._corrects_clock(response):
                    corrected = True
                    continue
                named_s = asked_delay_s(response)
                if response.status not in RETRIED_STATUSES or named_s > patience_s:
                    return response
                pause_s = max(pause_s, named_s)
                failure = Unreachable(f"the coordinator answered HTTP {response.status}")
            tried += 1
            if goes_on(tried):
                self.sleep(pause_s)
        raise failure or Unreachable("no try was allowed")

    def _goes_on(self, request: Request) -> tuple[Callable[[int], bool], float]:
        """Whether to try once more after so many tries, and the longest delay that a server may name meanwhile."""
        patience_s = request.patience_s
        if patience_s is None:
            return lambda tried: tried < self.retries.tries, self.retries.patience_s
        until_s = self.monotonic() + patience_s
        return lambda tried: not tried or self.monotonic() < until_s, patience_s

    def _signature(self, request: Request) -> dict[str, str]:
        return sign_request(
            self.key,
            self.device_id,
            request.method,
            request.path,
            request.body,
            created=int(self.clock()) + self.clock_offset_s,
            nonce=os.urandom(NONCE_BYTES),
        )

    def _corrects_clock(self, response: Response) -> bool:
        """Learn the offset from a clock-skew refusal; True if the request is worth signing again."""
        if response.status != 401:
            return False
        try:
            problem = wire.decode(Problem, response.body)
        except Malformed:
            return False
        if problem.code != ClockSkew.code or not 0 <= problem.server_time <= LATEST_SERVER_TIME:
            return False
        self.clock_offset_s = problem.server_time - int(self.clock())
        return True


def time_limit(seconds: float, clock: Callable[[], float] = time.monotonic) -> Callable[[], Outcome | None]:
    """What training asks before every step: `Outcome.TIME_LIMIT` once so many seconds have passed, else None."""
    limit = clock() + seconds
    return lambda: Outcome.TIME_LIMIT if clock() >= limit else None


def asked_delay_s(response: Response) -> float:
    """How long an answer asks to wait, in its problem or its `Retry-After`; 0 if it does not."""
    try:
        named_s = wire.decode(Problem, response.body).retry_after_s
    except Malformed:
        named_s = None
    return max(named_s or 0.0, response.retry_after_s or 0.0)


def over_http(client: httpx.Client, meter: Meter | None = None) -> Send:
    """Send through an HTTP client whose `base_url` is the coordinator.

    An answer is taken as it comes, never unpacked, and no further than the request's limit. With a sink, what it lacks
    is asked for, and put into it part by part: a transfer that breaks is taken up where it broke.
    """
    meter = meter or Meter()

    def send(request: Request, headers: dict[str, str]) -> Response:
        plainly = {**headers, "accept-encoding": "identity"}
        if request.sink is not None and request.sink.held_bytes:
            plainly["range"] = f"bytes={request.sink.held_bytes}-"
        meter.count(len(request.path) + len(request.body) + _header_bytes(plainly.items()))
        try:
            with client.stream(request.method, request.path, content=request.body, headers=plainly) as answer:
                meter.count(_header_bytes(answer.headers.items()))
                return _received(request, answer, meter)
        except (httpx.TransportError, httpx.InvalidURL) as problem:
            raise Unreachable(f"{request.method} {request.path}: {problem}") from problem

    return send


def metered(send: Send, meter: Meter) -> Send:
    """Tell a meter what another way of sending carries; of its headers, those that are known here."""

    def counting(request: Request, headers: dict[str, str]) -> Response:
        meter.count(len(request.path) + len(request.body) + _header_bytes(headers.items()))
        response = send(request, headers)
        meter.count(len(response.body) + _header_bytes(()))
        return response

    return counting


def _received(request: Request, answer: httpx.Response, meter: Meter) -> Response:
    into = request.sink if answer.status_code in (200, 206) else None
    body = bytearray()
    if into is not None and not _continues(answer, into.held_bytes):
        into.restart()
        if answer.status_code == 206:
            raise Unreachable(f"{request.method} {request.path}: another part came than was asked for")
    announced = answer.headers.get("content-length", "")
    missing = int(announced) if announced.isdecimal() and len(announced) < 19 else -1
    for part in answer.iter_raw():
        meter.count(len(part))
        missing -= len(part)
        if into is not None:
            into.write(part)
        else:
            body += part
        if (len(body) if into is None else into.held_bytes) > request.answer_limit_bytes:
            raise Unreachable(f"{request.method} {request.path}: the answer is too long")
        if missing != 0:
            meter.go_on()
    return Response(answer.status_code, bytes(body), _retry_after_s(answer.headers.get("retry-after", "")))


def _continues(answer: httpx.Response, held_bytes: int) -> bool:
    """Whether the answer begins where the sink ends."""
    begins = answer.headers.get("content-range", "").startswith(f"bytes {held_bytes}-")
    return begins if answer.status_code == 206 else not held_bytes


def _retry_after_s(text: str) -> float | None:
    """Its form in seconds; a date is not believed, as nobody knows whose clock it is by."""
    named = float(text) if text.isdecimal() and len(text) < 10 else None
    return None if named is None or named > LONGEST_RETRY_AFTER_S else named


def _header_bytes(headers: Iterable[tuple[str, str]]) -> int:
    return sum(len(name) + len(value) + 4 for name, value in headers) + 20


def first_to_answer(sends: Sequence[Send]) -> Send:
    """Send to the first address; to the next where that one gives no answer."""

    def send(request: Request, headers: dict[str, str]) -> Response:
        failure = Unreachable("there is no address")
        for one in sends:
            try:
                return one(request, headers)
            except Unreachable as problem:
                failure = problem
        raise failure

    return send


def http_client(coordinator: str, *, connect_s: float = 10.0, read_s: float = 60.0) -> httpx.Client:
    """A client for the coordinator at this address, with limits on connecting and on every read, in seconds."""
    return httpx.Client(base_url=coordinator, timeout=httpx.Timeout(read_s, connect=connect_s), trust_env=False)


@contextlib.contextmanager
def connected(network: Network, meter: Meter | None = None) -> Iterator[Send]:
    """Reach a coordinator as an app describes the way to it; every connection is closed at the end."""
    verify = tls_context(network)
    with contextlib.ExitStack() as open_clients:
        clients = [
            open_clients.enter_context(
                httpx.Client(
                    base_url=address,
                    timeout=httpx.Timeout(network.read_s, connect=network.connect_s),
                    trust_env=False,
                    proxy=network.proxy,
                    verify=verify,
                )
            )
            for address in network.addresses
        ]
        yield first_to_answer([over_http(client, meter) for client in clients])


def tls_context(network: Network) -> ssl.SSLContext:
    """Certificates are checked as always and, with pins, the coordinator's own key too, before a request is sent.

    Where no address begins with https://, it trusts nobody, and the authorities that come with httpx are not read.
    """
    encrypted = any(address.startswith("https://") for address in (*network.addresses, network.proxy or ""))
    if not encrypted and network.ca_file is None:
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context = httpx.create_ssl_context(trust_env=False)
    if network.ca_file is not None:
        context = ssl.create_default_context(cafile=str(network.ca_file))
    if network.pins:
        context.sslsocket_class = _pinned(ssl.SSLSocket, network.pins)
        context.sslobject_class = _pinned(ssl.SSLObject, network.pins)  # TLS within a TLS proxy
    return context


Tls = TypeVar("Tls", ssl.SSLSocket, ssl.SSLObject)


def _pinned(kind: type[Tls], pins: Collection[bytes]) -> type[Tls]:
    """A connection that ends its handshake with a look at the key.

    Source: https://docs.python.org/3/library/ssl.html#ssl.SSLContext.sslsocket_class.
    """

    class Pinned(kind):  # type: ignore[misc, valid-type]
        def do_handshake(self, *args: bool) -> None:
            super().do_handshake(*args)
            if key_pin(self.getpeercert(binary_form=True) or b"") not in pins:
                raise ssl.SSLCertVerificationError("the certificate's key is not one that this app pins")

    return Pinned


def key_pin(certificate: bytes) -> bytes:
    """SHA-256 of a certificate's public key, as `Network.pins` has it.

    Args:
        certificate: DER.
    """
    # With the first pin: certificates are a large part of the package, and most apps pin nothing.
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = x509.load_der_x509_certificate(certificate).public_key()
    return digest(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
