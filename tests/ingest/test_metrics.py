"""The Prometheus text: names and units that dashboards rely on."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from ingest import metrics

NAMES = {
    "wa_accepted": "counter",
    "wa_refused": "counter",
    "wa_accepted_bytes": "counter",
    "wa_headers_dropped": "counter",
    "wa_admin_refused": "counter",
    "wa_connections": "gauge",
    "wa_connections_cut": "counter",
    "wa_tls_certificate_end_seconds": "gauge",
    "wa_answer_seconds": "histogram",
    "wa_commit_seconds": "histogram",
    "wa_commit_notifications": "histogram",
    "wa_commit_failures": "counter",
}


def families() -> dict[str, str]:
    found = {family.name: family.type for family in text_string_to_metric_families(metrics.text().decode())}
    return {name: kind for name, kind in found.items() if not name.endswith("_created")}


def test_names() -> None:
    """The receiver's metrics have these names and types, and there are no others."""
    assert families() == NAMES


def test_lanes_are_there_from_the_start() -> None:
    """Each lane has its counter before the first notification: rates start at zero instead of missing the first."""
    text = metrics.text().decode()
    for lane in ("messages", "statuses", "other"):
        assert f'wa_accepted_total{{lane="{lane}"}}' in text
