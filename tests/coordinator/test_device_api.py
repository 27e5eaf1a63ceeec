"""What devices may ask, and by which code everything else is refused."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coordinator.api.problems import STATUSES
from edge_runtime.driver import Driver, Retries
from edge_runtime.protocol import wire
from edge_runtime.protocol.bundle import verify_bundle
from edge_runtime.protocol.checkin import CHECK_IN_PATH, bundle_path, checkpoint_path
from edge_runtime.protocol.enrolment import DEVICE_PATH, ENROL_PATH, Enrol, Evidence, Problem
from edge_runtime.protocol.errors import REFUSALS, NotFound
from edge_runtime.protocol.group import Step, step_path, trained_path
from edge_runtime.protocol.header import header_path
from edge_runtime.protocol.keys import SigningKey, digest
from edge_runtime.protocol.reasons import Wait
from edge_runtime.protocol.release import RELEASE_PATH, ReleaseQuery
from edge_runtime.protocol.report import outcome_path, parts_path, report_path
from edge_runtime.session.visit import current_release
from tests.coordinator.asking import (
    ask,
    assigned,
    check_in,
    offer,
    refusal,
    report_of,
    send_report,
    signature,
)
from tests.programme import (
    BUNDLE,
    BUNDLE_SHA256,
    PLAN,
    POPULATION,
    TENANT,
    TENANT_KEY,
    Clock,
    Home,
    Phone,
    replace,
)


def test_every_refusal_has_a_status_and_every_status_a_refusal() -> None:
    assert set(STATUSES) == set(REFUSALS)
    assert all(400 <= status < 600 for status in STATUSES.values())


# --- who asks -----------------------------------------------------------------------------------------------------


def test_a_device_that_never_enrolled_is_unknown(home: Home, phone: Phone) -> None:
    phone.driver.key = SigningKey(digest(b"a stranger"))
    phone.driver.__post_init__()
    assert refusal(ask(home, phone, "POST", CHECK_IN_PATH, offer(phone))) == "unknown-device"


def test_a_request_without_a_signature_is_refused_on_every_device_path(home: Home) -> None:
    paths = [("POST", ENROL_PATH), ("POST", CHECK_IN_PATH), ("POST", RELEASE_PATH)]
    paths += [("GET", bundle_path("0" * 64)), ("GET", checkpoint_path("0" * 64))]
    paths += [("PUT", report_path("0" * 32)), ("POST", outcome_path("0" * 32)), ("DELETE", DEVICE_PATH)]
    paths += [("GET", parts_path("0" * 32)), ("PUT", parts_path("0" * 32) + "/0"), ("POST", report_path("0" * 32))]
    paths += [("POST", trained_path("0" * 32)), ("GET", header_path("0" * 32))]
    paths += [(method, step_path("0" * 32, Step.JOIN)) for method in ("POST", "GET")]
    described = home.request("GET", "/v1/openapi.json").json()["paths"]
    assert len(paths) == sum(len(methods) for path, methods in described.items() if path.startswith("/v1/device"))
    for method, path in paths:
        assert refusal(home.request(method, path)) == "bad-signature"


def test_another_device_cannot_sign_under_this_ones_name(home: Home, phone: Phone) -> None:
    phone.driver.key = home.phone(1).driver.key
    assert refusal(ask(home, phone, "POST", CHECK_IN_PATH, offer(phone))) == "bad-signature"


def test_a_signature_for_another_target_is_refused(home: Home, phone: Phone) -> None:
    headers = signature(phone, "POST", RELEASE_PATH, offer(phone))
    for path in (CHECK_IN_PATH, CHECK_IN_PATH + "?x=1"):
        assert refusal(home.request("POST", path, content=offer(phone), headers=headers)) == "bad-signature"


def test_a_header_sent_twice_is_refused(home: Home, phone: Phone) -> None:
    headers = [*signature(phone, "POST", CHECK_IN_PATH, offer(phone)).items()]
    answer = home.request("POST", CHECK_IN_PATH, content=offer(phone), headers=[*headers, headers[0]])
    assert refusal(answer) == "bad-signature"


def test_a_body_that_was_changed_is_refused(home: Home, phone: Phone) -> None:
    headers = signature(phone, "POST", CHECK_IN_PATH, offer(phone))
    changed = offer(phone, examples=64)
    assert refusal(home.request("POST", CHECK_IN_PATH, content=changed, headers=headers)) == "digest-mismatch"


def test_a_request_sent_again_is_a_replay(home: Home, phone: Phone) -> None:
    headers = signature(phone, "POST", CHECK_IN_PATH, offer(phone))
    assert home.request("POST", CHECK_IN_PATH, content=offer(phone), headers=headers).status_code == 200
    answer = home.request("POST", CHECK_IN_PATH, content=offer(phone), headers=headers)
    assert refusal(answer) == "replayed-request"


def test_a_refused_request_sent_again_is_a_replay_too(home: Home, phone: Phone) -> None:
    body = offer(phone, population="elsewhere")
    headers = signature(phone, "POST", CHECK_IN_PATH, body)
    assert refusal(home.request("POST", CHECK_IN_PATH, content=body, headers=headers)) == "not-found"
    assert refusal(home.request("POST", CHECK_IN_PATH, content=body, headers=headers)) == "replayed-request"


def test_no_request_can_be_replayed_however_long_one_waits(home: Home, phone: Phone, clock: Clock) -> None:
    """Signed by a clock a window ahead, at the latest instant that the window takes it again."""
    clock.forward(300)
    headers = signature(phone, "POST", CHECK_IN_PATH, offer(phone))
    clock.forward(-300)
    assert home.request("POST", CHECK_IN_PATH, content=offer(phone), headers=headers).status_code == 200
    for seconds in (599.0, 1.0, 0.9, 0.2):
        clock.forward(seconds)
        home.look()
        answer = home.request("POST", CHECK_IN_PATH, content=offer(phone), headers=headers)
        assert refusal(answer) in ("replayed-request", "clock-skew")
    assert refusal(answer) == "clock-skew"


def test_one_request_sent_by_many_at_once_is_taken_once(home: Home, phone: Phone) -> None:
    headers = signature(phone, "POST", CHECK_IN_PATH, offer(phone))
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda _n: home.request("POST", CHECK_IN_PATH, content=offer(phone), headers=headers), range(8))
        )
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 7


@pytest.mark.parametrize("off_s", [-301, 301, -86_400, 86_400])
def test_a_clock_that_is_off_is_told_the_time(home: Home, phone: Phone, clock: Clock, off_s: int) -> None:
    clock.forward(off_s)
    headers = signature(phone, "POST", CHECK_IN_PATH, offer(phone))
    clock.forward(-off_s)
    answer = home.request("POST", CHECK_IN_PATH, content=offer(phone), headers=headers)
    assert refusal(answer) == "clock-skew"
    problem = wire.decode(Problem, answer.content)
    assert (problem.retry, problem.server_time) == ("now", int(clock.at.timestamp()))


@pytest.mark.parametrize("off_s", [-86_400.0, 3600.0])
def test_a_driver_whose_clock_is_off_signs_again_by_the_servers(home: Home, clock: Clock, off_s: float) -> None:
    home.start_task()
    phone = home.phone(0)
    read: list[float] = []

    def wrong_clock() -> float:
        read.append(clock.at.timestamp() + off_s)
        return read[-1]

    phone.driver = Driver(phone.driver.key, TENANT, home.send, Retries(tries=1), wrong_clock, lambda _s: None)
    assert phone.visit().reason is Wait.SELECTION_PENDING
    assert phone.driver.clock_offset_s == -off_s
    asked = len(read)
    assert phone.visit().reason is Wait.SELECTION_PENDING
    assert len(read) == asked + 1, "the offset is kept: one signature was enough"


# --- what is asked ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"", b"{", b"null", b"\xff", b"[" * 10_000, b'{"version":1}'])
def test_what_is_not_a_message_is_malformed(home: Home, phone: Phone, body: bytes) -> None:
    for path in (CHECK_IN_PATH, RELEASE_PATH, ENROL_PATH, outcome_path("0" * 32)):
        assert refusal(ask(home, phone, "POST", path, body)) == "malformed"


def test_a_later_version_is_unsupported(home: Home, phone: Phone) -> None:
    body = offer(phone).replace(b'"version":1', b'"version":4')
    assert refusal(ask(home, phone, "POST", CHECK_IN_PATH, body)) == "unsupported-version"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(body=st.binary(max_size=60), path=st.sampled_from([CHECK_IN_PATH, RELEASE_PATH, ENROL_PATH]))
def test_any_signed_body_is_refused_by_name(home: Home, phone: Phone, body: bytes, path: str) -> None:
    assert refusal(ask(home, phone, "POST", path, body)) in ("malformed", "unsupported-version")


def test_a_large_body_is_refused_by_what_it_announces(home: Home, phone: Phone) -> None:
    body = b" " * (wire.MESSAGE_LIMIT_BYTES + 1)
    assert refusal(ask(home, phone, "POST", CHECK_IN_PATH, body)) == "body-too-large"
    assert refusal(ask(home, phone, "GET", bundle_path(BUNDLE_SHA256), b"x")) == "body-too-large"


@pytest.mark.parametrize("announced", ["9" * 5000, "-1", "1e3", "٣"])
def test_a_length_that_is_none_is_refused(home: Home, phone: Phone, announced: str) -> None:
    headers = [(name.encode(), value.encode()) for name, value in signature(phone, "POST", CHECK_IN_PATH).items()]
    answer = home.request(
        "POST", CHECK_IN_PATH, headers=[*headers, (b"content-length", announced.encode())], content=b""
    )
    assert refusal(answer) == "body-too-large"


def test_a_large_body_in_chunks_is_read_no_further_than_its_limit(home: Home, phone: Phone) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1 << 16
            yield bytes(1 << 16)

    headers = signature(phone, "POST", CHECK_IN_PATH)
    assert refusal(home.request("POST", CHECK_IN_PATH, content=endless(), headers=headers)) == "body-too-large"
    assert sent <= wire.MESSAGE_LIMIT_BYTES + (2 << 16)


def test_a_check_in_from_another_population_is_refused(home: Home, phone: Phone) -> None:
    answer = ask(home, phone, "POST", CHECK_IN_PATH, offer(phone, population="elsewhere"))
    assert refusal(answer) == "not-found"


def test_a_device_with_too_few_examples_is_told_so(home: Home) -> None:
    home.start_task(replace(PLAN, min_examples=33))
    phone = home.phone(0)
    assert phone.visit(examples=31).reason is Wait.TOO_FEW_EXAMPLES
    assert phone.visit(examples=32).reason is Wait.SELECTION_PENDING, "buckets round both sides down"


def test_a_device_without_a_task_is_told_so(home: Home) -> None:
    home.publish()
    end = home.phone(0).visit()
    assert end.reason is Wait.NO_TASK
    assert end.after_s >= 60


def test_a_lost_answer_to_a_check_in_is_given_again(home: Home, phone: Phone, clock: Clock) -> None:
    (assignment,) = assigned(home, [phone])
    clock.forward(7)
    again = check_in(home, phone).assignment
    assert again == replace(assignment, deadline_s=assignment.deadline_s - 7)


def test_a_device_that_checks_in_anew_has_lost_its_work(home: Home, phone: Phone) -> None:
    (assignment,) = assigned(home, [phone])
    answer = check_in(home, phone, "another visit")
    assert answer.retry is not None
    assert answer.retry.reason is Wait.ROUND_IN_PROGRESS
    assert refusal(send_report(home, phone, assignment)) == "participation-ended"
    home.look()
    assert home.rounds()[0]["outcomes"] == {"went-silent": 1}


def test_a_device_that_was_not_chosen_is_told_so(home: Home) -> None:
    home.start_task(replace(PLAN, goal=1, min_reports=1), pool_size=3)
    phones = [home.phone(number) for number in range(3)]
    for phone in phones:
        check_in(home, phone)
    home.look()
    answers = [check_in(home, phone, "later") for phone in phones]
    reasons = sorted(answer.retry.reason if answer.retry else "assigned" for answer in answers)
    assert reasons == ["assigned", "not-selected", "not-selected"]


# --- enrolment ----------------------------------------------------------------------------------------------------


def enrolment(phone: Phone, **changes: object) -> bytes:
    fields: dict[str, object] = {
        "version": 1,
        "tenant": TENANT,
        "population": POPULATION,
        "public_key": phone.driver.key.public.raw,
        "app": "app",
        "app_version": "1.0",
        "platform": "linux",
        "evidence": Evidence.NONE,
    }
    return wire.encode(Enrol(**{**fields, **changes}))  # type: ignore[arg-type]


def test_enrolling_again_gives_the_same_answer(home: Home, phone: Phone) -> None:
    answers = {ask(home, phone, "POST", ENROL_PATH, enrolment(phone)).content for _again in range(3)}
    assert len(answers) == 1
    assert json.loads(answers.pop())["device_id"] == phone.driver.device_id


def test_an_enrolment_is_signed_by_the_key_it_brings(home: Home, phone: Phone) -> None:
    other = home.phone(1)
    answer = ask(home, phone, "POST", ENROL_PATH, enrolment(phone, public_key=other.driver.key.public.raw))
    assert refusal(answer) == "bad-signature"


@pytest.mark.parametrize("changes", [{"population": "elsewhere"}, {"tenant": "nobody"}])
def test_nobody_enrols_where_nothing_is(home: Home, phone: Phone, changes: dict[str, str]) -> None:
    phone.driver.tenant = changes.get("tenant", TENANT)
    phone.driver.__post_init__()
    assert refusal(ask(home, phone, "POST", ENROL_PATH, enrolment(phone, **changes))) == "not-found"


def test_a_key_is_enrolled_in_one_population(home: Home, phone: Phone) -> None:
    home.operator("PUT", "/populations/second").raise_for_status()
    assert refusal(ask(home, phone, "POST", ENROL_PATH, enrolment(phone, population="second"))) == "conflict"


# --- downloads ----------------------------------------------------------------------------------------------------


def test_a_bundle_is_downloaded_whole_or_in_parts(home: Home, phone: Phone) -> None:
    whole = ask(home, phone, "GET", bundle_path(BUNDLE_SHA256))
    assert whole.content == BUNDLE
    assert whole.headers["etag"] == f'"{BUNDLE_SHA256}"'
    assert "immutable" in whole.headers["cache-control"]
    verify_bundle(whole.content, BUNDLE_SHA256, TENANT_KEY.public)
    middle = len(BUNDLE) // 2
    first = ask(home, phone, "GET", bundle_path(BUNDLE_SHA256), range=f"bytes=0-{middle - 1}")
    rest = ask(home, phone, "GET", bundle_path(BUNDLE_SHA256), range=f"bytes={middle}-")
    assert (first.status_code, rest.status_code) == (206, 206)
    assert first.content + rest.content == BUNDLE


@pytest.mark.parametrize("wanted", ["bytes=999999999-", "bytes=5-2", "lines=1-2", "bytes=x"])
def test_a_range_that_is_none_is_refused_by_name(home: Home, phone: Phone, wanted: str) -> None:
    answer = ask(home, phone, "GET", bundle_path(BUNDLE_SHA256), range=wanted)
    assert answer.status_code in (400, 416)
    assert refusal(answer) == "malformed"


@pytest.mark.parametrize("name", ["0" * 64, "0" * 63, "0" * 65, "A" * 64, "..", "%2e%2e%2f" * 3, "x", "0" * 63 + "%0a"])
def test_what_is_not_there_is_not_found(home: Home, phone: Phone, name: str) -> None:
    named = "malformed" if name == ".." else "not-found"  # the path above is one that has no GET
    for path in (bundle_path(name), checkpoint_path(name)):
        assert refusal(ask(home, phone, "GET", path)) == named


@pytest.mark.parametrize("name", ["../../coordinator.key", "..%2f..%2f..%2fcoordinator.key", "%2Fetc%2Fpasswd"])
def test_no_path_leads_out_of_the_blobs(home: Home, phone: Phone, name: str) -> None:
    answer = ask(home, phone, "GET", bundle_path(name))
    assert refusal(answer) in ("not-found", "bad-signature")


def test_a_report_is_not_for_download(home: Home, phone: Phone) -> None:
    (assignment,) = assigned(home, [phone])
    body = report_of(phone, assignment)
    send_report(home, phone, assignment, body)
    address = digest(body).hex()
    for path in (bundle_path(address), checkpoint_path(address)):
        assert refusal(ask(home, phone, "GET", path)) == "not-found"


# --- releases -----------------------------------------------------------------------------------------------------


def test_the_release_is_the_newest_checkpoint(home: Home, phone: Phone) -> None:
    before = phone.driver.run(current_release(POPULATION, None))
    assert (before.model_version, before.final) == (0, False)
    (assignment,) = assigned(home, [phone])
    send_report(home, phone, assignment)
    home.look()
    after = phone.driver.run(current_release(POPULATION, before.checkpoint_sha256))
    assert (after.model_version, after.bundle_sha256) == (1, BUNDLE_SHA256)
    assert after.checkpoint_sha256 == home.task()["checkpoint_sha256"] != before.checkpoint_sha256
    home.operator("POST", "/tasks/words/cancel").raise_for_status()
    assert phone.driver.run(current_release(POPULATION, None)) == replace(after, final=True)


def test_there_is_no_release_without_a_task_or_for_another_population(home: Home) -> None:
    home.publish()
    phone = home.phone(0)
    for population in (POPULATION, "elsewhere"):
        with pytest.raises(NotFound):
            phone.driver.run(current_release(population, None))
    query = wire.encode(ReleaseQuery(version=1, population=POPULATION, held_sha256=None))
    assert refusal(ask(home, phone, "POST", RELEASE_PATH, query)) == "not-found"
