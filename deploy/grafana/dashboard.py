"""Writes the dashboard: `python deploy/grafana/dashboard.py` makes dashboards/wa-ingest.json out of the table below.

What is read from Redis is the same at every receiver, hence `max by`; what a receiver counts itself is added up
(docs/metrics.md). Colours and their limits are those of the alerts (deploy/prometheus/rules.yml).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

FILE = Path(__file__).parent / "dashboards" / "wa-ingest.json"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}

Limits = tuple[tuple[float | None, str], ...]


class Panel(NamedTuple):
    """A panel. `queries` are pairs of PromQL and legend; `limits` are values from which a colour holds."""

    title: str
    unit: str
    description: str
    queries: tuple[tuple[str, str], ...]
    limits: Limits = ()
    kind: str = "timeseries"
    width: int = 8
    stacked: bool = False
    texts: tuple[tuple[float, str], ...] = ()
    """What is shown in place of a value."""


def stat(title: str, unit: str, description: str, query: str, limits: Limits, **more: Any) -> Panel:
    """One number in the row at the top."""
    return Panel(title, unit, description, ((query, ""),), limits, kind="stat", width=3, **more)


def late(warning: float, critical: float) -> Limits:
    """The more the worse."""
    return (None, "green"), (warning, "orange"), (critical, "red")


def quantiles(metric: str, *by: str) -> tuple[tuple[str, str], ...]:
    """p50 and p99 of what receivers count."""
    legend = "".join(f"{{{{{label}}}}} " for label in by)
    rate = f"sum by ({', '.join(('le', *by))}) (rate({metric}_bucket[$__rate_interval]))"
    return tuple((f"histogram_quantile({q}, {rate})", f"{legend}p{q[2:]:0<2}") for q in ("0.5", "0.99"))


def shared_quantiles(metric: str, *by: str, only: str = "") -> tuple[tuple[str, str], ...]:
    """The same of what is read from Redis."""
    return tuple(
        (query.replace("sum by", "max by"), legend) for query, legend in quantiles(metric, *by) if only in legend
    )


def shared_rate(metric: str, label: str, selector: str = "", seen: str = "") -> tuple[tuple[str, str], ...]:
    """Per second and `label`, of what is read from Redis; `seen` are its other labels."""
    one = f"max by ({', '.join(filter(None, (label, seen)))}) (rate({metric}{selector}[$__rate_interval]))"
    return ((f"sum by ({label}) ({one})" if seen else one, f"{{{{{label}}}}}"),)


ROWS: dict[str, list[Panel]] = {
    "Is it well?": [
        stat(
            "Alerts",
            "short",
            "Alerts that are firing; docs/operations.md says what to do about each.",
            'count(ALERTS{alertname=~"Wa.*", alertstate="firing"}) or vector(0)',
            late(1, 1),
        ),
        stat(
            "Redis",
            "short",
            "Does it answer all receivers? Without it what arrives goes to the spool, or is refused.",
            "min(wa_redis_up)",
            ((None, "red"), (1, "green")),
            texts=((0, "away"), (1, "up")),
        ),
        stat(
            "Workers alive",
            "short",
            "Worker processes that gave a sign of life in the last ten seconds.",
            "max(wa_workers)",
            ((None, "red"), (1, "green")),
        ),
        stat(
            "Oldest message",
            "s",
            "Age of the oldest message that waits: how long a contact has been waiting for an answer.",
            'max(wa_lane_oldest_seconds{lane="messages"})',
            late(60, 300),
        ),
        stat(
            "Oldest of other lanes",
            "s",
            "Age of the oldest status or other notification that waits.",
            'max(wa_lane_oldest_seconds{lane!="messages"})',
            late(900, 3600),
        ),
        stat(
            "Dead letters",
            "short",
            "Events and bodies that nobody will try again by himself: wa-ingest dead list.",
            "sum(max by (lane) (wa_lane_dead))",
            late(1, 1000),
        ),
        stat(
            "In the spool",
            "short",
            "Notifications on the receivers' disks that Redis does not have yet.",
            "sum(max by (instance) (wa_spool_notifications)) or vector(0)",
            late(1, 100_000),
        ),
        stat(
            "Not kept, 5 min",
            "short",
            "Requests answered 5xx in the last five minutes: senders must send them again.",
            'sum(increase(wa_refused_total{status=~"5.."}[5m])) or vector(0)',
            ((None, "green"), (1, "red")),
        ),
        Panel(
            "Waiting",
            "short",
            "Notifications that wait, by lane. A heap that grows needs more workers, or quicker handlers.",
            (("max by (lane) (wa_lane_waiting)", "{{lane}}"),),
        ),
        Panel(
            "Oldest waiting",
            "s",
            "Age of the oldest notification that waits, in its queue or in a worker, and of the oldest that is to be "
            "tried again. A lane that is paused grows here, too.",
            (
                ("max by (lane) (wa_lane_oldest_seconds)", "{{lane}}"),
                ("max by (lane) (wa_lane_retrying_oldest_seconds) > 0", "{{lane}} to be tried again"),
            ),
        ),
        Panel(
            "In and out",
            "cps",
            "Notifications accepted, and events brought to their end. One notification may hold several events.",
            (
                ("sum(rate(wa_accepted_total[$__rate_interval]))", "accepted"),
                (
                    'sum(max by (kind, outcome) (rate(wa_events_total{outcome!~"retried|snoozed"}[$__rate_interval])))',
                    "brought to an end",
                ),
            ),
        ),
    ],
    "Traffic in": [
        Panel(
            "Accepted",
            "reqps",
            "Notifications answered 200, by lane.",
            (("sum by (lane) (rate(wa_accepted_total[$__rate_interval]))", "{{lane}}"),),
            stacked=True,
        ),
        Panel(
            "Refused",
            "reqps",
            "Requests answered otherwise. 5xx are ours; 401 and 403 mean secrets or addresses that do not fit. And "
            "headers that were too large to keep (WA_KEEP_HEADERS).",
            (
                ("sum by (status, reason) (rate(wa_refused_total[$__rate_interval]))", "{{status}} {{reason}}"),
                ("sum by (reason) (rate(wa_admin_refused_total[$__rate_interval]))", "admin listener: {{reason}}"),
                ("sum(rate(wa_headers_dropped_total[$__rate_interval]))", "headers left out"),
            ),
            stacked=True,
        ),
        Panel(
            "Bytes",
            "Bps",
            "Bytes of the notifications accepted.",
            (("sum(rate(wa_accepted_bytes_total[$__rate_interval]))", "accepted"),),
        ),
        Panel(
            "Answer time",
            "s",
            "From a request's head to its answer: it waits for the commit, never for handlers.",
            quantiles("wa_answer_seconds"),
        ),
        Panel(
            "Commit time",
            "s",
            "One Redis call for all that arrived meanwhile. When this grows, look at Redis and its disk.",
            quantiles("wa_commit_seconds"),
        ),
        Panel(
            "Notifications in a commit",
            "short",
            "How many share one Redis call: grows with the load, and that is what keeps Redis' load low.",
            (
                *quantiles("wa_commit_notifications"),
                ("sum(rate(wa_commit_failures_total[$__rate_interval]))", "commits that failed, per second"),
            ),
        ),
    ],
    "Work": [
        Panel(
            "Events by outcome",
            "cps",
            "What became of events. Retried: failed, and will be tried again.",
            shared_rate("wa_events_total", "outcome", seen="kind"),
            stacked=True,
        ),
        Panel(
            "Handled by kind",
            "cps",
            "Events whose handlers returned.",
            shared_rate("wa_events_total", "kind", '{outcome="handled"}'),
            stacked=True,
        ),
        Panel(
            "Copies dropped",
            "cps",
            "Senders send again what they think was lost: many copies mean that answers come too late.",
            shared_rate("wa_duplicates_total", "kind"),
            stacked=True,
        ),
        Panel(
            "From arrival to handled",
            "s",
            "What a contact waits for, tries included.",
            shared_quantiles("wa_handled_after_seconds", "lane"),
        ),
        Panel(
            "Handler time, p99",
            "s",
            "1 in 100 calls of this handler takes that long or longer.",
            shared_quantiles("wa_handler_seconds", "handler", only="p99"),
        ),
        Panel(
            "Handler failures",
            "percentunit",
            "Calls that ended with an exception or a time-out. The workers' log names it, and its line.",
            (
                (
                    "max by (handler) (rate(wa_handler_failures_total[$__rate_interval]))"
                    " / max by (handler) (rate(wa_handler_seconds_count[$__rate_interval]))",
                    "{{handler}}",
                ),
            ),
            late(0.05, 0.5),
        ),
        Panel(
            "Answers of destinations",
            "reqps",
            "What posts to each destination are answered: by status, `slow` (nothing in time), `away` (not reached).",
            (
                (
                    "max by (destination, answer) (rate(wa_destination_answers_total[$__rate_interval])) > 0",
                    "{{destination}} {{answer}}",
                ),
            ),
        ),
        Panel(
            "Handlers held up",
            "short",
            "Handlers and destinations that always fail or are not reached (1), that an operator paused (1), or "
            "limited to so many events per second.",
            (
                ("max by (handler) (wa_handler_down)", "{{handler}} fails"),
                ("max by (handler) (wa_handler_paused)", "{{handler}} paused"),
                ("max by (handler) (wa_handler_limit)", "{{handler}} limit"),
            ),
        ),
        Panel(
            "Owed to handlers",
            "short",
            "Events that wait for a handler or destination: for their next try, or in a worker for its turn.",
            (("max by (handler) (wa_handler_owed)", "{{handler}}"),),
        ),
        Panel(
            "Oldest owed to handlers",
            "s",
            "Age of the oldest of these: so far the handler or destination is behind.",
            (("max by (handler) (wa_handler_owed_oldest_seconds)", "{{handler}}"),),
        ),
        Panel(
            "Events in a list",
            "short",
            "How many events a bulk handler gets at a time: close to its bulk in a backlog, fewer otherwise.",
            shared_quantiles("wa_handler_list_events", "handler"),
        ),
        Panel(
            "In work, to be tried again",
            "short",
            "Notifications that workers have taken; events that wait for their next try, or behind such a one of their "
            "contact (strict order); batches that wait.",
            (
                ("max by (lane) (wa_lane_working)", "{{lane}} in work"),
                ("max by (lane) (wa_lane_retrying)", "{{lane}} to be tried again"),
                ("max by (lane) (wa_lane_behind) > 0", "{{lane}} behind these"),
                ("max by (lane) (wa_lane_batches)", "{{lane}} batches"),
            ),
        ),
        Panel(
            "Longest call",
            "s",
            "For how long a call of a handler has been under way, at most. Above WA_HANDLER_TIMEOUT it hangs.",
            (("max by (lane) (wa_lane_working_oldest_seconds)", "{{lane}}"),),
        ),
        Panel(
            "New dead letters",
            "short",
            "By lane and reason, in five minutes. Failed: out of attempts; poison: killed three workers in an hour.",
            (("max by (lane, reason) (increase(wa_dead_letters_total[5m])) > 0", "{{lane}} {{reason}}"),),
            stacked=True,
        ),
        Panel(
            "Workers",
            "short",
            "Worker processes alive; batches put back because theirs died, and events in them that had ended already.",
            (
                ("max(wa_workers)", "alive"),
                ("sum(max by (lane) (increase(wa_batches_reaped_total[5m])))", "batches put back, in five minutes"),
                ("max(increase(wa_events_again_total[5m]))", "events that came again, in five minutes"),
            ),
        ),
    ],
    "Redis and the edge": [
        Panel(
            "Redis' memory",
            "bytes",
            "Used, and what is left of maxmemory. When nothing is left, notifications are spooled or refused.",
            (("max(wa_redis_memory_used_bytes)", "used"), ("min(wa_redis_memory_left_bytes)", "left")),
            stacked=True,
        ),
        Panel(
            "Memory left",
            "percentunit",
            "Share of maxmemory; nothing is shown when Redis has no limit.",
            (
                (
                    "min(wa_redis_memory_left_bytes)"
                    " / (min(wa_redis_memory_left_bytes) + max(wa_redis_memory_used_bytes))",
                    "left",
                ),
            ),
            ((None, "red"), (0.05, "orange"), (0.2, "green")),
        ),
        Panel(
            "Connections",
            "short",
            "Open connections, by listener.",
            (("sum by (listener) (wa_connections)", "{{listener}}"),),
        ),
        Panel(
            "Connections cut",
            "cps",
            "Ended because of what the sender did or did not do; limit: WA_MAX_CONNECTIONS is reached.",
            (("sum by (reason) (rate(wa_connections_cut_total[$__rate_interval]))", "{{reason}}"),),
            stacked=True,
        ),
        Panel(
            "Certificates",
            "s",
            "How long they still hold. A renewed file is read without a restart.",
            (("min by (use) (wa_tls_certificate_end_seconds) - time()", "{{use}}"),),
            ((None, "red"), (3 * 86_400, "orange"), (14 * 86_400, "green")),
        ),
        Panel(
            "Paused",
            "short",
            "1: an operator paused the lane (wa-ingest pause, resume).",
            (("max by (lane) (wa_lane_paused)", "{{lane}}"),),
        ),
        Panel(
            "Spool",
            "short",
            "Notifications on each receiver's disk that Redis does not have; damaged parts to look at.",
            (
                ("max by (instance) (wa_spool_notifications)", "{{instance}}"),
                ("max by (instance) (wa_spool_corrupt_total)", "{{instance}} damaged parts"),
            ),
            width=6,
        ),
        Panel(
            "Bytes in the spool",
            "bytes",
            "Room that they take on the disk of WA_SPOOL_DIR.",
            (("max by (instance) (wa_spool_bytes)", "{{instance}}"),),
            width=6,
        ),
        Panel(
            "Age of the spool",
            "s",
            "Age of the oldest notification on the disk.",
            (("max by (instance) (wa_spool_oldest_seconds)", "{{instance}}"),),
            late(60, 900),
            width=6,
        ),
        Panel(
            "Limits",
            "cps",
            "Events per second that an operator allows; nothing is shown for a lane without a limit.",
            (("max by (lane) (wa_lane_limit)", "{{lane}}"),),
            width=6,
        ),
    ],
}


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana reads it."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS.items():
        panels.append({"type": "row", "title": title, "collapsed": False, "panels": []} | _place(panels, 0, y, 24, 1))
        x, y, height = 0, y + 1, 0
        for panel in row:
            if x + panel.width > 24:
                x, y = 0, y + height
            height = 4 if panel.kind == "stat" else 8
            panels.append(_panel(panel) | _place(panels, x, y, panel.width, height))
            x += panel.width
        y += height
    return {
        "uid": "wa-ingest",
        "title": "wa-ingest",
        "description": "WhatsApp Business notifications: received, waiting, handled.",
        "tags": ["wa-ingest"],
        "schemaVersion": 41,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser",
        "links": [],
        "annotations": {"list": []},
        "templating": {"list": [{"name": "datasource", "label": "Prometheus", "type": "datasource"} | _CHOICE]},
        "panels": panels,
    }


_CHOICE = {"query": "prometheus", "regex": "", "refresh": 1, "hide": 0, "multi": False, "includeAll": False}


def _place(before: list[dict[str, Any]], x: int, y: int, width: int, height: int) -> dict[str, Any]:
    return {"id": len(before) + 1, "gridPos": {"x": x, "y": y, "w": width, "h": height}}


def _panel(panel: Panel) -> dict[str, Any]:
    steps = [{"value": value, "color": colour} for value, colour in panel.limits]
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0, "thresholds": {"mode": "absolute", "steps": steps}}
    if not steps:
        defaults["thresholds"]["steps"] = [{"value": None, "color": "green"}]
    if panel.unit == "percentunit":
        defaults["max"] = 1
    if panel.texts:
        options = {f"{value:g}": {"text": text} for value, text in panel.texts}
        defaults["mappings"] = [{"type": "value", "options": options}]
    if panel.kind == "stat":
        defaults["color"] = {"mode": "thresholds"}
        look: dict[str, Any] = {
            "colorMode": "background",
            "graphMode": "none",
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        }
    else:
        defaults["color"] = {"mode": "palette-classic"}
        defaults["custom"] = {
            "fillOpacity": 20 if panel.stacked else 5,
            "showPoints": "never",
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "line" if steps else "off"},
        }
        look = {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": look,
        "targets": [
            {"refId": chr(ord("A") + n), "datasource": DATASOURCE, "expr": expr, "legendFormat": legend}
            for n, (expr, legend) in enumerate(panel.queries)
        ],
    }


def text() -> str:
    """The file's content."""
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
