"""WA_HANDLERS: what it may name, and what is said when that is wrong or hidden by another module."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis

import ingest
import workers
from ingest import child
from ingest.state import backlog
from workers.loading import explain, hidden, load
from workers.raised import HandlersError

BOT = "from workers import Handlers\nhandlers = Handlers()\n\n@handlers.message()\ndef answer(message): ...\n"
Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write a file of the user's, who works in that folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    yield write
    for module in set(sys.modules) - before:
        del sys.modules[module]


def _trial(folder: Path, name: str) -> tuple[int, list[str]]:
    """Status and lines of `python -m workers.loading`, as the commands start it."""
    command = child.command("workers.loading", name)
    with subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(Path(workers.__file__).parents[1])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        said = process.stdout.read()
        return process.wait(30), said.splitlines()


def test_a_file(write: Write, tmp_path: Path) -> None:
    """A path is one from the working folder, or absolute; the module has the file's name."""
    write("src/bot.py", BOT)
    found = load("src/bot.py:handlers")
    assert [handler.name for handler in found.registered] == ["bot.answer"]
    assert load(f"{tmp_path}/src/bot.py:handlers") is found


def test_modules_beside_a_file(write: Write) -> None:
    """A file imports what lies beside it and in the working folder, and what lies beside it imports the same module."""
    write("src/bot.py", BOT + "import mate\nimport friend\n")
    write("src/mate.py", "from bot import handlers\nhandlers.status()(print)\n")
    write("friend.py", "from bot import handlers\nhandlers.error()(print)\n")
    assert [handler.kind for handler in load("src/bot.py:handlers").registered] == ["message", "status", "error"]
    assert sys.path[-2:] == [os.path.abspath("src"), os.getcwd()]


@pytest.mark.parametrize("name", ["queue", "workers", "ingest", "json", "sys", "__main__"])
def test_a_file_whose_name_another_module_has(write: Write, name: str) -> None:
    """It is loaded all the same, and the other module stays what it is."""
    other = sys.modules.get(name)
    write(f"{name}.py", BOT)
    found = load(f"{name}.py:handlers")
    assert [handler.name for handler in found.registered] == [f"{name}_.answer"]
    assert load(f"{name}.py:handlers") is found
    assert sys.modules.get(name) is other


def test_names_of_files_that_are_no_names_of_modules(write: Write) -> None:
    """Dots, spaces and colons in a file's name do no harm."""
    for name in ("my bot.v2.py", "a:b.py"):
        write(name, BOT)
        assert len(load(f"{name}:handlers")) == 1


def test_a_file_that_fails_is_not_kept(write: Write) -> None:
    """What failed is tried anew the next time, as with any module."""
    write("bot.py", "1/0")
    with pytest.raises(ZeroDivisionError):
        load("bot.py:handlers")
    write("bot.py", BOT)
    assert len(load("bot.py:handlers")) == 1


def test_a_file_that_is_not_there(write: Write, tmp_path: Path) -> None:
    """The line names the whole path."""
    with pytest.raises(HandlersError, match=f"^WA_HANDLERS=bot.py:handlers: there is no file {tmp_path}/bot.py$"):
        load("bot.py:handlers")


def test_the_working_folder_is_last(write: Write, tmp_path: Path) -> None:
    """What lies there hides nothing of Python's, of ours or of an installed package."""
    for name in ("colorsys", "workers", "rich"):
        write(f"{name}.py", "raise AssertionError('the wrong one')")
    write("bot.py", "import colorsys, rich, workers\n" + BOT)
    assert len(load("bot:handlers")) == 1
    assert sys.path[-1] == str(tmp_path)


@pytest.mark.parametrize(
    ("file", "name", "hides", "instead"),
    [
        ("queue.py", "queue:handlers", "queue.py", "queue.py:handlers"),
        ("workers/bot.py", "workers.bot:handlers", str(Path(workers.__file__).parent), "workers/bot.py:handlers"),
        ("ingest/sub/bot.py", "ingest.sub.bot:app.h", str(Path(ingest.__file__).parent), "ingest/sub/bot.py:app.h"),
        ("workers/__init__.py", "workers:handlers", str(Path(workers.__file__).parent), ""),
        ("time.py", "time:handlers", "Python's own time", "time.py:handlers"),
    ],
)
def test_hidden_handlers(write: Write, tmp_path: Path, file: str, name: str, hides: str, instead: str) -> None:
    """When WA_HANDLERS names a module of the user's that another one hides, the line has both and the remedy."""
    write(file, BOT)
    with pytest.raises(HandlersError) as caught:
        load(name)
    says = str(caught.value)
    assert says.startswith(f"WA_HANDLERS={name}: ")
    own = tmp_path / file.partition("/")[0]
    assert f"; {own} is hidden by " in says
    assert f"{hides}: rename it" in says
    assert says.endswith(f", or give WA_HANDLERS={instead}" if instead else ": rename it")
    assert len(says.splitlines()) == 1


@pytest.mark.parametrize(
    ("code", "own", "hides"),
    [
        ("from workers.tasks import send", "workers/tasks.py", Path(workers.__file__).parent),
        ("import ingest\ningest.save()", "ingest.py", Path(ingest.__file__).parent),
        ("from ingest import save", "ingest.py", Path(ingest.__file__).parent),
        ("from queue import mine", "queue.py", "queue.py"),
    ],
)
def test_a_module_that_the_handlers_import_is_hidden(
    write: Write, tmp_path: Path, code: str, own: str, hides: str | Path
) -> None:
    """Handlers that get another module than the user's own are told which it is."""
    write("bot.py", f"{code}\n{BOT}")
    write(own, "")
    with pytest.raises((ImportError, AttributeError)) as caught:
        load("bot:handlers")
    says = explain("bot:handlers", caught.value)
    assert says.startswith(f"WA_HANDLERS=bot:handlers: the module fails: {type(caught.value).__name__}: ")
    assert f"; {tmp_path / own.partition('/')[0]} is hidden by " in says
    assert says.endswith(f"{hides}: rename it")


def test_what_is_hidden_is_said_before_it_is_missed(write: Write, tmp_path: Path) -> None:
    """A module of the user's with the name of one of ours is named, also when nothing fails; other folders are not."""
    write("bot.py", BOT)
    assert hidden("bot:handlers") == []
    write("ingest/2026.csv", "no module")
    assert hidden("bot:handlers") == []
    write("workers/tasks.py", "")
    (line,) = hidden("bot:handlers")
    assert line.startswith(f"{tmp_path}/workers is hidden by wa-ingest's {Path(workers.__file__).parent}: ")
    write("src/ingest.py", "")
    assert len(hidden("src/bot.py:handlers")) == 2
    write("wa_ingest.py", "")  # the folder is that of wa-ingest's source: an installed one runs there
    assert hidden("bot:handlers") == []


def test_a_trial_that_succeeds_says_nothing(write: Write, tmp_path: Path) -> None:
    """Nothing but what the module prints."""
    write("bot.py", BOT + "print('hello')\n")
    assert _trial(tmp_path, "bot:handlers") == (0, ["hello"])


@pytest.mark.parametrize(
    ("code", "says", "above"),
    [
        ("def f(:\n", "SyntaxError: invalid syntax at bot.py:1", '  File "{}/bot.py", line 1'),
        (
            "import nowhere_at_all",
            "ModuleNotFoundError: No module named 'nowhere_at_all' at bot.py:1: it is neither in {} nor",
            "",
        ),
        ("1/0", "ZeroDivisionError: division by zero", "Traceback (most recent call last):"),
        ("raise ValueError('one\\ntwo')", "ValueError: one", "Traceback (most recent call last):"),
    ],
)
def test_a_trial_of_a_module_that_fails(write: Write, tmp_path: Path, code: str, says: str, above: str) -> None:
    """The last line is the fault; above it stands the traceback of the user's own code, and of no other."""
    write("bot.py", code)
    status, lines = _trial(tmp_path, "bot:handlers")
    assert status == child.GIVE_UP
    assert lines[-1].startswith(f"wa-ingest: WA_HANDLERS=bot:handlers: the module fails: {says.format(tmp_path)}")
    assert lines[0].startswith(above.format(tmp_path))
    assert not [line for line in lines if "loading.py" in line or "importlib" in line]


def _may(path: os.PathLike[str] | str, mode: int) -> bool:
    """`os.access` as it is for a user who owns nothing; the tests may run as root, who may do all."""
    return Path(path).exists() and Path(path).stat().st_mode & mode == mode


@pytest.mark.parametrize(
    ("name", "file", "hidden_from_others"),
    [
        ("bot:handlers", "", "."),
        ("bot:handlers", "bot.py", "bot.py"),
        ("bots.bot:handlers", "", "bots"),
        ("bots/bot.py:handlers", "bots/bot.py", "bots"),
        ("bots/bot.py:handlers", "bots/bot.py", "bots/bot.py"),
    ],
)
def test_what_may_not_be_read(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, file: str, hidden_from_others: str
) -> None:
    """A folder or file that this user may not read is named, with the remedy, and not taken for one that is missing."""
    monkeypatch.setattr(os, "access", lambda path, mode: not Path(path).is_relative_to(tmp_path) or _may(path, mode))
    (tmp_path / "bots").mkdir()
    if file:
        write(file, "raise PermissionError(13, 'Permission denied')")
    tmp_path.chmod(0o755)
    place = tmp_path / hidden_from_others
    place.chmod(0o700)
    with pytest.raises(HandlersError) as caught:
        load(name)
    assert str(caught.value).startswith(f"WA_HANDLERS={name}: {place} cannot be read by user {os.geteuid()}")
    assert f"chmod -R a+rX {place}" in str(caught.value)


def test_an_installed_module_in_a_folder_that_may_not_be_read(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Python finds elsewhere needs nothing of the working folder."""
    write("site/installed_bot.py", BOT)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert len(load("installed_bot:handlers")) == 1


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("handlers.message('txt')(print)", "builtins.print: no message type 'txt' is known; did you mean 'text'?"),
        ("", "WA_HANDLERS=bot:handlers has no handlers, so every event is dropped; register a function"),
    ],
)
def test_a_trial_tells_of_doubts(write: Write, tmp_path: Path, code: str, says: str) -> None:
    """What looks like a mistake is a warning at the start, and no more."""
    write("bot.py", f"from workers import Handlers\nhandlers = Handlers()\n{code}\n")
    assert _trial(tmp_path, "bot:handlers") == (0, [f"Warning: {says}"])


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("handlers = 1", "'handlers' in that module is no `workers.Handlers()`"),
        ("import sys; sys.exit(0)", "the module ends Python: sys.exit(0)"),
    ],
)
def test_a_trial_of_what_is_no_handlers(write: Write, tmp_path: Path, code: str, says: str) -> None:
    """One line, and no traceback: nothing was raised."""
    write("bot.py", code)
    assert _trial(tmp_path, "bot:handlers") == (child.GIVE_UP, [f"wa-ingest: WA_HANDLERS=bot:handlers: {says}"])


@pytest.mark.parametrize(
    ("code", "text", "remedy"),
    [
        ("\ndef f(:\n", "SyntaxError: invalid syntax at bot.py:2", "mend bot.py:2"),
        ("raise ValueError('postgres://me:hunter2@db')", "ValueError at bot.py:1", "mend bot.py:1"),
        ("import no_such", "ModuleNotFoundError: No module named 'no_such' at", "install it, or mend bot.py:1"),
        ("handlers = 1", "'handlers' in that module is no `workers.Handlers()`", "see WA_HANDLERS"),
    ],
)
def test_operators_are_told(
    write: Write, tmp_path: Path, redis: Redis, redis_url: str, code: str, text: str, remedy: str
) -> None:
    """Redis keeps why handlers cannot be loaded, and what to mend, without what the user's exception says."""
    write("bot.py", code)
    status, _ = _trial(tmp_path, "bot:handlers")
    assert status == child.GIVE_UP
    told = backlog.read(redis).unloadable
    assert told is not None
    assert text in told.text
    assert "hunter2" not in told.text
    assert told.remedy == remedy
