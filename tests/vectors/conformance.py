"""Check a device of any language against the vectors: `python -m tests.vectors.conformance -- COMMAND ...`.

The command reads questions from its standard input, a JSON object a line, and writes an answer for each, a line each,
in order; docs/protocol/conformance.md says what each question asks. A signature is checked with its public key and
not by its bytes: some systems' Ed25519 is not deterministic.
"""

from __future__ import annotations

import argparse
import base64
import json
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np

from edge_runtime.protocol import signing
from edge_runtime.protocol.errors import UntrustedDocument
from edge_runtime.protocol.keys import PublicKey, SigningKey, digest

FOLDER: Final = Path(__file__).parent / "v1"
TIMEOUT_S: Final = 120.0

Answer: TypeAlias = dict[str, Any]

FLOATS: Final = (
    0.0, -0.0, 1.0, -1.5, 0.1, 1 / 3, 599.5, 2592000.0, 1e15, 123456789012345.6, 1e16, 1e22, 1.5e300, 0.0001, 0.00001,
    1.5e-7, 5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, 9007199254740993.0,
)  # fmt: skip
"""Numbers whose shortest text languages disagree about."""


@dataclass(frozen=True, slots=True)
class Question:
    """One line to a port, and what is wrong with an answer.

    Attributes:
        name: For people.
        vector: What is asked; docs/protocol/conformance.md lists them.
        wrong: A sentence on the mistake, or None if the answer is right.
    """

    name: str
    vector: str
    input: dict[str, Any]
    wrong: Callable[[Answer], str | None]


@dataclass(frozen=True, slots=True)
class Mistake:
    """A question that a port answered wrongly."""

    question: Question
    sentence: str


class PortFailed(Exception):
    """The command did not answer every question with a line of JSON."""


def mistakes(command: Sequence[str], asked: Sequence[Question]) -> list[Mistake]:
    """Ask a port, and return what it got wrong.

    Raises:
        PortFailed: It ended badly, took too long, or did not answer each question with one line of JSON.
    """
    lines = [json.dumps({"vector": one.vector, "input": one.input}) for one in asked]
    try:
        done = subprocess.run(
            list(command), input="\n".join(lines) + "\n", stdout=subprocess.PIPE, text=True, timeout=TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise PortFailed(f"the port did not run: {problem}") from problem
    answers = done.stdout.splitlines()
    if done.returncode or len(answers) != len(asked):
        raise PortFailed(f"status {done.returncode}, {len(answers)} answers to {len(asked)} questions")
    return [
        Mistake(question, sentence)
        for question, line in zip(asked, answers, strict=True)
        if (sentence := question.wrong(_parsed(line))) is not None
    ]


def _parsed(line: str) -> Answer:
    try:
        answer = json.loads(line)
    except ValueError:
        raise PortFailed(f"not a line of JSON: {line[:80]!r}") from None
    if not isinstance(answer, dict):
        raise PortFailed(f"not a JSON object: {line[:80]!r}")
    return answer


def questions() -> list[Question]:
    """Every question, from every frozen vector that a device can be asked about."""
    parts = (_bundles, _checkpoints, _plans, _reports, _requests, _device_ids, _messages, _floats)
    return [question for part in parts for question in part()]


def _bundles() -> Iterator[Question]:
    of = _frozen("bundle.json")
    right = of["right"]
    raw = bytes.fromhex(right["raw"])
    manifest_bytes = struct.unpack_from("<I", raw, 8)[0]
    expected = {"manifest": raw[20 : 20 + manifest_bytes].decode(), "parameters": 9, "shared_parameters": 6}
    key = {"tenant_key": of["tenant_key"]}
    yield Question("a right bundle", "bundle.verify", {**key, **right}, _equals(expected))
    for one in of["wrong"]:
        given = {**key, "raw": one["raw"], "sha256": one["sha256"]}
        yield Question(f"a bundle: {one['what']}", "bundle.verify", given, _refused(one["code"]))


def _checkpoints() -> Iterator[Question]:
    of = _frozen("checkpoint.json")
    shared = {name: of[name] for name in ("coordinator_key", "bundle_sha256", "parameters")}
    right = of["right"]
    weights = np.asarray(right["weights"], "<f4").tobytes().hex()
    expected = {"model_version": right["model_version"], "weights": weights}
    given = {**shared, "raw": right["raw"], "sha256": right["sha256"]}
    yield Question("a right checkpoint", "checkpoint.verify", given, _equals(expected))
    for one in of["wrong"]:
        given = {**shared, "raw": one["raw"], "sha256": one["sha256"]}
        yield Question(f"a checkpoint: {one['what']}", "checkpoint.verify", given, _refused(one["code"]))


def _plans() -> Iterator[Question]:
    of = _frozen("plan.json")
    key = {"tenant_key": of["tenant_key"]}
    expected = {"plan": bytes.fromhex(of["right"]["raw"]).decode()}
    yield Question("a right plan", "plan.verify", {**key, **of["right"]}, _equals(expected))
    for one in of["wrong"]:
        given = {**key, "raw": one["raw"], "signature": one["signature"]}
        yield Question(f"a plan: {one['what']}", "plan.verify", given, _refused(one["code"]))


def _reports() -> Iterator[Question]:
    of = _frozen("report.json")
    names = ("participation", "lane_bits", "clipping_norm", "max_participants", "parameters")
    shared = {name: of[name] for name in names}
    right = of["right"]
    draws = np.random.default_rng(right["seed"]).random(of["parameters"]).tolist()
    given = {**shared, "delta": right["delta"], "draws": draws}
    yield Question("a report is written", "report.write", given, _equals({"raw": right["raw"]}))
    lanes = np.frombuffer(bytes.fromhex(right["raw"]), "<i4", of["parameters"] + 4, 32).tolist()
    given = {**shared, "raw": right["raw"]}
    yield Question("a right report", "report.open", given, _equals({"lanes": lanes}))
    for one in of["wrong"]:
        given = {**shared, "raw": one["raw"]}
        yield Question(f"a report: {one['what']}", "report.open", given, _refused(one["code"]))


def _requests() -> Iterator[Question]:
    of = _frozen("request.json")
    key = SigningKey(digest(b"device key of the vectors"))
    for target, body in ((of["target"], of["body"]), ("/v1/device/release", ""), ("/v1/device/check-in?", "7b7d")):
        given = {name: of[name] for name in ("device_id", "method", "created", "nonce")}
        given |= {"target": target, "body": body, "private_key": key.raw.hex()}
        yield Question(f"a request to {target}", "request.sign", given, _signs(given, key.public))


def _device_ids() -> Iterator[Question]:
    of = _frozen("request.json")
    given = {"tenant": "acme", "public_key": of["device_key"]}
    yield Question("a device id", "device.id", given, _equals({"device_id": of["device_id"]}))


def _messages() -> Iterator[Question]:
    for number, one in enumerate(_frozen("messages.json")):
        kind, text = one["message"], one["json"]
        name = f"{kind} ({number})"
        tree = json.loads(text)

        def ask(what: str, changed: str, wrong: Callable[[Answer], str | None], of: str = kind) -> Question:
            return Question(what, "message.rewrite", {"message": of, "json": changed}, wrong)

        yield ask(f"{name} as it is", text, _equals({"json": text}))
        loose = json.dumps(dict(reversed(list(tree.items()))), indent=2, ensure_ascii=False)
        yield ask(f"{name} in another order, with spaces", loose, _equals({"json": text}))
        yield ask(f"{name} with an unknown key", _json({**tree, "zz": 1}), _refused("malformed"))
        yield ask(f"{name} with a repeated key", _repeated(text), _refused("malformed"))
        yield ask(f"{name} cut short", text[:-1], _refused("malformed"))
        yield ask(f"{name} with bytes after the end", text + "{}", _refused("malformed"))
        lacking = {key: value for key, value in tree.items() if key != min(tree)}
        yield ask(f"{name} without its first key", _json(lacking), _refused("malformed"))
        if "version" in tree:
            later = {**tree, "version": 99}
            yield ask(f"{name} of a later version", _json(later), _refused("unsupported-version"))
            yield ask(f"{name} whose version is text", _json({**tree, "version": "1"}), _refused("malformed"))


def _json(tree: object) -> str:
    return json.dumps(tree, sort_keys=True, separators=(",", ":"))


def _repeated(text: str) -> str:
    """The object with its first member twice."""
    _value, end = json.JSONDecoder().raw_decode(text, text.index(":") + 1)
    return "{" + text[1:end] + "," + text[1:]


def _floats() -> Iterator[Question]:
    for number in FLOATS:
        given = {"bits": struct.pack(">d", number).hex()}
        yield Question(f"the number {number!r}", "float.write", given, _equals({"text": repr(number)}))


def _equals(expected: Answer) -> Callable[[Answer], str | None]:
    def wrong(answer: Answer) -> str | None:
        found = answer.get("ok")
        return None if found == expected else f"expected {_short(expected)}, found {_short(answer)}"

    return wrong


def _refused(code: str) -> Callable[[Answer], str | None]:
    def wrong(answer: Answer) -> str | None:
        return None if answer == {"refused": code} else f"expected a refusal by {code}, found {_short(answer)}"

    return wrong


def _signs(given: dict[str, Any], key: PublicKey) -> Callable[[Answer], str | None]:
    """The two headers that name things are compared, the third is verified."""
    body = bytes.fromhex(given["body"])
    created, nonce = given["created"], bytes.fromhex(given["nonce"])
    expected = signing.sign_request(
        SigningKey(bytes.fromhex(given["private_key"])),
        given["device_id"],
        given["method"],
        given["target"],
        body,
        created=created,
        nonce=nonce,
    )

    def wrong(answer: Answer) -> str | None:
        headers = answer.get("ok", {})
        for name in ("content-digest", "signature-input"):
            if headers.get(name) != expected[name]:
                return f"{name}: expected {expected[name]}, found {headers.get(name)}"
        base = signing._base(
            given["method"],
            given["target"],
            expected["content-digest"],
            expected["signature-input"][len("edgewise=") :],
        )
        try:
            text = str(headers.get("signature", ""))
            key.verify(base64.b64decode(text.removeprefix("edgewise=:").removesuffix(":"), validate=True), base)
        except (UntrustedDocument, ValueError):
            return f"the signature is not one of these bytes: {base.decode()!r}"
        return None

    return wrong


def _frozen(name: str) -> Any:
    return json.loads((FOLDER / name).read_text())


def _short(answer: object) -> str:
    text = json.dumps(answer)
    return text if len(text) <= 200 else f"{text[:200]}…"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print every mistake and the count; 0 if there is none."""
    parser = argparse.ArgumentParser(prog="python -m tests.vectors.conformance", description=__doc__)
    parser.add_argument("--only", default="", help="the vectors to ask about, with commas between: bundle.verify,...")
    parser.add_argument("command", nargs="+", help="what starts the port, after a lone --")
    chosen = parser.parse_args(arguments)
    only = set(filter(None, chosen.only.split(",")))
    asked = [one for one in questions() if not only or one.vector in only]
    if unknown := only - {one.vector for one in asked}:
        parser.error(f"there is no vector {', '.join(sorted(unknown))}")
    try:
        found = mistakes(chosen.command, asked)
    except PortFailed as problem:
        print(f"conformance: {problem}")
        return 1
    for mistake in found:
        print(f"{mistake.question.vector}, {mistake.question.name}: {mistake.sentence}")
    print(f"conformance: {len(asked)} questions, {len(found)} answered wrongly")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
