"""Signed requests over kept connections, as fast as one core can send prepared bytes."""

from __future__ import annotations

import itertools
import os
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SERVER_CORE, OTHER_CORE = 0, 1
CONNECTIONS = 512
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Serving:
    """A coordinator in a process of its own, on one core."""

    port: int
    pid: int

    def cpu_s(self) -> float:
        """CPU seconds of the process so far, threads included."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[Serving]:
    command = [sys.executable, "-m", "tests.bench.serving", str(folder), str(SERVER_CORE), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            port = int(process.stdout.readline())
            with socket.create_connection(("127.0.0.1", port), timeout=60) as probe:  # answers once it has started
                probe.sendall(b"GET /v1/openapi.json HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                while probe.recv(1 << 16):
                    pass
            yield Serving(port, process.pid)
        finally:
            process.terminate()


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """Run this thread on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def request_bytes(method: str, path: str, headers: Mapping[str, str], body: bytes) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "host: 127.0.0.1", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


@dataclass(slots=True)
class Line:
    """One kept connection, and what has come of the answer."""

    socket: socket.socket
    heard: bytes = b""

    def is_whole(self) -> bool:
        """Whether the answer is: all have a content length."""
        head, mark, body = self.heard.partition(b"\r\n\r\n")
        lower = head.lower()
        place = lower.find(b"content-length: ")
        return bool(mark) and len(body) >= int(lower[place + 16 :].split(b"\r\n", 1)[0])


def connect(port: int, count: int = CONNECTIONS) -> list[Line]:
    return [Line(socket.create_connection(("127.0.0.1", port))) for _ in range(count)]


def knock(lines: Sequence[Line], requests: Sequence[bytes]) -> tuple[float, dict[bytes, int]]:
    """Send each request once, one at a time on a line; wall seconds, and how often each status came."""
    selector, waiting, statuses = selectors.DefaultSelector(), iter(requests), dict[bytes, int]()
    began = time.perf_counter()
    for line, first in zip(lines, itertools.islice(waiting, len(lines)), strict=False):
        line.socket.sendall(first)
        selector.register(line.socket, selectors.EVENT_READ, line)
    while selector.get_map():
        for key, _events in selector.select():
            line = key.data
            heard = line.socket.recv(1 << 16)
            if not heard:
                raise ConnectionResetError("the coordinator closed a line that waits for an answer")
            line.heard += heard
            if line.is_whole():
                status, line.heard = line.heard[9:12], b""
                statuses[status] = statuses.get(status, 0) + 1
                following = next(waiting, None)
                if following is None:
                    selector.unregister(line.socket)
                else:
                    line.socket.sendall(following)
    return time.perf_counter() - began, statuses
