"""Signed requests (RFC 9421, RFC 9530), held against an independent implementation both ways."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from http_message_signatures import HTTPMessageSigner, HTTPMessageVerifier, algorithms
from http_message_signatures.resolvers import MappingKeyResolver
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.protocol.errors import BadSignature, ClockSkew, DigestMismatch
from edge_runtime.protocol.keys import SigningKey, digest
from edge_runtime.protocol.signing import (
    CLOCK_WINDOW_S,
    NONCE_LIFETIME_S,
    TAG,
    SignedBy,
    claimed,
    content_digest,
    sign_request,
    verify_body,
    verify_request,
)

KEY = SigningKey(digest(b"device key of the signing tests"))
OTHER = SigningKey(digest(b"another device"))
KEYID = "0123456789abcdef" * 2
NONCE = bytes(range(16))
NOW = int(datetime.now(UTC).timestamp())  # the independent verifier reads the clock itself
COMPONENTS = ("@method", "@path", "@query", "content-digest")
TARGETS = ["/v1/device/check-in", "/v1/device/x?a=1&b=%20c", "/p?", "/a/../b", "/%7Eme/%2F?x=/?y"]


@dataclass
class Message:
    """What the independent implementation signs and verifies."""

    method: str
    url: str
    headers: dict[str, str] = field(default_factory=dict)


def signed(method: str = "POST", target: str = TARGETS[0], body: bytes = b"{}", created: int = NOW) -> dict[str, str]:
    return sign_request(KEY, KEYID, method, target, body, created=created, nonce=NONCE)


def accept(headers: dict[str, str], method: str = "POST", target: str = TARGETS[0], body: bytes = b"{}") -> SignedBy:
    claim = claimed(headers)
    verify_request(claim, KEY.public, method, target, now=NOW)
    verify_body(claim, digest(body))
    return claim


def resolver() -> MappingKeyResolver:
    private = Ed25519PrivateKey.from_private_bytes(KEY.raw)
    return MappingKeyResolver(public_keys={KEYID: private.public_key()}, private_keys={KEYID: private})


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
def test_the_independent_verifier_takes_our_signature(method: str, target: str) -> None:
    message = Message(method, f"http://coordinator{target}", signed(method, target))
    verifier = HTTPMessageVerifier(signature_algorithm=algorithms.ED25519, key_resolver=resolver())
    (result,) = verifier.verify(message, expect_tag=TAG, require_components=COMPONENTS, body=b"{}")
    assert result.nonce == NONCE.hex()
    assert (result.parameters["keyid"], result.parameters["created"]) == (KEYID, NOW)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
def test_we_take_the_signature_of_the_independent_signer(method: str, target: str) -> None:
    message = Message(method, f"http://coordinator{target}", {"Content-Digest": content_digest(digest(b"{}"))})
    signer = HTTPMessageSigner(signature_algorithm=algorithms.ED25519, key_resolver=resolver())
    signer.sign(
        message,
        key_id=KEYID,
        created=datetime.fromtimestamp(NOW, UTC),
        nonce=NONCE.hex(),
        label="edgewise",
        tag=TAG,
        covered_component_ids=COMPONENTS,
        use_existing_digest=True,
    )
    claim = accept({name.lower(): value for name, value in message.headers.items()}, method, target)
    assert (claim.keyid, claim.created, claim.nonce) == (KEYID, NOW, NONCE.hex())


def test_the_content_digest_is_the_one_of_rfc_9530() -> None:
    """Appendix D of the RFC: the body `{"hello": "world"}` and a line feed."""
    found = content_digest(hashlib.sha256(b'{"hello": "world"}\n').digest())
    assert found == "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:"


def test_a_signed_request_says_who_when_and_what() -> None:
    claim = accept(signed())
    assert (claim.keyid, claim.created, claim.nonce) == (KEYID, NOW, NONCE.hex())
    assert claim.body_digest == digest(b"{}")


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("PUT", TARGETS[0]),
        ("post", TARGETS[0]),
        ("POST", TARGETS[0] + "/"),
        ("POST", TARGETS[0] + "?a=1"),
        ("POST", "/v1/device/release"),
        ("POST", ""),
    ],
)
def test_another_request_line_is_refused(method: str, target: str) -> None:
    with pytest.raises(BadSignature):
        accept(signed(), method, target)


def test_another_query_is_refused() -> None:
    with pytest.raises(BadSignature):
        accept(signed(target="/p?a=1"), target="/p?a=2")


def test_another_body_is_refused() -> None:
    with pytest.raises(DigestMismatch):
        accept(signed(), body=b"{} ")


def test_another_body_with_its_own_digest_is_refused() -> None:
    with pytest.raises(BadSignature):
        accept({**signed(), "content-digest": content_digest(digest(b"[]"))}, body=b"[]")


@pytest.mark.parametrize(
    "changes",
    [
        {"created": NOW + 1},
        {"nonce": "f" * 32},
        {"keyid": "e" * 32},
        {"body_digest": digest(b"x")},
        {"signature": bytes(64)},
    ],
)
def test_another_claim_is_refused(changes: dict[str, object]) -> None:
    claim = dataclasses.replace(claimed(signed()), **changes)  # type: ignore[arg-type]
    with pytest.raises(BadSignature):
        verify_request(claim, KEY.public, "POST", TARGETS[0], now=NOW)


def test_the_key_of_another_device_is_refused() -> None:
    with pytest.raises(BadSignature):
        verify_request(claimed(signed()), OTHER.public, "POST", TARGETS[0], now=NOW)


@pytest.mark.parametrize(
    ("header", "was", "becomes"),
    [
        ("signature-input", "edgewise=", "other="),
        ("signature-input", TAG, "edgewise-device/2"),
        ("signature-input", "ed25519", "hmac-sha256"),
        ("signature-input", ';alg="ed25519"', ""),
        ("signature-input", f';tag="{TAG}"', ""),
        ("signature-input", '"@path" ', ""),
        ("signature-input", '"@method" "@path"', '"@path" "@method"'),
        ("signature-input", "created=", "expires="),
        ("signature-input", "created=", "created=-"),
        ("signature-input", "created=", "created=0000"),
        ("signature-input", "created=", "created= "),
        ("signature-input", KEYID, KEYID.upper()),
        ("signature-input", KEYID, ""),
        ("signature-input", NONCE.hex(), NONCE.hex()[:-1]),
        ("signature", "edgewise=:", "edgewise="),
        ("signature", "=:", "=: "),
        ("content-digest", "sha-256", "md5"),
        ("content-digest", "sha-256=:", "sha-256="),
    ],
)
def test_any_other_form_is_a_bad_signature(header: str, was: str, becomes: str) -> None:
    headers = signed()
    assert was in headers[header]
    with pytest.raises(BadSignature):
        accept({**headers, header: headers[header].replace(was, becomes, 1)})


@pytest.mark.parametrize("header", ["signature", "signature-input", "content-digest"])
def test_a_missing_or_doubled_header_is_a_bad_signature(header: str) -> None:
    headers = signed()
    for value in ("", f"{headers[header]}, {headers[header]}", headers[header] + "\n"):
        with pytest.raises(BadSignature):
            claimed({**headers, header: value})
    with pytest.raises(BadSignature):
        claimed({name: value for name, value in headers.items() if name != header})


def test_a_digest_in_a_second_spelling_is_a_bad_signature() -> None:
    text = base64.b64encode(digest(b"{}")).decode()
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    second = text[:-2] + letters[letters.index(text[-2]) + 1] + "="
    assert base64.b64decode(second) == digest(b"{}")
    with pytest.raises(BadSignature):
        claimed({**signed(), "content-digest": f"sha-256=:{second}:"})


@given(
    header=st.sampled_from(["signature", "signature-input", "content-digest"]),
    data=st.data(),
)
def test_changed_headers_are_a_bad_signature_and_never_anything_else(header: str, data: st.DataObject) -> None:
    headers = signed()
    text = headers[header]
    begin = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(begin, len(text)))
    changed = text[:begin] + data.draw(st.text(max_size=6)) + text[end:]
    if changed != text:
        with pytest.raises((BadSignature, DigestMismatch)):
            accept({**headers, header: changed})


@given(value=st.text(max_size=300))
def test_any_text_at_all_is_a_bad_signature(value: str) -> None:
    with pytest.raises(BadSignature):
        claimed({"signature": value, "signature-input": value, "content-digest": value})


@pytest.mark.parametrize("off", [-CLOCK_WINDOW_S, -1, 0, 1, CLOCK_WINDOW_S])
def test_a_clock_within_the_window_is_taken(off: int) -> None:
    assert accept(signed(created=NOW + off)).created == NOW + off


@pytest.mark.parametrize(
    "off",
    [-CLOCK_WINDOW_S - 1, CLOCK_WINDOW_S + 1, -NOW, 999_999_999_999 - NOW],
    ids=["early", "late", "at the epoch", "in 30,000 years"],
)
def test_a_clock_outside_the_window_is_named_once_the_signature_holds(off: int) -> None:
    headers = signed(created=NOW + off)
    with pytest.raises(ClockSkew):
        accept(headers)
    with pytest.raises(BadSignature):
        accept(headers, method="GET")


def test_a_nonce_outlives_every_request_it_could_refuse() -> None:
    """Received a window early by a clock that is cut to seconds, it is taken until a window late."""
    assert NONCE_LIFETIME_S > 2 * CLOCK_WINDOW_S + 1


@pytest.mark.parametrize("length", [0, 15, 17])
def test_a_nonce_has_sixteen_bytes(length: int) -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        sign_request(KEY, KEYID, "GET", "/", b"", created=NOW, nonce=bytes(length))
