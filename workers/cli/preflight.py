"""What is tried before anything is started, so that what is wrong is the last that a person sees."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing

import click
from redis.exceptions import RedisError

from ingest import child
from ingest.settings import Settings, redis_url
from ingest.store import connection
from workers import loading


def handlers(settings: Settings) -> None:
    """Import the handlers in a process that only does that, and end this one when that fails: it has said why."""
    tried = child.command("workers.loading", *loading.arguments(settings.handlers, settings.destinations))
    # A session of its own: Ctrl-C is for this process, whose end the other one sees.
    with subprocess.Popen(tried, stdin=subprocess.PIPE, start_new_session=True) as process:  # noqa: S603 - ours
        status = process.wait()
    if status == child.GIVE_UP:
        sys.exit(1)
    if status:
        raise click.ClickException(f"WA_HANDLERS={settings.handlers}: the module ends Python, with status {status}")


def redis(settings: Settings, must_answer: bool) -> None:
    """Raise what is wrong with WA_REDIS_URL for good; that Redis is away, only when it `must_answer`.

    Raises SettingsError, RedisError, OSError.
    """
    for client in connection.all_for_tools(redis_url(settings), connection.COMMAND_SECONDS).values():
        with closing(client):
            try:
                connection.check_version(client, "redis")  # what is asked of it beyond that, the receiver tries
            except (RedisError, OSError) as error:
                if must_answer or connection.config_error(error):
                    raise
