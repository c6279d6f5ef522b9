"""What a child process and the command that started it agree on."""

from __future__ import annotations

import os
import signal
import sys
import threading

GIVE_UP = 78
"""Exit status of a child that would fail the same way again (sysexits' EX_CONFIG): it is not restarted."""


def command(module: str, *arguments: str) -> list[str]:
    """The command line of a child: `python -m module arguments`, without the working folder in `sys.path`.

    There, first of all places, a `queue.py` or a folder `workers` of the user's would be taken for Python's or ours.
    """
    return [sys.executable, "-P", "-m", module, *arguments]


_NAME, _REPLACES, _FOLLOWS = "INGEST_CHILD", "INGEST_REPLACES", "INGEST_FOLLOWS"


def named(name: str, replaces: str, follows: str) -> dict[str, str]:
    """The environment in which a child learns its name, whom it replaces and whom it follows (empty: nobody)."""
    return {_NAME: name, _REPLACES: replaces, _FOLLOWS: follows}


def name() -> str:
    """This process's name, unlike that of any other. To be asked once: no process that this one starts has the same."""
    return os.environ.pop(_NAME, "") or os.urandom(8).hex()


def replaces() -> str:
    """The name of the process that this one was started for because that had ended; empty: there was none."""
    return os.environ.pop(_REPLACES, "")


def follows() -> str:
    """The name of the process in whose place this one was started, whether it has ended or ends soon; empty: none."""
    return os.environ.pop(_FOLLOWS, "")


def watch_parent() -> None:
    """In a child: send itself SIGTERM when its standard input ends, because the parent closed it or died."""

    def wait() -> None:
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="watch-parent", daemon=True).start()
