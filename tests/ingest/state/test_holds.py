"""What lets handlers get no more now, in words."""

from __future__ import annotations

import time
from datetime import datetime

import pytest

from ingest.state import holds
from ingest.state.holds import Hold

PAST = datetime(2020, 1, 2, 3, 4, 5).timestamp()


@pytest.mark.parametrize(
    ("each", "words"),
    [
        ([Hold("crm", "rate", 50.0)], "its rate of 50/s"),
        ([Hold("crm", "concurrency", 20), Hold("crm", "rate", 0.5)], "its rate of 30/m"),
        ([Hold("crm", "rate", 50.0), Hold("crm", "limit", 10.0)], "a limit of 10/s (wa-ingest limit)"),
        ([Hold("crm", "pace", 24.3, PAST - 60), Hold("crm", "pace", 24.7, PAST)], "held to 49/s since a 429 at"),
        ([Hold("crm", "concurrency", 20), Hold("crm", "429", at=PAST)], "its concurrency of 20"),
    ],
)
def test_one_cause_is_told(each: list[Hold], words: str) -> None:
    """It is the one that holds back most, over all workers; each of these has found its own pace. A 429 ends."""
    found = holds.in_words(each)["crm"]
    assert found.replace(" 2020-01-02 03:04:05", "") == words


def test_a_429_says_when_it_ends() -> None:
    """The longest of all workers."""
    now = time.time()
    found = holds.in_words([Hold("crm", "429", at=now + 4), Hold("crm", "429", at=now + 9), Hold("crm", "pace", 5)])
    assert found == {"crm": "429, tries again in 9 s"}
