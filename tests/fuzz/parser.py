"""Looks for bodies that the parser does not treat as it must: `make fuzz`. The arguments are libFuzzer's.

What it finds it writes to a file and names; `python -m tests.fuzz.parser FILE` tries that again.
"""

import sys

import atheris

with atheris.instrument_imports(include=["ingest", "workers"]):
    from tests.fuzz.reading import check

if __name__ == "__main__":
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()
