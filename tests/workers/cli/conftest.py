"""A working folder for the tests of commands; the Valkeys of the receiver's tests, with other settings or users."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.ingest.conftest import own_valkey  # noqa: F401

COMMAND = Path(sys.executable).with_name("wa-ingest")
BOT = """
import os, sys
from workers import Handlers
handlers = Handlers()

@handlers.message()
def answer(message):
    print("answered", message.id, flush=True)
"""
BODY = b'{"messages":[{"from":"15550001","id":"m1","timestamp":"1700000000","type":"text","text":{"body":"Hello"}}]}'


class Folder:
    """A working folder of a user's, and what a command says in it."""

    def __init__(self, path: Path, free_port: Callable[[], int]) -> None:
        self.path, self.port, self.admin_port = path, free_port(), free_port()
        self.own = {
            "WA_HANDLERS": "bot:handlers",
            "WA_LISTEN": f"127.0.0.1:{self.port}",
            "WA_ADMIN_LISTEN": f"127.0.0.1:{self.admin_port}",
        }
        self._started: list[subprocess.Popen[bytes]] = []
        self.write("bot.py", BOT)

    def write(self, name: str, text: str) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def start(self, *command: str, **env: str) -> subprocess.Popen[bytes]:
        """Start `wa-ingest`; it writes into the file `log`."""
        with (self.path / "log").open("wb") as log:
            self._started.append(
                subprocess.Popen(
                    [COMMAND, *command],
                    cwd=self.path,
                    env=os.environ | self.own | env,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            )
        return self._started[-1]

    def log(self) -> str:
        return (self.path / "log").read_text()

    def run(self, *command: str, **env: str) -> tuple[int, list[str]]:
        """Run `wa-ingest` to its end: exit status, and the lines it said."""
        status = self.start(*command, **env).wait(60)
        return status, self.log().splitlines()

    def post(self, body: bytes = BODY) -> int:
        """Post a notification; the status of the answer."""
        url = f"http://127.0.0.1:{self.port}/webhook"
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=30) as answer:
            status: int = answer.status
            return status

    def close(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.terminate()
                process.wait(40)


@pytest.fixture
def folder(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Folder]:
    """A working folder with handlers in bot.py."""
    made = Folder(tmp_path, free_port)
    yield made
    made.close()
