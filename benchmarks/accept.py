"""How many notifications one receiver process takes in: wrk with 64 connections, everybody in turn, medians."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, NamedTuple

from redis import Redis

from benchmarks import contenders, wrk
from benchmarks.bench import Bench, medians
from benchmarks.machine import BenchError
from benchmarks.names import OURS, TITLES
from benchmarks.programs import Store, valkey
from ingest.state import backlog

_LOADS = (1, 8, wrk.CONNECTIONS)


class _Running(NamedTuple):
    port: int
    store: Store


def run(bench: Bench) -> dict[str, Any]:
    """Rates of each round, their medians, and what our receiver asks of Redis at 1, 8 and 64 connections."""
    rounds, seconds = (3, 2) if bench.quick else (3, 5)
    rates: dict[str, list[float]] = {}
    p99: dict[str, list[float]] = {}
    answered: dict[str, int] = {}
    with ExitStack() as stack:
        load = stack.enter_context(wrk.ready())
        running: dict[str, _Running] = {}
        for name, fsync in _who(bench):
            bench.step(f"accept: {TITLES[name]} starts")
            store = stack.enter_context(valkey(fsync))
            port = stack.enter_context(contenders.serving(name.removesuffix("_always"), store))
            running[name] = _Running(port, store)
            answered[name] = load.post(port, 1).answered  # to warm everything up
        for number in range(1, rounds + 1):
            for name, one in running.items():
                bench.step(f"accept: {TITLES[name]}, round {number} of {rounds}")
                sent = load.post(one.port, seconds)
                answered[name] += sent.answered
                rates.setdefault(name, []).append(round(sent.rate, 1))
                p99.setdefault(name, []).append(sent.p99_ms)
        waiting = {name: _waiting(one.store.redis, name) for name, one in running.items() if name != "bare_aiohttp"}
        _check(answered, waiting)
        bench.step("accept: what Redis is asked")
        calls = {str(n): _calls(load, running[OURS], n) for n in _LOADS}
    return {
        "seconds": seconds,
        "rates": rates,
        "median": medians(rates),
        "p99_ms": medians(p99),
        "answered": answered,
        "waiting": waiting,
        "redis": calls,
    }


def _who(bench: Bench) -> list[tuple[str, str]]:
    """Names and the fsync policy of their Valkey, in the order of their turns."""
    peers = [(peer.name, "everysec") for peer in contenders.chosen("serve", "accept", bench.quick)]
    return [*peers[:1], (OURS, "everysec"), ("ours_always", "always"), *peers[1:]]


def _waiting(redis: Redis, name: str) -> int:
    """Notifications in Redis. Of a peer: the longest list, stream or sorted set, which is its queue."""
    if name.startswith(OURS):
        return sum(lane.waiting for lane in backlog.read(redis).lanes.values())
    length = {"list": redis.llen, "stream": redis.xlen, "zset": redis.zcard}
    found = [length[kind](key) for kind in length for key in redis.scan_iter(count=10_000, _type=kind)]
    return max(map(int, found), default=0)


def _check(answered: dict[str, int], waiting: dict[str, int]) -> None:
    for name, count in waiting.items():
        if count < answered[name]:
            raise BenchError(f"{name} answered {answered[name]} with 200 and has {count} in Redis: some are lost")


def _calls(load: wrk.Wrk, one: _Running, connections: int) -> dict[str, float]:
    """Round trips and commands of Redis per accepted notification."""
    redis = one.store.redis
    load.post(one.port, 1, connections)
    redis.config_resetstat()
    answered = load.post(one.port, 2, connections).answered
    stats = redis.info("commandstats")
    ours = {"cmdstat_config|resetstat", "cmdstat_info"}
    commands = sum(int(found["calls"]) for name, found in stats.items() if name not in ours)
    trips = sum(int(stats[name]["calls"]) for name in ("cmdstat_evalsha", "cmdstat_eval") if name in stats)
    return {"round_trips": round(trips / answered, 4), "commands": round(commands / answered, 4)}
