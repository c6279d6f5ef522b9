"""What the commands share: settings, errors of one line, `--json`, long work."""

from __future__ import annotations

import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import orjson
from redis import Redis
from redis.exceptions import RedisError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from ingest.settings import Settings, SettingsError, host_port, load, redis_url
from ingest.state.backlog import span as span  # what the commands print
from ingest.store import connection, formats, local
from ingest.telemetry.printable import printable_json
from ingest.terminal import aside, when
from workers.cli import beside, env_file

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


def print_json(value: Any, indent: bool = True) -> None:
    """Print it for a program, in one line or indented; what a sender wrote cannot steer a terminal."""
    text = orjson.dumps(value, option=orjson.OPT_INDENT_2 if indent else 0).decode()
    click.echo(printable_json(text))


@contextmanager
def cli_errors() -> Iterator[None]:
    """Expected errors become one line on standard error and exit status 1."""
    try:
        yield
    except SettingsError as error:
        raise click.ClickException(str(error)) from None
    except BrokenPipeError:
        raise  # `| head` has seen enough; click ends without a word
    except (RedisError, OSError) as error:
        raise click.ClickException(str(diagnose(error))) from None


def diagnose(error: Exception) -> connection.Diagnosis:
    """The cause of an error of Redis, and its remedy; also of one that is the server of the `up` in this folder."""
    found = connection.diagnose(error)
    is_gone = isinstance(error, RedisError) and found.remedy in (connection.NOT_REACHED, connection.HUNG_UP)
    if beside.names_redis() or not is_gone:
        return found
    if local.running():
        return found._replace(remedy="it is that of the `up` in this folder, which starts it again by itself")
    if local.is_held():  # a server that ends when it is told to removes its socket
        return connection.Diagnosis("the `up` of this folder is starting or stopping", "try again in a moment")
    return connection.Diagnosis("the `up` of this folder has stopped", "run `wa-ingest up`")


def current_settings(to_write: bool = False, **overrides: Any) -> Settings:
    """The settings in force; those of an `up` beside this command where nothing else is said. Raises SettingsError.

    `to_write`: of a command that changes or starts something.
    """
    beside.take(tells=to_write)
    return own_settings(**overrides)


def own_settings(**overrides: Any) -> Settings:
    """What the environment says, with a warning for each variable that is no setting. Raises SettingsError."""
    try:
        settings = load(**overrides)
    except SettingsError as error:
        if str(error).partition(":")[0] in env_file.taken:
            raise SettingsError(f"{error} (in {env_file.FILE})") from None
        raise
    for name, meant in env_file.misspelt().items():
        question = f"; did you mean {meant}?" if meant else ""
        aside(f"Warning: {name} is no setting of this version, it has no effect{question}")
    return settings


def redis_clients(settings: Settings, to_write: bool) -> dict[str, Redis]:
    """A client for each Redis, by its address. Raises SettingsError; `to_write`: also for one of a newer version."""
    clients = connection.all_for_tools(redis_url(settings))
    if to_write:
        for client in clients.values():
            formats.agree(client)
    return clients


def program() -> str:
    """This program, for lines to copy, as it was called: `wa-ingest`, its path, or `python -m workers.cli`."""
    name = click.get_current_context().find_root().info_name or "wa-ingest"
    found = shutil.which(name)
    by_path = Path(sys.argv[0]).name == name and not (found and Path(found).samefile(sys.argv[0]))
    return sys.argv[0] if by_path else name


def reached(host: str, port: int) -> str:
    """How a listener is reached from this machine."""
    here = "localhost" if host in ("0.0.0.0", "::") else host  # noqa: S104 - compared, not bound
    return host_port(here, port)


def clock(iso: str) -> str:
    """An ISO 8601 time as the clock here shows it: 14:03:59, and the date when it is not today's."""
    return when(datetime.fromisoformat(iso).astimezone())


@contextmanager
def stop_on_interrupt() -> Iterator[threading.Event]:
    """Ctrl-C sets the event instead of breaking in, so that it is known what was done."""
    stopping = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: stopping.set())
    try:
        yield stopping
    finally:
        signal.signal(signal.SIGINT, before)


def progress_bar() -> Progress:
    """A bar on a terminal, nothing elsewhere."""
    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
