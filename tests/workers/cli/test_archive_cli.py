"""`wa-ingest archive` and `wa-ingest replay`."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner, Result
from redis import Redis

from ingest.routing import home, route
from ingest.store import keys
from ingest.store.queues import queue_names
from ingest.store.records import Record, unpack
from workers.archive import replay
from workers.archive.files import HOUR_MS, Archive
from workers.cli.main import main
from workers.engine import claims
from workers.events.parsing import parse
from workers.handlers import Handlers

RECEIVED = 1_700_000_000_000  # 2023-11-14T22:13:20Z
SAMPLES = Path(__file__).parents[2] / "fuzz" / "corpus"
Wa = Callable[..., Result]


@pytest.fixture
def wa(redis: Redis, folder: Path) -> Wa:
    """Run a command of `wa-ingest` in this process, its standard input no terminal."""
    return lambda *arguments: CliRunner().invoke(main, list(map(str, arguments)))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """WA_ARCHIVE_DIR; and the partitions that the fixture `take` has."""
    monkeypatch.setenv("WA_PARTITIONS", "8")
    monkeypatch.setenv("WA_ARCHIVE_DIR", str(tmp_path / "archive"))
    return tmp_path / "archive"


@pytest.fixture
def keep(folder: Path) -> Callable[..., None]:
    """Archive bodies, each (ms after RECEIVED, body), in one block."""
    writers: dict[str, Archive] = {}

    def write(*notifications: tuple[int, bytes], worker: str = "w1") -> None:
        writer = writers.setdefault(worker, Archive(folder, worker))
        assert writer.keep([(RECEIVED + after, body) for after, body in notifications], lambda: False)

    return write


def queued(redis: Redis) -> dict[str, list[Record]]:
    """The records that wait, by queue, in their order."""
    found: dict[str, list[Record]] = {}
    for queue in (*queue_names("messages", 8), "statuses", "other"):
        ids: Any = redis.lrange(keys.queue_key(queue), 0, -1)
        records = [record for id in ids for record in redis.lrange(keys.batch_key(id.decode()), 0, -1)]
        if records:
            found[queue] = list(map(unpack, records))
    return found


def waiting(redis: Redis) -> list[bytes]:
    return [record.body for records in queued(redis).values() for record in records]


def said(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_list(wa: Wa, keep: Callable[..., None], folder: Path, status: Any) -> None:
    """`archive` counts by hour of arrival: files, notifications, bytes of their bodies, bytes on the disk."""
    keep((0, status("1")), (1, status("2")))
    keep((2, status("3")), worker="w2")
    keep((HOUR_MS, b"{"))
    sizes = {path.name[:2]: 0 for path in folder.rglob("*.zst")}
    for path in folder.rglob("*.zst"):
        sizes[path.name[:2]] += path.stat().st_size
    first = {"hour": "2023-11-14T22:00Z", "files": 2, "notifications": 3, "bytes": 3 * len(status("1"))}
    second = {"hour": "2023-11-14T23:00Z", "files": 1, "notifications": 1, "bytes": 1}
    found = wa("archive", "--json")
    assert found.exit_code == 0
    assert said(found) == {
        "hours": [first | {"compressed": sizes["22"]}, second | {"compressed": sizes["23"]}],
        "files": 3,
        "notifications": 4,
        "bytes": first["bytes"] + 1,
        "compressed": sum(sizes.values()),
        "age_seconds": 30 * 86400,
    }
    table = wa("archive").stdout
    assert "2023-11-14T22:00Z" in table
    assert "WA_ARCHIVE_AGE (30d00h)" in table


@pytest.mark.parametrize("command", [("archive",), ("replay", "--yes")])
def test_no_archive(wa: Wa, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], folder: Path) -> None:
    """Without the setting, or the folder, it is one line with the remedy or the path, and exit status 1."""
    found = wa(*command)
    assert found.exit_code == 1
    assert f"{folder}: there is no such file or folder" in found.stderr
    monkeypatch.delenv("WA_ARCHIVE_DIR")
    found = wa(*command)
    assert (found.exit_code, found.stderr.count("\n")) == (1, 1)
    assert "WA_ARCHIVE_DIR is not set: give" in found.stderr


def test_there_and_back(
    wa: Wa, folder: Path, redis: Redis, commit: Any, runner: Any, take: Any, message: Any, status: Any
) -> None:
    """Redis is lost: a replay lets each notification be handled exactly once more, in order, with its first arrival;
    while Redis remembers them, it lets none."""
    seen: list[tuple[str, int, int]] = []
    handlers = Handlers()

    @handlers.message()
    @handlers.status()
    def record(event: Any) -> None:
        seen.append((event.id, event.received_ms, event.attempt))

    def handle() -> list[tuple[str, int, int]]:
        seen.clear()
        running = runner(handlers, archive_dir=folder)
        while isinstance(taken := take(), tuple):
            running.run(*taken)
        assert not redis.exists(keys.LEDGER)
        return list(seen)

    several = orjson.dumps({"messages": [{"from": str(n), "id": f"m{n}", "type": "text"} for n in range(20)]})
    for n in range(30):
        commit(message(f"m-{n}", sender=str(n % 3)), status(f"s-{n}"), received_ms=RECEIVED + n)
    commit(several, several, received_ms=RECEIVED + HOUR_MS)
    first = handle()
    assert len(first) == 80

    assert said(wa("replay", "--json")) == {
        "matched": 61,
        "copies": 61,
        "dead": 0,
        "done": 61,
        "upto": "2023-11-14T23:13:20.000+00:00",
    }
    assert handle() == []

    redis.flushall()
    assert wa("replay").stdout == "61 of 61 notifications fed back\n"
    again = handle()
    assert Counter(again) == Counter(first)
    for contact in range(3):
        mine = [id for id, *_ in again if id.startswith("m-") and int(id[2:]) % 3 == contact]
        assert mine == [f"m-{n}" for n in range(contact, 30, 3)]

    assert said(wa("replay", "--again", "--json"))["done"] == 61
    assert Counter(handle()) == Counter(first)
    # A replay archives nothing. What lies in several partitions, and came twice, is there for each.
    assert said(wa("archive", "--json"))["notifications"] == 60 + 2 * len(route(several, 8))


def test_order(wa: Wa, keep: Callable[..., None], redis: Redis, status: Any) -> None:
    """Whichever worker settled them when, they go back in the order of arrival; what is there twice once."""
    one, two, three, four = ((after, status(str(after))) for after in (10, 20, 30, 40))
    keep((HOUR_MS, status("late")))
    keep(two, four)
    keep(one, three, worker="w2")
    keep(two, worker="w3")
    assert said(wa("replay", "--json"))["matched"] == 5
    (records,) = queued(redis).values()
    assert [record.received_ms - RECEIVED for record in records] == [10, 20, 30, 40, HOUR_MS]
    assert {(record.attempt, record.force) for record in records} == {(0, False)}


def test_dry_run(wa: Wa, keep: Callable[..., None], redis: Redis, status: Any) -> None:
    """`--dry-run` counts and writes nothing into Redis."""
    keep((0, status("1")), (1, status("2")))
    assert wa("replay", "--dry-run").stdout == "2 notifications match, nothing was changed\n"
    found = said(wa("replay", "--dry-run", "--json"))
    assert found == {"matched": 2, "copies": 0, "dead": 0, "done": 0, "upto": None}
    assert redis.dbsize() == 0


def test_copies_are_told(
    wa: Wa, folder: Path, redis: Redis, commit: Any, runner: Any, take: Any, keep: Any, message: Any, status: Any
) -> None:
    """Notifications of which all was handled before are counted before and after, with the option that handles them
    again; one with something new in it is none of them."""
    handlers = Handlers()
    handlers.message()(lambda message: None)
    commit(message("1"), status("2"), b'{"errors":[{"code":1}]}', received_ms=RECEIVED)
    running = runner(handlers, archive_dir=folder)
    while isinstance(taken := take(), tuple):
        running.run(*taken)
    both = orjson.loads(message("1"))
    both["messages"].append(both["messages"][0] | {"id": "new"})
    keep((1, orjson.dumps(both)))
    lines = wa("replay", "--dry-run").stdout.splitlines()
    assert lines[0] == "4 notifications match, nothing was changed"
    assert lines[1].startswith("3 of them were handled before: workers drop what was handled within WA_DEDUP_WINDOW")
    found = said(wa("replay", "--dry-run", "--again", "--json"))
    assert (found["matched"], found["copies"]) == (4, None)


def test_again_is_once_for_each_event(
    wa: Wa, folder: Path, redis: Redis, commit: Any, runner: Any, take: Any, message: Any, status: Any, monkeypatch: Any
) -> None:
    """Each `replay --again` gives handlers every event once more, however many copies its sender sent, and whatever
    comes in between is handled as always."""
    monkeypatch.setenv("WA_BATCH", "1")
    handlers, seen = Handlers(), []
    handlers.message()(lambda message: seen.append(message.id))
    handlers.status()(lambda status: seen.append(status.id))
    running = runner(handlers, archive_dir=folder)

    def handled() -> list[str]:
        seen.clear()
        while isinstance(taken := take(), tuple):
            running.run(*taken)
        return sorted(seen)

    for after in range(3):
        commit(message("m1"), status("s1"), message(f"m{2 + after}"), received_ms=RECEIVED + after)
    assert handled() == ["m1", "m2", "m3", "m4", "s1"]
    assert wa("replay", "--again").stdout == "9 of 9 notifications fed back\n"
    commit(message("m1"), message("new"), message("new"), received_ms=RECEIVED + 3)
    assert handled() == ["m1", "m2", "m3", "m4", "new", "s1"]
    commit(message("m1"), message("new"), received_ms=RECEIVED + 4)
    assert handled() == []
    wa("replay", "--again", "--to", "2023-11-14T22:13:20.003")
    wa("replay", "--again", "--to", "2023-11-14T22:13:20.003")
    assert handled() == sorted(2 * ["m1", "m2", "m3", "m4", "s1"])


def test_no_second_dead_letter(
    wa: Wa, folder: Path, redis: Redis, commit: Any, runner: Any, take: Any, message: Any
) -> None:
    """What is no event is left out, and told, while its dead letter is there; when that is gone it is fed back."""
    mixed = orjson.loads(message("1"))
    mixed["messages"].append(5)
    commit(b"{", b"[]", orjson.dumps(mixed), message("2"), received_ms=RECEIVED)
    running = runner(Handlers(), archive_dir=folder)

    def letters() -> int:
        while isinstance(taken := take(), tuple):
            running.run(*taken)
        return sum(redis.xlen(keys.dead_key(lane)) for lane in ("messages", "statuses", "other"))

    assert letters() == 3
    found = wa("replay", "--again")
    fed, left_out = found.stdout.splitlines()
    assert fed == "2 of 2 notifications fed back"
    assert left_out.startswith("3 that are no events are left out")
    assert letters() == 3
    redis.flushall()
    assert said(wa("replay", "--json"))["done"] == 4
    assert letters() == 3


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (("--from", "2023-11-14T22:13:20.005Z"), {"change", "bad", "mixed", "late"}),
        (("--to", "2023-11-14T22:13:20.005Z"), {"message", "status", "error"}),
        (("--from", "2023-11-14T23:13:20.003+01:00", "--to", "2023-11-14T22:13:20.005"), {"error"}),
        (("--to", "2023-11-14"), set()),
        (("--from", "2023-11-14", "--to", "2023-11-15"), {"message", "status", "error", "change", "bad", "mixed"}),
        (("--lane", "messages"), {"message", "mixed"}),
        (("--lane", "statuses", "--lane", "messages"), {"message", "mixed", "status", "late"}),
        (("--kind", "status"), {"status", "late", "mixed status"}),
        (("--kind", "message", "--kind", "error"), {"message", "error", "mixed messages"}),
        (("--kind", "change"), {"change"}),
        (("--kind", "notification"), {"bad"}),
        (("--contact", "+15550001"), {"message", "status", "late", "mixed one"}),
        (("--contact", "US.2", "--contact", "15550009"), {"mixed other"}),
        (("--kind", "message", "--contact", "15550001"), {"message", "mixed one message"}),
        (("--lane", "other", "--contact", "15550001"), set()),
    ],
)
def test_filters(
    wa: Wa,
    keep: Callable[..., None],
    redis: Redis,
    message: Any,
    status: Any,
    arguments: tuple[str, ...],
    wanted: set[str],
) -> None:
    """Times have milliseconds and zones; of a notification only the events of that kind and contact go back."""
    mine = {"from": "15550001", "id": "a", "type": "text"}
    other = {"from": "15550002", "from_user_id": "US.2", "id": "b", "type": "text"}
    its = {"id": "c", "status": "read", "recipient_id": "15550001"}
    change = {"entry": [{"id": "1", "changes": [{"field": "account_update", "value": {"event": "x"}}]}]}
    given = {
        "message": (0, message()),
        "status": (1, status()),
        "error": (3, b'{"errors":[{"code":1}]}'),
        "change": (5, orjson.dumps(change)),
        "bad": (6, b"\xff"),
        "mixed": (7, orjson.dumps({"messages": [mine, other], "statuses": [its]})),
        "late": (10 * HOUR_MS, status("2")),
    }
    parts = {
        "mixed status": [{"statuses": [its]}],
        "mixed messages": [{"messages": [mine]}, {"messages": [other]}],
        "mixed one": [{"messages": [mine]}, {"statuses": [its]}],
        "mixed one message": [{"messages": [mine]}],
        "mixed other": [{"messages": [other]}],
    }
    keep(*given.values())
    assert said(wa("replay", *arguments, "--json"))["matched"] == len(wanted)
    expected = [given[name][1] for name in wanted if name in given]
    expected += [orjson.dumps(part) for name in wanted if name in parts for part in parts[name]]
    assert sorted({*waiting(redis)}) == sorted(expected)


def test_parts_are_the_same_events() -> None:
    """An event that goes back in a body of its own has the claim that it had: it is not handled twice."""
    checked = 0
    for path in sorted(SAMPLES.glob("*.json")):
        for event in parse(path.read_bytes(), RECEIVED):
            if hasattr(event, "raw"):
                (back,) = parse(event.body(), RECEIVED)
                assert claims.of(back) == claims.of(event), path
                checked += 1
    assert checked > 30


def test_wrong_usage(wa: Wa, folder: Path) -> None:
    """A time that is none is wrong usage, with an example."""
    found = wa("replay", "--from", "yesterday")
    assert found.exit_code == 2
    assert "2026-11-21T14:30" in found.stderr


def test_files(wa: Wa, keep: Callable[..., None], folder: Path, redis: Redis, status: Any, tmp_path: Path) -> None:
    """Files and folders can be named, also such as were brought back under another name."""
    keep((0, status("1")), (HOUR_MS, status("2")), (100 * HOUR_MS, status("3")))
    first, second, _ = sorted(folder.rglob("*.zst"))
    moved = tmp_path / "restored"
    first.rename(moved)
    assert said(wa("replay", moved, second.parent, second, "--json"))["done"] == 2
    assert waiting(redis) == [status("1"), status("2")]


def test_torn_and_foreign(wa: Wa, keep: Callable[..., None], folder: Path, redis: Redis, status: Any) -> None:
    """What cannot be read is one line each, the rest goes back, and the exit status is 1."""
    keep((0, status("1")))
    keep((HOUR_MS, status("2")))
    keep((HOUR_MS + 1, status("3")))
    *_, path = sorted(folder.rglob("*.zst"))
    os.truncate(path, path.stat().st_size - 1)
    (folder / "foreign.zst").write_bytes(b"x" * 1000)
    found = wa("replay", "--json")
    assert said(found)["done"] == 2
    assert found.exit_code == 1
    assert found.stderr.count("\n") == 3
    assert f"{path}: left out from byte" in found.stderr
    assert f"{folder / 'foreign.zst'}: it is no file of the archive" in found.stderr
    assert "Error: not everything could be read, see above" in found.stderr
    assert waiting(redis) == [status("1"), status("2")]
    assert wa("archive").exit_code == 1


def test_asks_on_a_terminal(keep: Callable[..., None], redis: Redis, status: Any) -> None:
    """On a terminal it asks; without a yes nothing happens."""
    keep((0, status("1")))
    for answer, done in ((b"n\n", 0), (b"y\n", 1)):
        parent, child = pty.openpty()
        command = [sys.executable, "-m", "workers.cli", "replay", "--again"]
        process = subprocess.Popen(command, stdin=child, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        os.write(parent, answer)
        _, stderr = process.communicate(timeout=30)
        os.close(parent)
        os.close(child)
        assert b"Handle 1 notification, also those handled before?" in stderr
        assert len(waiting(redis)) == done


def test_waits_for_workers(
    run_module: Any, keep: Callable[..., None], redis: Redis, status: Any, take: Any, wait_for: Any, monkeypatch: Any
) -> None:
    """No more batches wait than a hundred: then it says so and waits; Ctrl-C ends it and says how to go on."""
    monkeypatch.setenv("WA_BATCH", "10")
    keep(*[(n, status(str(n))) for n in range(3000)])
    process = run_module("workers.cli", "replay", stderr=subprocess.PIPE)
    line = process.stderr.readline()
    assert line == "wa-ingest: waiting, because 100 batches wait for workers\n"
    assert len(waiting(redis)) == 1000
    for n in range(10):
        take(f"w{n}")
    wait_for(lambda: len(waiting(redis)) == 1900)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 1
    assert process.stdout.read() == "2,000 of 3,000 notifications fed back\n"
    assert process.stderr.read() == (
        "Error: stopped; the same command with --from 2023-11-14T22:13:22.000+00:00 goes on\n"
    )
    redis.flushall()
    onwards = CliRunner().invoke(main, ["replay", "--from", "2023-11-14T22:13:22.000+00:00"])
    assert "1,000 of 1,000" in onwards.stdout
    assert waiting(redis) == [status(str(n)) for n in range(2000, 3000)]


def test_waits_for_memory(run_module: Any, keep: Callable[..., None], redis: Redis, status: Any, wait_for: Any) -> None:
    """While Redis is short of memory nothing is added; when there is room again it goes on."""
    keep((0, status("1")))
    redis.config_set("maxmemory", 1)
    process = run_module("workers.cli", "replay", stderr=subprocess.PIPE)
    assert process.stderr.readline() == "wa-ingest: waiting, because Redis is short of memory (maxmemory)\n"
    assert redis.keys() == [keys.FORMAT.encode()]
    redis.config_set("maxmemory", 0)
    assert process.wait(30) == 0
    assert waiting(redis) == [status("1")]


def test_refused_for_memory(
    wa: Wa, keep: Callable[..., None], redis: Redis, status: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when Redis refuses at that very moment, the portion goes in later, once."""
    keep((0, status("1")))
    real, calls = replay._no_room, []

    def no_room(*arguments: Any) -> str:
        calls.append(redis.config_set("maxmemory", 0 if calls else 1))
        return "" if len(calls) == 1 else real(*arguments)

    monkeypatch.setattr(replay, "_no_room", no_room)
    found = wa("replay", "--json")
    assert said(found)["done"] == 1
    assert found.stderr == "wa-ingest: waiting, because Redis is short of memory (maxmemory)\n"
    assert waiting(redis) == [status("1")]


def test_redis_away(wa: Wa, keep: Callable[..., None], status: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Redis it is one line, exit status 1."""
    keep((0, status("1")))
    monkeypatch.setenv("WA_REDIS_URL", "redis://127.0.0.1:1")
    found = wa("replay")
    assert (found.exit_code, found.stderr.count("\n")) == (1, 1)
    assert "Redis is not reachable: ConnectionError" in found.stderr


def test_large_bodies(wa: Wa, keep: Callable[..., None], redis: Redis) -> None:
    """Bodies larger than a batch go back, too."""
    sent = [orjson.dumps({"statuses": [{"id": os.urandom(1 << 20).hex()}]}) for _ in range(3)]
    keep(*enumerate(sent))
    assert said(wa("replay", "--json"))["done"] == 3
    assert waiting(redis) == sent


def test_check(wa: Wa, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`check` says how much room there is, warns when the folder cannot be written, and is silent without one."""

    def found() -> list[tuple[str, str]]:
        checks = json.loads(wa("check", "--json").stdout)
        return [(one["result"], one["finding"]) for one in checks if one["name"] == "archive"]

    ((result, finding),) = found()
    assert (result, finding.endswith(" free")) == ("ok", True)
    assert not folder.exists()
    folder.touch()
    assert found() == [("warning", f"{folder} cannot be written: Not a directory")]
    monkeypatch.delenv("WA_ARCHIVE_DIR")
    assert found() == []


def test_replay_into_several_redis(wa: Wa, keep: Callable[..., None], two: list[Redis], message: Any) -> None:
    """Each notification goes to its home among several Redis, where copies of it went, too."""
    bodies = [message(f"m{n}", sender=str(n)) for n in range(60)]
    keep(*enumerate(bodies))
    assert said(wa("replay", "--json"))["done"] == 60
    found = [waiting(redis) for redis in two]
    assert sorted(found[0] + found[1]) == sorted(bodies)
    for n, mine in enumerate(found):
        assert len(mine) > 10
        assert {home(route(body, 8)[0].queue, body, 2) for body in mine} == {n}
