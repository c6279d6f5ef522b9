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

SHARES_BITS = 23
"""Of these 4 bytes the lower bits are that length; those above it are the upper bits of `waits`."""

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

APART = 24
"""A batch whose worker died is divided into so many parts at most: two deaths divide the usual batch of 500 into single
records, which are then given out one at a time.
"""

POISON_DEATHS = 3
"""Deaths of its workers that make a record a dead letter, when they fall within the time below."""

POISON_SECONDS = 3600
"""Deaths that are further apart were not the record's doing: machines are taken away and memory runs out."""

# Looking for what RQ lost.

SEARCH_BATCHES = 500
"""Entries of the ledger that are read at a time."""

SEARCH_COST = 3000
"""One call looks at so many entries at most, and at fewer while queues are long; the next one goes on from there."""

SEARCH_LISTED = 100
"""A queue of up to so many batches is read as a whole; in a longer one each batch is looked up."""

# What waits for its next try.

SLOTS_PER_SECOND = 64
"""Due times are multiples of this part of a second, or of longer steps (`step` in workers/engine/retries.py)."""

PARKED_RECORDS = 500
"""Records in a batch that waits until it is due."""

PARKED_BYTES = 1_048_576
"""And their bytes, unless it is a single record."""

PROMOTED = 200
"""Due batches that one call of take puts into their queues, at most."""

FEW_OWED = 64
"""As long as no more batches are owed, take looks at their queues alone."""

PUT_OFF_PART = 25
"""Records of what was put off that are given from one queue with one call of take, about."""

PUT_OFF_SECONDS = 0.05
"""Until a queue is looked at again at whose front such a part waits for the worker that may take it."""

SPELL_SECONDS = 60
"""A failure of a handler that comes later than this after the one before begins a new spell of failures."""

REVIVED = 500
"""Batches that one call of revive makes due, at most."""

# Strict order.

RELEASED = 100
"""Records that leave the list of those that wait behind a contact's event at a time, at most."""

RELEASED_BYTES = 262_144
"""And their bytes, unless it is a single record."""

SEARCH_HEADS = 20
"""Strict orders of which a reaping looks whether their head is still there, at most."""

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
