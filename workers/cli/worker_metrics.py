"""Serves the user's own Prometheus metrics, of all worker processes of a command.

`python -m workers.cli.worker_metrics HOST PORT`. A process of its own, because any of the workers may end.
"""

from __future__ import annotations

import signal
import sys
from wsgiref.simple_server import ServerHandler, WSGIRequestHandler

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.multiprocess import MultiProcessCollector

from ingest import child
from ingest.terminal import aside


def main() -> None:
    """Serve what the workers keep in PROMETHEUS_MULTIPROC_DIR, until SIGTERM."""
    child.watch_parent()
    host, port = sys.argv[1], int(sys.argv[2])
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    # Else answers name Python and its version.
    ServerHandler.server_software = "wa-ingest"
    WSGIRequestHandler.server_version, WSGIRequestHandler.sys_version = "wa-ingest", ""
    try:
        start_http_server(port, host, registry)
    except OSError as error:
        from ingest.settings import cannot_listen  # 20 MiB, only where it is needed

        aside(f"wa-ingest: {cannot_listen('worker_metrics_listen', (host, port), error)}")
        sys.exit(child.GIVE_UP)
    signal.pause()


if __name__ == "__main__":
    main()
