"""`wa-ingest pause`, `resume` and `limit`: control a running pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import click
from redis import Redis

from ingest.state import backlog, controls, rates
from ingest.store.queues import LANES
from workers.cli.terminal import as_json, cli_errors, clock, current_settings, print_json, redis_clients

_InForce = dict[str, dict[str, Any]]

_lanes = click.argument("lanes", metavar="[LANE]...", nargs=-1, type=click.Choice(LANES))


@click.command()
@_lanes
@as_json
def pause(lanes: tuple[str, ...], as_json: bool) -> None:
    """Stop handling some lanes, or all: their notifications wait.

    For a deployment, or while a database is repaired. Lanes are messages, statuses and other. The receiver goes on
    accepting. Workers let running handlers finish, and put batches in work back to the front of their queue within a
    second. Retries that come due wait, too. A pause lasts until `wa-ingest resume`, even if everything is restarted.
    """
    with cli_errors():
        before, now = _pull(controls.pause, lanes or LANES)
        if as_json:
            print_json({"lanes": now})
            return
        for lane in lanes or LANES:
            was = f" since {clock(now[lane]['paused_since'])}, and stays so" if before[lane]["paused"] else ""
            click.echo(f"{lane}: paused{was}, {now[lane]['waiting']:,} notifications wait")
        click.echo(
            "The receiver goes on accepting. What is in work goes back within a second, running handlers finish."
        )
        click.echo(f"To go on: wa-ingest {' '.join(('resume', *lanes))}")


@click.command()
@_lanes
@as_json
def resume(lanes: tuple[str, ...], as_json: bool) -> None:
    """Let paused lanes, or all, go on.

    Lanes are messages, statuses and other. Limits set with `wa-ingest limit` stay in force.
    """
    with cli_errors():
        before, now = _pull(controls.resume, lanes or LANES)
        if as_json:
            print_json({"lanes": now})
            return
        for lane in lanes or LANES:
            cap = now[lane]["limit"]
            at_most = f", at most {rates.in_words(cap)}" if cap else ""
            what = f"goes on{at_most}" if before[lane]["paused"] else "was not paused"
            click.echo(f"{lane}: {what}, {now[lane]['waiting']:,} notifications wait")


@click.command()
@click.argument("lane", required=False, type=click.Choice(LANES))
@click.argument("rate", required=False)
@as_json
def limit(lane: str | None, rate: str | None, as_json: bool) -> None:
    """Cap how fast events of a lane are handled.

    RATE is how many events of LANE all workers together may give to handlers: 200/s, 1000/m, 50/h; off removes the
    limit. It takes effect within a second, lasts until it is removed, and holds up no other lane. Without a RATE: show
    the limits in force.
    """
    with cli_errors():
        per_second = None
        if rate is not None and rate != "off":
            try:
                per_second = rates.per_second(rate)
            except ValueError as error:
                raise click.BadParameter(f"{error}; or off") from None
        clients = redis_clients(current_settings(), to_write=rate is not None)
        if lane is not None and rate is not None:
            for redis in clients.values():  # each has its share
                controls.limit(redis, lane, per_second and per_second / len(clients))
        now = _in_force(clients)
        if as_json:
            print_json({"lanes": now})
            return
        for name in LANES if lane is None else (lane,):
            cap = now[name]["limit"]
            click.echo(f"{name}: " + (f"at most {rates.in_words(cap)} over all workers" if cap else "no limit"))
        if lane is not None and per_second is not None:
            click.echo(f"To take it away: wa-ingest limit {lane} off")


def _pull(lever: Callable[[Redis, Iterable[str]], None], lanes: Iterable[str]) -> tuple[_InForce, _InForce]:
    """What was in force before, and what is by now."""
    clients = redis_clients(current_settings(), to_write=True)
    before = _in_force(clients)
    for redis in clients.values():
        lever(redis, lanes)
    return before, _in_force(clients)


def _in_force(clients: dict[str, Redis]) -> _InForce:
    """Per lane what is in force by now, and how many notifications wait."""
    lanes = backlog.read_all(clients).lanes
    return {
        name: {"paused": lane.paused, "paused_since": lane.paused_since, "limit": lane.limit, "waiting": lane.waiting}
        for name, lane in lanes.items()
    }
