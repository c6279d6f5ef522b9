"""The files of the page on the admin listener, served from memory.

uPlot.* are unchanged files of the uPlot project: docs/dependencies.md says how to update them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

from ingest import troubleshooting
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
"""Sent with everything that belongs to the page: it loads only its own files, in no frame, and sends no referrer."""

_TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css"}

_FIGURES = b'<script id="first" type="application/json">'  # data, which no browser runs

Page = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def files(first: Callable[[], Awaitable[bytes]]) -> dict[str, Page]:
    """The page at `/`, which holds the figures that `first` gives as JSON, and the files it needs, by path."""
    folder = Path(__file__).parent
    names = sorted(path.name for path in folder.iterdir() if path.suffix in _TYPES and path.suffix != ".html")
    front = _with_figures((folder / "index.html").read_bytes(), first)
    return {"/": front} | {f"/{name}": _read(folder / name) for name in names}


def help_pages() -> dict[str, Page]:
    """What a finding's link leads to, by path: a section of docs/troubleshooting.md as it is written."""
    return {
        f"/help/{topic}": _served(text.encode(), "text/plain; charset=utf-8")
        for topic, text in troubleshooting.sections().items()
    }


def foreign(request: web.BaseRequest) -> bool:
    """Whether the browser says that another site's page sent this. Old browsers and other clients do not say."""
    return request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none")


def _with_figures(html: bytes, first: Callable[[], Awaitable[bytes]]) -> Page:
    before, after = html.split(_FIGURES)
    headers = HEADERS | {"Content-Type": _TYPES[".html"], "Cache-Control": "no-store"}

    async def serve(request: web.BaseRequest) -> web.StreamResponse:
        figures = b"" if foreign(request) else await first()
        # Without `<`, so that nothing in it ends the element.
        body = before + _FIGURES + figures.replace(b"<", b"\\u003c") + after
        return Answer(body=body, headers=headers)

    return serve


def _read(path: Path) -> Page:
    return _served(path.read_bytes(), _TYPES[path.suffix])


def _served(body: bytes, content_type: str) -> Page:
    tag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
    # no-cache: the browser keeps it, but asks each time whether it has changed.
    headers = HEADERS | {"Content-Type": content_type, "ETag": tag, "Cache-Control": "no-cache"}

    async def serve(request: web.BaseRequest) -> web.StreamResponse:
        if tag in request.headers.get("If-None-Match", ""):
            return Answer(304, headers)
        return Answer(body=body, headers=headers)

    return serve
