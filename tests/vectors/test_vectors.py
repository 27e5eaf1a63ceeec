"""Frozen bytes: what version 1 looks like, and what it must refuse, by which code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.settings import Settings
from coordinator.store.blobs import BlobKind, FolderBlobs
from edge_runtime.privacy import private_report
from edge_runtime.protocol import errors, reasons, wire
from edge_runtime.protocol.bundle import verify_bundle
from edge_runtime.protocol.checkin import CheckIn
from edge_runtime.protocol.checkpoint import verify_checkpoint
from edge_runtime.protocol.errors import ClockSkew, ContradictedRound, Refusal
from edge_runtime.protocol.header import RoundHeader, SignedRound, sign_header, verify_header
from edge_runtime.protocol.keys import PublicKey, digest
from edge_runtime.protocol.measures import encode_measures
from edge_runtime.protocol.plan import Plan, verify_plan
from edge_runtime.protocol.report import lanes_of_report
from edge_runtime.protocol.secure_sum.lanes import Lanes, LaneVector
from edge_runtime.protocol.signing import claimed, verify_body, verify_request
from tests.vectors import make

Vector = dict[str, Any]


def frozen(name: str) -> Any:
    return json.loads((make.FOLDER / name).read_text())


def wrong(name: str) -> list[Any]:
    return [pytest.param(one, id=one["what"]) for one in frozen(name)["wrong"]]


@pytest.mark.parametrize("name", [name for name, _content in make.vectors()])
def test_what_this_version_writes_is_what_was_frozen(name: str) -> None:
    content = dict(make.vectors())[name]
    assert make.written(content) == (make.FOLDER / name).read_text(), f"{name}: a frozen vector never changes"


def test_every_frozen_file_is_tested() -> None:
    assert {path.name for path in make.FOLDER.iterdir()} == {name for name, _content in make.vectors()}
    assert {path.name for path in make.FOLDER_3.iterdir()} == {name for name, _content in make.vectors_3()}
    assert {path.name for path in make.FOLDER_5.iterdir()} == {name for name, _content in make.vectors_5()}


def frozen_3() -> Any:
    return json.loads((make.FOLDER_3 / "check-in.json").read_text())


def test_what_version_3_writes_is_what_was_frozen() -> None:
    for name, content in make.vectors_3():
        assert make.written(content) == (make.FOLDER_3 / name).read_text(), f"{name}: a frozen vector never changes"


@pytest.mark.parametrize("index", range(len(make.MESSAGES_3)))
def test_a_frozen_message_of_version_3_is_read_and_written_again(index: int) -> None:
    raw, message = frozen_3()["right"][index]["json"].encode(), make.MESSAGES_3[index]
    decoded = wire.decode(type(message), raw)
    assert decoded == message
    assert wire.encode(decoded) == raw
    if isinstance(decoded, CheckIn):
        said = decoded.attributes or {}
        assert {name: type(value) for name, value in said.items()} == {
            name: type(value) for name, value in json.loads(raw)["attributes"].items()
        }, "1 is not true"


@pytest.mark.parametrize("vector", [pytest.param(one, id=one["what"]) for one in frozen_3()["wrong"]])
def test_a_wrong_check_in_of_version_3_is_refused_by_name(vector: Vector) -> None:
    with pytest.raises(Refusal) as refused:
        wire.decode(CheckIn, vector["json"].encode())
    assert refused.value.code == vector["code"]


def test_the_frozen_bundle_is_read() -> None:
    of = frozen("bundle.json")
    raw = bytes.fromhex(of["right"]["raw"])
    bundle = verify_bundle(raw, of["right"]["sha256"], PublicKey(bytes.fromhex(of["tenant_key"])))
    assert (bundle.manifest, bundle.graph) == (make.MANIFEST, make.GRAPH)
    assert (bundle.manifest.parameters, bundle.manifest.shared_parameters) == (9, 6)
    assert bundle.manifest.shared_slices() == (slice(2, 8),)


@pytest.mark.parametrize("vector", wrong("bundle.json"))
def test_a_wrong_bundle_is_refused_by_name(vector: Vector) -> None:
    key = PublicKey(bytes.fromhex(frozen("bundle.json")["tenant_key"]))
    with pytest.raises(Refusal) as refused:
        verify_bundle(bytes.fromhex(vector["raw"]), vector["sha256"], key)
    assert refused.value.code == vector["code"]


def test_the_frozen_checkpoint_is_read() -> None:
    of = frozen("checkpoint.json")
    checkpoint = verify_checkpoint(
        bytes.fromhex(of["right"]["raw"]),
        of["right"]["sha256"],
        PublicKey(bytes.fromhex(of["coordinator_key"])),
        bundle_sha256=of["bundle_sha256"],
        parameters=of["parameters"],
    )
    assert checkpoint.model_version == of["right"]["model_version"]
    assert checkpoint.weights.tolist() == of["right"]["weights"]


@pytest.mark.parametrize("vector", wrong("checkpoint.json"))
def test_a_wrong_checkpoint_is_refused_by_name(vector: Vector) -> None:
    of = frozen("checkpoint.json")
    with pytest.raises(Refusal) as refused:
        verify_checkpoint(
            bytes.fromhex(vector["raw"]),
            vector["sha256"],
            PublicKey(bytes.fromhex(of["coordinator_key"])),
            bundle_sha256=of["bundle_sha256"],
            parameters=of["parameters"],
        )
    assert refused.value.code == vector["code"]


def test_the_frozen_plan_is_read() -> None:
    of = frozen("plan.json")
    raw, signature = bytes.fromhex(of["right"]["raw"]), bytes.fromhex(of["right"]["signature"])
    assert verify_plan(raw, signature, PublicKey(bytes.fromhex(of["tenant_key"]))) == make.PLAN
    raw, signature = bytes.fromhex(of["right_2"]["raw"]), bytes.fromhex(of["right_2"]["signature"])
    assert verify_plan(raw, signature, PublicKey(bytes.fromhex(of["tenant_key"]))) == make.PLAN_2


@pytest.mark.parametrize("vector", wrong("plan.json"))
def test_a_wrong_plan_is_refused_by_name(vector: Vector) -> None:
    key = PublicKey(bytes.fromhex(frozen("plan.json")["tenant_key"]))
    with pytest.raises(Refusal) as refused:
        verify_plan(bytes.fromhex(vector["raw"]), bytes.fromhex(vector["signature"]), key)
    assert refused.value.code == vector["code"]


def plan_3() -> Vector:
    found: Vector = json.loads((make.FOLDER_3 / "plan.json").read_text())
    return found


def test_the_frozen_plan_that_measures_is_read_and_its_report_has_the_values_written_down() -> None:
    of = plan_3()
    raw, signature = bytes.fromhex(of["right"]["raw"]), bytes.fromhex(of["right"]["signature"])
    plan = verify_plan(raw, signature, PublicKey(bytes.fromhex(of["tenant_key"])))
    assert plan == make.PLAN_3
    values = encode_measures(plan, of["measures"]["means"], of["measures"]["examples"])
    assert values.tolist() == of["measures"]["values"] == [0.75, 0.5625, 0.1875]


@pytest.mark.parametrize("vector", [pytest.param(one, id=one["what"]) for one in plan_3()["wrong"]])
def test_a_wrong_plan_that_measures_is_refused_by_name(vector: Vector) -> None:
    key = PublicKey(bytes.fromhex(plan_3()["tenant_key"]))
    with pytest.raises(Refusal) as refused:
        verify_plan(bytes.fromhex(vector["raw"]), bytes.fromhex(vector["signature"]), key)
    assert refused.value.code == vector["code"]


def plan_5() -> Vector:
    found: Vector = json.loads((make.FOLDER_5 / "plan.json").read_text())
    return found


def test_what_version_5_writes_is_what_was_frozen() -> None:
    for name, content in make.vectors_5():
        assert make.written(content) == (make.FOLDER_5 / name).read_text(), f"{name}: a frozen vector never changes"


@pytest.mark.parametrize("name", make.PLANS_5)
def test_a_frozen_plan_of_each_privacy_mode_is_read_and_determines_the_grid_of_its_noise(name: str) -> None:
    key, of = PublicKey(bytes.fromhex(plan_5()["tenant_key"])), plan_5()["right"][name]
    plan = verify_plan(bytes.fromhex(of["raw"]), bytes.fromhex(of["signature"]), key)
    assert plan == make.PLANS_5[name]
    lanes = plan.lanes()
    assert (lanes.scale, lanes.noise, lanes.noise * lanes.scale) == (of["scale"], of["noise"], of["noise_steps"])


def header_5() -> Vector:
    found: Vector = json.loads((make.FOLDER_5 / "round-header.json").read_text())
    return found


def verified_header(of: Vector, signed: Vector) -> RoundHeader:
    message = wire.decode(SignedRound, signed["message"].encode())
    assert (message.header.hex(), message.signature.hex()) == (signed["raw"], signed["signature"])
    raw = bytes.fromhex(of["plan"])
    return verify_header(
        message,
        PublicKey(bytes.fromhex(of["coordinator_key"])),
        wire.decode(Plan, raw),
        plan_sha256=digest(raw).hex(),
        round_=of["round"],
        checkpoint_sha256=of["checkpoint_sha256"],
    )


def test_the_frozen_header_of_a_round_is_read() -> None:
    of = header_5()
    header = verified_header(of, of["right"])
    assert (header.task, header.round, header.clipping_norm) == ("words", 7, 0.75)


@pytest.mark.parametrize("vector", [pytest.param(one, id=one["what"]) for one in header_5()["wrong"]])
def test_a_wrong_header_of_a_round_is_refused_by_name(vector: Vector) -> None:
    with pytest.raises(Refusal) as refused:
        verified_header(header_5(), vector)
    assert refused.value.code == vector["code"]


def test_without_an_adaptive_norm_a_rounds_norm_is_the_plans() -> None:
    plan = make.PLANS_5["central"]
    sha256 = digest(wire.encode(plan)).hex()
    for norm, holds in ((plan.clipping_norm, True), (plan.clipping_norm / 2, False)):
        header = RoundHeader(
            version=1, tenant="acme", task="words", round=1, plan_sha256=sha256, checkpoint_sha256="0" * 64,
            clipping_norm=norm,
        )  # fmt: skip
        signed, key = sign_header(header, make.COORDINATOR_KEY), make.COORDINATOR_KEY.public
        asked = {"plan_sha256": sha256, "checkpoint_sha256": "0" * 64}
        if holds:
            assert verify_header(signed, key, plan, round_=1, **asked) == header
        else:
            with pytest.raises(ContradictedRound, match="clipping norm"):
                verify_header(signed, key, plan, round_=1, **asked)


@pytest.mark.parametrize("vector", [pytest.param(one, id=one["what"]) for one in plan_5()["wrong"]])
def test_a_plan_whose_promises_do_not_hold_is_refused_by_name(vector: Vector) -> None:
    key = PublicKey(bytes.fromhex(plan_5()["tenant_key"]))
    with pytest.raises(Refusal) as refused:
        verify_plan(bytes.fromhex(vector["raw"]), bytes.fromhex(vector["signature"]), key)
    assert refused.value.code == vector["code"]


def frozen_lanes() -> tuple[Vector, Lanes]:
    of = frozen("report.json")
    return of, Lanes(bits=of["lane_bits"], clipping_norm=of["clipping_norm"], max_participants=of["max_participants"])


def received(raw: bytes, of: Vector, lanes: Lanes) -> LaneVector:
    unpacked = lanes.unpack(lanes_of_report(raw, of["participation"], lanes, of["parameters"]), of["parameters"])
    lanes.check_plain(unpacked)
    return unpacked


def test_the_frozen_report_is_what_seed_and_delta_give() -> None:
    of, _lanes = frozen_lanes()
    delta = np.asarray(of["right"]["delta"], np.float32)
    raw = private_report(of["participation"], delta, make.PLAN, np.random.default_rng(of["right"]["seed"]))
    assert raw.hex() == of["right"]["raw"]


def test_the_frozen_report_opens_to_the_clipped_delta() -> None:
    of, lanes = frozen_lanes()
    unpacked = received(bytes.fromhex(of["right"]["raw"]), of, lanes)
    delta = np.asarray(of["right"]["delta"])
    clipped = delta * (lanes.clipping_norm / np.linalg.norm(delta))
    assert np.allclose(lanes.open_sum(unpacked), clipped, atol=1.001 / lanes.scale + 1e-7)


@pytest.mark.parametrize("vector", wrong("report.json"))
def test_a_wrong_report_is_refused_by_name(vector: Vector) -> None:
    of, lanes = frozen_lanes()
    with pytest.raises(Refusal) as refused:
        received(bytes.fromhex(vector["raw"]), of, lanes)
    assert refused.value.code == vector["code"]


def test_the_frozen_request_is_accepted() -> None:
    of = frozen("request.json")
    claim = claimed(of["headers"])
    assert (claim.keyid, claim.created, claim.nonce) == (of["device_id"], of["created"], of["nonce"])
    key = PublicKey(bytes.fromhex(of["device_key"]))
    verify_request(claim, key, of["method"], of["target"], now=of["created"] + 300)
    verify_body(claim, digest(bytes.fromhex(of["body"])))
    with pytest.raises(ClockSkew):
        verify_request(claim, key, of["method"], of["target"], now=of["created"] + 301)


@pytest.mark.parametrize("index", range(len(make.MESSAGES)), ids=[type(message).__name__ for message in make.MESSAGES])
def test_a_frozen_message_is_read_and_written_again(index: int) -> None:
    raw = frozen("messages.json")[index]["json"].encode()
    message = make.MESSAGES[index]
    assert wire.decode(type(message), raw) == message
    assert wire.encode(wire.decode(type(message), raw)) == raw


def test_every_reason_and_refusal_has_a_code_of_its_own() -> None:
    for kind in (reasons.Wait, reasons.Outcome, reasons.Abandonment):
        assert frozen("reasons.json")[kind.__name__] == {member.name: member.value for member in kind}
    classes = [one for one in errors._all_subclasses(Refusal) if one.__module__ == errors.__name__]
    assert len({one.code for one in classes}) == len(classes) == len(frozen("refusals.json"))


def test_every_setting_has_its_frozen_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in frozen("settings.json"):
        monkeypatch.delenv(name, raising=False)
    settings = Settings().model_dump()
    found = {f"EDGEWISE_{name.upper()}": None if value is None else str(value) for name, value in settings.items()}
    assert found == frozen("settings.json")


def test_every_setting_is_read_from_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"DATA_DIR": "/d", "DATABASE_URL": "sqlite://", "BLOB_DIR": "/b", "HOST": "::1", "PORT": "1"}
    given |= {"WORKER_INTERVAL_S": "2.5", "HOLD_S": "3.5", "CHUNK_REPORTS": "4", "FREE_DISK_BYTES": "5"}
    given |= {"DATABASE_CONNECTIONS": "6", "AUTHORITY_KEY_FILE": "/a", "BLOB_URL": "s3://b", "LEASE_S": "7.5"}
    given |= {"CHECK_INS_PER_S": "8.5", "MOST_WAITING": "9", "DRAIN_S": "10.5", "KEEP_ROUNDS_DAYS": "11.5"}
    given |= {"SWEEP_AFTER_S": "1200.5", "LOG_FORM": "json", "LOG_LEVEL": "error", "ACCESS_LOG": "all"}
    given |= {"METRICS_TOKEN": "t", "SMALLEST_COHORT": "12", "SECOND_OPINION": "never"}
    assert {f"EDGEWISE_{name}" for name in given} == set(frozen("settings.json"))
    for name, value in given.items():
        monkeypatch.setenv(f"EDGEWISE_{name}", value)
    assert {name.upper(): str(value) for name, value in Settings().model_dump().items()} == given


@pytest.mark.parametrize("kind", list(BlobKind))
def test_a_blob_lies_under_tenant_kind_and_digest(kind: BlobKind) -> None:
    (of,) = [one for one in frozen("blob-keys.json") if one["kind"] == kind.name]
    assert str(FolderBlobs(Path("/blobs"), 0).path(of["tenant"], kind, of["sha256"])) == f"/blobs/{of['key']}"
    assert of["key"] == f"{of['tenant']}/{kind.value}/{of['sha256']}"


def test_the_frozen_reports_under_an_adaptive_norm_open_to_what_they_say() -> None:
    """By whole numbers: lanes of three bytes, the delta's first, then the count's, then the four zero ones."""
    of = json.loads((make.FOLDER_5 / "counted.json").read_text())
    lanes = [list(_three_bytes(bytes.fromhex(one["raw"])[32:])) for one in of["reports"].values()]
    total = [sum(column) for column in zip(*lanes, strict=True)]
    signed = [(one + (1 << 23)) % (1 << 24) - (1 << 23) for one in total]
    *delta, count = signed[:-4]
    assert signed[-4:] == [0, 0, 0, 0]
    assert np.allclose(np.array(delta) / of["delta"]["scale"], of["opened"]["delta"], rtol=1e-12)
    assert count / of["count"]["scale"] == pytest.approx(of["opened"]["above"], rel=1e-12)


def _three_bytes(raw: bytes) -> Iterator[int]:
    for at in range(0, len(raw), 3):
        yield int.from_bytes(raw[at : at + 3], "little")
