"""The admin listener: health, readiness and figures, with and without Redis."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis

from ingest.state import controls, counters
from ingest.store import keys

BODY = b'{"errors":[{"title":"Kerry Fisher"}]}'
LANE_GAUGES = {"waiting", "batches", "oldest_seconds", "working", "retrying", "dead"}


@pytest.fixture(scope="module")
def shared_receiver(valkey: Any, start_module_receiver: Callable[..., Any]) -> Any:
    """One receiver for the module."""
    return start_module_receiver(f"unix://{valkey.unix_socket_path}", WA_APP_SECRET="hunter2")


@pytest.fixture
def receiver(shared_receiver: Any, redis: Redis) -> Any:
    """That one, its Redis empty."""
    return shared_receiver


def figures(receiver: Any) -> dict[tuple[str, ...], float]:
    """`/metrics` as name and label values → value."""
    answer = receiver.admin("/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = list(text_string_to_metric_families(answer.body.decode()))
    assert len({family.name for family in families}) == len(families)
    return {(sample.name, *sample.labels.values()): sample.value for family in families for sample in family.samples}


def ready(receiver: Any) -> tuple[int, dict[str, Any]]:
    answer = receiver.admin("/readyz")
    assert answer.headers["content-type"] == "application/json"
    return answer.status, json.loads(answer.body)


def test_healthz(receiver: Any) -> None:
    """A process that runs is alive."""
    answer = receiver.admin("/healthz")
    alive = json.loads(answer.body)
    assert (answer.status, alive) == (200, {"alive": True, "pid": receiver.process.pid})


def test_readyz(receiver: Any, redis: Redis) -> None:
    """A receiver that could keep a notification is ready; asking leaves nothing in Redis (but the format number)."""
    assert ready(receiver) == (200, {"ready": True, "reason": None})
    left = {key.decode() for key in redis.scan_iter()} - {keys.FORMAT, keys.HISTORY, keys.HISTORY_TURN}
    assert left == set()


def test_readyz_when_redis_is_full(receiver: Any, redis: Redis) -> None:
    """With a full Redis it is not ready, says why, and is alive."""
    redis.config_set("maxmemory", 1)
    status, answer = ready(receiver)
    assert (status, answer["ready"]) == (503, False)
    assert answer["reason"].startswith("Redis refuses: ")
    assert receiver.admin("/healthz").status == 200
    redis.config_set("maxmemory", 0)
    assert ready(receiver)[0] == 200


def test_without_redis(own_valkey: Callable[..., Any], start_receiver: Callable[..., Any]) -> None:
    """While Redis is away it is alive, not ready, says why, and the figures say so too; after that all is as before."""
    server = own_valkey()
    receiver = start_receiver(server.url)
    assert figures(receiver)["wa_redis_up",] == 1
    server.stop()
    assert ready(receiver) == (503, {"ready": False, "reason": "Redis is away: ConnectionError"})
    assert receiver.admin("/healthz").status == 200
    receiver.post(BODY)
    found = figures(receiver)
    assert found["wa_redis_up",] == 0
    assert found["wa_refused_total", "not_durable", "503"] == 1
    assert found["wa_commit_failures_total",] == 1
    assert not any(name.startswith("wa_lane_") for name, *_ in found)
    server.start()
    assert ready(receiver)[0] == 200
    assert figures(receiver)["wa_redis_up",] == 1


def test_metrics_of_redis(receiver: Any, redis: Redis) -> None:
    """The backlog of each lane, the workers and what became of events are there, read at that moment."""
    redis.hset(keys.COUNTS, mapping={"handled.message": 3, "dead.status": 1})
    found = figures(receiver)
    for lane in ("messages", "statuses", "other"):
        assert {found[f"wa_lane_{name}", lane] for name in LANE_GAUGES} == {0}
    assert found["wa_workers",] == 0
    assert found["wa_events_total", "message", "handled"] == 3
    assert found["wa_events_total", "status", "dead"] == 1


def test_metrics_count_requests(redis_url: str, start_receiver: Callable[..., Any]) -> None:
    """Accepted notifications by lane, their bytes, refusals by status, and the times of answers and commits."""
    receiver = start_receiver(redis_url)
    sender = receiver.sender()
    bodies = [b'{"messages":[{"from":"1"}]}', b'{"statuses":[{}]}', b'{"statuses":[{}]}', b"{}"]
    for body in bodies:
        assert sender.post(body).status == 200
    assert sender.ask("POST /other", b"{}").status == 404
    assert sender.ask("GET /webhook").status == 403
    found = figures(receiver)
    assert [found["wa_accepted_total", lane] for lane in ("messages", "statuses", "other")] == [1, 2, 1]
    assert found["wa_accepted_bytes_total",] == sum(map(len, bodies))
    assert (found["wa_refused_total", "path", "404"], found["wa_refused_total", "handshake", "403"]) == (1, 1)
    assert found["wa_answer_seconds_count",] == 6
    assert (found["wa_commit_seconds_count",], found["wa_commit_notifications_sum",]) == (4, 4)
    assert found["wa_commit_failures_total",] == 0
    assert found["wa_lane_waiting", "statuses"] == 2
    assert found["wa_lane_batches", "statuses"] == 1


def test_metrics_hold_nothing_personal(receiver: Any) -> None:
    """Labels are lanes, statuses, kinds and outcomes; nothing of a request or a secret is in the figures."""
    sender = receiver.sender()
    for start in ("POST /Kerry", "POST /webhook?Kerry", "DELETE /webhook"):
        sender.ask(start, BODY, User_Agent="Kerry", X_Hub_Signature_256="Kerry")
    text = receiver.admin("/metrics").body
    assert b"Kerry" not in text
    assert b"hunter2" not in text
    known = {"messages", "statuses", "other", "401", "404", "405", "403", "+Inf"}
    known |= {"token", "host", "signature", "path", "method", "handshake", "public", "admin", *counters.REASONS}
    labels = {label for _, *labels in figures(receiver) for label in labels if not is_number(label)}
    assert labels <= known


def is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()


@pytest.mark.parametrize(
    ("start", "status"),
    [
        ("GET /", 200),
        ("GET /page.js?x", 200),
        ("GET /__init__.py", 404),
        ("GET /uPlot.LICENSE.txt", 404),
        ("POST /", 405),
        ("GET /webhook", 404),
        ("GET /healthz/", 404),
        ("POST /readyz", 405),
        ("DELETE /metrics", 405),
        ("HEAD /healthz", 200),
        ("HEAD /readyz", 200),
        ("HEAD /metrics", 200),
        ("HEAD /", 200),
    ],
)
def test_other_requests(receiver: Any, start: str, status: int) -> None:
    """Other paths are 404, other methods 405 with those that are allowed; HEAD works as load balancers expect."""
    sender = receiver.sender(receiver.admin_port)
    answer = sender.ask(start)
    assert answer.status == status
    assert (answer.headers.get("allow") == "GET, HEAD") == (status == 405)
    assert sender.ask("GET /healthz").status == 200  # the answer to HEAD had no body in the way


def test_processes_add_up(
    redis_url: str, start_receiver: Callable[..., Any], low_port: Callable[[], int], tmp_path: Path
) -> None:
    """With several receiver processes any of them answers for all, also for one that has ended."""
    ports = {"port": low_port(), "admin_port": low_port(), "PROMETHEUS_MULTIPROC_DIR": tmp_path}
    first, second = (start_receiver(redis_url, "--share-ports", **ports) for _ in range(2))
    assert {first.post(b"{}").status for _ in range(40)} == {200}
    assert {first.post(b"{}").status for _ in range(10)} == {200}
    expected = {("wa_accepted_total", "other"): 50, ("wa_accepted_bytes_total",): 100, ("wa_answer_seconds_count",): 50}
    for _ in range(10):
        assert_holds(figures(first), expected)
    assert second.stop() == 0
    assert_holds(figures(first), expected)
    assert figures(first)["wa_redis_up",] == 1
    assert len(list(tmp_path.glob("counter_*.db"))) == 2


def assert_holds(found: dict[tuple[str, ...], float], expected: dict[tuple[str, ...], int]) -> None:
    assert {key: found[key] for key in expected} == expected


def test_metrics_with_strange_counts(receiver: Any, redis: Redis) -> None:
    """The figures survive what an older or newer version left in Redis: an outcome without a kind."""
    redis.hset(keys.COUNTS, "unreadable", 1)
    assert figures(receiver)["wa_events_total", "", "unreadable"] == 1


def test_metrics_of_what_workers_count(receiver: Any, redis: Redis) -> None:
    """Histograms of handlers, lists and waits, dead letters by reason, batches reaped; all from the start."""
    found = figures(receiver)
    assert found["wa_handled_after_seconds_count", "other"] == 0
    assert found["wa_dead_letters_total", "statuses", "poison"] == found["wa_batches_reaped_total", "other"] == 0
    handler = {"0.005": 2, "inf": 1, "9.87": 5, "sum": 31_500_000, "failed": 1, "seen": 1}
    fields = {f"handler|m.f|{part}": count for part, count in handler.items()}
    fields |= {"list|m.f|1.0": 2, "list|m.f|500.0": 3, "list|m.f|sum": 1202}
    fields |= {"wait|messages|1.0": 4, "wait|messages|sum": 2_000, "dead|other|new_reason": 3}
    redis.hset(keys.COUNTERS, mapping=fields | {"reaped|messages|batches": 7, "unknown": 1, "new|x|y": 1})
    found = figures(receiver)
    buckets = [found["wa_handler_seconds_bucket", "m.f", bound] for bound in ("0.0025", "0.005", "30.0", "+Inf")]
    assert buckets == [0, 2, 2, 3]
    assert found["wa_handler_seconds_sum", "m.f"] == 31.5
    assert found["wa_handler_failures_total", "m.f"] == 1
    assert [found["wa_handler_list_events_bucket", "m.f", bound] for bound in ("1.0", "200.0", "500.0")] == [2, 2, 5]
    assert found["wa_handler_list_events_sum", "m.f"] == 1202
    assert found["wa_handled_after_seconds_bucket", "messages", "0.5"] == 0
    assert found["wa_handled_after_seconds_bucket", "messages", "1.0"] == 4
    assert found["wa_dead_letters_total", "other", "new_reason"] == 3
    assert found["wa_batches_reaped_total", "messages"] == 7


def test_metrics_of_destinations_and_held_up_handlers(receiver: Any, redis: Redis) -> None:
    """Answers of each destination, all sorts from its first; handlers while they are down, paused or limited."""
    assert not [key for key in figures(receiver) if key[0].startswith(("wa_destination", "wa_handler_"))]
    redis.hset(keys.COUNTERS, "destination|crm|429", 3)
    controls.pause(redis, [controls.handler("crm")])
    controls.limit(redis, controls.handler("m.f"), 0.5)
    redis.hset(keys.BREAKDOWNS, "m.g", json.dumps({"error": "x", "next_try": time.time() + 60}))
    found = figures(receiver)
    answers = {key[1]: count for key, count in found.items() if key[0] == "wa_destination_answers_total"}
    assert answers == dict.fromkeys(("2xx", "3xx", "4xx", "5xx", "slow", "away"), 0) | {"429": 3}
    held = {key: value for key, value in found.items() if key[0].startswith("wa_handler_")}
    assert held == {("wa_handler_down", "m.g"): 1, ("wa_handler_paused", "crm"): 1, ("wa_handler_limit", "m.f"): 0.5}


def test_metrics_of_redis_memory(receiver: Any, redis: Redis) -> None:
    """What Redis uses is always there, what it has left when it has a limit."""
    found = figures(receiver)
    assert found["wa_redis_memory_used_bytes",] > 0
    assert ("wa_redis_memory_left_bytes",) not in found
    redis.config_set("maxmemory", 1 << 30)
    found = figures(receiver)
    assert 0 < found["wa_redis_memory_left_bytes",] < 1 << 30
    redis.config_set("maxmemory", 1)
    assert figures(receiver)["wa_redis_memory_left_bytes",] == 0


def test_metrics_of_steering(receiver: Any, redis: Redis) -> None:
    """A lane that is paused says so; a cap is there while there is one."""
    assert not any(name == "wa_lane_limit" for name, *_ in figures(receiver))
    controls.pause(redis, ["statuses"])
    controls.limit(redis, "other", 2.5)
    found = figures(receiver)
    assert [found["wa_lane_paused", lane] for lane in ("messages", "statuses", "other")] == [0, 1, 0]
    assert found["wa_lane_limit", "other"] == 2.5


def test_metrics_without_some_rights(
    own_valkey: Callable[..., Any], start_receiver: Callable[..., Any], low_port: Callable[[], int]
) -> None:
    """What a Redis user may not read is left out; the rest is there."""
    port = low_port()
    admin = own_valkey(port=port).client()
    admin.acl_setuser("edge", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-info"])
    found = figures(start_receiver(f"redis://edge:x@127.0.0.1:{port}/0"))
    assert found["wa_redis_up",] == 1
    assert found["wa_dead_letters_total", "other", "poison"] == 0
    assert not any(name.startswith("wa_redis_memory") for name, *_ in found)
