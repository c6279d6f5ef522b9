"""docs/migrate.md: what was before compiles, what comes after runs."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import types
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from redis import Redis

from ingest.store import keys
from tests.ingest.conftest import start_receiver  # noqa: F401
from tests.recipes.conftest import blocks
from tests.workers.destinations.conftest import Application
from tests.workers.destinations.test_posting import cloud, ids, text
from workers.testing import call

PAGE = "../migrate.md"
PYTHON = blocks(PAGE, "python")
SECRET = "the same as in WEBHOOK_SECRET"
STATUS = {"id": "s1", "status": "read", "recipient_id": "15550001", "timestamp": "1700000000"}


def after(beginning: str) -> dict[str, Any]:
    """The names of the module that comes after, chosen by what follows its imports and its registry."""
    (code,) = [one for one in PYTHON if "handlers = " in one and beginning in one]
    module = types.ModuleType("after")
    exec(compile(code, "after", "exec"), module.__dict__)
    return module.__dict__


def outcomes(module: dict[str, Any], body: bytes | dict[str, Any]) -> list[tuple[str, str]]:
    return [(called.event.kind, called.outcome) for called in call(module["handlers"], body)]  # type: ignore[union-attr]


@pytest.mark.parametrize("code", PYTHON, ids=lambda code: code.partition("\n")[0])
def test_python_compiles(code: str) -> None:
    """Before and after are whole modules in today's Python; what is not defined in them is the reader's own."""
    assert isinstance(ast.parse(code), ast.Module)
    compile(code, "page", "exec")


def test_each_case_has_both() -> None:
    """Eight modules before, in the peers' own APIs, and five after: the others are destinations. One posts to us."""
    new = [code for code in PYTHON if "handlers = " in code]
    assert len(PYTHON) - len(new) == 8 + 1
    assert len(new) == 5
    assert len(blocks(PAGE, "toml")) == 3
    for peer in ("fastapi", "flask", "pywa", "celery", "rq", "dramatiq", "hookdeck", "batchItemFailures"):
        assert any(peer in code for code in PYTHON if code not in new), peer


def test_fastapi() -> None:
    """The coroutine that was a background task gets contact and text."""
    module, got = after("async def on_text"), []

    async def answer(*given: object) -> None:
        got.append(given)

    module["answer"] = answer
    assert outcomes(module, cloud(text("m1"))) == [("message", "handled")]
    assert got == [("15550001", "Hello")]


def test_flask() -> None:
    """What the view called gets id and status."""
    module, got = after("def on_status"), []
    module["store"] = lambda *given: got.append(given)
    assert outcomes(module, cloud(statuses=[STATUS])) == [("status", "handled")]
    assert got == [("s1", "read")]


def test_pywa(monkeypatch: pytest.MonkeyPatch) -> None:
    """The callback is called, and answers through PyWa's client."""
    pywa = pytest.importorskip("pywa")
    module, sent = after("handlers_of(wa)"), []
    monkeypatch.setattr(pywa.WhatsApp, "send_message", lambda self, **given: sent.append(given["text"]))
    body = orjson.loads(cloud(text("m1") | {"from_user_id": "US.1"}))
    value = body["entry"][0]["changes"][0]["value"]
    value["metadata"] |= {"phone_number_id": "106540352242922", "display_phone_number": "15550009"}
    value["contacts"][0]["user_id"] = "US.1"
    assert outcomes(module, body) == [("message", "handled")]
    assert sent == ["You wrote: Hello"]


def test_task_queues() -> None:
    """What was a task gets the same dict."""
    module, got = after("the same dict"), []
    module["store"] = got.append
    assert outcomes(module, cloud(text("m1"))) == [("message", "handled")]
    assert got == [text("m1")]


def test_lambda() -> None:
    """Of a list only the message that fails is tried again."""
    module, got = after("bulk=10"), []

    def store(message: dict[str, Any]) -> None:
        if message["id"] == "m2":
            raise ConnectionError
        got.append(message["id"])

    module["store"] = store
    found = outcomes(module, cloud(*[text(f"m{n}", str(n)) for n in range(4)]))
    assert found == [("message", "failed" if n == 2 else "handled") for n in range(4)]
    assert got == ["m0", "m1", "m3"]


def test_what_lies_in_the_dead_letter_queue(
    redis_url: str,
    redis: Redis,
    start_receiver: Any,  # noqa: F811 - the fixture that is imported
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What posts it signs it, so that a receiver with that secret takes it, and one with another does not."""
    (code,) = [one for one in PYTHON if "def post" in one]
    receiver = start_receiver(redis_url, WA_APP_SECRET="s3cret")
    module: dict[str, Any] = {}
    exec(code.replace("localhost:8080", f"127.0.0.1:{receiver.port}"), module)
    monkeypatch.setenv("WA_APP_SECRET", "s3cret")
    module["post"]('{"messages":[]}')
    assert redis.zcard(keys.LEDGER) == 1
    monkeypatch.setenv("WA_APP_SECRET", "another")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        module["post"]('{"messages":[]}')


@pytest.mark.parametrize("number", [0, 1], ids=["the old application", "Hookdeck"])
def test_destinations(
    number: int, application: Callable[[], Application], recipe: Callable[..., Path], drain: Any, commit: Any
) -> None:
    """The old application gets the notification whole, one that was behind Hookdeck gets each event; both signed."""
    app = application()
    commit(cloud(text("m1"), text("m2"), statuses=[STATUS]))
    drain(recipe(PAGE, app.host, number=number))
    assert sorted(map(str, ids(app))) == ["m1", "m2", "s1"]
    assert len(app.posts) == (3 if number else 1)
    assert all(post.headers["x-hub-signature-256"].startswith("sha256=") for post in app.posts)


@pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")
def test_bullmq(
    recipe: Callable[..., Path],
    program: Any,
    drain: Any,
    commit: Any,
    free_port: Callable[[], int],
    tmp_path: Path,
) -> None:
    """Node reads what was before; what comes after takes what is signed with its secret, and nothing else."""
    before, code = blocks(PAGE, "js")
    (tmp_path / "before.mjs").write_text(before)
    subprocess.run(["node", "--check", "before.mjs"], cwd=tmp_path, check=True, timeout=60)
    (tmp_path / "app.mjs").write_text(code)
    port = free_port()
    program(port, "node", "app.mjs", cwd=tmp_path, env=os.environ | {"PORT": str(port), "WEBHOOK_SECRET": SECRET})
    commit(*[cloud(text(f"m{n}")) for n in range(3)])
    drain(recipe(PAGE, f"http://127.0.0.1:{port}", number=2))
    assert (tmp_path / "log").read_text().split() == ["m0", "m1", "m2"]
    with pytest.raises(urllib.error.HTTPError, match="403") as refused:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/webhook", cloud(text("m4")), timeout=60)
    refused.value.close()
