"""`event.headers`: what was kept of a request's headers stays with its events, however they come to a handler."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner
from redis import Redis

from ingest.store import keys
from ingest.store.constants import POISON_DEATHS
from ingest.store.headers import PART_BYTES, write
from ingest.store.records import unpack
from tests.workers.conftest import PARTITIONS
from workers import Handlers, Reject, RetryIn
from workers.cli.main import main
from workers.engine import batch_state, demand, reaper
from workers.testing import call

NAMED = {"x-turn-event": "message", "x-whatsapp-id": "15550009"}
HEADERS = write(NAMED)


def registry(seen: list[Any], *errors: Exception | None) -> Handlers:
    """A handler that notes the headers of each event, and raises these in turn."""
    handlers, raised = Handlers(), iter(errors)

    @handlers.message()
    def handle(event: Any) -> None:
        seen.append((event.id, event.attempt, dict(event.headers)))
        if error := next(raised, None):
            raise error

    return handlers


def several(count: int) -> bytes:
    return orjson.dumps({"messages": [{"from": "1", "id": f"m{n}", "type": "text"} for n in range(count)]})


def run_all(made: Any, take: Any) -> None:
    while isinstance(given := take(), tuple):
        made.run(*given)


def test_a_handler_reads_them(message: Any) -> None:
    """They are a read-only mapping with names in lower case; without any it is empty."""
    handlers, seen = Handlers(), []

    @handlers.message()
    def handle(event: Any) -> None:
        seen.append(event.headers)

    assert [called.outcome for called in call(handlers, message(), headers={"X-Turn-Event": "message"})] == ["handled"]
    call(handlers, message())
    assert [dict(headers) for headers in seen] == [{"x-turn-event": "message"}, {}]
    with pytest.raises(TypeError):
        seen[0]["x-turn-event"] = "other"


def test_call_takes_them(tmp_path: Path, message: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`wa-ingest call --header` gives them to handlers; what is no header is one line with the form."""
    (tmp_path / "headed.py").write_text(
        "from workers import Handlers\nhandlers = Handlers()\n"
        "@handlers.message()\ndef show(event):\n    print(dict(event.headers))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WA_HANDLERS", f"{tmp_path}/headed.py:handlers")
    arguments = ["call", "-", "--header", "X-A: b:c", "--header", "x-d:e"]
    found = CliRunner().invoke(main, arguments, input=message())
    assert "{'x-a': 'b:c', 'x-d': 'e'}" in found.output
    wrong = CliRunner().invoke(main, ["call", "-", "--header", "X-A"], input=message())
    assert (wrong.exit_code, "give NAME:VALUE" in wrong.stderr) == (2, True)


def test_retries_keep_them(commit: Any, runner: Any, take: Any, redis: Redis) -> None:
    """An event that failed, alone or with others of its notification, has them at its next try."""
    seen: list[Any] = []
    commit(several(3), headers=HEADERS)
    made = runner(registry(seen, RetryIn(0), None, RetryIn(0), None), threads=1)
    run_all(made, take)
    assert sorted(seen) == [
        ("m0", 1, NAMED),
        ("m0", 2, NAMED),
        ("m1", 1, NAMED),
        ("m2", 1, NAMED),
        ("m2", 2, NAMED),
    ]


def test_parts_keep_them(
    commit: Any, runner: Any, take: Any, redis: Redis, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """So has each event of a notification that is divided; there long ones are left out, and the short ones kept."""
    monkeypatch.setattr(demand, "MOST_READY", 10)
    monkeypatch.setattr(batch_state, "PART", 3)
    seen: list[Any] = []
    commit(several(20), headers=write(NAMED | {"x-long": "x" * PART_BYTES}), partitions=1)
    made = runner(registry(seen), partitions=1)
    run_all(made, take)
    assert seen == [(f"m{n}", 1, NAMED) for n in range(20)]


def test_a_batch_that_goes_back_keeps_them(commit: Any, runner: Any, take: Any, redis: Redis) -> None:
    """What a worker that stops gives back, whole or in part, is written with them."""
    commit(several(2), several(2).replace(b'"m', b'"n'), headers=HEADERS, partitions=1)
    seen: list[Any] = []
    made = runner(handlers := registry(seen), partitions=1)

    @handlers.around
    def once(event: Any) -> Any:
        yield
        made.stop.set()

    made.run(*take())
    records: Any = [r for key in redis.scan_iter(f"{keys.WA}batch:*") for r in redis.lrange(key, 0, -1)]
    assert len(seen) == 1
    assert [unpack(record).headers for record in records] == [HEADERS, HEADERS]


def test_dead_letters_keep_them(commit: Any, runner: Any, take: Any, redis: Redis) -> None:
    """`dead show` and `dead export` give them beside the body, `dead list` does not; after `dead retry` the handler
    reads them.
    """
    seen: list[Any] = []
    commit(several(1), b"not json", headers=HEADERS)
    run_all(runner(registry(seen, Reject("no"))), take)

    def wa(*arguments: str) -> str:
        found = CliRunner().invoke(main, ["dead", *arguments])
        assert found.exit_code == 0, found.output
        return found.stdout

    listed = [json.loads(line) for line in wa("list", "--json").splitlines()]
    exported = [json.loads(line) for line in wa("export").splitlines()]
    assert [one["headers"] for one in exported] == [NAMED, NAMED]
    assert {one["body"] for one in exported} == {several(1).decode(), "not json"}
    assert [one | {"headers": NAMED, "body": exported[n]["body"]} for n, one in enumerate(listed)] == exported
    assert "15550009" not in wa("list")
    assert "\nx-whatsapp-id: 15550009\n" in wa("show", listed[0]["id"])
    wa("retry")
    run_all(runner(registry(seen)), take)
    assert seen == [("m0", 1, NAMED), ("m0", 1, NAMED)]
    assert [json.loads(line)["headers"] for line in wa("export").splitlines()] == [NAMED]


def test_poison_keeps_them(commit: Any, take: Any, redis: Redis) -> None:
    """A notification that its workers died of is a dead letter with them."""
    commit(several(1), headers=HEADERS)
    for _ in range(POISON_DEATHS):
        take("dying")
        redis.delete(keys.REAPER)
        reaper.heartbeat_and_reap(redis, "other")
    (line,) = CliRunner().invoke(main, ["dead", "export"]).stdout.splitlines()
    letter = json.loads(line)
    assert (letter["reason"], letter["headers"], letter["body"]) == ("poison", NAMED, several(1).decode())


def test_the_archive_keeps_them(
    commit: Any, runner: Any, take: Any, redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replay of whole notifications, and of single events, gives them to handlers again."""
    monkeypatch.setenv("WA_ARCHIVE_DIR", str(tmp_path))
    monkeypatch.setenv("WA_PARTITIONS", str(PARTITIONS))
    seen: list[Any] = []
    commit(several(2).replace(b'"1","id":"m1"', b'"2","id":"m1"'), headers=HEADERS)
    commit(several(1).replace(b"m0", b"n0"))
    run_all(runner(registry(seen), archive_dir=tmp_path), take)
    first = sorted(seen)
    assert first == [("m0", 1, NAMED), ("m1", 1, NAMED), ("n0", 1, {})]
    for filters, wanted in ((), first), (("--contact", "2"), [("m1", 1, NAMED)]):
        seen.clear()
        assert CliRunner().invoke(main, ["replay", "--again", *filters]).exit_code == 0
        run_all(runner(registry(seen), archive_dir=tmp_path), take)
        assert sorted(seen) == wanted
