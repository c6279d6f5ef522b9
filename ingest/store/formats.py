"""The format number: in which form all that wa-ingest keeps lies in Redis.

Every process that will write to Redis checks it at its start. A version that finds a higher number than its own does
not start: it would misread what it finds, and newer processes would misread what it writes. docs/upgrades.md says what
that means for an upgrade.
"""

from __future__ import annotations

import redis.asyncio
from redis import Redis
from redis.exceptions import NoPermissionError

from ingest.errors import SettingsError
from ingest.store import keys

FORMAT = 2
"""Of this version. It rises with a change in Redis that the version before cannot handle. Data that `agree` cannot
leave as it is must then be converted here, and docs/upgrades.md needs a line on it. No number at all means the same as
1: the first versions wrote none.
"""


class NewerFormat(SettingsError):
    """Redis belongs to a newer version."""


def check(client: Redis) -> None:
    """Raise NewerFormat when this version does not know what lies there."""
    _is_ours(client.get(keys.FORMAT))


def agree(client: Redis) -> None:
    """The same, and write this version's number where there is none or a lower one."""
    try:
        found = client.get(keys.FORMAT)
        if not _is_ours(found):
            client.set(keys.FORMAT, FORMAT, nx=found is None)
    except NoPermissionError:
        pass  # the server's ACL is older than this key: that must not cost a notification


async def agree_async(client: redis.asyncio.Redis) -> None:
    """`agree` for the receiver's client."""
    try:
        found = await client.get(keys.FORMAT)
        if not _is_ours(found):
            await client.set(keys.FORMAT, FORMAT, nx=found is None)
    except NoPermissionError:
        pass


def _is_ours(found: object) -> bool:
    """Whether that is this version's number; False when it is to be written. Raises NewerFormat."""
    if found is None:
        return False
    text = found.decode("utf-8", "replace") if isinstance(found, bytes) else str(found)
    if not text.isdecimal() or int(text) > FORMAT:
        raise NewerFormat(
            f"Redis holds format {text}, and this version of wa-ingest knows {FORMAT} at most: a newer version has "
            "written there; start that one again, or see docs/upgrades.md for the way back"
        )
    return int(text) == FORMAT
