"""The names of queues, and of batches in them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ingest.store.queues import LANES, Member, lane_of, partition_number, queue_names


def test_a_queue_says_its_lane_and_partition() -> None:
    """Of every queue that there may be, lane and partition can be read from the name."""
    names = [name for lane in LANES for name in queue_names(lane, 12)]
    assert [lane_of(name) for name in names] == ["messages"] * 12 + ["statuses", "other"]
    assert [partition_number(name) for name in names] == [*range(12), None, None]


@given(st.sampled_from([*queue_names("messages", 3), "statuses"]), st.from_regex("[A-Za-z0-9_-]+", fullmatch=True))
def test_a_member_of_the_ledger(queue: str, batch: str) -> None:
    """It is QUEUE|ID as text, and the same again when that is read."""
    member = Member(queue, batch)
    assert str(member) == f"{queue}|{batch}"
    assert Member.parse(str(member).encode()) == member
