"""What lets a handler or destination get no more events now, as workers tell it in Redis with their heartbeats."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Literal, NamedTuple

import orjson

from ingest.state import rates
from ingest.terminal import when

RECENT_SECONDS = 60.0
"""What has held up no call for this long is not told."""

SUFFIX = "|holds"
"""Behind the worker's name, in the hash of what is in work."""

By = Literal["429", "pace", "limit", "rate", "concurrency"]

_ORDER: tuple[By, ...] = ("429", "pace", "limit", "rate", "concurrency")  # told is the first that some worker names


class Hold(NamedTuple):
    """What held up the last call of this handler that had to wait, in one process.

    `429`: the destination asked to be left alone until `at`; `pace`: since its last 429, at `at`, it gets `figure`
    events per second; `limit` (an operator's) and `rate`: so many per second; `concurrency`: so many calls at a time.
    Times are in seconds since the epoch.
    """

    handler: str
    by: By
    figure: float = 0.0
    at: float = 0.0


def told(holds: Iterable[Hold], waited_for: Collection[str]) -> list[Hold]:
    """Those worth telling: what a 429 led to, since nobody has set it, and what events wait for."""
    return [one for one in holds if one.by in ("429", "pace") or one.handler in waited_for]


def parse(fields: dict[bytes, bytes], alive: Collection[bytes]) -> list[Hold]:
    """What workers tell that are `alive`."""
    found: list[Hold] = []
    for field, value in fields.items():
        if field.endswith(SUFFIX.encode()) and field.removesuffix(SUFFIX.encode()) in alive:
            found += [Hold(*hold) for hold in orjson.loads(value)]
    return found


def in_words(holds: Iterable[Hold]) -> dict[str, str]:
    """By handler, the one thing that holds it back most, over all workers."""
    now = time.time()
    by_handler: dict[str, list[Hold]] = {}
    for one in holds:
        if one.by != "429" or one.at > now:
            by_handler.setdefault(one.handler, []).append(one)
    return {handler: _words(each, now) for handler, each in by_handler.items()}


def _words(each: list[Hold], now: float) -> str:
    by = min((one.by for one in each), key=_ORDER.index)
    same = [one for one in each if one.by == by]
    most = max(one.figure for one in same)
    if by == "429":
        return f"429, tries again in {max(1, round(max(one.at for one in same) - now))} s"
    if by == "pace":  # each process has found its own
        since = when(datetime.fromtimestamp(max(one.at for one in same)))
        return f"held to {sum(one.figure for one in same):,.3g}/s since a 429 at {since}"
    if by == "limit":
        return f"a limit of {rates.in_words(most)} (wa-ingest limit)"
    return f"its rate of {rates.in_words(most)}" if by == "rate" else f"its concurrency of {most:.0f}"
