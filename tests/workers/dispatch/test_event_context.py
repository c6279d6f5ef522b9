"""From a line that a handler writes to the dead letter and back: they name the same notification."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from redis import Redis

from ingest.settings import load
from ingest.state import dead_letters as letters
from ingest.store import keys
from ingest.store.records import digest, notification_id
from ingest.telemetry.log_throttle import FIRST, SECONDS
from workers import Handlers, Reject

RECEIVED = 1_700_000_000_000

BOT = """
import asyncio
import logging
import structlog
from workers import Handlers, RetryIn
handlers = Handlers()
log = structlog.get_logger()

@handlers.message()
def on_message(message):
    log.info("seen")
    logging.getLogger(__name__).info("seen too")
    raise RetryIn(0.1)
"""

ASYNC = """
@handlers.status()
async def on_status(status):
    await asyncio.sleep(0.01)
    await asyncio.to_thread(log.info, "seen", of=status.id)
"""

FAILING = """
from workers import Handlers
handlers = Handlers()

@handlers.status()
def on_status(status):
    if int(status.id) % 2:  # never ten in a row, whichever thread is late
        raise ValueError("15550001")
"""


@pytest.fixture
def bot(
    run_module: Callable[..., Any], tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Callable[[], list[dict[str, Any]]]]:
    """Start a worker with that text as the module of its handlers; gives what it has logged so far."""
    monkeypatch.setenv("WA_HANDLERS", "bot:handlers")

    def start(text: str) -> Callable[[], list[dict[str, Any]]]:
        (tmp_path / "bot.py").write_text(text)
        path = tmp_path / "log"
        with path.open("w") as log:
            run_module("workers.engine.worker", cwd=tmp_path, stdout=log)
        return lambda: [orjson.loads(line) for line in path.read_text().splitlines(keepends=True) if line[-1] == "\n"]

    return start


@pytest.mark.parametrize("text", [BOT, BOT + ASYNC], ids=["sync", "async"])
def test_lines_of_a_handler_lead_to_the_dead_letter(
    text: str, bot: Any, commit: Any, message: Any, redis: Redis, wait_for: Any, monkeypatch: Any
) -> None:
    """structlog's and logging's lines name notification, lane and attempt, the same at each try, as the letter does."""
    monkeypatch.setenv("WA_MAX_ATTEMPTS", "2")
    body = message()
    commit(body)
    lines = bot(text)
    wait_for(lambda: any(line["event"] == "dead letters" for line in lines()))
    expected = notification_id(RECEIVED, digest(body))
    said = [(x["event"], x["notification"], x["lane"], x["attempt"]) for x in lines() if x["event"].startswith("seen")]
    assert said == [(event, expected, "messages", n) for n in (1, 2) for event in ("seen", "seen too")]
    (letter,) = letters.read(redis, letters.select(redis, letters.Wanted()))
    assert letter.as_json()["notification"] == expected
    told = next(line for line in lines() if line["event"] == "dead letters")
    assert (told["lane"], told["reason"], told["count"]) == ("messages", "failed", 1)
    assert all("notification" not in line for line in lines() if not line["event"].startswith("seen"))


def test_async_handlers_do_not_mix(bot: Any, commit: Any, status: Any, wait_for: Any) -> None:
    """Of many async handlers at a time, also in threads of theirs, each line names its own notification."""
    bodies = {f"s{n}": status(f"s{n}") for n in range(50)}
    commit(*bodies.values())
    lines = bot(BOT + ASYNC)
    wait_for(lambda: sum(line["event"] == "seen" for line in lines()) == 50)
    for line in lines():
        if line["event"] == "seen":
            assert line["notification"] == notification_id(RECEIVED, digest(bodies[line["of"]]))


def test_what_is_fed_back_keeps_its_name(
    runner: Callable[..., Any], commit: Any, message: Any, take: Any, redis: Redis
) -> None:
    """An event that was a dead letter and is handled again still has the id of the notification it came with."""
    handlers = Handlers()
    names: list[str] = []

    @handlers.message()
    def on_message(event: Any) -> None:
        names.append(event.notification)
        if len(names) == 1:
            raise Reject

    body = message().replace(b"{", b"{ ", 1)  # not as we would write it
    commit(body)
    work = runner(handlers, "w1")
    work.run(*take("w1"))
    assert sum(letters.requeue(redis, letters.select(redis, letters.Wanted()), load())) == 1
    work.run(*take("w1"))
    assert names == [notification_id(RECEIVED, digest(body))] * 2


def test_a_flood_of_failures_is_a_few_lines(
    bot: Any, commit: Any, status: Any, redis: Redis, wait_for: Any, monkeypatch: Any
) -> None:
    """Thousands of failing events a second cost a few lines of log, and none tells what was in them."""
    monkeypatch.setenv("WA_MAX_ATTEMPTS", "1")
    commit(*[status(str(n)) for n in range(20_000)], batch=50)
    began = time.monotonic()
    lines = bot(FAILING)
    wait_for(lambda: redis.xlen(keys.dead_key("statuses")) == 10_000, 60)
    written = Counter(line["event"] for line in lines())
    windows = 1 + int((time.monotonic() - began) / SECONDS)
    assert max(written.values()) <= (FIRST + 1) * windows  # the first few of each sort, and one that counts the rest
    assert {"events failed", "dead letters"} <= set(written)
    assert len(written) < 10
    assert "15550001" not in str(lines())
