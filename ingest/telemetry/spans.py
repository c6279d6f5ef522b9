"""The spans of a notification: one when it is received, one for each try of each of its events.

They share one trace, whose id is the notification's (`ingest.store.records.notification_id`); the id of the receiver's
span is the second half of it. So a worker computes both from the record, and Redis does not carry them. Whether a
notification is sampled also depends on its id: receiver and workers agree when they have the same OTEL_TRACES_SAMPLER.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from opentelemetry import trace
from opentelemetry.context import Context, attach
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, StatusCode, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ingest.telemetry.outage import Outage

STOP_SECONDS = 3.0
"""How long a stop waits until the last spans are delivered."""

_SPAN_ID = (1 << 64) - 1

Attributes = Mapping[str, str | int]


class Spans:
    """The spans of one process. Call `close` at its end."""

    def __init__(self, service: str) -> None:
        self._ids = _Ids()
        resource = Resource.create({"service.name": service, **OTELResourceDetector().detect().attributes})
        # Not at exit: a collector that is away would delay it.
        self._provider = TracerProvider(resource=resource, id_generator=self._ids, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(_Delivery()))
        self._tracer = self._provider.get_tracer("wa-ingest")
        self._incoming = TraceContextTextMapPropagator()

    def for_handlers(self) -> None:
        """Export the spans of handlers too, unless their module has set up a tracer provider of its own."""
        if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
            trace.set_tracer_provider(self._provider)

    def received(
        self, notification: str | None, status: int, seconds: float, headers: Mapping[str, str], attributes: Attributes
    ) -> None:
        """Record a POST that is answered now, after so many seconds; `notification` is None when it was not kept.

        The trace context that a proxy sent becomes a link, not the parent: the trace's id is the notification's, and a
        stranger must not decide what is sampled.
        """
        trace_id = self._ids.random() if notification is None else int(notification, 16)
        route = attributes.get("http.route")
        name = f"POST {route}" if route else "POST"
        if not self._sampled(trace_id, name):
            return
        end = time.time_ns()
        self._ids.chosen = trace_id
        outside = trace.get_current_span(self._incoming.extract(headers, Context())).get_span_context()
        span = self._tracer.start_span(
            name,
            Context(),
            SpanKind.SERVER,
            {"http.request.method": "POST", "http.response.status_code": status, **attributes},
            [Link(outside)] if outside.is_valid else [],
            start_time=end - int(seconds * 1e9),
        )
        if status >= 500:
            span.set_attribute("error.type", str(status))
            span.set_status(StatusCode.ERROR)
        span.end(end)

    def begin(self, notification: str, name: str, attributes: Callable[[], Attributes]) -> Span | None:
        """Have the handlers' spans belong to the event, in the current context, which must be the event's own.

        Returns the span of this try; None when the notification is not sampled, and then `attributes` is not called.
        """
        trace_id = int(notification, 16)
        sampled = self._sampled(trace_id, name)
        flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
        receiver = SpanContext(trace_id, trace_id & _SPAN_ID, is_remote=True, trace_flags=flags)
        context = trace.set_span_in_context(NonRecordingSpan(receiver), Context())
        if not sampled:
            attach(context)
            return None
        span = self._tracer.start_span(name, context, SpanKind.CONSUMER, attributes(), [Link(receiver)])
        attach(trace.set_span_in_context(span, context))
        return span

    def end(self, span: Span, error: str, attributes: Attributes) -> None:
        """End the span: the handlers have returned. `error` is the class of the exception, or empty."""
        span.set_attributes(dict(attributes))
        if error:
            span.set_attribute("error.type", error)
            span.set_status(StatusCode.ERROR)
        span.end()

    def close(self) -> None:
        """Deliver the last spans, for STOP_SECONDS at most."""
        ending = threading.Thread(target=self._provider.shutdown, name="last-spans", daemon=True)
        ending.start()
        ending.join(STOP_SECONDS)

    def _sampled(self, trace_id: int, name: str) -> bool:
        decision = self._provider.sampler.should_sample(None, trace_id, name).decision
        return bool(decision.is_sampled())  # type: ignore[no-untyped-call]


class _Ids(RandomIdGenerator):
    """The next root span gets the `chosen` trace id, and its second half as span id. All other ids are random."""

    chosen = 0

    def random(self) -> int:
        return super().generate_trace_id()

    def generate_trace_id(self) -> int:
        return self.chosen or self.random()

    def generate_span_id(self) -> int:
        chosen, self.chosen = self.chosen, 0
        return chosen & _SPAN_ID or super().generate_span_id()


class _Delivery(SpanExporter):
    """Sends spans to the collector. While it is away, spans are lost, and one log line says so."""

    def __init__(self) -> None:
        self._exporter = OTLPSpanExporter()
        self._outage = Outage("traces are lost, see OTEL_EXPORTER_OTLP_ENDPOINT", "traces are delivered again")
        self._error = ""
        logging.getLogger(OTLPSpanExporter.__module__).addFilter(self._intercept)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self._error = ""
        result = self._exporter.export(spans)
        if result is SpanExportResult.SUCCESS:
            self._outage.up()
        else:
            self._outage.down(self._error)
        return result

    def _intercept(self, record: logging.LogRecord) -> bool:
        """Keep the exporter's log line about its first try, which says what is wrong. Let none through."""
        self._error = self._error or record.getMessage()
        return False

    def shutdown(self) -> None:
        self._exporter.shutdown()  # type: ignore[no-untyped-call]
