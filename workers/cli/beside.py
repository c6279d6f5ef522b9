"""The settings of an `up` with a server of its own, for commands that are called beside it, from another terminal.

`up` leaves the variables that it was given in its data folder, which nobody else can read; of secrets the names alone.
"""

from __future__ import annotations

import json
import os
import sys
from typing import NamedTuple

import click
from pydantic import SecretStr

from ingest.settings import Settings, variable
from ingest.store import local
from ingest.terminal import aside, colours
from workers.cli import env_file

_FILE = "up.json"
_REDIS = variable("redis_url")
_KEPT = {"worker_metrics_listen"}  # a port that it has itself; `work` beside it would be refused


class _Given(NamedTuple):
    """What an `up` was given: variables with their values, and those that it gives to nobody."""

    variables: dict[str, str]
    secret: list[str]


def leave(settings: Settings) -> None:
    """Leave the variables of this process to the commands that are called beside it. Raises OSError."""
    fields = {variable(name): getattr(settings, name) for name in Settings.model_fields.keys() - _KEPT}
    given = [name for name in sorted(os.environ) if os.environ[name] and name.removesuffix("_FILE") in fields]
    secret = [name for name in given if isinstance(fields.get(name), SecretStr)]
    left = _Given({name: os.environ[name] for name in given if name not in secret}, secret)
    file = local.DATA / _FILE
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        json.dump(left._asdict(), out)


def take(tells: bool = False) -> None:
    """Take the variables of the `up` whose server this command uses, but those that its own environment has.

    `tells`: on a terminal, say which. For commands that change or start something, where that may be a surprise.
    """
    taken = {name: value for name, value in _given().variables.items() if not _is_set(name)}
    os.environ.update(taken)
    news = [name for name in taken if name not in env_file.taken]
    if news and tells and sys.stderr.isatty():
        text = f"with the settings of the `up` in this folder: {', '.join(news)}"
        aside(click.style(text, dim=True) if colours(sys.stderr) else text)


def secrets() -> list[str]:
    """The secrets that the `up` whose server this command uses was given, and this command was not."""
    return [name for name in _given().secret if not _is_set(name)]


def names_redis() -> bool:
    """True when the environment names a Redis; else commands use that of the `up` in this folder."""
    return bool(os.environ.get(_REDIS) or os.environ.get(f"{_REDIS}_FILE"))


def _given() -> _Given:
    """Nothing, unless this command uses the server of an `up`: then what that one has left, if it is ours to trust."""
    nothing = _Given({}, [])
    if names_redis() or not local.running() or not local.is_own(local.DATA):
        return nothing
    try:
        return _Given(**json.loads((local.DATA / _FILE).read_text()))
    except (OSError, ValueError, TypeError):  # of another version
        return nothing


def _is_set(name: str) -> bool:
    """True when the environment says something of this setting; what `.env` says, `up` has known, too."""
    return env_file.is_set(name) and env_file.taken.isdisjoint((name, name.removesuffix("_FILE"), f"{name}_FILE"))
