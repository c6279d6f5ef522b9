"""The pages in docs/recipes, word for word, with real workers and what they post to."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import wait_for
from tests.ingest.admin.conftest import alerting_receiver  # noqa: F401
from tests.workers.conftest import commit, dead  # noqa: F401
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
