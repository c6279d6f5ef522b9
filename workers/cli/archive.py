"""`wa-ingest archive` and `wa-ingest replay`: what the archive holds, and feeding it back."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import click
from redis import Redis
from redis.exceptions import RedisError
from rich.table import Table

from ingest.settings import Settings, SettingsError
from ingest.store import connection
from ingest.store.queues import LANES
from ingest.store.records import iso
from ingest.terminal import aside, counted
from workers.archive import files as room
from workers.archive import replay as replaying
from workers.cli import replayable, tables
from workers.cli.replayable import Matched
from workers.cli.terminal import (
    as_json,
    cli_errors,
    current_settings,
    print_json,
    progress_bar,
    redis_clients,
    span,
    stop_on_interrupt,
)

_KINDS = ("message", "status", "error", "call", "handover", "preference", "change", "notification")


class Hour(NamedTuple):
    """What the archive holds of an hour; `bytes` counts the bodies, `compressed` what the files take."""

    hour: str
    files: int = 0
    notifications: int = 0
    bytes: int = 0
    compressed: int = 0

    def plus(self, other: Hour) -> Hour:
        return Hour(self.hour, *(mine + its for mine, its in zip(self[1:], other[1:], strict=True)))


class _Faults:
    """Prints each file that cannot be read, once; if there was any, the command exits 1."""

    def __init__(self) -> None:
        self.printed: set[str] = set()

    def tell(self, line: str) -> None:
        if line not in self.printed:
            self.printed.add(line)
            aside(f"wa-ingest: {line}")

    def end(self) -> None:
        if self.printed:
            raise click.ClickException("not everything could be read, see above")


@click.command()
@as_json
def archive(as_json: bool) -> None:
    """Show what WA_ARCHIVE_DIR holds, by hour of arrival (UTC).

    bytes counts the notifications, compressed what the files take. Workers remove files older than
    WA_ARCHIVE_AGE (30 days). `wa-ingest replay` feeds notifications back. With --json: an object of hours (a list of
    hour, files, notifications, bytes, compressed), files, notifications, bytes, compressed, age_seconds.
    """
    with cli_errors():
        settings = current_settings()
        faults = _Faults()
        hours: dict[str, Hour] = {}
        for path in room.files([_folder(settings)], faults.tell):
            for one in _hours_of(path, faults.tell):
                hours[one.hour] = hours.get(one.hour, Hour(one.hour)).plus(one)
        rows = [hours[hour] for hour in sorted(hours)]
        total = Hour("all")
        for row in rows:
            total = total.plus(row)
        if as_json:
            found = {"hours": [row._asdict() for row in rows]} | total._asdict() | {"age_seconds": settings.archive_age}
            del found["hour"]
            print_json(found)
        else:
            tables.console().print(_table([*rows, total]))
            click.echo(f"Files older than WA_ARCHIVE_AGE ({span(settings.archive_age)}) are removed by workers.")
        faults.end()


def _folder(settings: Settings) -> Path:
    if settings.archive_dir is None:
        raise SettingsError("WA_ARCHIVE_DIR is not set: give the folder that workers keep notifications in")
    return settings.archive_dir


def _hours_of(path: Path, tell: room.Tell) -> list[Hour]:
    """What a file holds: one hour, if a worker wrote it."""
    hours: dict[str, Hour] = {}
    for block in room.blocks(path, tell):
        hour = f"{_moment(block.first_ms):%Y-%m-%dT%H:00Z}"
        one = Hour(hour, 0, block.notifications, block.body_bytes, room.HEAD + block.length)
        hours[hour] = hours.get(hour, Hour(hour, files=1)).plus(one)
    return list(hours.values())


def _table(rows: list[Hour]) -> Table:
    table = tables.simple()
    table.add_column("hour", no_wrap=True)
    for heading in Hour._fields[1:]:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(row.hour, *(f"{number:,}" for number in row[1:]))
    return table


def _time(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """A time as ms since the epoch."""
    if value is None:
        return None
    try:
        found = datetime.fromisoformat(value)
        return round((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise click.BadParameter("give a time such as 2026-11-21, 2026-11-21T14:30 or 2026-11-21T14:30+01:00") from None


def _contacts(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(value.strip().removeprefix("+") for value in values)


@click.command()
@click.argument("routes", metavar="[FILE]...", nargs=-1, type=click.Path(path_type=Path))
@click.option("--from", "since", metavar="TIME", callback=_time, help="What arrived then or later; UTC, or +hh:mm.")
@click.option("--to", "until", metavar="TIME", callback=_time, help="What arrived before.")
@click.option("--lane", "lanes", multiple=True, type=click.Choice(LANES), help="Notifications of this lane.")
@click.option("--kind", "kinds", multiple=True, type=click.Choice(_KINDS), help="Events of this kind alone.")
@click.option(
    "--contact",
    "contacts",
    metavar="NUMBER",
    multiple=True,
    callback=_contacts,
    help="Messages and statuses of this contact alone: wa_id or user id.",
)
@click.option("--dry-run", is_flag=True, help="Only count; change nothing.")
@click.option(
    "--again", "force", is_flag=True, help="Also call handlers for what was handled within WA_DEDUP_WINDOW, once."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
def replay(
    routes: tuple[Path, ...],
    since: int | None,
    until: int | None,
    lanes: tuple[str, ...],
    kinds: tuple[str, ...],
    contacts: tuple[str, ...],
    dry_run: bool,
    force: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Put notifications from the archive back into the queues, for workers to handle.

    FILE is a file or folder of the archive; without one, all of WA_ARCHIVE_DIR is read. Notifications go to the end of
    the queues in the order of their arrival, and keep its time. What was handled within WA_DEDUP_WINDOW is not handled
    again, unless --again: how many that are is said before and after. With --again, handlers get each event once more,
    however many copies of it senders sent. Each command with --again is a replay of its own, also one that goes on
    where another stopped. What is no event is left out while its dead letter is there (`wa-ingest dead`). All filters
    must match; a filter given several times matches if one of its values does. With --kind or --contact, only the
    matching events of a notification go back.

    On a terminal it asks first. It waits while Redis is short of memory, or a hundred batches wait for workers.
    Ctrl-C stops between two portions of about a thousand; nothing is lost, and it prints the --from to go on with.

    With --json: an object of matched, copies (of these all was handled before; null with --again) and done
    (notifications), dead (parts that are left out), upto (arrival of the last, or null).
    """
    with cli_errors():
        settings = current_settings(to_write=not dry_run)
        each = list(redis_clients(settings, to_write=not dry_run).values())
        faults = _Faults()
        paths = room.files(routes or [_folder(settings)], faults.tell)
        defaults = replaying.Wanted()
        wanted = replaying.Wanted(
            defaults.since_ms if since is None else since,
            defaults.until_ms if until is None else until,
            lanes,
            kinds,
            contacts,
        )
        dead = replaying.broken_letters(each)
        matched = _count(paths, wanted, faults.tell, dead, [] if force else each)
        done, upto, stopped = 0, None, ""
        if matched.notifications and not dry_run:
            if not yes and sys.stdin.isatty():
                _ask(matched, force)
            found = replaying.read(paths, wanted, faults.tell, lambda _: None, dead)
            done, upto, stopped = _feed(each, found, settings, force, matched.notifications)
        if as_json:
            last = None if upto is None else iso(upto)
            counts = {"matched": matched.notifications, "copies": matched.copies, "dead": matched.dead}
            print_json(counts | {"done": done, "upto": last}, indent=False)
        else:
            click.echo(
                f"{counted(matched.notifications, 'notification matches', 'notifications match')}, nothing was changed"
                if dry_run
                else f"{done:,} of {counted(matched.notifications, 'notification')} fed back"
            )
            for remark in matched.remarks():
                click.echo(remark)
        if stopped:
            if upto is None:
                raise click.ClickException(f"{stopped}; nothing was fed back")
            onwards = iso(upto + 1)
            raise click.ClickException(f"{stopped}; the same command with --from {onwards} goes on")
        faults.end()


def _ask(matched: Matched, force: bool) -> None:
    for remark in matched.remarks():
        aside(remark)
    which = "also those handled before" if force else "unless handled before"
    click.confirm(f"Handle {counted(matched.notifications, 'notification')}, {which}?", abort=True, err=True)


def _count(
    paths: list[Path], wanted: replaying.Wanted, tell: room.Tell, dead: frozenset[bytes], each: list[Redis]
) -> Matched:
    """What is wanted; `each`: see `replayable.count`. The bar shows bytes read."""
    with progress_bar() as progress:
        task = progress.add_task("", total=sum(path.stat().st_size for path in paths if path.exists()))
        found = replaying.read(paths, wanted, tell, lambda size: progress.advance(task, size), dead)
        return replayable.count(found, each)


def _feed(
    each: list[Redis], found: Iterator[replaying.Notification], settings: Settings, force: bool, matched: int
) -> tuple[int, int | None, str]:
    """Feed back what was found: how many notifications, arrival of the last (ms), why it stopped before the end."""
    done, upto, waited_for = 0, None, ""
    with stop_on_interrupt() as stopping, progress_bar() as progress:
        task = progress.add_task("", total=matched)

        def wait(reason: str) -> bool:
            nonlocal waited_for
            if not waited_for:
                aside(f"wa-ingest: waiting, because {reason}")
            waited_for = reason
            return not stopping.is_set()

        fed = (one for one in found if one.bodies)
        try:
            for portion in replaying.feed_back(each, fed, settings, force, wait):
                done += portion.notifications
                upto = portion.upto_ms
                progress.update(task, completed=done)
                if stopping.is_set():
                    break
        except (RedisError, OSError) as error:
            return done, upto, f"Redis failed: {connection.reason(error)}"
        return done, upto, "stopped" if stopping.is_set() and done < matched else ""


def _moment(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
