"""The pages in docs/recipes, word for word, with real workers and what they post to."""

from __future__ import annotations

import importlib
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from redis import Redis

from ingest.store import keys
from tests.conftest import wait_for
from tests.ingest.admin.conftest import alerting_receiver  # noqa: F401
from tests.workers.conftest import commit, dead, nothing_left  # noqa: F401
from tests.workers.destinations.conftest import application, drain, worker  # noqa: F401

ROOT = Path(__file__).parents[2]


def blocks(page: str, language: str) -> list[str]:
    """The blocks of a page in that language."""
    text = (ROOT / "docs/recipes" / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., Path]:
    """Write a page's file of destinations; instead of its hosts it names those that are given: `http://HOST:PORT`."""

    def write(page: str, *hosts: str, number: int = 0) -> Path:
        given = iter(hosts)
        file = tmp_path / "destinations.toml"
        file.write_text(re.sub(r'(?<=url = ")https?://[^/"]+', lambda _: next(given), blocks(page, "toml")[number]))
        assert next(given, None) is None
        return file

    return write


@pytest.fixture
def bot(tmp_path: Path) -> Callable[..., Path]:
    """Write a page's handlers into `bot.py`, with more code below them: the folder."""

    def write(page: str, more: str = "") -> Path:
        (code,) = blocks(page, "python")
        (tmp_path / "bot.py").write_text(f"{code}\n{more}")
        return tmp_path

    return write


@pytest.fixture
def imported(bot: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Import a page's handlers."""

    def load(page: str) -> ModuleType:
        monkeypatch.syspath_prepend(bot(page))
        return importlib.import_module("bot")

    return load


@pytest.fixture
def work(bot: Callable[..., Path], run_module: Callable[..., Any]) -> Callable[..., str]:
    """Have a worker do all that waits with a page's handlers, and with more code below them: what it printed."""

    def run(page: str, more: str = "", **env: str) -> str:
        folder = bot(page, more)
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        own = {"WA_HANDLERS": "bot:handlers", "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
        with (folder / "log").open("w") as log:
            process = run_module("workers.engine.worker", cwd=folder, stdout=log, env=os.environ | own | env)
        with closing(Redis.from_url(os.environ["WA_REDIS_URL"])) as redis:
            wait_for(lambda: process.poll() is not None or not redis.zcard(keys.LEDGER), 60, "the end of the work")
        process.terminate()
        assert process.wait(60) == 0, (folder / "log").read_text()
        return (folder / "log").read_text()

    return run


@pytest.fixture
def command() -> Callable[..., str]:
    """Run a command line of a page as it stands, with more variables: what it prints."""

    def run(line: str, **env: str) -> str:
        program, *words = line.split()
        assert program == "wa-ingest"
        done = subprocess.run(
            [sys.executable, "-m", "workers.cli", *words],
            env=os.environ | env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def lines(page: str, beginning: str) -> list[str]:
    """The command lines of a page that begin so."""
    text = (ROOT / "docs/recipes" / page).read_text()
    return re.findall(rf"^    ({re.escape(beginning)}.*)$", text, re.MULTILINE)


@pytest.fixture
def program() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start a server, and return when it listens on that port. It ends after the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(port: int, *command: str, cwd: Path, env: dict[str, str]) -> subprocess.Popen[bytes]:
        with (cwd / "log").open("ab") as log:
            process = subprocess.Popen(command, cwd=cwd, env=env, stdout=log, stderr=log)
        started.append(process)
        wait_for(lambda: _listens(port) or process.poll() is not None, 60, f"{command[0]} on port {port}")
        assert process.poll() is None, (cwd / "log").read_text()
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False
