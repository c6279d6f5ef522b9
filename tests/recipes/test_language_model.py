"""docs/recipes/language-model.md, with a server in place of the model and of the Cloud API."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import pytest
from aiohttp import web

from tests.workers.destinations.conftest import Application, Post
from tests.workers.destinations.test_posting import cloud, text

CONTACTS, TEXTS = 5, 3


class World:
    """The model answers with what it was asked; what the Cloud API is told is kept, by contact and in order."""

    def __init__(self, app: Application) -> None:
        self.app = app
        self.failures: dict[str, int] = defaultdict(int)
        """How often the model is still to fail at a text."""
        self.answers: dict[str, list[str]] = defaultdict(list)
        self.typing: list[str] = []
        app.answer = self.answer

    def answer(self, post: Post) -> web.Response:
        said = json.loads(post.body)
        if post.path == "/v1/chat/completions":
            question = said["messages"][0]["content"]
            if self.failures[question]:
                self.failures[question] -= 1
                return web.Response(status=500)
            return web.json_response({"choices": [{"message": {"content": f"You said: {question}"}}]})
        assert post.path == "/v24.0/7/messages"
        assert post.headers["authorization"] == "Bearer token"
        if "typing_indicator" in said:
            assert (said["status"], said["typing_indicator"]) == ("read", {"type": "text"})
            self.typing.append(said["message_id"])
        else:
            self.answers[said["to"]].append(said["text"]["body"])
        return web.json_response({})


@pytest.fixture
def world(application: Any, monkeypatch: pytest.MonkeyPatch) -> World:
    app = application()
    monkeypatch.setenv("MODEL_URL", f"{app.host}/v1/chat/completions")
    monkeypatch.setenv("GRAPH_API", f"{app.host}/v24.0")
    monkeypatch.setenv("WHATSAPP_TOKEN", "token")
    return World(app)


def asks(n: int, contact: str) -> bytes:
    return cloud(text(f"{contact}-{n}", contact) | {"text": {"body": f"{contact}-{n}"}})


def test_in_order(world: World, work: Any, commit: Any, nothing_left: Any) -> None:
    """Each contact gets its answers in order, others at the same time, also when a text fails once; before each try the
    bot is seen typing."""
    world.app.slow = 0.05
    world.failures["0-0"] = 1
    contacts = [str(contact) for contact in range(CONTACTS)]
    commit(*[asks(n, contact) for n in range(TEXTS) for contact in contacts])
    work("language-model.md", "AGAIN = 0.1")
    for contact in contacts:
        assert world.answers[contact] == [f"You said: {contact}-{n}" for n in range(TEXTS)]
    assert len(world.typing) == CONTACTS * TEXTS + 1
    assert world.app.most_at_a_time > 1
    nothing_left()


def test_it_gives_up_politely(world: World, work: Any, commit: Any, dead: Any) -> None:
    """After three tries of a model that says nothing in time, the contact is told, and nothing is left over."""
    world.app.slow = 0.3
    commit(asks(0, "0"), asks(0, "1"))
    work("language-model.md", "AGAIN, SECONDS = 0.1, 0.2")
    assert world.answers["0"] == world.answers["1"] == ["I cannot answer at the moment. Somebody will write to you."]
    assert len(world.typing) == 6
    assert dead("messages") == []
