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
class Kind:
    """A kind of child: `python -m module arguments`, `count` times.

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
    kinds: Sequence[Kind], env: dict[str, str] | None = None, started: Callable[[], None] = lambda: None
) -> int:
    """Run all kinds until SIGTERM or SIGINT, or until those that end have ended. The exit status for this process.

    Kinds that need others come before them: they are stopped first to last, and started last to first.
    """
    with _signals() as wait, tempfile.TemporaryDirectory(prefix="wa-ingest-metrics-") as folder:
        environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": folder} | (env or {})
        try:
            for kind in reversed(kinds):
                kind.children = [_Child(_start(kind, environment), time.monotonic()) for _ in range(kind.count)]
                deadline = time.monotonic() + _START_SECONDS
                while not kind.ready():
                    if _given_up(kind) or time.monotonic() > deadline:
                        return 1
                    for running in kinds:
                        _look_after(running, environment)
                    if wait(0.05):
                        return 0
            started()
            while True:
                if any(_given_up(kind) for kind in kinds):
                    return 1
                for kind in kinds:
                    _look_after(kind, environment)
                if not any(kind.children for kind in kinds if kind.ends) and any(kind.ends for kind in kinds):
                    return 0
                due = [c.start_at for kind in kinds for c in kind.children if c.start_at is not None]
                if wait(max(0.0, min(due) - time.monotonic()) if due else None):
                    return 0
        finally:
            for kind in kinds:
                _stop(kind)


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


def _start(kind: Kind, env: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - our own modules
        [sys.executable, "-m", kind.module, *kind.arguments],
        stdin=subprocess.PIPE,
        stdout=kind.output,
        stderr=kind.output,
        start_new_session=True,
        env={**env, **kind.env},
    )


def _given_up(kind: Kind) -> bool:
    """A child ended that would fail the same way again; it has said why."""
    return any(child.process.poll() == GIVE_UP for child in kind.children)


def _look_after(kind: Kind, env: dict[str, str]) -> None:
    """Note who ended, start again who is due."""
    now = time.monotonic()
    for child in list(kind.children):
        if child.start_at is not None:
            if child.start_at <= now:
                child.process, child.started, child.start_at = _start(kind, env), now, None
            continue
        status = child.process.poll()
        if status is None:
            continue
        _forget_gauges(child.process.pid, env["PROMETHEUS_MULTIPROC_DIR"])
        if status == 0 and kind.ends:
            kind.children.remove(child)
            continue
        child.failures = child.failures + 1 if now - child.started < _SETTLED else 1
        wait = min(_LONGEST_WAIT, 0.1 * 2**child.failures)
        child.start_at = now + wait
        log.warning("process ended, starting it again", process=kind.name, status=status, wait_seconds=round(wait, 1))


def _forget_gauges(pid: int, folder: str) -> None:
    """What that process counted as being so at the moment is no longer so."""
    from prometheus_client import multiprocess  # only here: children import this module, and most count nothing

    multiprocess.mark_process_dead(pid, folder)  # type: ignore[no-untyped-call]


def _stop(kind: Kind) -> None:
    running = [child.process for child in kind.children if child.process.poll() is None]
    for process in running:
        process.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    for process in running:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.warning("process does not stop, killing it", process=kind.name, pid=process.pid)
            process.kill()
            process.wait()
    for child in kind.children:
        if child.process.stdin:
            child.process.stdin.close()
