"""The app's own fake coordinator behind a socket, so that `edgewise-device` can be tried as it is, over HTTP or TLS."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from edge_runtime.protocol.bundle import encode_bundle, verify_bundle
from edge_runtime.protocol.checkpoint import verify_checkpoint
from edge_runtime.protocol.keys import PublicKey, digest
from edge_runtime.protocol.report import ReportHeld
from edge_runtime.session import Request, Response, Unreachable
from edge_runtime.testing import ROOTS, TENANT_KEY, FakeCoordinator

Served = Callable[[Request, dict[str, str]], Response]


@dataclass(slots=True, kw_only=True)
class RealModel(FakeCoordinator):
    """Serves a bundle that an interpreter can run."""

    real_bundle: bytes = field(default=b"", repr=False)
    parts: dict[str, bytes] = field(default_factory=dict, repr=False)

    @property
    def bundle(self) -> bytes:
        return self.real_bundle

    def _ended(self, request: Request) -> Any:
        """Takes long reports in parts, too; each part goes on where the one before ended."""
        path, mark, _offset = request.path.partition("/report/parts")
        if mark:
            self.parts[path] = self.parts.get(path, b"") + request.body
            return ReportHeld(version=1, held_bytes=len(self.parts[path]))
        if request.method == "POST" and request.path.endswith("/report"):
            request = Request("PUT", request.path, self.parts[request.path.removesuffix("/report")])
        return FakeCoordinator._ended(self, request)


def real_model(bundle: bytes, checkpoint: bytes, key: PublicKey) -> RealModel:
    """A fake coordinator for an exported model: the documents are signed anew, by the fake's keys."""
    verified = verify_bundle(bundle, digest(bundle).hex(), key)
    mine = encode_bundle(verified.manifest, verified.graph, TENANT_KEY)
    parameters = verified.manifest.parameters
    weights = verify_checkpoint(
        checkpoint, digest(checkpoint).hex(), key, bundle_sha256=verified.sha256, parameters=parameters
    ).weights
    return RealModel(manifest=verified.manifest, weights=weights, real_bundle=mine)


@contextlib.contextmanager
def served(answer: Served, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Serve whatever answers requests; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def respond(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            try:
                found = answer(Request(self.command, self.path, body), headers)
            except Unreachable:
                self.close_connection = True
                return
            self.send_response(found.status)
            self.send_header("content-length", str(len(found.body)))
            self.end_headers()
            self.wfile.write(found.body)

        do_GET = do_POST = do_PUT = do_DELETE = respond  # noqa: N815 (names of the standard library)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # devices go away as they like
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"{'http' if tls is None else 'https'}://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


SETTINGS = """
state = "{state}"

[installation]
tenant = "acme"
population = "keyboard"

[network]
coordinator = "{address}"

[trust]
tenant_key = "{tenant_key}"
coordinator_key = "{coordinator_key}"

[limits]
needs_idle = false
first_run_delay_s = 0.0
min_interval_s = 0.0
min_free_storage_bytes = 0

[assumed]
charging = true
metered = false
thermal = "none"
power_saver = false
battery_level = 1.0

[[collections]]
name = "numbers"
features = {{ shape = {shape}, low = {low}, high = {high} }}
labels = {labels}
"""

LINEAR_LABELS = "{ low = -100, high = 100 }"


def write_settings(
    folder: Path, address: str, *, shape: tuple[int, ...] = (3,), labels: str = LINEAR_LABELS, **changes: str
) -> Path:
    """Settings of a device that a slice always suits, of the fake's tenant and population; the file."""
    facts = {
        "state": "phone",
        "address": address,
        "tenant_key": ROOTS.tenant.raw.hex(),
        "coordinator_key": ROOTS.coordinator.raw.hex(),
        "shape": str(list(shape)),
        "low": "-10" if shape == (3,) else "0",
        "high": "10" if shape == (3,) else "1",
        "labels": labels,
    }
    path = folder / "device.toml"
    path.write_text(SETTINGS.format(**{**facts, **changes}))
    return path
