"""`wa-ingest tail`, with a receiver, a worker and the command as processes of their own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from redis import Redis

from ingest.store import keys
from tests.ingest.conftest import start_receiver  # noqa: F401
from tests.workers.conftest import message_body, status_body
from tests.workers.destinations.conftest import application  # noqa: F401
from workers.cli.main import main
from workers.events.parsing import parse

ROOT = Path(__file__).parents[3]
TOKEN = "correct-horse-battery"
PERSONAL = ("15550001", "Hello", "wamid", "Ada")

BOT = """
from workers import Discard, Handlers, RetryIn
handlers = Handlers()

@handlers.message()
def answer(message):
    if message.text == "broken":
        raise ValueError("about 15550001")
    if message.text == "later" and message.attempt == 1:
        raise RetryIn(0.1)

@handlers.message("text", bulk=10, linger=0.01)
async def collect(messages):
    pass

@handlers.status("read")
async def drop(status):
    raise Discard("why")
"""


class Pipeline:
    """A receiver and a worker, and `wa-ingest tail` as often as it is started."""

    def __init__(self, receive: Any, run_module: Any, wait_for: Any, folder: Path, url: str) -> None:
        self._run_module, self._wait_for, self.folder = run_module, wait_for, folder
        self.receiver = receive(url, WA_ADMIN_TOKEN=TOKEN)
        (folder / "bot.py").write_text(BOT)
        self.env = os.environ | {
            "WA_REDIS_URL": url,
            "WA_HANDLERS": "bot:handlers",
            "WA_ADMIN_TOKEN": TOKEN,
            "WA_ADMIN_LISTEN": f"127.0.0.1:{self.receiver.admin_port}",
            "PYTHONPATH": str(ROOT),
        }
        self.log = folder / "worker.log"

    def work(self, **env: str) -> subprocess.Popen[str]:
        with self.log.open("a") as log:
            process: subprocess.Popen[str] = self._run_module(
                "workers.engine.worker", cwd=self.folder, env=self.env | env, stdout=log
            )
        return process

    def tail(self, *arguments: str, until: str = "workers tell what they handle") -> Tail:
        """Start the command; workers tell it from then on, or it has said something else."""
        found = Tail(self, arguments)
        self._wait_for(lambda: until in found.said(), 30, "listening")
        return found

    def post(self, *bodies: bytes) -> None:
        for body in bodies:
            assert self.receiver.post(body).status == 200


class Tail:
    """`wa-ingest tail` in a process of its own."""

    def __init__(self, pipeline: Pipeline, arguments: tuple[str, ...]) -> None:
        name = f"tail{len(list(pipeline.folder.glob('tail*.out')))}"
        self._out, self._err = (pipeline.folder / f"{name}.{end}" for end in ("out", "err"))
        with self._out.open("w") as out, self._err.open("w") as err:
            self.process: subprocess.Popen[str] = pipeline._run_module(
                "workers.cli", "tail", *arguments, cwd=pipeline.folder, env=pipeline.env, stdout=out, stderr=err
            )

    def said(self) -> str:
        return self._err.read_text()

    def lines(self) -> list[str]:
        return self._out.read_text().splitlines()

    def events(self) -> list[Any]:
        return [json.loads(line) for line in self.lines()]

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(30)


@pytest.fixture
def pipeline(
    start_receiver: Any,  # noqa: F811
    run_module: Any,
    wait_for: Any,
    tmp_path: Path,
    redis: Redis,
    redis_url: str,
) -> Pipeline:
    """The receiver runs, and so does a worker."""
    found = Pipeline(start_receiver, run_module, wait_for, tmp_path, redis_url)
    found.work()
    wait_for(lambda: "worker started" in found.log.read_text())
    return found


def test_lines(pipeline: Pipeline, wait_for: Callable[..., None]) -> None:
    """Each event is a line of what it is, how it ended and in which handlers, without what is personal, and Ctrl-C ends
    it with 0.
    """
    tail = pipeline.tail()
    pipeline.post(message_body("wamid.1"), message_body("wamid.2", text={"body": "broken"}), status_body(status="read"))
    wait_for(lambda: len(tail.lines()) >= 3)
    shown = "\n".join(sorted(re.sub(r"\s+", " ", line)[9:] for line in tail.lines()[:3]))
    parts = shown.splitlines()
    assert re.fullmatch(
        r"message text …0001 failed \S+ ms bot.answer, bot.collect bot.answer: ValueError at \S*bot.py:\d+", parts[0]
    ), shown
    assert re.fullmatch(r"message text …0001 handled \S+ ms bot.answer, bot.collect", parts[1]), shown
    assert re.fullmatch(r"status read …0001 discarded \S+ ms bot.drop", parts[2]), shown
    assert not [word for word in PERSONAL if word in shown + tail.said()]
    assert tail.interrupt() == 0
    said = pipeline.receiver.log() + pipeline.log.read_text()
    assert not [word for word in (*PERSONAL, TOKEN, "Traceback") if word in said]


def test_what_no_handler_got_has_a_line(pipeline: Pipeline, wait_for: Callable[..., None]) -> None:
    """A copy of what came before, in a later batch or in the same one, and what no handler takes, say so."""
    tail = pipeline.tail()
    pipeline.post(message_body("wamid.1"))
    wait_for(lambda: len(tail.lines()) >= 1)
    pipeline.post(message_body("wamid.1"), message_body("wamid.1"), status_body(status="sent"))
    wait_for(lambda: len(tail.lines()) >= 4)
    shown = sorted(re.sub(r"\s+", " ", line)[9:] for line in tail.lines()[1:])
    copy, unwanted = "duplicate 0.0 ms a copy of what came before", "unhandled 0.0 ms no handler takes it"
    assert shown == [f"message text …0001 {copy}"] * 2 + [f"status sent …0001 {unwanted}"]


def test_json(pipeline: Pipeline, wait_for: Callable[..., None]) -> None:
    """With --json a program gets the same; numbers, ids and bodies only with --personal."""
    usual, personal = pipeline.tail("--json"), pipeline.tail("--json", "--personal")
    pipeline.post(message_body("wamid.1"))
    wait_for(lambda: usual.lines() and personal.lines())
    (one,), (other,) = usual.events(), personal.events()
    assert {*one} == {
        *("at", "kind", "type", "business", "contact", "handlers", "outcome", "error", "ms", "attempt"),
        *("notification", "event"),
    }
    assert (one["kind"], one["contact"], one["outcome"], one["attempt"]) == ("message", "…0001", "handled", 1)
    assert not [word for word in PERSONAL if word in usual.lines()[0]]
    assert {*other} == {*one, "id", "body"}
    assert (other["contact"], other["id"]) == ("15550001", "wamid.1")
    (event,) = parse(other["body"].encode(), 0)
    assert event.raw["text"]["body"] == "Hello"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (("--kind", "status"), {"status read", "status sent"}),
        (("--type", "read", "--type", "image"), {"status read", "message image"}),
        (("--contact", "+15550002"), {"message image"}),
        (("--business", "nobody"), set()),
    ],
)
def test_filters(
    pipeline: Pipeline, wait_for: Callable[..., None], arguments: tuple[str, ...], shown: set[str]
) -> None:
    """Only what was asked for is shown."""
    all_of_it, some = pipeline.tail("--json"), pipeline.tail("--json", *arguments)
    pipeline.post(message_body("1"), message_body("2", "15550002", type="image", image={"id": "1"}))
    pipeline.post(status_body(status="read"), status_body("s2", status="sent"))
    wait_for(lambda: len(all_of_it.lines()) == 4)
    wait_for(lambda: len(some.lines()) >= len(shown))
    some.interrupt()
    assert {f"{one['kind']} {one['type']}" for one in some.events()} == shown


def test_forward(pipeline: Pipeline, wait_for: Callable[..., None], application: Any, redis: Redis) -> None:  # noqa: F811
    """Each event is posted once, as destinations post it, and the answer is shown; whatever it is, nothing is owed."""
    app = application()
    tail = pipeline.tail("--forward", app.url, "--type", "text")
    pipeline.post(message_body("wamid.1"))
    wait_for(lambda: len(tail.lines()) == 1)
    assert tail.lines()[0].endswith("→ 200")
    (post,) = app.posts
    (event,) = parse(post.body, 0)
    assert event.raw["id"] == "wamid.1"  # type: ignore[union-attr]
    assert re.fullmatch("[0-9a-f]{32}", post.headers["x-wa-event"])
    assert (post.headers["x-wa-attempt"], post.headers["content-type"]) == ("1", "application/json")
    assert post.headers["x-wa-notification"]
    assert not [word for word in PERSONAL if word in tail.lines()[0]]
    app.stop()
    pipeline.post(message_body("wamid.2"))
    wait_for(lambda: len(tail.lines()) == 2)
    assert tail.lines()[1].endswith(f"→ not reached: connection refused: {app.host.removeprefix('http://')}")
    wait_for(lambda: not redis.exists(keys.LEDGER))
    assert redis.xlen(keys.dead_key("messages")) == 0


def test_each_try_is_shown_and_one_is_forwarded(
    pipeline: Pipeline,
    wait_for: Callable[..., None],
    application: Any,  # noqa: F811
) -> None:
    """A further try of an event is a line that says so; the application got it with the first."""
    app = application()
    tail = pipeline.tail("--forward", app.url)
    pipeline.post(message_body("wamid.1", text={"body": "later"}))
    wait_for(lambda: len(tail.lines()) == 2)
    first, second = tail.lines()
    assert " failed " in first
    assert first.endswith("→ 200")
    assert " handled " in second
    assert "  try 2: " in second
    assert "→" not in second
    assert len(app.posts) == 1


def test_a_flood_is_counted(pipeline: Pipeline, wait_for: Callable[..., None], redis: Redis) -> None:
    """What is more than a worker tells in a second is counted, and the sum is right."""
    tail = pipeline.tail("--json", "--kind", "status")
    pipeline.post(json.dumps({"statuses": [{"id": str(n), "status": "sent"} for n in range(1500)]}).encode())

    def told() -> int:
        return sum(one.get("dropped", 1) for one in tail.events())

    wait_for(lambda: told() >= 1500)
    assert told() == 1500
    assert 200 <= len([one for one in tail.events() if "kind" in one]) < 1500


def test_nobody_listens_any_more(pipeline: Pipeline, wait_for: Callable[..., None], redis: Redis) -> None:
    """Who has ended, in order or not, is not told any more; the pipeline goes on."""
    tail, killed = pipeline.tail(), pipeline.tail()
    assert redis.zcard(keys.LISTENERS) == 2
    tail.interrupt()
    killed.process.kill()
    wait_for(lambda: not redis.exists(keys.LISTENERS), 60)
    pipeline.post(message_body("1"))
    wait_for(lambda: not redis.exists(keys.LEDGER))


def test_the_receiver_starts_again(pipeline: Pipeline, wait_for: Callable[..., None], start_receiver: Any) -> None:  # noqa: F811
    """A listener says that the receiver is away, and listens again when it is back."""
    tail = pipeline.tail("--json")
    before = pipeline.receiver
    assert before.stop() == 0
    wait_for(lambda: "trying again" in tail.said())
    pipeline.receiver = start_receiver(
        pipeline.env["WA_REDIS_URL"], WA_ADMIN_TOKEN=TOKEN, port=before.port, admin_port=before.admin_port
    )

    def told() -> bool:
        pipeline.post(message_body(os.urandom(4).hex()))
        return bool(tail.lines())

    wait_for(told, 60)


def test_several_redis(
    start_receiver: Any,  # noqa: F811
    run_module: Any,
    wait_for: Any,
    tmp_path: Path,
    two: list[Redis],
    redis_url: str,
) -> None:
    """Workers of every Redis tell."""
    urls = [f"{redis_url}?db={n}" for n in (0, 1)]
    for one in two:
        one.flushdb()
    pipeline = Pipeline(start_receiver, run_module, wait_for, tmp_path, ",".join(urls))
    tail = pipeline.tail("--json", until="listening at")
    for url in urls:
        pipeline.work(WA_REDIS_URL=url)
    pipeline.post(*(message_body(str(n), f"1555{n:04}") for n in range(40)))
    wait_for(lambda: len(tail.lines()) >= 40)
    pipeline.post(message_body("last", "1555"))
    wait_for(lambda: len(tail.lines()) >= 41)
    assert len(tail.lines()) == 41  # though channels are of the whole server


def test_refused(start_receiver: Any, redis_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # noqa: F811
    """No token here, none at the receiver, a wrong one, nobody there: one line with cause and remedy, exit status 1."""

    def said(receiver: Any, **env: str) -> str:
        port = receiver.admin_port if receiver else 1
        done = CliRunner().invoke(main, ["tail", "--admin", f"http://127.0.0.1:{port}", *file], env=env)
        assert done.exit_code == 1
        assert len(done.stderr.splitlines()) == 1, done.stderr
        return done.stderr

    file: list[str] = []
    without = CliRunner().invoke(main, ["tail"])
    assert "WA_ADMIN_TOKEN is not set: give the receiver's" in without.stderr
    assert "and none runs in this folder" in without.stderr
    assert "WA_ADMIN_TOKEN is not set: give the receiver's" in said(None)
    assert "no receiver answers at http://127.0.0.1:1" in said(None, WA_ADMIN_TOKEN=TOKEN)
    open_to_nobody = start_receiver(redis_url)
    assert "this receiver has no WA_ADMIN_TOKEN: set it" in said(open_to_nobody, WA_ADMIN_TOKEN=TOKEN)
    receiver = start_receiver(redis_url, WA_ADMIN_TOKEN=TOKEN)
    assert "this is not the token in WA_ADMIN_TOKEN" in said(receiver, WA_ADMIN_TOKEN="another-long-token")
    (tmp_path / "token").write_text("another-long-token\n")
    file = ["--token-file", str(tmp_path / "token")]
    assert "this is not the token in WA_ADMIN_TOKEN" in said(receiver)
    (tmp_path / "token").write_bytes(b"\xff" * 20)
    assert "--token-file: cannot read" in said(receiver)
    (tmp_path / "token").write_text("a token\nof two lines")
    assert "WA_ADMIN_TOKEN: give 16 or more" in said(receiver)


@pytest.mark.parametrize("arguments", [("--admin", "127.0.0.1:9100"), ("--forward", "http://"), ("--kind", "profile")])
def test_wrong_usage(arguments: tuple[str, ...]) -> None:
    """An address that is none, or a kind that no event has, is wrong usage: exit status 2."""
    assert CliRunner().invoke(main, ["tail", *arguments]).exit_code == 2
