"""The file `.env` of the working folder."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ingest.store import local
from workers.cli import beside, env_file
from workers.cli.main import main

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder of its own; what a command takes is gone afterwards."""
    monkeypatch.chdir(tmp_path)
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
    env_file.taken.clear()


@pytest.fixture
def values() -> Callable[[], dict[str, str]]:
    """What `wa-ingest settings` finds in force."""

    def run() -> dict[str, str]:
        result = CliRunner().invoke(main, ["settings", "--json"])
        assert result.exit_code == 0, result.stderr
        return {name: one["value"] for name, one in json.loads(result.stdout).items()}

    return run


def _wa(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_its_variables_count_behind_the_environment(
    values: Callable[[], dict[str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Quotes, `export`, comments and ${NAME} are read as Compose reads them; what the environment says goes before,
    also as a NAME_FILE; handlers find their own variables; an empty value counts as unset.
    """
    (tmp_path / "threads").write_text("3")
    monkeypatch.setenv("WA_CONCURRENCY", "7")
    monkeypatch.setenv("WA_THREADS_FILE", "threads")
    Path(".env").write_text(
        "# mine\nexport WA_HANDLER_TIMEOUT='9s'  # long\nWA_CONCURRENCY=8\nWA_THREADS=9\nMODEL_TOKEN=t\n"
        'WA_PATH="/${MODEL_TOKEN}"\nWA_APP_SECRET=\n'
    )
    found = values()
    assert (found["WA_HANDLER_TIMEOUT"], found["WA_CONCURRENCY"], found["WA_THREADS"]) == ("9s", 7, 3)
    assert (found["WA_PATH"], found["WA_APP_SECRET"], os.environ["MODEL_TOKEN"]) == ("/t", None, "t")


def test_children_have_them() -> None:
    """They are in the environment of what a command starts."""
    Path(".env").write_text("WA_HANDLERS=other:handlers\n")
    assert _wa("settings").exit_code == 0
    child = [sys.executable, "-c", "import os; print(os.environ['WA_HANDLERS'])"]
    assert subprocess.run(child, capture_output=True, check=True).stdout == b"other:handlers\n"


def test_no_file(values: Callable[[], dict[str, str]]) -> None:
    """Where there is none, or a folder of that name, as some call an environment of Python, nothing is read."""
    assert values()["WA_THREADS"] == 8
    Path(".env").mkdir()
    assert values()["WA_THREADS"] == 8


def test_not_in_the_image(values: Callable[[], dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """A container gets its variables from Compose; the file in its mounted folder is for an `up` outside."""
    Path(".env").write_text("WA_LISTEN=127.0.0.1:8081\n")
    (image,) = re.findall(r"\b(INGEST_IMAGE)=1", (ROOT / "Dockerfile").read_text())
    monkeypatch.setenv(image, "1")
    assert values()["WA_LISTEN"] == "0.0.0.0:8080"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"WA_THREADS=\xff", "Error: .env in this folder cannot be read: it is not text in UTF-8"),
        (b"WA_THREADS=many", "Error: WA_THREADS: it must be a whole number, not 'many' (in .env)"),
    ],
)
def test_what_cannot_be_read_is_one_line(content: bytes, says: str) -> None:
    """A file or a value that is wrong ends the command with one line that names it."""
    Path(".env").write_bytes(content)
    result = _wa("settings")
    assert result.exit_code == 1
    assert result.stderr.startswith(says)
    assert len(result.stderr.splitlines()) == 1


def test_lines_that_are_no_assignment_are_named(values: Callable[[], dict[str, str]]) -> None:
    """One such line is left out with a warning; the others count."""
    Path(".env").write_text("WA_THREADS=3\n\nWA_PATH='/open\nWA_CONCURRENCY=5\n")
    result = _wa("settings", "--json")
    assert result.exit_code == 0
    assert result.stderr.splitlines()[0] == "Warning: line 3 of .env is left out: it is not NAME=value"
    assert json.loads(result.stdout)["WA_THREADS"]["value"] == 3


def test_variables_of_compose_files_are_no_mistakes() -> None:
    """Compose's own variables stand in the same file and give no warning; what is nearly a setting does, with the name
    that may be meant.
    """
    Path(".env").write_text("WA_WORKER_CONTAINERS=3\nWA_WORKER_PROCESSES=2\nWA_APP_SECERT=s\n")
    (line,) = _wa("settings").stderr.splitlines()
    assert line.startswith("Warning: WA_APP_SECERT is no setting")
    assert line.endswith("did you mean WA_APP_SECRET?")


def test_an_up_beside_goes_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """An `up` that got another value from its shell is found by the commands beside it, whatever `.env` says."""
    monkeypatch.delenv("WA_REDIS_URL", raising=False)
    monkeypatch.setattr(local, "running", lambda *_: True)
    local.DATA.mkdir(mode=0o700)
    (local.DATA / beside._FILE).write_text(json.dumps({"variables": {"WA_ADMIN_LISTEN": "127.0.0.1:7"}, "secret": []}))
    Path(".env").write_text("WA_ADMIN_LISTEN=127.0.0.1:8\nWA_THREADS=5\n")
    env_file.take()
    beside.take()
    assert (os.environ["WA_ADMIN_LISTEN"], os.environ["WA_THREADS"]) == ("127.0.0.1:7", "5")
