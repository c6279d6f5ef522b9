"""The Lua scripts: what they include, which numbers they get."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import ResponseError

from ingest.store import constants, scripts

ROOT = Path(__file__).parents[3]
FILES = sorted(path for room in ("ingest", "workers") for path in (ROOT / room).rglob("*.lua"))
_NOT_CODE = re.compile(r"'[^'\n]*'|--.*")


def code(path: Path) -> str:
    """A script without comments and strings."""
    return _NOT_CODE.sub("''", path.read_text())


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], str]:
    """A script of these lines, as it goes to Redis."""

    def make(*lines: str) -> str:
        (tmp_path / "some.lua").write_text("\n".join(("#!lua flags=no-writes", *lines)))
        return scripts.lua(str(tmp_path / "some.py"), "some.lua")

    return make


def test_includes_and_constants(script: Callable[..., str], redis: Redis) -> None:
    """A script gets the functions of others and the numbers of Python, also those that these others name."""
    text = script(
        "-- include ingest/store/queues.lua",
        "-- include workers/dispatch/bucket.lua",
        "-- constants CHUNK APART",
        "return { lane_of('messages.7'), CHUNK, tostring(APART), TOKENS_SECONDS and 1 }",
    )
    assert redis.register_script(text)() == [b"messages", constants.CHUNK, str(constants.APART).encode(), 1]


def test_line_numbers_stay(script: Callable[..., str], redis: Redis) -> None:
    """The line that Redis names when a script fails is that of the file."""
    text = script("-- include workers/dispatch/bucket.lua", "-- constants CHUNK", "", "error('here')")
    with pytest.raises(ResponseError, match="user_script:5: here"):
        redis.register_script(text)()


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("-- include nowhere.lua", "nowhere.lua"),
        ("-- constants CHUNK NOWHERE", "NOWHERE"),
        ("--include ingest/store/queues.lua", "--include ingest/store/queues.lua"),
        ("local a = 1 -- include ingest/store/queues.lua", "-- include ingest/store/queues.lua"),
        ("-- constant CHUNK", "-- constant CHUNK"),
    ],
)
def test_what_cannot_be_given_is_an_error(script: Callable[..., str], line: str, named: str) -> None:
    """An include or a number that there is not, or a line that almost asks for one, names itself."""
    with pytest.raises(scripts.ScriptError) as error:
        script(line)
    assert "some.lua" in str(error.value)
    assert named in str(error.value)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_script_is_complete(path: Path, redis: Redis) -> None:
    """Redis takes it; each number that it uses is given or its own, and each that it asks for is used."""
    text = scripts.lua(str(path), path.name)
    if text.startswith("#!"):
        redis.script_load(text)
    given = {name for line in re.findall(r"^ *-- constants (.+)$", path.read_text(), re.M) for name in line.split()}
    own = set(re.findall(r"\blocal ([A-Z][A-Z_]+)\b", code(path)))
    used = set(re.findall(r"\b[A-Z][A-Z_]+\b", code(path))) - {"KEYS", "ARGV"}
    assert used == given | own


def test_every_number_is_in_a_script() -> None:
    """The file of shared numbers holds no other ones."""
    named = {
        name for path in FILES for line in re.findall(r"-- constants (.+)", path.read_text()) for name in line.split()
    }
    assert {name for name in vars(constants) if name.isupper()} == named
