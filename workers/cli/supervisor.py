"""Child processes: start them, start again what dies, stop them in order.

Receivers, workers and the embedded server are processes of their own. Each child gets a session of its own, so that
Ctrl-C on the terminal reaches only the parent, which stops the children in the right order; and a pipe as its standard
input, whose end tells it that the parent is gone (also when that was killed).
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import structlog

from ingest.child import GIVE_UP

log = structlog.get_logger()

STOP_SECONDS = 25.0
"""How long a child may take to stop before it is killed; compose waits 30 s."""

_START_SECONDS = 120.0  # reading a long append-only file takes its time
_LONGEST_WAIT = 10.0  # between two starts of a child that keeps dying
_SETTLED = 60.0  # a child that ran this long is not one that keeps dying


@dataclass
class ProcessSpec:
    """A spec of child: `python -m module arguments`, `count` times.

    `ends` is True when exit status 0 means that its work is done (`--burst`). `ready` says whether the others may be
    started. `output` is the file descriptor that they print to, None: where this process prints. `env` is added to the
    environment.
    """

    name: str
    module: str
    arguments: Sequence[str] = ()
    count: int = 1
    ends: bool = False
    ready: Callable[[], bool] = lambda: True
    output: int | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    children: list[_Child] = field(default_factory=list)


@dataclass
class _Child:
    process: subprocess.Popen[bytes]
    started: float
    failures: int = 0
    start_at: float | None = None
    """When it is to be started again; None while it runs."""


def supervise(
    specs: Sequence[ProcessSpec], env: dict[str, str] | None = None, started: Callable[[], None] = lambda: None
) -> int:
    """Run all specs until SIGTERM or SIGINT, or until those that end have ended. The exit status for this process.

    Kinds that need others come before them: they are stopped first to last, and started last to first.
    """
    with _signals() as wait, tempfile.TemporaryDirectory(prefix="wa-ingest-metrics-") as folder:
        environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": folder} | (env or {})
        try:
            for spec in reversed(specs):
                spec.children = [_Child(_start(spec, environment), time.monotonic()) for _ in range(spec.count)]
                deadline = time.monotonic() + _START_SECONDS
                while not spec.ready():
                    if _given_up(spec) or time.monotonic() > deadline:
                        return 1
                    for running in specs:
                        _look_after(running, environment)
                    if wait(0.05):
                        return 0
            started()
            while True:
                if any(_given_up(spec) for spec in specs):
                    return 1
                for spec in specs:
                    _look_after(spec, environment)
                if not any(spec.children for spec in specs if spec.ends) and any(spec.ends for spec in specs):
                    return 0
                due = [c.start_at for spec in specs for c in spec.children if c.start_at is not None]
                if wait(max(0.0, min(due) - time.monotonic()) if due else None):
                    return 0
        finally:
            for spec in specs:
                _stop(spec)


@contextmanager
def _signals() -> Iterator[Callable[[float | None], bool]]:
    """A function that waits for a child's end or `timeout` seconds, and says whether this process is to stop."""
    to_stop: list[int] = []
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    os.set_blocking(reader, False)

    def wait(timeout: float | None) -> bool:
        if not to_stop:
            select.select([reader], [], [], timeout)
            with suppress(BlockingIOError):
                os.read(reader, 4096)
        return bool(to_stop)

    previous = {
        number: signal.signal(number, lambda n, _: to_stop.append(n)) for number in (signal.SIGTERM, signal.SIGINT)
    }
    previous[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
    previous_fd = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield wait
    finally:
        signal.set_wakeup_fd(previous_fd)
        for number, handler in previous.items():
            signal.signal(number, handler)
        os.close(reader)
        os.close(writer)


def _start(spec: ProcessSpec, env: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - our own modules
        [sys.executable, "-m", spec.module, *spec.arguments],
        stdin=subprocess.PIPE,
        stdout=spec.output,
        stderr=spec.output,
        start_new_session=True,
        env={**env, **spec.env},
    )


def _given_up(spec: ProcessSpec) -> bool:
    """A child ended that would fail the same way again; it has said why."""
    return any(child.process.poll() == GIVE_UP for child in spec.children)


def _look_after(spec: ProcessSpec, env: dict[str, str]) -> None:
    """Note who ended, start again who is due."""
    now = time.monotonic()
    for child in list(spec.children):
        if child.start_at is not None:
            if child.start_at <= now:
                child.process, child.started, child.start_at = _start(spec, env), now, None
            continue
        status = child.process.poll()
        if status is None:
            continue
        _forget_gauges(child.process.pid, env["PROMETHEUS_MULTIPROC_DIR"])
        if status == 0 and spec.ends:
            spec.children.remove(child)
            continue
        child.failures = child.failures + 1 if now - child.started < _SETTLED else 1
        wait = min(_LONGEST_WAIT, 0.1 * 2**child.failures)
        child.start_at = now + wait
        log.warning("process ended, starting it again", process=spec.name, status=status, wait_seconds=round(wait, 1))


def _forget_gauges(pid: int, folder: str) -> None:
    """What that process counted as being so at the moment is no longer so."""
    from prometheus_client import multiprocess  # only here: children import this module, and most count nothing

    multiprocess.mark_process_dead(pid, folder)  # type: ignore[no-untyped-call]


def _stop(spec: ProcessSpec) -> None:
    running = [child.process for child in spec.children if child.process.poll() is None]
    for process in running:
        process.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    for process in running:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.warning("process does not stop, killing it", process=spec.name, pid=process.pid)
            process.kill()
            process.wait()
    for child in spec.children:
        if child.process.stdin:
            child.process.stdin.close()
