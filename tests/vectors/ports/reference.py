"""The Python device as a port: what `tests.vectors.conformance` asks, answered by `edge_runtime.protocol`."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, Final

import numpy as np

from edge_runtime.privacy import clip
from edge_runtime.protocol import bundle, checkin, enrolment, plan, policy, release, report, wire
from edge_runtime.protocol.bundle import verify_bundle
from edge_runtime.protocol.checkpoint import verify_checkpoint
from edge_runtime.protocol.errors import Refusal
from edge_runtime.protocol.keys import PublicKey, SigningKey, device_id
from edge_runtime.protocol.plan import verify_plan
from edge_runtime.protocol.report import encode_report, lanes_of_report
from edge_runtime.protocol.secure_sum.lanes import Lanes
from edge_runtime.protocol.signing import sign_request

Input = Mapping[str, Any]

FAMILIES: Final[tuple[ModuleType, ...]] = (bundle, checkin, enrolment, plan, policy, release, report)


class Draws:
    """Stands where a generator is expected, and gives the numbers of the question."""

    def __init__(self, values: list[float]) -> None:
        self._values = values

    def random(self, shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float64]]:
        return np.asarray(self._values, np.float64).reshape(shape)


def bundle_verify(given: Input) -> dict[str, Any]:
    key = PublicKey(bytes.fromhex(given["tenant_key"]))
    manifest = verify_bundle(bytes.fromhex(given["raw"]), given["sha256"], key).manifest
    return {
        "manifest": wire.encode(manifest).decode(),
        "parameters": manifest.parameters,
        "shared_parameters": manifest.shared_parameters,
    }


def checkpoint_verify(given: Input) -> dict[str, Any]:
    key = PublicKey(bytes.fromhex(given["coordinator_key"]))
    found = verify_checkpoint(
        bytes.fromhex(given["raw"]),
        given["sha256"],
        key,
        bundle_sha256=given["bundle_sha256"],
        parameters=given["parameters"],
    )
    return {"model_version": found.model_version, "weights": found.weights.astype("<f4").tobytes().hex()}


def plan_verify(given: Input) -> dict[str, Any]:
    key = PublicKey(bytes.fromhex(given["tenant_key"]))
    found = verify_plan(bytes.fromhex(given["raw"]), bytes.fromhex(given["signature"]), key)
    return {"plan": wire.encode(found).decode()}


def report_write(given: Input) -> dict[str, Any]:
    clipped = clip(np.asarray(given["delta"], np.float32), given["clipping_norm"])
    packed = _lanes(given).pack(clipped, Draws(given["draws"]))  # type: ignore[arg-type]
    return {"raw": encode_report(given["participation"], _lanes(given), packed).hex()}


def report_open(given: Input) -> dict[str, Any]:
    lanes, parameters = _lanes(given), given["parameters"]
    found = lanes.unpack(
        lanes_of_report(bytes.fromhex(given["raw"]), given["participation"], lanes, parameters), parameters
    )
    lanes.check_plain(found)
    return {"lanes": found.view(np.int32).tolist()}


def _lanes(given: Input) -> Lanes:
    return Lanes(given["lane_bits"], given["clipping_norm"], given["max_participants"])


def request_sign(given: Input) -> dict[str, Any]:
    key, nonce = SigningKey(bytes.fromhex(given["private_key"])), bytes.fromhex(given["nonce"])
    body, created = bytes.fromhex(given["body"]), given["created"]
    return dict(
        sign_request(key, given["device_id"], given["method"], given["target"], body, created=created, nonce=nonce)
    )


def device_id_of(given: Input) -> dict[str, Any]:
    return {"device_id": device_id(given["tenant"], PublicKey(bytes.fromhex(given["public_key"])))}


def message_rewrite(given: Input) -> dict[str, Any]:
    kind = next(getattr(family, given["message"]) for family in FAMILIES if hasattr(family, given["message"]))
    return {"json": wire.encode(wire.decode(kind, given["json"].encode())).decode()}


def float_write(given: Input) -> dict[str, Any]:
    (number,) = struct.unpack(">d", bytes.fromhex(given["bits"]))
    return {"text": json.dumps(number)}


ANSWERS: Final[Mapping[str, Callable[[Input], dict[str, Any]]]] = {
    "bundle.verify": bundle_verify,
    "checkpoint.verify": checkpoint_verify,
    "device.id": device_id_of,
    "float.write": float_write,
    "message.rewrite": message_rewrite,
    "plan.verify": plan_verify,
    "report.open": report_open,
    "report.write": report_write,
    "request.sign": request_sign,
}


def answer(question: Mapping[str, Any]) -> dict[str, Any]:
    """What a port says to one question."""
    try:
        return {"ok": ANSWERS[question["vector"]](question["input"])}
    except Refusal as refused:
        return {"refused": refused.code}


def main() -> None:
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))))


if __name__ == "__main__":
    main()
