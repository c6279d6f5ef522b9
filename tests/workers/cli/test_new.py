"""`wa-ingest new`: the bot that it makes works as it is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ingest.settings import Settings, load, variable
from tests.workers.cli.conftest import Folder
from workers.cli.main import main
from workers.cli.new import FILES

ROOT = Path(__file__).parents[3]


def _new(folder: Path) -> Result:
    return CliRunner().invoke(main, ["new", str(folder)])


@pytest.fixture
def bot(tmp_path: Path) -> Path:
    """A new bot."""
    made = _new(tmp_path / "mybot")
    assert made.exit_code == 0, made.stderr
    return tmp_path / "mybot"


def _python(folder: Path, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_in_it(bot: Path) -> None:
    """All of it is there, and the README names each file that one is to look at."""
    assert {path.name for path in bot.iterdir()} == set(FILES)
    readme = (bot / "README.md").read_text()
    assert [name for name in FILES if f"`{name}`" not in readme] == [".gitignore", "README.md"]


def test_its_tests_pass(bot: Path) -> None:
    """Its own tests pass, from its folder, without a warning; they fail when the bot does not answer."""
    _python(bot, "-m", "pytest", "-p", "no:cacheprovider", "-W", "error")
    text = (bot / "bot.py").read_text()
    (bot / "bot.py").write_text(text.replace("await send(", "send("))
    with pytest.raises(AssertionError):
        _python(bot, "-m", "pytest", "-p", "no:cacheprovider")


def test_it_is_typed_and_tidy(bot: Path, tmp_path: Path) -> None:
    """mypy --strict and ruff find nothing in it."""
    pytest.importorskip("mypy")
    _python(bot, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), ".")
    _python(bot, "-m", "ruff", "check", "--no-cache", "--isolated", "--select", "E,F,I,UP,B", ".")
    _python(bot, "-m", "ruff", "format", "--no-cache", "--isolated", "--check", ".")


def test_up_runs_it(folder: Folder, wait_for: Callable[..., None]) -> None:
    """`up` in its folder needs no setting: it answers a message, and other commands there know the bot."""
    (folder.path / "bot.py").unlink()
    assert _new(folder.path).exit_code == 0
    del folder.own["WA_HANDLERS"]
    up = folder.start("up")
    wait_for(lambda: "Ctrl-C stops" in folder.log() or up.poll() is not None, 60)
    assert "1 running bot:handlers" in folder.log()
    assert folder.post() == 200
    wait_for(lambda: "to 15550001: 'You wrote: Hello'" in folder.log())
    up.terminate()
    assert up.wait(40) == 0
    _, lines = folder.run("handlers")
    assert "bot.answer" in "\n".join(lines)


def test_a_folder_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with something in it is left as it is, in one line; so is a file. An empty folder is filled."""
    full, file, empty = tmp_path / "full", tmp_path / "file", tmp_path / "empty"
    full.mkdir()
    (full / "mine").write_text("mine")
    file.write_text("mine")
    empty.mkdir()
    for path, why in ((full, "is not empty: name a folder"), (file, "cannot be made: File exists")):
        done = _new(path)
        assert done.exit_code == 1
        assert done.stderr.startswith(f"Error: {path} {why}")
        assert len(done.stderr.splitlines()) == 1
    assert [path.name for path in full.iterdir()] == ["mine"]
    monkeypatch.chdir(empty)
    assert _new(Path()).exit_code == 0
    assert Path("bot.py").is_file()


def test_the_example_of_its_env(bot: Path) -> None:
    """A shell reads it; what it names are settings, or what the bot itself reads; empty, they count as unset."""
    example = (bot / ".env.example").read_text()
    names = re.findall(r"^(\w+)=$", example, re.MULTILINE)
    settings = {variable(name) for name in Settings.model_fields}
    own = set(re.findall(r'environ\.get\("(\w+)"\)', (bot / "bot.py").read_text()))
    assert set(names) - settings == own
    command = f"set -a; . ./.env.example; set +a; exec {sys.executable} -m workers.cli settings"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(["sh", "-c", command], cwd=bot, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_default_handlers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without WA_HANDLERS it is bot:handlers where there is a bot.py, else what prints; what is set counts first."""
    monkeypatch.chdir(tmp_path)
    assert load().handlers == "workers.printing:handlers"
    (tmp_path / "bot.py").touch()
    assert load().handlers == "bot:handlers"
    monkeypatch.setenv("WA_HANDLERS", "other:handlers")
    assert load().handlers == "other:handlers"
