"""A coordinator behind a real socket, over HTTP or TLS, on a network that does what it is told."""

from __future__ import annotations

import contextlib
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from edge_runtime.session import Request, Response, Unreachable

Answer = Callable[[Request, dict[str, str]], Response]
"""What a coordinator is to a test: a fake one, or a function."""


@dataclass
class Line:
    """What the network does, and what it saw.

    Attributes:
        cut_after: Bytes of a body after which a connection breaks; None for never.
        drip: Called before each byte of a blob, which then come one by one.
        hang: Set to give no answer until it is set.
        cut_upload_after: Bytes of a request's body after which a connection breaks.
    """

    coordinator: Answer
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
def served(answer: Answer | Line, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Answer requests on a socket, over a line that does what it is told; yields the address."""
    line = answer if isinstance(answer, Line) else Line(answer)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"line": line}))
    server.daemon_threads = True
    server.block_on_close = False
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # devices go away as they like
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"{'http' if tls is None else 'https'}://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
