"""Receivers that look at the findings often, and what they post to."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from ingest.store import keys
from tests.ingest.conftest import ROOT, port_below_ephemeral, settled_environment
from tests.workers.destinations.conftest import application  # noqa: F401

SOON = (
    "from ingest.state import alerts; alerts.STEP_SECONDS = alerts.HOLD_SECONDS = 0.3; "
    "from ingest import server; server.main()"
)


@pytest.fixture
def alerting_receiver(redis_url: str, tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Start a receiver that looks often: the file of its log."""
    started: list[subprocess.Popen[bytes]] = []

    def start(alert_url: str, url: str = redis_url, **env: Any) -> Path:
        listeners = {f"WA_{name}LISTEN": f"127.0.0.1:{port_below_ephemeral()}" for name in ("", "ADMIN_")}
        path = tmp_path / f"{len(started)}.log"
        with path.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", SOON],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=settled_environment(WA_REDIS_URL=url, WA_ALERT_URL=alert_url) | listeners | env,
            )
        started.append(process)
        return path

    yield start
    for process in started:
        process.terminate()
        assert process.wait(60) == 0
        assert process.stdin
        process.stdin.close()


def stay_alive(redis: Redis) -> None:
    """A worker gives a sign of life that is good for long."""
    seconds, _ = redis.time()
    redis.zadd(keys.ALIVE, {"w1": (seconds + 3600) * 1000})
