"""Redis away in every way, receivers killed, disks full: every 200 is in Redis afterwards, in order per contact."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import orjson
import pytest
from redis import Redis

from ingest.spool.spool import Spool
from ingest.state.spooled import spool_figures
from ingest.store import connection, segments
from ingest.store.records import Record

Kept = Callable[[Redis], dict[str, list[Record]]]
WaitFor = Callable[..., None]
Start = Callable[..., Any]

SECRET = "Kerry Fisher"


def message(contact: int, number: int) -> bytes:
    text = {"body": f"{SECRET} {number}"}
    return orjson.dumps(
        {"messages": [{"from": f"1555000{contact}", "id": f"{contact}-{number}", "type": "text", "text": text}]}
    )


class Senders:
    """One thread per contact: message after message, each until it is answered 200, the next only then."""

    def __init__(self, ports: list[int], contacts: int = 8) -> None:
        self.acknowledged = [0] * contacts
        self.refused: set[int] = set()
        self._ports = ports
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._send, args=(n,), daemon=True) for n in range(contacts)]

        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()

    def _send(self, contact: int) -> None:
        turn = contact
        while not self._stop.is_set():
            with suppress(OSError), socket.create_connection(("127.0.0.1", self._ports[turn % len(self._ports)])) as s:
                s.settimeout(20)
                stream = s.makefile("rb")
                while not self._stop.is_set():
                    body = message(contact, self.acknowledged[contact] + 1)
                    s.sendall(b"POST /webhook HTTP/1.1\r\nHost: r\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                    status = stream.readline()
                    while stream.readline() not in (b"\r\n", b""):
                        pass
                    if status.startswith(b"HTTP/1.1 200"):
                        self.acknowledged[contact] += 1
                    elif status:
                        self.refused.add(int(status.split()[1]))
                    else:
                        break
            turn += 1
            self._stop.wait(0.01)  # not to hammer a port where nobody listens

    def progressed(self, wait_for: WaitFor, count: int = 5) -> list[int]:
        """Wait until every contact has had this many more acknowledged; what was acknowledged before."""
        before = list(self.acknowledged)
        wait_for(lambda: all(now >= b + count for now, b in zip(self.acknowledged, before, strict=True)))
        return before


@pytest.fixture
def sending() -> Iterator[Callable[..., Senders]]:
    """Start senders to these ports; they end with the test."""
    with ExitStack() as stack:

        def start(*ports: int) -> Senders:
            senders = Senders(list(ports))
            stack.callback(senders.stop)
            return senders

        yield start


def ready(receiver: Any) -> tuple[int, dict[str, Any]]:
    answer = receiver.admin("/readyz")
    return answer.status, json.loads(answer.body)


def drained(receiver: Any, wait_for: WaitFor) -> None:
    """Wait until Redis is used again."""
    wait_for(lambda: ready(receiver) == (200, {"ready": True, "reason": None, "spooled": 0}))


def figures(receiver: Any) -> dict[str, float]:
    lines = receiver.admin("/metrics").body.decode().splitlines()
    return {name: float(value) for name, _, value in (line.partition(" ") for line in lines) if "spool" in name}


def numbers(kept: dict[str, list[Record]]) -> dict[int, list[int]]:
    """Per contact the numbers of its messages in the order they will be handled, each where it comes first."""
    found: dict[int, dict[int, None]] = defaultdict(dict)
    for records in kept.values():
        for record in records:
            contact, _, number = orjson.loads(record.body)["messages"][0]["id"].partition("-")
            found[int(contact)][int(number)] = None
    return {contact: list(order) for contact, order in found.items()}


def check(kept: dict[str, list[Record]], senders: Senders, since: list[int] | None = None) -> None:
    """Every message that was acknowledged (`since` then) is there, and each contact's are in order."""
    found = numbers(kept)
    for contact, count in enumerate(senders.acknowledged):
        assert found[contact] == sorted(found[contact])
        first = since[contact] + 1 if since else 1
        assert set(range(first, count + 1)) <= set(found[contact])


def stop(server: Any) -> Callable[[], object]:
    server.stop()
    return server.start


def freeze(server: Any) -> Callable[[], object]:
    server.freeze()
    return server.thaw


def fill(server: Any) -> Callable[[], object]:
    server.client().config_set("maxmemory", 1)
    return lambda: server.client().config_set("maxmemory", 0)


def demote(server: Any) -> Callable[[], object]:
    server.client().replicaof("127.0.0.1", 1)
    return lambda: server.client().replicaof("NO", "ONE")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (stop, "Redis is away: "),
        (freeze, "Redis is away: "),
        (fill, "Redis refuses: "),
        (demote, "Redis refuses: "),
    ],
)
def test_outage(
    own_valkey: Start,
    start_receiver: Start,
    sending: Callable[..., Senders],
    wait_for: WaitFor,
    kept: Kept,
    tmp_path: Path,
    fault: Callable[[Any], Callable[[], object]],
    reason: str,
) -> None:
    """However Redis fails under load: only 200s, it is said why, and all is in Redis in order when it is back."""
    server = own_valkey(appendonly="yes")
    receiver = start_receiver(server.url, WA_SPOOL_DIR=tmp_path / "spool")
    senders = sending(receiver.port)
    senders.progressed(wait_for)
    end = fault(server)
    wait_for(lambda: ready(receiver)[1]["spooled"] > 50)
    senders.progressed(wait_for)
    status, answer = ready(receiver)
    assert (status, answer["ready"]) == (200, True)
    assert answer["reason"].startswith(reason)
    end()
    drained(receiver, wait_for)
    senders.progressed(wait_for)
    senders.stop()
    assert senders.refused == set()
    check(kept(server.client()), senders)
    log = receiver.log()
    assert log.count("notifications go to the disk spool") == 1
    assert log.count("Redis has all that was spooled") == 1
    assert SECRET not in log


def test_figures(own_valkey: Start, start_receiver: Start, wait_for: WaitFor, tmp_path: Path) -> None:
    """While something is spooled, /metrics counts it; when it is replayed, no more."""
    server = own_valkey()
    receiver = start_receiver(server.url, WA_SPOOL_DIR=tmp_path)
    server.stop()
    assert {receiver.post(message(0, n)).status for n in range(20)} == {200}
    shown = figures(receiver)
    assert shown["wa_spool_notifications"] == 20
    assert 20 * len(message(0, 1)) < shown["wa_spool_bytes"] < 20 * len(message(0, 1)) * 2
    assert 0 < shown["wa_spool_oldest_seconds"] < 60
    assert shown["wa_spool_corrupt_total"] == 0
    server.start()
    drained(receiver, wait_for)
    assert set(figures(receiver).values()) == {0}


def test_redis_that_comes_back_empty(
    own_valkey: Start,
    start_receiver: Start,
    sending: Callable[..., Senders],
    wait_for: WaitFor,
    kept: Kept,
    tmp_path: Path,
) -> None:
    """A Redis without persistence that is restarted under load gets all that was acknowledged while it was away."""
    server = own_valkey()
    receiver = start_receiver(server.url, WA_SPOOL_DIR=tmp_path)
    senders = sending(receiver.port)
    senders.progressed(wait_for)
    server.stop()
    wait_for(lambda: ready(receiver)[1]["spooled"] > 50)
    since = list(senders.acknowledged)
    server.start()
    drained(receiver, wait_for)
    senders.progressed(wait_for)
    senders.stop()
    assert senders.refused == set()
    check(kept(server.client()), senders, since)


def test_redis_that_is_loading(
    own_valkey: Start,
    start_receiver: Start,
    sending: Callable[..., Senders],
    wait_for: WaitFor,
    kept: Kept,
    tmp_path: Path,
) -> None:
    """While Redis reads its data after a restart, notifications go on being spooled."""
    server = own_valkey(appendonly="yes", loading_process_events_interval_bytes=1024)
    receiver = start_receiver(server.url, WA_SPOOL_DIR=tmp_path)
    senders = sending(receiver.port)
    redis = server.client()
    redis.mset({f"key{n}": "x" * 1000 for n in range(5000)})
    redis.bgrewriteaof()
    wait_for(lambda: not redis.info("persistence")["aof_rewrite_in_progress"])
    server.stop()
    server.config["key-load-delay"] = "10000"  # microseconds a key
    starting = threading.Thread(target=server.start)
    starting.start()
    wait_for(lambda: "BusyLoadingError" in str(ready(receiver)[1]["reason"]))
    senders.progressed(wait_for)
    redis.config_set("key-load-delay", 0)
    starting.join()
    drained(receiver, wait_for)
    senders.stop()
    assert senders.refused == set()
    check(kept(server.client()), senders)


def test_replica_that_is_away(
    own_valkey: Start,
    start_receiver: Start,
    sending: Callable[..., Senders],
    low_port: Callable[[], int],
    wait_for: WaitFor,
    kept: Kept,
    tmp_path: Path,
) -> None:
    """WA_DURABILITY=replicas:1 without its replica: spooled, and in the replica when that is back."""
    port = low_port()
    primary, replica = own_valkey(port=port, repl_diskless_sync_delay=0), own_valkey()
    replica.client().replicaof("127.0.0.1", port)
    wait_for(lambda: replica.client().info("replication")["master_link_status"] == "up")
    receiver = start_receiver(primary.url, WA_SPOOL_DIR=tmp_path, WA_DURABILITY="replicas:1")
    senders = sending(receiver.port)
    senders.progressed(wait_for)
    replica.freeze()
    wait_for(lambda: ready(receiver)[1]["spooled"] > 50)
    assert ready(receiver)[1]["reason"] == "WAIT reached 0 of 1"
    replica.thaw()
    drained(receiver, wait_for)
    senders.progressed(wait_for)
    senders.stop()
    assert senders.refused == set()
    check(kept(replica.client()), senders)


def test_killed_while_spooling(
    own_valkey: Start,
    start_receiver: Start,
    sending: Callable[..., Senders],
    wait_for: WaitFor,
    kept: Kept,
    tmp_path: Path,
) -> None:
    """A receiver that is killed while it spools, started again and killed again, loses nothing it acknowledged."""
    server = own_valkey(appendonly="yes")
    receiver = start_receiver(server.url, WA_SPOOL_DIR=tmp_path)
    senders = sending(receiver.port)
    senders.progressed(wait_for)
    server.freeze()
    for _ in range(2):
        wait_for(lambda: spool_figures(tmp_path).notifications > 50)  # a probe takes two seconds
        senders.progressed(wait_for)
        receiver.process.kill()
        receiver.process.wait()
        receiver = start_receiver(server.url, ready=False, WA_SPOOL_DIR=tmp_path, port=receiver.port)
        senders.progressed(wait_for)
    server.thaw()
    drained(receiver, wait_for)
    senders.progressed(wait_for)
    senders.stop()
    check(kept(server.client()), senders)


def test_two_processes_one_killed(
    own_valkey: Start,
    start_receiver: Start,
    sending: Callable[..., Senders],
    wait_for: WaitFor,
    kept: Kept,
    tmp_path: Path,
) -> None:
    """Two processes share port and folder; one is killed while it spools. The other replays for it, in order."""
    server = own_valkey(appendonly="yes")
    one = start_receiver(server.url, "--share-ports", WA_SPOOL_DIR=tmp_path)
    other = start_receiver(server.url, "--share-ports", WA_SPOOL_DIR=tmp_path, port=one.port)
    senders = sending(one.port)
    senders.progressed(wait_for)
    server.stop()
    wait_for(lambda: len({path.name[:20] for path in tmp_path.glob("*.spool")}) == 2)
    senders.progressed(wait_for, 20)
    one.process.kill()
    one.process.wait()
    senders.progressed(wait_for)
    server.start()
    drained(other, wait_for)
    senders.progressed(wait_for)
    senders.stop()
    assert senders.refused == set()
    check(kept(server.client()), senders)
    assert not list(tmp_path.glob("*.spool"))


def test_two_processes_switch_back_under_load(
    own_valkey: Start,
    start_receiver: Start,
    sending: Callable[..., Senders],
    wait_for: WaitFor,
    kept: Kept,
    tmp_path: Path,
) -> None:
    """Under load both processes use Redis again; what a contact sends now to one, now to the other, stays in order."""
    server = own_valkey(appendonly="yes")
    one = start_receiver(server.url, WA_SPOOL_DIR=tmp_path)
    other = start_receiver(server.url, WA_SPOOL_DIR=tmp_path)
    senders = sending(one.port, other.port)
    for _ in range(3):
        senders.progressed(wait_for)
        server.client().config_set("maxmemory", 1)
        wait_for(lambda: spool_figures(tmp_path).notifications > 50)
        server.client().config_set("maxmemory", 0)
        drained(one, wait_for)
        drained(other, wait_for)
    senders.stop()
    assert senders.refused == set()
    check(kept(server.client()), senders)


def test_stopped_while_spooling(
    own_valkey: Start,
    start_receiver: Start,
    sending: Callable[..., Senders],
    wait_for: WaitFor,
    kept: Kept,
    tmp_path: Path,
) -> None:
    """SIGTERM while Redis hangs: what was answered 200 is on the disk, and the next start brings it into Redis."""
    server = own_valkey(appendonly="yes")
    receiver = start_receiver(server.url, WA_SPOOL_DIR=tmp_path)
    senders = sending(receiver.port)
    senders.progressed(wait_for)
    server.freeze()
    wait_for(lambda: spool_figures(tmp_path).notifications > 20)
    receiver.process.send_signal(signal.SIGTERM)
    assert receiver.process.wait(30) == 0
    senders.stop()
    assert senders.refused == set()
    assert spool_figures(tmp_path).notifications > 20
    server.thaw()
    drained(start_receiver(server.url, WA_SPOOL_DIR=tmp_path), wait_for)
    check(kept(server.client()), senders)


def test_times_of_arrival(
    own_valkey: Start, start_receiver: Start, wait_for: WaitFor, kept: Kept, tmp_path: Path
) -> None:
    """What another process left behind is replayed as it came: body, time of arrival, in the queues of today."""
    arrived = [(1_700_000_000_000 + n, message(n, n)) for n in range(300)]
    Spool(tmp_path).append(arrived)
    server = own_valkey()
    receiver = start_receiver(server.url, WA_SPOOL_DIR=tmp_path, WA_PARTITIONS=3)
    drained(receiver, wait_for)
    found = kept(server.client())
    assert set(found) == {"messages.0", "messages.1", "messages.2"}
    assert sorted((r.received_ms, r.body) for records in found.values() for r in records) == arrived
    assert "notifications go to the disk spool" not in receiver.log()


def test_damaged_spool(own_valkey: Start, start_receiver: Start, wait_for: WaitFor, kept: Kept, tmp_path: Path) -> None:
    """A damaged record is set aside and reported, without its content; the others reach Redis."""
    Spool(tmp_path).append([(n, message(0, n)) for n in range(1, 6)])
    (path,) = tmp_path.glob("*.spool")
    data = bytearray(path.read_bytes())
    data[data.index(SECRET.encode() + b" 3")] ^= 1
    path.write_bytes(data)
    server = own_valkey()
    receiver = start_receiver(server.url, WA_SPOOL_DIR=tmp_path)
    drained(receiver, wait_for)
    assert numbers(kept(server.client()))[0] == [1, 2, 4, 5]
    (aside,) = tmp_path.glob("*.corrupt")
    assert aside.read_bytes().endswith(data[data.index(b"0-3") : data.index(segments._MAGIC, data.index(b"0-3"))])
    assert figures(receiver)["wa_spool_corrupt_total"] == 1
    assert receiver.log().count("a part is set aside") == 1
    assert SECRET not in receiver.log()


def test_disk_full(own_valkey: Start, start_receiver: Start, wait_for: WaitFor, kept: Kept, small_disk: Path) -> None:
    """Redis away and the disk full: 503 with Retry-After, not ready; with room or Redis again all is well."""
    server = own_valkey()
    receiver = start_receiver(server.url, WA_SPOOL_DIR=small_disk)
    server.stop()
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(1 << 20))
    sent: list[bytes] = []
    acknowledged: list[bytes] = []
    while len(sent) < 100:
        sent.append(message(0, len(sent) + 1).ljust(100_000))
        answer = receiver.post(sent[-1])
        if answer.status != 200:
            break
        acknowledged.append(sent[-1])
    assert (answer.status, answer.headers["retry-after"]) == (503, "5")
    assert len(acknowledged) > 10
    status, shown = ready(receiver)
    assert (status, shown["ready"], shown["spooled"]) == (503, False, len(acknowledged))
    assert "No space left" in shown["reason"]
    ballast.unlink()
    assert receiver.post(sent[-1]).status == 200
    acknowledged.append(sent[-1])
    while (answer := receiver.post(sent[-1])).status == 200:
        acknowledged.append(sent[-1])
    assert answer.status == 503
    server.start()
    drained(receiver, wait_for)
    assert receiver.post(message(1, 1)).status == 200
    found = [r.body for records in kept(server.client()).values() for r in records]
    assert [body for body in found if b'"id":"0-' in body][: len(acknowledged)] == acknowledged
    receiver.stop()


def test_folder_that_is_a_file(start_receiver: Start, tmp_path: Path) -> None:
    """A spool that cannot be is one line that names the variable, and no second start; also while Redis is away."""
    (tmp_path / "file").write_text("")
    receiver = start_receiver("redis://127.0.0.1:1", ready=False, WA_SPOOL_DIR=tmp_path / "file")
    assert receiver.process.wait(30) == 78
    assert receiver.log() == f"wa-ingest: WA_SPOOL_DIR: cannot write to {tmp_path / 'file'}: Not a directory\n"


def test_without_redis_at_the_start(
    own_valkey: Start, start_receiver: Start, wait_for: WaitFor, kept: Kept, tmp_path: Path
) -> None:
    """A receiver that never saw Redis spools, and brings it there when Redis appears."""
    server = own_valkey(running=False)
    receiver = start_receiver(server.url, WA_SPOOL_DIR=tmp_path / "made" / "here")
    assert [receiver.post(message(0, n)).status for n in range(1, 4)] == [200] * 3
    server.start()
    drained(receiver, wait_for)
    assert numbers(kept(server.client()))[0] == [1, 2, 3]


def test_nobody_waits_twice(own_valkey: Start, start_receiver: Start, tmp_path: Path) -> None:
    """Only who is in the first flush waits for a Redis that hangs; nobody after them, whatever the probes do."""
    server = own_valkey()
    receiver = start_receiver(server.url, WA_SPOOL_DIR=tmp_path)
    assert receiver.post(message(0, 1)).status == 200
    server.freeze()
    assert receiver.post(message(0, 2)).status == 200
    began = time.monotonic()
    sender = receiver.sender()
    slowest = 0.0
    for n in range(3, 5000):
        before = time.monotonic()
        assert sender.post(message(0, n)).status == 200
        slowest = max(slowest, time.monotonic() - before)
        if before - began > 3 * connection.COMMAND_SECONDS:  # at least two probes have come and gone
            break
    assert slowest < connection.COMMAND_SECONDS
