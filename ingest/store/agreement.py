"""What processes must agree on: each says in Redis with which values it runs, and sees those of the others.

A contact's messages stay in order only while all receivers choose partitions alike, and workers must take from the
partitions that receivers fill. Each worker forgets handled events by its own settings, also those that others handled.
(That all use the same form of data is what `formats` is for.)
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from redis import Redis
from redis.exceptions import NoPermissionError

from ingest.loggers import get_logger
from ingest.store import keys

log = get_logger(__name__)

SAY_SECONDS = 60.0
"""How often a process says it again."""

KEPT_SECONDS = 150.0
"""What nobody has said for so long counts no more."""

OF_RECEIVERS = frozenset({"partitions", "business_partitions"})
OF_WORKERS = frozenset({"partitions", "handler_timeout", "dedup_window"})

REMEDY = "give all receivers and workers the same value and restart those that had another"


class Agreement:
    """What one process says: the values of these `fields` in its settings."""

    def __init__(self, redis: Redis, settings: BaseModel, fields: frozenset[str]) -> None:
        self._redis = redis
        values = settings.model_dump(include=set(fields))
        self._values = {f"WA_{name.upper()}": str("all" if value is None else value) for name, value in values.items()}
        self._compared = False

    def say(self) -> None:
        """Say it; the first time, also log where others have another value. Raises what redis-py does."""
        now, _ = self._redis.time()
        try:
            self._redis.zadd(keys.AGREED, {f"{name}={value}": now for name, value in self._values.items()})
            self._redis.zremrangebyscore(keys.AGREED, "-inf", now - KEPT_SECONDS)
            if not self._compared:
                self._compare(said(self._redis))
        except NoPermissionError:
            pass  # the server's ACL is older than this key: that must not cost a notification

    def _compare(self, found: dict[str, list[str]]) -> None:
        self._compared = True
        for name, value in self._values.items():
            if others := [other for other in found.get(name, ()) if other != value]:
                log.warning(
                    "other processes run with another value",
                    setting=name,
                    here=value,
                    elsewhere=", ".join(others),
                    remedy=REMEDY,
                )


def said(redis: Redis) -> dict[str, list[str]]:
    """The values with which processes run, or ran within KEPT_SECONDS, by variable."""
    now, _ = redis.time()
    found: Any = redis.zrange(keys.AGREED, now - KEPT_SECONDS, "+inf", byscore=True)
    values: dict[str, list[str]] = {}
    for one in found:
        name, _, value = one.decode().partition("=")
        values.setdefault(name, []).append(value)
    return values
