"""Worker processes with recording handlers, for tests that kill them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# The receiver's faults are done to the receivers and Valkeys that its other tests use.
from tests.ingest.conftest import kept, low_port, own_valkey, start_receiver  # noqa: F401

ROOT = Path(__file__).parents[2]

RECORDER = """
import asyncio, json, os, random, time
from workers import Handlers

handlers = Handlers()
out = os.open(os.environ["SEEN"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def write(*what):
    os.write(out, json.dumps([time.time(), os.getpid(), *what]).encode() + b"\\n")
"""


class Workers:
    """`wa-ingest work` with a handlers module given as text; `seen()` is what its handlers wrote."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "seen"
        self.path.touch()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, handlers: str, *arguments: str, **env: str) -> None:
        (self.folder / "recorder.py").write_text(RECORDER + handlers)
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "workers.cli", "work", *arguments],
                cwd=self.folder,
                env=os.environ
                | {"WA_HANDLERS": "recorder:handlers", "SEEN": str(self.path), "PYTHONPATH": str(ROOT)}
                | env,
                stdout=log,
                stderr=log,
            )

    def seen(self) -> list[list[Any]]:
        return [json.loads(line) for line in self.path.read_text().splitlines()]

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)


@pytest.fixture
def workers(tmp_path: Path, redis_url: str) -> Iterator[Workers]:
    """Worker processes, ended after the test whatever happens."""
    made = Workers(tmp_path)
    yield made
    made.stop()


@pytest.fixture
def commit(redis_url: str) -> Callable[..., None]:
    """Commit bodies as the receiver does, in order, arriving now."""
    import asyncio
    import time

    from ingest.commit.committer import make_committer
    from ingest.routing import route
    from ingest.settings import load

    def run(*bodies: bytes, **settings: Any) -> None:
        async def go() -> None:
            current = load(**settings)
            committer = make_committer(current)
            now = time.time_ns() // 1_000_000
            await asyncio.gather(*[committer.commit(b, now, route(b, current.partitions)) for b in bodies])
            await committer.aclose()

        asyncio.run(go())

    return run
