"""`wa-ingest pause`, `resume`, `limit`, and how `status` shows them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner, Result
from redis import Redis

from ingest.state import backlog, controls, in_work
from ingest.store import keys
from ingest.store.constants import FLOW_SECONDS
from workers.cli.main import main


@pytest.fixture
def wa(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run a command of `wa-ingest` in this process, on a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    return lambda *arguments: CliRunner().invoke(main, arguments)


def test_pause_and_resume(wa: Callable[..., Result], commit: Any, status: Any, redis: Redis) -> None:
    """They say what happens, how many wait and how to go back; `status` shows it until then."""
    commit(*[status(str(n)) for n in range(1234)])
    said = wa("pause", "statuses").output
    for part in ("statuses: paused, 1,234 notifications wait", "goes on accepting", "wa-ingest resume statuses"):
        assert part in said
    assert "statuses: paused since" in wa("pause", "statuses").output
    shown = wa("status").output
    assert "statuses: paused since" in shown
    assert max(map(len, shown.splitlines())) <= 80
    lane = json.loads(wa("status", "--json").output)["lanes"]["statuses"]
    assert (lane["paused"], lane["limit"], lane["seconds_to_empty"]) == (True, None, None)
    assert "statuses: goes on, 1,234 notifications wait" in wa("resume", "statuses").output
    assert "statuses: was not paused" in wa("resume", "statuses").output
    assert "paused" not in wa("status").output


def test_what_is_in_work_is_told(wa: Callable[..., Result], commit: Any, status: Any, take: Any, redis: Redis) -> None:
    """`pause` and `resume` also count what workers have in hand, and `resume` what there was before workers took it."""
    commit(status("1"))
    take("w1", "statuses")
    commit(status("2"))
    assert wa("pause", "statuses").output.startswith("statuses: paused, 1 notification waits, 1 is in work\n")
    assert wa("resume", "statuses").output.startswith("statuses: goes on, 1 notification waits, 1 is in work\n")
    found = json.loads(wa("resume", "--json").output)["lanes"]["statuses"]
    assert (found["waiting"], found["working"]) == (1, 1)


def test_resume_tells_what_waited(
    wa: Callable[..., Result], commit: Any, status: Any, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers that take everything as soon as the lane is resumed do not make it say that nothing has waited."""
    commit(status("1"), status("2"))
    wa("pause", "statuses")
    monkeypatch.setattr(controls, "resume", lambda redis, _: redis.flushall())
    assert wa("resume", "statuses").output.startswith("statuses: goes on, 2 notifications wait\n")


def test_all_lanes(wa: Callable[..., Result], redis: Redis) -> None:
    """Without a lane they mean all."""
    found = json.loads(wa("pause", "--json").output)["lanes"]
    assert {name: lane["paused"] for name, lane in found.items()} == {"messages": True, "statuses": True, "other": True}
    found = json.loads(wa("resume", "--json").output)["lanes"]
    assert {name: lane["paused_since"] for name, lane in found.items()} == dict.fromkeys(found)


def test_limit(wa: Callable[..., Result], redis: Redis) -> None:
    """It sets a cap, shows what is in force, and takes it away."""
    assert "statuses: at most 200/s" in wa("limit", "statuses", "200/s").output
    assert "messages: at most 100/m" in wa("limit", "messages", "100/m").output
    assert controls.read(redis).limits == {"statuses": 200.0, "messages": pytest.approx(100 / 60, rel=1e-4)}
    shown = wa("limit").output
    assert (
        "messages: at most 100/m over all workers\nstatuses: at most 200/s over all workers\nother: no limit" in shown
    )
    assert "statuses: at most 200/s" in wa("status").output
    assert json.loads(wa("status", "--json").output)["lanes"]["statuses"]["limit"] == 200.0
    assert "statuses: no limit" in wa("limit", "statuses", "off").output
    assert json.loads(wa("limit", "--json").output)["lanes"]["statuses"]["limit"] is None
    assert wa("resume", "messages").output.startswith("messages: was not paused")


def test_pause_and_resume_a_handler(wa: Callable[..., Result], redis: Redis) -> None:
    """They say what happens to whom and how to go back; `status` shows it until then, whatever the name, and no lane
    is paused by it. Who resumes lanes is told which handlers stay paused.
    """
    said = wa("pause", "--handler", "crm", "--handler", "shop.on message").output
    for part in ("crm: paused\n", "use up no tries", "wa-ingest resume --handler crm --handler 'shop.on message'\n"):
        assert part in said
    assert "crm: paused since" in wa("pause", "--handler", "crm").output
    shown = wa("status").output
    assert "crm: paused since" in shown
    assert "--handler crm` lets it go on" in " ".join(shown.split())
    assert max(map(len, shown.splitlines())) <= 80
    found = json.loads(wa("status", "--json").output)
    assert [one["handler"] for one in found["steered"]] == ["crm", "shop.on message"]
    assert not any(lane["paused"] for lane in found["lanes"].values())
    said = wa("resume").output
    assert said.count("was not paused") == 3
    assert "Handler crm stays paused: wa-ingest resume --handler crm\n" in said
    assert said.endswith("Handler shop.on message stays paused: wa-ingest resume --handler 'shop.on message'\n")
    assert wa("resume", "--handler", "crm").output == "crm: goes on\n"
    assert wa("resume", "--handler", "crm").stdout == "crm: was not paused\n"
    found = json.loads(wa("resume", "--handler", "crm", "--json").stdout)["handlers"]
    assert {name: one["paused"] for name, one in found.items()} == {"crm": False, "shop.on message": True}


def test_a_handler_that_nobody_knows(wa: Callable[..., Result], redis: Redis) -> None:
    """Who pauses or limits a handler that no worker has called is warned, with the name that may be meant."""
    redis.hset(keys.COUNTERS, "handler|bot.on_message|0.25", 1)
    for command in (("pause", "--handler", "bot.on_mesage"), ("limit", "--handler", "bot.on_mesage", "5/s")):
        result = wa(*command)
        assert result.exit_code == 0
        (line,) = result.stderr.splitlines()
        assert line.startswith("Warning: no worker has called bot.on_mesage lately")
        assert line.endswith("did you mean 'bot.on_message'?")
        known = [word.replace("mesage", "message") for word in command]
        assert wa(*known).stderr == ""
    assert wa("resume", "--handler", "bot.on_mesage").stderr == ""


def test_a_handler_that_no_worker_has(wa: Callable[..., Result], redis: Redis) -> None:
    """While workers tell their handlers, another name is neither paused nor limited, and the error names the near one;
    what is paused or limited already can be changed, whoever has it.
    """
    controls.pause(redis, [controls.handler("gone")])
    redis.zadd(keys.ALIVE, {"w1": int(time.time() * 1000)})
    redis.hset(keys.IN_WORK, mapping=in_work.told_handlers("w1", ["bot.store", "crm"], "30s"))  # type: ignore[arg-type]
    for command in (("pause", "--handler", "crm", "--handler", "store"), ("limit", "--handler", "store", "5/s")):
        result = wa(*command)
        error = "Error: no worker has a handler store, see `wa-ingest handlers` for names; did you mean 'bot.store'?\n"
        assert (result.exit_code, result.stdout, result.stderr) == (1, "", error)
    assert [one.handler for one in backlog.read(redis).steered] == ["gone"]
    for command in (("pause", "--handler", "bot.store"), ("pause", "--handler", "gone")):
        assert (wa(*command).exit_code, wa(*command).stderr) == (0, "")
    for command in (("limit", "--handler", "gone", "5/s"), ("limit", "--handler", "gone", "off")):
        assert wa(*command).exit_code == 0
    assert wa("resume", "--handler", "gone").output == "gone: goes on\n"


def test_status_of_handlers(wa: Callable[..., Result], redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """`status` has a line for each handler that was called in the last minute or is held up, within 80 columns."""
    assert "events/s" not in wa("status").output
    bucket = int(redis.time()[0]) // FLOW_SECONDS  # type: ignore[index]
    calls = {
        "handler|crm|0.25": 600,
        "handler|crm|failed": 4,
        f"handler|shop.{'x' * 80}|5.0": 1,
        "handler|stuck|inf": 3,
    }
    for back in (1, 2):  # the next ten seconds may begin meanwhile
        redis.hset(keys.flow_key(bucket - back), mapping=calls)
    monkeypatch.setattr(backlog, "_counted_seconds", lambda *_: 60.0)
    redis.hset(keys.BREAKDOWNS, "down", json.dumps({"error": "x", "next_try": time.time() + 9, "since": time.time()}))
    lines = wa("status").output.splitlines()
    assert max(map(len, lines)) <= 80
    shown = [line.split() for line in lines[lines.index(next(line for line in lines if "events/s" in line)) :]]
    assert shown[0] == ["handler", "events/s", "p99", "failed", "owed", "oldest", "held", "up"]
    assert shown[2][:7] == ["down", "0.0", "-", "0", "-", "-", "failing"]
    assert shown[3][0] == "since"  # below, where a name needs the room
    assert shown[4] == ["crm", "20", "≤", "250ms", "8", "-", "-", "-"]
    assert shown[5][:5] == ["stuck", "0.1", ">", "30.0s", "0"]
    found = json.loads(wa("status", "--json").output)["handlers"]
    assert [(one["name"][:4], one["rate"], one["failures"], one["held"]) for one in found] == [
        ("down", 0.0, 0, "failing"),
        ("crm", 20.0, 8, None),
        ("stuc", 0.1, 0, None),
        ("shop", 0.033, 0, None),
    ]


def test_limit_a_handler(wa: Callable[..., Result], redis: Redis) -> None:
    """It sets a cap on one handler, shows what is in force, and takes it away; lanes have none by that."""
    said = wa("limit", "--handler", "crm", "50/s").stdout
    assert said == "crm: at most 50/s over all workers\nTo take it away: wa-ingest limit --handler crm off\n"
    assert "crm: at most 50/s" in wa("limit", "--handler", "crm").output
    assert wa("limit").output.splitlines()[-2:] == ["other: no limit", "crm: at most 50/s over all workers"]
    assert "crm: at most 50/s" in wa("status").output
    assert json.loads(wa("limit", "--handler", "crm", "--json").output)["handlers"]["crm"]["limit"] == 50.0
    wa("pause", "--handler", "crm")
    assert wa("resume", "--handler", "crm").output == "crm: goes on, at most 50/s\n"
    assert wa("limit", "--handler", "crm", "off").output == "crm: no limit\n"
    assert json.loads(wa("status", "--json").output)["steered"] == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("pause", "statuses", "--handler", "crm"),
        ("pause", "--handler", ""),
        ("resume", "--handler", "a\x1bb"),
        ("limit", "--handler", "crm", "fast"),
        ("limit", "--handler", "crm", "other", "1/s"),
        ("limit", "--handler", " ", "1/s"),
        ("pause", "status"),
        ("resume", "messages.1"),
        ("limit", "200/s"),
        ("limit", "other", "fast"),
        ("limit", "other", "0/s"),
    ],
)
def test_wrong_usage(wa: Callable[..., Result], arguments: tuple[str, ...], redis: Redis) -> None:
    """A lane or a rate that is none exits 2 and changes nothing."""
    assert wa(*arguments).exit_code == 2
    assert not redis.exists(keys.CONTROLS)


@pytest.mark.parametrize("command", ["pause", "resume", "limit"])
def test_a_handler_in_the_place_of_a_lane(wa: Callable[..., Result], command: str) -> None:
    """The line shows the option that takes the name of a handler, ready to copy."""
    result = wa(command, "shop.on message")
    assert (result.exit_code, result.stdout) == (2, "")
    line = " ".join(result.stderr.splitlines()[-1].split())
    assert line.startswith(
        "Error: Invalid value for LANE: 'shop.on message' is no lane: give one of messages, statuses, "
    )
    assert line.endswith("other; or --handler 'shop.on message', if that is a handler or destination")


@pytest.mark.parametrize("command", [("pause",), ("resume",), ("limit",)])
def test_redis_is_away(command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, exit status 1."""
    monkeypatch.setenv("WA_REDIS_URL", "redis://127.0.0.1:1")
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: Redis is not reachable: ")
    assert len(result.stderr.splitlines()) == 1


def test_several_redis(wa: Callable[..., Result], two: list[Redis]) -> None:
    """A pause is said to each Redis, a limit shared out among them; `status` shows both as one."""
    wa("pause", "messages")
    wa("limit", "statuses", "200/s")
    wa("pause", "--handler", "crm")
    wa("limit", "--handler", "crm", "50/s")
    for redis in two:
        assert controls.of_handlers(redis.hgetall(keys.CONTROLS)).limits == {"crm": 25.0}  # type: ignore[arg-type]
        now = controls.read(redis)
        assert (list(now.paused), now.limits) == (["messages"], {"statuses": 100.0})
    found = json.loads(wa("status", "--json").output)
    lanes, (crm,) = found["lanes"], found["steered"]
    assert (crm["handler"], crm["paused_since"] is not None, crm["limit"]) == ("crm", True, 50.0)
    controls.limit(two[0], controls.handler("crm"), None)
    assert json.loads(wa("status", "--json").output)["steered"][0]["limit"] is None
    assert (lanes["messages"]["paused"], lanes["statuses"]["limit"]) == (True, 200.0)
    assert "statuses: at most 200/s over all workers" in wa("limit", "statuses").output
    wa("resume")
    wa("limit", "statuses", "off")
    assert [controls.read(redis) for redis in two] == [controls.Controls({}, {})] * 2
