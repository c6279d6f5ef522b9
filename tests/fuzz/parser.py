"""Looks for bodies that the parser does not treat as it must: `make fuzz`. The arguments are libFuzzer's.

What it finds it writes to a file and names; `python -m tests.fuzz.parser FILE` tries that again.
"""

import sys

import atheris
import orjson

from tests.fuzz.mutation import mutate

with atheris.instrument_imports(include=["ingest", "workers"]):
    from tests.fuzz.reading import check


def mutate_some(body: bytes, max_size: int, seed: int) -> bytes:
    """Half of the time the bytes are changed, which seldom leaves JSON; half of the time what the JSON says."""
    try:
        changed = mutate(body, seed) if seed % 2 else None
    except orjson.JSONEncodeError:  # deeper than orjson writes
        changed = None
    return atheris.Mutate(body, max_size) if changed is None or len(changed) > max_size else changed


if __name__ == "__main__":
    atheris.Setup(sys.argv, check, custom_mutator=mutate_some)
    atheris.Fuzz()
