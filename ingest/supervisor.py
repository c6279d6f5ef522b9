"""Child processes: start them, start again what dies, stop them in order.

Receivers, workers and the embedded server are processes of their own. Each child gets a session of its own, so that
Ctrl-C on the terminal reaches only the parent, which stops the children in the right order; and a pipe as its standard
input, whose end tells it that the parent is gone (also when that was killed).

A command that has checked everything becomes this program (`become`), because what the checks imported would take 60 MB
for as long as it runs. So this module imports little, and nothing that is not Python's own.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, NoReturn

from ingest import signs, terminal
from ingest.child import GIVE_UP, command, named
from ingest.signals import STOPS, Signals, listen

STOP_SECONDS = 25.0
"""How long a child may take to stop before it is killed, where its `ProcessSpec` says nothing else."""

_START_SECONDS = 120.0  # reading a long append-only file takes its time
_FIRST_BACKOFF = 0.2  # from a child's end to its restart; doubled each time it ends again
_LONGEST_BACKOFF = 10.0
_SETTLED_SECONDS = 60.0  # a child that ran this long begins again with the first

_PATIENCE_SECONDS = 1.0  # a stop that takes longer says why
_LOOK_SECONDS = 5.0  # between looks at signs of life

_SIGNALS = {one.value: one.name for one in signal.Signals}
_CAUSES: dict[int, str] = {
    signal.SIGKILL: "by somebody, or because memory ran out: then `dmesg` says so",
    signal.SIGSEGV: "mostly a mistake in native code: its stack is above",
}
"""Why a process is likely to have been killed."""

_COLOURS = {"warning": 33, "info": 32}

_PLAN = "INGEST_PLAN"


class ProcessSpec(NamedTuple):
    """What to run: `python -m module arguments`, in so many `processes`.

    `ends` is True when exit status 0 means that its work is done (`--burst`). `ready` is a module and its arguments:
    run with the process ids as further arguments, it ends with status 0 when the others may be started; empty: at once.
    A child that takes more than `stop_seconds` to stop is killed; so is one that gives no sign for `silent_seconds`
    (`ingest.signs`), None: none is expected. `output` is the file descriptor that they print to, None: where this
    process prints. `env` is added to the environment. Specs with the same `metrics` share their Prometheus metrics.
    Children that are `renewed` are replaced at the signal RENEW: new ones start while the old ones finish. One that
    would fail the same way again (GIVE_UP) waits for it, and ends nobody else. `reads` names files that children read
    once, at their start: a line says when one has changed.
    """

    name: str
    module: str
    arguments: Sequence[str] = ()
    processes: int = 1
    ends: bool = False
    ready: Sequence[str] = ()
    stop_seconds: float = STOP_SECONDS
    silent_seconds: float | None = None
    output: int | None = None
    env: Mapping[str, str] = MappingProxyType({})
    metrics: str = ""
    renewed: bool = False
    reads: Sequence[str] = ()


def become(
    specs: Sequence[ProcessSpec], env: Mapping[str, str] | None = None, banner: str = "", farewell: str = ""
) -> NoReturn:
    """Go on as a program that supervises these, with this process's id; `banner` is printed when all are ready, and
    `farewell` when they have stopped in order.

    Files of this process that are to stay open must be inheritable.
    """
    plan = [[spec._asdict() | {"env": dict(spec.env)} for spec in specs], banner, farewell]
    # Not on the command line, which everybody may read: URLs hold passwords.
    environment = {**os.environ, **(env or {}), _PLAN: json.dumps(plan)}
    sys.stdout.flush()
    sys.stderr.flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)  # until the new program listens to them
    # What was called stays on the command line, for whoever looks for it there.
    os.execve(sys.executable, [*command("ingest.supervisor"), *sys.argv], environment)  # noqa: S606 - our own module


def supervise(
    specs: Sequence[ProcessSpec], env: Mapping[str, str] | None = None, started: Callable[[], None] = lambda: None
) -> int:
    """Run all specs until SIGTERM or SIGINT, or until those that end have ended. The exit status for this process.

    A spec that needs others comes before them: they are started last to first, and stopped first to last. `started` is
    called when all are ready.
    """
    with (
        listen(renew=any(spec.renewed for spec in specs)) as signals,
        tempfile.TemporaryDirectory(prefix=signs.PREFIX) as folder,
    ):
        lock = signs.lock(folder)
        groups = [
            _Group(spec, {**os.environ, **_metrics_folder(folder, spec), **(env or {})}, folder) for spec in specs
        ]
        try:
            for group in reversed(groups):
                group.start()
                status = _wait_until_ready(group, groups, signals) if group.spec.ready else None
                if status is not None:
                    return status
            started()
            return _keep_running(groups, signals)
        finally:
            for group in groups:
                group.stop(signals)
            os.close(lock)


def _metrics_folder(folder: str, spec: ProcessSpec) -> dict[str, str]:
    path = Path(folder, spec.metrics)
    path.mkdir(exist_ok=True)
    return {"PROMETHEUS_MULTIPROC_DIR": str(path)}


def _wait_until_ready(group: _Group, groups: Sequence[_Group], signals: Signals) -> int | None:
    """Return None once it is, else the exit status with which all are to end now."""
    deadline = time.monotonic() + _START_SECONDS
    while True:
        pids = group.pids()
        with group.asking(pids) as asked:
            while asked.poll() is None and group.pids() == pids:
                if any(each.has_given_up() for each in groups) or time.monotonic() > deadline:
                    return 1
                for each in groups:
                    each.restart_ended()
                if signals.wait(0.05):
                    return 0
        if asked.returncode == 0:
            return None


def _keep_running(groups: Sequence[_Group], signals: Signals) -> int:
    """Return the exit status when all are to end."""
    files = {file: _version(file) for group in groups for file in group.spec.reads}
    for group in groups:
        group.down_since = None  # whoever waits for the first start is told of that
    while True:
        if any(group.has_given_up() for group in groups if not group.spec.renewed):
            return 1
        if signals.renew:
            signals.renew = False  # first: another one may come at any moment
            for group in groups:
                group.renew()
        for group in groups:
            group.restart_ended()
            group.end_late()
            group.tell_when_ready()
        _tell_changes(files)
        if _work_is_done(groups) or signals.wait(_seconds_to_look(groups)):
            return 0


def _work_is_done(groups: Sequence[_Group]) -> bool:
    ending = [group for group in groups if group.spec.ends]
    return bool(ending) and not any(group.children for group in ending)


def _seconds_to_look(groups: Sequence[_Group]) -> float | None:
    """Until a restart is due, or signs of life are to be looked at; None when only a signal or an end can change it."""
    children = [child for group in groups for child in (*group.children, *group.leaving)]
    due = [at - time.monotonic() for child in children for at in (child.restart_at, child.stop_by) if at is not None]
    due += [one.patient_until - time.monotonic() for group in groups for one in group.leaving]
    if any(group.spec.silent_seconds is not None for group in groups):
        due.append(_LOOK_SECONDS)
    soonest = min(due, default=math.inf)
    return None if soonest == math.inf else max(0.0, soonest)


def _tell_changes(files: dict[str, tuple[int, int] | None]) -> None:
    """Say once of each change of these files that nobody has read it. `files`: the versions that were seen last."""
    for file, before in files.items():
        now = _version(file)
        if now not in (None, before):  # an editor may remove it before it writes it anew
            files[file] = now
            _warn("file changed, but is read at the start only: restart to use it", file=file)


def _version(file: str) -> tuple[int, int] | None:
    """When it was written (in nanoseconds), and its size; None while it is not there."""
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


class _Group:
    """The running processes of a spec."""

    def __init__(self, spec: ProcessSpec, env: Mapping[str, str], folder: str) -> None:
        self.spec = spec
        self.children: list[_Child] = []
        self.leaving: list[_Child] = []
        """Those that others have replaced, until they have ended."""
        self.down_since: float | None = None
        """When the first of them ended, or was told to, of those that are not all ready again."""
        self._asked: subprocess.Popen[bytes] | None = None
        self._asked_for: list[int] = []
        self._env = env
        self._folder = folder

    def start(self) -> None:
        self.children = [_Child(self.spec, self._env, self._folder) for _ in range(self.spec.processes)]

    def pids(self) -> list[int]:
        return [child.process.pid for child in self.children]

    @contextmanager
    def asking(self, pids: Sequence[int]) -> Iterator[subprocess.Popen[bytes]]:
        """A process that ends when these are ready, and in any case with the block."""
        with _popen(self.spec, [*self.spec.ready, *map(str, pids)], self._env) as process:
            try:
                yield process
            finally:
                process.kill()

    def has_given_up(self) -> bool:
        """A child ended that would fail the same way again; it has said why."""
        return any(child.process.poll() == GIVE_UP for child in self.children)

    def restart_ended(self) -> None:
        """Note which children have ended, and restart those that are due."""
        for child in [one for one in self.leaving if one.process.poll() is not None]:
            self.leaving.remove(child)
            self._forget(child)
        late = [one for one in self.leaving if one.patient_until <= time.monotonic()]
        if late:
            event = "processes with the code before finish what they have begun"
            _say("info", event, process=self.spec.name, count=len(late), seconds_at_most=round(self.spec.stop_seconds))
        for child in late:
            child.patient_until = math.inf
        for child in list(self.children):
            if child.restart_at is not None:
                child.restart_when_due()
            elif (status := child.process.poll()) is not None:
                self._note_end(child, status)

    def end_late(self) -> None:
        """End children that have given no sign of life, or have been stopping, for too long, whatever they are in."""
        for child in (*self.children, *self.leaving):
            if self.spec.silent_seconds is not None and child.restart_at is None:
                child.end_if_silent(self.spec.silent_seconds)
            child.end_if_late()

    def renew(self) -> None:
        """Replace each child, if the spec says so: what the old ones have begun may take long, and holds up nobody."""
        for place, child in enumerate(self.children if self.spec.renewed else ()):
            self.down_since = self.down_since or time.monotonic()
            if child.restart_at is not None:
                child.restart_at = 0.0
                continue
            child.terminate()
            self.leaving.append(child)
            self.children[place] = _Child(self.spec, self._env, self._folder, follows=child.name)

    def _forget(self, child: _Child) -> None:
        _forget_gauges(child.process.pid, self._env["PROMETHEUS_MULTIPROC_DIR"])
        if child.process.stdin:
            child.process.stdin.close()

    def tell_when_ready(self) -> None:
        """Say when those that had ended, or were renewed, are ready again; how that is known, the spec says."""
        starting = any(child.restart_at is not None for child in self.children)
        if self.down_since is None or not self.spec.ready or starting:
            return
        if self._asked is None or self._asked_for != self.pids():
            self._ask_no_more()
            self._asked_for = self.pids()
            self._asked = _popen(self.spec, [*self.spec.ready, *map(str, self._asked_for)], self._env)
        elif self._asked.poll() is not None:
            seconds = round(time.monotonic() - self.down_since, 1)
            if self._asked.returncode == 0:
                _say("info", "process runs again", process=self.spec.name, seconds=seconds)
            self.down_since = None
            self._ask_no_more()

    def _ask_no_more(self) -> None:
        if self._asked is not None:
            self._asked.kill()
            self._asked.__exit__(None, None, None)  # waits, and closes its standard input
            self._asked = None

    def _note_end(self, child: _Child, status: int) -> None:
        self._forget(child)
        self.down_since = self.down_since or time.monotonic()
        if status == 0 and self.spec.ends:
            self.children.remove(child)
            return
        if status == GIVE_UP and self.spec.renewed:
            child.restart_at = math.inf
            return
        backoff = child.back_off()
        _warn(
            "process ended, starting it again",
            process=self.spec.name,
            pid=child.process.pid,
            **child.how_it_ended(status),
            wait_seconds=round(backoff, 1),
        )

    def stop(self, signals: Signals) -> None:
        """Return when all have ended; those that do not in time are killed.

        When this process is told to stop once more, so are they: a worker gives handlers no more time then.
        """
        self._ask_no_more()
        children = [*self.children, *self.leaving]
        for child in children:
            child.terminate()
        began, told, is_said = time.monotonic(), signals.stops, False
        while running := [child.process for child in children if child.process.poll() is None]:
            left = began + self.spec.stop_seconds - time.monotonic()
            if left <= 0:
                for process in running:
                    _kill(process, self.spec.name)
                    process.wait()
                break
            if signals.stops > told:
                told = signals.stops
                for process in running:
                    process.terminate()
            if not is_said and time.monotonic() - began >= _PATIENCE_SECONDS and sys.stderr.isatty():
                is_said = True
                again = "Ctrl-C once more interrupts it, to be handled at the next start"
                terminal.aside(f"\rfinishing what has begun, {left:.0f} s at most; {again}")
            signals.sleep(min(left, _PATIENCE_SECONDS))
        for child in children:
            if child.process.stdin:
                child.process.stdin.close()


class _Child:
    """One of them, through all its restarts. `restart_at` is None while it runs, `stop_by` unless it is to stop."""

    def __init__(self, spec: ProcessSpec, env: Mapping[str, str], folder: str, follows: str = "") -> None:
        self._spec = spec
        self._env = env
        self._sign: Path | None = None
        if spec.silent_seconds is not None:
            self._sign = signs.path(folder, f"{spec.name}-{os.urandom(4).hex()}")
        self._backoff = 0.0
        self.name = ""
        self._start(follows)

    def _start(self, follows: str = "") -> None:
        name, replaces = os.urandom(8).hex(), self.name
        self.name = name
        environment = {**self._env, **named(name, replaces, follows or replaces)}
        if self._sign is not None:
            signs.give(self._sign)
            environment |= signs.expected(self._sign)
        self._seen, self._looked, self._silent, self._aborted = 0.0, time.monotonic(), 0.0, False
        self.process = _popen(self._spec, [self._spec.module, *self._spec.arguments], environment)
        self._started = time.monotonic()
        self.patient_until = math.inf  # then it is said that it still stops
        self.restart_at: float | None = None
        self.stop_by: float | None = None

    def back_off(self) -> float:
        """Plan the restart, in twice as many seconds as last time; return how many."""
        now = time.monotonic()
        if now - self._started >= _SETTLED_SECONDS:
            self._backoff = 0.0
        self._backoff = min(_LONGEST_BACKOFF, max(_FIRST_BACKOFF, 2 * self._backoff))
        self.restart_at = now + self._backoff
        return self._backoff

    def terminate(self) -> None:
        """Tell the process to stop: once, because a worker that is told twice gives handlers no more time."""
        if self.stop_by is None:
            self.process.terminate()
            self.stop_by = time.monotonic() + self._spec.stop_seconds
            self.patient_until = time.monotonic() + _PATIENCE_SECONDS

    def end_if_late(self) -> None:
        """Kill the process if it has not stopped in time."""
        if self.stop_by is not None and self.stop_by <= time.monotonic():
            _kill(self.process, self._spec.name)
            self.stop_by = math.inf

    def end_if_silent(self, limit: float) -> None:
        """End the process if it has been silent for more than `limit` seconds: it prints its stacks, if it still can.

        Only time in which this process ran counts, so that after a frozen machine wakes up nobody is ended.
        """
        if self._sign is None:
            return
        now, seen = time.monotonic(), signs.seen(self._sign)
        self._silent = 0.0 if seen != self._seen else self._silent + min(now - self._looked, 2 * _LOOK_SECONDS)
        self._seen, self._looked = seen, now
        if self._silent <= limit:
            return
        if self._aborted:
            self.process.kill()
            return
        self._aborted = True
        _warn(
            "process gives no sign of life, ending it",
            process=self._spec.name,
            pid=self.process.pid,
            silent_seconds=round(self._silent),
        )
        self.process.send_signal(signal.SIGABRT)  # a child that gives signs has faulthandler on

    def how_it_ended(self, status: int) -> dict[str, object]:
        """For a log line: its exit status, or the signal that killed it, with the likely cause."""
        if status >= 0:
            return {"status": status}
        reason = f"killed by signal {-status} ({_SIGNALS.get(-status, 'no name')})"
        cause = None if self._aborted else _CAUSES.get(-status)  # else it was this program
        return {"reason": f"{reason}, {cause}" if cause else reason}

    def restart_when_due(self) -> None:
        if self.restart_at is not None and self.restart_at <= time.monotonic():
            self._start()


def _kill(process: subprocess.Popen[bytes], name: str) -> None:
    _warn("process does not stop, killing it", process=name, pid=process.pid)
    process.kill()


def _popen(spec: ProcessSpec, call: Sequence[str], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - our own modules
        command(*call),
        stdin=subprocess.PIPE,
        stdout=spec.output,
        stderr=spec.output,
        start_new_session=True,
        env={**env, **spec.env},
    )


def _forget_gauges(pid: int, folder: str) -> None:
    """Remove the gauges of a process that ended, as prometheus_client does: that takes 14 MB to import."""
    for file in Path(folder).glob(f"gauge_live*_{pid}.db"):
        file.unlink()


def _warn(event: str, **fields: object) -> None:
    _say("warning", event, **fields)


def _say(level: str, event: str, **fields: object) -> None:
    """Write a log line in the form that `ingest.telemetry.logs` gives to all others: that takes 19 MB to import."""
    name = "ingest.supervisor"
    timestamp = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
    if sys.stderr.isatty():
        shown = f"\x1b[{_COLOURS[level]}m{level:9}\x1b[0m" if terminal.colours(sys.stderr) else f"{level:9}"
        when, where = terminal.clock(timestamp), "" if terminal.is_terse() else f"[{name}] "
        values = " ".join(f"{field}={value}" for field, value in fields.items())
        line = terminal.fitted(f"{when} [{shown}] {event:30} {where}{values}", sys.stderr)
    else:
        line = json.dumps(fields | {"event": event, "level": level, "logger": name, "timestamp": timestamp})
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """What a command has become."""
    specs, banner, farewell = json.loads(os.environ.pop(_PLAN))
    status = supervise([ProcessSpec(**spec) for spec in specs], started=lambda: print(banner, end="", flush=True))
    if status == 0:
        print(farewell, end="", flush=True)
    sys.exit(status)


if __name__ == "__main__":
    main()
