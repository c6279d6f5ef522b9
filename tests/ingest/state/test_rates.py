"""Rates as people write them."""

from __future__ import annotations

import pytest

from ingest.state import rates


@pytest.mark.parametrize(
    ("text", "rate", "shown"),
    [
        ("200/s", 200.0, "200/s"),
        ("0.5/s", 0.5, "30/m"),
        ("100/m", 100 / 60, "100/m"),
        (" 7 / h", 7 / 3600, "7/h"),
        ("1e3/s", 1000.0, "1000/s"),
        ("2.55/s", 2.55, "153/m"),
    ],
)
def test_read_and_shown(text: str, rate: float, shown: str) -> None:
    """A number per second, minute or hour, shown in the unit that makes it whole; also after it lay in Redis."""
    assert rates.per_second(text) == pytest.approx(rate)
    assert rates.in_words(float(f"{rate:g}")) == shown


@pytest.mark.parametrize("text", ["", "fast", "200", "0/s", "-1/s", "1/d", "inf/s", "nan/s", "1/s/s", "/s", "_/s"])
def test_what_is_no_rate(text: str) -> None:
    """Anything else is refused with what is expected."""
    with pytest.raises(ValueError, match="no rate: give a number above 0 per second, minute or hour, such as 200/s"):
        rates.per_second(text)
