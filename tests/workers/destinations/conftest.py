"""An application that is posted to, and worker processes with a file of destinations."""

from __future__ import annotations

import asyncio
import os
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
from aiohttp import web

from tests.workers.conftest import commit, dead, message, status  # noqa: F401

ROOT = Path(__file__).parents[3]


class Post(NamedTuple):
    headers: dict[str, str]  # lower-case names
    body: bytes
    at: float
    path: str


class Application:
    """A server whose `answer` says what each post gets; it may be ended and started again on the same port."""

    def __init__(self) -> None:
        self.posts: list[Post] = []
        self.answer: Callable[[Post], web.Response] = lambda post: web.Response()
        self.slow = 0.0  # seconds until an answer
        self.tls: ssl.SSLContext | None = None
        self.most_at_a_time = 0
        self._now = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._port = 0
        self._runner: web.ServerRunner
        self.start()

    @property
    def host(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def url(self) -> str:
        return f"{self.host}/webhook"

    def start(self) -> None:
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()

    def stop(self) -> None:
        """Refuse connections, and break those there are."""
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result()

    def close(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> None:
        self._runner = web.ServerRunner(web.Server(self._handle), shutdown_timeout=0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True, ssl_context=self.tls)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def _handle(self, request: web.BaseRequest) -> web.Response:
        self._now += 1
        self.most_at_a_time = max(self.most_at_a_time, self._now)
        try:
            headers = {name.lower(): value for name, value in request.headers.items()}
            post = Post(headers, await request.read(), time.monotonic(), request.raw_path)
            self.posts.append(post)
            if self.slow:
                await asyncio.sleep(self.slow)
            return self.answer(post)
        finally:
            self._now -= 1


@pytest.fixture
def application() -> Iterator[Callable[[], Application]]:
    """Start an application."""
    with ExitStack() as stack:

        def start() -> Application:
            found = Application()
            stack.callback(found.close)
            return found

        yield start


@pytest.fixture
def destinations(tmp_path: Path) -> Callable[..., Path]:
    """Write a file of destinations: `destinations({"name": …, "url": …}, …)`."""

    def write(*tables: dict[str, object]) -> Path:
        file = tmp_path / "destinations.toml"
        lines = []
        for table in tables:
            lines.append("[[destination]]")
            lines += [f"{key} = {_toml(value)}" for key, value in table.items()]
        file.write_text("\n".join(lines))
        return file

    return write


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{key}" = {_toml(item)}' for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return repr(value).replace("'", '"') if isinstance(value, str) else str(value)


@pytest.fixture
def worker(redis_url: str, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a worker process with these destinations; `"--burst"` ends it when nothing is left."""
    started: list[subprocess.Popen[str]] = []
    stdin, ours = os.pipe()  # a worker ends with its standard input

    def start(file: Path, *arguments: str, **env: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "workers.engine.worker", *arguments],
            cwd=tmp_path,
            env=os.environ | {"WA_DESTINATIONS": str(file), "PYTHONPATH": str(ROOT)} | env,
            stdin=stdin,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
    os.close(stdin)
    os.close(ours)


@pytest.fixture
def drain(worker: Callable[..., subprocess.Popen[str]]) -> Callable[..., str]:
    """Run a worker until nothing is left. Returns what it logged."""

    def run(file: Path, **env: str) -> str:
        process = worker(file, "--burst", **env)
        _, logged = process.communicate(timeout=90)
        assert process.returncode == 0, logged
        assert "Traceback" not in logged
        assert "Unclosed" not in logged
        return logged

    return run
