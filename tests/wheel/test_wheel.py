"""The wheel is complete, and works where there is no checkout."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HELLO = b'{"messages":[{"from":"15550001","id":"m1","type":"text","text":{"body":"Hello"}}]}'


def test_what_is_in_it(wheel: Path) -> None:
    """It holds the command, each file of both packages (scripts, the page, `py.typed`), what `help` prints, the
    licence, nothing else."""
    packages = [path for name in ("ingest", "workers") for path in (ROOT / name).rglob("*")]
    files = {str(path.relative_to(ROOT)) for path in packages if path.is_file() and "__pycache__" not in path.parts}
    files |= {"wa_ingest.py", "ingest/troubleshooting.md"}
    assert {"ingest/py.typed", "workers/py.typed", "ingest/store/append.lua", "ingest/admin/page/index.html"} <= files
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
        (metadata,) = (name for name in held if name.endswith(".dist-info/METADATA"))
        assert "\nLicense-Expression: MIT\n" in archive.read(metadata).decode()
    about = Path(metadata).parent
    assert {name for name in held if about not in Path(name).parents} == files
    assert f"{about}/licenses/LICENSE" in held


def test_help(installed: Path) -> None:
    """Who has nothing but the wheel reads docs/troubleshooting.md all the same."""
    command = [installed.with_name("wa-ingest"), "help", "redis-is-away"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (shown.returncode, shown.stdout.partition("\n")[0]) == (0, "Redis is away")


@pytest.mark.parametrize("beside", ["", "workers/jobs.py", "queue.py"], ids=["nothing", "workers", "queue"])
def test_up(
    beside: str, installed: Path, tmp_path: Path, free_port: Callable[[], int], wait_for: Callable[..., None]
) -> None:
    """`wa-ingest up` with no setting but its ports prints what is posted and ends well at Ctrl-C, in an empty folder or
    beside files of the user's own."""
    port, output = free_port(), tmp_path / "output"
    own = {"WA_LISTEN": f"127.0.0.1:{port}", "WA_ADMIN_LISTEN": f"127.0.0.1:{free_port()}"}
    folder = tmp_path / "folder"
    folder.mkdir()
    if beside:
        (folder / beside).parent.mkdir(exist_ok=True)
        (folder / beside).write_text("raise SystemExit('the wrong module')\n")
    with output.open("wb") as out:
        up = subprocess.Popen(
            [installed.with_name("wa-ingest"), "up"], cwd=folder, env=os.environ | own, stdout=out, stderr=out
        )
    try:
        wait_for(lambda: "Ctrl-C stops" in output.read_text() or up.poll() is not None, 60, "the start of `up`")
        assert up.poll() is None, output.read_text()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/webhook", HELLO, timeout=10) as answer:
            assert answer.status == 200
        wait_for(lambda: "message  text from 15550001: Hello" in output.read_text(), what="the line of the message")
        up.send_signal(signal.SIGINT)
        assert up.wait(30) == 0, output.read_text()
    finally:
        up.kill()
        up.wait()
    assert "Traceback" not in output.read_text()


def test_a_new_bot(installed: Path, tmp_path: Path) -> None:
    """The wheel has all that `wa-ingest new` makes, and in the new folder the bot answers a message."""
    command = installed.with_name("wa-ingest")
    for folder, call, body in ((tmp_path, ["new", "mybot"], b""), (tmp_path / "mybot", ["call", "-"], HELLO)):
        done = subprocess.run([command, *call], cwd=folder, input=body, capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr
    assert b"to 15550001: 'You wrote: Hello'" in done.stdout


def test_it_is_typed(installed: Path, tmp_path: Path) -> None:
    """mypy reads the types of the installed package, as strictly as in the checkout."""
    pytest.importorskip("mypy")
    for file in (ROOT / "tests/typing").glob("*.py"):
        shutil.copy(file, tmp_path / f"users_{file.name}")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--python-executable", installed, "--cache-dir", ".cache", "."],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
