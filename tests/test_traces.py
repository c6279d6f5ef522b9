"""Traces: a notification through a real receiver and a real worker, as an OTLP collector sees it."""

from __future__ import annotations

import gzip
import itertools
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import orjson
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from redis import Redis

from ingest.settings import SettingsError
from ingest.state import dead_letters as letters
from ingest.store import keys
from ingest.store.records import digest
from ingest.telemetry import tracing

ROOT = Path(__file__).parents[1]

BODY = orjson.dumps(
    {
        "contacts": [{"profile": {"name": "Kerry"}, "wa_id": "16315551234"}],
        "messages": [{"from": "16315551234", "id": "ABGGFlA5FpafAgo6tHcN", "type": "text", "text": {"body": "Hello"}}],
    }
)
PERSONAL = ("Kerry", "16315551234", "ABGGFlA5FpafAgo6tHcN", "Hello", "1234")

BOT = """
from opentelemetry import trace
from workers import Handlers, RetryIn
handlers = Handlers()
ours = trace.get_tracer("bot")

@handlers.message()
def on_message(message):
    with ours.start_as_current_span("lookup"):
        if message.attempt == 1:
            raise RetryIn(0.1)
"""

SENDER = "4bf92f3577b34da6a3ce929d0e0e4736"


class Span(NamedTuple):
    """What a collector gets of a span."""

    name: str
    kind: int
    trace: str
    id: str
    parent: str
    links: list[tuple[str, str]]
    attributes: dict[str, object]
    service: str
    milliseconds: float


class Collector:
    """An OTLP/HTTP collector that keeps what it gets."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.text = b""
        collector = self

        class Answers(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                assert self.path == "/v1/traces"
                collector._read(body)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self._thread = threading.Thread(target=self.server.serve_forever, args=[0.05])
        self._thread.start()

    def _read(self, body: bytes) -> None:
        self.text += body
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            (service,) = (a.value.string_value for a in resource.resource.attributes if a.key == "service.name")
            for span in itertools.chain.from_iterable(scope.spans for scope in resource.scope_spans):
                attributes = {a.key: a.value.string_value or a.value.int_value for a in span.attributes}
                links = [(link.trace_id.hex(), link.span_id.hex()) for link in span.links]
                took = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6
                ids = (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex())
                self.spans.append(Span(span.name, span.kind, *ids, links, attributes, service, took))

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector on loopback."""
    running = Collector()
    yield running
    running.close()


@pytest.fixture
def pipeline(
    run_module: Any, free_port: Any, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait_for: Any
) -> Callable[..., tuple[int, list[subprocess.Popen[str]]]]:
    """Start a receiver and a worker with this environment: the receiver's port, and both processes."""

    def start(**env: str) -> tuple[int, list[subprocess.Popen[str]]]:
        (tmp_path / "bot.py").write_text(BOT)
        port = free_port()
        settings = {"WA_HANDLERS": "bot:handlers", "WA_LISTEN": f"127.0.0.1:{port}", "OTEL_BSP_SCHEDULE_DELAY": "100"}
        for name, value in (settings | {"WA_ADMIN_LISTEN": f"127.0.0.1:{free_port()}"} | env).items():
            monkeypatch.setenv(name, value)
        processes = []
        for module in ("ingest.server", "workers.engine.worker"):
            with (tmp_path / module).open("w") as log:
                processes.append(run_module(module, cwd=tmp_path, stdout=log))
        wait_for(lambda: '"receiver started"' in (tmp_path / "ingest.server").read_text())
        return port, processes

    return start


def post(port: int, body: bytes, path: str = "/webhook") -> int:
    request = Request(f"http://127.0.0.1:{port}{path}", body, {"traceparent": f"00-{SENDER}-00f067aa0ba902b7-01"})
    try:
        with urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except HTTPError as error:
        with error:
            return error.code


def test_a_notification_is_one_trace(pipeline: Any, collector: Collector, redis: Redis, wait_for: Any) -> None:
    """Receiver's span, a span for each try, linked to it, and those of the handler: one trace, nothing personal."""
    port, processes = pipeline(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
    assert post(port, BODY) == 200
    assert post(port, BODY, "/1234/4567") == 404
    wait_for(lambda: len(collector.named("process messages")) == 2 and collector.named("POST"))
    (received,) = collector.named("POST /webhook")
    assert (received.kind, received.parent, received.service) == (2, "", "wa-ingest-receiver")  # SERVER
    assert received.links == [(SENDER, "00f067aa0ba902b7")]
    assert received.attributes == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "http.route": "/webhook",
        "url.scheme": "http",
        "http.request.body.size": len(BODY),
        "wa.lane": "messages",
    }
    assert 0 < received.milliseconds < 10_000
    assert received.trace[16:] == received.id == digest(BODY).hex()

    tries = sorted(collector.named("process messages"), key=lambda span: str(span.attributes["wa.attempt"]))
    for number, span in enumerate(tries, 1):
        assert (span.kind, span.service) == (5, "wa-ingest-worker")  # CONSUMER
        assert (span.trace, span.parent) == (received.trace, received.id)
        assert span.links == [(received.trace, received.id)]
        assert (span.attributes["wa.attempt"], span.attributes["messaging.message.id"]) == (number, received.trace)
    assert [span.attributes["wa.outcome"] for span in tries] == ["failed", "handled"]
    assert tries[0].attributes["error.type"] == "RetryIn"
    lookups = collector.named("lookup")
    assert {(span.trace, span.parent) for span in lookups} == {(span.trace, span.id) for span in tries}

    (strange,) = collector.named("POST")
    assert (strange.attributes["http.response.status_code"], strange.attributes["wa.refused"]) == (404, "path")
    for process in processes:
        process.terminate()
        assert process.wait(30) == 0
    assert not [word for word in PERSONAL if word.encode() in collector.text]


def test_receiver_and_worker_sample_the_same(pipeline: Any, collector: Collector, redis: Redis, wait_for: Any) -> None:
    """Of a part of all notifications every span is delivered, also those that handlers make; of the others none."""
    port, processes = pipeline(
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
        OTEL_TRACES_SAMPLER="parentbased_traceidratio",
        OTEL_TRACES_SAMPLER_ARG="0.4",
    )
    for n in range(40):
        assert post(port, BODY.replace(b"tHcN", str(n).encode())) == 200
    wait_for(lambda: not redis.exists(keys.LEDGER))
    for process in processes:
        process.terminate()
        assert process.wait(30) == 0
    received = sorted(span.trace for span in collector.named("POST /webhook"))
    assert 0 < len(received) < 40
    for name in ("process messages", "lookup"):
        assert sorted(span.trace for span in collector.named(name)) == sorted(received * 2), name


def test_a_collector_that_is_away_costs_one_line(
    pipeline: Any, free_port: Any, redis: Redis, tmp_path: Path, wait_for: Any
) -> None:
    """Everything is taken in and handled, stops in time, and one line in each log says that traces are lost."""
    nowhere = f"http://127.0.0.1:{free_port()}"
    port, processes = pipeline(OTEL_EXPORTER_OTLP_ENDPOINT=nowhere, OTEL_EXPORTER_OTLP_TIMEOUT="1")
    for n in range(100):
        assert post(port, BODY.replace(b"tHcN", str(n).encode())) == 200
    wait_for(lambda: not redis.exists(keys.LEDGER))
    logs = [tmp_path / module for module in ("ingest.server", "workers.engine.worker")]
    wait_for(lambda: all("traces are lost" in log.read_text() for log in logs))
    for process in processes:
        process.terminate()
    for process in processes:
        assert process.wait(20) == 0
    for log in logs:
        lines = list(map(orjson.loads, log.read_text().splitlines()))
        (lost,) = (line for line in lines if "traces" in line["event"])
        assert lost["event"] == "traces are lost, see OTEL_EXPORTER_OTLP_ENDPOINT"
        assert not [line for line in lines if line["logger"].startswith(("opentelemetry", "urllib3"))]
        assert any(line["event"].endswith(" stopped") for line in lines)


PROGRAM = "import sys, ingest.server, workers.engine.worker; "
PROGRAM += "from ingest.telemetry import tracing; print(tracing.start('x')); "
PROGRAM += "print({'opentelemetry.sdk.trace', 'opentelemetry.exporter'} & set(sys.modules))"


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
        {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
    ],
)
def test_off_is_not_even_imported(env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless somebody asks for traces, neither SDK nor exporter is loaded. (redis-py loads those of metrics itself.)"""
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ["None", "set()"], done.stderr


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked for without the extra is a line with the remedy; nothing stops for it."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    program = "import sys; sys.modules['opentelemetry'] = None; " + PROGRAM.partition(";")[2]
    program = f"import sys; from ingest.telemetry import logs; logs.configure(); {program}"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("None")
    assert "pip install wa-ingest[otel]" in done.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [("OTEL_TRACES_EXPORTER", "zipkin"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")],
)
def test_what_cannot_be_done(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another exporter or protocol is one line that names the variable."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"{name}={value}: give "):
        tracing.start("x")


def test_the_dead_letter_names_the_trace(pipeline: Any, collector: Collector, redis: Redis, wait_for: Any) -> None:
    """The id that `wa-ingest dead show` gives is the trace's."""
    port, _ = pipeline(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, WA_MAX_ATTEMPTS="1")
    assert post(port, BODY) == 200
    wait_for(lambda: collector.named("process messages") and collector.named("POST /webhook"))
    wait_for(lambda: redis.xlen(keys.dead_key("messages")))
    (letter,) = letters.read(redis, letters.select(redis, letters.Wanted()))
    assert {span.trace for span in collector.spans} == {letter.as_json()["notification"]}
