"""The options that choose dead letters, the same for each command of `wa-ingest dead`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click
from pydantic import TypeAdapter, ValidationError

from ingest.settings.types import Seconds
from ingest.state import dead_letters as letters
from ingest.store.queues import LANES

_KINDS = ("message", "status", "error", "call", "handover", "preference", "change", "notification")


def _duration(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    try:
        return None if value is None else TypeAdapter(Seconds).validate_python(value)
    except ValidationError:
        raise click.BadParameter("give a duration such as 30m, 25h or 7d") from None


def name_of(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, letters.Id]:
    """LANE/ID as an argument."""
    try:
        return letters.parse_name(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _names(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> list[tuple[str, letters.Id]]:
    return [name_of(ctx, param, value) for value in values]


_FILTERS = (
    click.option("--lane", "lanes", multiple=True, type=click.Choice(LANES), help="Dead letters of this lane."),
    click.option("--kind", "kinds", multiple=True, type=click.Choice(_KINDS), help="What the body holds."),
    click.option(
        "--reason",
        "reasons",
        multiple=True,
        help="Why: failed (out of attempts), rejected, unreadable, unknown_form, malformed, poison, expired, fault.",
    ),
    click.option("--handler", "handlers", multiple=True, metavar="NAME", help="Of this handler or destination."),
    click.option("--older-than", metavar="DURATION", callback=_duration, help="Dead for longer: 30m, 25h, 7d."),
    click.option("--newer-than", metavar="DURATION", callback=_duration, help="Dead for less than that."),
    click.option("--id", "ids", metavar="LANE/ID", multiple=True, callback=_names, help="This one, see `dead list`."),
)


def filtered(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that choose dead letters, as its first argument."""

    @functools.wraps(command)
    def with_wanted(
        lanes: tuple[str, ...],
        kinds: tuple[str, ...],
        reasons: tuple[str, ...],
        older_than: float | None,
        newer_than: float | None,
        ids: list[tuple[str, letters.Id]],
        handlers: tuple[str, ...],
        **options: Any,
    ) -> None:
        command(letters.Wanted(lanes, kinds, reasons, older_than, newer_than, tuple(ids), handlers), **options)

    for option in reversed(_FILTERS):
        option(with_wanted)
    return with_wanted
