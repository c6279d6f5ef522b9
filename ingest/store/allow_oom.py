"""A client whose commands run even when Redis is full.

Over its `maxmemory`, Redis refuses every command that may need memory, even one that helps to make room: a worker could
not start, because RQ registers it, and no lane could be resumed. This client sends a refused command again, in a script
with Redis' flag `allow-oom`. Such commands need a few bytes, now and then.

What brings data in is still refused: that is done by scripts without the flag (append.lua, requeue.lua).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import ExecAbortError, OutOfMemoryError

from ingest.store import keys, scripts

_SCRIPT = scripts.lua(__file__, "allow_oom.lua")

_Command = tuple[tuple[Any, ...], dict[str, Any]]  # as redis-py keeps them: words, options of its callback


class AllowOom(Redis):
    """redis-py's client with that change. A refused script stays refused: its own flags say whether it may run."""

    def execute_command(self, *words: Any, **options: Any) -> Any:
        try:
            return super().execute_command(*words, **options)  # type: ignore[no-untyped-call]
        except OutOfMemoryError:
            if _is_script(words):
                raise
            (reply,) = self.insist([(words, options)])
            if isinstance(reply, Exception):
                raise reply from None
            return reply

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        """One without a transaction is redis-py's own: nothing sent in those must succeed when Redis is full."""
        return _Transaction(self, shard_hint) if transaction else super().pipeline(False, shard_hint)

    def insist(self, commands: Sequence[_Command]) -> list[Any]:
        """Run these commands at one moment and return Redis' answers, errors among them."""
        words = [part for given, _ in commands for part in (len(given), *given)]
        replies: Any = self.register_script(_SCRIPT)(keys=[keys.LEDGER], args=words)
        return [self._read(reply, *command) for reply, command in zip(replies, commands, strict=True)]

    def _read(self, answer: list[Any], words: tuple[Any, ...], options: dict[str, Any]) -> Any:
        reply = answer[0] if answer else None
        callback = self.response_callbacks.get(words[0])  # type: ignore[no-untyped-call]
        if callback is None or isinstance(reply, Exception):
            return reply
        return callback(reply, **{name: value for name, value in options.items() if name != "keys"})  # for a cache


class _Transaction(Pipeline):
    def __init__(self, client: AllowOom, shard_hint: str | None) -> None:
        super().__init__(client.connection_pool, client.response_callbacks, True, shard_hint)
        self._client = client

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        commands: list[_Command] = self.command_stack
        watching = self.watching
        try:
            return super().execute(raise_on_error)
        except (OutOfMemoryError, ExecAbortError) as error:
            # Redis refused them when they were queued (Redis 7 refuses even reads) or at EXEC: none was carried out.
            if watching or "maxmemory" not in str(error) or any(_is_script(words) for words, _ in commands):
                raise
            replies = self._client.insist(commands)
            if raise_on_error:
                self.raise_first_error(commands, replies)  # type: ignore[no-untyped-call]
            return replies


def _is_script(words: tuple[Any, ...]) -> bool:
    return words[0] in ("EVALSHA", "EVAL")
