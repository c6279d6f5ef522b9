"""Commands in the folder of a running `up`: they take its settings where their own environment says nothing."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from ingest.settings import load
from ingest.store import local
from tests.workers.cli.conftest import BOT, COMMAND, Folder
from workers.cli import beside, checks
from workers.cli.terminal import diagnose


@pytest.fixture
def beside_an_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The data folder of an `up` that seems to run in the working folder, which was given some settings."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("WA_")]:
        monkeypatch.delenv(name)
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    (data / "valkey.sock").touch()
    (data / "app_secret").write_text("s3cret-in-a-file")
    given = {
        "WA_HANDLERS": "other:handlers",
        "WA_APP_SECRET_FILE": "data/app_secret",
        "WA_VERIFY_TOKEN": "s3cret",
        "WA_WORKER_METRICS_LISTEN": "127.0.0.1:9101",
    }
    with pytest.MonkeyPatch.context() as its:
        for name, value in given.items():
            its.setenv(name, value)
        beside.leave(load())
    with (data / local.LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield data


def test_an_up_is_found(folder: Folder, wait_for: Callable[..., None]) -> None:
    """What `up` was given holds for commands from another terminal, as long as it runs; what these are given themselves
    goes before. Those that only show something do so without a word."""
    folder.write("other.py", BOT.replace("def answer", "def other"))
    up = folder.start("up", WA_HANDLERS="other:handlers", WA_APP_SECRET="s3cret")
    wait_for(lambda: "Ctrl-C stops" in folder.log(), 60)

    def handlers(**env: str) -> str:
        own = {name: value for name, value in os.environ.items() if not name.startswith("WA_")}
        call = [COMMAND, "handlers", "--json"]
        done = subprocess.run(call, cwd=folder.path, env=own | env, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
        return str(json.loads(done.stdout)[0]["handler"])

    assert handlers() == "other.other"
    assert handlers(WA_HANDLERS="bot:handlers") == "bot.answer"
    assert "s3cret" not in (folder.path / "data" / "up.json").read_text()
    up.terminate()
    assert up.wait(40) == 0
    assert handlers() == "bot.answer"


def test_what_is_left(beside_an_up: Path) -> None:
    """What `up` leaves can be read by its user alone, and holds no secret's value, and no port that `work` beside it
    would want, too."""
    left = beside_an_up / "up.json"
    assert left.stat().st_mode & 0o777 == 0o600
    assert json.loads(left.read_text()) == {
        "variables": {"WA_APP_SECRET_FILE": "data/app_secret", "WA_HANDLERS": "other:handlers"},
        "secret": ["WA_VERIFY_TOKEN"],
    }


def test_what_is_taken(beside_an_up: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A setting that the environment has in whatever form, and be it empty, stays as it is there."""
    monkeypatch.setenv("WA_APP_SECRET", "")
    with pytest.MonkeyPatch.context() as its:
        its.setattr(os, "environ", dict(os.environ))
        beside.take()
        assert os.environ["WA_HANDLERS"] == "other:handlers"
        assert "WA_APP_SECRET_FILE" not in os.environ
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("beside_an_up")
def test_what_is_taken_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A command that changes something says on a terminal which settings it took; one that does not, or in a pipe, is
    silent."""
    monkeypatch.setenv("NO_COLOR", "1")
    for tells, is_terminal in ((False, True), (True, False), (True, True)):
        monkeypatch.setattr(sys.stderr, "isatty", lambda is_terminal=is_terminal: is_terminal)
        with pytest.MonkeyPatch.context() as its:
            its.setattr(os, "environ", dict(os.environ))
            beside.take(tells=tells)
    names = "WA_APP_SECRET_FILE, WA_HANDLERS"
    assert capsys.readouterr() == ("", f"with the settings of the `up` in this folder: {names}\n")


@pytest.mark.parametrize("case", ["another Redis", "its end", "a folder of others", "another version", "nothing left"])
def test_nothing_is_taken(
    case: str, beside_an_up: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A command takes nothing when it uses another Redis, nor where no `up` runs, nor from a folder that others may
    write to; what it cannot read is none of its business."""
    if case == "another Redis":
        monkeypatch.setenv("WA_REDIS_URL", "redis://127.0.0.1:1")
    elif case == "its end":
        (beside_an_up / local.LOCK).unlink()
    elif case == "a folder of others":
        beside_an_up.chmod(0o777)
    elif case == "another version":
        (beside_an_up / "up.json").write_text('{"variables": {}, "news": 1}')
    else:
        (beside_an_up / "up.json").unlink()
    before = dict(os.environ)
    beside.take()
    assert (dict(os.environ), beside.secrets()) == (before, [])
    assert capsys.readouterr() == ("", "")


def test_check_knows_of_secrets(beside_an_up: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`check` does not warn of a guard or a token that the `up` has, though it does not know their values."""
    left = beside_an_up / "up.json"
    left.write_text(json.dumps({"variables": {}, "secret": ["WA_BASIC_AUTH", "WA_VERIFY_TOKEN"]}))
    found = {one.name: one for one in checks._edge(load())}
    assert (found["senders"].result, found["senders"].finding) == ("ok", "who may post is decided by Basic auth")
    assert "handshake" not in found
    left.unlink()
    found = {one.name: one for one in checks._edge(load())}
    assert (found["senders"].result, found["handshake"].result) == ("warning", "warning")


@pytest.mark.parametrize(
    ("case", "says"),
    [
        (
            "its server was killed",
            "Redis is not reachable: ConnectionError: refused; it is that of the `up` in this folder",
        ),
        ("it stops", "the `up` of this folder is starting or stopping; try again in a moment"),
        ("it has stopped", "the `up` of this folder has stopped; run `wa-ingest up`"),
        ("another Redis", "Redis is not reachable: ConnectionError: refused; see WA_REDIS_URL, and that it runs"),
    ],
)
def test_its_server_is_away(case: str, says: str, beside_an_up: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That `up` starts its server again is said only while it lives and does not stop."""
    if case == "it stops":
        (beside_an_up / "valkey.sock").unlink()
    elif case == "it has stopped":
        (beside_an_up / local.LOCK).unlink()
    elif case == "another Redis":
        monkeypatch.setenv("WA_REDIS_URL", "redis://127.0.0.1:1")
    assert str(diagnose(redis.exceptions.ConnectionError("refused"))).startswith(says)


@pytest.mark.usefixtures("beside_an_up")
def test_errors_that_say_more() -> None:
    """What Redis answers, and what is no error of Redis, is told as it is."""
    assert str(diagnose(redis.exceptions.BusyLoadingError())).startswith("Redis is loading its data; ")
    assert "`up`" not in str(diagnose(PermissionError("data")))
