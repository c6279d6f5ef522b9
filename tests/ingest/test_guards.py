"""Guards: the Cloud signature over the untouched bytes, and the handshake."""

from __future__ import annotations

import hmac
import json
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.guards import SIGNATURE, Guards
from ingest.settings import load

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


@pytest.mark.parametrize(("body", "digest"), VECTORS)
def test_vectors(body: bytes, digest: str) -> None:
    """The signature is the one that Meta documents, over the bytes as they came."""
    guards = Guards(load(app_secret=SECRET))
    assert guards.admits({SIGNATURE: f"sha256={digest}"}, body)
    assert not guards.admits({SIGNATURE: f"sha256={digest}"}, body + b" ")


def test_decoded_body_fails() -> None:
    """A body that something on the way decoded and encoded again has no valid signature."""
    body, digest = VECTORS[2]
    decoded = json.dumps(json.loads(body), ensure_ascii=False, separators=(",", ":")).encode()
    assert "äöå 😀 a@b.c https://x".encode() in decoded
    assert not Guards(load(app_secret=SECRET)).admits({SIGNATURE: f"sha256={digest}"}, decoded)


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
    assert not Guards(load(app_secret=SECRET)).admits(headers, BODY)


def test_several_secrets() -> None:
    """Each of the secrets fits, the text between commas without its spaces; the list itself is none."""
    guards = Guards(load(app_secret=f" old ,{SECRET},,"))
    assert guards.admits({SIGNATURE: sign(BODY, "old")}, BODY)
    assert guards.admits({SIGNATURE: sign(BODY)}, BODY)
    for wrong in ("", " old ", f"old,{SECRET}"):
        assert not guards.admits({SIGNATURE: sign(BODY, wrong)}, BODY)


def test_no_secret() -> None:
    """Without a secret everybody may post, also with a header that means nothing: On-Premises senders sign nothing."""
    assert Guards(load()).admits({}, BODY)
    assert Guards(load()).admits({SIGNATURE: "sha256=0"}, BODY)


@given(st.binary(max_size=100), st.text(max_size=80))
def test_only_the_signature_fits(body: bytes, header: str) -> None:
    """Of all headers only the right one is accepted, and none raises."""
    guards = Guards(load(app_secret=SECRET))
    assert guards.admits({SIGNATURE: header}, body) == (header == sign(body))
    assert guards.admits({SIGNATURE: sign(body)}, body)


QUERY = {"hub.mode": "subscribe", "hub.challenge": "1158201444", "hub.verify_token": "tökén"}


def test_challenge() -> None:
    """The right token gets the challenge back."""
    assert Guards(load(verify_token="tökén")).challenge(QUERY) == "1158201444"


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
    assert Guards(load(verify_token="tökén")).challenge(QUERY | change) is None
    assert Guards(load(verify_token="tökén")).challenge({}) is None


def test_no_token_no_handshake() -> None:
    """Without a token set no handshake succeeds, not even with an empty token."""
    assert Guards(load()).challenge(QUERY | {"hub.verify_token": ""}) is None
