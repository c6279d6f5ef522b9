"""The numbers that Lua scripts work with. Python reads them here too, so that each stands in one place.

A script names those that it uses in a line of its own, `-- constants CHUNK FAIR_SHARE`; see `ingest/store/scripts.py`.
"""

from __future__ import annotations

CHUNK = 1000
"""Values that a script gives to one command at most: Lua's unpack() fails at some 8,000."""

# A record: what `ingest/store/records.py` packs.

HEADER_BYTES = 8
"""Length of what stands before a record's body."""

HAS_DIGEST = 1
"""The last byte of a header that says: a digest stands between header and body. 0: only the body follows."""

DIGEST_BYTES = 8
"""Length of that digest. When it is all zeros, the record has shares: the real digest follows, or zeros for none, then
the length of the shares (4 bytes), then these.
"""

HANDLER_BYTES = 4
"""Length of what is remembered of each."""

# Counts.

FLOW_SECONDS = 10
"""Length of a bucket in which notifications are counted in and out."""

FLOW_KEPT_SECONDS = 600
"""How long a bucket is kept after the last count."""

# What was sent twice.

FLUSH_KEPT_SECONDS = 60
"""How long Redis knows a flush of the receiver, which redis-py may send a second time."""

CALLS_KEPT_SECONDS = 3600
"""How long Redis knows the number of a worker's last settle."""

# Which lane goes first.

SPENT_MS = 30_000
"""Milliseconds of work that are counted for that; beyond it the counts are halved."""

# What a worker is given.

TAKE_BYTES = 2_097_152
"""One call of take gives no further batch beyond this."""

TAKE_BATCHES = 64
"""Nor more batches than these."""

IDLE_MS = 250
"""A worker that has nothing to do, while others have more than their part, looks again after this."""

LEAVE_MS = 50
"""For so long a worker leaves partitions beyond its part to others, before it takes them as well."""

# When a worker dies.

SPLIT_AT = 2
"""Deaths of its worker after which a batch is split into suspects of one record each."""

# Rates.

TOKENS_SECONDS = 0.25
"""A bucket holds the tokens of this time, and a worker keeps tokens that it took for as long."""

# What is remembered.

SEEN_FULL = 400
"""Digests in a set, on average, before a new generation begins: beyond 512 Redis would need five times the memory."""

PLACE_BYTES = 10
"""Length of a place in the hashes of profiles: 2 bytes say which hash, 8 are the field in it."""

PROFILE_BYTES = 21
"""Length of what is remembered of a contact; the first 6 bytes are the time (ms)."""

LINK_DIGEST_BYTES = 8
"""Length of the digest of a user id; the key of its contact, 4 bytes, follows."""

MOST_LINKS = 200_000
"""Links of a generation in Redis: some 15 MB. Beyond it, a new one replaces a random one."""
