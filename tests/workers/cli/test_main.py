from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from redis import Redis

from ingest import troubleshooting
from ingest.store import keys
from workers.cli import checks
from workers.cli.main import main
from workers.cli.redis_checks import Check


@pytest.fixture
def wa() -> Callable[..., Result]:
    """Run a command of `wa-ingest` in this process."""
    return lambda *arguments: CliRunner().invoke(main, arguments)


@pytest.mark.parametrize("command", ["", "up", "serve", "work", "status", "settings", "check"])
def test_help(wa: Callable[..., Result], command: str) -> None:
    """Every command explains itself."""
    result = wa(*filter(None, [command]), "--help")
    assert result.exit_code == 0
    assert len(result.output.splitlines()) > 6


@pytest.mark.parametrize("arguments", [["fly"], ["work", "--processes", "0"], ["status", "--wach"]])
def test_wrong_usage(wa: Callable[..., Result], arguments: list[str]) -> None:
    """Wrong usage exits 2."""
    assert wa(*arguments).exit_code == 2


@pytest.mark.parametrize("command", ["serve", "work", "status", "check"])
def test_no_redis_url(wa: Callable[..., Result], command: str) -> None:
    """Without WA_REDIS_URL every command but `up` asks for it in one line and exits 1."""
    result = wa(command)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: WA_REDIS_URL is not set: ")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("WA_BATCH", "0", "WA_BATCH: "),
        ("WA_LANES", "message", "WA_LANES: "),
        ("WA_REDIS_URL", "http://localhost", "WA_REDIS_URL: "),
        ("WA_REDIS_URL", "redis://127.0.0.1:1", "Redis is not reachable: "),
        ("WA_REDIS_URL", "unix:///nowhere/valkey.sock", "Redis is not reachable: "),
    ],
)
def test_wrong_settings(
    wa: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    """A wrong setting or a Redis that is away is one line on standard error and exit status 1."""
    monkeypatch.setenv("WA_REDIS_URL", "redis://127.0.0.1:1")
    monkeypatch.setenv(name, value)
    result = wa("status")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: " + says)
    assert len(result.stderr.splitlines()) == 1


def test_misspelt_variable(wa: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that is no setting is named, so that a typing error does not go unnoticed."""
    monkeypatch.setenv("WA_HANDELRS", "x:y")
    assert "WA_HANDELRS" in wa("settings").stderr


def test_settings(wa: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`settings` shows every variable with value and meaning, and no secret, also in JSON."""
    (tmp_path / "secret").write_text("s3cret\n")
    monkeypatch.setenv("WA_APP_SECRET_FILE", str(tmp_path / "secret"))
    monkeypatch.setenv("COLUMNS", "200")
    text = wa("settings").output
    shown = json.loads(wa("settings", "--json").output)
    assert "s3cret" not in text + json.dumps(shown)
    assert shown["WA_HANDLER_TIMEOUT"]["value"] == "30s"
    assert shown["WA_APP_SECRET"]["value"] == "**********"
    for name in shown:
        assert name in text
        assert shown[name]["meaning"]


def test_status_json(
    wa: Callable[..., Result], commit: Any, take: Any, status: Any, message: Any, redis: Redis
) -> None:
    """`status --json` has the shape that scripts rely on; `waiting` counts notifications."""
    commit(*[status(str(n)) for n in range(7)], received_ms=1_700_000_000_000, batch=5)
    commit(message())
    take("w1", "messages")
    redis.zadd(keys.ALIVE, {"w1": int(redis.time()[0]) * 1000})  # type: ignore[index]
    redis.xadd(keys.dead_key("other"), {"reason": "unknown_form"})
    shown = json.loads(wa("status", "--json").output)
    assert shown["workers"] == 1
    lane = shown["lanes"]["statuses"]
    assert (lane["waiting"], lane["batches"], lane["working"], lane["retrying"], lane["dead"]) == (7, 2, 0, 0, 0)
    assert lane["oldest_seconds"] > 1e6
    assert shown["lanes"]["messages"] | {"working": 0} == shown["lanes"]["messages"] | {"working": 0, "waiting": 0}
    assert shown["lanes"]["messages"]["working"] == 1
    assert shown["lanes"]["other"]["dead"] == 1


def test_status_table(wa: Callable[..., Result], commit: Any, status: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table names every figure in full within 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    commit(*[status(str(n)) for n in range(1234)])
    output = wa("status").output
    assert "events ended" not in output
    for word in ("messages", "statuses", "other", "waiting", "oldest", "retrying", "dead", "1,234", "workers: 0"):
        assert word in output
    assert "…" not in output
    assert max(map(len, output.splitlines())) <= 80


def test_status_of_all_that_came(wa: Callable[..., Result], redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what has become of everything, what has not, which types no handler wanted, and what waits for its
    next try, with the command that has it tried now.
    """
    monkeypatch.setenv("COLUMNS", "80")
    redis.hset(keys.COUNTS, mapping={"handled.message": 12_870, "unhandled.status": 30, "type.status.read": 30})
    redis.rpush(keys.batch_key("r1-1"), "record", "record")
    seconds = int(redis.time()[0])  # type: ignore[index]
    redis.zadd(keys.LEDGER, {"messages.0|r1-1": (seconds - 7200) * 1000})
    redis.zadd(keys.scheduled_key("messages.0"), {"r1-1": seconds + 600})
    lines = [line.rstrip() for line in wa("status").output.splitlines()]
    assert "events ended so far: 12,900 = 12,870 handled + 30 unhandled" in lines
    assert "not ended yet: 2 retrying" in lines
    assert "no handler wanted: status read 30" in lines
    (line,) = [line for line in lines if line.startswith("retrying: 2, next in ")]
    assert line.endswith("oldest 2h00m; `wa-ingest retry` tries them now")


def test_status_of_dead_letters(wa: Callable[..., Result], redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """What became of the newest dead letter is told for an hour, with whose it is and the command that says more: where
    a destination refuses all, nothing else tells."""
    monkeypatch.setenv("COLUMNS", "120")
    assert "dead letter" not in wa("status").output
    seconds, _ = redis.time()
    redis.xadd(keys.dead_key("statuses"), {"reason": "expired"}, id=f"{(seconds - 7200) * 1000}-0")
    assert "dead letter" not in wa("status").output
    redis.xadd(keys.dead_key("messages"), {"reason": "rejected", "handler": "crm"}, id=f"{(seconds - 7) * 1000}-0")
    lines = wa("status").output.splitlines()
    (line,) = [line for line in lines if "dead letters" in line]
    assert re.fullmatch(
        r"2 dead letters, the newest \ds old: rejected of crm; `wa-ingest dead causes` says why *", line
    )


def test_status_of_strict_orders(wa: Callable[..., Result], redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """It tells how much waits behind events that are to be tried again, if anything does, within 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    assert "strict order" not in wa("status").output
    redis.hset(keys.HEADS, "a1", "messages.0|r1-1-oa1")
    redis.rpush(keys.behind_key("a1"), *["messages.0|record"] * 1234)
    assert "\nmessages: 1,234 behind events that wait for a try (strict order)\n" in wa("status").output
    assert json.loads(wa("status", "--json").output)["lanes"]["messages"]["behind"] == 1234


def test_status_watch(redis_url: str, tmp_path: Path) -> None:
    """`status --watch` goes on until Ctrl-C and then ends without a traceback."""
    process = subprocess.Popen(
        [sys.executable, "-m", "workers.cli", "status", "--watch", "--json"],
        # A background job of a shell ignores SIGINT, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
        env=os.environ,
    )
    assert process.stdout is not None
    lines = [json.loads(process.stdout.readline()) for _ in range(2)]
    process.send_signal(signal.SIGINT)
    try:
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert set(lines[0]["lanes"]) == {"messages", "statuses", "other"}
    assert (process.returncode, errors) == (0, "")


def test_check(wa: Callable[..., Result], redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """`check` names what is not fit for production and exits 1 only when something is an error."""
    found = {one["name"]: one for one in json.loads(wa("check", "--json").output)}
    assert found["redis"]["result"] == "ok"
    assert found["append-only file"]["result"] == "warning"  # the tests' Valkey does not fsync
    assert found["senders"]["result"] == "warning"
    assert found["handlers"]["result"] == "ok"
    assert wa("check").exit_code == 0
    policy = redis.config_get("maxmemory-policy")["maxmemory-policy"]  # type: ignore[index]
    redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        result = wa("check")
    finally:
        redis.config_set("maxmemory-policy", policy)
    assert result.exit_code == 1
    assert "noeviction" in result.output


def test_check_on_a_terminal(wa: Callable[..., Result], redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """In 80 columns each line is folded between words, and the name of a topic is whole, however long."""
    topics = troubleshooting.sections().keys()
    advice = "set the one, or the other " * 5
    found = [Check("append-only file", "warning", "anybody may post", advice, topic) for topic in topics]
    monkeypatch.setattr(checks, "run", lambda settings: found)
    monkeypatch.setenv("COLUMNS", "80")
    lines = wa("check").output.splitlines()
    assert max(map(len, lines)) <= 80
    words = {word for line in lines[2:-1] for word in line.split()}
    said = f"→ {advice} anybody may post wa-ingest help append-only file warning".split()
    assert words == {*said, *topics}


def test_check_ends_with_what_is_wrong(
    wa: Callable[..., Result], redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For people the errors stand last, above a line that counts them, as the end stays on the screen; JSON has them in
    the order of the checks.
    """
    results = ["failed", "ok", "warning", "ok", "warning"]
    found = [Check(f"c{n}", result, "f") for n, result in enumerate(results)]
    monkeypatch.setattr(checks, "run", lambda settings: found)
    lines = wa("check").output.splitlines()
    assert [line.split()[1] for line in lines[2:-2]] == ["c1", "c3", "c2", "c4", "c0"]
    assert lines[-1] == "2 warnings, 1 error"
    assert [one["name"] for one in json.loads(wa("check", "--json").output)] == ["c0", "c1", "c2", "c3", "c4"]
    found = found[1:2]
    assert wa("check").output.splitlines()[-1] == "All is in order"


def test_check_without_redis(wa: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    """`check` still says all else when Redis is away."""
    monkeypatch.setenv("WA_REDIS_URL", "redis://127.0.0.1:1")
    monkeypatch.setenv("WA_HANDLERS", "nothing_here:handlers")
    result = wa("check", "--json")
    found = {one["name"]: one["result"] for one in json.loads(result.output)}
    assert result.exit_code == 1
    assert found["redis"] == found["handlers"] == "failed"
