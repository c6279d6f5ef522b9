"""Bodies that take longest to read for their size, as large as the receiver accepts: each of a kind of its own."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count, repeat

SIZE = 4 << 20
"""WA_MAX_BODY by default."""


def _full(begin: bytes, parts: Iterable[bytes], end: bytes = b"]}") -> bytes:
    """As many of these parts as fit, with commas between them."""
    room, kept = SIZE - len(begin) - len(end), []
    for part in parts:
        room -= len(part) + 1
        if room < 0:
            break
        kept.append(part)
    return begin + b",".join(kept) + end


_MESSAGES = b'{"messages":['

HOSTILE = {
    "1.4 million empty arrays": _full(_MESSAGES, repeat(b"[]")),
    "1.4 million empty messages": _full(_MESSAGES, repeat(b"{}")),
    "2.1 million numbers": _full(_MESSAGES, repeat(b"1")),
    "1.4 million empty texts": _full(_MESSAGES, repeat(b'""')),
    "400,000 keys": _full(b'{"messages":[{', (b'"%x":1' % n for n in count()), b"}]}"),
    "200,000 senders": _full(_MESSAGES, (b'{"from":"%d"}' % n for n in count())),
    "100,000 user ids": _full(_MESSAGES, (b'{"from_user_id":"DE.%d","system":{}}' % n for n in count())),
    "120,000 contacts": _full(
        b'{"messages":[{"from_user_id":"DE.1"},{"from":"1"}],"contacts":[',
        (b'{"wa_id":"%d","user_id":"DE.%d"}' % (n, n) for n in count()),
    ),
    "60,000 changes": _full(
        b'{"entry":[', repeat(b'{"changes":[{"field":"messages","value":{"messages":[{"from":"1"}]}}]}')
    ),
    "arrays 1,000 levels deep, a thousand times": _full(_MESSAGES, repeat(b"[" * 1000 + b"]" * 1000)),
    "an array that never ends": _MESSAGES + b"[" * (SIZE - len(_MESSAGES)),
    "numbers of 1,000 digits": _full(_MESSAGES, repeat(b"0." + b"123456789" * 111 + b"e-300")),
    "escapes": _full(_MESSAGES, [b'"' + b"\\u00e9" * 690_000 + b'"']),
    "nearly messages": b'"messages":' * (SIZE // 11),
    "white space": b'{"messages"' + b" " * (SIZE - 20) + b":[]}",
    "quotes": b'"' * SIZE,
    "a status without end": b'{"statuses":[{' + b'"a' * (SIZE // 2 - 10),
}
