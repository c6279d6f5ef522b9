"""A receiver process from start to stop: signals, ports, a Redis that comes late, several processes on one port."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from ingest import child
from ingest.settings import load
from ingest.store import keys
from workers.cli import ready
from workers.cli.process_specs import receivers

BODY = b'{"errors":[]}'
Start = Callable[..., Any]


class Load:
    """Senders that post numbered bodies, each on one connection, until theirs ends; what is no answer is noted."""

    def __init__(self, receiver: Any, senders: int) -> None:
        self.acknowledged: set[bytes] = set()
        self.refused: list[int] = []
        self.broken: list[BaseException] = []
        self._numbers = itertools.count()
        self._receiver = receiver
        self._threads = [threading.Thread(target=self._run, args=(receiver.sender(),)) for _ in range(senders)]
        for thread in self._threads:
            thread.start()

    def _run(self, sender: Any) -> None:
        try:
            while True:
                body = b'{"n":%d}' % next(self._numbers)
                answer = sender.post(body)
                if answer.status == 200:
                    self.acknowledged.add(body)
                else:
                    self.refused.append(answer.status)
        except ConnectionError:
            return  # ended between two answers
        except BaseException as error:
            self.broken.append(error)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_under_load(
    redis_url: str,
    redis: Redis,
    start_receiver: Start,
    kept: Callable[..., Any],
    wait_for: Callable[..., None],
    number: signal.Signals,
) -> None:
    """Told to stop under load, it answers what it has read, keeps all that it answered 200, and ends in order."""
    receiver = start_receiver(redis_url)
    load = Load(receiver, 8)
    wait_for(lambda: len(load.acknowledged) > 500)
    receiver.process.send_signal(number)
    began = time.monotonic()
    assert receiver.process.wait(60) == 0
    assert time.monotonic() - began < 5
    load.join()
    assert load.broken == []
    assert load.refused == []
    bodies = {record.body for records in kept(redis).values() for record in records}
    assert load.acknowledged <= bodies
    assert '"receiver stopped"' in receiver.log()
    assert "Traceback" not in receiver.log()


def test_stop_waits_for_what_is_read(
    own_valkey: Start, start_receiver: Start, kept: Callable[..., Any], wait_for: Callable[..., None]
) -> None:
    """A notification whose commit is under way when SIGTERM comes is committed and answered before the end."""
    server = own_valkey()
    receiver = start_receiver(server.url)
    receiver.post(b"first")
    server.freeze()
    sender = receiver.sender()
    sender.head("POST /webhook", Content_Length=len(BODY), Expect="100-continue")
    assert sender.answer().status == 100
    sender.send(BODY)
    receiver.process.terminate()
    wait_for(lambda: refuses(receiver.port), what="the end of listening")
    assert receiver.process.poll() is None
    server.thaw()
    assert sender.answer().status == 200
    assert sender.ended()
    assert receiver.process.wait(60) == 0
    assert BODY in [record.body for record in kept(server.client())["other"]]


def test_stop_waits_for_what_is_being_sent(
    redis_url: str, redis: Redis, start_receiver: Start, kept: Callable[..., Any], wait_for: Callable[..., None]
) -> None:
    """A body that is on its way when SIGTERM comes is read, kept and answered, and its connection ends."""
    receiver = start_receiver(redis_url)
    waits, sender = receiver.sender(), receiver.sender()
    assert waits.post(b"1").status == 200
    sender.head("POST /webhook", Content_Length=len(BODY), Expect="100-continue")
    assert sender.answer().status == 100
    sender.send(BODY[:5])
    receiver.process.terminate()
    wait_for(lambda: refuses(receiver.port), what="the end of listening")
    last = waits.post(b"2")  # a connection that is still open takes one more
    sender.send(BODY[5:])
    for answer in (last, sender.answer()):
        assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert sender.ended()
    assert receiver.process.wait(60) == 0
    assert [record.body for record in kept(redis)["other"]] == [b"1", b"2", BODY]


def test_stop_with_idle_connections(redis_url: str, start_receiver: Start) -> None:
    """Connections that wait for their next request, or never sent one, hold nothing up; they are ended cleanly."""
    receiver = start_receiver(redis_url)
    used, never = receiver.sender(), receiver.sender()
    assert used.post(BODY).status == 200
    began = time.monotonic()
    assert receiver.stop() == 0
    assert time.monotonic() - began < 5
    assert used.ended()
    assert never.ended()


def test_an_idle_connection_ends_after_the_time_that_is_set(redis_url: str, start_receiver: Start) -> None:
    """A connection that waits for its next request for WA_KEEPALIVE is ended."""
    receiver = start_receiver(redis_url, WA_KEEPALIVE="200ms")
    sender = receiver.sender()
    assert sender.post(BODY).status == 200
    assert sender.ended()


def test_ipv6_addresses_have_brackets(redis_url: str, start_receiver: Start, low_port: Callable[[], int]) -> None:
    """An IPv6 address has brackets where a port follows it: in log lines and in the line about a port in use."""
    port = low_port()
    address = f"[::1]:{port}"
    receiver = start_receiver(redis_url, WA_LISTEN=address)
    assert f'"listen": "{address}"' in receiver.log()
    other = start_receiver(redis_url, ready=False, WA_LISTEN=address)
    assert other.process.wait(60) == child.GIVE_UP
    assert other.log() == (
        f"wa-ingest: WA_LISTEN: cannot listen on {address}: Address already in use; "
        f"take another port, as WA_LISTEN=[::1]:{port + 1} does\n"
    )


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_the_loop_is_the_one_that_is_set(loop: str, redis_url: str, start_receiver: Start) -> None:
    """A receiver runs on uvloop, or with WA_LOOP=asyncio on Python's own loop, and then never loads uvloop."""
    receiver = start_receiver(redis_url, WA_LOOP=loop)
    assert receiver.post(BODY).status == 200
    loaded = "uvloop" in Path(f"/proc/{receiver.process.pid}/maps").read_text()
    assert loaded == (loop == "uvloop")
    assert receiver.stop() == 0


def test_stop_with_half_a_body(redis_url: str, redis: Redis, start_receiver: Start) -> None:
    """A body that never becomes complete holds the end up for the body time-out at most, and is not kept."""
    receiver = start_receiver(redis_url, WA_BODY_TIMEOUT="1s")
    sender = receiver.sender()
    sender.head("POST /webhook", Content_Length=5, Expect="100-continue")
    assert sender.answer().status == 100
    began = time.monotonic()
    assert receiver.stop() == 0
    assert time.monotonic() - began < 15
    assert not redis.exists(keys.LEDGER)


def refuses(port: int) -> bool:
    """Nobody listens there."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return True
    return False


@pytest.mark.parametrize("setting", ["LISTEN", "ADMIN_LISTEN"])
def test_port_in_use(redis_url: str, start_receiver: Start, low_port: Callable[[], int], setting: str) -> None:
    """A port that somebody else has is one line that names the setting, the port and another one, and no use in trying
    again.
    """
    port = low_port()
    with socket.create_server(("127.0.0.1", port)):
        receiver = start_receiver(redis_url, ready=False, **{f"WA_{setting}": f"127.0.0.1:{port}"})
        assert receiver.process.wait(30) == child.GIVE_UP
    lines = [line for line in receiver.log().splitlines() if not line.startswith("{")]
    assert lines == [
        f"wa-ingest: WA_{setting}: cannot listen on 127.0.0.1:{port}: Address already in use; "
        f"take another port, as WA_{setting}=127.0.0.1:{port + 1} does"
    ]


def test_second_receiver_by_mistake(redis_url: str, start_receiver: Start) -> None:
    """A second receiver cannot take half of the first one's requests without anybody noticing."""
    first = start_receiver(redis_url)
    second = start_receiver(redis_url, "--share-ports", ready=False, port=first.port)
    assert second.process.wait(30) == child.GIVE_UP
    assert first.post(BODY).status == 200


@pytest.mark.parametrize(
    ("address", "reason"),
    [("192.0.2.1:0", "Cannot assign requested address"), ("no such host:1", ""), ("[::1:2]:3", "")],
)
def test_address_that_cannot_be(redis_url: str, start_receiver: Start, address: str, reason: str) -> None:
    """An address that is not this machine's, or none at all, is one line that names the setting."""
    receiver = start_receiver(redis_url, ready=False, WA_LISTEN=address)
    assert receiver.process.wait(30) == child.GIVE_UP
    assert receiver.log().startswith("wa-ingest: WA_LISTEN: cannot listen on ")
    assert receiver.log().endswith(f"{reason}\n")
    assert "Unknown error" not in receiver.log()
    assert receiver.log().count("\n") == 1


def test_port_can_be_taken_again_at_once(redis_url: str, start_receiver: Start) -> None:
    """After a stop with open connections the next receiver gets the same ports without waiting."""
    first = start_receiver(redis_url)
    first.sender().post(BODY)
    assert first.stop() == 0
    second = start_receiver(redis_url, port=first.port, admin_port=first.admin_port)
    assert second.post(BODY).status == 200


def test_ipv6(redis_url: str, start_receiver: Start, low_port: Callable[[], int]) -> None:
    """An IPv6 address in brackets is listened on."""
    port = low_port()
    try:
        socket.create_server(("::1", port), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    start_receiver(redis_url, WA_LISTEN=f"[::1]:{port}")
    with socket.create_connection(("::1", port)) as client:
        client.sendall(b"POST /webhook HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
        assert client.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_fsync_without_append_only_file(own_valkey: Start, start_receiver: Start) -> None:
    """WA_DURABILITY=fsync on a server without an append-only file is one line that says what to set where."""
    receiver = start_receiver(own_valkey(appendonly="no").url, ready=False, WA_DURABILITY="fsync")
    assert receiver.process.wait(30) == child.GIVE_UP
    assert re.fullmatch(
        r"wa-ingest: WA_DURABILITY=fsync needs the append-only file, .*appendonly yes.*\n", receiver.log()
    )


def test_no_redis_url(start_receiver: Start) -> None:
    """A receiver that was told of no Redis, or of one by a URL that is none, says so in one line without the URL."""
    missing = start_receiver("", ready=False)
    wrong = start_receiver("http://user:hunter2@h/", ready=False)
    for receiver in (missing, wrong):
        assert receiver.process.wait(30) == child.GIVE_UP
        assert re.fullmatch(r"wa-ingest: WA_REDIS_URL[: ].*\n", receiver.log())
    assert "hunter2" not in wrong.log()


def test_redis_that_comes_later(own_valkey: Start, start_receiver: Start) -> None:
    """Without Redis it starts and answers 503; when Redis comes it answers 200, nobody has to do anything."""
    server = own_valkey(running=False)
    receiver = start_receiver(server.url)
    assert receiver.post(BODY).status == 503
    assert receiver.admin("/readyz").status == 503
    assert "Redis is away" in receiver.log()
    server.start()
    assert receiver.post(BODY).status == 200
    assert receiver.admin("/readyz").status == 200


def test_parent_that_is_gone(redis_url: str, start_receiver: Start) -> None:
    """When the other end of its standard input closes, it stops in order: nobody is left to look after it."""
    receiver = start_receiver(redis_url)
    assert receiver.post(BODY).status == 200
    receiver.process.stdin.close()
    assert receiver.process.wait(30) == 0
    assert '"receiver stopped"' in receiver.log()


def test_processes_share_their_ports(
    redis_url: str, redis: Redis, start_receiver: Start, low_port: Callable[[], int], kept: Callable[..., Any]
) -> None:
    """Processes of one receiver share both ports: each gets some of the connections, and all that they take is kept."""
    ports = {"port": low_port(), "admin_port": low_port()}
    first, second = (start_receiver(redis_url, "--share-ports", WA_BATCH=1, **ports) for _ in range(2))
    sent = [b'{"n":%d}' % n for n in range(100)]
    assert {first.post(body).status for body in sent} == {200}
    assert {first.admin("/healthz").status for _ in range(20)} == {200}
    assert sorted(record.body for record in kept(redis)["other"]) == sorted(sent)
    # WA_BATCH=1: a batch each, and each process makes them in its own name. 100 connections reach both, all but surely.
    assert len({key.split(b"batch:")[1].split(b"-")[0] for key in redis.keys("*:batch:*")}) == 2
    assert second.stop() == 0
    assert {first.post(BODY).status for _ in range(10)} == {200}


def test_kill_loses_nothing_that_was_answered(
    redis_url: str,
    redis: Redis,
    start_receiver: Start,
    kept: Callable[..., Any],
    wait_for: Callable[..., None],
) -> None:
    """After SIGKILL under load, all that was answered 200 is in Redis."""
    receiver = start_receiver(redis_url)
    load = Load(receiver, 4)
    wait_for(lambda: len(load.acknowledged) > 200)
    os.kill(receiver.process.pid, signal.SIGKILL)
    load.join()
    assert load.broken == []
    assert load.refused == []
    assert load.acknowledged <= {record.body for records in kept(redis).values() for record in records}


def test_kind() -> None:
    """As children, several processes share their ports, one needs not."""
    assert receivers(load(), 1).arguments == ("ingest.server",)
    assert receivers(load(), 2).arguments == ("ingest.server", "--share-ports")
    assert (receivers(load(), 3).processes, receivers(load(), 3).ends) == (3, False)


def test_ready_is_one_of_its_own(redis_url: str, start_receiver: Start) -> None:
    """Children are ready when one of them answers; somebody else on the port, a receiver or not, does not count."""
    receiver = start_receiver(redis_url)
    _, kind, *where = receivers(load(admin_listen=f"0.0.0.0:{receiver.admin_port}"), 1).ready
    pid = str(receiver.process.pid)

    def answers(*pids: str) -> bool:
        return ready.KINDS[kind](*where, *pids)

    assert not answers()
    assert answers("1", pid)
    assert receiver.stop() == 0
    assert not answers(pid)
    with socket.create_server(("127.0.0.1", receiver.admin_port)):  # takes connections and says nothing
        assert not answers(pid)


@pytest.mark.parametrize("secret", [None, "hunter2"])
def test_it_says_who_may_post(start_receiver: Start, redis_url: str, secret: str | None) -> None:
    """The start names the guards that are set, and warns in one line, with the remedy, when none is."""
    receiver = start_receiver(redis_url, **({"WA_APP_SECRET": secret} if secret else {}))
    lines = [json.loads(line) for line in receiver.log().splitlines()]
    (started,) = [line for line in lines if line["event"] == "receiver started"]
    warned = [line for line in lines if line["event"] == "anybody who reaches the port may post"]
    assert started["guards"] == (["a signature"] if secret else [])
    told = [(line["level"], "WA_APP_SECRET" in line["remedy"]) for line in warned]
    assert told == ([] if secret else [("warning", True)])
