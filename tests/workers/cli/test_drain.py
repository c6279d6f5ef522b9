"""`wa-ingest drain`: honest about the time left, and done when it is empty."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from redis import Redis

from ingest.state import backlog, controls
from workers.cli import drain, drain_estimate
from workers.cli.main import main

SLOW = """
import os
import time
from workers import Handlers
handlers = Handlers()
SECONDS = float(os.environ["SECONDS"])

@handlers.message()
def on_message(message):
    time.sleep(3 * SECONDS)

@handlers.status()
def on_status(status):
    time.sleep(SECONDS)
"""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(run_module: Start, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Start `wa-ingest …` with handlers that take $SECONDS (0.001) for a status, and three times that for a message."""
    (tmp_path / "slow.py").write_text(SLOW)
    monkeypatch.setenv("SECONDS", "0.001")
    monkeypatch.setenv("WA_HANDLERS", "slow:handlers")
    return lambda *arguments: run_module("workers.cli", *arguments, cwd=tmp_path, stderr=subprocess.PIPE)


@pytest.fixture
def fill(commit: Any, message: Any, status: Any) -> Callable[[int, int], None]:
    """Let so many messages and statuses wait."""

    def run(messages: int, statuses: int) -> None:
        commit(*(message(id=f"m{n}", sender=f"1555{n % 100:04}") for n in range(messages)))
        commit(*(status(id=f"s{n}") for n in range(statuses)))

    return run


def test_the_time_left_is_honest(start: Start, fill: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the first tenth on, the time that is named for each lane and the one it took differ by half at most.

    What lies between two settles and between two looks cannot be known: three seconds are allowed for, too. A worker
    that was slow in its first second, since the machine did other things, is believed to go on so: two of three figures
    must be right, and all in the second half.
    """
    monkeypatch.setenv("SECONDS", "0.01")
    monkeypatch.setenv("WA_THREADS", "1")
    fill(150, 450)
    process = start("drain", "--processes", "1", "--json")
    assert process.stdout
    said: list[tuple[float, dict[str, Any]]] = []
    for line in process.stdout:
        said.append((time.monotonic(), json.loads(line)["lanes"]))
    assert process.wait(30) == 0, process.stderr and process.stderr.read()
    for lane in ("messages", "statuses"):
        ended = next(at for at, lanes in said if lanes[lane]["left"] == 0)
        total = said[0][1][lane]["left"]
        judged = [
            (lanes[lane]["done"] / total, lanes[lane]["seconds"], ended - at)
            for at, lanes in said
            if at < ended and lanes[lane]["done"] >= total / 10
        ]
        assert judged
        off = [done for done, told, took in judged if told != pytest.approx(took, rel=0.5, abs=3.0)]
        assert len(off) <= len(judged) / 3, (lane, judged)
        assert all(done < 0.5 for done in off), (lane, judged)


def test_a_lower_lane_is_told_when_its_turn_ends() -> None:
    """The end of a lane that mostly waits for others is not told by its own rate: the work ahead of it counts."""
    assert drain_estimate.ends({"messages": 9.0, "statuses": 10.0, "other": 0.0}) == {
        "messages": 10.0,
        "statuses": 19.0,
        "other": 0.0,
    }
    assert drain_estimate.ends({"messages": 100.0, "statuses": 1.0, "other": 1.0}) == {
        "messages": pytest.approx(102.0),
        "statuses": 10.0,
        "other": 10.0,
    }


def test_what_arrives_meanwhile_takes_its_share() -> None:
    """A backlog to which as much comes as is done has no end; half as much makes it twice as long."""

    def look(at: float, left: int, arrived: int, done: int) -> drain_estimate.Look:
        def lane(count: int) -> dict[str, int]:
            return {"messages": 0, "statuses": count, "other": 0}

        return drain_estimate.Look(at, lane(left), lane(arrived), lane(done), lane(10 * done), frozenset(), 1, lane(0))

    def seconds(*looks: drain_estimate.Look) -> float | None:
        estimate = drain_estimate.Estimate()
        return [estimate.add(one)["statuses"].seconds for one in looks][-1]

    assert seconds(look(0, 1000, 0, 0), look(1, 1000, 0, 0), look(2, 900, 0, 100), look(3, 800, 0, 200)) == 8.0
    assert seconds(look(0, 1000, 0, 0), look(2, 900, 0, 100), look(3, 850, 50, 200)) == 17.0
    assert seconds(look(0, 1000, 0, 0), look(2, 900, 0, 100), look(3, 950, 150, 200)) is None


@pytest.mark.parametrize("look_seconds", [0.1, 0.26, 0.4])
@pytest.mark.parametrize("limit", [1.0, 0.1])
def test_looks_and_settles_do_not_meet(look_seconds: float, limit: float) -> None:
    """Something is settled every half second, looks fall in between: the time left is right from a second on.

    Also of workers that have to wait most of the time, because their lane has a limit, but for what nobody can know.
    """
    estimate = drain_estimate.Estimate()
    found: list[tuple[float, drain_estimate.Left]] = []
    at = 0.0
    while at < 20.0:
        settled = int(at / 0.5)
        done = {"statuses": round(settled * 50 * limit)}
        left = {"statuses": 2000 * limit - done["statuses"]}
        busy = {"statuses": round(settled * 500 * limit)}
        look = drain_estimate.Look(at, left, {"statuses": 0}, done, busy, frozenset(), 1, {"statuses": 0})  # type: ignore[arg-type]
        found.append((at, estimate.add(look)["statuses"]))
        at += look_seconds
    for at, told in found:
        if at >= 1.5:
            unsure = 0.0 if limit == 1.0 else 2 * look_seconds / (at - 1.0)
            assert told.seconds == pytest.approx(20.0 - at // 0.5 * 0.5, rel=0.01 + unsure), at
            assert told.rate == pytest.approx(100 * limit, rel=0.01 + 2 * unsure), at


def test_without_workers_there_is_no_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """However fast it went before, nobody says when it will be empty once no worker is alive."""
    told: list[tuple[float | None, str]] = []
    none = {"statuses": 0}

    def look(at: float, left: int, workers: int) -> drain_estimate.Look:
        done = {"statuses": 1000 - left}
        return drain_estimate.Look(at, {"statuses": left}, none, done, done, frozenset(), workers, none)  # type: ignore[arg-type]

    looks = iter([look(0.0, 1000, 1), look(1.0, 900, 1), look(2.0, 800, 1), look(3.0, 800, 0), look(4.0, 0, 0)])
    follower = drain._Follower([None], ("statuses",))  # type: ignore[list-item]
    follower._each = [(SimpleNamespace(look=lambda: next(looks)), drain_estimate.Estimate())]  # type: ignore[list-item]
    monkeypatch.setattr(drain, "_LOOK_SECONDS", 0.0)
    follower.follow(lambda lanes, remark: told.append((lanes["statuses"].seconds, remark)), "nobody")
    assert told[2][0]
    assert told[2][1] == ""
    assert told[3:] == [(None, "nobody"), (0.0, "nobody")]


def test_it_follows_workers_that_run_elsewhere(start: Start, fill: Any, redis: Redis) -> None:
    """Without --processes it starts nothing, says so when nobody works, and ends when others have emptied the lanes."""
    fill(100, 200)
    redis.delete("rq:wa:alive")
    follower = start("drain")
    assert follower.stderr
    assert "no worker is alive" in follower.stderr.readline()
    worker = start("work")
    out, _ = follower.communicate(timeout=60)
    assert (follower.returncode, worker.poll()) == (0, None)
    assert out.startswith("Empty: 300 notifications in ")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 0


def test_ctrl_c_stops_its_workers_and_loses_nothing(
    start: Start, fill: Any, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C ends it with status 1 and one line; what was not done waits."""
    monkeypatch.setenv("SECONDS", "0.01")
    fill(0, 5000)
    process = start("drain", "--processes", "1", "statuses", "--json")
    assert process.stdout
    while json.loads(process.stdout.readline())["lanes"]["statuses"]["done"] == 0:
        pass
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert err.splitlines()[-1] == "Error: stopped before it was empty; nothing is lost"
    now = backlog.read(redis)
    assert now.workers == 0
    assert 0 < now.lanes["statuses"].waiting < 5000


def test_a_paused_lane_is_left_out(redis_url: str, redis: Redis, fill: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lanes that are paused do not keep it from ending; when all are, it says how they go on."""
    fill(0, 10)
    controls.pause(redis, ["statuses"])
    monkeypatch.setenv("WA_REDIS_URL", redis_url)
    result = CliRunner().invoke(main, ["drain"])
    assert result.exit_code == 0
    assert result.stdout.startswith("Empty: 0 notifications in ")
    result = CliRunner().invoke(main, ["drain", "statuses"])
    assert (result.exit_code, result.stderr) == (
        1,
        "Error: paused: statuses; `wa-ingest resume` lets them go on\n",
    )


def test_what_keeps_it_from_being_drained(monkeypatch: pytest.MonkeyPatch) -> None:
    """No worker, a suspension, and half a minute in which nothing was done are each said."""
    clock = 0.0
    monkeypatch.setattr(drain.time, "monotonic", lambda: clock)
    follower = drain._Follower([], ("statuses",))

    def said(done: int, workers: int = 1, suspended: bool = False) -> str:
        follower.shown = {"statuses": drain_estimate.Left(5, done, 0.0, None, False)}
        none: dict[str, int] = {}
        look = drain_estimate.Look(clock, none, none, none, none, frozenset(), workers, none, suspended)
        return follower._remark([look], "no worker")

    assert said(0, workers=0) == "no worker"
    assert said(0) == ""
    assert said(0, suspended=True) == "suspended by `rq suspend`: `rq resume` lets the workers go on"
    clock = 31.0
    assert said(0) == "nothing was done for 31s: `wa-ingest status` shows what is in work"
    assert said(1) == ""
    clock = 50.0
    assert said(1) == ""


def test_bars_on_a_terminal(start: Start, fill: Any, redis_url: str, tmp_path: Path) -> None:
    """On a terminal there is a bar for each lane, and what the workers print stands above."""
    fill(50, 50)
    shown = subprocess.run(
        ["script", "-qec", f"{sys.executable} -m workers.cli drain --processes 1", "/dev/null"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    ).stdout
    assert "worker started" in shown
    assert "messages" in shown
    assert "100 %" in shown
    assert "Empty: 100 notifications in " in shown


def test_several_redis(two: list[Redis]) -> None:
    """A lane in several Redis is empty when the last is; what is paused in one is not left out."""
    lanes = [drain_estimate.Left(10, 5, 2.0, 5.0, True), drain_estimate.Left(20, 1, 1.0, 20.0, False)]
    assert drain_estimate.together(lanes) == drain_estimate.Left(30, 6, 3.0, 20.0, False)
    assert drain_estimate.together([lanes[0], drain_estimate.Left(1, 0, 0.0, None, False)]).seconds is None
    result = CliRunner().invoke(main, ["drain"])
    assert (result.exit_code, result.stdout) == (0, "Empty: 0 notifications in 0s.\n")
