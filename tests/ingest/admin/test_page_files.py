"""The files of the page, as they are served."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ingest import troubleshooting
from ingest.admin import page

FOLDER = Path(page.__file__).parent


@pytest.fixture(scope="module")
def receiver(start_module_receiver: Callable[..., Any]) -> Any:
    """A receiver without a Redis: the page is there all the same."""
    return start_module_receiver("unix:///nowhere.sock")


def test_every_file_that_is_named_is_served(receiver: Any) -> None:
    """What the page and its modules refer to is there, with its type, and lies on this server."""
    named = set(re.findall(r'(?:src|href)="([^":]+)"', (FOLDER / "index.html").read_text()))
    named |= {name for file in FOLDER.glob("*.js") for name in re.findall(r'from "\./([^"]+)"', file.read_text())}
    assert named >= {"page.js", "page.css", "uPlot.iife.min.js", "uPlot.min.css", "format.js", "metrics", "healthz"}
    for name in named - {"metrics", "readyz", "healthz"}:
        answer = receiver.admin(f"/{name}")
        assert (answer.status, answer.body) == (200, (FOLDER / name).read_bytes())
        assert answer.headers["content-type"].startswith("text/")


def test_headers(receiver: Any) -> None:
    """The page may load nothing from elsewhere, run nothing inline and be framed by nobody; no browser keeps it."""
    headers = receiver.admin("/").headers
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"
    assert receiver.admin("/page.js").headers["cache-control"] == "no-cache"
    assert receiver.admin("/metrics").headers.get("etag") is None


def test_what_a_browser_has_is_not_sent_again(receiver: Any) -> None:
    """With the tag of what is there the answer is 304, also where a proxy has made the tag a weak one."""
    sender = receiver.sender(receiver.admin_port)
    tag = receiver.admin("/page.js").headers["etag"]
    assert tag != receiver.admin("/page.css").headers["etag"]
    for known in (tag, f"W/{tag}", f'"x", {tag}'):
        answer = sender.ask("GET /page.js", If_None_Match=known)
        assert (answer.status, answer.body, answer.headers["etag"]) == (304, b"", tag)
    assert sender.ask("GET /page.js", If_None_Match='"x"').status == 200
    assert sender.ask("HEAD /page.js").status == 200


def test_what_findings_link_to_is_served(receiver: Any) -> None:
    """Each section of docs/troubleshooting.md is there, as text."""
    assert len(troubleshooting.sections()) > 15
    for topic, text in troubleshooting.sections().items():
        answer = receiver.admin(f"/help/{topic}")
        assert (answer.status, answer.body.decode()) == (200, text)
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert receiver.admin("/help/nothing").status == 404


def test_no_data_becomes_html() -> None:
    """Nothing that comes from elsewhere is ever read as HTML or run."""
    ours = [file for file in FOLDER.glob("*.js") if not file.name.startswith("uPlot")]
    assert len(ours) == 4
    for file in ours:
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", file.read_text()
        )
