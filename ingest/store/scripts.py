"""The Lua scripts: each lies beside the module that calls it."""

from __future__ import annotations

from pathlib import Path

from ingest.store import keys

_GUARD = "redis.call('EXISTS', KEYS[1] .. ':') "


def lua(module_file: str, name: str) -> str:
    """The text of the Lua script that lies beside a module.

    While a slot of a cluster is moved key by key, a script would be ended by the first key that is not there. In a
    cluster each therefore begins with a key that never is: it is refused before it has written anything.
    """
    text = Path(module_file).with_name(name).read_text()
    return text.replace("\n", f"\n{_GUARD}", 1) if "{" in keys.RQ else text
