"""`wa-ingest check`: what it finds of guards and certificates, of the server, and of the processes that use it."""

from __future__ import annotations

import datetime
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import orjson
import pytest
import trustme
from click.testing import CliRunner
from redis import Redis
from redis.exceptions import ResponseError

from ingest import signs
from ingest.settings import load
from ingest.state import controls, in_work, refusals
from ingest.store import connection, keys
from ingest.store.agreement import OF_RECEIVERS, OF_WORKERS, Agreement
from ingest.store.constants import FLOW_SECONDS
from tests.faults.servers import SERVICE, Servers
from tests.ingest.conftest import port_below_ephemeral
from workers.cli import checks, redis_checks
from workers.cli.checks import Check
from workers.cli.main import main

NOW = datetime.datetime.now(datetime.UTC)


def found(**settings: Any) -> dict[str, Check]:
    return {check.name: check for check in checks.run(load(**settings))}


def test_no_guard(redis_url: str) -> None:
    """A receiver that takes from anybody is warned of, with all that would change it."""
    check = found()["senders"]
    assert check.result == "warning"
    for name in (
        "WA_APP_SECRET",
        "WA_PATH_SECRET",
        "WA_HEADER_SECRET",
        "WA_BASIC_AUTH",
        "WA_ALLOW_NETWORKS",
        "WA_TLS_CLIENT_CA",
    ):
        assert name in check.advice


SILENT = "Redis accepts connections, but does not answer"


@pytest.mark.parametrize("command", ["status", "check", "pause"])
def test_redis_hangs(own_valkey: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """A server that is stopped is asked once, is not waited for as long as for an answer, and is told as what it is."""
    assert connection.FIRST_SECONDS <= 4
    monkeypatch.setattr(connection, "FIRST_SECONDS", 0.3)
    monkeypatch.setenv("WA_REDIS_URL", (valkey := own_valkey()).url)
    valkey.freeze()
    began = time.monotonic()
    result = CliRunner().invoke(main, [command])
    assert time.monotonic() - began < 5
    assert result.exit_code == 1
    if command == "check":
        assert [line for line in result.stdout.splitlines() if line.startswith("failed")] == [
            f"failed   redis        {SILENT}".ljust(80)
        ]
    else:
        (line,) = result.stderr.splitlines()
        assert line.startswith(f"Error: {SILENT}; its process hangs or is stopped, or one command takes long: see ")


def test_one_of_two_hangs(own_valkey: Callable[..., Any], redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one is looked at in full."""
    monkeypatch.setattr(connection, "FIRST_SECONDS", 0.3)
    valkey = own_valkey()
    valkey.freeze()
    here, hangs = redis_url.removeprefix("unix://"), valkey.url.removeprefix("unix://")
    began = time.monotonic()
    now = found(redis_url=f"{redis_url},{valkey.url}")
    assert time.monotonic() - began < 5
    assert (now[f"redis {hangs}"].finding, now[f"redis {here}"].result) == (SILENT, "ok")
    assert "append-only file " + here in now
    assert now["workers"].finding == "No worker is alive"


def test_refused_requests(redis: Redis) -> None:
    """What receivers refuse is told with its likely cause and what to do; a few beside many is no warning, and nearly
    all is an error."""
    refusals.note(redis, {"signature": 5, "accepted": 10, "path": 1})
    signature, path = [check for check in checks.run(load()) if check.name == "requests"]
    assert (signature.result, path.result) == ("warning", "ok")
    assert signature.finding == "5 requests refused lately with a wrong signature"
    assert "WA_APP_SECRET" in signature.advice
    refusals.note(redis, {"signature": 100})
    assert [check.result for check in checks.run(load()) if check.name == "requests"] == ["failed", "ok"]


def test_what_is_in_order(redis: Redis) -> None:
    """It has no advice: what is worth one is a warning at least, and has both advice and topic."""
    refusals.note(redis, {"signature": 5, "accepted": 1000})
    found = checks.run(load())
    assert {one.result for one in found} == {"ok", "warning"}
    assert {(one.result == "ok", bool(one.advice), bool(one.topic)) for one in found} == {
        (True, False, False),
        (False, True, True),
    }


def test_more_workers_than_partitions(redis: Redis) -> None:
    """Worker processes that never get messages are warned of, with the setting that would change it."""
    for n in range(3):
        redis.zadd(keys.ALIVE, {f"w{n}": int(time.time() * 1000)})
        redis.hset(keys.rq_worker_key(f"w{n}"), "queues", "messages.0,messages.1")
    assert found(partitions=3)["workers"][1:3] == ("ok", "3 are alive")
    check = found(partitions=2)["workers"]
    assert (check.result, check.advice) == ("warning", "raise WA_PARTITIONS")
    assert check.finding == "3 worker processes but 2 partitions: 1 of them never gets messages"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"app_secret": "s"}, "a signature"),
        ({"basic_auth": "u:p"}, "Basic auth"),
        ({"header_secret": "X-Key:x"}, "a header"),
        ({"path_secret": "x" * 16}, "a secret path"),
        ({"allow_networks": "10.0.0.0/8", "app_secret": "s"}, "a signature, networks"),
    ],
)
def test_guards(redis_url: str, settings: dict[str, str], words: str) -> None:
    """Each guard that is set is named, and no secret is."""
    check = found(**settings)["senders"]
    assert (check.result, check.finding) == ("ok", f"who may post is decided by {words}")


@pytest.mark.parametrize(
    ("begins", "ends", "result"),
    [(-1, 90, "ok"), (-1, 13, "warning"), (-90, -1, "failed"), (1, 90, "failed")],
)
def test_certificate(redis_url: str, tmp_path: Path, begins: int, ends: int, result: str) -> None:
    """A certificate that ends within two weeks is warned of; one that is not valid now fails."""
    issued = trustme.CA().issue_cert(
        "localhost",
        not_before=NOW + datetime.timedelta(days=begins),
        not_after=NOW + datetime.timedelta(days=ends),
    )
    issued.private_key_pem.write_to_path(str(tmp_path / "key"))
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "cert"))
    check = found(tls_cert=tmp_path / "cert", tls_key=tmp_path / "key")["WA_TLS_CERT"]
    assert check.result == result
    assert bool(check.advice) == (result != "ok")


def test_client_ca_without_a_name(redis_url: str, tmp_path: Path) -> None:
    """A client CA alone lets in all its customers, which is warned of; its certificate is looked at, too."""
    authority = trustme.CA()
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "both"))
    authority.cert_pem.write_to_path(str(tmp_path / "ca"))
    settings = {"tls_cert": tmp_path / "both", "tls_key": tmp_path / "both", "tls_client_ca": tmp_path / "ca"}
    assert found(**settings)["client certificates"].result == "warning"
    named = found(**settings, tls_client_name="client.example")
    assert "client certificates" not in named
    assert named["WA_TLS_CLIENT_CA"].result == "ok"


def test_certificate_that_cannot_be_read(redis_url: str) -> None:
    """Files that are no certificate fail with the line that would stop the receiver."""
    check = found(tls_cert="/none", tls_key="/none")["certificate"]
    assert (check.result, check.finding) == ("failed", "WA_TLS_CERT: cannot read /none: No such file or directory")


def test_no_worker(redis: Redis, commit: Callable[..., None], message: Callable[..., bytes]) -> None:
    """That no worker is alive is warned of, and an error as soon as something waits, or when none can start."""
    check = found()["workers"]
    assert (check.result, check.finding) == ("warning", "No worker is alive")
    in_work.tell_unloadable(redis, in_work.Unloadable("ValueError at bot.py:12", "mend it", in_work.STARTUP_FAILS))
    check = found()["workers"]
    assert (check.result, check.topic) == ("failed", "a-startup-function-fails")
    redis.hdel(keys.IN_WORK, in_work.UNLOADABLE)
    commit(message("1"), message("2"), received_ms=int(time.time() * 1000) - 1000)
    check = found()["workers"]
    assert (check.result, check.topic) == ("failed", "no-worker-is-alive")
    assert check.finding.startswith("No worker is alive: 2 notifications wait, the oldest for ")
    redis.zadd(keys.ALIVE, {"w": int(time.time() * 1000)})
    assert found()["workers"][1:3] == ("ok", "1 is alive")


def test_a_redis_without_workers(two: list[Redis]) -> None:
    """Of several Redis, one that no worker serves is warned of by its address, though others have workers."""
    two[0].zadd(keys.ALIVE, {"w": int(time.time() * 1000)})
    check = found()["workers"]
    assert (check.result, check.topic) == ("warning", "no-worker-is-alive")
    assert check.finding.startswith("none serves ")
    assert "db=1" in check.finding or "/1" in check.finding
    two[1].zadd(keys.ALIVE, {"v": int(time.time() * 1000)})
    assert found()["workers"][1:3] == ("ok", "2 are alive")


def test_processes_that_differ(redis: Redis) -> None:
    """Each setting in which processes differ is named with its values."""
    Agreement(redis, load(partitions=16), OF_RECEIVERS).say()
    assert "agreement" not in found()
    Agreement(redis, load(partitions=8), OF_WORKERS).say()
    check = found()["agreement"]
    assert (check.result, check.finding) == ("warning", "processes run with WA_PARTITIONS 16 and 8")
    assert check.advice == "give all receivers and workers the same value and restart those that had another"


def test_a_paused_handler(redis: Redis) -> None:
    """A handler that an operator has paused is a warning, with what resumes it."""
    controls.pause(redis, [controls.handler("crm")])
    (check,) = (check for check in checks.run(load()) if check.name == "handlers" and check.result == "warning")
    assert check.finding.startswith("crm is paused since 20")
    assert check.advice == "`wa-ingest resume --handler crm` lets it go on"


def test_scripts_are_tried(redis_url: str) -> None:
    """On a server that runs our scripts the check is ok, and leaves nothing there."""
    with Redis.from_url(redis_url) as redis:
        assert found()["scripts"] == Check("scripts", "ok", "the server runs them")
        assert redis.dbsize() == 0


def test_scripts_that_are_refused(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that refuses names of keys that a script makes, as Dragonfly does, fails with a remedy."""
    refusal = "return redis.error_reply('ERR script tried accessing undeclared key')"
    monkeypatch.setattr(redis_checks.scripts, "lua", lambda *_: refusal)
    check = found()["scripts"]
    assert (check.result, check.finding) == (
        "failed",
        "the server refuses them: ResponseError: script tried accessing undeclared key",
    )
    assert "Dragonfly needs --default_lua_flags=allow-undeclared-keys" in check.advice


def test_scripts_and_rights(own_valkey: Callable[..., Any]) -> None:
    """A user who may run no script is told of the right, and not of another server."""
    server = own_valkey(appendonly="yes")
    server.client().execute_command("ACL", "SETUSER", "few", "on", ">pw", "~*", "+@all", "-evalsha")
    checks = found(redis_url=f"{server.url}?username=few&password=pw")
    assert "scripts" not in checks
    assert checks["redis"].finding.startswith("the user of WA_REDIS_URL lacks a right: ")


def test_scripts_of_a_full_redis(redis: Redis) -> None:
    """That Redis is full is not taken for a server that refuses scripts."""
    redis.config_set("maxmemory", 1)
    check = found()["scripts"]
    assert (check.result, check.finding) == ("warning", "not tried: Redis is full, it takes no notifications")


class Provider(Redis):
    """A managed Redis: `hidden` are the fields of INFO that it does not show, `shown` those that it shows otherwise."""

    hidden: tuple[str, ...] = ()
    shown: Mapping[str, Any] = MappingProxyType({})

    def info(self, *arguments: Any, **options: Any) -> Any:
        info: Any = super().info(*arguments, **options)
        return {name: value for name, value in info.items() if name not in self.hidden} | self.shown

    def config_get(self, *_: Any, **__: Any) -> Any:
        raise ResponseError("unknown command 'CONFIG'")


@pytest.fixture
def provider(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> type[Provider]:
    """What `check` finds behind WA_REDIS_URL, whatever host that names."""

    class Here(Provider):
        pass

    monkeypatch.setattr(redis_checks.connection, "for_tools", lambda _: Here.from_url(redis_url))
    return Here


OFF = {"aof_enabled": 0}
NAMES = {
    "memorydb": "rediss://clustercfg.wa.x1y2z3.memorydb.eu-west-1.amazonaws.com:6379/0",
    "elasticache": "rediss://master.wa.x1y2z3.euw1.cache.amazonaws.com:6379/0",
}


@pytest.mark.parametrize(
    ("name", "durability", "info", "result"),
    [
        ("elasticache", "redis", OFF, "failed"),
        ("memorydb", "redis", OFF, "ok"),
        ("elasticache", "replicas:1", OFF, "warning"),
        ("elasticache", "redis", {"aof_enabled": None}, "warning"),
        ("elasticache", "fsync", {"aof_enabled": None}, "ok"),
        ("elasticache", "redis", {}, "warning"),  # it is on, but CONFIG is hidden
        ("elasticache", "replicas:1", {}, "ok"),
    ],
)
def test_declared_durability(
    provider: type[Provider], name: str, durability: str, info: dict[str, Any], result: str
) -> None:
    """An append-only file that is off fails, unless the server's name or WA_DURABILITY says what keeps the data; one
    that is not shown is warned of."""
    provider.hidden = tuple(info)
    provider.shown = {field: value for field, value in info.items() if value is not None}
    found = {one.name: one for one in redis_checks._server(load(redis_url=NAMES[name], durability=durability))}
    check = found["append-only file"]
    assert check.result == result
    assert bool(check.advice) == (result != "ok")


def test_info_that_is_forbidden(own_valkey: Callable[..., Any]) -> None:
    """Where INFO is forbidden, what it would show is warned of."""
    server = own_valkey(appendonly="yes")
    server.client().execute_command("ACL", "SETUSER", "few", "on", ">pw", "~*", "+@all", "-info")
    checks = found(redis_url=f"{server.url}?username=few&password=pw")
    assert [checks[name].result for name in ("redis", "append-only file", "eviction")] == ["ok", "warning", "warning"]


REPLICA = {"ip": "10.0.0.2", "port": 6379, "state": "online", "offset": 1, "lag": 0}


@pytest.mark.parametrize(
    ("durability", "replicas", "result"),
    [
        ("redis", [], None),
        ("redis", [REPLICA], "ok"),
        ("redis", [REPLICA, REPLICA | {"state": "wait_bgsave"}], "warning"),
        ("redis", [REPLICA, REPLICA | {"lag": 60}], "warning"),
        ("replicas:1", [REPLICA], "ok"),
        ("replicas:1", [REPLICA, REPLICA | {"lag": 60}], "warning"),
        ("replicas:1", [], "failed"),
        ("replicas:2", [REPLICA, REPLICA | {"state": "send_bulk"}], "failed"),
    ],
)
def test_replicas(
    provider: type[Provider], durability: str, replicas: list[dict[str, Any]], result: str | None
) -> None:
    """Fewer replicas than WA_DURABILITY asks for fail; others that do not follow are warned of."""
    provider.shown = {"connected_slaves": len(replicas)} | {f"slave{n}": one for n, one in enumerate(replicas)}
    found = {one.name: one for one in redis_checks._server(load(durability=durability))}
    assert (found["replicas"].result if result else found.get("replicas")) == result


@pytest.mark.parametrize(
    ("durability", "following", "result", "finding"),
    [
        ("redis", 1, "warning", "1 of 2 do not follow"),
        ("replicas:1", 1, "warning", "1 of 2 do not follow"),
        ("redis", 0, "warning", "2 of 2 do not follow"),
        ("redis", 2, "ok", "2 follow"),
        ("replicas:2", 2, "ok", "2 follow, as many as WA_DURABILITY asks for: without one of them nothing goes into"),
    ],
)
def test_replicas_that_are_gone(
    provider: type[Provider],
    monkeypatch: pytest.MonkeyPatch,
    durability: str,
    following: int,
    result: str,
    finding: str,
) -> None:
    """What sentinels remember counts: the primary forgets a replica as soon as its connection ends."""
    monkeypatch.setattr(redis_checks.discovery, "remembered_replicas", lambda _: 2)
    provider.shown = {"connected_slaves": following} | {f"slave{n}": REPLICA for n in range(following)}
    check = {one.name: one for one in redis_checks._server(load(durability=durability))}["replicas"]
    assert check.result == result
    assert check.finding.startswith(finding)


def test_one_of_two_replicas_is_dead(tmp_path: Path, wait_for: Callable[..., None]) -> None:
    """With real sentinels: a replica that was killed is missed."""
    servers = Servers(tmp_path)
    primary, one, other, sentinel = (port_below_ephemeral() for _ in range(4))
    try:
        servers.server(primary)
        wait_for(lambda: servers.answers(primary))
        for port in (one, other):
            servers.server(port, "--replicaof", f"127.0.0.1 {primary}")
        wait_for(lambda: servers.client(primary).info("replication")["connected_slaves"] == 2, 60)  # type: ignore[index]
        servers.sentinel(sentinel, primary, quorum=1)
        wait_for(lambda: servers.answers(sentinel))
        wait_for(lambda: servers.client(sentinel).sentinel_master(SERVICE)["num-slaves"] == 2, 60)  # type: ignore[index]
        settings = load(redis_url=f"redis+sentinel://127.0.0.1:{sentinel}/{SERVICE}/0")

        def replicas() -> tuple[str, str]:
            check = {found.name: found for found in redis_checks._server(settings)}["replicas"]
            return check.result, check.finding

        wait_for(lambda: replicas() == ("ok", "2 follow"), 60)
        servers.kill(other)
        wait_for(lambda: replicas() == ("warning", "1 of 2 do not follow"), 60)
    finally:
        servers.close()


def test_the_spool_of_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`up` with its own server has a spool without being told, so beside it nothing is warned of."""
    monkeypatch.chdir(tmp_path)
    assert checks._spool(load()).result == "warning"
    monkeypatch.setattr(checks.local, "running", lambda: "unix:///x/valkey.sock")
    check = checks._spool(load())
    assert (check.result, check.finding.startswith("data/spool can be written")) == ("ok", True)


def test_the_archive_of_a_receiver(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where wa-ingest runs without a worker, a folder that cannot be written is no warning: only workers write it."""
    (tmp_path / "archive").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    settings = {"archive_dir": tmp_path / "archive"}
    assert found(**settings)["archive"].result == "warning"
    folder = tmp_path / f"{signs.PREFIX}x"
    folder.mkdir()
    lock = signs.lock(str(folder))
    assert found(**settings)["archive"].result == "ok"
    assert "only workers write it" in found(**settings)["archive"].finding
    signs.give(signs.path(str(folder), "worker-1"))
    assert found(**settings)["archive"].result == "warning"
    os.close(lock)


def test_doubtful_handlers(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A type that does not exist and a registry without handlers are warnings, with the topic that says more."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "typo.py").write_text("from workers import Handlers\nh = Handlers()\nh.message('txt')(print)\n")
    (tmp_path / "empty.py").write_text("from workers import Handlers\nh = Handlers()\n")
    for module, finding in (
        ("typo", "no message type 'txt' is known"),
        ("empty", "WA_HANDLERS=empty:h has no handlers"),
    ):
        (check,) = (one for one in checks.run(load(handlers=f"{module}:h")) if one[:2] == ("handlers", "warning"))
        assert finding in check.finding
        assert check.topic == "a-handler-is-never-called"


def test_a_mistake_in_the_handlers(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It fails, with the line to mend."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "unclosed.py").write_text("handlers = (\n")
    check = found(handlers="unclosed:handlers")["handlers"]
    assert check.finding.endswith("SyntaxError: '(' was never closed at unclosed.py:1")
    assert check.advice == "mend unclosed.py:1"


def test_a_mistake_in_the_destinations(redis_url: str, tmp_path: Path) -> None:
    """It fails, with the line, the file to mend, and what workers do meanwhile."""
    file = tmp_path / "destinations.toml"
    file.write_text("[[destination]]\nname = 'crm'\n")
    check = found(destinations=file)["handlers"]
    assert check[1:3] == ("failed", f"WA_DESTINATIONS: {file}, line 1: url is missing")
    assert check.advice.startswith(f"mend {file}; workers that run go on with the file as they read it")


def test_a_replica_s_url(own_valkey: Callable[..., Any]) -> None:
    """A URL that names a replica fails: it takes no writes."""
    server = own_valkey(appendonly="yes")
    server.client().replicaof("127.0.0.1", 1)
    check = found(redis_url=server.url)["redis"]
    assert check.finding.startswith("Redis takes no writes: NotPrimary: READONLY ")


def bury(redis: Redis, seconds_ago: float, detail: str, handler: str = "bot.f", reason: str = "failed") -> None:
    """A dead letter that was written so long ago."""
    seconds, micros = redis.time()  # type: ignore[misc]
    id = f"{int((seconds - seconds_ago) * 1000 + micros // 1000)}-*"
    fields: Any = {"reason": reason, "kind": "message", "detail": detail, "handler": handler, "body": b"{}"}
    redis.xadd(keys.dead_key("messages"), fields, id=id)


def test_new_dead_letters(redis: Redis) -> None:
    """Those of the last hour are a warning for each of their main causes, with what shows them and has them handled."""
    bury(redis, 5000, "TimeoutError: no (bot.py:1)")
    for n in range(4):
        bury(redis, 60, f"ConnectionRefusedError: {n} (bot.py:12)")
    bury(redis, 50, "no such order 7", reason="rejected")
    bury(redis, 50, "no such order 8", reason="rejected")
    bury(redis, 40, "answered 500", handler="crm, shop")
    bury(redis, 40, "answered 500", handler="shop")
    bury(redis, 30, "not JSON", handler="", reason="unreadable")
    first, second, third, rest = [check for check in checks.run(load()) if check.name == "dead letters"]
    assert {check.result for check in (first, second, third, rest)} == {"warning"}
    assert first.finding == "4 failed of bot.f in the last hour: ConnectionRefusedError at bot.py:12"
    assert "`wa-ingest dead list --newer-than 1h --reason failed --handler bot.f`" in first.advice
    assert "`wa-ingest dead retry --reason failed --handler bot.f`" in first.advice
    assert first.topic == "there-are-dead-letters"
    assert second.finding == "2 rejected of bot.f in the last hour: no such order N"
    assert third.finding == "1 unreadable in the last hour: not JSON"
    assert rest.finding == "2 of other causes in the last hour"


def test_dead_letters_are_no_warning_for_ever(redis: Redis) -> None:
    """After an hour they are told as a figure, so that `check` has a green line again; without any there is none."""
    assert found()["dead letters"] == Check("dead letters", "ok", "none")
    bury(redis, 3700, "TimeoutError: no (bot.py:1)")
    (check,) = [check for check in checks.run(load()) if check.name == "dead letters"]
    assert (check.result, check.finding) == ("ok", "1, none of the last hour")


def test_more_dead_letters_than_are_read(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a flood a part is read, and it is said that there are more."""
    monkeypatch.setattr(redis_checks, "_LETTERS_READ", 3)
    for _ in range(5):
        bury(redis, 10, "TimeoutError: no (bot.py:1)")
    told = [check.finding for check in checks.run(load()) if check.name == "dead letters"]
    assert told[0] == "3 failed of bot.f in the last hour: TimeoutError at bot.py:1"
    assert told[1].startswith("more than these 3 in the last hour")


def test_a_handler_that_mostly_fails(redis: Redis) -> None:
    """It is a warning as on the page, though it never counts as broken down."""
    redis.zadd(keys.ALIVE, {"a": time.time() * 1000})
    bucket = int(redis.time()[0]) // FLOW_SECONDS  # type: ignore[index]
    for back in (1, 2):
        redis.hset(keys.flow_key(bucket - back), mapping={"handler|bot.f|0.1": 10, "handler|bot.f|failed": 6})
    findings = [check.finding for check in checks.run(load()) if check.result == "warning"]
    assert "Handler bot.f: 12 of 20 calls failed in the last minute" in findings


def test_a_handler_that_always_fails(redis: Redis) -> None:
    """It is a warning with its error and the place, as the page has it."""
    told = {"error": "ConnectionRefusedError at bot.py:12", "next_try": time.time() + 42}
    redis.hset(keys.BREAKDOWNS, "bot.f", orjson.dumps(told))
    (check,) = [check for check in checks.run(load()) if check.finding.startswith("Handler bot.f fails")]
    assert check.finding.startswith("Handler bot.f fails (ConnectionRefusedError at bot.py:12), next try in ")
    assert (check.result, check.topic) == ("warning", "a-handler-always-fails")
