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
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import structlog

from ingest.child import GIVE_UP, command, named

log = structlog.get_logger()

STOP_SECONDS = 25.0
"""How long a child may take to stop before it is killed; compose waits 30 s."""

_START_SECONDS = 120.0  # reading a long append-only file takes its time
_FIRST_BACKOFF = 0.2  # from a child's end to its restart; doubled each time it ends again
_LONGEST_BACKOFF = 10.0
_SETTLED_SECONDS = 60.0  # a child that ran this long begins again with the first

_Wait = Callable[[float | None], bool]


@dataclass(frozen=True)
class ProcessSpec:
    """What to run: `python -m module arguments`, in `count` processes.

    `ends` is True when exit status 0 means that its work is done (`--burst`). `ready`, given the process ids, says
    whether the others may be started. `output` is the file descriptor that they print to, None: where this process
    prints. `env` is added to the environment.
    """

    name: str
    module: str
    arguments: Sequence[str] = ()
    count: int = 1
    ends: bool = False
    ready: Callable[[Collection[int]], bool] = lambda pids: True
    output: int | None = None
    env: Mapping[str, str] = field(default_factory=dict)


def supervise(
    specs: Sequence[ProcessSpec], env: Mapping[str, str] | None = None, started: Callable[[], None] = lambda: None
) -> int:
    """Run all specs until SIGTERM or SIGINT, or until those that end have ended. The exit status for this process.

    A spec that needs others comes before them: they are started last to first, and stopped first to last. `started` is
    called when all are ready.
    """
    with _signals() as wait, tempfile.TemporaryDirectory(prefix="wa-ingest-metrics-") as folder:
        environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": folder, **(env or {})}
        groups = [_Group(spec, environment) for spec in specs]
        try:
            for group in reversed(groups):
                group.start()
                status = _wait_until_ready(group, groups, wait)
                if status is not None:
                    return status
            started()
            return _keep_running(groups, wait)
        finally:
            for group in groups:
                group.stop()


def _wait_until_ready(group: _Group, groups: Sequence[_Group], wait: _Wait) -> int | None:
    """Return None once it is, else the exit status with which all are to end now."""
    deadline = time.monotonic() + _START_SECONDS
    while not group.ready():
        if group.has_given_up() or time.monotonic() > deadline:
            return 1
        for each in groups:
            each.restart_ended()
        if wait(0.05):
            return 0
    return None


def _keep_running(groups: Sequence[_Group], wait: _Wait) -> int:
    """Return the exit status when all are to end."""
    while True:
        if any(group.has_given_up() for group in groups):
            return 1
        for group in groups:
            group.restart_ended()
        if _work_is_done(groups) or wait(_seconds_to_restart(groups)):
            return 0


def _work_is_done(groups: Sequence[_Group]) -> bool:
    ending = [group for group in groups if group.spec.ends]
    return bool(ending) and not any(group.children for group in ending)


def _seconds_to_restart(groups: Sequence[_Group]) -> float | None:
    """Until the next restart is due; None when all children run."""
    due = [child.restart_at for group in groups for child in group.children if child.restart_at is not None]
    return max(0.0, min(due) - time.monotonic()) if due else None


class _Group:
    """The running processes of a spec."""

    def __init__(self, spec: ProcessSpec, env: Mapping[str, str]) -> None:
        self.spec = spec
        self.children: list[_Child] = []
        self._env = env

    def start(self) -> None:
        self.children = [_Child(self.spec, self._env) for _ in range(self.spec.count)]

    def ready(self) -> bool:
        return self.spec.ready([child.process.pid for child in self.children])

    def has_given_up(self) -> bool:
        """A child ended that would fail the same way again; it has said why."""
        return any(child.process.poll() == GIVE_UP for child in self.children)

    def restart_ended(self) -> None:
        """Note which children have ended, and restart those that are due."""
        for child in list(self.children):
            if child.restart_at is not None:
                child.restart_when_due()
            elif (status := child.process.poll()) is not None:
                self._note_end(child, status)

    def _note_end(self, child: _Child, status: int) -> None:
        _forget_gauges(child.process.pid, self._env["PROMETHEUS_MULTIPROC_DIR"])
        if status == 0 and self.spec.ends:
            self.children.remove(child)
            return
        backoff = child.back_off()
        log.warning(
            "process ended, starting it again", process=self.spec.name, status=status, wait_seconds=round(backoff, 1)
        )

    def stop(self) -> None:
        """Return when all have ended; those that do not in time are killed."""
        running = [child.process for child in self.children if child.process.poll() is None]
        for process in running:
            process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.warning("process does not stop, killing it", process=self.spec.name, pid=process.pid)
                process.kill()
                process.wait()
        for child in self.children:
            if child.process.stdin:
                child.process.stdin.close()


class _Child:
    """One of them, through all its restarts. `restart_at` is None while it runs."""

    def __init__(self, spec: ProcessSpec, env: Mapping[str, str]) -> None:
        self._spec = spec
        self._env = env
        self._backoff = 0.0
        self._name = ""
        self._start()

    def _start(self) -> None:
        name, replaces = os.urandom(8).hex(), self._name
        self._name = name
        self.process = subprocess.Popen(  # noqa: S603 - our own modules
            command(self._spec.module, *self._spec.arguments),
            stdin=subprocess.PIPE,
            stdout=self._spec.output,
            stderr=self._spec.output,
            start_new_session=True,
            env={**self._env, **self._spec.env, **named(name, replaces)},
        )
        self._started = time.monotonic()
        self.restart_at: float | None = None

    def back_off(self) -> float:
        """Plan the restart, in twice as many seconds as last time; return how many."""
        now = time.monotonic()
        if now - self._started >= _SETTLED_SECONDS:
            self._backoff = 0.0
        self._backoff = min(_LONGEST_BACKOFF, max(_FIRST_BACKOFF, 2 * self._backoff))
        self.restart_at = now + self._backoff
        return self._backoff

    def restart_when_due(self) -> None:
        if self.restart_at is not None and self.restart_at <= time.monotonic():
            self._start()


@contextmanager
def _signals() -> Iterator[_Wait]:
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


def _forget_gauges(pid: int, folder: str) -> None:
    """Remove the gauges of a process that ended."""
    from prometheus_client import multiprocess  # only here: children import this module, and most count nothing

    multiprocess.mark_process_dead(pid, folder)  # type: ignore[no-untyped-call]
