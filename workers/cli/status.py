"""`wa-ingest status`: what waits, and how it goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import click
from redis import Redis
from redis.exceptions import RedisError
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ingest.settings import redis_url
from ingest.state import backlog, causes, dead_letters, health, history, rates, totals
from ingest.state.counters import LONGEST_CALL
from ingest.state.handlers import Handler
from ingest.state.refusals import Told
from ingest.state.spooled import SpoolFigures, spool_figures
from ingest.store import connection
from ingest.telemetry.printable import printable
from ingest.terminal import counted, shortened
from workers.cli import tables
from workers.cli.sparkline import SECONDS, Lines
from workers.cli.terminal import as_json, cli_errors, clock, current_settings, diagnose, print_json, span

_WATCH_SECONDS = 1.0
_DRAWN = f"waiting, last {span(SECONDS)}"
_HANDLERS = 10  # that are shown at most
_REFUSALS = 2  # causes that are named at most
_WIDE = 100  # columns of a terminal that has room for the plots beside the figures


@click.command()
@click.option("--watch", is_flag=True, help="Refresh every second, until Ctrl-C.")
@as_json
def status(watch: bool, as_json: bool) -> None:
    """Show what waits, how old it is, how fast it goes, what failed.

    Counts are notifications (retrying, behind and dead: events). Rates are per second over the last minute. Lanes that
    are paused or capped are named, and those in which events wait behind one that is to be tried again (strict order).

    Handlers and destinations that were called in the last minute, are held up, or are owed something, follow: events
    per second, the time within which 99 of 100 calls ended (p99_seconds of --json; null: none, or longer than 30 s),
    calls that failed, how many events wait for it at least (owed: for their next try, or for its turn in a worker) and
    the age of the oldest, and since when it is held up. Below these: which fail, how they failed last, for how long.

    At last, how many events have ended so far and how, what has not ended yet (notifications), and which types no
    handler wanted (ended and unhandled of --json; again: events that had ended and came again, because their worker
    died).

    dead_expiring (of --json) are the dead letters that will be removed within two days, counted up to 100. With --watch
    and --json: one JSON object a line. When Redis goes away, --watch says so and shows the figures again once Redis is
    back; with --json, lines have error and spool alone until then.
    """
    with cli_errors():
        settings = current_settings()
        redis = connection.all_for_tools(redis_url(settings))

        was_read = False

        def look() -> tuple[backlog.Backlog | connection.Diagnosis, SpoolFigures | None]:
            nonlocal was_read
            spooled = spool_figures(settings.spool_dir) if settings.spool_dir else None
            try:
                now = backlog.read_all(redis, settings.dead_age)
                now.idle_workers = backlog.idle_workers(redis, settings.partitions, now.away)
                now.newly_dead = _newly_dead(redis, now)
            except (RedisError, OSError) as error:
                if was_read:
                    return diagnose(error), spooled
                if spooled is not None:  # while Redis is away this is what there is to see
                    _print_spool(spooled, as_json)
                raise
            was_read = True
            return now, spooled

        if not watch:
            if as_json:
                print_json(_json(*look()))
            else:
                console = Console()
                console.print(_shown(console, *look()))
            return
        try:
            if as_json:
                while True:
                    print_json(_json(*look()), indent=False)
                    time.sleep(_WATCH_SECONDS)
            console, lines = Console(), Lines(history.read_all(redis))

            with Live(_shown(console, *look(), lines), console=console, screen=console.is_terminal) as live:
                while True:
                    time.sleep(_WATCH_SECONDS)
                    live.update(_shown(console, *look(), lines))
        except KeyboardInterrupt:
            pass


def _newly_dead(clients: dict[str, Redis], now: backlog.Backlog) -> str:
    """One line on what died within the hour, else empty."""
    if not (count := sum(lane.dead for lane in now.lanes.values())):
        return ""
    letters = [dead_letters.last(redis) for name, redis in clients.items() if name not in now.away]
    newest = max((one for one in letters if one), key=lambda one: one.id, default=None)
    if newest is None or (age := time.time() - newest.id.ms / 1000) >= health.LATELY_SECONDS:
        return ""
    return health.newly_dead(count, age, newest.reason, newest.handler)


def _json(now: backlog.Backlog | connection.Diagnosis, spooled: SpoolFigures | None) -> dict[str, Any]:
    found = {"error": str(now)} if isinstance(now, connection.Diagnosis) else now.as_json()
    return found | {"spool": spooled}


def _shown(
    console: Console,
    now: backlog.Backlog | connection.Diagnosis,
    spooled: SpoolFigures | None,
    lines: Lines | None = None,
) -> RenderableType:
    """The figures; or why Redis cannot be read, and what is in the spool. With `lines`, those are drawn on."""
    if isinstance(now, connection.Diagnosis):
        return Group(Text(printable(str(now)), style="bold red"), *_spooled(spooled))
    return _table(console, now, spooled, _drawn(now, lines, console.encoding) if lines else None)


def _drawn(now: backlog.Backlog, lines: Lines, encoding: str) -> dict[str, str]:
    return {name: lines.draw(name, lane.waiting, time.time(), encoding) for name, lane in now.lanes.items()}


def _table(
    console: Console, now: backlog.Backlog, spooled: SpoolFigures | None, drawn: dict[str, str] | None = None
) -> RenderableType:
    """The lanes, with what was `drawn` of each beside its figures on a wide terminal, else below them all."""
    wide = console.width >= _WIDE
    table = _columns("waiting", "oldest", "in work", "retrying", "dead", "in/s", "out/s", "empty in")
    if drawn and wide:
        table.add_column(_DRAWN, no_wrap=True)
    for name, lane in now.lanes.items():
        table.add_row(
            name,
            f"{lane.waiting:,}",
            span(lane.oldest_seconds) if lane.batches or lane.oldest_seconds else "-",
            f"{lane.working:,}",
            f"{lane.retrying:,}",
            Text(f"{lane.dead:,}", style="red" if lane.dead else ""),
            f"{lane.rate_in:,.0f}",
            f"{lane.rate_out:,.0f}",
            _time_left(lane),
            *([drawn[name]] if drawn and wide else []),
        )
    found = causes.of_workers(now, time.time())
    workers = Text(f"workers: {now.workers}", style="" if now.workers else "bold red")
    if found is not None:
        style = "yellow" if now.workers else ""
        workers.append(f"\n{printable(shortened(found.text))}. {printable(found.remedy)}", style=style)
    if now.suspended:
        workers.append("  suspended, `rq resume` lets them go on", style="bold red")
    below: list[RenderableType] = [table, workers]
    if handlers := now.handlers:
        of_handlers = _handlers(handlers[:_HANDLERS], " ")
        below += ["", of_handlers if tables.fits(of_handlers, console) else _handlers(handlers[:_HANDLERS], "\n")]
        if len(handlers) > _HANDLERS:
            below.append(Text(f"{counted(len(handlers) - _HANDLERS, 'more handler')}: see --json", style="dim"))
    if now.idle_workers:
        below.append(Text(now.idle_workers, style="yellow"))
    below += _refused(now.refused)
    if now.newly_dead:
        below.append(Text(f"{printable(now.newly_dead)}; `wa-ingest dead causes` says why", style="red"))
    if again := now.retrying:
        text = f"retrying: {again.events:,}, {causes.next_try(again, 'next in')}, oldest {span(again.oldest_seconds)}"
        helps = "" if again.put_off >= again.events and not now.broken else "; `wa-ingest retry` tries them now"
        below.append(Text(text + helps))
    for cause in causes.told(now, time.time()):
        below.append(Text(printable(shortened(cause.text)), style="red" if cause.level == "warning" else "yellow"))
    below += [line for one in now.steered for line in _steered(one)]
    if so_far := totals.lines(now):
        below += ["", *(Text(printable(line)) for line in so_far)]
    if drawn and not wide:
        plots = _columns()
        plots.add_column(_DRAWN, no_wrap=True)
        for name, line in drawn.items():
            plots.add_row(name, line)
        below += ["", plots]
    below += [Text(f"away, not counted: {name}", style="bold red") for name in now.away]
    for name, lane in now.lanes.items():
        if lane.paused_since:
            text = f"{name}: paused since {clock(lane.paused_since)}, `wa-ingest resume {name}` lets it go on"
            below.append(Text(text, style="bold red"))
        if standing := causes.in_work(lane):
            below.append(Text(f"{name}: {lane.working:,} in work: {standing}", style="yellow"))
        if lane.behind:
            below.append(Text(f"{name}: {lane.behind:,} behind events that wait for a try (strict order)"))
        if lane.limit:
            below.append(Text(f"{name}: at most {rates.in_words(lane.limit)}, `wa-ingest limit`", style="yellow"))
    below += _spooled(spooled)
    expiring = {name: lane.dead_expiring for name, lane in now.lanes.items()}
    if any(expiring.values()):
        soon = f"dead letters to be removed within 2 days: {backlog.expiring_text(expiring)}, see `wa-ingest dead`"
        below.append(Text(soon, style="red"))
    return Group(*below)


def _time_left(lane: backlog.Lane) -> str:
    left = lane.seconds_to_empty
    if lane.paused:
        return "paused"
    if left is not None:
        return span(left) if left else "-"
    if lane.without_workers:
        return "no worker"
    return "growing" if lane.rate_in > lane.rate_out else "not known" if lane.put_off else "steady"


def _handlers(shown: list[Handler], before_since: str) -> Table:
    table = tables.simple()
    table.add_column("handler")
    for heading in ("events/s", "p99", "failed", "owed", "oldest", "held up"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in shown:
        since = f"{before_since}since {clock(one.held_since)}" if one.held_since else ""
        table.add_row(
            tables.Name(one.name),
            f"{one.rate:,.1f}" if one.rate < 10 else f"{one.rate:,.0f}",
            _p99(one),
            Text(f"{one.failures:,}", style="red" if one.failures else ""),
            f"{one.owed:,}" if one.owed else "-",
            span(one.oldest_seconds) if one.owed else "-",
            Text(f"{one.held}{since}" if one.held else "-", style="red" if one.held else ""),
        )
    return table


def _p99(one: Handler) -> str:
    if one.p99_seconds is not None:
        return f"≤ {_took(one.p99_seconds)}"
    return f"> {_took(LONGEST_CALL)}" if one.rate else "-"


def _took(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.1f}s"
    return f"{seconds * 1000:.0f}ms" if seconds >= 0.01 else f"{seconds * 1000:.1f}ms"


def _steered(one: backlog.Steered) -> Iterator[Text]:
    name = printable(one.handler)
    if one.paused_since:
        text = f"{name}: paused since {clock(one.paused_since)}, `wa-ingest resume --handler {name}` lets it go on"
        yield Text(text, style="bold red")
    if one.limit:
        yield Text(f"{name}: at most {rates.in_words(one.limit)}, `wa-ingest limit --handler {name}`", style="yellow")


def _refused(found: list[Told]) -> Iterator[Text]:
    """What keeps all out, with its remedy; all the rest in one line, or the lanes would leave a small screen."""
    yield from (Text(f"{one.text}: {one.remedy}", style="bold red") for one in found if one.level == "critical")
    rest = [one for one in found if one.level != "critical"]
    if count := sum(one.requests for one in rest):
        causes = ", ".join(f"{one.cause} {one.requests:,}" for one in rest[:_REFUSALS])
        text = f"{counted(count, 'request')} refused lately: {causes}"
        more = ", …" if rest[_REFUSALS:] else ""
        style = "red" if any(one.level == "warning" for one in rest) else "dim"
        yield Text(f"{text}{more}; see `wa-ingest check`", style=style)


def _columns(*figures: str) -> Table:
    table = tables.simple()
    table.add_column("lane", no_wrap=True)
    for heading in figures:
        table.add_column(heading, justify="right", overflow="fold")  # a figure that was cut would be another figure
    return table


def _spooled(spooled: SpoolFigures | None) -> Iterator[Text]:
    if spooled and (spooled.notifications or spooled.corrupt):
        yield Text(_spool_line(spooled), style="red")


def _print_spool(spooled: SpoolFigures, as_json: bool) -> None:
    if as_json:
        print_json({"spool": spooled}, indent=False)
    else:
        click.echo(_spool_line(spooled))


def _spool_line(spooled: SpoolFigures) -> str:
    text = f"disk spool: {counted(spooled.notifications, 'notification')}, oldest {span(spooled.oldest_seconds)}"
    return text + (f"; damaged parts set aside: {spooled.corrupt}" if spooled.corrupt else "")
