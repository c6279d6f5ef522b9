"""Runs a module as `python -m` does: `python -m ingest.without_rich workers.engine.worker`, for example.

structlog imports rich, and with it pygments, where they are installed: 4 MiB in every process, for tracebacks that it
is never asked to draw. Here it finds no rich. Whoever imports rich afterwards, such as a handler, gets it.
"""

from __future__ import annotations

import runpy
import sys


def main() -> None:
    """The module's name is the first argument, its own arguments follow."""
    sys.modules["rich"] = None  # type: ignore[assignment]  # Python's way to say that there is none
    import structlog  # noqa: F401

    del sys.modules["rich"]
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
