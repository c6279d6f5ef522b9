"""docs/recipes/opt-outs.md, with real workers."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import orjson
import pytest
from redis import Redis

from ingest.store import keys
from ingest.store.queues import lane_of
from tests.workers.destinations.test_posting import cloud, text

SWITCH = {
    "stop": lambda who, at: switch(who, at, "stop"),
    "resume": lambda who, at: switch(who, at, "resume"),
    "STOP.": lambda who, at: words(who, at, "STOP."),
    "Start": lambda who, at: words(who, at, "Start"),
}
_ids = itertools.count()


def switch(who: str, at: int, value: str) -> bytes:
    element = {"wa_id": who, "category": "marketing_messages", "value": value, "timestamp": at}
    body = orjson.loads(cloud())
    change = body["entry"][0]["changes"][0]
    del change["value"]["messages"]
    change["value"] |= {"user_preferences": [element], "contacts": [{"wa_id": who}]}
    change["field"] = "user_preferences"
    return orjson.dumps(body)


def words(who: str, at: int, said: str) -> bytes:
    return cloud(text(f"m{next(_ids)}", who) | {"timestamp": str(at), "text": {"body": said}})


@pytest.fixture
def bot_module(imported: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The page's module, asked of the database of the workers."""
    monkeypatch.setenv("DATABASE", str(tmp_path / "contacts.db"))
    return imported("opt-outs.md")


def test_the_last_word_counts(bot_module: Any, work: Any, commit: Any) -> None:
    """Either way says it, whatever order they come in and however often; who never said it may be written to."""
    for first, second in itertools.product(SWITCH, SWITCH):
        both = [SWITCH[first](f"{first}{second}+", 1_700_000_000), SWITCH[second](f"{first}{second}+", 1_700_000_060)]
        late = [SWITCH[second](f"{first}{second}-", 1_700_000_060), SWITCH[first](f"{first}{second}-", 1_700_000_000)]
        commit(*both, *late, *both)
    commit(words("other", 1_700_000_000, "Do not stop"))
    work("opt-outs.md")
    for first, second in itertools.product(SWITCH, SWITCH):
        for how in "+-":
            allowed = bot_module.may_write("7", f"{first}{second}{how}")
            assert allowed is (second in ("resume", "Start")), (first, second, how)
    assert bot_module.may_write("7", "other")
    assert bot_module.may_write("7", "nobody")


def test_in_the_urgent_lane(commit: Any, redis: Redis) -> None:
    """Both ways wait in the lane of messages."""
    commit(switch("1", 1_700_000_000, "stop"), words("1", 1_700_000_000, "stop"))
    queues: Any = redis.smembers(keys.RQ_QUEUES)
    assert {lane_of(keys.queue_of(key)) for key in queues} == {"messages"}
