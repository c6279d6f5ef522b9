"""One connection to Redis on which commands are sent before the answers to earlier ones are read.

So a worker works while Redis does: it parses a batch while Redis settles the one before, and prepares claims while
Redis decides earlier ones. A command of redis-py waits for its answer, a pipeline for all of its answers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, NoScriptError, RedisError, ResponseError
from redis.retry import Retry

_NO_ANSWER = object()


class Call:
    """A command, and its answer once that is read; `then` gets the answer too."""

    __slots__ = ("command", "reply", "then")

    def __init__(self, command: tuple[Any, ...], then: Callable[[Any], None] | None = None) -> None:
        self.command = command
        self.then = then
        self.reply: Any = _NO_ANSWER

    @property
    def is_answered(self) -> bool:
        """True once there is an answer, or an error instead of one."""
        return self.reply is not _NO_ANSWER


class PipelinedConnection:
    """For one thread. Commands must be idempotent: when the connection breaks, all commands without an answer are sent
    again, in the same order. (redis-py does the same with its one command.)
    """

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self._pool = redis.connection_pool
        self._retry = redis.get_retry() or Retry(NoBackoff(), 1)
        self._scripts: dict[str, str] = {}  # by their digest
        self._connection: Any = None
        self._unsent: list[Call] = []
        self._unanswered: deque[Call] = deque()

    def script(self, text: str) -> Script:
        """A Lua script that can be called on this connection."""
        sha = self.redis.register_script(text).sha
        self._scripts[sha] = text
        return Script(self, sha)

    def send(self, *command: Any) -> Call:
        """Send the commands given to `later`, then this one."""
        self._unsent.append(Call(command))
        return self._send_all()[-1]

    def ask(self, *command: Any) -> Any:
        """Send a command and wait for its answer; only then send the commands given to `later`.

        Sent before it they would delay its answer: Redis first executes all that it has read from a connection.
        """
        later, self._unsent = self._unsent, []
        try:
            return self.answer(self.send(*command))
        finally:
            self._unsent = later
            self._send_all()

    def later(self, *command: Any, then: Callable[[Any], None] | None = None) -> None:
        """Send a command together with the next one. `then` gets its answer, also when that is an error."""
        self._unsent.append(Call(command, then))

    def answer(self, call: Call) -> Any:
        """Wait for a command's answer. Raises what redis-py would; the command is then not sent again."""
        try:
            while not call.is_answered:
                self._read_one()
        except BaseException:
            if call in self._unanswered:
                self._unanswered.remove(call)
                self.hang_up()  # or its answer would be taken for the next command's
            raise
        if isinstance(call.reply, Exception):
            raise call.reply
        return call.reply

    def has_answered(self, call: Call) -> bool:
        """True when the answer to a command is there; reads what has come, without waiting. May raise as `answer`."""
        try:
            while not call.is_answered and self._connection is not None and self._connection.can_read(0):
                self._read_one()
        except BaseException:
            self.hang_up()  # `can_read` has found that Redis closed the connection
            raise
        return call.is_answered

    def await_answer(self) -> int:
        """Send what is left. Returns a descriptor that can be read when Redis has answered. May raise as `answer`."""
        self._send_all()
        try:
            if self._connection is None:
                self._open()
            number: int = self._connection._sock.fileno()  # redis-py has no public name for it
        except BaseException:
            self.hang_up()
            raise
        return number

    def flush(self) -> bool:
        """Send what is left and wait for all answers. False when there was nothing to wait for."""
        self._send_all()
        any_left = bool(self._unanswered)
        while self._unanswered:
            self._read_one()
        return any_left

    def _send_all(self) -> list[Call]:
        calls = self._unsent
        # Before `_unsent` is emptied: if a signal handler raises in between, they are sent twice, not lost.
        self._unanswered += calls
        self._unsent = []
        if self._connection is not None and calls:
            try:
                self._transmit(calls)
            except (RedisError, OSError):
                self.hang_up()  # `_read` connects and sends again
            except BaseException:
                self.hang_up()
                raise
        return calls

    def _read_one(self) -> None:
        try:
            reply = self._retry.call_with_retry(self._read, self.hang_up)
            call = self._unanswered.popleft()
            call.reply = reply
        except BaseException:  # also what RQ's signal handlers raise
            self.hang_up()  # a late answer must not be taken for another command's
            raise
        if call.then is not None:
            call.then(reply)

    def _read(self) -> Any:
        if self._connection is None:
            self._open()
        try:
            return self._connection.read_response()
        except NoScriptError:  # Redis was restarted or replaced: `_open` loads them
            raise ConnectionError("the scripts are gone") from None
        except ResponseError as error:
            return error

    def _open(self) -> None:
        self._connection = self._pool.get_connection()
        for text in self._scripts.values():
            self._connection.send_command("SCRIPT", "LOAD", text, check_health=False)
            self._connection.read_response()
        self._transmit(self._unanswered)

    def _transmit(self, calls: Any) -> None:
        # No health check: it would take the answer of an earlier command for its own.
        packed = self._connection.pack_commands([call.command for call in calls])
        self._connection.send_packed_command(packed, check_health=False)

    def hang_up(self, *_: object) -> None:
        """Close the connection; commands without an answer are sent again on the next one."""
        if self._connection is not None:
            self._connection.disconnect()
            self._pool.release(self._connection)
            self._connection = None


class Script:
    """A Lua script. Calling it sends it and waits for the answer."""

    def __init__(self, connection: PipelinedConnection, sha: str) -> None:
        self._connection = connection
        self._sha = sha

    def __call__(self, keys: list[str], args: list[Any]) -> Any:
        return self.answer(self.send(keys, args))

    def send(self, keys: list[str], args: list[Any]) -> Call:
        return self._connection.send(*self._command(keys, args))

    def answer(self, call: Call) -> Any:
        return self._connection.answer(call)

    def ask(self, keys: list[str], args: list[Any]) -> Any:
        return self._connection.ask(*self._command(keys, args))

    def later(self, keys: list[str], args: list[Any], then: Callable[[Any], None]) -> None:
        self._connection.later(*self._command(keys, args), then=then)

    def _command(self, keys: list[str], args: list[Any]) -> tuple[Any, ...]:
        return ("EVALSHA", self._sha, len(keys), *keys, *args)
