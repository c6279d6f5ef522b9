"""What a newcomer is told to type is carried out: commands that last are started, harmless ones run beside them."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from string import Template

import pytest
import trustme
from redis import Redis

from ingest.store import keys
from ingest.store.local import socket_path
from tests.conftest import wait_for
from tests.docs.snippets import COMMANDS, ROOT, Command, lay_out
from tests.ingest.conftest import port_below_ephemeral, settled_environment

TRIED = ("README.md", "docs/handlers.md")
"""The pages on which what lasts (`up`, `serve`, `work`) is started."""

HARMLESS = ("status", "check", "settings", "handlers", "call", "archive", "pause", "resume", "limit", "dead list")
"""Commands that look, or that another one takes back: carried out, from whatever page."""

FOR_EVER = {"--watch"}
"""Keeps a harmless command from ending: tests/workers/cli has a test of its own for it."""


def _ours(shown: Command, *names: str) -> bool:
    """Is it one of these commands of `wa-ingest`, written out: no form of one?"""
    called = " ".join(word for word in shown.words[1:] if word.isalpha())
    named = any(f"{called} ".startswith(f"{name} ") for name in names)
    return shown.words[:1] == ("wa-ingest",) and named and not shown.is_form and not FOR_EVER & set(shown.words)


ON_TRIED = [one for one in COMMANDS if one.where.startswith(TRIED)]
UP = [one for one in ON_TRIED if _ours(one, "up") and "WA_HANDLERS" in dict(one.variables)]
LASTING = [one for one in ON_TRIED if _ours(one, "serve", "work")]
ENDING = {one.words: one for one in COMMANDS if one.words[:1] == ("curl",) or _ours(one, *HARMLESS)}.values()


class Running:
    """A command that lasts, in a folder of its own."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes], env: dict[str, str]) -> None:
        self.folder, self.process, self.env = folder, process, env

    def said(self) -> str:
        return (self.folder / "log").read_text()

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for something, unless the command ends meanwhile."""
        wait_for(lambda: condition() or self.process.poll() is not None, 60, what)
        assert self.process.poll() is None, self.said()

    def answers(self) -> bool:
        """Does its admin listener say that it runs?"""
        with suppress(OSError), urllib.request.urlopen(f"http://{self.env['WA_ADMIN_LISTEN']}/healthz"):
            return True
        return False

    def run(self, *words: str) -> str:
        """Run another command there, as from a second terminal; it must succeed."""
        env = self.env | {"WA_REDIS_URL": f"unix://{socket_path(self.folder / 'data')}"}
        ran = subprocess.run(_real(words, env), cwd=self.folder, env=env, capture_output=True, text=True, timeout=60)
        assert ran.returncode == 0, f"{ran.stdout}{ran.stderr}{self.said()}"
        return ran.stdout

    def interrupt(self) -> int:
        """Ctrl-C, and the status that it ends with."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)


def _real(words: tuple[str, ...], env: dict[str, str]) -> list[str]:
    """A command line with this version's program, the ports of this test, and variables filled in as a shell does."""
    if words[0] == "wa-ingest":
        return [sys.executable, "-m", "workers.cli", *words[1:]]
    ports = {"localhost:8080": env["WA_LISTEN"], "127.0.0.1:9100": env["WA_ADMIN_LISTEN"]}
    filled = [Template(word).safe_substitute(env) for word in words[1:]]
    moved = [re.sub("|".join(ports), lambda found: ports[found[0]], word) for word in filled]
    return [words[0], "--fail", "--silent", "--show-error", *moved]


@contextmanager
def start(folder: Path, words: tuple[str, ...], **variables: str) -> Iterator[Running]:
    """Start a command, and end it with the block whatever happens."""
    listeners = {f"WA_{name}LISTEN": f"127.0.0.1:{port_below_ephemeral()}" for name in ("", "ADMIN_")}
    fixed = {"PYTHONPATH": ROOT, "PYTHONUNBUFFERED": "1", "WA_ADMIN_TOKEN": "let-me-in-as-an-operator"}
    env = settled_environment(**fixed | listeners | variables)
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            _real(words, env),
            cwd=folder,
            env=env,
            stdout=log,
            stderr=log,
            # A background job of a shell ignores SIGINT, and so would its children.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    try:
        yield Running(folder, process, env)
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.parametrize("shown", UP, ids=str)
def test_the_first_handler(shown: Command, tmp_path: Path) -> None:
    """`up` with the handlers of its page answers the `curl` line that it shows, calls them, and ends at Ctrl-C."""
    lay_out(tmp_path, shown.page)
    with start(tmp_path, shown.words, **dict(shown.variables)) as up:
        up.until(lambda: "Ctrl-C stops" in up.said(), "the start")
        (line,) = re.findall(r"^ +(curl .*)$", up.said(), re.MULTILINE)
        assert "200 OK" in up.run(*shlex.split(line, comments=True))
        up.until(lambda: "15550001 wrote 'Hello'" in up.said(), "the handler's line")
        assert up.interrupt() == 0
        assert "Traceback" not in up.said()


@pytest.mark.parametrize("shown", LASTING, ids=str)
def test_what_lasts_is_started(shown: Command, redis: Redis, redis_url: str, tmp_path: Path) -> None:
    """`serve` and `work` as the page shows them are soon at work, and end at Ctrl-C."""
    certificate = trustme.CA().issue_cert("localhost")
    files = {"WA_TLS_CERT": certificate.cert_chain_pems[0], "WA_TLS_KEY": certificate.private_key_pem}
    for name, value in shown.variables:
        if name in files:
            files[name].write_to_path(tmp_path / value)
    own = {"WA_REDIS_URL": redis_url, "WA_HANDLERS": "examples.printing:handlers"}
    with start(tmp_path, shown.words, **own | dict(shown.variables)) as running:
        running.until(lambda: running.answers() or redis.zcard(keys.ALIVE), "the start")
        assert running.interrupt() == 0
        assert "Traceback" not in running.said()


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """`wa-ingest up` with the handlers of docs/handlers.md, those that other pages name, and an archive."""
    folder = lay_out(tmp_path_factory.mktemp("up"), "docs/handlers.md")
    (folder / "archive").mkdir()
    with (folder / "bot.py").open("a") as bot:
        bot.write("\n@handlers.message('text')\ndef on_message(message): ...\n")
    (folder / "crm.toml").write_text('[[destination]]\nname = "crm"\nurl = "http://127.0.0.1:9/"\nfields = ["flows"]\n')
    named = {"WA_HANDLERS": "bot:handlers", "WA_DESTINATIONS": "crm.toml", "WA_ARCHIVE_DIR": "archive"}
    with start(folder, ("wa-ingest", "up"), **named) as running:
        running.until(lambda: "Ctrl-C stops" in running.said(), "the start")
        yield running


@pytest.mark.parametrize("shown", ENDING, ids=str)
def test_what_ends_succeeds(shown: Command, up: Running) -> None:
    """Each harmless command, and each request by curl, succeeds beside a running `up`."""
    up.run(*shown.words)


def test_something_is_carried_out() -> None:
    """The pages show lines of each kind, so that none of the tests above is empty."""
    assert {one.page for one in UP} == set(TRIED)
    assert {one.words[1] for one in LASTING} == {"serve", "work"}
    assert {"wa-ingest", "curl"} == {one.words[0] for one in ENDING}
