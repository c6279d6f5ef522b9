"""examples/autoreply.py in a real worker, with an API of the test's own."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from ingest.store import keys
from ingest.store.records import pack

SENDER = "15550001"


class Api:
    """An API that answers what `answers` says, then 200; None: it breaks the connection off after the request."""

    def __init__(self) -> None:
        self.answers: list[int | None] = []
        self.got: list[tuple[str, str | None, dict[str, Any]]] = []
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                api.got.append((self.path, self.headers["Authorization"], body))
                answer = api.answers.pop(0) if api.answers else 200
                if answer is None:
                    self.close_connection = True
                    return
                self.send_response(answer)
                if answer == 429:
                    self.send_header("Retry-After", "0")
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def api() -> Iterator[Api]:
    made = Api()
    yield made
    made.close()


@pytest.fixture
def answer(work: Callable[..., Any], api: Api, tmp_path: Path) -> Callable[[], Any]:
    """Run the worker with a token from a file and that API."""
    (tmp_path / "token").write_text("secret-token\n")
    return lambda: work(
        "autoreply", REPLY_TOKEN_FILE=str(tmp_path / "token"), GRAPH_API=api.url, ONPREM_API=f"{api.url}/onprem"
    )


def _cloud(id: str = "wamid.1") -> bytes:
    message = {"from": SENDER, "id": id, "type": "text", "text": {"body": "Hello"}}
    value = {"messaging_product": "whatsapp", "metadata": {"phone_number_id": "106"}, "messages": [message]}
    return json.dumps({"entry": [{"id": "1", "changes": [{"field": "messages", "value": value}]}]}).encode()


def _again(redis: Redis, body: bytes) -> None:
    """Let the message be handled once more, as after a crash."""
    record = pack(body, 1_700_000_000_000, force=True)
    redis.rpush(keys.batch_key("again"), record)
    redis.zadd(keys.LEDGER, {"messages.0|again": 1})
    redis.rpush(keys.queue_key("messages.0"), "again")
    redis.sadd(keys.RQ_QUEUES, keys.queue_key("messages.0"))


def test_without_a_token(work: Any, commit: Any, message: Any, api: Api) -> None:
    """It can be tried at once: it prints what it would send."""
    commit(message())
    assert work("autoreply").stdout.startswith(f"would send to {SENDER}: Thank you")


def test_both_forms(answer: Any, commit: Any, message: Any, api: Api) -> None:
    """A message of either form is answered through its own API, with the token; other types are not."""
    commit(_cloud(), message("m1"), message("m2", type="image"))
    answer()
    (cloud, onprem) = sorted(api.got, key=lambda one: "onprem" in one[0])
    assert cloud[:2] == ("/v1/106/messages", "Bearer secret-token")
    assert cloud[2]["messaging_product"] == "whatsapp"
    assert (cloud[2]["to"], cloud[2]["context"]) == (SENDER, {"message_id": "wamid.1"})
    assert onprem[:2] == ("/v1/onprem/messages", "Bearer secret-token")
    assert (onprem[2]["to"], onprem[2]["type"]) == (SENDER, "text")
    assert "messaging_product" not in onprem[2]


def test_once(answer: Any, commit: Any, redis: Redis, api: Api) -> None:
    """A message that is handled twice is answered once, by another worker process, too."""
    commit(_cloud())
    answer()
    _again(redis, _cloud())
    answer()
    assert len(api.got) == 1


def test_busy(answer: Any, commit: Any, api: Api, redis: Redis, dead: Any) -> None:
    """429 with Retry-After and 5xx are tried again later, and answered then; nothing is a dead letter."""
    api.answers = [429, 503]
    commit(_cloud("wamid.1"), _cloud("wamid.2"))
    answer()
    for key in redis.scan_iter(f"{keys.RQ}:scheduled:*"):
        for job, _ in redis.zscan_iter(key):
            redis.zadd(key, {job: 1})  # the time has come
    answer()
    assert sorted(body["context"]["message_id"] for _, _, body in api.got) == ["wamid.1"] * 2 + ["wamid.2"] * 2
    assert dead("messages") == []


def test_refused(answer: Any, commit: Any, api: Api, dead: Any, redis: Redis) -> None:
    """4xx is a dead letter with the status and nothing personal; handled again after the repair, it is answered."""
    api.answers = [400]
    commit(_cloud())
    done = answer()
    (letter,) = dead("messages")
    assert (letter["reason"], letter["detail"]) == ("rejected", "the API answers 400")
    assert SENDER not in done.stderr
    assert "secret-token" not in done.stderr
    _again(redis, _cloud())
    answer()
    assert len(api.got) == 2


def test_in_doubt(answer: Any, commit: Any, api: Api, dead: Any, redis: Redis) -> None:
    """A reply without an answer may have been sent: it is a dead letter, and not sent again."""
    api.answers = [None]
    commit(_cloud())
    answer()
    _again(redis, _cloud())
    answer()
    assert len(api.got) == 1
    first, second = dead("messages")
    assert first["detail"] == "no answer (ServerDisconnectedError): the reply may have been sent"
    assert second["detail"] == "an earlier try ended without an answer: the reply may have been sent"


def test_not_reached(work: Any, commit: Any, api: Api, dead: Any, redis: Redis, free_port: Any) -> None:
    """An API that cannot be reached got nothing: the message is tried again."""
    commit(_cloud())
    work("autoreply", REPLY_TOKEN="t", GRAPH_API=f"http://127.0.0.1:{free_port()}")
    assert dead("messages") == []
    assert len(list(redis.scan_iter(f"{keys.RQ}:scheduled:*"))) == 1
    assert list(redis.scan_iter(f"{keys.WA}example:*")) == []
