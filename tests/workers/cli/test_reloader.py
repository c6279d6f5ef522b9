"""`wa-ingest up --reload`, with real processes; and what it looks at."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ingest.settings import DEFAULT_HANDLERS
from tests.workers.cli.conftest import Folder
from workers import loading
from workers.cli import reloader

WaitFor = Callable[..., None]

BOT = """
import os, time
from workers import Handlers
handlers = Handlers()

def say(line):  # in one piece, because several threads print
    print(f"VERSION {line}\\n", end="", flush=True)

@handlers.message()
def answer(message):
    say(f"began {message.id}")
    while message.text == "slow" and not os.path.exists("go"):
        time.sleep(0.02)
    say(f"answered {message.id}")
"""


def bot(version: str) -> str:
    return BOT.replace("VERSION", version)


def message(name: str, text: str = "Hello") -> bytes:
    """Of a contact of its own."""
    return json.dumps({"messages": [{"from": name, "id": name, "type": "text", "text": {"body": text}}]}).encode()


class Reloading:
    """A running `up --reload`."""

    def __init__(self, folder: Folder, wait_for: WaitFor) -> None:
        self.folder, self._wait_for = folder, wait_for
        folder.write("bot.py", bot("v1"))
        folder.write("mate.py", "\nundefined\n")  # which nobody imports yet
        self.up = folder.start("up", "--reload")
        self.until("Ctrl-C stops")

    def until(self, said: str) -> None:
        self._wait_for(lambda: said in self.folder.log() or self.up.poll() is not None, 60, said)
        assert self.up.poll() is None, self.folder.log()

    def lines(self, event: str) -> list[dict[str, Any]]:
        """The reloader's lines that begin so."""
        lines = [json.loads(line) for line in self.folder.log().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"].startswith(event)]


@pytest.fixture
def reloading(folder: Folder, wait_for: WaitFor) -> Reloading:
    """`up --reload` with the first version of a bot."""
    return Reloading(folder, wait_for)


def test_the_new_code_runs(reloading: Reloading) -> None:
    """After a change the workers run the new code; what the handler has begun is finished, once, by the old one, and
    what arrives meanwhile is handled."""
    folder = reloading.folder
    folder.post(message("m1", "slow"))
    reloading.until("v1 began m1")
    folder.write("bot.py", bot("v2"))
    reloading.until("handlers changed: the workers start again")
    for n in range(20):
        assert folder.post(message(f"n{n}")) == 200
    folder.write("go", "")
    reloading.until("v1 answered m1")
    for n in range(20):
        reloading.until(f" answered n{n}\n")
    folder.post(message("m2"))
    reloading.until("v2 answered m2")
    reloading.until("process runs again")
    reloading.up.terminate()
    assert reloading.up.wait(40) == 0
    log = folder.log()
    assert [log.count(f" answered {name}\n") for name in ("m1", "m2", *(f"n{n}" for n in range(20)))] == [1] * 22
    assert [line["files"] for line in reloading.lines("handlers changed")] == ["bot.py"]
    assert "starting it again" not in log


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("handlers = [\n", "SyntaxError: '[' was never closed at bot.py:1"),
        ("\n\nimport nowhere_at_all\n", "ModuleNotFoundError: No module named 'nowhere_at_all' at bot.py:3"),
        ("import mate\n", "NameError: name 'undefined' is not defined at mate.py:2"),
        ("import sys\nsys.exit()\n", "the module ends Python: sys.exit(None)"),
        ("import os\nos._exit(7)\n", "the module ends Python, with status 7"),
    ],
    ids=["syntax", "import", "beside", "exit", "crash"],
)
def test_code_that_cannot_be_used(reloading: Reloading, code: str, reason: str) -> None:
    """One line says why and where, and the workers go on with the old code, until it is mended; `status`
    says so, too.
    """
    folder = reloading.folder
    folder.write("bot.py", code)
    reloading.until("handlers changed, but cannot be used")
    (line,) = reloading.lines("handlers changed, but")
    assert reason in line["reason"]
    assert line["level"] == "error"
    folder.post(message("m1"))
    reloading.until("v1 answered m1")
    assert "Traceback" not in folder.log()
    without_quotes = reason.replace(": name 'undefined' is not defined", "").replace("(None)", "")
    said = " ".join(" ".join(folder.run("status")[1]).split())
    assert "1 worker goes on with what was loaded before; for " in said
    assert without_quotes in said
    folder.write("bot.py", bot("v2"))
    reloading.until("the workers start again")
    folder.post(message("m2"))
    reloading.until("v2 answered m2")
    assert "goes on" not in " ".join(folder.run("status")[1])


def test_destinations_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake in a changed file of destinations is a line that names the file and the place."""
    (tmp_path / "own.toml").write_text("x =\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(loading.__file__).parents[1]))
    fault = reloader._fault(loading.arguments(DEFAULT_HANDLERS, Path("own.toml")))
    assert fault.startswith("WA_DESTINATIONS: own.toml: Invalid value (at line 1")


@pytest.mark.parametrize(
    ("files", "what"),
    [
        (["bot.py", "mate.py"], "handlers"),
        (["own.toml"], "destinations"),
        (["bot.py", "own.toml"], "handlers and destinations"),
    ],
)
def test_what_has_changed(files: list[str], what: str) -> None:
    """The line says whether the handlers changed, the destinations, or both."""
    assert reloader._what(files) == what


def test_code_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """New code whose import does not end is given up, so that the next change is seen."""
    (tmp_path / "bot.py").write_text("import time\ntime.sleep(600)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(loading.__file__).parents[1]))
    monkeypatch.setattr(reloader, "_TRY_SECONDS", 0.5)
    assert reloader._fault(["bot:handlers"]) == "the module is not imported within 0.5 s"


def test_what_is_looked_at(tmp_path: Path) -> None:
    """Python files in all folders but hidden ones, environments and caches; a file that is named, whatever it is."""
    for name in (
        *("bot.py", "package/deep/mate.py", "notes.txt", "destinations.toml"),
        *(".git/hook.py", "__pycache__/bot.py", "node_modules/x.py", "lib/site-packages/y.py"),
        *("env/pyvenv.cfg", "env/bin/activate.py", "env/lib/z.py"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    seen = reloader._look([str(tmp_path), str(tmp_path / "destinations.toml"), str(tmp_path / "nowhere")])
    assert {os.path.relpath(file, tmp_path) for file in seen} == {"bot.py", "package/deep/mate.py", "destinations.toml"}


def test_where_it_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the working folder, beside a file that is named, and in the package of the handlers, wherever it is."""
    monkeypatch.chdir(tmp_path)
    here = str(tmp_path)
    assert loading.sources("bot:handlers") == [here]
    assert loading.sources("src/bot.py:handlers", Path("d.toml")) == [f"{here}/src", here, "d.toml"]
    assert loading.sources(DEFAULT_HANDLERS) == [here, str(Path(loading.__file__).parent)]


def test_a_change_before_it_looks(tmp_path: Path, wait_for: WaitFor) -> None:
    """A file that was written since the time that it is given counts as changed at its first look."""
    (tmp_path / "bot.py").write_text("1/0\n")
    log = tmp_path / "log"
    call = [sys.executable, "-m", "workers.cli.reloader", "0", "bot:handlers"]
    env = os.environ | {"PYTHONPATH": str(Path(loading.__file__).parents[1])}
    with (
        log.open("w") as out,
        subprocess.Popen(call, cwd=tmp_path, env=env, stdin=subprocess.PIPE, stdout=out, stderr=out) as process,
    ):
        wait_for(lambda: "ZeroDivisionError: division by zero at bot.py:1" in log.read_text())
        process.terminate()
