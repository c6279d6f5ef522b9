"""How headers stand in front of a body."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.store.headers import disclose, enclose, read, within, write

MAGIC = b"\xf5wah"
HEADERS = st.dictionaries(st.text(), st.text())


@given(st.one_of(st.binary(), st.binary().map(MAGIC.__add__)), st.one_of(st.just({}), HEADERS))
def test_both_come_back(body: bytes, headers: dict[str, str]) -> None:
    """Whatever a body begins with, body and headers are told apart again; without headers it is kept as it is."""
    written = write(headers)
    kept = enclose(body, written)
    assert disclose(kept) == (body, written)
    assert read(written) == headers
    assert kept == body or headers or body.startswith(MAGIC)


@given(HEADERS, st.integers(0, 200))
def test_bounded(headers: dict[str, str], room: int) -> None:
    """So many bytes of JSON are never exceeded, and what is kept is unchanged and in order."""
    written = within(write(headers), room)
    assert len(written) <= room
    assert [pair for pair in headers.items() if pair in read(written).items()] == list(read(written).items())


@pytest.mark.parametrize(("room", "names"), [(28, "ab"), (27, "a"), (15, "a"), (14, "b"), (13, ""), (0, "")])
def test_bound_to_the_byte(room: int, names: str) -> None:
    """A header that fits to the byte is kept; one that is too large does not cost the others."""
    assert list(read(write({"a": "1234567", "large": "x" * 100, "b": "123456"}, room))) == list(names)
