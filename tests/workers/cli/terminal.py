"""A pseudo-terminal for the tests of commands."""

from __future__ import annotations

import fcntl
import os
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

_HOME = re.compile(r"\x1b\[H")
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Screen(NamedTuple):
    """How a command ended, the lines that it wrote, and how it wrote them."""

    status: int
    lines: list[str]
    written: bytes = b""

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


def on_terminal(
    *command: str, columns: int, cwd: Path, until: Callable[[str], object] | None = None, **env: str
) -> Screen:
    """Run `python -m …` on a terminal of its own; Ctrl-C is typed as soon as `until` holds for what it has written."""
    ours, its = os.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", _CONTROLLED, *command],
        stdin=its,
        stdout=its,
        stderr=its,
        cwd=cwd,
        env={name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        | {"TERM": "xterm-256color", "PYTHONPATH": str(Path(__file__).parents[3])}
        | env,
        start_new_session=True,
    )
    os.close(its)
    written, deadline = b"", time.monotonic() + 60
    try:
        while time.monotonic() < deadline:
            if until is not None and until(_plain(written)):
                os.write(ours, b"\x03")
                until = None
            if select.select([ours], [], [], 0.05)[0]:
                try:
                    read = os.read(ours, 65536)
                except OSError:  # its last holder has ended
                    break
                if not read:
                    break
                written += read
        return Screen(process.wait(max(1.0, deadline - time.monotonic())), _plain(written).splitlines(), written)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def _plain(written: bytes) -> str:
    """The text, each line as it was written last; a screen that is written anew follows the one before."""
    text = _HOME.sub("\n", written.decode(errors="replace"))
    text = _ESCAPES.sub("", text).replace("\r\n", "\n").replace("^C", "")
    return "\n".join(line.rpartition("\r")[2].rstrip() for line in text.split("\n"))


_CONTROLLED = """
import fcntl, runpy, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # Ctrl-C is for whom this terminal controls
sys.path[0] = ""
sys.argv[:] = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
