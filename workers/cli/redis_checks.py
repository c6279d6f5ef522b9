"""What `wa-ingest check` looks at in Redis: the server, what lies there, and the processes that use it."""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from redis import Redis
from redis.exceptions import NoPermissionError, OutOfMemoryError, RedisError, ResponseError

from ingest.settings import Settings, SettingsError, each_redis, redis_url
from ingest.state import backlog, causes, dead_letters
from ingest.state.health import LATELY_SECONDS
from ingest.store import agreement, connection, discovery, formats, keys, scripts
from ingest.store import append as append_room
from ingest.store.append import APPEND_KEYS, append_head
from ingest.store.jobs import job_template
from ingest.store.queues import LANES
from ingest.store.records import OWED_JOINT
from ingest.store.urls import address
from workers.cli import dead_causes
from workers.cli.terminal import diagnose

_LAG_SECONDS = 10  # a replica says how far it is each second
_LETTERS_READ = 1000  # of these, at most
_CAUSES = 3  # that are told at most
_RESULTS = {"critical": "failed", "warning": "warning", "info": "ok"}  # by the level of a finding


class Check(NamedTuple):
    """One finding. `result` is ok, warning or failed; only when it is not ok, `advice` says what to do, and `topic` is
    the section of docs/troubleshooting.md that says more.
    """

    name: str
    result: str
    finding: str
    advice: str = ""
    topic: str = ""


def run(settings: Settings) -> Iterator[Check]:
    """The checks of each Redis, then those of the processes."""
    each = each_redis(settings)
    clients = connection.all_for_tools(redis_url(settings))
    away = {name: problem for name, redis in clients.items() if (problem := _away(redis))}
    for one in each:
        name = address(redis_url(one))
        where = f" {name}" if len(each) > 1 else ""
        checks = [away[name]] if name in away else _server(one)
        yield from (found._replace(name=found.name + where) for found in checks)
    if len(away) < len(each):
        yield from _workers(settings, clients, away)
    for name, redis in clients.items():
        with suppress(RedisError, OSError):  # another check says that it is away
            yield from () if name in away else _processes(redis)
        redis.close()


def _away(redis: Redis) -> Check | None:
    """Why it does not answer; asked once, because each further check would wait for it as long."""
    try:
        redis.ping()
    except ResponseError:
        return None
    except (RedisError, OSError) as error:
        return _failed(error)
    return None


def _failed(error: RedisError | OSError) -> Check:
    found = diagnose(error)
    return Check("redis", "failed", found.finding, found.remedy)


def _workers(settings: Settings, clients: dict[str, Redis], away: Collection[str]) -> Iterator[Check]:
    idle, _, advice = backlog.idle_workers(clients, settings.partitions, away).partition("; ")
    if idle:
        yield Check("workers", "warning", idle, advice, "everything-waits")
    there = {name: redis for name, redis in clients.items() if name not in away}
    try:
        now = backlog.read_all(there)
    except (RedisError, OSError):
        return
    for refused in now.refused:
        yield Check("requests", _RESULTS[refused.level], refused.text, refused.remedy, refused.topic)
    if cause := causes.of_workers(now, time.time()):
        nothing_to_do = not any(lane.waiting or lane.working for lane in now.lanes.values())
        result = "warning" if nothing_to_do and now.unloadable is None else _RESULTS[cause.level]
        yield Check("workers", result, cause.text, cause.remedy, cause.topic)
    if now.workers:
        lonely = [name for name, redis in there.items() if name not in now.away and not backlog.read(redis).workers]
        for name in lonely:
            finding = f"none serves {name}, the others do not take what waits there"
            yield Check("workers", "warning", finding, "start workers with all of WA_REDIS_URL: `wa-ingest work`")
        if not idle and not lonely:
            yield Check("workers", "ok", "1 is alive" if now.workers == 1 else f"{now.workers:,} are alive")


def _processes(redis: Redis) -> Iterator[Check]:
    now = backlog.read(redis)
    for cause in causes.told(now, time.time()):
        # Somebody looks now: few failures are worth a warning here, though none on the page and in alerts.
        fails = cause.topic == causes.SOME_FAIL and cause.remedy
        result = "warning" if fails else _RESULTS[cause.level]
        yield Check("handlers", result, cause.text, cause.remedy, cause.topic)
    for steered in now.steered:
        if steered.paused_since:
            finding = f"{steered.handler} is paused since {steered.paused_since}, its events wait"
            advice = f"`wa-ingest resume --handler {steered.handler}` lets it go on"
            yield Check("handlers", "warning", finding, advice, "something-is-paused-or-limited")
    for name, values in agreement.said(redis).items():
        if len(values) > 1:
            finding = f"processes run with {name} {' and '.join(sorted(values))}"
            yield Check("agreement", "warning", finding, agreement.REMEDY)


def _server(settings: Settings) -> Iterator[Check]:
    redis = connection.for_tools(redis_url(settings))
    try:
        connection.check_version(redis, settings.durability)
        formats.check(redis)
        yield Check("redis", "ok", "reachable, and new enough")
        yield _scripts(redis, settings)
        info = _info(redis)
        yield _append_only(redis, settings, info)
        yield _eviction(info)
        yield from _replicas(settings, info, discovery.remembered_replicas(redis))
        yield from _dead_letters(redis, settings)
    except SettingsError as error:
        yield Check("redis", "failed", str(error), "see above")
    except (RedisError, OSError) as error:
        yield _failed(error)
    finally:
        redis.close()


def _scripts(redis: Redis, settings: Settings) -> Check:
    """Calls append.lua without notifications. Like the others it makes names of keys from prefixes."""
    append = redis.register_script(scripts.lua(append_room.__file__, "append.lua"))
    try:
        append(list(APPEND_KEYS), append_head(f"check-{secrets.token_hex(5)}", job_template(), settings.batch))
    except OutOfMemoryError:
        finding = "not tried: Redis is full, it takes no notifications"
        return Check("scripts", "warning", finding, "see `wa-ingest status` for what waits, or raise maxmemory there")
    except ResponseError as error:
        if connection.config_error(error):
            raise
        advice = "use Redis 7.0, Valkey, or a server that runs their scripts; Dragonfly needs "
        advice += "--default_lua_flags=allow-undeclared-keys"
        return Check("scripts", "failed", f"the server refuses them: {connection.reason(error)}", advice)
    return Check("scripts", "ok", "the server runs them")


def _info(redis: Redis) -> dict[str, Any]:
    """What the server says of itself; nothing where that is forbidden."""
    try:
        info: dict[str, Any] = redis.info()
    except NoPermissionError:
        return {}
    return info


def _append_only(redis: Redis, settings: Settings, info: dict[str, Any]) -> Check:
    name = "append-only file"
    if info.get("aof_enabled"):
        try:
            fsync = redis.config_get("appendfsync").get("appendfsync", "?")
        except ResponseError:  # managed Redis and strict ACLs forbid CONFIG
            if settings.durability != "redis":
                return Check(name, "ok", f"on, and a 200 waits for WA_DURABILITY={settings.durability}")
            fsync = "?"
        if fsync == "always":
            return Check(name, "ok", "on, fsync at every write")
        finding = f"on, appendfsync {fsync}: a crash of its machine may lose a second"
        return Check(name, "warning", finding, "set appendfsync always, or WA_DURABILITY=fsync")
    if ".memorydb." in address(redis_url(settings)):
        return Check(name, "ok", "none is needed: MemoryDB keeps every write in its transaction log")
    if settings.durability == "fsync":  # the server has answered WAITAOF
        return Check(name, "ok", "not shown, but WAITAOF works")
    if settings.durability != "redis":
        finding = f"off: only the replicas of WA_DURABILITY={settings.durability} keep what it held"
        return Check(name, "warning", finding, "set appendonly yes where you can; never stop all of them together")
    if "aof_enabled" not in info:
        finding = "the server does not say whether it keeps what it holds"
        return Check(name, "warning", finding, "see its provider's documents; else set WA_DURABILITY=replicas:1")
    finding = "off: a restart of Redis loses what it held"
    return Check(name, "failed", finding, "set appendonly yes; where there is none, WA_DURABILITY=replicas:1")


def _eviction(info: dict[str, Any]) -> Check:
    policy = info.get("maxmemory_policy")
    if policy == "noeviction":
        return Check("eviction", "ok", policy)
    if policy is None:
        finding = "the server does not say whether it evicts"
        return Check("eviction", "warning", finding, "make sure that its maxmemory-policy is noeviction")
    finding = f"{policy}: Redis may throw notifications away"
    return Check("eviction", "failed", finding, "set maxmemory-policy noeviction")


def _replicas(settings: Settings, info: dict[str, Any], remembered: int | None) -> Iterator[Check]:
    """`remembered`: how many sentinels know of. The server itself forgets one as soon as its connection ends."""
    if "connected_slaves" not in info:
        return
    each = [info.get(f"slave{n}", {}) for n in range(info["connected_slaves"])]
    good = sum(one.get("state") == "online" and one.get("lag", 0) <= _LAG_SECONDS for one in each)
    wanted = int(settings.durability.removeprefix("replicas:")) if settings.durability.startswith("replicas:") else 0
    total = max(len(each), remembered or 0)
    if good < wanted:
        finding = f"{good} of the {wanted} of WA_DURABILITY follow: notifications do not go into Redis"
        yield Check("replicas", "failed", finding, "start them, see INFO replication there")
    elif good < total:
        finding = f"{total - good} of {total} do not follow"
        advice = "start them and see their logs; of one that is gone for good, tell the sentinels: SENTINEL RESET"
        yield Check("replicas", "warning", finding, advice)
    elif total:
        more = ", as many as WA_DURABILITY asks for: without one of them nothing goes into Redis"
        yield Check("replicas", "ok", f"{good} follow{more if good == wanted else ''}")


def _dead_letters(redis: Redis, settings: Settings) -> Iterator[Check]:
    """New ones are a warning for an hour: later, whoever looks at this has known of them for long."""
    lately = list(itertools.islice(_written_lately(redis), _LETTERS_READ))
    for counted in (causes := dead_causes.count(lately))[:_CAUSES]:
        yield _cause(counted)
    if more := sum(counted.letters for counted in causes[_CAUSES:]):
        finding = f"{more:,} of other causes in the last hour"
        yield Check("dead letters", "warning", finding, "`wa-ingest dead causes --newer-than 1h` lists them")
    if len(lately) == _LETTERS_READ:
        finding = f"more than these {_LETTERS_READ:,} in the last hour, of the same causes or others"
        yield Check("dead letters", "warning", finding, "`wa-ingest dead causes --newer-than 1h` counts them")
    yield from _old_letters(redis, settings, bool(lately))


def _written_lately(redis: Redis) -> Iterator[dead_letters.DeadLetter]:
    """Dead letters of the last hour, the newest of each lane first."""
    seconds, _ = redis.time()
    since = (seconds - LATELY_SECONDS) * 1000
    for lane in LANES:
        yield from itertools.takewhile(lambda letter: letter.id.ms >= since, dead_letters.newest(redis, lane))


def _cause(counted: dead_causes.Counted) -> Check:
    reason, handler, cause = counted.cause
    where = f" of {handler}" if handler else ""
    finding = f"{counted.letters:,} {reason}{where} in the last hour: {cause}"
    chosen = " ".join([f"--reason {reason}", *(f"--handler {name}" for name in handler.split(OWED_JOINT) if name)])
    then = f"once it is mended, `wa-ingest dead retry {chosen}` has them handled again"
    if reason == "unreadable":  # nothing here can be mended that would make JSON of it
        then = f"only what posted them can be mended; `wa-ingest dead drop {chosen}` removes them"
    advice = f"`wa-ingest dead list --newer-than 1h {chosen}` shows them; {then}"
    return Check("dead letters", "warning", finding, advice)


def _old_letters(redis: Redis, settings: Settings, any_lately: bool) -> Iterator[Check]:
    """Those that will soon be removed; else, where there are no new ones, how many there are."""
    soon = backlog.expiring(redis, settings.dead_age)
    if any(soon.values()):
        finding = f"{backlog.expiring_text(soon)} will be removed within two days"
        advice = "`wa-ingest dead retry` lets them be handled again, `wa-ingest dead export` keeps them elsewhere"
        yield Check("dead letters", "warning", finding, advice)
    elif not any_lately:
        count = sum(redis.xlen(keys.dead_key(lane)) for lane in LANES)
        there = f"{count:,}, none of the last hour" if count else "none"
        yield Check("dead letters", "ok", there)
