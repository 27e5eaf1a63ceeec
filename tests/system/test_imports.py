"""What loading a part of Edgewise brings in, seen from a process of its own."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import edge_runtime.protocol

PROTOCOL = sorted(
    found.name
    for found in pkgutil.walk_packages(edge_runtime.protocol.__path__, prefix="edge_runtime.protocol.")
    if not found.ispkg
)
BIG = {"tensorflow", "torch", "keras", "fastapi", "starlette", "pydantic", "sqlmodel", "sqlalchemy", "opacus", "locust"}


def loaded_by(program: str) -> set[str]:
    """Top-level modules after a program, without those that an empty one has."""
    listing = "\nimport sys, json\nprint(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    found = []
    for text in ("pass", program):
        ended = subprocess.run(
            [sys.executable, "-c", text + listing],
            cwd=Path(__file__).parents[2],
            check=True,
            capture_output=True,
            text=True,
        )
        found.append(set(json.loads(ended.stdout)))
    return found[1] - found[0]


def test_the_protocol_loads_the_standard_library_numpy_and_cryptography_alone() -> None:
    assert len(PROTOCOL) >= 12
    loaded = loaded_by("\n".join(f"import {name}" for name in PROTOCOL))
    foreign = loaded - sys.stdlib_module_names
    parts_of_theirs = {"cffi", "_cffi_backend", "_openssl", "cython_runtime"}
    cython = {name for name in foreign if name.startswith("_cython_")}
    assert foreign - parts_of_theirs - cython == {"edge_runtime", "numpy", "cryptography"}


VISIT = """
import numpy as np
import edge_runtime.driver
from edge_runtime.privacy import private_report
from edge_runtime.protocol import wire
from edge_runtime.protocol.checkin import CheckInAnswer
from edge_runtime.protocol.keys import PublicKey, SigningKey, TrustRoots
from edge_runtime.protocol.report import Receipt
from edge_runtime.protocol.keys import digest
from edge_runtime.session import Response
from edge_runtime.session.visit import Offer, visit
from edge_runtime import examples, model, training
import json, pathlib

frozen = pathlib.Path("tests/vectors/v1")
read = lambda name: json.loads((frozen / name).read_text())
answers = [message["json"] for message in read("messages.json") if message["message"] == "CheckInAnswer"]
answer, = [text.encode() for text in answers if '"retry":null' in text]
roots = TrustRoots(
    tenant=PublicKey(bytes.fromhex(read("bundle.json")["tenant_key"])),
    coordinator=PublicKey(bytes.fromhex(read("checkpoint.json")["coordinator_key"])),
)
asked = []

def send(request, headers):
    asked.append(request.path.split("/")[3])
    if request.path.endswith("check-in"):
        return Response(200, answer)
    if "/bundles/" in request.path:
        return Response(200, bytes.fromhex(read("bundle.json")["right"]["raw"]))
    if "/checkpoints/" in request.path:
        return Response(200, bytes.fromhex(read("checkpoint.json")["right"]["raw"]))
    receipt = Receipt(
        version=1,
        participation=wire.decode(CheckInAnswer, answer).assignment.participation,
        report_sha256=digest(request.body).hex(),
        retry_after_s=1.0,
    )
    return Response(200, wire.encode(receipt))

def train(work):
    delta = np.ones(work.bundle.manifest.shared_parameters, np.float32)
    return private_report(work.participation, delta, work.plan, np.random.default_rng(0))

driver = edge_runtime.driver.Driver(SigningKey(bytes(range(32))), "acme", send)
offer = Offer(tenant="acme", population="keyboard", visit="0" * 32, runtime="none", examples=64)
end = driver.run(visit(offer, roots, {}, train))
assert end.reason == "reported", end
assert asked == ["check-in", "bundles", "checkpoints", "participations"], asked
"""


def test_a_whole_training_visit_loads_no_big_framework() -> None:
    loaded = loaded_by(VISIT)
    assert not loaded & BIG
    assert {"edge_runtime", "httpx"} <= loaded


def test_the_coordinator_loads_no_interpreter_and_no_training() -> None:
    loaded = loaded_by("import coordinator.app, coordinator.cli")
    assert not loaded & {"tensorflow", "torch", "keras", "ai_edge_litert", "tflite_runtime", "httpx", "locust"}
    assert "fastapi" in loaded
