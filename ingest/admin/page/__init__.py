"""The files of the page on the admin listener: served from memory, never from anywhere else.

uPlot (uPlot.*) is the project of that name, as it came: docs/dependencies.md says how to renew it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

from ingest.http.answers import Answer

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Of everything that belongs to the page: only its own files, in no frame, and it says nothing to anybody else."""

_TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css"}

Page = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def files() -> dict[str, Page]:
    """By path: `/` and what it needs."""
    folder = Path(__file__).parent
    names = sorted(path.name for path in folder.iterdir() if path.suffix in _TYPES)
    return {"/" if name == "index.html" else f"/{name}": _served(folder / name) for name in names}


def foreign(request: web.BaseRequest) -> bool:
    """Whether the browser says that another site's page asks. Old ones say nothing, nor does anything else."""
    return request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none")


def _served(path: Path) -> Page:
    body = path.read_bytes()
    tag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
    # no-cache: keep it, but ask whether it is still the same.
    headers = HEADERS | {"Content-Type": _TYPES[path.suffix], "ETag": tag, "Cache-Control": "no-cache"}

    async def serve(request: web.BaseRequest) -> web.StreamResponse:
        if tag in request.headers.get("If-None-Match", ""):
            return Answer(304, headers)
        return Answer(body=body, headers=headers)

    return serve
