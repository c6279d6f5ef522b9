"""The format number in Redis: who writes it, who refuses to start."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from ingest.child import GIVE_UP
from ingest.store import formats, keys

NEWER = formats.FORMAT + 1
SAYS = f"Redis holds format {NEWER}, and this version of wa-ingest knows {formats.FORMAT} at most"


def run(*module: str, **env: str) -> subprocess.CompletedProcess[str]:
    """`python -m …`, its standard input open as long as it runs."""
    command = [sys.executable, "-m", *module]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        out, err = child.stdout.read(), child.stderr.read()
        return subprocess.CompletedProcess(command, child.wait(60), out, err)


@pytest.mark.parametrize("found", [None, 0, formats.FORMAT])
def test_who_starts_writes_it(redis: Redis, found: int | None) -> None:
    """It is written where there is none, raised where there is a lower one, and left as it is when it is ours."""
    if found is not None:
        redis.set(keys.FORMAT, found)
    formats.agree(redis)
    assert redis.get(keys.FORMAT) == str(formats.FORMAT).encode()
    formats.check(redis)


@pytest.mark.parametrize("found", [str(NEWER), "1000000", "two", ""])
def test_a_newer_one_stays(redis: Redis, found: str) -> None:
    """What this version does not know is an error in one line, and is not overwritten."""
    redis.set(keys.FORMAT, found)
    for call in (formats.check, formats.agree):
        with pytest.raises(formats.NewerFormat) as error:
            call(redis)
        assert f"format {found}," in str(error.value)
        assert "\n" not in str(error.value)
    assert redis.get(keys.FORMAT) == found.encode()


@pytest.mark.parametrize("module", ["ingest.server", "workers.engine.worker"])
def test_a_process_refuses_to_start(
    redis: Redis, redis_url: str, environment: Callable[..., dict[str, str]], module: str, tmp_path: Path
) -> None:
    """Receiver and worker end with one line, and with the status that says: do not start me again."""
    redis.set(keys.FORMAT, NEWER)
    own = {"WA_LISTEN": "127.0.0.1:0", "WA_ADMIN_LISTEN": "127.0.0.1:0", "WA_SPOOL_DIR": str(tmp_path)}
    done = run(module, **environment(WA_REDIS_URL=redis_url, **own))
    assert done.returncode == GIVE_UP
    assert done.stderr.startswith(f"wa-ingest: {SAYS}")
    assert len(done.stderr.splitlines()) == 1
    assert redis.keys() == [keys.FORMAT.encode()]


COMMANDS = [("pause",), ("resume",), ("limit", "other", "5/s"), ("dead", "retry", "--yes"), ("dead", "drop", "--yes")]


@pytest.mark.parametrize("command", [*COMMANDS, ("replay", "--yes", ".")], ids=" ".join)
def test_a_command_that_writes_refuses(
    redis: Redis, redis_url: str, environment: Callable[..., dict[str, str]], command: tuple[str, ...]
) -> None:
    """It changes nothing, and exits 1 with one line."""
    redis.set(keys.FORMAT, NEWER)
    done = run("workers.cli", *command, **environment(WA_REDIS_URL=redis_url))
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: {SAYS}")
    assert len(done.stderr.splitlines()) == 1
    assert redis.keys() == [keys.FORMAT.encode()]


def test_check_names_it(redis: Redis, redis_url: str, environment: Callable[..., dict[str, str]]) -> None:
    """`wa-ingest check` fails with the same line."""
    redis.set(keys.FORMAT, NEWER)
    done = run("workers.cli", "check", "--json", **environment(WA_REDIS_URL=redis_url))
    assert done.returncode == 1
    assert any(row["result"] == "failed" and row["finding"].startswith(SAYS) for row in json.loads(done.stdout))


def test_a_receiver_that_runs_goes_on(
    redis: Redis, redis_url: str, start_receiver: Callable[..., Any], kept: Callable[..., Any]
) -> None:
    """While a newer version is rolled out, and though Redis loses its scripts, it goes on putting into Redis."""
    receiver = start_receiver(redis_url)
    assert receiver.post(b"1").status == 200
    assert redis.get(keys.FORMAT) == str(formats.FORMAT).encode()
    redis.set(keys.FORMAT, NEWER)
    redis.script_flush()
    assert receiver.post(b"2").status == 200
    assert [record.body for record in kept(redis)["other"]] == [b"1", b"2"]


def test_a_receiver_that_started_without_redis(
    own_valkey: Callable[..., Any],
    start_receiver: Callable[..., Any],
    kept: Callable[..., Any],
    wait_for: Callable[..., None],
    tmp_path: Path,
) -> None:
    """It looks when Redis comes: into one of a newer version it puts nothing, and the spool keeps what it accepts."""
    server = own_valkey()
    redis = server.client()
    server.stop()
    receiver = start_receiver(server.url, WA_SPOOL_DIR=tmp_path)
    assert receiver.post(b"1").status == 200
    server.start()
    redis.set(keys.FORMAT, NEWER)
    wait_for(lambda: SAYS.encode() in receiver.admin("/readyz").body, what="the reason")
    assert receiver.post(b"2").status == 200
    assert kept(redis) == {}
    redis.delete(keys.FORMAT)  # as if somebody had gone back to this version
    wait_for(lambda: [record.body for record in kept(redis).get("other", [])] == [b"1", b"2"], what="the replay")
    assert redis.get(keys.FORMAT) == str(formats.FORMAT).encode()


def test_a_receiver_without_a_spool(own_valkey: Callable[..., Any], start_receiver: Callable[..., Any]) -> None:
    """It answers 503 in that case, so that the sender keeps what it has."""
    server = own_valkey()
    redis = server.client()
    server.stop()
    receiver = start_receiver(server.url)
    server.start()
    redis.set(keys.FORMAT, NEWER)
    assert receiver.post(b"1").status == 503
    assert redis.keys() == [keys.FORMAT.encode()]


def test_users_without_the_right_go_on(own_valkey: Callable[..., Any]) -> None:
    """Redis users of before the number may neither read nor write it: that must not cost a notification."""
    redis = own_valkey().client()
    redis.execute_command("ACL SETUSER", "old", "on", "nopass", "~*", "+@all", "-get")
    old = Redis(connection_pool=redis.connection_pool)
    old.execute_command("AUTH", "old", "any")
    formats.agree(old)
