"""A service that speaks S3 for the tests: moto's server, on loopback, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

SERVER = """
import sys, threading
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
print(f"http://{host}:{port}", flush=True)
sys.stdin.read()
server.stop()
"""
KEYS = {
    "AWS_ACCESS_KEY_ID": "tests",
    "AWS_SECRET_ACCESS_KEY": "tests",  # pragma: allowlist secret
    "AWS_REGION": "us-east-1",
}


@contextmanager
def serving() -> Iterator[str]:
    """The address of a running server; it ends with this process, however that ends."""
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **KEYS},
        start_new_session=True,
    )
    assert server.stdout is not None
    url = server.stdout.readline().strip()
    if not url.startswith("http"):
        raise RuntimeError(f"the tests' S3 service does not start: {server.communicate()[1][-2000:]}")
    try:
        yield url
    finally:
        server.kill()  # there is nothing to keep
        server.communicate()
