"""The coordinator of the tests behind a real socket, on a network that does what it is told."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from edge_runtime.session import Request, Response, Unreachable
from edge_runtime.testing import FakeCoordinator


@dataclass
class Line:
    """What the network does, and what it saw.

    Attributes:
        cut_after: Bytes of a body after which a connection breaks; None for never.
        drip: Called before each byte of a blob, which then come one by one.
        hang: Set to give no answer until it is set.
        cut_upload_after: Bytes of a request's body after which a connection breaks.
    """

    coordinator: FakeCoordinator
    cut_after: int | None = None
    drip: Callable[[int], None] | None = None
    hang: threading.Event | None = None
    endless: bool = False
    cut_upload_after: int | None = None
    ranges: list[str] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)
    body_bytes: int = 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    line: Line

    def handle_one_request(self) -> None:
        with contextlib.suppress(OSError):
            super().handle_one_request()

    def log_message(self, *_arguments: Any) -> None:
        pass

    def answer(self) -> None:
        self.line.targets.append(self.path)
        announced = int(self.headers.get("content-length", "0"))
        if self.line.cut_upload_after is not None and announced > self.line.cut_upload_after:
            self.rfile.read(self.line.cut_upload_after)
            self.close_connection = True
            return
        body = self.rfile.read(announced)
        if self.line.hang is not None:
            self.line.hang.wait(5)
            self.close_connection = True
            return
        path = re.sub(r"^http://[^/]+", "", self.path)
        try:
            found = self.line.coordinator(Request(self.command, path, body), dict(self.headers.items()))
        except Unreachable:
            self.close_connection = True
            return
        self.send(found, blob="/bundles/" in path or "/checkpoints/" in path)

    def send(self, found: Response, *, blob: bool) -> None:
        content, status, wanted = found.body, found.status, self.headers.get("range")
        size = len(content)
        if blob and wanted and status == 200:
            self.line.ranges.append(wanted)
            begin = int(wanted.removeprefix("bytes=").rstrip("-"))
            content, status = content[begin:], 206
        self.send_response(status)
        if status == 206:
            self.send_header("content-range", f"bytes {size - len(content)}-{size - 1}/{size}")
        if found.retry_after_s is not None:
            self.send_header("retry-after", str(int(found.retry_after_s)))
        if self.line.endless:
            self.end_headers()
            while True:
                self.wfile.write(bytes(1 << 16))
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        if blob and self.line.cut_after is not None and self.line.cut_after < len(content):
            self.wfile.write(content[: self.line.cut_after])
            self.close_connection = True
            return
        if blob and self.line.drip is not None:
            for position in range(len(content)):
                self.line.drip(position)
                self.wfile.write(content[position : position + 1])
                self.wfile.flush()
            return
        self.wfile.write(content)
        self.line.body_bytes += len(content)

    do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815


@contextlib.contextmanager
def served(line: Line, certificate: Path | None = None) -> Iterator[str]:
    """The address under which it answers."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"line": line}))
    server.daemon_threads = True
    server.block_on_close = False
    scheme = "http"
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        scheme = "https"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"{scheme}://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def made_certificate(folder: Path) -> tuple[Path, bytes]:
    """A key and a certificate for 127.0.0.1 in one PEM file, and the certificate as DER."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / "server.pem"
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path, made.public_bytes(serialization.Encoding.DER)
