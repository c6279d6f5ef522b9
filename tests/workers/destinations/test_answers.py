"""What the answers of destinations mean."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest

from workers.destinations.answers import Answered, meaning, retry_after
from workers.raised import DestinationError, Reject, RetryIn, Snooze


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_taken(status: int) -> None:
    """2xx is handled."""
    assert meaning(status, None, b"") is None


@pytest.mark.parametrize("status", [301, 302, 307, 400, 401, 403, 404, 410, 413, 422])
def test_refused(status: int) -> None:
    """Other 4xx, and 3xx, which nobody follows, are dead letters with status and the beginning of the answer."""
    error = meaning(status, 5.0, b"no such account" + b"!" * 1000)
    assert isinstance(error, Reject)
    assert str(error).startswith(f"answered {status}: no such account!!!")
    assert str(error).count("!") == 485


@pytest.mark.parametrize("status", [408, 425, 500, 502, 503, 504, 599])
def test_later(status: int) -> None:
    """408, 425 and 5xx are tried again: when Retry-After says, else as any failure."""
    assert isinstance(meaning(status, None, b"\xff"), Answered)
    error = meaning(status, 7.0, b"")
    assert isinstance(error, RetryIn)
    assert error.seconds == 7
    assert str(error) == f"answered {status}, asked for a retry in 7 s"


@pytest.mark.parametrize("status", [404, 500])
def test_what_may_be_logged(status: int) -> None:
    """The status, and nothing of the answer's text, which may be about a person."""
    error = meaning(status, None, b"Ada is unknown")
    assert isinstance(error, DestinationError)
    assert (error.told, str(error)) == (f"answered {status}", f"answered {status}: Ada is unknown")


def test_too_many() -> None:
    """429 uses up no try, and waits as long as it says."""
    error, unsaid = meaning(429, 2.0, b""), meaning(429, None, b"")
    assert isinstance(error, Snooze)
    assert isinstance(unsaid, Snooze)
    assert (error.seconds, unsaid.seconds) == (2, 1)


def test_retry_after() -> None:
    """Retry-After is a number of seconds or a date; what is neither says nothing, what is past says now."""
    assert retry_after("120") == 120
    assert retry_after(None) is None
    assert retry_after("soon") is None
    assert retry_after("-5") is None
    in_a_minute = retry_after(formatdate(time.time() + 60, usegmt=True))
    assert in_a_minute is not None
    assert 50 < in_a_minute <= 60
    assert retry_after(formatdate(time.time() - 60, usegmt=True)) == 0
    assert retry_after("9" * 30) == 7 * 86_400
