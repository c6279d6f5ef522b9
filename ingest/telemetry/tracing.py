"""Traces with OpenTelemetry: on when the variables of its SDK ask for them and the extra `otel` is installed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ingest.loggers import get_logger
from ingest.settings import SettingsError

if TYPE_CHECKING:
    from ingest.telemetry.spans import Spans

log = get_logger(__name__)

_EXPORTER = "OTEL_TRACES_EXPORTER"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")


def start(service: str) -> Spans | None:
    """Begin to trace; `service` is the `service.name` unless OTEL_SERVICE_NAME is set. None when tracing stays off.

    Raises SettingsError for an exporter or protocol that we do not have. A missing extra is only a log line, because
    these variables may be set for all programs of a cluster.
    """
    exporter = _value(_EXPORTER)
    if exporter == "none" or _value("OTEL_SDK_DISABLED") == "true" or not (exporter or any(map(_value, _ENDPOINTS))):
        return None
    if exporter not in ("", "otlp"):
        raise SettingsError(f"{_EXPORTER}={exporter}: give otlp or none")
    for name in _PROTOCOLS:
        if _value(name) not in ("", "http/protobuf"):
            raise SettingsError(f"{name}={_value(name)}: give http/protobuf, and the collector's port for it (4318)")
    try:
        from ingest.telemetry.spans import Spans
    except ModuleNotFoundError as error:
        log.warning("no traces: pip install wa-ingest[otel]", missing=error.name)
        return None
    return Spans(service)


def _value(name: str) -> str:
    return os.environ.get(name, "").strip().lower()
