"""The headers of a request that WA_KEEP_HEADERS names."""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web

from ingest import metrics
from ingest.store.headers import read, write


def kept(request: web.BaseRequest, names: Sequence[str]) -> bytes:
    """Those that are there, as JSON, empty for none. What is too large is left out and counted."""
    found = {name: _text(request.headers.getall(name)) for name in names if name in request.headers}
    fitting = write(found)
    if (dropped := len(found) - len(read(fitting))) > 0:
        metrics.headers_dropped(dropped)
    return fitting


def _text(values: Sequence[str]) -> str:
    # aiohttp gives bytes that are no UTF-8 as lone surrogates, which JSON cannot hold.
    return ", ".join(values).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
