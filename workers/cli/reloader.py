"""Has workers started again when handlers or destinations change.

Called as `python -m workers.cli.reloader SINCE HANDLERS [DESTINATIONS]`.

It asks the file system twice a second: there are few files, and that works everywhere, in mounted folders, too. New
code is tried first, in a process of its own, so that the workers stay as they are while it cannot be used.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from ingest import child
from ingest.loggers import get_logger
from ingest.settings import load
from ingest.signals import RENEW
from ingest.telemetry import logs
from workers import loading

log = get_logger("workers.cli.reloader")

_EVERY = 0.5
_SHARE = 0.1  # of its time it may look, in a folder of very many files
_TRY_SECONDS = 60.0

_NOT_THEIRS = {"__pycache__", "node_modules", "site-packages"}

_Seen = dict[str, tuple[int, int]]
"""Each file, when it was written (in nanoseconds) and its size."""


def main() -> None:
    """Until it is told to stop, or left alone. Files that were written after `SINCE` (in nanoseconds) have changed."""
    child.watch_parent()
    logs.configure(load().log_level, news=True)
    parent, since, arguments = os.getppid(), int(sys.argv[1]), sys.argv[2:]
    roots = loading.sources(*loading.called_with(arguments))
    seen = {file: state for file, state in _look(roots).items() if state[0] <= since}
    pause = 0.0
    while True:
        time.sleep(pause)
        began = time.monotonic()
        now = _look(roots)
        pause = max(_EVERY, (time.monotonic() - began) / _SHARE)
        if changed := {file for file, _ in now.items() ^ seen.items()}:
            seen = now
            _note(sorted(map(os.path.relpath, changed)), _fault(arguments), parent)


def _note(changed: list[str], fault: str, parent: int) -> None:
    what, files = _what(changed), ", ".join(changed)
    if fault:
        log.error(f"{what} changed, but cannot be used: the workers stay as they are", files=files, reason=fault)
    elif os.getppid() == parent:
        log.info(f"{what} changed: the workers start again", files=files)
        os.kill(parent, RENEW)


def _what(changed: Sequence[str]) -> str:
    """Of the files that are looked at only that of the destinations is no Python."""
    of_handlers = sum(file.endswith(".py") for file in changed)
    both = of_handlers, len(changed) - of_handlers
    return " and ".join(name for name, count in zip(("handlers", "destinations"), both, strict=True) if count)


def _look(roots: Sequence[str]) -> _Seen:
    found: _Seen = {}
    for file in (file for root in roots for file in _files(root)):
        with suppress(OSError):  # it has just gone
            state = os.stat(file)
            found[file] = (state.st_mtime_ns, state.st_size)
    return found


def _files(root: str) -> Iterator[str]:
    """The file itself, or the Python files in a folder, but for those that the user has not written."""
    if os.path.isfile(root):
        yield root
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name[0] != "." and name not in _NOT_THEIRS]
        if "pyvenv.cfg" in names:
            folders.clear()
        else:
            yield from (str(Path(folder, name)) for name in names if name.endswith(".py") and not _is_test(name))


def _is_test(name: str) -> bool:
    """No handlers are in the files that pytest collects."""
    return name.startswith("test_") or name.endswith("_test.py")


def _fault(arguments: Sequence[str]) -> str:
    """Why the handlers cannot be used as they are now; nothing if they can."""
    call = child.command("workers.loading", *arguments)
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(  # noqa: S603 - ours
            call, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said, start_new_session=True
        ) as process,
    ):
        try:
            status = process.wait(_TRY_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            return _told(f"the module is not imported within {_TRY_SECONDS:g} s")
        said.seek(0)
        lines = said.read().decode(errors="replace").splitlines()
    told = [line for line in lines if line.startswith("wa-ingest: ")]
    if status and not told:
        return _told(f"the module ends Python, with status {status}")
    return told[-1].removeprefix("wa-ingest: ") if status else ""


def _told(fault: str) -> str:
    """What the process that tried could not tell operators itself."""
    loading.tell_operators(fault)
    return fault


if __name__ == "__main__":
    main()
