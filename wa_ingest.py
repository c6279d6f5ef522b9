"""The command `wa-ingest`: it looks first whether it can run here, and whether `workers` and `ingest` are its own.

A folder in PYTHONPATH that holds others of these names would otherwise end it with a traceback that names neither. So
this module has a name of its own, and lies beside the two.
"""

import sys
from importlib.machinery import PathFinder
from pathlib import Path


def main() -> None:
    """Run the command. One line, and exit status 1, on Windows, and when its packages are hidden."""
    if sys.platform == "win32":
        sys.exit("Error: wa-ingest runs on Linux and macOS; on Windows run it in WSL or in a container")
    for name in ("workers", "ingest"):
        own = Path(__file__).resolve().parent / name
        found = PathFinder.find_spec(name)
        place = Path(found.origin).resolve() if found and found.origin else own
        if own not in place.parents:
            there = place.parent if place.name == "__init__.py" else place
            sys.exit(f"Error: {there} hides wa-ingest's {own}: rename it, or take {there.parent} out of PYTHONPATH")

    # A probe runs this every few seconds, and the commands take ten times as long to import.
    if sys.argv[1:] == ["work", "--healthy"]:
        from ingest.signs import main
    else:
        from workers.cli.main import main

    main()
