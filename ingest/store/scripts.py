"""The Lua scripts: each lies beside the module that calls it, and lists its keys and arguments at its head.

A line of a script may stand for others. `lua` puts these in its place, on one line, so that line numbers in Redis'
errors are those of the file.

    -- include workers/dispatch/bucket.lua      the text of that script, without its comments
    -- constants CHUNK FAIR_SHARE               these of `ingest/store/constants.py`, as locals
"""

from __future__ import annotations

import re
from pathlib import Path

from ingest.store import constants, keys

_ROOT = Path(__file__).parents[2]  # of both packages
_GUARD = "redis.call('EXISTS', KEYS[1] .. ':') "
_STANDS_FOR = re.compile(r"^( *)-- (include|constants) (.+)$", re.MULTILINE)
_LEFT = re.compile(r"^.*--\W*(?:include|constants?)\b.*$", re.MULTILINE)
_COMMENT = re.compile(r"('[^'\n]*')|--.*")


class ScriptError(Exception):
    """A script names a file or constant that does not exist. The message says which."""


def lua(module_file: str, name: str) -> str:
    """The text of the Lua script that lies beside a module. Raises ScriptError.

    While a cluster moves a slot key by key, a script would fail half-way, at the first key that has moved. So in a
    cluster each script begins by reading a key that never exists: Redis refuses it before it has written anything.
    """
    text = _complete(Path(module_file).with_name(name))
    return text.replace("\n", f"\n{_GUARD}", 1) if "{" in keys.RQ else text


def _complete(path: Path) -> str:
    text = path.read_text()
    try:
        text = _STANDS_FOR.sub(lambda line: line[1] + _TEXTS[line[2]](line[3]), text)
    except FileNotFoundError as error:
        raise ScriptError(f"{path}: there is no {error.filename}") from None
    except KeyError as error:
        raise ScriptError(f"{path}: ingest/store/constants.py has no {error.args[0]}") from None
    if left := _LEFT.search(text):
        raise ScriptError(f"{path}: this line stands for nothing: {left[0].strip()}")
    return text


def _included(name: str) -> str:
    text = _complete(_ROOT / name)
    code = _COMMENT.sub(r"\1", text.partition("\n")[2] if text.startswith("#!") else text)
    return " ".join(filter(None, map(str.strip, code.splitlines())))


def _locals(names: str) -> str:
    values = [str(vars(constants)[name]) for name in names.split()]
    return f"local {', '.join(names.split())} = {', '.join(values)}"


_TEXTS = {"include": _included, "constants": _locals}
