"""Reading a body: strictly, leniently where that fails, and without what relays put around it."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.reading import MOST, Unreadable, platform, read

OBJECT: dict[str, Any] = {"messages": [{"id": "m", "text": {"body": "ok"}}], "n": [2**63, -1, 1.5, None, True]}
WIRE = orjson.dumps(OBJECT)
CHANGE = {"field": "messages", "value": {"messages": []}}


def text(body: bytes) -> str:
    """The text of the one message."""
    (found,) = read(body)
    assert found["n"] == OBJECT["n"]
    said: str = found["messages"][0]["text"]["body"]
    return said


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (rb"\ud83d", "\ufffd"),
        (rb"\ude00 and \ud83d", "\ufffd and \ufffd"),
        (rb"\ud83d\ude00 and \ud83d", "😀 and \ufffd"),
        (rb"\\ud83d \ud83d", r"\ud83d" + " \ufffd"),
        (b"a\nb\tc\x00", "a\nb\tc\x00"),
        (b"caf\xe9, 5 \x80", "café, 5 €"),
        ("café ".encode() + b"\xe9", "café \ufffd"),
        ("😀 ".encode() + b"\xf0\x9f\x98", "😀 \ufffd"),
    ],
)
def test_broken_text(raw: bytes, expected: str) -> None:
    """What is wrong in one text changes that text alone."""
    assert text(WIRE.replace(b"ok", raw)) == expected


def test_byte_order_mark() -> None:
    """A byte order mark is no part of the body."""
    assert text(b"\xef\xbb\xbf" + WIRE) == "ok"


@pytest.mark.parametrize(
    "body",
    [
        b"[" + WIRE + b"]",
        orjson.dumps(WIRE.decode()),
        b"[" + orjson.dumps(WIRE.decode()) + b"]",
        orjson.dumps(f"[{WIRE.decode()}]"),
    ],
)
def test_what_is_around(body: bytes) -> None:
    """A list or a string around the notification is taken off."""
    assert read(body) == [OBJECT]


def test_several_in_a_list() -> None:
    """A list may hold several notifications, up to a thousand."""
    assert read(b"[" + b",".join([WIRE] * MOST) + b"]") == [OBJECT] * MOST
    with pytest.raises(Unreadable, match="an array, not an object"):
        read(b"[" + b",".join([WIRE] * (MOST + 1)) + b"]")


def test_bare_change() -> None:
    """What Meta's dashboard sends as a sample is a change without the notification around it."""
    assert read(orjson.dumps(CHANGE)) == [{"entry": [{"changes": [CHANGE]}]}]
    for whole in (CHANGE | {"entry": []}, {"field": "x", "value": 1}, {"value": {}}):
        assert read(orjson.dumps(whole)) == [whole]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "not JSON at character"),
        (b"hello", "not JSON at character"),
        (b'{"a":', "not JSON at character"),
        (b'{"a":NaN}', "not JSON at character"),
        (b'{"a":' + b"9" * 5000 + b"}", "not JSON at character"),
        (b"[" * 100_000, "not JSON at character"),
        (b'{"a":' * 3000 + b"1" + b"}" * 3000, "not JSON at character"),
        (b"5", "a number, not an object"),
        (b"null", "null, not an object"),
        (b"[]", "an array, not an object"),
        (b"[{},5]", "a number, not an object"),
        (b'"text"', "a string, not an object"),
        (b"[[[[{}]]]]", "an array, not an object"),
        (orjson.dumps("{no"), "not JSON at character"),
    ],
)
def test_unreadable(body: bytes, says: str) -> None:
    """What holds no object is refused with what it is instead."""
    with pytest.raises(Unreadable, match=says):
        read(body)


def test_strictly() -> None:
    """Without leniency nothing is guessed, neither in a body nor in a string around it."""
    broken = WIRE.replace(b"ok", rb"\ud83d")
    for body in (broken, orjson.dumps(broken.decode())):
        with pytest.raises(Unreadable):
            read(body, lenient=False)
        assert text(body) == "\ufffd"


@given(st.binary(max_size=50) | st.text(max_size=50).map(lambda said: orjson.dumps({"a": said})[:-3] + b'\n"}'))
def test_any_bytes(body: bytes) -> None:
    """Any bytes are objects that can be written, or Unreadable."""
    try:
        found = read(body)
    except Unreadable:
        return
    assert found
    assert all(isinstance(one, dict) for one in found)
    orjson.dumps(found)


@pytest.mark.parametrize(("named", "expected"), [("instagram", "instagram"), ("whatsapp_business_account", None)])
def test_platform(named: str, expected: str | None) -> None:
    """Notifications of other platforms are told from WhatsApp's, and from what nobody knows."""
    assert platform({"object": named}) == expected
    assert platform({"object": [named]}) is platform({}) is None
