"""docs/recipes/media.md, with a server in place of the Cloud API, whose addresses end."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from aiohttp import web

from tests.workers.destinations.conftest import Application, Post
from tests.workers.destinations.test_posting import cloud
from workers.testing import call

CONTENT = bytes(range(256)) * 1000


class Store:
    """Gives an address for a media id, and the file for the last address that it gave."""

    def __init__(self, app: Application) -> None:
        self.app = app
        self.content = CONTENT
        self.ended = 0  # addresses that have ended before they are used
        self._address = 0
        app.answer = self.answer

    def answer(self, post: Post) -> web.Response:
        assert post.headers["authorization"] == "Bearer token"
        if post.path == "/v24.0/42":
            self._address += 1
            return web.json_response({"url": f"{self.app.host}/file/{self._address}", "id": "42"})
        if post.path != f"/file/{self._address}" or self.ended:
            self.ended = max(0, self.ended - 1)
            return web.Response(status=404)
        return web.Response(body=self.content)


@pytest.fixture
def store(application: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Store:
    app = application()
    monkeypatch.setenv("GRAPH_API", f"{app.host}/v24.0")
    monkeypatch.setenv("WHATSAPP_TOKEN", "token")
    monkeypatch.setenv("MEDIA_DIR", str(tmp_path / "media"))
    return Store(app)


@pytest.fixture
def page(imported: Any, store: Store) -> ModuleType:
    module: ModuleType = imported("media.md")
    return module


def picture(id: str = "42", digest: bytes | None = None) -> bytes:
    sha256 = base64.b64encode(digest or hashlib.sha256(CONTENT).digest()).decode()
    image = {"id": id, "mime_type": "image/jpeg", "sha256": sha256, "url": "https://ended.example/"}
    return cloud({"from": "15550001", "id": "m1", "timestamp": "1700000000", "type": "image", "image": image})


def outcome(page: ModuleType, body: bytes, attempt: int = 1) -> str:
    (called,) = call(page.handlers, body, attempt=attempt)
    return called.outcome


def kept(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "media").iterdir()}


def test_each_try_asks_for_an_address(page: ModuleType, store: Store, tmp_path: Path) -> None:
    """An address that has ended is a failed try; the next one asks for another address, and a copy for none."""
    store.ended = 1
    assert outcome(page, picture()) == "failed"
    assert kept(tmp_path) == {}
    assert outcome(page, picture(), 2) == "handled"
    assert kept(tmp_path) == {"42": CONTENT}
    asked = len(store.app.posts)
    assert outcome(page, picture()) == "handled"
    assert len(store.app.posts) == asked


def test_only_what_is_whole_is_kept(page: ModuleType, store: Store, tmp_path: Path, monkeypatch: Any) -> None:
    """Another file than was announced is a failed try, one that is too large a dead letter; nothing of them is left."""
    store.content = CONTENT[:-1]
    assert outcome(page, picture()) == "failed"
    monkeypatch.setattr(page, "LIMIT", 1000)
    assert outcome(page, picture()) == "rejected"
    assert kept(tmp_path) == {}


@pytest.mark.parametrize("id", ["../../etc/passwd", "", "a b"])
def test_an_id_that_is_a_path(id: str, page: ModuleType, store: Store) -> None:
    """What could name a file elsewhere is a dead letter, and nothing is fetched."""
    assert outcome(page, picture(id)) == "rejected"
    assert store.app.posts == []
