"""`wa-ingest pause`, `resume` and `limit`: control a running pipeline."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable
from typing import Any

import click
from redis import Redis

from ingest.state import backlog, controls, counters, rates
from ingest.store.queues import LANES
from ingest.telemetry.printable import printable
from ingest.terminal import aside, counted, say
from workers import doubts
from workers.cli.terminal import as_json, cli_errors, clock, current_settings, print_json, redis_clients

_InForce = dict[str, dict[str, Any]]


def _name(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is not None and not (value.strip() and value.isprintable()):
        raise click.BadParameter("give the name of a handler or destination, as the metrics have it")
    return value


def _names(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        _name(ctx, param, value)
    return values


def _either(lanes: tuple[str, ...], handlers: tuple[str, ...]) -> None:
    if lanes and handlers:
        raise click.UsageError("give lanes, or --handler, not both")


def _lane(value: str) -> str:
    if value not in LANES:
        hint = f"--handler {shlex.quote(printable(value))}"
        raise click.BadParameter(
            f"{value!r} is no lane: give one of {', '.join(LANES)}; or {hint}, if that is a handler or destination",
            param_hint="LANE",
        )
    return value


class _Lane(click.Choice[str]):
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return _lane(value)


_lanes = click.argument("lanes", metavar="[LANE]...", nargs=-1, type=_Lane(LANES))
_handlers = click.option(
    "--handler",
    "handlers",
    metavar="NAME",
    multiple=True,
    callback=_names,
    help="A handler or destination of this name, instead of lanes; may be given several times.",
)


@click.command()
@_lanes
@_handlers
@as_json
def pause(lanes: tuple[str, ...], handlers: tuple[str, ...], as_json: bool) -> None:
    """Stop handling some lanes, or all, or some handlers: what is for them waits.

    For a deployment, or while a database is repaired. Lanes are messages, statuses and other. The receiver goes on
    accepting. Workers let running handlers finish, and put batches in work back to the front of their queue within a
    second. Retries that come due wait, too. A pause outlasts restarts: `wa-ingest resume` ends it.

    With --handler, the events of that handler or destination wait and use up no tries; all others go on. A name that no
    worker has is refused.
    """
    _either(lanes, handlers)
    with cli_errors():
        before, now = _pull(_clients(), controls.pause, lanes or LANES, handlers)
        if as_json:
            print_json({"handlers" if handlers else "lanes": now})
            return
        for name in handlers or lanes or LANES:
            was = f" since {clock(now[name]['paused_since'])}, and stays so" if before[name]["paused"] else ""
            say(f"{name}: paused{was}{_waiting(before[name])}")
        if handlers:
            say("Its events wait and use up no tries. All others go on, running handlers finish.")
        else:
            say("The receiver goes on accepting. What is in work goes back within a second,\nrunning handlers finish.")
        names = [f"--handler {shlex.quote(name)}" for name in handlers]
        say(f"To go on: wa-ingest {' '.join(('resume', *lanes, *names))}")


@click.command()
@_lanes
@_handlers
@as_json
def resume(lanes: tuple[str, ...], handlers: tuple[str, ...], as_json: bool) -> None:
    """Let paused lanes, or all, or paused handlers go on.

    Lanes are messages, statuses and other. Limits set with `wa-ingest limit` stay in force. Handlers that are paused
    stay so, unless --handler names them; without it they are named.
    """
    _either(lanes, handlers)
    with cli_errors():
        clients = _clients()
        before, now = _pull(clients, controls.resume, lanes or LANES, handlers)
        for redis in clients.values():
            for name in handlers:  # what it needs may work by now, though it always failed before
                controls.try_now(redis, name)
        if as_json:
            print_json({"handlers" if handlers else "lanes": now})
            return
        for name in handlers or lanes or LANES:
            what = f"goes on{_at_most(now[name])}" if before[name]["paused"] else "was not paused"
            say(f"{name}: {what}{_waiting(before[name])}")  # workers may have taken it all by now
        others = {} if handlers else _handlers_in_force(clients, ())
        for name in (name for name, one in others.items() if one["paused"]):
            say(f"Handler {printable(name)} stays paused: wa-ingest resume --handler {shlex.quote(name)}")


def _check_names(clients: dict[str, Redis], names: Iterable[str]) -> None:
    """Refuse a name that no worker has, since a slip would hold up nothing, in silence; one that is paused or limited
    already may be so in another way, too. While workers do not tell their handlers, only warn of a name that none has
    called in days.
    """
    now = backlog.read_all(clients)
    called = counters.read_all(clients.values())[counters.HANDLER]
    known = called if now.there is None else now.there.union(one.handler for one in now.steered)
    for name in (name for name in names if name not in known):
        close = f"see `wa-ingest handlers` for names{printable(doubts.meant(name, now.there or called))}"
        if now.there is not None:
            raise click.ClickException(f"no worker has a handler {printable(name)}, {close}")
        aside(f"Warning: no worker has called {printable(name)} lately, {close}")


def _waiting(of: dict[str, Any]) -> str:
    """What a lane has, in words."""
    if "waiting" not in of:
        return ""
    waiting, working = of["waiting"], of["working"]
    waits = counted(waiting, "notification waits", "notifications wait")
    return f", {waits}" + (f", {counted(working, 'is', 'are')} in work" if working else "")


def _at_most(now: dict[str, Any]) -> str:
    return f", at most {rates.in_words(now['limit'])}" if now["limit"] else ""


@click.command()
@click.argument("lane", required=False)
@click.argument("rate", required=False)
@click.option("--handler", metavar="NAME", callback=_name, help="A handler or destination, instead of a lane.")
@as_json
def limit(lane: str | None, rate: str | None, handler: str | None, as_json: bool) -> None:
    """Cap how fast events of a lane, or of one handler, are handled.

    RATE is how many events of LANE, or for that handler, all workers together may give to handlers: 200/s, 1000/m,
    50/h; off removes the limit. It takes effect within a second, lasts until it is removed, and holds up no other lane.
    A rate that the handler or destination has itself holds beside it. A handler that no worker has is refused. Without
    a RATE: show the limits in force.
    """
    if handler is not None:
        if rate is not None:
            raise click.UsageError("give a lane, or --handler, not both")
        lane, rate = None, lane
    elif lane is not None:
        _lane(lane)
    with cli_errors():
        per_second = _per_second(rate)
        clients = redis_clients(current_settings(rate is not None), to_write=rate is not None)
        of = lane if handler is None else controls.handler(handler)
        if handler is not None and per_second is not None:
            _check_names(clients, [handler])
        if of is not None and rate is not None:
            for redis in clients.values():  # each has its share
                controls.limit(redis, of, per_second and per_second / len(clients))
        now = _lanes_in_force(clients) if handler is None else _handlers_in_force(clients, [handler])
        if as_json:
            print_json({"lanes" if handler is None else "handlers": now})
            return
        only = handler or lane
        others = {} if only else _handlers_in_force(clients, ())
        for name, one in (now | others if only is None else {only: now[only]}).items():
            say(_limit_line(name, one))
        if per_second is not None:
            say(f"To take it away: wa-ingest limit {f'--handler {shlex.quote(handler)}' if handler else lane} off")


def _limit_line(name: str, now: dict[str, Any]) -> str:
    return f"{name}: " + (f"at most {rates.in_words(now['limit'])} over all workers" if now["limit"] else "no limit")


def _per_second(rate: str | None) -> float | None:
    if rate is None or rate == "off":
        return None
    try:
        return rates.per_second(rate)
    except ValueError as error:
        raise click.BadParameter(f"{error}; or off") from None


def _clients() -> dict[str, Redis]:
    return redis_clients(current_settings(to_write=True), to_write=True)


def _pull(
    clients: dict[str, Redis],
    lever: Callable[[Redis, Iterable[str]], None],
    lanes: Iterable[str],
    handlers: Iterable[str],
) -> tuple[_InForce, _InForce]:
    """Of these handlers if some are given, else of lanes: what was in force before, and what is by now. There must be
    handlers of these names.
    """

    def in_force() -> _InForce:
        return _handlers_in_force(clients, handlers) if handlers else _lanes_in_force(clients)

    before = in_force()
    _check_names(clients, [name for name in handlers if not before[name]["paused"]])
    for redis in clients.values():
        lever(redis, [controls.handler(name) for name in handlers] or lanes)
    return before, in_force()


def _lanes_in_force(clients: dict[str, Redis]) -> _InForce:
    """Per lane what is in force by now, and how many notifications wait or are in work."""
    shown = ("paused", "paused_since", "limit", "waiting", "working")
    lanes = backlog.read_all(clients).lanes
    return {name: {field: getattr(lane, field) for field in shown} for name, lane in lanes.items()}


def _handlers_in_force(clients: dict[str, Redis], names: Iterable[str]) -> _InForce:
    """What is in force by now for these handlers, and for all others of which something is."""
    steered = {name: backlog.Steered(name) for name in names}
    steered |= {one.handler: one for one in backlog.read_all(clients).steered}
    return {
        name: {"paused": one.paused_since is not None, "paused_since": one.paused_since, "limit": one.limit}
        for name, one in steered.items()
    }
