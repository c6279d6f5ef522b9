"""Guards: the Cloud signature over the untouched bytes, and the handshake."""

from __future__ import annotations

import base64
import hmac
import json
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from ingest.http.answers import Refused
from ingest.http.guards import Guards
from ingest.settings import load

SIGNATURE = "X-Hub-Signature-256"
TURN = "X-Turn-Hook-Signature"
SECRET = "test_app_secret"
VECTORS = [  # whatsapp-spec B2
    (
        rb'{"object":"whatsapp_business_account","entry":[]}',
        "dec6a680679a968e7e0319355b23599cbfc54502c0784668e9618baa0c633756",
    ),
    (
        rb'{"object": "whatsapp_business_account", "entry": []}',
        "56cbbaf4961c6cfdae48b7f116c047e5eb513d2c931baae63a2bc1afd26f803a",
    ),
    (
        rb'{"text":{"body":"\u00e4\u00f6\u00e5 \ud83d\ude00 a\u0040b.c https:\/\/x"}}',
        "36c7ab0d3e96394f2bf103196a2f872af369908854424340e3d2ec745a14262a",
    ),
]
BODY, DIGEST = VECTORS[0]


def sign(body: bytes, secret: str = SECRET) -> str:
    return "sha256=" + hmac.new(secret.encode(), body, sha256).hexdigest()


def admits(guards: Guards, headers: dict[str, str], body: bytes) -> bool:
    """False when a body is refused, which is always 401 and for its signature."""
    try:
        guards.admit_body(headers, body)
    except Refused as refused:
        if (refused.status, refused.reason) == (401, "signature"):
            return False
        raise
    return True


def challenge(guards: Guards, query: dict[str, str]) -> str | None:
    """None when it is refused, which is always 403."""
    try:
        return guards.challenge(query)
    except Refused as refused:
        if (refused.status, refused.reason) == (403, "handshake"):
            return None
        raise


@pytest.mark.parametrize(("body", "digest"), VECTORS)
def test_vectors(body: bytes, digest: str) -> None:
    """The signature is the one that Meta documents, over the bytes as they came."""
    guards = Guards(load(app_secret=SECRET))
    assert admits(guards, {SIGNATURE: f"sha256={digest}"}, body)
    assert not admits(guards, {SIGNATURE: f"sha256={digest}"}, body + b" ")


def test_decoded_body_fails() -> None:
    """A body that something on the way decoded and encoded again has no valid signature."""
    body, digest = VECTORS[2]
    decoded = json.dumps(json.loads(body), ensure_ascii=False, separators=(",", ":")).encode()
    assert "äöå 😀 a@b.c https://x".encode() in decoded
    assert not admits(Guards(load(app_secret=SECRET)), {SIGNATURE: f"sha256={digest}"}, decoded)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "sha256=",
        DIGEST,
        f"sha1={DIGEST}",
        f"sha256={DIGEST[:-1]}",
        f"sha256={DIGEST}0",
        f"sha256={DIGEST.upper()}",
        f"sha256= {DIGEST}",
        f"sha256={'0' * 64}",
        "sha256=ä\udcff",
        sign(BODY, "another"),
        sign(BODY, ""),
    ],
)
def test_wrong_signature(header: str | None) -> None:
    """A missing, malformed or wrong signature does not fit, whatever it is made of."""
    headers = {} if header is None else {SIGNATURE: header}
    assert not admits(Guards(load(app_secret=SECRET)), headers, BODY)


def test_several_secrets() -> None:
    """Each of the secrets fits, the text between commas without its spaces; the list itself is none."""
    guards = Guards(load(app_secret=f" old ,{SECRET},,"))
    assert admits(guards, {SIGNATURE: sign(BODY, "old")}, BODY)
    assert admits(guards, {SIGNATURE: sign(BODY)}, BODY)
    for wrong in ("", " old ", f"old,{SECRET}"):
        assert not admits(guards, {SIGNATURE: sign(BODY, wrong)}, BODY)


def test_turn() -> None:
    """Turn.io's signature is the same HMAC in base64, under each of the secrets; neither form stands for the other."""
    guards = Guards(load(app_secret="old,secret"))
    signature = "uC/LeRrOxXhZuYm0MKgmSIzi5Hn9+SMmvQoug3WkK6Q="  # of praekeltfoundation/vumi-whatsapp
    assert admits(guards, {TURN: signature}, b"payload")
    as_hex = "sha256=" + base64.b64decode(signature).hex()
    assert admits(guards, {SIGNATURE: as_hex}, b"payload")
    for wrong in (signature[:-1], signature.lower(), as_hex, as_hex[7:], "", "sha256=" + signature):
        assert not admits(guards, {TURN: wrong}, b"payload")
    assert not admits(guards, {SIGNATURE: signature}, b"payload")
    assert not admits(guards, {TURN: signature}, b"payload ")


def test_360dialog() -> None:
    """360dialog's signature is the same HMAC in hex, which public code writes with and without the algorithm."""
    guards = Guards(load(app_secret="old,secret"))
    right = sign(b"payload", "secret")
    for form in (right, right.removeprefix("sha256=")):
        assert admits(guards, {"X-360dialog-Signature": form}, b"payload")
        assert not admits(guards, {"X-360dialog-Signature": form}, b"payload ")
    for wrong in ("", "sha256=", right[:-1], f"sha1={right[7:]}", sign(b"payload", "another")):
        assert not admits(guards, {"X-360dialog-Signature": wrong}, b"payload")


def shows(guards: Guards, headers: dict[str, str]) -> bool:
    """False when a POST is refused for want of the header."""
    try:
        guards.admit_post(CIMultiDict(headers))
    except Refused as refused:
        if (refused.status, refused.reason) == (401, "header"):
            return False
        raise
    return True


def test_header() -> None:
    """One of the headers that WA_HEADER_SECRET names must be there with one of its values, in any case of its name."""
    guards = Guards(load(header_secret="X-Key:old, X-Key: new ,Authorization:Bearer a:b"))
    for name, value in (("X-Key", "old"), ("x-key", "new"), ("Authorization", "Bearer a:b")):
        assert shows(guards, {name: value})
    for name, value in (("X-Key", ""), ("X-Key", "old "), ("X-Key", "Bearer a:b"), ("Y", "old"), ("X-Key", "ne")):
        assert not shows(guards, {name: value})
    assert not shows(guards, {})
    assert shows(Guards(load()), {})


def test_header_beside_a_password() -> None:
    """Every guard that is set is enforced: the header does not stand for a password."""
    guards = Guards(load(header_secret="X-Key:key", basic_auth="a:b"))
    assert not shows(guards, {"Authorization": "Basic YTpi"})
    with pytest.raises(Refused) as refused:
        guards.admit_post(CIMultiDict({"X-Key": "key"}))
    assert refused.value.reason == "credential"
    assert shows(guards, {"X-Key": "key", "Authorization": "Basic YTpi"})


def test_each_signature_must_fit() -> None:
    """Of two signature headers both must be right: a right one does not excuse a forged one."""
    guards = Guards(load(app_secret="secret"))
    right = {TURN: "uC/LeRrOxXhZuYm0MKgmSIzi5Hn9+SMmvQoug3WkK6Q=", SIGNATURE: sign(b"payload", "secret")}
    assert admits(guards, right, b"payload")
    for name in right:
        assert not admits(guards, right | {name: "sha256=0"}, b"payload")


def test_no_secret() -> None:
    """Without a secret everybody may post, also with a header that means nothing: On-Premises senders sign nothing."""
    assert admits(Guards(load()), {}, BODY)
    assert admits(Guards(load()), {SIGNATURE: "sha256=0"}, BODY)


@given(st.binary(max_size=100), st.text(max_size=80))
def test_only_the_signature_fits(body: bytes, header: str) -> None:
    """Of all headers only the right one is accepted, and none raises."""
    guards = Guards(load(app_secret=SECRET))
    assert admits(guards, {SIGNATURE: header}, body) == (header == sign(body))
    assert admits(guards, {SIGNATURE: sign(body)}, body)


QUERY = {"hub.mode": "subscribe", "hub.challenge": "1158201444", "hub.verify_token": "tökén"}


def test_challenge() -> None:
    """The right token gets the challenge back."""
    assert challenge(Guards(load(verify_token="tökén")), QUERY) == "1158201444"


def test_several_tokens() -> None:
    """Each of the tokens gets the challenge back, the list itself none: several apps, or one token after another."""
    guards = Guards(load(verify_token="one, two"))
    for token, answer in (("one", "1158201444"), ("two", "1158201444"), ("one, two", None), ("one,two", None)):
        assert challenge(guards, QUERY | {"hub.verify_token": token}) == answer


@pytest.mark.parametrize(
    "change",
    [
        {"hub.verify_token": "token"},
        {"hub.verify_token": ""},
        {"hub.verify_token": "\udcff"},
        {"hub.mode": "unsubscribe"},
        {"hub.mode": ""},
    ],
)
def test_challenge_refused(change: dict[str, str]) -> None:
    """A wrong token, none, or another mode gets nothing."""
    assert challenge(Guards(load(verify_token="tökén")), QUERY | change) is None
    assert challenge(Guards(load(verify_token="tökén")), {}) is None


def test_no_token_no_handshake() -> None:
    """Without a token set no handshake succeeds, not even with an empty token."""
    assert challenge(Guards(load()), QUERY | {"hub.verify_token": ""}) is None
