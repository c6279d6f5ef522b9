"""Changes bodies at random, a million times, and counts what comes of them.

`python -m tests.fuzz.million [COUNT [SEED]]`. It ends at the first body in which an event vanishes, or that is not
treated as it must be, and prints it.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from itertools import chain
from pathlib import Path
from random import Random

import orjson

from tests.fuzz.mutation import mutate
from tests.fuzz.reading import check
from workers.events import Broken

SHARED = Path(__file__).parents[2].parent / "shared"


def seeds() -> list[bytes]:
    """The fuzzer's seeds, and the corpus and the cases where they are to be had."""
    places = (Path(__file__).with_name("corpus"), SHARED / "corpus", SHARED / "cases")
    files = chain.from_iterable(sorted(place.glob("*.json")) for place in places)
    bodies = [body for file in files for body in _bodies(file.read_bytes())]
    return [body for body in dict.fromkeys(bodies) if _can_be_changed(body)]


def _bodies(content: bytes) -> list[bytes]:
    """Of a file: its body, or those of a sequence."""
    try:
        found = orjson.loads(content)
    except orjson.JSONDecodeError:
        return []
    several = found.get("bodies") if isinstance(found, dict) else None
    return [content] if several is None else list(map(orjson.dumps, several))


def _can_be_changed(body: bytes) -> bool:
    try:
        return len(body) < 20_000 and mutate(body, 0) is not None
    except orjson.JSONEncodeError:  # deeper than orjson writes
        return False


def run(count: int, seed: int) -> Counter[str]:
    """Check so many bodies; what they held, by kind or reason."""
    random, bodies, found = Random(seed), seeds(), Counter[str]()
    for n in range(count):
        body = mutate(random.choice(bodies), random.getrandbits(64)) or b""
        if random.randrange(20) == 0:  # cut, so that it is no JSON any more
            body = body[: random.randrange(len(body) + 1)]
        try:
            items = check(body)
        except BaseException:
            print(f"body {n} of seed {seed}: {body!r}", file=sys.stderr)
            raise
        found["bodies"] += 1
        found.update(item.reason if isinstance(item, Broken) else item.kind for item in items)
    return found


if __name__ == "__main__":
    given = [int(number) for number in sys.argv[1:]]
    began = time.monotonic()
    for name, number in run(*given, *(1_000_000, 1)[len(given) :]).most_common():
        print(f"{number:>12,} {name}")
    print(f"{time.monotonic() - began:>12,.0f} seconds")
