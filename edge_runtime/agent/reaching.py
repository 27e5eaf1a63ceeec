"""One look at the coordinator without being a device: its time, its certificate, or what is in the way."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from cryptography import x509

from edge_runtime.driver import connected, tls_context
from edge_runtime.network import Network
from edge_runtime.protocol import wire
from edge_runtime.protocol.enrolment import DEVICE_PATH, Problem
from edge_runtime.protocol.errors import Malformed
from edge_runtime.session import Request, Unreachable

_WAIT_S: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """An answer.

    Attributes:
        server_s: The coordinator's clock, seconds since the epoch; None if what answered is no coordinator.
        certificate_until_s: When its certificate ends; None where none was seen.
    """

    took_s: float
    server_s: float | None
    certificate_until_s: float | None


@dataclass(frozen=True, slots=True)
class Unreached:
    """No answer: what was found, and what to do."""

    found: str
    fix: str


def reach(network: Network) -> Reached | Unreached:
    """Ask the coordinator something that it refuses: a refusal carries its time."""
    begin = time.monotonic()
    try:
        with connected(network) as send:
            answer = send(Request("POST", f"{DEVICE_PATH}/check-in"), {})
        took_s = time.monotonic() - begin
        return Reached(
            took_s=took_s, server_s=_server_s(answer.body), certificate_until_s=_certificate_until_s(network)
        )
    except (Unreachable, OSError) as problem:
        return _in_the_way(problem, network)


def _server_s(body: bytes) -> float | None:
    try:
        return float(wire.decode(Problem, body).server_time)
    except Malformed:
        return None


def _certificate_until_s(network: Network) -> float | None:
    """When the certificate ends that the first address shows; through a proxy it is not seen."""
    address = urlsplit(network.coordinator)
    if address.scheme != "https" or network.proxy is not None or address.hostname is None:
        return None
    wait_s = min(network.connect_s, _WAIT_S)
    with (
        socket.create_connection((address.hostname, address.port or 443), wait_s) as plain,
        tls_context(network).wrap_socket(plain, server_hostname=address.hostname) as secret,
    ):
        der = secret.getpeercert(binary_form=True)
    return None if der is None else x509.load_der_x509_certificate(der).not_valid_after_utc.timestamp()


def _in_the_way(problem: BaseException, network: Network) -> Unreached:
    chain = list(_causes(problem))
    texts = " ".join(map(str, chain)).lower()
    host = urlsplit(network.proxy or network.coordinator).hostname
    if network.ca_file is not None and any(isinstance(one, FileNotFoundError) for one in chain):
        return Unreached(f"there is no file {network.ca_file}", "ca_file under [network] names it")
    if "pins" in texts:
        return Unreached("its key is not one that is pinned", "is the address right? else put its new key under pins")
    if "mismatch" in texts:  # of a host name or an IP address
        return Unreached("its certificate is for another name", "use the name that the certificate has")
    if "certificate has expired" in texts or "not yet valid" in texts:
        return Unreached("its certificate is not valid today", "is the clock right? else the operator renews it")
    if "certificate" in texts:
        fix = "give the file of its authority: ca_file under [network]"
        return Unreached("its certificate is by an authority that is not trusted here", fix)
    if any(isinstance(one, ssl.SSLError) for one in chain) or "ssl" in texts:
        return Unreached("it does not speak TLS there", "is it http://, or another port?")
    if any(isinstance(one, socket.gaierror) for one in chain) or "name or service" in texts or "resolution" in texts:
        return Unreached(f"the name {host} is not found", "is it spelt right? does DNS work: resolvectl query NAME")
    if "refused" in texts:
        return Unreached("nothing listens there", "is the coordinator running, and is this its port?")
    return Unreached("no answer", "is there a route and no firewall between: ping, traceroute; is a proxy needed?")


def _causes(problem: BaseException | None) -> Iterator[BaseException]:
    while problem is not None:
        yield problem
        problem = problem.__cause__ or problem.__context__
