"""Dead letters: the commands of `wa-ingest dead`, and their removal by age."""

from __future__ import annotations

import itertools
import json
import os
import pty
import re
import signal
import subprocess
import sys
from base64 import b64decode
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner, Result
from redis import ConnectionPool, Redis

from ingest.settings import load
from ingest.state import backlog, dead_letters, in_work
from ingest.state import dead_letters as room
from ingest.store import keys
from ingest.store.queues import LANES
from ingest.store.records import Record, digest, notification_id, pack_into, unpack
from workers.cli.main import main
from workers.engine import reaper
from workers.engine import worker as worker_room
from workers.events import Message
from workers.handlers import Handlers
from workers.raised import Reject, RetryIn

MANY, SOME = 30_000, 20_000
HOUR, DAY = 3600, 86400
RECEIVED = 1_700_000_000_123
Bury = Callable[..., str]
Wa = Callable[..., Result]


@pytest.fixture
def wa() -> Wa:
    """Run a command of `wa-ingest dead` in this process, its standard input no terminal."""
    return lambda *arguments: CliRunner().invoke(main, ["dead", *arguments])


@pytest.fixture
def bury(redis: Redis, message: Callable[..., bytes]) -> Bury:
    """Write a dead letter as settle.lua does, `age` seconds ago: its LANE/ID. In a lane the oldest must come first."""

    def write(lane: str = "messages", age: float | None = None, **fields: Any) -> str:
        queue = "messages.0" if lane == "messages" else lane
        whole = {"reason": "failed", "kind": "message", "detail": "ValueError: no", "attempt": 8, "received": RECEIVED}
        whole |= {"queue": queue, "body": message()} | fields
        seconds, micros = redis.time()
        id = "*" if age is None else f"{seconds * 1000 + micros // 1000 - round(age * 1000)}-*"
        return f"{lane}/{redis.xadd(keys.dead_key(lane), whole, id=id).decode()}"

    return write


@pytest.fixture
def many(redis: Redis) -> Callable[..., None]:
    """Write thousands of dead letters with bodies `message-N`, in three lanes by turns unless one is given."""

    def write(count: int = MANY, lane: str = "") -> None:
        redis.eval(
            """
            local names = { 'messages', 'statuses', 'other' }
            for n = 0, ARGV[1] - 1 do
              local lane = ARGV[2] ~= '' and ARGV[2] or names[n % 3 + 1]
              local queue = lane == 'messages' and 'messages.' .. n % 8 or lane
              redis.call('XADD', ARGV[3] .. lane, '*', 'reason', 'failed', 'kind', 'message', 'detail', 'why',
                'attempt', 8, 'received', 1700000000000, 'queue', queue, 'body', 'message-' .. n)
            end
            """,
            0,
            count,
            lane,
            keys.dead_key(""),
        )

    return write


def names(result: Result) -> list[str]:
    """The LANE/IDs that `list --json` printed."""
    assert result.exit_code == 0, result.output
    return [json.loads(line)["id"] for line in result.stdout.splitlines()]


def left(redis: Redis) -> Counter[bytes]:
    """The bodies that are dead letters."""
    return Counter(f[b"body"] for lane in LANES for _, f in letters_of(redis, lane))


def letters_of(redis: Redis, lane: str) -> list[Any]:
    return list(redis.xrange(keys.dead_key(lane)))


def waiting(redis: Redis) -> dict[str, list[Record]]:
    """The records in each queue's batches, of batches that are also in the ledger and have a job."""
    found: dict[str, list[Record]] = {}
    for key in sorted(redis.smembers(keys.RQ_QUEUES)):
        queue = key.decode().removeprefix(keys.queue_key(""))
        for id in redis.lrange(key, 0, -1):
            batch = id.decode()
            assert redis.zscore(keys.LEDGER, f"{queue}|{batch}") is not None
            assert redis.exists(f"{keys.RQ}:job:{batch}")
            found.setdefault(queue, []).extend(map(unpack, redis.lrange(keys.batch_key(batch), 0, -1)))
    return found


def bodies(found: dict[str, list[Record]]) -> Counter[bytes]:
    return Counter(record.body for records in found.values() for record in records)


def everything(redis: Redis) -> dict[bytes, bytes]:
    return {key: redis.dump(key) for key in redis.scan_iter()}


def numbered(count: int = MANY) -> Counter[bytes]:
    return Counter(f"message-{n}".encode() for n in range(count))


# Choosing


FILTERS = [
    ([], "abcdefg"),
    (["--lane", "other"], "dg"),
    (["--lane", "other", "--lane", "statuses"], "bcdg"),
    (["--kind", "status"], "bc"),
    (["--kind", "notification", "--kind", "message"], "adef"),
    (["--reason", "failed"], "abf"),
    (["--reason", "something new"], "g"),
    (["--older-than", "7d"], "ab"),
    (["--older-than", "30m"], "abcde"),
    (["--newer-than", "25h"], "cdefg"),
    (["--newer-than", "99999999d"], "abcdefg"),
    (["--older-than", "99999999d"], ""),
    (["--newer-than", "25h", "--older-than", "90"], "cde"),
    (["--newer-than", "1h", "--older-than", "2h"], ""),
    (["--id", "{b}"], "b"),
    (["--id", "{f}", "--id", "{a}", "--id", "{a}"], "af"),
    (["--id", "{a}", "--id", "{b}", "--lane", "statuses"], "b"),
    (["--id", "{a}", "--id", "{e}", "--newer-than", "25h"], "e"),
    (["--id", "{a}", "--id", "{e}", "--reason", "rejected"], "e"),
    (["--handler", "crm"], "ef"),
    (["--handler", "crm", "--reason", "failed"], "f"),
    (["--handler", "shop.on_message", "--handler", "crm"], "efg"),
    (["--handler", "cr"], ""),
    (["--id", "messages/1-1"], ""),
    (["--id", "messages/9999999999999999999-0"], ""),
    (["--lane", "messages", "--kind", "message", "--reason", "failed", "--newer-than", "25h"], "f"),
]


@pytest.mark.parametrize(("arguments", "found"), FILTERS, ids=lambda value: " ".join(value))
def test_filters(wa: Wa, bury: Bury, arguments: list[str], found: str) -> None:
    """Each filter alone and together; the letters of several lanes come merged, the oldest first."""
    made = {
        "a": bury("messages", 10 * DAY),
        "b": bury("statuses", 8 * DAY, kind="status"),
        "c": bury("statuses", 3 * HOUR, kind="status", reason="malformed"),
        "d": bury("other", 2 * HOUR, kind="notification", reason="unreadable"),
        "e": bury("messages", HOUR, reason="rejected", handler="crm"),
        "f": bury("messages", 60, handler="archive, crm"),
        "g": bury("other", 30, kind="change", reason="something new", handler="shop.on_message"),
    }
    shown = names(wa("list", "--json", *(argument.format(**made) for argument in arguments)))
    assert shown == [made[letter] for letter in found]


@pytest.mark.parametrize("command", ["retry", "drop", "export"])
def test_the_same_filters_everywhere(wa: Wa, bury: Bury, redis: Redis, command: str) -> None:
    """`retry`, `drop` and `export` take what `list` shows with the same filters, and nothing else."""
    bury("statuses", 8 * DAY, body="old")
    wanted = bury("statuses", 3 * HOUR, reason="rejected", kind="status", body="wanted", handler="crm")
    bury("statuses", 3 * HOUR, reason="rejected", kind="status", body="another handler", handler="archive")
    bury("statuses", 2 * HOUR, body="another reason")
    bury("other", HOUR, reason="rejected", body="another lane")
    filters = ("--lane=statuses", "--kind=status", "--reason=rejected", "--newer-than=7d", "--handler=crm")
    assert names(wa("list", "--json", *filters)) == [wanted]
    result = wa(command, *filters)
    assert result.exit_code == 0, result.output
    if command == "export":
        assert [json.loads(line)["body"] for line in result.stdout.splitlines()] == ["wanted"]
        assert left(redis).total() == 5
    else:
        assert set(left(redis)) == {b"old", b"another reason", b"another lane", b"another handler"}
        assert set(bodies(waiting(redis))) == ({b"wanted"} if command == "retry" else set())


# Looking


def test_list_table(wa: Wa, bury: Bury, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table fits 80 columns, is named as `show` wants it, newest last, and says how many it leaves out."""
    monkeypatch.setenv("COLUMNS", "80")
    for n in range(60):
        last = bury("statuses", (100 - n) * HOUR, kind="notification", reason="unknown_form", detail="x" * 500)
    result = wa("list", "--limit", "7")
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["age", "lane/id", "kind", "reason", "try"]
    rows = [line.split() for line in lines if "statuses/" in line]
    assert len(rows) == 7
    assert [row[0] for row in rows[-2:]] == ["1d18h", "1d17h"]
    assert rows[-1][1:] == [last, "notification", "unknown_form", "8"]
    assert "".join(map(str.strip, lines[2 + 7 :])) == "x" * 500  # once, below them
    assert result.stderr.startswith("53 older ones match")
    assert len(names(wa("list", "--json"))) == 50
    assert wa("list", "--limit", "60").stderr == ""


def test_list_says_whose(wa: Wa, bury: Bury, monkeypatch: pytest.MonkeyPatch) -> None:
    """A letter's handler stands before the detail, beside the letter or below it, and in `show`."""
    monkeypatch.setenv("COLUMNS", "80")
    bury(handler="shop", detail="422")
    assert wa("list").stdout.splitlines()[-1].rstrip().endswith("    8  shop: 422")
    name = bury(handler="crm", detail="422: " + "x " * 250)
    lines = wa("list").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines if line.startswith("    ")][:2] == ["shop:", "crm:"]
    assert re.search("^handler +crm *$", wa("show", name).stdout, re.MULTILINE)


def test_list_into_a_pipe(redis_url: str, bury: Bury) -> None:
    """Where it does not go to a terminal, a line is as long as it has to be: nothing of the detail is cut. The headings
    are not."""
    detail = "ValueError: " + "x" * 500
    bury(detail=detail)
    command = [sys.executable, "-m", "workers.cli", "dead", "list"]
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    shown = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    *head, row = shown.stdout.splitlines()
    assert row.endswith(f"  {detail}")
    assert max(map(len, head)) <= 80


def test_causes(wa: Wa, bury: Bury, monkeypatch: pytest.MonkeyPatch) -> None:
    """Letters are counted by reason, handler and cause: exception and place, else the text without its numbers."""
    monkeypatch.setenv("COLUMNS", "120")
    for n in range(3):
        bury(age=60, detail=f"KeyError: '1555{n}' (/bot.py:12)", handler="crm")
    newest = bury(age=5, detail="KeyError: (1) (/bot.py:12)", handler="crm")
    bury(age=2, detail="KeyError: 'x' (/bot.py:12)", handler="shop")
    for n in range(2):
        bury("other", 10, reason="unreadable", kind="notification", detail=f"at line {n} column 1{n}")
    found = json.loads(wa("causes", "--json").stdout)
    assert [(one["count"], one["reason"], one["handler"], one["cause"]) for one in found] == [
        (4, "failed", "crm", "KeyError at /bot.py:12"),
        (2, "unreadable", "", "at line N column N"),
        (1, "failed", "shop", "KeyError at /bot.py:12"),
    ]
    assert found[0]["newest"] == newest
    assert [one["count"] for one in json.loads(wa("causes", "--json", "--handler", "shop").stdout)] == [1]
    lines = wa("causes").stdout.splitlines()
    assert lines[0].split() == ["count", "newest", "reason", "handler", "cause"]
    assert re.fullmatch(r" +4 +\ds +failed +crm +KeyError at /bot.py:12 *", lines[2])
    assert wa("causes", "--lane", "statuses").stdout == "No dead letter matches.\n"


def test_causes_in_a_database(wa: Wa, bury: Bury) -> None:
    """What an exception was about in a database is part of the cause: two columns of one INSERT are two causes."""
    for name in ("wa_id", "wa_id", "status"):
        text = f'null value in column "{name}" violates not-null constraint'
        bury(detail=f'NotNullViolationError (column "{name}" of "statuses"): {text} (/bot.py:12)')
    found = [(one["count"], one["cause"]) for one in json.loads(wa("causes", "--json").stdout)]
    said = 'NotNullViolationError (column "{}" of "statuses") at /bot.py:12'
    assert found == [(2, said.format("wa_id")), (1, said.format("status"))]


def test_causes_by_status(wa: Wa, bury: Bury) -> None:
    """What a destination refused is counted by the status of its answer, whatever numbers the answer has."""
    for status, customer in ((422, 71), (422, 72), (401, 73), (404, 74)):
        bury(reason="rejected", detail=f"answered {status}: no customer {customer}", handler="crm")
    found = {one["cause"]: one["count"] for one in json.loads(wa("causes", "--json").stdout)}
    assert found == {f"answered {status}: no customer N": n for status, n in ((422, 2), (401, 1), (404, 1))}


@pytest.mark.parametrize("command", ["list", "causes", "retry", "drop", "export"])
def test_a_reason_that_does_not_exist(wa: Wa, bury: Bury, redis: Redis, command: str) -> None:
    """A reason that neither this version nor any dead letter knows is wrong usage, and the reasons are named."""
    bury()
    bury(reason="something new")
    found = wa(command, "--reason", "faild", "--reason", "something new")
    assert found.exit_code == 2
    assert (
        "--reason: no dead letter has faild; give unreadable, unknown_form, malformed, rejected, failed" in found.stderr
    )
    assert left(redis).total() == 2


def test_list_is_safe_for_the_terminal(wa: Wa, bury: Bury) -> None:
    """What a sender wrote cannot steer the operator's terminal, neither in the table nor in `show`."""
    evil = "\x1b]0;evil\x07 \u202e\x9b31m\nline [bold]two[/bold]"
    name = bury(detail=evil, reason="\x1b[31m", body=orjson.dumps({"text": evil}))
    other = bury(body=evil.encode() + b"\xff")
    for result in (wa("list"), wa("show", name), wa("show", other)):
        assert result.exit_code == 0
        assert not set("\x1b\x07\u202e\x9b") & set(result.stdout)
    assert "\\x1b]0;evil\\x07" in wa("show", name).stdout
    assert "[bold]two[/bold]" in wa("show", other).stdout


def test_a_detail_of_several_lines(wa: Wa, bury: Bury, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a detail has lines, `list` and `causes` show them in one, `show` as they are, in their column."""
    detail = "UniqueViolation: duplicate key\n\x1b[1mDETAIL:  Key (id)=(1)\x85  exists. (/bot.py:3)"
    name = bury(detail=detail, handler="crm")
    bury(detail="no\r\nsuch table", handler="shop", reason="rejected")
    line = "crm: UniqueViolation: duplicate key \\x1b[1mDETAIL:  Key (id)=(1) exists. (/bot.py:3)"
    for columns in ("80", "200"):
        monkeypatch.setenv("COLUMNS", columns)
        shown = re.sub("\n {4}", " ", wa("list").stdout)
        assert (line in shown, "shop: no such table" in shown, "\\n" in shown) == (True, True, False)
    assert re.search("shop +no such table *$", wa("causes").stdout, re.MULTILINE)
    fields = [row.rstrip() for row in wa("show", name).stdout.splitlines()]
    first = next(n for n, row in enumerate(fields) if row.startswith("detail"))
    column = fields[first].index("Unique")
    assert [row[column:] for row in fields[first : first + 3]] == [
        "UniqueViolation: duplicate key",
        "\\x1b[1mDETAIL:  Key (id)=(1)",
        "  exists. (/bot.py:3)",
    ]
    assert {row[:column].strip() for row in fields[first + 1 : first + 3]} == {""}


def test_list_json_has_no_body(wa: Wa, bury: Bury) -> None:
    """`list --json` is one object a line with everything but the body."""
    name = bury("messages", 3 * HOUR, body="BODY", detail="détail", queue="messages.5")
    (line,) = wa("list", "--json").stdout.splitlines()
    shown = json.loads(line)
    assert re.fullmatch(r"20..-..-..T..:..:......\+00:00", shown.pop("dead_at"))
    assert shown == {
        "id": name,
        "lane": "messages",
        "reason": "failed",
        "kind": "message",
        "handler": "",
        "detail": "détail",
        "attempt": 8,
        "received_at": "2023-11-14T22:13:20.123+00:00",
        "queue": "messages.5",
        "notification": notification_id(1_700_000_000_123, digest(b"BODY")),
    }


def test_a_letter_with_missing_fields(wa: Wa, redis: Redis) -> None:
    """An entry that another version wrote is listed and shown with what it has."""
    redis.xadd(keys.dead_key("other"), {"reason": "unknown_form", "novel": "field"})
    (name,) = names(wa("list", "--json"))
    assert json.loads(wa("show", "--json", name).stdout)["reason"] == "unknown_form"


def test_show(wa: Wa, bury: Bury, message: Callable[..., bytes]) -> None:
    """`show` names every field and indents a JSON body; with --json the body is what was sent."""
    name = bury(body=message("m7"), queue="messages.3")
    text = wa("show", name).stdout
    for part in (name, "failed", "message", "ValueError: no", "8", "2023-11-14", "messages.3", '      "id": "m7",\n'):
        assert part in text
    assert json.loads(wa("show", name, "--json").stdout)["body"].encode() == message("m7")


def test_show_what_is_not_json(wa: Wa, bury: Bury) -> None:
    """A body of other bytes is shown escaped, and is base64 in JSON."""
    name = bury(body=b"\x00\xff\xfe{", reason="unreadable", kind="notification")
    assert wa("show", name).stdout.endswith("\n\\x00\\xff\\xfe{\n")
    shown = json.loads(wa("show", "--json", name).stdout)
    assert "body" not in shown
    assert b64decode(shown["body_base64"]) == b"\x00\xff\xfe{"


@pytest.mark.parametrize("body", [b"\x00\xff\xfe{\n", b'{"n": 1}'])
def test_show_the_body_alone(wa: Wa, bury: Bury, body: bytes) -> None:
    """With --body it is byte for byte what came, for a file or for `wa-ingest call -`."""
    assert wa("show", bury(body=body, reason="unreadable", kind="notification"), "--body").stdout_bytes == body


def test_show_what_is_not_there(wa: Wa, bury: Bury) -> None:
    """A letter that is gone is one line on standard error and exit status 1."""
    bury()
    result = wa("show", "messages/1-1")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == ["Error: there is no dead letter messages/1-1: see `wa-ingest dead list`"]


WRONG = [
    ["show"],
    ["show", "1-1"],
    ["show", "message/1-1"],
    ["show", "messages/1"],
    ["show", "messages/x-1"],
    ["show", "messages/99999999999999999999-0"],
    ["retry", "--id", "1-1"],
    ["drop", "--lane", "message"],
    ["list", "--kind", "messages"],
    ["list", "--older-than", "soon"],
    ["list", "--newer-than", "-5m"],
    ["list", "--newer-than", "0s"],
    ["list", "--limit", "0"],
    ["export", "-o", "/"],
    ["bury"],
]


@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
def test_wrong_usage(wa: Wa, redis_url: str, arguments: list[str]) -> None:
    """Wrong usage exits 2 and changes nothing."""
    assert wa(*arguments).exit_code == 2


@pytest.mark.parametrize("command", ["", "list", "causes", "show", "retry", "drop", "export"])
def test_help(wa: Wa, command: str) -> None:
    """Every command explains itself, and none needs Redis for that."""
    result = wa(*filter(None, [command]), "--help")
    assert result.exit_code == 0
    assert len(result.output.splitlines()) > 6


@pytest.mark.parametrize("command", ["list", "causes", "show messages/1-1", "retry", "drop", "export"])
def test_without_redis(wa: Wa, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without WA_REDIS_URL, and when Redis is away, each is one line and exit status 1."""
    asked = wa(*command.split())
    monkeypatch.setenv("WA_REDIS_URL", "redis://127.0.0.1:1")
    away = wa(*command.split())
    for result, says in ((asked, "WA_REDIS_URL is not set"), (away, "Redis is not reachable")):
        assert result.exit_code == 1
        assert len(result.stderr.splitlines()) == 1
        assert says in result.stderr


def test_nothing_there(wa: Wa, redis: Redis, tmp_path: Path) -> None:
    """Without letters, and with a stream that was emptied, every command says so and succeeds."""
    for _ in range(2):
        assert wa("list").stdout == "There are no dead letters.\n"
        assert wa("list", "--json").stdout == ""
        assert wa("retry").stdout == "0 of 0 dead letters to be handled again\n"
        assert json.loads(wa("drop", "--json").stdout) == {"matched": 0, "done": 0}
        assert wa("export", "-o", str(tmp_path / "out")).exit_code == 0
        assert (tmp_path / "out").read_bytes() == b""
        assert room.trim(redis, 1) == {}
        redis.xdel(keys.dead_key("other"), redis.xadd(keys.dead_key("other"), {"reason": "failed"}))


# Feeding back


def test_retry_makes_records(wa: Wa, bury: Bury, redis: Redis, message: Callable[..., bytes]) -> None:
    """A single event goes to its queue, byte for byte, with its arrival time, attempt 1, to be handled in any case."""
    raw = message("m1", sender="49170") + b"  \n"
    bury(body=raw, queue="messages.5")
    bury("statuses", kind="status", body=b"\x00 as it was", attempt=3, reason="malformed")
    result = wa("retry", "--json")
    assert json.loads(result.stdout) == {"matched": 2, "done": 2}
    assert waiting(redis) == {
        "messages.5": [Record(RECEIVED, 1, 0, True, raw)],
        "statuses": [Record(RECEIVED, 1, 0, True, b"\x00 as it was")],
    }
    assert left(redis).total() == 0
    assert redis.llen(keys.doorbell_key("messages")) == redis.llen(keys.doorbell_key("statuses")) == 1
    assert backlog.read(redis).lanes["messages"].waiting == 1


def test_retry_of_a_whole_notification(wa: Wa, bury: Bury, redis: Redis) -> None:
    """It goes where the receiver would put it, to several partitions if need be, and duplicates are left out there."""
    contacts = ["15550001", "15550002", "15550003"]
    body = orjson.dumps({"messages": [{"from": contact, "id": contact, "type": "text"} for contact in contacts]})
    bury(kind="notification", reason="poison", body=body, queue="messages.0", attempt=1)
    bury("other", kind="notification", reason="unreadable", body="{", attempt=1)
    assert json.loads(wa("retry", "--json").stdout) == {"matched": 2, "done": 2}
    found = waiting(redis)
    assert found.pop("other") == [Record(RECEIVED, 1, 0, False, b"{")]
    assert len(found) > 1
    ((shares,),) = {tuple({record.shares for record in records}) for records in found.values()}
    assert shares
    assert {tuple(records) for records in found.values()} == {(Record(RECEIVED, 1, 0, False, body, shares=shares),)}
    assert left(redis).total() == 0


def test_retry_of_poison_that_was_tried_before(wa: Wa, bury: Bury, redis: Redis) -> None:
    """A worker that died of a second attempt: its first attempt is remembered, so it must be handled in any case."""
    bury(kind="notification", reason="poison", attempt=2)
    wa("retry")
    (record,) = [record for records in waiting(redis).values() for record in records]
    assert record.force


def test_retry_after_fewer_partitions(
    wa: Wa, bury: Bury, redis: Redis, message: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A letter of a partition that no longer exists goes to the one that its contact belongs to now."""
    monkeypatch.setenv("WA_PARTITIONS", "1")
    bury(body=message(), queue="messages.7")
    wa("retry")
    assert list(waiting(redis)) == ["messages.0"]


def test_retry_joins_what_waits(
    wa: Wa, bury: Bury, redis: Redis, commit: Callable[..., None], status: Callable[..., bytes]
) -> None:
    """Letters join the batch that waits, behind it: there is one job for all."""
    commit(status("new"))
    for n in range(3):
        bury("statuses", body=status(f"old{n}"))
    wa("retry")
    assert [record.body for record in waiting(redis)["statuses"]] == [
        status(id) for id in ("new", *map("old{}".format, range(3)))
    ]
    assert redis.llen(keys.queue_key("statuses")) == 1


@pytest.mark.parametrize("command", ["retry", "drop"])
def test_dry_run(wa: Wa, many: Callable[..., None], redis: Redis, command: str) -> None:
    """`--dry-run` counts and changes nothing."""
    many(1000)
    before = everything(redis)
    result = wa(command, "--dry-run", "--lane", "other")
    assert result.stdout == "333 dead letters match, nothing was changed\n"
    assert json.loads(wa(command, "--dry-run", "--json").stdout) == {"matched": 1000, "done": 0}
    assert everything(redis) == before


def test_one(wa: Wa, many: Callable[..., None]) -> None:
    """Of one dead letter it is said in the singular."""
    many(1, "statuses")
    assert wa("drop", "--dry-run").stdout == "1 dead letter matches, nothing was changed\n"
    _, shown = on_a_terminal("retry", answer="y\n")
    assert "Handle again 1 dead letter? [y/N]" in shown
    assert "1 of 1 dead letter to be handled again\r\n" in shown


def on_a_terminal(*arguments: str, answer: str) -> tuple[int, str]:
    """Run `wa-ingest dead` with a terminal as standard input and standard error: exit status, and what it showed."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "workers.cli", "dead", *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=Path(__file__).parents[3],
        env=os.environ | {"TERM": "xterm", "COLUMNS": "80"},
    )
    os.close(theirs)
    os.write(ours, answer.encode())
    shown = b""
    try:
        while part := os.read(ours, 1000):
            shown += part
    except OSError:  # the other side is closed
        pass
    os.close(ours)
    return process.wait(30), shown.decode()


@pytest.mark.parametrize(
    ("arguments", "answer", "exits", "asks"),
    [
        (["drop"], "n\n", 1, "Delete 3 dead letters? [y/N]"),
        (["retry"], "y\n", 0, "Handle again 3 dead letters? [y/N]"),
        (["drop", "--yes"], "", 0, ""),
    ],
)
def test_asks_on_a_terminal(
    many: Callable[..., None], redis: Redis, arguments: list[str], answer: str, exits: int, asks: str
) -> None:
    """On a terminal it asks with the count before it changes anything, unless it was told --yes."""
    many(3)
    status, shown = on_a_terminal(*arguments, answer=answer)
    assert status == exits, shown
    assert asks in shown
    assert ("[y/N]" in shown) == bool(asks)
    assert left(redis).total() == (3 if exits else 0)
    assert bodies(waiting(redis)).total() == (3 if arguments == ["retry"] else 0)


@pytest.mark.parametrize("change", [room.drop, lambda *given: room.requeue(*given, load())])
def test_letters_that_come_meanwhile(
    many: Callable[..., None], redis: Redis, change: Callable[..., Iterator[int]]
) -> None:
    """Letters that come after the start are left alone, also in lanes that had none."""
    many(2000, "messages")
    steps = change(redis, room.select(redis, room.Wanted()))
    done = next(steps)
    assert 0 < done <= room.PORTION
    for lane in LANES:
        redis.xadd(keys.dead_key(lane), {"body": "late", "reason": "failed"})
    assert done + sum(steps) == 2000
    assert left(redis) == {b"late": 3}


def test_two_at_the_same_time(many: Callable[..., None], redis: Redis) -> None:
    """Two that feed back the same letters by turns feed each back once."""
    many(2300, "messages")
    first, second = (room.requeue(redis, room.select(redis, room.Wanted()), load()) for _ in range(2))
    done = next(first) + next(second)
    done += sum(second) + sum(first)
    assert done == 2300
    assert bodies(waiting(redis)) == numbered(2300)
    assert left(redis).total() == 0


def test_a_letter_that_goes_while_its_portion_is_read(
    many: Callable[..., None], redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A letter that somebody drops between reading and feeding back is not handled again."""
    many(10, "messages")
    read = room._portions

    def read_and_drop(*given: Any, **named: Any) -> Iterator[list[room.DeadLetter]]:
        for letters in read(*given, **named):
            redis.xdel(keys.dead_key("messages"), str(letters[4].id))
            yield letters

    monkeypatch.setattr(room, "_portions", read_and_drop)
    assert sum(room.requeue(redis, room.select(redis, room.Wanted()), load())) == 9
    assert b"message-4" not in bodies(waiting(redis))


@pytest.mark.parametrize("command", ["retry", "drop"])
def test_when_redis_is_full(wa: Wa, many: Callable[..., None], redis: Redis, command: str) -> None:
    """A full Redis refuses to take letters back and loses none; dropping them makes room."""
    many(1000)
    redis.config_set("maxmemory", 1)
    result = wa(command)
    redis.config_set("maxmemory", 0)
    if command == "drop":
        assert (result.exit_code, left(redis).total()) == (0, 0)
        return
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: 0 of 1,000 dead letters to be handled again, then Redis failed: OutOfMemoryError")
    assert left(redis) == numbered(1000)
    assert waiting(redis) == {}


# Crashes


PAUSES = """
import sys
from redis import Redis
from ingest.state import dead_letters as dead
from ingest.settings import load

class Pausing(Redis):
    calls = 0
    def evalsha(self, *given):
        feeds_back = given[1] == 5
        if feeds_back:
            Pausing.calls += 1
        if feeds_back and Pausing.calls == 4 and sys.argv[1] == "before":
            print("paused", flush=True)
            sys.stdin.read()
        reply = super().evalsha(*given)
        if feeds_back and Pausing.calls == 3 and sys.argv[1] == "after":
            print("paused", flush=True)
            sys.stdin.read()
        return reply

redis = Pausing.from_url(load().redis_url.get_secret_value())
for _ in dead.requeue(redis, dead.select(redis, dead.Wanted()), load()):
    pass
"""


@pytest.mark.parametrize("moment", ["after", "before"])
def test_killed_between_two_portions(
    many: Callable[..., None],
    redis: Redis,
    wa: Wa,
    run_module: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
    moment: str,
) -> None:
    """SIGKILL after a portion, and before the next: each letter is a dead letter or waits, and the rest can go on."""
    many(1000)
    (tmp_path / "pauses.py").write_text(PAUSES)
    process = run_module("pauses", moment, cwd=tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "paused\n"
    process.kill()
    process.wait()
    done = bodies(waiting(redis)).total()
    assert 0 < done <= 3 * room.PORTION
    assert left(redis) + bodies(waiting(redis)) == numbered(1000)
    assert json.loads(wa("retry", "--json").stdout) == {"matched": 1000 - done, "done": 1000 - done}
    assert bodies(waiting(redis)) == numbered(1000)


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_stopped_anywhere(
    many: Callable[..., None],
    redis: Redis,
    wa: Wa,
    run_module: Callable[..., subprocess.Popen[str]],
    wait_for: Callable[..., None],
    stop: signal.Signals,
) -> None:
    """SIGKILL at any moment and Ctrl-C lose nothing; after Ctrl-C it says truly how many were done."""
    many(SOME, "statuses")
    process = run_module("workers.cli", "dead", "retry", stderr=subprocess.PIPE)
    wait_for(lambda: redis.xlen(keys.dead_key("statuses")) < SOME)
    process.send_signal(stop)
    output, errors = process.communicate(timeout=30)
    done = SOME - redis.xlen(keys.dead_key("statuses"))
    assert 0 < done < SOME, "the stop was to come in the middle"
    assert left(redis) + bodies(waiting(redis)) == numbered(SOME)
    if stop == signal.SIGINT:
        assert process.returncode == 1
        assert output == f"{done:,} of {SOME:,} dead letters to be handled again\n"
        assert errors == "Error: stopped, the same command goes on with the rest\n"


def test_redis_goes_away_in_the_middle(
    wa: Wa, many: Callable[..., None], redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When Redis ends the connection in the middle, one line says how many were done; no letter is lost."""
    many(2000, "messages")
    make = pack_into
    records = itertools.count()

    def pack_and_break(*given: Any, **named: Any) -> int:
        if next(records) == 1000:
            monkeypatch.setattr(ConnectionPool, "get_connection", _refuse)
        return make(*given, **named)

    monkeypatch.setattr(dead_letters, "pack_into", pack_and_break)
    result = wa("retry")
    monkeypatch.undo()
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    done = bodies(waiting(redis)).total()
    assert 800 < done <= 1000
    assert line.startswith(f"Error: {done:,} of 2,000 dead letters to be handled again, then Redis failed: Connection")
    assert left(redis) + bodies(waiting(redis)) == numbered(2000)


def _refuse(*given: Any, **named: Any) -> Any:
    raise ConnectionResetError("gone")


# Many


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Every command that this process sends to Redis."""
    sent: list[tuple[Any, ...]] = []
    send = Redis.execute_command

    def record(self: Redis, *command: Any, **options: Any) -> Any:
        sent.append(command)
        return send(self, *command, **options)

    monkeypatch.setattr(Redis, "execute_command", record)
    return sent


@pytest.mark.parametrize("command", ["retry", "drop", "export"])
def test_many(
    wa: Wa, many: Callable[..., None], redis: Redis, calls: list[tuple[Any, ...]], tmp_path: Path, command: str
) -> None:
    """Thirty thousand letters go in portions: no command reads, moves or deletes more than a hundred of them."""
    many()
    calls.clear()
    result = wa(command, *(["-o", str(tmp_path / "out")] if command == "export" else []))
    sent = [*calls]
    assert result.exit_code == 0, result.output
    counts = Counter(name for name, *_ in sent)
    assert counts["XRANGE"] >= MANY / room.PORTION
    assert {"EVALSHA", "XDEL"} & counts.keys() == {"retry": {"EVALSHA"}, "drop": {"XDEL"}, "export": set()}[command]
    for name, *arguments in sent:
        if name == "XRANGE":
            assert arguments[3] == b"COUNT"
            assert int(arguments[4]) <= room.PORTION
        elif name == "EVALSHA":  # script, number of keys, 5 keys, 7 of append.lua
            assert len(arguments) <= 14 + 3 * room.PORTION
        elif name == "XDEL":
            assert len(arguments) <= 1 + room.PORTION
        else:
            assert name in ("TIME", "XREVRANGE", "HINCRBY", "SCRIPT LOAD", "GET", "SET")  # of keys.FORMAT
    if command == "retry":
        found = waiting(redis)
        assert bodies(found) == numbered()
        assert redis.zcard(keys.LEDGER) == sum(-(-len(records) // 500) for records in found.values())
        assert left(redis).total() == 0
    elif command == "drop":
        assert left(redis).total() == 0
    else:
        exported = [orjson.loads(line) for line in (tmp_path / "out").read_bytes().splitlines()]
        assert Counter(one["body"].encode() for one in exported) == numbered()
        assert [one["dead_at"] for one in exported] == sorted(one["dead_at"] for one in exported)
        assert sum(redis.xlen(keys.dead_key(lane)) for lane in LANES) == MANY


@pytest.mark.parametrize("change", [room.drop, lambda *given: room.requeue(*given, load())])
def test_portions_of_large_letters(bury: Bury, redis: Redis, change: Callable[..., Iterator[int]]) -> None:
    """Letters of megabytes go one by one, as soon as their size is seen; small ones after them by hundreds again."""
    for size in [1 << 20] * 15 + [100] * 200:
        bury("other", body=b"x" * size)
    assert list(change(redis, room.select(redis, room.Wanted()))) == [10, 1, 1, 1, 1, 1, 1, 100, 99]


# Exporting


def test_export(wa: Wa, bury: Bury, redis: Redis, tmp_path: Path, message: Callable[..., bytes]) -> None:
    """Each line has everything, the body byte for byte; the file is complete, private, and replaces an older one."""
    first = bury("messages", HOUR, body=message("ä"))
    second = bury("other", 60, body=b"\xff\x00binary", detail="caf\xe9")
    path = tmp_path / "letters.jsonl"
    path.write_text("an older export")
    result = wa("export", "-o", str(path))
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"2 dead letters written to {path}\n"
    one, two = map(json.loads, path.read_text().splitlines())
    assert (one["id"], one["body"].encode()) == (first, message("ä"))
    assert (two["id"], b64decode(two["body_base64"]), two["detail"]) == (second, b"\xff\x00binary", "café")
    assert {key for key in one if key != "body"} == {key for key in two if key != "body_base64"}
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]
    assert wa("export").stdout_bytes == wa("export", "-o", "-").stdout_bytes == path.read_bytes()
    assert left(redis).total() == 2


def test_export_goes_where_a_link_leads(wa: Wa, bury: Bury, tmp_path: Path) -> None:
    """A symbolic link stays one: the file that it names is written."""
    bury()
    (tmp_path / "link").symlink_to(tmp_path / "file")
    wa("export", "-o", str(tmp_path / "link"))
    assert (tmp_path / "link").is_symlink()
    assert len((tmp_path / "file").read_text().splitlines()) == 1


@pytest.mark.parametrize("path", ["missing/letters.jsonl", "pipe"])
def test_export_that_cannot_be_written(wa: Wa, bury: Bury, tmp_path: Path, path: str) -> None:
    """A folder that is not there, or something that is no file, is one line and exit status 1; nothing is replaced."""
    bury()
    os.mkfifo(tmp_path / "pipe")
    result = wa("export", "-o", str(tmp_path / path))
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert f"{tmp_path / path} cannot be written: " in result.stderr
    assert (tmp_path / "pipe").is_fifo()


def test_export_fails_in_the_middle(wa: Wa, bury: Bury, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An export that fails leaves the older file as it was, and no other."""
    bury()
    path = tmp_path / "letters.jsonl"
    path.write_text("an older export")
    monkeypatch.setattr(room.DeadLetter, "content_as_json", _refuse)
    assert wa("export", "-o", str(path)).exit_code == 1
    assert path.read_text() == "an older export"
    assert list(tmp_path.iterdir()) == [path]


def test_export_is_killed(
    many: Callable[..., None], redis_url: str, run_module: Any, tmp_path: Path, wait_for: Callable[..., None]
) -> None:
    """A killed export leaves nothing under the final name."""
    many(SOME)
    process = run_module("workers.cli", "dead", "export", "-o", str(tmp_path / "letters.jsonl"))
    wait_for(lambda: any(file.stat().st_size for file in tmp_path.iterdir()))
    process.kill()
    process.wait()
    assert not (tmp_path / "letters.jsonl").exists()


def test_export_into_a_pipe_that_closes(many: Callable[..., None], redis_url: str) -> None:
    """`export | head -1` ends without a word."""
    many(20_000)
    command = f"{sys.executable} -m workers.cli dead export | head -1"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, cwd=Path(__file__).parents[3], timeout=60
    )
    assert json.loads(done.stdout)["body"] == "message-0"
    assert done.stderr == ""


# Handled again


def failing(*failures: Exception) -> tuple[Handlers, list[int]]:
    """Handlers that fail like that, once for each, and then no more; and the attempts that they saw."""
    registry, seen = Handlers(), []
    todo = list(failures)

    @registry.message()
    @registry.status()
    def handle(event: Any) -> None:
        seen.append(event.attempt)
        if todo:
            raise todo.pop(0)

    return registry, seen


@pytest.fixture
def work(take: Callable[..., Any], runner: Callable[..., Any]) -> Callable[..., None]:
    """Run all that can be taken, and what is due at once."""

    def run(registry: Handlers, **settings: Any) -> None:
        made = runner(registry, **settings)
        while (taken := take("w1")) != -1:  # a number: the milliseconds until a retry is due
            if isinstance(taken, tuple):
                made.run(*taken)

    return run


@pytest.fixture
def settled(redis: Redis) -> Callable[[], None]:
    """Assert that nothing is owed any more. (The jobs stay: here no RQ deletes them.)"""

    def check() -> None:
        assert redis.zcard(keys.LEDGER) == redis.hlen(keys.TAKEN) == 0
        assert redis.keys(keys.batch_key("*")) == []

    return check


@pytest.mark.parametrize("kind", ["message", "status"])
def test_retried_letters_are_handled(
    wa: Wa, commit: Any, work: Any, dead: Any, settled: Any, message: Any, status: Any, kind: str
) -> None:
    """A letter that is fed back runs through a worker as attempt 1, once, although it was handled before."""
    commit({"message": message, "status": status}[kind]())
    registry, seen = failing(Reject("not now"))
    work(registry)
    assert seen == [1]
    wa("retry")
    work(registry)
    assert seen == [1, 1]
    assert dead("messages") == dead("statuses") == []
    settled()


def two_handlers() -> tuple[Handlers, list[str], set[str]]:
    """Two handlers of messages; what was called; and the names of those that reject."""
    registry, called, rejecting = Handlers(), [], {"crm"}

    def handler(name: str) -> None:
        def handle(message: Message) -> None:
            called.append(name)
            if name in rejecting:
                raise Reject(f"{name} says no")

        handle.__module__, handle.__qualname__ = "shop", name
        registry.message()(handle)

    handler("crm")
    handler("archive")
    return registry, called, rejecting


def test_retry_calls_whose_it_is(wa: Wa, commit: Any, work: Any, dead: Any, settled: Any, message: Any) -> None:
    """A letter that is fed back goes to the handler that did not succeed, however often; the other is not called."""
    commit(message())
    registry, called, rejecting = two_handlers()
    for _ in range(2):
        work(registry)
        (shown,) = map(json.loads, wa("list", "--json").stdout.splitlines())
        assert shown["handler"] == "shop.crm"
        assert wa("retry", "--handler", "shop.archive").stdout.startswith("0 of 0")
        assert wa("retry", "--handler", "shop.crm").stdout.startswith("1 of 1")
    rejecting.clear()
    work(registry)
    assert called == ["crm", "archive", "crm", "crm"]
    assert dead("messages") == []
    settled()


def test_a_letter_of_two_handlers(wa: Wa, commit: Any, work: Any, settled: Any, message: Any) -> None:
    """A letter that two handlers owe names both, whether they reject or are out of tries, and goes to both again."""
    commit(message())
    registry, called, rejecting = two_handlers()
    rejecting.add("archive")
    work(registry)
    assert json.loads(wa("list", "--json").stdout)["handler"] == "shop.crm, shop.archive"
    rejecting.clear()
    assert wa("retry", "--handler", "shop.archive").stdout.startswith("1 of 1")
    work(registry)
    assert called == ["crm", "archive"] * 2
    settled()


@pytest.mark.parametrize(("outcome", "limit"), [("failed", {"max_attempts": 1}), ("expired", {"max_age": 60})])
def test_whose_when_it_is_given_up(
    wa: Wa, commit: Any, work: Any, message: Any, outcome: str, limit: dict[str, int]
) -> None:
    """What is out of tries, or too old for another one, is the failing handler's alone."""
    commit(message())
    registry, called = Handlers(), []
    registry.message()(lambda message: called.append("fine"))

    @registry.message()
    def fails(message: Message) -> None:
        raise RetryIn(3600)

    work(registry, **limit)
    shown = json.loads(wa("list", "--json").stdout)
    assert (shown["reason"], shown["handler"].rpartition(".")[2]) == (outcome, "fails")
    wa("retry")
    work(registry, **limit)
    assert called == ["fine"]


def test_a_second_life(wa: Wa, commit: Any, work: Any, dead: Any, settled: Any, message: Any) -> None:
    """What fails again after it was fed back has all its attempts once more, and is a dead letter again."""
    commit(message())
    registry, seen = failing(*[RetryIn(0)] * 6)
    for _ in range(2):
        work(registry, max_attempts=3)
        assert len(dead("messages")) == 1
        wa("retry")
    work(registry, max_attempts=3)
    assert seen == [1, 2, 3, 1, 2, 3, 1]
    assert dead("messages") == []
    settled()


def test_unreadable_again(wa: Wa, commit: Any, work: Any, dead: Any, settled: Any) -> None:
    """What cannot be read is a dead letter again, byte for byte."""
    commit(b"\xff{")
    for _ in range(2):
        work(Handlers())
        (letter,) = dead("other")
        assert letter["reason"] == "unreadable"
        wa("retry")
    work(Handlers())
    assert len(dead("other")) == 1
    settled()


# Removal by age


def test_trim(bury: Bury, redis: Redis) -> None:
    """Letters older than the age are removed, to the letter, in every lane; the others stay."""
    for age in (15 * DAY, 14 * DAY + 1):
        bury("messages", age)
    kept = [bury("messages", 14 * DAY - 60), bury("messages"), bury("statuses", DAY)]
    bury("other", 100 * DAY)
    assert room.trim(redis, 14 * DAY) == {"messages": 2, "other": 1}
    assert [f"{lane}/{id.decode()}" for lane in LANES for id, _ in letters_of(redis, lane)] == kept
    assert room.trim(redis, 14 * DAY) == {}


def test_trim_goes_in_portions(many: Callable[..., None], redis: Redis, calls: list[tuple[Any, ...]]) -> None:
    """Many old letters are removed a thousand at a time."""
    many(SOME, "other")
    calls.clear()
    assert room.trim(redis, -1) == {"other": SOME}
    trims = [arguments for name, *arguments in calls if name == "XTRIM" and arguments[0] == keys.dead_key("other")]
    assert len(trims) > SOME / 1000
    assert all(arguments[-2:] == [b"LIMIT", 1000] for arguments in trims if b"~" in arguments)
    assert redis.xlen(keys.dead_key("other")) == 0


def test_workers_trim(
    bury: Bury, redis: Redis, wait_for: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: Any, request: Any
) -> None:
    """A worker's heartbeat removes what is older than WA_DEAD_AGE, says how many, and one worker at a time does it.
    What dead workers told goes, too; why none can start stays.
    """
    monkeypatch.setenv("WA_DEAD_AGE", "1h")
    monkeypatch.setattr(reaper, "BEAT_SECONDS", 0.01)
    monkeypatch.setattr(worker_room, "_TRIM_EVERY", 2)
    logged: list[dict[str, Any]] = []
    monkeypatch.setattr(worker_room.log, "warning", lambda event, **more: logged.append(more))
    bury("statuses", 2 * HOUR)
    kept = bury("statuses", HOUR / 2)
    in_work.tell_unloadable(redis, in_work.Unloadable("why", ""))
    redis.hset(keys.IN_WORK, "dead|handlers", "[]")
    worker = worker_room.BatchWorker(load(), Handlers(), "w1")
    request.addfinalizer(worker.flow.close)
    worker._beats.start()
    wait_for(lambda: logged)
    bury("other", 2 * HOUR)
    beats = redis.zscore(keys.ALIVE, "w1")
    wait_for(lambda: redis.zscore(keys.ALIVE, "w1") > beats + 100)
    worker._over.set()
    worker._beats.join()
    assert logged == [{"statuses": 1}]
    assert [f"statuses/{id.decode()}" for id, _ in letters_of(redis, "statuses")] == [kept]
    assert redis.xlen(keys.dead_key("other")) == 1
    assert 0 < redis.ttl(keys.TRIM) < 60
    assert set(redis.hkeys(keys.IN_WORK)) == {in_work.UNLOADABLE.encode(), b"w1|handlers", b"w1|limit"}  # type: ignore[arg-type]


def test_a_warning_comes_before(bury: Bury, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two days before letters are removed, `status` and `check` say how many and what to do."""
    monkeypatch.setenv("COLUMNS", "80")
    run = lambda *arguments: CliRunner().invoke(main, arguments).stdout  # noqa: E731
    bury("messages", 11 * DAY)
    assert "removed" not in run("status")
    found = {one["name"]: one for one in json.loads(run("check", "--json"))}
    assert found["dead letters"]["result"] == "ok"
    bury("messages", 11 * DAY - 1)
    for age in (13 * DAY, 12 * DAY + HOUR, DAY):
        bury("statuses", age)
    lines = run("status").splitlines()
    assert lines[-1] == "dead letters to be removed within 2 days: 2, see `wa-ingest dead`"
    lanes = json.loads(run("status", "--json"))["lanes"]
    assert {name: lane["dead_expiring"] for name, lane in lanes.items()} == {"messages": 0, "statuses": 2, "other": 0}
    found = {one["name"]: one for one in json.loads(run("check", "--json"))}
    assert found["dead letters"]["result"] == "warning"
    assert found["dead letters"]["finding"] == "2 will be removed within two days"
    assert "wa-ingest dead export" in found["dead letters"]["advice"]


def test_the_warning_is_cheap(many: Callable[..., None], redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of very many letters a hundred are counted, and it says that there may be more."""
    many(300, "other")
    counts = backlog.expiring(redis, DAY)
    assert counts == {"messages": 0, "statuses": 0, "other": 100}
    assert backlog.expiring_text(counts) == "100 or more"
    monkeypatch.setenv("WA_DEAD_AGE", "1d")
    monkeypatch.setenv("COLUMNS", "80")
    assert "2 days: 100 or more, see `wa-ingest dead`\n" in CliRunner().invoke(main, ["status"]).stdout
