"""docs/recipes/tenants.md, with a real worker."""

from __future__ import annotations

from typing import Any

import orjson
from redis import Redis

from ingest.store import keys
from tests.recipes.conftest import lines
from tests.workers.destinations.test_posting import cloud, text

BAKERY, FLORIST, NOBODY = "106540352242922", "106540352242923", "106540352242999"


def to(business: str, id: str, sender: str = "15550001", **more: Any) -> bytes:
    body = orjson.loads(cloud(text(id, sender) | more))
    body["entry"][0]["changes"][0]["value"]["metadata"]["phone_number_id"] = business
    return orjson.dumps(body)


def test_each_event_has_its_tenant(work: Any, commit: Any, dead: Any, command: Any) -> None:
    """Handlers read the tenant of the event, some are a tenant's own, and what is of nobody is a dead letter."""
    commit(*[to(business, f"{business}-{n}", str(n)) for n in range(20) for business in (BAKERY, FLORIST)])
    commit(to(FLORIST, "i1", type="image"), to(BAKERY, "i2", type="image"), to(NOBODY, "n1"))
    said = work("tenants.md")
    assert said.count("bakery says: Good morning!") == 20
    assert said.count("florist says: Say it with flowers.") == 20
    assert said.count("florist suggests a bouquet") == 1
    assert [(letter["reason"], letter["detail"]) for letter in dead("messages")] == [
        ("rejected", "no tenant has this number")
    ]
    (line,) = lines("tenants.md", "wa-ingest dead list")
    assert "rejected" in command(line)


def test_a_flood_of_one(commit: Any, redis: Redis) -> None:
    """With WA_BUSINESS_PARTITIONS, messages to one number use so many partitions; without, all."""
    (given,) = lines("tenants.md", "export WA_BUSINESS_PARTITIONS=")
    flood = [to(BAKERY, f"m{n}", str(n)) for n in range(300)]

    def used() -> int:
        found = redis.scard(keys.RQ_QUEUES)
        redis.flushall()
        return int(found)  # type: ignore[arg-type]

    commit(*flood, partitions=32)
    assert used() == 32
    commit(*flood, partitions=32, business_partitions=int(given.rpartition("=")[2]))
    assert used() == 8
