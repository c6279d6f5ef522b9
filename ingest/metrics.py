"""What the receiver counts, for Prometheus. Several receiver processes share files in the folder that
PROMETHEUS_MULTIPROC_DIR names (`ingest.supervisor` sets it), so any of them reports for all.
"""

from __future__ import annotations

import os
from collections import Counter as Counts
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess
from prometheus_client.registry import Collector

_ACCEPTED = Counter("wa_accepted", "Notifications answered 200", ["lane"])
_REFUSED = Counter("wa_refused", "Requests not answered 200", ["status", "reason"])
_BYTES = Counter("wa_accepted_bytes", "Bytes of the notifications answered 200")
_ANSWER = Histogram(
    "wa_answer_seconds",
    "From the request's head to its answer",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
_COMMIT = Histogram(
    "wa_commit_seconds",
    "One Redis call, for all notifications that arrived during the one before",
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 2.5),
)
_COMMIT_SIZE = Histogram(
    "wa_commit_notifications", "Notifications in one commit", buckets=(1, 2, 5, 10, 25, 50, 100, 250, 1000)
)
_CUT = Counter("wa_connections_cut", "Connections that the receiver ended because of the sender", ["reason"])
_HEADERS_DROPPED = Counter("wa_headers_dropped", "Headers named in WA_KEEP_HEADERS for which there was no room")
_CONNECTIONS = Gauge("wa_connections", "Open connections", ["listener"], multiprocess_mode="livesum")
_CERTIFICATE = Gauge(
    "wa_tls_certificate_end_seconds",
    "Epoch seconds at which a certificate in use expires",
    ["use"],
    multiprocess_mode="livemin",
)
_ADMIN_REFUSED = Counter("wa_admin_refused", "Requests that the admin listener refused", ["reason"])
_COMMIT_FAILED = Counter("wa_commit_failures", "Commits that Redis did not keep; the spool may have")

_OURS = (
    _ACCEPTED,
    _REFUSED,
    _BYTES,
    _ANSWER,
    _CONNECTIONS,
    _CUT,
    _HEADERS_DROPPED,
    _CERTIFICATE,
    _COMMIT,
    _COMMIT_SIZE,
    _COMMIT_FAILED,
    _ADMIN_REFUSED,
)

for _reason in ("token", "host"):  # there from the start, so that a rate sees the first
    _ADMIN_REFUSED.labels(_reason)

_accepted = {lane: _ACCEPTED.labels(lane) for lane in ("messages", "statuses", "other")}


def accepted(some: Sequence[tuple[str, int, float]]) -> None:
    """Notifications were answered 200: the lane of each, its bytes, and the seconds that it took."""
    for lane, count in Counts(lane for lane, _, _ in some).items():
        _accepted[lane].inc(count)
    _BYTES.inc(sum(size for _, size, _ in some))
    for _, _, seconds in some:
        _ANSWER.observe(seconds)


def refused(status: int, reason: str, seconds: float) -> None:
    """A request was answered with another status; `reason` is that of the `Refused` raised."""
    _REFUSED.labels(status, reason).inc()
    _ANSWER.observe(seconds)


def cut(reason: str) -> None:
    """The receiver ended a connection: `slow_head`, `endless_head`, `tiny_chunks`, `unread_answers` or `limit`."""
    _CUT.labels(reason).inc()


def headers_dropped(count: int) -> None:
    """Headers of a notification were not kept, because they are too large."""
    _HEADERS_DROPPED.inc(count)


def admin_refused(reason: str) -> None:
    """The admin listener refused a wrong `token`, or a `host` name that is not its own."""
    _ADMIN_REFUSED.labels(reason).inc()


def connections(listener: str, change: int) -> None:
    """A connection to a listener, `public` or `admin`, began (`change` 1) or ended (-1)."""
    _CONNECTIONS.labels(listener).inc(change)


def certificate(use: str, end: float) -> None:
    """The certificate in use for `server` or `client_ca` expires at `end` (epoch seconds)."""
    _CERTIFICATE.labels(use).set(end)


def flushed(count: int, seconds: float, reason: str | None) -> None:
    """A commit ended; `reason` says why Redis did not keep it, or is None."""
    _COMMIT.observe(seconds)
    _COMMIT_SIZE.observe(count)
    if reason is not None:
        _COMMIT_FAILED.inc()


def text(*more: Collector) -> bytes:
    """The metrics of all receiver processes, and what `more` collect now, in Prometheus' text form."""
    registry = CollectorRegistry()
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    else:
        more = (*_OURS, *more)
    for collector in more:
        registry.register(collector)
    return generate_latest(registry)
