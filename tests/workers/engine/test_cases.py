"""Sequences that the field has reported, through Redis and workers: what handlers are called with, and when."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from workers import Handlers

ROOT = Path(__file__).parents[3]
CASES = ROOT.parent / "shared" / "cases"

pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not here")


def bodies(name: str) -> list[bytes]:
    return list(map(orjson.dumps, orjson.loads((CASES / f"{name}.json").read_bytes())["bodies"]))


@pytest.fixture
def news(commit: Callable[..., None], take: Any, runner: Callable[..., Any]) -> Callable[[str], list[Any]]:
    """Deliver a sequence, a second apart: what handlers got, messages by id, profiles by what is old and new."""

    def run(name: str) -> list[Any]:
        handlers, found = Handlers(), []
        handlers.message()(lambda message: found.append(message.id))
        handlers.profile()(lambda profile: found.append((dict(profile.old), dict(profile.new))))
        made = runner(handlers)
        for n, body in enumerate(bodies(name)):
            commit(body, received_ms=1_700_000_000_000 + 1000 * n)
            while isinstance(taken := take(), tuple):
                made.run(*taken)
        return found

    return run


def test_news_of_a_copy(news: Any) -> None:
    """live-T6c: a copy to which the user id was added is no second message; what it adds is no news, but known."""
    assert news("live-T6c-copy-with-user-id-added") == ["t6-4"]


def test_nobody_gets_news_of_another(news: Any) -> None:
    """live-T9: one contact's number changes beside a message of another; only that is told, and of the right one."""
    found = news("live-T9-lone-contact-of-another")
    ids = [one for one in found if isinstance(one, str)]
    assert sorted(ids) == [f"t9-{n}" for n in range(max(5, len(ids)))]  # two of them are of one body and two contacts
    assert [one for one in found if not isinstance(one, str)] == [
        (
            {"number": "16505550302", "user_id": None},
            {"number": "16505550303", "user_id": "US.55550000000000000002"},
        )
    ]


def test_the_link_of_user_ids_is_not_lost(news: Any) -> None:
    """live-T10: a new user id is told with the former one, and what comes under the new one is the same contact."""
    first, second = "US.66660000000000000001", "US.66660000000000000002"
    assert news("live-T10-user-id-link-lost") == [
        "t10-1",
        "t10-2",
        ({"user_id": first}, {"user_id": second}),
        "t10-3",
        ({"name": None}, {"name": "Dora Other"}),
    ]


RECORDER = """
import os, time
from workers import Handlers

handlers = Handlers()

def note(*words):
    with open("seen", "a") as file:
        print(*words, os.getpid(), time.monotonic(), file=file)

@handlers.message()
@handlers.status()
def record(event):
    note("begins", event.id, event.subject)
    time.sleep(float(os.environ["SECONDS"]))
    note("ends", event.id, event.subject)
"""


@pytest.fixture
def work(run_module: Any, commit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Two workers take these bodies, a batch each: the lines that their handler writes, split into words."""
    (tmp_path / "recorder.py").write_text(RECORDER)
    monkeypatch.setenv("WA_HANDLERS", "recorder:handlers")
    monkeypatch.setenv("WA_PARTITIONS", "8")

    def run(*several: bytes, seconds: float) -> list[Any]:
        monkeypatch.setenv("SECONDS", str(seconds))
        for body in several:
            commit(body, batch=1)
        workers = [run_module("workers.engine.worker", "--burst", cwd=tmp_path) for _ in range(2)]
        for worker in workers:
            assert worker.wait(60) == 0
        lines = [line.split() for line in (tmp_path / "seen").read_text().splitlines()]
        return sorted(lines, key=lambda words: float(words[-1]))

    return run


@pytest.mark.parametrize("name", ["live-T3-one-contact-two-keys", "live-T3b-both-then-user-id"])
def test_one_contact_one_order(work: Any, name: str) -> None:
    """live-T3, live-T3b: named by number, by both or by user id, a contact's messages are handled in order, and none
    begins before the one before has ended, whichever worker has it."""
    sequence = bodies(name)
    ids = [orjson.loads(body)["entry"][0]["changes"][0]["value"]["messages"][0]["id"] for body in sequence]
    lines = work(*sequence, seconds=0.2)
    assert [words[:2] for words in lines] == [[what, id] for id in ids for what in ("begins", "ends")]


def test_two_workers_and_one_message(work: Any) -> None:
    """live-T7: two statuses of a message, in batches of their own, are never at work at the same time in two workers;
    those of other messages are."""
    first, second = (body.decode() for body in bodies("live-T7-two-workers-one-message"))
    several = [body.replace("wamid.T7", f"wamid.T7-{n}").encode() for n in range(6) for body in (first, second)]
    lines = work(*several, seconds=0.5)
    open_ones: set[str] = set()
    most = 0
    for what, id, *_ in lines:
        assert (id in open_ones) == (what == "ends"), json.dumps(lines)
        open_ones ^= {id}
        most = max(most, len(open_ones))
    assert most > 1
    assert len(lines) == 2 * len(several)
