"""`GET /events`: what viewers are told, how many may watch, and that nobody has to wait for them."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPResponse
from typing import Any

import pytest
from redis import Redis

from ingest.admin import event_stream
from ingest.admin.app import Admin
from ingest.commit.committer import make_committer
from ingest.http import listener
from ingest.settings import load
from ingest.state import controls, history, in_work, snapshot
from ingest.state.in_work import Begun
from ingest.store import keys

Start = Callable[..., Any]
BODY = b'{"messages":[{"from":"15550001","id":"m"}]}'


class Viewer:
    """One who watches."""

    def __init__(self, receiver: Any, **headers: str) -> None:
        self.connection = HTTPConnection("127.0.0.1", receiver.admin_port, timeout=30)
        self.connection.request("GET", "/events", headers=headers)
        self.response: HTTPResponse = self.connection.getresponse()

    def next(self) -> tuple[str, Any]:
        """The name and content of the next event. ConnectionError when there is none any more."""
        name = ""
        while line := self.response.readline():
            word, _, text = line.decode().rstrip("\n").partition(": ")
            if word == "event":
                name = text
            elif word == "data":
                return name, json.loads(text)
        raise ConnectionError("it has ended")

    def snapshot(self) -> Any:
        """The next snapshot."""
        while (event := self.next())[0] != "snapshot":
            pass
        return event[1]

    def all(self) -> None:
        """Read on until it ends."""
        while True:
            self.next()

    def close(self) -> None:
        self.response.close()
        self.connection.close()


@pytest.fixture
def watch() -> Iterator[Callable[..., Viewer]]:
    """Begin to watch a receiver; ended with the test."""
    viewers: list[Viewer] = []

    def begin(receiver: Any, **headers: str) -> Viewer:
        viewers.append(Viewer(receiver, **headers))
        return viewers[-1]

    yield begin
    for viewer in viewers:
        viewer.close()


@pytest.fixture(scope="module")
def shared_receiver(valkey: Any, start_module_receiver: Start) -> Any:
    """One receiver for the module."""
    return start_module_receiver(f"unix://{valkey.unix_socket_path}")


@pytest.fixture
def receiver(shared_receiver: Any, redis: Redis) -> Any:
    """That one, its Redis empty."""
    return shared_receiver


def test_snapshots(receiver: Any, redis: Redis, watch: Callable[..., Viewer]) -> None:
    """A viewer is told the last hour, then how it stands now, and again after every change."""
    history.take(redis)
    viewer = watch(receiver)
    assert viewer.response.headers["Content-Type"] == "text/event-stream"
    assert viewer.response.headers["Cache-Control"] == "no-store"
    name, samples = viewer.next()
    assert name == "history"
    assert [set(lanes) for _, _, lanes in samples] == [{"messages", "statuses", "other"}]
    first = viewer.snapshot()
    assert first["lanes"]["messages"]["waiting"] == 0
    assert first["totals"] == []
    redis.hset(keys.COUNTS, "handled.message", 3)
    assert receiver.post(BODY).status == 200
    controls.pause(redis, ["statuses"])
    controls.limit(redis, "other", 5)
    while (now := viewer.snapshot())["lanes"]["messages"]["waiting"] != 1 or now["lanes"]["other"]["limit"] is None:
        pass
    assert now["time"] > first["time"]
    assert now["totals"] == ["events ended so far: 3 = 3 handled", "not ended yet: 1 waiting"]
    assert 0 <= now["lanes"]["statuses"]["paused_seconds"] < 60
    assert now["lanes"]["messages"]["paused_seconds"] is None
    assert now["findings"][0]["about"] == "workers"
    assert now["actions"] is False


def first_figures(receiver: Any, **headers: str) -> str:
    """What stands in the page itself for its script."""
    html = receiver.sender(receiver.admin_port).ask("GET /", **headers).body.decode()
    (text,) = re.findall(r'<script id="first" type="application/json">(.*?)</script>', html, re.DOTALL)
    return text


def test_the_page_brings_its_first_figures(receiver: Any, redis: Redis) -> None:
    """Its HTML has a snapshot, of which nothing ends the element that it is in; the page of another site gets none."""
    redis.zadd(keys.ALIVE, {"</script><b>": (time.time() + 60) * 1000})
    while not (told := json.loads(text := first_figures(receiver)))["workers"]:
        pass
    assert "<" not in text
    assert told["workers"][0]["name"] == "</script><b>"
    assert first_figures(receiver, Sec_Fetch_Site="none") != ""
    assert first_figures(receiver, Sec_Fetch_Site="cross-site") == ""


def test_the_page_waits_for_no_redis(redis: Redis, start_receiver: Start, redis_url: str) -> None:
    """While Redis hangs, the page is there soon, without figures."""
    receiver = start_receiver(redis_url)
    redis.client_pause(1500)
    began = time.monotonic()
    assert first_figures(receiver) == ""
    assert time.monotonic() - began < 1.2
    redis.ping()  # answered when the pause is over


def test_nothing_personal_is_told(receiver: Any, redis: Redis, watch: Callable[..., Viewer]) -> None:
    """Of dead letters there are counts: neither bodies nor details, which may quote them."""
    letter: Any = {"reason": "failed", "kind": "message", "detail": "Kerry", "attempt": 8, "body": b"Fisher"}
    redis.xadd(keys.dead_key("messages"), letter)
    viewer = watch(receiver)
    while not (now := viewer.snapshot())["dead"]["groups"]:
        pass
    (group,) = now["dead"]["groups"]
    assert (group["lane"], group["reason"], group["kind"], group["count"]) == ("messages", "failed", "message", 1)
    assert "Kerry" not in json.dumps(now)
    assert "Fisher" not in json.dumps(now)


def test_workers(redis: Redis) -> None:
    """Who lives, who holds what and since when, and who holds something but is silent."""
    seconds: Any = redis.time()[0]  # type: ignore[index]
    redis.zadd(keys.ALIVE, {"idle": seconds * 1000, "busy": seconds * 1000})
    redis.hset(keys.TAKEN, mapping={"messages.3|b1": "busy#7", "statuses|b2": "gone#8"})
    begun = Begun("messages", "bot.answer", 1, seconds - 100)
    told = in_work.told("busy", in_work.Inside([begun], {"messages": (seconds - 200) * 1000}))
    redis.hset(keys.IN_WORK, mapping=told)
    busy, gone, idle = snapshot.workers(redis)
    assert (busy.name, busy.queue, busy.alive) == ("busy", "messages.3", True)
    assert (busy.handler, busy.seconds) == ("bot.answer", pytest.approx(100, abs=60))
    assert (gone.name, gone.queue, gone.alive, gone.seconds) == ("gone", "statuses", False, None)
    assert (idle.name, idle.queue, idle.alive) == ("idle", None, True)


def test_no_more_viewers_than_fit(
    redis_url: str, start_receiver: Start, watch: Callable[..., Viewer], wait_for: Callable[..., None]
) -> None:
    """One too many is answered 503, all others go on; when one leaves, there is room again."""
    receiver = start_receiver(redis_url)
    viewers = [watch(receiver) for _ in range(event_stream.VIEWERS)]
    assert {viewer.response.status for viewer in viewers} == {200}
    refused = watch(receiver)
    assert (refused.response.status, refused.response.headers["Retry-After"]) == (503, "5")
    assert all(viewer.snapshot()["receiver"] for viewer in viewers)
    assert receiver.post(BODY).status == 200
    viewers[0].close()
    wait_for(lambda: watch(receiver).response.status == 200, what="room for another viewer")


def test_only_its_own_page_may_watch(receiver: Any, watch: Callable[..., Viewer]) -> None:
    """A page of another site cannot take the places of viewers."""
    foreign = {"Sec-Fetch-Site": "cross-site"}
    assert watch(receiver, **foreign).response.status == 403
    assert watch(receiver, **{"Sec-Fetch-Site": "same-origin"}).response.status == 200


def test_nothing_is_read_while_nobody_watches(
    receiver: Any, redis: Redis, watch: Callable[..., Viewer], wait_for: Callable[..., None]
) -> None:
    """Redis is asked each second while somebody watches, and after that not any more."""

    def asked() -> int:
        stats: Any = redis.info("commandstats")
        return int(stats.get("cmdstat_hgetall", {}).get("calls", 0))

    viewer = watch(receiver)
    for _ in range(3):
        viewer.snapshot()
    viewer.close()
    counts: list[int] = []

    def quiet() -> bool:
        # Ten looks in a row, two seconds: a sample of the history may lie between two rows, never in each.
        counts.append(asked())
        time.sleep(0.2)
        return len(counts) >= 10 and len(set(counts[-10:])) == 1

    wait_for(quiet, what="an end of the reading")


def test_a_stop_does_not_wait_for_viewers(redis_url: str, start_receiver: Start, watch: Callable[..., Viewer]) -> None:
    """At SIGTERM viewers are sent away, in order, and the receiver ends as soon as it would without them."""
    receiver = start_receiver(redis_url)
    viewers = [watch(receiver) for _ in range(3)]
    for viewer in viewers:
        viewer.snapshot()
    began = time.monotonic()
    assert receiver.stop() == 0
    assert time.monotonic() - began < 10
    for viewer in viewers:
        with pytest.raises(ConnectionError, match="it has ended"):
            viewer.all()
    assert "Traceback" not in receiver.log()


def test_a_viewer_that_reads_nothing_is_cut(
    redis: Redis, monkeypatch: pytest.MonkeyPatch, low_port: Callable[[], int]
) -> None:
    """Who does not read is cut when his buffers are full, while others go on."""
    monkeypatch.setattr(listener, "HEAD_SECONDS", 0.5)
    monkeypatch.setattr(event_stream, "STEP_SECONDS", 0.01)
    redis.zadd(keys.ALIVE, {f"{n}" * 100_000: 2e12 for n in range(10, 20)})  # long snapshots fill buffers soon
    address = "127.0.0.1", low_port()

    async def main() -> None:
        settings = load(admin_listen=address)
        committer = make_committer(settings)
        pages = Admin(settings, committer)
        serving = listener.Listener(settings, "admin_listen", pages, 100)
        await serving.open(None, False)
        silent, other = socket.create_connection(address), socket.create_connection(address)
        for viewer in (silent, other):
            viewer.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            viewer.setblocking(False)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(60):
            while pages.events._viewers != 1 or cut != ["unread_answers"]:
                await loop.sock_recv(other, 1 << 20)
        silent.close()
        other.close()
        pages.close()
        await serving.close()
        await committer.aclose()

    cut: list[str] = []
    monkeypatch.setattr(listener.metrics, "cut", cut.append)
    asyncio.run(main())


def test_redis_goes_and_comes_back(
    own_valkey: Callable[..., Any], start_receiver: Start, watch: Callable[..., Viewer], tmp_path: Any
) -> None:
    """While Redis is away that is told, for how long, and what the spool has; then all is told again."""
    server = own_valkey()
    receiver = start_receiver(server.url, WA_SPOOL_DIR=tmp_path / "spool")
    viewer = watch(receiver)
    assert viewer.snapshot()["alive"] == 0
    server.stop()
    assert receiver.post(BODY).status == 200
    while (now := viewer.snapshot())["alive"] is not None:
        pass
    while not now["spool"]["figures"]["notifications"]:
        now = viewer.snapshot()
    assert now["findings"][0]["about"] == "redis"
    assert (now["lanes"], now["dead"], now["workers"]) == ({}, None, [])
    server.start()
    while (now := viewer.snapshot())["alive"] is None or not now["lanes"]["messages"]["waiting"]:
        pass
    assert now["spool"]["figures"]["notifications"] == 0


def test_strange_data_ends_the_stream_and_nothing_else(
    redis_url: str, redis: Redis, start_receiver: Start, watch: Callable[..., Viewer]
) -> None:
    """What cannot be read is logged and ends the stream, so that browsers come again; the receiver goes on."""
    receiver = start_receiver(redis_url)
    viewer = watch(receiver)
    viewer.snapshot()
    redis.hset(keys.CONTROLS, "paused.messages", "since the flood")
    with pytest.raises(ConnectionError, match="it has ended"):
        viewer.all()
    assert "the page's figures cannot be read" in receiver.log()
    assert receiver.post(BODY).status == 200
    redis.delete(keys.CONTROLS)
    assert watch(receiver).snapshot()["lanes"]


def test_the_receiver_takes_samples(
    redis_url: str, redis: Redis, start_receiver: Start, wait_for: Callable[..., None]
) -> None:
    """The history grows although nobody watches."""
    receiver = start_receiver(redis_url)
    assert receiver.post(BODY).status == 200

    # The first sample may be older than the notification.
    def samples() -> list[int]:
        return [sample.lanes["messages"].waiting for sample in history.read(redis)]

    wait_for(lambda: 1 in samples(), 60, "a sample with the notification")
    assert samples() in ([1], [0, 1])
