"""`wa-ingest dead`: the commands for dead letters."""

from __future__ import annotations

import heapq
import sys
from collections import deque
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import IO

import click
import orjson
from redis import Redis
from redis.exceptions import RedisError

from ingest.settings import Settings
from ingest.state import dead_letters as letters
from ingest.state.counters import REASONS
from ingest.store import connection, headers
from ingest.store.disk import atomic_write
from ingest.telemetry.printable import printable, printable_json
from ingest.terminal import aside, counted
from workers.cli import dead_causes, dead_tables
from workers.cli.dead_filters import filtered, name_of
from workers.cli.terminal import (
    as_json,
    cli_errors,
    current_settings,
    print_json,
    progress_bar,
    redis_clients,
    stop_on_interrupt,
)

_dry_run = click.option("--dry-run", is_flag=True, help="Only count; change nothing.")
_yes = click.option("--yes", is_flag=True, help="Do not ask.")


_Chosen = list[tuple[Redis, letters.Selection]]
"""The chosen dead letters of each Redis."""


def _select(settings: Settings, wanted: letters.Wanted, to_write: bool = False) -> _Chosen:
    each = redis_clients(settings, to_write).values()
    if unknown := set(wanted.reasons).difference(REASONS):
        _check_reasons(unknown, _read([(redis, letters.select(redis, letters.Wanted())) for redis in each]))
    return [(redis, letters.select(redis, wanted)) for redis in each]


def _check_reasons(unknown: set[str], there: Iterator[letters.DeadLetter]) -> None:
    """A newer worker may know more reasons: a reason that no dead letter has, either, is a mistake."""
    if wrong := unknown.difference(letter.reason for letter in there):
        raise click.UsageError(f"--reason: no dead letter has {', '.join(sorted(wrong))}; give {', '.join(REASONS)}")


def _read(chosen: _Chosen) -> Iterator[letters.DeadLetter]:
    """The dead letters of all Redis, the oldest first."""
    return heapq.merge(*(letters.read(*one) for one in chosen), key=lambda letter: letter.id)


_NONE = "There are no dead letters."


@click.group()
def dead() -> None:
    """Look at dead letters, have them handled again, delete or export them.

    A dead letter is an event, or a whole notification, that no worker tries again until you retry it: out of attempts,
    rejected by a handler, impossible to read, or its workers died of it. It is removed after WA_DEAD_AGE (14 days).

    All filters must match; a filter given several times matches if one of its values does. Without a filter: all dead
    letters.
    """


@dead.command("list")
@filtered
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="Show the newest so many.")
@as_json
def list_(wanted: letters.Wanted, limit: int, as_json: bool) -> None:
    """Show dead letters, the newest last. With --json: one JSON object a line, without the bodies.

    A detail that does not fit beside its letter stands below it: below the last of several that died of the same.
    """
    with cli_errors():
        chosen = _select(current_settings(), wanted)
        shown: deque[letters.DeadLetter] = deque(maxlen=limit)
        matched = 0
        for letter in _read(chosen):
            shown.append(letter)
            matched += 1
        if as_json:
            for letter in shown:
                print_json(letter.as_json(), indent=False)
        elif shown:
            dead_tables.show(shown, chosen[0][1].now_ms)
        else:
            click.echo(_NONE if wanted == letters.Wanted() else "No dead letter matches.")
        if matched > limit:
            more = "see --limit, `wa-ingest dead causes` or `wa-ingest dead export`"
            aside(f"{counted(matched - limit, 'older one matches', 'older ones match')}, too: {more}")


@dead.command("causes")
@filtered
@as_json
def causes_(wanted: letters.Wanted, as_json: bool) -> None:
    """Count dead letters by what they died of, the most frequent first.

    A cause is the exception and the line that raised it, or else what was said, with N for each number. With --json:
    a list of objects of count, reason, handler, cause, newest (LANE/ID of the newest), newest_at.
    """
    with cli_errors():
        chosen = _select(current_settings(), wanted)
        found = dead_causes.count(_read(chosen))
        if as_json:
            print_json([one.as_json() for one in found])
        elif found:
            dead_tables.causes(found, chosen[0][1].now_ms)
        else:
            click.echo(_NONE if wanted == letters.Wanted() else "No dead letter matches.")


@dead.command()
@click.argument("name", metavar="LANE/ID", callback=name_of)
@click.option("--body", "body_alone", is_flag=True, help="The body alone, as it came: what `wa-ingest call -` takes.")
@as_json
def show(name: tuple[str, letters.Id], body_alone: bool, as_json: bool) -> None:
    """Show all of one dead letter. LANE/ID is what `dead list` shows, such as messages/1700000000000-0.

    With --json: a JSON object; the body is in `body`, or in `body_base64` when it is not UTF-8. The request's headers
    that were kept (WA_KEEP_HEADERS) are shown, too, with --json in `headers`.
    """
    with cli_errors():
        letter = next(_read(_select(current_settings(), letters.Wanted(ids=(name,)))), None)
    if letter is None:
        raise click.ClickException(f"there is no dead letter {name[0]}/{name[1]}: see `wa-ingest dead list`")
    if body_alone:
        click.echo(letter.body, nl=False)
        return
    if as_json:
        print_json(letter.as_json() | letter.content_as_json())
        return
    dead_tables.fields(letter.as_json())
    for header, text in headers.read(letter.headers).items():
        click.echo(f"{header}: {printable(text)}")
    click.echo(f"\n{_readable(letter.body)}")


def _readable(body: bytes) -> str:
    """A body for the terminal: indented if it is JSON, else with escapes."""
    try:
        lines = orjson.dumps(orjson.loads(body), option=orjson.OPT_INDENT_2).decode().split("\n")
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):  # it reads deeper nesting than it writes
        lines = [body.decode("utf-8", "backslashreplace")]
    return "\n".join(map(printable, lines))


@dead.command()
@filtered
@_dry_run
@_yes
@as_json
def retry(wanted: letters.Wanted, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Have dead letters handled again, beginning with attempt 1, by the handlers and destinations that did not succeed.

    They move to the end of their queues. On a terminal it asks first. Dead letters that arrive meanwhile are left
    alone. Ctrl-C stops between two portions of at most 100; nothing is lost, and the same command does the rest.
    """
    with cli_errors():
        settings = current_settings(to_write=not dry_run)
        chosen = _select(settings, wanted, to_write=not dry_run)
        steps = chain.from_iterable(letters.requeue(*one, settings) for one in chosen)
        _change(chosen, steps, ("Handle again", "to be handled again"), dry_run, yes, as_json)


@dead.command()
@filtered
@_dry_run
@_yes
@as_json
def drop(wanted: letters.Wanted, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Delete dead letters, for good. `dead export` keeps them elsewhere.

    On a terminal it asks first. Dead letters that arrive meanwhile are left alone. Ctrl-C stops between two portions of
    at most 100.
    """
    with cli_errors():
        chosen = _select(current_settings(to_write=not dry_run), wanted, to_write=not dry_run)
        steps = chain.from_iterable(letters.drop(*one) for one in chosen)
        _change(chosen, steps, ("Delete", "deleted"), dry_run, yes, as_json)


def _change(
    chosen: _Chosen,
    steps: Iterator[int],
    words: tuple[str, str],
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Count, ask, do it step by step, say what was done. Exits 1 when it was stopped."""
    ask, done_word = words
    matched = sum(1 for _ in _read(chosen))
    done, stopped = 0, False
    if matched and not dry_run:
        if not yes and sys.stdin.isatty():
            click.confirm(f"{ask} {counted(matched, 'dead letter')}?", abort=True, err=True)
        with stop_on_interrupt() as stopping, progress_bar() as progress:
            task = progress.add_task("", total=matched)
            try:
                for portion in steps:
                    done += portion
                    progress.update(task, completed=done)
                    if stopped := stopping.is_set():
                        break
            except (RedisError, OSError) as error:
                raise click.ClickException(
                    f"{done:,} of {counted(matched, 'dead letter')} {done_word}, then Redis failed: "
                    f"{connection.reason(error)}; the same command goes on with the rest"
                ) from None
    if as_json:
        print_json({"matched": matched, "done": done}, indent=False)
    elif dry_run:
        click.echo(f"{counted(matched, 'dead letter matches', 'dead letters match')}, nothing was changed")
    else:
        click.echo(f"{done:,} of {counted(matched, 'dead letter')} {done_word}")
    if stopped:
        raise click.ClickException("stopped, the same command goes on with the rest")


@dead.command()
@filtered
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    default="-",
    show_default=True,
    help="File to write, readable by you alone; it appears when it is complete. `-`: standard output.",
)
def export(wanted: letters.Wanted, output: Path) -> None:
    """Write dead letters as JSON lines, the oldest first. Deletes nothing.

    Each line has id, lane, dead_at, reason, kind, handler, detail, attempt, received_at, queue, and the body as the
    sender wrote it: as text in `body`, or in `body_base64` when it is not UTF-8. If headers of the request were kept,
    they are in `headers`.
    """
    with cli_errors():
        found = _read(_select(current_settings(), wanted))
        if str(output) == "-":
            _write(found, sys.stdout.buffer)
            return
        try:
            with atomic_write(output.resolve()) as file:
                count = _write(found, file)
        except OSError as error:
            raise click.ClickException(f"{output} cannot be written: {error.strerror}") from None
        aside(f"{counted(count, 'dead letter')} written to {output}")


def _write(found: Iterator[letters.DeadLetter], file: IO[bytes]) -> int:
    count = 0
    for count, letter in enumerate(found, 1):  # noqa: B007 - the last one is the answer
        line = orjson.dumps(letter.as_json() | letter.content_as_json(), option=orjson.OPT_APPEND_NEWLINE).decode()
        file.write(printable_json(line).encode())  # somebody may look at the file on a terminal
    return count
