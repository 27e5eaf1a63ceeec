"""Control messages: one encoding, and nothing but a refusal for anything else."""

from __future__ import annotations

import base64
import functools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.protocol import wire
from edge_runtime.protocol.bundle import (
    DefaultPlan,
    Input,
    Manifest,
    Measured,
    Operator,
    Output,
    Role,
    Schema,
    Tensor,
)
from edge_runtime.protocol.checkin import Assignment, CheckIn, CheckInAnswer, RetryWindow
from edge_runtime.protocol.enrolment import LONGEST_DELAY_S, Enrol, Enrolled, Evidence, Problem
from edge_runtime.protocol.errors import Malformed, Refusal, UnsupportedVersion
from edge_runtime.protocol.plan import Close, Plan, Privacy, Summing
from edge_runtime.protocol.policy import Policy
from edge_runtime.protocol.reasons import Outcome, Wait
from edge_runtime.protocol.release import Released, ReleaseQuery
from edge_runtime.protocol.report import Costs, OutcomeNote, OutcomeNoted, Receipt
from tests.vectors.make import MESSAGES, MESSAGES_3

hexadecimal = st.binary(min_size=32, max_size=32).map(bytes.hex)
ids = st.binary(min_size=16, max_size=16).map(bytes.hex)
names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True)
labels = st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1, max_size=128)
codes = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}", fullmatch=True)
texts = st.text(st.characters(codec="utf-8"), max_size=40)
delays = st.floats(0, LONGEST_DELAY_S)
amounts = st.floats(1e-6, 1000)
counts = st.integers(1, 1000)


def _plans() -> st.SearchStrategy[Plan]:
    return st.builds(
        Plan,
        version=st.just(1),
        tenant=names,
        population=names,
        bundle_sha256=hexadecimal,
        epochs=counts,
        batch_size=counts,
        learning_rate=amounts,
        proximal_mu=amounts,
        clipping_norm=amounts,
        lane_bits=st.just(32),
        expected_participants=counts,
        max_participants=st.integers(1000, 1 << 23),
        goal=st.integers(500, 1000),
        min_reports=st.integers(1, 500),
        close=st.sampled_from(Close),
        summing=st.just(Summing.PLAIN),
        privacy=st.just(Privacy.NONE),
        min_examples=counts,
        time_limit_s=st.floats(1, 86400),
    )


def _manifests() -> st.SearchStrategy[Manifest]:
    shapes = st.lists(st.integers(1, 100), max_size=3).map(tuple)
    tensors = st.builds(Tensor, name=labels, shape=shapes, trainable=st.booleans(), role=st.sampled_from(Role))
    inputs = st.builds(Input, name=labels, shape=shapes)
    outputs = st.builds(Output, name=labels, shape=shapes)
    return st.builds(
        _manifest,
        inputs=st.lists(inputs, min_size=1, max_size=3, unique_by=_name).map(tuple),
        class_names=st.lists(texts, max_size=4).filter(lambda names: len(names) != 1).map(tuple),
        low=st.floats(-5, 0),
        high=st.floats(1, 5),
        version=st.just(2),
        name=texts,
        graph_sha256=hexadecimal,
        tensors=st.lists(tensors, min_size=1, max_size=4, unique_by=_name).map(tuple),
        slots=st.lists(tensors, max_size=4, unique_by=_name).map(tuple),
        outputs=st.lists(outputs, min_size=1, max_size=3, unique_by=_name).map(tuple),
        loss=texts,
        metrics=st.sets(st.sampled_from(["correct", "absolute_error", "squared_error"])).map(sorted).map(tuple),
        optimizer=texts,
        proximal=st.booleans(),
        seeded=st.booleans(),
        batch_size=counts,
        dynamic_batch=st.booleans(),
        default_plan=st.builds(DefaultPlan, epochs=counts, batch_size=counts, learning_rate=amounts),
        measured=st.none()
        | st.builds(Measured, runtime=texts, step_ms=st.floats(0, 1e6), peak_memory_bytes=st.integers(0, 1 << 40)),
        signatures=st.lists(texts, max_size=3).map(tuple),
        operators=st.lists(st.builds(Operator, name=texts, version=counts), max_size=3).map(tuple),
        minimum_runtime=texts,
        exporter=texts,
    )


def _name(of: Tensor | Input | Output) -> str:
    return of.name


def _manifest(
    inputs: tuple[Input, ...], class_names: tuple[str, ...], low: float, high: float, **others: Any
) -> Manifest:
    """Whose features are the inputs side by side, and whose labels are the classes, or numbers if there are none."""
    features = Schema(shape=(sum(one.size for one in inputs),), dtype="float32", low=low, high=high)
    numbers = Schema(shape=(2,), dtype="float32", low=low, high=high)
    classes = Schema(shape=(), dtype="int32", low=0, high=max(1, len(class_names) - 1))
    return Manifest(
        inputs=inputs,
        class_names=class_names,
        features=features,
        labels=classes if class_names else numbers,
        **others,
    )


assignments = st.builds(
    Assignment,
    participation=ids,
    round=counts,
    plan=st.binary(max_size=50),
    plan_signature=st.binary(min_size=64, max_size=64),
    checkpoint_sha256=hexadecimal,
    deadline_s=delays,
)
windows = st.builds(RetryWindow, reason=st.sampled_from(Wait), after_s=delays, spread_s=delays)
one = st.just(1)
messages: st.SearchStrategy[object] = st.one_of(
    _plans(),
    _manifests(),
    st.builds(
        Enrol,
        version=one,
        tenant=names,
        population=names,
        public_key=st.binary(min_size=32, max_size=32),
        app=labels,
        app_version=labels,
        platform=labels,
        evidence=st.sampled_from(Evidence),
    ),
    st.builds(Enrolled, version=one, device_id=ids, retry_after_s=delays),
    st.builds(
        CheckIn,
        version=one,
        population=names,
        visit=ids,
        runtime=labels,
        examples=st.integers(0, 62).map(lambda power: 1 << power),
    ),
    st.builds(
        CheckIn,
        version=st.just(3),
        population=names,
        visit=ids,
        runtime=labels,
        examples=st.just(64),
        app_version=labels,
        platform=labels,
        region=st.none() | codes,
        hardware_class=st.none() | codes,
        attributes=st.dictionaries(
            st.from_regex(r"[a-z][a-z0-9_]{0,31}", fullmatch=True),
            st.booleans()
            | st.integers(1 - (1 << 53), (1 << 53) - 1)
            | st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1, max_size=64),
            max_size=5,
        ),
    ),
    st.builds(CheckInAnswer, version=one, assignment=assignments, retry=st.none()),
    st.builds(CheckInAnswer, version=one, assignment=st.none(), retry=windows),
    st.builds(Receipt, version=one, participation=ids, report_sha256=hexadecimal, retry_after_s=delays),
    st.builds(OutcomeNote, version=one, reason=st.sampled_from(Outcome)),
    st.builds(OutcomeNoted, version=one, retry_after_s=delays),
    st.builds(ReleaseQuery, version=one, population=names, held_sha256=st.none() | hexadecimal),
    st.builds(
        Released,
        version=one,
        bundle_sha256=hexadecimal,
        checkpoint_sha256=hexadecimal,
        model_version=st.integers(0, 1 << 53),
        final=st.booleans(),
    ),
    st.builds(
        Problem,
        type=texts,
        title=texts,
        status=counts,
        detail=texts,
        code=texts,
        retry=texts,
        retry_after_s=st.none() | delays,
        server_time=st.integers(0, 1 << 40),
    ),
)


@given(message=messages)
def test_every_message_comes_back_as_it_was_sent(message: object) -> None:
    raw = wire.encode(message)
    decoded = wire.decode(type(message), raw)
    assert decoded == message
    assert wire.encode(decoded) == raw


@dataclass(frozen=True, slots=True, kw_only=True)
class Small:
    VERSION: ClassVar[int] = 1
    version: int
    count: int
    share: float
    open: bool
    name: str
    raw: bytes
    maybe: float | None


SMALL = Small(version=1, count=2, share=0.5, open=True, name="a", raw=b"\x00\x01", maybe=None)


def small(**changes: str) -> bytes:
    """The JSON of `SMALL` with some values replaced by JSON texts."""
    values = {"version": "1", "count": "2", "share": "0.5", "open": "true", "name": '"a"', "raw": '"AAE="'}
    values |= {"maybe": "null", **changes}
    return ("{" + ",".join(f'"{key}":{value}' for key, value in values.items()) + "}").encode()


def test_the_small_message_is_read() -> None:
    assert wire.decode(Small, small()) == SMALL


def test_equal_values_have_equal_bytes() -> None:
    whole = Small(version=1, count=2, share=3.0, open=True, name="", raw=b"", maybe=4.0)
    given_as_integers = Small(version=1, count=2, share=3, open=True, name="", raw=b"", maybe=4)
    assert whole == given_as_integers
    assert wire.encode(whole) == wire.encode(given_as_integers)


def test_a_float_may_be_written_without_a_fraction() -> None:
    share = wire.decode(Small, small(share="3")).share
    assert (share, type(share)) == (3.0, float)


def test_not_a_number_is_never_written() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        wire.encode(Small(version=1, count=1, share=math.nan, open=True, name="", raw=b"", maybe=None))


@pytest.mark.parametrize(
    ("what", "raw"),
    [
        ("nothing", b""),
        ("not JSON", b"{"),
        ("a list", b"[]"),
        ("null", b"null"),
        ("two messages", small() + small()),
        ("trailing bytes", small() + b"\0"),
        ("a byte order mark", b"\xef\xbb\xbf" + small()),
        ("not UTF-8", small().replace(b'"a"', b'"\xff"')),
        ("UTF-16", small().decode().encode("utf-16")),
        ("an unknown key", small(extra="1")),
        ("a repeated key", small()[:-1] + b',"count":2}'),
        ("a missing key", small().replace(b'"count":2,', b"")),
        ("NaN", small(share="NaN")),
        ("infinity", small(share="Infinity")),
        ("minus infinity", small(share="-Infinity")),
        ("a number beyond floats", small(share="1e999")),
        ("an integer beyond floats", small(share="1" + "0" * 400)),
        ("an integer of 5000 digits", small(count="1" * 5000)),
        ("an integer of 64 bits", small(count=str(1 << 63))),
        ("a negative integer of 64 bits", small(count=str(-(1 << 63)))),
        ("a boolean for an integer", small(count="true")),
        ("a float for an integer", small(count="2.0")),
        ("text for an integer", small(count='"2"')),
        ("an integer for a boolean", small(open="1")),
        ("null for a boolean", small(open="null")),
        ("text for a float", small(share='"0.5"')),
        ("a boolean for a float", small(share="true")),
        ("a number for text", small(name="1")),
        ("null for text", small(name="null")),
        ("half a surrogate pair", small(name='"\\ud800"')),
        ("the other half", small(name='"\\udfff\\ud800"')),
        ("a list for bytes", small(raw="[0,1]")),
        ("base64 without its padding", small(raw='"AAE"')),
        ("base64 in a second spelling", small(raw='"AAF="')),
        ("base64 with a line end", small(raw='"AAE=\\n"')),
        ("base64 for the web", small(raw='"__8="')),
        ("base64 in other letters", small(raw='"ÄÄE="')),
        ("deep nesting", b"[" * 100_000),
        ("deep nesting of objects", b'{"version":' * 50_000),
        ("deep nesting in the version", small(version="[" * 900 + "]" * 900)),
        ("a version that is true", small(version="true")),
        ("a version that is a fraction", small(version="1.0")),
        ("a version that is text", small(version='"1"')),
        ("a huge body", small(name='"' + "a" * wire.MESSAGE_LIMIT_BYTES + '"')),
    ],
)
def test_what_is_not_exactly_one_message_is_malformed(what: str, raw: bytes) -> None:
    with pytest.raises(Malformed) as refused:
        wire.decode(Small, raw)
    assert refused.value.code == "malformed"
    assert len(refused.value.detail) < 1000, what


@pytest.mark.parametrize("version", [0, 2, -1, 1 << 40])
def test_another_version_is_refused_before_its_content(version: int) -> None:
    with pytest.raises(UnsupportedVersion):
        wire.decode(Small, json.dumps({"version": version, "new": []}).encode())


def test_a_unicode_text_is_taken_as_it_is() -> None:
    assert wire.decode(Small, small(name='"\\ud83d\\ude00 ß"')).name == "😀 ß"


def test_the_largest_integers_are_taken() -> None:
    assert wire.decode(Small, small(count=str((1 << 63) - 1))).count == (1 << 63) - 1


def test_a_quoted_key_is_quoted_in_part() -> None:
    with pytest.raises(Malformed, match="unknown key") as refused:
        wire.decode(Small, small(**{"k" * 10_000: "1"}))
    assert len(refused.value.detail) < 200


def read_or_refused(kind: type, raw: bytes) -> object:
    """The message, or the code of the refusal."""
    try:
        return wire.decode(kind, raw)
    except Refusal as refusal:
        return refusal.code


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


def _spots(tree: Any) -> list[Callable[[Any], None]]:
    """A setter for every place of a JSON tree."""
    spots: list[Callable[[Any], None]] = []
    if isinstance(tree, dict | list):
        keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
        for key in keys:
            spots.append(functools.partial(tree.__setitem__, key))
            spots.extend(_spots(tree[key]))
    return spots


@settings(max_examples=40)
@given(data=st.data())
@pytest.mark.parametrize("message", MESSAGES, ids=[type(message).__name__ for message in MESSAGES])
def test_a_changed_message_is_read_or_refused_and_never_breaks(message: object, data: st.DataObject) -> None:
    tree = json.loads(wire.encode(message))
    data.draw(st.sampled_from(_spots(tree)))(data.draw(ANYTHING))
    if data.draw(st.booleans()):
        tree[data.draw(st.text(max_size=8))] = data.draw(ANYTHING)
    answer = read_or_refused(type(message), json.dumps(tree).encode())
    if isinstance(answer, str):
        assert answer in ("malformed", "unsupported-version", "invalid-plan")
    else:
        assert wire.decode(type(message), wire.encode(answer)) == answer


@settings(max_examples=40)
@given(data=st.data())
@pytest.mark.parametrize("message", MESSAGES, ids=[type(message).__name__ for message in MESSAGES])
def test_changed_bytes_are_read_or_refused_and_never_break(message: object, data: st.DataObject) -> None:
    raw = bytearray(wire.encode(message))
    for _change in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(raw) - 1))
        raw[position : position + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
        if not raw:
            break
    answer = read_or_refused(type(message), bytes(raw))
    assert type(answer) is type(message) or answer in ("malformed", "unsupported-version", "invalid-plan")


SLOT = {"name": "momentum", "role": "base", "shape": [2], "trainable": False}


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (CheckIn, {"population": "Capital"}),
        (CheckIn, {"population": "a\n"}),
        (CheckIn, {"population": "x" * 65}),
        (CheckIn, {"visit": "0" * 31}),
        (CheckIn, {"visit": "G" * 32}),
        (CheckIn, {"runtime": ""}),
        (CheckIn, {"runtime": "a\x00b"}),
        (CheckIn, {"examples": 3}),
        (CheckIn, {"examples": -1}),
        (Enrol, {"tenant": "../acme"}),
        (Enrol, {"public_key": base64.b64encode(b"short").decode()}),
        (Enrol, {"app": "x" * 129}),
        (Enrol, {"platform": "line\nline"}),
        (Enrol, {"evidence": "trust-me"}),
        (Enrolled, {"device_id": "../../etc"}),
        (Enrolled, {"retry_after_s": -1.0}),
        (Receipt, {"participation": "x"}),
        (Receipt, {"retry_after_s": LONGEST_DELAY_S + 1.0}),
        (Receipt, {"report_sha256": "0" * 63}),
        (OutcomeNote, {"reason": "bored"}),
        (OutcomeNoted, {"retry_after_s": -0.5}),
        (ReleaseQuery, {"held_sha256": "none"}),
        (Released, {"checkpoint_sha256": "../x"}),
        (Released, {"bundle_sha256": ""}),
        (Released, {"model_version": -1}),
        (Manifest, {"tensors": []}),
        (Manifest, {"slots": [SLOT, SLOT]}),
        (Manifest, {"class_names": ["one"]}),
        (Manifest, {"class_names": ["no", "yes", "perhaps"]}),
        (Manifest, {"labels": {"dtype": "int32", "low": 0.0, "high": 0.5, "shape": []}}),
        (Manifest, {"labels": {"dtype": "int32", "low": 1.0, "high": 1.0, "shape": []}}),
        (Manifest, {"labels": {"dtype": "float64", "low": 0.0, "high": 1.0, "shape": []}}),
        (Manifest, {"labels": {"dtype": "float32", "low": 0.0, "high": 1.0, "shape": [0]}}),
        (Manifest, {"inputs": []}),
        (Manifest, {"inputs": [{"name": "x", "shape": [4]}]}),
        (Manifest, {"inputs": [{"name": "", "shape": [3]}]}),
        (Manifest, {"inputs": [{"name": "a", "shape": [2]}, {"name": "a", "shape": []}]}),
        (Manifest, {"outputs": []}),
        (Manifest, {"outputs": [{"name": "y", "shape": [-1]}]}),
        (Manifest, {"outputs": [{"name": "y", "shape": []}, {"name": "y", "shape": []}]}),
        (Manifest, {"metrics": ["correct", "correct"]}),
        (Manifest, {"metrics": ["loss"]}),
        (Manifest, {"metrics": ["count"]}),
        (Manifest, {"default_plan": {"epochs": 0, "batch_size": 8, "learning_rate": 0.1}}),
        (Manifest, {"default_plan": {"epochs": 1, "batch_size": 0, "learning_rate": 0.1}}),
        (Manifest, {"default_plan": {"epochs": 1, "batch_size": 8, "learning_rate": 0.0}}),
        (Manifest, {"measured": {"runtime": "", "step_ms": -1.0, "peak_memory_bytes": 0}}),
        (Manifest, {"batch_size": 0}),
        (Manifest, {"batch_size": 65537}),
        (Manifest, {"graph_sha256": "Z" * 64}),
    ],
)
def test_a_value_out_of_its_range_is_malformed(kind: type, changes: dict[str, object]) -> None:
    for message in [message for message in MESSAGES if type(message) is kind]:
        tree = {**json.loads(wire.encode(message)), **changes}
        with pytest.raises(Malformed):
            wire.decode(kind, json.dumps(tree).encode())


@pytest.mark.parametrize(
    "changes",
    [
        {"participation": "zz" * 16},
        {"participation": "../../../enrol"},
        {"participation": "00"},
        {"round": 0},
        {"plan_signature": ""},
        {"checkpoint_sha256": "x"},
        {"deadline_s": -1},
        {"deadline_s": 1e18},
    ],
)
def test_an_assignment_of_nonsense_is_malformed(changes: dict[str, object]) -> None:
    (answer,) = [one for one in MESSAGES if isinstance(one, CheckInAnswer) and one.assignment]
    tree = json.loads(wire.encode(answer))
    tree["assignment"] |= changes
    with pytest.raises(Malformed):
        wire.decode(CheckInAnswer, json.dumps(tree).encode())


def test_an_answer_is_an_assignment_or_a_retry_window_and_not_both() -> None:
    first, second, _third = (json.loads(wire.encode(one)) for one in MESSAGES if isinstance(one, CheckInAnswer))
    for tree in ({**first, "retry": second["retry"]}, {**second, "retry": None}):
        with pytest.raises(Malformed, match="an assignment or a retry window"):
            wire.decode(CheckInAnswer, json.dumps(tree).encode())


VERSIONED = [message for message in (*MESSAGES, *MESSAGES_3) if wire._added(type(message))]


@pytest.mark.parametrize("message", VERSIONED, ids=lambda message: f"{type(message).__name__} {message.version}")
def test_a_version_has_exactly_the_keys_that_it_brought(message: Any) -> None:
    tree = json.loads(wire.encode(message))
    added = {name for name, version in message.ADDED.items() if version <= message.version}
    later = set(message.ADDED) - added
    assert set(message.ADDED) & set(tree) == added
    wrong = dict.fromkeys(later) if later else {"version": message.OLDEST}
    for other in ({**tree, **wrong}, {**tree, "version": 0}, {**tree, "version": message.VERSION + 1}):
        with pytest.raises((Malformed, UnsupportedVersion)):
            wire.decode(type(message), json.dumps(other).encode())


@pytest.mark.parametrize(
    "make",
    [
        lambda: Enrolled(version=1, device_id="0" * 32, retry_after_s=0.0, policy=Policy()),
        lambda: OutcomeNote(version=1, reason=Outcome.IN_USE, costs=Costs(seconds=0, bytes=0, battery_percent=0)),
    ],
    ids=["Enrolled", "OutcomeNote"],
)
def test_what_a_version_could_not_carry_is_not_made(make: Callable[[], object]) -> None:
    with pytest.raises(Malformed, match="version 1"):
        make()


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    by_name: dict[str, int]


@given(by_name=st.dictionaries(texts, st.integers(-(1 << 40), 1 << 40), max_size=5))
def test_a_mapping_comes_back_as_it_was_sent(by_name: dict[str, int]) -> None:
    assert wire.decode(Counted, wire.encode(Counted(by_name=by_name))) == Counted(by_name=by_name)


@pytest.mark.parametrize(
    "raw", [b'{"by_name":[]}', b'{"by_name":{"a":1.0}}', b'{"by_name":{"a":1,"a":1}}', b'{"by_name":{"\\ud800":1}}']
)
def test_a_wrong_mapping_is_malformed(raw: bytes) -> None:
    with pytest.raises(Malformed):
        wire.decode(Counted, raw)
