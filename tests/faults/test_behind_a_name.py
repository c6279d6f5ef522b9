"""A primary that is reached by a name or a balancer: it fails over, or its password is rotated, and nobody restarts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from ingest.state.spooled import spool_figures
from tests.conftest import wait_for
from tests.faults.servers import Name, Servers
from tests.faults.test_failover import _replicas, _servers, _system
from tests.ingest.conftest import port_below_ephemeral


@pytest.fixture
def servers() -> Iterator[Servers]:
    with _servers() as made:
        yield made


@pytest.fixture
def pair(servers: Servers) -> tuple[int, int]:
    """The ports of a primary and of its replica."""
    primary, replica = port_below_ephemeral(), port_below_ephemeral()
    servers.server(primary)
    servers.server(replica, "--replicaof", f"127.0.0.1 {primary}")
    wait_for(lambda: servers.answers(primary) and servers.answers(replica))
    wait_for(lambda: _replicas(servers, primary) == 1, what="the replica")
    return primary, replica


@pytest.fixture
def name(pair: tuple[int, int]) -> Iterator[Name]:
    """The name of the primary."""
    made = Name(pair[0])
    yield made
    made.close()


@pytest.mark.parametrize("spool", [True, False], ids=["spool", "no spool"])
def test_failover(servers: Servers, pair: tuple[int, int], name: Name, tmp_path: Path, spool: bool) -> None:
    """Primary and replica swap roles, and old connections stay open to the one that was demoted: posting and handling
    go on within seconds, and all that was answered 200 is handled."""
    old, new = pair
    folder = tmp_path / "spool"
    more = {"WA_SPOOL_DIR": folder} if spool else {}
    with _system(tmp_path, f"redis://127.0.0.1:{name.port}/0", **more) as system:
        connected = servers.client(old).info("clients")["connected_clients"]  # type: ignore[index]
        servers.client(old).execute_command("FAILOVER", "TO", "127.0.0.1", new)
        wait_for(lambda: servers.client(new).info("replication")["role"] == "master")  # type: ignore[index]
        answered = len(system.acknowledged)
        wait_for(lambda: not spool or spool_figures(folder).notifications, what="something in the spool")
        name.target = new
        moved = time.monotonic()
        system.goes_on(50)
        if spool:
            assert system.refused == []
            wait_for(lambda: spool_figures(folder).notifications == 0, 50, "the replay")
        handled = time.monotonic()
        system.nothing_lost()
        gap = max((at for at, _ in system.refused), default=moved)
        assert servers.client(new).info("replication")["role"] == "master"  # type: ignore[index]
        assert "Traceback" not in system.log("serve") + system.log("work")
        assert system.log("work").count('"worker started"') == 1
    print(
        f"{connected} connections; after the name moved, the last 503 came after {gap - moved:.1f} s, and all was "
        f"handled after {handled - moved:.1f} s; {len(system.acknowledged) - answered} posts since the roles changed"
    )


def test_password_rotated(servers: Servers, tmp_path: Path) -> None:
    """The password of Redis is changed, connections are ended, the file of WA_REDIS_URL_FILE is written anew: receiver
    and worker are back without a restart, and so are the tools' connections."""
    port = port_below_ephemeral()
    servers.server(port)
    wait_for(lambda: servers.answers(port))
    file = tmp_path / "url"
    file.write_text(f"redis://127.0.0.1:{port}/0")
    with _system(tmp_path, "", WA_REDIS_URL_FILE=file) as system:
        for password in ("first", "second"):
            refused = len(system.refused)
            admin: Any = servers.client(port)
            admin.config_set("requirepass", password)
            admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            wait_for(lambda: len(system.refused) > refused + 5, what="503 without the password")  # noqa: B023
            file.write_text(f"redis://:{password}@127.0.0.1:{port}/0")
            written = time.monotonic()
            system.goes_on(50)
            print(f"back {time.monotonic() - written:.1f} s after the file was written")
        system.nothing_lost()
        wait_for(lambda: system.ready_reason() is None)
        assert system.log("work").count('"worker started"') == 1
    with Redis(port=port, password="second") as there:
        assert there.ping()
