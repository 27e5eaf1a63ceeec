"""What the edge runtime costs an app that bundles it: import, memory, time, bytes, size."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import re
import socket
import socketserver
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np

from edge_runtime.protocol.bundle import verify_bundle
from edge_runtime.protocol.keys import SigningKey, digest
from tests.bench.edge_process import BATCH
from tests.bench.measure import REPEATS, Row
from tests.edge_runtime.served import served
from tests.edge_runtime.serving import real_model, write_settings

ROOT: Final = Path(__file__).parents[2]
MIB: Final = 1 << 20
IDLE_BYTES: Final = 8 * MIB
TRAINING_BYTES: Final = 15 * MIB
VISIT_BYTES: Final = 2048
SIZE_BYTES: Final = 2 * MIB
EXAMPLES: Final = 200
MODELS: Final = {"mlp": 400, "femnist_cnn_small": 40, "femnist_cnn": 20}
"""Steps of one measured run, by zoo name."""

NAMES: Final = "import edge_runtime\nfor name in edge_runtime.__all__: getattr(edge_runtime, name)"
LOADED: Final = {
    "": (NAMES, 1.3, "every public name of edge_runtime"),
    ".package": ("import edge_runtime", 1.3, "edge_runtime, and none of its names yet"),
    ".opened": (f"{NAMES}\nimport edge_runtime.work", 2.0, "its names, and what the first Runtime loads but HTTP"),
}
"""Programs whose start is measured, by what their row's id ends with: each with its bound, and what it loads."""
DEPENDENCIES: Final = ("numpy", "cryptography", "httpx")


def rows(folder: Path) -> list[Row]:
    models = {name: _exported(folder / name, name) for name in MODELS}
    return [
        *_importing(folder),
        _idle(folder, models["mlp"]),
        *(_peak(folder, name, home) for name, home in models.items() if name != "femnist_cnn_small"),
        *(_overhead(name, models[name]) for name in ("femnist_cnn_small", "mlp")),
        _visit(folder),
        _size(),
    ]


def _exported(home: Path, name: str) -> Path:
    """A bundle of the zoo in its folder, its graph alone, and examples for it."""
    home.mkdir()
    export = [sys.executable, "-m", "model_export.cli"]
    key_file = home / "tenant.key"
    subprocess.run([*export, "keygen", str(key_file)], check=True, capture_output=True, cwd=ROOT)
    build = [*export, "build", f"zoo:{name}", f"--out={home}", f"--tenant-key={key_file}", f"--batch-size={BATCH}"]
    subprocess.run(build, check=True, capture_output=True, cwd=ROOT)
    key = SigningKey(bytes.fromhex(key_file.read_text().strip())).public
    raw = (home / "bundle.ewb").read_bytes()
    bundle = verify_bundle(raw, digest(raw).hex(), key)
    (home / "tenant.pub").write_text(key.raw.hex())
    (home / "graph.tflite").write_bytes(bundle.graph)
    (home / "shape.json").write_text(json.dumps(bundle.manifest.features.shape))
    rng = np.random.default_rng(0)
    x = rng.random((EXAMPLES, bundle.manifest.features.size), np.float32)
    y = rng.integers(0, int(bundle.manifest.labels.high) + 1, EXAMPLES)
    (home / "examples.f32").write_bytes(np.column_stack([x, y]).astype("<f4").tobytes())
    return home


def _run(*words: str | Path) -> Any:
    command = [sys.executable, "-m", "tests.bench.edge_process", *map(str, words)]
    told = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    return json.loads(told.splitlines()[-1])


def _importing(folder: Path) -> list[Row]:
    """Fresh interpreters by turns, compiled modules at hand."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    env["PYTHONPYCACHEPREFIX"] = str(folder / "compiled")
    programs = (*(program for program, _bound, _what in LOADED.values()), "import numpy")
    taken: dict[str, list[tuple[float, float]]] = {program: [] for program in programs}
    for number in range(REPEATS + 1):
        for program in programs:
            begin = time.perf_counter()
            child = os.posix_spawn(sys.executable, [sys.executable, "-c", program], env)
            _pid, status, used = os.wait4(child, 0)
            if status:
                raise RuntimeError(f"{program!r} ended with status {status}")
            if number:  # the first turn compiles
                taken[program].append((time.perf_counter() - begin, used.ru_utime + used.ru_stime))
    found = []
    for suffix, (program, bound, what) in LOADED.items():
        for position, (clock, unit) in enumerate((("", "ms"), (".cpu", "ms CPU"))):
            one, numpys = (
                statistics.median(pair[position] for pair in taken[which]) * 1e3 for which in (program, "import numpy")
            )
            found.append(
                Row(
                    id=f"edge.import{suffix}{clock}",
                    ours=round(one, 1),
                    limit=round(numpys, 1),
                    ratio=round(one / numpys, 3),
                    bound=bound,
                    unit=unit,
                    how=f"a fresh interpreter that loads {what}; limit: one that imports numpy; both with Python's "
                    "own start",
                )
            )
    return found


def _idle(folder: Path, home: Path) -> Row:
    home_of_device = folder / "idle"
    with _device(home_of_device, home) as (config, _coordinator):
        told = _run("idle", config)
    if told["happened"] != "waiting":
        raise RuntimeError(f"the visit ended otherwise: {told}")
    return _bytes_row(
        "edge.idle_rss",
        told["idle_bytes"],
        told["imports_bytes"] + IDLE_BYTES,
        'resident memory of an open runtime after a visit that ended in "not now"; limit: its imports '
        f"({told['imports_bytes'] / MIB:.1f} MiB) and 8 MiB",
    )


def _peak(folder: Path, name: str, home: Path) -> Row:
    steps = MODELS[name]
    limit = min(_run("bare", home, str(steps))["peak_bytes"] for _ in range(3))
    peaks = []
    for turn in range(3):
        with _device(folder / f"peak-{name}-{turn}", home) as (config, coordinator):
            coordinator.assign(epochs=max(1, steps * BATCH // EXAMPLES), batch_size=BATCH, learning_rate=0.01)
            told = _run("slice", config)
        if told["happened"] != "reported":
            raise RuntimeError(f"the slice ended otherwise: {told}")
        peaks.append(told["peak_bytes"])
    weights = 4 * coordinator.manifest.parameters
    return _bytes_row(
        f"edge.train_peak.{name}",
        statistics.median(peaks),
        limit + TRAINING_BYTES + 2 * weights,
        f"peak memory of a process that makes a whole slice, from check-in to report, on zoo:{name}; limit: a bare "
        f"loop over ai-edge-litert, weights in and delta out ({limit / MIB:.1f} MiB), 15 MiB, and twice the weights "
        f"({2 * weights / MIB:.1f} MiB)",
    )


def _overhead(name: str, home: Path) -> Row:
    steps = MODELS[name]
    told = _run("overhead", home, str(steps))
    ours, limit = statistics.median(told["ours_s"]), statistics.median(told["limit_s"])
    return Row(
        id="edge.overhead" if name == "femnist_cnn_small" else f"edge.overhead.{name}",
        ours=round(ours / steps * 1e3, 4),
        limit=round(limit / steps * 1e3, 4),
        ratio=round(ours / limit, 3),
        bound=1.05,
        unit="ms CPU",
        how=f"one step of zoo:{name} as a slice takes it: sealed examples from the store, checks, conditions; "
        "limit: a bare loop over ai-edge-litert with its batches in memory",
    )


def _visit(folder: Path) -> Row:
    """A real coordinator behind a relay that counts."""
    data = folder / "coordinator"
    env = {**os.environ, "EDGEWISE_DATA_DIR": str(data)}
    program = [sys.executable, "-c", "from coordinator.cli import app; app()"]
    key = SigningKey(digest(b"bench")).public.raw.hex()
    init = [*program, "init", "--tenant", "acme", "--tenant-key", key]
    said = subprocess.run(init, env=env, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    serve = [*program, "serve", "--port", "0"]
    with subprocess.Popen(serve, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            if process.stdout is None:
                raise RuntimeError("the coordinator has no output")
            address = process.stdout.readline().split()[-1]
            token = (data / "operator.token").read_text()
            url, headers = f"{address}/v1/operator/populations/keyboard", {"authorization": f"Bearer {token}"}
            httpx.put(url, headers=headers, trust_env=False).raise_for_status()
            keys = {"tenant_key": key, "coordinator_key": re.findall("[0-9a-f]{64}", said)[0]}
            with _relay(address) as relay:
                config = write_settings(folder, f"http://127.0.0.1:{relay.server_address[1]}", **keys)
                enrol = [sys.executable, "-m", "edge_runtime.cli", "enrol", "--config", str(config)]
                subprocess.run(enrol, check=True, capture_output=True, cwd=ROOT)
                relay.moved = 0
                told = _run("slice", config)
                moved = relay.moved
        finally:
            process.kill()
    if (told["happened"], told["reason"]) != ("waiting", "no-task"):
        raise RuntimeError(f"the visit ended otherwise: {told}")
    return Row(
        id="edge.idle_visit_bytes",
        ours=moved,
        limit=VISIT_BYTES,
        ratio=round(moved / VISIT_BYTES, 3),
        bound=1.0,
        unit="bytes",
        how='a visit of an enrolled device that ends in "no-task": request and answer with their headers, as a relay '
        "counts them between a device and a coordinator; TLS is not counted; limit: 2 KiB",
    )


class _Relay(socketserver.ThreadingTCPServer):
    """Passes bytes on, and counts them."""

    daemon_threads = True
    allow_reuse_address = True
    moved = 0

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        super().__init__(("127.0.0.1", 0), _Passing)


class _Passing(socketserver.BaseRequestHandler):
    server: _Relay

    def handle(self) -> None:
        with socket.create_connection(self.server.target) as onward:
            back = threading.Thread(target=self._pass, args=(onward, self.request), daemon=True)
            back.start()
            self._pass(self.request, onward)
            back.join()

    def _pass(self, begin: socket.socket, end: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while part := begin.recv(65_536):
                self.server.moved += len(part)
                end.sendall(part)
            end.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def _relay(address: str) -> Iterator[_Relay]:
    host, port = address.removeprefix("http://").split(":")
    with _Relay((host, int(port))) as relay:
        thread = threading.Thread(target=relay.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield relay
        finally:
            relay.shutdown()
            thread.join()


@contextlib.contextmanager
def _device(folder: Path, home: Path) -> Iterator[tuple[Path, Any]]:
    """Settings of a device with examples, and the coordinator that serves it the model."""
    folder.mkdir()
    key = SigningKey(bytes.fromhex((home / "tenant.key").read_text().strip())).public
    coordinator = real_model((home / "bundle.ewb").read_bytes(), (home / "checkpoint.ewc").read_bytes(), key)
    labels = coordinator.manifest.labels
    label = f'{{ dtype = "int32", low = {int(labels.low)}, high = {int(labels.high)} }}'
    with served(coordinator) as address:
        config = write_settings(folder, address, shape=coordinator.manifest.features.shape, labels=label)
        config.write_text(config.read_text().replace("[limits]", "[limits]\ndaily_bytes = 1_000_000_000"))
        add = [sys.executable, "-m", "edge_runtime.cli", "examples", "add", str(home / "examples.f32")]
        subprocess.run([*add, "--config", str(config)], check=True, capture_output=True, cwd=ROOT)
        yield config, coordinator


def _size() -> Row:
    """What the wheel unpacks to; its dependencies are listed apart, as they are installed here."""
    here = ROOT / "edge_runtime"
    ours = sum(path.stat().st_size for path in here.rglob("*") if path.is_file() and path.suffix in (".py", ".typed"))
    listed = [f"{name} {_installed_bytes(name) / MIB:.1f} MiB" for name in (*DEPENDENCIES, "ai-edge-litert")]
    return _bytes_row(
        "edge.size",
        ours,
        SIZE_BYTES,
        f"the files of edge_runtime, without dependencies; installed here: {', '.join(listed)}; limit: 2 MiB",
    )


def _installed_bytes(package: str) -> int:
    files = importlib.metadata.files(package) or []
    return sum(path.stat().st_size for file in files if (path := Path(str(file.locate()))).is_file())


def _bytes_row(id_: str, ours: float, limit: float, how: str) -> Row:
    return Row(
        id=id_,
        ours=round(ours / MIB, 2),
        limit=round(limit / MIB, 2),
        ratio=round(ours / limit, 3),
        bound=1.0,
        unit="MiB",
        how=how,
    )
