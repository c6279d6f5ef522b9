"""The Lua scripts: each lies beside the module that calls it, and says at its head what it is given.

A line of a script may stand for others, which `lua` puts in its place, on one line: what an error of Redis says of line
numbers is true of the file.

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
    """A script asks for what is not there. The message names it."""


def lua(module_file: str, name: str) -> str:
    """The text of the Lua script that lies beside a module. Raises ScriptError.

    While a slot of a cluster is moved key by key, a script would be ended by the first key that is not there. In a
    cluster each therefore begins with a key that never is: it is refused before it has written anything.
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
