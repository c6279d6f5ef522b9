"""Several Redis: the receiver spreads notifications over them and does without one; each has its own workers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from redis.exceptions import RedisError

from ingest.commit.committer import make_committer
from ingest.store import keys
from tests.conftest import wait_for
from tests.faults.servers import Servers
from tests.faults.test_failover import System, _servers, _system
from tests.ingest.conftest import port_below_ephemeral, settled_environment
from workers.cli.main import main

ROOT = Path(__file__).parents[2]


class Two:
    """Two Valkeys."""

    def __init__(self, servers: Servers) -> None:
        self.servers = servers
        self.ports = (port_below_ephemeral(), port_below_ephemeral())
        self.url = ",".join(f"redis://127.0.0.1:{port}/0" for port in self.ports)
        for port in self.ports:
            self.start(port)

    def start(self, port: int) -> None:
        self.servers.server(port)
        wait_for(lambda: self.servers.answers(port))

    def counts(self) -> list[int]:
        """What became of events, in each."""
        found: list[Any] = [self.servers.client(port).hgetall(keys.COUNTS) for port in self.ports]
        return [sum(map(int, counts.values())) for counts in found]

    def owed(self) -> int:
        with suppress(RedisError):
            return sum(int(self.servers.client(port).zcard(keys.LEDGER)) for port in self.ports)  # type: ignore[arg-type]
        return -1


@pytest.fixture
def two() -> Iterator[Two]:
    with _servers() as servers:
        yield Two(servers)


def _ask(system: System, path: str, body: str | None = None) -> tuple[int, str]:
    port = system.admin_port if body is None else system.port
    with closing(HTTPConnection("127.0.0.1", port, timeout=30)) as http:
        http.request("GET" if body is None else "POST", path, body)
        answer = http.getresponse()
        return answer.status, answer.read().decode()


@pytest.mark.timeout(240)
def test_one_and_then_both_killed(two: Two, tmp_path: Path) -> None:
    """One is killed under load: every post is answered 200, by the other; with both away by the spool; none is lost."""
    first, second = two.ports
    up = 'wa_redis_up{{redis="127.0.0.1:{}/0"}} {}.0'.format
    with _system(tmp_path, two.url, WA_SPOOL_DIR=tmp_path / "spool") as system:
        for n in range(40):
            event = {"id": f"copy{n}", "from": str(n), "type": "text"}
            for _ in range(2):
                assert _ask(system, "/webhook", json.dumps({"messages": [event]}))[0] == 200
        wait_for(lambda: len(system.acknowledged) >= 300, what="300 notifications")
        with system.quiet:
            system.nothing_lost()
            wait_for(lambda: two.owed() == 0, what="the end of all work")
            seen, counts = system.seen(), two.counts()
            assert len(seen) == len(set(seen)) == len(system.acknowledged) + 40
            assert min(counts) > 0.2 * sum(counts), counts
            for contact in range(50):  # the others are tried twice
                ids = [int(id[2:]) for id in seen if id.startswith("id") and not id.endswith("7")]
                mine = [id for id in ids if id % 50 == contact]
                assert mine == sorted(mine)
            assert up(first, 1) in _ask(system, "/metrics")[1]

        two.servers.kill(first)
        system.goes_on()
        assert json.loads(_ask(system, "/readyz")[1]) == {"ready": True, "reason": None, "spooled": 0}
        metrics = _ask(system, "/metrics")[1]
        assert up(first, 0) in metrics
        assert up(second, 1) in metrics

        two.servers.kill(second)
        with suppress(RedisError):
            before = len(system.acknowledged)
            wait_for(lambda: len(system.acknowledged) > before + 20, what="200 from the spool")
        assert json.loads(_ask(system, "/readyz")[1])["spooled"] > 0

        two.start(first)
        two.start(second)
        wait_for(lambda: system.log("serve").count("a Redis is used again") >= 2, what="the end of the outage")
        system.goes_on()
        system.nothing_lost()
        assert system.refused == []
        before = two.counts()
        wait_for(lambda: all(now > then for now, then in zip(two.counts(), before, strict=True)), what="both in use")


def test_without_spool(two: Two, tmp_path: Path) -> None:
    """With none there and no spool senders get 503, until any is back; a Redis that is full is left out, too."""
    first, second = two.ports
    with _system(tmp_path, two.url) as system:
        two.servers.client(first).config_set("maxmemory", 1)
        system.goes_on()
        assert system.refused == []
        assert "Redis refuses" in system.log("serve")
        two.servers.kill(second)
        wait_for(lambda: system.refused, what="503")
        assert json.loads(_ask(system, "/readyz")[1])["ready"] is False
        two.servers.client(first).config_set("maxmemory", 0)
        system.goes_on()
        assert {status for _, status in system.refused} == {503}


def test_tools(two: Two, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`work --burst` ends when all are empty; status adds up, check looks at each, dead letters are found in all."""
    import asyncio

    from ingest.routing import route
    from ingest.settings import load

    bodies = [f"[{n}]".encode() for n in range(20)]
    monkeypatch.setenv("WA_REDIS_URL", two.url)
    monkeypatch.setenv("COLUMNS", "1000")

    async def go() -> None:
        committer = make_committer(load())
        await asyncio.gather(*(committer.commit(body, 1_700_000_000_000, route(body, 8)) for body in bodies))
        await committer.aclose()

    def ask(*command: str) -> str:
        found = CliRunner().invoke(main, command)
        assert found.exit_code == 0, found.output
        return found.output

    def dead() -> int:
        return int(json.loads(ask("status", "--json"))["lanes"]["other"]["dead"])

    asyncio.run(go())
    assert json.loads(ask("status", "--json"))["lanes"]["other"]["waiting"] == 20
    env = settled_environment(WA_REDIS_URL=two.url)
    done = subprocess.run(
        [sys.executable, "-m", "workers.cli", "work", "--burst"], cwd=ROOT, env=env, timeout=60, capture_output=True
    )
    assert (done.returncode, two.owed()) == (0, 0)
    lengths: list[Any] = [two.servers.client(port).xlen(keys.dead_key("other")) for port in two.ports]
    assert min(lengths) > 2
    assert sum(lengths) == dead() == 20
    listed = [json.loads(line)["id"] for line in ask("dead", "list", "--json").splitlines()]
    assert len(listed) == 20
    for name in (listed[0], listed[-1]):
        assert name in ask("dead", "show", name)
    checked = json.loads(ask("check", "--json"))
    for port in two.ports:
        assert {"ok"} == {one["result"] for one in checked if one["name"] == f"redis 127.0.0.1:{port}/0"}
    assert json.loads(ask("dead", "retry", "--yes", "--json")) == {"matched": 20, "done": 20}
    assert (dead(), two.owed()) == (0, 2)
    two.servers.kill(two.ports[0])
    found = json.loads(ask("status", "--json"))
    assert found["away"] == [f"127.0.0.1:{two.ports[0]}/0"]
    assert found["lanes"]["other"]["waiting"] == lengths[1]
    assert f"away, not counted: 127.0.0.1:{two.ports[0]}/0" in ask("status")
