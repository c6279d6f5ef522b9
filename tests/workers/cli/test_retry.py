"""`wa-ingest retry`: what waits for its next try is tried now."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from redis import Redis

from ingest.state import backlog, controls
from ingest.store import keys
from workers import Handlers, RetryIn
from workers.cli.main import main
from workers.dispatch.breakdowns import FAILURES
from workers.engine import reaper
from workers.loading import load as load_handlers
from workers.raised import Unreachable

Wa = Callable[..., Result]


@pytest.fixture
def wa() -> Wa:
    return lambda *arguments: CliRunner().invoke(main, ["retry", *arguments])


def test_nothing_waits(wa: Wa, redis: Redis) -> None:
    """It says so, and is no failure."""
    result = wa()
    assert (result.exit_code, result.output) == (0, "Nothing waits for its next try.\n")
    assert json.loads(wa("--json").output) == {"events": 0, "lanes": {"messages": 0, "statuses": 0, "other": 0}}


def test_in_order_and_without_a_try(
    wa: Wa, commit: Any, take: Any, runner: Any, message: Any, status: Any, redis: Redis
) -> None:
    """What asked for time or was put off is tried at once, in order of arrival, each with the number of its next try;
    workers that have nothing to do are woken.
    """
    handlers, seen, away = Handlers(), [], [True]
    delays = iter([900.0, 300.0, 600.0])

    @handlers.message()
    def on_message(event: Any) -> None:
        if away[0]:
            raise RetryIn(next(delays))
        seen.append((event.id, event.attempt))

    @handlers.status()
    async def on_status(event: Any) -> None:
        if away[0]:
            raise Unreachable("away")
        seen.append((event.id, event.attempt))

    made = runner(handlers)
    for number in range(3):
        commit(message(f"m{number}", sender="1"), status(f"s{number}"), received_ms=1_700_000_000_000 + number)
        made.run(*take.many())
    assert take() != -1
    lanes = backlog.read(redis).lanes
    assert (lanes["messages"].retrying, lanes["statuses"].retrying) == (3, 3)
    redis.delete(keys.doorbell_key("messages"))

    reaper.heartbeat_and_reap(redis, "w1")
    first, second, *lines = wa().output.splitlines()
    assert second == "If not, all of it waits on, and no try is used up."
    assert first.endswith("on_status always fails: it is tried now; if that succeeds, the rest follows.")
    assert lines[0] == "Due now: messages 3, statuses 3."
    assert lines[1] == "Workers try them in order of arrival; what fails of other handlers uses up a try."
    assert redis.llen(keys.doorbell_key("messages")) == 1
    lanes = backlog.read(redis).lanes
    assert (lanes["messages"].retrying, lanes["messages"].waiting) == (0, 3)
    assert len(wa().output.splitlines()) == 2
    away[0] = False
    other = runner(handlers, "w2")
    while given := take.many("w2"):
        other.run(*given)
    assert [one for one in seen if one[0].startswith("m")] == [("m0", 2), ("m1", 2), ("m2", 2)]
    assert [one for one in seen if one[0].startswith("s")] == [("s0", 1), ("s1", 1), ("s2", 1)]


def test_strict_order(wa: Wa, commit: Any, take: Any, runner: Any, message: Any, redis: Redis) -> None:
    """A contact's later events still come after the one that they wait for."""
    handlers, seen, away = Handlers(), [], [True]

    @handlers.message(strict_order=True)
    def on_message(event: Any) -> None:
        if away[0]:
            raise RetryIn(900)
        seen.append(event.id)

    commit(*(message(f"m{number}", sender="1") for number in range(4)))
    made = runner(handlers)
    made.run(*take())
    assert backlog.read(redis).lanes["messages"].behind == 3
    assert wa().output.startswith("Due now: messages 1.")
    away[0] = False
    while given := take.many():
        made.run(*given)
    assert seen == ["m0", "m1", "m2", "m3"]


BOT = """
from workers import Handlers, RetryIn

handlers = Handlers()

@handlers.message("text")
def crm(message):
    raise RetryIn(900)

@handlers.status()
def shop(status):
    raise RetryIn(900)

@handlers.status()
def counts(status):
    pass
"""


@pytest.fixture
def bot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Handlers]:
    """Handlers in a module, of which some always ask for time."""
    (tmp_path / "retry_bot.py").write_text(BOT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WA_HANDLERS", "retry_bot:handlers")
    yield load_handlers("retry_bot:handlers")
    del sys.modules["retry_bot"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("retry_bot.crm", "Due now: messages 1."),
        ("retry_bot.shop", "Due now: statuses 1."),
        ("retry_bot.counts", "Nothing waits for its next try by retry_bot.counts."),
    ],
)
def test_of_one_handler(
    name: str, said: str, wa: Wa, bot: Handlers, commit: Any, take: Any, runner: Any, message: Any, status: Any
) -> None:
    """With --handler, what that one wants and has not handled is due, and nothing of what others wait for."""
    commit(message(), status())
    runner(bot).run(*take.many())
    assert wa("--handler", name).output.startswith(said)


def test_a_name_that_no_handler_has(wa: Wa, bot: Handlers, redis: Redis) -> None:
    """A slip is told with the name that was meant, and changes nothing."""
    result = wa("--handler", "retry_bot.cmr")
    assert result.exit_code == 1
    assert result.output == (
        "Error: no handler is named 'retry_bot.cmr', see `wa-ingest handlers`; did you mean 'retry_bot.crm'?\n"
    )


def test_what_is_in_the_way(
    wa: Wa, commit: Any, take: Any, runner: Any, status: Any, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handler that is paused, a lane that is, and workers that are missing are told: they keep what is due from being
    handled. One that failed when there were workers does not: the next ones try it anyway.
    """
    monkeypatch.setattr("workers.engine.retries.put_off", lambda waits: 300.0)
    handlers = Handlers()

    @handlers.status()
    def shop(event: Any) -> None:
        raise ValueError

    commit(*(status(str(number)) for number in range(FAILURES)))
    runner(handlers).run(*take())
    controls.pause(redis, [controls.handler("crm"), "statuses", "other"])
    lines = wa().output.splitlines()
    assert lines[0].startswith(f"Due now: statuses {FAILURES}.")
    assert lines[2] == "No worker is alive: they wait until you start `wa-ingest work`."
    assert lines[3] == "But crm is paused, what is for it waits: `wa-ingest resume --handler crm`."
    assert lines[4:] == ["But the lane statuses is paused: `wa-ingest resume statuses`."]
