"""A script that is given something wrong writes nothing: Redis takes nothing back of what a failed script wrote."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson
import pytest
import redis as redis_py
from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.exceptions import ResponseError

from ingest.settings import load
from ingest.state import controls, dead_letters, next_tries
from ingest.store import keys, scripts
from ingest.store.pipelined import PipelinedConnection
from workers import Handlers, Reject, RetryIn
from workers.engine import reaper

SCRIPTS = {"write", "take", "claim", "settle", "recall", "remember", "revive", "tokens", "reap", "requeue", "allow_oom"}
SCRIPTS |= {"due_now"}
WRONG = ["", "x", "-1", "nan", "inf", "1e400", "0.5", "99999999", b"\xff\x00"]
WRONG_JSON = [None, "", "x", -1, 0.5, 1e308, [], {}, True, 99999999]


class Sent(NamedTuple):
    """A call of a script as it was sent, and what lay in Redis before it."""

    sha: str
    keys: list[Any]
    args: list[Any]
    before: dict[bytes, bytes]


def _state(redis: Redis) -> dict[bytes, bytes]:
    names: Any = sorted(redis.keys("*"))
    with redis.pipeline() as pipe:
        for name in names:
            pipe.dump(name)
        found = zip(names, pipe.execute(), strict=True)
        return {name: value for name, value in found if value is not None}  # a key may expire between the two


def _restore(redis: Redis, state: dict[bytes, bytes]) -> None:
    with redis.pipeline() as pipe:
        pipe.flushdb()
        for name, value in state.items():
            pipe.restore(name, 0, value)
        pipe.execute()


@pytest.fixture
def sent(
    redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch, commit: Any, take: Any, runner: Any, message: Any
) -> dict[str, Sent]:
    """A call of each script, as the pipeline makes it: of those that were made, the one with most arguments."""
    names: dict[str, str] = {}
    real_lua = scripts.lua
    look = redis_py.Redis(connection_pool=redis.connection_pool)

    def lua(module_file: str, name: str) -> str:
        text = real_lua(module_file, name)
        names[hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()] = name.removesuffix(".lua")
        return text

    found: dict[str, Sent] = {}

    def note(command: tuple[Any, ...]) -> None:
        if command[0] != "EVALSHA" or command[1] not in names:
            return
        _, sha, count, *rest = command
        name, args = names[sha], rest[int(count) :]
        if name not in found or len(args) > len(found[name].args):
            found[name] = Sent(sha, rest[: int(count)], args, _state(look))

    def noting(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def call(self: Any, *command: Any, **named: Any) -> Any:
            if command and command[0] == "EVALSHA":
                note(command)
            return real(self, *command, **named)

        monkeypatch.setattr(owner, name, call)

    monkeypatch.setattr(scripts, "lua", lua)
    monkeypatch.setattr(reaper, "_SCRIPT", lua(reaper.__file__, "reap.lua"))
    monkeypatch.setattr(next_tries, "_DUE_NOW", lua(next_tries.__file__, "due_now.lua"))
    for owner, method in ((PipelinedConnection, "send"), (PipelinedConnection, "later")):
        noting(owner, method)
    noting(AsyncRedis, "execute_command")
    noting(Redis, "execute_command")

    handlers = Handlers()

    @handlers.message(rate="1000/s", strict_order=True)
    def handle(event: Any) -> None:
        if event.id == "m1":
            raise RetryIn(100)
        if event.id == "m2":
            raise Reject
        if event.id == "m3" and event.attempt == 1:
            raise RetryIn(0)

    @handlers.profile()
    def contact(event: Any) -> None: ...

    controls.limit(redis, "messages", 1000)
    bodies = [message(f"m{n}", sender=f"1555000{n}", name=f"N{n}") for n in range(6)]
    commit(*bodies, message("m1 again", sender="15550001"), partitions=1)
    made = runner(handlers, partitions=1)
    made.flow.revive()
    made.run(*take())
    found.pop("take", None)
    scheduled = f"{keys.RQ}:scheduled:messages.0"
    redis.zadd(scheduled, {redis.zrange(scheduled, 0, 0)[0]: 1})  # type: ignore[index]
    made.flow._taking.send()  # with something that is due
    reaper.heartbeat_and_reap(redis, "w9")
    list(dead_letters.requeue(redis, dead_letters.select(redis, dead_letters.Wanted()), load(redis_url=redis_url)))
    next_tries.make_due(redis, next_tries.waiting(redis))
    return found


def _mutations(args: list[Any]) -> Iterator[list[Any]]:
    """One argument after the other is wrong, is missing or is there twice."""
    for n, arg in enumerate(args):
        for wrong in WRONG:
            yield [*args[:n], wrong, *args[n + 1 :]]
        yield [*args[:n], *args[n + 1 :]]
        yield [*args[:n], arg, arg, *args[n + 1 :]]
        if isinstance(arg, bytes) and arg[:1] == b"{" and n == 0:
            tree = orjson.loads(arg)
            for path in _leaves(tree):
                for wrong in WRONG_JSON:
                    changed = copy.deepcopy(tree)
                    _put(changed, path, wrong)
                    yield [orjson.dumps(changed), *args[1:]]


def _leaves(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for key, item in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield (*path, key)
        if isinstance(item, dict | list):
            yield from _leaves(item, (*path, key))


def _put(tree: Any, path: tuple[Any, ...], value: Any) -> None:
    for key in path[:-1]:
        tree = tree[key]
    tree[path[-1]] = value


@pytest.mark.timeout(300)
def test_nothing_is_written_by_a_script_that_fails(sent: dict[str, Sent], redis: Redis) -> None:
    """Whatever is wrong with an argument: the script does without it, or fails before its first write."""
    written = []
    failed = 0
    for name, call in sorted(sent.items()):
        _restore(redis, call.before)
        before = _state(redis)  # what is restored may be encoded otherwise
        for args in _mutations(call.args):
            _restore(redis, call.before)
            try:
                redis.evalsha(call.sha, len(call.keys), *call.keys, *args)
            except ResponseError as error:
                failed += 1
                if _state(redis) != before:
                    changed = [(n, a) for n, (a, b) in enumerate(zip(args, call.args, strict=False)) if a != b][:1]
                    written.append((name, str(error)[-60:], str(changed)[:160]))
    assert failed > 50
    assert written == []


def test_each_script_is_tried(sent: dict[str, Sent]) -> None:
    """The test above has a call of each script that the pipeline makes all the time."""
    assert SCRIPTS - {"requeue", "allow_oom"} <= sent.keys()
