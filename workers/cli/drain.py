"""`wa-ingest drain`: watch a backlog until it is empty."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import click
from redis import Redis
from redis.exceptions import RedisError
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from ingest import supervisor
from ingest.settings import Settings, redis_url
from ingest.store import connection
from ingest.store.queues import LANES
from ingest.telemetry import logs
from ingest.terminal import aside, counted
from workers.cli import preflight, process_specs
from workers.cli.drain_estimate import Estimate, Left, Look, Watch, together
from workers.cli.terminal import cli_errors, current_settings, diagnose, print_json, span

_LOOK_SECONDS = 0.25
_LOOK_SHARE = 20  # from one look to the next, at least so many times as long as a look takes
_STANDSTILL = 30.0  # seconds without anything done, until that is said
_LINE_SECONDS = 5.0  # between two lines, where there is no terminal for bars

Say = Callable[[dict[str, Left], str], None]
"""Shows the lanes, and a remark: what keeps them from being drained, or nothing."""


@click.command()
@click.argument("lanes", nargs=-1, type=click.Choice(LANES), metavar="[LANE]...")
@click.option("--processes", "count", type=click.IntRange(1, 1024), help="Run this many workers here until then.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, a line four times a second, instead of bars.")
def drain(lanes: tuple[str, ...], count: int | None, as_json: bool) -> None:
    """Show how a backlog is drained, how fast and how long it will take; exit 0 when it is empty.

    Without --processes it watches the workers that run already, wherever they are. With it, it runs workers of its own
    and stops them at the end. Ctrl-C stops either (exit 1); nothing is lost.

    LANE is messages, statuses or other; none means all. Empty means that nothing waits and nothing is in work. Failed
    events that wait for their next try do not count, nor does what waits behind them; their number is printed at the
    end. Paused lanes are left out. The time left appears once something was done; it takes into account that the most
    urgent lane goes first. What keeps it from being drained is said: no worker is alive, `rq suspend`, nothing was done
    for half a minute.
    """
    with cli_errors():
        settings = current_settings(to_write=count is not None)
        redis_url(settings)
        follower = _Follower(connection.all_for_tools(redis_url(settings)).values(), lanes or LANES)
        console = Console(stderr=True)
        show = _json if as_json else _bars if console.is_terminal else _lines
        began = time.monotonic()
        with show(console) as say:
            if count is None:
                follower.follow(say, "no worker is alive: start some, or give --processes N")
            else:
                _run_workers(settings.model_copy(update={"processes": count}), follower, say, console)
        if not follower.shown or not follower.empty:
            raise click.ClickException("stopped before it was empty; nothing is lost")
        if not as_json:
            done = sum(left.done for left in follower.shown.values())
            click.echo(f"Empty: {counted(done, 'notification')} in {span(time.monotonic() - began)}.")
            if follower.retrying:
                waits, wait = "failed event waits for its next try", "failed events wait for their next try"
                click.echo(f"{counted(follower.retrying, waits, wait)}, or behind one that does.")


class _Follower:
    """Watches until the lanes are empty, or it is told to stop."""

    def __init__(self, clients: Iterable[Redis], lanes: tuple[str, ...]) -> None:
        self.lanes = lanes
        self.shown: dict[str, Left] = {}
        self.retrying = 0
        self.stop = threading.Event()
        self._each = [(Watch(redis), Estimate()) for redis in clients]
        self._done, self._done_at = 0, time.monotonic()

    @property
    def empty(self) -> bool:
        return not any(left.left for left in self.shown.values() if not left.paused)

    def follow(self, say: Say, no_worker: str) -> None:
        """Return when the lanes are empty. Raises RedisError when the first look fails, and KeyboardInterrupt."""
        while not self.stop.is_set():
            began = time.monotonic()
            try:
                looks = [watch.look() for watch, _ in self._each]
            except (RedisError, OSError) as error:
                if not self.shown:
                    raise
                say(self.shown, str(diagnose(error)))
            else:
                found = [estimate.add(look) for look, (_, estimate) in zip(looks, self._each, strict=True)]
                self.shown = {lane: together([one[lane] for one in found]) for lane in self.lanes}
                if not any(look.workers for look in looks):  # however fast it went before
                    self.shown = {lane: _without_end(left) for lane, left in self.shown.items()}
                self.retrying = sum(look.retrying[lane] for look in looks for lane in self.lanes)
                if all(left.paused for left in self.shown.values()):
                    raise click.ClickException(f"paused: {', '.join(self.lanes)}; `wa-ingest resume` lets them go on")
                say(self.shown, self._remark(looks, no_worker))
                if self.empty:
                    return
            self.stop.wait(max(_LOOK_SECONDS, _LOOK_SHARE * (time.monotonic() - began)))

    def _remark(self, looks: list[Look], no_worker: str) -> str:
        """What keeps the lanes from being drained."""
        now, done = time.monotonic(), sum(left.done for left in self.shown.values())
        if done != self._done:
            self._done, self._done_at = done, now
        if not any(look.workers for look in looks):
            return no_worker
        if all(look.suspended for look in looks):
            return "suspended by `rq suspend`: `rq resume` lets the workers go on"
        if now - self._done_at > _STANDSTILL:
            return f"nothing was done for {span(now - self._done_at)}: `wa-ingest status` shows what is in work"
        return ""


def _without_end(left: Left) -> Left:
    return left._replace(seconds=None if left.left else 0.0)


def _run_workers(settings: Settings, follower: _Follower, say: Say, console: Console) -> None:
    """Run workers as `wa-ingest work` does; what they print appears above the bars."""
    preflight.redis(settings, must_answer=True)
    preflight.handlers(settings)
    failed: list[Exception] = []

    def follow() -> None:
        try:
            follower.follow(say, "the workers are starting")
        except Exception as error:
            failed.append(error)
        os.kill(os.getpid(), signal.SIGTERM)  # which `supervise` waits for

    logs.configure(settings.log_level)
    looking = threading.Thread(target=follow, name="drain")
    previous = signal.signal(signal.SIGTERM, lambda *_: None)  # it may come when `supervise` ended for another reason
    with _printing(console) as output:
        specs = process_specs.workers(settings, output=output)
        status = supervisor.supervise(specs, {"WA_LANES": ",".join(follower.lanes)}, looking.start)
    follower.stop.set()
    if looking.ident:
        looking.join()
    signal.signal(signal.SIGTERM, previous)
    if failed:
        raise failed[0]
    if status:
        sys.exit(status)  # a worker has said why


@contextmanager
def _printing(console: Console) -> Iterator[int | None]:
    """A file descriptor whose lines the console prints above what is live on it; None where nothing is live."""
    if not console.is_terminal:
        yield None
        return
    reader, writer = os.pipe()

    def copy() -> None:
        with open(reader, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                console.print(Text(line.rstrip("\n")))

    thread = threading.Thread(target=copy, name="output")
    thread.start()
    try:
        yield writer
    finally:
        os.close(writer)
        thread.join()


@contextmanager
def _bars(console: Console) -> Iterator[Say]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[left]:>14,} left"),
        TextColumn("{task.fields[rate]:>10,.0f}/s"),
        TextColumn("{task.fields[time]:>8}"),
    )
    progress = Progress(*columns, console=console)
    tasks: dict[str, TaskID] = {}
    remark = Text("", style="bold red")
    with Live(Group(progress, remark), console=console, refresh_per_second=4):

        def say(lanes: dict[str, Left], text: str) -> None:
            for lane, left in lanes.items():
                if lane not in tasks:
                    tasks[lane] = progress.add_task(lane, left=0, rate=0.0, time="")
                progress.update(
                    tasks[lane],
                    total=max(1, left.done + left.left),
                    completed=left.done if left.left else max(1, left.done),
                    left=left.left,
                    rate=left.rate,
                    time=_time(left),
                )
            remark.plain = text

        yield say


@contextmanager
def _lines(console: Console) -> Iterator[Say]:
    printed_at = -_LINE_SECONDS

    def say(lanes: dict[str, Left], remark: str) -> None:
        nonlocal printed_at
        if time.monotonic() - printed_at >= _LINE_SECONDS:
            printed_at = time.monotonic()
            parts = [f"{lane}: {left.left:,} left, {left.rate:,.0f}/s, {_time(left)}" for lane, left in lanes.items()]
            aside("; ".join(parts + [remark] * bool(remark)))

    yield say


@contextmanager
def _json(console: Console) -> Iterator[Say]:
    def say(lanes: dict[str, Left], remark: str) -> None:
        content = {"lanes": {lane: left._asdict() for lane, left in lanes.items()}, "remark": remark or None}
        print_json(content, indent=False)

    yield say


def _time(left: Left) -> str:
    if left.paused:
        return "paused"
    if not left.left:
        return "empty"
    return "-" if left.seconds is None else span(left.seconds)
