"""docs/recording.svg, from a real run: `make recording`. It needs tmux and curl, and port 8080.

What is typed is in `SCRIPT`. What the terminal shows is recorded, and drawn as an SVG that browsers play without a
script: each line that was ever shown stands in it once, and each picture says which lines it has.
"""

from __future__ import annotations

import codecs
import fcntl
import html
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import pyte

SVG = Path(__file__).parents[2] / "docs" / "recording.svg"
COLUMNS, LINES = 108, 32

_SLOWEST = 1.2  # seconds that one picture stays at most: nobody wants to watch a program wait
_FASTEST = 0.15
_AT_THE_END = 6.0
_KEY = 0.03


class Type(NamedTuple):
    """Keys that are pressed in a pane: 0 above, 1 below on the left, 2 on the right."""

    pane: int
    keys: str


class Wait(NamedTuple):
    """Go on when the screen shows this."""

    shown: str
    seconds: float = 60.0


class Pause(NamedTuple):
    """Go on after this time."""

    seconds: float


class Kill(NamedTuple):
    """`kill -9` of the oldest worker that runs in the pane above, by its id: of other workers on this machine none."""

    pane: int


SCRIPT: tuple[Type | Kill | Wait | Pause, ...] = (
    Type(0, "wa-ingest new bot && cd bot && wa-ingest up\n"),
    Wait("Ctrl-C"),
    Type(1, "# a customer writes\n"),
    Type(1, "wa-ingest simulate --to http://localhost:8080/webhook --count 3 --mix messages=1\n"),
    Wait("slowest answer"),
    Pause(3),
    Type(0, "\x03"),
    Wait("goes on from here", 30),
    Pause(1),
    Type(0, "clear && WA_HANDLERS=workers.simulator.verifying:handlers WA_PROCESSES=2 wa-ingest up\n"),
    Wait("Ctrl-C"),
    Type(1, "cd bot && clear\n"),
    Type(1, "wa-ingest simulate --to http://localhost:8080/webhook --rate 200 --seconds 12 --verify\n"),
    Pause(4),
    Type(2, "# kill -9 a worker under load\n"),
    Kill(2),
    Pause(4),
    Type(2, "# and again\n"),
    Kill(2),
    Wait("out of order", 90),
    Pause(3),
)


def record(folder: Path) -> Iterator[tuple[float, list[str]]]:
    """Pictures of the terminal, each as the lines it shows (see `_line`), and when it was taken, in seconds."""
    screen = pyte.Screen(COLUMNS, LINES)
    stream = pyte.Stream(screen)
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    shell = f"env -u PROMPT_COMMAND PS1='\\[\\e[32m\\]$\\[\\e[0m\\] ' PATH={path} bash --norc --noprofile"
    socket = str(folder / "tmux")
    tmux = ["tmux", "-S", socket, "-f", "/dev/null"]
    start = [*tmux, "new-session", "-x", str(COLUMNS), "-y", str(LINES), "-c", str(folder), shell]
    for command in (
        "set -g status off",
        "set -g default-terminal xterm-256color",
        f"split-window -v -l 13 -c {folder}",
        f"split-window -h -l 44 -c {folder}",
        "select-pane -t 0",
    ):
        words = command.split()
        start += [";", *words, *([shell] if words[0] == "split-window" else [])]
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ |= {"TERM": "linux", "LANG": "C.UTF-8"}
        os.execvp("tmux", start)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    began = time.monotonic()

    def read(seconds: float) -> Iterator[tuple[float, list[str]]]:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if select.select([terminal], [], [], min(left, 0.1))[0]:
                stream.feed(decode(os.read(terminal, 65536)))
                yield time.monotonic() - began, [_line(screen, n) for n in range(LINES)]

    try:
        yield from read(1.0)
        for step in SCRIPT:
            if isinstance(step, Type | Kill):
                for key in step.keys if isinstance(step, Type) else f"kill -9 {_worker(tmux)}\n":
                    subprocess.run([*tmux, "send-keys", "-t", str(step.pane), "-l", key], check=True)
                    yield from read(_KEY)
            elif isinstance(step, Pause):
                yield from read(step.seconds)
            else:
                until = time.monotonic() + step.seconds
                while not any(re.search(step.shown, line.rstrip()) for line in screen.display):
                    if time.monotonic() > until:
                        raise TimeoutError(f"the terminal does not show {step.shown!r}:\n" + "\n".join(screen.display))
                    yield from read(0.1)
    finally:
        subprocess.run([*tmux, "send-keys", "-t", "0", "C-c"], check=False)
        time.sleep(3)  # until the receiver, the workers and the server have ended
        subprocess.run([*tmux, "kill-server"], check=False)
        os.kill(pid, signal.SIGHUP)
        os.waitpid(pid, 0)


def _worker(tmux: list[str]) -> int:
    """The id of the oldest worker below the shell of the pane above."""
    shell = subprocess.run(
        [*tmux, "display-message", "-p", "-t", "0", "#{pane_pid}"], check=True, capture_output=True, text=True
    )
    parents = {int(shell.stdout)}
    found: list[int] = []
    for pid, parent, command in sorted(_processes()):  # a child is younger, so its id is higher
        if parent in parents:
            parents.add(pid)
            if "workers.engine.worker" in command:
                found.append(pid)
    return found[0]


def _processes() -> Iterator[tuple[int, int, str]]:
    """Id, parent and command line of each process."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], check=True, capture_output=True, text=True)
    for line in listed.stdout.splitlines():
        pid, parent, command = line.split(None, 2)
        yield int(pid), int(parent), command


def _line(screen: pyte.Screen, number: int) -> str:
    """A line of the screen, as SVG `tspan`s."""
    cells = [screen.buffer[number][n] for n in range(COLUMNS)]
    parts, column = [], 0
    for (colour, bold, inverse), run in groupby(cells, key=lambda cell: (cell.fg, cell.bold, cell.reverse)):
        text = "".join(cell.data for cell in run)
        if text.strip():
            classes = [f"c-{colour}"] * (colour in _COLOURS) + ["b"] * bold + ["i"] * inverse
            shown = html.escape(text.rstrip(), quote=False)
            parts.append(f'<tspan x="{column * _WIDE:g}"{_class(classes)}>{shown}</tspan>')
        column += len(text)
    return "".join(parts)


def _class(names: list[str]) -> str:
    return f' class="{" ".join(names)}"' if names else ""


_COLOURS = {
    "red": "#ff7b72",
    "green": "#7ee787",
    "brown": "#e3b341",
    "blue": "#79c0ff",
    "magenta": "#d2a8ff",
    "cyan": "#76e3ea",
    "black": "#6e7681",
    "brightblack": "#8b949e",
}
_WIDE, _HIGH, _EDGE = 7.23, 16, 12


def draw(pictures: list[tuple[float, list[str]]]) -> str:
    """The SVG."""
    shown: list[tuple[float, list[str]]] = []
    for at, lines in pictures:
        if shown and lines == shown[-1][1]:
            continue
        if shown and at - shown[-1][0] < _FASTEST:
            shown[-1] = shown[-1][0], lines
        else:
            shown.append((at, lines))
    known: dict[str, int] = {}
    for _, lines in shown:
        for line in filter(None, lines):
            known.setdefault(line, len(known))
    starts, now = [], 0.0
    for (at, _), (after, _) in zip(shown, [*shown[1:], (shown[-1][0] + _AT_THE_END, [])], strict=True):
        starts.append(now)
        now += min(after - at, _AT_THE_END if after == shown[-1][0] + _AT_THE_END else _SLOWEST)
    wide, high = COLUMNS * _WIDE + 2 * _EDGE, LINES * _HIGH + 2 * _EDGE
    colours = "".join(f".c-{name}{{fill:{value}}}" for name, value in _COLOURS.items())
    steps = "".join(f"{100 * at / now:.3f}%{{transform:translateX({-n * wide:g}px)}}" for n, at in enumerate(starts))
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide:g} {high:g}" font-size="12" '
        "font-family=\"ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace\">",
        f"<style>text{{white-space:pre;fill:#e6edf3}}.b{{font-weight:bold}}.i{{text-decoration:underline}}{colours}"
        f"@keyframes play{{{steps}}}"
        f"#all{{animation:play {now:.2f}s steps(1,end) infinite}}</style>",
        f'<rect width="{wide:g}" height="{high:g}" rx="8" fill="#0d1117"/><defs>',
        *(f'<text id="l{number}">{line}</text>' for line, number in known.items()),
        '</defs><g id="all">',
    ]
    for n, (_, lines) in enumerate(shown):
        rows = [(row, known[line]) for row, line in enumerate(lines) if line]
        uses = "".join(f'<use href="#l{line}" y="{_EDGE + _HIGH * (row + 0.8):g}"/>' for row, line in rows)
        out.append(f'<g transform="translate({n * wide + _EDGE:g})">{uses}</g>')
    return "\n".join([*out, "</g></svg>", ""])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        pictures = list(record(Path(folder)))
    SVG.write_text(draw(pictures))
    print(f"{SVG}: {len(pictures)} pictures, {SVG.stat().st_size / 1000:.0f} kB")
